"""A frozen decoder that answers Yes or No, with the increments that CoRA generates for each pair, and its training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from loid_infer.architectures.transformer import Transformer
from loid_infer.clicks.candidates import log_odds
from loid_infer.clicks.generator import GeneratedLinear, Generator
from loid_infer.clicks.nets import PairBatch, PairNet
from loid_infer.clicks.prompts import Prompts
from loid_infer.clicks.settings import AnswerSettings, BdlmSettings, CoraSettings
from loid_infer.clicks.training import auc
from loid_infer.data.clicks import TRAIN, VALID, Clicks, Pairs
from loid_infer.data.sequences import Histories
from loid_infer.errors import BadSetting
from loid_infer.kernels import sampling
from loid_infer.learning import loop
from loid_infer.learning.checkpoint import Checkpoint
from loid_infer.learning.loop import History, Loss, Training
from loid_infer.plugins.adapter import AdaptedEncoder, module_names, tensors_of
from loid_infer.plugins.train import Examples
from loid_infer.types import SILENT, Array, Bools, Floats, Ints, Progress, Spec, TokenBatch

MAX_VALID = 1_000  # pairs of a validation
_HIDE_USER, _HIDE_ITEM = 1, 2  # purposes of random draws
_SCALED = 4_096  # training pairs that decide the scale of the vectors


class AnsweringModel(nn.Module):
    """Prompts and the pairs they are about -> the logit of Yes against No."""

    direction: Tensor  # [width], the output embedding of Yes minus that of No

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pairs: Pairs, hidden: Bools | None = None) -> Tensor:
        """`[n, tokens]` twice, and the m pairs that they are about, as many each -> `[m]`, float32.

        `hidden [2, n]`: whose users and whose items get the vector of unknown ones.
        """
        raise NotImplementedError

    def losses(
        self, input_ids: Tensor, attention_mask: Tensor, pairs: Pairs, labels: Tensor, hidden: Bools | None
    ) -> Tensor:
        """The sum `[]` of the losses of m pairs with `labels [m]`: by default the binary cross-entropy."""
        logits = self(input_ids, attention_mask, pairs, hidden)
        return functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")

    def trained(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name, in a fixed order."""
        raise NotImplementedError

    def prepare(self, pairs: Pairs) -> None:
        """Do what depends on some training pairs, before the first step."""


class AdaptedModel(AnsweringModel):
    """A decoder with LoRA, which knows nothing of a pair but its prompt (TALLRec, Bao et al. 2023)."""

    def __init__(self, decoder: AdaptedEncoder, direction: Tensor) -> None:
        super().__init__()
        self.decoder = decoder
        self.register_buffer("direction", direction)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pairs: Pairs, hidden: Bools | None = None) -> Tensor:
        """See `AnsweringModel`."""
        states: Tensor = self.decoder(input_ids, attention_mask)
        return states @ self.direction

    def trained(self) -> dict[str, nn.Parameter]:
        """See `AnsweringModel`."""
        return self.decoder.factors()


