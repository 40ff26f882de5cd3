"""What rests on what: bases, plugins, encoders and heads, each with all that is beneath it. Knows manifests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from loid_infer.pages.records import Findings, PluginRecord

_ABSENT = "(not in this workspace)"


def lineage(found: Findings) -> Iterator[tuple[str, str, str, str]]:
    """Kind, name, what to know of it, and what it rests on: of everything, each below what it rests on."""
    here = {plugin.digest: plugin.name for plugin in found.plugins}
    named = {one.digest: f"{one.name} {_ABSENT}" for encoder in found.encoders for one in encoder.plugins}
    named |= {one.digest: f"{one.name} {_ABSENT}" for plugin in found.plugins for one in plugin.parents}
    names = named | here

    def chain(base: str, digests: Iterable[str]) -> str:
        return " + ".join([base, *sorted(names.get(digest, f"{digest[:16]} {_ABSENT}") for digest in digests)])

    bases = [*(plugin.base for plugin in found.plugins), *(encoder.base for encoder in found.encoders)]
    for digest, name in sorted({base.digest: base.name for base in bases}.items()):
        yield "base", name, f"digest {digest[:8]}", ""
    # Both are known however deep, so what rests on another has more of them.
    for plugin in sorted(found.plugins, key=lambda one: (len(one.on), len(one.holds), one.name)):
        kind, note = _described(plugin)
        merged = " + ".join(sorted(names[parent.digest] for parent in plugin.parents))
        under = chain(plugin.base.name, plugin.on)
        yield kind, plugin.name, note, f"{under}; merged of {merged}" if merged else under
    for encoder in found.encoders:
        said = f"{encoder.card.precision}, {encoder.card.max_tokens} tokens"
        yield "encoder", encoder.name, said, chain(encoder.base.name, (plugin.digest for plugin in encoder.plugins))
    prints = {encoder.name: encoder.fingerprint for encoder in found.encoders}
    for head in found.heads:
        paper = ", paper protocol" if head.protocol == "paper" else ""
        at = prints.get(head.encoder)
        # One that was exported anew since is not what the head was fitted on.
        state = f" {_ABSENT}" if at is None else "" if at == head.fingerprint else ", before it was exported anew"
        yield f"head{paper}", head.head, head.domain, f"{head.encoder}{state}"


def _described(plugin: PluginRecord) -> tuple[str, str]:
    taught = " + ".join(plugin.domains)
    if plugin.method == "train":
        return "plugin, trained", f"{taught}, rank {plugin.rank}" if plugin.rank else taught
    if plugin.method == "import":
        return "plugin, imported", taught or "origin unknown"
    return f"plugin, {plugin.method}", taught
