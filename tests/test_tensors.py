"""Tensors are read back as they were written, or refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from loid_infer.tensors import save_tensors

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)
NONCONTIGUOUS = {
    "transposed": ROWS.T,
    "columns": ROWS[:, ::2],
    "reversed": ROWS[::-1],
    "fortran": np.asfortranarray(ROWS),
}


@pytest.mark.parametrize("name", sorted(NONCONTIGUOUS))
def test_noncontiguous_arrays_are_copied_and_tensors_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} .*not C-contiguous"):
        save_tensors(tmp_path / "file", {name: NONCONTIGUOUS[name]})
    with pytest.raises(ValueError, match="not C-contiguous"):
        save_tensors(tmp_path / "file", {name: torch.from_numpy(ROWS).T})
    assert not (tmp_path / "file").exists()
    save_tensors(tmp_path / "file", NONCONTIGUOUS, copy=True)
    assert np.array_equal(load_file(tmp_path / "file")[name], NONCONTIGUOUS[name])


def test_arrays_and_tensors_are_written_to_identical_files_with_metadata(tmp_path: Path) -> None:
    arrays = {"a": ROWS, "b": np.arange(5), "c": np.array([True, False]), "d": np.zeros((0, 3)), "e": np.float64(3.5)}
    save_tensors(tmp_path / "arrays", arrays, {"format": "pt"})
    tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
    save_tensors(tmp_path / "tensors", tensors, {"format": "pt"})
    assert (tmp_path / "arrays").read_bytes() == (tmp_path / "tensors").read_bytes()
    loaded = load_file(tmp_path / "arrays")
    assert all(
        loaded[name].shape == np.shape(array) and np.array_equal(loaded[name], array) for name, array in arrays.items()
    )
    with safe_open(tmp_path / "arrays", "np") as file:
        assert file.metadata() == {"format": "pt"}
