"""`encode --shard | --status | --collect`: a corpus encoded by the tasks of an array job, and joined into the store."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from loid_infer.cluster.join import add_vectors
from loid_infer.cluster.run import Mark, Run
from loid_infer.cluster.sealing import seal_all
from loid_infer.cluster.selection import shard_rows
from loid_infer.data.addresses import Where
from loid_infer.data.corpora import checked_texts
from loid_infer.encoders.pipeline import Stages
from loid_infer.errors import BadArtifact, BadSetting, NotEncoded
from loid_infer.kernels.unique import ascending, within
from loid_infer.pages.records import EncodeResult
from loid_infer.settings import TEMPLATE, TITLE_TOKENS, Workspace, WorkspaceLike, array_task
from loid_infer.types import DIGEST_BYTES, SILENT, Digests, Floats, Progress
from loid_infer.verbs.encode import encode_result
from loid_infer.verbs.place import Place, ShardResult

_SHARD = re.compile(r"(auto|\d{1,9})(?:/(\d{1,9}))?")
_MAX_NAMED = 1_000  # listed shards


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """Which shards of a run are complete."""

    domain: str
    encoder: str
    fingerprint: str
    state: str  # unfinished | complete (all shards) | collected (every text is in the store)
    n_shards: int
    n_missing: int  # shards
    missing: tuple[int, ...]  # the first thousand of them
    n_files: int
    n_bytes: int
    run: str


@dataclass(frozen=True, slots=True)
class ShardCollection:
    """What was joined into the store. The run is removed when no shard is missing."""

    domain: str
    encoder: str
    fingerprint: str
    n_shards: int
    n_missing: int  # shards
    missing: tuple[int, ...]
    n_files: int
    n_texts: int  # in these files; one that is in several counts in each
    n_new: int  # not stored before
    n_damaged: int  # files that were removed; their shards are missing
    n_without: int  # rows of the table whose text has no vector although no shard is missing
    vectors_per_s: float
    seconds: float
    store: str
    run: str


def encode_shard(
    domain: str,
    shard: str = "auto",
    *,
    shard_folder: Where | None = None,
    of: str = "reviews",
    template: str = TEMPLATE,
    title_tokens: int = TITLE_TOKENS,
    encoder: str | None = None,
    precision: str | None = None,
    runtime: str = "auto",
    device: str = "auto",
    n_threads: int | None = None,
    n_streams: int | None = None,
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> ShardResult:
    """Compute the vectors of one shard of a corpus that are neither stored nor sealed, and seal them in files.

    Every task of a run computes the same corpus with the same encoder; the first one writes down which. A text belongs
    to the shard that its digest says. A task that was killed goes on where it was when it runs again.

    Args:
        shard: I/N, shard I of N, I from 0 on; `auto` or `auto/N` for what the environment says of an array job.
        shard_folder: where sealed files go, a folder or an address; by default in the workspace's cache.
        of, template, title_tokens, encoder, precision, runtime, device, n_threads, n_streams: see `encode`.

    Raises:
        BadSetting: an invalid shard, or a run that was begun with another table, encoder or number of shards.
        BadArtifact: the encoder is not exported.
        BadTable, RuntimeMissing, ParityError, NoSpace, Unreachable: see `encode`. Sealed files are kept.
    """
    number, n_shards, said = _numbers(shard)
    progress.say(f"shard {number} of {n_shards} (counted from 0){said}")
    start = perf_counter()
    given = of, template, title_tokens, encoder, precision, runtime, device, n_threads, n_streams
    place = Place.of(Workspace.of(workspace), domain, shard_folder, *given)
    with place.encoder:
        run = Run.begin(place.folder(), place.corpus.name, place.corpus.digest, place.encoder.spec, n_shards)
        task = _ShardTask(place, run, number, progress)
        setup_s = task.encode(progress) if len(task.new) else 0.0
        seconds = perf_counter() - start - setup_s
        run.finish(task.mark(seconds))
        result = task.result(seconds, setup_s)
    state = run.state()
    progress.say(_missing_line(state.missing, n_shards))
    if result.unknown:
        progress.say(result.unknown)
    counts = {"n_shards": n_shards, "n_missing": len(state.missing), "n_sealed": int(task.is_sealed.sum())}
    return ShardResult.of(result, {"shard": number, "run": run.folder.where, **counts})


class _ShardTask:
    """The texts of a shard, and which of them have to be computed."""

    def __init__(self, place: Place, run: Run, number: int, progress: Progress) -> None:
        self._place, self._run, self._number, corpus = place, run, number, place.corpus
        self._rows, self._digests = shard_rows(corpus, number, run.file.n_shards, progress)
        # Where shards meet elsewhere, another store than this workspace's gets them.
        self._is_stored = place.stored(self._digests) if place.is_own else np.zeros(len(self._rows), np.bool_)
        self.is_sealed = ~self._is_stored & within(self._digests, _sealed_digests(run, number, progress))
        self.new = np.flatnonzero(~(self._is_stored | self.is_sealed))
        self._stages, self._sealing_s, self._runtime, self._detail = Stages(), 0.0, "none", "every text was there"
        progress.say(
            f"{corpus.name} with {place.encoder.name}: {len(self._rows):,} texts in this shard, "
            f"{self._is_stored.sum():,} stored, {self.is_sealed.sum():,} sealed, {len(self.new):,} new"
        )

    def encode(self, progress: Progress) -> float:
        """Compute and seal the new ones. Returns the seconds that opening the runtime took."""
        encoder, rows, digests = self._place.encoder, self._rows[self.new], self._digests[self.new]
        self._runtime = encoder.runtime.name
        texts = checked_texts(self._place.corpus, rows, digests)
        pieces = ((np.searchsorted(rows, part), strings) for part, strings in texts)
        with (
            progress.task("encode", len(rows), "texts") as task,
            closing(encoder.stream(pieces, self._stages)) as batches,
        ):
            n, self._sealing_s = seal_all(self._run, self._number, batches, digests, task)
        if n != len(rows):
            raise RuntimeError(f"the runtime returned {n} of {len(rows)} vectors")
        self._detail = encoder.runtime.detail
        return encoder.setup_s

    def mark(self, seconds: float) -> Mark:
        """That the shard is complete."""
        return Mark(
            shard=self._number,
            digest=self._run.file.digest,
            n_shards=self._run.file.n_shards,
            n_texts=len(self._rows),
            n_hits=int(self._is_stored.sum()),
            n_sealed=int(self.is_sealed.sum()),
            n_encoded=len(self.new),
            n_tokens=self._stages.n_tokens,
            seconds=seconds,
            files=self._run.sealed(self._number),
        )

    def result(self, seconds: float, setup_s: float) -> EncodeResult:
        """What was done."""
        return encode_result(
            self._place.corpus,
            self._place.encoder,
            self._stages,
            n_unique=len(self._rows),
            n_encoded=len(self.new),
            runtime=self._runtime,
            detail=self._detail,
            seconds=seconds,
            commit_s=self._sealing_s,
            setup_s=setup_s,
            store=str(self._place.workspace.store(self._place.encoder.fingerprint)),
        )


def encode_status(
    domain: str,
    *,
    shard_folder: Where | None = None,
    of: str = "reviews",
    template: str = TEMPLATE,
    title_tokens: int = TITLE_TOKENS,
    encoder: str | None = None,
    precision: str | None = None,
    runtime: str = "auto",
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> ShardStatus:
    """Which shards of a run are complete: marked so, and with all their sealed files.

    Raises:
        NotEncoded: no run was begun, and the store lacks texts.
        BadTable, BadArtifact, BadStore, Unreachable: see `encode_shard`.
    """
    place = Place.of(
        Workspace.of(workspace), domain, shard_folder, of, template, title_tokens, encoder, precision, runtime
    )
    run = Run.find(place.folder())
    if run is None:
        _check_collected(place, progress)
        return ShardStatus(*_named(place), "collected", 0, 0, (), 0, 0, place.folder())
    state = run.state()
    progress.say(_missing_line(state.missing, run.file.n_shards))
    return ShardStatus(
        *_named(place),
        "unfinished" if state.missing else "complete",
        run.file.n_shards,
        len(state.missing),
        state.missing[:_MAX_NAMED],
        state.n_files,
        state.n_bytes,
        run.folder.where,
    )


def encode_collect(
    domain: str,
    *,
    shard_folder: Where | None = None,
    of: str = "reviews",
    template: str = TEMPLATE,
    title_tokens: int = TITLE_TOKENS,
    encoder: str | None = None,
    precision: str | None = None,
    runtime: str = "auto",
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> ShardCollection:
    """Join the sealed files of a run into the store, and remove the run when no shard is missing.

    Every file is compared with its digest first. A damaged one, or one of another encoder, is removed and not joined;
    its shard is missing then, and computes what was lost when it runs again.

    Raises:
        NotEncoded: no run was begun, and the store lacks texts.
        StoreBusy, BadStore, NoSpace: the store cannot be written to. Run the command again.
        BadTable, BadArtifact, Unreachable: see `encode_shard`.
    """
    start, given = perf_counter(), (of, template, title_tokens, encoder, precision, runtime)
    place = Place.of(Workspace.of(workspace), domain, shard_folder, *given)
    store = str(place.workspace.store(place.encoder.fingerprint))
    run = Run.find(place.folder())
    if run is None:
        _check_collected(place, progress)
        return ShardCollection(*_named(place), 0, 0, (), 0, 0, 0, 0, 0, 0.0, 0.0, store, place.folder())
    files: set[str] = set()
    n_texts = n_new = n_damaged = 0
    place.keep(progress)
    with place.writer() as writer, progress.task("join", None, "vectors") as task:
        # Tasks may seal meanwhile: the run is removed only if nothing was sealed that is not joined.
        while True:
            state = run.state()
            waiting = [name for name in run.sealed() if name not in files]
            if not waiting:
                break
            files |= {*waiting}
            contents = _Contents(run, waiting, progress)
            n_new += add_vectors(writer, contents, task)
            n_texts, n_damaged = n_texts + contents.n_texts, n_damaged + contents.n_damaged
    seconds, n_without = perf_counter() - start, 0
    if state.missing:
        progress.say(_missing_line(state.missing, run.file.n_shards))
    else:
        n_without = place.n_missing(progress)
        if n_without:
            progress.say(f"all shards are complete, but the texts of {n_without:,} rows have no vector: another table?")
        run.remove()
    return ShardCollection(
        *_named(place),
        run.file.n_shards,
        len(state.missing),
        state.missing[:_MAX_NAMED],
        len(files),
        n_texts,
        n_new,
        n_damaged,
        n_without,
        n_texts / seconds,
        seconds,
        store,
        run.folder.where,
    )


class _Contents:
    """The contents of sealed files, without those that are damaged."""

    def __init__(self, run: Run, names: Sequence[str], progress: Progress) -> None:
        self.n_texts = self.n_damaged = 0
        self._run, self._names, self._progress = run, names, progress

    def __iter__(self) -> Iterator[tuple[Digests, Floats]]:
        for name in self._names:
            content = _loaded(self._run, name, self._progress)
            if content is None:
                self.n_damaged += 1
            else:
                self.n_texts += len(content[0])
                yield content


def _loaded(run: Run, name: str, progress: Progress) -> tuple[Digests, Floats] | None:
    """The content of a sealed file; None if it is damaged, and removed now."""
    try:
        return run.load(name)
    except BadArtifact as error:
        progress.say(f"{error.where}: {error.what}. The file is removed; its shard has to run again")
        run.discard(name)
        return None


def _named(place: Place) -> tuple[str, str, str]:
    return place.corpus.name, place.encoder.name, place.encoder.fingerprint


def _check_collected(place: Place, progress: Progress) -> None:
    n_missing = place.n_missing(progress)
    if n_missing:
        what, fix = "no run of shards was begun", "Run `loid-infer encode --shard 0/8` with the same other options."
        got = f"{n_missing:,} of {place.corpus.n_rows:,} rows whose text has no vector"
        raise NotEncoded(what, where=place.folder(), got=got, fix=fix)


def _missing_line(missing: Sequence[int], n_shards: int) -> str:
    if not missing:
        return f"all {n_shards} shards are complete; loid-infer encode --collect joins them"
    names = ", ".join(map(str, missing[:20])) + (", ..." if len(missing) > 20 else "")
    return f"{len(missing)} of {n_shards} shards are missing: {names}"


def _numbers(shard: str) -> tuple[int, int, str]:
    """The number of the shard, of all shards, and how that was found."""
    match = _SHARD.fullmatch(shard)
    expected = "I/N with I from 0 to N-1, like 0/8; or auto, or auto/N, in an array job"
    if match is None:
        raise BadSetting("not a shard", where="--shard", expected=expected, got=shard[:40])
    index, n = match.group(1), match.group(2) or ""
    said = ""
    if index == "auto":
        index, count, name = array_task()
        if not index:
            what, got = "the environment names no task of an array job", "no SLURM_ARRAY_TASK_ID or the like"
            raise BadSetting(what, where="--shard", expected=expected, got=got, fix="Give --shard I/N.")
        if name.startswith("SLURM") and n and n != count:
            fix = "Give --shard I/N for some of the tasks of a run."
            what, got = "the array has other tasks than the run", count or "gaps"
            raise BadSetting(what, where=name, expected=n, got=got, fix=fix)
        if not (n or count):
            fix = "Give the number of shards of the whole run: --shard auto/N, or --shard I/N for some of its tasks."
            raise BadSetting("the environment does not say how many tasks there are", where=name, got=index, fix=fix)
        n, said = n or count, f", from {name}"
    if not index.isdecimal() or not n.isdecimal() or int(index) >= int(n):
        raise BadSetting("not a shard", where="--shard", expected=expected, got=f"{index}/{n}")
    return int(index), int(n), said


def _sealed_digests(run: Run, shard: int, progress: Progress) -> Digests:
    """The digests in the sealed files of a shard, ascending. Damaged files are removed."""
    parts = [np.zeros((0, DIGEST_BYTES), np.uint8)]
    parts += [content[0] for name in run.sealed(shard) if (content := _loaded(run, name, progress))]
    return ascending(np.concatenate(parts))
