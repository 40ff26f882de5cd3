from pathlib import Path

import pytest

from loid_infer.encoders import streams
from loid_infer.encoders.fake import FakeRuntime
from loid_infer.encoders.streams import choices, fastest_streams


def test_choices_are_few_and_start_with_one_stream_a_thread() -> None:
    assert choices(1) == [1]
    assert choices(2) == [2, 1]
    assert choices(64) == [64, 32, 16, 8]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of streams that were measured; four streams are the fastest."""
    found: list[int] = []

    def rate(runtime: FakeRuntime, n_threads: int, width: int) -> float:
        assert width == 100
        return {4: 9.0}.get(found[-1], 1.0)

    monkeypatch.setattr(streams, "_tokens_per_s", rate)
    return found


def ask(memory: Path, made: list[int], key: str = "k", n_threads: int = 8) -> int:
    def make(n: int) -> FakeRuntime:
        made.append(n)
        return FakeRuntime(4)

    return fastest_streams(key, n_threads, 100, make, memory)


def test_the_fastest_is_measured_once_and_remembered(tmp_path: Path, made: list[int]) -> None:
    memory = tmp_path / "deep" / "machine.json"
    assert ask(memory, made) == 4
    assert made == [8, 4, 2, 1]
    assert ask(memory, made) == 4
    assert len(made) == 4, "not measured again"
    assert ask(memory, made, key="another precision") == 4
    assert len(made) == 8
    assert ask(memory, made) == 4
    assert len(made) == 8, "other answers are kept"


def test_one_thread_needs_no_measurement(tmp_path: Path, made: list[int]) -> None:
    assert ask(tmp_path / "machine.json", made, n_threads=1) == 1
    assert (made, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"k": 3}', '{"k": {"n_streams": 7}}'])
def test_a_damaged_memory_is_measured_anew(tmp_path: Path, made: list[int], content: str) -> None:
    memory = tmp_path / "machine.json"
    memory.write_text(content)
    assert ask(memory, made) == 4
    assert ask(memory, made) == 4
    assert len(made) == 4


def test_a_memory_that_cannot_be_written_stops_nothing(tmp_path: Path, made: list[int]) -> None:
    (tmp_path / "file").write_text("")
    assert ask(tmp_path / "file" / "machine.json", made) == 4


def test_a_real_rate_is_measured(tmp_path: Path) -> None:
    assert fastest_streams("k", 2, 256, lambda n: FakeRuntime(4), tmp_path / "machine.json") in (1, 2)
    assert "tokens_per_s" in (tmp_path / "machine.json").read_text()
