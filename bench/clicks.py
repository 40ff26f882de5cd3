"""Do collaborative signals and a language model know more together? Heads on CoLLM's split of MovieLens-1M.

    python -m bench.clicks mf ncf lightgcn sasrec     six settings each; ten minutes on a core, most of them for sasrec
    python -m bench.clicks text        SmolLM2-135M on titles alone, without training; a quarter of an hour on a core
    python -m bench.clicks tallrec     the same with LoRA
    python -m bench.clicks cora        SmolLM2-135M with increments from MF; both an hour on a core
    python -m bench.clicks cora-plain  the same from MF without biases, as the published one; an hour on a core
    python -m bench.clicks table       all that there is; rows of what is not there are kept

Needs the data beside the checkout (LOID_SHARED) and the real weights of bench/shapes.py. Scores of the test pairs are
kept in a work folder. Decoders answer in torch here, since OpenVINO's bf16 misses the gate for this one.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.record import WORK, real_data, save, saved_rows
from bench.shapes import SMOLLM2, shape
from loid_infer import cf_fit_clicks, cora_fit, ingest_clicks, ingest_items
from loid_infer.cli.terminal import People
from loid_infer.clicks.answers import AdaptedModel, Questions, answered, questions_of, train_answers
from loid_infer.clicks.nets import MODELS, PairNet
from loid_infer.clicks.prompts import Prompts
from loid_infer.clicks.settings import PROMPT, AnswerSettings, CoraSettings
from loid_infer.clicks.training import fit_pairs, logits
from loid_infer.data.clicks import TEST, Clicks, read_clicks
from loid_infer.encoders.processor import n_usable_threads, torch_threads
from loid_infer.plugins.adapter import adapted_encoder
from loid_infer.rankers.settings import RankOptions
from loid_infer.settings import TITLE_TOKENS, Workspace, wait_briefly
from loid_infer.types import SILENT
from loid_infer.verbs.labels import compared, item_means
from loid_infer.verbs.pairheads import decoder_of, open_click_head, scorer
from loid_infer.verbs.sequences import titles_of
from loid_infer.verbs.train import resolved

DOMAIN = "movielens"
CF = RankOptions(dim=64, trials=6)
LEARNED = {"layers": 10, "samples": 8_192, "epochs": 1, "evals": 4}
PUBLISHED = {  # CoRA (arXiv 2408.10645): AUC and UAUC, with a decoder of 7 billion parameters where there is one
    "mf without biases": (0.6486, 0.6396),
    "lightgcn without biases": (0.5858, 0.6512),
    "sasrec": (0.7005, 0.6734),
    "tallrec": (0.7044, 0.6741),
    "cora": (0.7361, 0.6884),
}


REFERENCES = {"mf": ("auc", "uauc"), "mf without biases": ("auc",), "text": ("auc",), "tallrec": ("auc", "uauc")}


def main(*parts: str) -> None:
    wait_briefly()
    workspace = Workspace(WORK / "clicks")
    workspace.root.mkdir(parents=True, exist_ok=True)
    if not workspace.clicks(DOMAIN).exists():
        _ingest(workspace)
    clicks = read_clicks(workspace.clicks(DOMAIN), DOMAIN, 0)
    for part in parts:
        if part == "table":
            _table(workspace, clicks)
        else:
            made = _decoder if part in ("text", "tallrec") else _head
            np.save(workspace.root / f"{part}.npy", made(workspace, clicks, part))


def _head(workspace: Workspace, clicks: Clicks, name: str) -> np.ndarray:
    """The logits of the test pairs by a head, which is fitted first unless it is there."""
    shared = {"name": name, "workspace": workspace, "progress": People(quiet=False)}
    if not workspace.head(name).exists():
        if name in MODELS:
            options = replace(CF, max_length=10) if name == "sasrec" else CF
            cf_fit_clicks(DOMAIN, model=name, settings=options, **shared)
        else:
            cf = "mf"
            if name == "cora-plain":
                cf = "mf-plain"
                with _no_biases():
                    cf_fit_clicks(DOMAIN, settings=replace(CF, trials=1), **{**shared, "name": cf})
            cora_fit(DOMAIN, cf=cf, base=shape(SMOLLM2), settings=CoraSettings(**LEARNED), **shared)
    rows = clicks.rows(TEST)
    score = scorer(workspace, open_click_head(workspace, name), "cpu", SILENT)
    return score(clicks.pairs(rows), _titles(workspace, clicks, rows))


def _decoder(workspace: Workspace, clicks: Clicks, name: str) -> np.ndarray:
    """Those of the decoder on titles alone, as it is or with LoRA."""
    source, rows = decoder_of(shape(SMOLLM2)), clicks.rows(TEST)
    settings = resolved(AnswerSettings(**LEARNED), source, "cpu")
    titles = _titles(workspace, clicks, np.arange(len(clicks.items)))
    by_item = dict(zip(clicks.items.tolist(), titles, strict=True))
    of_items = [by_item[item] for item in range(len(clicks.item_ids))]
    prompts = Prompts.of(PROMPT, of_items, source.tokenizer(settings.max_tokens), TITLE_TOKENS)
    yes, no = source.output_rows(prompts.answers())
    spec = source.spec(source.digest, settings.max_tokens, precision=settings.precision)
    model = AdaptedModel(adapted_encoder(spec, source.tensors, source.model, settings), yes - no)
    test = Questions.of(clicks.pairs(rows), clicks.labels[rows], [titles[row] for row in rows.tolist()], prompts)
    with torch_threads(n_usable_threads()):
        if name == "tallrec":
            parts = questions_of(clicks, of_items, prompts, settings)
            train_answers(model, *parts, settings, None, People(quiet=False))
        return answered(model, test, settings)


def _titles(workspace: Workspace, clicks: Clicks, rows: np.ndarray) -> list[str]:
    return titles_of(workspace, DOMAIN, [clicks.item_ids[item] for item in clicks.items[rows].tolist()])


@contextmanager
def _no_biases() -> Iterator[None]:
    """Users and items of models have vectors only, as the published ones; biases stay 0."""
    biases = PairNet.biases
    PairNet.biases = lambda self, batch: tuple(0 * part for part in biases(self, batch))
    try:
        yield
    finally:
        PairNet.biases = biases


def _without_biases(clicks: Clicks, model: str) -> np.ndarray:
    with _no_biases():
        net, _ = fit_pairs(model, clicks, CF, seed=0, progress=SILENT, checkpoint=None)
        return logits(net, clicks.pairs(clicks.rows(TEST)), CF.max_length)


def _table(workspace: Workspace, clicks: Clicks) -> None:
    test = clicks.rows(TEST)
    scores = {"item mean": item_means(clicks)[clicks.items[test]]}
    scores |= {f"{model} without biases": _without_biases(clicks, model) for model in ("mf", "lightgcn")}
    files = {name: workspace.root / f"{name}.npy" for name in (*MODELS, "text", "tallrec", "cora", "cora-plain")}
    names = {"cora-plain": "cora without biases"}
    scores |= {names.get(name, name): np.load(file) for name, file in files.items() if file.exists()}
    summary, differences = compared(scores, clicks.labels[test], clicks.users[test], 0)
    values = {(row.system, row.metric): row for row in summary}
    gains = {(row.system, row.reference, row.metric): row for row in differences}
    rows = []
    for name in scores:
        row: dict = {"system": name}
        for metric in ("auc", "uauc"):
            of = values[name, metric]
            row |= {metric: of.value, f"{metric} 95 %": f"{of.low:.4f} to {of.high:.4f}"}
        for reference, metrics in REFERENCES.items():
            for metric in metrics:
                of = gains.get((name, reference, metric))
                row[f"{metric} minus {reference}"] = of and f"{of.value:+.4f} ({of.low:+.4f} to {of.high:+.4f})"
        auc, uauc = PUBLISHED.get(name, (None, None))
        rows.append(row | {"published auc": auc, "published uauc": uauc})
    kept = [row for row in saved_rows("clicks") if row["system"] not in scores]
    save(
        "Do collaborative signals and a language model know more together?",
        "clicks",
        rows + [{**dict.fromkeys(rows[0]), **row} for row in kept],
        NOTES,
    )


NOTES = (
    "CoLLM's split of MovieLens-1M (33,891 training, 10,401 validation and 7,331 test pairs; liked: 4 or 5 "
    "stars). AUC over all test pairs, UAUC over the 224 users with both labels. mf, ncf, lightgcn, sasrec: the "
    "best of six settings by validation AUC; without biases: one setting. Decoder: SmolLM2-135M-Instruct (4-bit "
    "weights, computed in bf16). text: as it is. tallrec and cora: the top 10 of 30 layers, 8,192 "
    "drawn training pairs, one epoch; cora reads mf, cora without biases the mf without. Published: CoRA (arXiv "
    "2408.10645), with a decoder of 7 billion parameters and all pairs. Intervals: "
    "95 %, over users."
)


def _ingest(workspace: Workspace) -> None:
    table = pq.read_table(real_data() / "sequences" / "movielens_1m_collm.parquet")
    pairs = workspace.root / "pairs.parquet"
    pq.write_table(table.filter(pc.not_equal(table["split"], "valid_small")), pairs)  # a part of `valid`
    ingest_clicks([pairs], DOMAIN, workspace=workspace)
    ingest_items([pairs], DOMAIN, workspace=workspace)
    pairs.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
