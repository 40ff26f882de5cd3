"""Several encoders in one pass: the vectors, stores and errors of separate runs."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from loid_infer import encode, encode_all, export
from loid_infer.data.reviews import ReviewTable
from loid_infer.encoders import loading
from loid_infer.encoders.fake import FakeRuntime
from loid_infer.encoders.folder import open_folder
from loid_infer.encoders.joint import Step
from loid_infer.encoders.tokens import Tokenizer
from loid_infer.errors import BadArtifact, BadSetting, ParityError, StoreBusy
from loid_infer.kernels.cosine import row_cosines
from loid_infer.settings import Workspace
from loid_infer.store.writer import StoreWriter
from loid_infer.verbs import encode as verbs
from loid_infer.verbs import passes as planning
from tests.conftest import FAMILY, toy_texts
from tests.verbs.test_encode import stored, table


@pytest.fixture
def workspace(family: Path, tmp_path: Path) -> Workspace:
    """A fresh workspace with the encoders FAMILY in it."""
    shutil.copytree(family / "exports", tmp_path / "ws" / "exports")
    return Workspace(tmp_path / "ws")


def empty(workspace: Workspace) -> None:
    shutil.rmtree(workspace.cache)


def kept(workspace: Workspace) -> dict[str, int]:
    """Rows in each store that there is, by encoder."""
    counts = {}
    for name in FAMILY:
        encoder = open_folder(workspace.encoder(name), name)
        folder = workspace.store(encoder.fingerprint)
        if (folder / "card.json").exists():
            with StoreWriter(folder, encoder.card, encoder.fingerprint) as writer:
                counts[name] = sum(len(chunk.digests) for chunk in writer.reader.scan())
    return counts


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "torch"])
@pytest.mark.parametrize(("names", "shared"), [(("plain", "top"), (2, 2)), (("whole", "upper", "plain"), (0, 1, 1))])
def test_vectors_are_those_of_separate_runs(
    workspace: Workspace, runtime: str, names: tuple[str, ...], shared: tuple[int, ...]
) -> None:
    table(workspace, ["", "a", "👍", *toy_texts(150), "the plot was " * 50])
    alone = [encode("toys", encoder=name, runtime=runtime, workspace=workspace) for name in names]
    expected = [stored(workspace, encoder=name) for name in names]
    empty(workspace)
    joint = encode_all("toys", encoders=names, runtime=runtime, workspace=workspace).encoders
    for i, (one, run) in enumerate(zip(alone, joint, strict=True)):
        assert (run.encoder, run.fingerprint, run.runtime) == (names[i], one.fingerprint, runtime)
        assert (run.n_encoded, run.n_hits, run.n_tokens, run.n_truncated, run.padding) == (
            (154, 0, one.n_tokens, one.n_truncated, one.padding)
        )
        assert (run.joined, run.n_shared_layers) == (names[:i] + names[i + 1 :], shared[i])
        assert (one.joined, one.n_shared_layers) == ((), 0)
        assert row_cosines(stored(workspace, encoder=names[i]), expected[i]).min() >= 0.99999
    assert len({run.seconds for run in joint}) == 1, "one run, one clock"
    others = [row_cosines(expected[0], other).min() for other in expected[1:]]
    assert max(others) < 0.99, "the encoders differ, so that a mix-up would show"


def test_texts_are_read_and_tokenized_once(workspace: Workspace, monkeypatch) -> None:
    table(workspace, toy_texts(40))
    n_read, n_tokenized = [], []
    digests, tokenize = ReviewTable.digests, Tokenizer.__call__
    monkeypatch.setattr(ReviewTable, "digests", lambda self, progress: n_read.append(1) or digests(self, progress))
    monkeypatch.setattr(
        Tokenizer, "__call__", lambda self, texts: n_tokenized.append(len(texts)) or tokenize(self, texts)
    )
    encode_all("toys", encoders=["plain", "top", "whole"], workspace=workspace)
    assert (len(n_read), sum(n_tokenized)) == (1, 40)


def test_each_store_gets_what_it_lacks(workspace: Workspace) -> None:
    texts = toy_texts(100)
    table(workspace, texts[:30], "first")
    table(workspace, texts[60:70], "other")
    table(workspace, texts, "toys")
    encode("first", encoder="plain", workspace=workspace)
    encode("other", encoder="top", workspace=workspace)
    runs = encode_all("toys", encoders=["plain", "top", "whole"], workspace=workspace).encoders
    assert [(run.n_hits, run.n_encoded, len(run.joined)) for run in runs] == [(30, 70, 2), (10, 90, 2), (0, 100, 2)]
    assert kept(workspace) == {"plain": 100, "top": 100, "whole": 100}
    mixed = [stored(workspace, encoder=name) for name in ("plain", "top")]
    empty(workspace)
    for name, vectors in zip(("plain", "top"), mixed, strict=True):
        encode("toys", encoder=name, workspace=workspace)
        assert row_cosines(vectors, stored(workspace, encoder=name)).min() >= 0.99999
    again = encode_all("toys", encoders=["plain", "top"], workspace=workspace).encoders
    assert [(run.n_hits, run.n_encoded, run.runtime, run.joined) for run in again] == [(100, 0, "none", ())] * 2


def test_what_a_store_has_is_not_computed_again_for_anothers_sake(workspace: Workspace) -> None:
    texts = toy_texts(100)
    table(workspace, texts[:80], "most")
    table(workspace, texts, "toys")
    encode("toys", encoder="plain", workspace=workspace)
    encode("most", encoder="top", workspace=workspace)
    names = ["plain", "top", "upper", "whole"]
    runs = encode_all("toys", encoders=names, workspace=workspace).encoders
    assert [run.encoder for run in runs] == names
    assert [(run.n_encoded, run.joined) for run in runs] == [
        (0, ()), (20, ()), (100, ("whole",)), (100, ("upper",)),
    ]  # fmt: skip
    assert runs[1].n_tokens < runs[2].n_tokens
    assert kept(workspace) == dict.fromkeys(names, 100)


def test_stores_that_lack_different_halves_are_filled_apart(workspace: Workspace) -> None:
    texts = toy_texts(100)
    table(workspace, texts[:50], "low")
    table(workspace, texts[50:], "high")
    table(workspace, texts, "toys")
    encode("low", encoder="plain", workspace=workspace)
    encode("high", encoder="top", workspace=workspace)
    runs = encode_all("toys", encoders=["plain", "top"], workspace=workspace).encoders
    assert [(run.n_encoded, run.joined) for run in runs] == [(50, ()), (50, ())]


def test_encoders_that_cannot_be_joined_take_turns(workspace: Workspace, family: Path) -> None:
    table(workspace, toy_texts(30))
    base = str(family / "bases" / "plain")
    export("short", base=base, precision="fp32", max_tokens=16, workspace=workspace)
    export("wide", base=base, precision="fp32", max_tokens=32, store="fp32", workspace=workspace)
    shutil.copytree(workspace.encoder("plain"), workspace.encoder("twin"))
    names = ["short", "plain", "twin", "top", "wide"]
    runs = encode_all("toys", encoders=names, workspace=workspace).encoders
    assert [run.encoder for run in runs] == names
    assert [run.joined for run in runs] == [(), ("top", "wide"), (), ("plain", "wide"), ("plain", "top")]
    assert [run.n_encoded for run in runs] == [30, 30, 0, 30, 30], "the twin's store is the plain one's"
    assert [run.n_shared_layers for run in runs] == [0, 3, 0, 2, 3]
    plain, wide = (stored(workspace, encoder=name) for name in ("plain", "wide"))
    np.testing.assert_array_equal(plain, wide.astype(np.float16).astype(np.float32))


def test_int8_encoders_take_turns(exported_int8, workspace: Workspace) -> None:
    made, _ = exported_int8
    table(workspace, toy_texts(20))
    shutil.copytree(made.encoder("small"), workspace.encoder("small"))
    runs = encode_all("toys", encoders=["plain", "small", "top"], workspace=workspace).encoders
    assert [(run.precision, run.joined) for run in runs] == [("fp32", ("top",)), ("int8", ()), ("fp32", ("plain",))]


def test_what_one_graph_cannot_hold_is_run_apart(workspace: Workspace, monkeypatch) -> None:
    table(workspace, toy_texts(20))
    parts = planning.steps(open_folder(workspace.encoder("plain"), "plain"))
    room = sum(part.n_bytes for part in parts) + parts[-1].n_bytes  # for the plain one and another top
    monkeypatch.setattr(planning, "MAX_BYTES", room)
    names = ["plain", "whole", "top"]
    runs = encode_all("toys", encoders=names, workspace=workspace).encoders
    assert [(run.joined, run.n_encoded) for run in runs] == [(("top",), 20), ((), 20), (("plain",), 20)]


@pytest.mark.parametrize(
    ("names", "said"), [(["top", "plain", "top"], r"named twice.*got top"), ([], "no encoder is named")]
)
def test_wrong_names_are_refused(workspace: Workspace, names: list[str], said: str) -> None:
    table(workspace, toy_texts(5))
    for verb in (encode_all, verbs.dry_run_all):
        with pytest.raises(BadSetting, match=said):
            verb("toys", encoders=names, workspace=workspace)


def test_outputs_that_are_swapped_are_caught(workspace: Workspace, monkeypatch) -> None:
    table(workspace, toy_texts(5))
    real = planning.one_graph
    monkeypatch.setattr(planning, "one_graph", lambda graphs: real(graphs[::-1]))
    for runtime in ("openvino", "onnxruntime"):
        with pytest.raises(ParityError, match=r"computes other vectors.*one --encoder at a time"):
            encode_all("toys", encoders=["plain", "top"], runtime=runtime, workspace=workspace)
    assert kept(workspace) == {"plain": 0, "top": 0}
    runs = encode_all("toys", encoders=["plain", "top"], workspace=workspace).encoders
    assert {run.runtime for run in runs} == {"torch"}, "which joins no graphs"


def test_only_one_output_that_is_wrong_is_caught(workspace: Workspace, monkeypatch) -> None:
    table(workspace, toy_texts(5))
    real = planning.one_graph
    monkeypatch.setattr(planning, "one_graph", lambda graphs: real([graphs[0], graphs[1], graphs[1]]))
    with pytest.raises(ParityError, match="whole"):
        encode_all("toys", encoders=["plain", "top", "whole"], runtime="openvino", workspace=workspace)
    assert kept(workspace) == {"plain": 0, "top": 0, "whole": 0}


def test_layers_taken_for_equal_that_are_not_are_caught(workspace: Workspace, monkeypatch) -> None:
    table(workspace, toy_texts(5))
    monkeypatch.setattr(loading, "steps", lambda encoder: [Step(str(i), 1) for i in range(4)])
    with pytest.raises(ParityError, match="torch computes other vectors"):
        encode_all("toys", encoders=["plain", "top"], runtime="torch", workspace=workspace)


def test_a_runtime_that_gives_one_vector_for_all_is_refused(workspace: Workspace, monkeypatch) -> None:
    table(workspace, toy_texts(5))
    real = FakeRuntime.run

    def narrow(self, batches) -> Iterator:
        for slots, vectors in real(self, batches):
            yield slots, vectors[:, :32]

    monkeypatch.setattr(FakeRuntime, "run", narrow)
    with pytest.raises(ParityError, match="another shape"):
        encode_all("toys", encoders=["plain", "top"], runtime="fake", workspace=workspace)


def test_an_encoder_replaced_during_a_run_stores_nothing_wrong(workspace: Workspace, family: Path, monkeypatch) -> None:
    table(workspace, toy_texts(20))
    real = planning.open_runtime

    def replacing(*arguments, **options) -> object:
        export("top", base=str(family / "bases" / "whole"), precision="fp32", max_tokens=32, workspace=workspace)
        return real(*arguments, **options)

    monkeypatch.setattr(planning, "open_runtime", replacing)
    with pytest.raises((BadArtifact, ParityError)) as error:
        encode_all("toys", encoders=["plain", "top"], workspace=workspace)
    assert "exported anew" in str(error.value)
    assert set(kept(workspace).values()) == {0}


def test_a_store_that_is_busy_stops_the_pass_before_it_starts(workspace: Workspace) -> None:
    table(workspace, toy_texts(5))
    busy = open_folder(workspace.encoder("top"), "top")
    with (
        StoreWriter(workspace.store(busy.fingerprint), busy.card, busy.fingerprint),
        pytest.raises(StoreBusy, match=busy.fingerprint),
    ):
        encode_all("toys", encoders=["plain", "top"], workspace=workspace)
    assert kept(workspace) == {"plain": 0, "top": 0}


def fakes(workspace: Workspace, names: list[str]) -> Callable[[], list[int]]:
    """How many texts the fake stores of `names` hold, told by a dry run."""
    return lambda: [
        told.n_hits for told in verbs.dry_run_all("toys", encoders=names, runtime="fake", workspace=workspace).encoders
    ]


def test_an_interrupted_run_keeps_what_was_finished_in_every_store(workspace: Workspace, monkeypatch) -> None:
    table(workspace, toy_texts(500))
    real, n_hits = FakeRuntime.run, fakes(workspace, ["plain", "top"])

    def interrupted(self, batches) -> Iterator:
        with closing(real(self, batches)) as found:
            for n, result in enumerate(found):
                if n == 6:
                    raise KeyboardInterrupt
                yield result

    monkeypatch.setattr(FakeRuntime, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode_all("toys", encoders=["plain", "top"], runtime="fake", workspace=workspace)
    monkeypatch.undo()
    before = n_hits()
    assert before[0] == before[1] > 0
    runs = encode_all("toys", encoders=["plain", "top"], runtime="fake", workspace=workspace).encoders
    assert [run.n_hits for run in runs] == before
    assert n_hits() == [500, 500]


RUN = """
import sys, time
from pathlib import Path
from loid_infer.settings import Workspace
from loid_infer.encoders import fake
from loid_infer.verbs.encode import encode_all
import loid_infer.store.committer as committer
committer.CHUNK_ROWS = 64
real = fake.FakeRuntime.run
def slow(self, batches):
    for result in real(self, batches):
        time.sleep(0.01)
        yield result
        print("batch", flush=True)
