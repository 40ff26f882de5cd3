#!/bin/sh
# safetensors 0.8.0 with numpy 2.4.6: save_file writes a view that is not C-contiguous without an error, and load_file
# returns other values. Transposed arrays and slices with a step are affected; torch tensors in the same state are refused.
# Seen:
#   transposed [2, 3] -> [3, 2]   equal after loading: False
#   every second column           equal after loading: False
#   np.ascontiguousarray of both  equal after loading: True
#   torch, transposed             ValueError: You are trying to save a non contiguous tensor
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0
"$folder/venv/bin/pip" install -q --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PY'
import sys
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors.numpy import load_file, save_file

folder = Path(sys.argv[1])
matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
views = {"transposed": matrix.T, "every second column": matrix[:, ::2]}


def survives(array: np.ndarray) -> bool:
    save_file({"x": array}, folder / "x.safetensors")
    return np.array_equal(load_file(folder / "x.safetensors")["x"], array)


for name, view in views.items():
    print(f"{name}: equal after loading: {survives(view)}")
    assert not survives(view), "it changed: a view comes back equal"
assert all(survives(np.ascontiguousarray(view)) for view in views.values())
try:
    safetensors.torch.save_file({"x": torch.from_numpy(matrix).T}, folder / "y.safetensors")
    sys.exit("it changed: torch saves a transposed tensor")
except ValueError as error:
    print(f"torch: ValueError: {str(error)[:48]}")
PY
