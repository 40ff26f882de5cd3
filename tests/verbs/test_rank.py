"""Ranking heads from tables to recommendations, with a toy encoder whose vectors depend on the words of a title."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loid_infer import (
    cache_gc,
    cf_fit,
    encode,
    encode_dry_run,
    evaluate_ranking,
    ingest_implicit,
    ingest_items,
    llmrec_fit,
    recommend,
    report,
    score,
)
from loid_infer.errors import BadArtifact, BadSetting, BadTable
from loid_infer.rankers.settings import RankOptions
from loid_infer.settings import Workspace
from loid_infer.types import SILENT

WORDS = ["guitar", "cable", "battery", "plot"]
QUICK = RankOptions(dim=16, layers=1, attention_heads=1, dropout=0.1, epochs=5, learning_rate=1e-2)


def write_domain(ws, domain: str, seed: int, *, titles: bool = True) -> None:
    """Users take items of one of four kinds; the title names the kind."""
    rng = np.random.default_rng(seed)
    lines = [
        json.dumps({"user_id": f"u{user:03}", "item_id": f"{domain}{user % 4}{item}", "timestamp": 100 * at + user})
        for user in range(80)
        for at, item in enumerate(rng.permutation(9)[:6].tolist())
    ]
    source = ws.root / f"{domain}.jsonl"
    source.write_text("\n".join(lines))
    ingest_implicit([source], domain, workspace=ws)
    if titles:
        rows = [
            json.dumps(
                {"item_id": f"{domain}{kind}{item}", "title": f"{' '.join([WORDS[kind]] * 6)} {'abcdefghi'[item]}"}
            )
            for kind in range(4)
            for item in range(9)
        ]
        meta = ws.root / f"{domain}.meta.jsonl"
        meta.write_text("\n".join(rows))
        ingest_items([meta], domain, workspace=ws)


@pytest.fixture(scope="module")
def ranked(exported, tmp_path_factory):
    root = tmp_path_factory.mktemp("ranked") / "ws"
    shutil.copytree(exported, root)
    ws = Workspace(root)
    write_domain(ws, "shop", 0)
    write_domain(ws, "films", 1)
    text = llmrec_fit(["shop"], text_only=True, workspace=ws)
    by_id = cf_fit(["shop"], settings=QUICK, workspace=ws)
    both = llmrec_fit(["shop"], settings=QUICK, workspace=ws)
    return ws, text, by_id, both


def test_titles_rank_without_training(ranked) -> None:
    _, text, by_id, both = ranked
    assert (text.head, by_id.head, both.head) == ("shop-text", "shop-sasrec", "shop-sequence+id")
    assert text.val["recall@10"] > 0.9
    assert (text.epochs, text.n_users, text.n_items, text.n_valid) == (0, 80, 36, 80)
    assert both.epochs > 0


def test_heads_are_compared_on_the_same_targets(ranked) -> None:
    ws, *_ = ranked
    result = evaluate_ranking(["shop"], workspace=ws)
    values = {row.system: row for row in result.summary if row.metric == "recall@10"}
    assert set(values) == {"shop-text", "shop-sasrec", "shop-sequence+id", "popularity", "recent", "cooccurrence"}
    assert values["shop-text"].value > values["popularity"].value + 0.3
    assert all(row.n_users == 80 and row.low <= row.value <= row.high for row in values.values())
    found = {(row.system, row.reference): row for row in result.differences if row.metric == "recall@10"}
    gain = found["shop-text", "popularity"]
    assert gain.difference == pytest.approx(values["shop-text"].value - values["popularity"].value)
    assert gain.low > 0
    for kind in ("training interactions of the item", "length of the history"):
        rows = [row for row in result.groups if row.group.startswith(kind) and row.system == "shop-text"]
        assert sum(row.n_users for row in rows if row.metric == "recall@10") == 80
    assert json.loads(Path(result.path).read_text())["split"] == "leave-one-out"


def test_examples_have_titles_and_are_what_recommend_would_say(ranked, tmp_path) -> None:
    ws, *_ = ranked
    result = evaluate_ranking(["shop"], workspace=ws)
    assert result.examples == evaluate_ranking(["shop"], heads=list(result.heads), workspace=ws).examples
    assert len({example.user for example in result.examples}) == 5
    sequences = {}
    for row in sorted(pq.read_table(ws.table("shop")).to_pylist(), key=lambda row: row["timestamp"]):
        sequences.setdefault(row["user_id"], []).append(row["item_id"])
    titles = {row["item_id"]: row["title"] for row in pq.read_table(ws.items("shop")).to_pylist()}
    for example in result.examples:
        *history, target = sequences[example.user]
        assert (example.domain, example.n_history, example.target) == ("shop", 5, titles[target])
        assert list(example.history) == [titles[item] for item in history]
        assert [one.head for one in example.rankings] == ["shop-sasrec", "shop-sequence+id", "shop-text"]
        for one in example.rankings:
            assert len(set(one.first)) == 5 and not {*one.first} & {*example.history}
            assert (example.target in one.first) == (one.rank <= 5)
    users = tmp_path / "users.csv"
    rows = [f"new{i},{' '.join(sequences[one.user][:-1])}" for i, one in enumerate(result.examples)]
    users.write_text("\n".join(["user_id,history", *rows]))
    recommend(users, domain="shop", head="shop-text", n=5, workspace=ws, out=tmp_path / "r.parquet")
    listed = [row["title"] for row in pq.read_table(tmp_path / "r.parquet").to_pylist()]
    assert listed == [title for example in result.examples for title in example.rankings[2].first]


def test_the_report_shows_rankings(ranked, tmp_path) -> None:
    ws, *_ = ranked
    copy = Workspace(tmp_path / "ws")
    shutil.copytree(ws.root, copy.root)
    evaluated = evaluate_ranking(["shop"], workspace=copy)
    films = cf_fit(["films"], settings=QUICK, workspace=copy)
    result = report(workspace=copy)
    assert (result.domains, result.left_out) == (("films", "shop"), ())
    assert result.n_ranking_heads >= 4  # other tests may have fitted one of both domains
    assert "loid-infer evaluate --domain films" in [missing.command for missing in result.not_measured]
    shown = Path(result.path).read_text()
    for row in evaluated.summary:
        if row.metric in ("recall@10", "ndcg@10", "mrr@20"):
            assert f"{row.value:.4f}" in shown
    for row in evaluated.differences:
        if row.metric == "ndcg@10":
            assert f"{row.difference:+.4f}".replace("-", "−") in shown or abs(row.difference) < 1e-4
    assert all(title in shown for example in evaluated.examples for title in (example.user, example.target))
    assert f"best {films.val['ndcg@10']:.4f} at" in shown
    only = report("shop", workspace=copy)
    assert only.domains == ("shop",)
    assert "films-sasrec" not in Path(only.path).read_text()
    assert not [one.command for one in only.not_measured if one.command == "loid-infer evaluate --domain shop"]


def test_candidates_make_it_easier_and_are_kept(ranked) -> None:
    ws, *_ = ranked
    full = evaluate_ranking(["shop"], heads=["shop-sasrec"], workspace=ws)
    few = evaluate_ranking(["shop"], heads=["shop-sasrec"], candidates="5", workspace=ws)
    again = evaluate_ranking(["shop"], heads=["shop-sasrec"], candidates="5", workspace=ws)
    assert few.summary == again.summary
    assert few.candidates_file.endswith(".safetensors")
    value = {result.candidates: result.summary[0].value for result in (full, few)}
    assert value["5"] > value["full"]
    with pytest.raises(BadSetting, match="neither full nor a number"):
        evaluate_ranking(["shop"], candidates="many", workspace=ws)
    with pytest.raises(BadSetting, match="too few items"):
        evaluate_ranking(["shop"], candidates="100", workspace=ws)


def test_recommendations_are_of_the_users_kind_and_leave_out_what_was_seen(ranked, tmp_path) -> None:
    ws, *_ = ranked
    out = tmp_path / "r.parquet"
    result = recommend(domain="shop", head="shop-text", n=3, out=out, workspace=ws)
    assert (result.n_users, result.n_unknown_users, result.n_rows) == (80, 0, 240)
    rows = pq.read_table(out).to_pylist()
    own = {(row["user_id"], row["item_id"]) for row in pq.read_table(ws.table("shop")).to_pylist()}
    right = [row["item_id"][4] == str(int(row["user_id"][1:]) % 4) for row in rows]
    assert np.mean(right) > 0.95
    assert not {(row["user_id"], row["item_id"]) for row in rows} & own
    assert [row["rank"] for row in rows[:3]] == [1, 2, 3]
    assert rows[0]["title"].split()[0] in WORDS
    seen = recommend(domain="shop", head="shop-text", n=9, include_seen=True, out=out, workspace=ws)
    assert seen.n_rows == 720
    assert {(row["user_id"], row["item_id"]) for row in pq.read_table(out).to_pylist()} & own


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_given_histories_count_and_unknown_users_get_the_popular_items(suffix, ranked, tmp_path) -> None:
    import pyarrow as pa

    ws, *_ = ranked
    users = tmp_path / f"users.{suffix}"
    if suffix == "csv":
        users.write_text("user_id,history\nnew,shop10 shop11\nu000,shop20\nnobody,\n")
    else:
        histories = [["shop10", "shop11"], ["shop20"], []]
        pq.write_table(pa.table({"user_id": ["new", "u000", "nobody"], "history": histories}), users)
    result = recommend(users, domain="shop", head="shop-text", n=4, workspace=ws)
    assert (result.n_users, result.n_unknown_users) == (3, 1)
    out = tmp_path / f"users.recommendations.{suffix}"
    assert result.out == str(out)
    rows = out.read_text().splitlines()[1:] if suffix == "csv" else pq.read_table(out).to_pylist()
    assert len(rows) == 12
    if suffix == "parquet":
        assert {row["item_id"][4] for row in rows[:4]} == {"1"}
        assert {row["item_id"][4] for row in rows[4:8]} == {"2"}
        assert [row["known"] for row in rows] == ["history"] * 8 + ["none"] * 4


def test_interactions_since_the_fit_count(ranked, tmp_path) -> None:
    ws, *_ = ranked
    copy = Workspace(tmp_path / "ws")
    shutil.copytree(ws.root, copy.root)
    lines = (copy.root / "shop.jsonl").read_text().splitlines()
    added = [json.dumps({"user_id": "late", "item_id": f"shop3{item}", "timestamp": item}) for item in range(3)]
    (copy.root / "shop.jsonl").write_text("\n".join([*lines, *added]))
    ingest_implicit([copy.root / "shop.jsonl"], "shop", workspace=copy)
    recommend(domain="shop", head="shop-text", n=2, out=tmp_path / "r.parquet", workspace=copy)
    rows = [row for row in pq.read_table(tmp_path / "r.parquet").to_pylist() if row["user_id"] == "late"]
    assert [row["item_id"][4] for row in rows] == ["3", "3"]
    with pytest.raises(BadSetting, match="the table has changed"):
        evaluate_ranking(["shop"], workspace=copy)


def test_heads_of_two_domains(ranked, tmp_path) -> None:
    ws, *_ = ranked
    fitted = llmrec_fit(["shop", "films"], text_only=True, workspace=ws)
    assert (fitted.head, tuple(fitted.domains), fitted.n_items) == ("films+shop-text", ("films", "shop"), 72)
    result = evaluate_ranking(["films", "shop"], workspace=ws)
    assert {row.domain for row in result.summary} == {"films", "shop", ""}
    assert any(row.group == "domains of the user=2" for row in result.groups)
    for example in result.examples:
        assert {title.split()[0] for one in example.rankings for title in one.first} <= {*WORDS}
        assert example.n_history > len(example.history) == 5
    for domain in (None, "films", "shop"):
        page = Path(report(domain, workspace=ws).path).read_text()
        assert "films+shop-text" in page and "domains of the user" in page
    out = tmp_path / "r.parquet"
    recommend(domain="films", head="films+shop-text", n=2, out=out, workspace=ws)
    assert {row["item_id"][:5] for row in pq.read_table(out).to_pylist()} == {"films"}


def test_vectors_of_titles_survive_gc(ranked) -> None:
    ws, *_ = ranked
    assert cache_gc(workspace=ws).n_rows == 0
    recommend(domain="shop", head="shop-text", n=1, out=ws.root / "r.parquet", workspace=ws)


def test_ids_typed_differently_are_shown(ranked, tmp_path) -> None:
    ws, *_ = ranked
    copy = Workspace(tmp_path / "ws")
    shutil.copytree(ws.root, copy.root)
    rows = [json.dumps({"item_id": f"SHOP{i}", "title": f"guitar {i}"}) for i in range(40)]
    (copy.root / "meta.jsonl").write_text("\n".join(rows))
    ingest_items([copy.root / "meta.jsonl"], "shop", workspace=copy)
    with pytest.raises(BadTable, match="36 of 36 items") as caught:
        llmrec_fit(["shop"], text_only=True, workspace=copy)
    assert "'SHOP" in str(caught.value)
    assert "'shop" in str(caught.value)


def test_what_is_missing_is_said_with_the_command_that_makes_it(exported, tmp_path) -> None:
    shutil.copytree(exported, tmp_path / "ws")
    ws = Workspace(tmp_path / "ws")
    with pytest.raises(BadTable, match="ingest SRC"):
        cf_fit(["shop"], workspace=ws)
    write_domain(ws, "shop", 0, titles=False)
    with pytest.raises(BadTable, match="--items"):
        llmrec_fit(["shop"], text_only=True, workspace=ws)
    with pytest.raises(BadArtifact, match="no ranking head"):
        recommend(domain="shop", workspace=ws)
    with pytest.raises(BadSetting, match="given twice"):
        cf_fit(["shop", "shop"], workspace=ws)
    with pytest.raises(BadSetting, match="unknown model"):
        cf_fit(["shop"], model="bert4rec", workspace=ws)
    cf_fit(["shop"], model="popularity", name="mine", workspace=ws)
    write_domain(ws, "films", 0, titles=False)
    with pytest.raises(BadSetting, match="of other domains"):
        cf_fit(["films"], model="popularity", name="mine", workspace=ws)


def test_a_changed_head_is_refused(ranked, tmp_path) -> None:
    ws, *_ = ranked
    copy = Workspace(tmp_path / "ws")
    shutil.copytree(ws.root, copy.root)
    file = copy.head("shop-sasrec") / "head.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(BadArtifact, match="does not match the digest"):
        recommend(domain="shop", head="shop-sasrec", workspace=copy)


def test_titles_are_encoded_ahead_of_a_fit(ranked, tmp_path) -> None:
    ws, *_ = ranked
    copy = Workspace(tmp_path / "ws")
    shutil.copytree(ws.root, copy.root)
    shutil.rmtree(copy.cache)
    assert encode_dry_run("shop", of="items", workspace=copy).n_new == 36
    first = encode("shop", of="items", workspace=copy)
    assert (first.domain, first.n_rows, first.n_encoded) == ("shop-items", 36, 36)
    assert encode("shop", of="items", workspace=copy).n_encoded == 0
    assert encode("shop", of="items", template="{title}", workspace=copy).n_encoded == 36
    assert llmrec_fit(["shop"], text_only=True, workspace=copy).n_items == 36
    assert encode("shop", of="items", workspace=copy).n_encoded == 0
    with pytest.raises(BadSetting, match="unknown of"):
        encode("shop", of="users", workspace=copy)


def test_pairs_are_scored_by_ranking_heads(ranked, tmp_path) -> None:
    import pyarrow as pa

    ws, *_ = ranked
    users, items = ["u001", "u001", "u002", "new", "u001"], ["shop10", "shop20", "shop20", "shop10", "other"]
    pairs = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"user_id": users, "item_id": items}), pairs)
    result = score(pairs, head="shop-text", workspace=ws)
    assert (result.domains, result.n_rows, result.mse) == (("shop",), 5, None)
    rows = pq.read_table(result.out).to_pylist()
    assert [row["known"] for row in rows] == ["both", "both", "both", "item", "user"]
    scores = [row["score"] for row in rows]
    assert scores[0] > scores[1] >= scores[4]
    assert scores[2] > scores[1]
    recommend(domain="shop", head="shop-text", n=36, include_seen=True, out=tmp_path / "r.parquet", workspace=ws)
    listed = {(r["user_id"], r["item_id"]): r["score"] for r in pq.read_table(tmp_path / "r.parquet").to_pylist()}
    assert scores[:3] == pytest.approx([listed[pair] for pair in list(zip(users, items, strict=True))[:3]], abs=1e-5)


def test_histories_are_read_as_ids_are(ranked, tmp_path) -> None:
    import pyarrow as pa

    ws, *_ = ranked
    users = tmp_path / "users.parquet"
    histories = [[" shop10 ", "shop11\u200b"], None, ["shop20"]]
    pq.write_table(pa.table({"user_id": ["a", "u003", "b"], "history": histories}), users)
    recommend(users, domain="shop", head="shop-text", n=2, workspace=ws)
    rows = pq.read_table(tmp_path / "users.recommendations.parquet").to_pylist()
    assert [(row["known"], row["item_id"][4]) for row in rows[::2]] == [
        ("history", "1"),
        ("user", "3"),
        ("history", "2"),
    ]
    tabs = tmp_path / "users.tsv"
    tabs.write_text("user_id\thistory\na\tshop10 shop11\n")
    recommend(tabs, domain="shop", head="shop-text", n=2, workspace=ws)
    assert '"history"' in (tmp_path / "users.recommendations.csv").read_text()
    pq.write_table(pa.table({"user_id": ["a"], "history": [[None]]}), users)
    with pytest.raises(BadTable, match="row 1, history: the item is missing"):
        recommend(users, domain="shop", head="shop-text", workspace=ws)
    tabs.write_text("user_id\tuser_id\na\tb\n")
    with pytest.raises(BadTable, match="occurs twice"):
        recommend(tabs, domain="shop", head="shop-text", workspace=ws)


def test_matrix_factorization_knows_users_by_id_only(ranked, tmp_path) -> None:
    ws, *_ = ranked
    quick = RankOptions(dim=16, epochs=5, learning_rate=1e-2)
    cf_fit(["shop"], model="mf", settings=quick, workspace=ws)
    users = tmp_path / "users.csv"
    users.write_text("user_id,history\nu001,shop10 shop11\nnew,shop10\n")
    result = recommend(users, domain="shop", head="shop-mf", n=3, workspace=ws)
    assert result.n_unknown_users == 2
    result = recommend(domain="shop", head="shop-mf", n=3, out=tmp_path / "r.csv", workspace=ws)
    assert result.n_unknown_users == 0
    default = cf_fit(["shop"], model="mf", name="other", settings=replace(quick, learning_rate=0.5), workspace=ws)
    assert default.val != cf_fit(["shop"], model="mf", settings=quick, workspace=ws).val


def test_lightgcn_answers_for_new_users_and_scores_as_it_recommends(ranked, tmp_path) -> None:
    ws, *_ = ranked
    cf_fit(["shop"], model="lightgcn", settings=RankOptions(dim=16, epochs=5), workspace=ws)
    users, pairs = tmp_path / "users.csv", tmp_path / "pairs.csv"
    users.write_text("user_id,history\nu001,shop10 shop11\nnew,shop10\n")
    assert recommend(users, domain="shop", head="shop-lightgcn", n=3, workspace=ws).n_unknown_users == 0
    users.write_text("user_id\nu001\n")
    found = recommend(users, domain="shop", head="shop-lightgcn", n=2, out=tmp_path / "r.parquet", workspace=ws)
    first = pq.read_table(found.out).to_pylist()
    pairs.write_text("user_id,item_id\n" + "".join(f"u001,{row['item_id']}\n" for row in first))
    scored = score(pairs, head="shop-lightgcn", out=tmp_path / "s.parquet", workspace=ws)
    again = pq.read_table(scored.out)["score"].to_pylist()
    assert again == pytest.approx([row["score"] for row in first], abs=1e-6)


def test_labels_give_the_auc_over_all_rows_and_over_users(ranked, tmp_path) -> None:
    ws, *_ = ranked
    pairs = tmp_path / "pairs.parquet"
    users = [f"u{user:03d}" for user in range(20) for _ in range(6)]
    items = [f"shop{10 + (3 * i) % 17}" for i in range(len(users))]
    rng = np.random.default_rng(0)
    table = {"user_id": users, "item_id": items, "clicked": rng.random(len(users)) < 0.4}
    pq.write_table(pa.table(table), pairs)
    result = score(pairs, head="shop-sasrec", label="clicked", workspace=ws)
    scores = np.array(pq.read_table(result.out)["score"])

    def area(rows):
        positive, negative = (scores[rows & (table["clicked"] == kind)] for kind in (True, False))
        differences = positive[:, None] - negative
        return np.mean((differences > 0) + 0.5 * (differences == 0)) if differences.size else None

    of_users = [area(np.array(users) == user) for user in dict.fromkeys(users)]
    of_users = [value for value in of_users if value is not None]
    assert result.auc == pytest.approx(area(np.ones(len(users), bool)))
    assert result.uauc == pytest.approx(np.mean(of_users))
    assert (result.n_labeled, result.n_labeled_users) == (len(users), len(of_users))
    without = score(pairs, head="shop-sasrec", workspace=ws)
    assert (without.n_labeled, without.auc, without.uauc) == (0, None, None)


def test_items_that_a_model_cannot_use_say_nothing_about_a_user(exported, tmp_path) -> None:
    shutil.copytree(exported, tmp_path / "ws")
    ws = Workspace(tmp_path / "ws")
    lines = [f"u{user},i{item},{at}" for user in range(20) for at, item in enumerate([user % 7, 7, 8, user % 3 + 20])]
    lines.append("u0,cold,99")
    (ws.root / "a.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    ingest_implicit([ws.root / "a.csv"], "a", workspace=ws)
    cf_fit(["a"], model="cooccurrence", workspace=ws)
    (ws.root / "users.csv").write_text("user_id,history\nx,cold\ny,i7\n")
    result = recommend(ws.root / "users.csv", domain="a", n=40, workspace=ws)
    assert result.n_unknown_users == 1
    rows = Path(result.out).read_text()
    assert '"x","i7",1' in rows
    assert '"x","cold"' not in rows
    (ws.root / "pairs.csv").write_text("user_id,item_id\nx,cold\ny,i7\n")
    scores = Path(score(ws.root / "pairs.csv", head="a-cooccurrence", workspace=ws).out).read_text()
    assert "inf" not in scores


def test_what_is_compared_is_said_and_distinct(ranked) -> None:
    ws, *_ = ranked
    with pytest.raises(BadSetting, match="given twice"):
        evaluate_ranking(["shop"], heads=["shop-text", "shop-text"], workspace=ws)
    with pytest.raises(BadSetting, match="name of a counting model"):
        cf_fit(["shop"], name="recent", settings=QUICK, workspace=ws)
    with pytest.raises(BadSetting, match="neither full nor a number"):
        evaluate_ranking(["shop"], candidates="9" * 5000, workspace=ws)
    cf_fit(["shop"], model="cooccurrence", workspace=ws)  # a single setting
    systems = {row.system for row in evaluate_ranking(["shop"], workspace=ws).summary}
    assert {"cooccurrence", "shop-cooccurrence"} <= systems


@pytest.mark.parametrize(
    ("fit", "options", "unused"),
    [
        (lambda **more: cf_fit(["shop"], model="cooccurrence", **more), {"dim": 64}, "--dim"),
        (lambda **more: cf_fit(["shop"], model="mf", **more), {"dropout": 0.1, "dim": 8}, "--dropout"),
        (lambda **more: llmrec_fit(["shop"], text_only=True, **more), {"epochs": 3}, "--epochs"),
    ],
)
def test_options_that_a_model_does_not_have_are_refused(ranked, fit, options, unused) -> None:
    with pytest.raises(BadSetting, match="options that the model does not have") as error:
        fit(settings=RankOptions(**options), workspace=ranked[0])
    assert error.value.got == unused


def test_a_file_of_users_is_not_replaced_and_unknown_items_are_counted(ranked, tmp_path, monkeypatch) -> None:
    ws, *_ = ranked
    users = tmp_path / "users.csv"
    users.write_text("user_id,history\nnew,shop10 nothing\n")
    with pytest.raises(BadSetting, match="would replace the file of users"):
        recommend(users, domain="shop", head="shop-text", out=users, workspace=ws)
    said: list[str] = []
    monkeypatch.setattr(type(SILENT), "say", lambda self, line: said.append(line))
    recommend(users, domain="shop", head="shop-text", out=tmp_path / "out.csv", workspace=ws)
    assert said == ["the head cannot use 1 of 2 items of the histories; it has items like 'shop00'"]


def test_heads_of_different_splits_are_not_compared_by_recommend(ranked, tmp_path) -> None:
    ws = Workspace(shutil.copytree(ranked[0].root, tmp_path / "ws"))
    llmrec_fit(["shop"], text_only=True, split="time", name="late", workspace=ws)
    with pytest.raises(BadSetting, match="different splits"):
        recommend(domain="shop", out=tmp_path / "out.csv", workspace=ws)
    assert recommend(domain="shop", head="late", out=tmp_path / "out.csv", workspace=ws).head == "late"


def test_pairs_of_a_domain_with_ranking_heads_only_are_told_their_names(ranked, tmp_path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("user_id,item_id\nu001,shop10\n")
    with pytest.raises(BadArtifact, match="but ranking heads of that domain"):
        score(pairs, domain="shop", workspace=ranked[0])


@pytest.mark.parametrize("n", [3, 50])
@pytest.mark.parametrize("head", ["shop-text", "shop-sasrec", "shop-mf", "shop-lightgcn"])
def test_an_index_recommends_what_all_scores_do(ranked, tmp_path, monkeypatch, head, n) -> None:
    """Users for whom the index finds too few items get them from all scores."""
    from loid_infer import neighbors
    from loid_infer.rankers import nearest

    ws, *_ = ranked
    if head in ("shop-mf", "shop-lightgcn"):
        cf_fit(["shop"], model=head.removeprefix("shop-"), settings=RankOptions(dim=16, epochs=2), workspace=ws)
    expected = recommend(domain="shop", head=head, n=n, out=tmp_path / "all.parquet", workspace=ws)
    assert expected.recall is None
    monkeypatch.setattr(nearest, "EXACT_ROWS", 10)
    monkeypatch.setattr(nearest, "MIN_USERS", 10)
    monkeypatch.setattr(neighbors.build, "__defaults__", (10, *neighbors.build.__defaults__[1:]))
    found = recommend(domain="shop", head=head, n=n, out=tmp_path / "index.parquet", workspace=ws)
    assert found.recall is not None
    assert found.n_rows == expected.n_rows
    ours, theirs = (pq.read_table(tmp_path / f"{name}.parquet").to_pylist() for name in ("index", "all"))
    same = [a["item_id"] == b["item_id"] for a, b in zip(ours, theirs, strict=True)]
    assert np.mean(same) > 0.9
