"""Exports with wrong tokens or reference vectors are refused."""

import json
from pathlib import Path

import onnx
import pytest
import torch
from tokenizers import Tokenizer

from loid_infer import export
from loid_infer.encoders.folder import open_folder
from loid_infer.encoders.opening import backends, measure_runtimes
from loid_infer.errors import BadArtifact, ParityError
from loid_infer.graphs import parity
from loid_infer.graphs.bases import load_base
from tests.families import make_family


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return make_family(tmp_path / "bert", "bert")


def assert_export_fails(folder: Path, error: type[Exception], match: str, **options: str) -> None:
    """`export` raises `error` and leaves no files."""
    with pytest.raises(error, match=match):
        export("it", base=str(folder), precision="fp32", workspace=folder.parent, **options)
    assert not list((folder.parent / "exports").rglob("*.onnx"))


def edit_tokenizer_config(folder: Path, **fields: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_token_id_beyond_the_embedding_matrix_is_refused(bert: Path) -> None:
    tokenizer = Tokenizer.from_file(str(bert / "tokenizer.json"))
    n_rows = tokenizer.get_vocab_size()
    assert load_base(str(bert)).tensors["embeddings.word_embeddings.weight"].shape[0] == n_rows
    tokenizer.add_tokens(["guitar"])
    tokenizer.save(str(bert / "tokenizer.json"))
    assert_export_fails(bert, BadArtifact, rf"without an embedding.*ids below {n_rows}, got guitar {n_rows}\)")


def test_special_tokens_added_only_by_transformers_are_refused(bert: Path, monkeypatch) -> None:
    ids = parity.reference_ids
    monkeypatch.setattr(parity, "reference_ids", lambda *arguments: ([[*row, 2] for row in ids(*arguments)[0]], {}))
    assert_export_fails(bert, ParityError, "ids differ from those of transformers")


@pytest.mark.parametrize(
    ("pooling", "frame", "fields", "match"),
    [
        ("cls", ("", ""), {}, "no first special token for CLS"),
        ("cls", ("</s>", "</s>"), {}, r"expected <s> \(0\) first, got \[2\]"),
        ("last", ("<s>", ""), {"add_eos_token": True}, r"expected </s> \(2\) last"),
    ],
)
def test_a_wrong_token_at_the_pooled_position_is_refused(bert: Path, pooling, frame, fields, match) -> None:
    tokenizer = json.loads((bert / "tokenizer.json").read_text())
    around = [[{"SpecialToken": {"id": name, "type_id": 0}}] if name else [] for name in frame]
    text = [{"Sequence": {"id": "A", "type_id": 0}}]
    template = tokenizer["post_processor"] | {"single": [*around[0], *text, *around[1]]}
    tokenizer["post_processor"] = template if any(frame) else None
    (bert / "tokenizer.json").write_text(json.dumps(tokenizer))
    edit_tokenizer_config(bert, **fields)
    assert_export_fails(bert, ParityError, match, pooling=pooling)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_transformers_model_that_mixes_texts_of_a_batch_is_detected(bert: Path, monkeypatch, side: str) -> None:
    class Mixing(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, input_ids, attention_mask, position_ids=None):
            output = self.module(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids)
            if attention_mask[:, 0 if side == "left" else -1].min() == 0:
                output.last_hidden_state += torch.randn_like(output.last_hidden_state)
            return output

    load = load_base

    def load_mixing(*arguments, **options):
        base = load(*arguments, **options)
        object.__setattr__(base, "model", Mixing(base.model))
        return base

    monkeypatch.setattr("loid_infer.verbs.export.load_base", load_mixing)
    assert_export_fails(bert, ParityError, f"padded on the {side}: .* depend on the batch")


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "tensorrt"])
def test_every_runtime_checks_the_graph_it_loads(bert: Path, monkeypatch, runtime: str) -> None:
    backend = next(b for b in backends() if b.name == runtime)
    pytest.importorskip(backend.package, reason=f"{runtime} is not installed")
    encoder = open_folder(Path(export("it", base=str(bert), precision="fp32", workspace=bert.parent).path), "it")
    model = onnx.load(encoder.graph)
    model.graph.node[0].domain = "com.example"
    encoder.graph.write_bytes(model.SerializeToString())
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    monkeypatch.setattr("loid_infer.encoders.cuda.gpu_budget", lambda *_: None)
    with pytest.raises(BadArtifact, match="operators that are not ONNX's own"):
        backend.open(encoder, "cpu", 1, None)


def test_tensors_beyond_the_protobuf_limit_are_stored_as_external_data(bert: Path, monkeypatch) -> None:
    monkeypatch.setattr("loid_infer.graphs.graph.MAX_BYTES", 0)
    path = Path(export("it", base=str(bert), precision="fp32", workspace=bert.parent).path)
    assert (path / "model.onnx.data").stat().st_size > 20_000
    encoder = open_folder(path, "it")
    passing = [runtime for runtime, parity in measure_runtimes(encoder, encoder.probes()) if parity.passes("fp32")]
    assert {"torch"} <= {*passing}
    assert {*passing} == {b.name for b in backends() if b.installed and b.computes("cpu", "fp32")}
    content = (path / "model.onnx.data").read_bytes()
    (path / "model.onnx.data").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BadArtifact, match=r"model\.onnx\.data"):
        open_folder(path, "it")
