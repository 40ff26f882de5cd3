"""A head on disk: `head.safetensors` and a manifest, with all that scoring needs besides the vectors themselves.

Who reviewed what (as codes, with the digests of the texts) is kept in the head, so that `score` needs the head and the
store but not the domain's table. Ratings outside the training part are not kept. This file knows no store.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from loid_infer.artifact import new_folder, read_manifest
from loid_infer.checkpoint import History
from loid_infer.data.histories import CodePairs, histories
from loid_infer.errors import BadArtifact
from loid_infer.heads.foundation import Foundation
from loid_infer.heads.loid import LoidNet
from loid_infer.heads.model import LoidHead, LoidPredictor
from loid_infer.heads.presets import HeadSettings
from loid_infer.heads.tokens import TokenScale, tokens_of
from loid_infer.types import NO_TIME, Array, Bools, Digests, Interactions, Ints, Vectors

KIND = "head"
FORMAT = 2
CURVE_FILE = "curve.json"
_FILE = "head.safetensors"
_ARRAYS = ("user_bias", "item_bias", "bias_spread", "on_user", "on_item", "on_biases")


@dataclass(frozen=True, slots=True)
class SavedHead:
    """A head with the reviews it was fitted on."""

    head: LoidHead
    reviews: Interactions  # all rows of the table it was fitted on; ratings of the training part only, else NaN
    train: Bools  # [n]
    rating_range: tuple[float, float]
    manifest: dict[str, Any]

    def training_digests(self) -> tuple[Ints, Digests]:
        """Codes `[m]` and digests `[m, 16]` of the texts a history can hold: those whose vectors scoring needs."""
        texts = np.unique(self.reviews.texts[self.train])
        texts = texts[~self.reviews.empty[texts]]
        return texts, self.reviews.digests[texts]

    def predictor(self, vectors: Vectors, device: str = "cpu") -> LoidPredictor:
        """What scores pairs, from the vectors `[n_texts, d]` of all texts (those without a digest above may be zero).

        Histories hold training reviews only and never the pair's own, whatever protocol the head was fitted under.

        Args:
            device: cpu | cuda, where the network computes.
        """
        drawn = histories(self.reviews, self.train, strict=True, by_time=False)
        return LoidPredictor(self.head, drawn, tokens_of(self.reviews, vectors, self.head.scale), device)

    def code_pairs(self, users: Ints, items: Ints) -> CodePairs:
        """Codes `[n]` (-1: not in the table) as pairs: those without training reviews become unknown, and a pair of the
        table is told its text."""
        reviews = self.reviews
        n_items = len(reviews.item_ids)
        order = np.argsort(reviews.users.astype(np.int64) * n_items + reviews.items, kind="stable")
        keys = (reviews.users.astype(np.int64) * n_items + reviews.items)[order]
        wanted = np.where((users < 0) | (items < 0), -1, users * n_items + items)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        texts = np.where(keys[at] == wanted, reviews.texts[order[at]], -1)
        return CodePairs(_seen(users, reviews.users[self.train], len(reviews.user_ids)),
                         _seen(items, reviews.items[self.train], n_items), texts)  # fmt: skip


def save_head(
    folder: Path, head: LoidHead, interactions: Interactions, train: Bools, history: History, manifest: dict[str, Any]
) -> None:
    """Write the head to `folder`, whole or not at all.

    Args:
        history: of its training, kept for inspection.
        manifest: what the caller has to say (domain, encoder, metrics, ..); kind, format and settings are added.

    Raises:
        NoSpace: the disk is full or the folder not writable.
    """
    foundation = head.foundation
    tensors: dict[str, Tensor] = {f"net.{name}": tensor.detach() for name, tensor in head.net.state_dict().items()}
    tensors |= {f"scale.{part.name}": getattr(head.scale, part.name) for part in fields(TokenScale)}
    tensors |= {f"foundation.{name}": torch.from_numpy(getattr(foundation, name)) for name in _ARRAYS}
    ratings = np.where(train, interactions.ratings, np.nan).astype(np.float32)
    arrays: dict[str, Array] = {
        "users": interactions.users.astype(np.int32),
        "items": interactions.items.astype(np.int32),
        "texts": interactions.texts.astype(np.int32),
        "train": train,
        "ratings": ratings,
        "digests": interactions.digests,
        "empty": interactions.empty,
    }
    for name, ids in (("user_ids", interactions.user_ids), ("item_ids", interactions.item_ids)):
        encoded = [text.encode() for text in ids]
        arrays[f"{name}.bytes"] = np.frombuffer(b"".join(encoded), np.uint8)
        arrays[f"{name}.ends"] = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    tensors |= {f"reviews.{name}": torch.from_numpy(array.copy()) for name, array in arrays.items()}
    manifest = manifest | {
        "kind": KIND,
        "format": FORMAT,
        "settings": asdict(head.settings),
        "seed": head.seed,
        "share": head.share,
        "mean": foundation.mean,
        "intercept": foundation.intercept,
        "rating_range": list(interactions.rating_range),
        "table_digest": interactions.digest,
    }
    with new_folder(folder, manifest) as temporary:
        # Clones: safetensors refuses tensors that share memory, as those of an absent foundation may.
        save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, temporary / _FILE)
        (temporary / CURVE_FILE).write_text(history.to_json() + "\n")


def load_head(folder: Path, mend: str) -> SavedHead:
    """The head in `folder`.

    Args:
        mend: the command that makes it anew, for the message.

    Raises:
        BadArtifact: absent, altered, of another format, or its parts do not fit each other.
    """
    manifest = read_manifest(folder, KIND, mend)
    if manifest.get("format") != FORMAT:
        raise BadArtifact("the head is of another format", where=str(folder), expected=f"format {FORMAT}",
                          got=str(manifest.get("format")), mend=mend)  # fmt: skip
    try:
        tensors = load_file(folder / _FILE)
        settings = HeadSettings(**manifest["settings"])
        scale = TokenScale(**{part.name: tensors[f"scale.{part.name}"] for part in fields(TokenScale)})
        arrays = {name: tensors[f"foundation.{name}"].numpy() for name in _ARRAYS}
        foundation = Foundation(mean=manifest["mean"], intercept=manifest["intercept"], **arrays)
        low, high = manifest["rating_range"]
        reviews, train = _reviews(tensors, (low, high), manifest["table_digest"])
        net = LoidNet(settings, len(reviews.user_ids), len(reviews.item_ids), len(scale.center), scale.token_dim)
        net.load_state_dict({name[4:]: tensor for name, tensor in tensors.items() if name.startswith("net.")})
        head = LoidHead(settings, scale, foundation, net, manifest["share"], manifest["seed"])
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadArtifact(
            f"the head cannot be read: {str(error).splitlines()[0]}", where=str(folder), mend=mend
        ) from error
    return SavedHead(head, reviews, train, (low, high), manifest)


def _reviews(tensors: dict[str, Tensor], rating_range: tuple[float, float], digest: str) -> tuple[Interactions, Bools]:
    part = {name[8:]: tensor.numpy() for name, tensor in tensors.items() if name.startswith("reviews.")}
    ids = [_ids(part[f"{name}.bytes"], part[f"{name}.ends"]) for name in ("user_ids", "item_ids")]
    reviews = Interactions(
        user_ids=ids[0],
        item_ids=ids[1],
        users=part["users"].astype(np.int64),
        items=part["items"].astype(np.int64),
        ratings=part["ratings"],
        timestamps=np.full(len(part["users"]), NO_TIME),
        texts=part["texts"].astype(np.int64),
        digests=part["digests"],
        empty=part["empty"],
        rating_range=rating_range,
        digest=digest,
    )
    return reviews, part["train"]


def _ids(content: Array, ends: Ints) -> list[str]:
    whole, bounds = content.tobytes(), [0, *ends.tolist()]
    return [whole[start:end].decode() for start, end in pairwise(bounds)]


def _seen(codes: Ints, training: Ints, n: int) -> Ints:
    counts = np.bincount(training, minlength=n + 1)  # code -1 finds the last, which is 0
    return np.where(counts[codes] > 0, codes, -1)
