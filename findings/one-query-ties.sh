#!/bin/sh
# numpy 2.4.6 (OpenBLAS) and torch 2.13.0 on x86-64 with AVX-512: the product of ONE query with a matrix of items gives equal
# items different scores, where the product of two or more queries gives them the same one. A single row goes to a
# matrix-vector kernel, whose last columns beyond a multiple of the kernel's width are summed in another order. So equal items
# are ordered by where they stand, ties are not counted as ties, and a user scored alone gets other ranks than in a batch.
# Seen: distinct scores of equal items, of one query and of two
#   items    numpy one  two   torch one  two
#    1,000           1    1           1    1
#    1,001           2    1           2    1
#    5,003           3    1           3    1
#  120,001           2    1           2    1
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0
"$folder/venv/bin/pip" install -q --disable-pip-version-check numpy==2.4.6
OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PY'
import numpy as np
import torch

rng = np.random.default_rng(0)
queries, item = rng.normal(size=(2, 128)).astype(np.float32), rng.normal(size=128).astype(np.float32)


def distinct(scores: np.ndarray) -> int:
    return len(np.unique(scores))


print("   items    numpy one  two   torch one  two")
found = []
for n in (1_000, 1_001, 5_003, 120_001):
    items = np.tile(item, (n, 1))
    tensors = torch.from_numpy(queries), torch.from_numpy(items)
    row = [distinct(queries[:1] @ items.T), distinct((queries @ items.T)[0])]
    row += [distinct((tensors[0][:1] @ tensors[1].T).numpy()), distinct((tensors[0] @ tensors[1].T)[0].numpy())]
    found.append(row)
    print(f"{n:8,} {row[0]:12} {row[1]:4} {row[2]:11} {row[3]:4}")
assert all(row[1] == row[3] == 1 for row in found), "it changed: two queries give equal items different scores"
assert any(row[0] > 1 for row in found), "it changed: numpy gives equal items one score with one query"
assert any(row[2] > 1 for row in found), "it changed: torch gives equal items one score with one query"
PY
