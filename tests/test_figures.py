"""Figures are complete PNG files, reproducible, and show all their input."""

import subprocess
import sys

import numpy as np
import pytest

from loid_infer.figures import Curve, heat_map, learning_curves, running_mean

MATRIX = np.array([[0.31, 0.22], [0.22, 0.28]])
RUN = Curve("toys", range(100), [5.0 / (1 + i) + 0.5 for i in range(100)], [50, 100], [0.9, 0.8])


def png_size(path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[-8:-4] == b"IEND"
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def heat_map_bytes(path, names=("toys", "books"), matrix=MATRIX, title="Domains", note="") -> bytes:
    heat_map(path, names, matrix, title, note)
    return path.read_bytes()


def learning_curve_bytes(path, *curves, **settings) -> bytes:
    learning_curves(path, "A run", curves, **settings)
    return path.read_bytes()


def test_a_heat_map_is_a_png_that_grows_with_its_names(tmp_path) -> None:
    heat_map_bytes(tmp_path / "two")
    heat_map_bytes(tmp_path / "nine", [f"domain_{i}" for i in range(9)], np.eye(9))
    two, nine = png_size(tmp_path / "two"), png_size(tmp_path / "nine")
    assert nine[0] > two[0] > 300
    assert nine[1] > two[1] > 300
    heat_map_bytes(tmp_path / "forty", [f"domain_{i}" for i in range(40)], np.eye(40))
    assert max(png_size(tmp_path / "forty")) < 4000


def test_every_argument_of_a_heat_map_changes_the_figure(tmp_path) -> None:
    plain = heat_map_bytes(tmp_path / "plain")
    for change in (
        {"names": ("toys", "cooks")},
        {"matrix": MATRIX + 0.01},
        {"title": "Others"},
        {"note": "for $5 to $9"},
    ):
        assert heat_map_bytes(tmp_path / "other", **change) != plain


def test_every_argument_of_learning_curves_changes_the_figure(tmp_path) -> None:
    other_errors = Curve("toys", RUN.steps, RUN.losses, RUN.eval_steps, [0.8, 0.9])
    doubled = Curve("toys", RUN.steps, [2 * loss for loss in RUN.losses], RUN.eval_steps, RUN.eval_mse)
    figures = [
        learning_curve_bytes(tmp_path / "x", RUN),
        learning_curve_bytes(tmp_path / "x", other_errors),
        learning_curve_bytes(tmp_path / "x", doubled),
        learning_curve_bytes(tmp_path / "x", RUN, other_errors),
        learning_curve_bytes(tmp_path / "x", RUN, reference=("the mean", 0.7)),
        learning_curve_bytes(tmp_path / "x", RUN, note="split 0"),
    ]
    assert len(set(figures)) == len(figures)
    assert png_size(tmp_path / "x") == (1152, 691)


def test_runs_without_losses_or_evaluations_are_drawn(tmp_path) -> None:
    only_losses = learning_curve_bytes(tmp_path / "x", Curve("a", [1, 2], [1.0, 0.5], [], []))
    only_errors = learning_curve_bytes(tmp_path / "x", Curve("a", [], [], [2], [0.5]))
    assert only_losses != only_errors


def test_nonfinite_points_are_left_out(tmp_path) -> None:
    whole = Curve("a", [1, 3], [1.0, 0.5], [3], [0.5])
    with_nonfinite = Curve("a", [1, 2, 3, 4], [1.0, float("nan"), 0.5, float("inf")], [2, 3], [float("nan"), 0.5])
    assert learning_curve_bytes(tmp_path / "x", whole) == learning_curve_bytes(tmp_path / "x", with_nonfinite)


def test_invalid_input_is_refused(tmp_path) -> None:
    path = tmp_path / "x"
    for names, matrix in ((["a"], MATRIX), ([], np.zeros((0, 0))), (["a", "b"], MATRIX * np.nan)):
        with pytest.raises(ValueError, match="finite values"):
            heat_map(path, names, matrix, "")
    with pytest.raises(ValueError, match="no finite points"):
        learning_curves(path, "", [Curve("a", [1], [float("nan")], [], [])])
    with pytest.raises(ValueError, match="2 steps for 1 values"):
        learning_curves(path, "", [Curve("a", [1, 2], [1.0], [], [])])
    assert not path.exists()


def test_figures_are_identical_in_another_process_with_user_settings_and_nothing_is_printed(tmp_path) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nlines.linewidth: 9\nbackend: TkAgg\nimage.cmap: hot\n")
    code = f"""if True:
        import sys
        from pathlib import Path
        import tests.test_figures as figures
        figures.heat_map_bytes(Path({str(tmp_path / "map")!r}), note="a note")
        figures.learning_curve_bytes(Path({str(tmp_path / "run")!r}), figures.RUN, reference=("the mean", 0.7))
        assert "matplotlib.pyplot" not in sys.modules
    """
    (tmp_path / "config").touch()  # no folder for the font cache, of which matplotlib would tell stderr
    style = {"MATPLOTLIBRC": str(tmp_path), "MPLCONFIGDIR": str(tmp_path / "config")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in style.items():
            patch.setenv(name, value)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "map").read_bytes() == heat_map_bytes(tmp_path / "x", note="a note")
    assert (tmp_path / "run").read_bytes() == learning_curve_bytes(tmp_path / "x", RUN, reference=("the mean", 0.7))
    assert b"Software" not in (tmp_path / "map").read_bytes()


def test_the_matplotlib_settings_of_the_user_are_restored(tmp_path) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 31.0}):
        heat_map_bytes(tmp_path / "x")
        assert matplotlib.rcParams["font.size"] == 31.0


def test_a_running_mean_is_causal() -> None:
    values = np.random.default_rng(0).random(50)
    expected = [values[max(i + 1 - 7, (i + 1) // 2) : i + 1].mean() for i in range(50)]
    np.testing.assert_allclose(running_mean(values, 7), expected, rtol=1e-12)
    np.testing.assert_allclose(running_mean(values, 1), values, rtol=1e-12)
