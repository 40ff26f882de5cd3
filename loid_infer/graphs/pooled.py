"""One vector a text from the plain base in float32, for looking at a few hundred texts.

Vectors that are kept come from an export instead. Knows transformers' module through `Base` only; not what the vectors
are compared for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loid_infer.encoders.schedule import MAX_BATCH_TOKENS, token_batches
from loid_infer.graphs.bases import Base
from loid_infer.types import Floats, Task

POOLINGS = ("mean", "cls")


def pooled_vectors(base: Base, texts: Sequence[str], *, max_tokens: int, pooling: str, task: Task) -> Floats:
    """A float32 vector for each of `texts [n]`, `[n, d]`.

    Args:
        max_tokens: longest input with [CLS] and [SEP]; longer texts are cut on the right.
        pooling: `mean` of `last_hidden_state` over all tokens of the text, [CLS] and [SEP] among them and padding not,
            or `cls`, its first row.
        task: advanced by the texts that are done.
    """
    import torch

    tokens = base.tokenizer(max_tokens)(texts)
    vectors = np.empty((len(texts), base.config["hidden_size"]), np.float32)
    slots = np.arange(len(texts))
    with torch.inference_mode():
        for batch in token_batches(slots, tokens.flat_ids, tokens.lengths, MAX_BATCH_TOKENS, max_tokens):
            mask = torch.from_numpy(batch.attention_mask)
            output = base.model(input_ids=torch.from_numpy(batch.input_ids), attention_mask=mask)
            hidden = output.last_hidden_state
            if pooling == "cls":
                pooled = hidden[:, 0]
            else:
                weights = mask[:, :, None].float()
                pooled = (hidden * weights).sum(1) / weights.sum(1)
            vectors[batch.slots] = pooled.numpy()
            task.advance(len(batch.slots))
    return vectors
