"""Heads on labeled pairs, from fitting to scores: collaborative models, a decoder on titles, and CoRA."""

import csv
import json
import shutil
from dataclasses import replace
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from loid_infer import (
    cache_gc,
    cache_info,
    cf_fit,
    cf_fit_clicks,
    cora_fit,
    cora_train,
    evaluate_clicks,
    ingest_implicit,
    plugin_list,
    plugin_show,
    recommend,
    report,
    score,
)
from loid_infer.cli.evaluation import tables
from loid_infer.clicks.settings import AnswerSettings, CoraSettings
from loid_infer.clicks.training import auc
from loid_infer.errors import BadArtifact, BadSetting, BadTable
from loid_infer.rankers.settings import RankOptions
from loid_infer.settings import Workspace
from loid_infer.types import SILENT
from loid_infer.verbs.pairheads import OpenClicks, open_click_head, scorer
from loid_infer.verbs.pairranking import SHORTLIST
from loid_infer.verbs.sequences import titles_of
from tests.clicks.test_cora import TEMPLATE, make_decoder
from tests.clicks.worlds import both_needed, clusters, two_parts, whole_and_resumed, write_pairs

QUICK = RankOptions(dim=8, epochs=30, patience=30, learning_rate=2e-2, weight_decay=5.0, averaging=0.9)
FAST = CoraSettings(
    rank=4,
    epochs=8,
    learning_rate=1e-2,
    dim=16,
    queries=4,
    blocks=1,
    precision="fp32",
    max_tokens=48,
    batch_tokens=1024,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(make_decoder(tmp_path_factory.mktemp("decoder") / "base", tie_word_embeddings=True))


@pytest.fixture(scope="module")
def fitted(base, tmp_path_factory):
    """A workspace where neither interactions nor titles alone say who likes what, with three heads."""
    ws = Workspace(tmp_path_factory.mktemp("fitted"))
    rows, titles = both_needed()
    write_pairs(ws, "d", rows, titles)
    cf_fit_clicks("d", settings=QUICK, workspace=ws)
    cora_fit("d", text_only=True, base=base, prompt=TEMPLATE, settings=FAST, workspace=ws)
    found = cora_fit("d", base=base, prompt=TEMPLATE, settings=FAST, workspace=ws)
    return ws, found


def scored(ws, rows, tmp_path, **options):
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("user_id", "item_id", "label"), *rows])
    result = score(tmp_path / "pairs.csv", workspace=ws, **options)
    with Path(result.out).open(newline="") as file:
        return result, [*csv.DictReader(file)]


def recommended(ws, users, head: str, n: int, columns: str = "user_id", **options) -> dict[str, list[dict[str, str]]]:
    """The rows of each user, who are given as lines of a file."""
    (ws.root / "users.csv").write_text("\n".join([columns, *users, ""]))
    result = recommend(ws.root / "users.csv", domain="d", head=head, n=n, workspace=ws, **options)
    with Path(result.out).open(newline="") as file:
        rows = [*csv.DictReader(file)]
    names = [line.partition(",")[0] for line in users]
    return {name: [row for row in rows if row["user_id"] == name] for name in names}


def titles_in(ws) -> dict[str, str]:
    table = pq.read_table(ws.items("d")).to_pylist()
    return {row["item_id"]: row["title"] for row in table}


def check_order(ws, head: str, tmp_path) -> None:
    """Recommendations by a decoder are the first items of d-mf-clicks in the order of its scores."""
    names, seen = ["u000", "u001", "nobody"], {"include_seen": True}
    first, found = recommended(ws, names, "d-mf-clicks", SHORTLIST, **seen), recommended(ws, names, head, 3, **seen)
    assert [found[name][0]["known"] for name in names] == ["user", "user", "none"]
    for name in names:
        _, rows = scored(ws, [(name, row["item_id"], 1) for row in first[name]], tmp_path, head=head)
        assert len(rows) == SHORTLIST
        best = sorted((float(row["score"]) for row in rows), reverse=True)
        score_of = {row["item_id"]: float(row["score"]) for row in rows}
        assert [score_of[row["item_id"]] for row in found[name]] == pytest.approx(best[:3], rel=1e-4)
        assert [float(row["score"]) for row in found[name]] == pytest.approx(best[:3], rel=1e-4)
    assert len(recommended(ws, names, head, SHORTLIST + 2)["u000"]) == SHORTLIST + 2


