"""Fuzzing of every file that is read: the outcome is a result or an error message, never a traceback or a hang."""

import contextlib
import gzip
import json
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loid_infer import encode, fit, ingest
from loid_infer.data.corpora import checked_texts
from loid_infer.data.reviews import open_table
from loid_infer.data.vectors import Bundle
from loid_infer.encoders.folder import open_folder
from loid_infer.encoders.spec import fingerprint
from loid_infer.errors import BadStore, BadTable, LoidError, NotEncoded
from loid_infer.heads.presets import HeadOptions
from loid_infer.heads.saved import SavedHead, load_head
from loid_infer.plugins.delta import read_adapter
from loid_infer.plugins.folder import PluginFolder, read_plugin
from loid_infer.records import decode
from loid_infer.settings import Workspace
from loid_infer.store.environment import read_spec, spec_bytes
from loid_infer.store.records import pack, unpack
from loid_infer.types import SILENT, Spec
from loid_infer.verbs.cache import cache_export
from loid_infer.verbs.score import _vectors
from tests.conftest import toy_texts, write_reviews
from tests.plugins.toy_plugins import random_delta, write_plugin
from tests.proofs.conftest import slow
from tests.store.test_store import FINGERPRINT, SPEC, rows

FRAGMENTS = [
    *(b"\x00", b"\xff\xfe", b"NaN", b"1e999", b"-1", b"9" * 40, b'"', b"{", b"}", b"null", b"[]", b'{"a":1}', b"true"),
    *(b"[" * 3_000, b'{"a":' * 3_000, b"../../etc/passwd", b"\r\n", b"\\ud800", b"\xf0\x9f\x98\x80", b",", b"\t"),
]
EDIT = st.tuples(
    st.sampled_from(["flip", "cut", "insert", "drop", "repeat", "number"]),
    st.floats(0, 1),
    st.integers(0, 255),
    st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=8)),
)
VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("../../x")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=5,
)


