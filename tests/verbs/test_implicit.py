"""`ingest --implicit`: interactions with a time or a position; what reads reviews refuses their table."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loid_infer import cache_gc, cache_info, encode, fit, ingest, ingest_implicit, plugin_train, report, similar
from loid_infer.data.canonical import METADATA_KEY
from loid_infer.data.events import read_events
from loid_infer.data.reviews import open_table
from loid_infer.errors import BadSetting, BadTable, NoSpace
from loid_infer.types import NO_TIME, SILENT

CSV = "user_id,item_id,timestamp\nu1,B,100\nu1,A,100\nu1,C,200\nu2,A,\nu2,B,100\n"
POSITIONS = "user_id,item_id,position\nu1,B,0\nu1,A,1\nu2,A,5\n"


def rows_of(ws, domain="toys"):
    return [tuple(row.values()) for row in pq.read_table(ws.table(domain)).to_pylist()]


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def test_times_are_read_and_ties_counted(ws, write):
    source = write(
        "user_id,item_id,timestamp,rating,text\nu1,B,100,9,x\nu1,A,100,,\nu1,C,1970-01-01 00:03:20,?,\nu2,B,100,1,\n"
    )
    result = ingest_implicit([source], "toys", workspace=ws)
    assert rows_of(ws) == [
        ("u1", "B", 100, None),
        ("u1", "A", 100, None),
        ("u1", "C", 200, None),
        ("u2", "B", 100, None),
    ]
    assert (result.n_rows, result.n_users, result.n_items, result.n_tied_times) == (4, 2, 3, 2)
    assert (result.n_duplicates, result.n_skipped, result.path) == (0, 0, str(ws.table("toys")))
    file = pq.ParquetFile(ws.table("toys"))
    assert [(field.name, str(field.type)) for field in file.schema_arrow] == [
        ("user_id", "string"),
        ("item_id", "string"),
        ("timestamp", "int64"),
        ("position", "int64"),
    ]
    assert json.loads(file.metadata.metadata[METADATA_KEY]) == {
        "format": "interactions-1",
        "digest": result.digest,
        "n_rows": 4,
        "n_users": 2,
        "n_items": 3,
        "n_tied_times": 2,
    }


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("1::31::2.5::1260759144\n1::32::5::1260759179\n", None),
        ("1\t31\t3\t1260759144\n1\t32\t1\t1260759179\n", None),
        ("userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n1,32,5,1260759179\n", None),
        (
            lines(
                {"reviewerID": "1", "asin": 31, "unixReviewTime": 1260759144},
                {"reviewerID": "1", "asin": 32, "unixReviewTime": 1260759179},
            ),
            None,
        ),
        (
            lines(
                {
                    "user_id": "1",
                    "parent_asin": "31",
                    "timestamp": 1260759144123,
                    "text": "t",
                    "title": "t",
                    "rating": 1,
                },
                {"user_id": "1", "asin": "32", "timestamp": 1260759179000},
            ),
            None,
        ),
        (
            "who\twhat\twhen\n1\t31\t2009-12-14T02:52:24\n1\t32\t2009-12-14T02:52:59\n",
            {"user_id": "who", "item_id": "what", "timestamp": "when"},
        ),
    ],
    ids=["ratings.dat", "u.data", "ratings.csv", "2014", "2023", "mapped"],
)
def test_every_source_gives_the_same_interactions(content, columns, ws, write):
    result = ingest_implicit([write(content)], "toys", workspace=ws, columns=columns)
    assert rows_of(ws) == [("1", "31", 1260759144, None), ("1", "32", 1260759179, None)]
    assert (result.first_date, result.last_date, result.n_tied_times) == ("2009-12-14", "2009-12-14", 0)
    assert result.digest == "41a5318d9c76b691a95beb0ceb6c2e50cce649b328bc61cd893ac22cfffe4f03"  # of tables that exist


def test_positions_order_what_has_no_time(ws, write):
    result = ingest_implicit([write(POSITIONS)], "toys", workspace=ws)
    assert rows_of(ws) == [("u1", "B", None, 0), ("u1", "A", None, 1), ("u2", "A", None, 5)]
    assert (result.n_tied_times, result.first_date) == (0, None)
    tied = write("user_id,item_id,place\nu1,B,1\nu1,A,1\nu2,A,1\n")
    assert ingest_implicit([tied], "toys", workspace=ws, columns={"position": "place"}).n_tied_times == 2
    both = write("user_id,item_id,timestamp,position\nu1,B,1,1\nu1,A,1,2\nu1,C,1,2\n")
    assert ingest_implicit([both], "toys", workspace=ws).n_tied_times == 2


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ("keep-first", [("u", "B", 2), ("u", "A", 1)]),
        ("keep-last", [("u", "A", 3), ("u", "B", 2)]),
        ("keep-all", [("u", "A", 3), ("u", "B", 2), ("u", "A", 1), ("u", "A", 1)]),
    ],
)
def test_duplicates_are_compared_by_time(policy, kept, ws, write):
    source = write("user_id,item_id,timestamp\nu,A,3\nu,B,2\nu,A,1\nu,A,1\n")
    result = ingest_implicit([source], "toys", workspace=ws, duplicates=policy)
    assert [row[:3] for row in rows_of(ws)] == kept
    assert (result.n_rows, result.n_duplicates) == (len(kept), 4 - len(kept))
    assert result.n_tied_times == (2 if policy == "keep-all" else 0)
    with pytest.raises(
        BadTable, match=r"source:4: the same user has interacted with the same item before, at .*source:2"
    ):
        ingest_implicit([source], "toys", workspace=ws, duplicates="error")


def test_keep_first_is_the_default(ws, write):
    ingest_implicit([write("user_id,item_id,position\nu,A,3\nu,B,2\nu,A,1\n")], "toys", workspace=ws)
    assert rows_of(ws) == [("u", "B", None, 2), ("u", "A", None, 1)]


BAD = {
    "neither": ("user_id,item_id,rating\nu,A,5\n", "neither a timestamp nor a position.*--columns timestamp=NAME or"),
    "no users": ("item_id,title,timestamp\nA,t,5\n", "columns are missing .expected user_id"),
    "a row with neither": (CSV, "source:5: the interaction has neither a timestamp nor a position"),
    "a position that is no number": (POSITIONS + "u2,B,first\n", "source:5: the position is not a whole number"),
    "half a position": (POSITIONS + "u2,B,1.5\n", "source:5: the position is not a whole number"),
    "no item": (POSITIONS + "u2,,1\n", "source:5: the item is missing"),
    "no rows": ("user_id,item_id,timestamp\n", "there are no valid interactions"),
    "a short line": ("1::2::3::100\n1::2::3\n", "source:2: the number of fields differs"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_and_the_old_table_stays(name, ws, write):
    ingest_implicit([write(POSITIONS, "good")], "toys", workspace=ws)
    before = ws.table("toys").read_bytes()
    content, reason = BAD[name]
    with pytest.raises(BadTable, match=reason):
        ingest_implicit([write(content)], "toys", workspace=ws)
    assert ws.table("toys").read_bytes() == before
    assert [path.name for path in ws.table("toys").parent.iterdir()] == ["toys.parquet"]


def test_times_in_one_source_and_positions_in_another_are_refused(ws, write):
    first, second = write("user_id,item_id,timestamp\nu,A,5\n", "first"), write(POSITIONS, "second")
    with pytest.raises(BadTable, match=r"only a timestamp, and others only a position.*1 and 3 rows"):
        ingest_implicit([first, second], "toys", workspace=ws)
    with pytest.raises(BadSetting, match=r"keep-last \| keep-first \| error \| keep-all"):
        ingest_implicit([first], "toys", workspace=ws, duplicates="some")
    skipped = ingest_implicit([write(CSV)], "toys", workspace=ws, on_bad="skip")
    assert (skipped.n_rows, skipped.n_skipped) == (4, 1)


def test_a_full_disk_keeps_the_old_table(ws, write, monkeypatch):
    ingest_implicit([write(POSITIONS)], "toys", workspace=ws)
    before = ws.table("toys").read_bytes()

    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", refuse)
    with pytest.raises(NoSpace, match="nothing is lost"):
        ingest_implicit([write(POSITIONS)], "toys", workspace=ws)
    assert ws.table("toys").read_bytes() == before


def test_what_reads_reviews_refuses_interactions(ws, write):
    ingest_implicit([write(POSITIONS)], "toys", workspace=ws)
    readers = [
        lambda: open_table(ws.table("toys"), "toys"),
        lambda: encode("toys", workspace=ws),
        lambda: fit("toys", workspace=ws),
        lambda: plugin_train("toys", workspace=ws),
        lambda: similar("toys", text="a", workspace=ws),
    ]
    for reader in readers:
        with pytest.raises(BadTable, match=r"the table has interactions without reviews.*--domain NAME"):
            reader()


def test_replacing_reviews_is_said(ws, write):
    said = []

    class Listening:
        say = said.append

        def task(self, name, total, unit):
            return SILENT.task(name, total, unit)

    for _ in range(2):
        ingest_implicit([write(POSITIONS)], "toys", workspace=ws, progress=Listening())
    assert said == []
    ingest([write("user_id,item_id,rating,text\nu,B1,5,t\n")], "toys", workspace=ws)
    ingest_implicit([write(POSITIONS)], "toys", workspace=ws, progress=Listening())
    assert said == ["the table of reviews of toys was replaced by one of interactions"]


def test_a_file_of_movielens_is_no_file_of_reviews(ws, write):
    with pytest.raises(BadTable, match="ratings with --implicit, its titles with --items"):
        ingest([write("1::31::5::1260759144\n")], "toys", workspace=ws)


def test_upkeep_passes_interactions_over_and_the_report_shows_them(ws, write):
    ingest([write("user_id,item_id,rating,text\nu,B1,5,t\n")], "toys", workspace=ws)
    ingest_implicit([write(POSITIONS)], "clicks", workspace=ws)
    cache_gc(workspace=ws)
    cache_info(workspace=ws)
    page = report(workspace=ws)
    assert "#domain-clicks" in Path(page.path).read_text()
    ws.table("toys").unlink()
    with pytest.raises(BadSetting, match="no domain has a table"):
        cache_gc(workspace=ws)


def test_events_of_interactions_and_of_reviews(ws, write):
    result = ingest_implicit([write(POSITIONS)], "toys", workspace=ws)
    events = read_events(ws.table("toys"), "toys")
    assert (events.user_ids, events.item_ids, events.digest) == (["u1", "u2"], ["A", "B"], result.digest)
    assert (events.n, events.users.tolist(), events.items.tolist()) == (3, [0, 0, 1], [1, 0, 0])
    assert (events.times.tolist(), events.positions.tolist()) == ([NO_TIME] * 3, [0, 1, 5])
    assert events.times.dtype == events.positions.dtype == np.int64
    ingest([write("user_id,item_id,rating,text,timestamp\nu,B,5,t,7\nu,A,5,t,\n")], "toys", workspace=ws)
    events = read_events(ws.table("toys"), "toys")
    assert (events.items.tolist(), events.times.tolist(), events.positions.tolist()) == (
        [1, 0],
        [7, NO_TIME],
        [NO_TIME] * 2,
    )
    assert events.digest == open_table(ws.table("toys"), "toys").digest
    with pytest.raises(BadTable, match=r"there is no table for domain 'absent'.*tables for toys"):
        read_events(ws.table("absent"), "absent")


def test_a_damaged_table_of_interactions_is_refused(ws, write):
    ingest_implicit([write(POSITIONS + "".join(f"u{k},A,{k}\n" for k in range(3, 2000)))], "toys", workspace=ws)
    content = ws.table("toys").read_bytes()
    ws.table("toys").write_bytes(content[:40] + bytes([content[40] ^ 255]) + content[41:])
    with pytest.raises(BadTable, match=r"the table is damaged.*--implicit"):
        read_events(ws.table("toys"), "toys")
    ws.table("toys").write_bytes(content[:-30])
    with pytest.raises(BadTable, match="the table cannot be read"):
        read_events(ws.table("toys"), "toys")


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("uvw"), st.sampled_from("ABC"), st.integers(0, 3)), min_size=1, max_size=20
    ),
    policy=st.sampled_from(["keep-first", "keep-last", "keep-all"]),
)
def test_duplicates_and_ties_equal_a_plain_count(rows, policy, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "plain"
    folder.mkdir(exist_ok=True)
    (folder / "source").write_text("user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    result = ingest_implicit([folder / "source"], "toys", workspace=folder, duplicates=policy)
    best = {}
    for n, (user, item, time) in enumerate(rows):
        best.setdefault((user, item) if policy != "keep-all" else n, []).append((time, n))
    kept = sorted((max if policy == "keep-last" else min)(places)[1] for places in best.values())
    expected = [rows[n] for n in kept]
    table = pq.read_table(folder / "data" / "toys.parquet").to_pylist()
    assert [(row["user_id"], row["item_id"], row["timestamp"]) for row in table] == expected
    ties = [sum((u, t) == (user, time) for u, _, t in expected) > 1 for user, _, time in expected]
    assert result.n_tied_times == sum(ties)


def test_row_groups_bound_memory_and_leave_the_digest_unchanged(ws, write, monkeypatch):
    source = write("user_id,item_id,position,text\n" + "".join(f"u{k},A,{k},{'x' * 1000}\n" for k in range(1000)))
    digest = ingest_implicit([source], "toys", workspace=ws).digest
    monkeypatch.setattr("loid_infer.data.sources.MAX_GROUP_ROWS", 64)
    assert ingest_implicit([source], "toys", workspace=ws).digest == digest
    assert pq.ParquetFile(ws.table("toys")).num_row_groups == 16


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "policy", "counts"),
    [
        ("scientific_2018", "keep-all", (59_384, 8_442, 4_385, 0, 0)),
        ("scientific_2018", "keep-first", (59_095, 8_442, 4_385, 289, 0)),
        ("food_kitchen_2014", "keep-first", (173_548, 7_144, 28_095, 0, 78_406)),
        ("movielens_1m_half", "error", (487_650, 2_999, 3_615, 0, 377_990)),
    ],
)
def test_counts_of_real_interactions(name, policy, counts, shared_data, ws):
    source = shared_data / "sequences" / f"{name}.parquet"
    result = ingest_implicit([source], "toys", workspace=ws, duplicates=policy)
    assert (result.n_rows, result.n_users, result.n_items, result.n_duplicates, result.n_tied_times) == counts
    events = read_events(ws.table("toys"), "toys")
    assert (events.n, len(events.user_ids), len(events.item_ids)) == counts[:3]