def test_cora_knows_what_neither_interactions_nor_titles_know(fitted) -> None:
    ws, found = fitted
    assert (found.head, found.model, found.n_test) == ("d-cora-mf", "cora", 120)
    assert found.val["auc"] > 0.9
    result = evaluate_clicks("d", workspace=ws)
    assert json.loads((ws.reports / "d.clicks.json").read_text())["n_both"] == result.n_both == 60
    values = {(row.system, row.metric): row.value for row in result.summary}
    assert values["d-cora-mf", "auc"] > 0.9
    assert values["d-mf-clicks", "auc"] == values["item mean", "auc"] == pytest.approx(0.5)
    assert values["d-text", "auc"] < 0.7
    gains = [row for row in result.differences if row.system == "d-cora-mf"]
    assert {(row.reference, row.metric) for row in gains} == {
        (other, metric) for other in ("d-mf-clicks", "d-text", "item mean") for metric in ("auc", "uauc")
    }
    assert all(row.low > 0.1 for row in gains)


def test_with_all_vectors_shown_titles_are_not_learned(fitted, base) -> None:
    ws, _ = fitted
    shown = replace(FAST, hidden=0.0)
    cora_fit("d", base=base, prompt=TEMPLATE, settings=shown, name="shown", workspace=ws)
    values = {row.system: row.value for row in evaluate_clicks("d", heads=["shown"], workspace=ws).summary}
    shutil.rmtree(ws.head("shown"))
    assert values["shown"] < 0.8


def test_scores_have_the_auc_of_the_evaluation(fitted, tmp_path) -> None:
    ws, _ = fitted
    rows, _ = both_needed()
    rows = [row[:3] for row in rows if row[4] == "valid"]
    result, scores = scored(ws, rows, tmp_path, head="d-mf-clicks", label="label")
    manifest = json.loads((ws.head("d-mf-clicks") / "manifest.json").read_text())
    assert manifest["val"] == {"auc": pytest.approx(result.auc), "uauc": pytest.approx(result.uauc)}
    assert all(0 <= float(row["score"]) <= 1 for row in scores)
    assert {row["known"] for row in scores} == {"both"}


@pytest.fixture(scope="module")
def timed(base, tmp_path_factory):
    """A workspace with histories, and heads that read them."""
    ws = Workspace(tmp_path_factory.mktemp("timed"))
    titles = {f"c{item % 2}i{item:02}": f"the {('great', 'awful')[item % 2]} guitar" for item in range(40)}
    clicks = write_pairs(ws, "d", clusters(n_users=30), titles)
    cf_fit_clicks("d", model="sasrec", settings=replace(QUICK, epochs=2), workspace=ws)
    few = {"base": base, "prompt": TEMPLATE, "settings": replace(FAST, epochs=1, max_tokens=64), "workspace": ws}
    cora_fit("d", text_only=True, **few)
    cora_fit("d", **few)
    return ws, clicks


@pytest.mark.parametrize("head", ["d-sasrec-clicks", "d-text", "d-cora-sasrec"])
def test_a_score_is_the_prediction_after_all_that_the_user_liked(timed, head) -> None:
    ws, clicks = timed
    last = np.flatnonzero(np.append(clicks.users[1:] != clicks.users[:-1], True))  # rows are by user and time
    titles = titles_of(ws, "d", [clicks.item_ids[item] for item in clicks.items[last]])
    wanted = scorer(ws, open_click_head(ws, head), "cpu", SILENT)(clicks.pairs(last), titles)
    users, items = clicks.users[last], clicks.items[last]
    ids = [clicks.user_ids[user] for user in users], [clicks.item_ids[item] for item in items]
    found = OpenClicks(ws, head).scores(*ids, users, items)
    assert found == pytest.approx(1 / (1 + np.exp(-wanted)), abs=1e-5)
    assert len({*np.round(found, 6).tolist()}) > 10


