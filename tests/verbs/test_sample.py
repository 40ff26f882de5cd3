"""`sample`: tables, reproducibility, and signals that can be learned from texts, across domains and for cold items."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from loid_infer.clicks.training import auc
from loid_infer.data.canonical import METADATA_KEY
from loid_infer.data.clicks import read_clicks
from loid_infer.data.events import read_events
from loid_infer.data.items import open_items
from loid_infer.data.kinds import PARTS
from loid_infer.data.planted import ATTAINABLE_AUC, draw_likes
from loid_infer.data.reviews import open_table
from loid_infer.data.sample import draw_world
from loid_infer.data.vocabulary import OPINIONS, aspects_of
from loid_infer.errors import BadName, BadSetting
from loid_infer.settings import Workspace
from loid_infer.types import SILENT
from loid_infer.verbs.tables import sample


@pytest.fixture
def ws(tmp_path):
    return Workspace(tmp_path)


def test_tables_match_the_reported_counts(ws):
    result = sample(n_reviews=500, workspace=ws)
    assert [domain.domain for domain in result.domains] == ["electronics", "movies_tv", "video_games"]
    assert "synthetic" in result.note
    for domain in result.domains:
        data = open_table(ws.table(domain.domain), domain.domain).interactions(SILENT)
        assert (data.n, len(data.user_ids), len(data.item_ids)) == (500, domain.n_users, domain.n_items)
        assert len({*zip(data.users.tolist(), data.items.tolist(), strict=True)}) == 500
        assert set(data.ratings.tolist()) <= {1, 2, 3, 4, 5}
        assert all(name.startswith("synthetic-u") for name in data.user_ids)
        assert all(name.startswith("synthetic-i") for name in data.item_ids)
        assert json.loads(pq.ParquetFile(domain.path).metadata.metadata[METADATA_KEY])["synthetic"] is True


def test_tables_depend_only_on_name_size_and_seed(tmp_path):
    def tables(name, domains, **settings):
        ws = Workspace(tmp_path / name)
        sample(domains, workspace=ws, **{"n_reviews": 300, **settings})
        return {domain: ws.table(domain).read_bytes() for domain in domains}

    first = tables("first", ["books", "garden"])
    assert tables("second", ["garden", "toys", "books"]).items() >= first.items()
    assert first["books"] != first["garden"]
    assert tables("third", ["books"], seed=1)["books"] != first["books"]


def test_texts_do_not_depend_on_how_many_are_generated():
    world = draw_world("books", 20_000, 0)
    (rows, first), (more, second) = world.texts()
    assert (rows, more) == (slice(0, 16_384), slice(16_384, 20_000))
    assert next(world.texts())[1] == first
    assert len(first + second) == world.n


@pytest.mark.parametrize("n", [1, 2, 7, 40, 400])
def test_any_number_of_reviews_can_be_sampled(n, ws):
    (written,) = sample(["a-new+one"], n_reviews=n, workspace=ws).domains
    assert written.n_reviews == n


def test_settings_outside_their_range(ws):
    with pytest.raises(BadSetting, match="at least 1, got 0"):
        sample(["books"], n_reviews=0, workspace=ws)
    with pytest.raises(BadSetting, match="at least 0, got -1"):
        sample(["books"], seed=-1, workspace=ws)
    with pytest.raises(BadName, match="invalid domain name"):
        sample(["books", "../../etc"], workspace=ws)
    assert not ws.table("books").exists()


def test_texts_are_varied_and_some_are_short_long_or_empty():
    texts = texts_of(draw_world("video_games", 10_000, 0))
    n_words = np.array([len(text.split()) for text in texts])
    assert len(set(texts)) > 9_000
    assert 5 < (n_words == 0).sum() < 50
    assert texts.count("Great!") > 5
    assert (n_words > 200).sum() > 50
    assert 15 < np.median(n_words) < 60


def test_activity_is_skewed():
    counts = np.bincount(draw_world("video_games", 10_000, 0).items)
    assert counts.max() > 10 * np.median(counts)


def test_domains_have_shared_and_specific_aspects():
    shared = set(aspects_of("electronics")) & set(aspects_of("video_games"))
    assert shared == {"value", "durability", "delivery"}
    assert "graphics" in aspects_of("video_games")
    assert len(aspects_of("never-heard-of")) == 7
    assert aspects_of("never-heard-of") == aspects_of("never-heard-of")


# The generating model


def texts_of(world):
    return [text for _, texts in world.texts() for text in texts]


def test_the_expected_rating_equals_the_mean_of_sampled_ratings():
    world = draw_world("video_games", 400, 0)
    draw = np.random.default_rng(1)
    ratings = np.clip(np.rint(world.levels + draw.normal(0, 0.6, (4_000, 400))), 1, 5)
    assert np.abs(ratings.mean(axis=0) - world.expected()).max() < 0.06
    assert abs(ratings.var(axis=0).mean() - world.attainable_mse()) < 0.005


def test_the_expected_rating_reaches_the_attainable_mse():
    world = draw_world("video_games", 50_000, 0)
    mse = ((world.ratings - world.expected()) ** 2).mean()
    assert abs(mse - world.attainable_mse()) < 0.01
    assert mse < 0.6 * world.ratings.var()


def opinion_counts(texts):
    """`[n, n_words]`: how often each opinion word occurs in each text, in the order of OPINIONS."""
    words = [word for level in OPINIONS for word in level]
    return np.array([[text.count(f" {word}.") for word in words] for text in texts], np.float64)


def sums_by(codes, values):
    sums = np.zeros((codes.max() + 1, values.shape[1]))
    np.add.at(sums, codes, values)
    return sums


def features_of_others(codes, values):
    """Mean counts of the other reviews of each row's user or item, shrunk towards 0 where there are few."""
    rest = sums_by(codes, values)[codes] - values
    return rest / (rest.sum(axis=1, keepdims=True) + 3)


