"""The canonical table as a corpus, as interactions and as exported vectors, against slow references."""

import errno
import hashlib
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

from loid_infer.artifact import new_file
from loid_infer.data.canonical import METADATA_KEY, SCHEMA, filter_table, finish_reviews, row_writer
from loid_infer.data.corpora import digests_of
from loid_infer.data.reviews import MAX_PIECE_TEXTS, open_table
from loid_infer.data.vectors import Bundle, export_vectors
from loid_infer.errors import BadArtifact, BadTable, NoSpace
from loid_infer.types import NO_TIME, SILENT

WORDS = ["", " \t", "\u3000", "Great!", "zwölf Töne 🎸", "a", "a\0", "x" * 5000]


def draw_rows(n, seed=0):
    draw = np.random.default_rng(seed)
    pairs = draw.permutation(300 * 200)[:n]
    users = [f"{'é' if code % 3 else 'Z'}{code // 200}" for code in pairs]
    items = [f"i{code % 200}" for code in pairs]
    texts = [WORDS[k] if k < len(WORDS) else f"text {k}" for k in draw.integers(0, 400, n)]
    ratings = draw.integers(1, 6, n).astype(float).tolist()
    times = [None if k % 5 == 0 else int(k) for k in draw.integers(0, 10**9, n)]
    return list(zip(users, items, ratings, texts, times, strict=True))


def write(path, rows, sizes):
    with row_writer(path, SCHEMA) as writer:
        start = 0
        for size in sizes:
            writer.write(list(zip(*rows[start : start + size], strict=True)))
            start += size
        assert start == len(rows)
        columns = list(zip(*rows, strict=True))
        return finish_reviews(
            writer, n_users=len(set(columns[0])), n_items=len(set(columns[1])), rating_range=(1.0, 5.0)
        )


@pytest.fixture
def rows():
    return draw_rows(10_000)


@pytest.fixture
def table(tmp_path, rows):
    write(tmp_path / "toys.parquet", rows, [4_000, 1, 5_999])
    return open_table(tmp_path / "toys.parquet", "toys")


def test_the_digest_does_not_depend_on_row_groups_but_on_every_cell(tmp_path, rows):
    rows = rows[:200]
    path = tmp_path / "t.parquet"
    digests = {write(path, rows, sizes).digest for sizes in ([200], [1, 199], [150, 50])}
    assert len(digests) == 1
    user, item, rating, text, time = rows[7]
    changed = [
        (user + "x", item, rating, text, time),
        (user, item + "x", rating, text, time),
        (user, item, rating + 1, text, time),
        (user, item, rating, text + "x", time),
        (user, item, rating, text, 123),
        (user, item, rating, text, 0),
    ]
    for row in changed:
        digests.add(write(path, [*rows[:7], row, *rows[8:]], [200]).digest)
    assert len(digests) == 7
    # The same bytes in a column, divided differently between two rows.
    first = [("ab", "c", 1.0, "x", None), ("a", "c", 1.0, "y", None)]
    second = [("a", "c", 1.0, "x", None), ("ba", "c", 1.0, "y", None)]
    assert write(path, first, [2]).digest != write(path, second, [2]).digest


def test_filtering_writes_the_kept_rows(tmp_path, rows):
    write(tmp_path / "all", rows, [4_000, 1, 5_999])
    keep = np.random.default_rng(0).random(len(rows)) < 0.5
    keep[4_000] = False
    with row_writer(tmp_path / "kept", SCHEMA) as writer:
        filter_table(tmp_path / "all", keep, writer)
        digest = finish_reviews(writer, n_users=1, n_items=1, rating_range=(1.0, 5.0)).digest
    kept = [row for row, kept in zip(rows, keep, strict=True) if kept]
    assert write(tmp_path / "plain", kept, [len(kept)]).digest == digest
    assert pq.ParquetFile(tmp_path / "kept").num_row_groups == 2


def test_digests_are_blake2b_of_each_text(table, rows):
    digests = table.digests(SILENT)
    assert digests.shape == (10_000, 16)
    assert digests.dtype == np.uint8
    for digest, row in zip(digests, rows, strict=True):
        assert digest.tobytes() == hashlib.blake2b(row[3].encode(), digest_size=16).digest()
    np.testing.assert_array_equal(digests, digests_of([row[3] for row in rows]))


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 1])
def test_texts_of_rows_in_bounded_batches(share, table, rows):
    wanted = np.flatnonzero(np.random.default_rng(1).random(10_000) < share)
    read_rows = []
    for numbers, texts in table.texts(wanted):
        assert len(numbers) == len(texts) <= MAX_PIECE_TEXTS
        assert list(texts) == [rows[number][3] for number in numbers]
        read_rows += numbers.tolist()
    assert read_rows == wanted.tolist()


