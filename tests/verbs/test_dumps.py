"""Files as they are found: dumps of data sets and exports of tools are read to the right rows, or refused in words."""

import bz2
import csv
import datetime
import gzip
import io
import json
import lzma
import re
import shutil
import subprocess
import tarfile
import uuid
import zipfile
from decimal import Decimal

import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import zstandard

from loid_infer.cli.commands import _mapping
from loid_infer.data.pairs import read_pairs
from loid_infer.errors import BadSetting, BadTable
from loid_infer.verbs.tables import ingest

REVIEWS = {
    "user_id": ["u1", "u2", "u3"],
    "item_id": ["i1", "i1", "i2"],
    "rating": [5.0, 1.0, 3.0],
    "text": ['a "big" one, yes', "two\nlines", ""],
    "timestamp": [1_531_001_351, 1_531_001_352, 1_531_001_353],
}
ROWS = list(zip(*REVIEWS.values(), strict=True))
DATES = [datetime.datetime.fromtimestamp(time, datetime.UTC) for time in REVIEWS["timestamp"]]
DATED = {**REVIEWS, "timestamp": DATES}


def rows_of(ws):
    return [tuple(row.values()) for row in pq.read_table(ws.table("toys")).to_pylist()]


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def csv_of(header, *rows, delimiter=","):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([header.split(","), *rows])
    return text.getvalue()


def parquet_of(columns):
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


# Dumps of data sets: content, options of `ingest`, and the first row they give.

AMAZON_2023 = {
    "rating": 5.0,
    "title": "t",
    "text": "nice",
    "asin": "B1",
    "parent_asin": "P1",
    "user_id": "AE1",
    "timestamp": 1588687728923,
}
AMAZON_2014 = {
    "reviewerID": "A1",
    "asin": "B1",
    "overall": 5.0,
    "reviewText": "nice",
    "unixReviewTime": 1393545600,
    "reviewTime": "02 28, 2014",
}
STEAM_COLUMNS = {"item_id": "product_id", "rating": "hours", "user_id": "username", "timestamp": "date"}
DATA_SETS = {
    "Amazon 2014": (lines(AMAZON_2014), {}, ("A1", "B1", 5.0, "nice", 1393545600)),
    "Amazon 2014, its date": (
        lines(AMAZON_2014),
        {"columns": {"timestamp": "reviewTime"}},
        ("A1", "B1", 5.0, "nice", 1393545600),
    ),
    "Amazon 2018": (
        lines({**AMAZON_2014, "verified": True, "style": {"Size:": "L"}}),
        {},
        ("A1", "B1", 5.0, "nice", 1393545600),
    ),
    "Amazon 2023": (lines(AMAZON_2023), {}, ("AE1", "P1", 5.0, "nice", 1588687728)),
    "Amazon 2023, CSV": (
        csv_of(",".join(AMAZON_2023), AMAZON_2023.values()),
        {"columns": {"item_id": "parent_asin"}},
        ("AE1", "P1", 5.0, "nice", 1588687728),
    ),
    "Amazon 2023, parquet": (
        parquet_of({name: [value] for name, value in AMAZON_2023.items()}),
        {"columns": {"item_id": "parent_asin"}},
        ("AE1", "P1", 5.0, "nice", 1588687728),
    ),
    "seconds under Amazon's names": (
        lines({"user_id": "u", "asin": "a", "rating": 5, "text": "t", "timestamp": 1393545600}),
        {},
        ("u", "a", 5.0, "t", 1393545600),
    ),
    "Yelp": (
        lines({"user_id": "u", "business_id": "b", "stars": 3.0, "date": "2018-07-07 22:09:11", "text": "t"}),
        {"columns": {"item_id": "business_id", "rating": "stars", "timestamp": "date"}},
        ("u", "b", 3.0, "t", 1531001351),
    ),
    "Goodreads": (
        lines(
            {
                "user_id": "u",
                "book_id": "7",
                "rating": 5,
                "review_text": "t",
                "date_added": "Fri Aug 25 13:55:02 -0700 2017",
            }
        ),
        {"columns": {"item_id": "book_id", "text": "review_text", "timestamp": "date_added"}},
        ("u", "7", 5.0, "t", 1503694502),
    ),
    "Google Local": (
        lines(
            {"user_id": 101463350189962023774, "time": 1585178246000, "rating": 5, "text": None, "gmap_id": "0x0:1"},
            {"user_id": "2", "time": 1585178246001, "rating": 4, "text": "t", "gmap_id": "0x0:1"},
        ),
        {"columns": {"item_id": "gmap_id", "timestamp": "time"}},
        ("101463350189962023774", "0x0:1", 5.0, "", 1585178246),
    ),
    "Steam": (
        "{u'username': u'u', u'hours': 13.5, u'product_id': u'4', u'text': u\"it's ok\", u'date': u'2018-01-05'}\n",
        {"columns": STEAM_COLUMNS, "rating_range": (0.0, 1e6)},
        ("u", "4", 13.5, "it's ok", 1515110400),
    ),
    "Book-Crossing": (
        csv_of("User-ID,ISBN,Book-Rating,Review", ("276725", "034545104X", "0", "fine"), delimiter=";"),
        {
            "columns": {"user_id": "User-ID", "item_id": "ISBN", "rating": "Book-Rating", "text": "Review"},
            "rating_range": (0.0, 10.0),
        },
        ("276725", "034545104X", 0.0, "fine", None),
    ),
    "first record without text": (
        lines(
            {"user_id": "u", "item_id": "i", "rating": 5}, {"user_id": "v", "item_id": "i", "rating": 4, "text": "t"}
        ),
        {},
        ("u", "i", 5.0, "", None),
    ),
    "NaN as text": (
        '{"user_id":"u","item_id":"i","rating":5,"text":NaN}\n{"user_id":"v","item_id":"i","rating":4,"text":"t"}\n',
        {},
        ("u", "i", 5.0, "", None),
    ),
}


