"""`fit`: results, manifests, protocols, resuming and errors."""

import json
import shutil

import numpy as np
import pytest

from loid_infer import score
from loid_infer.data.splits import split
from loid_infer.errors import BadName, BadSetting, BadTable, NotEncoded
from loid_infer.evaluation import metrics
from loid_infer.heads.presets import HeadOptions
from loid_infer.heads.training import fit_head, pairs_of
from loid_infer.settings import Workspace
from loid_infer.types import SILENT
from loid_infer.verbs import fit as verb
from tests.heads.test_network_training import Killed, KillingProgress
from tests.verbs.toy_domain import ENCODER, interactions, make_domain


@pytest.fixture(scope="module")
def toys_workspace(tmp_path_factory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("ws"))
    make_domain(workspace, "toys")
    return workspace


@pytest.fixture(autouse=True)
def use_made_up_encoder(monkeypatch):
    monkeypatch.setattr(verb, "resolve_without_leak", lambda workspace, encoder, domain, split: ENCODER)


def test_fit_evaluates_the_head_and_its_baselines_on_one_split(toys_workspace):
    result = verb.fit("toys", workspace=toys_workspace, seed=3)
    data = interactions(toys_workspace, "toys")
    parts = split(data, "random", 3)
    assert (result.n_train, result.n_valid, result.n_test) == (parts.train.sum(), parts.valid.sum(), parts.test.sum())
    assert result.split_digest == parts.digest and result.split_seed == 3
    mean = data.ratings[parts.train].mean(dtype=np.float64)
    assert result.baselines.global_mean == pytest.approx(np.mean((data.ratings[parts.test] - mean) ** 2), rel=1e-6)
    assert result.test_mse < 0.95 * result.baselines.bias < 0.95 * result.baselines.global_mean
    assert result.head == "toys" and (toys_workspace.head("toys") / "head.safetensors").is_file()
    assert 0 < result.test_mae < result.test_mse**0.5
    warm = result.warm_test_mse * (result.n_test - result.n_cold_test)
    cold = (result.cold_test_mse or 0.0) * result.n_cold_test
    assert (warm + cold) / result.n_test == pytest.approx(result.test_mse)


def test_the_manifest_records_the_provenance_of_the_head(toys_workspace):
    result = verb.fit("toys", workspace=toys_workspace, settings=HeadOptions(epochs=1), name="provenance")
    manifest = json.loads((toys_workspace.head("provenance") / "manifest.json").read_text())
    for name in (
        "domain",
        "encoder",
        "fingerprint",
        "preset",
        "protocol",
        "split",
        "split_seed",
        "split_digest",
        "seed",
    ):
        assert manifest[name] == getattr(result, name)
    assert manifest["test_mse"] == result.test_mse and manifest["baselines"]["mf"] == result.baselines.mf
    assert manifest["table_digest"] == interactions(toys_workspace, "toys").digest and manifest["versions"]["torch"]
    assert str(toys_workspace.root) not in json.dumps(manifest)


def test_a_head_of_the_paper_protocol_has_its_own_name_and_a_warning(toys_workspace):
    lines = []

    class RecordingProgress:
        def task(self, name, total, unit):
            return SILENT

        def say(self, line):
            lines.append(line)

    result = verb.fit(
        "toys", workspace=toys_workspace, settings=HeadOptions(protocol="paper", epochs=1), progress=RecordingProgress()
    )
    assert result.head == "toys-paper" and result.protocol == "paper" and "paper protocol" in lines[0]


def test_a_head_of_the_paper_preset_is_saved_and_can_score(toys_workspace, tmp_path):
    result = verb.fit(
        "toys", workspace=toys_workspace, settings=HeadOptions(preset="paper", epochs=1), name="paper-preset"
    )
    assert (result.preset, result.protocol, result.network_share) == ("paper", "strict", 1.0)
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("user_id,item_id\nnobody,nothing\n")
    assert score(pairs, head="paper-preset", workspace=toys_workspace).n_rows == 1


def test_a_split_by_time(toys_workspace):
    result = verb.fit("toys", workspace=toys_workspace, split="time", name="timed", settings=HeadOptions(epochs=2))
    assert result.split == "time" and result.test_mse < result.baselines.global_mean


