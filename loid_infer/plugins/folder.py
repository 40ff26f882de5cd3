"""Folders and manifests of plugins, and the chain of plugins that an encoder depends on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

from msgspec import UNSET, Struct, UnsetType, field, structs

from loid_infer.artifact import move_folder, new_folder, read_manifest
from loid_infer.errors import BadArtifact, BadSetting
from loid_infer.plugins.delta import Part, read_delta
from loid_infer.plugins.merge import TensorError
from loid_infer.settings import Workspace
from loid_infer.types import NamedDigest, Progress, TrainingRun

_FIX = "Make the plugin again, with `loid-infer plugin train`, `merge` or `import`."


class PluginMetrics(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Measurements by the method that made a plugin; others are not written."""

    val_mse: float | None = None  # of training, like all fields down to `seconds`
    test_mse: float | None = None
    test_variance: float | None = None
    val_ndcg: float | None = None  # NDCG@10, of training for next items
    val_auc: float | None = None  # of training on labeled pairs
    n_train: int | None = None
    n_valid: int | None = None
    n_test: int | None = None
    n_steps: int | None = None
    best_step: int | None = None
    tokens_per_s: float | None = None
    seconds: float | None = None
    n_tensors: int | None = None  # of a merge or an import
    n_params: int | None = None  # of an import only
    relative_error: float | UnsetType | None = UNSET  # of a merge; None: kept in full
    errors: tuple[TensorError, ...] | UnsetType = UNSET


class PluginManifest(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="plugin"):
    """`manifest.json` of a plugin."""

    name: str  # of the folder, when read
    digest: str  # of its delta
    method: str  # `train`, `import`, or the merge method
    base: NamedDigest  # with the digest of its weights without plugins
    parent_digest: str  # of the weights it was trained on: the base with `on` folded in
    on: tuple[str, ...]  # digests of all parent plugins that were frozen in training, transitively, sorted
    holds: tuple[str, ...]  # digests of all merged plugins, transitively, sorted; empty unless merged
    parents: tuple[NamedDigest, ...]  # what it was merged from
    trained_on: tuple[TrainingRun, ...]  # every training run behind it
    settings: dict[str, Any]  # TrainSettings, or weights, density and rank of a merge
    metrics: PluginMetrics
    seed: int | None
    versions: dict[str, str]
    tokenizer: str = ""  # digest of the base's
    device: str = ""  # of a training
    files: dict[str, str] = field(default_factory=dict)

    @property
    def domains(self) -> tuple[str, ...]:
        """All domains it was trained on."""
        return tuple(sorted({run.domain for run in self.trained_on}))

    @property
    def rank(self) -> int | None:
        """Rank of the factors, if given."""
        rank: int | None = self.settings.get("rank")
        return rank


@dataclass(frozen=True, slots=True)
class PluginFolder:
    """A finished plugin."""

    name: str  # of its folder
    path: Path
    manifest: PluginManifest

    @property
    def digest(self) -> str:
        """Digest of the delta."""
        return self.manifest.digest

    def delta(self) -> dict[str, Part]:
        """See `read_delta`."""
        return read_delta(self.path)


def read_plugin(path: Path, *, check_files: bool = True) -> PluginFolder:
    """The plugin in the folder `path`; without `check_files` only its manifest is read.

    Raises:
        BadArtifact: the plugin does not exist, its manifest is invalid, or a file is missing or altered.
    """
    manifest = read_manifest(path, PluginManifest, _FIX, check_files=check_files)
    return PluginFolder(path.name, path, structs.replace(manifest, name=path.name))


def plugin_folders(workspace: Workspace) -> list[Path]:
    """Every folder under `exports/plugins/`, by name, finished or not."""
    return sorted(path for path in workspace.plugins.glob("[!.]*") if path.is_dir())


def open_plugin(workspace: Workspace, name: str) -> PluginFolder:
    """Open a plugin by name and check its files.

    Raises:
        BadName: `name` is not a slug.
        BadArtifact: the plugin does not exist or is altered.
    """
    path = workspace.plugin(name)
    if not path.exists():
        known = ", ".join(folder.name for folder in plugin_folders(workspace)) or "none"
        fix = f"Run `loid-infer plugin train --domain {name}`, or name an existing plugin."
        raise BadArtifact(f"there is no plugin {name!r}", where=str(workspace.plugins), got=known, fix=fix)
    return read_plugin(path)


