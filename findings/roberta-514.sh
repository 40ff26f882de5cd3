#!/bin/sh
# A RoBERTa of 514 positions takes 512 tokens, since positions start after the padding id. Where the tokenizer states no
# limit, sentence-transformers uses the 514 of the config as the maximum length, and a longer text raises a RuntimeError in
# the model instead of being truncated.
#
# Seen with sentence-transformers 6.2.0, transformers 5.24.0, torch 2.13.0:
#   max_seq_length 514; a text of 600 words: RuntimeError
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 sentence-transformers==6.2.0
"$work/venv/bin/python" - "$work/model" <<'PY' 2>/dev/null
import sys
import tokenizers, transformers
from sentence_transformers import SentenceTransformer
words = ["<s>", "<pad>", "</s>", "<unk>", "good"]
tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
                                     unk_token="<unk>").save_pretrained(sys.argv[1])
sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32, vocab_size=5)
transformers.RobertaModel(transformers.RobertaConfig(max_position_embeddings=514, **sizes)).save_pretrained(sys.argv[1])
model = SentenceTransformer(sys.argv[1], device="cpu")
try:
    model.encode(["good " * 600])
    outcome = "a vector"
except RuntimeError as error:
    outcome = type(error).__name__
print(f"max_seq_length {model.max_seq_length}; a text of 600 words: {outcome}")
assert (model.max_seq_length, outcome) == (514, "RuntimeError"), "it is cut by now"
PY
