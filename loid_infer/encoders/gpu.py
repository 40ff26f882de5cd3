"""What this machine has of NVIDIA's, and what each runtime lacks to use it. Reads files; imports and opens nothing.

What it tells is for people and for choosing: whether a runtime really runs on a GPU shows when it is opened.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from ctypes.util import find_library
from pathlib import Path

from loid_infer.encoders.processor import installed

_DRIVER = "/proc/driver/nvidia"
_DEVICES = ("/dev/nvidiactl", "/dev/dxg")
_LIBRARIES = {"cuda": "libonnxruntime_providers_cuda.so", "tensorrt": "libonnxruntime_providers_tensorrt.so"}


def driver() -> str:
    """The version of NVIDIA's driver; empty where there is none."""
    try:
        said = Path(_DRIVER, "version").read_text()
    except OSError:  # in a container or under WSL only the devices may be there
        return "unknown" if any(Path(device).exists() for device in _DEVICES) else ""
    found = re.search(r"\d+\.\d+(\.\d+)?", said)
    return found[0] if found else "unknown"


def names() -> list[str]:
    """The GPUs' names, as the driver tells them."""
    said = [path.read_text() for path in sorted(Path(_DRIVER).glob("gpus/*/information"))]
    return [line.split(":", 1)[1].strip() for text in said for line in text.splitlines() if line.startswith("Model:")]


def torch_lacks() -> str:
    """Why torch computes on no GPU; empty where it can."""
    return _no_driver() or ("" if _torch_cuda() else "this torch is built for the CPU only")


def onnxruntime_lacks() -> str:
    """Why onnxruntime computes on no GPU; empty where it can. torch tells it which GPU there is."""
    lacks = torch_lacks() or _no_library("cuda")
    theirs, ours = _onnxruntime_cuda(), _torch_cuda().split(".")[0]
    if lacks or theirs in ("", ours):
        return lacks
    return f"this onnxruntime is built for CUDA {theirs}, this torch for CUDA {ours}"


def tensorrt_lacks() -> str:
    """Why nothing is computed by TensorRT; empty where it can be."""
    lacks = onnxruntime_lacks() or _no_library("tensorrt")
    if lacks or tensorrt_libraries():
        return lacks
    return f"TensorRT is not installed: libnvinfer.so.{_tensorrt_major()} or its ONNX parser is not found"


def faiss_lacks() -> str:
    """Why FAISS builds no index on a GPU; empty where it can."""
    return _no_driver() or _no_faiss()


def tensorrt_libraries() -> tuple[str, ...]:
    """TensorRT and its ONNX parser, of the version that onnxruntime was built against, out of TensorRT's own package or
    the system's folders; nothing where one is missing. To be opened in this order, before onnxruntime looks for them.
    """
    major = _tensorrt_major()
    package = importlib.util.find_spec("tensorrt_libs")
    folders = [Path(folder) for folder in (package.submodule_search_locations or [])] if package else []
    found = []
    for name in ("nvinfer", "nvonnxparser"):
        file = f"lib{name}.so.{major}"
        packaged = next((str(folder / file) for folder in folders if (folder / file).exists()), "")
        found.append(packaged or find_library(name) or "")
    return tuple(found) if all(path.endswith(f".so.{major}") for path in found) else ()


def _tensorrt_major() -> str:
    """The major version that onnxruntime's library names; its file is a few megabytes."""
    path = _library("tensorrt")
    found = re.search(rb"libnvinfer\.so\.(\d+)", path.read_bytes()) if path else None
    return found[1].decode() if found else "10"


def _no_driver() -> str:
    return "" if driver() else "there is no NVIDIA driver"


def _no_library(provider: str) -> str:
    if not installed("onnxruntime"):
        return "onnxruntime is not installed"
    return "" if _library(provider) else f"this onnxruntime is built without {_LIBRARIES[provider]}"


def _library(provider: str) -> Path | None:
    return _file("onnxruntime", "capi", _LIBRARIES[provider])


def _onnxruntime_cuda() -> str:
    """The major version of CUDA that onnxruntime was built for; empty where it does not say."""
    told = _file("onnxruntime", "capi", "build_and_package_info.py")
    found = re.search(r"cuda_version\s*=\s*['\"](\d+)", told.read_text()) if told else None
    return found[1] if found else ""


def _torch_cuda() -> str:
    """The CUDA version that torch was built for, out of its own file: importing torch takes seconds."""
    told = _file("torch", "version.py")
    found = re.search(r"^cuda.*= '([\d.]+)'", told.read_text(), re.MULTILINE) if told else None
    return found[1] if found else ""


def _file(package: str, *parts: str) -> Path | None:
    """A file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).with_name(parts[0]).joinpath(*parts[1:]) if spec and spec.origin else None
    return path if path and path.is_file() else None


def _no_faiss() -> str:
    names = ((found.metadata["Name"] or "").lower() for found in importlib.metadata.distributions())
    return "" if any(name.startswith("faiss-gpu") for name in names) else "faiss-cpu is installed, not faiss-gpu"