@pytest.mark.parametrize("name", DATA_SETS)
def test_dumps_of_data_sets_are_read(name, ws, write):
    content, options, expected = DATA_SETS[name]
    result = ingest([write(content)], "toys", workspace=ws, **options)
    assert rows_of(ws)[0] == expected
    assert (result.n_skipped, result.warning) == (0, None)


# Exports of tools


def spark_csv(columns):
    text = io.StringIO(newline="")
    csv.writer(text, escapechar="\\", doublequote=False, quoting=csv.QUOTE_NONNUMERIC).writerows(
        [list(columns), *zip(*columns.values(), strict=True)]
    )
    return text.getvalue().encode()


def exported(tool, path):
    frame = pandas.DataFrame(REVIEWS)
    dated, reviews = pandas.DataFrame(DATED), duckdb.from_arrow(pa.table(DATED))
    with_categories = frame.astype({"user_id": "category", "item_id": "category"})
    match tool:
        case "pandas CSV":
            frame.to_csv(path, index=False)
        case "pandas CSV with an index":
            frame.to_csv(path)
        case "pandas CSV, dates":
            dated.to_csv(path, index=False)
        case "pandas CSV, escaped quotes":
            frame.to_csv(path, index=False, doublequote=False, escapechar="\\")
        case "pandas JSON lines":
            frame.to_json(path, orient="records", lines=True)
        case "pandas JSON lines, dates":
            dated.to_json(path, orient="records", lines=True, date_format="iso")
        case "pandas parquet":
            frame.to_parquet(path)
        case "pandas parquet, dates and categories":
            with_categories.assign(timestamp=DATES).to_parquet(path)
        case "polars CSV":
            polars.DataFrame(REVIEWS).write_csv(path)
        case "polars CSV, dates":
            polars.DataFrame(DATED).write_csv(path)
        case "polars JSON lines":
            polars.DataFrame(REVIEWS).write_ndjson(path)
        case "polars parquet":
            polars.DataFrame(DATED).write_parquet(path)
        case "DuckDB CSV":
            reviews.write_csv(str(path))
        case "DuckDB parquet":
            reviews.write_parquet(str(path))
        case "DuckDB JSON lines":
            duckdb.sql(f"COPY (SELECT * FROM reviews) TO '{path}' (FORMAT json)")
        case "Spark CSV":
            path.write_bytes(spark_csv(REVIEWS))
        case "BigQuery JSON lines":
            times = [time.strftime("%Y-%m-%d %H:%M:%S UTC") for time in DATES]
            records = [
                dict(zip(REVIEWS, row, strict=True)) for row in zip(*[*REVIEWS.values()][:4], times, strict=True)
            ]
            path.write_text(lines(*records))
        case "BigQuery CSV":
            frame.assign(timestamp=[time.strftime("%Y-%m-%d %H:%M:%S UTC") for time in DATES]).to_csv(path, index=False)
        case _:  # Hugging Face datasets, which no extra installs
            made = pytest.importorskip("datasets").Dataset.from_dict(DATED if "dates" in tool else REVIEWS)
            {"CSV": made.to_csv, "JSON": made.to_json, "parquet": made.to_parquet}[tool.replace(",", "").split()[1]](
                path
            )


