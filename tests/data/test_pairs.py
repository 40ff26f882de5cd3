"""Reading and writing files of pairs."""

import bz2
import csv
import gzip
import lzma
import time
import uuid
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from loid_infer.data.pairs import MAX_BATCH_ROWS, read_pairs, write_scores
from loid_infer.errors import BadSetting, BadTable


def make(path, columns):
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
    return path


def score_all(path, out):
    source = read_pairs(path)
    batches = []
    with write_scores(source, out) as write:
        for pairs in source.batches():
            batches.append(pairs)
            write(pairs, np.arange(pairs.n) / 2, ["both"] * pairs.n)
    return batches


PAIRS = {"note": ["a,b", 'say "x"\ny', "007"], "item_id": ["i1", "i2", "é"], "user_id": ["u", "v", "u"]}


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize("out_kind", ["parquet", "csv"])
def test_rows_order_and_columns_are_kept(kind, out_kind, tmp_path):
    out = tmp_path / f"scores.{out_kind}"
    (pairs,) = score_all(make(tmp_path / f"pairs.{kind}", PAIRS), out)
    assert (pairs.user_ids, pairs.item_ids, pairs.domains, pairs.ratings) == (
        ["u", "v", "u"],
        ["i1", "i2", "é"],
        None,
        None,
    )
    if out_kind == "parquet":
        got = pq.read_table(out)
        assert got.schema.names == ["note", "item_id", "user_id", "score", "known"]
        assert got.schema.field("score").type == pa.float32()
        assert got.to_pydict() == {**PAIRS, "score": [0, 0.5, 1], "known": ["both"] * 3}
    else:
        with out.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["note"] for row in rows] == PAIRS["note"]
        assert [float(row["score"]) for row in rows] == [0, 0.5, 1]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_integer_ids_domains_and_ratings(kind, tmp_path):
    columns = {"user_id": [7, 8], "item_id": [1, 2], "domain": ["toys", "books"], "rating": [4, 2]}
    source = read_pairs(make(tmp_path / f"p.{kind}", columns))
    assert source.has_domain
    (pairs,) = source.batches()
    assert (pairs.user_ids, pairs.item_ids, pairs.domains) == (["7", "8"], ["1", "2"], ["toys", "books"])
    assert pairs.ratings.dtype == np.float32
    assert pairs.ratings.tolist() == [4, 2]


def test_a_missing_rating_is_nan(tmp_path):
    path = tmp_path / "p"
    path.write_text("user_id,item_id,rating\nu,i,\nu,j,4.5\n")
    (pairs,) = read_pairs(path).batches()
    assert np.isnan(pairs.ratings[0])
    assert pairs.ratings[1] == 4.5


def test_dictionary_and_large_columns_and_batches_are_bounded(tmp_path):
    n = 2 * MAX_BATCH_ROWS + 5
    ids = pa.array([f"u{k % 1000}" for k in range(n)])
    columns = {"user_id": ids.dictionary_encode(), "item_id": pa.array(range(n)), "extra": ids.cast(pa.large_string())}
    batches = score_all(make(tmp_path / "p.parquet", columns), tmp_path / "s.parquet")
    assert [pairs.n for pairs in batches] == [MAX_BATCH_ROWS, MAX_BATCH_ROWS, 5]
    assert [i for pairs in batches for i in pairs.item_ids] == [str(k) for k in range(n)]
    got = pq.read_table(tmp_path / "s.parquet")
    assert got.column("item_id").to_pylist() == list(range(n))
    assert got.column("user_id").to_pylist() == ids.to_pylist()


