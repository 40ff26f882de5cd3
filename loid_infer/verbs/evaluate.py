"""`evaluate`: a domain's head over several splits, beside baselines and itself with one thing changed, pair by pair.

Whether a difference is more than chance is said by intervals over the same splits. This file fits and counts; what is
varied is `heads.variants`' business, and nothing here sees a text.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
from loid_infer.heads.comparison import BASELINES, HEAD, OWN_TEXT, STRICT, EvaluateResult, compare, system
from loid_infer.heads.presets import DEFAULT_OPTIONS, HeadOptions, HeadSettings
from loid_infer.heads.training import fit_head, pairs_of
from loid_infer.heads.variants import Variant, own_text, variants, vectors_of
from loid_infer.records import to_json
from loid_infer.settings import Workspace, WorkspaceLike, make_folder
from loid_infer.types import SILENT, Interactions, Progress, Split, Task, Vectors
from loid_infer.verbs.encoder import encoded, resolve_honest


@dataclass(frozen=True, slots=True, eq=False)
class _Inside:
    """What is the same on every split."""

    domain: str
    data: Interactions
    workspace: Workspace
    settings: HeadSettings
    others: Sequence[Variant]


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
    """Fit and test heads on `seeds` splits from `split_seed` on; the same pairs for every model.

    Under the paper's protocol the strict head is fitted beside it. By time there is one split, and a seed only starts
    the head elsewhere.

    Args:
        encoders: to compare; the first is `head`'s. `{seed}` in a name stands for the split's seed, since a plugin
            trained on this domain must know the split it is tested on. The domain's own encoder, or `base`, if empty.
        ablate: also fit the first encoder's head with one thing changed at a time.

    Raises:
        BadSetting: an option outside its range, or an encoder that has seen test reviews.
        BadTable, BadName, BadArtifact, NotEncoded, BadStore, NoSpace: as `fit`.
    """
    start, workspace = time.perf_counter(), Workspace.of(workspace)
    names: list[str | None] = [*encoders] or [None]
    if not 1 <= seeds <= 1000:
        raise BadSetting("a number outside its range", where="--seeds", expected="1 to 1000", got=str(seeds))
    chosen = settings.settings()
    strict = replace(settings, protocol="strict").settings()
    others = [Variant(STRICT, strict)] if chosen.protocol == "paper" else []
    others += variants(chosen) if ablate else []
    inside = _Inside(
        domain, open_table(workspace.table(domain), domain).interactions(progress), workspace, chosen, others
    )
    parts = [split_of(inside.data, split, split_seed + i * (split != "time")) for i in range(seeds)]
    return _evaluate(inside, names, parts, start, progress)


def _evaluate(
    inside: _Inside, names: Sequence[str | None], parts: Sequence[Split], start: float, progress: Progress
) -> EvaluateResult:
    """Everything on every split; the record is kept in the workspace."""
    first, settings = parts[0], inside.settings
    opened = [
        [
            resolve_honest(inside.workspace, name and name.replace("{seed}", str(part.seed)), inside.domain, part)
            for name in names
        ]
        for part in parts
    ]
    labels = tuple(name or folder.name for name, folder in zip(names, opened[0], strict=True))
    make_folder(inside.workspace.reports)
    n_fits = len(parts) * (len(names) + len(inside.others))
    with _stored(inside, opened) as vectors, progress.task("evaluate", n_fits, "heads") as task:
        results = [
            [*_split_results(inside, labels, part, folders, vectors, first.seed + i, task)]
            for i, (part, folders) in enumerate(zip(parts, opened, strict=True))
        ]
    runs, buckets, summary, bins = compare(results, system(HEAD, labels[0]), inside.data, parts)
    result = EvaluateResult(
        domain=inside.domain,
        encoders=labels,
        preset=settings.preset,
        protocol=settings.protocol,
        split=first.kind,
        split_seed=first.seed,
        n_seeds=len(parts),
        interval=_interval(first.kind, len(parts)),
        runs=runs,
        buckets=buckets,
        summary=summary,
        calibration=bins,
        path=str(_file(inside.workspace, inside.domain, first.kind, settings.protocol)),
        seconds=time.perf_counter() - start,
    )
    _keep(result, progress)
    return result


def _file(workspace: Workspace, domain: str, split: str, protocol: str) -> Path:
    """Each protocol and kind of split has a file of its own; a later run of the same replaces it."""
    marks = ("time" if split == "time" else "", "paper" if protocol == "paper" else "", "evaluation.json")
    return workspace.reports / ".".join((domain, *filter(None, marks)))


def _interval(split: str, seeds: int) -> str | None:
    if split == "time":
        return "the test pairs of the one split"
    return "splits, corrected for their overlap" if seeds > 1 else None


def _keep(result: EvaluateResult, progress: Progress) -> None:
    try:
        with new_file(Path(result.path)) as temporary:
            record = asdict(result) | {"versions": versions("torch", "numpy")}
            temporary.write_text(to_json(record, indent=1) + "\n")
    except NoSpace as error:  # what took so long to find is still given back
        progress.say(f"not kept for `loid-infer report`. {error}")


@contextmanager
def _stored(inside: _Inside, opened: Sequence[Sequence[EncoderFolder]]) -> Iterator[Mapping[str, Vectors]]:
    """The vectors of every encoder by its fingerprint, all opened before the first fit."""
    needed = {one.fingerprint: one for row in opened for one in row}
    with ExitStack() as stores:
        yield {
            key: stores.enter_context(encoded(inside.workspace, one, inside.domain, inside.data.digests))
            for key, one in needed.items()
        }


def _split_results(
    inside: _Inside,
    labels: Sequence[str],
    parts: Split,
    encoders: Sequence[EncoderFolder],
    stored: Mapping[str, Vectors],
    seed: int,
    task: Task,
) -> Iterator[Result]:
    """All systems on one split: baselines, then the head of each encoder, then the first one's variants."""
    data, split = inside.data, f"{parts.kind}-{seed}"
    test, train = (pairs_of(data, parts, rows) for rows in (parts.test, parts.train))
    ratings = data.ratings[parts.test].astype(np.float64)

    def result(name: str, model: Head, figures: Mapping[str, float]) -> Result:
        before = mse(clipped(model.predict(train), data.rating_range), data.ratings[parts.train])
        predictions = clipped(model.predict(test), data.rating_range)
        return measure(name, inside.domain, split, predictions, ratings, {"train_mse": before, **figures})

    def fit(model: str, label: str, vectors: Vectors, settings: HeadSettings) -> tuple[Result, Baselines]:
        start = time.perf_counter()
        fitted = fit_head(data, parts, vectors, settings, seed, SILENT)
        figures = {"network_share": fitted.head.share, "seconds": time.perf_counter() - start}
        task.advance(1)
        return result(system(model, label), fitted.predictor, figures), fitted.baselines

    for number, (label, encoder) in enumerate(zip(labels, encoders, strict=True)):
        vectors = stored[encoder.fingerprint]
        head, baselines = fit(HEAD, label, vectors, inside.settings)
        if number == 0:
            models: tuple[Head, ...] = (baselines.mean, baselines.bias, baselines.factors)
            for baseline, model in zip(BASELINES, models, strict=True):
                yield result(baseline, model, {})
        yield head
        predictions = clipped(own_text(data, parts, vectors), data.rating_range)
        yield measure(system(OWN_TEXT, label), inside.domain, split, predictions, ratings, {})
        for other in inside.others if number == 0 else ():
            yield fit(other.name, label, vectors_of(other, vectors, seed), other.settings)[0]
