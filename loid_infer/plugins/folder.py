"""Plugins by name and by digest: the folders under `exports/plugins/`, and which of them an encoder rests on.

Knows what a plugin's manifest says of lineage; not how a plugin is trained or merged, and not what its delta holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loid_infer.artifact import MANIFEST, new_folder, read_manifest
from loid_infer.errors import BadArtifact, BadSetting
from loid_infer.plugins.delta import Part, read_delta
from loid_infer.settings import Workspace
from loid_infer.types import Progress

KIND = "plugin"
_LISTS = ("on", "holds", "parents", "trained_on")


@dataclass(frozen=True, slots=True)
class PluginFolder:
    """A finished plugin."""

    name: str  # of its folder
    path: Path
    digest: str  # of its delta
    manifest: dict[str, Any]

    @property
    def method(self) -> str:
        """`train`, `import`, or how it was merged."""
        return str(self.manifest["method"])

    @property
    def base_name(self) -> str:
        """The name of the base it adds to."""
        return str(self.manifest["base"]["name"])

    @property
    def base_digest(self) -> str:
        """The digest of that base's plain weights."""
        return str(self.manifest["base"]["digest"])

    @property
    def on(self) -> tuple[str, ...]:
        """Digests of all plugins frozen beneath it, however deep, sorted."""
        return tuple(self.manifest["on"])

    @property
    def holds(self) -> tuple[str, ...]:
        """Digests of all that was summed into it, however deep, sorted; empty unless merged."""
        return tuple(self.manifest["holds"])

    @property
    def trained_on(self) -> tuple[dict[str, Any], ...]:
        """Domain, table and split of everything it saw."""
        return tuple(self.manifest["trained_on"])

    def delta(self) -> dict[str, Part]:
        """What it adds to which tensor; see `read_delta`."""
        return read_delta(self.path)


def read_plugin(path: Path, mend: str, *, check_files: bool = True) -> PluginFolder:
    """The plugin in the folder `path`.

    Args:
        mend: the command that makes it anew, for the message.
        check_files: whether its files are compared with their digests; False reads the manifest only.

    Raises:
        BadArtifact: no manifest, one that lacks a field, or a file that is missing or altered.
    """
    manifest = read_manifest(path, KIND, mend, check_files=check_files)
    base = manifest.get("base")
    strings = [("digest", manifest.get("digest")), ("method", manifest.get("method"))]
    strings += [(f"base.{field}", base.get(field) if isinstance(base, dict) else None) for field in ("name", "digest")]
    wrong = [field for field, value in strings if not isinstance(value, str)]
    wrong += [field for field in _LISTS if not isinstance(manifest.get(field), list)]
    if wrong:
        raise BadArtifact("the manifest is not a plugin's", where=str(path / MANIFEST), expected=", ".join(wrong),
                          got="something else there, or nothing", mend=mend)  # fmt: skip
    return PluginFolder(path.name, path, manifest["digest"], manifest)


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
    return read_plugin(path, _again(name))


def readable_plugins(workspace: Workspace) -> list[PluginFolder]:
    """Every plugin whose manifest can be read, by name; their files are not looked at."""
    found = []
    for path in plugin_folders(workspace):
        try:
            found.append(read_plugin(path, "", check_files=False))
        except BadArtifact:  # said where that one is used; it is no reason to refuse the others
            continue
    return found


def find_by_digest(workspace: Workspace, digest: str, base_digest: str) -> PluginFolder | None:
    """The plugin with this delta on this base, whatever its name; the first by name where there are copies.

    Raises:
        BadArtifact: its files are altered.
    """
    for plugin in readable_plugins(workspace):
        if plugin.digest == digest and plugin.base_digest == base_digest:
            return read_plugin(plugin.path, _again(plugin.name))
    return None


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


def _again(name: str) -> str:
    return f"Make plugin {name!r} again, with `loid-infer plugin train`, `merge` or `import`."


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
    for plugin in named:
        for digest in plugin.on:
            member = members.get(digest) or find_by_digest(workspace, digest, base_digest)
            if member is None:
                raise BadArtifact(
                    f"a plugin that {plugin.name!r} was trained on is gone",
                    where=str(workspace.plugins),
                    expected=f"a plugin with the digest {digest}",
                    got=", ".join(folder.name for folder in plugin_folders(workspace)) or "none",
                    mend=f"Bring its folder back (any name will do), or train {plugin.name!r} again.",
                )
            members[digest] = member
    chain = tuple(members[digest] for digest in sorted(members))
    refuse_twice(chain)
    return chain


def refuse_repeats(named: Sequence[PluginFolder]) -> None:
    """See that no plugin is named twice, under one name or two, and none that another named one was trained on.

    Raises:
        BadSetting: one is.
    """
    first: dict[str, PluginFolder] = {}
    for plugin in named:
        if plugin.digest in first:
            other = first[plugin.digest].name
            alike = "is named twice" if other == plugin.name else f"is the same as {other!r}"
            raise BadSetting(f"plugin {plugin.name!r} {alike}", where=str(plugin.path), mend="Name it once.")
        first[plugin.digest] = plugin
    for plugin in named:
        for digest in plugin.on:
            if digest in first:
                below = first[digest]
                raise BadSetting(f"plugin {below.name!r} is present twice: {plugin.name!r} was trained on it",
                                 where=str(below.path), mend=f"Leave {below.name!r} out.")  # fmt: skip


def refuse_twice(plugins: Sequence[PluginFolder]) -> None:
    """See that nothing is in `plugins` twice, as itself or inside a merge.

    Raises:
        BadSetting: something is.
    """
    count = Counter(digest for plugin in plugins for digest in {plugin.digest, *plugin.holds})
    for digest in sorted(digest for digest, n in count.items() if n > 1):
        where = [plugin.name for plugin in plugins if digest in (plugin.digest, *plugin.holds)]
        itself = next((repr(plugin.name) for plugin in plugins if plugin.digest == digest), digest[:16])
        raise BadSetting(f"plugin {itself} is present twice", where=f"in {' and in '.join(where)}",
                         mend="Leave one of them out.")  # fmt: skip
