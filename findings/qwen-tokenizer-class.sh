#!/bin/sh
# transformers 5.24.0: AutoTokenizer opens a folder of model_type qwen2 as Qwen2Tokenizer even where tokenizer_config.json
# says PreTrainedTokenizerFast, and then splits texts by the regular expression of that class: the pre_tokenizer of
# tokenizer.json is ignored without a warning. For a model_type without a tokenizer class the file is followed.
# Seen, for a tokenizer whose vocabulary has the token "10" and whose file does not separate digits:
#   the file itself               ['10']
#   qwen2     Qwen2Tokenizer      ['1', '0']
#   gpt_neox  TokenizersBackend   ['10']
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check transformers==5.24.0
"$work/venv/bin/python" - "$work/model" <<'PY' 2>/dev/null
import json
import sys
from pathlib import Path

import tokenizers
from tokenizers import models, pre_tokenizers
from transformers import AutoTokenizer

folder = Path(sys.argv[1])
folder.mkdir()
words = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
tokenizer = tokenizers.Tokenizer(models.BPE(words | {"10": len(words)}, [("1", "0")]))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.save(str(folder / "tokenizer.json"))
(folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
print("the file itself", tokenizer.encode("10").tokens)
seen = {}
for kind in ("qwen2", "gpt_neox"):
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    opened = AutoTokenizer.from_pretrained(folder)
    seen[kind] = opened.convert_ids_to_tokens(opened("10")["input_ids"])
    print(kind, type(opened).__name__, seen[kind])
assert tokenizer.encode("10").tokens == ["10"]
assert seen == {"qwen2": ["1", "0"], "gpt_neox": ["10"]}, "the behavior changed"
PY
