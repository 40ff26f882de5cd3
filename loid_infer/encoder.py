"""Encoder: texts to vectors, with the tokenizer of an export and a runtime that was verified on this machine."""

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
    """Texts to vectors. The runtime is opened and verified on first use.

    Attributes:
        name: name of the export.
        spec: everything that decides the vectors.
        fingerprint: digest of `spec`, the name of the store of these vectors.
        setup_s: seconds that opening the runtime took.
    """

    def __init__(self, spec: Spec, load: Callable[[], Parts], name: str = "") -> None:
        """An encoder whose tokenizer and runtime are made by `load`; see `open` for exported encoders."""
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
        n_streams: int | None = None,
        progress: Progress = SILENT,
    ) -> Encoder:
        """Open an exported encoder.

        Args:
            encoder: the name of an export of the workspace, or an export's folder. `base`, the bundled MiniLM at CLS,
                is exported on first use.
            workspace: the folder with exports/; by default $LOID_WORKSPACE, else the current folder.
            runtime: auto | torch | onnxruntime | openvino | tensorrt | fake. `auto` takes the fastest that passes the
                parity check.
            device: auto | cpu | cuda.
            n_threads: CPU threads; by default all processors that this process may use.
            n_streams: batches that OpenVINO computes at once; by default what is fastest here.

        Raises:
            BadArtifact: the export is missing or was changed.
            BadName, BadSetting: an invalid name or option.
            ParityError: the export has no passing parity report.
        """
        check_options(runtime, device)
        folder = encoder if isinstance(encoder, EncoderFolder) else _locate(encoder, Workspace.of(workspace), progress)

        def load() -> Parts:
            opened = open_runtime(
                folder, runtime=runtime, device=device, n_threads=n_threads, n_streams=n_streams, progress=progress
            )
            parts = folder.tokenizer(), opened
            # The files may have been replaced while they were loaded: check the fingerprint again.
            open_folder(folder.path, folder.name, expected=folder.fingerprint)
            return parts

        # Fake vectors get a spec, and so a store, of their own.
        spec = structs.replace(folder.spec, precision="fake") if runtime == "fake" else folder.spec
        return Encoder(spec, load, folder.name)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.spec.dim

    @property
    def runtime(self) -> Runtime:
        """The runtime, opened on first use.

        Raises:
            RuntimeMissing, ParityError, NoMemory: it cannot run here, or fails the parity check.
            BadArtifact: a file cannot be loaded, or was replaced during loading.
        """
        return self._open_parts()[1]

    def encode(self, texts: Iterable[str], stages: Stages | None = None) -> Floats:
        """The vectors `[n, d]` float32 of `texts [n]`, in order. `stages` is filled in as by `stream`.

        Raises:
            BadSetting: not a list of strings, or a string with lone surrogates.
            RuntimeMissing, ParityError, NoMemory, BadArtifact: see `runtime`.
        """
        texts = check_texts(texts)
        n, n_finished = len(texts), 0
        vectors = np.empty((n, self.dim), np.float32)
        for slots, part in self.stream([(np.arange(n), texts)], stages):
            vectors[slots] = part
            n_finished += len(slots)
        if n_finished != n:
            raise RuntimeError(f"the runtime returned {n_finished} of {n} vectors")
        return vectors

    def stream(
        self, pieces: Iterable[tuple[Ints, Sequence[str]]], stages: Stages | None = None
    ) -> Generator[tuple[Ints, Floats]]:
        """Encode texts that come in pieces; only part of them is in memory.

        Args:
            pieces: (slots `[m]`, texts `[m]`); slots are the caller's numbers of the texts, each used once.
            stages: filled in with the time of each stage.

        Yields:
            Slots `[m]` and vectors `[m, d]`, as they are finished, in float32 or the runtime's float16.

        Raises:
            RuntimeMissing, ParityError, NoMemory, BadArtifact: see `runtime`.
        """
        tokenizer, runtime = self._open_parts()
        return encode_stream(iter(pieces), tokenizer, runtime, stages or Stages())

    def lengths(self, texts: Sequence[str]) -> Ints:
        """Number of tokens `[n]` of `texts [n]`, with prompt and special tokens, after truncation."""
        return self._open_parts()[0](texts).lengths

    def close(self) -> None:
        """Free the runtime and its memory; the next use opens it again."""
        self._parts = None

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open_parts(self) -> Parts:
        if self._parts is None:
            start = time.perf_counter()
            self._parts = self._load()
            self.setup_s = time.perf_counter() - start
        return self._parts


def _locate(encoder: str | os.PathLike[str], workspace: Workspace, progress: Progress) -> EncoderFolder:
    path = Path(encoder)
    if not isinstance(encoder, str) or os.sep in encoder:
        return open_folder(path, path.resolve().name)
    path = workspace.encoder(encoder)
    if encoder == DEFAULT_ENCODER and not path.exists():
        if not workspace.root.is_dir():
            fix = "Create the folder, or give another workspace."
            raise BadArtifact("there is no workspace", where=str(workspace.root), fix=fix)
        export_bundled(workspace, encoder, "auto", progress)
    return find_encoder(workspace, encoder)


def export_bundled(workspace: Workspace, name: str, precision: str, progress: Progress) -> None:
    """Export the bundled base for its first use, proven on the runtime that `auto` takes.

    Raises:
        BadArtifact, ParityError, RuntimeMissing, NoSpace: see `graphs.making.make_encoder`.
    """
    from loid_infer.graphs.bases import load_base  # imports torch and transformers, which takes seconds
    from loid_infer.graphs.making import make_encoder

    progress.say(f"there is no encoder {name!r} yet: exporting the bundled all-MiniLM-L6-v2 (once)")
    path = workspace.encoder(name)
    make_encoder(path, load_base(DEFAULT_BASE), precision=precision, progress=progress, every_runtime=False)


def find_encoder(workspace: Workspace, name: str) -> EncoderFolder:
    """The export `name` of the workspace.

    Raises:
        BadArtifact, BadName, ParityError: see `Encoder.open`.
    """
    path = workspace.encoder(name)
    if path.exists():
        return open_folder(path, name)
    known = sorted(folder.name for folder in path.parent.glob("[!.]*")) if path.parent.is_dir() else []
    fix = f"Run `loid-infer export --name {name}`, with --base or --plugin unless it is for the bundled model."
    if name == DEFAULT_ENCODER:
        fix = "Run `loid-infer encode --domain D`, which exports it."
    got = f"the encoders {', '.join(known) or 'none'}"
    raise BadArtifact(f"there is no encoder {name!r}", where=str(path.parent), got=got, fix=fix)
