"""The settings of decoders that answer. Imports no torch, so that a command can refuse a setting at once."""

from __future__ import annotations

from dataclasses import dataclass

from loid_infer.architectures.family import TARGETS
from loid_infer.plugins.settings import TrainSettings
from loid_infer.settings import option

PROMPT = "A user liked these titles: {history} Will the user like {title} as well? Answer Yes or No. Answer:"
ID_PROMPT = (
    "The user {user} liked these titles: {history} Will the user like {title} {item} as well? Answer Yes or No. Answer:"
)
CHOOSE_PROMPT = (
    "The user {user} liked these titles: {history} Which of these will the user like next? {candidates} Answer:"
)
TASKS = ("answer", "choose")


@dataclass(frozen=True, slots=True)
class AnswerSettings(TrainSettings):
    """Everything that decides what a decoder learns to answer besides its data. Rank and targets are TALLRec's."""

    rank: int = option(8, "Rank of the LoRA factors.", min=1, max=100_000)
    targets: tuple[str, ...] = option(
        ("query", "value"), f"Linear layers that are changed: some of {','.join(TARGETS)}. By default query,value."
    )
    batch_tokens: int = 2048  # with padding
    samples: int | None = option(
        None, "Training pairs or lists, drawn by the seed. By default all.", min=2, max=1 << 40
    )


@dataclass(frozen=True, slots=True)
class CoraSettings(AnswerSettings):
    """Everything that decides a generator's weights besides its data."""

    rank: int = option(8, "Rank of the increments.", min=1, max=100_000)
    alpha: None = None  # increments are not scaled
    layers: int | None = option(None, "Number of top layers that are changed. By default all.", min=1, max=1000)
    queries: int = option(8, "Learned queries of the generator.", min=1, max=1024)
    dim: int = option(64, "Width of the generator, a multiple of 4.", min=4, max=4096)
    blocks: int = option(2, "Transformer blocks of the generator.", min=1, max=32)
    hidden: float = option(
        0.2, "Share of training pairs whose user is hidden, and of those whose item is, as if unknown.", min=0, max=0.9
    )


@dataclass(frozen=True, slots=True)
class BdlmSettings(AnswerSettings):
    """Everything that decides both sides of BDLM besides their data."""

    task: str = option(
        "answer", "What the decoder is asked: answer (Yes or No, about one item) | choose (one of some candidates)."
    )
    hidden: float = option(
        0.2,
        "Share of training pairs whose user is hidden, and of those whose item is (not to choose), as if unknown.",
        min=0,
        max=0.9,
    )
    joint: float = option(0.1, "Weight of the distance to shared vectors; 0: both sides learn apart.", min=0, max=1000)
    random_tokens: bool = option(False, "Start the tokens of users and items at random, not from the head's vectors.")
    no_tokens: bool = option(False, "Give the decoder no tokens of users and items.")


DEFAULT_ANSWER_SETTINGS = AnswerSettings()
DEFAULT_CORA_SETTINGS = CoraSettings()
DEFAULT_BDLM_SETTINGS = BdlmSettings()
