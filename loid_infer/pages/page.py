"""The whole page, from what was found. It knows the order of things; each part knows itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from loid_infer.pages import wording
from loid_infer.pages.chapters import chapter
from loid_infer.pages.glance import cards
from loid_infer.pages.machinery import machinery
from loid_infer.pages.markup import Html, element
from loid_infer.pages.missing import Missing
from loid_infer.pages.records import Findings
from loid_infer.pages.style import document


def page(found: Findings, missing: Sequence[Missing], version: str) -> bytes:
    """The page as UTF-8. The same findings give the same bytes."""
    lone = found.domains[0] if len(found.domains) == 1 else ""
    chapters = {domain: "The head" if lone else domain for domain in found.domains}
    title = f"loid-infer: {lone}" if lone else "loid-infer: report"
    top = element(
        "header.top", element("p.eyebrow", "loid-infer report"), element("h1", lone or "What was measured"),
        element("p.lead", _lead(found)), element("nav", *_links(found, chapters, missing)),
    )  # fmt: skip
    body = [cards(found)] if found.domains else []
    body += [_left_out(found.left_out)] if found.left_out else []
    body += [
        chapter(found, domain, name, [one for one in missing if one.domain == domain])
        for domain, name in chapters.items()
    ]
    body.append(machinery(found, [one for one in missing if not one.domain]))
    return document(title, top, element("main", *body), _foot(version))


def _lead(found: Findings) -> str:
    domains = [(len(found.domains), "domain")] if len(found.domains) > 1 else []
    counts = [*domains, (len(found.heads), "head"), (len(found.encoders), "encoder"),
              (len(found.plugins), "plugin")]  # fmt: skip
    said = [f"{n} {name}{'' if n == 1 else 's'}" for n, name in counts if n]
    listed = " and ".join(filter(None, [", ".join(said[:-1]), said[-1]])) if said else "No head yet"
    text = f"{listed}. Errors are mean squared errors of ratings on test pairs; lower is better."
    synthetic = [name for name, table in found.tables.items() if table.synthetic]
    if synthetic:
        every = (
            "All reviews here are" if len(synthetic) == len(found.domains) else f"{', '.join(synthetic)}: reviews are"
        )
        text += f" {every} synthetic, so these figures say nothing of real data."
    return text


def _links(found: Findings, chapters: Mapping[str, str], missing: Sequence[Missing]) -> Iterator[Html]:
    there = [(f"domain-{domain}", name) for domain, name in chapters.items()]
    there += [("encoding", "Encoding")] if found.encodings else []
    there += [("parity", "Parity")] if found.encoders else []
    there += [("lineage", "Lineage")] if found.encoders or found.plugins or found.heads else []
    there += [("plugins", "Plugins")] if found.trained else []
    there += [("similarity", "Similarity")] if found.similarity else []
    there += [("missing", "Not measured")] if any(not one.domain for one in missing) else []
    return (element("a", said, at={"href": f"#{name}"}) for name, said in there)


def _left_out(problems: Sequence[str]) -> Html:
    rows = [element("li", problem) for problem in problems]
    return element("div.warning", element("strong", "Left out, because it cannot be read:"), element("ul", *rows))


def _foot(version: str) -> Html:
    said = f"Written by loid-infer {version} from the files of the workspace. {wording.FOOT}"
    return element("footer", element("div.rule", said))
