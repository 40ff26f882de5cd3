"""Flipped bytes and truncations anywhere in a store's file are detected or harmless.

Cases run in a process of their own, and a crash of it is a failure too: LMDB trusts the pointers it reads.
"""

import json
import multiprocessing
import random
import shutil
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from loid_infer.errors import BadStore, NotEncoded
from loid_infer.store.environment import DATA_FILE
from loid_infer.store.records import MAGIC, unpack
from loid_infer.store.rewrite import salvage
from loid_infer.store.verify import verify
from loid_infer.store.writer import StoreWriter
from loid_infer.types import SILENT
from tests.proofs.conftest import slow
from tests.store.test_store import FINGERPRINT, SPEC, reader, rows

PAGE = 4096
# Rows of the chunks of each commit; enough for an index of three levels.
COMMITS = [[1024] * 6, [1024] * 3, [700], [1, 2], [300, 1024, 1024]]


def write_store(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    digests, vectors = rows(sum(map(sum, COMMITS)))
    at = 0
    with StoreWriter(folder, SPEC, FINGERPRINT) as writer:
        for commit in COMMITS:
            ends = at + np.cumsum(commit)
            writer.append(
                *((digests[end - n : end], vectors[end - n : end]) for n, end in zip(commit, ends, strict=True))
            )
            at = int(ends[-1])
    return digests, vectors


def flips(content: bytes, n: int, rng: random.Random) -> list[int]:
    """Offsets of about `n` bytes to damage, of every kind: meta pages, page headers, offsets and nodes of tree pages,
    headers and bodies of records."""
    meta = [*range(152), *range(PAGE, PAGE + 152)]
    page_headers, bodies, record_headers = [], [], []
    page = 2
    while page < len(content) // PAGE:
        start = page * PAGE
        flags = int.from_bytes(content[start + 10 : start + 12], "little")
        page_headers += range(start, start + 16)
        if flags == 4:  # a record over several pages
            record_headers += range(start + 16, start + 80)
            n_pages = max(1, int.from_bytes(content[start + 12 : start + 16], "little"))
            bodies += rng.sample(range(start + 80, start + n_pages * PAGE), 4)
            page += n_pages
        else:
            lower = int.from_bytes(content[start + 12 : start + 14], "little")
            bodies += [start + rng.randrange(16, max(17, min(lower, PAGE))) for _ in range(8)]
            bodies += [start + rng.randrange(PAGE) for _ in range(16)]
            page += 1
    parts = [meta, page_headers, record_headers, bodies]
    return [at for part in parts for at in rng.sample(part, min(len(part), n // len(parts)))]


def truncations(size: int, n: int, rng: random.Random) -> list[int]:
    return [0, 1, 15, 151, 152, PAGE, PAGE + 151, 2 * PAGE, size - 1, *(rng.randrange(size) for _ in range(n))]


def readable(folder: Path, digests: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Mask of the texts that the store returns a vector for; every returned vector must be correct."""
    with reader(folder) as store:
        rows = store.lookup(digests)
        returned = np.zeros(len(digests), bool)
        for part in np.array_split(np.flatnonzero(rows >= 0), 40):
            with suppress(BadStore):
                assert np.array_equal(store.gather(rows[part], digests[part]), vectors[part]), "a wrong vector"
                returned[part] = True
    return returned


def records(whole: bytes) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """First row and number of rows of each chunk -> start and end of its record in the file. Small chunks share pages,
    of which the file may contain old copies."""
    copies_of, at = defaultdict(list), whole.find(MAGIC)
    while at >= 0:
        chunk = unpack(memoryview(whole)[at:], SPEC, FINGERPRINT, first_row=None, where="")
        copies_of[chunk.first_row, len(chunk.digests)].append((at, at + chunk.n_bytes))
        at = whole.find(MAGIC, at + chunk.n_bytes)
    return copies_of


def outcome(folder: Path, spare: Path, digests: np.ndarray, vectors: np.ndarray, n_sound: int) -> str:
    try:
        returned = readable(folder, digests, vectors)
        with reader(folder) as store:
            check = verify(store, SILENT)
    except (BadStore, NotEncoded) as error:
        assert isinstance(error, BadStore) or not (folder / DATA_FILE).stat().st_size
        kind = "refused when opened"
    else:
        kind = "found by verify" if check.n_bad else "harmless" if returned.all() else "a commit lost"
        if kind == "a commit lost":
            boundaries = np.cumsum([sum(commit) for commit in COMMITS])
            assert returned[: returned.sum()].all(), "neither detected nor a complete commit"
            assert returned.sum() in boundaries
    shutil.copy(folder / DATA_FILE, spare / DATA_FILE)
    if kind == "refused when opened":
        n_salvaged = salvage(spare, SPEC, FINGERPRINT, SILENT).n_rows
        assert n_sound <= n_salvaged == readable(spare, digests, vectors).sum()
    else:
        with suppress(BadStore), StoreWriter(spare, SPEC, FINGERPRINT) as writer:
            missing = np.flatnonzero(writer.reader.lookup(digests) < 0)
            more = rows(50, seed=9)
            for new in ((digests[missing], vectors[missing]), more):
                if len(new[0]):
                    writer.append(new)
        with suppress(BadStore):
            readable(spare, digests, vectors)
    return kind


def run_cases(root: Path, seed: int, n_flips: int, n_cuts: int) -> None:
    store, spare, rng = root / "store", root / "spare", random.Random(seed)
    digests, vectors = write_store(store)
    shutil.copytree(store, spare)
    whole = (store / DATA_FILE).read_bytes()
    copies_of = records(whole)
    assert sum(n for _, n in copies_of) == len(digests)
    cases = [("flip", at) for at in flips(whole, n_flips, rng)]
    cases += [("cut", n) for n in truncations(len(whole), n_cuts, rng)]
    with (root / "outcomes").open("w", buffering=1) as log:
        for kind, at in cases:
            log.write(json.dumps([kind, at]) + "\n")  # if the case crashes the process, the last line names it
            with (store / DATA_FILE).open("r+b") as file:
                if kind == "cut":
                    file.truncate(at)
                else:
                    file.seek(at)
                    file.write(bytes([whole[at] ^ rng.choice([1, 2, 4, 8, 16, 32, 64, 128, 255])]))
            intact = [
                n
                for (_, n), copies in copies_of.items()
                if any(end <= at if kind == "cut" else not start <= at < end for start, end in copies)
            ]
            log.write(json.dumps(outcome(store, spare, digests, vectors, sum(intact))) + "\n")
            with (store / DATA_FILE).open("r+b") as file:
                if kind == "cut":
                    file.write(whole)
                else:
                    file.seek(at)
                    file.write(whole[at : at + 1])


@pytest.mark.parametrize("n", [48, slow(2_600)])
def test_damage_is_detected_or_harmless(tmp_path, report_cases, n):
    process = multiprocessing.get_context("spawn").Process(target=run_cases, args=(tmp_path, n, n, n // 4))
    process.start()
    process.join()
    lines = [json.loads(line) for line in (tmp_path / "outcomes").read_text().splitlines()]
    assert process.exitcode == 0, lines[-1]
    kinds, outcomes = Counter(kind for kind, _ in lines[::2]), Counter(lines[1::2])
    assert outcomes["refused when opened"] > 0 < outcomes["found by verify"]
    report_cases(
        f"damage: {kinds['flip']} flips, {kinds['cut']} truncations: {dict(outcomes)}, no wrong vector was returned"
    )
