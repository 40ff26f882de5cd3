"""`encode`: stores the vectors of all texts of a corpus that are not stored yet.

Measurements of a run are written to `reports/` for the report.
"""

from __future__ import annotations

import math
import resource
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from loid_infer.artifact import new_file
from loid_infer.data.corpora import Texts, checked_texts, record, recorded
from loid_infer.data.events import read_events
from loid_infer.data.items import open_items
from loid_infer.data.reviews import open_table
from loid_infer.data.sequences import all_histories, sequences_of
from loid_infer.encoder import Encoder
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.encoders.opening import check_options
from loid_infer.encoders.pipeline import Stages
from loid_infer.errors import BadArtifact, BadTable, NoSpace, NotEncoded
from loid_infer.kernels.unique import first_rows
from loid_infer.pages.records import EncodeResult, StageSeconds
from loid_infer.rankers.joined import JoinedTexts
from loid_infer.records import to_json
from loid_infer.settings import (
    TEMPLATE,
    TITLE_TOKENS,
    Workspace,
    WorkspaceLike,
    check_choice,
    check_number,
    file_system,
    slug,
)
from loid_infer.store.reader import open_store
from loid_infer.store.writer import Committer, StoreWriter, stored_bytes
from loid_infer.types import SILENT, Corpus, Digests, Floats, Ints, Progress
from loid_infer.verbs.cache import used_digests
from loid_infer.verbs.encoder import resolve_or_export

_SAMPLE_TEXTS, _TIMED_TEXTS = 2000, 100  # numbers of texts tokenized and computed to estimate the cost


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a run would do. Tokens and seconds are estimates."""

    domain: str
    encoder: str
    fingerprint: str
    n_rows: int
    n_unique: int
    n_hits: int
    n_new: int
    n_orphaned: int | None  # rows that `cache gc` would remove; None if a table or head cannot be read
    n_tokens: int
    seconds: float
    store: str


@contextmanager
def _opened(
    workspace: Workspace,
    progress: Progress,
    domain: str,
    of: str,
    template: str,
    title_tokens: int,
    encoder: str | None,
    runtime: str,
    precision: str | None,
    device: str,
    n_threads: int | None,
    n_streams: int | None,
) -> Iterator[tuple[Corpus, Encoder, float]]:
    """The corpus, the open encoder, and the seconds spent on exporting the base first, if that was necessary."""
    check_options(runtime, device)
    opened_corpus = corpora(workspace, domain, of, template, title_tokens)
    folder, export_s = resolve_or_export(workspace, encoder, domain, precision, progress)
    corpus = opened_corpus(folder)
    with Encoder.open(
        folder, runtime=runtime, device=device, n_threads=n_threads, n_streams=n_streams, progress=progress
    ) as opened:
        yield corpus, opened, export_s


def corpora(
    workspace: Workspace, domain: str, of: str, template: str, title_tokens: int
) -> Callable[[EncoderFolder], Corpus]:
    """The corpus for an encoder; only the texts of histories depend on it, by its tokenizer."""
    check_choice("of", of, ("reviews", "items", "histories"))
    check_number("--title-tokens", title_tokens, 1, math.inf)
    if of == "reviews":
        table = open_table(workspace.table(domain), domain)
        return lambda folder: table
    items = open_items(workspace.items(domain), domain)
    texts = items.texts(template)
    if of == "items":
        corpus = item_corpus(domain, texts)
        return lambda folder: corpus
    sequences = sequences_of({domain: read_events(workspace.table(domain), domain)}, 0)
    known = dict(zip(items.item_ids, texts, strict=True))
    ordered = [known.get(item, "") for item in sequences.item_ids]

    def histories(folder: EncoderFolder) -> Corpus:
        joined = JoinedTexts.of(ordered, folder.tokenizer(), title_tokens)
        return Texts(f"{domain}-histories-{folder.fingerprint[:8]}", filter(None, joined(all_histories(sequences))))

    return histories


def item_corpus(domain: str, texts: Sequence[str]) -> Texts:
    """The texts of a domain's items as a corpus."""
    return Texts(f"{domain}-items", texts)