def test_an_empty_table_is_scored_to_an_empty_table(tmp_path):
    for kind in ("parquet", "csv"):
        columns = {"user_id": pa.array([], pa.string()), "item_id": pa.array([], pa.string())}
        assert score_all(make(tmp_path / f"p.{kind}", columns), tmp_path / "s.parquet") == []
        assert pq.read_table(tmp_path / "s.parquet").schema.names == ["user_id", "item_id", "score", "known"]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        (
            {"user": ["u"], "item_id": ["i"]},
            ("columns are missing: user_id", "header: user_id,item_id", "got 'user, item_id'"),
        ),
        ({"user_id": ["u"], "item_id": ["i"], "score": ["1"]}, ("a column occurs twice, or is named score or known",)),
        ({"user_id": ["u", ""], "item_id": ["i", "j"]}, ("row 2: the user_id is missing or empty",)),
        ({"user_id": ["u"], "item_id": ["i"], "rating": ["five"]}, ("a rating is not a number", "rows 1 to 1")),
    ],
)
def test_invalid_pairs_are_reported(kind, columns, parts, tmp_path):
    path = make(tmp_path / f"p.{kind}", columns)
    with pytest.raises(BadTable) as caught:
        list(read_pairs(path).batches())
    for part in (str(path), *parts):
        assert part in str(caught.value)


def test_null_and_float_ids_are_reported(tmp_path):
    path = make(tmp_path / "p.parquet", {"user_id": ["u"] * 3, "item_id": ["i", None, "j"]})
    with pytest.raises(BadTable, match="row 2: the item_id is missing or empty"):
        list(read_pairs(path).batches())
    make(path, {"user_id": ["u"], "item_id": [1.5]})
    with pytest.raises(BadTable, match="row 1: the item_id is not an id"):
        list(read_pairs(path).batches())


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing", b"\xff\xfe\0a", b"\x1f\x8b\x08\0"])
def test_pairs_in_other_formats_are_refused(content, tmp_path):
    path = tmp_path / "p"
    path.write_bytes(content)
    with pytest.raises(BadTable, match=str(path)):
        read_pairs(path)
    with pytest.raises(BadTable, match="No such file"):
        read_pairs(tmp_path / "absent")


def test_a_damaged_page_is_reported(tmp_path):
    path = make(tmp_path / "p.parquet", {name: [f"{name}{k}" for k in range(3_000)] for name in ("user_id", "item_id")})
    content = path.read_bytes()
    path.write_bytes(content[:500] + bytes(1_000) + content[1_500:])
    with pytest.raises(BadTable, match="the file is damaged"):
        list(read_pairs(path).batches())


def test_the_suffix_decides_the_format_and_errors_leave_no_file(tmp_path):
    path = make(tmp_path / "p.csv", {"user_id": ["u", ""], "item_id": ["i", "j"]})
    with pytest.raises(BadSetting, match=r"expected .parquet or .csv, got '.txt'"):
        score_all(path, tmp_path / "s.txt")
    with pytest.raises(BadTable, match="row 2"):
        score_all(path, tmp_path / "s.csv")
    assert [file.name for file in tmp_path.iterdir()] == ["p.csv"]


def test_300_thousand_pairs_are_processed_in_seconds(tmp_path):
    n = 300_000
    draw = np.random.default_rng(0)
    columns = {name: [f"A{k:013d}" for k in draw.integers(0, 50_000, n)] for name in ("user_id", "item_id")}
    path = make(tmp_path / "p.parquet", columns)
    start = time.perf_counter()
    score_all(path, tmp_path / "s.parquet")
    assert time.perf_counter() - start < 3  # 0.3 s when nothing else runs


def csv_rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_quoted_line_ends_and_long_fields_are_kept_wherever_they_lie(tmp_path):
    # Line ends at every position around the limits of blocks of a power of two, and a field longer than any of them.
    notes = [f"{'x' * (k % 97)}\r\n{'y' * (k % 89)}" for k in range(20_000)] + ["z\r\n" * 700_000]
    columns = {"user_id": ["u"] * len(notes), "item_id": ["i"] * len(notes), "note": notes}
    score_all(make(tmp_path / "p.csv", columns), tmp_path / "s.csv")
    assert [row["note"] for row in csv_rows(tmp_path / "s.csv")] == notes


