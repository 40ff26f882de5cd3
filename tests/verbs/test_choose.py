"""BDLM whose decoder chooses among candidates, from labeled pairs to recommendations."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from loid_infer import bdlm_fit, cf_fit_clicks, evaluate_clicks, recommend, report
from loid_infer.errors import BadSetting
from loid_infer.settings import Workspace
from tests.clicks.test_choices import TEMPLATE
from tests.clicks.test_cora import make_decoder
from tests.clicks.worlds import both_needed, latecomers, whole_and_resumed, write_pairs
from tests.verbs.test_bdlm import FAST
from tests.verbs.test_cora import QUICK, recommended, scored

CHOOSE = replace(FAST, task="choose", epochs=8, max_tokens=96)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    root = tmp_path_factory.mktemp("choose")
    base, ws = str(make_decoder(root / "base", tie_word_embeddings=True)), Workspace(root / "ws")
    write_pairs(ws, "d", *latecomers())
    cf_fit_clicks("d", settings=QUICK, workspace=ws)
    return ws, base, bdlm_fit("d", base=base, prompt=TEMPLATE, settings=CHOOSE, workspace=ws)


def test_the_decoder_chooses_better_than_interactions_alone(fitted) -> None:
    ws, _, found = fitted
    assert (found.heads, found.candidates) == (("d-bdlm-choose-llm", "d-bdlm-choose-drs"), 4)
    assert found.n_train == 60 * 6 + 60 * 2
    result = evaluate_clicks("d", workspace=ws)
    rates = {row.system: row.value for row in result.summary if row.metric == "hr@1"}
    assert rates["d-mf-clicks"] < 0.7  # of latecomers it knows nothing
    assert rates["d-bdlm-choose-llm"] > rates["d-mf-clicks"] + 0.15
    assert rates["d-bdlm-choose-drs"] > rates["d-mf-clicks"]
    (gain,) = [
        row
        for row in result.differences
        if (row.metric, row.system, row.reference) == ("hr@1", "d-bdlm-choose-llm", "d-mf-clicks")
    ]
    assert gain.low > 0.05
    # A choice is no answer about one item, so it has no threshold.
    assert {row.system for row in result.summary if row.metric == "f1"} == {"d-mf-clicks", "item mean"}
    assert "d-bdlm-choose-llm" in Path(report(workspace=ws).path).read_text()


def test_tokens_have_to_be_loaded(fitted) -> None:
    ws, base, _ = fitted
    settings = replace(CHOOSE, epochs=2, random_tokens=True)
    found = bdlm_fit("d", base=base, prompt=TEMPLATE, settings=settings, name="less", workspace=ws)
    summary = evaluate_clicks("d", heads=found.heads[:1], workspace=ws).summary
    for head in found.heads:
        shutil.rmtree(ws.head(head))
    assert next(row.value for row in summary if row.metric == "hr@1") < 0.5


def test_recommendations_are_what_the_head_chooses_of_what_interactions_put_first(fitted) -> None:
    ws, _, _ = fitted
    names = [*(f"u{user:03}" for user in range(0, 40, 3)), "nobody", "somebody"]
    first = recommended(ws, names, "d-mf-clicks", 4)
    for side in ("llm", "drs"):
        head, turned = f"d-bdlm-choose-{side}", 0
        found, best = recommended(ws, names, head, 4), recommended(ws, names, head, 1)
        for name in names:
            mine, theirs = ([row["item_id"] for row in rows[name]] for rows in (found, first))
            assert len(mine) == 4
            assert sorted(mine) == sorted(theirs)
            turned += mine != theirs
            scores = [float(row["score"]) for row in found[name]]
            assert scores == sorted(scores, reverse=True)
            assert sum(scores) == pytest.approx(1, abs=1e-4)
            assert [row["item_id"] for row in best[name]] == mine[:1]
            assert best[name][0]["known"] == ("none" if name.endswith("body") else "user")
        assert turned > 0


def test_a_second_evaluation_reads_stored_vectors(fitted, monkeypatch) -> None:
    ws, _, _ = fitted
    before = evaluate_clicks("d", workspace=ws).summary
    monkeypatch.setattr("loid_infer.verbs.joined.encode_corpus", None)
    assert evaluate_clicks("d", workspace=ws).summary == before


def test_a_killed_training_continues_and_ends_the_same(fitted) -> None:
    ws, base, _ = fitted
    settings = replace(CHOOSE, epochs=1)
    run = {"base": base, "prompt": TEMPLATE, "settings": settings, "workspace": ws, "checkpoint_s": 0.0}
    whole_and_resumed(partial(bdlm_fit, "d", **run), 12)
    heads = [ws.head(f"{name}-{side}") for name in ("whole", "resumed") for side in ("llm", "drs")]
    written = [(head / "head.safetensors").read_bytes() for head in heads]
    for head in heads:
        shutil.rmtree(head)
    assert written[:2] == written[2:]


def test_what_a_choice_cannot_do_is_refused(fitted, tmp_path) -> None:
    ws, base, _ = fitted
    with pytest.raises(BadSetting, match=r"-n: the head chooses among fewer items .*at most 4, got 5.*-n 4"):
        recommend(domain="d", head="d-bdlm-choose-llm", n=5, workspace=ws)
    with pytest.raises(BadSetting, match=r"chooses among candidates, so a pair alone.*recommend --domain d"):
        scored(ws, [("u000", "great01", 1)], tmp_path, head="d-bdlm-choose-llm")
    with pytest.raises(BadSetting, match=r"--task.*answer \| choose"):
        bdlm_fit("d", base=base, settings=replace(CHOOSE, task="rank"), workspace=ws)
    with pytest.raises(BadSetting, match=r"--no-tokens.*only tokens of items can be chosen"):
        bdlm_fit("d", base=base, settings=replace(CHOOSE, no_tokens=True), workspace=ws)
    other = Workspace(tmp_path / "ws")
    write_pairs(other, "d", *both_needed(n_users=12))
    cf_fit_clicks("d", settings=replace(QUICK, epochs=1), workspace=other)
    with pytest.raises(BadSetting, match=r"no candidates to choose from.*bdlm pairs --domain d"):
        bdlm_fit("d", base=base, settings=CHOOSE, workspace=other)
