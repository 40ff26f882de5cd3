"""`ingest --clicks`: pairs with a label, in a table of their own."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loid_infer import ingest, ingest_clicks
from loid_infer.errors import BadSetting, BadTable

CSV = "user_id,item_id,label,timestamp\nu1,B,1,100\nu1,A,0,100\nu2,A,true,300\nu2,B,False,200\n"


def rows_of(ws):
    return [tuple(row.values()) for row in pq.read_table(ws.clicks("toys")).to_pylist()]


def test_labels_are_read_beside_the_other_tables(ws, write) -> None:
    reviews = write("user_id,item_id,rating,text\nu,i,3,fine\n", "reviews")
    ingest([reviews], "toys", workspace=ws)
    before = ws.table("toys").read_bytes()
    result = ingest_clicks([write(CSV)], "toys", workspace=ws)
    assert rows_of(ws) == [
        ("u1", "B", 100, None, 1, ""),
        ("u1", "A", 100, None, 0, ""),
        ("u2", "A", 300, None, 1, ""),
        ("u2", "B", 200, None, 0, ""),
    ]
    assert (result.n_rows, result.n_users, result.n_items, result.n_positive, result.n_test) == (4, 2, 2, 2, 0)
    assert ws.table("toys").read_bytes() == before
    assert ws.domains() == ["toys"]


def test_ratings_become_labels_and_parts_are_kept(ws, write, tmp_path) -> None:
    table = pa.table(
        {
            "user_id": [7, 7, 8],
            "item_id": [1, 2, 1],
            "stars": [4, 3.5, 5],
            "timestamp": [1, 2, 3],
            "split": ["train", "valid", "test"],
            "history": [[], [1], []],  # of another kind of value, and not read
        }
    )
    pq.write_table(table, tmp_path / "pairs.parquet")
    result = ingest_clicks([tmp_path / "pairs.parquet"], "toys", workspace=ws, columns={"label": "stars"}, liked_from=4)
    assert [row[4:] for row in rows_of(ws)] == [(1, "train"), (0, "valid"), (1, "test")]
    assert (result.n_valid, result.n_test) == (1, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CSV.replace("true", "4"), r":4.*neither 1 nor 0.*expected 1 or 0, got '4'.*--liked-from"),
        (CSV.replace(",1,100", ",,100"), r":2.*neither 1 nor 0"),
        (CSV.replace("label", "grade"), r"columns are missing.*label.*--columns label=NAME"),
        (CSV.replace(",timestamp", ",when"), "neither a timestamp nor a position"),
        ("user_id,item_id,label,timestamp,split\nu,i,1,1,train\nu,j,0,2,dev\n", r"unknown part of a split.*'dev'"),
        (
            "user_id,item_id,label,timestamp,split\nu,i,1,1,train\nu,j,0,2,\n",
            r"column of parts is incomplete.*nothing 1",
        ),
        ("user_id,item_id,label,timestamp,split\nu,i,1,1,train\nu,j,0,2,test\n", r"is incomplete.*train 1, test 1"),
    ],
)
def test_bad_pairs_are_named_and_nothing_is_replaced(ws, write, content, message) -> None:
    ingest_clicks([write(CSV)], "toys", workspace=ws)
    before = ws.clicks("toys").read_bytes()
    with pytest.raises((BadTable, BadSetting), match=message):
        ingest_clicks([write(content, "other.csv")], "toys", workspace=ws)
    assert ws.clicks("toys").read_bytes() == before


def test_of_repeated_pairs_the_first_in_time_is_kept(ws, write) -> None:
    again = f"{CSV}u1,B,0,50\n"
    assert ingest_clicks([write(again)], "toys", workspace=ws).n_duplicates == 1
    assert ("u1", "B", 50, None, 0, "") in rows_of(ws)
    assert ingest_clicks([write(again)], "toys", workspace=ws, duplicates="keep-all").n_rows == 5
    with pytest.raises(BadTable, match="has interacted with the same item before"):
        ingest_clicks([write(again)], "toys", workspace=ws, duplicates="error")
