"""The questions that a decoder answers: what a user liked, and whether it will like an item, or which of some."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from loid_infer.data.clicks import Pairs
from loid_infer.encoders.tokens import Tokenizer
from loid_infer.errors import BadSetting
from loid_infer.kernels import sampling
from loid_infer.rankers.joined import JoinedTexts
from loid_infer.types import Ints

ANSWERS = ("Yes", "No")
HISTORY, TITLE, USER, ITEM, CANDIDATES = "{history}", "{title}", "{user}", "{item}", "{candidates}"
_FIELD = re.compile(r"\{(history|title|user|item|candidates)\}")
_NOTHING, _UNTITLED = "nothing yet", "an item without a title"  # an empty history, an item without a text


def id_token(kind: str, code: int) -> str:
    """The token of a `user` or an `item`; that of a code of -1 stands for all unknown ones."""
    return f"<|{kind} {'?' if code < 0 else code}|>"


def id_tokens(n_users: int, n_items: int) -> list[str]:
    """The tokens of all users and items, and of unknown ones."""
    names = [id_token(kind, code) for kind, n in (("user", n_users), ("item", n_items)) for code in range(n)]
    return [*names, id_token("user", -1), id_token("item", -1)]


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Makes prompts of titles. One has the last 10 items of a history at most, and only as many as fit."""

    template: str  # with {history} and {title}, and with {user} and {item} for a decoder that has tokens for them
    joined: JoinedTexts
    tokenizer: Tokenizer
    title_tokens: int
    candidates: int = 0  # that each has room for, in a template with {user}, {history} and {candidates}

    @staticmethod
    def of(
        template: str,
        titles: Sequence[str],
        tokenizer: Tokenizer,
        title_tokens: int,
        *,
        with_ids: bool = False,
        candidates: int = 0,
    ) -> Prompts:
        """Prompts about the items with these `titles [n_items]`, each cut after `title_tokens` tokens.

        Args:
            with_ids: whether the tokenizer has the tokens of `id_token`.
            candidates: items of each prompt that has a list of them; 0: a prompt is about one item.

        Raises:
            BadSetting: the template lacks a field or has one twice, or is too long for the tokenizer's maximum.
        """
        fields = (USER, HISTORY, CANDIDATES) if candidates else (HISTORY, TITLE, *((USER, ITEM) if with_ids else ()))
        if sorted(match[0] for match in _FIELD.finditer(template)) != sorted(fields):
            what, expected = "not a template of prompts", f"text with {' and '.join(fields)}, once each"
            raise BadSetting(what, where="--prompt", expected=expected, got=repr(template))
        cut = tokenizer.cut(titles, title_tokens)
        lengths = tokenizer(cut).lengths - tokenizer.n_around
        title_tokens = min(title_tokens, max(int(lengths.max(initial=1)), 1))  # an item that has come since fits, too
        joined = JoinedTexts.of([title and f"{title};" for title in cut], tokenizer, title_tokens + len(";"))
        longest = max((tokenizer([title]).lengths[0], title) for title in (cut[int(np.argmax(lengths))], _UNTITLED))[1]
        n_rest = int(tokenizer([_filled(template, "", -1, [(longest, -1)] * max(candidates, 1))]).lengths[0])
        room = tokenizer.max_tokens - n_rest
        if room < joined.n_tokens.max(initial=1):
            what, got = "the prompt leaves no tokens for a history", f"{n_rest} tokens of {tokenizer.max_tokens}"
            fix = "Give a larger --max-tokens, a smaller --title-tokens or a shorter --prompt."
            raise BadSetting(what, where="--prompt", got=got, fix=fix)
        joined = JoinedTexts(joined.texts, joined.n_tokens, room)
        return Prompts(template, joined, tokenizer, title_tokens, candidates)

    def __call__(self, pairs: Pairs, titles: Sequence[str], starts: Ints | None = None) -> list[str]:
        """The prompts about pairs, whose items have these `titles [n]`.

        Args:
            starts: `[n_prompts + 1]`, where the pairs of each prompt begin, which have one user and one history; by
                default each pair has a prompt. The order of a prompt's candidates depends on nothing but their codes.
        """
        starts = np.arange(pairs.n + 1) if starts is None else starts
        first, n_each = starts[:-1], np.diff(starts)
        keys = sampling.keys(0, pairs.users, pairs.items)
        order = np.lexsort((keys, np.repeat(np.arange(len(first)), n_each))).tolist()
        cut, codes = self.tokenizer.cut(titles, self.title_tokens), pairs.items.tolist()
        listed = [(cut[row], codes[row]) for row in order]
        parts = (listed[start:end] for start, end in pairwise(starts.tolist()))
        rows = zip(self.joined(pairs.histories.rows(first)), pairs.users[first].tolist(), parts, strict=True)
        return [_filled(self.template, *row) for row in rows]

    def answers(self) -> tuple[int, int]:
        """The tokens of Yes and No after a prompt.

        Raises:
            BadSetting: an answer is not a single token there, or the tokenizer puts one behind every text.
        """
        prompt = _filled(self.template, "", -1, [("", -1)]).rstrip()
        alone, *followed = (self._ids(text) for text in (prompt, *(f"{prompt} {answer}" for answer in ANSWERS)))
        if any(ids[:-1] != alone for ids in followed):
            what, expected = "the answers are not single tokens behind the prompt", " and ".join(ANSWERS)
            fix = "Give a decoder whose tokenizer puts nothing behind a text, and a --prompt that ends in 'Answer:'."
            got = str([ids[len(alone) :] for ids in followed])
            raise BadSetting(what, where="--base", expected=expected, got=got, fix=fix)
        return followed[0][-1], followed[1][-1]

    def _ids(self, text: str) -> list[int]:
        return [int(token) for token in self.tokenizer([text]).flat_ids]


def _filled(template: str, history: str, user: int, items: Sequence[tuple[str, int]]) -> str:
    """The template with all fields, whatever they contain; `items` are titles and codes."""
    listed = [(title or _UNTITLED, id_token("item", code)) for title, code in items]
    values = {HISTORY: history or _NOTHING, USER: id_token("user", user)}
    values |= {TITLE: listed[0][0], ITEM: listed[0][1]}
    values |= {CANDIDATES: " ".join(f"{title} {token};" for title, token in listed)}
    return _FIELD.sub(lambda match: values[match[0]], template)
