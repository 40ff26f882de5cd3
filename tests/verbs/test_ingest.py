"""`ingest` of every format and of every malformed input; an older table survives each error byte for byte."""

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
from loid_infer.settings import Workspace
from loid_infer.verbs.ingest import ingest

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


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def table_csv(mark=","):
    text = io.StringIO()
    text.write(mark.join(("item_id", "user_id", "extra", "rating", "text", "timestamp")) + "\r\n")
    for user, item, rating, words, time in ROWS:
        quoted = '"' + words.replace('"', '""') + '"'
        text.write(mark.join((item, user, "x", str(rating), quoted, str(time))) + "\r\n")
    return text.getvalue().encode()


def zipped(content, name="inside.csv"):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return held.getvalue()


def parquet(columns, schema=None):
    held = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), held)
    return held.getvalue()


@pytest.fixture
def ws(tmp_path):
    return Workspace(tmp_path / "ws")


@pytest.fixture
def write(tmp_path):
    # A name without a suffix: recognition must not rest on it.
    def _write(content, name="source"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return _write


def rows_of(ws, domain="toys"):
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
GOOD = {
    "2014": lines(AMAZON_2014),
    "2014 gz": gzip.compress(lines(AMAZON_2014)),
    "2014 zst": zstandard.compress(lines(AMAZON_2014)),
    "2014 zst in frames": b"".join(zstandard.compress(lines([record])) for record in AMAZON_2014),
    "2014 zst after a skippable frame": b"\x50\x2a\x4d\x18\x02\0\0\0ab" + zstandard.compress(lines(AMAZON_2014)),
    "2014 gz in members": b"".join(gzip.compress(lines([record])) for record in AMAZON_2014),
    "2018": lines(AMAZON_2018),
    "2023": lines(AMAZON_2023),
    "2023 without parent": lines([{**r, "asin": r["parent_asin"], "parent_asin": None} for r in AMAZON_2023]),
    "jsonl": lines(CANONICAL),
    "jsonl with bom, blank lines, no last newline": b"\xef\xbb\xbf"
    + lines(CANONICAL).replace(b"\n", b"\r\n\n").strip(),
    "csv": table_csv(),
    "csv with bom": b"\xef\xbb\xbf" + table_csv(),
    "csv zip": zipped(table_csv()),
    "csv gz": gzip.compress(table_csv()),
    "csv zst": zstandard.compress(table_csv()),
    "tsv": table_csv("\t"),
    "tsv zip": zipped(table_csv("\t"), "x.tsv"),
    "parquet": parquet(COLUMNS),
    "parquet, other types": parquet(
        {
            **COLUMNS,
            "user_id": pa.array(COLUMNS["user_id"]).dictionary_encode(),
            "text": pa.array(COLUMNS["text"], pa.large_string()),
            "timestamp": pa.array([t * 1000 for t in COLUMNS["timestamp"]], pa.timestamp("ms")),
        }
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_every_format_gives_the_same_rows(name, ws, write):
    result = ingest([write(GOOD[name])], "toys", workspace=ws)
    assert rows_of(ws) == ROWS
    assert (result.n_rows, result.n_users, result.n_items, result.n_empty_text) == (3, 2, 2, 1)
    assert (result.n_duplicates, result.n_skipped, result.path) == (0, 0, str(ws.table("toys")))


def test_the_digest_names_the_rows_and_not_the_format(ws, write):
    digests = {ingest([write(content)], "toys", workspace=ws).digest for content in GOOD.values()}
    assert len(digests) == 1
    other = [{**CANONICAL[0], "timestamp": None}, *CANONICAL[1:]]
    moved = [CANONICAL[1], CANONICAL[0], CANONICAL[2]]
    for records in (other, moved, CANONICAL[:2]):
        digests.add(ingest([write(lines(records))], "toys", workspace=ws).digest)
    assert len(digests) == 4


def test_schema_and_metadata_of_the_table(ws, write):
    result = ingest([write(GOOD["2014"])], "toys", workspace=ws, rating_range=(0, 10))
    file = pq.ParquetFile(ws.table("toys"))
    kinds = [(field.name, str(field.type)) for field in file.schema_arrow]
    assert kinds == [
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


def test_values_that_are_odd_and_yet_valid(ws, write):
    records = [
        b'{"user_id": 7, "item_id": "B", "rating": "4.0", "text": "a\\ud83d b\\u0000c", "timestamp": "12.9"}',
        b'{"user_id": "u", "item_id": "B", "rating": 4, "text": null}',
        b'{"user_id": "v", "item_id": "B", "rating": 1, "timestamp": ""}',
        json.dumps({"user_id": "w", "item_id": "B", "rating": 1, "text": "x" * 1_000_000}).encode(),
    ]
    ingest([write(b"\n".join(records))], "toys", workspace=ws)
    assert rows_of(ws) == [
        ("7", "B", 4.0, "a\ufffd b\0c", 12),
        ("u", "B", 4.0, "", None),
        ("v", "B", 1.0, "", None),
        ("w", "B", 1.0, "x" * 1_000_000, None),
    ]


def test_columns_can_be_named_for_any_format(ws, write):
    columns = {"user_id": "who", "text": "body"}
    content = {"who": ["a"], "item_id": ["i"], "rating": [3], "body": ["t"]}
    jsonl = lines([{name: values[0] for name, values in content.items()}])
    for source in (parquet(content), b"who,item_id,rating,body\na,i,3,t\n", jsonl):
        ingest([write(source)], "toys", workspace=ws, columns=columns)
        assert rows_of(ws) == [("a", "i", 3.0, "t", None)]
    ingest([write(GOOD["2023"])], "toys", workspace=ws, columns={"text": "title", "item_id": "asin"})
    assert rows_of(ws)[-1] == ("A1", "variant", 3.0, "a title", 1393545602)


def test_csv_fields_may_hold_line_breaks_and_the_line_number_is_where_the_row_begins(ws, write):
    good = b'user_id,item_id,rating,text\na,i,3,"one\ntwo"\n'
    ingest([write(good)], "toys", workspace=ws)
    assert rows_of(ws) == [("a", "i", 3.0, "one\ntwo", None)]
    assert_refused(ws, write(good + b'b,i,9,"x\ny"\n'), ":4:", "outside the range", "got '9'")


# Duplicates


def reviews(*pairs):
    return lines(
        {"user_id": u, "item_id": i, "rating": 3, "text": text, "timestamp": n} for n, (u, i, text) in enumerate(pairs)
    )


def test_duplicates_are_resolved_in_input_order_over_all_sources(ws, write):
    one = write(reviews(("a", "x", "1"), ("b", "x", "2"), ("a", "x", "3")), "one")
    two = write(reviews(("c", "x", "4"), ("b", "x", "5")), "two")
    result = ingest([one, two], "toys", workspace=ws)
    assert [row[3] for row in rows_of(ws)] == ["3", "4", "5"]
    assert (result.n_rows, result.n_users, result.n_duplicates) == (3, 3, 2)
    last = result.digest
    result = ingest([one, two], "toys", workspace=ws, duplicates="keep-first")
    assert [row[3] for row in rows_of(ws)] == ["1", "2", "4"]
    assert result.digest != last
    clean = write(
        lines(
            {**dict(zip(("user_id", "item_id", "rating", "text", "timestamp"), row, strict=True))}
            for row in rows_of(ws)
        )
    )
    assert ingest([clean], "other", workspace=ws).digest == result.digest
    assert sorted(path.name for path in ws.table("toys").parent.iterdir()) == ["other.parquet", "toys.parquet"]


def test_duplicates_error_names_both_lines(ws, write):
    one = write(b"not json\n" + reviews(("a", "x", "1"), ("b", "x", "2")), "one")
    two = write(reviews(("c", "x", "4"), ("b", "x", "5"), ("a", "x", "6")), "two")
    with pytest.raises(BadTable) as caught:
        ingest([one, two], "toys", workspace=ws, duplicates="error", on_bad="skip")
    message = str(caught.value)
    assert f"{two}:2: " in message
    assert f"another at {one}:3" in message
    assert "--duplicates keep-last" in message
    assert not list(ws.table("toys").parent.iterdir())


# Malformed input


def assert_refused(ws, source, *parts, error=BadTable, **settings):
    """The message has all parts, an older table is untouched, and nothing else is left behind."""
    path = ws.table("toys")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"the table of yesterday")
    with pytest.raises(error) as caught:
        ingest([source], "toys", workspace=ws, **settings)
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    assert path.read_bytes() == b"the table of yesterday"
    assert [file.name for file in path.parent.iterdir()] == ["toys.parquet"]
    return caught.value


def line(**changes):
    record = {"user_id": "c", "item_id": "z", "rating": 3, "text": "t"} | changes
    return lines([{name: value for name, value in record.items() if value != "DROP"}])


BAD_LINES = {
    "not json": (b"{user: 1}\n", "not JSON", "expected one JSON object", "got '{user: 1}'"),
    "cut json": (b'{"user_id": "a"\n', "not JSON", "expected one JSON object"),
    "not an object": (b"[1, 2]\n", "not a JSON object", "got [1, 2]"),
    "not UTF-8": (line(text="caf~").replace(b"~", b"\xe9"), "the line is not UTF-8", "expected UTF-8", r"got b'\xe9"),
    "nested too deeply": (b'{"a":' * 200_000 + b"\n", "not JSON", "nested too deeply"),
    "rating 0": (line(rating=0), "the rating is outside the range", "expected a number from 1 to 5", "got 0"),
    "rating 7": (line(rating=7), "the rating is outside the range", "expected a number from 1 to 5", "got 7"),
    "rating five": (line(rating="five"), "the rating is not a number", "expected a number from 1 to 5", "got 'five'"),
    "rating missing": (line(rating="DROP"), "the rating is missing", "expected a number from 1 to 5", "got None"),
    "rating true": (line(rating=True), "the rating is not a number", "got True"),
    "rating NaN": (line(rating=float("nan")), "the rating is not finite", "got nan"),
    "rating inf": (line(rating=float("inf")), "the rating is not finite", "got inf"),
    "rating list": (line(rating=[5]), "the rating is not a number", "got [5]"),
    "rating huge": (line(rating=10**400), "the rating is not a number"),
    "user missing": (line(user_id="DROP"), "the user is missing or empty", "expected an id", "got None"),
    "user empty": (line(user_id=" "), "the user is missing or empty", "got ' '"),
    "item missing": (line(item_id=None), "the item is missing or empty", "got None"),
    "item a number": (line(item_id=1.5), "the item is not an id", "expected text or a whole number", "got 1.5"),
    "user with null byte": (line(user_id="a\0b"), "the user has a null byte", r"got 'a\x00b'"),
    "text a number": (line(text=[]), "the text is not text", "got []"),
    "timestamp words": (line(timestamp="02 28, 2014"), "the timestamp is not a number", "got '02 28, 2014'"),
    "timestamp inf": (line(timestamp=float("inf")), "the timestamp is not a number"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named_or_skipped(name, ws, write):
    content, *parts = BAD_LINES[name]
    source = write(lines(CANONICAL) + content + line())
    assert_refused(ws, source, f"{source}:4: ", *parts, "--on-bad skip")
    result = ingest([source], "toys", workspace=ws, on_bad="skip")
    assert (result.n_rows, result.n_skipped) == (4, 1)
    assert rows_of(ws)[:3] == ROWS


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        (b"a,b\n", ("the number of fields differs from the header", "expected 4", "got 2")),
        (b"a,b,five,t\n", ("the rating is not a number", "got 'five'")),
        (b"a,b,,t\n", ("the rating is missing",)),
        (b",b,1,t\n", ("the user is missing or empty", "got ''")),
        (b"a,b,1,\xff\n", ("the line is not UTF-8",)),
        (b"a\0,b,1,t\n", ("the user has a null byte",)),
        (b'a,b,1,"x"y\n', ("not CSV",)),
    ],
)
def test_a_bad_csv_row_is_named_or_skipped(row, parts, ws, write):
    source = write(b"user_id,item_id,rating,text\nq,i,3,t\n" + row + b"r,i,3,t\n")
    assert_refused(ws, source, f"{source}:3: ", *parts, "--on-bad skip")
    result = ingest([source], "toys", workspace=ws, on_bad="skip")
    assert (result.n_rows, result.n_skipped) == (2, 1)


def test_a_bad_parquet_row_is_named_or_skipped(ws, write):
    source = write(parquet({**COLUMNS, "rating": [5.0, None, 3.0]}))
    assert_refused(
        ws,
        source,
        f"{source}, row 2: the rating is missing",
        "expected a number from 1 to 5",
        "got None",
        "--on-bad skip",
    )
    assert ingest([source], "toys", workspace=ws, on_bad="skip").n_skipped == 1


def test_columns_that_are_missing_are_named(ws, write):
    others = {"reader": ["a"], "item_id": ["i"], "rating": [3], "body": ["t"]}
    for content in (parquet(others), b"reader,item_id,rating,body\na,i,3,t\n"):
        source = write(content)
        assert_refused(
            ws,
            source,
            str(source),
            "columns are missing",
            "expected user_id, text",
            "got reader, item_id, rating, body",
            "--columns user_id=NAME,text=NAME",
        )
    source = write(lines([{"user_id": "a", "item_id": "b", "rating": 1, "body": "t"}]))
    assert_refused(ws, source, "columns are missing", "expected text", "got user_id, item_id, rating, body")
    source = write(GOOD["csv"])
    assert_refused(ws, source, "expected when", columns={"timestamp": "when"})


LONG = [{**CANONICAL[0], "user_id": f"u{n}", "text": os.urandom(40).hex()} for n in range(20_000)]


@pytest.mark.parametrize("content", [gzip.compress(lines(LONG)), zstandard.compress(lines(LONG))], ids=["gz", "zst"])
def test_a_truncated_file_is_reported_with_the_last_line(content, ws, write):
    source = write(content[: len(content) * 3 // 4])
    for on_bad in ("error", "skip"):
        error = assert_refused(
            ws,
            source,
            f"{source}: the compressed file is truncated or damaged",
            "complete lines",
            "then run the same command",
            on_bad=on_bad,
        )
        assert 10_000 < int(error.got.split()[0].replace(",", "")) < 16_000
    for n in (3, 12, 30):
        assert_refused(ws, write(content[:n]), "truncated or damaged" if n > 3 else "")


def test_a_damaged_gzip_zip_and_parquet(ws, write):
    content = bytearray(gzip.compress(lines(LONG)))
    content[-6] ^= 255
    assert_refused(ws, write(bytes(content)), "truncated or damaged", "CRC")
    assert_refused(ws, write(zipped(table_csv())[:-30]), "the archive cannot be read", "unzip")
    assert_refused(
        ws, write(GOOD["parquet"][:-30]), "the parquet file is truncated or damaged", "Download or write it again"
    )
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("a.csv", "x")
        archive.writestr("b.csv", "x")
    assert_refused(ws, write(held.getvalue()), "contains 2 files (a.csv, b.csv), not exactly one")


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("content", [lines(AMAZON_2014), table_csv()], ids=["json", "csv"])
def test_utf_16_is_reported_with_a_conversion_command(coding, content, ws, write):
    source = write(content.decode().encode(coding))
    name = {"utf-16": "UTF-16", "utf-16-le": "UTF-16LE", "utf-16-be": "UTF-16BE"}[coding]
    assert_refused(ws, source, f"the file is {name}, not UTF-8", f"iconv -f {name} -t UTF-8 {source}")


@pytest.mark.parametrize("coding", ["utf-32-le", "utf-32-be"])
def test_utf_32_is_named_by_its_mark(coding, ws, write):
    source = write(("\ufeff" + table_csv().decode()).encode(coding))
    assert_refused(ws, source, "the file is UTF-32, not UTF-8", f"iconv -f UTF-32 -t UTF-8 {source}")


def test_one_endless_line_is_no_table(ws, write):
    csv.field_size_limit(131_072)  # as in a new process
    assert_refused(ws, write(b"x" * 300_000), "unknown format")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ("the file has no content", "got an empty file")),
        (b"\n \n", ("the file has no content", "got white space only")),
        (gzip.compress(b"", mtime=0), ("the file has no content",)),
        (b"[\n{}\n]", ("a JSON array", "expected one JSON object per line", "jq -c '.[]'")),
        (bytes(range(256)) * 64, ("unknown format",)),
        (b"\0" * 5000, ("a binary file", "null bytes")),
        (b"just words\nmore words\n", ("unknown format", "with the first line b'just words'", "CSV or TSV")),
        (gzip.compress(GOOD["parquet"], mtime=0), ("a compressed parquet file",)),
        (b"user_id,item_id,rating,text\n", ("there are no valid reviews", "got 0 bad lines")),
    ],
)
def test_what_is_no_table_of_reviews(content, parts, ws, write):
    source = write(content)
    assert_refused(ws, source, str(source), *parts)


def test_nothing_but_bad_lines(ws, write):
    assert_refused(ws, write(line(rating=9) * 3), "there are no valid reviews", "got 3 bad lines", on_bad="skip")


@pytest.mark.parametrize(
    ("format", "name", "agrees"),
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
def test_an_explicit_format_must_agree_with_the_content(format, name, agrees, ws, write):
    source = write(GOOD[name])
    if agrees:
        assert ingest([source], "toys", workspace=ws, format=format).n_rows == 3
    else:
        assert_refused(ws, source, "the content is ", f", not {format}", "Omit --format", format=format)


def test_settings_outside_their_range(ws, write):
    source = write(GOOD["csv"])
    bad = [
        ({"format": "xml"}, "auto | amazon2014"),
        ({"columns": {"user": "a"}}, "NAME=SOURCE"),
        ({"columns": {"user_id": ""}}, "NAME=SOURCE"),
        ({"duplicates": "drop"}, "keep-last | keep-first | error"),
        ({"on_bad": "ignore"}, "error | skip"),
        ({"rating_range": (5.0, 1.0)}, "LOW < HIGH"),
        ({"rating_range": (1.0, float("nan"))}, "LOW < HIGH"),
    ]
    for settings, part in bad:
        assert_refused(ws, source, part, error=BadSetting, **settings)
    with pytest.raises(BadSetting, match="at least one file"):
        ingest([], "toys", workspace=ws)


@pytest.mark.parametrize("domain", ["../../etc", "/etc", "", "Toys", "a b"])
def test_a_domain_is_a_slug(domain, ws, write):
    with pytest.raises(BadName, match="invalid domain name"):
        ingest([write(GOOD["csv"])], domain, workspace=ws)
    assert not ws.root.exists()


# The system refuses


def test_a_source_that_cannot_be_read(ws, tmp_path, monkeypatch):
    assert_refused(ws, tmp_path / "absent", "absent: the file cannot be read: No such file", "Check the path")
    assert_refused(ws, tmp_path, "the file cannot be read: Is a directory")
    source = tmp_path / "secret"
    source.write_bytes(GOOD["csv"])
    plain = Path.open

    def refuse(self, *args, **kwargs):
        if self == source:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    assert_refused(ws, source, f"{source}: the file cannot be read: Permission denied")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("at", ["write_table", "close"])
def test_a_full_disk_or_no_permission_to_write(code, at, ws, write, monkeypatch):
    real = pq.ParquetWriter.close

    def refuse(self, *args, **kwargs):
        if at == "close":
            real(self)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(pq.ParquetWriter, at, refuse)
    then = "bytes free" if code == errno.ENOSPC else "Make the folder writable"
    parts = ("toys.parquet: cannot write: " + os.strerror(code), then, "nothing is lost")
    assert_refused(ws, write(GOOD["2014"]), *parts, error=NoSpace)


def test_a_full_disk_in_the_second_pass(ws, write, monkeypatch):
    def refuse(*args):
        for path in ws.table("toys").parent.glob(".*"):  # what a kill now would leave, a later run must know as its own
            assert re.fullmatch(r"\.toys\.parquet\.[^.]+\.partial", path.name)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("loid_infer.verbs.ingest.filter_table", refuse)
    source = write(reviews(("a", "x", "1"), ("a", "x", "2")))
    assert_refused(ws, source, "cannot write: No space left", "nothing is lost", error=NoSpace)


def test_a_pipe_is_refused(ws, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    keep = os.open(pipe, os.O_RDWR)
    os.write(keep, GOOD["csv"])
    assert_refused(ws, pipe, "a pipe cannot be read twice", "Write it to a file first")
    os.close(keep)


def test_a_folder_that_cannot_be_made(ws, write):
    ws.root.write_bytes(b"a file where the workspace should be")
    with pytest.raises(NoSpace, match="cannot create the folder"):
        ingest([write(GOOD["csv"])], "toys", workspace=ws)


def test_progress_adds_up_to_the_bytes_of_the_sources(ws, write):
    class Counting:
        total, done = 0, 0

        def task(self, name, total, unit):
            Counting.total = total
            return self

        def advance(self, n):
            assert n >= 0
            Counting.done += n

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            pass

    sources = [write(GOOD[name], name) for name in ("2014 gz", "csv", "parquet")]
    ingest(sources, "toys", workspace=ws, progress=Counting())
    assert Counting.done == Counting.total == sum(source.stat().st_size for source in sources)


def test_batches_end_at_the_limits_and_nothing_changes(ws, write, monkeypatch):
    source = write(lines(LONG[:1000]))
    digest = ingest([source], "toys", workspace=ws).digest
    monkeypatch.setattr("loid_infer.data.sources.MAX_GROUP_ROWS", 64)
    monkeypatch.setattr("loid_infer.data.sources.MAX_GROUP_CHARS", 80 * 50)
    assert ingest([source], "toys", workspace=ws).digest == digest
    assert pq.ParquetFile(ws.table("toys")).num_row_groups == 20


@pytest.mark.real
@pytest.mark.parametrize(
    ("domain", "counts"), [("musical_instruments", (10_261, 1_429, 900, 7)), ("digital_music", (6_908, 2_490, 382, 1))]
)
def test_real_reviews(domain, counts, shared_data, ws):
    result = ingest([shared_data / f"{domain}.json.gz"], domain, workspace=ws, duplicates="error")
    assert (result.n_rows, result.n_users, result.n_items, result.n_empty_text) == counts
    texts = pq.read_table(ws.table(domain), columns=["text"]).column("text").to_pylist()
    assert not any("&#34;" in text for text in texts)


def test_milliseconds_where_seconds_belong_are_a_bad_line(ws, tmp_path):
    source = tmp_path / "ms.jsonl"
    source.write_text('{"user_id": "u", "item_id": "i", "rating": 4, "text": "t", "timestamp": 1400000000000}\n')
    assert_refused(ws, source, "ms.jsonl:1", "maybe not in seconds", "1400000000000")
