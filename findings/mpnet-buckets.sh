#!/bin/sh
# MPNet's config has relative_attention_num_buckets, which sizes the table of distance biases. The distances themselves are
# always sorted into 32 buckets, at most 128 tokens apart, whatever the config says: with 64 buckets half of the table is
# never read, so an engine that follows the config computes vectors different from those of transformers.
#
# Seen with transformers 5.24.0, torch 2.13.0:
#   table of 64 rows, last row used: 31
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 numpy
"$work/venv/bin/python" - <<'PY' 2>/dev/null
import torch, transformers
sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32, vocab_size=100)
model = transformers.MPNetModel(transformers.MPNetConfig(relative_attention_num_buckets=64, max_position_embeddings=402,
                                                         **sizes)).eval()
model.encoder.relative_attention_bias.weight.requires_grad_(True)
model(input_ids=torch.arange(400)[None] % 90 + 5).last_hidden_state.square().sum().backward()
table = model.encoder.relative_attention_bias.weight
last = int((table.grad.abs().sum(1) > 0).nonzero().max())
print(f"table of {len(table)} rows, last row used: {last}")
assert (len(table), last) == (64, 31), "the config is followed by now"
PY
