"""Each proof reports how many cases it tried. A short form runs with the tests, the long one in `make soak`."""

import pytest


@pytest.fixture
def report_cases(record_property):
    """A function that takes a line on the cases that were tried; the lines are printed at the end of the run."""
    return lambda line: record_property("proof", line)


def slow(*values):
    """Values of a parameter that are for `make soak` only."""
    return pytest.param(*values, marks=pytest.mark.slow)
