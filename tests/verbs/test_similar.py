"""`similar`: nearest items, users and reviews, and the stored index."""

import json

import numpy as np
import pytest

from loid_infer import encode, export, ingest
from loid_infer.errors import BadSetting, BadTable, NotEncoded
from loid_infer.settings import Workspace
from loid_infer.store.reader import stored_vectors
from loid_infer.verbs import similar as verb
from tests.conftest import toy_texts, write_reviews
from tests.verbs.toy_domain import ENCODER, SPEC, interactions, make_domain


@pytest.fixture(scope="module")
def toys_workspace(tmp_path_factory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("ws"))
    make_domain(workspace, "toys")
    return workspace


@pytest.fixture
def similar(monkeypatch):
    monkeypatch.setattr(verb, "resolve", lambda workspace, encoder, domain: ENCODER)
    return verb.similar


def reference(workspace: Workspace, kind: str) -> tuple[list[str], np.ndarray]:
    """Ids and unit vectors of items or users, computed separately."""
    data = interactions(workspace, "toys")
    vectors = stored_vectors(workspace.store(ENCODER.fingerprint), SPEC, ENCODER.fingerprint, data.digests, "")
    codes, names = (data.items, data.item_ids) if kind == "items" else (data.users, data.user_ids)
    present = [code for code in range(len(names)) if (codes == code).any()]
    means = np.stack([vectors[data.texts[codes == code]].astype(np.float64).mean(0) for code in present])
    means -= means.mean(0)
    return [names[code] for code in present], means / np.linalg.norm(means, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["items", "users"])
@pytest.mark.parametrize("step", [1 << 16, 7])
def test_neighbors_equal_a_brute_force_search(toys_workspace, similar, monkeypatch, kind, step, tmp_path):
    monkeypatch.setattr(verb, "_STEP", step)
    if step == 7:  # rebuilt, in parts that divide the reviews of an item
        (toys_workspace.root / "exports" / "indexes" / f"toys.made-up.{kind}" / "manifest.json").unlink(missing_ok=True)
    names, directions = reference(toys_workspace, kind)
    query = 3
    result = similar("toys", **{kind.removesuffix("s"): names[query]}, n=5, workspace=toys_workspace)
    cosines = directions @ directions[query]
    cosines[query] = -2
    expected = np.argsort(-cosines)[:5]
    assert [neighbor.id for neighbor in result.neighbors] == [names[number] for number in expected]
    np.testing.assert_allclose([neighbor.score for neighbor in result.neighbors], cosines[expected], atol=2e-3)
    assert (result.of, result.index, result.recall, result.n_indexed) == (kind, "exact", 1.0, len(names))
    data = interactions(toys_workspace, "toys")
    codes = data.items if kind == "items" else data.users
    ids = data.item_ids if kind == "items" else data.user_ids
    assert result.neighbors[0].n_reviews == (codes == ids.index(result.neighbors[0].id)).sum()


def test_items_similar_to_a_user_are_returned(toys_workspace, similar):
    user = interactions(toys_workspace, "toys").user_ids[0]
    result = similar("toys", user=user, of="items", n=3, workspace=toys_workspace)
    assert result.of == "items" and all(neighbor.id.startswith("toys-") for neighbor in result.neighbors)
    assert len(similar("toys", user=user, of="items", n=10**6, workspace=toys_workspace).neighbors) == result.n_indexed


