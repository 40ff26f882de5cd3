"""Small synthetic domains with known structure."""

import numpy as np

from loid_infer.types import Floats, Interactions


def interactions(users, items, ratings, texts=None, timestamps=None) -> Interactions:
    n = len(users)
    texts = np.arange(n) if texts is None else texts
    n_texts = int(texts.max()) + 1
    digests = np.zeros((n_texts, 16), np.uint8)
    digests[:, :8] = np.arange(n_texts, dtype="<u8").view(np.uint8).reshape(-1, 8)
    return Interactions(
        user_ids=[f"u{code:05}" for code in range(users.max() + 1)],
        item_ids=[f"i{code:05}" for code in range(items.max() + 1)],
        users=users,
        items=items,
        ratings=ratings.astype(np.float32),
        timestamps=np.arange(n) if timestamps is None else timestamps,
        texts=texts,
        digests=digests,
        empty=np.zeros(n_texts, bool),
        rating_range=(1.0, 5.0),
        digest="generated",
    )


def pairs(n_users: int, n_items: int, per_user: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    users = np.repeat(np.arange(n_users), per_user)
    items = np.concatenate([rng.choice(n_items, per_user, replace=False) for _ in range(n_users)])
    return users, items


def stated_ratings(seed: int = 0, n: int = 600) -> tuple[Interactions, Floats]:
    """Vectors contain the rating of their review; users and items are uninformative; about five reviews each."""
    rng = np.random.default_rng(seed)
    users, items = pairs(n, n, 5, rng)
    ratings = rng.integers(1, 6, len(users))
    vectors = rng.normal(0, 0.1, (len(users), 16))
    vectors[:, 0] = ratings - 3
    return interactions(users, items, ratings), vectors.astype(np.float16)


def noisy_ratings(seed: int = 0) -> tuple[Interactions, Floats]:
    """Vectors contain the quality of the item, while ratings are noisy: texts beat biases."""
    rng = np.random.default_rng(seed)
    users, items = pairs(400, 300, 6, rng)
    quality = rng.normal(0, 0.8, 300)
    ratings = np.clip(np.rint(3.2 + quality[items] + rng.normal(0, 1, len(users))), 1, 5)
    vectors = rng.normal(0, 1, (len(users), 16))
    vectors[:, 3] = quality[items]
    return interactions(users, items, ratings), vectors.astype(np.float16)


def symmetric(seed: int = 0) -> tuple[Interactions, Floats]:
    """Users and items with the same number and distribution; vectors contain both biases."""
    rng = np.random.default_rng(seed)
    users, items = np.divmod(rng.choice(300 * 300, 6_000, replace=False), 300)
    leaning, quality = rng.normal(0, 0.6, (2, 300))
    ratings = np.clip(np.rint(3 + leaning[users] + quality[items] + rng.normal(0, 0.7, len(users))), 1, 5)
    vectors = rng.normal(0, 1, (len(users), 16))
    vectors[:, 3], vectors[:, 7] = 2 * leaning[users], 2 * quality[items]
    return interactions(users, items, ratings), vectors.astype(np.float16)