def ridge(x, y, penalty=1.0):
    centered, mean = x - x.mean(axis=0), y.mean()
    weights = np.linalg.solve(centered.T @ centered + penalty * np.eye(x.shape[1]), centered.T @ (y - mean))
    return weights, mean - x.mean(axis=0) @ weights


def mse(world, rows, predicted):
    return ((world.ratings[rows] - predicted) ** 2).mean()


@pytest.fixture(scope="module")
def games():
    world = draw_world("video_games", 12_000, 3)
    return world, opinion_counts(texts_of(world))


def test_the_text_of_other_reviews_predicts_the_rating(games):
    world, counts = games
    test = np.random.default_rng(0).random(world.n) < 0.2
    x = features_of_others(world.items, counts)
    weights, bias = ridge(x[~test], world.ratings[~test])
    variance = mse(world, test, world.ratings[~test].mean())
    mse_from_texts = mse(world, test, x[test] @ weights + bias)
    # Opinion words alone, without users and aspects, explain half of the explainable variance.
    explained = (variance - mse_from_texts) / (variance - world.attainable_mse())
    assert 0.45 < explained < 1


def test_regression_weights_of_opinions_increase_with_their_degree(games):
    world, counts = games
    weights, _ = ridge(counts, world.ratings)
    by_level = weights.reshape(len(OPINIONS), -1).mean(axis=1)
    assert (np.diff(by_level) > 0).all()


def test_opinion_weights_transfer_to_a_domain_with_few_reviews(games):
    world, counts = games
    source_weights, _ = ridge(counts, world.ratings)
    target = draw_world("electronics", 4_000, 4)
    target_counts = opinion_counts(texts_of(target))
    few, rest = slice(0, 40), slice(40, None)
    own_weights, own_bias = ridge(target_counts[few], target.ratings[few])
    own = mse(target, rest, target_counts[rest] @ own_weights + own_bias)
    bias = (target.ratings[few] - target_counts[few] @ source_weights).mean()
    transferred = mse(target, rest, target_counts[rest] @ source_weights + bias)
    assert transferred < 0.95 * own
    assert transferred < 0.8 * mse(target, rest, target.ratings[few].mean())


