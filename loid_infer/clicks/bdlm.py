"""BDLM (arXiv 2311.03778): a decoder with tokens of users and items, and a collaborative model, trained together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from loid_infer.clicks.answers import AnsweringModel
from loid_infer.clicks.nets import FactorPairs, PairBatch, looked_up
from loid_infer.clicks.settings import BdlmSettings
from loid_infer.data.clicks import Pairs
from loid_infer.plugins.adapter import AdaptedEncoder
from loid_infer.types import Bools

_KINDS = ("users", "items")


class IdTokens(nn.Module):
    """Embeddings of an extended vocabulary: those of the decoder, and projected vectors of users and items.

    Tokens from `first` on are the users, the items, an unknown user and an unknown item. The vectors of the last two
    are 0. Projected vectors have the deviation of the decoder's own embeddings.
    """

    def __init__(self, words: nn.Embedding, first: int, vectors: Sequence[Tensor]) -> None:
        """`vectors`: of users `[n_users, d]` and of items `[n_items, d]`, of variance 1."""
        super().__init__()
        self.words, self.first, dim = words, first, vectors[0].shape[1]
        self.users, self.items = (nn.Parameter(part.clone()) for part in vectors)
        self.projection = nn.Linear(dim, words.weight.shape[1])
        nn.init.normal_(self.projection.weight, std=float(words.weight.float().std()) * dim**-0.5)
        nn.init.zeros_(self.projection.bias)

    def forward(self, ids: Tensor) -> Tensor:
        """`[.., tokens]` -> `[.., tokens, width]`."""
        text: Tensor = self.words(torch.where(ids < self.first, ids, 0))
        own = ids >= self.first
        if own.any():
            rows = self.projection(functional.embedding(ids[own] - self.first, self._table()))
            text = text.masked_scatter(own[..., None], rows.to(text.dtype))
        return text

    def unknown(self, ids: Tensor, hidden: Tensor) -> Tensor:
        """`ids [n, tokens]` with the tokens of `hidden [2, n]` users and items replaced by those of unknown ones."""
        n_users, n_items = len(self.users), len(self.items)
        is_user = (ids >= self.first) & (ids < self.first + n_users)
        is_item = (ids >= self.first + n_users) & (ids < self.first + n_users + n_items)
        ids = torch.where(is_user & hidden[0, :, None], self.first + n_users + n_items, ids)
        return torch.where(is_item & hidden[1, :, None], self.first + n_users + n_items + 1, ids)

    def rows(self) -> Tensor:
        """The embeddings of all tokens from `first` on, `[n_users + n_items + 2, width]`."""
        with torch.no_grad():
            found: Tensor = self.projection(self._table())
        return found

    def _table(self) -> Tensor:
        """The vectors of these tokens, in their order."""
        return torch.cat([self.users, self.items, self.users.new_zeros(2, self.users.shape[1])])


class Mixer(nn.Module):
    """What the state of a prompt adds to a collaborative logit: an MLP of the product of both vectors and the state."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(width), nn.Linear(dim + width, dim)
        self.last = nn.Linear(dim, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, net: FactorPairs, states: Tensor, batch: PairBatch) -> Tensor:
        """The logits `[n]` of pairs, with the `states [n, width]` of their prompts."""
        user, item = net.vectors(batch, net.tables())
        inner = functional.gelu(self.inner(torch.cat([user * item, self.norm(states)], dim=1)))
        logits: Tensor = net.logits(batch, user, item) + self.last(inner)[:, 0]
        return logits


