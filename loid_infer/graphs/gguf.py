"""Reads the metadata of GGUF files that transformers ignores, and corrects the tokenizer or refuses the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loid_infer.errors import BadArtifact

_POOLINGS = {1: "mean", 2: "cls", 3: "last", 4: "rank"}  # 0: none
_DIGITS = ("smollm", "starcoder", "refact", "codeshell")  # byte-level BPE with one token per digit
_BOS_FIRST = ("llama3", "llama-v3", "llama-bpe")  # byte-level BPE with a leading BOS by default


@dataclass(frozen=True, slots=True)
class Metadata:
    """The metadata of a GGUF file."""

    fields: Mapping[str, Any]  # numbers and strings, by key
    n_tokens: int  # size of the vocabulary

    @property
    def pooling(self) -> str:
        """The pooling; empty if not declared."""
        return _POOLINGS.get(self.fields.get(f"{self.fields.get('general.architecture')}.pooling_type") or 0, "")

    def tokenizer(self, used: Mapping[str, tuple[str, int]], parts: Mapping[str, Any]) -> dict[str, Any]:
        """Corrections of `parts`, the tokenizer.json that transformers makes of the file: special tokens around texts,
        pre-tokenizer, and no tokens that the file does not have.

        Args:
            used: names and ids of `bos` and `eos`.

        Raises:
            ValueError: the pre-tokenizer is unknown.
        """
        kind, split = self.fields.get("tokenizer.ggml.model"), self.fields.get("tokenizer.ggml.pre")
        defaults = {"bos": kind == "llama" or split in _BOS_FIRST, "eos": False}
        added = {
            side: used[side] for side in defaults if self.fields.get(f"tokenizer.ggml.add_{side}_token", defaults[side])
        }
        before, after = (
            [{"SpecialToken": {"id": added[side][0], "type_id": 0}}] if side in added else [] for side in defaults
        )
        first, second = ([{"Sequence": {"id": name, "type_id": 0}}] for name in "AB")
        special = {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in added.values()}
        corrections: dict[str, Any] = {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [*before, *first, *after],
                "pair": [*before, *first, *after, *before, *second, *after],
                "special_tokens": special,
            },
            "added_tokens": [token for token in parts["added_tokens"] if token["id"] < self.n_tokens],
        }
        splitter = parts["pre_tokenizer"]
        if kind == "gpt2" and split in _DIGITS:
            digits = {"type": "Digits", "individual_digits": True}
            corrections["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, splitter]}
        elif kind == "gpt2" and split != "gpt-2" and splitter["type"] != "Sequence":
            raise ValueError(f"this release of transformers does not support the pre-tokenizer {split!r}")
        if split == "qwen2":
            corrections["normalizer"] = {"type": "NFC"}
        return corrections


def read_metadata(path: Path) -> Metadata:
    """Read the metadata of a file.

    Raises:
        BadArtifact: transformers would ignore metadata that change the vectors.
    """
    import gguf

    reader = gguf.GGUFReader(str(path))
    lists = gguf.GGUFValueType.ARRAY
    fields = {key: field.contents() for key, field in reader.fields.items() if field.types[:1] != [lists]}
    kind = fields.get("general.architecture")
    supported = {f"{kind}.rope.scaling.type": "none", f"{kind}.attention.causal": True}
    ignored = [f"{key} {fields[key]}" for key, value in supported.items() if fields.get(key, value) != value]
    ignored += [tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_freqs")]
    ignored += [f"general.architecture {kind}"] if kind in ("t5", "t5encoder") else []  # its activation
    if ignored:
        raise BadArtifact(
            "transformers would ignore a part of the GGUF file",
            where=str(path),
            got=", ".join(ignored[:5]),
            fix="Give --base the Hugging Face folder.",
        )
    tokens = reader.fields.get("tokenizer.ggml.tokens")
    return Metadata(fields, 0 if tokens is None else len(tokens.data))