@pytest.mark.parametrize("name", ["note", "notes"])  # one byte more in the header moves all line ends
def test_a_line_end_across_the_end_of_a_block_is_kept(name, tmp_path):
    notes = ["\r\n" * 500] * 4_000  # 4 MB; rows of an even length, so that CR is always on the same side
    columns = {"user_id": ["u"] * len(notes), "item_id": ["i"] * len(notes), name: notes}
    score_all(make(tmp_path / "p.csv", columns), tmp_path / "s.csv")
    assert [row[name] for row in csv_rows(tmp_path / "s.csv")] == notes


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_compressed_csv_and_tsv_are_read(compress, tmp_path):
    for delimiter in (",", "\t", ";"):
        path = tmp_path / "p.csv.gz"
        path.write_bytes(compress(f"user_id,item_id\nu,i\n\nv,{' '}j\n".replace(",", delimiter).encode()))
        source = read_pairs(path)
        (pairs,) = source.batches()
        assert (pairs.user_ids, pairs.item_ids) == (["u", "v"], ["i", "j"])
        assert source.default_out == tmp_path / "p.scores.csv"
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(BadTable, match="truncated"):
            list(read_pairs(path).batches())


OTHER_TYPES = {
    "decimal": pa.array([Decimal(7), Decimal(8)], pa.decimal128(20, 0)),
    "binary": pa.array([b"7", b"8"]),
    "string view": pa.array(["7", "8"], pa.string_view()),
    "float": pa.array([7.0, 8.0]),
    "spaces": pa.array([" 7", "8\u00a0"]),
    "large string": pa.array(["7", "8"], pa.large_string()),
}


@pytest.mark.parametrize("name", OTHER_TYPES)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_ids_of_every_type_are_read_as_ingest_reads_them(name, suffix, tmp_path):
    columns = {"user_id": OTHER_TYPES[name], "item_id": pa.array([uuid.UUID(int=k).bytes for k in (1, 2)], pa.uuid())}
    (pairs,) = score_all(make(tmp_path / "p.parquet", columns), tmp_path / f"s{suffix}")
    assert pairs.user_ids == ["7", "8"]
    assert pairs.item_ids == [str(uuid.UUID(int=k)) for k in (1, 2)]
    if suffix == ".parquet":
        assert pq.read_table(tmp_path / "s.parquet").column("user_id").to_pylist() == columns["user_id"].to_pylist()
    else:
        assert [row["item_id"] for row in csv_rows(tmp_path / "s.csv")] == pairs.item_ids


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_of_string_views_are_read_and_kept(suffix, tmp_path):
    columns = {
        "user_id": ["u", "v"],
        "item_id": ["i", "j"],
        "domain": ["a", "b"],
        "rating": ["4", None],
        "x": ["", "é"],
    }
    views = {name: pa.array(values, pa.string_view()) for name, values in columns.items()}
    (pairs,) = score_all(make(tmp_path / "p.parquet", views), tmp_path / f"s{suffix}")
    assert (pairs.user_ids, pairs.item_ids, pairs.domains) == (["u", "v"], ["i", "j"], ["a", "b"])
    assert pairs.ratings[0] == 4 and np.isnan(pairs.ratings[1])
    rows = csv_rows(tmp_path / "s.csv") if suffix == ".csv" else pq.read_table(tmp_path / "s.parquet").to_pylist()
    assert [row["x"] for row in rows] == ["", "é"]


@pytest.mark.parametrize(
    ("ratings", "reason"),
    [
        ([True, False], "the ratings are true or false"),
        ([4.0, float("inf")], "row 2: a rating is infinite"),
        (["4", "Infinity"], "row 2: a rating is infinite"),
        (["4", "True"], "a rating is not a number"),
    ],
)
def test_ratings_that_would_spoil_the_errors_are_refused(ratings, reason, tmp_path):
    path = make(tmp_path / "p.parquet", {"user_id": ["u", "v"], "item_id": ["i", "j"], "rating": ratings})
    with pytest.raises(BadTable, match=reason):
        list(read_pairs(path).batches())


