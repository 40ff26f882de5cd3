import numpy as np
import pytest

from loid_infer.errors import BadStore
from loid_infer.store.records import pack, unpack

PRINT = "ab" * 16


def record(n: int = 5, dim: int = 6, dtype: str = "<f2", first: int = 40) -> tuple[bytearray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    digests = rng.integers(0, 256, (n, 16), np.uint8)
    vectors = rng.normal(size=(n, dim)).astype(dtype)
    return pack(first, digests, vectors, PRINT), digests, vectors


def read(data: bytes | bytearray, first: int = 40, fingerprint: str = PRINT):
    return unpack(memoryview(bytes(data)), fingerprint, first_row=first, check=True, where="here")


@pytest.mark.parametrize("dtype", ["<f2", "<f4"])
def test_round_trip(dtype: str) -> None:
    data, digests, vectors = record(dtype=dtype)
    chunk = read(data)
    assert chunk.first_row == 40
    np.testing.assert_array_equal(chunk.digests, digests)
    np.testing.assert_array_equal(chunk.vectors, vectors)
    assert chunk.vectors.dtype == np.dtype(dtype)


def test_header_is_64_bytes_and_the_rest_is_payload() -> None:
    data, digests, vectors = record()
    assert len(data) == 64 + digests.nbytes + vectors.nbytes


def test_every_flipped_byte_is_noticed() -> None:
    data, *_ = record()
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 0x10
        with pytest.raises(BadStore):
            read(broken)


def test_every_truncation_is_noticed() -> None:
    data, *_ = record()
    for n in range(len(data)):
        with pytest.raises(BadStore):
            read(data[:n])


def test_a_chunk_of_another_encoder_or_place_is_refused() -> None:
    data, *_ = record()
    with pytest.raises(BadStore, match="another encoder"):
        read(data, fingerprint="cd" * 16)
    with pytest.raises(BadStore, match="another's place"):
        read(data, first=41)


def test_vectors_of_a_foreign_dtype_are_a_bug() -> None:
    with pytest.raises(ValueError, match="cannot pack"):
        pack(0, np.zeros((2, 16), np.uint8), np.zeros((2, 3), np.float64), PRINT)
