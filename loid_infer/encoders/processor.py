"""Facts about this machine: processor features, usable threads, installed packages."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


def features() -> set[str]:
    """The processor's feature flags as Linux names them; empty on other systems."""
    return set(_cpuinfo("flags", "Features").split())


def model() -> str:
    """The processor's name, as far as the system knows it."""
    return _cpuinfo("model name").strip() or platform.processor() or platform.machine()


def _cpuinfo(*fields: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1] for line in lines if line.startswith(fields)), "")


def has_bf16() -> bool:
    """Whether bfloat16 products are native (AVX512-BF16 or AMX); emulated ones are slower than float32."""
    return bool(features() & _BF16_FLAGS)


def n_usable_threads() -> int:
    """Number of processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def installed(package: str) -> bool:
    """Whether `package` is installed, without importing it."""
    return importlib.util.find_spec(package) is not None


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute float32 products in full float32, whatever the process-wide setting of torch is."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
