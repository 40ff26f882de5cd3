"""What the domains share: how fast texts became vectors, whether these are right, what rests on what, what is alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loid_infer.encoders.manifest import GATES
from loid_infer.pages import wording
from loid_infer.pages.chapters import plugin_curves
from loid_infer.pages.lineage import lineage
from loid_infer.pages.markup import Content, Html, element, joined, table
from loid_infer.pages.missing import missing_besides, missing_list
from loid_infer.pages.plot import figure
from loid_infer.pages.records import EncoderRecord, EncodingRecord, Findings, PluginRecord, Similarity

_STAGES = ("read", "tokenize", "forward", "commit")


def machinery(found: Findings) -> Iterator[tuple[str, Html]]:
    """Title and content: encoding, parity, lineage, what plugins learnt, similarity, and what was not measured."""
    if found.encodings:
        yield "Encoding", joined([_throughput(found.encodings), _stages(found.encodings)])
    if found.encoders:
        yield "Parity", _parity(found.encoders)
    if rows := list(lineage(found)):
        columns = ("what", "name", "of", "rests on")
        yield "Lineage", figure("What rests on what", "", wording.LINEAGE, table(columns, rows, n_left=4))
    if found.trained:
        yield "Plugins", joined([_plugins(found.trained), plugin_curves(found.trained)])
    if found.similarity:
        yield "Similarity", _similar(found.similarity)
    if missing := list(missing_besides(found)):
        yield "Not measured", missing_list(missing)


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
    return figure("Throughput", "", wording.THROUGHPUT, table(columns, map(row, runs), n_left=2))


def _stages(runs: Sequence[EncodingRecord]) -> Html:
    def row(run: EncodingRecord) -> Iterator[Content]:
        whole = run.seconds or 1.0
        yield _run(run)
        for stage in _STAGES:
            seconds: float = getattr(run.stages, f"{stage}_s")
            yield _bar(f"{seconds:.2f} s", seconds / whole, f"{seconds / whole:.0%}")
        yield from (f"{run.seconds:.2f} s", f"{run.setup_s:.2f} s")

    columns = ("run", *_STAGES, "whole run", "setup")
    return figure("Time by stage", "", wording.STAGES, table(columns, map(row, runs), n_left=1 + len(_STAGES)))


def _run(run: EncodingRecord) -> Html:
    detail = f"{run.runtime}: {run.runtime_detail}"
    return joined([f"{run.domain} · {run.encoder}", element("br"), element("small", detail)])


def _parity(encoders: Sequence[EncoderRecord]) -> Html:
    def row(encoder: EncoderRecord, runtime: str) -> Iterator[Content]:
        parity, precision = encoder.parity.runtimes[runtime], encoder.card.precision
        yield from (encoder.name, precision, runtime, encoder.parity.gate)
        passed = parity.passes(precision) if precision in GATES else encoder.parity.passed
        yield "passes" if passed else element("strong.bad", "misses its gate")
        yield from (f"{parity.cos_min:.7f}", f"{parity.cos_mean:.7f}", f"{parity.max_abs:.2g}", str(parity.n_texts))

    rows = [row(encoder, runtime) for encoder in encoders for runtime in sorted(encoder.parity.runtimes)]
    if not rows:
        return figure("Distance to the reference", "", wording.PARITY, element("p", wording.NO_RUNTIME))
    columns = ("encoder", "precision", "runtime", "gate", "", "worst cosine", "mean cosine", "largest difference",
               "texts")  # fmt: skip
    return figure("Distance to the reference", "", wording.PARITY, table(columns, rows, n_left=5))


def _plugins(plugins: Sequence[PluginRecord]) -> Html:
    def row(plugin: PluginRecord) -> Iterator[Content]:
        test, variance = plugin.metrics.test_mse or 0.0, plugin.metrics.test_variance
        yield from (plugin.name, ", ".join(plugin.domains), f"{test:.4f}")
        yield from (f"{variance:.4f}", f"{test / variance:.2f}") if variance else ("", "")

    columns = ("plugin", "domain", "test MSE", "variance", "ratio")
    return figure("Trained plugins", "", wording.PLUGINS, table(columns, map(row, plugins), n_left=2))


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
