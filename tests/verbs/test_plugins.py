"""Plugins as a user makes them: merged, brought in, listed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from loid_infer import plugin_import, plugin_list, plugin_merge, plugin_show
from loid_infer.errors import BadArtifact, BadName, BadSetting
from loid_infer.graphs.bases import load_base
from loid_infer.plugins.delta import delta_digest, fold
from loid_infer.plugins.folder import open_chain, open_plugin
from loid_infer.settings import Workspace
from tests.conftest import make_toy_base
from tests.plugins.making import QUERY, adapted, merged_state, put, random_delta
from tests.plugins.test_delta import open_with_peft


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


@pytest.fixture
def two(place: Workspace) -> Workspace:
    put(place, "one", random_delta(1))
    put(place, "two", random_delta(2))
    return place


def files(place: Workspace, name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.plugin(name).iterdir()}


def test_a_linear_merge_is_the_weighted_sum_of_deltas(two: Workspace) -> None:
    done = plugin_merge(["one", "two"], "both", method="linear", weights=[1, -0.5], seed=7, workspace=two)
    assert (done.plugin, done.path, done.method, done.seed) == ("both", str(two.plugin("both")), "linear", 7)
    assert set(done.parents) == {"one", "two"}
    tensors = load_file(two.plugin("both") / "delta.safetensors")
    one, other = random_delta(1), random_delta(2)
    assert tensors.keys() == one.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == np.float32
        np.testing.assert_allclose(tensor, one[name].dense64() - 0.5 * other[name].dense64(), atol=3e-6)


def test_the_manifest_of_a_merge_records_its_parents(two: Workspace) -> None:
    plugin_merge(["two", "one"], "both", method="dare", density=0.9, seed=3, workspace=two)
    manifest = plugin_show("both", workspace=two)
    digests = {name: open_plugin(two, name).digest for name in ("one", "two")}
    parents = sorted(({"name": name, "digest": digest} for name, digest in digests.items()), key=lambda p: p["digest"])
    assert manifest["parents"] == parents
    assert manifest["holds"] == sorted(digests.values())
    assert (manifest["kind"], manifest["method"], manifest["seed"], manifest["on"]) == ("plugin", "dare", 3, [])
    assert manifest["base"] == {"name": "toy", "digest": "b" * 64}
    assert (manifest["parent_digest"], manifest["tokenizer"]) == ("b" * 64, "t" * 64)
    assert [entry["domain"] for entry in manifest["trained_on"]] == ["one", "two"]
    assert manifest["settings"] == {"weights": [1.0, 1.0], "density": 0.9, "rank": None}
    assert manifest["digest"] == delta_digest(open_plugin(two, "both").delta())
    assert "numpy" in manifest["versions"]


@pytest.mark.parametrize("method", ["linear", "ties", "dare", "dare_ties"])
def test_the_order_of_plugins_does_not_change_a_merge(two: Workspace, method: str) -> None:
    put(two, "three", random_delta(3))
    plugin_merge(["one", "two", "three"], "m", method=method, weights=[1, 2, 3], workspace=two)
    first = files(two, "m")
    plugin_merge(["three", "one", "two"], "m", method=method, weights=[3, 1, 2], workspace=two)
    assert files(two, "m") == first
    if method.startswith("dare"):
        plugin_merge(["one", "two", "three"], "m", method=method, weights=[1, 2, 3], seed=1, workspace=two)
        assert files(two, "m")["delta.safetensors"] != first["delta.safetensors"]


def test_a_merge_of_a_merge_lists_all_merged_plugins(two: Workspace) -> None:
    put(two, "three", random_delta(3))
    plugin_merge(["one", "two"], "both", method="ties", workspace=two)
    plugin_merge(["both", "three"], "all", method="ties", workspace=two)
    everything = [open_plugin(two, name).digest for name in ("both", "one", "three", "two")]
    assert open_plugin(two, "all").manifest.holds == tuple(sorted(everything))
    with pytest.raises(BadSetting, match="'one' is present twice"):
        plugin_merge(["both", "one"], "again", method="linear", workspace=two)
    with pytest.raises(BadSetting, match="is present twice"):
        open_chain(two, ["all", "two"], "toy", "b" * 64)


def test_a_low_rank_merge_opens_in_peft_and_reports_its_error(toy_base: Path, two: Workspace) -> None:
    exact = plugin_merge(["one", "two"], "both", method="linear", rank=8, workspace=two)
    assert exact.relative_error < 1e-6  # two of rank 4
    done = plugin_merge(["one", "two"], "both", method="ties", rank=3, workspace=two)
    manifest = plugin_show("both", workspace=two)
    assert sorted(manifest["files"]) == ["adapter_config.json", "adapter_model.safetensors"]
    full = plugin_merge(["one", "two"], "full", method="ties", workspace=two)
    whole, kept = open_plugin(two, "full").delta(), open_plugin(two, "both").delta()
    errors = {error.tensor: error.relative_error for error in done.errors}
    assert errors.keys() == whole.keys()
    lost = {name: np.linalg.norm(whole[name] - kept[name].dense64()) for name in whole}
    for name, tensor in whole.items():
        assert errors[name] == pytest.approx(lost[name] / np.linalg.norm(tensor), rel=1e-6)
    norm = np.sqrt(sum(np.square(tensor.astype("f8")).sum() for tensor in whole.values()))
    assert done.relative_error == pytest.approx(np.linalg.norm([*lost.values()]) / norm, rel=1e-6)
    assert manifest["metrics"]["relative_error"] == done.relative_error > 0.1
    assert {error["tensor"] for error in manifest["metrics"]["errors"]} == errors.keys()
    assert (full.relative_error, full.errors) == (None, ())
    config = json.loads((two.plugin("both") / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == ("toy", 3, 3)
    truth = merged_state(open_with_peft(toy_base, two.plugin("both")))
    folded = fold({name: t.numpy() for name, t in load_base(str(toy_base)).tensors.items()}, [kept])
    for name, tensor in folded.items():
        np.testing.assert_allclose(truth[name], tensor, rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"plugins": []}, "nothing to merge"),
        ({"plugins": ["one", "one"]}, "'one' is named twice"),
        ({"plugins": ["one", "copy"]}, "'copy' is the same as 'one'"),
        ({"plugins": ["one", "foreign"]}, "'one' and 'foreign' differ in the base.*mini"),
        ({"plugins": ["one", "tokens"]}, "'one' and 'tokens' differ in the tokenizer"),
        ({"plugins": ["two", "on_one"]}, "'two' and 'on_one' differ in the plugins they were trained on"),
        ({"plugins": ["one", "on_one"]}, "'one' is present twice: 'on_one' was trained on it"),
        ({"name": "one"}, "--name one: a merge cannot replace"),
        ({"method": "slerp"}, r"unknown method.*linear \| ties \| dare \| dare_ties"),
        ({"method": "linear", "density": 0.8}, "the method linear has no density.*--density 0.8"),
        ({"density": 0.0}, "density out of range.*--density 0"),
        ({"density": 1.5}, "density out of range.*--density 1.5"),
        ({"density": float("nan")}, "density out of range"),
        ({"weights": [1.0]}, "--weights: wrong number of weights.*expected 2, got 1: 1"),
        ({"weights": [1.0, 0.0]}, "--weights.*got 1,0"),
        ({"weights": [1.0, float("inf")]}, "--weights.*got 1,inf"),
        ({"rank": 0}, "rank out of range"),
        ({"rank": 33}, "rank 33.*at most 32"),
    ],
)
def test_invalid_merges_are_refused(two: Workspace, arguments: dict, message: str) -> None:
    shutil.copytree(two.plugin("one"), two.plugin("copy"))
    put(two, "foreign", random_delta(3), base={"name": "mini", "digest": "c" * 64})
    put(two, "tokens", random_delta(4), tokenizer="u" * 64)
    put(two, "on_one", random_delta(5), on=[open_plugin(two, "one").digest])
    with pytest.raises(BadSetting, match=message):
        plugin_merge(**{"plugins": ["one", "two"], "name": "new", "method": "ties", "workspace": two} | arguments)
    assert not two.plugin("new").exists()


def test_merging_a_missing_plugin_is_refused(two: Workspace) -> None:
    with pytest.raises(BadArtifact, match=r"no plugin 'three'.*one, two"):
        plugin_merge(["one", "three"], "new", method="ties", workspace=two)
    with pytest.raises(BadName):
        plugin_merge(["one", "two"], "a/b", method="ties", workspace=two)


def test_an_imported_adapter_folds_to_the_weights_of_peft(toy_base: Path, place: Workspace, tmp_path: Path) -> None:
    model = adapted(
        toy_base, use_rslora=True, rank_pattern={"query": 2}, alpha_pattern={"layer.1.attention.self.query": 9}
    )
    model.save_pretrained(tmp_path / "mine")
    done = plugin_import(tmp_path / "mine", "mine", base=str(toy_base), workspace=place)
    tensors = {name: tensor.numpy() for name, tensor in load_base(str(toy_base)).tensors.items()}
    chain = open_chain(place, ["mine"], done.base, done.base_digest)
    folded, truth = fold(tensors, [chain[0].delta()]), merged_state(model)
    assert done.n_tensors == sum(not np.array_equal(folded[name], tensors[name]) for name in tensors) == 4
    for name, tensor in folded.items():
        np.testing.assert_allclose(tensor, truth[name], rtol=0, atol=4e-7)
    again = merged_state(open_with_peft(toy_base, place.plugin("mine")))
    for name, tensor in folded.items():
        np.testing.assert_allclose(tensor, again[name], rtol=0, atol=4e-7)
    manifest = plugin_show("mine", workspace=place)
    assert (manifest["method"], manifest["on"], manifest["holds"], manifest["trained_on"]) == ("import", [], [], [])
    assert manifest["base"] == {"name": toy_base.name, "digest": done.base_digest}
    assert manifest["parent_digest"] == done.base_digest
    assert manifest["digest"] == done.digest == delta_digest(chain[0].delta())
    assert str(tmp_path) not in (place.plugin("mine") / "adapter_config.json").read_text() + json.dumps(manifest)


def test_an_import_records_the_digests_of_base_and_tokenizer_that_an_export_records(
    toy_base: Path, exported: Path, tmp_path: Path
) -> None:
    adapted(toy_base).save_pretrained(tmp_path / "mine")
    done = plugin_import(tmp_path / "mine", "mine", base=str(toy_base), workspace=tmp_path)
    encoder = json.loads((exported / "exports/encoders/base/manifest.json").read_text())
    manifest = plugin_show("mine", workspace=tmp_path)
    assert (encoder["base"]["digest"], encoder["card"]["tokenizer"]) == (done.base_digest, manifest["tokenizer"])


def test_adapter_keys_with_a_bert_prefix_are_imported(toy_base: Path, tmp_path: Path) -> None:
    adapted(toy_base).save_pretrained(tmp_path / "mine")
    path = tmp_path / "mine" / "adapter_model.safetensors"
    factors = {key.replace("model.encoder", "model.bert.encoder"): tensor for key, tensor in load_file(path).items()}
    save_file(factors, path)
    plugin_import(tmp_path / "mine", "mine", base=str(toy_base), workspace=tmp_path)
    open_with_peft(toy_base, tmp_path / "exports" / "plugins" / "mine")


def test_pooler_tensors_are_ignored_when_the_base_has_no_pooler(toy_base: Path, tmp_path: Path) -> None:
    adapted(toy_base, target_modules="all-linear").save_pretrained(tmp_path / "mine")
    whole = plugin_import(tmp_path / "mine", "whole", base=str(toy_base), workspace=tmp_path)
    bare = tmp_path / "bare"
    shutil.copytree(toy_base, bare)
    tensors = load_file(bare / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}
    save_file(kept, bare / "model.safetensors", metadata={"format": "pt"})
    done = plugin_import(tmp_path / "mine", "mine", base=str(bare), workspace=tmp_path)
    assert (whole.n_tensors, done.n_tensors, done.base_digest) == (13, 12, whole.base_digest)
    assert "pooler.dense.weight" not in open_plugin(Workspace(tmp_path), "mine").delta()


def test_invalid_imports_are_refused(toy_base: Path, tmp_path: Path, place: Workspace) -> None:
    with pytest.raises(BadArtifact, match="no peft adapter found"):
        plugin_import(tmp_path, "mine", base=str(toy_base), workspace=place)
    adapted(toy_base, use_dora=True).save_pretrained(tmp_path / "dora")
    with pytest.raises(BadArtifact, match=r"lora_magnitude_vector|use_dora"):
        plugin_import(tmp_path / "dora", "mine", base=str(toy_base), workspace=place)
    adapted(toy_base, target_modules=["word_embeddings"]).save_pretrained(tmp_path / "words")
    with pytest.raises(BadArtifact, match="word_embeddings"):
        plugin_import(tmp_path / "words", "mine", base=str(toy_base), workspace=place)
    adapted(toy_base).save_pretrained(tmp_path / "mine")
    shallow = make_toy_base(tmp_path / "shallow", n_layers=1)
    with pytest.raises(BadArtifact, match=r"no tensor encoder\.layer\.1"):
        plugin_import(tmp_path / "mine", "mine", base=str(shallow), workspace=place)
    assert not place.plugins.exists() or not list(place.plugins.iterdir())


def test_the_list_shows_lineage_and_marks_unreadable_plugins(two: Workspace) -> None:
    plugin_merge(["one", "two"], "both", method="ties", workspace=two)
    put(two, "top", random_delta(3), on=[open_plugin(two, "both").digest, "e" * 64])
    (two.plugins / "broken").mkdir()
    (two.plugins / "broken" / "manifest.json").write_text("{")
    put(two, "odd", random_delta(4), trained_on=["x"])
    found = {plugin.name: plugin for plugin in plugin_list(workspace=two).plugins}
    assert [*found] == ["both", "broken", "odd", "one", "top", "two"]
    assert (found["both"].method, found["both"].domains, set(found["both"].parents)) == (
        "ties",
        ("one", "two"),
        {"one", "two"},
    )
    assert (found["top"].on, found["top"].base) == (("both", "e" * 16), "toy")
    assert found["one"].digest == open_plugin(two, "one").digest
    assert "cannot be read" in found["broken"].problem and "trained_on[0] is invalid" in found["odd"].problem
    assert not any(found[name].problem for name in ("both", "one", "top", "two"))
    with pytest.raises(BadArtifact):
        plugin_show("broken", workspace=two)


def test_an_empty_workspace_has_no_plugins(tmp_path: Path) -> None:
    assert plugin_list(workspace=tmp_path).plugins == ()
    assert not (tmp_path / "exports").exists()


def test_a_merge_replaces_the_previous_plugin_of_its_name_completely(two: Workspace) -> None:
    plugin_merge(["one", "two"], "both", method="linear", rank=2, workspace=two)
    plugin_merge(["one", "two"], "both", method="linear", workspace=two)
    assert sorted(files(two, "both")) == ["delta.safetensors", "manifest.json"]
    assert QUERY in open_plugin(two, "both").delta()
