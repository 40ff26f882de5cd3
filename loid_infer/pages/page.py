"""The whole page, from what was found. It knows the order of things; each part knows itself."""

from __future__ import annotations

from collections.abc import Sequence

from loid_infer.pages import wording
from loid_infer.pages.chapters import chapter
from loid_infer.pages.glance import card, tags
from loid_infer.pages.machinery import machinery
from loid_infer.pages.markup import NOTHING, Html, element
from loid_infer.pages.records import Findings
from loid_infer.pages.style import document


def page(found: Findings, version: str) -> bytes:
    """The page as UTF-8. The same findings give the same bytes."""
    lone = found.domains[0].name if len(found.domains) == 1 else ""
    parts = [(f"domain-{one.name}", "The head" if lone else one.name, tags(one), chapter(one)) for one in found.domains]
    parts += [(title.split()[0].lower(), title, NOTHING, content) for title, content in machinery(found)]
    links = (element("a", title, at={"href": f"#{name}"}) for name, title, *_ in parts)
    top = element(
        "header.top",
        element("p.eyebrow", "loid-infer report"),
        element("h1", lone or "What was measured"),
        element("p.lead", _lead(found)),
        element("nav", *links),
    )
    body = [element("div.cards", *map(card, found.domains))]
    body += [_left_out(found.left_out)] if found.left_out else []
    body += [
        element("section", element("h2", title, tag, at={"id": name}), content) for name, title, tag, content in parts
    ]
    said = f"Written by loid-infer {version} from the files of the workspace. {wording.FOOT}"
    return document(f"loid-infer: {lone or 'report'}", top, element("main", *body), element("footer", said))


def _lead(found: Findings) -> str:
    domains = [(len(found.domains), "domain")] if len(found.domains) > 1 else []
    counts = [*domains, (len(found.heads), "head"), (len(found.encoders), "encoder"), (len(found.plugins), "plugin")]
    said = [f"{n} {name}{'' if n == 1 else 's'}" for n, name in counts if n]
    listed = " and ".join(filter(None, [", ".join(said[:-1]), said[-1]])) if said else "No head yet"
    text = f"{listed}. Errors are mean squared errors of ratings on test pairs; lower is better."
    synthetic = [one.name for one in found.domains if one.table and one.table.synthetic]
    if synthetic:
        every = (
            "All reviews here are" if len(synthetic) == len(found.domains) else f"{', '.join(synthetic)}: reviews are"
        )
        text += f" {every} synthetic, so these figures say nothing of real data."
    return text


def _left_out(problems: Sequence[str]) -> Html:
    rows = [element("li", problem) for problem in problems]
    return element("div.warning", element("strong", "Left out, because it cannot be read:"), element("ul", *rows))
