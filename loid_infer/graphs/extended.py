"""Bases with tokens of their own, behind those of the decoder they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from loid_infer.encoders.spec import CONFIG_FILE
from loid_infer.errors import BadSetting
from loid_infer.graphs.bases import Base, copy_tokenizer
from loid_infer.tensors import save_tensors
from loid_infer.types import Array, Floats

_WEIGHTS = "model.safetensors"


def with_tokens(base: Base, names: Sequence[str]) -> tuple[Base, int]:
    """`base` with a tokenizer that has `names` as further tokens, and the id of the first; ids are consecutive.

    Raises:
        BadSetting: the tokenizer has such a token already.
    """
    known = base.tokenizer(base.shape.max_tokens).ids
    first = 1 + max(known.values())
    taken = next((name for name in names if name in known), None)
    if taken is not None:
        fix = "Give the base that this one was extended from."
        raise BadSetting("the base has tokens of IDs already", where=f"--base {base.name}", got=taken, fix=fix)
    tokenizer = json.loads(base.tokenizer_json)
    common = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": first + number, "content": name, **common} for number, name in enumerate(names)]
    tokenizer["added_tokens"] = [*tokenizer.get("added_tokens", ()), *added]
    return replace(base, tokenizer_json=json.dumps(tokenizer)), first


def write_base(folder: Path, base: Base, tensors: Mapping[str, Array], rows: Floats, first: int) -> None:
    """Write a folder that `load_base` reads: `base` with other `tensors`, and `rows [n, width]` as embeddings from the
    token `first` on.
    """
    words = f"{base.family.parts['words']}.weight"
    table = np.concatenate([tensors[words][:first], rows.astype(np.float32)]) if len(rows) else tensors[words]
    folder.mkdir(parents=True)
    save_tensors(folder / _WEIGHTS, {**tensors, words: table}, {"format": "pt"}, copy=True)
    config = {**base.config, "vocab_size": len(table), "tie_word_embeddings": True}
    (folder / CONFIG_FILE).write_text(json.dumps(config) + "\n", encoding="utf-8")
    copy_tokenizer(base, folder)