@pytest.mark.parametrize(
    "tool",
    [
        *("pandas CSV", "pandas CSV with an index", "pandas CSV, dates", "pandas CSV, escaped quotes"),
        *("pandas JSON lines", "pandas JSON lines, dates", "pandas parquet", "pandas parquet, dates and categories"),
        *("polars CSV", "polars CSV, dates", "polars JSON lines", "polars parquet"),
        *("DuckDB CSV", "DuckDB parquet", "DuckDB JSON lines"),
        *("Spark CSV", "BigQuery CSV", "BigQuery JSON lines"),
        *("datasets CSV", "datasets CSV, dates", "datasets JSON lines", "datasets JSON lines, dates"),
        *("datasets parquet", "datasets parquet, dates"),
    ],
)
def test_exports_of_tools_are_read(tool, ws, tmp_path):
    path = tmp_path / "export"
    exported(tool, path)
    ingest([path], "toys", workspace=ws)
    assert rows_of(ws) == ROWS


@pytest.mark.parametrize(
    "more", [{"helpful": [2, 3]}, {"verified": True, "style": {"Size:": "L"}}], ids=["2014", "2018"]
)
@pytest.mark.parametrize("writer", ["pandas CSV", "pandas parquet", "pyarrow CSV", "pyarrow parquet"])
def test_tables_of_old_amazon_dumps_are_read(writer, more, ws, tmp_path):
    records = [AMAZON_2014 | more, {name: value for name, value in AMAZON_2014.items() if name != "reviewText"} | more]
    records[1]["asin"] = "B2"
    frame, path = pandas.DataFrame(records), tmp_path / "export"
    if writer == "pandas CSV":
        frame.to_csv(path, index=False)
    elif writer == "pyarrow CSV":  # which holds no nested columns
        pyarrow.csv.write_csv(pa.Table.from_pandas(frame[[*AMAZON_2014]]), path)
    else:
        frame.to_parquet(path) if "pandas" in writer else pq.write_table(pa.Table.from_pylist(records), path)
    options = "user_id=reviewerID,item_id=asin,rating=overall,text=reviewText,timestamp=unixReviewTime"
    ingest([path], "toys", workspace=ws, columns=_mapping(options))
    assert rows_of(ws) == [("A1", "B1", 5.0, "nice", 1393545600), ("A1", "B2", 5.0, "", 1393545600)]


def test_folders_of_parts_are_read_in_order(ws, write, tmp_path):
    for name in ("_SUCCESS", ".part-0.crc", "part-00001.json", "year=2/_temporary/x.json"):
        write(b"", f"out/{name}") if "/" not in name else None
    write(lines({"user_id": "u", "item_id": "i", "rating": 5, "text": "a"}), "out/part-00000.json")
    write(lines({"user_id": "u", "item_id": "i", "rating": 4, "text": "b"}), "out/part-00002.json")
    assert ingest([tmp_path / "out"], "toys", workspace=ws).n_duplicates == 1
    assert rows_of(ws) == [("u", "i", 4.0, "b", None)]
    parts = [tmp_path / "out" / f"part-0000{k}.json" for k in range(3)]
    assert ingest(parts, "toys", workspace=ws).n_rows == 1
    with pytest.raises(BadTable, match="no content"):
        ingest(parts[1:2], "toys", workspace=ws)


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("user_id", pa.array([Decimal(7), Decimal(8)], pa.decimal128(38, 0)), ["7", "8"]),
        ("user_id", pa.array([b"a", b"b"]), ["a", "b"]),
        ("user_id", pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
        ("user_id", pa.array([b"a", b"b"], pa.binary_view()), ["a", "b"]),
        (
            "user_id",
            pa.array([uuid.UUID(int=1).bytes, uuid.UUID(int=2).bytes], pa.uuid()),
            [str(uuid.UUID(int=1)), str(uuid.UUID(int=2))],
        ),
        ("user_id", pa.array([100.0, 101.0]), ["100", "101"]),
        ("user_id", pa.array([2**64 - 1, 1], pa.uint64()), [str(2**64 - 1), "1"]),
        ("rating", pa.array([Decimal("4.5"), Decimal("1.0")]), [4.5, 1.0]),
        ("rating", pa.array([4, 1], pa.int8()), [4.0, 1.0]),
        ("text", pa.array([b"caf\xc3\xa9", None]), ["café", ""]),
        ("text", pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
        ("timestamp", pa.array([datetime.date(2018, 7, 7), None], pa.date32()), [1530921600, None]),
        ("timestamp", pa.array([datetime.date(2018, 7, 7), None], pa.date64()), [1530921600, None]),
        ("timestamp", pa.array([1531001351923, None], pa.timestamp("ms", "Europe/Paris")), [1531001351, None]),
        ("timestamp", pa.array([1531001351923, None]), [1531001351, None]),
        ("timestamp", pa.array([1.531001351e9, float("nan")]), [1531001351, None]),
        ("timestamp", pa.array(["2018-07-07", None]), [1530921600, None]),
    ],
    ids=str,
)
def test_parquet_columns_of_other_types_are_read(kind, values, expected, ws, write):
    columns = {name: pa.array(column[:2]) for name, column in REVIEWS.items()} | {kind: values}
    ingest([write(parquet_of(columns))], "toys", workspace=ws)
    assert pq.read_table(ws.table("toys")).column(kind).to_pylist() == expected


