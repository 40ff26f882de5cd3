"""`plugin merge`, `plugin import`, `plugin list` and `plugin show`."""

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
from tests.plugins.test_delta import open_with_peft
from tests.plugins.toy_plugins import QUERY, merged_state, peft_model, random_delta, write_plugin


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


@pytest.fixture
def two_plugins(workspace: Workspace) -> Workspace:
    write_plugin(workspace, "one", random_delta(1))
    write_plugin(workspace, "two", random_delta(2))
    return workspace


def file_contents(workspace: Workspace, name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in workspace.plugin(name).iterdir()}


def test_a_linear_merge_is_the_weighted_sum_of_deltas(two_plugins: Workspace) -> None:
    result = plugin_merge(["one", "two"], "both", method="linear", weights=[1, -0.5], seed=7, workspace=two_plugins)
    assert (result.plugin, result.path, result.method, result.seed) == (
        "both",
        str(two_plugins.plugin("both")),
        "linear",
        7,
    )
    assert set(result.parents) == {"one", "two"}
    tensors = load_file(two_plugins.plugin("both") / "delta.safetensors")
    first, second = random_delta(1), random_delta(2)
    assert tensors.keys() == first.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == np.float32
        np.testing.assert_allclose(tensor, first[name].dense64() - 0.5 * second[name].dense64(), atol=3e-6)


def test_the_manifest_of_a_merge_records_its_parents(two_plugins: Workspace) -> None:
    plugin_merge(["two", "one"], "both", method="dare", density=0.9, seed=3, workspace=two_plugins)
    manifest = plugin_show("both", workspace=two_plugins)
    digests = {name: open_plugin(two_plugins, name).digest for name in ("one", "two")}
    parents = sorted(({"name": name, "digest": digest} for name, digest in digests.items()), key=lambda p: p["digest"])
    assert manifest["parents"] == parents
    assert manifest["holds"] == sorted(digests.values())
    assert (manifest["kind"], manifest["method"], manifest["seed"], manifest["on"]) == ("plugin", "dare", 3, [])
    assert manifest["base"] == {"name": "toy", "digest": "b" * 64}
    assert (manifest["parent_digest"], manifest["tokenizer"]) == ("b" * 64, "t" * 64)
    assert [entry["domain"] for entry in manifest["trained_on"]] == ["one", "two"]
    assert manifest["settings"] == {"weights": [1.0, 1.0], "density": 0.9, "rank": None}
    assert manifest["digest"] == delta_digest(open_plugin(two_plugins, "both").delta())
    assert "numpy" in manifest["versions"]


@pytest.mark.parametrize("method", ["linear", "ties", "dare", "dare_ties"])
def test_the_order_of_plugins_does_not_change_a_merge(two_plugins: Workspace, method: str) -> None:
    write_plugin(two_plugins, "three", random_delta(3))
    plugin_merge(["one", "two", "three"], "m", method=method, weights=[1, 2, 3], workspace=two_plugins)
    first = file_contents(two_plugins, "m")
    plugin_merge(["three", "one", "two"], "m", method=method, weights=[3, 1, 2], workspace=two_plugins)
    assert file_contents(two_plugins, "m") == first
    if method.startswith("dare"):
        plugin_merge(["one", "two", "three"], "m", method=method, weights=[1, 2, 3], seed=1, workspace=two_plugins)
        assert file_contents(two_plugins, "m")["delta.safetensors"] != first["delta.safetensors"]


def test_a_merge_of_a_merge_lists_all_merged_plugins(two_plugins: Workspace) -> None:
    write_plugin(two_plugins, "three", random_delta(3))
    plugin_merge(["one", "two"], "both", method="ties", workspace=two_plugins)
    plugin_merge(["both", "three"], "all", method="ties", workspace=two_plugins)
    digests = [open_plugin(two_plugins, name).digest for name in ("both", "one", "three", "two")]
    assert open_plugin(two_plugins, "all").manifest.holds == tuple(sorted(digests))
    with pytest.raises(BadSetting, match="'one' is present twice"):
        plugin_merge(["both", "one"], "again", method="linear", workspace=two_plugins)
    with pytest.raises(BadSetting, match="is present twice"):
        open_chain(two_plugins, ["all", "two"], "toy", "b" * 64)


