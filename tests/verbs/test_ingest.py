"""`ingest` of every supported format and of malformed input; after every error the previous table is unchanged."""

import csv
import errno
import gzip
import io
import json
import os
import re
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from loid_infer.data.canonical import METADATA_KEY
from loid_infer.data.reviews import open_table
from loid_infer.errors import BadName, BadSetting, BadTable, NoSpace
from loid_infer.verbs.tables import ingest

AMAZON_2014 = [
    {
        "reviewerID": "A1",
        "asin": "B1",
        "reviewText": "loud &#34;good&#34; amp",
        "overall": 5.0,
        "helpful": [1, 2],
        "unixReviewTime": 1393545600,
        "reviewTime": "02 28, 2014",
        "summary": "yes",
    },
    {"reviewerID": "A2", "asin": "B1", "reviewText": "", "overall": 2.0, "unixReviewTime": 1393545601},
    {"reviewerID": "A1", "asin": "B2", "reviewText": "zwölf Töne 🎸", "overall": 3.0, "unixReviewTime": 1393545602},
]
ROWS = [
    ("A1", "B1", 5.0, 'loud "good" amp', 1393545600),
    ("A2", "B1", 2.0, "", 1393545601),
    ("A1", "B2", 3.0, "zwölf Töne 🎸", 1393545602),
]
CANONICAL = [dict(zip(("user_id", "item_id", "rating", "text", "timestamp"), row, strict=True)) for row in ROWS]


def json_lines(records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def csv_table(delimiter=","):
    text = io.StringIO()
    text.write(delimiter.join(("item_id", "user_id", "extra", "rating", "text", "timestamp")) + "\r\n")
    for user, item, rating, review_text, time in ROWS:
        quoted = '"' + review_text.replace('"', '""') + '"'
        text.write(delimiter.join((item, user, "x", str(rating), quoted, str(time))) + "\r\n")
    return text.getvalue().encode()


def zip_archive(content, name="inside.csv"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def parquet_file(columns, schema=None):
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), buffer)
    return buffer.getvalue()


def table_rows(ws, domain="toys"):
    table = pq.read_table(ws.table(domain))
    return [tuple(row[name] for name in table.schema.names) for row in table.to_pylist()]


