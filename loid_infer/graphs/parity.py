"""The float32 reference of an export: 64 probe texts and their vectors, computed by transformers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from loid_infer.encoders.folder import Probes
from loid_infer.encoders.manifest import GATES, gate
from loid_infer.encoders.processor import exact_products
from loid_infer.encoders.spec import TOKENIZER_FILE
from loid_infer.encoders.tokens import Tokenizer
from loid_infer.errors import ParityError
from loid_infer.graphs.bases import Base
from loid_infer.graphs.hugging import reference_ids
from loid_infer.graphs.sentence import read_json
from loid_infer.kernels.cosine import row_cosines
from loid_infer.types import Array

N_PROBES = 64
_N_MIXED = 8  # probes that are also computed in one batch
_SUBJECTS = (
    "the strings, this pedal, my son, the second album, battery life, the plot, customer service, the zipper, "
    "a friend of mine, the manual"
)
_VERBS = "arrived, broke, sounds, felt, works, was returned, looks, smells, keeps, disappoints"
_ENDS = (
    "after two weeks, better than expected!, for $12.99, as described..., not worth it, like new, in the rain, "
    "(5 stars), and I'd buy it again, so-so, without any trouble, on my 1998 Gibson"
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

_SCRIPTS = {  # a very good product, in each
    "emoji": "👍 🔥 💖 🎸",
    "Arabic": "منتج جيد جدا",
    "Chinese": "质量非常好，物流很快，推荐购买",
    "Cyrillic": "Очень хороший продукт",
    "Devanagari": "बहुत अच्छा उत्पाद",
    "Greek": "Πολύ καλό προϊόν",
    "Hebrew": "מוצר טוב מאוד",
    "Japanese": "とても良い製品です",
    "Korean": "아주 좋은 제품입니다",
    "Thai": "สินค้าดีมาก",
}


def probe_texts(seed: int = 0) -> list[str]:
    """64 texts: edge cases (empty, emoji, other scripts, a very long word), then reviews of 1 to 120 sentences."""
    rng = np.random.default_rng(seed)
    texts = list(_EDGES)
    lengths = np.geomspace(1, 120, N_PROBES - len(texts)).astype(int)  # sentences
    parts = [part.split(", ") for part in (_SUBJECTS, _VERBS, _ENDS)]
    for n_sentences in lengths:
        sentences = [" ".join(rng.choice(part) for part in parts) for _ in range(n_sentences)]
        texts.append(". ".join(sentences).capitalize())
    return texts


def unknown_scripts(tokenizer: Tokenizer) -> list[str]:
    """The kinds of text of which the tokenizer does not know most."""
    mostly = tokenizer.mostly_unknown(tokenizer([*_SCRIPTS.values()]))
    return [name for name, is_unknown in zip(_SCRIPTS, mostly.tolist(), strict=True) if is_unknown]


def make_probes(base: Base, tokenizer: Tokenizer, folder: Path, max_tokens: int) -> Probes:
    """Compute the probes with the transformers module of `base`, in float32, each text alone without padding.

    Raises:
        ParityError: the token ids differ from those of transformers, the pooled token is not the declared one, or
            vectors of transformers depend on the batch.
    """
    texts = probe_texts()
    tokens = tokenizer(texts)
    ours = np.split(tokens.flat_ids, np.cumsum(tokens.lengths)[:-1])
    prompted = [base.reading.prompt + text for text in texts]
    theirs, added = reference_ids(folder, base.path, prompted, max_tokens)
    if lacking := {name: number for name, number in added.items() if tokenizer.id_of(name) != number}:
        what, fix = "transformers adds tokens that tokenizer.json lacks", "Save the tokenizer again with transformers."
        raise ParityError(what, where=base.name, got=str(lacking)[:200], fix=fix)
    for text, ids, expected in zip(texts, ours, theirs, strict=True):
        if ids.tolist() != (expected or [base.empty_id]):
            raise ParityError(
                "the token ids differ from those of transformers",
                where=repr(text[:60]),
                expected=str(expected[:12]),
                got=str(ids[:12].tolist()),
                fix="Give --base a folder whose tokenizer.json belongs to its model.",
            )
    _check_pooled_token(base, tokenizer, ours)
    with exact_products():
        vectors = np.concatenate([reference_vectors(base, [ids]) for ids in ours])
        _check_batches(base, ours, vectors)
    return Probes(tokens.flat_ids, tokens.lengths, vectors)


def reference_vectors(base: Base, texts: Sequence[Array], side: str = "right") -> Array:
    """Vectors `[n, d]` of transformers for a batch of token ids, padded on one side."""
    import torch
    from torch.nn import functional

    from loid_infer.architectures.transformer import DENSE_ACTIVATIONS

    width = max(map(len, texts))
    ids, mask = torch.zeros(2, len(texts), width, dtype=torch.int64)
    ids += max(base.config.get("pad_token_id") or 0, 0)  # old Llama configs have -1
    for row, text in enumerate(texts):
        part = slice(len(text)) if side == "right" else slice(width - len(text), width)
        ids[row, part], mask[row, part] = torch.from_numpy(text.astype(np.int64)), 1
    options = {}
    if side == "left" and base.family.numbers_padding:
        options = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    with torch.inference_mode():
        hidden = base.model(input_ids=ids, attention_mask=mask, **options).last_hidden_state
        rows = [hidden[row][mask[row].bool()] for row in range(len(texts))]  # without padding
        which = {"cls": slice(1), "last": slice(-1, None), "mean": slice(None)}[base.reading.pooling]
        pooled = torch.stack([row[which].mean(0) for row in rows])
        dense = base.reading.tensors
        for i, activation in enumerate(base.reading.dense):
            weight, bias = dense[f"dense.{i}.weight"], dense.get(f"dense.{i}.bias")
            pooled = DENSE_ACTIVATIONS[activation](functional.linear(pooled, weight, bias))
        vectors: Array = (functional.normalize(pooled, dim=-1) if base.reading.normalize else pooled).numpy()
    return vectors


def _check_batches(base: Base, texts: Sequence[Array], vectors: Array) -> None:
    """Check that vectors of the shortest and longest texts do not change in a batch, padded on either side."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    mixed = [*order[: _N_MIXED // 2], *order[-_N_MIXED // 2 :]]
    has_positions = "position_ids" in inspect.signature(base.model.forward).parameters
    for side in ("right", "left") if has_positions or not base.family.numbers_padding else ("right",):
        batched = reference_vectors(base, [texts[i] for i in mixed], side)
        min_cosine = float(row_cosines(batched, vectors[mixed]).min())
        if not min_cosine >= GATES["fp32"][1]:
            raise ParityError(
                "vectors of transformers' module depend on the batch",
                where=f"{base.name}, padded on the {side}",
                expected=gate("fp32"),
                got=f"{min_cosine:.6f}",
                fix="Try another release of transformers. Nothing was written.",
            )


