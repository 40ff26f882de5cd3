"""`similar`: finds the items, users or reviews of a domain that are nearest to an item, a user or a text.

The vector of an item or user is the mean over its reviews. The index is saved, and rebuilt when the table or the
encoder has changed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec import Struct, field

from loid_infer.artifact import new_folder, read_manifest, versions, write_manifest
from loid_infer.data.reviews import ReviewTable, open_table
from loid_infer.encoder import Encoder
from loid_infer.encoders.folder import EncoderFolder
from loid_infer.errors import BadArtifact, BadSetting, NoSpace
from loid_infer.neighbors import Index, build, directions
from loid_infer.settings import Workspace, WorkspaceLike, check_choice, check_number
from loid_infer.store.reader import StoreReader, open_store
from loid_infer.tensors import save_tensors
from loid_infer.types import SILENT, Floats, Interactions, Ints, Progress, check_texts
from loid_infer.verbs.encoder import encode_command, resolve

_FORMAT = 1
_FILE, _CENTER = "index.faiss", "center.safetensors"
_STEP = 1 << 16


class IndexManifest(Struct, frozen=True, kw_only=True, tag_field="kind", tag="index"):
    """`manifest.json` of an index."""

    format: int
    domain: str
    table: str  # digest of the domain's table
    encoder: str
    fingerprint: str
    of: str  # items | users | reviews
    index: str  # exact | inverted lists
    recall: float
    n: int
    versions: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Neighbor:
    """An item, user or review near the query."""

    id: str  # id of an item or user, or row of a review in the table
    score: float  # cosine after subtracting the mean of the domain, -1..1
    n_reviews: int  # number of reviews in the mean; for a review, number of reviews with the same text
    user_id: str | None = None  # this and the following only for reviews
    item_id: str | None = None
    rating: float | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class SimilarResult:
    """The neighbors, nearest first."""

    domain: str
    encoder: str
    fingerprint: str
    of: str  # items | users | reviews
    query: str
    neighbors: tuple[Neighbor, ...]
    n_indexed: int
    index: str  # exact | inverted lists
    recall: float  # of the index against exact search, measured when it was built
    path: str
    seconds: float


def similar(
    domain: str,
    *,
    item: str | None = None,
    user: str | None = None,
    text: str | None = None,
    of: str | None = None,
    n: int = 10,
    encoder: str | None = None,
    device: str = "auto",
    workspace: WorkspaceLike = None,
    progress: Progress = SILENT,
) -> SimilarResult:
    """The `n` nearest neighbors of an item, a user or a text, without the query itself.

    Reviews without text are ignored, and reviews with equal texts are one neighbor.

    Args:
        item, user, text: the query; exactly one is given.
        of: what to search: `items`, `users` or `reviews`; by default the kind of the query, `reviews` for a text.
        device: auto | cpu | cuda, for encoding a text.

    Raises:
        BadSetting: not exactly one query, an unknown id or kind, or an item or user without texts.
        BadTable, BadName, BadArtifact, NotEncoded, BadStore: see `open_table`, `resolve`, `open_store`.
        RuntimeMissing, ParityError: see `Encoder.runtime`.
    """
    start = time.perf_counter()
    options = (("item", "items", item), ("user", "users", user), ("text", "reviews", text))
    queries = [(option, kind, value) for option, kind, value in options if value is not None]
    if len(queries) != 1:
        got = " and ".join(f"--{option}" for option, _, _ in queries) or "none"
        raise BadSetting("specify one query", expected="exactly one of --item, --user and --text", got=got)
    (_, source, query), of = queries[0], of or queries[0][1]
    check_choice("of", of, ("items", "users", "reviews"))
    is_text = source == "reviews"
    if is_text and not check_texts([query], "--text")[0].strip():
        raise BadSetting("the text is empty", where="--text", expected="some words")
    check_number("-n", n, 1, math.inf)
    workspace = Workspace.of(workspace)
    table = open_table(workspace.table(domain), domain)
    resolved = resolve(workspace, encoder, domain)
    data = table.interactions(progress)
    encode = encode_command(resolved.name, domain)
    with open_store(workspace.store(resolved.fingerprint), resolved.spec, resolved.fingerprint, encode) as store:
        vectors = _Vectors(data, store, encode)
        folder = workspace.root / "exports" / "indexes" / f"{domain}.{resolved.name}.{of}"
        if is_text:
            with Encoder.open(resolved, device=device, progress=progress) as opened:
                vector = opened.encode([query])[0]
        else:
            vector = vectors.mean_of(source, query, domain)
        index, center, codes = _index(folder, of, table, resolved, vectors, progress)
    numbers, scores = index.search(directions(vector[None], center)[0], n + 1)
    near = [(int(codes[number]), float(score)) for number, score in zip(numbers, scores, strict=True)]
    own = vectors.code(source, query) if source == of != "reviews" else -1
    near = [(code, score) for code, score in near if code != own][:n]
    return SimilarResult(
        domain,
        resolved.name,
        resolved.fingerprint,
        of,
        query,
        _neighbors(of, near, data, table),
        index.n,
        index.kind,
        index.recall,
        str(folder),
        time.perf_counter() - start,
    )


class _Vectors:
    """The vectors of a domain's texts, and the means over items and users."""

    def __init__(self, data: Interactions, store: StoreReader, fix: str) -> None:
        self.data, self._store, self._fix = data, store, fix
        self.filled = ~data.empty[data.texts]  # [n], whether a review has text

    def of_texts(self, texts: Ints) -> Floats:
        """The stored vectors `[m, d]` of text codes `[m]`."""
        digests = self.data.digests[texts]
        return self._store.gather(self._store.rows_of(digests, self._fix), digests)

    def code(self, kind: str, name: str) -> int:
        """The code of an item or user id; -1 if unknown."""
        ids = _groups(kind, self.data)[1]
        at = int(np.searchsorted(np.asarray(ids, object), name))
        return at if at < len(ids) and ids[at] == name else -1

    def mean_of(self, kind: str, name: str, domain: str) -> Floats:
        """The mean vector `[d]` of an item or user."""
        code, what = self.code(kind, name), kind.removesuffix("s")
        rows = np.flatnonzero((_groups(kind, self.data)[0] == code) & self.filled)
        if not len(rows):
            problem = f"the domain has no such {what}" if code < 0 else "none of its reviews has text"
            fix = f"See data/{domain}.parquet for valid ids."
            raise BadSetting(problem, where=f"--{what}", got=repr(name), fix=fix)
        mean: Floats = self.of_texts(self.data.texts[rows]).astype(np.float64).mean(0)
        return mean

    def means(self, kind: str) -> tuple[Floats, Ints]:
        """Mean vectors `[m, d]` float32 of all items or users with texts, and their codes `[m]`."""
        rows = np.flatnonzero(self.filled)
        groups = _groups(kind, self.data)[0][rows]
        order = np.argsort(groups, kind="stable")
        codes, starts = np.unique(groups[order], return_index=True)
        sums = np.zeros((len(codes), self._store.environment.spec.dim), np.float32)
        for start in range(0, len(rows), _STEP):
            part = self.of_texts(self.data.texts[rows[order[start : start + _STEP]]]).astype(np.float32)
            first = int(np.searchsorted(starts, start, side="right")) - 1
            last = int(np.searchsorted(starts, start + len(part)))
            bounds = np.maximum(starts[first:last] - start, 0)
            sums[first:last] += np.add.reduceat(part, bounds, axis=0)
        sums /= np.diff(np.append(starts, len(rows)))[:, None]
        return sums, codes


