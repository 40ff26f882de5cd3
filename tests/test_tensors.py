"""Tensors come back as they were given."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from loid_infer.tensors import save_tensors

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)
ODD = {"transposed": ROWS.T, "columns": ROWS[:, ::2], "reversed": ROWS[::-1], "fortran": np.asfortranarray(ROWS)}


@pytest.mark.parametrize("name", sorted(ODD))
def test_what_is_not_contiguous_is_copied(tmp_path: Path, name: str) -> None:
    save_tensors(tmp_path / "file", {**ODD, "of torch": torch.from_numpy(ROWS).T})
    assert np.array_equal(load_file(tmp_path / "file")[name], ODD[name])
    assert np.array_equal(load_file(tmp_path / "file")["of torch"], ROWS.T)


def test_arrays_and_tensors_are_written_alike_with_their_metadata(tmp_path: Path) -> None:
    arrays = {"a": ROWS, "b": np.arange(5), "c": np.array([True, False]), "d": np.zeros((0, 3)), "e": np.float64(3.5)}
    save_tensors(tmp_path / "arrays", arrays, {"format": "pt"})
    tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
    save_tensors(tmp_path / "tensors", tensors, {"format": "pt"})
    assert (tmp_path / "arrays").read_bytes() == (tmp_path / "tensors").read_bytes()
    found = load_file(tmp_path / "arrays")
    assert all(
        found[name].shape == np.shape(array) and np.array_equal(found[name], array) for name, array in arrays.items()
    )
    with safe_open(tmp_path / "arrays", "np") as file:
        assert file.metadata() == {"format": "pt"}
