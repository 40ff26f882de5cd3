"""The question that a decoder answers with Yes or No: what a user liked, and whether the user will like an item."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loid_infer.data.clicks import Pairs
from loid_infer.encoders.tokens import Tokenizer
from loid_infer.errors import BadSetting
from loid_infer.rankers.joined import JoinedTexts

ANSWERS = ("Yes", "No")
HISTORY, TITLE, USER, ITEM = "{history}", "{title}", "{user}", "{item}"
_FIELD = re.compile(r"\{(history|title|user|item)\}")
_NOTHING, _UNTITLED = "nothing yet", "an item without a title"  # an empty history, an item without a text


def id_token(kind: str, code: int) -> str:
    """The token of a `user` or an `item`; that of a code of -1 stands for all unknown ones."""
    return f"<|{kind} {'?' if code < 0 else code}|>"


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Makes prompts of titles. One has the last 10 items of a history at most, and only as many as fit."""

    template: str  # with {history} and {title}, and with {user} and {item} for a decoder that has tokens for them
    joined: JoinedTexts
    tokenizer: Tokenizer
    title_tokens: int

    @staticmethod
    def of(
        template: str, titles: Sequence[str], tokenizer: Tokenizer, title_tokens: int, *, with_ids: bool = False
    ) -> Prompts:
        """Prompts about the items with these `titles [n_items]`, each cut after `title_tokens` tokens.

        Args:
            with_ids: whether the tokenizer has the tokens of `id_token`.

        Raises:
            BadSetting: the template lacks a field or has one twice, or is too long for the tokenizer's maximum.
        """
        fields = (HISTORY, TITLE, *((USER, ITEM) if with_ids else ()))
        if sorted(match[0] for match in _FIELD.finditer(template)) != sorted(fields):
            what, expected = "not a template of prompts", f"text with {' and '.join(fields)}, once each"
            raise BadSetting(what, where="--prompt", expected=expected, got=repr(template))
        cut = tokenizer.cut(titles, title_tokens)
        lengths = tokenizer(cut).lengths - tokenizer.n_around
        title_tokens = min(title_tokens, max(int(lengths.max(initial=1)), 1))  # an item that has come since fits, too
        joined = JoinedTexts.of([title and f"{title};" for title in cut], tokenizer, title_tokens + len(";"))
        n_rest = int(tokenizer([_filled(template, title=cut[int(np.argmax(lengths))])]).lengths[0])
        room = tokenizer.max_tokens - n_rest
        if room < 1:
            what, got = "the prompt leaves no tokens for a history", f"{n_rest} tokens of {tokenizer.max_tokens}"
            raise BadSetting(what, where="--prompt", got=got, fix="Give a larger --max-tokens or a shorter --prompt.")
        return Prompts(template, JoinedTexts(joined.texts, joined.n_tokens, room), tokenizer, title_tokens)

    def __call__(self, pairs: Pairs, titles: Sequence[str]) -> list[str]:
        """The prompt of each pair, about an item with this title, one of `titles [n]`."""
        cut = self.tokenizer.cut(titles, self.title_tokens)
        rows = zip(self.joined(pairs.histories), cut, pairs.users.tolist(), pairs.items.tolist(), strict=True)
        return [_filled(self.template, history, title, user, item) for history, title, user, item in rows]

    def answers(self) -> tuple[int, int]:
        """The tokens of Yes and No after a prompt.

        Raises:
            BadSetting: an answer is not a single token there, or the tokenizer puts one behind every text.
        """
        prompt = _filled(self.template).rstrip()
        alone, *followed = (self._ids(text) for text in (prompt, *(f"{prompt} {answer}" for answer in ANSWERS)))
        if any(ids[:-1] != alone for ids in followed):
            what, expected = "the answers are not single tokens behind the prompt", " and ".join(ANSWERS)
            fix = "Give a decoder whose tokenizer puts nothing behind a text, and a --prompt that ends in 'Answer:'."
            got = str([ids[len(alone) :] for ids in followed])
            raise BadSetting(what, where="--base", expected=expected, got=got, fix=fix)
        return followed[0][-1], followed[1][-1]

    def _ids(self, text: str) -> list[int]:
        return [int(token) for token in self.tokenizer([text]).flat_ids]


def _filled(template: str, history: str = "", title: str = "", user: int = -1, item: int = -1) -> str:
    """The template with all fields, whatever they contain."""
    values = {HISTORY: history or _NOTHING, TITLE: title or _UNTITLED}
    values |= {USER: id_token("user", user), ITEM: id_token("item", item)}
    return _FIELD.sub(lambda match: values[match[0]], template)
