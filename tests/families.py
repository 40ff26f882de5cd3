"""Small models with random weights of every family, as folders with a tokenizer."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.conftest import WORDS

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
_T5 = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 3, "num_heads": 4}
_DISTIL = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 80}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_ROPE = {"rope_theta": 5000.0, "rope_scaling": _LLAMA3}  # transformers 4.57 reads only this spelling
_OPT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 48, "word_embed_proj_dim": 32}
_POSITIONS = {"max_position_embeddings": 82}
# name -> class of the config, its fields, tokens before and after a text
FAMILIES = {
    "bert": ("BertConfig", SIZES | _POSITIONS, ("<s>", "</s>")),
    "roberta": ("RobertaConfig", SIZES | _POSITIONS | {"type_vocab_size": 1}, ("<s>", "</s>")),
    "xlm-roberta": ("XLMRobertaConfig", SIZES | _POSITIONS | {"type_vocab_size": 1}, ("<s>", "</s>")),
    "camembert": ("CamembertConfig", SIZES | _POSITIONS | {"type_vocab_size": 1}, ("<s>", "</s>")),
    "distilbert": ("DistilBertConfig", _DISTIL, ("<s>", "</s>")),
    "mpnet": ("MPNetConfig", SIZES | _POSITIONS, ("<s>", "</s>")),
    "modernbert": ("ModernBertConfig", SIZES | {"local_attention": 16, "num_hidden_layers": 4}, ("<s>", "</s>")),
    "opt": ("OPTConfig", _OPT | _POSITIONS, ("</s>", "")),
    "llama": ("LlamaConfig", SIZES | {"num_key_value_heads": 2} | _ROPE, ("", "")),
    "qwen2": ("Qwen2Config", SIZES | {"num_key_value_heads": 2}, ("", "")),
    "qwen3": ("Qwen3Config", SIZES | {"num_key_value_heads": 1, "head_dim": 16}, ("", "<pad>")),
    "t5": ("T5Config", _T5 | {"feed_forward_proj": "relu"}, ("", "</s>")),
    "flan-t5": ("T5Config", _T5 | {"feed_forward_proj": "gated-gelu"}, ("", "</s>")),
}
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0 to 3, as RoBERTa has them
TEXTS = ["", "a", "the sound of my guitar was not very good", "great 👍", "naïve <pad> case", "it broke. " * 30]


def make_family(folder: Path, name: str, *, seed: int = 0) -> Path:
    """Write the model `name` of FAMILIES to `folder`."""
    import torch

    kind, fields, frame = FAMILIES[name]
    n_words = write_tokenizer(folder, *frame, [" ".join(WORDS)] * 5, 340)

    def init(parameter: torch.Tensor) -> None:  # larger than by default, so that texts differ
        torch.nn.init.normal_(parameter, std=0.2) if parameter.dim() > 1 else None

    return write_model(folder, kind, fields | {"vocab_size": n_words}, init, seed=seed)


def write_model(folder: Path, kind: str, fields: dict, init: Callable[[Any], object], *, seed: int = 0) -> Path:
    """Write the model of a config with the special tokens `SPECIAL`; `init` is applied to each parameter."""
    import torch
    import transformers

    numbers = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    if kind == "ModernBertConfig":
        numbers |= {"cls_token_id": 0, "sep_token_id": 2}
    config = getattr(transformers, kind)(**fields, **numbers)
    torch.manual_seed(seed)
    model = transformers.T5EncoderModel(config) if kind == "T5Config" else transformers.AutoModel.from_config(config)
    for parameter in model.parameters():
        init(parameter)
    model.save_pretrained(folder)
    return folder


def write_tokenizer(
    folder: Path, before: str, after: str, texts: Iterable[str], n_tokens: int, *, like_qwen: bool = False
) -> int:
    """Write a byte-level BPE tokenizer that puts these tokens around a text; returns its vocabulary size.

    Args:
        like_qwen: split texts as Qwen2Tokenizer does, which transformers 5 uses for every Qwen folder whatever its
            tokenizer.json says.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if like_qwen:
        from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(PRETOKENIZE_REGEX), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=n_tokens, special_tokens=[*SPECIAL], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    parts = [*([before] if before else []), "$A", *([after] if after else [])]
    special = [(token, tokenizer.token_to_id(token)) for token in {before, after} - {""}]
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(single=" ".join(parts), special_tokens=special)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer.get_vocab_size()
