"""Facts about this machine: processor features, usable threads, installed packages."""

from __future__ import annotations

import importlib.util
import math
import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
_VNNI_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8"}
_HELD: dict[str, tuple[int, Any]] = {}  # setting -> open blocks that hold it, and its value before the first
_HOLDING = threading.Lock()


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


def has_amx() -> bool:
    """Whether products of bfloat16 and int8 run on AMX tiles: every processor with AMX has both."""
    return "amx_bf16" in features()


def saturates_int8() -> bool:
    """Whether products of int8 are added in pairs of 16 bits, which 8-bit weights overflow: x86 without VNNI."""
    return platform.machine() in ("x86_64", "AMD64") and "avx2" in features() and not features() & _VNNI_FLAGS


def n_usable_threads(system: Path = Path("/")) -> int:
    """Number of processors this process may use: those it may run on, limited by the CPU quota of its container."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min([n, *map(_quota, _control_groups(system))])))


def _control_groups(system: Path) -> Iterator[Path]:
    """The folders of this process's control groups with a CPU quota, and of all groups above them (v1 and v2)."""
    try:
        lines = [line.split(":", 2) for line in (system / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in lines:
        if not controllers or "cpu" in controllers.split(","):
            group = PurePosixPath(path.lstrip("/"))
            for mount in {"cpu", controllers} if controllers else {""}:
                yield from (system / "sys/fs/cgroup" / mount / part for part in (group, *group.parents))


def _quota(group: Path) -> float:
    """The number of processors that a control group may use; infinite if it says none."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # no file, or `max`
        return math.inf


def installed(package: str) -> bool:
    """Whether `package` is installed, without importing it."""
    return importlib.util.find_spec(package) is not None


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute float32 products in full float32, whatever the process-wide setting of torch is."""
    import torch

    with _held("precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"):
        yield


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Let torch compute with `n` threads."""
    import torch

    with _held("threads", torch.get_num_threads, torch.set_num_threads, n):
        yield


@contextmanager
def _held(name: str, get: Callable[[], Any], change: Callable[[Any], Any], value: Any) -> Iterator[None]:
    """Change a setting of the process for the block. The last of all overlapping blocks, in any thread, restores it."""
    with _HOLDING:
        n, before = _HELD.get(name) or (0, get())
        _HELD[name] = n + 1, before
        change(value)
    try:
        yield
    finally:
        with _HOLDING:
            n, before = _HELD.pop(name)
            if n > 1:
                _HELD[name] = n - 1, before
            else:
                change(before)