# Text tables


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_lone_quotes_swallow_no_rows(delimiter, ws, write):
    rows = [("u1", "i1", "5", '"I loved it'), ("u2", "i2", "4", 'it is a 27"'), ("u3", "i3", "3", "ok")]
    content = "\n".join(delimiter.join(row) for row in [[*REVIEWS][:4], *rows]) + "\n"
    source = write(content)
    with pytest.raises(BadTable, match=r"source:2: .*look like further rows .got 2 lines.*--quoting none"):
        ingest([source], "toys", workspace=ws)
    assert ingest([source], "toys", workspace=ws, on_bad="skip").n_skipped == 2
    ingest([source], "toys", workspace=ws, quoting="none")
    assert [row[3] for row in rows_of(ws)] == [row[3] for row in rows]
    ingest([source], "toys", workspace=ws, quoting="standard")
    assert len(rows_of(ws)) == 2


@pytest.mark.parametrize("delimiter", [",", "\t"])
@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize(
    "change", [{2: ""}, {2: "0"}, {2: "NA"}, {1: ""}, {0: ""}, {2: "", 3: "too,many\tfields "}], ids=str
)
def test_lone_quotes_swallow_no_row_beside_a_bad_one(change, at, delimiter, ws, write):
    rows = [["u1", "i1", "5", "I loved it"], ["u2", "i2", "4", "it is a 27"], ["u3", "i3", "3", "ok"]]
    for column, value in change.items():
        rows[at][column] = value
    rows[0][3], rows[1][3] = '"' + rows[0][3], rows[1][3] + '"'
    source = write("\n".join(delimiter.join(row) for row in [[*REVIEWS][:4], *rows]) + "\n")
    with pytest.raises(BadTable, match=r"source:2: .*look like further rows .got 2 lines"):
        ingest([source], "toys", workspace=ws)
    result = ingest([source], "toys", workspace=ws, on_bad="skip")
    assert (result.n_rows, result.n_skipped) == (1, 2)


def test_a_quote_that_is_never_closed_counts_every_line(ws, write):
    rows = "".join(f"u{k},i,3,t\n" for k in range(50))
    source = write("user_id,item_id,rating,text\n" + rows + 'v,i,3,"open\n' + rows.replace("u", "w"))
    with pytest.raises(BadTable, match=r"source:52: a quote is opened and not closed .* .got 51 lines"):
        ingest([source], "toys", workspace=ws)
    result = ingest([source], "toys", workspace=ws, on_bad="skip")
    assert (result.n_rows, result.n_skipped) == (50, 51)


@pytest.mark.parametrize(
    "text", ["Great, good, nice\nu2,i2,great,x\nso, so, 5", "Sizes:\nthere are 8, 10, 12, 14\nwell,,,good"]
)
def test_rows_that_look_like_text_are_not_refused(text, ws, write):
    source = write(csv_of("user_id,item_id,rating,text", ("u", "i", "5", text)))
    ingest([source], "toys", workspace=ws)
    assert rows_of(ws)[0][3] == text
    first = write(csv_of("text,user_id,item_id,rating", ("one\ntwo", "u", "i", "5")))
    ingest([first], "toys", workspace=ws)
    assert rows_of(ws)[0][3] == "one\ntwo"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_and_delimiter_is_read(end, ws, write):
    for delimiter in ",;|\t":
        names = f" {delimiter} ".join([*REVIEWS][:4])
        ingest([write(f"{names}{end}u{delimiter}i{delimiter}5{delimiter}t{end}")], "toys", workspace=ws)
        assert rows_of(ws) == [("u", "i", 5.0, "t", None)]


