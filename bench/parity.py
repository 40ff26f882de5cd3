"""Which family, pooling, runtime and precision computes what transformers computes in float32?

Every model is exported in float32 as users export it, which proves the probes on every runtime; then the probes and 500
real reviews are computed by every runtime of this machine in every precision, and held against transformers. What
misses the gate of its precision would be refused by `export`, and is listed so. int8 is calibrated on other reviews.
bf16 that the processor lacks is emulated at a tenth of the speed, so there it is the probes alone.

    python -m bench.parity [MODEL[:POOLING]...] [PRECISION...]     all of them: hours on two cores

What was measured before is kept, so the table may be made in parts.
"""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from msgspec import structs

from bench.record import review_texts, save, saved_rows, work_folder
from bench.shapes import SMOLLM2, shape
from loid_infer.encoders.processor import has_bf16

N_REVIEWS, MAX_TOKENS, BATCH = 500, 128, 16
PRECISIONS, KEYS = ["fp32", "bf16", "int8"], ("model", "family", "pooling")
BOTH, LAST = ("cls", "mean"), ("last", "mean")
MODELS = {
    "minilm": BOTH,
    "roberta-base": BOTH,
    "distilbert-base": BOTH,
    "mpnet-base": BOTH,
    "modernbert-base": BOTH,
    SMOLLM2: LAST,
    "opt-125m": LAST,
    "qwen2-0.5b": ("last",),
    "qwen3-0.6b": ("last",),
    "t5-small": LAST,
    "flan-t5-small": LAST,
}
NOTES = (
    f"The 64 probes of an export and {N_REVIEWS} Musical Instruments reviews, cut at {MAX_TOKENS} tokens. Minimum and "
    "mean cosine to transformers in float32, of each text alone. MiniLM and SmolLM2 have their real weights, the "
    "others random ones in the sizes of the models they are named after. The gate of fp32 is 0.99999 and of bf16 "
    "0.9999 for every text, of int8 0.998 in the mean; a head trained on int8 vectors must not lose "
    "accuracy either, which is not tried here. "
    + ("" if has_bf16() else "bf16 is emulated on this processor: the probes alone.")
)


def main(asked: list[str]) -> None:
    precisions = [one for one in PRECISIONS if one in asked] or PRECISIONS
    models = [one.split(":") for one in asked if one not in PRECISIONS] or [[model] for model in MODELS]
    for name, *given in models:
        for pooling in given or MODELS[name]:
            for found in _rows(name, pooling, precisions):
                _keep(name, pooling, found)


def _keep(name: str, pooling: str, found: dict) -> None:
    rows = saved_rows("parity")
    told = {(row["model"], row["pooling"]): row for row in rows}
    known = {column: cell for column, cell in told.get((name, pooling), {}).items() if cell is not None}
    told[name, pooling] = known | found
    columns = sorted({column for row in told.values() for column in row} - {*KEYS}, key=_place)
    order = [(model, one) for model in MODELS for one in ("cls", "mean", "last")]
    save(
        "Which families compute what transformers computes?",
        "parity",
        [{column: told[key].get(column) for column in (*KEYS, *columns)} for key in order if key in told],
        NOTES,
    )


def _place(column: str) -> tuple[int, str]:
    return PRECISIONS.index(column.split(maxsplit=1)[0]), column


def _rows(name: str, pooling: str, precisions: list[str]) -> Iterator[dict]:
    """The row of a model, after each measurement."""
    from loid_infer.encoders.folder import Probes, open_folder
    from loid_infer.encoders.opening import measure_runtimes
    from loid_infer.encoders.spec import fingerprint
    from loid_infer.errors import LoidError
    from loid_infer.graphs.bases import load_base
    from loid_infer.graphs.graph import write_graph
    from loid_infer.graphs.making import make_encoder
    from loid_infer.types import SILENT

    base = load_base(shape(name), pooling)
    path = work_folder(f"parity/{name}") / f"{name}-{pooling}".replace(".", "")
    make_encoder(path, base, precision="fp32", progress=SILENT, max_tokens=MAX_TOKENS)
    fp32 = open_folder(path, path.name)
    texts = _reviews()
    tokens, probes = fp32.tokenizer()(texts[:N_REVIEWS]), fp32.probes()
    reference = np.concatenate([probes.cls, _reference(base, tokens)])
    both = Probes(
        np.concatenate([probes.flat_ids, tokens.flat_ids]), np.concatenate([probes.lengths, tokens.lengths]), reference
    )
    row = {"model": name, "family": fp32.spec.architecture, "pooling": pooling}
    print(f"{name} {pooling}: exported", flush=True)
    for precision in precisions:
        spec = structs.replace(fp32.spec, precision=precision)
        reduced = precision == "int8" or (precision == "bf16" and has_bf16())
        write_graph(spec, base.tensors, fp32.graph, reduced=reduced)  # as an export does first
        try:
            encoder = _int8(fp32, base, texts[N_REVIEWS:]) if precision == "int8" else replace(fp32, spec=spec)
            told = probes if precision == "bf16" and not has_bf16() else both
            for runtime, parity in measure_runtimes(replace(encoder, fingerprint=fingerprint(encoder.spec)), told):
                print(f"{name} {pooling} {precision} {runtime} {parity}", flush=True)
                refused = "" if parity.passes(precision) else ", refused"
                row[f"{precision} {runtime}"] = f"{parity.cos_min:.6f} / {parity.cos_mean:.6f}{refused}"
                yield row
        except LoidError as error:
            print(f"{name} {pooling} {precision} {error}", flush=True)
            row[f"{precision} openvino"] = f"refused: {error.got.split(' with ')[0]}"
            yield row
    shutil.rmtree(path.parent)


def _reference(base, tokens) -> np.ndarray:
    """transformers' vectors of texts in batches of like lengths, padded on the right."""
    from loid_infer.graphs.parity import reference_vectors

    texts = np.split(tokens.flat_ids, np.cumsum(tokens.lengths)[:-1])
    order = np.argsort(tokens.lengths, kind="stable")
    found = np.concatenate(
        [reference_vectors(base, [texts[i] for i in order[at : at + BATCH]]) for at in range(0, len(order), BATCH)]
    )
    return found[np.argsort(order)]


def _int8(fp32, base, texts: list[str]):
    from loid_infer import Encoder
    from loid_infer.architectures.folding import with_folded_norms
    from loid_infer.encoders.processor import n_usable_threads
    from loid_infer.encoders.torch import TorchRuntime
    from loid_infer.graphs.quantize import quantize

    module = with_folded_norms(fp32.spec, base.tensors)
    exact = Encoder(fp32.spec, lambda: (fp32.tokenizer(), TorchRuntime(module, "fp32", n_usable_threads())))
    return quantize(fp32, module, exact.encode, texts)[0]


def _reviews() -> list[str]:
    """500 to measure on and 256 to calibrate on, from all over the file, which is ordered by item."""
    texts = list(dict.fromkeys(review_texts()))
    drawn = np.random.default_rng(0).permutation(len(texts))[: N_REVIEWS + 256]
    return [texts[i] for i in drawn]


if __name__ == "__main__":
    main(sys.argv[1:])
