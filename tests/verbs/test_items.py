"""`ingest --items` of every format of metadata and of malformed input; after every error the old table is unchanged."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from loid_infer import cache_gc, ingest, ingest_implicit, ingest_items
from loid_infer.cli.app import build
from loid_infer.data.canonical import METADATA_KEY
from loid_infer.data.items import open_items
from loid_infer.errors import BadName, BadSetting, BadTable
from loid_infer.settings import Workspace

AMAZON_2014 = (
    "{'asin': 'B1', 'title': \"Player's  Guide &amp; Map\", 'price': 9.5, 'imUrl': 'http://x/y.jpg', "
    "'related': {'also_bought': ['B2', 'B3']}, 'categories': [['Games', 'PC'], ['Games', 'Guides']]}\n"
    "{'asin': 'B2', 'description': 'Strings,\\nnickel', 'brand': 'Ernie Ball', 'title': 'Slinky', "
    "'salesRank': {'Music': 3}, 'categories': [['Music']]}\n"
)
AMAZON_2018 = [
    {
        "category": ["Games", "PC", "Guides"],
        "description": [],
        "title": "Player's Guide &amp; Map",
        "brand": "",
        "also_buy": ["B2"],
        "asin": "B1",
    },
    {
        "category": ["Music"],
        "description": ["Strings,", "nickel"],
        "title": " Slinky",
        "brand": "Ernie\n   Ball",
        "asin": "B2",
    },
]
AMAZON_2023 = [
    {
        "main_category": "Games",
        "title": "Player's Guide & Map",
        "store": None,
        "categories": ["Games", "PC", "Guides"],
        "description": [],
        "features": ["x"],
        "details": {"Brand": "x"},
        "parent_asin": "B1",
    },
    {
        "title": "Slinky",
        "store": "Ernie Ball",
        "categories": ["Music"],
        "description": ["Strings,", "nickel"],
        "parent_asin": "B2",
    },
]
NAMES = ("item_id", "title", "brand", "category", "description")
ROWS = [
    ("B1", "Player's Guide & Map", "", "Games | PC | Guides", ""),
    ("B2", "Slinky", "Ernie Ball", "Music", "Strings, nickel"),
]
CSV = (
    'item_id,title,brand,category,description\nB2,Slinky,Ernie Ball,Music,"Strings,\nnickel"\n'
    "B1,Player's Guide &amp; Map,,Games|PC|Guides,\n"
)


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def parquet(rows, **columns):
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns or {name: [row[name] for row in rows] for name in rows[0]}), buffer)
    return buffer.getvalue().to_pybytes()


def rows_of(ws, domain="toys"):
    return [tuple(row.values()) for row in pq.read_table(ws.items(domain)).to_pylist()]


SOURCES = {
    "2014": AMAZON_2014,
    "2014 gz": gzip.compress(AMAZON_2014.encode()),
    "2018": lines(*AMAZON_2018),
    "2023": lines(*AMAZON_2023),
    "csv": CSV,
    "tsv": "item_id\ttitle\tbrand\tcategories\tdescription\n" + "".join("\t".join(row) + "\n" for row in ROWS),
    "jsonl": lines(*[dict(zip(NAMES, row, strict=True)) for row in ROWS]),
    "parquet": parquet(
        [],
        parent_asin=["B2", "B1"],
        title=["Slinky", "Player's Guide &amp; Map"],
        store=["Ernie Ball", None],
        categories=[["Music"], ["Games", "PC", "Guides"]],
        description=[["Strings,", "nickel"], []],
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_format_is_read_to_the_same_items(name, ws, write):
    result = ingest_items([write(SOURCES[name])], "toys", workspace=ws)
    assert rows_of(ws) == ROWS
    assert (result.n_items, result.n_untitled, result.n_duplicates, result.n_skipped) == (2, 0, 0, 0)
    assert (result.path, result.warning) == (str(ws.items("toys")), None)
    assert result.digest == open_items(ws.items("toys"), "toys").digest


def test_the_digest_depends_on_content_and_not_on_format_or_row_groups(ws, write, monkeypatch):
    digests = {ingest_items([write(content)], "toys", workspace=ws).digest for content in SOURCES.values()}
    monkeypatch.setattr("loid_infer.data.items.MAX_GROUP_ROWS", 1)
    digests.add(ingest_items([write(CSV)], "toys", workspace=ws).digest)
    assert digests == {"b1c3b209fa5a1a7c2406e473a4947c6d663f85496eef0c01136f4931863c9545"}  # of tables that exist
    assert pq.ParquetFile(ws.items("toys")).num_row_groups == 2
    assert rows_of(ws) == ROWS
    for change in (("Slinky", "Slink"), ("B2", "B3"), ("Ernie Ball,", ",")):
        digests.add(ingest_items([write(CSV.replace(*change))], "toys", workspace=ws).digest)
    assert len(digests) == 4


@settings(max_examples=30, deadline=None)
@given(
    items=st.dictionaries(
        st.sampled_from("abcdef"), st.tuples(*[st.sampled_from(["", "x", "xy", "y", "é"])] * 4), min_size=1
    ),
    cut=st.integers(0, 6),
    order=st.randoms(use_true_random=False),
)
def test_the_digest_is_that_of_the_sorted_items(items, cut, order, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "digests"
    folder.mkdir(exist_ok=True)
    rows = [dict(zip(NAMES, (item_id, *texts), strict=True)) for item_id, texts in items.items()]
    (folder / "all").write_text(lines(*rows))
    order.shuffle(rows)
    (folder / "first").write_text(lines(*rows[:cut]))
    (folder / "second").write_text(lines(*rows[cut:]))
    whole = ingest_items([folder / "all"], "whole", workspace=folder)
    parts = ingest_items([folder / "first", folder / "second"], "parts", workspace=folder)
    assert whole.digest == parts.digest
    assert rows_of(Workspace(folder), "parts") == sorted((item_id, *texts) for item_id, texts in items.items())
    (folder / "moved").write_text(lines({**rows[0], "title": rows[0]["title"] + "x"}, *rows[1:]))
    assert ingest_items([folder / "moved"], "moved", workspace=folder).digest != whole.digest


def test_schema_and_metadata_of_the_table(ws, write):
    source = write(lines(*AMAZON_2018, {"asin": "B3", "title": "Slinky"}, {"asin": "B4", "title": "<b>x</b>"}))
    result = ingest_items([source], "toys", workspace=ws)
    file = pq.ParquetFile(ws.items("toys"))
    assert [(field.name, str(field.type)) for field in file.schema_arrow] == [(name, "string") for name in NAMES]
    counts = {"n_items": 4, "n_untitled": 1, "n_markup": 1, "n_repeated": 2}
    assert json.loads(file.metadata.metadata[METADATA_KEY]) == {"format": "items-1", "digest": result.digest, **counts}
    assert {name: getattr(result, name) for name in counts} == counts


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("1::Toy Story (1995)::Animation|Children's|Comedy\n2::Misérables, Les (1995)::Drama\n".encode("latin-1"), 2),
        ("1::Toy Story (1995)::Animation|Children's|Comedy\r\n2::Misérables, Les (1995)::Drama\r\n", 2),
        (
            (
                "1|Toy Story (1995)|01-Jan-1995||http://x|0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
                "2|Misérables, Les (1995)|01-Jan-1995||http://x|0|0|0|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0\n"
            ).encode("latin-1"),
            2,
        ),
        (
            'movieId,title,genres\n1,Toy Story (1995),Animation|Children\'s|Comedy\n2,"Misérables, Les (1995)",Drama\n',
            2,
        ),
    ],
    ids=["movies.dat", "UTF-8", "u.item", "movies.csv"],
)
def test_movielens_is_read(content, expected, ws, write):
    assert ingest_items([write(content)], "toys", workspace=ws).n_items == expected
    assert rows_of(ws) == [
        ("1", "Toy Story (1995)", "", "Animation | Children's | Comedy", ""),
        ("2", "Misérables, Les (1995)", "", "Drama", ""),
    ]


def test_the_first_text_of_each_field_that_is_not_empty_counts(ws, write):
    first = write("user_id,item_id,title,brand\nu,i1,,\nu,i2,<b>x</b>,b\nv,i1,One,\nv,i1,Other,B\n", "first")
    second = write(lines({"item_id": "i2", "title": "Two"}, {"item_id": "i0", "title": "!?"}), "second")
    result = ingest_items([first, second], "toys", workspace=ws)
    assert rows_of(ws) == [("i0", "", "", "", ""), ("i1", "One", "B", "", ""), ("i2", "Two", "b", "", "")]
    assert (result.n_items, result.n_duplicates, result.n_untitled, result.n_markup) == (3, 3, 1, 0)


def test_columns_can_be_mapped(ws, write):
    source = write("sku;name;maker\nB1;Slinky;Ernie Ball\n")
    with pytest.raises(
        BadTable, match=r"columns are missing .*expected item_id, title.*--columns item_id=NAME,title=NAME"
    ):
        ingest_items([source], "toys", workspace=ws)
    columns = {"item_id": "sku", "title": "name", "brand": "maker"}
    ingest_items([source], "toys", workspace=ws, columns=columns)
    assert rows_of(ws) == [("B1", "Slinky", "Ernie Ball", "", "")]
    with pytest.raises(BadSetting, match="NAME one of item_id, title, brand, category, description"):
        ingest_items([source], "toys", workspace=ws, columns={"rating": "x"})
    described = write(lines({"item_id": "1", "title": "t", "description": "d"}))
    ingest_items([described], "toys", workspace=ws, columns={"brand": "description"})
    assert rows_of(ws) == [("1", "t", "d", "", "")]
    with pytest.raises(BadSetting, match="mapped twice"):
        ingest_items([described], "toys", workspace=ws, columns={"brand": "title"})


BAD = {
    "no ids": (lines({"title": "a"}), "columns are missing .expected item_id"),
    "no titles": (lines({"asin": "a", "overall": 5, "reviewText": "t"}), "columns are missing .expected title"),
    "reviews of 2023": (
        lines({"parent_asin": "a", "asin": "b", "user_id": "u", "title": "Great", "text": "t", "rating": 5}),
        "titles are those of reviews",
    ),
    "an empty id": (
        lines({"item_id": "1", "title": "a"}, {"item_id": "", "title": "b"}),
        "source:2: the item is missing",
    ),
    "a title that is no text": (lines({"item_id": "1", "title": {"a": 1}}), "source:1: the title is not text"),
    "a deep category": (
        '{"item_id": "1", "title": "t", "category": ' + "[" * 20 + "]" * 20 + "}\n",
        "the category is a list within lists",
    ),
    "binary": (bytes(range(256)) * 64, "unknown format"),
    "null bytes": (b"\0" * 5000, "a binary file"),
    "empty": (b"", "no content"),
    "nothing but a header": (b"item_id,title\n", "there are no valid items"),
    "a literal that is cut": (AMAZON_2014 + "{'asin': 'B3', 'title': 'x\n", "source:3: not JSON"),
    "a literal with a call": (AMAZON_2014 + "{'asin': 'B3', 'title': str(1)}\n", "source:3: not JSON"),
    "a deep literal": (
        AMAZON_2014 + "{'asin': " + "[" * 100_000 + "]" * 100_000 + "}\n",
        "source:3: not JSON.*literal of Python it is nested",
    ),
    "signs": (AMAZON_2014 + "{'asin': " + "-" * 200_000 + "1}\n", "source:3: not JSON.*more than texts, numbers"),
    "a sum": (AMAZON_2014 + "{'asin': " + "1+" * 100_000 + "1}\n", "source:3: not JSON.*more than texts, numbers"),
    "too many values": (
        AMAZON_2014 + "{'asin': [" + "1," * 200_000 + "]}\n",
        "source:3: not JSON.*without its strings",
    ),
    "a huge literal": (AMAZON_2014 + "{'asin': '" + "x" * (1 << 24) + "'}\n", "source:3: not JSON.*longer than"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_and_the_old_table_stays(name, ws, write):
    ingest_items([write(CSV, "good")], "toys", workspace=ws)
    before = ws.items("toys").read_bytes()
    content, reason = BAD[name]
    with pytest.raises(BadTable, match=reason):
        ingest_items([write(content)], "toys", workspace=ws)
    assert ws.items("toys").read_bytes() == before
    assert [path.name for path in ws.items("toys").parent.iterdir()] == ["toys.items.parquet"]


def test_bad_lines_are_skipped_and_counted(ws, write):
    source = write(
        AMAZON_2014 + "{'asin': " + "[" * 100_000 + "\n{'title': 'x'}\n{'asin': 'B3', 'title': ['a', 'b']}\n"
    )
    result = ingest_items([source], "toys", workspace=ws, on_bad="skip")
    assert (result.n_items, result.n_skipped) == (3, 2)
    assert rows_of(ws)[2][:2] == ("B3", "a b")


def test_a_title_of_a_million_characters_is_kept(ws, write):
    title = "x" * 1_000_000
    for content in (lines({"asin": "B1", "title": title}), repr({"asin": "B1", "title": title}) + "\n"):
        assert ingest_items([write(content)], "toys", workspace=ws).n_items == 1
        assert rows_of(ws)[0][1] == title


def test_many_untitled_items_are_warned_of(ws, write):
    rows = "".join(f"{k},<span>\n" for k in range(3))
    result = ingest_items([write("item_id,title\n" + rows + "9,good\n")], "toys", workspace=ws)
    assert result.warning == "3 of 4 items have no title: 3 because it is HTML or a script"
    result = ingest_items([write("item_id,title\n" + rows.replace("<span>", "") + "9,good\n")], "toys", workspace=ws)
    assert result.warning == "3 of 4 items have no title: is the column the right one?"


def test_a_table_of_items_is_no_domain(ws, write):
    ingest_items([write(CSV)], "toys", workspace=ws)
    assert ws.domains() == []
    with pytest.raises(BadTable, match=r"there is no table for domain 'toys'\. "):
        from loid_infer.data.reviews import open_table

        open_table(ws.table("toys"), "toys")
    ingest([write("user_id,item_id,rating,text\nu,B1,5,t\n")], "toys", workspace=ws)
    ingest_implicit([write("user_id,item_id,timestamp\nu,B1,5\n")], "clicks", workspace=ws)
    assert ws.domains() == ["clicks", "toys"]
    assert cache_gc(workspace=ws).n_stores == 0
    assert ws.items("toys").exists()
    with pytest.raises(BadName):
        ws.items("Toys")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--items", "--implicit"], "--items, --implicit: one command reads one kind of rows"),
        (["--implicit", "--clicks"], "--implicit, --clicks: one command reads one kind of rows"),
        (["--clicks", "--rating-range", "1,5"], "does not apply with --clicks"),
        (["--implicit", "--liked-from", "4"], "does not apply with --implicit"),
        (["--liked-from", "4"], "that only --clicks has"),
        (["--items", "--rating-range", "1,5"], "does not apply with --items"),
        (["--items", "--duplicates", "keep-last"], "does not apply with --items"),
        (["--implicit", "--rating-range", "1,5"], "does not apply with --implicit"),
        (["--duplicates", "keep-all"], "unknown duplicates"),
    ],
)
def test_options_that_do_not_apply_are_refused(arguments, reason, ws, write):
    command = ["ingest", str(write(CSV)), "-d", "toys", "-w", str(ws.root), *arguments]
    result = CliRunner().invoke(build(), command)
    assert isinstance(result.exception, BadSetting)
    assert reason in str(result.exception)
    assert not ws.items("toys").exists()


def test_the_command_prints_the_result(ws, write):
    command = ["ingest", str(write(CSV)), "--items", "-d", "toys", "-w", str(ws.root), "--json", "--format", "csv"]
    result = CliRunner().invoke(build(), command)
    printed = json.loads(result.stdout.splitlines()[-1])
    assert result.exit_code == 0
    assert printed.keys() >= {"domain", "n_items", "n_untitled", "n_duplicates", "n_markup", "n_repeated", "n_skipped"}
    assert (printed["n_items"], printed["path"]) == (2, str(ws.items("toys")))


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("scientific_2018", (4_385, 0, 0, 54, 59_384 - 4_385)),
        ("food_kitchen_2014", (28_095, 4_738, 0, 71, 173_548 - 28_095)),
        ("magazine_subscriptions_2018", (157, 154, 148, 0, 2_375 - 157)),
        ("movielens_1m_movies", (3_883, 0, 0, 0, 0)),
        ("digital_music_titles", (382, 0, 0, 2, 0)),
    ],
)
def test_counts_of_real_items(name, counts, shared_data, ws):
    result = ingest_items([shared_data / "sequences" / f"{name}.parquet"], "toys", workspace=ws)
    found = (result.n_items, result.n_untitled, result.n_markup, result.n_repeated, result.n_duplicates)
    assert found == counts
    items = open_items(ws.items("toys"), "toys")
    assert list(items.item_ids) == sorted(items.item_ids)
    assert not any("&amp;" in title or "  " in title or "<span" in title for title in items.titles)
    assert sum(text == "" for text in items.texts("{title}; ")) == result.n_untitled
