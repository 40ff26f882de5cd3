"""Histories as texts: those of their last items, one after another (LLM-Rec, Tang et al. 2023, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loid_infer.data.sequences import Histories
from loid_infer.encoders.tokens import Tokenizer
from loid_infer.types import Bools, Ints

MAX_ITEMS = 10  # of a history, the last ones (LLM-Rec, section 4.1.4)


@dataclass(frozen=True, slots=True)
class JoinedTexts:
    """The texts of items, cut, and of histories, made of them.

    A history has its last 10 items at most, and only as many as an encoder reads: what it would cut off are the last
    ones. So a history has a text of its own, which changes with each interaction and with no other one.
    """

    texts: Sequence[str]  # [n_items]; empty for an item without text
    n_tokens: Ints  # [n_items], with what follows an item in a history
    max_tokens: int  # of a history, without those that every text has

    @staticmethod
    def of(texts: Sequence[str], tokenizer: Tokenizer, title_tokens: int) -> JoinedTexts:
        """Those of `texts [n_items]`, each cut after `title_tokens` tokens."""
        cut = tokenizer.cut(texts, title_tokens)
        n_tokens = tokenizer([_followed(text) for text in cut]).lengths - tokenizer.n_around
        return JoinedTexts(cut, n_tokens, tokenizer.max_tokens - tokenizer.n_around)

    @property
    def has_text(self) -> Bools:
        """Which items `[n_items]` have a text."""
        return np.array([bool(text.strip()) for text in self.texts])

    def __call__(self, histories: Histories) -> list[str]:
        """The text of each history, the oldest item first; empty without an item that has a text."""
        joined = []
        for start, end in zip(histories.starts.tolist(), histories.ends.tolist(), strict=True):
            parts: list[str] = []
            room = self.max_tokens
            for item in reversed(histories.items[start:end].tolist()):
                if not self.texts[item]:
                    continue
                room -= int(self.n_tokens[item])
                if len(parts) == MAX_ITEMS or (room < 0 and parts):
                    break
                parts.append(_followed(self.texts[item]))
            joined.append("".join(reversed(parts)).strip())
        return joined


def _followed(text: str) -> str:
    """The text of an item as it stands before another one."""
    return text if text[-1:].isspace() else f"{text} "