AMAZON_2018 = [{**record, "verified": True, "vote": "1,234", "style": {"Size:": " L"}} for record in AMAZON_2014]
AMAZON_2023 = [
    {
        "user_id": user,
        "asin": "variant",
        "parent_asin": item,
        "rating": rating,
        "title": "a title",
        "text": text,
        "timestamp": time * 1000 + 999,
        "verified_purchase": True,
    }
    for user, item, rating, text, time in ROWS
]
COLUMNS = {name: [record[name] for record in CANONICAL] for name in CANONICAL[0]}
SOURCES = {
    "2014": json_lines(AMAZON_2014),
    "2014 gz": gzip.compress(json_lines(AMAZON_2014)),
    "2014 zst": zstandard.compress(json_lines(AMAZON_2014)),
    "2014 zst, several frames": b"".join(zstandard.compress(json_lines([record])) for record in AMAZON_2014),
    "2014 zst after a skippable frame": b"\x50\x2a\x4d\x18\x02\0\0\0ab" + zstandard.compress(json_lines(AMAZON_2014)),
    "2014 gz, several members": b"".join(gzip.compress(json_lines([record])) for record in AMAZON_2014),
    "2018": json_lines(AMAZON_2018),
    "2023": json_lines(AMAZON_2023),
    "2023 without parent": json_lines([{**r, "asin": r["parent_asin"], "parent_asin": None} for r in AMAZON_2023]),
    "jsonl": json_lines(CANONICAL),
    "jsonl with bom, blank lines, no last newline": b"\xef\xbb\xbf"
    + json_lines(CANONICAL).replace(b"\n", b"\r\n\n").strip(),
    "csv": csv_table(),
    "csv with bom": b"\xef\xbb\xbf" + csv_table(),
    "csv zip": zip_archive(csv_table()),
    "csv gz": gzip.compress(csv_table()),
    "csv zst": zstandard.compress(csv_table()),
    "tsv": csv_table("\t"),
    "tsv zip": zip_archive(csv_table("\t"), "x.tsv"),
    "parquet": parquet_file(COLUMNS),
    "parquet, other types": parquet_file(
        {
            **COLUMNS,
            "user_id": pa.array(COLUMNS["user_id"]).dictionary_encode(),
            "text": pa.array(COLUMNS["text"], pa.large_string()),
            "timestamp": pa.array([t * 1000 for t in COLUMNS["timestamp"]], pa.timestamp("ms")),
        }
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_format_is_read_to_the_same_rows(name, ws, write):
    result = ingest([write(SOURCES[name])], "toys", workspace=ws)
    assert table_rows(ws) == ROWS
    assert (result.n_rows, result.n_users, result.n_items, result.n_empty_text) == (3, 2, 2, 1)
    assert (result.n_duplicates, result.n_skipped, result.path) == (0, 0, str(ws.table("toys")))


def test_the_digest_depends_on_rows_and_not_on_format(ws, write):
    digests = {ingest([write(content)], "toys", workspace=ws).digest for content in SOURCES.values()}
    assert len(digests) == 1
    without_timestamp = [{**CANONICAL[0], "timestamp": None}, *CANONICAL[1:]]
    reordered = [CANONICAL[1], CANONICAL[0], CANONICAL[2]]
    for records in (without_timestamp, reordered, CANONICAL[:2]):
        digests.add(ingest([write(json_lines(records))], "toys", workspace=ws).digest)
    assert len(digests) == 4


def test_schema_compression_and_metadata_of_the_table(ws, write):
    result = ingest([write(SOURCES["2014"])], "toys", workspace=ws, rating_range=(0, 10))
    file = pq.ParquetFile(ws.table("toys"))
    fields = [(field.name, str(field.type)) for field in file.schema_arrow]
    assert fields == [
        ("user_id", "string"),
        ("item_id", "string"),
        ("rating", "float"),
        ("text", "string"),
        ("timestamp", "int64"),
    ]
    assert file.metadata.row_group(0).column(3).compression == "ZSTD"
    assert json.loads(file.metadata.metadata[METADATA_KEY]) == {
        "format": 1,
        "digest": result.digest,
        "n_rows": 3,
        "n_users": 2,
        "n_items": 2,
        "n_empty_text": 1,
        "rating_range": [0.0, 10.0],
        "html_unescaped": True,
        "text_template": "text",
    }
    assert open_table(ws.table("toys"), "toys").digest == result.digest


def test_unusual_valid_values_are_converted(ws, write):
    records = [
        b'{"user_id": 7, "item_id": "B", "rating": "4.0", "text": "a\\ud83d b\\u0000c", "timestamp": "12.9"}',
        b'{"user_id": "u", "item_id": "B", "rating": 4, "text": null}',
        b'{"user_id": "v", "item_id": "B", "rating": 1, "timestamp": ""}',
        json.dumps({"user_id": "w", "item_id": "B", "rating": 1, "text": "x" * 1_000_000}).encode(),
    ]
    ingest([write(b"\n".join(records))], "toys", workspace=ws)
    assert table_rows(ws) == [
        ("7", "B", 4.0, "a\ufffd b\0c", 12),
        ("u", "B", 4.0, "", None),
        ("v", "B", 1.0, "", None),
        ("w", "B", 1.0, "x" * 1_000_000, None),
    ]


def test_columns_can_be_mapped_in_every_format(ws, write):
    columns = {"user_id": "who", "text": "body"}
    content = {"who": ["a"], "item_id": ["i"], "rating": [3], "body": ["t"]}
    jsonl = json_lines([{name: values[0] for name, values in content.items()}])
    for source in (parquet_file(content), b"who,item_id,rating,body\na,i,3,t\n", jsonl):
        ingest([write(source)], "toys", workspace=ws, columns=columns)
        assert table_rows(ws) == [("a", "i", 3.0, "t", None)]
    ingest([write(SOURCES["2023"])], "toys", workspace=ws, columns={"text": "title", "item_id": "asin"})
    assert table_rows(ws)[-1] == ("A1", "variant", 3.0, "a title", 1393545602)


def test_csv_fields_may_contain_line_breaks_and_errors_name_the_first_line_of_a_row(ws, write):
    good = b'user_id,item_id,rating,text\na,i,3,"one\ntwo"\n'
    ingest([write(good)], "toys", workspace=ws)
    assert table_rows(ws) == [("a", "i", 3.0, "one\ntwo", None)]
    assert_ingest_fails(ws, write(good + b'b,i,9,"x\ny"\n'), ":4:", "outside the range", "got '9'")


# Duplicates


def review_lines(*reviews):
    return json_lines(
        {"user_id": u, "item_id": i, "rating": 3, "text": text, "timestamp": n}
        for n, (u, i, text) in enumerate(reviews)
    )


def test_duplicate_pairs_keep_the_last_or_first_review_in_input_order_over_all_sources(ws, write):
    first = write(review_lines(("a", "x", "1"), ("b", "x", "2"), ("a", "x", "3")), "first")
    second = write(review_lines(("c", "x", "4"), ("b", "x", "5")), "second")
    result = ingest([first, second], "toys", workspace=ws)
    assert [row[3] for row in table_rows(ws)] == ["3", "4", "5"]
    assert (result.n_rows, result.n_users, result.n_duplicates) == (3, 3, 2)
    digest_keep_last = result.digest
    result = ingest([first, second], "toys", workspace=ws, duplicates="keep-first")
    assert [row[3] for row in table_rows(ws)] == ["1", "2", "4"]
    assert result.digest != digest_keep_last
    without_duplicates = write(
        json_lines(
            {**dict(zip(("user_id", "item_id", "rating", "text", "timestamp"), row, strict=True))}
            for row in table_rows(ws)
        )
    )
    assert ingest([without_duplicates], "other", workspace=ws).digest == result.digest
    assert sorted(path.name for path in ws.table("toys").parent.iterdir()) == ["other.parquet", "toys.parquet"]


def test_duplicates_error_names_both_lines(ws, write):
    first = write(b"not json\n" + review_lines(("a", "x", "1"), ("b", "x", "2")), "first")
    second = write(review_lines(("c", "x", "4"), ("b", "x", "5"), ("a", "x", "6")), "second")
    with pytest.raises(BadTable) as caught:
        ingest([first, second], "toys", workspace=ws, duplicates="error", on_bad="skip")
    message = str(caught.value)
    assert f"{second}:2: " in message
    assert f"before, at {first}:3" in message
    assert "--duplicates keep-last" in message
    assert not list(ws.table("toys").parent.iterdir())


# Malformed input


def assert_ingest_fails(ws, source, *parts, error=BadTable, **settings):
    """`ingest` fails with a message that contains all `parts`; the previous table is unchanged and the only file."""
    path = ws.table("toys")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"the previous table")
    with pytest.raises(error) as caught:
        ingest([source], "toys", workspace=ws, **settings)
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    assert path.read_bytes() == b"the previous table"
    assert [file.name for file in path.parent.iterdir()] == ["toys.parquet"]
    return caught.value


def json_line(**changes):
    record = {"user_id": "c", "item_id": "z", "rating": 3, "text": "t"} | changes
    return json_lines([{name: value for name, value in record.items() if value != "DROP"}])


INVALID_LINES = {
    "not json": (b"{user: 1}\n", "not JSON", "expected one JSON object", "got '{user: 1}'"),
    "cut json": (b'{"user_id": "a"\n', "not JSON", "expected one JSON object"),
    "not an object": (b"[1, 2]\n", "not a JSON object", "got [1, 2]"),
    "not UTF-8": (
        b'{"user_id": "\xc3\xa9", "item_id": "z", "rating": 3, "text": "caf\xe9"}\n',
        "the line is not UTF-8",
        "expected UTF-8",
        r"got b'\xe9",
    ),
    "nested too deeply": (b'{"a":' * 200_000 + b"\n", "not JSON", "nested too deeply"),
    "rating 0": (json_line(rating=0), "the rating is outside the range", "expected a number from 1 to 5", "got 0"),
    "rating 7": (json_line(rating=7), "the rating is outside the range", "expected a number from 1 to 5", "got 7"),
    "rating five": (
        json_line(rating="five"),
        "the rating is not a number",
        "expected a number from 1 to 5",
        "got 'five'",
    ),
    "rating missing": (json_line(rating="DROP"), "the rating is missing", "expected a number from 1 to 5", "got None"),
    "rating true": (json_line(rating=True), "the rating is not a number", "got True"),
    "rating NaN": (json_line(rating=float("nan")), "the rating is not finite", "got nan"),
    "rating inf": (json_line(rating=float("inf")), "the rating is not finite", "got inf"),
    "rating list": (json_line(rating=[5]), "the rating is not a number", "got [5]"),
    "rating huge": (json_line(rating=10**400), "the rating is not a number"),
    "user missing": (json_line(user_id="DROP"), "the user is missing or empty", "expected an id", "got None"),
    "user empty": (json_line(user_id=" "), "the user is missing or empty", "got ' '"),
    "item missing": (json_line(item_id=None), "the item is missing or empty", "got None"),
    "item a number": (json_line(item_id=1.5), "the item is not an id", "expected text or a whole number", "got 1.5"),
    "user with null byte": (json_line(user_id="a\0b"), "the user has a null byte", r"got 'a\x00b'"),
    "text a number": (json_line(text=[]), "the text is not text", "got []"),
    "timestamp words": (json_line(timestamp="soon"), "neither a number nor a date", "got 'soon'"),
    "timestamp inf": (json_line(timestamp=float("inf")), "the timestamp is out of bounds"),
}


@pytest.mark.parametrize("name", INVALID_LINES)
def test_an_invalid_json_line_is_reported_or_skipped(name, ws, write):
    content, *parts = INVALID_LINES[name]
    source = write(json_lines(CANONICAL) + content + json_line())
    assert_ingest_fails(ws, source, f"{source}:4: ", *parts, "--on-bad skip")
    result = ingest([source], "toys", workspace=ws, on_bad="skip")
    assert (result.n_rows, result.n_skipped) == (4, 1)
    assert table_rows(ws)[:3] == ROWS


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        (b"a,b\n", ("the number of fields differs from the header", "expected 4", "got 2")),
        (b"a,b,five,t\n", ("the rating is not a number", "got 'five'")),
        (b"a,b,,t\n", ("the rating is missing",)),
        (b",b,1,t\n", ("the user is missing or empty", "got ''")),
        ("é,b,1,".encode() + b"\xff\n", ("the line is not UTF-8",)),
        (b"a\0,b,1,t\n", ("the user has a null byte",)),
        (b'a,b,1,"x"y\n', ("not CSV",)),
    ],
)
def test_an_invalid_csv_row_is_reported_or_skipped(row, parts, ws, write):
    source = write(b"user_id,item_id,rating,text\nq,i,3,t\n" + row + b"r,i,3,t\n")
    assert_ingest_fails(ws, source, f"{source}:3: ", *parts, "--on-bad skip")
    result = ingest([source], "toys", workspace=ws, on_bad="skip")
    assert (result.n_rows, result.n_skipped) == (2, 1)