def encode(
    domain: str,
    *,
    of: str = "reviews",
    template: str = TEMPLATE,
    title_tokens: int = TITLE_TOKENS,
    encoder: str | None = None,
    runtime: str = "auto",
    precision: str | None = None,
    device: str = "auto",
    n_threads: int | None = None,
    n_streams: int | None = None,
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> EncodeResult:
    """Store the vector of every review text of `domain`, or of its items or histories, that is not stored yet.

    Args:
        of: reviews | items | histories. The text of a history joins those of a user's last items; see `JoinedTexts`.
        template: the text of an item; see `Items.texts`.
        title_tokens: of histories: texts of items are cut after so many tokens.
        encoder: name of an export; by default the domain's, else `base`, which is exported first if necessary.
        runtime: auto | torch | onnxruntime | openvino | tensorrt | fake. `auto` takes the fastest that passes.
        precision: required precision; see `resolve_or_export`.
        device: auto | cpu | cuda.
        n_threads: number of CPU threads; by default all available to this process.
        n_streams: number of batches that OpenVINO computes at once; by default what is fastest here.

    Raises:
        BadTable, BadName, BadSetting, BadArtifact: the domain, an option or the encoder is invalid.
        RuntimeMissing, ParityError: the runtime cannot run or fails its test; nothing is stored.
        StoreBusy, BadStore, NoSpace: the store is in use, damaged, or cannot grow. Committed chunks are kept.
    """
    workspace = Workspace.of(workspace)
    given = domain, of, template, title_tokens, encoder, runtime, precision, device, n_threads, n_streams
    with _opened(workspace, progress, *given) as (corpus, opened, export_s):
        if of != "reviews":
            done = encode_corpus(corpus, opened, workspace=workspace, progress=progress)
            return replace(done, export_s=export_s)
        result = replace(_encode(corpus, corpus.digests(progress), opened, workspace, progress), export_s=export_s)
    try:
        if result.n_encoded:
            with new_file(workspace.reports / f"{domain}.{result.encoder}.encoding.json") as temporary:
                temporary.write_text(to_json(result, indent=1) + "\n")
    except (NoSpace, OSError) as error:  # the vectors are committed, so the run has succeeded
        progress.say(f"every vector is stored, but the measurements for `loid-infer report` are not. {error}")
    return result


def encode_dry_run(
    domain: str,
    *,
    of: str = "reviews",
    template: str = TEMPLATE,
    title_tokens: int = TITLE_TOKENS,
    encoder: str | None = None,
    runtime: str = "auto",
    precision: str | None = None,
    device: str = "auto",
    n_threads: int | None = None,
    n_streams: int | None = None,
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> DryRun:
    """Estimate the work of `encode` with the same arguments. Stores no vector.

    Raises:
        BadTable, BadName, BadSetting, BadArtifact, RuntimeMissing, ParityError, BadStore: see `encode`.
    """
    workspace = Workspace.of(workspace)
    given = domain, of, template, title_tokens, encoder, runtime, precision, device, n_threads, n_streams
    with _opened(workspace, progress, *given) as (corpus, opened, _):
        digests = corpus.digests(progress)
        unique, folder = first_rows(digests), workspace.store(opened.fingerprint)
        missing = unique
        n_orphaned: int | None = 0
        with suppress(NotEncoded), open_store(folder, opened.spec, opened.fingerprint) as store:
            missing = unique[store.lookup(digests[unique]) < 0]
            try:
                used = used_digests(workspace, progress, {corpus.name: digests})
                n_orphaned = store.size().n_index - int(np.count_nonzero(store.lookup(used) >= 0))
            except (BadTable, BadArtifact) as error:
                progress.say(f"unused rows are not counted. {error}")
                n_orphaned = None
        n_tokens = seconds = 0.0
        if len(missing):
            picked = missing[np.linspace(0, len(missing) - 1, min(len(missing), _SAMPLE_TEXTS)).astype(int)]
            texts = [text for _, part in corpus.texts(picked) for text in part]
            n_tokens = float(opened.lengths(texts).mean()) * len(missing)
            few, stages = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:_TIMED_TEXTS]], Stages()
            opened.encode(few[:1])  # opens the runtime
            timing = time.perf_counter()
            for _ in opened.stream([(np.arange(len(few)), few)], stages):
                pass
            seconds = n_tokens * (time.perf_counter() - timing) / stages.n_tokens
        return DryRun(
            domain=corpus.name,
            encoder=opened.name,
            fingerprint=opened.fingerprint,
            n_rows=corpus.n_rows,
            n_unique=len(unique),
            n_hits=len(unique) - len(missing),
            n_new=len(missing),
            n_orphaned=n_orphaned,
            n_tokens=round(n_tokens),
            seconds=seconds,
            store=str(folder),
        )


def encode_corpus(
    corpus: Corpus, encoder: Encoder, *, workspace: WorkspaceLike = None, progress: Progress = SILENT
) -> EncodeResult:
    """Store the vector of every text of `corpus`, and record its digests so that `cache gc` keeps them.

    Args:
        corpus: `data.corpora.Texts` or any other `Corpus`.
        encoder: an open encoder.

    Raises:
        BadName: the name of the corpus is not a slug.
        RuntimeMissing, ParityError, StoreBusy, BadStore, NoSpace: see `encode`.
    """
    path = Workspace.of(workspace).corpora / f"{slug(corpus.name, 'corpus')}.digests"
    digests = corpus.digests(progress)
    # Until the run is complete, texts of the previous version of the corpus are kept too.
    record(path, np.concatenate([digests, recorded(path)]) if path.exists() else digests)
    result = _encode(corpus, digests, encoder, Workspace.of(workspace), progress)
    record(path, digests)
    return result


