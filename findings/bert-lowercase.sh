#!/bin/sh
# transformers 5.24.0: AutoTokenizer lower-cases the texts of a BERT wherever tokenizer_config.json does not have
# do_lower_case, although tokenizer.json says `"lowercase": false` and the vocabulary is cased. It does so for a folder of
# vocab.txt alone too, and writes the result as tokenizer.json. loid-infer follows tokenizer.json, else the vocabulary, and
# writes do_lower_case to the export.
# Seen, for a vocabulary that has Guitar and not guitar:
#   the file itself          ['Guitar']
#   AutoTokenizer            ['[UNK]']
#   with do_lower_case       ['Guitar']
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check transformers==5.24.0
"$work/venv/bin/python" - "$work/model" <<'PY' 2>/dev/null
import json
import sys
from pathlib import Path

import tokenizers
from transformers import AutoTokenizer

folder = Path(sys.argv[1])
folder.mkdir()
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Guitar"]
tokenizer = tokenizers.BertWordPieceTokenizer({word: i for i, word in enumerate(words)}, lowercase=False)
tokenizer.save(str(folder / "tokenizer.json"))
(folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
seen = [tokenizer.encode("Guitar", add_special_tokens=False).tokens]
for config in ({}, {"do_lower_case": False}):
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    seen.append(AutoTokenizer.from_pretrained(folder).tokenize("Guitar"))
print(*seen, sep="\n")
assert seen == [["Guitar"], ["[UNK]"], ["Guitar"]], "the behavior changed"
PY
