"""The float32 reference an export is held against: probe texts and the CLS that plain transformers gives for them.

Knows transformers' module through `Base` only; not the graph, not which runtime will be compared.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loid_infer.encoders.folder import Probes
from loid_infer.encoders.tokens import Tokenizer
from loid_infer.errors import ParityError
from loid_infer.graphs.bases import Base, reference_ids
from loid_infer.types import Array

N_PROBES = 64
_SUBJECTS = (
    "the strings",
    "this pedal",
    "my son",
    "the second album",
    "battery life",
    "the plot",
    "customer service",
    "the zipper",
    "a friend of mine",
    "the manual",
)
_VERBS = ("arrived", "broke", "sounds", "felt", "works", "was returned", "looks", "smells", "keeps", "disappoints")
_ENDS = (
    "after two weeks",
    "better than expected!",
    "for $12.99",
    "as described...",
    "not worth it",
    "like new",
    "in the rain",
    "(5 stars)",
    "and I'd buy it again",
    "so-so",
    "without any trouble",
    "on my 1998 Gibson",
)
_EDGES = (
    "",
    "a",
    " ",
    "Great!",
    "👍",
    "I 💖 it 🎸🎸🎸 10/10 🔥",
    "naïve café, piñata, Ωmega",
    "很好的产品",
    "très bien",
    "http://a.example/b?c=d&e=f",
    "x" * 300,
    "!!!???...",
    "4.5",
    "no\ttabs\nno lines",
    "MiXeD CaSe",
    "\x00\ufffd\u200b",
)


def probe_texts(seed: int = 0) -> list[str]:
    """64 texts: odd ones first (empty, one token, emoji, other scripts, one endless word), then reviews of every length
    up to far beyond 512 tokens."""
    rng = np.random.default_rng(seed)
    texts = list(_EDGES)
    lengths = np.geomspace(1, 120, N_PROBES - len(texts)).astype(int)  # sentences
    for n_sentences in lengths:
        parts = [f"{rng.choice(_SUBJECTS)} {rng.choice(_VERBS)} {rng.choice(_ENDS)}" for _ in range(n_sentences)]
        texts.append(". ".join(parts).capitalize())
    return texts


def make_probes(base: Base, tokenizer: Tokenizer, folder: Path, max_tokens: int) -> Probes:
    """The probes of `base`, whose module computes each text alone in float32, without padding.

    Raises:
        ParityError: our tokenizer gives other ids than transformers' for a probe.
    """
    texts = probe_texts()
    tokens = tokenizer(texts)
    ours = np.split(tokens.flat_ids, np.cumsum(tokens.lengths)[:-1])
    for text, mine, theirs in zip(texts, ours, reference_ids(folder, texts, max_tokens), strict=True):
        if mine.tolist() != theirs:
            raise ParityError(
                "the tokenizer gives other ids than transformers'",
                where=repr(text[:60]),
                expected=str(theirs[:12]),
                got=str(mine[:12].tolist()),
                mend="Give --base a folder whose tokenizer.json belongs to its model.",
            )
    return Probes(tokens.flat_ids, tokens.lengths, np.stack([_cls(base, ids) for ids in ours]))


def _cls(base: Base, ids: Array) -> Array:
    import torch

    with torch.inference_mode():
        batch = torch.from_numpy(ids.astype(np.int64))[None]
        output = base.model(input_ids=batch, attention_mask=torch.ones_like(batch))
        vector: Array = output.last_hidden_state[0, 0].numpy()
    return vector
