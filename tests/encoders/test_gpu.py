"""Detection of GPUs, on simulated machines."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from loid_infer.encoders import gpu


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a driver; packages are folders that tests create."""
    gpu_folder = tmp_path / "nvidia" / "gpus" / "0000:01:00.0"
    gpu_folder.mkdir(parents=True)
    (tmp_path / "nvidia" / "version").write_text("NVRM version: NVIDIA UNIX Open Kernel Module  580.159.04  Release\n")
    (gpu_folder / "information").write_text("Model: \t\t NVIDIA H200\nIRQ: 16\n")
    monkeypatch.setattr(gpu, "_DRIVER", tmp_path / "nvidia")

    def find(name: str):
        folder = tmp_path / name
        spec = SimpleNamespace(origin=str(folder / "__init__.py"), submodule_search_locations=[str(folder)])
        return spec if folder.is_dir() else None

    monkeypatch.setattr(importlib.util, "find_spec", find)
    monkeypatch.setattr(gpu, "find_library", lambda _: None)
    return tmp_path


def test_driver_and_gpus_are_detected(machine: Path) -> None:
    assert (gpu.driver(), gpu.names()) == ("580.159.04", ["NVIDIA H200"])


def test_without_a_driver_nothing_runs_on_a_gpu(machine: Path, monkeypatch) -> None:
    monkeypatch.setattr(gpu, "_DRIVER", machine / "absent")
    monkeypatch.setattr(gpu, "_DEVICES", (str(machine / "device"),))
    for lacks in (gpu.torch_lacks, gpu.onnxruntime_lacks, gpu.tensorrt_lacks, gpu.faiss_lacks):
        assert lacks() == "there is no NVIDIA driver"
    assert gpu.names() == []
    (machine / "device").touch()
    assert gpu.driver() == "unknown", "a container may have the device only"


@pytest.mark.parametrize(
    ("line", "lacks"),
    [("cuda: Optional[str] = '13.0'", ""), ("cuda: str | None = None", "this torch is built for the CPU only")],
)
def test_the_cuda_version_of_torch_is_read_without_importing_it(machine: Path, line: str, lacks: str) -> None:
    (machine / "torch").mkdir()
    (machine / "torch" / "version.py").write_text(f"__version__ = '2.11.0'\ndebug = False\n{line}\nhip = None\n")
    assert gpu.torch_lacks() == lacks


def test_each_missing_piece_of_tensorrt_is_named(machine: Path) -> None:
    assert gpu.tensorrt_lacks() == "this torch is built for the CPU only", "torch is needed too"
    (machine / "torch").mkdir()
    (machine / "torch" / "version.py").write_text("cuda: str = '12.8'\n")
    assert gpu.tensorrt_lacks() == "onnxruntime is not installed"
    folder = machine / "onnxruntime" / "capi"
    folder.mkdir(parents=True)
    assert gpu.onnxruntime_lacks() == "this onnxruntime is built without libonnxruntime_providers_cuda.so"
    (folder / "libonnxruntime_providers_cuda.so").touch()
    assert gpu.onnxruntime_lacks() == ""
    (folder / "build_and_package_info.py").write_text("package_name = 'onnxruntime-gpu'\ncuda_version = '13.0'\n")
    assert gpu.onnxruntime_lacks() == "this onnxruntime is built for CUDA 13, this torch for CUDA 12"
    (folder / "build_and_package_info.py").write_text("cuda_version = '12.6'\n")
    assert gpu.tensorrt_lacks() == "this onnxruntime is built without libonnxruntime_providers_tensorrt.so"
    (folder / "libonnxruntime_providers_tensorrt.so").write_bytes(b"\x7fELF..libnvinfer.so.12\0libc.so.6")
    assert gpu.tensorrt_lacks().startswith("TensorRT is not installed: libnvinfer.so.12")
    (machine / "tensorrt_libs").mkdir()
    (machine / "tensorrt_libs" / "libnvinfer.so.12").touch()
    (machine / "tensorrt_libs" / "libnvonnxparser.so.11").touch()
    assert gpu.tensorrt_lacks().startswith("TensorRT is not installed"), "the parser has another version"
    (machine / "tensorrt_libs" / "libnvonnxparser.so.12").touch()
    assert gpu.tensorrt_lacks() == ""
    assert [Path(path).name for path in gpu.tensorrt_libraries()] == ["libnvinfer.so.12", "libnvonnxparser.so.12"]
