"""A full disk: committed vectors are kept, and the error states exactly how many bytes are missing."""

import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from loid_infer.errors import NoSpace
from loid_infer.store.verify import verify
from loid_infer.store.writer import StoreWriter
from loid_infer.types import SILENT
from tests.proofs.conftest import slow
from tests.store.test_store import FINGERPRINT, SPEC, reader, rows

PAGE = 4096
COMMIT = 4 * 1024


class Disk:
    """A tmpfs file system of a given size."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resize(self, n_bytes: int, *options: str) -> None:
        mount_options = ",".join([f"size={n_bytes}", *options])
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", mount_options, "tmpfs", self.path], check=True, capture_output=True
        )

    def grow(self, n_bytes: int) -> None:
        self.resize(shutil.disk_usage(self.path).total + n_bytes, "remount")


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    disk.path.mkdir()
    try:
        disk.resize(1 << 20)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a tmpfs needs root on Linux")
    subprocess.run(["umount", disk.path], check=True)
    yield disk
    with suppress(subprocess.CalledProcessError):
        subprocess.run(["umount", disk.path], check=True, capture_output=True)


def append(folder, digests, vectors, at):
    with StoreWriter(folder, SPEC, FINGERPRINT) as writer:
        for start in range(at, len(digests), COMMIT):
            ends = range(start, min(start + COMMIT, len(digests)), 1024)
            writer.append(*((digests[a : a + 1024], vectors[a : a + 1024]) for a in ends))


def missing_bytes(error: NoSpace) -> int:
    match = re.search(r"the disk is full \(expected ([\d,]+) more bytes", str(error))
    assert match, error
    return int(match[1].replace(",", ""))


def committed(folder, digests, vectors) -> int:
    with reader(folder) as store:
        assert verify(store, SILENT).n_bad == 0
        n = store.size().n_rows
        assert n % COMMIT == 0 or n == len(digests)
        assert np.array_equal(store.gather(store.lookup(digests[:n]), digests[:n]), vectors[:n])
    return n


@pytest.mark.parametrize("n_sizes", [3, slow(60)])
def test_the_reported_missing_bytes_are_exactly_enough(disk, report_cases, n_sizes):
    digests, vectors = rows(40_000)
    for size in np.linspace(400_000, 3_000_000, n_sizes).astype(int).tolist():
        disk.resize(size)
        folder, n_before = disk.path / "store", 0
        for _ in range(2):  # full, enlarged by the stated number of bytes, and full again
            with pytest.raises(NoSpace) as caught:
                append(folder, digests, vectors, n_before)
            n_now = committed(folder, digests, vectors)
            assert n_now >= n_before
            disk.grow(missing_bytes(caught.value) - PAGE)
            with pytest.raises(NoSpace) as caught:
                append(folder, digests, vectors, n_now)
            assert missing_bytes(caught.value) == PAGE
            assert committed(folder, digests, vectors) == n_now
            disk.grow(PAGE)
            with suppress(NoSpace):
                append(folder, digests, vectors, n_now)
            n_before = committed(folder, digests, vectors)
            assert n_before == n_now + COMMIT
        disk.grow(16 << 20)
        append(folder, digests, vectors, n_before)
        assert committed(folder, digests, vectors) == len(digests)
        subprocess.run(["umount", disk.path], check=True)
    report_cases(
        f"full disk: {n_sizes} sizes, twice each: a page less than stated is too little, the stated size is enough"
    )
