"""Detects NVIDIA's driver and GPUs, and why a library cannot use them, by reading files; no library is imported.

The answers are for messages and for `auto`; only opening a runtime shows whether it works.
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
    """The version of NVIDIA's driver; empty if there is none."""
    try:
        text = Path(_DRIVER, "version").read_text()
    except OSError:  # containers and WSL may have the devices only
        return "unknown" if any(Path(device).exists() for device in _DEVICES) else ""
    match = re.search(r"\d+\.\d+(\.\d+)?", text)
    return match[0] if match else "unknown"


def names() -> list[str]:
    """The names of the GPUs."""
    texts = [path.read_text() for path in sorted(Path(_DRIVER).glob("gpus/*/information"))]
    return [line.split(":", 1)[1].strip() for text in texts for line in text.splitlines() if line.startswith("Model:")]


def torch_lacks() -> str:
    """Why torch cannot use a GPU; empty if it can."""
    return _no_driver() or ("" if _torch_cuda() else "this torch is built for the CPU only")


def onnxruntime_lacks() -> str:
    """Why onnxruntime cannot use a GPU; empty if it can. It needs torch, for the properties of the GPU."""
    lacks = torch_lacks() or _no_library("cuda")
    build_info = _file("onnxruntime", "capi", "build_and_package_info.py")
    onnxruntime_cuda = _search(r"cuda_version\s*=\s*['\"](\d+)", build_info)  # the major version; empty if unknown
    torch_cuda = _torch_cuda().split(".")[0]
    if lacks or onnxruntime_cuda in ("", torch_cuda):
        return lacks
    return f"this onnxruntime is built for CUDA {onnxruntime_cuda}, this torch for CUDA {torch_cuda}"


def tensorrt_lacks() -> str:
    """Why TensorRT cannot be used; empty if it can."""
    lacks = onnxruntime_lacks() or _no_library("tensorrt")
    if lacks or tensorrt_libraries():
        return lacks
    return f"TensorRT is not installed: libnvinfer.so.{_tensorrt_major()} or its ONNX parser is not found"


def faiss_lacks() -> str:
    """Why FAISS cannot use a GPU; empty if it can."""
    names = ((package.metadata["Name"] or "").lower() for package in importlib.metadata.distributions())
    has_gpu = any(name.startswith("faiss-gpu") for name in names)
    return _no_driver() or ("" if has_gpu else "faiss-cpu is installed, not faiss-gpu")


def tensorrt_libraries() -> tuple[str, ...]:
    """The libraries of TensorRT and its ONNX parser, in the version that onnxruntime was built against; empty if one is
    missing. To be loaded in this order, before onnxruntime looks for them.
    """
    major = _tensorrt_major()
    package = importlib.util.find_spec("tensorrt_libs")
    folders = [Path(folder) for folder in (package.submodule_search_locations or [])] if package else []
    paths = []
    for name in ("nvinfer", "nvonnxparser"):
        file = f"lib{name}.so.{major}"
        packaged = next((str(folder / file) for folder in folders if (folder / file).exists()), "")
        paths.append(packaged or find_library(name) or "")
    return tuple(paths) if all(path.endswith(f".so.{major}") for path in paths) else ()


def _tensorrt_major() -> str:
    """The major version of TensorRT that onnxruntime is linked against."""
    path = _file("onnxruntime", "capi", _LIBRARIES["tensorrt"])
    match = re.search(rb"libnvinfer\.so\.(\d+)", path.read_bytes()) if path else None
    return match[1].decode() if match else "10"


def _no_driver() -> str:
    return "" if driver() else "there is no NVIDIA driver"


def _no_library(provider: str) -> str:
    if not installed("onnxruntime"):
        return "onnxruntime is not installed"
    library = _LIBRARIES[provider]
    return "" if _file("onnxruntime", "capi", library) else f"this onnxruntime is built without {library}"


def _torch_cuda() -> str:
    """The CUDA version that torch was built for; empty for a CPU build. Importing torch would take seconds."""
    return _search(r"^cuda.*= '([\d.]+)'", _file("torch", "version.py"))


def _search(pattern: str, path: Path | None) -> str:
    match = re.search(pattern, path.read_text(), re.MULTILINE) if path else None
    return match[1] if match else ""


def _file(package: str, *parts: str) -> Path | None:
    """A file of an installed package, if it exists; the package is not imported."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).with_name(parts[0]).joinpath(*parts[1:]) if spec and spec.origin else None
    return path if path and path.is_file() else None
