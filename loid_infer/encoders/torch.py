"""The torch runtime of the CPU, the reference: BERT up to CLS as one module, which the ONNX graph is traced from too.

In the last layer only CLS is asked for, so every product with a weight runs on one token there: the weights of keys and
values meet the query and the weighted sum instead of each token. This is exact. The file knows tensor names of a
Hugging Face BertModel; not ONNX, not where weights come from.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from loid_infer.encoders.schedule import MAX_BATCH_TOKENS
from loid_infer.types import Card, Floats, Ints, TokenBatch

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
}
_MASKED = -1e4  # added to a padding token's score: exp gives 0 in float32, and it is finite in every precision


class ClsLayer(nn.Module):
    """One BERT layer (Devlin et al. 2018); the last one computes its output for CLS only."""

    def __init__(self, card: Card, *, last: bool) -> None:
        super().__init__()
        width, inner = card.hidden_dim, card.feed_forward_dim
        self.n_heads, self.last = card.n_heads, last
        self.scale = (width // card.n_heads) ** -0.5
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.expand, self.contract = nn.Linear(width, inner), nn.Linear(inner, width)
        self.attention_norm, self.output_norm = (nn.LayerNorm(width, eps=card.layer_norm_eps) for _ in range(2))
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS[card.activation]

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """`hidden [n, tokens, width]`, `bias [n, 1, 1, tokens]` -> that shape, of the last layer `[n, 1, width]`."""
        if self.last:
            asked, mixed = hidden[:, :1], self._mix_for_cls(hidden, bias[:, 0])
        else:
            asked, mixed = hidden, self._mix(hidden, bias)
        attended = self.attention_norm(self.output(mixed) + asked)
        out: Tensor = self.output_norm(self.contract(self.activation(self.expand(attended))) + attended)
        return out

    def _mix(self, hidden: Tensor, bias: Tensor) -> Tensor:
        query, key, value = (self._split(part(hidden)) for part in (self.query, self.key, self.value))
        weights = torch.softmax(query @ key.transpose(-1, -2) * self.scale + bias, dim=-1)
        mixed: Tensor = (weights @ value).transpose(1, 2).flatten(2)
        return mixed

    def _mix_for_cls(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """`bias [n, 1, tokens]` -> `[n, 1, width]`: what `_mix` gives for the first token.

        With one query a head, q·(Kx + b) = (Kᵀq)·x + q·b: the key's matrix meets the query instead of every token, q·b
        is the same for all tokens and leaves the softmax, and the value's matrix meets the weighted sum of tokens.
        """
        key, value = (part.weight.unflatten(0, (self.n_heads, -1)) for part in (self.key, self.value))  # [heads, _, d]
        query = (self.query(hidden[:, 0]) * self.scale).unflatten(-1, (self.n_heads, -1)).transpose(0, 1)
        asked = (query @ key).transpose(0, 1)  # [n, heads, d]
        weights = torch.softmax(asked @ hidden.transpose(1, 2) + bias, dim=-1)  # [n, heads, tokens]
        mixed = (weights @ hidden).transpose(0, 1) @ value.transpose(1, 2)  # [heads, n, _]
        for_cls: Tensor = (mixed.transpose(0, 1).flatten(1) + self.value.bias)[:, None]
        return for_cls

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.n_heads, -1))
        return heads.transpose(1, 2)


class ClsBert(nn.Module):
    """Token ids -> CLS, without pooler, dropout or segment ids (all zero, so their embedding joins the positions)."""

    def __init__(self, card: Card, tensors: Mapping[str, Tensor]) -> None:
        """Build the module for `card` from the state of a BertModel, float32."""
        super().__init__()
        words, positions = (
            tensors["embeddings.word_embeddings.weight"],
            tensors["embeddings.position_embeddings.weight"],
        )
        segments = tensors["embeddings.token_type_embeddings.weight"]
        self.words = nn.Embedding.from_pretrained(words)
        self.positions = nn.Parameter(positions + segments[0], requires_grad=False)
        self.norm = nn.LayerNorm(card.hidden_dim, eps=card.layer_norm_eps)
        self.layers = nn.ModuleList(ClsLayer(card, last=i == card.n_layers - 1) for i in range(card.n_layers))
        _fill(self.norm, tensors, "embeddings.LayerNorm")
        for i, layer in enumerate(self.layers):
            for part, name in LAYER_NAMES.items():
                _fill(getattr(layer, part), tensors, f"encoder.layer.{i}.{name}")
        self.requires_grad_(False).eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`input_ids [n, tokens]`, `attention_mask [n, tokens]` (1 token, 0 padding), int64 -> CLS `[n, width]`."""
        hidden, bias = self.embed(input_ids, attention_mask), self.context(input_ids, attention_mask)
        for layer in self.layers:
            hidden = layer(hidden, bias)
        return self.cls(hidden)

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """See `forward` -> what the first layer gets, `[n, tokens, width]`."""
        hidden: Tensor = self.norm(self.words(input_ids) + self.positions[: input_ids.shape[1]])
        return hidden

    def context(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """See `forward` -> what every layer gets beside: what is added to scores, `[n, 1, 1, tokens]`."""
        return (1.0 - attention_mask[:, None, None, :].to(self.positions.dtype)) * _MASKED

    def cls(self, hidden: Tensor) -> Tensor:
        """What the last layer gave -> `[n, width]`."""
        return hidden[:, 0]


class JointBert(nn.Module):
    """Several encoders of one shape side by side; steps that are equal are computed, and kept in memory, once."""

    def __init__(self, berts: Sequence[nn.Module], keys: Sequence[Sequence[str]]) -> None:
        """Join `berts`.

        Args:
            berts: modules with the steps of a `ClsBert`: `embed`, `context`, `layers` and `cls`.
            keys: of each one's embeddings and layers. Equal keys: equal weights there and in all steps before.
        """
        super().__init__()
        self.berts, self.keys = nn.ModuleList(berts), keys
        kept: dict[str, nn.Module] = {}
        for bert, path in zip(berts, keys, strict=True):
            layers: Any = bert.layers
            for i, key in enumerate(path[1:]):
                layers[i] = kept.setdefault(key, layers[i])

    def forward(self, *inputs: Any) -> Tensor:
        """What one of them gets -> `[n, sum of widths]`."""
        done: dict[str, Tensor] = {}
        found = []
        for bert, (stem, *path) in zip(self.berts, self.keys, strict=True):
            joined: Any = bert
            if stem not in done:
                done[stem] = joined.embed(*inputs)
            hidden, context = done[stem], joined.context(*inputs)
            for key, layer in zip(path, joined.layers, strict=True):
                if key not in done:
                    done[key] = layer(hidden, context)
                hidden = done[key]
            found.append(joined.cls(hidden))
        return torch.cat(found, dim=1)


LAYER_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "expand": "intermediate.dense",
    "contract": "output.dense",
    "output_norm": "output.LayerNorm",
}


