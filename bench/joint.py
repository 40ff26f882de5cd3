"""What is one pass with several encoders worth, against a run for each? Plugins on the top layers, and on all layers.

The encoders are MiniLM-L6 and variants of it with other matrices in some layers, as plugins make them; what a plugin
learned does not matter to speed. Every way runs from table to last commit, in a process of its own, in turn.

    python -m bench.joint [N_REVIEWS] [REPEATS]
"""

import shutil
import sys
from pathlib import Path

from bench.record import loid, median, real_table, save

TOP, ALL = (4, 5), tuple(range(6))
VARIANTS = {"top-1": TOP, "top-2": TOP, "all-1": ALL, "all-2": ALL}  # name -> layers that differ from the base's
FAMILIES = {"top 2 of 6 layers": ("base", "top-1", "top-2"), "all layers": ("base", "all-1", "all-2")}


def main(n_reviews: int = 6000, repeats: int = 3) -> None:
    workspace, _ = real_table("joint", n_reviews)
    loid("export", "-w", str(workspace))
    for seed, (name, layers) in enumerate(VARIANTS.items()):
        base = _variant(workspace / "bases" / name, layers, seed)
        loid("export", "--name", name, "--base", str(base), "-w", str(workspace))
    for names in FAMILIES.values():  # streams are measured once a machine, before the clock
        for n in (1, 2, 3):
            _run(workspace, names[:n])
    times: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(repeats):
        for family, names in FAMILIES.items():
            alone = [_run(workspace, [name])["seconds"] for name in names]
            for n in (2, 3):
                joint = _run(workspace, names[:n])
                times.setdefault((family, n), []).append((sum(alone[:n]), joint["seconds"]))
    rows = [
        {
            "plugins on": family,
            "encoders": n,
            "separate_s": median([separate for separate, _ in found]),
            "one_pass_s": median([joint for _, joint in found]),
            "times_faster": median([separate / joint for separate, joint in found]),
        }
        for (family, n), found in times.items()
    ]
    last = _run(workspace, FAMILIES["all layers"])
    save(
        "What is one pass with several encoders worth?",
        "joint",
        rows,
        f"{last['n_encoded']:,} Musical Instruments reviews, {last['n_tokens']:,} tokens, MiniLM-L6 and variants, "
        f"{last['precision']}, {last['runtime']}; table to last commit, medians of {repeats}, each way in its own "
        "process, in turn. Opening and proving the runtime is not counted, which one pass does once too.",
    )
    shutil.rmtree(workspace)


def _run(workspace: Path, names: tuple[str, ...] | list[str]) -> dict:
    """`encode` with these encoders into empty stores; what it says of the first."""
    shutil.rmtree(workspace / "cache", ignore_errors=True)
    options = [part for name in names for part in ("-e", name)]
    done = loid("encode", "-d", "reviews", *options, "-w", str(workspace))
    runs = done.get("encoders", [done])
    assert all(run["n_hits"] == 0 and len(run["joined"]) == len(names) - 1 for run in runs)
    return runs[0]


def _variant(folder: Path, layers: tuple[int, ...], seed: int) -> Path:
    """The bundled base with a little noise on every matrix of `layers`."""
    import torch
    from safetensors.torch import load_file, save_file

    from loid_infer.graphs.bases import find_base

    shutil.copytree(find_base("default")[1], folder)
    tensors = load_file(folder / "model.safetensors")
    noise = torch.Generator().manual_seed(seed)
    for name, tensor in tensors.items():
        if tensor.dim() == 2 and any(f"encoder.layer.{i}." in name for i in layers):
            tensors[name] = tensor + 0.1 * tensor.std() * torch.randn(tensor.shape, generator=noise)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