def test_ratings_of_cold_items_can_be_predicted_from_texts(games):
    world, counts = games
    cold = world.items % 5 == 0  # items without training ratings
    x = features_of_others(world.items, counts)
    weights, bias = ridge(x[~cold], world.ratings[~cold])
    assert mse(world, cold, x[cold] @ weights + bias) < 0.9 * mse(world, cold, world.ratings[~cold].mean())


def test_opinions_in_texts_correlate_with_item_qualities(games):
    world, _ = games
    texts = texts_of(world)
    level_of = {word: level for level, words in enumerate(OPINIONS) for word in words}
    nouns = {noun: k for k, names in enumerate(aspects_of(world.domain).values()) for noun in names}
    sums, n = np.zeros_like(world.qualities), np.zeros_like(world.qualities)
    for item, text in zip(world.items, texts, strict=True):
        for sentence in text.split("."):
            level = next((level_of[word] for word in level_of if sentence.endswith(f" {word}")), None)
            aspect = next((k for noun, k in nouns.items() if f"the {noun}" in sentence.replace("The", "the")), None)
            if level is not None and aspect is not None:
                sums[item, aspect] += level
                n[item, aspect] += 1
    enough = n >= 5
    assert enough.sum() > 500
    assert np.corrcoef(sums[enough] / n[enough], world.qualities[enough])[0, 1] > 0.9


def test_likes_are_interactions_items_and_labeled_pairs(ws):
    (written,) = sample(["books"], implicit=True, n_reviews=100, workspace=ws).domains
    clicks, events = read_clicks(ws.clicks("books"), "books", 0), read_events(ws.table("books"), "books")
    items = open_items(ws.items("books"), "books")
    assert (written.n_pairs, len(clicks.labels)) == (108, 108)
    assert [int((clicks.parts == code).sum()) for code in range(3)] == [72, 12, 24]

    def pairs(users, items, rows):
        return {*zip(np.array(users)[rows.users].tolist(), np.array(items)[rows.items].tolist(), strict=True)}

    assert written.n_reviews == events.n == clicks.labels.sum()
    liked = {
        (clicks.user_ids[user], clicks.item_ids[item])
        for user, item, label in zip(clicks.users.tolist(), clicks.items.tolist(), clicks.labels.tolist(), strict=True)
        if label
    }
    assert pairs(events.user_ids, events.item_ids, events) == liked
    assert {*clicks.item_ids} <= {*items.item_ids}
    assert all(items.titles) and all(name.startswith("synthetic-") for name in (*clicks.user_ids, *items.item_ids))
    assert (events.n, len(events.user_ids), len(events.item_ids)) == (
        written.n_reviews,
        written.n_users,
        written.n_items,
    )


def test_likes_depend_only_on_name_size_and_seed(tmp_path):
    def tables(name, **settings):
        ws = Workspace(tmp_path / name)
        sample(["books"], implicit=True, workspace=ws, **{"n_reviews": 300, **settings})
        return [path.read_bytes() for path in (ws.table("books"), ws.items("books"), ws.clicks("books"))]

    first = tables("first")
    assert tables("second") == first
    assert all(one != other for one, other in zip(tables("third", seed=1), first, strict=True))


def test_interactions_know_one_half_of_the_likes_and_titles_the_other():
    world = draw_likes("books", 72_000, 0)
    plain = world.tones[world.items] == 0
    assert plain.mean() == 0.5
    assert len({title for title, tone in zip(world.titles, world.tones, strict=True) if tone == 0}) == 1
    assert np.bincount(world.items[~plain]).max() == 1
    assert len(np.unique(world.users * len(world.titles) + world.items)) == world.n
    # Where titles tell nothing, labels follow the groups of user and item; elsewhere, the title.
    agrees = np.where(plain, world.items % 2 == world.users % 2, world.tones[world.items] > 0)
    assert (agrees == world.labels).mean() == pytest.approx(0.9, abs=0.005)
    assert all((np.diff(world.timestamps[world.users == user]) > 0).all() for user in range(20))
    test = world.parts == PARTS.index("test")
    known = {"interactions": world.by_interactions, "titles": world.by_titles, "both": world.both}
    for what, optimum in ATTAINABLE_AUC.items():
        assert auc(known[what][test], world.labels[test] > 0) == pytest.approx(optimum, abs=0.01)
