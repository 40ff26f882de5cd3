"""Writes tensors as safetensors files, the only form in which this package stores them, and texts as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from loid_infer.types import Array


def save_tensors(
    path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None, *, copy: bool = False
) -> None:
    """Write arrays of numpy, or tensors of torch in main memory and without gradients, by name.

    safetensors writes the memory of an array as it is: an array that is not contiguous would be stored with wrong
    values and no error.

    Args:
        copy: whether an array that is not C-contiguous is copied; by default it is refused.

    Raises:
        ValueError: an array is not C-contiguous and `copy` is false.
    """
    arrays: dict[str, Array] = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    for name, array in arrays.items():
        if not array.flags.c_contiguous:
            if not copy:
                raise ValueError(f"the tensor {name} of shape {array.shape} is not C-contiguous")
            arrays[name] = np.asarray(array, order="C")
    save_file(arrays, path, metadata=None if metadata is None else dict(metadata))


def packed(name: str, texts: Sequence[str]) -> dict[str, Array]:
    """Texts `[n]` as two arrays: their UTF-8 bytes, and where each of them ends."""
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return {f"{name}.bytes": np.frombuffer(b"".join(encoded), np.uint8), f"{name}.ends": ends}


def unpacked(name: str, arrays: Mapping[str, Array]) -> list[str]:
    """The texts of `packed`. Raises KeyError if they are not among `arrays`."""
    joined, bounds = arrays[f"{name}.bytes"].tobytes(), [0, *arrays[f"{name}.ends"].tolist()]
    return [joined[start:end].decode() for start, end in pairwise(bounds)]
