"""`score`: files of pairs, choice of the head, unknown ids and missing vectors."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from loid_infer.data.splits import split
from loid_infer.errors import BadArtifact, BadSetting, BadTable, NotEncoded
from loid_infer.heads.presets import HeadOptions
from loid_infer.settings import Workspace
from loid_infer.verbs import fit as fit_verb
from loid_infer.verbs.score import score
from tests.verbs.toy_domain import ENCODER, interactions, make_domain


@pytest.fixture(scope="module")
def fitted_heads(tmp_path_factory):
    """Two domains with heads, and the result of fitting the first."""
    workspace = Workspace(tmp_path_factory.mktemp("ws"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_verb, "resolve_without_leak", lambda workspace, encoder, domain, split: ENCODER)
        for seed, domain in enumerate(("toys", "books")):
            make_domain(workspace, domain, seed)
        results = [
            fit_verb.fit(domain, workspace=workspace, settings=HeadOptions(epochs=2)) for domain in ("toys", "books")
        ]
        fit_verb.fit("toys", workspace=workspace, settings=HeadOptions(epochs=1, protocol="paper"))
    return workspace, results[0]


def pairs_file(path, columns):
    pq.write_table(pa.table(columns), path)
    return path


def pairs_of_rows(workspace, domain, rows):
    data = interactions(workspace, domain)
    return {
        "user_id": [data.user_ids[code] for code in data.users[rows]],
        "item_id": [data.item_ids[code] for code in data.items[rows]],
        "rating": data.ratings[rows],
    }


def read_columns(path) -> dict:
    return pq.read_table(path).to_pydict()


def test_errors_on_the_test_part_equal_those_reported_by_fit(fitted_heads, tmp_path):
    workspace, fitted = fitted_heads
    rows = split(interactions(workspace, "toys"), "random", 0).test
    path = pairs_file(tmp_path / "p.parquet", pairs_of_rows(workspace, "toys", rows))
    result = score(path, domain="toys", workspace=workspace)
    assert result.mse == pytest.approx(fitted.test_mse, abs=1e-6)
    assert result.mae == pytest.approx(fitted.test_mae, abs=1e-6)
    assert result.n_rows == result.n_rated == rows.sum() and result.out == str(tmp_path / "p.scores.parquet")
    table = pq.read_table(result.out)
    assert table.schema.names == ["user_id", "item_id", "rating", "score", "known"]
    assert table.schema.field("score").type == pa.float32()
    assert set(table["known"].to_pylist()) == {"both"} and result.warning is None


def test_a_score_does_not_depend_on_other_pairs(fitted_heads, tmp_path):
    workspace, _ = fitted_heads
    columns = pairs_of_rows(workspace, "toys", np.arange(500))
    whole = read_columns(score(pairs_file(tmp_path / "a.parquet", columns), domain="toys", workspace=workspace).out)
    order = np.random.default_rng(0).permutation(500)[:60]
    part = {name: [values[row] for row in order] for name, values in columns.items()}
    some = read_columns(score(pairs_file(tmp_path / "b.parquet", part), domain="toys", workspace=workspace).out)
    assert some["user_id"] == part["user_id"] and some["item_id"] == part["item_id"]
    np.testing.assert_allclose(some["score"], np.array(whole["score"])[order], atol=1e-5)


def test_pairs_with_unknown_ids_are_scored_in_input_order(fitted_heads, tmp_path):
    workspace, _ = fitted_heads
    columns = {
        "user_id": ["u00001", "nobody", "u00001", "nobody"],
        "item_id": ["toys-i00001", "toys-i00001", "nothing", "nothing"],
        "note": [1, 2, 3, 4],
    }
    result = score(pairs_file(tmp_path / "p.parquet", columns), domain="toys", workspace=workspace)
    columns_out = read_columns(result.out)
    assert columns_out["known"] == ["both", "item", "user", "none"] and columns_out["note"] == [1, 2, 3, 4]
    assert (result.n_unknown_users, result.n_unknown_items) == (2, 2) and result.mse is None
    assert all(1 <= value <= 5 for value in columns_out["score"])


def test_the_domain_column_selects_the_head_of_each_row(fitted_heads, tmp_path):
    workspace, _ = fitted_heads
    columns = {"user_id": ["u00001"] * 3, "item_id": ["toys-i00001", "books-i00001", "toys-i00001"]}
    columns["domain"] = ["toys", "books", "toys"]
    result = score(pairs_file(tmp_path / "p.parquet", columns), workspace=workspace)
    columns_out = read_columns(result.out)
    assert result.domains == ("books", "toys") and columns_out["known"] == ["both"] * 3
    assert columns_out["score"][0] == columns_out["score"][2] != columns_out["score"][1]
    alone = {name: values[1:2] for name, values in columns.items() if name != "domain"}
    books = score(pairs_file(tmp_path / "q.parquet", alone), domain="books", workspace=workspace)
    assert read_columns(books.out)["score"][0] == pytest.approx(columns_out["score"][1], abs=1e-5)
    labeled = pairs_file(tmp_path / "l.parquet", columns | {"clicked": [1, 0, 1]})
    with pytest.raises(BadSetting, match="several heads have no common AUC"):
        score(labeled, label="clicked", workspace=workspace)


def test_csv_pairs_are_written_as_csv(fitted_heads, tmp_path):
    workspace, _ = fitted_heads
    path = tmp_path / "p.csv"
    path.write_text("user_id,item_id,rating,n\nu00001,toys-i00001,4,007\nnobody,toys-i00001,,008\n")
    result = score(path, domain="toys", workspace=workspace)
    lines = (tmp_path / "p.scores.csv").read_text().replace('"', "").splitlines()
    assert result.out.endswith("p.scores.csv") and lines[0] == "user_id,item_id,rating,n,score,known"
    assert lines[1].startswith("u00001,toys-i00001,4,007,") and lines[2].endswith(",item") and result.n_rated == 1


def test_an_ambiguous_head_is_refused_with_the_list_of_heads(fitted_heads, tmp_path):
    workspace, _ = fitted_heads
    path = pairs_file(tmp_path / "p.parquet", {"user_id": ["a"], "item_id": ["b"]})
    with pytest.raises(BadSetting, match="books, toys, toys-paper"):
        score(path, workspace=workspace)
    with pytest.raises(BadArtifact, match="loid-infer fit"):
        score(path, workspace=Workspace(tmp_path))
    with pytest.raises(BadSetting, match="belongs to another domain"):
        score(path, domain="books", head="toys", workspace=workspace)
    with pytest.raises(BadArtifact, match="loid-infer fit --domain games"):
        score(path, domain="games", workspace=workspace)
    assert not (tmp_path / "p.scores.parquet").exists()


def test_the_only_head_is_the_default(fitted_heads, tmp_path):
    workspace, _ = fitted_heads
    alone = Workspace(tmp_path / "ws")
    (alone.root / "exports" / "heads").mkdir(parents=True)
    (alone.head("toys")).symlink_to(workspace.head("toys"))
    alone.cache.symlink_to(workspace.cache)
    path = pairs_file(tmp_path / "p.parquet", {"user_id": ["u00001"], "item_id": ["toys-i00001"]})
    result = score(path, workspace=alone, out=tmp_path / "o.csv")
    assert result.domains == ("toys",) and (tmp_path / "o.csv").is_file()


def test_scores_of_a_paper_protocol_head_carry_a_warning(fitted_heads, tmp_path):
    workspace, _ = fitted_heads
    path = pairs_file(tmp_path / "p.parquet", {"user_id": ["u00001"], "item_id": ["toys-i00001"]})
    result = score(path, head="toys-paper", workspace=workspace)
    assert result.warning and "toys-paper" in result.warning and "protocol" in result.warning


def test_missing_vectors_are_reported_with_the_encode_command(fitted_heads, tmp_path):
    workspace, _ = fitted_heads
    workspace_without_vectors = Workspace(tmp_path / "ws")
    workspace_without_vectors.root.mkdir()
    (workspace_without_vectors.root / "exports").symlink_to(workspace.root / "exports")
    path = pairs_file(tmp_path / "p.parquet", {"user_id": ["u00001"], "item_id": ["toys-i00001"]})
    with pytest.raises(NotEncoded, match="loid-infer encode --domain toys --encoder made-up"):
        score(path, domain="toys", workspace=workspace_without_vectors)


def test_an_empty_file_of_pairs_is_scored(fitted_heads, tmp_path):
    workspace, _ = fitted_heads
    empty = {"user_id": pa.array([], pa.string()), "item_id": pa.array([], pa.string())}
    result = score(pairs_file(tmp_path / "p.parquet", empty), domain="toys", workspace=workspace)
    assert result.n_rows == 0 and pq.read_table(result.out).num_rows == 0


def test_ratings_outside_the_range_of_the_training_data_are_refused(fitted_heads, tmp_path):
    workspace, _ = fitted_heads
    columns = {"user_id": ["u"] * 3, "item_id": ["i"] * 3, "rating": [5.0, None, 50.0]}
    with pytest.raises(BadTable, match=r"p.parquet, row 3: .*expected a number from 1 to 5.*got 50"):
        score(pairs_file(tmp_path / "p.parquet", columns), domain="toys", workspace=workspace)
    assert not (tmp_path / "p.scores.parquet").exists()


def test_ids_that_differ_from_known_ones_in_form_only_are_reported(fitted_heads, tmp_path):
    workspace, _ = fitted_heads
    pairs = pairs_of_rows(workspace, "toys", np.arange(5))
    changed = {**pairs, "user_id": [f"{name}.0" if name[-1:].isdigit() else name for name in pairs["user_id"]]}
    changed["item_id"] = [name.upper() for name in pairs["item_id"]]
    result = score(pairs_file(tmp_path / "p.parquet", changed), domain="toys", workspace=workspace)
    for kind in ("user_id", "item_id"):
        if changed[kind] != pairs[kind]:
            assert f"unknown {kind[:4]}s differ from known ones in form only" in result.warning
            assert repr(pairs[kind][0]) in result.warning or repr(min(changed[kind])) in result.warning
    none = {"user_id": ["nobody"], "item_id": pairs["item_id"][:1]}
    result = score(pairs_file(tmp_path / "p.parquet", none), domain="toys", workspace=workspace)
    assert "no user of the pairs is in the training data: 'nobody' in the pairs, " in result.warning
    known = {"user_id": [*pairs["user_id"][:1], "nobody"], "item_id": pairs["item_id"][:1] * 2}
    assert score(pairs_file(tmp_path / "p.parquet", known), domain="toys", workspace=workspace).warning is None
