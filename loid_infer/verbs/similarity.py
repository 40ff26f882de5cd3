"""`plugin similarity`: how alike the reviews of domains are to the plain base, LoID's table 2.

Tells which source domains may help a target before any plugin is trained. The verb draws texts and compares vectors; it
knows no plugin, and keeps nothing but the matrix and its picture.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec import structs

from loid_infer.artifact import new_file
from loid_infer.data.reviews import ReviewTable, open_table
from loid_infer.encoder import Encoder
from loid_infer.encoders.processor import n_usable_threads
from loid_infer.errors import BadSetting
from loid_infer.graphs.bases import Base, load_base
from loid_infer.graphs.sentence import POOLINGS
from loid_infer.kernels import sampling
from loid_infer.kernels.cosine import mean_pairwise_cosine
from loid_infer.pages.records import Similarity
from loid_infer.records import narrowed, to_json
from loid_infer.settings import DEFAULT_BASE, Workspace, WorkspaceLike, check_choice
from loid_infer.types import SILENT, Progress

RECORD, PICTURE = "similarity.json", "similarity.png"


class SimilarityResult(Similarity, frozen=True):
    """Mean cosines between reviews of domains."""

    path: str  # of the heat map; the matrix is beside it, in RECORD
    seconds: float


def plugin_similarity(
    domains: Sequence[str],
    *,
    base: str = DEFAULT_BASE,
    pooling: str = "mean",
    n_texts: int = 100,
    max_tokens: int | None = None,
    seed: int = 0,
    workspace: WorkspaceLike = None,
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
    workspace = Workspace.of(workspace)
    _check(domains, n_texts, pooling)
    tables = [open_table(workspace.table(domain), domain) for domain in domains]
    drawn = [_draw(table, n_texts, seed, progress) for table in tables]
    _check_different(domains, [content for content, _ in drawn])
    source = load_base(base, pooling, normalize=False)
    max_tokens = source.max_tokens(max_tokens)
    with progress.task("vectors", 2 * n_texts * len(drawn), "texts") as task:
        encoder, vectors = _plain(source, max_tokens), []
        for _, texts in drawn:  # domain by domain, so that no last bit depends on the others
            vectors.append(encoder.encode(texts))
            task.advance(2 * n_texts)
    firsts, others = [part[:n_texts] for part in vectors], [part[n_texts:] for part in vectors]
    n = range(len(drawn))
    matrix = tuple(tuple(mean_pairwise_cosine(firsts[i], (others if i == j else firsts)[j]) for j in n) for i in n)
    result = SimilarityResult(
        domains=tuple(domains),
        matrix=matrix,
        pooling=pooling,
        n_texts=n_texts,
        base=source.name,
        max_tokens=max_tokens,
        seed=seed,
        path=str(workspace.reports / PICTURE),
        seconds=0.0,
    )
    _keep(result)
    return structs.replace(result, seconds=time.perf_counter() - start)


def _plain(base: Base, max_tokens: int) -> Encoder:
    """The base in float32 as it is: good for a few hundred texts, and no export."""
    from loid_infer.architectures.transformer import Transformer
    from loid_infer.encoders.torch import TorchRuntime

    spec = base.spec("", max_tokens)
    module = Transformer(spec, base.tensors)
    return Encoder(spec, lambda: (base.tokenizer(max_tokens), TorchRuntime(module, "fp32", n_usable_threads())))


def _keep(result: SimilarityResult) -> None:
    """Write the matrix and its heat map."""
    from loid_infer.figures import heat_map

    # No seconds and no path: the same texts give the same bytes anywhere.
    with new_file(Path(result.path).with_name(RECORD)) as temporary:
        temporary.write_text(to_json(narrowed(result, Similarity), indent=1) + "\n")
    note = (
        f"Mean cosine over {result.n_texts} x {result.n_texts} reviews; {result.pooling} pooling of {result.base}, at "
        f"most {result.max_tokens} tokens, seed {result.seed}. On the diagonal: two draws of one domain that share no "
        "text."
    )
    with new_file(Path(result.path)) as temporary:
        heat_map(temporary, result.domains, np.array(result.matrix), "Similarity of domains", note)


def _draw(table: ReviewTable, n_texts: int, seed: int, progress: Progress) -> tuple[str, list[str]]:
    """A digest of all texts of a domain, whatever their order, and the `2 n_texts` whose keys are lowest: `n_texts` to
    compare with other domains, then as many to compare these with.

    Keys hold all texts of the domain, so that a text which two domains share is not drawn in both for being low in one.

    Raises:
        BadSetting: there are not enough texts.
    """
    data = table.interactions(progress)
    filled = np.flatnonzero(~data.empty)  # in the order of their digests
    if len(filled) < 2 * n_texts:
        fix = f"Give --n-texts {len(filled) // 2}, or a larger domain." if len(filled) > 1 else "Leave it out."
        raise BadSetting(
            "too few texts to compare",
            where=table.domain,
            expected=f"at least {2 * n_texts} different ones that are not blank: two draws of {n_texts}",
            got=str(len(filled)),
            fix=fix,
        )
    digests = data.digests[filled]
    content = hashlib.sha256(digests.tobytes()).digest()
    halves = digests.view(">u8").astype(np.uint64)
    keys = sampling.keys(seed, int.from_bytes(content[:8], "big"), halves[:, 0], halves[:, 1])
    picked = filled[np.argsort(keys, kind="stable")[: 2 * n_texts]]
    rows = np.unique(data.texts, return_index=True)[1][picked]
    pieces = table.texts(np.sort(rows))
    texts = {int(row): text for numbers, piece in pieces for row, text in zip(numbers, piece, strict=True)}
    return content.hex(), [texts[int(row)] for row in rows]


def _check(domains: Sequence[str], n_texts: int, pooling: str) -> None:
    if len(domains) < 2:
        raise BadSetting(
            "there is nothing to compare",
            expected="two domains or more",
            got=str(len(domains)),
            fix="Name another domain that was ingested.",
        )
    twice = sorted({domain for domain in domains if list(domains).count(domain) > 1})
    if twice:
        raise BadSetting(
            "a domain is given twice", got=", ".join(twice), fix="Name each once; the diagonal compares it with itself."
        )
    if n_texts < 1:
        raise BadSetting(
            "too few texts",
            where="--n-texts",
            expected="at least 1",
            got=str(n_texts),
            fix="Leave --n-texts out for 100.",
        )
    check_choice("pooling", pooling, POOLINGS)


def _check_different(domains: Sequence[str], contents: Sequence[str]) -> None:
    """Two names of the same texts would be the same draw, compared with itself."""
    first: dict[str, str] = {}
    for domain, content in zip(domains, contents, strict=True):
        known = first.setdefault(content, domain)
        if known != domain:
            raise BadSetting(
                "two domains have the same texts",
                got=f"{known}, {domain}",
                fix="Name one of them; the diagonal compares it with itself.",
            )
