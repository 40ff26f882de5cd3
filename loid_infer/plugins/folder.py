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

from loid_infer.artifact import MANIFEST, new_folder, read_manifest
from loid_infer.errors import BadArtifact, BadSetting
from loid_infer.plugins.delta import Part, read_delta
from loid_infer.settings import Workspace
from loid_infer.types import Progress

KIND = "plugin"
_MEND = "Make the plugin again, with `loid-infer plugin train`, `merge` or `import`."


@dataclass(frozen=True, slots=True)
class PluginFolder:
    """A finished plugin."""

    name: str  # of its folder
    path: Path
    manifest: dict[str, Any]
    digest: str  # of its delta
    method: str  # `train`, `import`, or how it was merged
    base_name: str  # of the base it adds to
    base_digest: str  # of that base's plain weights
    on: tuple[str, ...]  # digests of all plugins frozen beneath it, however deep, sorted
    holds: tuple[str, ...]  # of all that was summed into it, however deep, sorted; empty unless merged
    parents: tuple[dict[str, Any], ...]  # names and digests of what it was merged from
    trained_on: tuple[dict[str, Any], ...]  # domain, table and split of everything it saw

    def delta(self) -> dict[str, Part]:
        """What it adds to which tensor; see `read_delta`."""
        return read_delta(self.path)


def read_plugin(path: Path, *, check_files: bool = True) -> PluginFolder:
    """The plugin in the folder `path`.

    Args:
        check_files: whether its files are compared with their digests; False reads the manifest only.

    Raises:
        BadArtifact: no manifest, one that lacks a field, or a file that is missing or altered.
    """
    manifest = read_manifest(path, KIND, _MEND, check_files=check_files)
    base = manifest.get("base")
    strings: dict[str, Any] = {field: manifest.get(field) for field in ("digest", "method")}
    strings |= {f"base.{field}": base.get(field) if isinstance(base, dict) else None for field in ("name", "digest")}
    lists: dict[str, Any] = {field: manifest.get(field) for field in ("on", "holds", "parents", "trained_on")}
    wrong = [field for field, value in strings.items() if not isinstance(value, str)]
    wrong += [field for field, value in lists.items() if not isinstance(value, list)
              or not all(isinstance(one, str if field in ("on", "holds") else dict) for one in value)]  # fmt: skip
    if wrong:
        raise BadArtifact("the manifest is not a plugin's", where=str(path / MANIFEST), expected=", ".join(wrong),
                          got="something else there, or nothing", mend=_MEND)  # fmt: skip
    return PluginFolder(path.name, path, manifest, *strings.values(), *(tuple(value) for value in lists.values()))


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
        mend = f"Run `loid-infer plugin train --domain {name}`, or name one that is there."
        raise BadArtifact(f"there is no plugin {name!r}", where=str(workspace.plugins), got=known, mend=mend)
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
def new_plugin(workspace: Workspace, manifest: dict[str, Any], progress: Progress) -> Iterator[Path]:
    """The folder of a plugin to be filled, as `artifact.new_folder`; `manifest` must hold its digest by the end.

    A plugin that has the name now and that others rest on is kept under another: chains go by digest and find it there.

    Raises:
        NoSpace: the disk is full or the folder not writable.
    """
    with new_folder(workspace.plugin(manifest["name"]), manifest) as folder:
        yield folder
        found = {plugin.name: plugin for plugin in readable_plugins(workspace)}
        old = found.get(manifest["name"])
        if old is None or old.digest == manifest["digest"]:
            return
        above = [plugin.name for plugin in found.values() if old.digest in plugin.on]
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
        if plugin.base_digest != base_digest:
            raise BadSetting(
                f"plugin {plugin.name!r} belongs to another base",
                where=str(plugin.path),
                expected=f"{plugin.base_name} ({plugin.base_digest[:16]})",
                got=f"{base_name} ({base_digest[:16]})",
                mend="Give --base that base, or plugins of one base.",
            )
    refuse_repeats(named)
    members = {plugin.digest: plugin for plugin in named}
    # Of copies the first by name.
    others = reversed(readable_plugins(workspace))
    there = {other.digest: other.path for other in others if other.base_digest == base_digest}
    for plugin in named:
        for digest in sorted({*plugin.on} - members.keys()):
            if digest not in there:
                raise BadArtifact(
                    f"a plugin that {plugin.name!r} was trained on is gone",
                    where=str(workspace.plugins),
                    expected=f"a plugin with the digest {digest}",
                    got=", ".join(folder.name for folder in plugin_folders(workspace)) or "none",
                    mend=f"Bring its folder back (any name will do), or train {plugin.name!r} again.",
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
            raise BadSetting(f"plugin {other.name!r} {alike}", where=str(other.path), mend="Name it once.")
    for below, above in permutations(named, 2):
        if below.digest in above.on:
            raise BadSetting(f"plugin {below.name!r} is present twice: {above.name!r} was trained on it",
                             where=str(below.path), mend=f"Leave {below.name!r} out.")  # fmt: skip
    _refuse_twice(named)


def _refuse_twice(plugins: Sequence[PluginFolder]) -> None:
    """See that nothing is in two of `plugins`, as itself or inside a merge."""
    for one, other in combinations(plugins, 2):
        for digest in sorted({one.digest, *one.holds} & {other.digest, *other.holds}):
            itself = next((repr(plugin.name) for plugin in plugins if plugin.digest == digest), digest[:16])
            raise BadSetting(f"plugin {itself} is present twice", where=f"in {one.name} and in {other.name}",
                             mend="Leave one of them out.")  # fmt: skip
