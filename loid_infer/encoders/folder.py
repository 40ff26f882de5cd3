"""An exported encoder on disk: its spec, its proof of parity, its files. Opens no runtime and no store."""

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
DENSE_FILE = "dense.safetensors"  # layers behind pooling, if there are any


@dataclass(frozen=True, slots=True)
class Probes:
    """Texts as ids, and the vectors that plain transformers computed for them in float32."""

    flat_ids: Ints  # one text after another
    lengths: Ints  # [n]
    cls: Floats  # [n, d], whatever the pooling

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        save_tensors(path, asdict(self), copy=True)

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
    spec: Spec
    fingerprint: str
    manifest: EncoderManifest | None = None  # None: the export is not finished

    @property
    def plugins(self) -> tuple[FoldedPlugin, ...]:
        """All that was added to the base."""
        return self.manifest.plugins if self.manifest else ()

    @property
    def graph(self) -> Path:
        """The ONNX graph from ids to vectors."""
        return self.path / GRAPH_FILE

    def probes(self) -> Probes:
        """The parity probes.

        Raises:
            BadArtifact: the file does not hold them.
        """
        try:
            return Probes.load(self.path / PROBES_FILE, self.spec.dim)
        except (KeyError, ValueError, SafetensorError) as error:
            where = str(self.path / PROBES_FILE)
            raise BadArtifact(
                f"the parity probes cannot be read: {error}", where=where, fix=_again(self.name)
            ) from error

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, at the spec's number of tokens."""
        return Tokenizer(self.path / TOKENIZER_FILE, self.spec.max_tokens, self.spec.prompt, self.spec.empty_id)

    def tensors(self) -> dict[str, Any]:
        """The float32 weights as torch tensors, dense layers among them.

        Raises:
            BadArtifact: a file cannot be read.
        """
        from safetensors.torch import load_file

        found: dict[str, Any] = {}
        for file in (WEIGHTS_FILE, *([DENSE_FILE] if self.spec.dense else [])):
            try:
                found |= load_file(self.path / file)
            except (OSError, SafetensorError) as error:
                raise BadArtifact(
                    f"the weights cannot be read: {error}", where=str(self.path / file), fix=_again(self.name)
                ) from error
        return found


def open_folder(path: Path, name: str, expected: str = "") -> EncoderFolder:
    """The export in `path`.

    Args:
        expected: the fingerprint it must have, where the caller has seen it before.

    Raises:
        BadArtifact: there is none, or a file or field is not what was exported.
        ParityError: its parity report is not a passing one.
    """
    fix = _again(name)
    manifest = read_manifest(path, EncoderManifest, fix)
    spec, found = manifest.card, manifest.fingerprint
    needed = {GRAPH_FILE, PROBES_FILE, TOKENIZER_FILE, WEIGHTS_FILE, *([DENSE_FILE] if spec.dense else [])}
    unnamed = needed - manifest.files.keys()
    if unnamed:
        raise BadArtifact("the manifest lacks a file", where=str(path), expected=", ".join(sorted(unnamed)), fix=fix)
    if not manifest.parity.passed:
        raise ParityError("this export has no passing parity report", where=str(path), fix=fix)
    computed = fingerprint(spec)
    if computed != found:
        what = "the spec is not the one that was exported"
        raise BadArtifact(what, where=str(path), expected=found, got=computed, fix=fix)
    if expected and found != expected:
        what, fix = "the encoder was exported anew meanwhile", "Run the same command again."
        raise BadArtifact(what, where=str(path), expected=expected, got=found, fix=fix)
    return EncoderFolder(name, path, spec, found, manifest)


def _again(name: str) -> str:
    return f"Run `loid-infer export --name {name}` to make it anew."
