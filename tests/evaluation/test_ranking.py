import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loid_infer.evaluation.ranking import MISSED, mean_ranks, measured, top


def test_metrics_of_known_ranks() -> None:
    values = measured(np.array([1.0, 2.0, 10.0, 11.0, MISSED]))
    assert values["recall@1"].tolist() == [1, 0, 0, 0, 0]
    assert values["recall@10"].tolist() == [1, 1, 1, 0, 0]
    assert values["ndcg@10"] == pytest.approx([1, 1 / math.log2(3), 1 / math.log2(11), 0, 0])
    assert values["mrr@20"] == pytest.approx([1, 0.5, 0.1, 1 / 11, 0])


def test_equal_scores_share_their_mean_rank() -> None:
    scores = np.array([[3.0, 2, 2, 2, 1], [0, 0, 0, 0, 0], [5, 4, 3, 2, 1]])
    assert mean_ranks(scores, np.array([2, 0, 4])).tolist() == [3, 3, 5]


def test_what_is_not_ranked_is_missed_and_takes_no_place() -> None:
    scores = np.array([[3.0, -np.inf, 1], [-np.inf, 2, 1], [np.nan, 2, 1]])
    assert mean_ranks(scores, np.array([2, 0, 0])).tolist() == [2, MISSED, MISSED]


@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=8), st.integers(1, 8))
def test_top_is_a_stable_sort_by_score(rows, n) -> None:
    scores = np.array(rows, np.float32)
    scores[scores == 0] = -np.inf
    columns, values = top(scores, n)
    for row, line in enumerate(scores):
        expected = [column for column in np.argsort(-line, kind="stable").tolist() if line[column] > -np.inf][:n]
        assert columns[row][columns[row] >= 0].tolist() == expected
        assert values[row][: len(expected)].tolist() == line[expected].tolist()


def test_the_first_of_equal_scores_do_not_change_with_n() -> None:
    scores = np.ones((1, 50), np.float32)
    assert [top(scores, n)[0][0][0] for n in (1, 5, 50)] == [0, 0, 0]
