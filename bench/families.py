"""How fast are other families than BERT, against sentence-transformers' default? As `bench.encode`, model by model.

python -m bench.families [N_REVIEWS] [ROUNDS] [MODEL...]     models of `bench.shapes`
"""

import sys
from pathlib import Path

from bench.encode import timed
from bench.record import real_table, save, saved_rows, work_folder
from bench.shapes import SHAPES, shape
from loid_infer.encoders.processor import has_bf16

MODELS = ("roberta-base", "smollm2-135m", "t5-small")
MAX_TOKENS = 256
OURS = (("int8", "auto"), *((("bf16", "auto"),) if has_bf16() else ()), ("fp32", "auto"))
RIVALS = ("sentence_transformers_default",)
NOTES = "Shapes of RoBERTa-base and T5-small (its encoder) with random weights, SmolLM2 with its own. "


def main(n_reviews: int = 600, rounds: int = 3, models: tuple[str, ...] = MODELS) -> None:
    workspace, table = real_table("families", n_reviews)
    found = saved_rows("families")
    found = [row for row in found if row["model"] not in models]
    for name in models:
        base = shape(name)
        folder = Path(base) if name in SHAPES else _unpacked(base)
        rows, notes = timed(workspace, table, base, folder, MAX_TOKENS, rounds, OURS, RIVALS)
        found += [{"model": name, **row} for row in rows]
        save(
            "How fast are other families?",
            "families",
            found,
            NOTES + notes.replace("with CLS pooling", "with CLS or last-token pooling"),
        )


def _unpacked(gguf: str) -> Path:
    """The folder that sentence-transformers reads for a GGUF file: its weights in float32, and its tokenizer."""
    import torch
    import transformers

    file, folder = Path(gguf), work_folder("unpacked")
    read = transformers.AutoModel.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    config = transformers.AutoConfig.from_pretrained(str(file.parent), gguf_file=file.name)
    model = transformers.AutoModel.from_config(config)  # a model read from GGUF cannot be saved
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), *([tuple(sys.argv[3:])] if sys.argv[3:] else []))
