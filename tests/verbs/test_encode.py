"""`encode` end to end with the toy encoder: every text is encoded once, also after crashes and errors."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from loid_infer import cache_export, encode, encode_dry_run, export, ingest
from loid_infer import encoder as encoder_module
from loid_infer.encoders.fake import FakeRuntime
from loid_infer.encoders.folder import open_folder
from loid_infer.errors import BadArtifact, BadSetting, BadTable, NoSpace, ParityError, RuntimeMissing, StoreBusy
from loid_infer.kernels.cosine import row_cosines
from loid_infer.settings import Workspace
from loid_infer.store.reader import open_store
from loid_infer.store.writer import StoreWriter
from loid_infer.types import SILENT
from loid_infer.verbs import encode as verbs
from tests.conftest import toy_texts, write_reviews


def ingest_texts(workspace: Workspace, texts: list[str], domain: str = "toys") -> None:
    source = write_reviews(workspace.root / f"{domain}.jsonl", texts)
    ingest([source], domain, workspace=workspace)


def stored(workspace: Workspace, domain: str = "toys", encoder: str | None = None) -> np.ndarray:
    """The vectors of a domain in review order."""
    import pyarrow.parquet as pq

    out = workspace.root / "vectors.parquet"
    cache_export(domain, out, encoder=encoder, workspace=workspace)
    columns = pq.read_table(out)
    assert columns.column_names == ["user_id", "item_id", "row", "vector"]
    assert columns["row"].to_pylist() == list(range(len(columns)))
    return np.array(columns["vector"].to_pylist(), np.float32)


def fake_vectors(workspace: Workspace, result: verbs.EncodeResult) -> dict[bytes, bytes]:
    """The vectors of a store of the fake runtime, by digest."""
    spec = structs.replace(open_folder(workspace.encoder("base"), "base").spec, precision="fake")
    store = open_store(Path(result.store), spec, result.fingerprint)
    vectors = {
        bytes(d): v.tobytes() for chunk in store.scan() for d, v in zip(chunk.digests, chunk.vectors, strict=True)
    }
    store.close()
    return vectors


def test_vectors_equal_plain_transformers(workspace: Workspace, toy_base: Path) -> None:
    import torch
    import transformers

    texts = ["", "a", "👍", "great guitar", *toy_texts(200), "the plot was " * 50]
    ingest_texts(workspace, texts)
    result = encode("toys", workspace=workspace)
    assert (result.n_rows, result.n_unique, result.n_encoded, result.n_hits) == (205, 205, 205, 0)
    tokenizer, model = (
        transformers.AutoTokenizer.from_pretrained(toy_base),
        transformers.AutoModel.from_pretrained(toy_base).eval(),
    )
    with torch.no_grad():
        expected = [
            model(**tokenizer(t, truncation=True, max_length=32, return_tensors="pt")).last_hidden_state[0, 0]
            for t in texts
        ]
    assert row_cosines(stored(workspace), torch.stack(expected).numpy()).min() >= 0.9999
    lengths = [len(tokenizer(t)["input_ids"]) for t in texts]
    assert result.n_tokens == sum(min(n, 32) for n in lengths)
    assert result.n_truncated == sum(n > 32 for n in lengths)


def test_unknown_tokens_of_new_texts_are_counted(workspace: Workspace) -> None:
    lines: list[str] = []

    class Recorder(type(SILENT)):
        def say(self, line: str) -> None:
            lines.append(line)

    def run(texts: list[str]) -> tuple[int, int, list[str]]:
        ingest_texts(workspace, texts)
        lines.clear()
        result = encode("toys", workspace=workspace, progress=Recorder())
        return result.n_unknown, result.n_mostly_unknown, [line for line in lines if "unknown" in line]

    known, foreign = toy_texts(200), ["👍", "很好的产品", "great 👍 👍", "great sound 👍 👍", "很 guitar", ""]
    assert run(known) == (0, 0, [])
    # Every ideograph is a word of its own. Half unknown is not mostly unknown.
    n_unknown, n_mostly, (line,) = run(known + foreign)
    assert (n_unknown, n_mostly) == (1 + 5 + 2 + 2 + 1, 3)
    assert re.search(r"0\.\d% of the tokens are unknown .* of base \(3 texts are mostly unknown, .* --base MODEL", line)
    assert run(known + foreign) == (0, 0, [])  # all are stored
    assert run(known + foreign + toy_texts(300, seed=1) + ["great 👍"]) == (1, 0, [])


def test_a_text_is_encoded_once_and_a_second_run_encodes_nothing(workspace: Workspace) -> None:
    texts = toy_texts(50)
    ingest_texts(workspace, texts + texts[:30] + texts[:10])
    first = encode("toys", workspace=workspace)
    assert (first.n_rows, first.n_unique, first.n_encoded) == (90, 50, 50)
    second = encode("toys", workspace=workspace)
    assert (second.n_hits, second.n_encoded, second.n_tokens, second.runtime) == (50, 0, 0, "none")
    ingest_texts(workspace, [*toy_texts(60)], "more")
    third = encode("more", workspace=workspace)
    assert (third.n_hits, third.n_encoded) == (50, 10), "the store is shared by all domains"
    vectors = stored(workspace)
    np.testing.assert_array_equal(vectors[:30], vectors[50:80])


def test_only_settings_that_change_vectors_change_the_store(
    workspace: Workspace, toy_base: Path, tmp_path: Path
) -> None:
    ingest_texts(workspace, toy_texts(20))
    first = encode("toys", workspace=workspace)
    export("base-16", base=str(toy_base), precision="fp32", max_tokens=16, workspace=workspace)
    export("base-wide", base=str(toy_base), precision="fp32", max_tokens=32, store="fp32", workspace=workspace)
    for name in ("base-16", "base-wide"):
        other = encode("toys", encoder=name, workspace=workspace)
        assert (other.fingerprint != first.fingerprint, other.n_encoded) == (True, 20)
    moved = Workspace(Path(shutil.move(workspace.root, tmp_path / "elsewhere")))
    for runtime in ("auto", "torch", "onnxruntime", "openvino"):
        again = encode("toys", runtime=runtime, workspace=moved)
        assert (again.fingerprint, again.n_hits, again.n_encoded) == (first.fingerprint, 20, 0)


def test_runtimes_agree(workspace: Workspace) -> None:
    ingest_texts(workspace, toy_texts(60))
    vectors = []
    for runtime in ("torch", "onnxruntime", "openvino"):
        result = encode("toys", runtime=runtime, workspace=workspace)
        assert (result.runtime, result.n_encoded) == (runtime, 60)
        vectors.append(stored(workspace))
        shutil.rmtree(result.store)
    assert row_cosines(vectors[0], vectors[1]).min() > 0.9999
    assert row_cosines(vectors[0], vectors[2]).min() > 0.9999


def test_fake_vectors_are_stored_separately_from_real_ones(workspace: Workspace) -> None:
    ingest_texts(workspace, toy_texts(20))
    fake = encode("toys", runtime="fake", workspace=workspace)
    real = encode("toys", workspace=workspace)
    assert (real.n_hits, real.n_encoded) == (0, 20)
    assert fake.fingerprint != real.fingerprint
    assert fake.precision == "fake"


def test_a_dry_run_counts_texts_and_tokens_and_stores_nothing(workspace: Workspace) -> None:
    ingest_texts(workspace, toy_texts(40))
    estimate = encode_dry_run("toys", workspace=workspace)
    assert (estimate.n_unique, estimate.n_hits, estimate.n_new) == (40, 0, 40)
    assert not Path(estimate.store).exists()
    done = encode("toys", workspace=workspace)
    assert estimate.n_tokens == done.n_tokens, "the sample contains all 40 texts"
    again = encode_dry_run("toys", workspace=workspace)
    assert (again.n_hits, again.n_new, again.n_tokens) == (40, 0, 0)


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Replace a file of an encoder's folder and its digest in the manifest."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_an_encoder_folder_with_invalid_files_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    import onnx
    from safetensors.numpy import load_file, save

    ingest_texts(workspace, toy_texts(5))
    folder = workspace.encoder("base")
    model = onnx.load(folder / "model.onnx")
    model.graph.node[0].domain = "com.example"
    tensors = load_file(folder / "model.safetensors")
    narrow = {name: tensor[:7].copy() for name, tensor in tensors.items()}
    probes = load_file(folder / "parity.safetensors")
    invalid_files = [
        ("model.onnx", model.SerializeToString(), ("openvino", "onnxruntime")),
        ("model.onnx", (folder / "model.onnx").read_bytes()[:-100], ("openvino", "onnxruntime")),
        ("model.safetensors", save(narrow), ("torch",)),
        ("model.safetensors", save(tensors)[:-10], ("torch",)),
        ("parity.safetensors", save({**probes, "cls": probes["cls"][:, :3].copy()}), ("torch",)),
        ("parity.safetensors", b"", ("torch",)),
        ("tokenizer.json", b"[" * 10_000, ("torch",)),
    ]
    for name, content, runtimes in invalid_files:
        before = (folder / name).read_bytes(), (folder / "manifest.json").read_bytes()
        replace_file(folder, name, content)
        for runtime in runtimes:
            with pytest.raises(BadArtifact) as caught:
                encode("toys", runtime=runtime, workspace=workspace)
            assert caught.value.fix
        (folder / name).write_bytes(before[0])
        (folder / "manifest.json").write_bytes(before[1])
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["model.onnx"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadArtifact, match=r"lacks a file \(expected model\.onnx\)"):
        encode("toys", workspace=workspace)


def test_after_a_table_changes_only_new_texts_are_encoded(workspace: Workspace, monkeypatch) -> None:
    ingest_texts(workspace, toy_texts(40))
    encode("toys", workspace=workspace)
    ingest_texts(workspace, toy_texts(40)[10:] + toy_texts(7, seed=1))
    estimate = encode_dry_run("toys", workspace=workspace)
    assert (estimate.n_unique, estimate.n_hits, estimate.n_new, estimate.n_orphaned) == (37, 30, 7, 10)
    lines: list[str] = []
    monkeypatch.setattr(verbs, "file_system", lambda _: ("nfs4", True))
    monkeypatch.setattr(verbs, "stored_bytes", lambda _: 2**60)

    class Recorder(type(SILENT)):
        def say(self, line: str) -> None:
            lines.append(line)

    done = encode("toys", workspace=workspace, progress=Recorder())
    assert (done.n_hits, done.n_encoded) == (30, 7)
    for expected in (
        "is on nfs4: write to it from one machine only",
        "toys with base: 37 texts, 30 stored, 7 new",
        "GiB are free",
    ):
        assert any(expected in message for message in lines), lines
    (workspace.root / "data" / "other.parquet").write_bytes(b"not a table")
    assert encode_dry_run("toys", workspace=workspace).n_orphaned is None


SLOW_ENCODE = """
import sys, time
from pathlib import Path
from loid_infer.settings import Workspace
from loid_infer.encoders import fake
from loid_infer.store import writer
from loid_infer.verbs.encode import encode
writer.CHUNK_ROWS = 64
original = fake.FakeRuntime.run
def slow(self, batches):
    for result in original(self, batches):
        time.sleep(0.01)
        yield result
        print("batch", flush=True)
