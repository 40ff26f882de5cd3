"""Corpora that are not tables: encoding, lookup and garbage collection."""

import numpy as np
import pytest

from loid_infer import Encoder, Texts, cache_gc, encode, encode_corpus, encode_dry_run, ingest
from loid_infer.data.corpora import checked_texts
from loid_infer.errors import BadName, BadSetting, BadTable
from loid_infer.settings import Workspace
from loid_infer.store.reader import stored_vectors
from loid_infer.types import SILENT
from tests.conftest import toy_texts, write_reviews

TITLES = ["a guitar", "a string", "a guitar", "the case 👍"]


def test_a_corpus_is_encoded_once_and_looked_up_by_digests(workspace: Workspace) -> None:
    titles = Texts("titles", TITLES)
    with Encoder.open(workspace=workspace) as encoder:
        first = encode_corpus(titles, encoder, workspace=workspace)
        assert (first.domain, first.n_rows, first.n_unique, first.n_encoded) == ("titles", 4, 3, 3)
        again = encode_corpus(Texts("prompts", TITLES[:2]), encoder, workspace=workspace)
        assert (again.n_hits, again.n_encoded, again.runtime) == (2, 0, "none")
        store, digests = workspace.store(encoder.fingerprint), titles.digests(SILENT)
        vectors = stored_vectors(store, encoder.spec, encoder.fingerprint, digests, "")
        np.testing.assert_allclose(vectors, encoder.encode(TITLES), atol=2e-3, rtol=2e-3)


def test_gc_keeps_texts_of_corpora_and_tables(workspace: Workspace) -> None:
    ingest([write_reviews(workspace.root / "r.jsonl", toy_texts(20))], "toys", workspace=workspace)
    encode("toys", workspace=workspace)
    with Encoder.open(workspace=workspace) as encoder:
        encode_corpus(Texts("titles", TITLES), encoder, workspace=workspace)
    assert encode_dry_run("toys", workspace=workspace).n_orphaned == 0
    assert cache_gc(workspace=workspace).n_rows == 0
    with Encoder.open(workspace=workspace) as encoder:
        encode_corpus(Texts("titles", TITLES[:1]), encoder, workspace=workspace)  # the other two are no longer used
    assert encode_dry_run("toys", workspace=workspace).n_orphaned == 2
    assert cache_gc(workspace=workspace).n_rows == 2
    assert cache_gc(workspace=workspace).n_rows == 0


def test_gc_keeps_a_corpus_without_any_table(workspace: Workspace) -> None:
    with Encoder.open(workspace=workspace) as encoder:
        encode_corpus(Texts("titles", TITLES), encoder, workspace=workspace)
    assert cache_gc(workspace=workspace).n_rows == 0


def test_gc_keeps_the_vectors_of_an_interrupted_run(workspace: Workspace) -> None:
    class Broken(Texts):
        def texts(self, rows):
            yield next(super().texts(rows[:1]))
            raise KeyboardInterrupt

    with Encoder.open(workspace=workspace) as encoder, pytest.raises(KeyboardInterrupt):
        encode_corpus(Broken("titles", TITLES), encoder, workspace=workspace)
    assert cache_gc(workspace=workspace).n_rows == 0


def test_a_damaged_record_of_a_corpus_stops_gc(workspace: Workspace) -> None:
    with Encoder.open(workspace=workspace) as encoder:
        encode_corpus(Texts("titles", TITLES), encoder, workspace=workspace)
    path = workspace.corpora / "titles.digests"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadTable, match=r"titles\.digests.*a multiple of 16 bytes"):
        cache_gc(workspace=workspace)


def test_texts_that_change_during_a_run_are_not_stored(workspace: Workspace) -> None:
    corpus = Texts("titles", TITLES)
    digests = corpus.digests(SILENT)
    corpus._texts[1] = "another"
    with pytest.raises(BadTable, match="titles"):
        list(checked_texts(corpus, np.arange(4), digests))


@pytest.mark.parametrize("texts", ["one string", ["a", 3], [None], ["\ud800"]])
def test_values_that_are_not_lists_of_texts_are_refused(texts: object) -> None:
    with pytest.raises(BadSetting, match="titles"):
        Texts("titles", texts)


def test_a_corpus_needs_a_valid_name_and_may_be_empty() -> None:
    with pytest.raises(BadName):
        Texts("Titles!", [])
    assert Texts("titles", []).digests(SILENT).shape == (0, 16)
