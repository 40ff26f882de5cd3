"""Every proof says how much it tried. The short form runs with the suite, the long one in `make soak`."""

import pytest


@pytest.fixture
def counted(record_property):
    """Call it with what was counted: it is printed when all is over."""
    return lambda line: record_property("proof", line)


def slow(*values):
    """Values of a parameter that are for `make soak`."""
    return pytest.param(*values, marks=pytest.mark.slow)