def test_batches_are_bounded_by_bytes_too(table, rows, monkeypatch):
    monkeypatch.setattr("loid_infer.data.reviews.MAX_PIECE_BYTES", 4_999)
    sizes = []
    for numbers, texts in table.texts(np.arange(10_000)):
        assert list(texts) == [rows[number][3] for number in numbers]
        sizes.append(sum(len(text.encode()) for text in texts))
        assert sizes[-1] <= 4_999 or len(texts) == 1
    assert max(sizes) == 5_000


def test_only_necessary_row_groups_are_read(table, monkeypatch):
    read = []
    plain = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda f, n, **k: (read.append(n), plain(f, n, **k))[1])
    assert sum(len(texts) for _, texts in table.texts(np.array([5, 4_001, 9_999]))) == 3
    assert read == [0, 2]


@pytest.mark.parametrize("bad", [[3, 2], [-1], [10_000]])
def test_rows_must_be_ascending_and_in_range(bad, table):
    with pytest.raises(ValueError, match=r"ascend within 0\.\.9999"):
        list(table.texts(np.array(bad)))


def test_interactions_match_the_rows(table, rows):
    data = table.interactions(SILENT)
    assert list(data.user_ids) == sorted({row[0] for row in rows})
    assert list(data.item_ids) == sorted({row[1] for row in rows})
    assert len(np.unique(data.digests, axis=0)) == len(data.digests) == len({row[3] for row in rows})
    for n, (user, item, rating, text, time) in enumerate(rows):
        assert (data.user_ids[data.users[n]], data.item_ids[data.items[n]]) == (user, item)
        assert data.ratings[n] == rating
        assert data.timestamps[n] == (NO_TIME if time is None else time)
        assert data.digests[data.texts[n]].tobytes() == digests_of([text]).tobytes()
        assert data.empty[data.texts[n]] == (not text.strip())
    assert data.ratings.dtype == np.float32
    assert data.timestamps.dtype == np.int64
    assert (data.n, data.rating_range, data.digest) == (10_000, (1.0, 5.0), table.digest)
    assert (table.facts.n_users, table.facts.n_items) == (len(data.user_ids), len(data.item_ids))
    assert table.facts.n_empty_text == sum(not row[3].strip() for row in rows)


def stored(path, schema, metadata):
    with pq.ParquetWriter(path, schema) as writer:
        writer.write_table(schema.empty_table())
        if metadata is not None:
            writer.add_key_value_metadata({METADATA_KEY: metadata})


FACTS = {
    "format": 1,
    "digest": "d",
    "n_rows": 0,
    "n_users": 0,
    "n_items": 0,
    "n_empty_text": 0,
    "rating_range": [1, 5],
    "html_unescaped": True,
}


def test_other_files_are_not_accepted_as_canonical_tables(tmp_path, table):
    path = tmp_path / "books.parquet"
    other = pa.schema([("a", pa.string()), ("b", pa.int64())])

    def refused(*parts):
        with pytest.raises(BadTable) as caught:
            open_table(path, "books")
        for part in (str(path), *parts, "loid-infer ingest SRC --domain books"):
            assert part in str(caught.value)

    refused("there is no table for domain 'books' (got tables for toys)")
    path.write_bytes(b"")
    refused("the table cannot be read")
    path.write_bytes(table.path.read_bytes()[:-10])
    refused("the table cannot be read")
    stored(path, other, None)
    refused("not a canonical table", "expected a parquet file written by ingest", "with the columns a, b")
    stored(path, SCHEMA, json.dumps({**FACTS, "format": 99}).encode())
    refused("unsupported table format", "expected 1", "got 99")
    stored(path, other, json.dumps(FACTS).encode())
    refused("the table contradicts its metadata", "expected 0 rows of user_id", "got 0 rows of a, b")
    stored(path, SCHEMA, json.dumps({**FACTS, "n_rows": 5}).encode())
    refused("the table contradicts its metadata", "expected 5 rows", "got 0 rows")
    for damaged in (b"{", b"[]", b'{"format": 1}'):
        stored(path, SCHEMA, damaged)
        refused("metadata: the ")
    stored(path, SCHEMA, json.dumps(FACTS).encode())
    empty = open_table(path, "books")
    assert empty.interactions(SILENT).n == empty.digests(SILENT).shape[0] == 0


