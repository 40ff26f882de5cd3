"""LLM-Rec from tables to recommendations: joined histories, a plugin trained for ranking, its encoder and its head."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from loid_infer import (
    cache_gc,
    cache_info,
    cf_fit,
    encode,
    evaluate_ranking,
    export,
    fit,
    ingest,
    ingest_implicit,
    ingest_items,
    llmrec_fit,
    llmrec_train,
    plugin_list,
    plugin_merge,
    plugin_show,
    recommend,
    report,
    score,
)
from loid_infer.errors import BadArtifact, BadSetting
from loid_infer.heads.presets import HeadOptions
from loid_infer.plugins.settings import RankTrainSettings
from loid_infer.settings import Workspace
from loid_infer.types import SILENT
from tests.verbs.test_rank import QUICK, write_domain

FAST = RankTrainSettings(rank=4, epochs=4, learning_rate=1e-2, batch=16, precision="fp32", max_tokens=64)


@pytest.fixture(scope="module")
def adapted(exported, toy_base, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapted") / "ws"
    shutil.copytree(exported, root)
    ws = Workspace(root)
    write_domain(ws, "shop", 0)
    trained = llmrec_train(["shop"], settings=FAST, base=str(toy_base), pooling="mean", workspace=ws)
    return ws, trained


def test_training_gives_a_plugin_an_encoder_and_a_head(adapted) -> None:
    ws, trained = adapted
    assert (trained.plugin, trained.encoder, trained.head) == ("shop_llmrec",) * 3
    manifest = plugin_show("shop_llmrec", workspace=ws)
    assert manifest["method"] == "train"
    assert manifest["trained_on"][0]["task"] == "next-item"
    assert manifest["trained_on"][0]["split_digest"] == trained.split_digest
    assert manifest["metrics"]["val_ndcg"] == pytest.approx(trained.val_ndcg)
    assert plugin_list(workspace=ws).plugins[0].domains == ("shop",)
    head = json.loads((ws.head("shop_llmrec") / "manifest.json").read_text())
    assert (head["model"], head["histories"], head["title_tokens"]) == ("text", "joined", 40)
    assert trained.val["ndcg@10"] > 0.3
    assert not [*ws.plugins.glob(".*training*")]


def test_training_for_ranking_ranks_better_than_the_frozen_encoder(adapted, toy_base) -> None:
    ws, _ = adapted
    export("frozen", base=str(toy_base), pooling="mean", max_tokens=64, workspace=ws)
    llmrec_fit(["shop"], text_only=True, history="joined", encoder="frozen", name="frozen", workspace=ws)
    found = evaluate_ranking(["shop"], heads=["shop_llmrec", "frozen"], workspace=ws)
    [difference] = [
        row
        for row in found.differences
        if (row.system, row.reference, row.metric) == ("shop_llmrec", "frozen", "ndcg@10")
    ]
    assert difference.low > 0


def test_a_head_on_joined_histories_recommends_and_scores(adapted, tmp_path) -> None:
    ws, _ = adapted
    recommend(domain="shop", head="shop_llmrec", n=5, out=tmp_path / "top.parquet", workspace=ws)
    rows = pq.read_table(tmp_path / "top.parquet").to_pylist()
    assert {row["known"] for row in rows} == {"user"}
    # Each user takes items of one kind, which the first digit of the item says.
    of_kind = [int(row["item_id"][4]) == int(row["user_id"][1:]) % 4 for row in rows if row["rank"] <= 3]
    assert np.mean(of_kind) > 0.9
    users = tmp_path / "users.csv"
    users.write_text("user_id,history\nnew,shop10 shop11\nold,gone\n")
    recommend(users, domain="shop", head="shop_llmrec", n=3, out=tmp_path / "new.csv", workspace=ws)
    with (tmp_path / "new.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["known"] for row in rows] == ["history"] * 3 + ["none"] * 3
    assert all(row["item_id"].startswith("shop1") for row in rows[:3])
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("user_id,item_id\nu001,shop10\nu001,shop20\n")
    score(pairs, head="shop_llmrec", out=tmp_path / "scored.csv", workspace=ws)
    with (tmp_path / "scored.csv").open() as file:
        own, other = (float(row["score"]) for row in csv.DictReader(file))
    assert own > other


def test_histories_are_a_corpus_and_a_new_interaction_is_one_new_text(adapted, tmp_path) -> None:
    ws = Workspace(shutil.copytree(adapted[0].root, tmp_path / "ws"))
    first = encode("shop", of="histories", encoder="shop_llmrec", workspace=ws)
    assert (first.n_rows, first.n_unique) == (80, 80)
    assert encode("shop", of="histories", encoder="shop_llmrec", workspace=ws).n_encoded == 0
    cache_gc(workspace=ws)
    assert encode("shop", of="histories", encoder="shop_llmrec", workspace=ws).n_encoded == 0
    source = ws.root / "shop.jsonl"
    row = json.dumps({"user_id": "u007", "item_id": "shop08", "timestamp": 10**6})
    source.write_text(source.read_text() + "\n" + row)
    ingest_implicit([source], "shop", workspace=ws)
    assert encode("shop", of="histories", encoder="shop_llmrec", workspace=ws).n_encoded == 1


def test_vectors_of_histories_that_were_removed_are_computed_again(adapted, tmp_path) -> None:
    ws = Workspace(shutil.copytree(adapted[0].root, tmp_path / "ws"))
    before = evaluate_ranking(["shop"], heads=["shop_llmrec"], workspace=ws)
    n_before = cache_info(workspace=ws).n_rows
    cache_gc(workspace=ws)
    assert cache_info(workspace=ws).n_rows < n_before - 50
    after = evaluate_ranking(["shop"], heads=["shop_llmrec"], workspace=ws)
    assert before.summary == after.summary


def test_a_plugin_of_another_split_is_refused(adapted, tmp_path) -> None:
    ws, _ = adapted
    with pytest.raises(BadSetting, match="was trained on another split of 'shop'"):
        llmrec_fit(["shop"], text_only=True, encoder="shop_llmrec", split="time", name="late", workspace=ws)
    assert llmrec_fit(["shop"], settings=QUICK, encoder="shop_llmrec", name="over", workspace=ws).head == "over"


def test_an_encoder_trained_for_ranking_is_used_for_ratings(adapted, tmp_path) -> None:
    """It saw titles and no review, so no split of reviews is another one."""
    ws = Workspace(shutil.copytree(adapted[0].root, tmp_path / "ws"))
    rng = np.random.default_rng(0)
    lines = [
        json.dumps(
            {"user_id": f"u{i % 20}", "item_id": f"r{i}", "rating": int(rng.integers(1, 6)), "text": f"case {i}"}
        )
        for i in range(200)
    ]
    (tmp_path / "reviews.jsonl").write_text("\n".join(lines))
    ingest([tmp_path / "reviews.jsonl"], "shop", workspace=ws)
    encode("shop", encoder="shop_llmrec", workspace=ws)
    fitted = fit("shop", encoder="shop_llmrec", settings=HeadOptions(epochs=1), workspace=ws)
    assert fitted.encoder == "shop_llmrec"


def test_after_new_interactions_the_advice_is_to_train_again(adapted, tmp_path) -> None:
    ws = Workspace(shutil.copytree(adapted[0].root, tmp_path / "ws"))
    source = ws.root / "shop.jsonl"
    row = json.dumps({"user_id": "u007", "item_id": "shop08", "timestamp": 10**6})
    source.write_text(source.read_text() + "\n" + row)
    ingest_implicit([source], "shop", workspace=ws)
    with pytest.raises(BadSetting, match="the table has changed") as error:
        evaluate_ranking(["shop"], heads=["shop_llmrec"], workspace=ws)
    assert "llmrec train --domain shop --name shop_llmrec" in error.value.fix
    with pytest.raises(BadSetting, match="are others than when"):
        llmrec_fit(["shop"], text_only=True, encoder="shop_llmrec", name="new", workspace=ws)
    recommend(domain="shop", head="shop_llmrec", out=tmp_path / "top.csv", workspace=ws)  # with the new history


def test_names_are_checked_before_anything_is_trained(adapted, toy_base, tmp_path) -> None:
    ws = Workspace(shutil.copytree(adapted[0].root, tmp_path / "ws"))
    ws.head("taken").mkdir()
    (ws.head("taken") / "manifest.json").write_text('{"kind": "loid"}')
    for name, options, problem in (
        ("popularity", {}, "counting model"),
        ("taken", {}, "another kind of head"),
        ("shop_llmrec", {"on": ["shop_llmrec"]}, "cannot replace"),
    ):
        with pytest.raises(BadSetting, match=problem):
            llmrec_train(["shop"], base=str(toy_base), name=name, workspace=ws, **options)
    assert [path.name for path in ws.plugins.iterdir()] == ["shop_llmrec"]


def test_an_export_with_another_pooling_than_that_of_the_training_says_so(
    adapted, toy_base, tmp_path, monkeypatch
) -> None:
    ws = Workspace(shutil.copytree(adapted[0].root, tmp_path / "ws"))
    said: list[str] = []
    monkeypatch.setattr(type(SILENT), "say", lambda self, line: said.append(line))
    export("other", base=str(toy_base), pooling="cls", plugins=["shop_llmrec"], workspace=ws)
    assert any("--pooling mean exports it as it was trained" in line for line in said)
    said.clear()
    export("same", base=str(toy_base), pooling="mean", plugins=["shop_llmrec"], workspace=ws)
    assert not any("exports it as it was trained" in line for line in said)


def test_a_run_on_other_titles_does_not_continue(adapted, toy_base, tmp_path) -> None:
    ws = Workspace(shutil.copytree(adapted[0].root, tmp_path / "ws"))
    rows = pq.read_table(ws.items("shop")).to_pylist()
    lines = [json.dumps({"item_id": row["item_id"], "title": f"case {row['title']}"}) for row in rows]
    (tmp_path / "meta.jsonl").write_text("\n".join(lines))
    before = plugin_show("shop_llmrec", workspace=ws)["settings"]["texts_digest"]
    ingest_items([tmp_path / "meta.jsonl"], "shop", workspace=ws)
    quick = replace(FAST, epochs=1)
    llmrec_train(["shop"], settings=quick, base=str(toy_base), pooling="mean", name="other", workspace=ws)
    assert plugin_show("other", workspace=ws)["settings"]["texts_digest"] != before


def test_an_encoder_that_was_exported_again_is_noticed(adapted, toy_base, tmp_path) -> None:
    ws = Workspace(shutil.copytree(adapted[0].root, tmp_path / "ws"))
    export("shop_llmrec", base=str(toy_base), pooling="mean", workspace=ws)
    with pytest.raises(BadArtifact, match="exported again"):
        evaluate_ranking(["shop"], heads=["shop_llmrec"], workspace=ws)


def test_domains_are_trained_together_and_plugins_of_domains_are_merged(adapted, toy_base, tmp_path) -> None:
    ws = Workspace(shutil.copytree(adapted[0].root, tmp_path / "ws"))
    write_domain(ws, "films", 1)
    quick = replace(FAST, epochs=1)
    both = llmrec_train(["shop", "films"], settings=quick, base=str(toy_base), pooling="mean", workspace=ws)
    assert both.plugin == "films_shop_llmrec"
    assert [run["domain"] for run in plugin_show(both.plugin, workspace=ws)["trained_on"]] == ["films", "shop"]
    films = llmrec_train(["films"], settings=quick, base=str(toy_base), pooling="mean", workspace=ws)
    plugin_merge([films.plugin, "shop_llmrec"], "merged", method="ties", workspace=ws)
    export("merged", base=str(toy_base), pooling="mean", plugins=["merged"], max_tokens=64, workspace=ws)
    llmrec_fit(["films"], text_only=True, history="joined", encoder="merged", name="films_merged", workspace=ws)
    with pytest.raises(BadSetting, match="are others than when"):  # of films alone, not of films among both
        llmrec_fit(["films"], text_only=True, encoder=both.encoder, name="leak", workspace=ws)


def test_a_run_that_was_stopped_continues(adapted, toy_base, tmp_path, monkeypatch) -> None:
    from loid_infer.learning.checkpoint import Checkpoint

    ws = Workspace(shutil.copytree(adapted[0].root, tmp_path / "ws"))
    save = Checkpoint.save

    def stop(self, tensors, state) -> None:
        save(self, tensors, state)
        if state["step"] >= 10:
            raise KeyboardInterrupt

    arguments = {"settings": FAST, "base": str(toy_base), "pooling": "mean", "name": "again", "workspace": ws}
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            llmrec_train(["shop"], checkpoint_s=0.0, **arguments)
    progress, said = type(SILENT)(), []
    monkeypatch.setattr(type(SILENT), "say", lambda self, line: said.append(line))
    resumed = llmrec_train(["shop"], progress=progress, **arguments)
    assert any("resuming from step" in line for line in said)
    digest = plugin_show("shop_llmrec", workspace=ws)["digest"]
    assert plugin_show(resumed.plugin, workspace=ws)["digest"] == digest


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"text_only": False, "history": "joined"}, "reads items one by one"),
        ({"text_only": True, "history": "sum"}, "history"),
        ({"text_only": True, "history": "joined", "title_tokens": 0}, "title-tokens"),
        ({"text_only": True, "title_tokens": 9}, "only joined texts are cut"),
    ],
)
def test_bad_options_are_refused(adapted, options, problem) -> None:
    with pytest.raises(BadSetting, match=problem):
        llmrec_fit(["shop"], workspace=adapted[0], **options)


def test_items_without_any_text_are_refused_before_anything_is_loaded(adapted, toy_base, tmp_path) -> None:
    ws = Workspace(shutil.copytree(adapted[0].root, tmp_path / "ws"))
    with pytest.raises(BadSetting, match="no item has a text"):
        llmrec_train(["shop"], base=str(toy_base), template="{brand}", workspace=ws)


def test_titles_of_another_item_lead_elsewhere(adapted, tmp_path) -> None:
    """A canary: with titles shuffled over items, texts say nothing about who takes what."""
    ws = Workspace(shutil.copytree(adapted[0].root, tmp_path / "ws"))
    rows = pq.read_table(ws.items("shop")).to_pylist()
    titles = np.random.default_rng(0).permutation([row["title"] for row in rows]).tolist()
    meta = ws.root / "shuffled.jsonl"
    lines = [json.dumps({"item_id": row["item_id"], "title": title}) for row, title in zip(rows, titles, strict=True)]
    meta.write_text("\n".join(lines))
    ingest_items([meta], "shop", workspace=ws)
    llmrec_fit(["shop"], text_only=True, history="joined", encoder="shop_llmrec", name="shuffled", workspace=ws)
    cf_fit(["shop"], model="popularity", workspace=ws)
    found = evaluate_ranking(["shop"], heads=["shuffled"], workspace=ws)
    [value] = [row.value for row in found.summary if (row.system, row.metric) == ("shuffled", "recall@1")]
    honest = evaluate_ranking(["shop"], heads=["shop_llmrec"], workspace=adapted[0])
    [real] = [row.value for row in honest.summary if (row.system, row.metric) == ("shop_llmrec", "recall@1")]
    assert value < 0.15 < real


def test_the_report_shows_a_plugin_trained_for_ranking(adapted) -> None:
    ws, trained = adapted
    evaluate_ranking(["shop"], workspace=ws)
    page = (Path(report(workspace=ws).path)).read_text()
    assert "shop_llmrec" in page
    assert f"{trained.val_ndcg:.4f}" in page


def test_odd_items_and_sequences_are_trained_on_and_ranked(exported, toy_base, tmp_path) -> None:
    """A title of a million characters, items without one, users with one interaction, fewer items than negatives."""
    ws = Workspace(shutil.copytree(exported, tmp_path / "ws"))
    rng = np.random.default_rng(0)
    rows = [
        {"user_id": f"u{user}", "item_id": f"i{item}", "timestamp": at}
        for user in range(30)
        for at, item in enumerate(rng.permutation(8)[: 1 + user % 6].tolist())
    ]
    (tmp_path / "clicks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    titles = ["guitar " * 150_000, "", None, "cable", "plot", "battery", "string", "case"]
    items = [{"item_id": f"i{i}", "title": title} for i, title in enumerate(titles)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    ingest_implicit([tmp_path / "clicks.jsonl"], "odd", workspace=ws)
    ingest_items([tmp_path / "items.jsonl"], "odd", workspace=ws)
    many = replace(FAST, epochs=1, negatives=50)
    trained = llmrec_train(["odd"], settings=many, base=str(toy_base), workspace=ws)
    done = recommend(domain="odd", head=trained.head, n=20, out=tmp_path / "top.parquet", workspace=ws)
    assert (done.n_users, done.recall) == (30, None)
    rows = pq.read_table(tmp_path / "top.parquet").to_pylist()
    assert not {"i1", "i2"} & {row["item_id"] for row in rows if row["known"] == "user"}
