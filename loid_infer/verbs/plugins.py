"""`plugin merge | import | list | show`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import structs, to_builtins

from loid_infer.artifact import MANIFEST, versions, write_manifest
from loid_infer.errors import BadArtifact, BadSetting
from loid_infer.plugins.delta import ADAPTER_CONFIG, ADAPTER_FILE, check_delta, delta_digest, read_adapter, write_delta
from loid_infer.plugins.folder import (
    PluginFolder,
    PluginManifest,
    PluginMetrics,
    new_plugin,
    open_plugin,
    plugin_folders,
    read_plugin,
    readable_plugins,
    refuse_repeats,
)
from loid_infer.plugins.foreign import is_same_base, named_base, read_foreign
from loid_infer.plugins.merge import Source, TensorError, merge, merge_settings
from loid_infer.records import decode, narrowed
from loid_infer.settings import DEFAULT_BASE, Workspace, WorkspaceLike
from loid_infer.types import SILENT, NamedDigest, Progress

if TYPE_CHECKING:
    from loid_infer.graphs.bases import Base

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PluginMerge:
    """A finished merge."""

    plugin: str
    path: str
    method: str
    parents: tuple[str, ...]  # names, in digest order
    weights: tuple[float, ...]  # of the parents
    density: float | None  # None for linear
    seed: int
    rank: int | None  # None: not truncated
    relative_error: float | None  # of all tensors together, if truncated
    errors: tuple[TensorError, ...]  # of each tensor, if truncated
    n_tensors: int
    digest: str
    base_digest: str
    parent_digest: str


@dataclass(frozen=True, slots=True)
class PluginImport:
    """A finished import."""

    plugin: str
    path: str
    method: str
    base: str
    n_tensors: int
    n_params: int
    digest: str
    base_digest: str
    parent_digest: str


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """Summary of a plugin."""

    name: str
    method: str = ""  # train | import | linear | ties | dare | dare_ties
    domains: tuple[str, ...] = ()  # all domains it was trained on
    base: str = ""
    on: tuple[str, ...] = ()  # plugins it was trained on, by name if known, else the start of the digest
    parents: tuple[str, ...] = ()  # merged plugins
    digest: str = ""
    problem: str = ""  # why it cannot be read, or empty


@dataclass(frozen=True, slots=True)
class PluginList:
    """All plugins of a workspace."""

    plugins: tuple[PluginInfo, ...]


def plugin_merge(
    plugins: Sequence[str],
    name: str,
    *,
    method: str,
    weights: Sequence[float] | None = None,
    density: float | None = None,
    rank: int | None = None,
    seed: int = 0,
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> PluginMerge:
    """Write `exports/plugins/<name>/`, the merge of `plugins`. Their order does not matter.

    Args:
        method: linear, ties, dare or dare_ties, as kernels/merging.py defines them.
        weights: one for each plugin, 1 by default; negative ones subtract.
        density: share of entries kept by ties, probability of keeping one in dare; default 0.8. Not for linear.
        rank: write the best low-rank approximation instead, as a peft folder.
        seed: seed of the masks of dare.

    Raises:
        BadSetting: an invalid option, plugins of several bases or chains, or a repeated plugin.
        BadArtifact: a plugin is missing or has been changed.
        NoSpace: the disk is full or the folder not writable.
    """
    workspace = Workspace.of(workspace)
    workspace.plugin(name)  # checks the name
    options = merge_settings(method, density, rank, seed)
    checked = _weights(weights, len(plugins))
    weighted = sorted(zip(_parents(workspace, plugins, name), checked, strict=True), key=lambda pair: pair[0].digest)
    sources = [Source(plugin.digest, plugin.delta(), weight) for plugin, weight in weighted]
    parents, ordered = [plugin for plugin, _ in weighted], tuple(weight for _, weight in weighted)
    first = parents[0].manifest
    delta, relative_error, errors = merge(sources, options, progress)
    manifest = structs.replace(
        first,  # base and chain are the same for all
        name=name,
        digest=delta_digest(delta),
        method=method,
        holds=tuple(sorted({digest for plugin in parents for digest in (plugin.digest, *plugin.manifest.holds)})),
        parents=tuple(NamedDigest(plugin.name, plugin.digest) for plugin in parents),
        trained_on=tuple(sorted({run for plugin in parents for run in plugin.manifest.trained_on})),
        settings={"weights": ordered, "density": options.density, "rank": rank},
        metrics=PluginMetrics(n_tensors=len(delta), relative_error=relative_error, errors=errors),
        seed=seed,
        device="",
        versions=versions("numpy", "safetensors"),
    )
    with new_plugin(workspace, name, progress) as folder:
        write_delta(folder, delta, first.base.name)
        write_manifest(folder, manifest)
    return summary(workspace, manifest, PluginMerge, {"parents": [plugin.name for plugin in parents]})


def plugin_import(
    source: str | os.PathLike[str],
    name: str,
    *,
    base: str = DEFAULT_BASE,
    same_base: bool = False,
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> PluginImport:
    """Write `exports/plugins/<name>/` from a LoRA adapter saved by peft.

    The adapter is rewritten in float32, with the full paths of modules in the base and the name of the base. So it can
    be loaded on `AutoModel` even if it was trained on a model with a task head, and contains no local paths.

    Args:
        base: what it was trained on: `default`, a folder, a GGUF file, or a hub name; see `export`.
        same_base: `base` is what the adapter names as its base, under another name.

    Raises:
        BadArtifact: not a peft folder, an unsupported adapter, or one that does not fit `base`.
        BadSetting: the adapter names another base.
        BadSetting, RuntimeMissing: the base cannot be loaded.
        NoSpace: the disk is full or the folder not writable.
    """
    from loid_infer.graphs.bases import load_base

    workspace, origin = Workspace.of(workspace), Path(source)
    workspace.plugin(name)  # checks the name
    if not (origin / ADAPTER_CONFIG).is_file():
        expected, fix = f"{ADAPTER_CONFIG} and {ADAPTER_FILE}", "Give a folder written by model.save_pretrained."
        inner = ", ".join(sorted(str(path.parent) for path in origin.glob(f"*/{ADAPTER_CONFIG}")))
        fix = f"Give one of its folders: {inner}." if inner else fix
        raise BadArtifact("no peft adapter found", where=str(origin), expected=expected, fix=fix)
    progress.say(f"importing plugin {name!r} for {base!r} ...")
    loaded = load_base(base)

    def inside(tensor: str) -> bool:
        return loaded.family.contains(tensor) or (bool(loaded.reading.dense) and tensor.startswith("linear."))

    delta, left_out = read_foreign(origin, loaded.tensors, inside)
    if left_out:  # `all-linear` and `dense` also match poolers and heads
        progress.say(f"left out, because no vector depends on it: {', '.join(left_out)}")
    check_delta(delta, loaded.arrays(), str(origin))
    if not same_base:
        _check_base(origin, base, loaded, progress)
    weights, n_params = loaded.digest, sum(part.a.size + part.b.size for part in delta.values())
    with new_plugin(workspace, name, progress) as folder:
        write_delta(folder, delta, loaded.name)
        manifest = PluginManifest(
            name=name,
            digest=delta_digest(read_adapter(folder)),
            method="import",
            base=NamedDigest(loaded.name, weights),
            parent_digest=weights,
            tokenizer=loaded.tokenizer_digest(),
            on=(),
            parents=(),
            holds=(),
            trained_on=(),
            settings={},
            metrics=PluginMetrics(n_tensors=len(delta), n_params=n_params),
            seed=None,
            versions=versions("numpy", "safetensors"),
        )
        write_manifest(folder, manifest)
    progress.say("the training data of this plugin is unknown: leakage of test reviews cannot be checked")
    return summary(workspace, manifest, PluginImport, {})


def _check_base(origin: Path, base: str, loaded: Base, progress: Progress) -> None:
    """Check that the adapter in `origin` names `base`, loaded as `loaded`, if it names any."""
    named, revision = named_base(origin)
    if not named:
        progress.say(f"the adapter does not name its base: whether it is {loaded.name} cannot be checked")
    elif not is_same_base(named, revision, base, loaded.name, loaded.path):
        raise BadSetting(
            "the adapter was trained on another base",
            where=str(origin / ADAPTER_CONFIG),
            expected=f"{named} {revision}".strip(),
            got=loaded.name,
            fix="Give --base that model, or --same-base if this is that model under another name.",
        )


def plugin_list(*, workspace: WorkspaceLike = None) -> PluginList:
    """All plugins of the workspace by name. One that cannot be read is listed with the reason."""
    workspace = Workspace.of(workspace)
    names = {plugin.digest: plugin.name for plugin in reversed(readable_plugins(workspace))}
    return PluginList(tuple(_info(path, names) for path in plugin_folders(workspace)))


def plugin_show(name: str, *, workspace: WorkspaceLike = None) -> dict[str, Any]:
    """The manifest of a plugin, after verifying its files; see `open_plugin`."""
    return decode(open_plugin(Workspace.of(workspace), name).path / MANIFEST, dict[str, Any], "Run it again.")


def summary(workspace: Workspace, manifest: PluginManifest, schema: type[T], more: Mapping[str, object]) -> T:
    """The result of making a plugin: fields of its manifest, settings and metrics, its path, and `more`."""
    own = {"plugin": manifest.name, "path": str(workspace.plugin(manifest.name))}
    base = {"base": manifest.base.name, "base_digest": manifest.base.digest}
    fields = {**structs.asdict(manifest), **manifest.settings, **to_builtins(manifest.metrics)}
    return narrowed({**fields, **own, **base, **more}, schema)


def _weights(weights: Sequence[float] | None, n: int) -> list[float]:
    weights = [1.0] * n if weights is None else [float(weight) for weight in weights]
    text = ",".join(f"{weight:g}" for weight in weights)
    if len(weights) != n:
        got, fix = f"{len(weights)}: {text}", "Give one per plugin, in their order."
        raise BadSetting("wrong number of weights", where="--weights", expected=str(n), got=got, fix=fix)
    if not all(math.isfinite(weight) and weight for weight in weights):
        expected, fix = "finite numbers other than 0", "Omit a plugin that should have no weight."
        raise BadSetting("invalid weight", where="--weights", expected=expected, got=text, fix=fix)
    return weights


def _parents(workspace: Workspace, names: Sequence[str], name: str) -> list[PluginFolder]:
    """The named plugins, which must be different, have the same base, tokenizer and chain, and not be overwritten."""
    if not names:
        raise BadSetting("nothing to merge", fix="Give one or more plugins of `loid-infer plugin list`.")
    if name in names:
        raise BadSetting("a merge cannot replace a parent", where=f"--name {name}", fix="Choose another --name.")
    parents = [open_plugin(workspace, parent) for parent in names]
    refuse_repeats(parents)
    first = parents[0]
    for other in parents[1:]:
        for what, value, other_value in (
            ("base", first.manifest.base.digest, other.manifest.base.digest),
            ("tokenizer", first.manifest.tokenizer, other.manifest.tokenizer),
            ("plugins they were trained on", sorted(first.manifest.on), sorted(other.manifest.on)),
        ):
            if value != other_value:
                problem = f"plugins {first.name!r} and {other.name!r} differ in the {what}"
                where, expected, got = str(workspace.plugins), _description(first), _description(other)
                fix = "Merge plugins of one base that were trained on the same plugins."
                raise BadSetting(problem, where=where, expected=expected, got=got, fix=fix)
    return parents


def _description(plugin: PluginFolder) -> str:
    chain = ", ".join(digest[:16] for digest in plugin.manifest.on) or "no plugin"
    return f"{plugin.name}: {plugin.manifest.base.name} ({plugin.manifest.base.digest[:16]}) with {chain}"


def _info(path: Path, names: dict[str, str]) -> PluginInfo:
    try:
        plugin = read_plugin(path, check_files=False).manifest
    except BadArtifact as error:
        return PluginInfo(path.name, problem=error.what)
    on = tuple(names.get(digest, digest[:16]) for digest in plugin.on)
    parents = tuple(parent.name for parent in plugin.parents)
    return PluginInfo(path.name, plugin.method, plugin.domains, plugin.base.name, on, parents, plugin.digest)