def _index(
    folder: Path, of: str, table: ReviewTable, encoder: EncoderFolder, vectors: _Vectors, progress: Progress
) -> tuple[Index, Floats, Ints]:
    """The index, the subtracted mean `[d]` and the code of each vector `[n]`; rebuilt if table or encoder differ."""
    from safetensors.numpy import load_file

    try:
        manifest = read_manifest(folder, IndexManifest, "", form=_FORMAT)
        if (manifest.table, manifest.fingerprint, manifest.of) == (table.digest, encoder.fingerprint, of):
            tensors = load_file(folder / _CENTER)
            index = Index.load(folder / _FILE, manifest.index, manifest.recall)
            return index, tensors["center"], tensors["codes"]
    except BadArtifact:
        pass  # missing or damaged: build it again
    progress.say(f"building the index of {of} for this table and encoder")
    if of == "reviews":
        codes = np.unique(vectors.data.texts[vectors.filled])
        matrix = vectors.of_texts(codes)
    else:
        matrix, codes = vectors.means(of)
    if not len(matrix):
        raise BadSetting("nothing to search: no review has text", where=table.domain, fix="Ingest reviews with text.")
    center = matrix.mean(0, dtype=np.float64).astype(np.float32)
    index = build(matrix, center)
    manifest = IndexManifest(
        format=_FORMAT,
        domain=table.domain,
        table=table.digest,
        encoder=encoder.name,
        fingerprint=encoder.fingerprint,
        of=of,
        index=index.kind,
        recall=index.recall,
        n=index.n,
        versions=versions("faiss-cpu", "faiss-gpu", "numpy"),
    )
    try:
        with new_folder(folder) as temporary:
            index.save(temporary / _FILE)
            save_tensors(temporary / _CENTER, {"center": center, "codes": codes}, copy=True)
            write_manifest(temporary, manifest)
    except NoSpace as error:  # another user's workspace
        progress.say(f"the index is not kept: {error.what}")
    return index, center, codes


def _neighbors(
    of: str, near: Sequence[tuple[int, float]], data: Interactions, table: ReviewTable
) -> tuple[Neighbor, ...]:
    if of != "reviews":
        groups, ids = _groups(of, data)
        counts = np.bincount(groups[~data.empty[data.texts]], minlength=len(ids))
        return tuple(Neighbor(ids[code], score, int(counts[code])) for code, score in near)
    rows = {code: np.flatnonzero(data.texts == code) for code, _ in near}
    firsts = sorted(int(numbers[0]) for numbers in rows.values())
    ordered = [text for _, part in table.texts(np.array(firsts, np.int64)) for text in part]
    texts = dict(zip(firsts, ordered, strict=True))
    neighbors = []
    for code, score in near:
        row, n_reviews = int(rows[code][0]), len(rows[code])
        user, item, rating = data.user_ids[data.users[row]], data.item_ids[data.items[row]], float(data.ratings[row])
        neighbors.append(Neighbor(str(row), score, n_reviews, user, item, rating, texts[row]))
    return tuple(neighbors)


def _groups(kind: str, data: Interactions) -> tuple[Ints, Sequence[str]]:
    """The item or user code of each review, `[n]`, and the ids of the codes."""
    return (data.items, data.item_ids) if kind == "items" else (data.users, data.user_ids)
