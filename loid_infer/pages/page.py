"""Renders the report's page from its templates."""

from __future__ import annotations

import re

from jinja2 import Environment, PackageLoader, StrictUndefined

from loid_infer.encoders.manifest import GATES
from loid_infer.heads.comparison import BASELINES, HEAD, OWN_TEXT
from loid_infer.pages import plots
from loid_infer.pages.lineage import lineage
from loid_infer.pages.missing import missing_of_domain, missing_shared
from loid_infer.pages.records import Findings

# Neither HTML nor UTF-8 can have these characters; a JSON file can.
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def page(findings: Findings, version: str) -> bytes:
    """The page as UTF-8. The same findings give the same bytes."""
    environment = Environment(
        loader=PackageLoader("loid_infer.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "signed": _signed}
    environment.globals |= {
        "plots": plots,
        "GATES": GATES,
        "BASELINES": list(BASELINES),
        "HEAD": HEAD,
        "OWN_TEXT": OWN_TEXT,
        "missing_of_domain": missing_of_domain,
    }
    text = environment.get_template("report.html.jinja").render(
        findings=findings, version=version, lineage=list(lineage(findings)), missing=list(missing_shared(findings))
    )
    return _NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", text).encode()


def _number(value: float | None, form: str = ".4f") -> str:
    """`value` as the format specification `form` says; nothing for None."""
    return "" if value is None else format(value, form)


def _signed(value: float) -> str:
    """`value` with its sign, a true minus; without one where it rounds to zero."""
    if abs(value) < 0.00005:
        return "0.0000"
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")
