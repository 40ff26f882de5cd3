"""CSV and TSV of every writer come back equal or are refused; no row is lost without being counted."""

import csv
import io
from contextlib import suppress

import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loid_infer.data.delimited import ends_with_lf
from loid_infer.data.formats import inspect
from loid_infer.data.kinds import review_check
from loid_infer.data.pairs import read_pairs, write_scores
from loid_infer.data.sources import read_source
from loid_infer.data.values import is_missing
from loid_infer.errors import BadTable

HEADER = ["user_id", "item_id", "rating", "text"]


def by_csv(columns, delimiter):
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()


def by_pandas(columns, delimiter):
    return pandas.DataFrame(columns).to_csv(index=False, sep=delimiter).encode()


def by_polars(columns, delimiter):
    return polars.DataFrame(columns).write_csv(separator=delimiter).encode()


def by_pyarrow(columns, delimiter):
    file = io.BytesIO()
    pyarrow.csv.write_csv(pa.table(columns), file, pyarrow.csv.WriteOptions(delimiter=delimiter))
    return file.getvalue()


WRITERS = [by_csv, by_pandas, by_polars, by_pyarrow]
# What text tables break on, and enough ordinary characters.
texts = st.text(st.sampled_from("ab5,;|\t\"'\\ \n\r\0éN"), max_size=12)
tables = st.lists(texts, min_size=1, max_size=6)


@pytest.mark.parametrize("delimiter", [",", "\t"])
@pytest.mark.parametrize("write", WRITERS)
@settings(max_examples=60, deadline=None)
@given(texts=tables)
@example(texts=['"I loved it', 'it is a 27"', "ok"])
@example(texts=["C:\\", 'a \\" b', '\\"', "\\N"])
@example(texts=["\r"] * 5)
def test_texts_of_any_writer_come_back_equal_or_are_refused(write, delimiter, texts, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / f"{write.__name__}{ord(delimiter)}.csv"
    n = len(texts)
    columns = {"user_id": [f"u{k}" for k in range(n)], "item_id": ["i"] * n, "rating": [4.0] * n, "text": texts}
    path.write_bytes(content := write(columns, delimiter))
    # pandas does not quote a text that ends with CR; where most lines end so, it is the end of the line.
    end = "\r" if write is by_pandas and not ends_with_lf(content) else ""

    def read(text: str) -> str:
        text = text.removesuffix(end)
        return "" if is_missing(text) and not text.isspace() else text

    try:
        batches = list(read_source(inspect(path, "auto", {}), review_check(1, 5), skip_bad=False))
        found = [text.removesuffix(end) for batch in batches for text in batch.columns[3]]
        assert found == [read(text) for text in texts]
    except BadTable as refused:
        assert refused.fix
    with suppress(BadTable):  # of a file of another format, for its null bytes
        skipped = list(read_source(inspect(path, "auto", {}), review_check(1, 5), skip_bad=True))
        assert sum(len(batch.numbers) + batch.n_skipped for batch in skipped) >= n

    out = path.with_suffix(".scores.csv")
    try:
        source = read_pairs(path)
        with write_scores(source, out) as append:
            for pairs in source.batches():
                append(pairs, np.zeros(pairs.n), ["both"] * pairs.n)
    except BadTable as refused:
        assert refused.fix
    else:
        with out.open(newline="", encoding="utf-8") as file:
            assert [row["text"] for row in csv.DictReader(file)] == texts
