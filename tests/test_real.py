"""End to end on real reviews (Musical Instruments): encoding, training heads and scoring."""

import random

import numpy as np
import pytest

from loid_infer import Encoder, cache_export, cache_verify, encode, export, fit, ingest, score
from loid_infer.kernels.cosine import row_cosines

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
    assert first.padding < 0.03
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