def test_unknown_users_and_items_get_a_score_and_a_mark(fitted, tmp_path) -> None:
    ws, _ = fitted
    rows = [("nobody", "plain3", 1), ("u000", "nothing", 0), ("nobody", "nothing", 0), ("u000", "plain3", 1)]
    for head in ("d-mf-clicks", "d-text", "d-cora-mf"):
        _, scores = scored(ws, rows, tmp_path, head=head)
        assert [row["known"] for row in scores] == ["item", "user", "none", "both"]
        assert all(0 < float(row["score"]) < 1 for row in scores)


def test_vectors_of_prompts_are_computed_once_and_those_of_cora_never_stored(fitted, tmp_path, monkeypatch) -> None:
    ws, _ = fitted
    rows = [("u000", "plain3", 1), ("u001", "plain5", 0)]
    scored(ws, rows, tmp_path, head="d-text")
    (store,) = ws.cache.iterdir()
    before = (store / "data.mdb").read_bytes()
    monkeypatch.setattr("loid_infer.verbs.joined.encode_texts", None)
    scored(ws, rows, tmp_path, head="d-text")
    scored(ws, [("u005", "plain7", 1)], tmp_path, head="d-cora-mf")
    assert (store / "data.mdb").read_bytes() == before


def test_the_item_itself_is_not_in_the_history_of_a_score(timed, tmp_path) -> None:
    ws, clicks = timed
    liked = clicks.item_ids[clicks.liked.items[clicks.liked.starts[1] - 1]]  # the last one of the first user
    pairs = [("u000", liked, 1), ("u000", "c1i39", 0)]
    _, (own, other) = scored(ws, pairs, tmp_path, head="d-sasrec-clicks")
    without = Workspace(tmp_path / "other")
    shutil.copytree(ws.root, without.root)
    write_pairs(without, "d", [row for row in clusters(n_users=30) if row[:2] != ("u000", liked)])
    _, (same, changed) = scored(without, pairs, tmp_path, head="d-sasrec-clicks")
    assert own["score"] == same["score"]
    assert other["score"] != changed["score"]


def test_a_killed_training_continues_and_ends_the_same(fitted, base, tmp_path) -> None:
    ws, _ = fitted
    short = replace(FAST, epochs=2)
    run = {"base": base, "prompt": TEMPLATE, "settings": short, "workspace": ws, "checkpoint_s": 0.0}
    whole_and_resumed(partial(cora_fit, "d", **run), 25)
    tensors = [(ws.head(name) / "head.safetensors").read_bytes() for name in ("whole", "resumed")]
    for name in ("whole", "resumed"):
        shutil.rmtree(ws.head(name))
    assert tensors[0] == tensors[1]
    assert not [*ws.head("d").parent.glob(".*training*")]


def test_trials_keep_the_best_on_validation(tmp_path) -> None:
    ws = Workspace(tmp_path)
    write_pairs(ws, "d", clusters())
    found = cf_fit_clicks("d", settings=replace(QUICK, trials=3, epochs=5), workspace=ws)
    assert [trial["settings"] for trial in found.trials] == [{}, {"learning_rate": 3e-3}, {"dim": 32}]
    best = max(found.trials, key=lambda trial: trial["auc"])
    manifest = json.loads((ws.head("d-mf-clicks") / "manifest.json").read_text())
    assert found.val["auc"] == pytest.approx(best["auc"])
    assert manifest["options"] | best["settings"] == manifest["options"]