def readable_plugins(workspace: Workspace) -> list[PluginFolder]:
    """All plugins with a readable manifest, by name; their files are not checked."""
    plugins = []
    for path in plugin_folders(workspace):
        with suppress(BadArtifact):  # an error only where that plugin is used
            plugins.append(read_plugin(path, check_files=False))
    return plugins


@contextmanager
def new_plugin(workspace: Workspace, name: str, progress: Progress) -> Iterator[Path]:
    """A new plugin folder, as `artifact.new_folder`; the manifest is written last.

    An existing plugin of this name that others were trained on is renamed; they find it by its digest.

    Raises:
        NoSpace: the disk is full or the folder not writable.
    """
    with new_folder(workspace.plugin(name)) as folder:
        yield folder
        new = read_plugin(folder, check_files=False)
        existing = {plugin.name: plugin for plugin in readable_plugins(workspace)}
        old = existing.get(name)
        if old is None or old.digest == new.digest:
            return
        children = [plugin.name for plugin in (*existing.values(), new) if old.digest in plugin.manifest.on]
        if children:
            new_name = f"{old.name[:55]}-{old.digest[:8]}"
            move_folder(old.path, workspace.plugin(new_name))
            progress.say(f"the old plugin {old.name!r} is renamed to {new_name!r}: {', '.join(children)} depend on it")


def open_chain(
    workspace: Workspace, names: Sequence[str], base_name: str, base_digest: str
) -> tuple[PluginFolder, ...]:
    """The named plugins of a base (without plugins) and all their parents, each once, in digest order.

    Raises:
        BadSetting: a plugin would be added twice, or belongs to another base.
        BadArtifact: a plugin is missing or altered.
    """
    named = [open_plugin(workspace, name) for name in names]
    for plugin in named:
        base = plugin.manifest.base
        if base.digest != base_digest:
            raise BadSetting(
                f"plugin {plugin.name!r} belongs to another base",
                where=str(plugin.path),
                expected=f"{base.name} ({base.digest[:16]})",
                got=f"{base_name} ({base_digest[:16]})",
                fix="Give --base that base, or plugins of one base.",
            )
    refuse_repeats(named)
    members = {plugin.digest: plugin for plugin in named}
    candidates = reversed(readable_plugins(workspace))  # reversed: of copies, the first by name is taken
    paths = {plugin.digest: plugin.path for plugin in candidates if plugin.manifest.base.digest == base_digest}
    for plugin in named:
        for digest in sorted({*plugin.manifest.on} - members.keys()):
            if digest not in paths:
                raise BadArtifact(
                    f"a plugin that {plugin.name!r} was trained on is missing",
                    where=str(workspace.plugins),
                    expected=f"a plugin with the digest {digest}",
                    got=", ".join(folder.name for folder in plugin_folders(workspace)) or "none",
                    fix=f"Restore its folder, under any name, or train {plugin.name!r} again.",
                )
            members[digest] = read_plugin(paths[digest])
    chain = tuple(members[digest] for digest in sorted(members))
    _refuse_overlaps(chain)
    return chain


def refuse_repeats(named: Sequence[PluginFolder]) -> None:
    """Check that no plugin would be added twice: no copies, no parents of other named plugins, no overlapping merges.

    Raises:
        BadSetting: a plugin would be added twice.
    """
    for first, second in permutations(named, 2):
        if first.digest == second.digest:
            problem = "is named twice" if first.name == second.name else f"is the same as {first.name!r}"
            raise BadSetting(f"plugin {second.name!r} {problem}", where=str(second.path), fix="Name it once.")
        if first.digest in second.manifest.on:
            what = f"plugin {first.name!r} is present twice: {second.name!r} was trained on it"
            raise BadSetting(what, where=str(first.path), fix=f"Leave {first.name!r} out.")
    _refuse_overlaps(named)


def _refuse_overlaps(plugins: Sequence[PluginFolder]) -> None:
    """Check that no plugin is in two of `plugins`, directly or inside a merge."""
    for first, second in combinations(plugins, 2):
        for digest in sorted({first.digest, *first.manifest.holds} & {second.digest, *second.manifest.holds}):
            name = next((repr(plugin.name) for plugin in plugins if plugin.digest == digest), digest[:16])
            raise BadSetting(
                f"plugin {name} is present twice", where=f"in {first.name} and in {second.name}", fix="Leave one out."
            )
