#!/bin/sh
# A folder of a BERT with its config but without vocab.txt and tokenizer.json (an incomplete download or copy): transformers
# 5 makes a tokenizer that knows nothing but special tokens, without an error or a warning, so every word becomes [UNK]
# and all texts of a length get the same vector. transformers 4 raises an error (it asks for protobuf).
#
# Seen:
#   transformers 4.57.6: ImportError
#   transformers 5.24.0: ['[CLS]', '[UNK]', '[UNK]', '[UNK]', '[SEP]'] of 5 known tokens
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
mkdir "$work/model"
echo '{"model_type": "bert", "vocab_size": 30522}' > "$work/model/config.json"
cat > "$work/try.py" <<'PY'
import sys
import transformers
transformers.logging.set_verbosity_error()
try:
    tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("a good guitar")["input_ids"])
    seen = f"{tokens} of {len(tokenizer)} known tokens"
except Exception as error:
    seen = type(error).__name__
print(f"transformers {transformers.__version__}: {seen}")
assert seen == sys.argv[2], f"not {sys.argv[2]}"
PY
try() {
  python3 -m venv "$work/venv-$1"
  "$work/venv-$1/bin/pip" install -q "transformers==$1"
  "$work/venv-$1/bin/python" "$work/try.py" "$work/model" "$2"
}
try 4.57.6 ImportError
try 5.24.0 "['[CLS]', '[UNK]', '[UNK]', '[UNK]', '[SEP]'] of 5 known tokens"
