"""`plugin train`, re-LoRA and `export --plugin`, on the toy base."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from loid_infer import encode, export, fit, ingest, plugin_merge, plugin_show, plugin_train
from loid_infer.errors import BadArtifact, BadSetting, ParityError
from loid_infer.heads.presets import HeadOptions
from loid_infer.plugins.settings import TrainSettings
from loid_infer.settings import Workspace
from loid_infer.types import SILENT
from tests.conftest import WORDS, make_toy_base

FAST = TrainSettings(rank=4, epochs=4, batch_tokens=512, learning_rate=5e-3, precision="fp32")


def write_domain(workspace: Workspace, domain: str, n: int = 200, seed: int = 0, unit: float = 1) -> None:
    """Write and ingest reviews whose words depend on the rating of 1 to 5, times `unit`."""
    rng = random.Random(seed)
    lines = []
    for i in range(n):
        rating = rng.randint(1, 5)
        words = [*rng.choices(WORDS[5:], k=rng.randint(1, 20)), *([("great", "bad")[rating < 3]] * 4), str(i)]
        review = {"user_id": f"u{i % 40}", "item_id": f"i{i}", "rating": rating * unit, "text": " ".join(words)}
        lines.append(json.dumps(review | {"timestamp": i}))
    source = workspace.root / f"{domain}.jsonl"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text("\n".join(lines) + "\n")
    ingest([source], domain, rating_range=(unit, 5 * unit), workspace=workspace)


@pytest.fixture(scope="module")
def trained(toy_base: Path, tmp_path_factory: pytest.TempPathFactory):
    """A workspace with the domains `games` and `films`, a plugin of `films`, a plugin of `games` trained on top of it,
    and the results of both trainings. Tests must not overwrite these two plugins."""
    workspace = Workspace(tmp_path_factory.mktemp("trained"))
    write_domain(workspace, "films", seed=1)
    write_domain(workspace, "games")
    films = plugin_train("films", settings=FAST, base=str(toy_base), workspace=workspace)
    games = plugin_train("games", settings=FAST, base=str(toy_base), on=["films"], workspace=workspace)
    return workspace, films, games


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    import transformers

    model = transformers.AutoModel.from_pretrained(folder)
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def merged_by_peft(base: Path, *plugins: Path) -> dict[str, np.ndarray]:
    """The base's tensors after peft has merged one plugin after another into it."""
    import peft
    import transformers

    model = transformers.AutoModel.from_pretrained(base)
    for plugin in plugins:
        model = peft.PeftModel.from_pretrained(model, plugin).merge_and_unload()
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def test_training_reduces_the_error_and_the_manifest_records_the_lineage(trained) -> None:
    workspace, films, games = trained
    assert films.test_mse < 0.8 * films.test_variance
    assert (films.on, games.on) == ((), ("films",))
    assert films.n_train + films.n_valid + films.n_test == 200
    assert films.base_digest == films.parent_digest == games.base_digest != games.parent_digest
    manifest = plugin_show("games", workspace=workspace)
    assert manifest["on"] == [films.digest]
    assert manifest["digest"] == games.digest
    assert manifest["trained_on"][0]["domain"] == "games"
    assert manifest["trained_on"][0]["split_digest"] == games.split_digest
    assert manifest["metrics"]["test_mse"] == games.test_mse
    path = workspace.plugin("games")
    assert (path / "curve.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((path / "adapter_config.json").read_text())
    assert "/" not in config["base_model_name_or_path"]
    assert not list(workspace.plugins.glob(".*")), "a checkpoint was left"


def test_a_plugin_does_not_depend_on_the_unit_of_the_ratings(toy_base: Path, tmp_path: Path) -> None:
    workspace, errors = Workspace(tmp_path), []
    for unit in (1.0, 1000.0, 2.0**-12):
        write_domain(workspace, "toys", n=60, unit=unit)
        result = plugin_train("toys", settings=replace(FAST, epochs=1), base=str(toy_base), workspace=workspace)
        errors.append([part / unit**2 for part in (result.val_mse, result.test_mse, result.test_variance)])
    np.testing.assert_allclose(errors, [errors[0]] * 3, rtol=1e-4)


def test_peft_opens_a_trained_plugin(trained, toy_base: Path, recwarn: pytest.WarningsRecorder) -> None:
    import peft
    import transformers

    workspace, films, _ = trained
    model = transformers.AutoModel.from_pretrained(toy_base)
    opened = peft.PeftModel.from_pretrained(model, workspace.plugin("films"))
    assert not [str(w.message) for w in recwarn if "missing" in str(w.message) or "unexpected" in str(w.message)]
    assert sum(p.numel() for name, p in opened.named_parameters() if "lora_" in name) == films.n_params
    assert any(p.any() for name, p in opened.named_parameters() if "lora_B" in name)


def test_every_plugin_of_a_chain_is_folded_once(trained, toy_base: Path) -> None:
    workspace, films, games = trained
    result = export(base=str(toy_base), plugins=["games"], precision="fp32", workspace=workspace)
    assert result.encoder == "games"
    assert set(result.plugins) == {"films", "games"}
    expected = merged_by_peft(toy_base, workspace.plugin("films"), workspace.plugin("games"))
    base, exported = weights_of(toy_base), weights_of(workspace.encoder("games"))
    for name, tensor in expected.items():
        np.testing.assert_allclose(exported[name], tensor, rtol=0, atol=2e-6, err_msg=name)
    assert any(np.abs(exported[name] - base[name]).max() > 1e-3 for name in base)
    manifest = json.loads((workspace.encoder("games") / "manifest.json").read_text())
    assert {plugin["digest"] for plugin in manifest["plugins"]} == {films.digest, games.digest}
    # The weights a new plugin is trained on top of equal those of an export of the same plugins.
    assert export("films", base=str(toy_base), plugins=["films"], precision="fp32", workspace=workspace)
    spec = json.loads((workspace.encoder("films") / "manifest.json").read_text())["card"]
    assert spec["weights"] == games.parent_digest


def test_exporting_twice_gives_identical_files(trained, toy_base: Path) -> None:
    workspace, *_ = trained
    contents = []
    for _ in range(2):
        export("again", base=str(toy_base), plugins=["games"], precision="fp32", workspace=workspace)
        folder = workspace.encoder("again")
        contents.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert contents[0] == contents[1]


def test_an_export_with_wrong_folding_fails_the_comparison_with_peft(
    trained, toy_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, *_ = trained
    from loid_infer.graphs import bases

    fold_twice = lambda tensors, deltas: fold(tensors, [*deltas, *deltas])  # noqa: E731
    fold = bases.fold
    monkeypatch.setattr(bases, "fold", fold_twice)
    with pytest.raises(ParityError):
        export("wrong", base=str(toy_base), plugins=["films"], precision="fp32", workspace=workspace)
    assert not workspace.encoder("wrong").exists()


def test_a_merged_plugin_can_be_exported_and_trained_on(trained, toy_base: Path) -> None:
    workspace, *_ = trained
    other = plugin_train("games", settings=FAST, base=str(toy_base), name="alone", workspace=workspace)
    plugin_merge(["films", "alone"], "both", method="ties", workspace=workspace)
    result = export(base=str(toy_base), plugins=["both"], precision="fp32", workspace=workspace)
    assert result.parity.cos_min > 0.99999
    manifest = json.loads((workspace.encoder("both") / "manifest.json").read_text())
    (plugin,) = manifest["plugins"]
    assert {run["domain"] for run in plugin["trained_on"]} == {"films", "games"}
    on_merge = plugin_train(
        "games", settings=FAST, base=str(toy_base), on=["both"], name="on_both", workspace=workspace
    )
    assert on_merge.parent_digest == manifest["card"]["weights"]
    assert other.base_digest == on_merge.base_digest


def test_duplicate_plugins_other_bases_and_missing_plugins_are_refused(trained, toy_base: Path, tmp_path: Path) -> None:
    workspace, *_ = trained
    with pytest.raises(BadSetting, match="present twice"):
        export("x", base=str(toy_base), plugins=["films", "games"], workspace=workspace)
    foreign = make_toy_base(tmp_path / "foreign", seed=5)
    with pytest.raises(BadSetting, match="another base"):
        export("x", base=str(foreign), plugins=["films"], workspace=workspace)
    with pytest.raises(BadSetting, match="another base"):
        plugin_train("games", settings=FAST, base=str(foreign), on=["films"], name="x", workspace=workspace)
    with pytest.raises(BadArtifact, match="no plugin 'books'"):
        plugin_train("games", settings=FAST, base=str(toy_base), on=["books"], name="x", workspace=workspace)


def test_a_split_whose_test_reviews_a_plugin_was_trained_on_is_refused(trained, toy_base: Path) -> None:
    workspace, *_ = trained
    with pytest.raises(BadSetting, match="--split-seed 0"):
        plugin_train(
            "films", settings=FAST, base=str(toy_base), on=["films"], split_seed=1, name="x", workspace=workspace
        )
    export("of_films", base=str(toy_base), plugins=["films"], precision="fp32", workspace=workspace)
    encode("films", encoder="of_films", workspace=workspace)
    with pytest.raises(BadSetting, match="--split-seed 0"):
        fit("films", encoder="of_films", split_seed=1, workspace=workspace)
    assert (
        fit("films", encoder="of_films", split_seed=0, settings=HeadOptions(epochs=1), workspace=workspace).n_test > 0
    )
    encode("games", encoder="of_films", workspace=workspace)
    assert (
        fit("games", encoder="of_films", split_seed=1, settings=HeadOptions(epochs=1), workspace=workspace).n_test > 0
    )


def test_layers_and_targets_limit_the_adapted_tensors(trained, toy_base: Path) -> None:
    from loid_infer.plugins.delta import read_adapter

    workspace, *_ = trained
    settings = TrainSettings(rank=2, epochs=1, layers=1, targets=("query", "output"), precision="fp32")
    plugin_train("games", settings=settings, base=str(toy_base), name="top", workspace=workspace)
    names = set(read_adapter(workspace.plugin("top")))
    assert names == {"encoder.layer.1.attention.self.query.weight", "encoder.layer.1.output.dense.weight"}


def test_training_is_deterministic(trained, toy_base: Path) -> None:
    workspace, films, _ = trained
    again = plugin_train("films", settings=FAST, base=str(toy_base), name="films2", workspace=workspace)
    assert again.digest == films.digest
    assert again.test_mse == films.test_mse


def test_retraining_a_source_plugin_keeps_the_version_others_were_trained_on(toy_base: Path, tmp_path: Path) -> None:
    workspace, messages = Workspace(tmp_path), []
    write_domain(workspace, "films", n=60)
    quick = TrainSettings(rank=2, epochs=1, precision="fp32")
    first = plugin_train("films", settings=quick, base=str(toy_base), workspace=workspace)
    plugin_train("films", settings=quick, base=str(toy_base), on=["films"], name="games", workspace=workspace)
    before = export("before", base=str(toy_base), plugins=["games"], precision="fp32", workspace=workspace)

    class RecordingProgress(type(SILENT)):
        def say(self, line: str) -> None:
            messages.append(line)

    retrained = plugin_train(
        "films",
        settings=TrainSettings(rank=3, epochs=1, precision="fp32"),
        base=str(toy_base),
        workspace=workspace,
        progress=RecordingProgress(),
    )
    assert retrained.digest != first.digest
    kept = f"films-{first.digest[:8]}"
    assert any(kept in line for line in messages)
    after = export("after", base=str(toy_base), plugins=["games"], precision="fp32", workspace=workspace)
    assert after.fingerprint == before.fingerprint
    assert set(after.plugins) == {kept, "games"}


def test_diverging_training_is_stopped_with_an_error(toy_base: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_domain(workspace, "films", n=60)
    settings = TrainSettings(rank=2, epochs=3, learning_rate=1e30, precision="fp32")
    with pytest.raises(BadSetting, match=r"diverged.*--learning-rate"):
        plugin_train("films", settings=settings, base=str(toy_base), workspace=workspace)
    assert not workspace.plugin("films").exists()


TRAIN_FILMS = """
import sys
from loid_infer import plugin_train
from tests.verbs.test_train import FAST
print(plugin_train("films", settings=FAST, base=sys.argv[2], checkpoint_s=0.0, workspace=sys.argv[1]).digest)
"""


def test_a_run_killed_within_an_epoch_resumes_to_the_same_weights(trained, toy_base: Path, tmp_path: Path) -> None:
    import shutil

    uninterrupted, films, _ = trained
    workspace = Workspace(tmp_path)
    shutil.copytree(uninterrupted.root / "data", tmp_path / "data")
    command = [sys.executable, "-c", TRAIN_FILMS, str(tmp_path), str(toy_base)]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    run = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE)
    state = workspace.plugins / ".films.training.safetensors"
    counts = {"epoch": 0, "position": 0}
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and run.poll() is None and not (counts["epoch"] and counts["position"]):
            if state.exists():
                with safe_open(state, framework="np") as file:
                    counts = json.loads(file.metadata()["state"])
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert counts["position"] > 0, "killed between two epochs, not within one"
    assert not workspace.plugin("films").exists()
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == films.digest
    contents = [
        (finished.plugin("films") / "adapter_model.safetensors").read_bytes() for finished in (uninterrupted, workspace)
    ]
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_training_on_a_source_plugin_lowers_the_error_with_few_target_reviews(tmp_path: Path) -> None:
    """With the bundled base, synthetic domains and few target reviews, a source plugin lowers the error."""
    from loid_infer import sample

    workspace = Workspace(tmp_path)
    sample(["movies_tv"], n_reviews=3000, workspace=workspace)
    settings = TrainSettings(epochs=2)
    plugin_train("movies_tv", settings=settings, workspace=workspace)
    better = []
    for seed in range(5):
        sample(["video_games"], n_reviews=400, seed=seed + 1, workspace=workspace)
        target_settings = TrainSettings(epochs=2, seed=seed)
        without = plugin_train("video_games", settings=target_settings, name="without", workspace=workspace)
        on_source = plugin_train(
            "video_games", settings=target_settings, on=["movies_tv"], name="on_source", workspace=workspace
        )
        better.append(on_source.val_mse + on_source.test_mse < without.val_mse + without.test_mse)
    assert sum(better) >= 4, better
