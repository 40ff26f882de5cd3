"""Fixtures shared by all tests. Nothing here needs a network, a GPU or the real data."""

import os
from pathlib import Path

import pytest

# One thread for torch's own loops: many small products gain nothing from two and lose much when both cores are busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def machine_memory(tmp_path_factory: pytest.TempPathFactory):
    """Measurements of this machine are not written to the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("machine")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real reviews: `data` under LOID_SHARED, else under a folder `shared` beside the checkout."""
    root = Path(os.environ.get("LOID_SHARED") or Path(__file__).parents[2] / "shared")
    folder = root / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: set LOID_SHARED to the folder that holds data/ (looked in {root})")
    return folder


WORDS = [
    "great",
    "good",
    "fine",
    "bad",
    "awful",
    "sound",
    "string",
    "guitar",
    "case",
    "cable",
    "plot",
    "battery",
    "works",
    "broke",
    "it",
    "the",
    "a",
    "is",
    "was",
    "not",
    "very",
    "my",
]


def make_toy_base(folder: Path, *, seed: int = 0, n_layers: int = 2) -> Path:
    """A BERT of a few kilobytes with random weights, as a Hugging Face folder."""
    import tokenizers
    import torch
    import transformers

    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789.,!?'"]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *WORDS]
    vocab = list(dict.fromkeys(vocab))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocab))
    tokenizer = tokenizers.BertWordPieceTokenizer({token: i for i, token in enumerate(vocab)})
    # Like the bundled tokenizer, it has its own truncation and padding, which must not matter.
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    config = transformers.BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=n_layers,
        intermediate_size=64,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    torch.manual_seed(seed)
    model = transformers.BertModel(config)
    for parameter in model.parameters():  # larger than BERT's own 0.02, so that texts differ and errors show
        torch.nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else None
    model.save_pretrained(folder)
    return folder


def make_variant(base: Path, folder: Path, layers: set[int], *, seed: int) -> Path:
    """A copy of `base` with other matrices in these layers, as if a plugin had been folded into it."""
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    noise = torch.Generator().manual_seed(seed)
    for name, tensor in tensors.items():
        if tensor.dim() == 2 and name.startswith(tuple(f"encoder.layer.{i}." for i in layers)):
            tensors[name] = tensor + 0.2 * torch.randn(tensor.shape, generator=noise)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def toy_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_base(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def exported(toy_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose encoder `base` is the toy, in float32. Copy it before writing to it."""
    from loid_infer import export
    from loid_infer.settings import Workspace

    root = tmp_path_factory.mktemp("exported")
    export(base=str(toy_base), precision="fp32", max_tokens=32, workspace=Workspace(root))
    return root


@pytest.fixture(scope="session")
def exported_int8(toy_base: Path, tmp_path_factory: pytest.TempPathFactory):
    """A workspace whose encoder `small` is the toy in int8, calibrated on its domain `toys`, and that export's result.
    Copy it before writing to it."""
    from loid_infer import export, ingest
    from loid_infer.encoders.opening import able
    from loid_infer.settings import Workspace

    if not any(backend.installed for backend in able("cpu", "int8")):
        pytest.skip("no runtime that computes int8 is installed")
    workspace = Workspace(tmp_path_factory.mktemp("exported_int8"))
    source = write_reviews(workspace.root / "toys.jsonl", toy_texts(200))
    ingest([source], "toys", workspace=workspace)
    result = export(
        "small", base=str(toy_base), precision="int8", calibrate_on="toys", max_tokens=32, workspace=workspace
    )
    return workspace, result


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory):
    """A workspace whose encoder `base` is the bundled one, in the precision `auto` takes, and that export's result."""
    from loid_infer import export
    from loid_infer.settings import Workspace

    workspace = Workspace(tmp_path_factory.mktemp("bundled"))
    return workspace, export(workspace=workspace)


@pytest.fixture
def workspace(exported: Path, tmp_path: Path):
    """A fresh workspace with the toy encoder in it."""
    import shutil

    from loid_infer.settings import Workspace

    shutil.copytree(exported / "exports", tmp_path / "ws" / "exports")
    return Workspace(tmp_path / "ws")


def write_reviews(path: Path, texts: list[str]) -> Path:
    """Write a JSON-lines file of reviews with these texts, each by another user."""
    import json

    lines = [
        json.dumps({"user_id": f"u{i}", "item_id": f"i{i % 7}", "rating": 1 + i % 5, "text": text, "timestamp": i})
        for i, text in enumerate(texts)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def toy_texts(n: int, seed: int = 0) -> list[str]:
    """`n` different texts of 1 to 60 words."""
    import random

    rng = random.Random(seed)
    return [f"{' '.join(rng.choices(WORDS, k=rng.randint(1, 60)))} {i}" for i in range(n)]


def pytest_terminal_summary(terminalreporter) -> None:
    """Print the lines of the proofs on the cases they tried."""
    lines = [
        line
        for report in terminalreporter.stats.get("passed", ())
        for kind, line in report.user_properties
        if kind == "proof"
    ]
    for line in sorted(lines):
        terminalreporter.write_line(line)


def make_spec(**changes: object):
    """The spec of a small BERT, with some fields changed."""
    from loid_infer.types import Spec

    fields = {
        "weights": "w",
        "architecture": "bert",
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 24,
        "feed_forward_dim": 8,
        "activation": "gelu",
        "layer_norm_eps": 1e-12,
        "position_type": "absolute",
        "tokenizer": "t",
        "max_tokens": 16,
        "truncation_side": "right",
        "pooling": "cls",
        "precision": "fp32",
        "quantized_graph": "",
        "store_dtype": "fp16",
        "format": 1,
    }
    return Spec(**fields | changes)
