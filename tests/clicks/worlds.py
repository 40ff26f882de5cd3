"""Labeled pairs with a known structure."""

import csv
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from loid_infer import ingest_clicks, ingest_items
from loid_infer.data.clicks import Clicks, read_clicks
from loid_infer.data.kinds import PARTS
from loid_infer.data.planted import draw_likes
from loid_infer.learning import loop
from loid_infer.settings import Workspace

COLUMNS = ("user_id", "item_id", "label", "timestamp", "split")


@contextmanager
def killed_after(n_steps: int):
    """Training is interrupted before this step."""
    step, n = loop._Run.take_step, []

    def take_step(self, batch):
        n.append(1)
        if len(n) == n_steps:
            raise KeyboardInterrupt
        return step(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Run, "take_step", take_step)
        yield


def whole_and_resumed(fit, n_steps: int) -> None:
    """Fit `whole`, and `resumed`, which is killed before this step and goes on."""
    fit(name="whole")
    with killed_after(n_steps), pytest.raises(KeyboardInterrupt):
        fit(name="resumed")
    fit(name="resumed")


def write_pairs(ws: Workspace, domain: str, rows, titles: dict[str, str] | None = None, seed: int = 0) -> Clicks:
    """Ingest rows of COLUMNS, and items with these titles."""
    ws.root.mkdir(parents=True, exist_ok=True)
    source = ws.root / f"{domain}.csv"
    _write(source, COLUMNS, rows)
    ingest_clicks([source], domain, workspace=ws)
    if titles is not None:
        _write(source, ("item_id", "title"), titles.items())
        ingest_items([source], domain, workspace=ws)
    return read_clicks(ws.clicks(domain), domain, seed)


def _write(path: Path, header, rows) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def clusters(n_users: int = 120, size: int = 20, n_pairs: int = 16, seed: int = 0):
    """Rows of users who like the items of their own cluster, of two, and not those of the other one."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        for at, item in enumerate(rng.permutation(2 * size)[:n_pairs].tolist()):
            part = ("train", "valid", "test")[max(0, at - n_pairs + 3)]
            rows.append((f"u{user:03}", f"c{item % 2}i{item:02}", int(item % 2 == user % 2), at, part))
    return rows


def both_needed(n_users: int = 60, seed: int = 0):
    """Rows and titles: neither interactions nor titles say alone who likes what.

    Users like the `plain` items of their own cluster, which have one title. Every other item is met once, so that
    nothing is known of it but its title: one cluster likes `great`, the other one `awful`. All pairs have the same
    time, so that there are no histories.
    """
    rng = np.random.default_rng(seed)
    rows, titles = [], {f"plain{item}": "the case" for item in range(24)}
    for user in range(n_users):
        for at, item in enumerate(rng.permutation(24)[:14].tolist()):
            part = "train" if at < 12 else "valid"
            rows.append((f"u{user:03}", f"plain{item}", int(item % 2 == user % 2), 1, part))
        for number in range(14):
            word, item = number % 2, f"only{user:03}n{number}"
            titles[item] = f"{('great', 'awful')[word]} {('sound', 'guitar', 'cable')[rng.integers(3)]}"
            part = "train" if number < 10 else "valid" if number < 12 else "test"
            rows.append((f"u{user:03}", item, int(word == user % 2), 1, part))
    return rows, titles


def latecomers(n_users: int = 120, seed: int = 0):
    """Rows and titles: users of two clusters, each with its own items and its own word in titles, and every second user
    is a latecomer, who liked two items that nobody else met: interactions say nothing of it, but their titles do.

    Every target of validation and test stands among three items of the other cluster.
    """
    rng = np.random.default_rng(seed)
    words, nouns = ("great", "awful"), ("sound", "guitar", "cable")
    titles = {f"{word}{item:02}": f"{word} {nouns[item % 3]}" for word in words for item in range(24)}
    rows = []
    for user in range(n_users):
        own, other = ([f"{word}{item:02}" for item in rng.permutation(24)] for word in words[:: 1 - 2 * (user % 2)])
        liked = own[:8]
        if user % 4 < 2:
            for pile, kind in ((liked, "only"), (other, "never")):
                titles |= {f"{kind}{user}n{number}": titles[pile[0]] for number in range(2)}
            liked[:-2] = [f"only{user}n{number}" for number in range(2)]
            other += [f"never{user}n{number}" for number in range(2)]
        for at, item in enumerate(liked):
            part = ("train", "valid", "test")[max(0, at - len(liked) + 3)]
            negatives = [other.pop() for _ in range(1 if part == "train" else 3)]
            rows += [(f"u{user:03}", each, int(each == item), at, part) for each in (item, *negatives)]
    return rows, titles


def two_parts(n_pairs: int = 2_160, seed: int = 0):
    """Rows, titles and the probabilities of the test pairs that interactions know, and that titles know.

    Those of `sample --implicit`, with titles in the words of these tests. All pairs have the same time, so that there
    are no histories.
    """
    world = draw_likes("d", n_pairs, seed)
    (columns,) = world.columns(np.arange(world.n))
    columns["timestamp"] = [1] * world.n
    rows = [*zip(*(columns[name] for name in COLUMNS), strict=True)]
    nouns, words = ("sound", "guitar", "cable"), {0: "the case", 1: "great {}", -1: "awful {}"}
    picked = np.random.default_rng(seed).integers(0, 3, len(world.tones)).tolist()
    titles = [words[tone].format(nouns[noun]) for tone, noun in zip(world.tones.tolist(), picked, strict=True)]
    test = world.parts == PARTS.index("test")
    return rows, dict(zip(world.item_ids(), titles, strict=True)), world.by_interactions[test], world.by_titles[test]
