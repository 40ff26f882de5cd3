"""Sequences with a known structure."""

import numpy as np

from loid_infer.data.events import Events
from loid_infer.data.sequences import Sequences, sequences_of
from loid_infer.types import NO_TIME


def events(triples, *, timed: bool = True, digest: str = "d") -> Events:
    """Events of (user, item, time or position)."""
    user_ids, users = np.unique([str(user) for user, _, _ in triples], return_inverse=True)
    item_ids, items = np.unique([str(item) for _, item, _ in triples], return_inverse=True)
    order = np.array([at for _, _, at in triples], np.int64)
    missing = np.full(len(order), NO_TIME)
    times, positions = (order, missing) if timed else (missing, order)
    return Events(user_ids.tolist(), item_ids.tolist(), users, items, times, positions, digest)


def chains(n_users: int = 400, n_items: int = 30, length: int = 8, seed: int = 0) -> Sequences:
    """Every user walks around a fixed circle of the items from a random start: the last item decides the next one."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(n_items)
    follow = np.empty(n_items, np.int64)
    follow[order] = np.roll(order, -1)
    rows = []
    for user in range(n_users):
        item = int(rng.integers(n_items))
        for at in range(length):
            rows.append((f"u{user:04}", f"i{item:03}", at))
            item = int(follow[item])
    return sequences_of({"chain": events(rows)}, 0)


def clusters(n_users: int = 300, n_clusters: int = 6, size: int = 12, length: int = 7, seed: int = 0) -> Sequences:
    """Every user takes random items of one cluster."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        cluster = user % n_clusters
        picked = rng.permutation(size)[:length]
        rows += [(f"u{user:04}", f"c{cluster}i{item:02}", at) for at, item in enumerate(picked.tolist())]
    return sequences_of({"clusters": events(rows)}, 0)
