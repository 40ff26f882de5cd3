"""What a GGUF file says of its model and its tokenizer, in llama.cpp's terms.

transformers reads a part of it and drops the rest without a word. What it drops is put right here, or refused. The file
knows no family and no transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loid_infer.errors import BadArtifact

_POOLINGS = {1: "mean", 2: "cls", 3: "last", 4: "rank"}  # 0: none
_DIGITS = ("smollm", "starcoder", "refact", "codeshell")  # byte-level BPE in which every digit is a token
_BOS_FIRST = ("llama3", "llama-v3", "llama-bpe")  # likewise, that put a BOS first unless the file says no


@dataclass(frozen=True, slots=True)
class Told:
    """The metadata of a file."""

    fields: Mapping[str, Any]  # numbers and strings, by key
    n_tokens: int  # of its vocabulary

    @property
    def pooling(self) -> str:
        """What its vectors are read off; empty where it does not say."""
        return _POOLINGS.get(self.fields.get(f"{self.fields.get('general.architecture')}.pooling_type") or 0, "")

    def tokenizer(self, used: Mapping[str, tuple[str, int]], parts: Mapping[str, Any]) -> dict[str, Any]:
        """What of `parts`, the tokenizer.json that transformers makes of the file, must be otherwise: the tokens before
        and behind a text, where texts are split, and that there are no tokens but the file's own.

        Args:
            used: `bos` and `eos`, their names and ids.

        Raises:
            ValueError: texts are split in a way that is not known.
        """
        kind, split = self.fields.get("tokenizer.ggml.model"), self.fields.get("tokenizer.ggml.pre")
        usual = {"bos": kind == "llama" or split in _BOS_FIRST, "eos": False}
        asked = {side: self.fields.get(f"tokenizer.ggml.add_{side}_token", usual[side]) for side in usual}
        around = {side: used[side] for side in usual if asked[side]}
        before, behind = (
            [{"SpecialToken": {"id": around[side][0], "type_id": 0}}] if side in around else [] for side in usual
        )
        one, two = ([{"Sequence": {"id": name, "type_id": 0}}] for name in "AB")
        special = {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in around.values()}
        found: dict[str, Any] = {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [*before, *one, *behind],
                "pair": [*before, *one, *behind, *before, *two, *behind],
                "special_tokens": special,
            },
            "added_tokens": [token for token in parts["added_tokens"] if token["id"] < self.n_tokens],
        }
        splitter = parts["pre_tokenizer"]
        if kind == "gpt2" and split in _DIGITS:
            apart = {"type": "Digits", "individual_digits": True}
            found["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [apart, splitter]}
        elif kind == "gpt2" and split != "gpt-2" and splitter["type"] != "Sequence":
            raise ValueError(f"texts are split in the way {split!r}, which this release of transformers does not know")
        if split == "qwen2":
            found["normalizer"] = {"type": "NFC"}
        return found


def read_told(path: Path) -> Told:
    """What the file says.

    Raises:
        BadArtifact: of what it says transformers would drop something that decides the vectors.
    """
    import gguf

    reader = gguf.GGUFReader(str(path))
    lists = gguf.GGUFValueType.ARRAY
    fields = {key: field.contents() for key, field in reader.fields.items() if field.types[:1] != [lists]}
    kind = fields.get("general.architecture")
    usual = {f"{kind}.rope.scaling.type": "none", f"{kind}.attention.causal": True}
    dropped = [f"{key} {fields[key]}" for key, value in usual.items() if fields.get(key, value) != value]
    dropped += [tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_freqs")]
    dropped += [f"general.architecture {kind}"] if kind in ("t5", "t5encoder") else []  # its activation
    if dropped:
        raise BadArtifact(
            "a GGUF file of which transformers reads a part only",
            where=str(path),
            got=", ".join(dropped[:5]),
            fix="Give --base the Hugging Face folder.",
        )
    tokens = reader.fields.get("tokenizer.ggml.tokens")
    return Told(fields, 0 if tokens is None else len(tokens.data))
