"""`evaluate`: compares the head of a domain with baselines, other encoders and ablations on several splits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from loid_infer.artifact import new_file, versions
from loid_infer.data.reviews import open_table
from loid_infer.data.splits import split as split_of
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.errors import BadSetting, NoSpace
from loid_infer.evaluation.metrics import clipped, mse
from loid_infer.evaluation.rows import Result, measure
from loid_infer.heads.baselines import Baselines, Head
from loid_infer.heads.comparison import BASELINES, HEAD, OWN_TEXT, STRICT, EvaluateResult, compare, file_names, system
from loid_infer.heads.presets import DEFAULT_OPTIONS, HeadOptions, HeadSettings
from loid_infer.heads.training import fit_head, pairs_of
from loid_infer.heads.variants import Variant, own_text, variants, vectors_of
from loid_infer.records import to_json
from loid_infer.settings import Workspace, WorkspaceLike, check_number, make_folder
from loid_infer.types import SILENT, Interactions, Progress, Split, Task, Vectors
from loid_infer.verbs.encoder import domain_vectors, resolve_without_leak


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """What is the same for every split."""

    domain: str
    data: Interactions
    workspace: Workspace
    settings: HeadSettings
    extra: Sequence[Variant]


def evaluate(
    domain: str,
    *,
    encoders: Sequence[str] = (),
    seeds: int = 5,
    ablate: bool = False,
    settings: HeadOptions = DEFAULT_OPTIONS,
    split: str = "random",
    split_seed: int = 0,
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> EvaluateResult:
    """Fit and test heads on `seeds` splits, starting with `split_seed`.

    With the paper's protocol a strict head is fitted too. By time there is only one split; the seeds then only change
    the initialization of the head.

    Args:
        encoders: names; the first is that of the main head. `{seed}` in a name is replaced by the split's seed, because
            a plugin must have been trained on the split it is tested on. By default as in `fit`.
        ablate: also fit variants of the main head.

    Returns:
        The result, also if its file cannot be written: see `EvaluateResult.unwritten`.

    Raises:
        BadSetting: an invalid option, or an encoder that was trained on test reviews.
        BadTable, BadName, BadArtifact, NotEncoded, BadStore, NoSpace: see `fit`.
    """
    start, workspace = time.perf_counter(), Workspace.of(workspace)
    names: list[str | None] = [*encoders] or [None]
    check_number("--seeds", seeds, 1, 1000)
    chosen = settings.settings()
    strict = replace(settings, protocol="strict").settings()
    extra = [Variant(STRICT, strict)] if chosen.protocol == "paper" else []
    extra += variants(chosen) if ablate else []
    data = open_table(workspace.table(domain), domain).interactions(progress)
    job = _Job(domain, data, workspace, chosen, extra)
    parts = [split_of(data, split, split_seed + i * (split != "time")) for i in range(seeds)]
    return _evaluate(job, names, parts, start, progress)


def _evaluate(
    job: _Job, names: Sequence[str | None], parts: Sequence[Split], start: float, progress: Progress
) -> EvaluateResult:
    first, settings = parts[0], job.settings
    opened = [[_encoder(job, name, part, len(parts)) for name in names] for part in parts]
    labels = tuple(name or folder.name for name, folder in zip(names, opened[0], strict=True))
    make_folder(job.workspace.reports)
    n_fits = len(parts) * (len(names) + len(job.extra))
    needed = {folder.fingerprint: folder for folders in opened for folder in folders}
    with ExitStack() as stores, progress.task("evaluate", n_fits, "heads") as task:
        vectors = {  # all stores are opened before the first fit
            key: stores.enter_context(domain_vectors(job.workspace, folder, job.domain, job.data.digests))
            for key, folder in needed.items()
        }
        results = [
            [*_split_results(job, labels, part, folders, vectors, first.seed + i, task)]
            for i, (part, folders) in enumerate(zip(parts, opened, strict=True))
        ]
    runs, buckets, summary, bins = compare(results, system(HEAD, labels[0]), job.data, parts)
    names_of_file = file_names(job.domain, first.kind, settings.protocol)
    interval = "splits, corrected for their overlap" if len(parts) > 1 else None
    if first.kind == "time":
        interval = "the test pairs of the one split"
    result = EvaluateResult(
        domain=job.domain,
        encoders=labels,
        preset=settings.preset,
        protocol=settings.protocol,
        split=first.kind,
        split_seed=first.seed,
        n_seeds=len(parts),
        interval=interval,
        runs=runs,
        buckets=buckets,
        summary=summary,
        calibration=bins,
        path=str(job.workspace.reports / ".".join((*names_of_file, "evaluation.json"))),
        seconds=time.perf_counter() - start,
    )
    try:
        with new_file(Path(result.path)) as temporary:
            record = asdict(result) | {"versions": versions("torch", "numpy")}
            temporary.write_text(to_json(record, indent=1) + "\n")
    except (BadSetting, NoSpace, OSError) as error:  # the fits are not lost
        return replace(result, unwritten=str(error))
    return result


def _encoder(job: _Job, name: str | None, part: Split, n_parts: int) -> EncoderFolder:
    """The encoder `name` for one of the splits."""
    try:
        return resolve_without_leak(job.workspace, name and name.replace("{seed}", str(part.seed)), job.domain, part)
    except BadSetting as error:
        if n_parts > 1 and part.kind == "random" and "{seed}" not in (name or ""):  # no --split-seed suits all splits
            each = f"or one encoder per split, as in -e {job.domain}-{{seed}}"
            error.fix = f"Give --seeds 1 with the split of that plugin (`loid-infer plugin show NAME`), {each}."
        raise


def _split_results(
    job: _Job,
    labels: Sequence[str],
    parts: Split,
    encoders: Sequence[EncoderFolder],
    stored: Mapping[str, Vectors],
    seed: int,
    task: Task,
) -> Iterator[Result]:
    """Results on one split: baselines, the head of each encoder, and variants of the first one."""
    data, split = job.data, f"{parts.kind}-{seed}"
    test, train = (pairs_of(data, parts, rows) for rows in (parts.test, parts.train))
    ratings = data.ratings[parts.test].astype(np.float64)

    def result(name: str, model: Head, figures: Mapping[str, float]) -> Result:
        train_mse = mse(clipped(model.predict(train), data.rating_range), data.ratings[parts.train])
        predictions = clipped(model.predict(test), data.rating_range)
        return measure(name, job.domain, split, predictions, ratings, {"train_mse": train_mse, **figures})

    def fit(model: str, label: str, vectors: Vectors, settings: HeadSettings) -> tuple[Result, Baselines]:
        start = time.perf_counter()
        fitted = fit_head(data, parts, vectors, settings, seed, SILENT)
        figures = {"network_share": fitted.head.share, "seconds": time.perf_counter() - start}
        task.advance(1)
        return result(system(model, label), fitted.predictor, figures), fitted.baselines

    for number, (label, encoder) in enumerate(zip(labels, encoders, strict=True)):
        vectors = stored[encoder.fingerprint]
        head, baselines = fit(HEAD, label, vectors, job.settings)
        if number == 0:
            models: tuple[Head, ...] = (baselines.mean, baselines.bias, baselines.factors)
            for baseline, model in zip(BASELINES, models, strict=True):
                yield result(baseline, model, {})
        yield head
        predictions = clipped(own_text(data, parts, vectors), data.rating_range)
        yield measure(system(OWN_TEXT, label), job.domain, split, predictions, ratings, {})
        for variant in job.extra if number == 0 else ():
            yield fit(variant.name, label, vectors_of(variant, vectors, seed), variant.settings)[0]
