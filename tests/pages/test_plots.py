"""Plots show all their input, use the colors and the font of the page, and are reproducible."""

import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from loid_infer.evaluation.rows import Bin
from loid_infer.pages.plots import (
    Difference,
    calibration_plot,
    curve_plot,
    difference_plot,
    differences,
    group_plot,
    ndcg_plot,
)
from loid_infer.pages.records import History, read_evaluation
from loid_infer.rankers.comparison import GroupTable, RankRow
from tests.pages.records import evaluation, replace, write

ROOT = Path(__file__).parents[2]
ROW = Difference("head", 0.7, -0.02, -0.03, -0.01, (-0.025, -0.015), "blue")
OTHER = Difference("mf", 0.75, 0.03, -0.01, 0.07, (0.02, 0.04), "green")
BINS = [Bin(3.0, 3.1, 10), Bin(4.0, 3.9, 30)]
GROUP_ROW = RankRow("head", "", "recall@10", 0.2, 0.1, 0.3, 30, "length=1 to 3")
GROUPS = GroupTable(
    "length",
    ("1 to 3", "more"),
    (30, 1234),
    {"head": (GROUP_ROW, None), "popularity": (replace(GROUP_ROW, value=0.1),) * 2},
)
HISTORY = History((1.0, 0.8, None, 0.7), (10.0, 20.0), (0.9, 0.85))


def plot(*rows: Difference, title: str = "a title", name: str = "a") -> str:
    return difference_plot(rows, title, name)


def curve(axis: str = "step", variance: float | None = None, **changes) -> str:
    return curve_plot(replace(HISTORY, **changes), axis, variance, "a title", "a")


def rankings() -> str:
    return group_plot(GROUPS, ["head"], "a title", "c") + ndcg_plot(HISTORY, "pairs", "a title", "d")


def every_plot() -> str:
    return plot(ROW, OTHER) + calibration_plot(BINS, "a title", "b") + curve(variance=0.9) + rankings()


def test_colors_are_css_variables_defined_by_both_color_schemes() -> None:
    svg = every_plot()
    assert set(re.findall(r"#[0-9a-fA-F]{3,8}\b", svg)) <= {"#888888"}  # a gray that both backgrounds show
    css = (ROOT / "loid_infer" / "pages" / "templates" / "report.css").read_text()
    light, dark = css.split("prefers-color-scheme: dark")
    used = set(re.findall(r"var\(--(\w+)\)", svg + css))
    assert {"blue", "orange", "green", "grid", "card"} <= used
    for scheme in (light, dark):
        assert used <= set(re.findall(r"--(\w+):", scheme))


def test_labels_are_svg_text_in_the_font_of_the_page() -> None:
    svg = every_plot()
    for text in ("worse →", "mean prediction", "mean rating", "validation, best 0.8500 at 20", "ratings 0.9000"):
        assert re.search(rf"<text[^>]*>[^<]*{text}</text>", svg), text
    assert "font" not in svg


def test_a_title_is_the_text_alternative_and_cannot_become_markup() -> None:
    svg = plot(ROW, title='"><script>&')
    assert svg.startswith('<svg viewBox="0 0 300 76" role="img" aria-label="&quot;&gt;&lt;script&gt;&amp;">')
    assert "<script" not in svg


@pytest.mark.parametrize(
    "change",
    [
        {"mean": -0.021},
        {"low": -0.031},
        {"high": 0.001},
        {"low": None, "high": None},
        {"splits": ()},
        {"color": "gray"},
        {"is_reference": True, "low": 0.0, "high": 0.0},
    ],
)
def test_every_field_of_a_difference_changes_the_plot(change: dict) -> None:
    assert plot(replace(ROW, **change), OTHER) != plot(ROW, OTHER)


def test_a_point_is_filled_where_its_interval_excludes_zero() -> None:
    assert ROW.is_significant and not OTHER.is_significant
    filled, hollow = (re.findall(r"<use [^>]*fill: var\(--card\)", plot(row)) for row in (ROW, OTHER))
    assert (len(filled), len(hollow)) == (0, 1)


def test_values_that_may_exceed_the_axis_do_not_widen_it() -> None:
    far = Difference("impossible", 0.1, -9.0, -9.1, -8.9, (), "gray", may_exceed=True)

    def ticks(svg: str) -> list[str]:
        return re.findall(r">([−0-9.]+)</text>", svg)

    assert ticks(plot(ROW, OTHER, far)) == ticks(plot(ROW, OTHER)) != ticks(plot(ROW, replace(far, may_exceed=False)))
    assert "var(--gray)" in plot(ROW, OTHER, far)  # drawn as an arrow at the edge
    wide = replace(
        ROW, low=-90.0, high=90.0
    )  # two splits can give such an interval, and the means must stay distinguishable
    assert "90" not in "".join(ticks(plot(wide, OTHER)))


def rename(row):
    """The row of an encoder that differs from split to split."""
    return replace(row, system=row.system.replace("@ base", "@ own-{seed}"))


