"""`plugin_similarity`: values, sampling of texts, reproducibility and errors."""

import json
from itertools import product

import numpy as np
import pytest

from loid_infer import Encoder, ingest, plugin_similarity
from loid_infer.errors import BadSetting, BadTable
from loid_infer.settings import Workspace
from tests.conftest import toy_texts, write_reviews

N = 6
MAX_TOKENS = 32
DOMAINS = ["toys", "books", "garden"]


def ingest_texts(workspace: Workspace, domain: str, texts: list[str]) -> None:
    workspace.root.mkdir(parents=True, exist_ok=True)
    ingest([write_reviews(workspace.root / f"{domain}.jsonl", texts)], domain, workspace=workspace)


def texts_of(domain: str, n: int = 30) -> list[str]:
    return [f"{domain} {text}" for text in toy_texts(n, seed=len(domain))]


@pytest.fixture
def ws(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path / "ws")
    for domain in DOMAINS:
        ingest_texts(workspace, domain, texts_of(domain))
    return workspace


@pytest.fixture
def compare(ws, toy_base):
    def run(domains=DOMAINS, workspace=ws, **settings):
        settings = {"n_texts": N, "max_tokens": MAX_TOKENS, **settings}
        return plugin_similarity(domains, base=str(toy_base), workspace=workspace, **settings)

    return run


@pytest.fixture
def sampled(monkeypatch) -> list[list[str]]:
    """The texts that are sampled of each domain, in the order of encoding."""
    seen: list[list[str]] = []
    original = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", lambda self, texts: seen.append(list(texts)) or original(self, texts))
    return seen


