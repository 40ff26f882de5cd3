"""Plugins by name and by digest: the folders under `exports/plugins/`, and which of them an encoder rests on.

Knows what a plugin's manifest says of lineage; not how a plugin is trained or merged, and not what its delta holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

from msgspec import UNSET, Struct, UnsetType, field, structs

from loid_infer.artifact import new_folder, read_manifest
from loid_infer.errors import BadArtifact, BadSetting
from loid_infer.plugins.delta import Part, read_delta
from loid_infer.plugins.merge import TensorError
from loid_infer.settings import Workspace
from loid_infer.types import NamedDigest, Progress, TrainingRun

_MEND = "Make the plugin again, with `loid-infer plugin train`, `merge` or `import`."


class PluginMetrics(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was measured while a plugin was made; what its method does not measure is not written."""

    val_mse: float | None = None  # of a training, as all down to `seconds`
    test_mse: float | None = None
    test_variance: float | None = None
    n_train: int | None = None
    n_valid: int | None = None
    n_test: int | None = None
    n_steps: int | None = None
    best_step: int | None = None
    tokens_per_s: float | None = None
    seconds: float | None = None
    n_tensors: int | None = None  # of a merge or an import
    n_params: int | None = None  # of an import only
    relative_error: float | UnsetType | None = UNSET  # of a merge; None: it is kept in full
    errors: tuple[TensorError, ...] | UnsetType = UNSET


class PluginManifest(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="plugin"):
    """`manifest.json` of a plugin."""

    name: str  # once read, that of its folder
    digest: str  # of its delta
    method: str  # `train`, `import`, or how it was merged
    base: NamedDigest  # that it adds to, with the digest of its plain weights
    parent_digest: str  # of what it was trained over: the base with `on` folded in
    on: tuple[str, ...]  # digests of all plugins frozen beneath it, however deep, sorted
    holds: tuple[str, ...]  # of all that was summed into it, however deep, sorted; empty unless merged
    parents: tuple[NamedDigest, ...]  # what it was merged from
    trained_on: tuple[TrainingRun, ...]  # every training run behind it
    settings: dict[str, Any]  # of its method: TrainSettings, or a merge's weights, density and rank
    metrics: PluginMetrics
    seed: int | None
    versions: dict[str, str]
    tokenizer: str = ""  # digest of the base's
    device: str = ""  # of a training
    files: dict[str, str] = field(default_factory=dict)

    @property
    def domains(self) -> tuple[str, ...]:
        """All it was trained on."""
        return tuple(sorted({run.domain for run in self.trained_on}))

    @property
    def rank(self) -> int | None:
        """Of its factors, where its method was given one."""
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
        """Of its delta."""
        return self.manifest.digest

    def delta(self) -> dict[str, Part]:
        """What it adds to which tensor; see `read_delta`."""
        return read_delta(self.path)


def read_plugin(path: Path, *, check_files: bool = True) -> PluginFolder:
    """The plugin in the folder `path`.

    Args:
        check_files: whether its files are compared with their digests; False reads the manifest only.

    Raises:
        BadArtifact: it is not there, its manifest is not a plugin's, or a file is missing or altered.
    """
    manifest = read_manifest(path, PluginManifest, _MEND, check_files=check_files)
    return PluginFolder(path.name, path, structs.replace(manifest, name=path.name))


def plugin_folders(workspace: Workspace) -> list[Path]:
    """Every folder under `exports/plugins/`, by name, finished or not."""
    return sorted(path for path in workspace.plugins.glob("[!.]*") if path.is_dir())


def open_plugin(workspace: Workspace, name: str) -> PluginFolder:
    """The plugin of that name, each of its files compared with its digest.

    Raises:
        BadName: `name` is not a slug.
        BadArtifact: it is not there, or altered.
    """
    path = workspace.plugin(name)
    if not path.exists():
        known = ", ".join(folder.name for folder in plugin_folders(workspace)) or "none"
        fix = f"Run `loid-infer plugin train --domain {name}`, or name one that is there."
        raise BadArtifact(f"there is no plugin {name!r}", where=str(workspace.plugins), got=known, fix=fix)
    return read_plugin(path)