def test_an_invalid_parquet_row_is_reported_or_skipped(ws, write):
    source = write(parquet_file({**COLUMNS, "rating": [5.0, None, 3.0]}))
    assert_ingest_fails(
        ws,
        source,
        f"{source}, row 2: the rating is missing",
        "expected a number from 1 to 5",
        "got None",
        "--on-bad skip",
    )
    assert ingest([source], "toys", workspace=ws, on_bad="skip").n_skipped == 1


def test_missing_columns_are_listed(ws, write):
    columns = {"reader": ["a"], "item_id": ["i"], "rating": [3], "body": ["t"]}
    for content in (parquet_file(columns), b"reader,item_id,rating,body\na,i,3,t\n"):
        source = write(content)
        assert_ingest_fails(
            ws,
            source,
            str(source),
            "columns are missing",
            "expected user_id, text",
            "got reader, item_id, rating, body",
            "--columns user_id=NAME,text=NAME",
        )
    source = write(json_lines([{"user_id": "a", "item_id": "b", "rating": 1, "body": "t"}]))
    assert_ingest_fails(ws, source, "columns are missing", "expected text", "got user_id, item_id, rating, body")
    source = write(SOURCES["csv"])
    assert_ingest_fails(ws, source, "expected when", columns={"timestamp": "when"})
    given = {"user_id": "reader", "text": "body"}
    source = write(b"reader,book,rating,body\na,i,3,t\n")
    assert_ingest_fails(ws, source, "--columns user_id=reader,text=body,item_id=NAME", columns=given)