def mutated(content: bytes, edits) -> bytes:
    """Apply edits (kind, relative position, number, fragment) to a file's content."""
    for kind, position, number, fragment in edits:
        at = int(position * max(len(content) - 1, 0))
        if kind == "flip" and content:
            content = content[:at] + bytes([content[at] ^ (number or 1)]) + content[at + 1 :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + fragment + content[at:]
        elif kind == "drop":
            content = content[:at] + content[at + 1 + number :]
        elif kind == "repeat":
            content = content[:at] + content[at : at + 1 + number] * 2 + content[at + 1 + number :]
        elif kind == "number":
            content = content[:at] + bytes([number]) * 8 + content[at + 8 :]
    return content


def with_field(whole: dict, path: list[int], value: object) -> dict:
    """A copy of a JSON object with one field, at any depth, set to `value`, or deleted if `value` is "gone"."""
    copy = json.loads(json.dumps(whole))
    part = copy
    for i, step in enumerate(path):
        names = sorted(part) if isinstance(part, dict) else range(len(part))
        name = [*names][step % len(names)]
        last = i == len(path) - 1 or not isinstance(part[name], dict | list) or not part[name]
        if last:
            if value == "gone":
                del part[name]
            else:
                part[name] = value
            return copy
        part = part[name]
    return copy


def fuzz_bytes(base: bytes, n: int, read: Callable[[bytes], object]) -> Counter:
    """Call `read` with `n` mutations of `base`; counts how many are read and how many refused."""
    outcomes: Counter[str] = Counter()

    @settings(max_examples=n, deadline=timedelta(seconds=20), database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(EDIT, max_size=5))
    def run_case(edits) -> None:
        count_outcome(outcomes, lambda: read(mutated(base, edits)))

    run_case()
    return outcomes


def fuzz_json(base: dict, n: int, read: Callable[[bytes], object]) -> Counter:
    """The same with `n` changes of single fields of a JSON object."""
    outcomes: Counter[str] = Counter()

    @settings(max_examples=n, deadline=timedelta(seconds=20), database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.one_of(VALUE, st.just("gone")))
    def run_case(path, value) -> None:
        count_outcome(outcomes, lambda: read(json.dumps(with_field(base, path, value)).encode()))

    run_case()
    return outcomes


def count_outcome(outcomes: Counter, read: Callable[[], object]) -> None:
    try:
        read()
        outcomes["read"] += 1
    except LoidError as error:
        assert error.fix, error
        outcomes["refused"] += 1


def summary(name: str, outcomes: Counter) -> str:
    assert outcomes["refused"] > 0 < outcomes["read"]
    return f"fuzzing: {name}: {sum(outcomes.values()):,} inputs ({dict(outcomes)}), none with a traceback"


@pytest.mark.parametrize("n", [200, slow(45_000)])
def test_records(report_cases, n):
    base = bytes(pack(7, *rows(3), FINGERPRINT))

    def read(content: bytes) -> None:
        view = memoryview(content)
        with contextlib.suppress(BadStore):
            unpack(view, SPEC, FINGERPRINT, first_row=7, check=False, where="here")
        unpack(view, SPEC, FINGERPRINT, first_row=None, where="here")

    report_cases(summary("record headers", fuzz_bytes(base, n, read)))


@pytest.mark.parametrize("n", [60, slow(16_000)])
def test_specs(tmp_path, report_cases, n):
    def read(content: bytes) -> None:
        (tmp_path / "card.json").write_bytes(content)
        fingerprint(read_spec(tmp_path))

    outcomes = fuzz_bytes(spec_bytes(SPEC), n // 2, read)
    report_cases(summary("specs", outcomes + fuzz_json(json.loads(spec_bytes(SPEC)), n // 2, read)))


@pytest.fixture(scope="module")
def artifacts(exported, tmp_path_factory):
    """A workspace with an artifact of every kind that has a manifest, and an exported file of vectors."""
    workspace = Workspace(tmp_path_factory.mktemp("artifacts"))
    shutil.copytree(exported / "exports", workspace.root / "exports")
    texts = toy_texts(120)
    ingest([write_reviews(workspace.root / "toys.jsonl", texts)], "toys", workspace=workspace)
    encode("toys", runtime="torch", workspace=workspace)
    fit("toys", settings=HeadOptions(epochs=1), workspace=workspace)
    cache_export("toys", workspace.root / "bundle.safetensors", workspace=workspace)
    write_plugin(workspace, "plugin", random_delta(0))
    return workspace


@pytest.mark.parametrize("n", [150, slow(16_000)])
def test_bundles(artifacts, tmp_path, report_cases, n):
    path = tmp_path / "bundle.safetensors"
    whole = (artifacts.root / "bundle.safetensors").read_bytes()
    n_header = int.from_bytes(whole[:8], "little")

    def read(content: bytes) -> None:
        path.write_bytes(content)
        with Bundle(path) as bundle:
            decode(bundle.spec, Spec, "Export it again.", where="the bundle")

    def header(content: bytes) -> None:
        read(len(content).to_bytes(8, "little") + content + whole[8 + n_header :])

    outcomes = fuzz_bytes(whole[: 8 + n_header + 3_000], n // 3, read)  # truncated: mostly refused
    outcomes += fuzz_bytes(whole, n // 3, read) + fuzz_json(json.loads(whole[8 : 8 + n_header]), n // 3, header)
    report_cases(summary("bundles", outcomes))


def use_head(head: SavedHead, folder: Path) -> None:
    with contextlib.suppress(NotEncoded):  # this workspace has no store
        _vectors(Workspace(folder), head, folder, "Fit it again.")


def use_plugin(plugin: PluginFolder) -> None:
    _ = plugin.manifest.domains, plugin.manifest.base.digest, plugin.delta()


KINDS = {
    "encoders/base": lambda folder: (open_folder(folder, "base").probes(), open_folder(folder, "base").tokenizer()),
    "heads/toys": lambda folder: use_head(load_head(folder, "Fit it again."), folder),
    "plugins/plugin": lambda folder: use_plugin(read_plugin(folder)),
}


@pytest.mark.parametrize("n", [60, slow(6_000)])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_manifests(artifacts, tmp_path, report_cases, kind, n):
    folder = tmp_path / "copy"
    shutil.copytree(artifacts.root / "exports" / kind, folder)
    whole = (folder / "manifest.json").read_bytes()

    def read(content: bytes) -> None:
        (folder / "manifest.json").write_bytes(content)
        KINDS[kind](folder)

    outcomes = fuzz_bytes(whole, n // 2, read) + fuzz_json(json.loads(whole), n // 2, read)
    report_cases(summary(f"manifests of {kind}", outcomes))


@pytest.mark.parametrize("n", [60, slow(4_000)])
def test_adapters(artifacts, tmp_path, report_cases, n):
    folder = tmp_path / "copy"
    shutil.copytree(artifacts.root / "exports/plugins/plugin", folder)
    config, tensors = ((folder / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors"))

    def read_config(content: bytes) -> None:
        (folder / "adapter_config.json").write_bytes(content)
        read_adapter(folder)

    def read_tensors(content: bytes) -> None:
        (folder / "adapter_model.safetensors").write_bytes(content)
        read_adapter(folder)

    outcomes = fuzz_json(json.loads(config), n // 2, read_config) + fuzz_bytes(config, n // 4, read_config)
    (folder / "adapter_config.json").write_bytes(config)
    report_cases(summary("adapters", outcomes + fuzz_bytes(tensors, n // 4, read_tensors)))


RECORDS = [
    {"user_id": f"u{i % 3}", "item_id": f"i{i}", "rating": 1 + i % 5, "text": f"it is {i} \u00e9", "timestamp": i}
    for i in range(12)
]
LINES = [",".join(RECORDS[0]), *(",".join(map(str, record.values())) for record in RECORDS)]


def as_parquet(folder: Path) -> bytes:
    path = folder / "reviews.parquet"
    pq.write_table(pa.Table.from_pylist(RECORDS), path)
    return path.read_bytes()


SOURCES = {
    "jsonl": lambda _: "\n".join(map(json.dumps, RECORDS)).encode(),
    "jsonl.gz": lambda _: gzip.compress("\n".join(map(json.dumps, RECORDS)).encode(), mtime=0),
    "csv": lambda _: "\n".join(LINES).encode(),
    "parquet": as_parquet,
}


@pytest.mark.parametrize("n", [150, slow(2_000)])  # with 50, sometimes none is refused
@pytest.mark.parametrize("kind", sorted(SOURCES))
def test_ingest(tmp_path, report_cases, kind, n):
    whole, path, workspace = SOURCES[kind](tmp_path), tmp_path / f"reviews.{kind}", Workspace(tmp_path / "ws")

    def read(content: bytes) -> None:
        path.write_bytes(content)
        with contextlib.suppress(LoidError):
            ingest([path], "toys", workspace=workspace)
        ingest([path], "toys", on_bad="skip", workspace=workspace)
        table = open_table(workspace.table("toys"), "toys")
        assert len(table.digests(SILENT)) == table.n_rows

    report_cases(summary(f"ingest of {kind}", fuzz_bytes(whole, n, read)))


def test_a_column_name_that_is_no_text_is_a_damaged_table(tmp_path) -> None:
    workspace = Workspace(tmp_path)
    ingest([write_reviews(tmp_path / "toys.jsonl", toy_texts(40))], "toys", workspace=workspace)
    path = workspace.table("toys")
    path.write_bytes(path.read_bytes().replace(b"user_id", b"\xe9ser_id"))
    with pytest.raises(BadTable, match="toys"):
        open_table(path, "toys")


@pytest.mark.parametrize("n", [30, slow(2_000)])
def test_tables(tmp_path, report_cases, n):
    workspace = Workspace(tmp_path)
    ingest([write_reviews(tmp_path / "toys.jsonl", toy_texts(40))], "toys", workspace=workspace)
    path = workspace.table("toys")
    whole = path.read_bytes()

    def read(content: bytes) -> None:
        path.write_bytes(content)
        table = open_table(path, "toys")
        digests = table.digests(SILENT)
        for _ in checked_texts(table, np.arange(table.n_rows), digests):
            pass

    report_cases(summary("tables", fuzz_bytes(whole, n, read)))
