"""`plugin similarity`: how alike the reviews of domains are to the plain base, LoID's table 2.

Tells which source domains may help a target before any plugin is trained. The verb draws texts and compares vectors; it
knows no plugin, and keeps nothing but the matrix and its picture.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from loid_infer.artifact import new_file
from loid_infer.data.reviews import ReviewTable, open_table
from loid_infer.encoder import Encoder
from loid_infer.encoders.processor import n_usable_threads
from loid_infer.errors import BadSetting
from loid_infer.graphs.bases import Base, load_base
from loid_infer.graphs.sentence import POOLINGS
from loid_infer.kernels import sampling
from loid_infer.kernels.cosine import mean_pairwise_cosine
from loid_infer.settings import DEFAULT_BASE, Place, Workspace
from loid_infer.types import SILENT, Floats, Progress

RECORD, PICTURE = "similarity.json", "similarity.png"


@dataclass(frozen=True, slots=True)
class SimilarityResult:
    """Mean cosines between reviews of domains."""

    domains: tuple[str, ...]  # [n], as they were given
    matrix: tuple[tuple[float, ...], ...]  # [n, n], symmetric
    pooling: str
    n_texts: int  # drawn of each domain, and as many again for its diagonal
    base: str
    max_tokens: int
    seed: int
    path: str  # of the heat map; the matrix lies beside it, in RECORD
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """Texts of one domain: `n` to compare with other domains, then `n` others to compare these with."""

    domain: str
    content: str  # digest of all its texts, whatever their order
    texts: list[str]  # [2n]


def plugin_similarity(
    domains: Sequence[str],
    *,
    base: str = DEFAULT_BASE,
    pooling: str = "mean",
    n_texts: int = 100,
    max_tokens: int | None = None,
    seed: int = 0,
    workspace: Place = None,
    progress: Progress = SILENT,
) -> SimilarityResult:
    """Compare domains by the mean cosine over all `n_texts` x `n_texts` pairs of reviews; matrix and map to `reports/`.

    Texts are drawn among the different texts of a domain that are not blank. The diagonal compares two draws that share
    no text: pairs of a text with itself would raise it and say nothing. A draw depends on the seed and the domain's
    texts, neither on their order nor on what other domains are given.

    Args:
        base: `default`, a folder, a GGUF file, or a hub name; see `export`.
        pooling: `mean` over a text's tokens, as in the paper, or `cls`, or `last`.
        max_tokens: longest input; by default 256, or what the base allows if that is less.

    Raises:
        BadSetting: fewer than two domains, one given twice or under two names, one with fewer than 2 `n_texts` texts,
            or another option outside its range.
        BadTable, BadName: a domain has no table, or its name is none.
        BadArtifact, RuntimeMissing: the base cannot be had or is of no family we compute.
        NoSpace: matrix or picture cannot be written.
    """
    start = time.perf_counter()
    place = Workspace.of(workspace)
    _check(domains, n_texts, pooling)
    tables = [open_table(place.table(domain), domain) for domain in domains]
    drawn = [_draw(table, n_texts, seed, progress) for table in tables]
    _check_different(drawn)
    source = load_base(base, pooling, normalize=False)
    max_tokens = source.max_tokens(max_tokens)
    with progress.task("vectors", 2 * n_texts * len(drawn), "texts") as task:
        encoder, vectors = _plain(source, max_tokens), []
        for texts in drawn:  # domain by domain, so that no last bit depends on the others
            vectors.append(encoder.encode(texts.texts))
            task.advance(2 * n_texts)
    matrix = _matrix(vectors, n_texts)
    result = SimilarityResult(
        domains=tuple(domains), matrix=tuple(map(tuple, matrix.tolist())), pooling=pooling, n_texts=n_texts,
        base=source.name, max_tokens=max_tokens, seed=seed, path=str(place.reports / PICTURE), seconds=0.0,
    )  # fmt: skip
    _record(result)
    _picture(result)
    return replace(result, seconds=time.perf_counter() - start)


def _plain(base: Base, max_tokens: int) -> Encoder:
    """The base in float32 as it is: good for a few hundred texts, and no export."""
    from loid_infer.architectures.transformer import Transformer
    from loid_infer.encoders.torch import TorchRuntime

    spec = base.spec("", max_tokens)
    module = Transformer(spec, base.tensors)
    return Encoder(spec, lambda: (base.tokenizer(max_tokens), TorchRuntime(module, "fp32", n_usable_threads())))


def _record(result: SimilarityResult) -> None:
    # No seconds and no path: the same texts give the same bytes anywhere.
    said = {name: value for name, value in asdict(result).items() if name not in ("path", "seconds")}
    with new_file(Path(result.path).with_name(RECORD)) as temporary:
        temporary.write_text(json.dumps(said, indent=1) + "\n")


def _picture(result: SimilarityResult) -> None:
    from loid_infer.figures import heat_map

    note = (
        f"Mean cosine over {result.n_texts} x {result.n_texts} reviews; {result.pooling} pooling of {result.base}, at "
        f"most {result.max_tokens} tokens, seed {result.seed}. On the diagonal: two draws of one domain that share no "
        "text."
    )
    with new_file(Path(result.path)) as temporary:
        heat_map(temporary, result.domains, np.array(result.matrix), "Similarity of domains", note)


def _matrix(vectors: Sequence[Floats], n_texts: int) -> Floats:
    """`[n, n]` from the `[2 n_texts, d]` vectors of each domain."""
    matrix = np.empty((len(vectors), len(vectors)))
    for i, one in enumerate(vectors):
        matrix[i, i] = mean_pairwise_cosine(one[:n_texts], one[n_texts:])
        for j, other in enumerate(vectors[:i]):
            matrix[i, j] = matrix[j, i] = mean_pairwise_cosine(one[:n_texts], other[:n_texts])
    return matrix


def _draw(table: ReviewTable, n_texts: int, seed: int, progress: Progress) -> _Drawn:
    """The texts whose keys are lowest.

    Keys hold all texts of the domain, so that a text which two domains share is not drawn in both for being low in one.

    Raises:
        BadSetting: there are not enough texts.
    """
    data = table.interactions(progress)
    filled = np.flatnonzero(~data.empty)  # in the order of their digests
    if len(filled) < 2 * n_texts:
        mend = f"Give --n-texts {len(filled) // 2}, or a larger domain." if len(filled) > 1 else "Leave it out."
        raise BadSetting("too few texts to compare", where=table.domain,
                         expected=f"at least {2 * n_texts} different ones that are not blank: two draws of {n_texts}",
                         got=str(len(filled)), mend=mend)  # fmt: skip
    digests = data.digests[filled]
    content = hashlib.sha256(digests.tobytes()).digest()
    halves = digests.view(">u8").astype(np.uint64)
    keys = sampling.keys(seed, int.from_bytes(content[:8], "big"), halves[:, 0], halves[:, 1])
    picked = filled[np.argsort(keys, kind="stable")[: 2 * n_texts]]
    rows = np.unique(data.texts, return_index=True)[1][picked]
    order = np.argsort(rows)
    texts = [""] * len(rows)
    found = (text for _, piece in table.texts(rows[order]) for text in piece)
    for slot, text in zip(order.tolist(), found, strict=True):
        texts[slot] = text
    return _Drawn(table.domain, content.hex(), texts)


def _check(domains: Sequence[str], n_texts: int, pooling: str) -> None:
    if len(domains) < 2:
        raise BadSetting("there is nothing to compare", expected="two domains or more", got=str(len(domains)),
                         mend="Name another domain that was ingested.")  # fmt: skip
    twice = sorted({domain for domain in domains if list(domains).count(domain) > 1})
    if twice:
        raise BadSetting("a domain is given twice", got=", ".join(twice),
                         mend="Name each once; the diagonal compares it with itself.")  # fmt: skip
    if n_texts < 1:
        raise BadSetting("too few texts", where="--n-texts", expected="at least 1", got=str(n_texts),
                         mend="Leave --n-texts out for 100.")  # fmt: skip
    if pooling not in POOLINGS:
        raise BadSetting(f"there is no pooling {pooling!r}", where="--pooling", expected=" | ".join(POOLINGS),
                         mend="Leave --pooling out for mean.")  # fmt: skip


def _check_different(drawn: Sequence[_Drawn]) -> None:
    """Two names of the same texts would be the same draw, compared with itself."""
    first: dict[str, str] = {}
    for texts in drawn:
        known = first.setdefault(texts.content, texts.domain)
        if known != texts.domain:
            raise BadSetting("two domains have the same texts", got=f"{known}, {texts.domain}",
                             mend="Name one of them; the diagonal compares it with itself.")  # fmt: skip