class CoraModel(AnsweringModel):
    """Prompts and vectors of pairs -> the logit of Yes against No (CoRA). Only the generator has gradients."""

    users: Tensor  # [n_users, d], what the collaborative model looks users up in
    items: Tensor  # [n_items, d]

    def __init__(
        self,
        spec: Spec,
        frozen: Mapping[str, Tensor],
        direction: Tensor,
        net: PairNet,
        settings: CoraSettings,
        max_length: int,
    ) -> None:
        """A model whose generator is initialized from torch's global generator.

        Args:
            frozen: float32 state of the decoder.
            direction: `[width]`, the output embedding of Yes minus that of No.
            net: the collaborative model, which stays as it is.
            max_length: items of a history that it reads.
        """
        super().__init__()
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        self.decoder = Transformer(spec, frozen).to(dtype)
        self.decoder.is_uniform = True
        self.register_buffer("direction", direction)
        self.net, self._max_length = net.requires_grad_(False).eval(), max_length
        for name, table in zip(("users", "items"), net.tables(), strict=True):
            self.register_buffer(name, table.detach())
        first = spec.n_layers - (settings.layers or spec.n_layers)
        sizes: dict[str, tuple[int, int]] = {}
        self._changed: list[tuple[int, str, GeneratedLinear]] = []
        for number, layer in enumerate(self.decoder.layers[first:]):
            for part in module_names(spec, first + number, settings.targets):
                linear = getattr(layer, part)
                sizes[part] = (linear.in_features, linear.out_features)
                self._changed.append((number, part, GeneratedLinear(linear)))
                setattr(layer, part, self._changed[-1][2])
        cf_dim = self.read(no_pairs())[0].shape[1]
        shape = (settings.rank, settings.dim, settings.queries, settings.blocks)
        self.generator = Generator(cf_dim, spec.n_layers - first, sizes, *shape)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pairs: Pairs, hidden: Bools | None = None) -> Tensor:
        """See `AnsweringModel`."""
        user, item = self.read(pairs)
        if hidden is not None:
            shown = torch.from_numpy(~hidden).to(self.direction.device)
            user, item = user * shown[0, :, None], item * shown[1, :, None]
        vectors = self.generator(user, item)
        for number, part, linear in self._changed:
            linear.increment = self.generator.increment(vectors, number, part)
        return self._answer(input_ids, attention_mask)

    def plain(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The same without increments."""
        for *_, linear in self._changed:
            linear.increment = None
        return self._answer(input_ids, attention_mask)

    def _answer(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states: Tensor = self.decoder(input_ids, attention_mask).float()
        return states @ self.direction

    def trained(self) -> dict[str, nn.Parameter]:
        """See `AnsweringModel`."""
        return dict(self.generator.named_parameters())

    def prepare(self, pairs: Pairs) -> None:
        """Scale the vectors of users and items by those of `pairs`."""
        self.generator.scale_to(*self.read(pairs))

    def read(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """The frozen vectors of users and items, `[n, d]` each."""
        batch = PairBatch.of(pairs, self._max_length).to(self.direction.device)
        with torch.no_grad():
            return self.net.read(batch, (self.users, self.items))


def no_pairs() -> Pairs:
    """None."""
    nothing = np.zeros(0, np.int64)
    return Pairs(nothing, nothing, Histories(nothing, nothing, nothing, nothing))


@dataclass(frozen=True, slots=True, eq=False)
class Questions:
    """Pairs with their prompts as tokens. Every prompt is about as many adjacent pairs."""

    pairs: Pairs
    labels: Array  # [n_pairs], float32
    examples: Examples

    @staticmethod
    def of(pairs: Pairs, labels: Array, titles: Sequence[str], prompts: Prompts) -> Questions:
        """Those about `titles [n_pairs]`."""
        starts = np.arange(0, pairs.n + 1, prompts.candidates or 1)
        tokens = prompts.tokenizer(prompts(pairs, titles, starts))
        labels = labels.astype(np.float32)
        return Questions(pairs, labels, Examples(tokens.flat_ids, tokens.lengths, labels[starts[:-1]]))

    @property
    def each(self) -> int:
        """The number of pairs of a prompt."""
        return self.pairs.n // self.examples.n

    def rows(self, prompts: Ints) -> Ints:
        """The pairs of some prompts, one after another."""
        return (prompts[:, None] * self.each + np.arange(self.each)).ravel()


def train_answers(
    model: AnsweringModel,
    train: Questions,
    valid: Questions,
    settings: AnswerSettings,
    checkpoint: Checkpoint | None,
    progress: Progress,
) -> History:
    """Train the model by its losses, by default the binary cross-entropy of P(Yes), with early stopping on the AUC.

    The losses of a batch are summed and divided by the mean batch size, so that all pairs have equal weight.

    Raises:
        BadSetting: training diverged.
        NoSpace: a checkpoint cannot be written.
    """
    n, examples = train.examples.n, train.examples
    share = settings.hidden if isinstance(settings, CoraSettings | BdlmSettings) else 0.0
    some = np.argsort(sampling.keys(settings.seed, np.arange(train.pairs.n)), kind="stable")[:_SCALED]
    model.prepare(train.pairs.take(some))
    n_batches = len(examples.batches(settings.batch_tokens, settings.max_tokens))

    def batches(epoch: int, position: int) -> Iterator[TokenBatch]:
        rows = examples.epoch(settings.batch_tokens, settings.max_tokens, settings.seed, epoch)
        return examples.padded(rows[position:], settings.max_tokens)

    def step(batch: TokenBatch, number: int) -> Loss:
        # What was learned from the very pairs of this training says more of their labels than of new ones, and nothing
        # of new items: without hidden ones the decoder would not learn to read titles (DropoutNet, Volkovs et al.).
        keys = (sampling.keys(settings.seed, side, number, batch.slots) for side in (_HIDE_USER, _HIDE_ITEM))
        hidden = np.stack([sampling.uniform(key) < share for key in keys])
        rows = train.rows(batch.slots)
        labels = torch.from_numpy(train.labels[rows]).to(model.direction.device)
        tensors = tensors_of(batch, model.direction.device)
        total = model.losses(*tensors, train.pairs.take(rows), labels, hidden)
        if not torch.isfinite(total):
            fix = f"Give a smaller --learning-rate than {settings.learning_rate:g}."
            raise BadSetting("training diverged: the loss is not finite", where=f"step {number + 1:,}", fix=fix)
        return Loss(total / (n / n_batches), total.detach() / len(batch.slots), len(batch.slots), batch.n_tokens)

    training = Training(
        parameters=model.trained(),
        batches=batches,
        n_batches=n_batches,
        n_samples=n,
        step=step,
        validate=lambda: 1 - auc(answered(model, valid, settings), valid.labels > 0),
        task=("train", "pairs"),
        errors=("loss", "1 - AUC"),
        **settings.of_loop(),
    )
    return loop.train(training, checkpoint, progress)


def answered(
    model: AnsweringModel, questions: Questions, settings: AnswerSettings, progress: Progress = SILENT
) -> Floats:
    """The logits `[n_pairs]` of all questions; of lists of candidates those of their probabilities."""
    found = np.empty(questions.pairs.n, np.float32)
    examples = questions.examples
    batches = examples.batches(2 * settings.batch_tokens, settings.max_tokens)
    with torch.inference_mode(), progress.task("answer", len(found), "pairs") as task:
        for batch in examples.padded(batches, settings.max_tokens):
            tensors = tensors_of(batch, model.direction.device)
            rows = questions.rows(batch.slots)
            found[rows] = model(*tensors, questions.pairs.take(rows)).cpu().numpy()
            task.advance(len(rows))
    return found if len(found) == examples.n else log_odds(found, np.arange(0, len(found) + 1, questions.each))


def drawn(rows: Ints, n: int | None, seed: int) -> Ints:
    """At most `n` of the rows, the same for a seed; None: all."""
    return rows if n is None else np.sort(rows[np.argsort(sampling.keys(seed, rows), kind="stable")[:n]])


def questions_of(
    clicks: Clicks, titles: Sequence[str], prompts: Prompts, settings: AnswerSettings
) -> tuple[Questions, Questions]:
    """Those of the training part, and of at most MAX_VALID pairs of the validation part."""
    train = drawn(clicks.rows(TRAIN), settings.samples, settings.seed)
    valid = drawn(clicks.rows(VALID), MAX_VALID, settings.seed)
    train_questions, valid_questions = (
        Questions.of(
            clicks.pairs(rows), clicks.labels[rows], [titles[item] for item in clicks.items[rows].tolist()], prompts
        )
        for rows in (train, valid)
    )
    return train_questions, valid_questions