MANY_REVIEWS = [{**CANONICAL[0], "user_id": f"u{n}", "text": os.urandom(40).hex()} for n in range(20_000)]


@pytest.mark.parametrize(
    "content",
    [gzip.compress(json_lines(MANY_REVIEWS)), zstandard.compress(json_lines(MANY_REVIEWS))],
    ids=["gz", "zst"],
)
def test_a_truncated_compressed_file_is_reported_with_its_number_of_complete_lines(content, ws, write):
    source = write(content[: len(content) * 3 // 4])
    for on_bad in ("error", "skip"):
        error = assert_ingest_fails(
            ws,
            source,
            f"{source}: the compressed file is truncated or damaged",
            "complete lines",
            "then run the same command",
            on_bad=on_bad,
        )
        assert 10_000 < int(error.got.split()[0].replace(",", "")) < 16_000
    for n in (3, 12, 30):
        assert_ingest_fails(ws, write(content[:n]), "truncated or damaged" if n > 3 else "")


def test_damaged_gzip_zip_and_parquet_files_are_refused(ws, write):
    content = bytearray(gzip.compress(json_lines(MANY_REVIEWS)))
    content[-6] ^= 255
    assert_ingest_fails(ws, write(bytes(content)), "truncated or damaged", "CRC")
    assert_ingest_fails(ws, write(zip_archive(csv_table())[:-30]), "the archive cannot be read", "unzip")
    assert_ingest_fails(
        ws, write(SOURCES["parquet"][:-30]), "the parquet file is truncated or damaged", "Download or write it again"
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.csv", "x")
        archive.writestr("b.csv", "x")
    assert_ingest_fails(ws, write(buffer.getvalue()), "contains 2 files (a.csv, b.csv), not exactly one")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("content", [json_lines(AMAZON_2014), csv_table()], ids=["json", "csv"])
def test_utf_16_is_reported_with_a_conversion_command(encoding, content, ws, write):
    source = write(content.decode().encode(encoding))
    name = {"utf-16": "UTF-16", "utf-16-le": "UTF-16LE", "utf-16-be": "UTF-16BE"}[encoding]
    assert_ingest_fails(ws, source, f"the file is {name}, not UTF-8", f"iconv -f {name} -t UTF-8 {source}")


@pytest.mark.parametrize("encoding", ["utf-32-le", "utf-32-be"])
def test_utf_32_is_detected_by_its_byte_order_mark(encoding, ws, write):
    source = write(("\ufeff" + csv_table().decode()).encode(encoding))
    assert_ingest_fails(ws, source, "the file is UTF-32, not UTF-8", f"iconv -f UTF-32 -t UTF-8 {source}")


def test_a_file_of_one_very_long_line_is_refused(ws, write):
    csv.field_size_limit(131_072)  # as in a new process
    assert_ingest_fails(ws, write(b"x" * 300_000), "unknown format")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ("the file has no content", "got an empty file")),
        (b"\n \n", ("the file has no content", "got white space only")),
        (gzip.compress(b"", mtime=0), ("the file has no content",)),
        (b"[\n{}\n]", ("a JSON array", "expected one JSON object per line", "json.load(sys.stdin)")),
        (bytes(range(256)) * 64, ("unknown format",)),
        (b"\0" * 5000, ("a binary file", "null bytes")),
        (b"just words\nmore words\n", ("unknown format", "with the first line b'just words'", "CSV or TSV")),
        (gzip.compress(SOURCES["parquet"], mtime=0), ("a compressed parquet file",)),
        (b"user_id,item_id,rating,text\n", ("there are no valid reviews", "got 0 bad lines")),
    ],
)
def test_files_that_are_not_review_tables_are_refused(content, parts, ws, write):
    source = write(content)
    assert_ingest_fails(ws, source, str(source), *parts)


