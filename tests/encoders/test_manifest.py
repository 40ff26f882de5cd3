"""The gates of precisions: every text must pass in floating point, the mean in int8."""

import pytest

from loid_infer.encoders.manifest import Parity, gate

NAN = float("nan")


@pytest.mark.parametrize(
    ("precision", "least", "mean", "passes"),
    [
        ("fp32", 0.99999, 1.0, True),
        ("fp32", 0.999989, 1.0, False),
        ("bf16", 0.9999, 1.0, True),
        ("bf16", 0.99989, 1.0, False),
        ("fp16", 0.99989, 1.0, False),
        ("int8", 0.9, 0.998, True),
        ("int8", 0.9979, 0.9979, False),
        ("fp32", NAN, 1.0, False),
        ("int8", 1.0, NAN, False),
    ],
)
def test_one_bad_text_fails_floating_point_and_the_mean_decides_int8(precision, least, mean, passes) -> None:
    assert Parity(least, mean, 0.0, 2).passes(precision) is passes


def test_a_gate_is_stated_with_its_statistic() -> None:
    assert gate("fp32") == "cosine >= 0.99999 for every text"
    assert gate("int8") == "cosine >= 0.998 in the mean"
