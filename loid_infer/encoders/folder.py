"""The folder of an exported encoder: spec, manifest, parity probes, tokenizer and weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from loid_infer.artifact import read_manifest
from loid_infer.encoders.manifest import EncoderManifest, FoldedPlugin
from loid_infer.encoders.spec import TOKENIZER_FILE, WEIGHTS_FILE, fingerprint
from loid_infer.encoders.tokens import Tokenizer
from loid_infer.errors import BadArtifact, ParityError
from loid_infer.tensors import save_tensors
from loid_infer.types import Array, Floats, Ints, Spec

GRAPH_FILE = "model.onnx"
PROBES_FILE = "parity.safetensors"
DENSE_FILE = "dense.safetensors"  # layers after pooling, if any


@dataclass(frozen=True, slots=True)
class Probes:
    """Tokenized texts and their float32 vectors from transformers."""

    flat_ids: Ints  # [sum(lengths)], concatenated
    lengths: Ints  # [n]
    cls: Floats  # [n, d], for every pooling

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        save_tensors(path, asdict(self), copy=True)


@dataclass(frozen=True, slots=True)
class EncoderFolder:
    """An export whose files were compared with their digests."""

    name: str
    path: Path
    spec: Spec
    fingerprint: str
    manifest: EncoderManifest | None = None  # None during the export

    @property
    def plugins(self) -> tuple[FoldedPlugin, ...]:
        """The plugins added to the base."""
        return self.manifest.plugins if self.manifest else ()

    @property
    def graph(self) -> Path:
        """The ONNX graph from ids to vectors."""
        return self.path / GRAPH_FILE

    def probes(self) -> Probes:
        """The parity probes.

        Raises:
            BadArtifact: the file cannot be read.
        """
        from safetensors.numpy import load_file

        try:
            parts: dict[str, Array] = load_file(self.path / PROBES_FILE)
            probes = Probes(parts["flat_ids"], parts["lengths"], parts["cls"])
            n, n_tokens = len(probes.lengths), int(probes.lengths.sum())
            if n == 0 or probes.cls.shape != (n, self.spec.dim) or probes.flat_ids.shape != (n_tokens,):
                raise ValueError("inconsistent shapes")
        except (KeyError, ValueError, SafetensorError) as error:
            raise self._unreadable("parity probes", PROBES_FILE, error) from error
        return probes

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, with the spec's maximum length and prompt."""
        return Tokenizer(self.path / TOKENIZER_FILE, self.spec.max_tokens, self.spec.prompt, self.spec.empty_id)

    def tensors(self) -> dict[str, Any]:
        """The float32 weights as torch tensors, including dense layers.

        Raises:
            BadArtifact: a file cannot be read.
        """
        from safetensors.torch import load_file

        tensors: dict[str, Any] = {}
        for file in (WEIGHTS_FILE, *([DENSE_FILE] if self.spec.dense else [])):
            try:
                tensors |= load_file(self.path / file)
            except (OSError, SafetensorError) as error:
                raise self._unreadable("weights", file, error) from error
        return tensors

    def _unreadable(self, content: str, file: str, error: Exception) -> BadArtifact:
        what, fix = f"the {content} cannot be read: {error}", export_again(self.name)
        return BadArtifact(what, where=str(self.path / file), fix=fix)


def open_folder(path: Path, name: str, expected: str = "") -> EncoderFolder:
    """Open the export in `path`.

    Args:
        expected: the fingerprint it must have, if known.

    Raises:
        BadArtifact: there is no export, or it was changed.
        ParityError: it has no passing parity report.
    """
    fix = export_again(name)
    manifest = read_manifest(path, EncoderManifest, fix)
    spec, recorded = manifest.card, manifest.fingerprint
    needed = {GRAPH_FILE, PROBES_FILE, TOKENIZER_FILE, WEIGHTS_FILE, *([DENSE_FILE] if spec.dense else [])}
    missing = needed - manifest.files.keys()
    if missing:
        raise BadArtifact("the manifest lacks a file", where=str(path), expected=", ".join(sorted(missing)), fix=fix)
    if not manifest.parity.passed:
        raise ParityError("this export has no passing parity report", where=str(path), fix=fix)
    computed = fingerprint(spec)
    if computed != recorded:
        what = "the spec was changed after the export"
        raise BadArtifact(what, where=str(path), expected=recorded, got=computed, fix=fix)
    if expected and recorded != expected:
        what, fix = "the encoder was exported again in the meantime", "Run the same command again."
        raise BadArtifact(what, where=str(path), expected=expected, got=recorded, fix=fix)
    return EncoderFolder(name, path, spec, recorded, manifest)


def export_again(name: str) -> str:
    """The fix for a damaged export."""
    return f"Run `loid-infer export --name {name}` again, with the --base and --plugin it was made with."