def test_differences_are_paired_by_split(tmp_path) -> None:
    write(tmp_path / "old.json", evaluation())
    record = read_evaluation(tmp_path / "old.json")
    to_bias = {row.name: row for row in differences(record, "bias")}
    assert list(to_bias) == ["global mean", "bias", "mf", "head", "reads the target's own text (impossible)"]
    assert to_bias["head"].splits == pytest.approx((-0.0299, -0.0299))
    assert [name for name, row in to_bias.items() if row.is_reference] == ["bias"]
    (zeroed,) = differences(record, "head")
    assert (zeroed.name, zeroed.mean, zeroed.low, zeroed.high) == ("vectors zeroed", 0.0143, 0.0021, 0.0265)
    assert [row.splits for row in differences(replace(record, n_seeds=1), "head")] == [()]
    per_split = [(field, [rename(row) for row in getattr(record, field)]) for field in ("runs", "summary")]
    assert differences(replace(record, **dict(per_split)), "bias")[3].splits == to_bias["head"].splits
    assert differences(replace(record, encoders=("base", "other")), "bias")[3].name == "head · base"


def test_every_calibration_bin_changes_the_plot() -> None:
    assert len({calibration_plot(bins, "", "") for bins in (BINS, BINS[:1], [*BINS[:1], Bin(4.0, 3.9, 31)])}) == 3


def test_every_argument_of_a_learning_curve_changes_the_plot() -> None:
    changes = [
        {},
        {"losses": (1.0, 0.8, None, 0.6)},
        {"eval_mse": (0.9, 0.84)},
        {"eval_steps": (10.0, 30.0)},
        {"losses": ()},
        {"eval_mse": (None, None)},
    ]
    made = [curve(**change) for change in changes] + [curve(variance=0.9), curve("pairs")]
    assert len(set(made)) == len(made) and all(made)
    assert curve(losses=(None,), eval_mse=(None, None)) == "" == curve(losses=(), eval_steps=(), eval_mse=())


def test_epochs_are_spaced_by_the_steps_of_evaluations() -> None:
    def last_tick(axis: str) -> float:
        svg = curve(axis, eval_steps=(500.0, 1000.0), eval_mse=(None, None))
        before, _ = svg.split(f">{axis}</text>")  # the numbers of the horizontal axis come before its name
        return max(float(text) for text in re.findall(r">([0-9.]+)</text>", before))

    assert last_tick("pairs") >= 800
    assert last_tick("step") <= 5


def test_the_curve_of_a_ranking_head_is_its_ndcg_and_the_highest_is_the_best() -> None:
    history = History((7.7, 7.1, 6.9), (80.0, 160.0, 240.0), (0.95, 0.9124, None))
    svg = ndcg_plot(history, "sequences", "a title", "a")
    assert "validation, best 0.0876 at 160" in svg
    heights = [float(text) for text in re.findall(r">(0\.[0-9]+)</text>", svg)]
    assert heights and max(heights) < 0.1
    assert ndcg_plot(replace(history, losses=()), "sequences", "a title", "a") == svg
    assert ndcg_plot(replace(history, eval_mse=(None, None, None)), "sequences", "", "") == ""


def test_groups_show_every_system_and_every_value() -> None:
    svg = group_plot(GROUPS, ["head"], "a title", "a")
    for text in ("1 to 3", "1,234", "head", "popularity"):
        assert f">{text}</text>" in svg, text
    assert "var(--blue)" in svg and "var(--gray)" in svg and "var(--orange)" not in svg
    changed = [{"value": 0.25}, {"low": 0.05}, {"high": 0.35}, {"low": None}]
    made = {
        group_plot(replace(GROUPS, rows={"head": (replace(GROUP_ROW, **one), None)}), [], "", "") for one in changed
    }
    assert len(made) == len(changed)
    odd = replace(GROUPS, rows={"\ud800\x00<b>$x$" + "y" * 99: (GROUP_ROW, None)})
    assert ">??&lt;b&gt;$x$y" in group_plot(odd, [], "", "")


def test_a_long_curve_is_downsampled_and_its_steep_start_does_not_set_the_scale() -> None:
    losses = [1000.0, 100.0] + [1.0 - i / 20_000 for i in range(9_998)]
    svg = curve(losses=tuple(losses), eval_steps=(), eval_mse=())
    assert len(svg) < 30_000
    assert max(float(text) for text in re.findall(r">([0-9.]+)</text>", svg)) > 5_000  # steps
    heights = [float(text) for text in re.findall(r">([0-9]\.[0-9]+)</text>", svg)]
    assert min(heights) > 0.4
    assert max(heights) < 2


def test_plots_are_identical_in_another_process_with_user_settings(tmp_path, monkeypatch) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nlines.linewidth: 9\nsvg.fonttype: path\n")
    monkeypatch.setenv("MATPLOTLIBRC", str(tmp_path))
    code = "import sys, tests.pages.test_plots as plots; sys.stdout.buffer.write(plots.every_plot().encode())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode() == every_plot()


def test_plots_with_different_names_share_no_element_ids() -> None:
    ids = [set(re.findall(r' id="([^"]+)"', plot(ROW, OTHER, name=name))) for name in ("a", "b")]
    assert all(ids) and not ids[0] & ids[1]


def test_the_templates_are_installed_with_the_package() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["loid_infer"]
    files = [path for path in (ROOT / "loid_infer" / "pages" / "templates").rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        name = path.relative_to(ROOT / "loid_infer").as_posix()
        assert any(fnmatch(name, pattern) for pattern in patterns), name