def _check_pooled_token(base: Base, tokenizer: Tokenizer, texts: Sequence[Array]) -> None:
    """Check that the pooled token is the one that the folder or the family declares."""

    def fail(what: str, expected: str, got: str, fix: str) -> None:
        raise ParityError(what, where=base.name, expected=expected, got=got, fix=fix)

    pooling, files = base.reading.pooling, ("special_tokens_map.json", "tokenizer_config.json")
    fields = {name: value for file in files for name, value in read_json(base.path / file, absent={}).items()}
    if fields.get("cls_token") and not all(tokenizer.frame) and not (base.path / TOKENIZER_FILE).exists():
        what = "the tokenizer that transformers makes adds no special tokens"
        fail(what, TOKENIZER_FILE, "none", "Give --base a folder that has one.")
    if pooling == "cls":
        others = "--pooling mean or last"
        what = "" if tokenizer.frame[0] else "the tokenizer adds no first special token for CLS pooling"
        if any(relation.causal for relation in base.family.plan(base.spec("", 8)).relations):
            what = "the first token of a decoder attends to itself only, so all vectors would be equal"
        if what:
            fail(what, others, pooling, f"Give {others}.")
        declared, at = fields.get("cls_token") or (fields.get("bos_token") if fields.get("add_bos_token") else None), 0
    else:
        always = base.family.ends or fields.get("add_eos_token")
        declared, at = fields.get("eos_token", base.family.ends) if always else None, -1
    name = declared.get("content") if isinstance(declared, dict) else declared
    wanted = tokenizer.id_of(name) if name and (pooling != "mean" or base.family.ends) else None
    if wanted is not None and not all(text[at] == wanted for text in texts):
        what = "the tokenizer does not add the declared pooled token"
        fix = "Give --base a folder whose tokenizer.json adds it."
        actual = sorted({int(text[at]) for text in texts})[:5]
        fail(what, f"{name} ({wanted}) {'last' if at else 'first'}", str(actual), fix)
