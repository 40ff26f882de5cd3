"""Encoder, the public interface from texts to vectors."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import loid_infer.encoder
from loid_infer import Encoder, encode, ingest
from loid_infer.data.corpora import digests_of
from loid_infer.encoder import find_encoder
from loid_infer.encoders.folder import open_folder
from loid_infer.errors import BadArtifact, BadName, BadSetting
from loid_infer.graphs.bases import load_base
from loid_infer.graphs.parity import reference_vectors
from loid_infer.kernels.cosine import row_cosines
from loid_infer.settings import Workspace
from loid_infer.store.reader import stored_vectors
from tests.conftest import toy_texts, write_reviews

TEXTS = ["it works", "", "the string broke " * 30, "very good 👍", "it works"]


def reference(toy_base: Path, texts: list[str]) -> np.ndarray:
    base = load_base(str(toy_base))
    tokens = base.tokenizer(32)(texts)
    ids = np.split(tokens.flat_ids, np.cumsum(tokens.lengths)[:-1])
    return np.concatenate([reference_vectors(base, [text]) for text in ids])


@pytest.mark.parametrize("runtime", ["auto", "torch", "onnxruntime"])
def test_vectors_are_in_the_order_of_texts(workspace: Workspace, toy_base: Path, runtime: str) -> None:
    with Encoder.open("base", workspace=workspace, runtime=runtime, n_threads=1) as encoder:
        vectors = encoder.encode(TEXTS)
        assert (vectors.shape, vectors.dtype, encoder.dim) == ((5, 32), np.float32, 32)
        assert row_cosines(vectors, reference(toy_base, TEXTS)).min() >= 0.99999
        assert runtime in ("auto", encoder.runtime.name)
        assert encoder.setup_s > 0
        assert encoder.encode([]).shape == (0, 32)
        np.testing.assert_allclose(encoder.encode(tuple(TEXTS[:1])), vectors[:1], atol=1e-5)


class Labeled:
    """Texts with labels as indices, like a shuffled column of a data frame."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = dict(reversed([*enumerate(texts)]))

    def __getitem__(self, label: int) -> str:
        return self.texts[label]

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self):
        return iter(self.texts.values())


def test_texts_can_be_any_iterable(workspace: Workspace) -> None:
    with Encoder.open(workspace=workspace, n_threads=1) as encoder:
        expected = encoder.encode(TEXTS)
        np.testing.assert_array_equal(encoder.encode(Labeled(TEXTS)), expected[::-1])
        np.testing.assert_array_equal(encoder.encode(text for text in TEXTS), expected)
        for wrong in ("one", b"one", 3, None, [3], [b"a"]):
            with pytest.raises(BadSetting, match="text"):
                encoder.encode(wrong)


def test_an_export_is_opened_by_its_folder(workspace: Workspace, tmp_path: Path) -> None:
    elsewhere = Path(shutil.move(workspace.encoder("base"), tmp_path / "copied"))
    by_path = Encoder.open(elsewhere)
    assert (by_path.name, by_path.fingerprint) == ("copied", open_folder(elsewhere, "base").fingerprint)
    assert Encoder.open(str(elsewhere)).fingerprint == by_path.fingerprint


def test_the_base_is_exported_on_first_use(toy_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loid_infer.encoder, "DEFAULT_BASE", str(toy_base))
    lines = []

    class Recorder(type(loid_infer.types.SILENT)):
        def say(self, text: str) -> None:
            lines.append(text)

    first = Encoder.open(workspace=tmp_path, progress=Recorder())
    assert any("there is no encoder 'base' yet" in text for text in lines)
    assert [*find_encoder(Workspace(tmp_path), "base").manifest.parity.runtimes] == ["openvino"]  # others when opened
    lines.clear()
    assert Encoder.open(workspace=tmp_path, progress=Recorder()).fingerprint == first.fingerprint
    assert lines == []


def test_nothing_is_exported_into_a_workspace_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="there is no workspace"):
        Encoder.open(workspace=tmp_path / "mistyped")
    assert not (tmp_path / "mistyped").exists()


def test_a_stream_reads_pieces_on_demand_and_yields_every_slot_once(workspace: Workspace) -> None:
    texts, pulled = toy_texts(6000), 0

    def pieces():
        nonlocal pulled
        for start in range(0, 6000, 50):
            pulled += 1
            yield np.arange(start, start + 50) * 3, texts[start : start + 50]

    encoder = Encoder.open(workspace=workspace, runtime="torch")
    stream = encoder.stream(pieces())
    parts = [next(stream)]
    assert pulled < 120
    parts += stream
    slots = np.concatenate([part[0] for part in parts])
    assert sorted(slots.tolist()) == list(range(0, 18_000, 3))
    vectors = np.concatenate([part[1] for part in parts])[np.argsort(slots)]
    np.testing.assert_allclose(vectors, encoder.encode(texts), atol=1e-4)
    assert encoder.lengths(["it works", ""]).tolist() == [4, 2]


def test_vectors_equal_those_in_the_store(workspace: Workspace) -> None:
    texts = toy_texts(20)
    ingest([write_reviews(workspace.root / "r.jsonl", texts)], "toys", workspace=workspace)
    encode("toys", workspace=workspace)
    encoder = Encoder.open(workspace=workspace)
    stored = stored_vectors(
        workspace.store(encoder.fingerprint), encoder.spec, encoder.fingerprint, digests_of(texts), ""
    )
    np.testing.assert_allclose(stored, encoder.encode(texts), atol=2e-3, rtol=2e-3)


def test_a_closed_encoder_opens_again(workspace: Workspace) -> None:
    with Encoder.open(workspace=workspace) as encoder:
        before = encoder.encode(TEXTS)
    assert encoder._parts is None
    np.testing.assert_array_equal(encoder.encode(TEXTS), before)


def test_fake_vectors_have_a_store_of_their_own(workspace: Workspace) -> None:
    fake = Encoder.open(workspace=workspace, runtime="fake")
    assert fake.spec.precision == "fake"
    assert fake.fingerprint != Encoder.open(workspace=workspace).fingerprint


def test_an_export_that_was_changed_after_opening_is_refused(workspace: Workspace) -> None:
    encoder = Encoder.open(workspace=workspace)
    other = workspace.encoder("base") / "config.json"
    other.write_text(other.read_text() + " ")
    with pytest.raises(BadArtifact):
        encoder.encode(["a"])


@pytest.mark.parametrize(
    ("texts", "message"),
    [("one string", "'one string'"), (["a", 3], "3"), ([None], "None"), (["a", "\ud800"], r"\[1\].*surrogate")],
)
def test_inputs_other_than_lists_of_texts_are_refused(workspace: Workspace, texts: object, message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        Encoder.open(workspace=workspace).encode(texts)


def test_options_and_names_are_checked_at_once(workspace: Workspace) -> None:
    with pytest.raises(BadSetting, match=r"unknown runtime.*'jax'"):
        Encoder.open(workspace=workspace, runtime="jax")
    with pytest.raises(BadSetting, match=r"unknown device.*'tpu'"):
        Encoder.open(workspace=workspace, device="tpu")
    with pytest.raises(BadArtifact, match=r"no encoder 'games'.*base.*loid-infer export --name games"):
        Encoder.open("games", workspace=workspace)
    with pytest.raises(BadName):
        Encoder.open("Games!", workspace=workspace)
    with pytest.raises(BadArtifact):
        Encoder.open(workspace.root / "exports" / "encoders" / "games")
