"""End to end on real reviews (Musical Instruments): encoding, training heads and scoring."""

import random

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from loid_infer import (
    Encoder,
    cache_export,
    cache_verify,
    cf_fit_clicks,
    encode,
    evaluate_clicks,
    evaluate_ranking,
    export,
    fit,
    ingest,
    ingest_clicks,
    ingest_implicit,
    ingest_items,
    llmrec_fit,
    score,
)
from loid_infer.encoders.processor import has_amx
from loid_infer.kernels.cosine import row_cosines
from loid_infer.rankers.settings import RankOptions

pytestmark = pytest.mark.real
DOMAIN = "musical_instruments"


@pytest.fixture(scope="module")
def encoded(bundled, shared_data):
    """A workspace in which all real reviews are encoded, and the result of that run."""
    workspace, _ = bundled
    ingest([shared_data / f"{DOMAIN}.json.gz"], DOMAIN, workspace=workspace)
    return workspace, encode(DOMAIN, workspace=workspace)


def test_every_review_has_its_vector_and_a_second_run_computes_none(encoded) -> None:
    workspace, first = encoded
    assert (first.n_rows, first.n_unique, first.n_encoded) == (10_261, 10_255, 10_255)
    assert 0 < first.n_truncated < 1_100
    assert first.padding < (0.06 if has_amx() and first.precision == "bf16" else 0.03)  # widths are multiples of 16
    again = encode(DOMAIN, workspace=workspace)
    assert (again.n_encoded, again.n_hits) == (0, 10_255)
    assert again.seconds < 5
    assert cache_verify(workspace=workspace).n_bad == 0


def test_vectors_equal_plain_transformers(encoded, tmp_path) -> None:
    import pyarrow.parquet as pq
    import torch
    import transformers

    from loid_infer.graphs.bases import find_base

    workspace, _ = encoded
    cache_export(DOMAIN, tmp_path / "vectors.parquet", workspace=workspace)
    vectors = pq.read_table(tmp_path / "vectors.parquet")["vector"]
    texts = pq.read_table(workspace.table(DOMAIN), columns=["text"])["text"]
    picked = random.Random(0).sample(range(len(texts)), 150)
    folder = find_base("default")[1]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        expected = [
            model(**tokenizer(texts[i].as_py(), truncation=True, max_length=256, return_tensors="pt"))[0][0, 0].numpy()
            for i in picked
        ]
    stored = np.array([vectors[i].as_py() for i in picked], np.float32)
    assert row_cosines(stored, np.stack(expected)).min() >= 0.9999


def test_a_sentence_transformers_folder_gives_sentence_transformers_vectors(encoded) -> None:
    import pyarrow.parquet as pq
    import sentence_transformers

    from loid_infer.graphs.bases import find_base

    workspace, _ = encoded
    texts = random.Random(1).sample(pq.read_table(workspace.table(DOMAIN))["text"].to_pylist(), 500)
    folder = str(find_base("default")[1])
    result = export("minilm-mean", base=folder, precision="fp32", workspace=workspace)
    assert (result.pooling, result.normalize) == ("mean", True)
    with Encoder.open("minilm-mean", workspace=workspace) as encoder:
        vectors = encoder.encode(texts)
    expected = sentence_transformers.SentenceTransformer(folder, device="cpu").encode(texts)
    assert row_cosines(vectors, expected).min() >= 0.99999


def test_the_head_has_a_lower_error_than_its_biases_over_three_splits(encoded) -> None:
    workspace, _ = encoded
    fits = [fit(DOMAIN, seed=seed, workspace=workspace) for seed in range(3)]
    assert np.mean([fit.test_mse - fit.baselines.bias for fit in fits]) < 0
    assert np.mean([fit.baselines.bias - fit.baselines.global_mean for fit in fits]) < -0.03


def test_pairs_with_known_and_unknown_ids_are_scored(encoded, tmp_path) -> None:
    workspace, _ = encoded
    fit(DOMAIN, workspace=workspace)
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("user_id,item_id,rating\nA2IBPI20UZIR0U,B00004Y2UT,5\nsomebody-new,B00004Y2UT,4\nx,y,3\n")
    result = score(pairs, workspace=workspace)
    assert (result.n_rows, result.n_unknown_users, result.n_unknown_items) == (3, 2, 1)
    assert 0 < result.mse < 4


def test_real_titles_say_what_comes_next_and_shuffled_ones_do_not(bundled, shared_data, tmp_path) -> None:
    """A canary: titles in another order over the items rank the next one no better than chance."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    workspace, _ = bundled
    table = pq.read_table(shared_data / "sequences" / "scientific_2018.parquet")
    counts = pc.value_counts(table["item_id"]).to_pylist()
    often = sorted(counts, key=lambda row: (-row["counts"], row["values"]))[:600]
    table = table.filter(pc.is_in(table["item_id"], pa.array([row["values"] for row in often])))
    titles = dict(zip(table["item_id"].to_pylist(), table["title"].to_pylist(), strict=True))
    order = np.random.default_rng(0).permutation(len(titles))
    moved = dict(zip(titles, [[*titles.values()][i] for i in order], strict=True))
    found = {}
    for domain, of_items in (("real_titles", titles), ("moved_titles", moved)):
        path = tmp_path / f"{domain}.parquet"
        column = pa.array([of_items[item] for item in table["item_id"].to_pylist()])
        pq.write_table(table.set_column(table.column_names.index("title"), "title", column), path)
        ingest_implicit([path], domain, workspace=workspace)
        ingest_items([path], domain, workspace=workspace)
        llmrec_fit([domain], text_only=True, workspace=workspace)
        result = evaluate_ranking([domain], workspace=workspace)
        rows = [row for row in result.summary if row.system == f"{domain}-text"]
        [found[domain]] = [row.value for row in rows if row.metric == "recall@10"]
    chance = 10 / len(titles)
    assert found["real_titles"] > 5 * chance
    assert found["moved_titles"] < 2 * chance


def test_labels_of_films_are_predicted_and_the_mean_of_an_item_comes_close(shared_data, tmp_path) -> None:
    source = pq.read_table(shared_data / "sequences" / "movielens_1m_collm.parquet")
    pq.write_table(source.filter(pc.not_equal(source["split"], "valid_small")), tmp_path / "pairs.parquet")
    found = ingest_clicks([tmp_path / "pairs.parquet"], "films", workspace=tmp_path)
    assert (found.n_rows, found.n_valid, found.n_test, found.n_positive) == (51_623, 10_401, 7_331, 27_684)
    cf_fit_clicks("films", settings=RankOptions(dim=64), workspace=tmp_path)
    result = evaluate_clicks("films", workspace=tmp_path)
    assert (result.n_pairs, result.n_users, result.n_both) == (7_331, 320, 224)
    values = {(row.system, row.metric): row.value for row in result.summary}
    assert values["item mean", "auc"] == pytest.approx(0.7094, abs=5e-4)
    assert values["item mean", "uauc"] == pytest.approx(0.6816, abs=5e-4)
    assert values["films-mf-clicks", "auc"] > 0.72
    (gain,) = (row for row in result.minus("films-mf-clicks") if row.reference == "item mean")
    assert gain.low < 0 < gain.value < gain.high
