#!/bin/sh
# torch 2.13.0: the first cross-attention of nn.MultiheadAttention with `key_padding_mask` imports sympy and torch's symbolic shapes, some
# 480 modules, .4 to .5 s on a server core, to check the shape of the mask. The same mask as `attn_mask` imports
# nothing, and attends the same. A command that scores one user pays it each time.
# Seen: modules imported by the first call, and whether sympy is one of them
#   attn_mask            0  False
#   key_padding_mask   487  True
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0
"$folder/venv/bin/pip" install -q --disable-pip-version-check numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import sys
import time

import torch

heads = 2
attention = torch.nn.MultiheadAttention(16, heads, batch_first=True).eval()
rows, padding = torch.randn(3, 5, 16), torch.arange(5) >= torch.tensor([5, 3, 1])[:, None]
masks = {"attn_mask": padding[:, None].repeat_interleave(heads, 0), "key_padding_mask": padding}
results, imported = [], {}
with torch.inference_mode():
    for name, mask in masks.items():
        before, start = set(sys.modules), time.perf_counter()
        results.append(attention(rows[:, :1], rows, rows, need_weights=False, **{name: mask})[0])
        imported[name] = set(sys.modules) - before
        print(f"{name:17} {len(imported[name]):4}  {'sympy' in imported[name]}  {time.perf_counter() - start:.2f} s")
torch.testing.assert_close(*results)
assert not imported["attn_mask"], "it changed: attn_mask imports something, too"
assert "sympy" in imported["key_padding_mask"], "it changed: key_padding_mask imports no sympy"
PY