def test_a_file_of_only_invalid_lines_is_refused(ws, write):
    assert_ingest_fails(
        ws, write(json_line(rating=9) * 3), "there are no valid reviews", "got 3 bad lines", on_bad="skip"
    )


@pytest.mark.parametrize(
    ("format", "name", "matches"),
    [
        ("amazon2018", "2014", True),
        ("jsonl", "jsonl", True),
        ("tsv", "tsv", True),
        ("parquet", "parquet", True),
        ("amazon2023", "2014", False),
        ("csv", "tsv", False),
        ("csv", "parquet", False),
        ("parquet", "csv", False),
        ("jsonl", "csv", False),
    ],
)
def test_an_explicit_format_must_match_the_content(format, name, matches, ws, write):
    source = write(SOURCES[name])
    if matches:
        assert ingest([source], "toys", workspace=ws, format=format).n_rows == 3
    else:
        assert_ingest_fails(ws, source, "the content is ", f", not {format}", "Omit --format", format=format)


def test_invalid_settings_are_refused(ws, write):
    source = write(SOURCES["csv"])
    invalid_settings = [
        ({"format": "xml"}, "auto | amazon2014"),
        ({"columns": {"user": "a"}}, "NAME=SOURCE"),
        ({"columns": {"user_id": ""}}, "NAME=SOURCE"),
        ({"duplicates": "drop"}, "keep-last | keep-first | error"),
        ({"on_bad": "ignore"}, "error | skip"),
        ({"rating_range": (5.0, 1.0)}, "LOW < HIGH"),
        ({"rating_range": (1.0, float("nan"))}, "LOW < HIGH"),
    ]
    for settings, part in invalid_settings:
        assert_ingest_fails(ws, source, part, error=BadSetting, **settings)
    with pytest.raises(BadSetting, match="at least one file"):
        ingest([], "toys", workspace=ws)


