"""BDLM from labeled pairs to scores."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from loid_infer import bdlm_fit, cache_info, cf_fit_clicks, evaluate_clicks, report
from loid_infer.clicks.settings import BdlmSettings
from loid_infer.errors import BadArtifact, BadSetting
from loid_infer.settings import Workspace
from tests.clicks.test_bdlm import TEMPLATE
from tests.clicks.test_cora import make_decoder
from tests.clicks.worlds import both_needed, whole_and_resumed, write_pairs
from tests.verbs.test_cora import QUICK, check_order, scored

FAST = BdlmSettings(rank=4, epochs=6, learning_rate=1e-2, precision="fp32", max_tokens=48, batch_tokens=1024)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    root = tmp_path_factory.mktemp("bdlm")
    base, ws = str(make_decoder(root / "base", tie_word_embeddings=True)), Workspace(root / "ws")
    rows, titles = both_needed()
    write_pairs(ws, "d", rows, titles)
    cf_fit_clicks("d", settings=QUICK, workspace=ws)
    return ws, base, bdlm_fit("d", base=base, prompt=TEMPLATE, settings=FAST, workspace=ws)


def test_both_sides_know_what_neither_interactions_nor_titles_know(fitted) -> None:
    ws, _, found = fitted
    assert (found.heads, found.encoder) == (("d-bdlm-llm", "d-bdlm-drs"), "d-bdlm")
    assert found.n_tokens == 60 + 24 + 840 + 2
    assert min(found.val_llm["auc"], found.val_drs["auc"]) > 0.9
    values = {row.system: row.value for row in evaluate_clicks("d", workspace=ws).summary if row.metric == "auc"}
    assert values["d-mf-clicks"] == pytest.approx(0.5)
    assert min(values["d-bdlm-llm"], values["d-bdlm-drs"]) > 0.9
    manifest = json.loads((ws.head("d-bdlm-drs") / "manifest.json").read_text())
    assert (manifest["model"], manifest["collaborative"], manifest["encoder"]) == ("bdlm-drs", "mf", "d-bdlm")
    assert "d-bdlm-drs" in (ws.reports / "d.clicks.json").read_text()


@pytest.mark.parametrize("ablation", [{"no_tokens": True}, {"random_tokens": True}, {"hidden": 0.0}], ids=str)
def test_each_part_is_needed(fitted, ablation) -> None:
    ws, base, _ = fitted
    prompt = TEMPLATE if "no_tokens" not in ablation else TEMPLATE.replace("{user} ", "").replace("{item} ", "")
    settings = replace(FAST, epochs=4, **ablation)
    found = bdlm_fit("d", base=base, prompt=prompt, settings=settings, name="less", workspace=ws)
    summary = evaluate_clicks("d", heads=found.heads, workspace=ws).summary
    for head in found.heads:
        shutil.rmtree(ws.head(head))
    assert all(row.value < 0.8 for row in summary)


def test_both_heads_read_the_same_stored_vectors(fitted, tmp_path, monkeypatch) -> None:
    ws, _, _ = fitted
    rows = [("u000", "plain3", 1), ("nobody", "plain5", 0), ("u001", "nothing", 0)]
    before = len(cache_info(workspace=ws).stores)
    _, llm = scored(ws, rows, tmp_path, head="d-bdlm-llm")
    monkeypatch.setattr("loid_infer.verbs.joined.encode_texts", None)
    _, drs = scored(ws, rows, tmp_path, head="d-bdlm-drs")
    assert len(cache_info(workspace=ws).stores) == before
    assert [row["known"] for row in llm] == [row["known"] for row in drs] == ["both", "item", "user"]
    assert all(0 < float(row["score"]) < 1 for row in (*llm, *drs))
    assert [row["score"] for row in llm] != [row["score"] for row in drs]


def test_both_sides_order_what_the_collaborative_head_puts_first(fitted, tmp_path) -> None:
    ws, _, found = fitted
    for head in found.heads:
        check_order(ws, head, tmp_path)


def test_a_killed_training_continues_and_ends_the_same(fitted) -> None:
    ws, base, _ = fitted
    run = {"base": base, "prompt": TEMPLATE, "settings": replace(FAST, epochs=1), "workspace": ws, "checkpoint_s": 0.0}
    whole_and_resumed(partial(bdlm_fit, "d", **run), 12)
    assert not [*ws.head("d").parent.glob(".*training*")]
    heads = [(ws.head(f"{name}-drs") / "head.safetensors").read_bytes() for name in ("whole", "resumed")]
    manifests = [(ws.encoder(name) / "manifest.json").read_text() for name in ("whole", "resumed")]
    for name in ("whole", "resumed"):
        shutil.rmtree(ws.encoder(name))
        for side in ("llm", "drs"):
            shutil.rmtree(ws.head(f"{name}-{side}"))
    assert heads[0] == heads[1]
    assert len({json.loads(manifest)["fingerprint"] for manifest in manifests}) == 1


def test_what_does_not_belong_together_is_refused(fitted, tmp_path) -> None:
    ws, base, _ = fitted
    options = {"base": base, "settings": FAST, "workspace": ws}
    with pytest.raises(BadSetting, match=r"\{history\} and \{title\} and \{user\} and \{item\}, once each"):
        bdlm_fit("d", prompt="{history} {title} Answer:", **options)
    with pytest.raises(BadSetting, match=r"not a collaborative head of these pairs.*mf \| lightgcn on d"):
        bdlm_fit("d", cf="d-bdlm-llm", prompt=TEMPLATE, **options)
    other = Workspace(tmp_path / "ws")
    shutil.copytree(ws.root, other.root)
    shutil.rmtree(other.head("d-mf-clicks"))
    with pytest.raises(BadArtifact, match=r"no collaborative head of d.*cf fit --clicks --domain d --model mf"):
        bdlm_fit("d", prompt=TEMPLATE, **{**options, "workspace": other})
    assert "d-bdlm-llm" in Path(report(workspace=other).path).read_text()
