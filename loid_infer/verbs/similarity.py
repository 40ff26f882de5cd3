"""`plugin similarity`: mean cosines between the reviews of domains under the plain base (LoID, table 2).

Shows which source domains may help a target domain before any plugin is trained.
"""

from __future__ import annotations

import hashlib
import math
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
from loid_infer.graphs.bases import load_base
from loid_infer.graphs.sentence import POOLINGS
from loid_infer.kernels import sampling
from loid_infer.kernels.cosine import mean_pairwise_cosine
from loid_infer.pages.records import Similarity
from loid_infer.records import narrowed, to_json
from loid_infer.settings import DEFAULT_BASE, Workspace, WorkspaceLike, check_choice, check_number
from loid_infer.types import SILENT, Progress

RECORD, PICTURE = "similarity.json", "similarity.png"


class SimilarityResult(Similarity, frozen=True):
    """Mean cosines between reviews of domains."""

    path: str  # of the heat map; the matrix is in RECORD next to it
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

    Samples are drawn from the different non-empty texts of a domain. The diagonal compares disjoint samples, because
    pairs of equal texts would raise it. A sample depends only on the seed and the set of texts of the domain.

    Args:
        base: `default`, a folder, a GGUF file, or a hub name; see `export`.
        pooling: `mean` over a text's tokens, as in the paper, or `cls`, or `last`.
        max_tokens: longest input; by default 256, or what the base allows if that is less.

    Raises:
        BadSetting: fewer than two domains, a repeated domain, one with fewer than 2 `n_texts` texts, or another
            invalid option.
        BadTable, BadName: a domain has no table or an invalid name.
        BadArtifact, RuntimeMissing: the base cannot be loaded or its family is not supported.
        NoSpace: matrix or plot cannot be written.
    """
    start = time.perf_counter()
    workspace = Workspace.of(workspace)
    if len(domains) < 2:
        fix = "Add another ingested domain."
        raise BadSetting("too few domains", expected="at least two", got=str(len(domains)), fix=fix)
    twice = sorted({domain for domain in domains if list(domains).count(domain) > 1})
    if twice:
        fix = "Give each once; the diagonal compares it with itself."
        raise BadSetting("a domain is given twice", got=", ".join(twice), fix=fix)
    check_number("--n-texts", n_texts, 1, math.inf)
    check_choice("pooling", pooling, POOLINGS)
    tables = [open_table(workspace.table(domain), domain) for domain in domains]
    samples = [_draw(table, n_texts, seed, progress) for table in tables]
    contents = [content for content, _ in samples]
    same = [domain for domain, content in zip(domains, contents, strict=True) if contents.count(content) > 1]
    if same:
        fix = "Give one of them; the diagonal compares it with itself."
        raise BadSetting("domains have the same texts", got=", ".join(same), fix=fix)
    from loid_infer.architectures.transformer import Transformer  # imports torch, so after the checks
    from loid_infer.encoders.torch import TorchRuntime

    source = load_base(base, pooling, normalize=False)
    max_tokens = source.max_tokens(max_tokens)
    with progress.task("vectors", 2 * n_texts * len(samples), "texts") as task:
        # The base in float32, without an export.
        spec, tokenizer = source.spec("", max_tokens), source.tokenizer(max_tokens)
        runtime = TorchRuntime(Transformer(spec, source.tensors), "fp32", n_usable_threads())
        encoder, vectors = Encoder(spec, lambda: (tokenizer, runtime)), []
        for _, texts in samples:  # one domain at a time, so that vectors do not depend on other domains
            vectors.append(encoder.encode(texts))
            task.advance(2 * n_texts)
    firsts, others = [part[:n_texts] for part in vectors], [part[n_texts:] for part in vectors]
    n = range(len(samples))
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
    _write(result)
    return structs.replace(result, seconds=time.perf_counter() - start)


def _write(result: SimilarityResult) -> None:
    """Write the matrix and its heat map."""
    from loid_infer.figures import heat_map

    # Without seconds and path, so that the same texts give the same bytes.
    with new_file(Path(result.path).with_name(RECORD)) as temporary:
        temporary.write_text(to_json(narrowed(result, Similarity), indent=1) + "\n")
    note = (
        f"Mean cosine over {result.n_texts} x {result.n_texts} reviews; {result.pooling} pooling of {result.base}, at "
        f"most {result.max_tokens} tokens, seed {result.seed}. On the diagonal: two disjoint samples of one "
        "domain."
    )
    with new_file(Path(result.path)) as temporary:
        heat_map(temporary, result.domains, np.array(result.matrix), "Similarity of domains", note)


def _draw(table: ReviewTable, n_texts: int, seed: int, progress: Progress) -> tuple[str, list[str]]:
    """A digest of the set of texts of a domain, and the `2 n_texts` texts with the lowest random keys.

    Keys depend on all texts of the domain, so a text that two domains share is drawn in them independently.
    """
    data = table.interactions(progress)
    filled = np.flatnonzero(~data.empty)  # in the order of their digests
    if len(filled) < 2 * n_texts:
        fix = f"Give --n-texts {len(filled) // 2}, or a larger domain." if len(filled) > 1 else "Omit this domain."
        expected = f"at least {2 * n_texts} different texts that are not empty: two samples of {n_texts}"
        got = str(len(filled))
        raise BadSetting("too few texts to compare", where=table.domain, expected=expected, got=got, fix=fix)
    digests = data.digests[filled]
    content = hashlib.sha256(digests.tobytes()).digest()
    halves = digests.view(">u8").astype(np.uint64)
    keys = sampling.keys(seed, int.from_bytes(content[:8], "big"), halves[:, 0], halves[:, 1])
    picked = filled[np.argsort(keys, kind="stable")[: 2 * n_texts]]
    rows = np.unique(data.texts, return_index=True)[1][picked]
    pieces = table.texts(np.sort(rows))
    texts = {int(row): text for numbers, piece in pieces for row, text in zip(numbers, piece, strict=True)}
    return content.hex(), [texts[int(row)] for row in rows]
