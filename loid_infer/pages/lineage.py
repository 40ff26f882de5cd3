"""What every base, plugin, encoder and head of a workspace was made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from loid_infer.pages.records import Findings, PluginRecord

_ABSENT = "(not in this workspace)"


def lineage(findings: Findings) -> Iterator[tuple[str, str, str, str]]:
    """Kind, name, details, and what it was made from: of everything, each after what it was made from."""
    names = {one.digest: f"{one.name} {_ABSENT}" for encoder in findings.encoders for one in encoder.plugins}
    names |= {one.digest: f"{one.name} {_ABSENT}" for plugin in findings.plugins for one in plugin.parents}
    names |= {plugin.digest: plugin.name for plugin in findings.plugins}

    def chain(base: str, digests: Iterable[str]) -> str:
        return " + ".join([base, *sorted(names.get(digest, f"{digest[:16]} {_ABSENT}") for digest in digests)])

    bases = [*(plugin.base for plugin in findings.plugins), *(encoder.base for encoder in findings.encoders)]
    for digest, name in sorted({base.digest: base.name for base in bases}.items()):
        yield "base", name, f"digest {digest[:8]}", ""
    # `on` and `holds` list all ancestors, so a plugin has more of them than any of its ancestors.
    for plugin in sorted(findings.plugins, key=lambda one: (len(one.on), len(one.holds), one.name)):
        kind, details = _described(plugin)
        merged = " + ".join(sorted(names[parent.digest] for parent in plugin.parents))
        made_from = chain(plugin.base.name, plugin.on)
        yield kind, plugin.name, details, f"{made_from}; merged of {merged}" if merged else made_from
    for encoder in findings.encoders:
        details = f"{encoder.card.precision}, {encoder.card.max_tokens} tokens"
        yield "encoder", encoder.name, details, chain(encoder.base.name, (plugin.digest for plugin in encoder.plugins))
    fingerprints = {encoder.name: encoder.fingerprint for encoder in findings.encoders}
    for head in findings.heads:
        paper = ", paper protocol" if head.protocol == "paper" else ""
        current = fingerprints.get(head.encoder)
        # An encoder that was exported again since is not what the head was fitted on.
        exported_again = "" if current == head.fingerprint else ", before it was exported anew"
        state = f" {_ABSENT}" if current is None else exported_again
        yield f"head{paper}", head.head, head.domain, f"{head.encoder}{state}"


def _described(plugin: PluginRecord) -> tuple[str, str]:
    domains = " + ".join(plugin.domains)
    if plugin.method == "train":
        return "plugin, trained", f"{domains}, rank {plugin.rank}" if plugin.rank else domains
    if plugin.method == "import":
        return "plugin, imported", domains or "origin unknown"
    return f"plugin, {plugin.method}", domains
