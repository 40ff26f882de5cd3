"""A domain's chapter: how good its head is, what makes it so, where it errs, and how it was trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loid_infer.heads.comparison import BASELINES, HEAD, OWN_TEXT, ModelErrors
from loid_infer.pages import wording
from loid_infer.pages.glance import paper_tag, tags
from loid_infer.pages.intervals import Difference, differences
from loid_infer.pages.markup import NOTHING, Content, Html, element, joined, table
from loid_infer.pages.missing import Missing, missing_list
from loid_infer.pages.plot import Point, figure, legend
from loid_infer.pages.points import SERIES, Errors, buckets, calibration, learning_curve
from loid_infer.pages.records import Evaluation, Findings, HeadRecord, History, PluginRecord

_BUCKETS = (("history", "Error by length of history", "reviews", wording.BY_HISTORY),
            ("rating", "Error by rating", "rating", wording.BY_RATING))  # fmt: skip


def chapter(found: Findings, domain: str, title: str, missing: Sequence[Missing]) -> Html:
    """Everything of one domain, below `title`; what was not measured is named with the command that would."""
    evaluation = found.evaluations.get(domain)
    parts: list[Content] = [element("h2", title, tags(found, domain), at={"id": f"domain-{domain}"})]
    if evaluation:
        parts += _evaluation(evaluation)
    for other in found.further.get(domain, ()):
        parts.append(
            element("h3", "Split by time" if other.split == "time" else "Random splits", paper_tag(other.protocol))
        )
        parts += _evaluation(other)
    parts += _heads([head for head in found.heads if head.domain == domain])
    parts.append(missing_list(missing))
    return element("section", *parts)


def _evaluation(found: Evaluation) -> Iterator[Html]:
    splits = "One split" if found.n_seeds == 1 else f"{found.n_seeds} splits"
    if found.split == "time":
        splits = f"One split by time, {found.n_seeds} seed{'' if found.n_seeds == 1 else 's'}"
    given = any(model.against_bias_low is not None for model in found.summary)
    intervals = f"95 % intervals are over {found.interval}." if given else "One split gives no intervals."
    yield element("p.soft", f"{splits}; {found.preset} preset, {found.protocol} protocol. {intervals}")
    if found.protocol == "paper":
        yield element("p.warning", wording.PAPER)
    if found.bias:
        yield _accuracy(found)
    if found.variants and found.head:
        yield _ablation(found)
    yield element("div.pair", *_places(found))
    if found.runs:
        yield _runs(found)


def _accuracy(found: Evaluation) -> Html:
    def row(model: ModelErrors) -> Difference:
        odd = model.model == OWN_TEXT
        return Difference(
            _named(found, model), model.mse, model.against_bias, model.against_bias_low, model.against_bias_high,
            _parts(found, model, BASELINES[1]), color="blue" if HEAD in model.model else "green", odd=odd,
            far=odd or model.model == BASELINES[0], reference=model.model == BASELINES[1],
        )  # fmt: skip

    rows = [row(model) for model in found.models]
    drawn = differences(rows, "Differences of test MSE to the bias baseline")
    how = " ".join([wording.ACCURACY, *([wording.OWN_TEXT] if any(one.odd for one in rows) else [])])
    return figure("Accuracy", "Test MSE of each model less that of the biases, on the same pairs", how, drawn)


def _ablation(found: Evaluation) -> Html:
    rows = [
        Difference(_named(found, model), model.mse, model.against_head, model.against_head_low, model.against_head_high,
                   _parts(found, model, HEAD), color="violet")
        for model in found.variants
    ]  # fmt: skip
    drawn = differences(rows, "Differences of test MSE to the head")
    return figure(
        "Ablations",
        "Test MSE of each variant less that of the head as it is, on the same pairs",
        wording.ABLATION,
        drawn,
    )


def _named(found: Evaluation, model: ModelErrors) -> str:
    name = "head, paper protocol" if model.model == HEAD and found.protocol == "paper" else model.model
    return f"{name} · {model.encoder}" if len(found.encoders) > 1 and model.encoder else name


def _parts(found: Evaluation, model: ModelErrors, other: str) -> tuple[float, ...]:
    """The differences on each split; none where there is one, or where an encoder goes by several names."""
    compared: dict[int, float] = {}
    for run in found.runs:  # the first encoder's head is the one that others are compared with
        if run.model == other:
            compared.setdefault(run.seed, run.mse)
    mine = [run for run in found.runs if run.model == model.model and run.encoder == model.encoder]
    if found.n_seeds < 2 or len({run.seed for run in mine}) != len(mine):
        return ()
    return tuple(run.mse - compared[run.seed] for run in mine if run.seed in compared)


def _places(found: Evaluation) -> Iterator[Html]:
    if found.calibration:
        points = [(one.predicted, one.rated, one.n_test) for one in found.calibration]
        drawn = calibration(points, "Mean rating by mean prediction")
        yield figure("Calibration", "Predicted against true ratings", wording.CALIBRATION, drawn)
    signs = legend(*((kind, f"{color}.fill", name) for name, kind, color in SERIES))
    by_kind = []
    for by, title, axis, how in _BUCKETS:
        rows = [Errors(one.bucket, one.n_test, (one.global_mean, one.bias, one.mf, one.head))
                for one in found.buckets if one.by == by]  # fmt: skip
        if rows:
            by_kind.append(figure(title, "", how, signs, buckets(rows, axis, f"Test MSE by {axis}")))
    if by_kind:
        yield element("div.stack", *by_kind)


def _runs(found: Evaluation) -> Html:
    def said(value: float | None, digits: int = 4) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    rows = [(run.model, run.encoder or "", str(run.seed), f"{run.n_test:,}", said(run.mse), said(run.mae),
             said(run.train_mse), said(run.network_share, 2)) for run in found.runs]  # fmt: skip
    head = ("model", "encoder", "split", "test pairs", "MSE", "MAE", "training MSE", "network share")
    return element("details", element("summary", f"All {len(rows)} runs"), table(head, rows, n_left=2))


def _heads(heads: Sequence[HeadRecord]) -> Iterator[Html]:
    if not heads:
        return
    rows = [
        (joined([head.head, paper_tag(head.protocol)]), head.encoder, head.preset,
         f"{head.split}, seed {head.split_seed}",
         f"{head.test_mse:.4f}", f"{head.baselines.bias:.4f}", f"{head.test_mae:.4f}", f"{head.network_share:.2f}",
         f"{head.best_epoch} of {head.epochs}")
        for head in heads
    ]  # fmt: skip
    columns = ("head", "encoder", "preset", "split", "test MSE", "biases", "MAE", "network share", "best epoch")
    listed = table(columns, rows, n_left=4)
    yield element("div.panel", element("h3", "Fitted heads"), listed, element("p.how", wording.HEADS))
    drawn = [
        curve(f"Learning curve of {head.head}", f"Encoder {head.encoder}", head.history, "training pairs seen")
        for head in heads
    ]
    yield _curves(drawn)


def plugin_curves(plugins: Sequence[PluginRecord]) -> Html:
    """The learning curves of all trained plugins that have kept one."""

    def drawn(plugin: PluginRecord) -> Html:
        on = ", over other plugins" if plugin.on else ""
        taught = f"Ratings of {', '.join(plugin.domains)} from a review's own text{on}"
        variance = plugin.metrics.test_variance
        reference = None if variance is None else ("variance of test ratings", variance)
        return curve(f"Learning curve of {plugin.name}", taught, plugin.history, "", reference)

    return _curves([drawn(plugin) for plugin in plugins])


def _curves(drawn: Sequence[Html]) -> Html:
    return element("div.pair", *drawn) if any(one is not NOTHING for one in drawn) else NOTHING


def curve(title: str, sub: str, history: History | None, unit: str, reference: tuple[str, float] | None = None) -> Html:
    """A run's curve; nothing where none was kept, or no point of it is finite.

    Args:
        unit: of the evaluations' steps, where losses are of epochs; empty where both are counted in steps.
        reference: name and height of a horizontal line.
    """
    if history is None:
        return NOTHING
    errors = [(at, value) for at, value in zip(history.eval_steps, history.eval_mse, strict=True) if value is not None]
    last = max(history.eval_steps, default=0.0)
    every = last / len(history.losses) if unit and last and history.losses else 1.0
    losses: list[Point] = [(every * (i + 1), value) for i, value in enumerate(history.losses) if value is not None]
    if not losses and not errors:
        return NOTHING
    best = f", best {min(value for _, value in errors):.4f}" if errors else ""
    signs = [("line", "orange.stroke", "training"), ("circle", "blue.fill", f"validation{best}")]
    signs += [("line", "axis.dashed", f"{reference[0]} {reference[1]:.4f}")] if reference else []
    drawn = learning_curve(losses, errors, unit or "step", title, reference and reference[1])
    return figure(title, sub, wording.CURVE, legend(*signs), drawn)