class BdlmModel(AnsweringModel):
    """Both sides: a decoder with LoRA and tokens of IDs, and a collaborative model that reads the decoder's state.

    They share what they learn of users and items in a third pair of tables, to which both are drawn. The collaborative
    side starts as it was fitted, since its share of the decoder's state starts at 0.

    With the task to choose, every prompt has as many candidates, of which one is right. The decoder answers with the
    token of an item, and only the logits of the candidates are read. The output embedding of a token is another
    projection of its vector, which starts at 0, so that all candidates are equally probable.
    """

    def __init__(
        self, decoder: AdaptedEncoder, direction: Tensor, net: FactorPairs, first: int, settings: BdlmSettings
    ) -> None:
        """A model whose new parameters are initialized from torch's global generator.

        Args:
            direction: `[width]`, the output embedding of Yes minus that of No.
            net: the fitted collaborative model, whose copy is trained.
            first: the token of the first user; -1 without tokens of IDs.
        """
        super().__init__()
        self.register_buffer("direction", direction)
        self.net = FactorPairs(len(net.user_bias), len(net.item_bias), net.users.shape[1])
        self.net.load_state_dict(net.state_dict())
        self.decoder, self.joint = decoder, settings.joint
        tables = [self._table(kind).detach() for kind in _KINDS]
        for kind, table in zip(_KINDS, tables, strict=True):
            self.register_buffer(f"{kind}_center", table.mean(dim=0))
            self.register_buffer(f"{kind}_spread", (table - table.mean(dim=0)).square().mean().sqrt().clamp(min=1e-6))
        fitted = [self._scaled(kind) for kind in _KINDS]
        shared = [table.detach().clone() for table in fitted]
        self.shared_users, self.shared_items = map(nn.Parameter, shared)
        self.tokens: IdTokens | None = None
        if first >= 0:
            start = [torch.randn_like(table) for table in shared] if settings.random_tokens else shared
            self.tokens = IdTokens(decoder.encoder.words, first, start)
            decoder.encoder.words = self.tokens
        self.mixer = Mixer(net.users.shape[1], len(direction))
        self.output: nn.Parameter | None = None
        if settings.task == "choose":
            self.output = nn.Parameter(torch.zeros(len(direction), net.users.shape[1] + 1))

    def _table(self, kind: str) -> Tensor:
        bias = self.net.user_bias if kind == "users" else self.net.item_bias
        return torch.cat([getattr(self.net, kind), bias[:, None]], dim=1)

    def _scaled(self, kind: str) -> Tensor:
        """The vectors with biases of the collaborative side, of mean 0 and variance 1 as they were fitted."""
        found: Tensor = (self._table(kind) - getattr(self, f"{kind}_center")) / getattr(self, f"{kind}_spread")
        return found

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pairs: Pairs, hidden: Bools | None = None) -> Tensor:
        """See `AnsweringModel`: the logits of the collaborative side, BDLM-drs."""
        return self.both(input_ids, attention_mask, pairs, hidden)[1]

    def both(
        self, input_ids: Tensor, attention_mask: Tensor, pairs: Pairs, hidden: Bools | None = None
    ) -> tuple[Tensor, Tensor]:
        """The logits `[m]` of the decoder, BDLM-llm, and of the collaborative side, which takes its state as given."""
        batch, each = PairBatch.of(pairs, 1).to(self.direction.device), pairs.n // len(input_ids)
        if hidden is not None:
            gone = torch.from_numpy(hidden).to(self.direction.device)
            users, items = (
                codes.masked_fill(part.repeat_interleave(each), -1)
                for codes, part in zip((batch.users, batch.items), gone, strict=True)
            )
            batch = PairBatch(users, items, batch.histories)
            if self.tokens is not None:
                input_ids = self.tokens.unknown(input_ids, gone)
        states = self.decoder(input_ids, attention_mask).repeat_interleave(each, dim=0)
        return answer(self.answers(), states, batch), self.mixer(self.net, states.detach(), batch)

    def answers(self) -> dict[str, Tensor]:
        """What `answer` reads."""
        if self.output is None:
            return {"direction": self.direction}
        assert self.tokens is not None
        return {"items": self.tokens.items, "output": self.output}

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum `[]` of the losses of pairs with `labels [n]`, or of lists of candidates, of which one is right."""
        if self.output is None:
            return functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        each = int(len(labels) / labels.sum())
        return functional.cross_entropy(logits.view(-1, each), labels.view(-1, each).argmax(dim=1), reduction="sum")

    def losses(
        self, input_ids: Tensor, attention_mask: Tensor, pairs: Pairs, labels: Tensor, hidden: Bools | None
    ) -> Tensor:
        """See `AnsweringModel`: the cross-entropy of both sides, and `joint` times the distance of their vectors to the
        shared ones, over the users and items of the batch. Candidates are never hidden, for they are the answers."""
        if self.output is not None and hidden is not None:
            hidden = hidden & np.array([[True], [False]])
        both = self.both(input_ids, attention_mask, pairs, hidden)
        total = torch.stack([self.loss(logits, labels) for logits in both]).sum()
        if not self.joint or self.tokens is None:
            return total
        for kind, codes in zip(_KINDS, (pairs.users, pairs.items), strict=True):
            rows = torch.from_numpy(codes).to(self.direction.device)
            shared = getattr(self, f"shared_{kind}")[rows]
            for side in (getattr(self.tokens, kind)[rows], self._scaled(kind)[rows]):
                total = total + self.joint * (side - shared).square().mean(dim=1).sum() * len(input_ids) / pairs.n
        return total

    def trained(self) -> dict[str, nn.Parameter]:
        """See `AnsweringModel`."""
        own: Mapping[str, nn.Module] = {"net": self.net, "mixer": self.mixer}
        found = self.decoder.factors()
        for prefix, module in own.items():
            found |= {f"{prefix}.{name}": part for name, part in module.named_parameters()}
        if self.tokens is not None:
            found |= {f"tokens.{name}": getattr(self.tokens, name) for name in _KINDS}
            found |= {f"projection.{name}": part for name, part in self.tokens.projection.named_parameters()}
            found |= {"shared_users": self.shared_users, "shared_items": self.shared_items} if self.joint else {}
        if self.output is not None:
            found["output"] = self.output
        return found


def answer(tensors: Mapping[str, Tensor], states: Tensor, batch: PairBatch) -> Tensor:
    """The logits `[n]` of a decoder, from the `states [n, width]` of the prompts about n pairs.

    Args:
        tensors: `direction [width]`, the output embedding of Yes minus that of No, or of a decoder that chooses among
            candidates the vectors `items [n_items, d]` and the map `output [width, d]` to output embeddings.
    """
    if "output" not in tensors:
        return states @ tensors["direction"]
    return ((states @ tensors["output"]) * looked_up(tensors["items"], batch.items)).sum(dim=1)
