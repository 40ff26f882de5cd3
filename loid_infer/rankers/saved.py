"""Saves and loads ranking heads: `head.safetensors` and a manifest.

Vectors of texts are not saved: they are read from the store, by the digests that are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from loid_infer.artifact import new_folder, read_manifest, write_manifest
from loid_infer.data.sequences import Sequences, SequenceSplit
from loid_infer.errors import BadArtifact
from loid_infer.rankers.manifest import FORMAT, RankingManifest
from loid_infer.rankers.models import Fitted, restored, state
from loid_infer.rankers.ranking import Ranker
from loid_infer.rankers.settings import RankOptions
from loid_infer.rankers.texts import HistoryVectors, TextVectors
from loid_infer.records import narrowed
from loid_infer.tensors import packed, save_tensors, unpacked
from loid_infer.types import Array, Bools, Digests, Floats, Ints

CURVE_FILE = "curve.json"
_FILE = "head.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class RankingHead:
    """A saved ranking head; `ranker` opens it."""

    manifest: RankingManifest
    user_ids: Sequence[str]  # [n_users], ascending
    item_ids: Sequence[str]  # [n_items], ascending in each domain
    bounds: Ints  # [n_domains + 1], the items of domain k are bounds[k] .. bounds[k + 1]
    counts: Ints  # [n_items], training interactions
    digests: Digests  # [n_items, 16], of the items' texts; empty without texts
    has_text: Bools  # [n_items]; empty without texts
    tensors: Mapping[str, Array]
    folder: Path

    def ranker(self, vectors: Callable[[Digests], Floats], histories: HistoryVectors | None = None) -> Ranker:
        """The ranker. `vectors` reads those `[n, d]` of digests `[n, 16]` from the store, `histories` of joined texts.

        Raises BadArtifact if the saved tensors do not fit one another.
        """
        manifest = self.manifest
        texts = TextVectors(vectors(self.digests), self.has_text, histories) if manifest.fingerprint else None
        options, sizes = RankOptions(**manifest.options), (len(self.user_ids), len(self.item_ids))
        try:
            return restored(manifest.model, options, *sizes, self.tensors, texts)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            what = f"the head cannot be read: {str(error).splitlines()[0]}"
            raise BadArtifact(what, where=str(self.folder), fix="Fit it again.") from error


def save_ranking_head(
    folder: Path,
    fitted: Fitted,
    sequences: Sequences,
    split: SequenceSplit,
    texts: tuple[Digests, Bools] | None,
    report: Mapping[str, Any],
) -> RankingManifest:
    """Write the head to `folder`, atomically; `report` has the fields of `RankingManifest` that are not known here.

    Raises:
        NoSpace: the disk is full or the folder not writable.
    """
    counts = split.counts(sequences)
    digests, has_text = texts or (np.zeros((0, 16), np.uint8), np.zeros(0, bool))
    arrays: dict[str, Any] = {"bounds": sequences.bounds, "counts": counts, "digests": digests, "has_text": has_text}
    arrays |= packed("users", sequences.user_ids) | packed("items", sequences.item_ids)
    known = {
        "format": FORMAT,
        "domains": tuple(sequences.domains),
        "sequences_digest": sequences.digest,
        "split": split.kind,
        "split_digest": split.digest,
        "options": asdict(fitted.options),
        "trials": fitted.trials,
    }
    manifest = narrowed({**report, **known}, RankingManifest)
    with new_folder(folder) as temporary:
        tensors = {f"model.{name}": tensor for name, tensor in state(fitted).items()}
        save_tensors(temporary / _FILE, {**tensors, **arrays}, copy=True)
        if fitted.history is not None:
            (temporary / CURVE_FILE).write_text(fitted.history.to_json() + "\n")
        write_manifest(temporary, manifest)
    return manifest


def load_ranking_head(folder: Path, fix: str) -> RankingHead:
    """The head in `folder`. `fix` says in messages how to make it again.

    Raises:
        BadArtifact: the head is missing, altered, of another kind or format, or inconsistent.
    """
    manifest = read_manifest(folder, RankingManifest, fix, form=FORMAT)
    try:
        arrays = load_file(folder / _FILE)
        user_ids, item_ids = (unpacked(name, arrays) for name in ("users", "items"))
        tensors = {name[6:]: array for name, array in arrays.items() if name.startswith("model.")}
        bounds, counts, digests, has_text = (arrays[name] for name in ("bounds", "counts", "digests", "has_text"))
    except (KeyError, ValueError, SafetensorError) as error:
        what = f"the head cannot be read: {str(error).splitlines()[0]}"
        raise BadArtifact(what, where=str(folder), fix=fix) from error
    return RankingHead(manifest, user_ids, item_ids, bounds, counts, digests, has_text, tensors, folder)