fake.FakeRuntime.run = slow
encode("toys", runtime="fake", workspace=Workspace(Path(sys.argv[1])))
"""


def test_a_killed_run_resumes_to_the_same_vectors(workspace: Workspace, tmp_path: Path) -> None:
    ingest_texts(workspace, toy_texts(3000))
    first = encode("toys", runtime="fake", workspace=workspace)
    expected = fake_vectors(workspace, first)
    shutil.rmtree(first.store)
    counts = []
    for n_batches in (1, 5, 9, 8):
        child = subprocess.Popen(
            [sys.executable, "-c", SLOW_ENCODE, str(workspace.root)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(n_batches):
            assert child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        if Path(first.store, "card.json").exists():
            partial = fake_vectors(workspace, first)
            assert partial.items() <= expected.items()
            counts.append(len(partial))
    resumed = encode("toys", runtime="fake", workspace=workspace)
    assert counts == sorted(counts), "committed vectors were lost"
    assert (resumed.n_hits, resumed.n_encoded) == (counts[-1], 3000 - counts[-1])
    assert 0 < counts[-1] < 3000, "no process was killed while it was encoding"
    assert fake_vectors(workspace, resumed) == expected


def test_an_interrupted_run_keeps_finished_vectors(workspace: Workspace, monkeypatch) -> None:
    ingest_texts(workspace, toy_texts(500))
    original = FakeRuntime.run

    def interrupted(self, batches):
        for n, result in enumerate(original(self, batches)):
            if n == 6:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(FakeRuntime, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode("toys", runtime="fake", workspace=workspace)
    monkeypatch.undo()
    assert encode("toys", runtime="fake", workspace=workspace).n_hits > 0


def test_nonfinite_vectors_of_a_runtime_are_not_stored(workspace: Workspace, monkeypatch) -> None:
    ingest_texts(workspace, toy_texts(50))

    def broken(self, batches):
        for batch in batches:
            yield batch.slots, np.full((len(batch.slots), 32), np.nan, np.float32)

    monkeypatch.setattr(FakeRuntime, "run", broken)
    with pytest.raises(ParityError, match="not finite"):
        encode("toys", runtime="fake", workspace=workspace)
    monkeypatch.undo()
    assert encode("toys", runtime="fake", workspace=workspace).n_encoded == 50


def test_a_runtime_that_fails_parity_is_refused_and_auto_falls_back_with_a_message(
    workspace: Workspace, monkeypatch
) -> None:
    from loid_infer.encoders.openvino import OpenVino

    ingest_texts(workspace, toy_texts(20))
    original = OpenVino.run

    def shifted(self, batches):
        for slots, vectors in original(self, batches):
            yield slots, vectors + 0.3

    monkeypatch.setattr(OpenVino, "run", shifted)
    with pytest.raises(ParityError, match="openvino computes other vectors"):
        encode("toys", runtime="openvino", workspace=workspace)
    messages: list[str] = []
    monkeypatch.setattr(type(SILENT), "say", lambda self, line: messages.append(line))
    assert encode("toys", workspace=workspace).runtime == "onnxruntime"
    assert "openvino computes other vectors" in messages[-1]


def test_a_runtime_that_is_wrong_in_a_single_width_is_refused(
    workspace: Workspace, monkeypatch, tmp_path: Path
) -> None:
    from loid_infer.encoders.openvino import OpenVino
    from loid_infer.encoders.schedule import widths

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nothing is known"))
    ingest_texts(workspace, toy_texts(20))
    original, shapes, wrong = OpenVino.run, [], {}

    def run(self, batches):
        for batch in batches:
            shapes.append(batch.input_ids.shape)
            for slots, vectors in original(self, [batch]):
                yield slots, vectors + 0.3 * (batch.input_ids.shape == (1, wrong.get("width")))

    monkeypatch.setattr(OpenVino, "run", run)
    every = widths(32).tolist()
    for wrong["width"] in (every[1], every[-1]):
        with pytest.raises(ParityError, match="openvino computes other vectors"):
            encode("toys", runtime="openvino", workspace=workspace)
    wrong.clear()
    for is_first in (True, False):  # what has passed is not tried again
        shapes.clear()
        assert encode("toys", runtime="openvino", workspace=workspace).n_encoded == 20
        shutil.rmtree(workspace.cache)
        assert ({width for rows, width in shapes if rows == 1} >= {*every}) is is_first


def test_a_table_replaced_during_a_run_is_an_error_and_nothing_is_stored(workspace: Workspace, monkeypatch) -> None:
    ingest_texts(workspace, toy_texts(50))
    original = encoder_module.open_runtime

    def replace_and_open(*arguments, **options):
        ingest_texts(workspace, toy_texts(50, seed=1))
        return original(*arguments, **options)

    monkeypatch.setattr(encoder_module, "open_runtime", replace_and_open)
    with pytest.raises(BadTable, match="changed while"):
        encode("toys", workspace=workspace)
    monkeypatch.undo()
    assert encode("toys", workspace=workspace).n_hits == 0


def test_an_encoder_replaced_during_a_run_is_an_error(workspace: Workspace, toy_base: Path, monkeypatch) -> None:
    ingest_texts(workspace, toy_texts(50))
    original = encoder_module.open_runtime

    def replace_and_open(*arguments, **options):
        export("base", base=str(toy_base), precision="fp32", max_tokens=16, workspace=workspace)
        return original(*arguments, **options)

    monkeypatch.setattr(encoder_module, "open_runtime", replace_and_open)
    with pytest.raises(BadArtifact, match="exported again"):
        encode("toys", workspace=workspace)


def test_a_runtime_that_returns_no_vectors_is_an_error(workspace: Workspace, monkeypatch) -> None:
    from loid_infer.encoders.openvino import OpenVino

    ingest_texts(workspace, toy_texts(20))
    monkeypatch.setattr(OpenVino, "run", lambda self, batches: (part for part in ()))
    with pytest.raises(ParityError, match="openvino computes other vectors"):
        encode("toys", runtime="openvino", workspace=workspace)
    monkeypatch.setattr(FakeRuntime, "run", lambda self, batches: (part for part in ()))
    with pytest.raises(RuntimeError, match="returned 0 of 20"):
        encode("toys", runtime="fake", workspace=workspace)


def test_a_run_is_refused_while_another_process_writes_to_the_store(workspace: Workspace) -> None:
    ingest_texts(workspace, toy_texts(5))
    encoder = open_folder(workspace.encoder("base"), "base")
    with (
        StoreWriter(workspace.store(encoder.fingerprint), encoder.spec, encoder.fingerprint),
        pytest.raises(StoreBusy, match="process"),
    ):
        encode("toys", workspace=workspace)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"runtime": "tpu"}, BadSetting, "auto | openvino"),
        ({"device": "tpu"}, BadSetting, "auto | cpu"),
        ({"encoder": "none-such"}, BadArtifact, "loid-infer export --name none-such"),
        ({"precision": "bf16", "encoder": "base"}, BadSetting, "the encoder has another precision"),
        ({"precision": "fp8"}, BadSetting, "auto | fp32 | bf16"),
        ({"device": "cuda", "runtime": "openvino"}, RuntimeMissing, "cuda"),
    ],
)
def test_invalid_options_are_refused_with_the_valid_values(
    workspace: Workspace, arguments: dict, kind: type, message: str
) -> None:
    ingest_texts(workspace, toy_texts(5))
    with pytest.raises(kind) as error:
        encode("toys", workspace=workspace, **arguments)
    assert message in str(error.value)


def test_a_missing_table_is_reported_with_the_ingest_command(workspace: Workspace) -> None:
    with pytest.raises(BadTable, match="loid-infer ingest"):
        encode("toys", workspace=workspace)


def test_an_encoder_named_after_the_domain_is_preferred(workspace: Workspace, toy_base: Path) -> None:
    ingest_texts(workspace, toy_texts(5))
    assert encode("toys", workspace=workspace).encoder == "base"
    export("toys", base=str(toy_base), precision="fp32", max_tokens=8, workspace=workspace)
    assert encode("toys", workspace=workspace).encoder == "toys"


def test_the_default_encoder_is_exported_on_first_use_of_each_precision(
    tmp_path: Path, exported: Path, monkeypatch
) -> None:
    from loid_infer.verbs import encoder as resolving

    exports = []

    def fake_export(workspace: Workspace, name: str, precision: str, progress) -> None:
        exports.append((name, precision))
        shutil.copytree(exported / "exports/encoders/base", workspace.encoder(name))
        time.sleep(0.2)

    monkeypatch.setattr(resolving, "export_bundled", fake_export)
    workspace = Workspace(tmp_path)
    ingest_texts(workspace, toy_texts(5))
    assert 0.2 <= encode("toys", workspace=workspace).export_s < 2
    assert encode("toys", precision="fp32", workspace=workspace).encoder == "base-fp32"
    assert encode("toys", workspace=workspace).export_s == 0
    with pytest.raises(BadSetting, match="another precision than bf16"):
        encode("toys", encoder="base-fp16", precision="bf16", workspace=workspace)
    assert exports == [("base", "auto"), ("base-fp32", "fp32"), ("base-fp16", "fp16")]


def test_an_int8_encoder_is_used_for_another_domain_only_when_named(exported_int8, tmp_path: Path) -> None:
    int8_workspace, _ = exported_int8
    workspace = Workspace(tmp_path)
    shutil.copytree(int8_workspace.root / "data", workspace.root / "data")
    shutil.copytree(int8_workspace.encoder("small"), workspace.encoder("base-int8"))
    result = encode("toys", precision="int8", workspace=workspace)
    assert (result.encoder, result.precision, result.n_encoded) == ("base-int8", "int8", 200)
    assert "int8 with" in result.runtime_detail or result.runtime == "onnxruntime"
    ingest_texts(workspace, toy_texts(5, seed=1), "others")
    with pytest.raises(RuntimeMissing, match="torch does not compute int8"):
        encode("others", encoder="base-int8", runtime="torch", workspace=workspace)
    with pytest.raises(BadSetting, match=r"calibrated on another domain.*export --name others-int8"):
        encode("others", precision="int8", workspace=workspace)
    assert encode("others", encoder="base-int8", workspace=workspace).n_encoded == 5
    shutil.copytree(int8_workspace.encoder("small"), workspace.encoder("base"))
    with pytest.raises(BadSetting, match=r"calibrated on another domain.*give --encoder base to use it anyway"):
        encode("others", workspace=workspace)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs root to mount a small tmpfs")
def test_a_full_disk_loses_no_committed_chunk(workspace: Workspace, tmp_path: Path) -> None:
    ingest_texts(workspace, toy_texts(30_000))
    small_disk = tmp_path / "small_disk"
    small_disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small_disk)], check=False, capture_output=True
    ).returncode:
        pytest.skip("this sandbox does not allow mounting")
    try:
        workspace.cache.symlink_to(small_disk)
        with pytest.raises(NoSpace, match="last committed chunk"):
            encode("toys", runtime="fake", workspace=workspace)
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        again = encode("toys", runtime="fake", workspace=workspace)
        assert again.n_hits > 0
        assert again.n_hits + again.n_encoded == 30_000
        assert len(fake_vectors(workspace, again)) == 30_000
    finally:
        subprocess.run(["umount", "-l", str(small_disk)], check=False)


def test_results_can_be_serialized_as_json(workspace: Workspace) -> None:
    from dataclasses import asdict

    ingest_texts(workspace, toy_texts(5))
    fields = json.loads(json.dumps(asdict(encode("toys", workspace=workspace))))
    assert fields.keys() >= {
        "domain",
        "encoder",
        "fingerprint",
        "runtime",
        "precision",
        "max_tokens",
        "n_rows",
        "n_unique",
        "n_hits",
        "n_encoded",
        "n_truncated",
        "n_tokens",
        "padding",
        "seconds",
        "export_s",
        "setup_s",
        "tokens_per_s",
        "texts_per_s",
        "peak_rss_bytes",
        "stages",
        "store",
    }
    assert fields["stages"].keys() == {"read_s", "tokenize_s", "forward_s", "commit_s"}


def test_the_record_of_a_run_is_replaced_only_by_a_run_that_encodes_texts(workspace: Workspace) -> None:
    ingest_texts(workspace, toy_texts(30))
    result = encode("toys", runtime="fake", workspace=workspace)
    path = workspace.reports / "toys.base.encoding.json"
    record = json.loads(path.read_text())
    assert record == json.loads(json.dumps(asdict(result)))
    assert record["n_encoded"] == 30 and record["stages"].keys() == {"read_s", "tokenize_s", "forward_s", "commit_s"}
    content = path.read_bytes()
    assert encode("toys", runtime="fake", workspace=workspace).n_encoded == 0
    assert path.read_bytes() == content
    ingest_texts(workspace, toy_texts(31))
    encode("toys", runtime="fake", workspace=workspace)
    assert json.loads(path.read_text())["n_encoded"] < 30


def test_a_run_succeeds_when_its_record_cannot_be_written(workspace: Workspace) -> None:
    messages: list[str] = []

    class Recorder:
        def say(self, line: str) -> None:
            messages.append(line)

        def __getattr__(self, name: str):
            return getattr(SILENT, name)

    ingest_texts(workspace, toy_texts(20))
    workspace.reports.write_text("a file instead of a folder")
    result = encode("toys", runtime="fake", workspace=workspace, progress=Recorder())
    assert result.n_encoded == 20 and len(fake_vectors(workspace, result)) == 20
    (line,) = [line for line in messages if "measurements" in line]
    assert "every vector is stored" in line and "cannot create the folder" in line
