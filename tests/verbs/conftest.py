"""Fixtures of the tests of `ingest`."""

import pytest

from loid_infer.settings import Workspace


@pytest.fixture
def ws(tmp_path):
    return Workspace(tmp_path / "ws")


@pytest.fixture
def write(tmp_path):
    # A name without a suffix: the format must be detected from the content.
    def write_file(content, name="source"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file
