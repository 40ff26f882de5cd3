"""LoRA the usual way, in a process of its own: peft and transformers' Trainer in float32, dropout as the base has it.

python -m bench.rivals.peft_trainer TABLE.parquet max_length|longest EPOCHS
`max_length` pads every text to 256; `longest` groups by length and pads to a batch's longest. Prints one JSON line.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

MAX_TOKENS, RANK, RATE, BATCH = 256, 32, 1e-3, 32
TARGETS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)


def main() -> None:
    table, padding, epochs = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    import numpy as np
    import torch
    import transformers

    from loid_infer.graphs.bases import find_base

    transformers.logging.set_verbosity_error()
    folder = find_base("default")[1]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    parts, spread = rated_texts(table)
    sets = {
        name: _dataset(tokenizer, texts, ratings, padding == "max_length") for name, (texts, ratings) in parts.items()
    }
    transformers.set_seed(0)
    model = _model(folder, *spread)
    with tempfile.TemporaryDirectory() as out:
        arguments = transformers.TrainingArguments(
            out,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            num_train_epochs=epochs,
            learning_rate=RATE,
            warmup_steps=0.06,
            weight_decay=0.01,
            lr_scheduler_type="linear",
            logging_steps=10_000,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            dataloader_num_workers=0,
            seed=0,
            train_sampling_strategy="group_by_length" if padding == "longest" else "random",
        )
        trainer = transformers.Trainer(
            model, arguments, train_dataset=sets["train"], data_collator=transformers.DataCollatorWithPadding(tokenizer)
        )
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        predicted = trainer.predict(sets["valid"]).predictions
    with torch.no_grad():
        error = float(np.mean((np.clip(np.ravel(predicted), 1, 5) - parts["valid"][1]) ** 2))
    n_tokens = epochs * sum(sum(row["attention_mask"]) for row in sets["train"])
    print(
        json.dumps(
            {
                "seconds": seconds,
                "n_tokens": n_tokens,
                "val_mse": error,
                "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
    )


def rated_texts(table: Path):
    """Texts and ratings of the training and validation parts of `plugin train`, mean and deviation of the first."""
    import numpy as np

    from loid_infer.data.reviews import open_table
    from loid_infer.data.splits import split
    from loid_infer.types import SILENT

    reviews = open_table(table, table.stem)
    interactions = reviews.interactions(SILENT)
    halves = split(interactions, "random", 0)
    texts = [text for _, piece in reviews.texts(np.arange(reviews.n_rows)) for text in piece]
    parts = {
        name: ([texts[i] for i in np.flatnonzero(rows)], interactions.ratings[rows].astype(float))
        for name, rows in (("train", halves.train), ("valid", halves.valid))
    }
    ratings = parts["train"][1]
    return parts, (float(ratings.mean()), float(ratings.std()))


def _dataset(tokenizer, texts, ratings, pad: bool):
    encoded = tokenizer(texts, truncation=True, max_length=MAX_TOKENS, padding="max_length" if pad else False)
    return [
        {"input_ids": ids, "attention_mask": mask, "labels": float(rating), "length": len(ids)}
        for ids, mask, rating in zip(encoded["input_ids"], encoded["attention_mask"], ratings, strict=True)
    ]


def _model(folder, center: float, spread: float):
    import peft
    import torch
    import transformers
    from torch import nn

    bert = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False)
    n_layers, width = bert.config.num_hidden_layers, bert.config.hidden_size
    modules = [f"encoder.layer.{i}.{target}" for i in range(n_layers) for target in TARGETS]
    bert = peft.get_peft_model(bert, peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=modules))

    class Regressor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert
            self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))

        def forward(self, input_ids, attention_mask, labels=None, **_):
            cls = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]
            rating = center + spread * self.mlp(cls)[:, 0]
            if labels is None:
                return {"logits": rating}
            return {"loss": torch.mean(((rating - labels) / spread) ** 2), "logits": rating}

    return Regressor()


if __name__ == "__main__":
    main()