def reference(folder, texts: list[str], pooling: str) -> list[np.ndarray]:
    """Each text alone through plain transformers."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    vectors = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=MAX_TOKENS, padding=False, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**ids).last_hidden_state[0].double().numpy()
        vectors.append(hidden.mean(0) if pooling == "mean" else hidden[0])
    return vectors


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_values_are_mean_cosines_of_transformers_vectors(compare, sampled, toy_base, pooling) -> None:
    result = compare(pooling=pooling)
    assert result.domains == tuple(DOMAINS)
    assert (result.n_texts, result.pooling, result.base, result.seed) == (N, pooling, toy_base.name, 0)
    vectors = [reference(toy_base, texts, pooling) for texts in sampled]
    for i, j in product(range(3), range(3)):
        others = vectors[j][:N] if i != j else vectors[i][N:]
        cosines = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x in vectors[i][:N] for y in others]
        assert len(cosines) == N * N
        assert abs(result.matrix[i][j] - np.mean(cosines)) < 1e-5


def test_poolings_differ_and_mean_is_the_default(compare) -> None:
    assert compare().matrix == compare(pooling="mean").matrix != compare(pooling="cls").matrix


def test_sampled_texts_are_distinct_and_not_blank(compare, sampled, ws) -> None:
    filled = [f"text {i}" for i in range(2 * N)]
    ingest_texts(ws, "mixed", [*filled, *filled, "", "", "  \n", "\t", " ", "   "])
    compare(["mixed", "toys"])
    assert sorted(sampled[0]) == sorted(filled)
    assert len(set(sampled[1])) == 2 * N
    assert set(sampled[1]) < set(texts_of("toys"))


def test_the_matrix_is_symmetric_and_its_diagonal_compares_two_samples(compare) -> None:
    matrix = np.array(compare().matrix)
    assert (matrix == matrix.T).all()
    assert (np.diagonal(matrix) < 0.999).all()
    (within_toys, between), _ = compare(["toys", "books"], n_texts=1).matrix
    assert within_toys != 1 != between


def test_the_sample_depends_on_the_seed_and_results_are_bitwise_reproducible(compare, sampled) -> None:
    first, again, other = compare(), compare(), compare(seed=1)
    assert first.matrix == again.matrix != other.matrix
    assert sampled[:3] == sampled[3:6]
    assert all(texts != other_texts for texts, other_texts in zip(sampled[:3], sampled[6:], strict=True))


def test_over_many_seeds_every_text_is_sampled(compare, sampled) -> None:
    for seed in range(25):
        compare(["toys", "books"], seed=seed, n_texts=3)
    all_sampled = [text for texts in sampled[::2] for text in texts]
    counts = [all_sampled.count(text) for text in texts_of("toys")]
    # 25 seeds x 6 of 30 texts: each is sampled 5 times on average, with a standard deviation of 2.
    assert min(counts) >= 1
    assert max(counts) <= 13


def test_values_do_not_depend_on_the_order_or_number_of_domains(compare) -> None:
    matrix = np.array(compare().matrix)
    order = [2, 0, 1]
    reordered = np.array(compare([DOMAINS[i] for i in order]).matrix)
    assert (reordered == matrix[np.ix_(order, order)]).all()
    assert (np.array(compare(DOMAINS[:2]).matrix) == matrix[:2, :2]).all()


def test_values_do_not_depend_on_row_order_or_duplicate_texts(compare, tmp_path) -> None:
    other = Workspace(tmp_path / "other")
    for domain in DOMAINS:
        ingest_texts(other, domain, [*reversed(texts_of(domain)), *texts_of(domain)[:7]])
    assert compare(workspace=other).matrix == compare().matrix


def test_texts_shared_by_two_domains_are_sampled_independently(compare, sampled, ws) -> None:
    shared = toy_texts(100)
    ingest_texts(ws, "one", shared + [f"one {i}" for i in range(100)])
    ingest_texts(ws, "two", shared + [f"two {i}" for i in range(100)])
    n_shared = 0
    for seed in range(5):
        sampled.clear()
        compare(["one", "two"], n_texts=20, seed=seed)
        n_shared += len(set(sampled[0][:20]) & set(sampled[1][:20]))
    assert n_shared <= 15  # 5 are expected; sampling by a key of the text alone would give 50


def test_the_heat_map_is_a_reproducible_png(compare, ws) -> None:
    result = compare()
    assert result.path == str(ws.root / "reports" / "similarity.png")
    figure = (ws.reports / "similarity.png").read_bytes()
    assert figure[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(figure[16:20], "big") > 400
    compare()
    assert (ws.reports / "similarity.png").read_bytes() == figure
    compare(seed=1)
    assert (ws.reports / "similarity.png").read_bytes() != figure
    assert sorted(path.name for path in ws.reports.iterdir()) == ["similarity.json", "similarity.png"]


def test_the_matrix_is_saved_as_json_next_to_the_heat_map(compare, ws) -> None:
    result = compare()
    record = json.loads((ws.reports / "similarity.json").read_text())
    assert record == {
        "domains": DOMAINS,
        "matrix": [list(row) for row in result.matrix],
        "pooling": "mean",
        "n_texts": N,
        "base": result.base,
        "max_tokens": MAX_TOKENS,
        "seed": 0,
    }


def test_invalid_options_are_reported(compare, ws) -> None:
    ingest_texts(ws, "copy", list(reversed(texts_of("toys"))))
    ingest_texts(ws, "blank", ["", " "])
    invalid_options = {
        "at least two, got 1": {"domains": ["toys"]},
        r"given twice \(got toys\)": {"domains": ["toys", "books", "toys"]},
        r"the same texts \(got toys, copy\)": {"domains": ["toys", "copy"]},
        "unknown pooling.*'max'": {"pooling": "max"},
        "at least 1, got 0": {"n_texts": 0},
        "at least 32 .* got 30.* --n-texts 15": {"n_texts": 16},
        "blank: too few texts": {"domains": ["blank", "toys"], "n_texts": 1},
        "3 to 64, got 65": {"max_tokens": 65},
        "expected --max-tokens 3 to 64, got 2": {"max_tokens": 2},
    }
    for message, settings in invalid_options.items():
        with pytest.raises(BadSetting, match=message):
            compare(**settings)
    with pytest.raises(BadTable, match="no table for domain 'nothing'"):
        compare(["toys", "nothing"])
    assert not ws.reports.exists()


def test_max_tokens_defaults_to_the_limit_of_the_base(compare) -> None:
    assert compare(max_tokens=None).max_tokens == 64


@pytest.mark.real
def test_real_domains_are_more_similar_within_than_between(shared_data, tmp_path) -> None:
    workspace = Workspace(tmp_path)
    domains = ["musical_instruments", "digital_music"]
    for domain in domains:
        ingest([shared_data / f"{domain}.json.gz"], domain, workspace=workspace)
    result = plugin_similarity(domains, n_texts=50, max_tokens=128, workspace=workspace)
    (within_first, between), (_, within_second) = result.matrix
    assert between < min(within_first, within_second) < max(within_first, within_second) < 0.6