DIGESTS = np.arange(160_000).astype(np.uint8).reshape(10_000, 16)


def vectors_of(rows):
    return np.stack([rows, rows * 2, rows % 7], axis=1).astype(np.float16)


def test_vectors_are_exported_in_table_order(tmp_path, table, rows):
    calls = []

    def counted(rows):
        calls.append(len(rows))
        return vectors_of(rows)

    export_vectors(table, DIGESTS, counted, 3, tmp_path / "v.parquet", "{}")
    assert max(calls) < 10_000
    got = pq.read_table(tmp_path / "v.parquet")
    assert got.schema.names == ["user_id", "item_id", "row", "vector"]
    assert got.schema.field("vector").type == pa.list_(pa.float32(), 3)
    assert got.column("row").to_pylist() == list(range(10_000))
    assert got.column("user_id").to_pylist() == [row[0] for row in rows]
    assert got.column("item_id").to_pylist() == [row[1] for row in rows]
    expected = vectors_of(np.arange(10_000)).astype(np.float32)
    assert np.array_equal(np.array(got.column("vector").to_pylist(), np.float32), expected)
    export_vectors(table, DIGESTS, vectors_of, 3, tmp_path / "v.safetensors", "{}")
    with safe_open(tmp_path / "v.safetensors", "numpy") as file:
        assert np.array_equal(file.get_tensor("vectors"), expected)
        assert np.array_equal(file.get_tensor("digests"), DIGESTS)
        metadata = file.metadata()
    assert (metadata["domain"], metadata["table_digest"], metadata["card"]) == ("toys", table.digest, "{}")
    with Bundle(tmp_path / "v.safetensors") as bundle:
        assert np.array_equal(bundle.vectors(9_000, 20_000), expected[9_000:])
        assert (bundle.dim, bundle.spec) == (3, "{}")


def test_every_changed_byte_of_a_bundle_is_detected(tmp_path, table):
    out = tmp_path / "v.safetensors"
    export_vectors(table, DIGESTS, vectors_of, 3, out, "{}")
    content = out.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    positions = [0, 7, 8, *range(header - 60, header, 7), *range(header, len(content), 7_919), len(content) - 1]
    for at in positions:
        changed = content[:at] + bytes([content[at] ^ 0x11]) + content[at + 1 :]
        out.write_bytes(changed)
        try:
            with Bundle(out) as bundle:  # a change of what nothing depends on, such as white space
                assert at < header and np.array_equal(bundle.vectors(0, 10_000), vectors_of(np.arange(10_000)))
        except BadArtifact:
            pass
    for n in (0, 5, 100, header, len(content) - 1):
        out.write_bytes(content[:n])
        with pytest.raises(BadArtifact, match="not a valid bundle"):
            Bundle(out)
    with pytest.raises(BadArtifact, match="not a valid bundle"):
        Bundle(tmp_path / "absent.safetensors")


def test_an_export_that_fails_leaves_the_old_file(tmp_path, table):
    out = tmp_path / "v.parquet"
    out.write_bytes(b"old")

    def refuse(rows):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(NoSpace, match="No space left"):
        export_vectors(table, DIGESTS, refuse, 3, out, "{}")
    with pytest.raises(ValueError, match=r"expected vectors of shape \(8192, 4\)"):
        export_vectors(table, DIGESTS, vectors_of, 4, out, "{}")
    assert out.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toys.parquet", "v.parquet"]


def test_a_full_disk_is_reported_by_the_parquet_writer(tmp_path, rows):
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("this system has no /dev/full")
    with pytest.raises(NoSpace, match="No space left"), new_file(tmp_path / "t.parquet") as temporary:
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        write(temporary, rows, [10_000])
    assert not list(tmp_path.iterdir())


def test_a_flipped_byte_is_detected(tmp_path):
    path = tmp_path / "toys.parquet"
    rows = [(f"u{i}", f"i{i % 5}", 4.0, f"text number {i} of this table", i) for i in range(300)]
    with row_writer(path, SCHEMA) as writer:
        writer.write(list(zip(*rows, strict=True)))
        finish_reviews(writer, n_users=300, n_items=5, rating_range=(1.0, 5.0))
    content = path.read_bytes()
    expected = open_table(path, "toys").digests(SILENT)
    for at in range(4, len(content), max(1, len(content) // 60)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        try:
            digests = open_table(path, "toys").digests(SILENT)
        except BadTable as error:
            assert "loid-infer ingest" in str(error)
        else:  # a byte of another column, or an irrelevant one
            assert np.array_equal(digests, expected)
