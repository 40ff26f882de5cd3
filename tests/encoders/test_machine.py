from pathlib import Path

import pytest

from loid_infer.encoders import machine
from loid_infer.encoders.fake import FakeRuntime
from loid_infer.encoders.machine import choices, fastest_streams


def test_choices_start_with_one_stream_per_thread() -> None:
    assert choices(1) == [1]
    assert choices(2) == [2, 1]
    assert choices(64) == [64, 32, 16, 8]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of streams that were measured; four streams are the fastest."""
    counts: list[int] = []

    def rate(runtime: FakeRuntime, n_threads: int, width: int) -> float:
        assert width == 100
        return {4: 9.0}.get(counts[-1], 1.0)

    monkeypatch.setattr(machine, "_tokens_per_s", rate)
    return counts


def fastest(memory: Path, measured: list[int], key: str = "k", n_threads: int = 8) -> int:
    def make(n: int) -> FakeRuntime:
        measured.append(n)
        return FakeRuntime(4)

    return fastest_streams(key, n_threads, 100, make, memory)


def test_the_fastest_number_is_measured_once_and_stored(tmp_path: Path, measured: list[int]) -> None:
    memory = tmp_path / "deep" / "machine.json"
    assert fastest(memory, measured) == 4
    assert measured == [8, 4, 2, 1]
    assert fastest(memory, measured) == 4
    assert len(measured) == 4, "not measured again"
    assert fastest(memory, measured, key="another precision") == 4
    assert len(measured) == 8
    assert fastest(memory, measured) == 4
    assert len(measured) == 8, "other measurements are kept"


def test_one_thread_needs_no_measurement(tmp_path: Path, measured: list[int]) -> None:
    assert fastest(tmp_path / "machine.json", measured, n_threads=1) == 1
    assert (measured, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"k": 3}', '{"k": {"n_streams": 7}}'])
def test_a_damaged_file_is_replaced(tmp_path: Path, measured: list[int], content: str) -> None:
    memory = tmp_path / "machine.json"
    memory.write_text(content)
    assert fastest(memory, measured) == 4
    assert fastest(memory, measured) == 4
    assert len(measured) == 4


def test_a_file_that_cannot_be_written_is_ignored(tmp_path: Path, measured: list[int]) -> None:
    (tmp_path / "file").write_text("")
    assert fastest(tmp_path / "file" / "machine.json", measured) == 4


def test_a_real_rate_is_measured(tmp_path: Path) -> None:
    assert fastest_streams("k", 2, 256, lambda n: FakeRuntime(4), tmp_path / "machine.json") in (1, 2)
    assert "tokens_per_s" in (tmp_path / "machine.json").read_text()