@pytest.mark.parametrize(
    ("content", "columns", "reason"),
    [
        ("user_id,item_id,rating,text,text\nu,i,5,a,b\n", None, "the column text occurs twice"),
        ("u,item_id,rating,text\nu,i,5,a\n", {"user_id": "u", "item_id": "u"}, "one source column is mapped twice"),
        ("user_id,item_id,rating,text\nu,i,5,a\n", {"text": "item_id"}, "one source column is mapped twice"),
    ],
)
def test_ambiguous_columns_are_refused(content, columns, reason, ws, write):
    with pytest.raises((BadTable, BadSetting), match=reason):
        ingest([write(content)], "toys", workspace=ws, columns=columns)


def test_a_column_mapped_twice_on_the_command_line_is_refused():
    with pytest.raises(BadSetting, match="a column is mapped twice"):
        _mapping("user_id=a,user_id=b")


def test_ids_are_cleaned_and_missing_ones_refused(ws, write):
    source = write('user_id,item_id,rating,text\n" u1",i2,3,c\nu1,i2,4,d\ncafe\u0301,i,1,x\ncaf\u00e9,i,2,y\n')
    result = ingest([source], "toys", workspace=ws)
    assert (result.n_rows, result.n_duplicates, result.n_cleaned_ids) == (2, 2, 2)
    source = write("user_id,item_id,rating,text\nnan,i1,5,a\nnan,i1,2,b\nu,i,3,\\N\n")
    with pytest.raises(BadTable, match=r"source:2: the user is missing or empty .*got 'nan'"):
        ingest([source], "toys", workspace=ws)
    result = ingest([source], "toys", workspace=ws, on_bad="skip")
    assert (result.n_rows, result.n_skipped, result.n_empty_text) == (1, 2, 1)


def test_what_is_skipped_is_explained_and_implausible_times_are_reported(ws, write):
    said = []

    class Said:
        def say(self, text):
            said.append(text)

        def task(self, *args):
            return self

        def advance(self, n):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            pass

    source = write(
        csv_of("user_id,item_id,rating,text,timestamp", ("u", "i", 5, "t", 20180707), ("u", "j", 9, "t", ""))
    )
    result = ingest([source], "toys", workspace=ws, on_bad="skip", progress=Said())
    assert "skipped 1 bad lines, the first: " in said[0]
    assert "--on-bad" not in said[0]
    assert said[1] == result.warning
    assert "from 1970-08-22 to 1970-08-22" in said[1]
    assert (result.first_date, result.last_date) == ("1970-08-22", "1970-08-22")


# Archives and foreign files


