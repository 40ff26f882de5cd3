#!/bin/sh
# RecTools 0.19.0: the transformer of SASRecModel attends to its padding unless use_key_padding_mask=True. Sequences are
# padded on the left to session_max_len, so a user with a short history is mostly padding, and what is recommended depends
# on session_max_len. loid-infer pads on the right, behind what a causal network can see.
# Seen, after two epochs on histories of 5 items with session_max_len 50: the last position gives about nine tenths of its
# attention to the 45 positions of padding by default, and none with the mask.
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/pip" install -q --disable-pip-version-check 'rectools[torch]==0.19.0' torch==2.13.0 \
	pytorch-lightning==2.5.2 numpy==1.26.4 pandas==2.3.3
cd "$work"
"$work/venv/bin/python" - <<'PY' 2>/dev/null
import numpy as np
import pandas as pd
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

rng = np.random.default_rng(0)
rows = [(f"u{user}", int(item)) for user in range(40) for item in rng.permutation(20)[:5]]
frame = pd.DataFrame(rows, columns=[Columns.User, Columns.Item])
times = pd.date_range("2020", periods=len(rows), freq="s")
dataset = Dataset.construct(frame.assign(**{Columns.Weight: 1.0, Columns.Datetime: times}))


def on_padding(**options):
    """The share of its attention that the last position gives to padding."""
    torch.manual_seed(0)
    model = SASRecModel(n_factors=16, n_heads=1, n_blocks=1, session_max_len=50, epochs=2, **options).fit(dataset)
    attention = model.torch_model.transformer_layers.transformer_blocks[0].multi_head_attn
    forward, weights = attention.forward, []

    def watched(*tensors, **named):
        out, given = forward(*tensors, **{**named, "need_weights": True})
        weights.append(given.detach())
        return out, given

    attention.forward = watched
    model.recommend(users=["u0"], dataset=dataset, k=3, filter_viewed=True)
    return float(weights[-1][0, -1, :45].sum())


seen = on_padding(), on_padding(use_key_padding_mask=True)
print(*seen)
assert seen[0] > 0.8 and seen[1] == 0, "the behavior changed"
PY
