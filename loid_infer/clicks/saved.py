"""Saves and loads heads on labeled pairs: `head.safetensors` and a manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from loid_infer.artifact import new_folder, read_manifest, write_manifest
from loid_infer.clicks.manifest import FORMAT, ClickManifest
from loid_infer.clicks.nets import PairNet, empty_net
from loid_infer.data.clicks import Clicks
from loid_infer.errors import BadArtifact
from loid_infer.learning.loop import History
from loid_infer.rankers.settings import RankOptions
from loid_infer.records import narrowed
from loid_infer.tensors import packed, save_tensors, unpacked

CURVE_FILE = "curve.json"
_FILE = "head.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class ClickHead:
    """A saved head on labeled pairs."""

    manifest: ClickManifest
    user_ids: Sequence[str]  # [n_users], ascending
    item_ids: Sequence[str]  # [n_items], ascending
    tensors: Mapping[str, Tensor]
    folder: Path

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors `name.*` of `tensors`."""
        return {
            key.removeprefix(f"{name}."): value for key, value in self.tensors.items() if key.startswith(f"{name}.")
        }

    def net(self) -> PairNet:
        """The collaborative model. Raises BadArtifact if the saved tensors do not fit one another."""
        manifest = self.manifest
        try:
            sizes = (len(self.user_ids), len(self.item_ids))
            net = empty_net(manifest.collaborative, *sizes, RankOptions(**manifest.options))
            net.load_state_dict(self.part("net"))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            what = f"the head cannot be read: {str(error).splitlines()[0]}"
            raise BadArtifact(what, where=str(self.folder), fix="Fit it again.") from error
        return net.eval()


def save_click_head(
    folder: Path,
    clicks: Clicks,
    tensors: Mapping[str, Tensor],
    report: Mapping[str, Any],
    history: History | None = None,
) -> ClickManifest:
    """Write the head to `folder`, atomically; `report` has the fields of `ClickManifest` that `clicks` does not know.

    Raises:
        NoSpace: the disk is full or the folder not writable.
    """
    known = {"format": FORMAT, "domain": clicks.domain, "split": clicks.split, "split_digest": clicks.digest}
    manifest = narrowed({**report, **known}, ClickManifest)
    ids = packed("user_ids", clicks.user_ids) | packed("item_ids", clicks.item_ids)
    with new_folder(folder) as temporary:
        model = {f"model.{name}": tensor.detach() for name, tensor in tensors.items()}
        save_tensors(temporary / _FILE, {**model, **ids}, copy=True)
        if history is not None:
            (temporary / CURVE_FILE).write_text(history.to_json() + "\n")
        write_manifest(temporary, manifest)
    return manifest


def load_click_head(folder: Path, fix: str) -> ClickHead:
    """The head in `folder`. `fix` says in messages how to make it again.

    Raises:
        BadArtifact: the head is missing, altered, of another kind or format, or inconsistent.
    """
    manifest = read_manifest(folder, ClickManifest, fix, form=FORMAT)
    try:
        arrays = load_file(folder / _FILE)
        user_ids, item_ids = (unpacked(name, arrays) for name in ("user_ids", "item_ids"))
    except (KeyError, ValueError, SafetensorError) as error:
        what = f"the head cannot be read: {str(error).splitlines()[0]}"
        raise BadArtifact(what, where=str(folder), fix=fix) from error
    model = {name[6:]: torch.from_numpy(array) for name, array in arrays.items() if name.startswith("model.")}
    return ClickHead(manifest, user_ids, item_ids, model, folder)