def tar_of(content, mode):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name in ("review.json", "meta.json"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


JSONL = lines({"user_id": "u", "item_id": "i", "rating": 5, "text": "t"}).encode()


def feather(columns, **options):
    file = io.BytesIO()
    pyarrow.feather.write_feather(pa.table(columns), file, **options)
    return file.getvalue()


def workbook():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("xl/workbook.xml", "")
        archive.writestr("xl/worksheets/sheet1.xml", "")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "what", "fix"),
    [
        (tar_of(JSONL, "w"), "a tar archive", "tar -xf"),
        (tar_of(JSONL, "w:gz"), "a tar archive (got with review.json)", "tar -xf"),
        (tar_of(JSONL, "w:bz2"), "a tar archive", "tar -xf"),
        (tar_of(JSONL, "w:xz"), "a tar archive", "tar -xf"),
        (zstandard.compress(tar_of(JSONL, "w")), "a tar archive", "tar -xf"),
        (bz2.compress(bz2.compress(JSONL)), "compressed twice", "Decompress it once"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(50), "a 7z archive", "7z x"),
        (b"Rar!\x1a\x07\x01\x00" + bytes(50), "a RAR archive", "unrar x"),
        (workbook(), "an Excel workbook", "Save the sheet as CSV"),
        (feather({"a": [1]}, compression="uncompressed"), "an Arrow (Feather) file", "pyarrow.feather"),
        (b"SQLite format 3\0" + bytes(90), "an SQLite database", "sqlite3 -header -csv"),
        (b"\x80\x04\x95" + bytes(90), "pickled Python objects", "Convert them to parquet"),
        (b"<!DOCTYPE html><html>", "an HTML or XML page", "Download the file again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer", "git lfs pull"),
        (b'{\n "user_id": "u",\n "rating": 5\n}\n', "JSON objects over several lines", "jq -c ."),
        (
            "user_id,item_id,rating,text\nu,i,5,café\n".encode("cp1252"),
            ":2: the line is not UTF-8, the file probably Windows-1252",
            "iconv -f WINDOWS-1252",
        ),
        ("user_id,item_id,rating,text\nu,i,5,отлично\n".encode("cp1251") * 9, "the line is not UTF-8", "iconv -f "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_other_files_are_named_with_what_to_do(content, what, fix, on_bad, ws, write):
    with pytest.raises(BadTable) as caught:
        ingest([write(content)], "toys", workspace=ws, on_bad=on_bad)
    assert what in str(caught.value)
    assert fix in caught.value.fix
    assert "--on-bad" not in str(caught.value)


def archive_of(kind, members):
    file = io.BytesIO(b"!<arch>\n" if kind == "ar" else b"")
    file.seek(0, io.SEEK_END)
    if kind not in ("ar", "cpio"):
        with tarfile.open(fileobj=file, mode="w", format=getattr(tarfile, f"{kind.upper()}_FORMAT")) as archive:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return file.getvalue()
    for name, content in members.items():
        if kind == "ar":
            start = f"{name + '/':16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
            file.write(start + content + b"\n" * (len(content) % 2))
        else:
            fields = (1, 0o100644, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
            start = f"070701{''.join(f'{field:08X}' for field in fields)}{name}\0".encode()
            file.write(start + bytes(-len(start) % 4) + content + bytes(-len(content) % 4))
    return file.getvalue()


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("kind", ["ustar", "gnu", "pax", "ar", "cpio"])
def test_members_of_an_archive_are_not_read_as_lines(kind, compress, ws, write):
    """Members of some kilobytes, so that few null bytes show that this is no text."""
    members = {}
    for name in ("reviews.json", "meta.json"):
        rows = [{"user_id": f"{name}{k}", "item_id": "i", "rating": 5, "text": f"text {k}"} for k in range(200)]
        members[name] = lines(*rows).encode()
    what = {"ar": "an ar archive.*ar x", "cpio": "a cpio archive.*cpio -id"}.get(kind, "a tar archive.*tar -xf")
    source = write(compress(archive_of(kind, members)))
    for on_bad in ("error", "skip"):
        with pytest.raises(BadTable, match=what) as caught:
            ingest([source], "toys", workspace=ws, on_bad=on_bad)
        assert "--on-bad" not in str(caught.value) and not ws.table("toys").exists()


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress])
def test_bz2_and_xz_are_read_and_their_truncation_detected(compress, ws, write):
    content = compress(JSONL * 5000)
    assert ingest([write(content)], "toys", workspace=ws).n_rows == 1
    with pytest.raises(BadTable, match="truncated or damaged"):
        ingest([write(content[:-20])], "toys", workspace=ws)


def test_a_column_named_like_a_format_is_only_a_column(ws, write):
    for name in ("ORCID", "070701"):
        ingest([write(f"{name},item_id,rating,text\nu,i,5,t\n")], "toys", workspace=ws, columns={"user_id": name})
        assert rows_of(ws) == [("u", "i", 5.0, "t", None)]


# Advice that works


@pytest.mark.parametrize("name", ["reviews.jsonl", "my reviews (1).txt", "o's file"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress])
@pytest.mark.parametrize(
    "content",
    [
        json.dumps([json.loads(JSONL) | {"user_id": 10**20 + k} for k in range(3)], indent=1).encode(),
        b"".join(JSONL.replace(b'"u"', b'"u%d"' % k).replace(b"}\n", b"},\n") for k in range(3)),
        "user_id,item_id,rating,text\nu0,i,5,café\nu1,i,5,t\nu2,i,5,t\n".encode("cp1252"),
        b"user_id,item_id,rating,text\nu0,i,5,t\nu1,i,5,t\nu2,i,5,t\n".decode().encode("utf-16"),
    ],
    ids=["array", "commas", "cp1252", "utf-16"],
)
def test_the_advised_command_converts_the_file(content, compress, name, ws, write, tmp_path):
    source = write(compress(content), name)
    before = source.read_bytes()
    with pytest.raises(BadTable) as caught:
        ingest([source], "toys", workspace=ws)
    command = re.search("Run: (.*)", caught.value.fix)[1]
    missing = [
        tool for tool in ("gzip", "bzip2", "iconv", "sed", "python3") if tool in command and not shutil.which(tool)
    ]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    assert source.read_bytes() == before
    (converted,) = tmp_path.glob("*.converted.*")
    assert ingest([converted], "toys", workspace=ws).n_users == 3


@pytest.mark.parametrize(
    ("content", "reason", "columns"),
    [
        (lines({"user_id": "u", "asin": "a", "rating": 5, "review": "good"}), "expected text", None),
        (lines({"reviewerID": "u", "asin": "a", "overall": 5, "body": "good"}), "expected reviewText", None),
        ('{"user_id":"u","item_id":"i","rating":5,"review":"good","price":NaN}\n', "expected text", None),
        ("u1,i1,5,nice\nu2,i1,4,bad\n", "the first line is a row instead of a header", None),
        (
            "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n",
            "expected text",
            {"user_id": "userId", "item_id": "movieId"},
        ),  # MovieLens
        ("user_id,item_id,rating,text\n", "no valid reviews .* Give a file with reviews", None),
        (
            '{"user_id":"u","item_id":"i","rating":5,"text":"t","timestamp":"3 days ago"}\n',
            "neither a number nor",
            None,
        ),
    ],
)
@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_missing_columns_and_rows_are_explained(content, reason, columns, on_bad, ws, write):
    with pytest.raises(BadTable, match=reason) as caught:
        ingest([write(content)], "toys", workspace=ws, columns=columns, on_bad=on_bad)
    assert "--on-bad" not in str(caught.value) or on_bad == "error"


def test_columns_in_folder_names_are_named(ws, write, tmp_path):
    (tmp_path / "out" / "rating=5").mkdir(parents=True)
    write("user_id,item_id,text\nu,i,t\n", "out/rating=5/part-0.csv")
    with pytest.raises(BadTable, match=r"in the name of a folder, rating=5, .*pandas.read_parquet"):
        ingest([tmp_path / "out"], "toys", workspace=ws)


def test_what_accompanies_data_is_passed_over_and_links_are_followed(ws, write, tmp_path):
    write("# A data set", "out/README.md")
    write("[.ShellClassInfo]", "out/desktop.ini")
    write(lines({"user_id": "u", "item_id": "i", "rating": 5, "text": "a"}), "elsewhere/part-1.json")
    (tmp_path / "out" / "more").symlink_to(tmp_path / "elsewhere")
    assert ingest([tmp_path / "out"], "toys", workspace=ws).n_rows == 1
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "out")
    assert ingest([tmp_path / "out"], "toys", workspace=ws, duplicates="error").n_rows == 1
    (tmp_path / "out" / "lost.json").symlink_to(tmp_path / "absent")
    with pytest.raises(BadTable, match=r"lost.json: the file cannot be read: No such file"):
        ingest([tmp_path / "out"], "toys", workspace=ws)
    (tmp_path / "out" / "_delta_log").mkdir()
    with pytest.raises(BadTable, match="a Delta Lake table, whose files may hold deleted rows"):
        ingest([tmp_path / "out"], "toys", workspace=ws)


