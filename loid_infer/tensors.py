"""Writes tensors as safetensors files, the only form in which this package stores them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file


def save_tensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays of numpy, or tensors of torch in main memory and without gradients, by name.

    safetensors writes the memory of an array as it is: one whose rows do not follow one another would be stored with
    wrong values and no error. So an array that is not C-contiguous is copied.
    """
    arrays = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    save_file(arrays, path, metadata=None if metadata is None else dict(metadata))