def test_a_low_rank_merge_opens_in_peft_and_reports_its_error(toy_base: Path, two_plugins: Workspace) -> None:
    exact = plugin_merge(["one", "two"], "both", method="linear", rank=8, workspace=two_plugins)
    assert exact.relative_error < 1e-6  # the sum of two deltas of rank 4 has rank 8
    truncated = plugin_merge(["one", "two"], "both", method="ties", rank=3, workspace=two_plugins)
    manifest = plugin_show("both", workspace=two_plugins)
    assert sorted(manifest["files"]) == ["adapter_config.json", "adapter_model.safetensors"]
    full = plugin_merge(["one", "two"], "full", method="ties", workspace=two_plugins)
    full_delta, truncated_delta = open_plugin(two_plugins, "full").delta(), open_plugin(two_plugins, "both").delta()
    errors = {error.tensor: error.relative_error for error in truncated.errors}
    assert errors.keys() == full_delta.keys()
    lost_norms = {name: np.linalg.norm(full_delta[name] - truncated_delta[name].dense64()) for name in full_delta}
    for name, tensor in full_delta.items():
        assert errors[name] == pytest.approx(lost_norms[name] / np.linalg.norm(tensor), rel=1e-6)
    norm = np.sqrt(sum(np.square(tensor.astype("f8")).sum() for tensor in full_delta.values()))
    assert truncated.relative_error == pytest.approx(np.linalg.norm([*lost_norms.values()]) / norm, rel=1e-6)
    assert manifest["metrics"]["relative_error"] == truncated.relative_error > 0.1
    assert {error["tensor"] for error in manifest["metrics"]["errors"]} == errors.keys()
    assert (full.relative_error, full.errors) == (None, ())
    config = json.loads((two_plugins.plugin("both") / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == ("toy", 3, 3)
    expected = merged_state(open_with_peft(toy_base, two_plugins.plugin("both")))
    folded = fold({name: t.numpy() for name, t in load_base(str(toy_base)).tensors.items()}, [truncated_delta])
    for name, tensor in folded.items():
        np.testing.assert_allclose(expected[name], tensor, rtol=0, atol=5e-6)


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
def test_invalid_merges_are_refused(two_plugins: Workspace, arguments: dict, message: str) -> None:
    shutil.copytree(two_plugins.plugin("one"), two_plugins.plugin("copy"))
    write_plugin(two_plugins, "foreign", random_delta(3), base={"name": "mini", "digest": "c" * 64})
    write_plugin(two_plugins, "tokens", random_delta(4), tokenizer="u" * 64)
    write_plugin(two_plugins, "on_one", random_delta(5), on=[open_plugin(two_plugins, "one").digest])
    with pytest.raises(BadSetting, match=message):
        plugin_merge(
            **{"plugins": ["one", "two"], "name": "new", "method": "ties", "workspace": two_plugins} | arguments
        )
    assert not two_plugins.plugin("new").exists()


def test_merging_a_missing_plugin_is_refused(two_plugins: Workspace) -> None:
    with pytest.raises(BadArtifact, match=r"no plugin 'three'.*one, two"):
        plugin_merge(["one", "three"], "new", method="ties", workspace=two_plugins)
    with pytest.raises(BadName):
        plugin_merge(["one", "two"], "a/b", method="ties", workspace=two_plugins)


def test_an_imported_adapter_folds_to_the_weights_of_peft(toy_base: Path, workspace: Workspace, tmp_path: Path) -> None:
    model = peft_model(
        toy_base, use_rslora=True, rank_pattern={"query": 2}, alpha_pattern={"layer.1.attention.self.query": 9}
    )
    model.save_pretrained(tmp_path / "mine")
    result = plugin_import(tmp_path / "mine", "mine", base=str(toy_base), workspace=workspace)
    tensors = {name: tensor.numpy() for name, tensor in load_base(str(toy_base)).tensors.items()}
    chain = open_chain(workspace, ["mine"], result.base, result.base_digest)
    folded, expected = fold(tensors, [chain[0].delta()]), merged_state(model)
    assert result.n_tensors == sum(not np.array_equal(folded[name], tensors[name]) for name in tensors) == 4
    for name, tensor in folded.items():
        np.testing.assert_allclose(tensor, expected[name], rtol=0, atol=4e-7)
    reopened = merged_state(open_with_peft(toy_base, workspace.plugin("mine")))
    for name, tensor in folded.items():
        np.testing.assert_allclose(tensor, reopened[name], rtol=0, atol=4e-7)
    manifest = plugin_show("mine", workspace=workspace)
    assert (manifest["method"], manifest["on"], manifest["holds"], manifest["trained_on"]) == ("import", [], [], [])
    assert manifest["base"] == {"name": toy_base.name, "digest": result.base_digest}
    assert manifest["parent_digest"] == result.base_digest
    assert manifest["digest"] == result.digest == delta_digest(chain[0].delta())
    assert str(tmp_path) not in (workspace.plugin("mine") / "adapter_config.json").read_text() + json.dumps(manifest)


def test_an_import_records_the_digests_of_base_and_tokenizer_that_an_export_records(
    toy_base: Path, exported: Path, tmp_path: Path
) -> None:
    peft_model(toy_base).save_pretrained(tmp_path / "mine")
    result = plugin_import(tmp_path / "mine", "mine", base=str(toy_base), workspace=tmp_path)
    encoder = json.loads((exported / "exports/encoders/base/manifest.json").read_text())
    manifest = plugin_show("mine", workspace=tmp_path)
    assert (encoder["base"]["digest"], encoder["card"]["tokenizer"]) == (result.base_digest, manifest["tokenizer"])


def test_pooler_tensors_are_left_out(toy_base: Path, tmp_path: Path) -> None:
    peft_model(toy_base, target_modules="all-linear").save_pretrained(tmp_path / "mine")
    with_pooler = plugin_import(tmp_path / "mine", "with_pooler", base=str(toy_base), workspace=tmp_path)
    base_without_pooler = tmp_path / "base_without_pooler"
    shutil.copytree(toy_base, base_without_pooler)
    tensors = load_file(base_without_pooler / "model.safetensors")
    tensors_without_pooler = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}
    save_file(tensors_without_pooler, base_without_pooler / "model.safetensors", metadata={"format": "pt"})
    without_pooler = plugin_import(
        tmp_path / "mine", "mine", base=str(base_without_pooler), same_base=True, workspace=tmp_path
    )
    assert (with_pooler.n_tensors, without_pooler.n_tensors, without_pooler.base_digest) == (
        12,
        12,
        with_pooler.base_digest,
    )
    assert "pooler.dense.weight" not in open_plugin(Workspace(tmp_path), "mine").delta()


def test_invalid_imports_are_refused(toy_base: Path, tmp_path: Path, workspace: Workspace) -> None:
    with pytest.raises(BadArtifact, match="no peft adapter found"):
        plugin_import(tmp_path, "mine", base=str(toy_base), workspace=workspace)
    peft_model(toy_base, use_dora=True).save_pretrained(tmp_path / "dora")
    with pytest.raises(BadArtifact, match=r"lora_magnitude_vector|use_dora"):
        plugin_import(tmp_path / "dora", "mine", base=str(toy_base), workspace=workspace)
    peft_model(toy_base, target_modules=["word_embeddings"]).save_pretrained(tmp_path / "words")
    with pytest.raises(BadArtifact, match="word_embeddings"):
        plugin_import(tmp_path / "words", "mine", base=str(toy_base), workspace=workspace)
    peft_model(toy_base).save_pretrained(tmp_path / "mine")
    shallow = make_toy_base(tmp_path / "shallow", n_layers=1)
    with pytest.raises(BadArtifact, match=r"no tensor encoder\.layer\.1"):
        plugin_import(tmp_path / "mine", "mine", base=str(shallow), workspace=workspace)
    assert not workspace.plugins.exists() or not list(workspace.plugins.iterdir())


def test_the_list_shows_lineage_and_marks_unreadable_plugins(two_plugins: Workspace) -> None:
    plugin_merge(["one", "two"], "both", method="ties", workspace=two_plugins)
    write_plugin(two_plugins, "top", random_delta(3), on=[open_plugin(two_plugins, "both").digest, "e" * 64])
    (two_plugins.plugins / "broken").mkdir()
    (two_plugins.plugins / "broken" / "manifest.json").write_text("{")
    write_plugin(two_plugins, "odd", random_delta(4), trained_on=["x"])
    plugins = {plugin.name: plugin for plugin in plugin_list(workspace=two_plugins).plugins}
    assert [*plugins] == ["both", "broken", "odd", "one", "top", "two"]
    assert (plugins["both"].method, plugins["both"].domains, set(plugins["both"].parents)) == (
        "ties",
        ("one", "two"),
        {"one", "two"},
    )
    assert (plugins["top"].on, plugins["top"].base) == (("both", "e" * 16), "toy")
    assert plugins["one"].digest == open_plugin(two_plugins, "one").digest
    assert "cannot be read" in plugins["broken"].problem and "trained_on[0] is invalid" in plugins["odd"].problem
    assert not any(plugins[name].problem for name in ("both", "one", "top", "two"))
    with pytest.raises(BadArtifact):
        plugin_show("broken", workspace=two_plugins)


def test_an_empty_workspace_has_no_plugins(tmp_path: Path) -> None:
    assert plugin_list(workspace=tmp_path).plugins == ()
    assert not (tmp_path / "exports").exists()


def test_a_merge_replaces_the_previous_plugin_of_its_name_completely(two_plugins: Workspace) -> None:
    plugin_merge(["one", "two"], "both", method="linear", rank=2, workspace=two_plugins)
    plugin_merge(["one", "two"], "both", method="linear", workspace=two_plugins)
    assert sorted(file_contents(two_plugins, "both")) == ["delta.safetensors", "manifest.json"]
    assert QUERY in open_plugin(two_plugins, "both").delta()
