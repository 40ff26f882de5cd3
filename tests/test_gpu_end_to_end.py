"""Encoding, training and scoring on a GPU, compared with the CPU. Skipped without a GPU."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from loid_infer import cache_export, encode, export, fit, plugin_train, score
from loid_infer.encoders import gpu
from loid_infer.errors import BadSetting, RuntimeMissing
from loid_infer.heads.presets import HeadOptions
from loid_infer.kernels.cosine import row_cosines
from loid_infer.settings import Workspace
from tests.verbs.test_train import FAST, write_domain

on_a_gpu = pytest.mark.skipif(bool(gpu.torch_lacks()), reason=f"torch cannot use a GPU: {gpu.torch_lacks()}")


@pytest.fixture(scope="module")
def workspace(toy_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A domain of 300 reviews and one encoder per device, each with its own name and store."""
    result = Workspace(tmp_path_factory.mktemp("gpu"))
    write_domain(result, "games", n=300)
    for precision, name in (("fp32", "on-cpu"), ("fp16", "on-gpu")):
        export(name, base=str(toy_base), precision=precision, max_tokens=32, workspace=result)
    return result


@on_a_gpu
def test_gpu_vectors_equal_cpu_vectors(workspace: Workspace) -> None:
    vectors = []
    for name, device in (("on-cpu", "cpu"), ("on-gpu", "cuda")):
        run = encode("games", encoder=name, device=device, workspace=workspace)
        assert run.n_encoded == run.n_unique
        out = workspace.root / f"{name}.parquet"
        cache_export("games", out, encoder=name, workspace=workspace)
        vectors.append(np.array(pq.read_table(out)["vector"].to_pylist(), np.float32))
    assert run.runtime == "torch"
    assert run.padding == 0
    assert row_cosines(*vectors).min() >= 0.9999


@on_a_gpu
def test_a_head_trained_on_a_gpu_matches_the_cpu(workspace: Workspace) -> None:
    encode("games", encoder="on-cpu", device="cpu", workspace=workspace)
    errors, scores = [], []
    table = pq.read_table(workspace.table("games"), columns=["user_id", "item_id"])
    pairs = workspace.root / "pairs.parquet"
    pq.write_table(table, pairs)
    for device in ("cpu", "cuda"):
        errors.append(
            fit("games", encoder="on-cpu", device=device, settings=HeadOptions(epochs=3), workspace=workspace).test_mse
        )
        result = score(pairs, domain="games", device=device, workspace=workspace)
        scores.append(pq.read_table(result.out)["score"].to_numpy())
    assert errors[0] == pytest.approx(errors[1], rel=0.05)
    on_cpu = score(pairs, domain="games", workspace=workspace, out=workspace.root / "again.parquet")
    np.testing.assert_allclose(pq.read_table(on_cpu.out)["score"].to_numpy(), scores[1], atol=1e-4)


@on_a_gpu
def test_a_plugin_trained_on_a_gpu_matches_the_cpu(workspace: Workspace, toy_base: Path) -> None:
    results = [
        plugin_train("games", name=device, base=str(toy_base), settings=FAST, device=device, workspace=workspace)
        for device in ("cpu", "cuda")
    ]
    assert results[0].test_mse == pytest.approx(results[1].test_mse, rel=0.1)


@pytest.mark.skipif(not gpu.torch_lacks(), reason="there is a GPU")
@pytest.mark.parametrize("command", ["encode", "fit", "score", "plugin_train"])
def test_without_a_gpu_cuda_is_refused_and_nothing_is_written(
    command: str, toy_base: Path, tmp_path: Path, exported: Path
) -> None:
    workspace = Workspace(tmp_path)
    write_domain(workspace, "games", n=30)
    (tmp_path / "exports" / "encoders").mkdir(parents=True)
    (tmp_path / "exports" / "encoders" / "base").symlink_to(exported / "exports/encoders/base")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("user_id,item_id\nu1,i1\n")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RuntimeMissing, match=r"torch sees no CUDA device.*--device cpu.*doctor"):
        {
            "encode": lambda: encode("games", device="cuda", workspace=workspace),
            "fit": lambda: fit("games", device="cuda", workspace=workspace),
            "score": lambda: score(pairs, domain="games", device="cuda", workspace=workspace),
            "plugin_train": lambda: plugin_train("games", base=str(toy_base), device="cuda", workspace=workspace),
        }[command]()
    left = [path for path in sorted(tmp_path.rglob("*")) if "cache" not in path.relative_to(tmp_path).parts]
    assert left == [path for path in before if "cache" not in path.relative_to(tmp_path).parts]


def test_an_unknown_device_is_refused(toy_base: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_domain(workspace, "games", n=30)
    for run in (
        lambda: fit("games", device="tpu", workspace=workspace),
        lambda: score(tmp_path / "pairs.csv", domain="games", device="tpu", workspace=workspace),
        lambda: plugin_train("games", base=str(toy_base), device="tpu", workspace=workspace),
    ):
        with pytest.raises(BadSetting, match=r"unknown device.*auto \| cpu \| cuda, got 'tpu'"):
            run()
