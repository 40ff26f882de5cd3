"""A domain's chapter: how good its head is, what makes it so, where it errs, and how it was trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loid_infer.heads.comparison import BASELINES, HEAD, OWN_TEXT, ModelErrors
from loid_infer.pages import wording
from loid_infer.pages.glance import paper_tag
from loid_infer.pages.intervals import Difference, differences
from loid_infer.pages.markup import NOTHING, Html, element, joined, table
from loid_infer.pages.missing import missing_list, missing_of
from loid_infer.pages.plot import Point, figure, legend
from loid_infer.pages.points import calibration, learning_curve
from loid_infer.pages.records import Domain, Evaluation, HeadRecord, History, PluginRecord

_BUCKETS = (("history", "Error by length of history", "reviews", wording.BY_HISTORY),
            ("rating", "Error by rating", "rating", wording.BY_RATING))  # fmt: skip


def chapter(domain: Domain) -> Html:
    """Everything of one domain; what was not measured is named with the command that would."""
    parts: list[Html] = []
    for number, one in enumerate(domain.evaluations):
        title = "Split by time" if one.split == "time" else "Random splits"
        parts += [element("h3", title, paper_tag(one.protocol))] if number else []
        parts += _evaluation(one)
    parts += _heads(domain.heads) if domain.heads else []
    return joined([*parts, missing_list(missing_of(domain))])


def _evaluation(found: Evaluation) -> Iterator[Html]:
    splits = "One split" if found.n_seeds == 1 else f"{found.n_seeds} splits"
    if found.split == "time":
        splits = f"One split by time, {found.n_seeds} seed{'' if found.n_seeds == 1 else 's'}"
    given = any(model.against_bias_low is not None for model in found.summary)
    intervals = f"95 % intervals are over {found.interval}." if given else "One split gives no intervals."
    said = f"{splits}; encoder {' + '.join(found.encoders)}, {found.preset} preset, {found.protocol} protocol."
    yield element("p.soft", f"{said} {intervals}")
    if found.protocol == "paper":
        yield element("p.warning", wording.PAPER)
    if found.bias:
        yield _accuracy(found)
    if found.variants and found.named(HEAD):
        rows = [
            Difference(_named(found, model), model.mse, model.against_head, model.against_head_low,
                       model.against_head_high, _parts(found, model, HEAD), "violet")
            for model in found.variants
        ]  # fmt: skip
        yield figure("Ablations", "Test MSE of each variant less that of the head as it is, on the same pairs",
                     wording.ABLATION, differences(rows, "Differences of test MSE to the head"))  # fmt: skip
    yield element("div.pair", *_places(found))
    if found.runs:
        yield _runs(found)


def _accuracy(found: Evaluation) -> Html:
    def row(model: ModelErrors) -> Difference:
        color = "gray" if model.model in (OWN_TEXT, BASELINES[1]) else "blue" if HEAD in model.model else "green"
        return Difference(
            _named(found, model), model.mse, model.against_bias, model.against_bias_low, model.against_bias_high,
            _parts(found, model, BASELINES[1]), color, far=model.model in (OWN_TEXT, BASELINES[0]),
            reference=model.model == BASELINES[1],
        )  # fmt: skip

    models = [model for model in found.summary if model not in found.variants]
    drawn = differences([row(model) for model in models], "Differences of test MSE to the bias baseline")
    how = f"{wording.ACCURACY} {wording.OWN_TEXT}" if found.named(OWN_TEXT) else wording.ACCURACY
    return figure("Accuracy", "Test MSE of each model less that of the biases, on the same pairs", how, drawn)


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
    by_kind = []
    for by, title, axis, how in _BUCKETS:
        rows = [(one.bucket, f"{one.n_test:,}", *map(_digits, (one.global_mean, one.bias, one.mf, one.head)))
                for one in found.buckets if one.by == by]  # fmt: skip
        if rows:
            by_kind.append(figure(title, "Test MSE", how, table((axis, "pairs", *BASELINES, HEAD), rows)))
    if by_kind:
        yield element("div.stack", *by_kind)


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _runs(found: Evaluation) -> Html:
    rows = [(run.model, run.encoder or "", str(run.seed), f"{run.n_test:,}", _digits(run.mse), _digits(run.mae),
             _digits(run.train_mse), _digits(run.network_share)) for run in found.runs]  # fmt: skip
    head = ("model", "encoder", "split", "test pairs", "MSE", "MAE", "training MSE", "network share")
    return element("details", element("summary", f"All {len(rows)} runs"), table(head, rows, n_left=2))


def _heads(heads: Sequence[HeadRecord]) -> Iterator[Html]:
    rows = [
        (joined([head.head, paper_tag(head.protocol)]), head.encoder, head.preset,
         f"{head.split}, seed {head.split_seed}",
         f"{head.test_mse:.4f}", f"{head.baselines.bias:.4f}", f"{head.test_mae:.4f}", f"{head.network_share:.2f}",
         f"{head.best_epoch} of {head.epochs}")
        for head in heads
    ]  # fmt: skip
    columns = ("head", "encoder", "preset", "split", "test MSE", "biases", "MAE", "network share", "best epoch")
    yield figure("Fitted heads", "", wording.HEADS, table(columns, rows, n_left=4))
    drawn = [_curve(head.head, f"Encoder {head.encoder}", head.history, "training pairs seen") for head in heads]
    yield element("div.pair", *drawn)


def plugin_curves(plugins: Sequence[PluginRecord]) -> Html:
    """The learning curves of all trained plugins that have kept one."""

    def drawn(plugin: PluginRecord) -> Html:
        on = ", over other plugins" if plugin.on else ""
        taught = f"Ratings of {', '.join(plugin.domains)} from a review's own text{on}"
        return _curve(plugin.name, taught, plugin.history, "", plugin.metrics.test_variance)

    return element("div.pair", *map(drawn, plugins))


def _curve(name: str, sub: str, history: History | None, unit: str, variance: float | None = None) -> Html:
    """A run's curve; nothing where none was kept, or no point of it is finite.

    Args:
        unit: of the evaluations' steps, where losses are of epochs; empty where both are counted in steps.
        variance: of the test ratings, a horizontal line.
    """
    if history is None:
        return NOTHING
    errors = [(at, value) for at, value in zip(history.eval_steps, history.eval_mse, strict=True) if value is not None]
    last = max(history.eval_steps, default=0.0)
    every = last / len(history.losses) if unit and last and history.losses else 1.0
    losses: list[Point] = [(every * (i + 1), value) for i, value in enumerate(history.losses) if value is not None]
    if not losses and not errors:
        return NOTHING
    title = f"Learning curve of {name}"
    best = f", best {min(value for _, value in errors):.4f}" if errors else ""
    signs = [("orange.stroke", "training"), ("blue.fill", f"validation{best}")]
    signs += [] if variance is None else [("axis.dashed", f"variance of test ratings {variance:.4f}")]
    drawn = learning_curve(losses, errors, unit or "step", title, variance)
    return figure(title, sub, wording.CURVE, legend(*signs), drawn)
