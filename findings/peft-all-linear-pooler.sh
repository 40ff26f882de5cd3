#!/bin/sh
# peft's target_modules="all-linear" on a BERT without a task head also adapts the pooler, whose output is unused when a
# vector is taken from the last hidden state: its factors get no gradient, count as trained parameters, and are saved.
#
# Seen with peft 0.21.2, transformers 5.24.0, torch 2.13.0:
#   pooler adapted: True; gradient of its factors after a loss on the first token: None
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 peft==0.21.2
"$work/venv/bin/python" - <<'PY' 2>/dev/null
import peft, torch, transformers
sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32, vocab_size=100)
model = peft.get_peft_model(transformers.BertModel(transformers.BertConfig(**sizes)),
                            peft.LoraConfig(r=2, target_modules="all-linear"))
model(input_ids=torch.tensor([[2, 5, 6, 3]])).last_hidden_state[:, 0].sum().backward()
gradients = {name: part.grad for name, part in model.named_parameters() if "pooler" in name and "lora_" in name}
print(f"pooler adapted: {bool(gradients)}; gradient of its factors after a loss on the first token:", next(iter(gradients.values()), ""))
assert gradients and all(grad is None for grad in gradients.values()), "the pooler is no longer adapted"
PY