def test_missing_vectors_are_counted(toys_workspace, tmp_path):
    workspace = Workspace(tmp_path)
    shutil.copytree(toys_workspace.root / "data", tmp_path / "data")
    with pytest.raises(NotEncoded, match=r"no vectors of this encoder.*loid-infer encode --domain toys"):
        verb.fit("toys", workspace=workspace)
    make_domain(workspace, "other")
    with pytest.raises(NotEncoded, match=r"2,400 of 2,400 texts.*loid-infer encode --domain toys"):
        verb.fit("toys", workspace=workspace)
    assert not workspace.head("toys").exists()


def test_user_errors(toys_workspace):
    with pytest.raises(BadTable, match="ingest"):
        verb.fit("nothing", workspace=toys_workspace)
    with pytest.raises(BadSetting, match="--preset"):
        verb.fit("toys", workspace=toys_workspace, settings=HeadOptions(preset="best"))
    with pytest.raises(BadName):
        verb.fit("toys", workspace=toys_workspace, name="../x")


@pytest.mark.real
def test_uninformative_vectors_do_not_make_the_head_worse_than_the_biases_on_real_reviews(shared_data, tmp_path):
    """Random vectors: texts without information must not increase the error of the head."""
    from loid_infer.verbs.tables import ingest

    workspace = Workspace(tmp_path)
    ingest([shared_data / "musical_instruments.json.gz"], "mi", workspace=workspace)
    data = interactions(workspace, "mi")
    vectors = np.random.default_rng(0).normal(0, 1, (len(data.digests), 32)).astype(np.float16)
    gains = []
    for seed in range(5):
        parts = split(data, "random", seed)
        fit = fit_head(data, parts, vectors, HeadOptions(epochs=2).settings(), seed, SILENT)
        pairs, ratings = pairs_of(data, parts, parts.test), data.ratings[parts.test]
        errors = [
            metrics.mse(metrics.clipped(head.predict(pairs), (1, 5)), ratings)
            for head in (fit.baselines.bias, fit.predictor)
        ]
        gains.append(1 - errors[1] / errors[0])
    assert np.mean(gains) > -0.005


def test_a_head_of_another_domain_is_not_replaced(toys_workspace):
    verb.fit("toys", workspace=str(toys_workspace.root), name="kept", settings=HeadOptions(epochs=1))
    before = (toys_workspace.head("kept") / "manifest.json").read_bytes()
    make_domain(toys_workspace, "other")
    with pytest.raises(BadSetting, match=r"belongs to another domain.*other.*toys.*--name"):
        verb.fit("other", workspace=toys_workspace, name="kept")
    assert (toys_workspace.head("kept") / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("seed", [-1, 1 << 63])
def test_a_seed_out_of_range_is_refused(toys_workspace, seed):
    with pytest.raises(BadSetting, match=r"--seed: a number outside its range"):
        verb.fit("toys", workspace=toys_workspace, seed=seed)


def test_a_killed_fit_resumes_and_its_checkpoint_is_ignored_by_other_runs(toys_workspace):
    n_train = verb.fit("toys", workspace=toys_workspace, settings=HeadOptions(epochs=4), name="whole").n_train
    with pytest.raises(Killed):
        verb.fit(
            "toys",
            workspace=toys_workspace,
            settings=HeadOptions(epochs=4),
            name="killed",
            checkpoint_s=0,
            progress=KillingProgress(int(2.5 * n_train)),
        )
    checkpoints = list(toys_workspace.head("killed").parent.glob(".killed.*"))
    assert len(checkpoints) == 1
    verb.fit(
        "toys",
        workspace=toys_workspace,
        settings=HeadOptions(epochs=4),
        name="killed",
        seed=1,
        progress=(other_run := KillingProgress(10**9)),
    )
    assert other_run.messages == [] and checkpoints[0].exists()  # another seed is another run
    verb.fit(
        "toys",
        workspace=toys_workspace,
        settings=HeadOptions(epochs=4),
        name="killed",
        progress=(resumed := KillingProgress(10**9)),
    )
    assert (
        len(resumed.messages) == 1
        and resumed.messages[0] in ("resuming after epoch 1", "resuming after epoch 2")
        and not checkpoints[0].exists()
    )
    contents = [(toys_workspace.head(name) / "head.safetensors").read_bytes() for name in ("whole", "killed")]
    assert contents[0] == contents[1]