def _fill(part: nn.Linear | nn.LayerNorm, tensors: Mapping[str, Tensor], name: str) -> None:
    part.load_state_dict({"weight": tensors[f"{name}.weight"], "bias": tensors[f"{name}.bias"]})


class TorchRuntime:
    """The module on the CPU, one batch at a time; bf16 through autocast: LayerNorm and softmax stay in float32."""

    name = "torch"
    max_batch_tokens, pads, n_tokenizers = MAX_BATCH_TOKENS, True, 1

    def __init__(self, module: ClsBert | JointBert, precision: str, n_threads: int) -> None:
        self._module, self._n_threads = module, n_threads
        self._bf16 = precision == "bf16"
        self.detail = f"CPU, {n_threads} threads, {precision}" + (" with fp32" if precision == "fp16" else "")

    def run(self, batches: Iterable[TokenBatch]) -> Generator[tuple[Ints, Floats]]:
        """See `Runtime.run`."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._n_threads)
        try:
            for batch in batches:
                yield batch.slots, self._forward(batch)
        finally:
            torch.set_num_threads(before)

    def _forward(self, batch: TokenBatch) -> Floats:
        ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16) if self._bf16 else nullcontext():
            vectors: Floats = self._module(ids, mask).float().numpy()
        return np.ascontiguousarray(vectors)
