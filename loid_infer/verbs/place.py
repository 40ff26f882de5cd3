"""Where several processes compute a corpus: its texts, the encoder, the folder they share, and the store."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from loid_infer.data.addresses import Where, inside
from loid_infer.data.corpora import record
from loid_infer.data.reviews import ReviewTable
from loid_infer.encoder import Encoder
from loid_infer.encoders.opening import check_options
from loid_infer.errors import BadArtifact, BadSetting, NotEncoded
from loid_infer.pages.records import EncodeResult
from loid_infer.settings import Workspace
from loid_infer.store.reader import open_store
from loid_infer.store.writer import StoreWriter
from loid_infer.types import Bools, Corpus, Digests, Progress
from loid_infer.verbs.encode import corpora
from loid_infer.verbs.encoder import resolve


@dataclass(frozen=True, slots=True)
class ShardResult(EncodeResult):
    """A finished shard, or a job on a cluster. `n_unique`, `n_hits` and `n_encoded` count its texts."""

    shard: int | None = None  # None: a job on a cluster
    n_shards: int = 1  # of the run; of a job on a cluster the parts
    n_missing: int = 0  # shards that are not complete yet
    n_sealed: int = 0  # texts that were sealed before; they are among the hits
    workers: int = 1
    run: str = ""  # the folder of the run

    @staticmethod
    def of(result: EncodeResult, changes: Mapping[str, Any]) -> ShardResult:
        """A result with the fields that `encode` does not have."""
        return ShardResult(**{name: getattr(result, name) for name in EncodeResult.__dataclass_fields__}, **changes)


@dataclass(frozen=True, slots=True)
class Place:
    """A corpus, its encoder, and where the vectors of both go."""

    workspace: Workspace
    corpus: Corpus
    encoder: Encoder
    shared: Where  # the folder of all runs
    is_own: bool  # whether that is the workspace's

    @staticmethod
    def of(
        workspace: Workspace,
        domain: str,
        shard_folder: Where | None,
        of: str,
        template: str,
        title_tokens: int,
        encoder: str | None,
        precision: str | None,
        runtime: str,
        device: str = "auto",
        n_threads: int | None = None,
        n_streams: int | None = None,
    ) -> Place:
        """The place of the options of `encode`. Raises BadArtifact if the encoder is not exported yet."""
        check_options(runtime, device)
        opened = corpora(workspace, domain, of, template, title_tokens)
        try:
            folder = resolve(workspace, encoder, domain)
        except BadArtifact as error:
            if encoder is None and "there is no encoder" in error.what:
                error.fix = "Run `loid-infer export` first, once: all processes of a run use one encoder."
            raise
        if precision not in (None, "auto", folder.spec.precision):
            what, fix = "the encoder has another precision", "Omit --precision."
            got = folder.spec.precision
            raise BadSetting(what, where=f"encoder {folder.name!r}", expected=str(precision), got=got, fix=fix)
        corpus, chosen = (
            opened(folder),
            Encoder.open(folder, runtime=runtime, device=device, n_threads=n_threads, n_streams=n_streams),
        )
        return Place(workspace, corpus, chosen, shard_folder or workspace.shards, shard_folder is None)

    def folder(self, suffix: str = "") -> str:
        """The folder of the run of this corpus and encoder."""
        return inside(self.shared, f"{self.corpus.name}.{self.encoder.fingerprint[:12]}{suffix}")

    def writer(self) -> StoreWriter:
        """The store, to write to."""
        return StoreWriter(self.workspace.store(self.encoder.fingerprint), self.encoder.spec, self.encoder.fingerprint)

    def stored(self, digests: Digests) -> Bools:
        """Whether each of `digests [n, 16]` is in the store, `[n]`."""
        encoder, found = self.encoder, np.zeros(len(digests), np.bool_)
        with (
            suppress(NotEncoded),
            open_store(self.workspace.store(encoder.fingerprint), encoder.spec, encoder.fingerprint) as store,
        ):
            found = store.lookup(digests) >= 0
        return found

    def keep(self, progress: Progress) -> None:
        """Record the digests of a corpus that is no table, so that `cache gc` keeps its vectors."""
        if not isinstance(self.corpus, ReviewTable):
            record(self.workspace.corpora / f"{self.corpus.name}.digests", self.corpus.digests(progress))

    def n_missing(self, progress: Progress) -> int:
        """The number of rows of the corpus whose text is not in the store."""
        return sum(int((~self.stored(digests)).sum()) for _, digests in self.corpus.pieces(progress))
