import numpy as np
import pytest
from msgspec.structs import replace

from loid_infer.errors import BadStore
from loid_infer.store.records import pack, unpack
from tests.store.test_store import SPEC

FINGERPRINT = "ab" * 16
SPEC = replace(SPEC, hidden_dim=6)


def record(n: int = 5, dim: int = 6, dtype: str = "<f2", first: int = 40) -> tuple[bytes, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    digests = rng.integers(0, 256, (n, 16), np.uint8)
    vectors = rng.normal(size=(n, dim)).astype(dtype)
    return pack(first, digests, vectors, FINGERPRINT), digests, vectors


def read(data: bytes | bytearray, first: int | None = 40, fingerprint: str = FINGERPRINT, dtype: str = "<f2"):
    spec = replace(SPEC, store_dtype={"<f2": "fp16", "<f4": "fp32"}[dtype])
    return unpack(memoryview(bytes(data)), spec, fingerprint, first_row=first, where="here")


@pytest.mark.parametrize("dtype", ["<f2", "<f4"])
def test_round_trip(dtype: str) -> None:
    data, digests, vectors = record(dtype=dtype)
    chunk = read(data, dtype=dtype)
    assert chunk.first_row == 40
    np.testing.assert_array_equal(chunk.digests, digests)
    np.testing.assert_array_equal(chunk.vectors, vectors)
    assert chunk.vectors.dtype == np.dtype(dtype)


def test_header_is_64_bytes_and_the_rest_is_payload() -> None:
    data, digests, vectors = record()
    assert len(data) == 64 + digests.nbytes + vectors.nbytes


def test_every_flipped_byte_is_detected() -> None:
    data, *_ = record()
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 0x10
        with pytest.raises(BadStore):
            read(broken)


def test_every_truncation_is_detected() -> None:
    data, *_ = record()
    for n in range(len(data)):
        with pytest.raises(BadStore):
            read(data[:n])


def test_a_chunk_of_another_encoder_or_position_is_refused() -> None:
    data, *_ = record()
    with pytest.raises(BadStore, match="another encoder"):
        read(data, fingerprint="cd" * 16)
    with pytest.raises(BadStore, match="wrong position"):
        read(data, first=41)


def test_other_dtypes_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="cannot pack"):
        pack(0, np.zeros((2, 16), np.uint8), np.zeros((2, 3), np.float64), FINGERPRINT)


@pytest.mark.parametrize("wrong", [{"dim": 5}, {"dim": 7}, {"dtype": "<f4"}])
def test_vectors_of_another_width_or_dtype_are_refused_despite_a_correct_checksum(wrong: dict) -> None:
    data, *_ = record(**wrong)
    for first in (40, None):
        with pytest.raises(BadStore, match="wrong width or dtype"):
            read(data, first)


def test_a_record_contains_its_first_row_and_its_length() -> None:
    data, _, vectors = record()
    chunk = read(data + bytes(100), None)
    assert (chunk.first_row, chunk.n_bytes) == (40, len(data))
    np.testing.assert_array_equal(chunk.vectors, vectors)
    with pytest.raises(BadStore, match="size contradicts"):
        read(data + bytes(100))