# Text tables as writers vary them


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('u,i,5,27\\" monitor\nv,i,4,plain\n', ['27" monitor', "plain"]),  # pandas with an escape character
        ('u,i,5,"say \\"hi\\", C:\\temp"\nv,i,4,a\\,b\n', ['say "hi", C:\\temp', "a,b"]),
        ('"u","i","5","say \\"a\\", one\\\ntwo"\n', ['say "a", one\ntwo']),  # MySQL
        ('u,i,5,"C:\\\\"\nv,i,4,"a\\\\b"\n', ["C:\\\\", "a\\\\b"]),  # backslashes of a standard file
        ("u,i,5,x\nv,i,4,{}\nw,i,3,\"{'a': 1}\"\n", ["x", "{}", "{'a': 1}"]),
        ('u,i,5,"code:\n{}\nend"\n', ["code:\n{}\nend"]),
    ],
)
def test_escapes_and_braces_in_text_tables(content, expected, ws, write):
    ingest([write("user_id,item_id,rating,text\n" + content)], "toys", workspace=ws)
    assert [row[3] for row in rows_of(ws)] == expected


@pytest.mark.parametrize(
    "content",
    [
        'user_id, item_id, rating, text\nu, "i", 5, "t"\n',
        "sep=;\r\nuser_id;item_id;rating;text\r\nu;i;5;t\r\n",
        "sep=;\nuser_id; item_id; rating; text\nu; i; 5; t\n",
        "\ufeffuser_id\u200b,item_id,rating, text \nu,i,5,t\n",
        '\ufeff"user_id","item_id","rating","text"\n"u","i","5","t"\n',
        "user_id,item_id,rating,text\n" + "u,i,5,t\r\n" * 9,
    ],
)
def test_headers_as_tools_write_them(content, ws, write):
    ingest([write(content)], "toys", workspace=ws)
    assert rows_of(ws) == [("u", "i", 5.0, "t", None)]


