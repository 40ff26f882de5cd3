"""What this machine can run: processor features, usable threads, installed runtimes. Opens and decides nothing."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

PACKAGES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "torch": "torch"}
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


def features() -> set[str]:
    """The processor's feature flags as Linux names them; empty where it does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return set(line.split(":", 1)[1].split())
    except OSError:
        pass
    return set()


def has_bf16() -> bool:
    """Whether matrix products in bfloat16 are native (AVX512-BF16 or AMX); emulated ones are slower than float32."""
    return bool(features() & _BF16_FLAGS)


def n_usable_threads() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def installed(runtime: str) -> bool:
    """Whether the package behind `runtime` is installed, without importing it."""
    return importlib.util.find_spec(PACKAGES[runtime]) is not None
