import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from loid_infer.encoders import machine, processor
from loid_infer.encoders.fake import FakeRuntime
from loid_infer.encoders.machine import Streams, choices
from loid_infer.encoders.processor import exact_products, n_usable_threads, torch_threads
from loid_infer.settings import machine_memory
from loid_infer.types import TokenBatch


def test_choices_start_with_one_stream_per_thread() -> None:
    assert choices(1) == [1]
    assert choices(2) == [2, 1]
    assert choices(64) == [64, 32, 16, 8]


class Clock:
    """A time that advances with the batches that are computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fastest: int) -> None:
        self.now, self.fastest, self.computed = 0.0, fastest, []
        monkeypatch.setattr(machine.time, "perf_counter", lambda: self.now)

    def make(self, n_streams: int) -> FakeRuntime:
        clock = self

        class Timed(FakeRuntime):
            def run(self, batches):
                for batch in batches:
                    clock.now += 0.1 if n_streams == clock.fastest else 0.2
                    clock.computed.append((int(batch.slots[0]), n_streams))
                    yield from super().run([batch])

        runtime = Timed(4)
        runtime.detail = f"{n_streams} streams"
        return runtime

    def run(self, memory: Path | None, n_batches: int, *, n_threads: int = 8, n_streams: int | None = None) -> Streams:
        streams = Streams("k", n_threads, self.make, memory, n_streams)
        ids = np.ones((1, 16), np.int64)
        batches = [TokenBatch(np.array([i]), ids, ids, 16) for i in range(n_batches)]
        self.computed.clear()
        slots = [int(slot) for part, _ in streams.run(iter(batches)) for slot in part]
        assert slots == [slot for slot, _ in self.computed] == list(range(n_batches))  # each once
        assert streams.detail == f"{streams.n} streams"
        return streams


def test_a_long_run_tries_every_choice_and_remembers_the_fastest(tmp_path: Path, monkeypatch) -> None:
    memory, clock = tmp_path / "deep" / "machine.json", Clock(monkeypatch, fastest=4)
    assert clock.run(memory, 95).n == 8  # too short: 19 seconds
    assert {n for _, n in clock.computed} == {8} and not memory.exists()
    assert clock.run(memory, 500).n == 4
    used = [n for _, n in clock.computed]
    turns = [n for n, before in zip(used, [0, *used], strict=False) if n != before]
    assert turns == [8, 4, 2, 1, 8, 1, 2, 4] and used[-300:] == [4] * 300
    clock.run(memory, 500)
    assert {n for _, n in clock.computed} == {4}  # not tried again
    rates = json.loads(memory.read_text())["k"]["tokens_per_s"]
    assert rates == {"8": 80, "4": 160, "2": 80, "1": 80}
    assert machine.remembered(memory)[0].startswith("k: 4 (")


def test_a_run_that_is_much_slower_than_remembered_makes_the_next_one_choose(tmp_path: Path, monkeypatch) -> None:
    memory, clock = tmp_path / "machine.json", Clock(monkeypatch, fastest=1)
    assert clock.run(memory, 500).n == 1
    clock.fastest = 2
    assert clock.run(memory, 20).n == 1  # too short to tell
    assert clock.run(memory, 500).n == 1
    assert clock.run(memory, 500).n == 2


@pytest.mark.parametrize(("n_threads", "n_streams"), [(1, None), (8, 2)])
def test_one_thread_or_a_given_number_needs_no_choice(tmp_path: Path, monkeypatch, n_threads, n_streams) -> None:
    clock = Clock(monkeypatch, fastest=4)
    assert clock.run(tmp_path / "machine.json", 500, n_threads=n_threads, n_streams=n_streams).n == (n_streams or 1)
    assert list(tmp_path.iterdir()) == []


def test_a_run_may_end_at_any_batch(tmp_path: Path, monkeypatch) -> None:
    for n_batches in range(0, 230, 7):
        Clock(monkeypatch, fastest=4).run(tmp_path / f"{n_batches}.json", n_batches)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"k": 3}', '{"k": {"n_streams": 7}}'])
def test_a_damaged_file_is_replaced(tmp_path: Path, monkeypatch, content: str) -> None:
    memory, clock = tmp_path / "machine.json", Clock(monkeypatch, fastest=4)
    memory.write_text(content)
    assert clock.run(memory, 500).n == clock.run(memory, 500).n == 4
    assert {n for _, n in clock.computed} == {4}


@pytest.mark.parametrize("home", ["none", "/dev/null", "a file", "a folder for the file"])
def test_without_a_place_for_it_nothing_is_stored(tmp_path: Path, monkeypatch, home: str) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    if home == "none":
        monkeypatch.setattr(Path, "home", no_home)
    (tmp_path / "a file").touch()
    (tmp_path / "a folder for the file" / ".cache" / "loid-infer" / "machine.json").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / home) if home.startswith("a ") else home)
    memory, clock = machine_memory(), Clock(monkeypatch, fastest=4)
    assert (memory is None) == (home == "none")
    for _ in range(2):
        assert clock.run(memory, 500).n == 4
        assert len({n for _, n in clock.computed}) == 4


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


@pytest.mark.parametrize(("n_usable", "binds"), [(2, False), (1, True)])
def test_openvino_binds_threads_only_where_one_process_has_all_processors(
    exported: Path, monkeypatch: pytest.MonkeyPatch, n_usable: int, binds: bool
) -> None:
    """Each of two workers would bind its one thread to the first processor."""
    pytest.importorskip("openvino")
    from loid_infer.encoders import openvino
    from loid_infer.encoders.folder import GRAPH_FILE

    monkeypatch.setattr(openvino, "n_usable_threads", lambda: n_usable)
    opened = openvino.OpenVino(exported / "exports" / "encoders" / "base" / GRAPH_FILE, "fp32", 1, 1)
    assert opened._model.get_property("ENABLE_CPU_PINNING") is binds


@pytest.mark.parametrize(
    ("flags", "machine_type", "saturates"),
    [
        ({"avx2"}, "x86_64", True),
        ({"avx2", "avx_vnni"}, "x86_64", False),
        ({"avx2", "avx512_vnni"}, "x86_64", False),
        ({"asimd"}, "aarch64", False),
        (set(), "AMD64", False),
    ],
)
def test_int8_saturates_on_x86_without_vnni(monkeypatch, flags: set[str], machine_type: str, saturates: bool) -> None:
    monkeypatch.setattr(processor, "features", lambda: flags)
    monkeypatch.setattr(processor.platform, "machine", lambda: machine_type)
    assert processor.saturates_int8() is saturates