def encode_texts(
    corpus: Corpus, encoder: Encoder, *, workspace: WorkspaceLike = None, progress: Progress = SILENT
) -> EncodeResult:
    """Like `encode_corpus`, for texts that nothing refers to: `cache gc` removes their vectors."""
    return _encode(corpus, corpus.digests(progress), encoder, Workspace.of(workspace), progress)


def _encode(
    corpus: Corpus, digests: Digests, encoder: Encoder, workspace: Workspace, progress: Progress
) -> EncodeResult:
    start, stages, commit_s = time.perf_counter(), Stages(), 0.0
    kind, is_network = file_system(workspace.cache)
    if is_network:
        progress.say(
            f"{workspace.cache} is on {kind}: write to it from one machine only, and compute on several with --shard "
            "or --ray"
        )
    unique, folder = first_rows(digests), workspace.store(encoder.fingerprint)
    runtime, detail, setup_s = "none", "every text was already stored", 0.0
    with StoreWriter(folder, encoder.spec, encoder.fingerprint) as writer:
        missing: Ints = unique[writer.reader.lookup(digests[unique]) < 0]
        _announce(corpus, encoder, len(unique), len(missing), folder, progress)
        if len(missing):
            before, opened = encoder.setup_s, encoder.runtime
            runtime, setup_s = opened.name, encoder.setup_s - before
            batches = encoder.stream(checked_texts(corpus, missing, digests[missing]), stages)
            commit_s = _commit(batches, digests, len(missing), writer, progress)
            detail = opened.detail  # streams are chosen on the way
    result = encode_result(
        corpus,
        encoder,
        stages,
        n_unique=len(unique),
        n_encoded=len(missing),
        runtime=runtime,
        detail=detail,
        seconds=time.perf_counter() - start - setup_s,
        commit_s=commit_s,
        setup_s=setup_s,
        store=str(folder),
    )
    if result.unknown:
        progress.say(result.unknown)
    return result


def encode_result(
    corpus: Corpus,
    encoder: Encoder,
    stages: Stages,
    *,
    n_unique: int,
    n_encoded: int,
    runtime: str,
    detail: str,
    seconds: float,
    commit_s: float,
    setup_s: float,
    store: str,
) -> EncodeResult:
    """The result of a run that took `seconds`, without `setup_s`, and filled in `stages`."""
    return EncodeResult(
        domain=corpus.name,
        encoder=encoder.name,
        fingerprint=encoder.fingerprint,
        runtime=runtime,
        runtime_detail=detail,
        precision=encoder.spec.precision,
        max_tokens=encoder.spec.max_tokens,
        n_rows=corpus.n_rows,
        n_unique=n_unique,
        n_hits=n_unique - n_encoded,
        n_encoded=n_encoded,
        n_truncated=int(stages.n_truncated),
        n_tokens=int(stages.n_tokens),
        padding=stages.padding,
        seconds=seconds,
        export_s=0.0,
        setup_s=setup_s,
        tokens_per_s=stages.n_tokens / seconds,
        texts_per_s=n_unique / seconds,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        store=store,
        stages=StageSeconds(stages.read_s, stages.tokenize_s, stages.forward_s, commit_s),
        n_unknown=int(stages.n_unknown),
        n_mostly_unknown=int(stages.n_mostly_unknown),
    )


def _announce(corpus: Corpus, encoder: Encoder, n: int, n_new: int, folder: Path, progress: Progress) -> None:
    progress.say(f"{corpus.name} with {encoder.name}: {n:,} texts, {n - n_new:,} stored, {n_new:,} new")
    n_bytes, free = n_new * stored_bytes(encoder.spec), shutil.disk_usage(folder).free
    if n_bytes > free:
        progress.say(
            f"they need about {n_bytes / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free on that disk: if it gets "
            "full, free some space and run the same command again to continue"
        )


def _commit(
    batches: Generator[tuple[Ints, Floats]], digests: Digests, n_rows: int, writer: StoreWriter, progress: Progress
) -> float:
    """Commit all finished batches, also after an interruption. Returns the seconds spent on commits."""
    n_finished = 0
    with ExitStack() as stack:
        task = stack.enter_context(progress.task("encode", n_rows, "texts"))
        committer = stack.enter_context(Committer(writer))
        # Closed first, which stops the threads of the pipeline before the last commits.
        stack.enter_context(closing(batches))
        for slots, vectors in batches:
            committer.add(digests[slots], vectors)
            task.advance(len(slots))
            n_finished += len(slots)
    if n_finished != n_rows:
        raise RuntimeError(f"the runtime returned {n_finished} of {n_rows} vectors")
    return committer.commit_s