fake.FakeRuntime.run = slow
encode_all("toys", encoders=["plain", "top"], runtime="fake", workspace=Workspace(Path(sys.argv[1])))
"""


def test_killed_at_any_moment_and_run_again_fills_every_store(workspace: Workspace) -> None:
    table(workspace, toy_texts(3000))
    n_hits = fakes(workspace, ["plain", "top"])
    counts = [[0, 0]]
    for n_batches in (5, 9, 8):
        child = subprocess.Popen([sys.executable, "-c", RUN, str(workspace.root)], stdout=subprocess.PIPE, text=True)
        for _ in range(n_batches):
            assert child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        counts.append(n_hits())
        assert all(old <= new for old, new in zip(*counts[-2:], strict=True)), "nothing committed was lost"
    assert 0 < min(counts[-1]) <= max(counts[-1]) < 3000, "the kills came while it ran"
    runs = encode_all("toys", encoders=["plain", "top"], runtime="fake", workspace=workspace).encoders
    assert [run.n_hits for run in runs] == counts[-1]
    assert n_hits() == [3000, 3000]


def test_dry_run_tells_what_the_run_does_and_stores_nothing(workspace: Workspace) -> None:
    table(workspace, toy_texts(40))
    names = ["plain", "whole", "top"]
    told = verbs.dry_run_all("toys", encoders=names, workspace=workspace).encoders
    assert not workspace.cache.exists()
    done = encode_all("toys", encoders=names, workspace=workspace).encoders
    fields = ("encoder", "fingerprint", "n_unique", "n_hits", "n_tokens", "joined", "n_shared_layers", "store")
    for before, after in zip(told, done, strict=True):
        assert [getattr(before, field) for field in fields] == [getattr(after, field) for field in fields]
        assert (before.n_new, before.seconds > 0) == (40, True)


def test_results_go_through_json(workspace: Workspace) -> None:
    table(workspace, toy_texts(5))
    fields = json.loads(json.dumps(asdict(encode_all("toys", encoders=["plain", "top"], workspace=workspace))))
    assert list(fields) == ["encoders"]
    assert [run["joined"] for run in fields["encoders"]] == [["top"], ["plain"]]


def test_streams_are_remembered_for_the_number_of_encoders(workspace: Workspace, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine"))
    table(workspace, toy_texts(5))
    encode_all("toys", encoders=["plain", "top"], runtime="openvino", n_threads=2, workspace=workspace)
    encode("toys", encoder="whole", runtime="openvino", n_threads=2, workspace=workspace)
    (memory,) = (tmp_path / "machine").rglob("machine.json")
    assert sorted(key.split(", ")[-1] for key in json.loads(memory.read_text())) == ["2 side by side", "3 x 32 x 64"]
