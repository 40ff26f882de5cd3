"""Stores and exported files of format 1, as written by the first version, stay readable.

`python -m tests.proofs.test_golden` wrote the stores. Never run it again for format 1: a new format gets its own
folder, and these files stay.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from safetensors.numpy import load_file, save_file

from loid_infer.data.vectors import Bundle
from loid_infer.encoders.spec import fingerprint
from loid_infer.store.environment import read_spec
from loid_infer.store.reader import open_store
from loid_infer.store.rewrite import compact, salvage
from loid_infer.store.verify import verify
from loid_infer.store.writer import StoreWriter
from loid_infer.types import SILENT
from tests.store.test_store import SPEC

GOLDEN = Path(__file__).parent / "golden" / "format-1"
SIZES = {"fp16": [40, 1, 3, 100], "fp32": [7, 60], "compact": [30, 30]}


@pytest.fixture(params=sorted(SIZES))
def golden(request, tmp_path):
    shutil.copytree(GOLDEN / request.param, tmp_path / "store", ignore=shutil.ignore_patterns("*.safetensors"))
    expected = load_file(GOLDEN / request.param / "expected.safetensors")
    return tmp_path / "store", expected["digests"], expected["vectors"]


def test_a_golden_store_returns_its_vectors(golden):
    folder, digests, vectors = golden
    spec = read_spec(folder)
    with open_store(folder, spec, fingerprint(spec)) as store:
        assert verify(store, SILENT).n_bad == 0
        stored = store.gather(store.lookup(digests), digests)
        assert stored.dtype == vectors.dtype and np.array_equal(stored, vectors)


def test_a_golden_store_can_be_appended_to_compacted_and_salvaged(golden):
    folder, digests, vectors = golden
    spec = read_spec(folder)
    with StoreWriter(folder, spec, fingerprint(spec)) as writer:
        writer.append((digests ^ 255, -vectors))
    compact(folder, spec, fingerprint(spec), None, SILENT)
    assert salvage(folder, spec, fingerprint(spec), SILENT).n_dropped == 0
    with open_store(folder, spec, fingerprint(spec)) as store:
        both = np.concatenate([digests, digests ^ 255])
        assert np.array_equal(store.gather(store.lookup(both), both), np.concatenate([vectors, -vectors]))
        assert verify(store, SILENT).n_bad == 0


def test_a_golden_bundle_returns_its_vectors():
    expected = load_file(GOLDEN / "expected.safetensors")
    with Bundle(GOLDEN / "bundle.safetensors") as bundle:
        assert bundle.domain == "toys" and '"hidden_dim": 32' in bundle.spec
        assert np.array_equal(bundle.digests, expected["digests"])
        assert np.array_equal(bundle.vectors(0, 100), expected["vectors"])


def write_golden_stores() -> None:
    for seed, (name, sizes) in enumerate(SIZES.items()):
        rng = np.random.default_rng(seed)
        spec = replace(SPEC, store_dtype="fp32" if name == "fp32" else "fp16")
        digests = rng.integers(0, 256, (sum(sizes), 16), np.uint8)
        vectors = rng.normal(size=(sum(sizes), spec.dim)).astype("<f4" if name == "fp32" else "<f2")
        at = 0
        with StoreWriter(GOLDEN / name, spec, fingerprint(spec)) as writer:
            for n in sizes:
                writer.append((digests[at : at + n], vectors[at : at + n]))
                at += n
        if name == "compact":
            compact(GOLDEN / name, spec, fingerprint(spec), None, SILENT)
        for lock in ("lock.mdb", "writer.lock"):
            (GOLDEN / name / lock).unlink(missing_ok=True)
        save_file({"digests": digests, "vectors": vectors}, GOLDEN / name / "expected.safetensors")


if __name__ == "__main__":
    write_golden_stores()
