"""Saves and loads heads: `head.safetensors` and a manifest.

The training interactions are saved too (codes, and digests of the texts), so that `score` needs the head and the store
only. Ratings outside of the training part are not saved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from loid_infer.artifact import new_folder, read_manifest, write_manifest
from loid_infer.data.histories import CodePairs, histories, positions
from loid_infer.errors import BadArtifact
from loid_infer.heads.foundation import Foundation
from loid_infer.heads.loid import LoidHead, LoidNet, LoidPredictor, known_ids, mask_unknown
from loid_infer.heads.manifest import FORMAT, HeadManifest
from loid_infer.heads.tokens import TokenScale, tokens_of
from loid_infer.learning.loop import History
from loid_infer.records import narrowed
from loid_infer.tensors import packed, save_tensors, unpacked
from loid_infer.types import NO_TIME, Array, Bools, Digests, Interactions, Ints, Vectors

CURVE_FILE = "curve.json"
_FILE = "head.safetensors"
_CODES = ("users", "items", "texts")
_IDS = ("user_ids", "item_ids")
_ARRAYS = ("user_bias", "item_bias", "bias_spread", "on_user", "on_item", "on_biases")


@dataclass(frozen=True, slots=True)
class SavedHead:
    """A head with the reviews of its table."""

    head: LoidHead
    reviews: Interactions  # all rows of the table; ratings outside of the training part are NaN
    train: Bools  # [n]
    manifest: HeadManifest

    def training_digests(self) -> tuple[Ints, Digests]:
        """Codes `[m]` and digests `[m, 16]` of the texts whose vectors scoring needs: all that can be in a history."""
        texts = np.unique(self.reviews.texts[self.train])
        texts = texts[~self.reviews.empty[texts]]
        return texts, self.reviews.digests[texts]

    def predictor(self, vectors: Vectors, device: str = "cpu") -> LoidPredictor:
        """The predictor on `device` (cpu | cuda), from the vectors `[m, d]` of the texts in `training_digests`.

        Histories are always those of the strict protocol. `vectors` are read during the call only.
        """
        reviews, (texts, _) = self.reviews, self.training_digests()
        position = np.zeros(len(reviews.digests), np.int64)
        position[texts] = np.arange(len(texts))
        tokens = replace(tokens_of(reviews, vectors, self.head.scale), texts=position[reviews.texts])
        lists = histories(reviews, self.train, strict=True, by_time=False)
        return LoidPredictor(self.head, lists, tokens, device, with_network=self.head.share > 0)

    def coder(self) -> Callable[[Ints, Ints], CodePairs]:
        """A function that makes pairs of codes `[n]` of users and items, -1 for those that are not in the table. Those
        without training reviews become unknown, too."""
        reviews, known = self.reviews, known_ids(self.reviews, self.train)
        n_items = len(reviews.item_ids)
        keys = reviews.users.astype(np.int64) * n_items + reviews.items
        order = np.argsort(keys, kind="stable")
        keys, texts = keys[order], np.append(reviews.texts[order], -1)

        def code(users: Ints, items: Ints) -> CodePairs:
            wanted = np.where((users < 0) | (items < 0), -1, users * n_items + items)
            return CodePairs(*mask_unknown(known, users, items), texts[positions(keys, wanted)])

        return code


def save_head(
    folder: Path, head: LoidHead, interactions: Interactions, train: Bools, history: History, report: Mapping[str, Any]
) -> None:
    """Write the head and its learning curve to `folder`, atomically; `report` has the other fields of `HeadManifest`.

    Raises:
        NoSpace: the disk is full or the folder not writable.
    """
    tensors: dict[str, Tensor | Array] = {f"net.{name}": tensor.cpu() for name, tensor in head.net.state_dict().items()}
    tensors |= {f"scale.{part.name}": getattr(head.scale, part.name) for part in fields(TokenScale)}
    tensors |= {f"foundation.{name}": getattr(head.foundation, name) for name in _ARRAYS}
    arrays: dict[str, Array] = {
        **{name: getattr(interactions, name).astype(np.int32) for name in _CODES},
        "train": train,
        "ratings": np.where(train, interactions.ratings, np.nan).astype(np.float32),
        "digests": interactions.digests,
        "empty": interactions.empty,
    }
    for name in _IDS:
        arrays |= packed(name, getattr(interactions, name))
    tensors |= {f"reviews.{name}": array for name, array in arrays.items()}
    head_fields = {
        "format": FORMAT,
        "settings": head.settings,
        "seed": head.seed,
        "share": head.share,
        "mean": head.foundation.mean,
        "intercept": head.foundation.intercept,
        "rating_range": interactions.rating_range,
        "table_digest": interactions.digest,
    }
    manifest = narrowed({**report, **head_fields}, HeadManifest)
    with new_folder(folder) as temporary:
        save_tensors(temporary / _FILE, tensors, copy=True)
        (temporary / CURVE_FILE).write_text(history.to_json() + "\n")
        write_manifest(temporary, manifest)


def load_head(folder: Path, fix: str) -> SavedHead:
    """The head in `folder`. `fix` says in messages how to make it again.

    Raises:
        BadArtifact: the head is missing, altered, of another format or inconsistent.
    """
    manifest = read_manifest(folder, HeadManifest, fix, form=FORMAT)
    settings = manifest.settings
    try:
        tensors = load_file(folder / _FILE)
        scale = TokenScale(**{part.name: tensors[f"scale.{part.name}"] for part in fields(TokenScale)})
        arrays = {name: tensors[f"foundation.{name}"].numpy() for name in _ARRAYS}
        foundation = Foundation(mean=manifest.mean, intercept=manifest.intercept, **arrays)
        reviews = _reviews(tensors, manifest)
        net = LoidNet(settings, len(reviews.user_ids), len(reviews.item_ids), len(scale.center), scale.token_dim)
        net.load_state_dict({name[4:]: tensor for name, tensor in tensors.items() if name.startswith("net.")})
        head = LoidHead(settings, scale, foundation, net, manifest.share, manifest.seed)
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        what = f"the head cannot be read: {str(error).splitlines()[0]}"
        raise BadArtifact(what, where=str(folder), fix=fix) from error
    return SavedHead(head, reviews, tensors["reviews.train"].numpy(), manifest)


def _reviews(tensors: dict[str, Tensor], manifest: HeadManifest) -> Interactions:
    parts = {name[8:]: tensor.numpy() for name, tensor in tensors.items() if name.startswith("reviews.")}
    codes: dict[str, Any] = {name: parts[name].astype(np.int64) for name in _CODES}
    ids: dict[str, Any] = {name: unpacked(name, parts) for name in _IDS}
    return Interactions(
        **ids,
        **codes,
        ratings=parts["ratings"],
        timestamps=np.full(len(parts["users"]), NO_TIME),
        digests=parts["digests"],
        empty=parts["empty"],
        rating_range=manifest.rating_range,
        digest=manifest.table_digest,
    )