def test_detected_backslashes_do_not_hide_swallowed_rows(ws, write):
    rows = 'u0,i,5,"say \\"hi\\", x"\nu1,i,5,"one\nu2,i,4,two"\nu3,i,3,ok\n'
    with pytest.raises(BadTable, match=":3: a quoted field contains what look like further rows"):
        ingest([write("user_id,item_id,rating,text\n" + rows)], "toys", workspace=ws)


# JSON as writers vary it


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"user_id":"u","item_id":"i","rating":5,"text":"a\tb http:\\/\\/x \\ud83d\\ude00"}', "a\tb http://x 😀"),
        ("{'user_id':'u','item_id':'i','rating':5,'text':'a\\ud83d'}", "a\ufffd"),
        (f'{{"user_id":"u","item_id":"i","rating":5,"text":"&#{"1" * 5000};"}}', f"&#{'1' * 5000};"),
        ('{"user_id":"u","item_id":"i","rating":5,"text":"good","overall":4}', "good"),
        ('\ufeff{"user_id":"u","item_id":"i","rating":5,"text":"good"}', "good"),
        ('{"user_id":{"$oid":"u"},"item_id":"i","rating":{"$numberInt":"5"},"text":"good"}', "good"),
    ],
)
def test_lenient_json_is_read(content, expected, ws, write):
    ingest([write(f"{content}\n{content}\n")], "toys", workspace=ws)
    assert rows_of(ws) == [("u", "i", 5.0, expected, None)]


def test_times_beyond_the_guess_of_units(ws, write):
    far = datetime.datetime(9999, 12, 31)
    columns = {name: column[:1] for name, column in REVIEWS.items()} | {
        "timestamp": pa.array([far], pa.timestamp("us"))
    }
    result = ingest([write(parquet_of(columns))], "toys", workspace=ws)
    assert (result.first_date, "are they seconds" in result.warning) == ("9999-12-31", True)
    dates = {name: column[:1] for name, column in REVIEWS.items()} | {"user_id": pa.array([far.date()])}
    with pytest.raises(BadTable, match="the user is not an id"):
        ingest([write(parquet_of(dates))], "toys", workspace=ws)


def test_a_column_of_dates_that_is_not_read_is_mentioned(ws, write):
    columns = {name: column[:1] for name, column in REVIEWS.items() if name != "timestamp"}
    for content in (
        "user_id,item_id,rating,text,review_date\nu,i,5,t,2018-07-07\n",
        parquet_of(columns | {"review_date": ["2018-07-07"]}),
        lines({name: column[0] for name, column in columns.items()} | {"review_date": "2018-07-07"}),
    ):
        result = ingest([write(content)], "toys", workspace=ws)
        assert "--columns timestamp=review_date reads them" in result.warning
    for names in ("timestamp", "update", "candidate"):
        source = write(f"user_id,item_id,rating,text,{names}\nu,i,5,t,\n")
        assert ingest([source], "toys", workspace=ws).warning is None


def test_a_header_that_is_not_utf8_is_refused(write):
    path = write("user_id,item_id,naïve,caf".encode() + b"\xe9\nu,i,x,y\n")
    with pytest.raises(BadTable, match="source:1: the line is not UTF-8"):
        read_pairs(path)


def test_a_rounded_id_in_a_lenient_line_is_a_bad_line(ws, write):
    good = '{"user_id":"u","item_id":"i","rating":5,"text":"t"}\n'
    bad = '{"user_id":1e20,"item_id":"i","rating":5,"text":"a\tb"}\n'
    assert ingest([write(good + bad)], "toys", workspace=ws, on_bad="skip").n_skipped == 1