def test_what_does_not_belong_together_is_refused(fitted, base, toy_base, tmp_path) -> None:
    ws, _ = fitted
    options = {"base": base, "prompt": TEMPLATE, "settings": FAST, "workspace": ws}
    with pytest.raises(
        BadSetting, match=r"--cf d-text: not a collaborative head of these pairs.*cf fit --clicks --domain d"
    ):
        cora_fit("d", cf="d-text", **options)
    with pytest.raises(BadSetting, match="only CoRA reads a collaborative head"):
        cora_fit("d", cf="d-mf-clicks", text_only=True, **options)
    with pytest.raises(BadSetting, match="states of CoRA are never stored"):
        cora_fit("d", encoder="d-text", **options)
    with pytest.raises(BadSetting, match="only a decoder can answer"):
        cora_fit("d", **{**options, "base": str(toy_base)})
    with pytest.raises(BadSetting, match="another --seed"):
        cf_fit_clicks("d", settings=replace(QUICK, epochs=1), seed=5, name="other-seed", workspace=ws)
        evaluate_clicks("d", workspace=ws)
    shutil.rmtree(ws.head("other-seed"))
    with pytest.raises(BadArtifact, match=r"no collaborative head of e.*cf fit --clicks --domain e"):
        write_pairs(ws, "e", clusters())
        cora_fit("e", **options)
    cf_fit_clicks("e", settings=replace(QUICK, epochs=1), workspace=ws)
    with pytest.raises(BadTable, match=r"no item has a title.*ingest META --domain e --items"):
        cora_fit("e", **options)
    with pytest.raises(BadArtifact, match="no head on labeled pairs of f"):
        evaluate_clicks("f", workspace=ws)
    shutil.rmtree(ws.head("e-mf-clicks"))
    # Names of heads of other kinds.
    source = tmp_path / "r.csv"
    source.write_text("user_id,item_id,timestamp\n" + "".join(f"u{u},i{i},{i}\n" for u in range(4) for i in range(4)))
    ingest_implicit([source], "d", workspace=ws)
    with pytest.raises(BadSetting, match="another kind of head"):
        cf_fit(["d"], model="popularity", name="d-text", workspace=ws)
    cf_fit(["d"], model="popularity", name="ranks", workspace=ws)
    with pytest.raises(BadSetting, match="another kind of head or of another domain"):
        cf_fit_clicks("d", name="ranks", settings=QUICK, workspace=ws)


def test_a_head_says_when_its_base_or_encoder_has_changed(fitted, tmp_path) -> None:
    ws, _ = fitted
    other = Workspace(tmp_path / "ws")
    shutil.copytree(ws.root, other.root)
    manifest = other.head("d-cora-mf") / "manifest.json"
    content = json.loads(manifest.read_text())
    base = make_decoder(tmp_path / "base", tie_word_embeddings=True)
    from safetensors.numpy import load_file, save_file

    tensors = load_file(base / "model.safetensors")
    tensors["norm.weight"] = tensors["norm.weight"] + np.float32(1)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    content["base"]["name"] = str(base)
    manifest.write_text(json.dumps(content))
    with pytest.raises(BadArtifact, match=r"other weights than the head was fitted with.*fit the head again"):
        scored(other, [("u000", "plain3", 1)], tmp_path, head="d-cora-mf")
    shutil.rmtree(other.encoder("d-text"))
    with pytest.raises(BadArtifact, match="no finished encoder found"):
        scored(other, [("u000", "plain3", 1)], tmp_path, head="d-text")


def test_a_parquet_file_of_pairs_is_scored(fitted, tmp_path) -> None:
    ws, _ = fitted
    import pyarrow as pa

    pq.write_table(pa.table({"user_id": ["u000"], "item_id": ["plain2"]}), tmp_path / "p.parquet")
    out = score(tmp_path / "p.parquet", head="d-mf-clicks", workspace=ws).out
    assert pq.read_table(out).column_names == ["user_id", "item_id", "score", "known"]


