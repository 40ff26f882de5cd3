"""The question that a decoder answers with Yes or No: what a user liked, and whether the user will like an item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loid_infer.data.sequences import Histories
from loid_infer.encoders.tokens import Tokenizer
from loid_infer.errors import BadSetting
from loid_infer.rankers.joined import JoinedTexts

ANSWERS = ("Yes", "No")
_FIELDS = ("{history}", "{title}")
_NOTHING, _UNTITLED = "nothing yet", "an item without a title"  # an empty history, an item without a text


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Makes prompts of titles. One has the last 10 items of a history at most, and only as many as fit."""

    template: str  # with {history} and {title}
    joined: JoinedTexts
    tokenizer: Tokenizer
    title_tokens: int

    @staticmethod
    def of(template: str, titles: Sequence[str], tokenizer: Tokenizer, title_tokens: int) -> Prompts:
        """Prompts about the items with these `titles [n_items]`, each cut after `title_tokens` tokens.

        Raises:
            BadSetting: the template lacks a field or has one twice, or is too long for the tokenizer's maximum.
        """
        if any(template.count(field) != 1 for field in _FIELDS):
            what, expected = "not a template of prompts", "text with {history} and {title}, once each"
            raise BadSetting(what, where="--prompt", expected=expected, got=repr(template))
        cut = tokenizer.cut(titles, title_tokens)
        lengths = tokenizer(cut).lengths - tokenizer.n_around
        title_tokens = min(title_tokens, max(int(lengths.max(initial=1)), 1))  # an item that has come since fits, too
        joined = JoinedTexts.of([title and f"{title};" for title in cut], tokenizer, title_tokens + len(";"))
        n_rest = int(tokenizer([_filled(template, _NOTHING, cut[int(np.argmax(lengths))])]).lengths[0])
        room = tokenizer.max_tokens - n_rest
        if room < 1:
            what, got = "the prompt leaves no tokens for a history", f"{n_rest} tokens of {tokenizer.max_tokens}"
            raise BadSetting(what, where="--prompt", got=got, fix="Give a larger --max-tokens or a shorter --prompt.")
        return Prompts(template, JoinedTexts(joined.texts, joined.n_tokens, room), tokenizer, title_tokens)

    def __call__(self, histories: Histories, titles: Sequence[str]) -> list[str]:
        """The prompt of each pair of a history and the title of an item."""
        cut = self.tokenizer.cut(titles, self.title_tokens)
        return [
            _filled(self.template, history or _NOTHING, title or _UNTITLED)
            for history, title in zip(self.joined(histories), cut, strict=True)
        ]

    def answers(self) -> tuple[int, int]:
        """The tokens of Yes and No after a prompt.

        Raises:
            BadSetting: an answer is not a single token there, or the tokenizer puts one behind every text.
        """
        prompt = _filled(self.template, _NOTHING, _UNTITLED).rstrip()
        alone, *followed = (self._ids(text) for text in (prompt, *(f"{prompt} {answer}" for answer in ANSWERS)))
        if any(ids[:-1] != alone for ids in followed):
            what, expected = "the answers are not single tokens behind the prompt", " and ".join(ANSWERS)
            fix = "Give a decoder whose tokenizer puts nothing behind a text, and a --prompt that ends in 'Answer:'."
            raise BadSetting(
                what, where="--base", expected=expected, got=str([ids[len(alone) :] for ids in followed]), fix=fix
            )
        return followed[0][-1], followed[1][-1]

    def _ids(self, text: str) -> list[int]:
        return [int(token) for token in self.tokenizer([text]).flat_ids]


def _filled(template: str, history: str, title: str) -> str:
    """The template with both fields, whatever they contain."""
    before, _, after = template.partition(_FIELDS[0])
    return before.replace(_FIELDS[1], title) + history + after.replace(_FIELDS[1], title)
