"""What rests on what, as boxes and lines: base, plugins, encoders, heads. Knows manifests, not how a graph is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from loid_infer.pages.graph import Box, Line
from loid_infer.pages.records import EncoderRecord, Findings, HeadRecord, PluginRecord

_SHORT = 8


@dataclass(frozen=True, slots=True)
class Lineage:
    """A graph."""

    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]


def lineage(found: Findings) -> Lineage:
    """The graph of all plugins, encoders and heads, empty without any; what is named but not there is absent in it."""
    plugins = {plugin.digest: plugin for plugin in reversed(found.plugins)}
    lines = [*_plugin_lines(plugins), *_encoder_lines(found.encoders, plugins), *_head_lines(found)]
    bases = {plugin.base.digest: plugin.base.name for plugin in found.plugins}
    bases |= {encoder.base.digest: encoder.base.name for encoder in found.encoders}
    boxes = [Box(f"base:{digest}", 0, name, "base", f"digest {digest[:_SHORT]}", "gray") for digest, name in
             sorted(bases.items())]  # fmt: skip
    boxes += [_plugin_box(plugin) for plugin in plugins.values()]
    boxes += [Box(f"encoder:{one.name}", 0, one.name, "encoder", f"{one.card.precision}, {one.card.max_tokens} tokens",
                  "blue") for one in found.encoders]  # fmt: skip
    boxes += [_head_box(head) for head in found.heads]
    there = {box.key for box in boxes}
    names = {f"plugin:{named.digest}": named.name for one in found.encoders for named in one.plugins}
    names |= {f"plugin:{named.digest}": named.name for one in found.plugins for named in one.parents}
    for key in sorted({key for line in lines for key in (line.start, line.end)} - there):
        kind, name = key.split(":", 1)
        boxes.append(Box(key, 0, names.get(key, name[: 2 * _SHORT]), kind, "not in this workspace", "gray", True))
    placed = tuple(_in_columns(boxes, lines))
    columns = {box.key: box.column for box in placed}
    return Lineage(placed, tuple(line for line in lines if columns[line.start] < columns[line.end]))


def _plugin_box(plugin: PluginRecord) -> Box:
    taught = " + ".join(plugin.domains)
    if plugin.method == "train":
        rank = f", rank {plugin.settings.rank}" if plugin.settings.rank else ""
        return Box(f"plugin:{plugin.digest}", 0, plugin.name, "plugin, trained", f"{taught}{rank}", "orange")
    if plugin.method == "import":
        return Box(f"plugin:{plugin.digest}", 0, plugin.name, "plugin, imported", taught or "origin unknown", "orange")
    return Box(f"plugin:{plugin.digest}", 0, plugin.name, f"plugin, {plugin.method}", taught, "violet")


def _head_box(head: HeadRecord) -> Box:
    paper = ", paper protocol" if head.protocol == "paper" else ""
    return Box(f"head:{head.head}", 0, head.head, f"head{paper}", f"{head.domain}", "green")


def _tops(digests: Sequence[str], plugins: Mapping[str, PluginRecord]) -> list[str]:
    """Those of a chain that no other of the chain rests on: the others are reached through them."""
    beneath = {under for digest in digests if digest in plugins for under in plugins[digest].on}
    return sorted(set(digests) - beneath)


def _plugin_lines(plugins: Mapping[str, PluginRecord]) -> Iterator[Line]:
    for digest, plugin in sorted(plugins.items()):
        end = f"plugin:{digest}"
        parents = sorted({parent.digest for parent in plugin.parents} - {digest})
        yield from (Line(f"plugin:{parent}", end, dashed=True) for parent in parents)
        under = _tops(plugin.on, plugins)
        if not parents:  # a merge rests on what its parents rest on
            yield from (Line(f"plugin:{one}", end) for one in under if one != digest)
            if not under:
                yield Line(f"base:{plugin.base.digest}", end)


def _encoder_lines(encoders: Sequence[EncoderRecord], plugins: Mapping[str, PluginRecord]) -> Iterator[Line]:
    for encoder in encoders:
        chain = _tops([plugin.digest for plugin in encoder.plugins], plugins)
        starts = [f"plugin:{digest}" for digest in chain] or [f"base:{encoder.base.digest}"]
        yield from (Line(start, f"encoder:{encoder.name}") for start in starts)


def _head_lines(found: Findings) -> Iterator[Line]:
    current = {encoder.name: encoder.fingerprint for encoder in found.encoders}
    for head in found.heads:
        # One that was exported anew since is not what the head was fitted on.
        same = current.get(head.encoder) in (None, head.fingerprint)
        start = head.encoder if same else f"{head.encoder}, before"
        yield Line(f"encoder:{start}", f"head:{head.head}")


def _in_columns(boxes: Sequence[Box], lines: Sequence[Line]) -> Iterator[Box]:
    """Bases, then plugins by how much lies beneath them, then all encoders, then all heads; no column is empty."""
    depth = {box.key: 0 if box.key.startswith("base:") else 1 for box in boxes}
    for _ in boxes:  # enough for the longest chain, and an end where an altered manifest makes a circle
        for line in lines:
            if line.end.startswith("plugin:"):
                depth[line.end] = max(depth[line.end], min(depth[line.start] + 1, len(boxes)))
    depth |= {box.key: len(boxes) + 1 for box in boxes if box.key.startswith("encoder:")}
    depth |= {box.key: len(boxes) + 2 for box in boxes if box.key.startswith("head:")}
    column = {found: number for number, found in enumerate(sorted(set(depth.values())))}
    yield from (replace(box, column=column[depth[box.key]]) for box in boxes)
