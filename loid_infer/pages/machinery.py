"""What the domains share: how fast texts became vectors, whether these are right, what rests on what, what is alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loid_infer.encoders.proof import GATES
from loid_infer.pages import wording
from loid_infer.pages.chapters import plugin_curves
from loid_infer.pages.graph import graph
from loid_infer.pages.lineage import lineage
from loid_infer.pages.markup import Content, Html, element, joined, table
from loid_infer.pages.missing import Missing, missing_list
from loid_infer.pages.plot import figure, legend
from loid_infer.pages.points import Distance, distances
from loid_infer.pages.records import EncoderRecord, EncodingRecord, Findings, Similarity

_STAGES = ("read", "tokenize", "forward", "commit")


def machinery(found: Findings, missing: Sequence[Missing]) -> Html:
    """Encoding, parity, lineage, what plugins learnt, similarity; what was not measured is named with its command."""
    parts: list[Content] = []
    if found.encodings:
        parts += [_title("Encoding", "encoding"), _throughput(found.encodings), _stages(found.encodings)]
    if found.encoders:
        parts += [_title("Parity", "parity"), _parity(found.encoders)]
    shape = lineage(found)
    if shape.boxes:
        drawn = graph(shape.boxes, shape.lines, "Lineage of plugins, encoders and heads")
        shown = figure("What rests on what", "Base, plugins, encoders and heads", wording.LINEAGE, drawn)
        parts += [_title("Lineage", "lineage"), shown]
    if found.trained:
        parts += [_title("What plugins have learnt", "plugins"), _plugins(found), plugin_curves(found.trained)]
    if found.similarity:
        parts += [_title("Similarity of domains", "similarity"), _similar(found.similarity)]
    if missing:
        parts += [_title("What else could be here", "missing"), missing_list(missing)]
    return element("section", *parts)


def _title(said: str, name: str) -> Html:
    return element("h2", said, at={"id": name})


def _panel(title: str, how: str, listed: Html) -> Html:
    return element("div.panel", element("h3", title), listed, element("p.how", how))


def _bar(said: str, share: float, note: str = "") -> Html:
    filled = element("i", at={"style": f"width:{100 * min(1.0, max(0.0, share)):.1f}%"})
    noted: list[Content] = [" ", element("small", note)] if note else []
    return joined([said, *noted, element("div.bar", filled)])


def _throughput(runs: Sequence[EncodingRecord]) -> Html:
    fastest = max(run.tokens_per_s for run in runs) or 1.0

    def row(run: EncodingRecord) -> Iterator[Content]:
        yield _run(run)
        yield _bar(f"{run.tokens_per_s:,.0f}", run.tokens_per_s / fastest)
        # Not the record's texts_per_s, in which texts that were stored already count as well.
        texts_per_s = run.n_encoded / (run.seconds or 1.0)
        yield from (f"{texts_per_s:,.0f}", f"{run.n_encoded:,}", f"{run.n_tokens:,}", f"{run.padding:.1%}",
                    f"{run.n_truncated:,}", f"{run.peak_rss_bytes / 2**20:,.0f}")  # fmt: skip

    columns = ("run", "tokens/s", "texts/s", "texts encoded", "tokens", "padding", "cut off", "peak MiB")
    return _panel("Throughput", wording.THROUGHPUT, table(columns, map(row, runs), n_left=2))


def _stages(runs: Sequence[EncodingRecord]) -> Html:
    def row(run: EncodingRecord) -> Iterator[Content]:
        whole = run.seconds or 1.0
        yield _run(run)
        for stage in _STAGES:
            seconds: float = getattr(run.stages, f"{stage}_s")
            yield _bar(f"{seconds:.2f} s", seconds / whole, f"{seconds / whole:.0%}")
        yield from (f"{run.seconds:.2f} s", f"{run.setup_s:.2f} s")

    columns = ("run", *_STAGES, "whole run", "setup")
    return _panel("Time by stage", wording.STAGES, table(columns, map(row, runs), n_left=1 + len(_STAGES)))


def _run(run: EncodingRecord) -> Html:
    detail = f"{run.runtime}: {run.runtime_detail}"
    return joined([f"{run.domain} · {run.encoder}", element("br"), element("small", detail)])


def _parity(encoders: Sequence[EncoderRecord]) -> Html:
    rows, drawn = [], []
    for encoder in encoders:
        which, least = GATES.get(encoder.card.precision, ("cos_min", None))
        for runtime, parity in sorted(encoder.parity.runtimes.items()):
            held = parity.cos_mean if which == "cos_mean" else parity.cos_min
            passed = encoder.parity.passed if least is None else held >= least
            gate = None if least is None else 1 - least
            drawn.append(Distance(encoder.name, runtime, 1 - parity.cos_min, 1 - parity.cos_mean, gate, passed))
            rows.append((encoder.name, encoder.card.precision, runtime, encoder.parity.gate, f"{parity.cos_min:.7f}",
                         f"{parity.cos_mean:.7f}", f"{parity.max_abs:.2g}", str(parity.n_texts)))  # fmt: skip
    if not drawn:
        return element("div.missing", "The exports name no runtime that was measured.")
    signs = legend(("circle", "blue.fill", "worst text"), ("circle", "blue.hollow", "mean of the texts"),
                   ("line", "red.stroke", "gate"))  # fmt: skip
    shown = distances(drawn, "1 − cosine, less is better", "Distance of each runtime to the reference")
    columns = ("encoder", "precision", "runtime", "gate", "worst cosine", "mean cosine", "largest difference", "texts")
    figures = element("details", element("summary", "The same in figures"), table(columns, rows, n_left=4))
    return joined([figure("Distance to the reference", "", wording.PARITY, signs, shown), figures])


def _plugins(found: Findings) -> Html:
    names = {plugin.digest: plugin.name for plugin in found.plugins}
    rows = []
    for plugin in found.trained:
        test, variance = plugin.metrics.test_mse or 0.0, plugin.metrics.test_variance
        under = sorted(names.get(digest, digest[:8]) for digest in plugin.on)
        rows.append((plugin.name, ", ".join(plugin.domains), ", ".join(under) or "the plain base", f"{test:.4f}",
                     "" if variance is None else f"{variance:.4f}",
                     "" if not variance else f"{test / variance:.2f}"))  # fmt: skip
    columns = ("plugin", "domain", "over", "test MSE", "variance", "ratio")
    return _panel("Trained plugins", wording.PLUGINS, table(columns, rows, n_left=3))


def _similar(found: Similarity) -> Html:
    low, high = min(map(min, found.matrix)), max(map(max, found.matrix))
    room = max(high - low, 0.1)  # smaller differences are not painted as large ones

    def cell(value: float) -> Html:
        strength = 0.06 + 0.5 * (value - low) / room
        return element("td", f"{value:.3f}", at={"style": f"background:rgb(40 130 200/{strength:.3f})"})

    head = element("tr", element("th"), *(element("th", domain) for domain in found.domains))
    rows = [element("tr", element("th", domain), *map(cell, row))
            for domain, row in zip(found.domains, found.matrix, strict=True)]  # fmt: skip
    drawn = element("div.wide", element("table.heat", element("thead", head), element("tbody", *rows)))
    of = (f"Mean cosine over {found.n_texts} x {found.n_texts} reviews; {found.pooling} pooling of {found.base}, "
          f"at most {found.max_tokens} tokens, seed {found.seed}.")  # fmt: skip
    return figure("How alike domains are to the plain base", of, wording.SIMILARITY, drawn)