def test_lora_learns_what_titles_say_and_its_head_reads_stored_vectors(base, tmp_path) -> None:
    ws = Workspace(tmp_path)
    rows, titles = both_needed(n_users=40)
    # Everybody likes `great`: titles say it, and nothing else is needed.
    rows = [(*row[:2], int("great" in titles[row[1]]), *row[3:]) for row in rows if row[1].startswith("only")]
    write_pairs(ws, "d", rows, titles)
    settings = AnswerSettings(
        rank=4, epochs=12, learning_rate=1e-2, precision="fp32", max_tokens=48, batch_tokens=1024, samples=300
    )
    found = cora_train("d", base=base, prompt=TEMPLATE, settings=settings, workspace=ws)
    assert (found.plugin, found.encoder, found.head) == ("d-tallrec",) * 3
    assert found.n_train == 300
    assert min(found.val_auc, found.val["auc"]) > 0.95
    assert found.val["auc"] == pytest.approx(found.val_auc, abs=0.02)
    manifest = plugin_show("d-tallrec", workspace=ws)
    assert [run["task"] for run in manifest["trained_on"]] == ["labels"]
    assert manifest["metrics"]["val_auc"] == pytest.approx(found.val_auc)
    assert plugin_list(workspace=ws).plugins[0].domains == ("d",)
    cora_fit("d", text_only=True, base=base, prompt=TEMPLATE, settings=FAST, workspace=ws)
    values = {(row.system, row.metric): row.value for row in evaluate_clicks("d", workspace=ws).summary}
    assert values["d-tallrec", "auc"] > 0.95 > values["d-text", "auc"] + 0.2
    # With another seed the histories of ties are others, so are the pairs.
    with pytest.raises(BadSetting, match=r"plugin 'd-tallrec' of encoder 'd-tallrec' was trained on other pairs"):
        other = replace(FAST, seed=1)
        cora_fit("d", text_only=True, base=base, encoder="d-tallrec", prompt=TEMPLATE, settings=other, workspace=ws)
    assert not [*ws.plugins.glob(".*training*")]


def test_options_that_a_model_does_not_have_are_refused(tmp_path) -> None:
    ws = Workspace(tmp_path)
    write_pairs(ws, "d", clusters(n_users=20))
    for model, unused in (("mf", {"dropout": 0.1}), ("lightgcn", {"max_length": 5}), ("sasrec", {"negatives": 5})):
        with pytest.raises(
            BadSetting, match=rf"{model}.*options that the model does not have.*{next(iter(unused))[:3]}"
        ):
            cf_fit_clicks("d", model=model, settings=RankOptions(**unused), workspace=ws)


def test_the_report_and_the_sweep_know_the_heads(fitted, tmp_path, monkeypatch) -> None:
    ws = Workspace(tmp_path / "ws")
    shutil.copytree(fitted[0].root, ws.root)
    result = evaluate_clicks("d", workspace=ws)
    page = Path(report(workspace=ws).path).read_text()
    assert "Left out" not in page
    for row in result.summary:
        assert row.system in page
        assert f"{row.value:.4f}" in page
    assert page.count("AUC of d-cora-mf minus") >= 1
    # Prompts of evaluations are kept, those of scores are not.
    scored(ws, [("u000", "plain3", 1)], tmp_path, head="d-text")
    before = cache_info(workspace=ws).stores[0].n_rows
    removed = cache_gc(workspace=ws).n_rows
    assert 0 < removed < before
    monkeypatch.setattr("loid_infer.verbs.joined.encode_corpus", None)
    again = evaluate_clicks("d", heads=["d-text"], workspace=ws)
    assert again.summary == tuple(row for row in result.summary if row.system in ("d-text", "item mean"))


def test_an_evaluation_is_printed_for_people(fitted) -> None:
    shown = tables(evaluate_clicks("d", workspace=fitted[0]))
    rows = shown["test pairs, 95 % intervals"]
    systems = ["d-cora-mf", "d-mf-clicks", "d-text", "item mean"]
    assert [(row["metric"], row["system"]) for row in rows] == [(m, s) for m in ("auc", "uauc") for s in systems]
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in rows)
    pairs = [(row["system"], row["minus"]) for row in shown["paired differences, 95 % intervals over users"]]
    assert sorted({*pairs}) == [*combinations(systems, 2)]
    assert len(pairs) == 6 * 2