def readable_plugins(workspace: Workspace) -> list[PluginFolder]:
    """Every plugin whose manifest can be read, by name; their files are not looked at."""
    found = []
    for path in plugin_folders(workspace):
        try:
            found.append(read_plugin(path, check_files=False))
        except BadArtifact:  # said where that one is used; it is no reason to refuse the others
            continue
    return found


@contextmanager
def new_plugin(workspace: Workspace, name: str, progress: Progress) -> Iterator[Path]:
    """The folder of a plugin to be filled, the manifest last, as `artifact.new_folder`.

    A plugin that has the name now and that others rest on is kept under another: chains go by digest and find it there.

    Raises:
        NoSpace: the disk is full or the folder not writable.
    """
    with new_folder(workspace.plugin(name)) as folder:
        yield folder
        new = read_plugin(folder, check_files=False)
        found = {plugin.name: plugin for plugin in readable_plugins(workspace)}
        old = found.get(name)
        if old is None or old.digest == new.digest:
            return
        above = [plugin.name for plugin in found.values() if old.digest in plugin.manifest.on]
        if above:
            kept = f"{old.name[:55]}-{old.digest[:8]}"
            old.path.replace(workspace.plugin(kept))
            progress.say(f"the plugin {old.name!r} there was is now {kept!r}: {', '.join(above)} rest on it")


def open_chain(
    workspace: Workspace, names: Sequence[str], base_name: str, base_digest: str
) -> tuple[PluginFolder, ...]:
    """The named plugins and all that they rest on, each once, in digest order: what is added to the base.

    A source that several of the named rest on is there once.

    Args:
        base_name, base_digest: of the plain base that is to be added to.

    Raises:
        BadSetting: a plugin would be added twice, or belongs to another base.
        BadArtifact: one of them is not there, or altered.
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
    # Of copies the first by name.
    others = reversed(readable_plugins(workspace))
    there = {other.digest: other.path for other in others if other.manifest.base.digest == base_digest}
    for plugin in named:
        for digest in sorted({*plugin.manifest.on} - members.keys()):
            if digest not in there:
                raise BadArtifact(
                    f"a plugin that {plugin.name!r} was trained on is gone",
                    where=str(workspace.plugins),
                    expected=f"a plugin with the digest {digest}",
                    got=", ".join(folder.name for folder in plugin_folders(workspace)) or "none",
                    fix=f"Bring its folder back (any name will do), or train {plugin.name!r} again.",
                )
            members[digest] = read_plugin(there[digest])
    chain = tuple(members[digest] for digest in sorted(members))
    _refuse_twice(chain)
    return chain


def refuse_repeats(named: Sequence[PluginFolder]) -> None:
    """See that no plugin is named twice, under one name or two, none that another named one was trained on, and nothing
    inside two of them.

    Raises:
        BadSetting: one is.
    """
    for one, other in combinations(named, 2):
        if one.digest == other.digest:
            alike = "is named twice" if one.name == other.name else f"is the same as {one.name!r}"
            raise BadSetting(f"plugin {other.name!r} {alike}", where=str(other.path), fix="Name it once.")
    for below, above in permutations(named, 2):
        if below.digest in above.manifest.on:
            raise BadSetting(
                f"plugin {below.name!r} is present twice: {above.name!r} was trained on it",
                where=str(below.path),
                fix=f"Leave {below.name!r} out.",
            )
    _refuse_twice(named)


def _refuse_twice(plugins: Sequence[PluginFolder]) -> None:
    """See that nothing is in two of `plugins`, as itself or inside a merge."""
    for one, other in combinations(plugins, 2):
        for digest in sorted({one.digest, *one.manifest.holds} & {other.digest, *other.manifest.holds}):
            itself = next((repr(plugin.name) for plugin in plugins if plugin.digest == digest), digest[:16])
            raise BadSetting(
                f"plugin {itself} is present twice",
                where=f"in {one.name} and in {other.name}",
                fix="Leave one of them out.",
            )
