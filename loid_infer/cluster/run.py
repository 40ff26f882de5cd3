"""The folder of a run, which its processes share: what they compute, what is sealed, which shards are complete.

    run.json                    the corpus by its digest, the encoder's spec, the number of shards
    texts/00012.parquet         texts to compute, where one process hands them out (`handout`)
    vectors/00012-X-0000.safetensors   vectors that are sealed: complete, with digests, spec and checksum
    done/00012.json             which sealed files a complete shard has

Vectors are keyed by the digest of their text, so a file of a process that was killed, or ran twice, is as good as any.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass

from msgspec import Struct

from loid_infer.data.addresses import Folder, Where
from loid_infer.data.vectors import Bundle, write_shard
from loid_infer.encoders.spec import fingerprint
from loid_infer.errors import BadArtifact, BadSetting
from loid_infer.records import decode, to_json
from loid_infer.store.environment import spec_bytes
from loid_infer.types import Digests, Floats, Spec

RUN_FILE, TEXTS, VECTORS, DONE = "run.json", "texts", "vectors", "done"
_FORMAT = 1
_AGAIN = "Run the shard again: it computes what is missing."


class RunFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="run"):
    """What all processes of a run compute."""

    format: int = _FORMAT
    corpus: str  # its name
    digest: str  # of its content
    fingerprint: str
    card: Spec
    n_shards: int


class Mark(Struct, frozen=True, kw_only=True):
    """A complete shard."""

    shard: int
    digest: str  # of the corpus
    n_shards: int
    n_texts: int
    n_hits: int  # in the store already
    n_sealed: int  # by processes before
    n_encoded: int
    n_tokens: int
    seconds: float
    files: dict[str, int]  # all of the shard, with their bytes


@dataclass(frozen=True, slots=True)
class State:
    """Which shards of a run are complete."""

    done: tuple[int, ...]
    missing: tuple[int, ...]
    n_files: int
    n_bytes: int


class Run:
    """A run whose `run.json` was read or written."""

    def __init__(self, folder: Folder, file: RunFile) -> None:
        self.folder, self.file = folder, file

    @staticmethod
    def begin(where: Where, corpus: str, digest: str, spec: Spec, n_shards: int) -> Run:
        """Begin a run, or join the one that is there.

        Raises BadSetting if that has another table, encoder or number of shards, Unreachable or NoSpace if the folder
        cannot be used.
        """
        mine = RunFile(corpus=corpus, digest=digest, fingerprint=fingerprint(spec), card=spec, n_shards=n_shards)
        run = Run.find(where)
        if run is None:
            folder = Folder(where)
            with folder.new(RUN_FILE) as path:
                path.write_text(to_json(mine, indent=1) + "\n")
            run = Run.find(where) or Run(folder, mine)  # another process may have been first
        run.check(mine)
        return run

    @staticmethod
    def find(where: Where) -> Run | None:
        """The run in a folder, None if there is none. Raises BadArtifact if it cannot be read."""
        folder = Folder(where)
        if not folder.has(RUN_FILE):
            return None
        fix = f"Remove {folder.where} if no process of it runs, and begin again."
        return Run(folder, decode(folder.read(RUN_FILE), RunFile, fix, where=folder.path(RUN_FILE)))

    def check(self, mine: RunFile) -> None:
        """Raise BadSetting if the run is not `mine`."""
        if self.file == mine:
            return
        what, expected, got = "", "", ""
        for name, about in (
            ("digest", "table"),
            ("corpus", "corpus"),
            ("fingerprint", "encoder"),
            ("n_shards", "number of shards"),
            ("format", "version"),
        ):
            if getattr(self.file, name) != getattr(mine, name):
                what = f"this run was begun with another {about}"
                expected, got = str(getattr(self.file, name))[:16], str(getattr(mine, name))[:16]
                break
        fix = (
            "Give what it was begun with; or join what it has (loid-infer encode --collect, with the same options), "
            f"remove {self.folder.where} and begin again."
        )
        raise BadSetting(what, where=self.folder.where, expected=expected, got=got, fix=fix)

    def seal(self, digests: Digests, vectors: Floats, name: str) -> None:
        """Write `vectors [n, dim]` in the stored dtype, of the texts with `digests [n, 16]`."""
        with self.folder.new(f"{VECTORS}/{name}") as path:
            write_shard(path, spec_bytes(self.file.card).decode(), digests, vectors)

    def sealed(self, shard: int | None = None) -> dict[str, int]:
        """The bytes of all sealed files, or of those of a shard, by name."""
        sizes = self.folder.sizes(VECTORS)
        if shard is None:
            return sizes
        return {name: size for name, size in sizes.items() if name.startswith(f"{shard:05d}-")}

    def load(self, name: str) -> tuple[Digests, Floats]:
        """The digests `[n, 16]` and the vectors `[n, dim]` of a sealed file, compared with its checksum.

        Raises BadArtifact if it is damaged or of another encoder.
        """
        with self.folder.open(f"{VECTORS}/{name}") as path, Bundle(path) as bundle:
            where = self.folder.path(f"{VECTORS}/{name}")
            spec = decode(bundle.spec, Spec, _AGAIN, where=where)
            if spec != self.file.card or bundle.dim != spec.dim:
                expected, got = self.file.fingerprint, fingerprint(spec)
                raise BadArtifact("vectors of another encoder", where=where, expected=expected, got=got, fix=_AGAIN)
            return bundle.digests, bundle.vectors(0, len(bundle.digests))

    def finish(self, mark: Mark) -> None:
        """Say that a shard is complete. Raises BadSetting if the run is another one by now."""
        now = Run.find(self.folder.where)
        if now is None:
            what, fix = "the run was removed meanwhile", "Begin again: the vectors that were not collected are lost."
            raise BadSetting(what, where=self.folder.where, fix=fix)
        now.check(self.file)
        with self.folder.new(f"{DONE}/{mark.shard:05d}.json") as path:
            path.write_text(to_json(mark, indent=1) + "\n")

    def state(self) -> State:
        """Which shards are complete: marked as such, and all their files are there with their sizes."""
        there, done = self.sealed(), []
        for name in self.folder.sizes(DONE):
            with suppress(BadArtifact):
                mark = decode(self.folder.read(f"{DONE}/{name}"), Mark, _AGAIN, where=name)
                same = (mark.digest, mark.n_shards) == (self.file.digest, self.file.n_shards)
                if same and all(there.get(file) == n for file, n in mark.files.items()):
                    done.append(mark.shard)
        missing = sorted({*range(self.file.n_shards)} - {*done})
        return State(tuple(sorted(done)), tuple(missing), len(there), sum(there.values()))

    def discard(self, name: str) -> None:
        """Remove a damaged file, and the mark of its shard, which has to run again."""
        self.folder.remove(f"{VECTORS}/{name}", f"{DONE}/{name.partition('-')[0]}.json")

    def remove(self) -> None:
        """Remove the run with all its files."""
        self.folder.remove(RUN_FILE)  # first, so that no process joins it
        self.folder.clear()


def new_name(shard: int) -> str:
    """What the names of the files of one process begin with."""
    return f"{shard:05d}-{uuid.uuid4().hex[:8]}"
