import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from loid_infer.encoders import machine, processor
from loid_infer.encoders.fake import FakeRuntime
from loid_infer.encoders.machine import choices, fastest_streams
from loid_infer.encoders.processor import exact_products, n_usable_threads, torch_threads
from loid_infer.settings import machine_memory


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


@pytest.mark.parametrize("home", ["none", "/dev/null", "a file"])
def test_without_a_home_folder_nothing_is_stored(tmp_path: Path, measured: list[int], monkeypatch, home: str) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    if home == "none":
        monkeypatch.setattr(Path, "home", no_home)
    (tmp_path / "a file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "a file") if home == "a file" else home)
    memory = machine_memory()
    assert (memory is None) == (home == "none")
    for _ in range(2):
        assert fastest(memory, measured) == 4
    assert len(measured) == 8


def test_a_folder_in_the_place_of_the_file_is_ignored(tmp_path: Path, measured: list[int]) -> None:
    (tmp_path / "machine.json").mkdir()
    assert fastest(tmp_path / "machine.json", measured) == 4


V1, V2 = "5:cpu,cpuacct:/a/b\n3:memory:/a", "0::/a/b"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        (V2, {"a/b/cpu.max": "150000 100000"}, 2),
        (V2, {"a/b/cpu.max": "max 100000", "a/cpu.max": "1000 100000"}, 1),  # of a group above
        (V2, {"cpu.max": "300000 100000"}, 3),  # a container sees its own group as the root
        (V2, {"a/b/cpu.max": "max 100000"}, 8),
        (V2, {"a/b/cpu.max": "6400000 100000"}, 8),  # more than there are
        (V2, {"a/b/cpu.max": "nonsense"}, 8),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "250000", "cpu/a/b/cpu.cfs_period_us": "100000"}, 3),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "50000", "cpu,cpuacct/cpu.cfs_period_us": "50000"}, 1),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "-1", "cpu/a/b/cpu.cfs_period_us": "100000"}, 8),
        (f"{V1}\n{V2}", {"cpu/a/b/cpu.cfs_quota_us": "400000", "cpu/a/b/cpu.cfs_period_us": "100000"}, 4),
        (None, {}, 8),
    ],
)
def test_the_threads_respect_the_quota_of_the_container(tmp_path, monkeypatch, groups, files, expected) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    if groups:
        files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()} | {"proc/self/cgroup": groups}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert n_usable_threads(tmp_path) == expected


def test_overlapping_blocks_of_threads_restore_the_settings_of_torch() -> None:
    import torch

    before = torch.get_float32_matmul_precision(), torch.get_num_threads()
    first_in, second_in, first_out = (threading.Event() for _ in range(3))
    seen = []

    def second() -> None:
        first_in.wait(10)
        with exact_products(), torch_threads(1):
            second_in.set()
            first_out.wait(10)
            seen.append(torch.get_float32_matmul_precision())

    thread = threading.Thread(target=second)
    thread.start()
    torch.set_float32_matmul_precision("medium")
    try:
        with exact_products(), torch_threads(1):
            first_in.set()
            assert second_in.wait(10)
        first_out.set()
        thread.join()
        assert seen == ["highest"]  # not changed while the second computes
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.get_num_threads() == before[1] and processor._HELD == {}
    finally:
        torch.set_float32_matmul_precision(before[0])


def test_openvino_sends_no_telemetry(tmp_path: Path) -> None:
    """Its import would send an event, unless a file in the home folder or a variable of a CI forbids it."""
    pytest.importorskip("openvino")
    code = """if True:
        import multiprocessing, socket, sys
        def refuse(*_, **__):
            raise SystemExit("it connects")
        socket.create_connection = socket.getaddrinfo = socket.socket.connect = multiprocessing.Process.start = refuse
        from concurrent.futures import ThreadPoolExecutor
        from loid_infer.encoders.openvino import _imported
        with ThreadPoolExecutor(4) as pool:
            openvino = [*pool.map(lambda _: _imported(), range(4))][0]
        assert openvino.Core().available_devices
        assert "openvino_telemetry" not in sys.modules and "openvino_telemetry.main" not in sys.modules
        from openvino.tools.ovc import telemetry
        assert type(telemetry).__module__ == "openvino.tools.ovc.telemetry_stub", type(telemetry)
    """
    variables = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    variables["HOME"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (0, "", [])