@pytest.mark.parametrize("domain", ["../../etc", "/etc", "", "Toys", "a b"])
def test_invalid_domain_names_are_refused(domain, ws, write):
    with pytest.raises(BadName, match="invalid domain name"):
        ingest([write(SOURCES["csv"])], domain, workspace=ws)
    assert not ws.root.exists()


# Operating system errors


def test_an_unreadable_source_is_reported(ws, tmp_path, monkeypatch):
    assert_ingest_fails(ws, tmp_path / "absent", "absent: the file cannot be read: No such file", "Check the path")
    (tmp_path / "folder").mkdir()
    assert_ingest_fails(ws, tmp_path / "folder", "the folder contains no files of data")
    source = tmp_path / "secret"
    source.write_bytes(SOURCES["csv"])
    original_open = Path.open

    def refuse(self, *args, **kwargs):
        if self == source:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return original_open(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    assert_ingest_fails(ws, source, f"{source}: the file cannot be read: Permission denied")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("method", ["write_table", "close"])
def test_a_full_disk_or_missing_write_permission_is_reported(code, method, ws, write, monkeypatch):
    original_close = pq.ParquetWriter.close

    def refuse(self, *args, **kwargs):
        if method == "close":
            original_close(self)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(pq.ParquetWriter, method, refuse)
    hint = "bytes free" if code == errno.ENOSPC else "Make the folder writable"
    parts = ("toys.parquet: cannot write: " + os.strerror(code), hint, "nothing is lost")
    assert_ingest_fails(ws, write(SOURCES["2014"]), *parts, error=NoSpace)


def test_a_full_disk_while_duplicates_are_removed_is_reported(ws, write, monkeypatch):
    def refuse(*args):
        for path in ws.table("toys").parent.glob(".*"):  # a later run must recognize what a kill would leave here
            assert re.fullmatch(r"\.toys\.parquet\.[^.]+\.partial", path.name)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("loid_infer.data.stream.filter_table", refuse)
    source = write(review_lines(("a", "x", "1"), ("a", "x", "2")))
    assert_ingest_fails(ws, source, "cannot write: No space left", "nothing is lost", error=NoSpace)


def test_a_pipe_is_refused(ws, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR)
    os.write(descriptor, SOURCES["csv"])
    assert_ingest_fails(ws, pipe, "a pipe cannot be read twice", "Write it to a file first")
    os.close(descriptor)


def test_a_folder_that_cannot_be_created_is_reported(ws, write):
    ws.root.write_bytes(b"a file where the workspace should be")
    with pytest.raises(NoSpace, match="cannot create the folder"):
        ingest([write(SOURCES["csv"])], "toys", workspace=ws)


def test_progress_adds_up_to_the_size_of_the_sources(ws, write):
    class CountingProgress:
        total, done = 0, 0

        def task(self, name, total, unit):
            CountingProgress.total = total
            return self

        def advance(self, n):
            assert n >= 0
            CountingProgress.done += n

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            pass

    sources = [write(SOURCES[name], name) for name in ("2014 gz", "csv", "parquet")]
    ingest(sources, "toys", workspace=ws, progress=CountingProgress())
    assert CountingProgress.done == CountingProgress.total == sum(source.stat().st_size for source in sources)


def test_batch_limits_set_the_row_groups_and_leave_the_digest_unchanged(ws, write, monkeypatch):
    source = write(json_lines(MANY_REVIEWS[:1000]))
    digest = ingest([source], "toys", workspace=ws).digest
    monkeypatch.setattr("loid_infer.data.sources.MAX_GROUP_ROWS", 64)
    monkeypatch.setattr("loid_infer.data.sources.MAX_GROUP_CHARS", 80 * 50)
    assert ingest([source], "toys", workspace=ws).digest == digest
    assert pq.ParquetFile(ws.table("toys")).num_row_groups == 20


@pytest.mark.real
@pytest.mark.parametrize(
    ("domain", "counts"), [("musical_instruments", (10_261, 1_429, 900, 7)), ("digital_music", (6_908, 2_490, 382, 1))]
)
def test_counts_of_real_reviews(domain, counts, shared_data, ws):
    result = ingest([shared_data / f"{domain}.json.gz"], domain, workspace=ws, duplicates="error")
    assert (result.n_rows, result.n_users, result.n_items, result.n_empty_text) == counts
    texts = pq.read_table(ws.table(domain), columns=["text"]).column("text").to_pylist()
    assert not any("&#34;" in text for text in texts)