def test_missing_ratings_may_be_spelled_out(tmp_path):
    ratings = ["nan", " 4.5 ", "NULL", "\\N", None, "N/A"]
    path = make(tmp_path / "p.parquet", {"user_id": ["u"] * 6, "item_id": ["i"] * 6, "rating": ratings})
    (pairs,) = read_pairs(path).batches()
    assert np.isnan(pairs.ratings).tolist() == [True, False, True, True, True, True]


def test_nested_columns_are_refused_for_csv_before_the_work(tmp_path):
    path = make(tmp_path / "p.parquet", {"user_id": ["u"], "item_id": ["i"], "tags": [["a", "b"]]})
    with (
        pytest.raises(BadSetting, match=r"CSV cannot hold the nested columns tags.*--out scores.parquet"),
        write_scores(read_pairs(path), tmp_path / "s.csv"),
    ):
        raise AssertionError
    assert score_all(path, tmp_path / "s.parquet")


def test_binary_columns_are_written_as_text_or_refused(tmp_path):
    columns = {"user_id": ["u"], "item_id": ["i"], "note": pa.array([b"caf\xc3\xa9"], pa.binary_view())}
    score_all(make(tmp_path / "p.parquet", columns), tmp_path / "s.csv")
    assert csv_rows(tmp_path / "s.csv")[0]["note"] == "café"
    for note in (pa.array([b"\xff\0"]), pa.array([b"\xff" * 16], pa.binary(16))):
        path = make(tmp_path / "p.parquet", columns | {"note": note})
        with pytest.raises(BadTable, match=r"bytes of column note, which are not UTF-8.*--out scores.parquet"):
            score_all(path, tmp_path / "s.csv")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("user_id,item_id\nu,i\nv\n", r":3: the number of fields differs from the header \(expected 2, got 1\)"),
        ('user_id,item_id\nu,i\n"v,j\nw,k\n', ":3: a quote is opened and not closed"),
        ('user_id,item_id,note\nu,i,"a\nv,j,b"\n', ":2: a quoted field contains what look like further rows"),
        ('user_id,item_id,note\nu,i,"a\n,j,b,c"\n', ":2: a quoted field contains what look like further rows"),
        ("user_id,item_id\nu,i\nnan,j\n", "row 2: the user_id is missing or empty"),
        ('{"user_id": "u", "item_id": "i"}\n', "not a table of pairs .expected parquet, CSV or TSV, got jsonl"),
        ("user_id,item_id,note\nu,i,caf\udce9\n", "Windows-1252"),
        ("user_id,item_id,note\nu,i,é\nu,i,caf\udce9\n", ":3: the line is not UTF-8"),
    ],
)
def test_malformed_text_tables_are_refused_with_the_line(content, reason, tmp_path):
    path = tmp_path / "p.csv"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadTable, match=reason):
        list(read_pairs(path).batches())


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_labels_are_ones_and_zeros_or_truth_values(tmp_path, kind):
    columns = {"user_id": ["a"] * 6, "item_id": ["x"] * 6, "clicked": [" True", "0", "1.0", "false", "", "NA"]}
    (pairs,) = read_pairs(make(tmp_path / f"p.{kind}", columns), label="clicked").batches()
    np.testing.assert_array_equal(pairs.labels, [1, 0, 1, 0, np.nan, np.nan])
    assert next(read_pairs(tmp_path / f"p.{kind}").batches()).labels is None
    columns["clicked"][3] = "2"
    with pytest.raises(BadTable, match=r"row 4, clicked: not a label .expected 1 or 0, true or false, got '2'"):
        list(read_pairs(make(tmp_path / f"p.{kind}", columns), label="clicked").batches())
    with pytest.raises(BadTable, match="columns are missing: bought"):
        read_pairs(tmp_path / f"p.{kind}", label="bought")


def test_labels_of_every_type_of_parquet(tmp_path):
    for values in ([True, False, None], [1, 0, None], [1.0, 0.0, None]):
        path = make(tmp_path / "p.parquet", {"user_id": ["a"] * 3, "item_id": ["x"] * 3, "label": values})
        (pairs,) = read_pairs(path, label="label").batches()
        np.testing.assert_array_equal(pairs.labels, [1, 0, np.nan])
