"""`evaluate`: splits, ablations, protocols, intervals and its report."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from loid_infer.errors import BadSetting, NoSpace, NotEncoded
from loid_infer.heads.comparison import EvaluateResult, model_and_encoder
from loid_infer.heads.presets import HeadOptions
from loid_infer.settings import Workspace
from loid_infer.verbs import evaluate as verb
from loid_infer.verbs import fit as fit_verb
from tests.verbs.toy_domain import ENCODER, make_domain


@pytest.fixture(scope="module")
def toys_workspace(tmp_path_factory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("ws"))
    make_domain(workspace, "toys")
    return workspace


@pytest.fixture
def requested(monkeypatch):
    """The requested encoder names with their split seeds; each resolves to the made-up encoder."""
    names: list[tuple[str | None, int]] = []

    def resolve(workspace, encoder, domain, split):
        names.append((encoder, split.seed))
        return replace(ENCODER, name=encoder or ENCODER.name)

    monkeypatch.setattr(verb, "resolve_without_leak", resolve)
    monkeypatch.setattr(fit_verb, "resolve_without_leak", resolve)
    return names


def runs_of(result: EvaluateResult) -> list[SimpleNamespace]:
    return [SimpleNamespace(**run) for run in result.by_run()]


def models_of(result: EvaluateResult) -> list[str]:
    return [model_and_encoder(one.system)[0] for one in result.against("bias")]


def test_every_split_has_every_model_and_the_head_equals_that_of_fit(toys_workspace, requested):
    result = verb.evaluate("toys", seeds=2, settings=HeadOptions(epochs=2), workspace=toys_workspace)
    models = ["global mean", "bias", "mf", "head", verb.OWN_TEXT]
    assert [(run.seed, run.model) for run in runs_of(result)] == [(seed, model) for seed in "01" for model in models]
    assert models_of(result) == models
    for seed in (0, 1):
        fitted = fit_verb.fit("toys", seed=seed, settings=HeadOptions(epochs=2), workspace=toys_workspace)
        runs = {run.model: run for run in runs_of(result) if run.seed == str(seed)}
        assert runs["head"].mse == fitted.test_mse and runs["head"].train_mse == fitted.train_mse
        assert runs["bias"].mse == fitted.baselines.bias and runs["mf"].mse == fitted.baselines.mf
        assert runs["global mean"].mse == fitted.baselines.global_mean
    record = json.loads((toys_workspace.root / "reports" / "toys.evaluation.json").read_text())
    assert record["runs"] == [asdict(row) for row in result.runs]
    assert record["buckets"] == [asdict(row) for row in result.buckets]
    assert record["summary"] == [asdict(row) for row in result.summary]
    assert record["n_seeds"] == 2 and len(record["calibration"]) == 10
    splits = {(row.domain, row.split) for row in (*result.runs, *result.buckets)}
    assert splits == {("toys", "random-0"), ("toys", "random-1"), ("toys", "")}


def test_ablations_use_the_first_encoder_and_are_compared_with_its_head(toys_workspace, requested):
    result = verb.evaluate(
        "toys",
        encoders=["one", "own-{seed}"],
        seeds=1,
        settings=HeadOptions(epochs=1),
        ablate=True,
        workspace=toys_workspace,
    )
    assert requested == [("one", 0), ("own-0", 0)]
    assert result.encoders == ("one", "own-{seed}")
    assert {run.encoder for run in runs_of(result)} == {None, "one", "own-0"}
    assert {model_and_encoder(one.system)[1] for one in result.summary} == {None, "one", "own-{seed}"}
    names = models_of(result)
    assert names.count("head") == 2 and {"vectors zeroed", "no IDs", "k = 1", "no triplet"} <= set(names)
    zeroed, head = result.variants[0], result.named("head")
    assert zeroed.system == "vectors zeroed @ one"
    assert zeroed.difference == pytest.approx(zeroed.value - head.value)
    assert zeroed.difference > 0  # the texts contain the signal
    assert zeroed.low is None  # there is no interval over splits with one split


def test_the_paper_protocol_is_reported_together_with_the_strict_one(toys_workspace, requested):
    result = verb.evaluate("toys", settings=HeadOptions(protocol="paper", epochs=1), seeds=1, workspace=toys_workspace)
    assert result.headline.system.startswith("head, strict protocol @")
    assert result.protocol == "paper"


def test_a_time_split_is_evaluated_once_with_an_interval_over_pairs(toys_workspace, requested):
    result = verb.evaluate("toys", split="time", seeds=2, settings=HeadOptions(epochs=1), workspace=toys_workspace)
    assert "pairs" in result.interval
    assert len({run.mse for run in runs_of(result) if run.model == "bias"}) == 1
    assert sum(group.n_test for group in result.calibration) == runs_of(result)[0].n_test
    head = result.named("head")
    assert head.low < head.difference < head.high


def test_user_errors(toys_workspace, requested):
    settings = {"settings": HeadOptions(preset="none")}, {"settings": HeadOptions(k=0)}
    for options in ({"seeds": 0}, *settings, {"split": "fold"}):
        with pytest.raises(BadSetting):
            verb.evaluate("toys", workspace=toys_workspace, **options)


def test_missing_vectors_are_reported_before_the_first_fit(toys_workspace, monkeypatch):
    other = replace(ENCODER, name="own-2", fingerprint="0" * 32)
    monkeypatch.setattr(verb, "resolve_without_leak", lambda *arguments: other if arguments[1] == "own-2" else ENCODER)
    monkeypatch.setattr(verb, "fit_head", lambda *arguments: pytest.fail("a head was fitted"))
    with pytest.raises(NotEncoded, match="--encoder own-2"):
        verb.evaluate("toys", encoders=["own-{seed}"], seeds=3, workspace=toys_workspace)


def test_split_seed_sets_the_first_seed_and_time_splits_use_one_seed(toys_workspace, requested):
    result = verb.evaluate(
        "toys", encoders=["own-{seed}"], seeds=2, split_seed=7, settings=HeadOptions(epochs=1), workspace=toys_workspace
    )
    assert requested == [("own-7", 7), ("own-8", 8)] and {run.seed for run in runs_of(result)} == {"7", "8"}
    requested.clear()
    verb.evaluate(
        "toys",
        encoders=["own-{seed}"],
        seeds=2,
        split_seed=7,
        split="time",
        settings=HeadOptions(epochs=1),
        workspace=toys_workspace,
    )
    assert requested == [("own-7", 7), ("own-7", 7)]


@pytest.mark.parametrize("by", ["a full disk", "a folder of that name"])
def test_results_are_returned_when_the_report_cannot_be_written(toys_workspace, requested, monkeypatch, by):
    def raise_disk_full(path):
        raise NoSpace("cannot write", where=str(path))

    if by == "a full disk":
        monkeypatch.setattr(verb, "new_file", raise_disk_full)
    else:
        path = toys_workspace.reports / "toys.time.evaluation.json"
        path.unlink(missing_ok=True)
        (path / "files").mkdir(parents=True)
    options = {"seeds": 1, "settings": HeadOptions(epochs=1), "split": "time"}
    result = verb.evaluate("toys", **options, workspace=toys_workspace)
    assert result.runs and "toys.time.evaluation.json" in result.unwritten
