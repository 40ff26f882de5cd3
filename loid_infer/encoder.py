"""The door from texts to vectors: an encoder with its tokenizer and a runtime that is proven on this machine.

Whatever needs the vector of a text asks here. It knows texts and vectors; no table and no store.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from msgspec import structs

from loid_infer.encoders.folder import EncoderFolder, open_folder
from loid_infer.encoders.opening import check_options, open_runtime
from loid_infer.encoders.pipeline import Stages, encode_stream
from loid_infer.encoders.protocol import Runtime
from loid_infer.encoders.spec import fingerprint
from loid_infer.encoders.tokens import Tokenizer
from loid_infer.errors import BadArtifact
from loid_infer.settings import DEFAULT_BASE, DEFAULT_ENCODER, Workspace, WorkspaceLike
from loid_infer.types import SILENT, Floats, Ints, Progress, Spec, check_texts

Parts: TypeAlias = tuple[Tokenizer, Runtime]


class Encoder:
    """Texts to vectors. The runtime is opened, and proven, when it is first needed.

    Attributes:
        name: of the export.
        spec: everything that decides the vectors.
        fingerprint: the digest of `spec`: the name of the store of these vectors.
        setup_s: seconds that opening the runtime took.
    """

    def __init__(self, spec: Spec, load: Callable[[], Parts], name: str = "") -> None:
        """An encoder whose tokenizer and runtime `load` makes; for one that was exported see `open`."""
        self.name, self.spec, self.fingerprint, self.setup_s = name, spec, fingerprint(spec), 0.0
        self._load = load
        self._parts: Parts | None = None

    @staticmethod
    def open(
        encoder: str | os.PathLike[str] | EncoderFolder = DEFAULT_ENCODER,
        *,
        workspace: WorkspaceLike = None,
        runtime: str = "auto",
        device: str = "auto",
        n_threads: int | None = None,
        progress: Progress = SILENT,
    ) -> Encoder:
        """An exported encoder.

        Args:
            encoder: the name of an export of the workspace, or an export's folder. `base`, the bundled MiniLM at CLS,
                is exported on first use.
            runtime: auto | torch | onnxruntime | openvino | tensorrt | fake. `auto` takes the fastest that is proven.
            device: auto | cpu | cuda.
            n_threads: processors to use; all that this process may use by default.

        Raises:
            BadArtifact: it is not there, or not what was exported.
            BadName, BadSetting: a name or option that is none.
            ParityError: it has no passing parity report.
        """
        check_options(runtime, device)
        found = encoder if isinstance(encoder, EncoderFolder) else _find(encoder, Workspace.of(workspace), progress)

        def load() -> Parts:
            opened = open_runtime(found, runtime=runtime, device=device, n_threads=n_threads, progress=progress)
            parts = found.tokenizer(), opened
            # All that decides a vector is loaded by now: what was loaded must be what the fingerprint says.
            open_folder(found.path, found.name, expected=found.fingerprint)
            return parts

        # What the fake runtime computes is no encoder's vector: it gets a spec, and so a store, of its own.
        spec = structs.replace(found.spec, precision="fake") if runtime == "fake" else found.spec
        return Encoder(spec, load, found.name)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.spec.dim

    @property
    def runtime(self) -> Runtime:
        """The runtime, which is opened now if it is not yet.

        Raises:
            RuntimeMissing, ParityError, NoMemory: it cannot run here, or computes something else.
            BadArtifact: a file cannot be loaded, or was replaced meanwhile.
        """
        return self._ready()[1]

    def encode(self, texts: Iterable[str]) -> Floats:
        """The vectors `[n, d]` float32 of `texts [n]`, in their order.

        Raises:
            BadSetting: not a list of strings, or one that is no Unicode text.
            RuntimeMissing, ParityError, NoMemory, BadArtifact: see `runtime`.
        """
        given, n_finished = check_texts(texts), 0
        found = np.empty((len(given), self.dim), np.float32)
        for slots, vectors in self.stream([(np.arange(len(given)), given)]):
            found[slots] = vectors
            n_finished += len(slots)
        if n_finished != len(given):
            raise RuntimeError(f"the runtime gave {n_finished} of {len(given)} vectors back")
        return found

    def stream(
        self, pieces: Iterable[tuple[Ints, Sequence[str]]], stages: Stages | None = None
    ) -> Generator[tuple[Ints, Floats]]:
        """The vectors of texts that come in pieces, as they are finished, so that memory holds a part of them only.

        Args:
            pieces: (slots `[m]`, texts `[m]`): the caller's numbers of the texts, which may not repeat.
            stages: filled in with what each stage took.

        Yields:
            Slots `[m]` and vectors `[m, d]`, in no particular order, in float32 or the runtime's float16.

        Raises:
            RuntimeMissing, ParityError, NoMemory, BadArtifact: see `runtime`.
        """
        tokenizer, runtime = self._ready()
        return encode_stream(iter(pieces), tokenizer, runtime, stages or Stages())

    def lengths(self, texts: Sequence[str]) -> Ints:
        """Tokens `[n]` of each of `texts [n]` as it is encoded: with special tokens and the prompt, and cut."""
        return self._ready()[0](texts).lengths

    def close(self) -> None:
        """Let go of the runtime and its memory; it is opened again if it is needed."""
        self._parts = None

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ready(self) -> Parts:
        if self._parts is None:
            start = time.perf_counter()
            self._parts = self._load()
            self.setup_s = time.perf_counter() - start
        return self._parts


def _find(encoder: str | os.PathLike[str], workspace: Workspace, progress: Progress) -> EncoderFolder:
    path = Path(encoder)
    if not isinstance(encoder, str) or os.sep in encoder:
        return open_folder(path, path.resolve().name)
    path = workspace.encoder(encoder)
    if encoder == DEFAULT_ENCODER and not path.exists():
        from loid_infer.graphs.bases import load_base  # torch and transformers: seconds that only this should pay
        from loid_infer.graphs.making import make_encoder

        progress.say(f"exporting encoder {encoder!r}, the bundled model: this is its first use here ...")
        make_encoder(path, load_base(DEFAULT_BASE), precision="auto", progress=progress)
    return find_encoder(workspace, encoder)


def find_encoder(workspace: Workspace, name: str) -> EncoderFolder:
    """The export of that name.

    Raises:
        BadArtifact, BadName, ParityError: see `Encoder.open`.
    """
    path = workspace.encoder(name)
    if path.exists():
        return open_folder(path, name)
    known = sorted(folder.name for folder in path.parent.glob("[!.]*")) if path.parent.is_dir() else []
    by_itself = ", or `loid-infer encode --domain D`, which exports it." if name == DEFAULT_ENCODER else "."
    fix = f"Run `loid-infer export --name {name}`{by_itself}"
    raise BadArtifact(f"there is no encoder {name!r}", where=str(path.parent), got=", ".join(known) or "none", fix=fix)
