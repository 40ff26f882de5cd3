"""`evaluate`: a domain's head over several splits, beside baselines and itself with one thing changed, pair by pair.

Whether a difference is more than chance is said by intervals over the same splits. This file fits and counts; what is
varied is `heads.variants`' business, and nothing here sees a text.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec import structs

from loid_infer.artifact import new_file, versions
from loid_infer.data.reviews import open_table
from loid_infer.data.splits import split as split_of
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.errors import BadSetting, NoSpace
from loid_infer.heads.baselines import Baselines, Head
from loid_infer.heads.comparison import (
    BASELINES,
    HEAD,
    OWN_TEXT,
    STRICT,
    Measured,
    ModelErrors,
    averaged,
    buckets,
    calibration,
    measured,
    summary,
)
from loid_infer.heads.presets import DEFAULT_OPTIONS, HeadOptions, HeadSettings
from loid_infer.heads.training import fit_head, pairs_of
from loid_infer.heads.variants import Variant, own_text, variants, vectors_of
from loid_infer.pages.records import Evaluation
from loid_infer.records import to_json
from loid_infer.settings import Place, Workspace, make_folder
from loid_infer.types import SILENT, Interactions, Progress, Split, Task, Vectors
from loid_infer.verbs.encoder import encoded, resolve_honest


class EvaluateResult(Evaluation, frozen=True, kw_only=True):
    """How good a head is, and how sure that is. Errors are of clipped predictions, in float64."""

    split_seed: int  # the first
    path: str  # of all this as JSON
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class _Inside:
    """What is the same on every split."""

    domain: str
    data: Interactions
    place: Workspace
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
    workspace: Place = None,
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
    start, place = time.perf_counter(), Workspace.of(workspace)
    names: list[str | None] = [*encoders] or [None]
    if not 1 <= seeds <= 1000:
        raise BadSetting("a number outside its range", where="--seeds", expected="1 to 1000", got=str(seeds))
    chosen = settings.settings()
    strict = replace(settings, protocol="strict").settings()
    protocol = chosen.protocol
    others = [Variant(STRICT, strict)] if protocol == "paper" else []
    others += variants(chosen) if ablate else []
    inside = _Inside(domain, open_table(place.table(domain), domain).interactions(progress), place, chosen, others)
    parts = [split_of(inside.data, split, split_seed + i * (split != "time")) for i in range(seeds)]
    opened = _encoders(inside, names, parts)
    make_folder(place.reports)
    n_fits = seeds * (len(names) + len(others))
    with _stored(inside, opened) as vectors, progress.task("evaluate", n_fits, "heads") as task:
        found = [[*_split_runs(inside, parts[i], opened[i], vectors, split_seed + i, task)] for i in range(seeds)]
    shown, over = ([averaged(found)], parts[:1]) if split == "time" else (found, parts)
    result = EvaluateResult(
        domain=domain, encoders=tuple(name or opened[0][0].name for name in names), preset=chosen.preset,
        protocol=protocol, split=split, split_seed=split_seed, n_seeds=seeds, interval=_interval(split, seeds),
        runs=tuple(one.run for row in found for one in row), buckets=tuple(buckets(shown, over, inside.data)),
        summary=tuple(_as_asked(found, parts[0], split, opened[0], names)), seconds=time.perf_counter() - start,
        calibration=tuple(calibration(shown, over, inside.data)), path=str(_file(place, domain, split, protocol)),
    )  # fmt: skip
    _keep(result, progress)
    return result


def _file(place: Workspace, domain: str, split: str, protocol: str) -> Path:
    """Each protocol and kind of split has a file of its own; a later run of the same replaces it."""
    marks = ("time" if split == "time" else "", "paper" if protocol == "paper" else "", "evaluation.json")
    return place.reports / ".".join((domain, *filter(None, marks)))


def _as_asked(
    found: Sequence[Sequence[Measured]], part: Split, split: str, opened: Sequence[EncoderFolder],
    names: Sequence[str | None],
) -> Iterator[ModelErrors]:  # fmt: skip
    """Each encoder under the name that was asked for: with `{seed}` it is another one on every split."""
    asked = {folder.name: name or folder.name for folder, name in zip(opened, names, strict=True)}
    for one in summary(found, part, by_rows=split == "time"):
        yield replace(one, encoder=one.encoder and asked[one.encoder])


def _interval(split: str, seeds: int) -> str | None:
    if split == "time":
        return "the test pairs of the one split"
    return "splits, corrected for their overlap" if seeds > 1 else None


def _keep(result: EvaluateResult, progress: Progress) -> None:
    try:
        with new_file(Path(result.path)) as temporary:
            record = structs.asdict(result) | {"versions": versions("torch", "numpy")}
            temporary.write_text(to_json(record, indent=1) + "\n")
    except NoSpace as error:  # what took so long to find is still given back
        progress.say(f"not kept for `loid-infer report`. {error}")


def _encoders(inside: _Inside, names: Sequence[str | None], parts: Sequence[Split]) -> list[list[EncoderFolder]]:
    """Those of each split."""
    return [[resolve_honest(inside.place, name and name.replace("{seed}", str(part.seed)), inside.domain, part)
               for name in names] for part in parts]  # fmt: skip


@contextmanager
def _stored(inside: _Inside, opened: Sequence[Sequence[EncoderFolder]]) -> Iterator[Mapping[str, Vectors]]:
    """The vectors of every encoder by its fingerprint. All are opened before the first fit: better told now than after
    hours that some are missing."""
    needed = {one.fingerprint: one for row in opened for one in row}
    with ExitStack() as stores:
        yield {key: stores.enter_context(encoded(inside.place, one, inside.domain, inside.data.digests))
               for key, one in needed.items()}  # fmt: skip


def _split_runs(
    inside: _Inside, parts: Split, encoders: Sequence[EncoderFolder], stored: Mapping[str, Vectors], seed: int,
    task: Task,
) -> Iterator[Measured]:  # fmt: skip
    """All models on one split: baselines, then the head of each encoder, then the first one's variants."""
    data = inside.data
    test, train = (pairs_of(data, parts, rows) for rows in (parts.test, parts.train))

    def fit(model: str, encoder: EncoderFolder, vectors: Vectors, settings: HeadSettings) -> tuple[Measured, Baselines]:
        start = time.perf_counter()
        fitted = fit_head(data, parts, vectors, settings, seed, SILENT)
        seconds = time.perf_counter() - start
        task.advance(1)
        head = fitted.predictor
        one = measured(data, parts, seed, model, head.predict(test), encoder=encoder.name, before=head.predict(train),
                       network_share=fitted.head.share, seconds=seconds)  # fmt: skip
        return one, fitted.baselines

    for number, encoder in enumerate(encoders):
        vectors = stored[encoder.fingerprint]
        head, found = fit(HEAD, encoder, vectors, inside.settings)
        if number == 0:
            models: tuple[Head, ...] = (found.mean, found.bias, found.factors)
            for name, model in zip(BASELINES, models, strict=True):
                yield measured(data, parts, seed, name, model.predict(test), before=model.predict(train))
        yield head
        yield measured(data, parts, seed, OWN_TEXT, own_text(data, parts, vectors), encoder=encoder.name)
        for other in inside.others if number == 0 else ():
            yield fit(other.name, encoder, vectors_of(other, vectors, seed), other.settings)[0]