@pytest.mark.parametrize("model", ["mf", "ncf", "sasrec"])
def test_collaborative_heads_recommend_by_the_probability_that_they_score(tmp_path, model) -> None:
    ws = Workspace(tmp_path)
    clicks = write_pairs(ws, "d", clusters(n_users=40), {f"c{item % 2}i{item:02}": f"the {item}" for item in range(40)})
    cf_fit_clicks("d", model=model, settings=replace(QUICK, epochs=10), workspace=ws)
    head, out = f"d-{model}-clicks", tmp_path / "top.parquet"
    found = recommend(domain="d", head=head, n=5, out=out, workspace=ws)
    assert (found.head, found.n_users, found.n_unknown_users, found.n_rows) == (head, 40, 0, 200)
    rows = pq.read_table(out).to_pylist()
    labeled = {(clicks.user_ids[u], clicks.item_ids[i]) for u, i in zip(clicks.users, clicks.items, strict=True)}
    assert not labeled & {(row["user_id"], row["item_id"]) for row in rows}
    own = [row["item_id"][1] == str(int(row["user_id"][1:]) % 2) for row in rows]
    assert np.mean(own) > (0.9 if model != "sasrec" else 0.6)
    _, scores = scored(ws, [(row["user_id"], row["item_id"], 1) for row in rows], tmp_path, head=head)
    assert [float(row["score"]) for row in scores] == pytest.approx([row["score"] for row in rows], abs=1e-5)
    assert all(a["score"] >= b["score"] for a, b in pairwise(rows) if a["user_id"] == b["user_id"])
    # Unknown users, and histories that are given.
    (tmp_path / "users.csv").write_text("user_id,history\nnobody,\nu000,c1i01 c1i03\n")
    found = recommend(tmp_path / "users.csv", domain="d", head=head, n=40, include_seen=True, out=out, workspace=ws)
    known = {row["user_id"]: row["known"] for row in pq.read_table(out).to_pylist()}
    assert known == {"nobody": "none", "u000": "history" if model == "sasrec" else "none"}
    assert found.n_rows == 80


def test_a_decoder_orders_what_the_collaborative_head_puts_first(fitted, tmp_path) -> None:
    ws, _ = fitted
    for head in ("d-text", "d-cora-mf"):
        check_order(ws, head, tmp_path)
    with pytest.raises(BadSetting, match="the head is one of another domain"):
        recommend(domain="e", head="d-text", workspace=ws)
    # What titles in a given history say counts, and what is asked about stands in no history.
    words = [item for item, title in titles_in(ws).items() if title.startswith("great")][:3]
    given = recommended(ws, ["x,", f"y,{' '.join(words)}"], "d-text", 5, columns="user_id,history", include_seen=True)
    assert [given[name][0]["known"] for name in ("x", "y")] == ["none", "history"]
    assert [row["score"] for row in given["x"]] != [row["score"] for row in given["y"]]
    # Heads of other seeds do not count.
    cf_fit_clicks("d", settings=replace(QUICK, epochs=1), seed=1, name="other", workspace=ws)
    check_order(ws, "d-text", tmp_path)
    shutil.move(ws.head("d-mf-clicks"), tmp_path / "away")
    with pytest.raises(BadArtifact, match=r"no collaborative head of d with seed 0.*cf fit --clicks .*--seed 0"):
        recommend(domain="d", head="d-text", workspace=ws)
    shutil.rmtree(ws.head("other"))
    shutil.move(tmp_path / "away", ws.head("d-mf-clicks"))


def test_each_head_finds_what_was_planted_for_it(base, tmp_path) -> None:
    ws = Workspace(tmp_path)
    rows, titles, by_ids, by_titles = two_parts()
    write_pairs(ws, "d", rows, titles)
    labels = np.array([row[2] > 0 for row in rows if row[4] == "test"])
    both = np.where(by_ids == 0.5, by_titles, by_ids)
    optima = {"d-mf-clicks": auc(by_ids, labels), "d-tallrec": auc(by_titles, labels), "d-cora-mf": auc(both, labels)}
    cf_fit_clicks("d", settings=QUICK, workspace=ws)
    shared = {"base": base, "prompt": TEMPLATE, "workspace": ws}
    few = {"epochs": 3, "learning_rate": 1e-2, "precision": "fp32", "max_tokens": 48, "batch_tokens": 1024, "rank": 4}
    cora_train("d", settings=AnswerSettings(**few), **shared)
    cora_fit("d", settings=FAST, **shared)
    result = evaluate_clicks("d", workspace=ws)
    reached = {row.system: row.value for row in result.summary if row.metric == "auc"}
    assert all(reached[head] - 0.5 > 0.85 * (optimum - 0.5) for head, optimum in optima.items())
    gains = [row for row in result.differences if (row.system, row.metric) == ("d-cora-mf", "auc")]
    assert {row.reference for row in gains} == {"d-mf-clicks", "d-tallrec", "item mean"}
    assert all(row.low > 0 for row in gains)
