"""What this machine can run: processor features, usable threads, installed runtimes. Opens and decides nothing."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


def features() -> set[str]:
    """The processor's feature flags as Linux names them; empty where it does not tell."""
    return set(_said("flags", "Features").split())


def model() -> str:
    """The processor's name, as well as the system tells it."""
    return _said("model name").strip() or platform.processor() or platform.machine()


def _said(*fields: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1] for line in lines if line.startswith(fields)), "")


def has_bf16() -> bool:
    """Whether matrix products in bfloat16 are native (AVX512-BF16 or AMX); emulated ones are slower than float32."""
    return bool(features() & _BF16_FLAGS)


def n_usable_threads() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def installed(package: str) -> bool:
    """Whether `package` is installed, without importing it."""
    return importlib.util.find_spec(package) is not None


@contextmanager
def exact_products() -> Iterator[None]:
    """Float32 products in float32: another library may have told torch, in the whole process, to use fewer bits."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
