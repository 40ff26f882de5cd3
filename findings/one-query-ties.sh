#!/bin/sh
# numpy 2.4.6 (OpenBLAS) and torch 2.13.0 (MKL) on x86-64 with AVX-512: the product of few queries with a matrix of items gives
# equal items different scores where the number of items is not a multiple of the kernel's width: the last columns are summed
# in another order. A single query goes to a matrix-vector kernel on every processor seen; on an AMD (family 25, model 17),
# where MKL takes its AVX2 kernels, two and three queries do it as well, and with two threads five to nine. So equal items are
# ordered by where they stand, ties are not counted as ties, and a user scored alone gets other ranks than in a batch. Rows of
# zeros behind the items, to a multiple of 16, cure it on all of them.
# Seen on one thread: distinct scores of equal items, for one, two, three and four queries
#   items    numpy        torch, AMD   torch, Intel (one and two)
#    1,000   1 1 1 1      1 1 1 1      1 1
#    1,001   2 1 1 1      1 2 2 1      2 1
#    5,003   3 1 1 1      2 2 2 1      3 1
#    5,008   1 1 1 1      1 1 1 1
#  120,001   2 1 1 1      1 2 2 1      2 1
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
queries, item = rng.normal(size=(4, 128)).astype(np.float32), rng.normal(size=128).astype(np.float32)


def distinct(scores: np.ndarray) -> int:
    return max(len(np.unique(row)) for row in scores)


print("   items   numpy 1 2 3 4   torch 1 2 3 4")
ragged, even = [], []
for n in (1_000, 1_001, 5_003, 5_008, 120_001):
    items = np.tile(item, (n, 1))
    by_numpy = [distinct(queries[:m] @ items.T) for m in (1, 2, 3, 4)]
    by_torch = [distinct((torch.from_numpy(queries[:m]) @ torch.from_numpy(items).T).numpy()) for m in (1, 2, 3, 4)]
    (ragged if n % 8 else even).append((by_numpy, by_torch))
    print(f"{n:8,}        ", *by_numpy, "        ", *by_torch)
assert all(row == [1, 1, 1, 1] for rows in even for row in rows), "it changed: ties are lost at multiples of 8, too"
assert any(row[0][0] > 1 for row in ragged), "it changed: numpy gives equal items one score with one query"
assert any(row[1][0] > 1 for row in ragged), "it changed: torch gives equal items one score with one query"
assert all(row[3] == 1 for rows in ragged for row in rows), "it changed: four queries lose ties"
PY
