"""An exported encoder on disk: its card, its proof of parity, its files. Opens no runtime and no store."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from loid_infer.artifact import read_manifest
from loid_infer.encoders.card import TOKENIZER_FILE, WEIGHTS_FILE, fingerprint
from loid_infer.encoders.tokens import Tokenizer
from loid_infer.errors import BadArtifact, ParityError
from loid_infer.types import Array, Card, Floats, Ints

GRAPH_FILE = "model.onnx"
PROBES_FILE = "parity.safetensors"
KIND = "encoder"


@dataclass(frozen=True, slots=True)
class Probes:
    """Texts as ids, and the CLS that plain transformers computed for them in float32."""

    flat_ids: Ints  # one text after another
    lengths: Ints  # [n]
    cls: Floats  # [n, d]

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        from safetensors.numpy import save_file

        save_file({name: np.ascontiguousarray(part) for name, part in asdict(self).items()}, path)

    @staticmethod
    def load(path: Path, dim: int) -> Probes:
        """Read what `save` wrote of an encoder of width `dim`.

        Raises:
            SafetensorError, KeyError, ValueError: it is something else.
        """
        from safetensors.numpy import load_file

        parts: dict[str, Array] = load_file(path)
        found = Probes(parts["flat_ids"], parts["lengths"], parts["cls"])
        n = len(found.lengths)
        if n == 0 or found.cls.shape != (n, dim) or found.flat_ids.shape != (int(found.lengths.sum()),):
            raise ValueError("they do not fit together")
        return found


@dataclass(frozen=True, slots=True)
class EncoderFolder:
    """A finished export. Every file was compared with its digest when this was made."""

    name: str
    path: Path
    card: Card
    fingerprint: str
    manifest: dict[str, Any]

    @property
    def graph(self) -> Path:
        """The ONNX graph from ids to CLS."""
        return self.path / GRAPH_FILE

    def probes(self) -> Probes:
        """The parity probes.

        Raises:
            BadArtifact: the file does not hold them.
        """
        try:
            return Probes.load(self.path / PROBES_FILE, self.card.hidden_dim)
        except (KeyError, ValueError, SafetensorError) as error:
            mend = f"Run `loid-infer export --name {self.name}` to make it anew."
            where = str(self.path / PROBES_FILE)
            raise BadArtifact(f"the parity probes cannot be read: {error}", where=where, mend=mend) from error

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, at the card's number of tokens."""
        return Tokenizer(self.path / TOKENIZER_FILE, self.card.max_tokens)


def open_folder(path: Path, name: str, expected: str = "") -> EncoderFolder:
    """The export in `path`.

    Args:
        expected: the fingerprint it must have, where the caller has seen it before.

    Raises:
        BadArtifact: there is none, or a file or field is not what was exported.
        ParityError: its parity report is not a passing one.
    """
    mend = f"Run `loid-infer export --name {name}` to make it anew."
    manifest = read_manifest(path, KIND, mend)
    try:
        card = Card.of(manifest["card"])
        passed, found = manifest["parity"]["passed"], manifest["fingerprint"]
    except (KeyError, TypeError, ValueError) as error:
        raise BadArtifact(f"the manifest cannot be read: {error}", where=str(path), mend=mend) from error
    unnamed = {GRAPH_FILE, PROBES_FILE, TOKENIZER_FILE, WEIGHTS_FILE} - manifest.get("files", {}).keys()
    if unnamed:
        raise BadArtifact("the manifest lacks a file", where=str(path), expected=", ".join(sorted(unnamed)), mend=mend)
    if passed is not True:
        raise ParityError("this export has no passing parity report", where=str(path), mend=mend)
    if fingerprint(card) != found:
        raise BadArtifact(
            "the card is not the one that was exported",
            where=str(path),
            expected=found,
            got=fingerprint(card),
            mend=mend,
        )
    if expected and found != expected:
        raise BadArtifact(
            "the encoder was exported anew meanwhile",
            where=str(path),
            expected=expected,
            got=found,
            mend="Run the same command again.",
        )
    return EncoderFolder(name, path, card, found, manifest)