def test_the_index_is_rebuilt_only_when_damaged_or_when_table_or_store_changes(tmp_path, similar, monkeypatch):
    workspace = Workspace(tmp_path)
    make_domain(workspace, "toys")
    item = interactions(workspace, "toys").item_ids[0]
    built = []
    original = verb.build
    monkeypatch.setattr(verb, "build", lambda *arguments: built.append(1) or original(*arguments))
    first = similar("toys", item=item, workspace=workspace)
    assert similar("toys", item=item, workspace=workspace).neighbors == first.neighbors
    assert len(built) == 1
    file = tmp_path / "exports" / "indexes" / "toys.made-up.items" / "index.faiss"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])  # damaged
    assert similar("toys", item=item, workspace=workspace).neighbors == first.neighbors
    assert len(built) == 2 and file.read_bytes() == whole
    manifest = json.loads((file.parent / "manifest.json").read_text())
    assert manifest["fingerprint"] == ENCODER.fingerprint
    source = tmp_path / "toys.csv"
    source.write_text("".join(source.read_text().splitlines(keepends=True)[:-1]))
    ingest([source], "toys", workspace=workspace)  # one review fewer
    similar("toys", item=item, workspace=workspace)
    assert len(built) == 3
    similar("toys", item=item, workspace=workspace)
    assert len(built) == 3
    manifest = json.loads((file.parent / "manifest.json").read_text())
    (file.parent / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": "f" * 32}))
    similar("toys", item=item, workspace=workspace)  # the encoder of that name was exported again
    assert len(built) == 4


def test_user_errors(toys_workspace, similar):
    data = interactions(toys_workspace, "toys")
    for options, expected in (
        ({}, "none"),
        ({"item": data.item_ids[0], "text": "x"}, "--item and --text"),
        ({"item": "nothing"}, "no such item"),
        ({"user": ""}, "no such user"),
        ({"text": "  "}, "the text is empty"),
        ({"text": "gu\udcff"}, "not a text"),
        ({"item": data.item_ids[0], "of": "stores"}, "items | users | reviews"),
        ({"item": data.item_ids[0], "n": 0}, "at least 1"),
    ):
        with pytest.raises(BadSetting, match=expected.replace("|", r"\|")):
            similar("toys", **options, workspace=toys_workspace)
    with pytest.raises(BadTable):
        similar("films", item="x", workspace=toys_workspace)


def test_missing_vectors_are_counted(tmp_path, similar):
    workspace = Workspace(tmp_path)
    make_domain(workspace, "toys")
    item = interactions(workspace, "toys").item_ids[0]
    for file in workspace.store(ENCODER.fingerprint).iterdir():
        file.unlink()
    with pytest.raises(NotEncoded, match="loid-infer encode --domain toys"):
        similar("toys", item=item, workspace=workspace)


def test_a_text_is_its_own_nearest_neighbor_and_blank_or_duplicate_reviews_are_not_indexed(toy_base, tmp_path):
    workspace = Workspace(tmp_path)
    texts = ["", "  ", *toy_texts(30), toy_texts(30)[4]]
    ingest([write_reviews(tmp_path / "toys.jsonl", texts)], "toys", workspace=workspace)
    export("base", base=str(toy_base), precision="fp32", max_tokens=16, workspace=workspace)
    encode("toys", workspace=workspace)
    result = verb.similar("toys", text=texts[6], n=3, workspace=workspace)
    first = result.neighbors[0]
    assert (first.text, first.id) == (texts[6], "6")
    assert first.n_reviews == texts.count(texts[6]) >= 2
    assert first.score == pytest.approx(1, abs=1e-3)
    assert result.n_indexed == len({text for text in texts if text.strip()})
    scores = [neighbor.score for neighbor in result.neighbors]
    assert scores == sorted(scores, reverse=True)


def test_searching_a_domain_of_blank_reviews_is_refused(toy_base, tmp_path):
    workspace = Workspace(tmp_path)
    ingest([write_reviews(tmp_path / "toys.jsonl", ["", " "])], "toys", workspace=workspace)
    export("base", base=str(toy_base), precision="fp32", max_tokens=16, workspace=workspace)
    encode("toys", workspace=workspace)
    with pytest.raises(BadSetting, match="nothing to search"):
        verb.similar("toys", text="guitar", workspace=workspace)
    with pytest.raises(BadSetting, match="none of its reviews has text"):
        verb.similar("toys", item="i0", workspace=workspace)
