"""The exported ONNX graph: reproducible, restricted to standard operators, equal to transformers."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from loid_infer.encoders.folder import open_folder
from loid_infer.encoders.graph import checked
from loid_infer.errors import BadArtifact
from loid_infer.graphs.bases import load_base
from loid_infer.graphs.graph import write_graph


def test_export_is_deterministic_and_contains_no_local_paths(exported: Path, toy_base: Path, tmp_path: Path) -> None:
    spec = open_folder(exported / "exports/encoders/base", "base").spec
    write_graph(spec, load_base(str(toy_base)).tensors, tmp_path / "again.onnx")
    graph = (exported / "exports/encoders/base/model.onnx").read_bytes()
    assert (tmp_path / "again.onnx").read_bytes() == graph
    assert b"site-packages" not in graph
    assert b".py" not in graph


def test_the_last_layer_computes_one_token(exported: Path) -> None:
    """In the last layer no matrix product with a weight covers all tokens; in the other layer all six do."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model = onnx.load(exported / "exports/encoders/base/model.onnx")
    weights = {tensor.name for tensor in model.graph.initializer}
    products = [
        node.output[0]
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm") and weights & set(node.input[:2])
    ]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in products)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ids = np.full((3, 9), 7, np.int64)
    shapes = [out.shape for out in session.run(products, {"input_ids": ids, "attention_mask": np.ones_like(ids)})]
    assert [shape[1] for shape in shapes[:6]] == [9] * 6
    assert len(shapes) == 12
    assert all(9 not in shape for shape in shapes[6:]), shapes


def rewrite_graph(source: Path, path: Path, change) -> Path:
    model = onnx.load(source)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_graphs_with_unsupported_operators_or_files_are_refused(exported: Path, tmp_path: Path) -> None:
    graph = exported / "exports/encoders/base/model.onnx"
    checked(graph)

    def external_data(model) -> None:
        model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL

    def parent_folder(model) -> None:
        external_data(model)
        model.graph.initializer[0].external_data.add(key="location", value="../model.onnx.data")

    def operator(model) -> None:
        model.graph.node[0].domain = "com.example"

    def output(model) -> None:
        model.graph.output[0].name = "logits"

    def external_constant(model) -> None:
        tensor = onnx.TensorProto(data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="../../secret")
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["secret"], value=tensor))

    def subgraph(model) -> None:
        part = onnx.helper.make_graph([], "part", [], [])
        model.graph.node.insert(0, onnx.helper.make_node("If", ["c"], ["x"], then_branch=part, else_branch=part))

    def function(model) -> None:
        model.functions.add(name="f", domain="")

    def sparse(model) -> None:
        model.graph.sparse_initializer.add().values.data_location = onnx.TensorProto.EXTERNAL

    changes = [(sparse, "sparse tensors")]
    changes += [
        (external_data, "outside its file"),
        (parent_folder, "outside its file"),
        (external_constant, "outside its file"),
        (operator, r"com\.example"),
    ]
    changes += [(function, "not ONNX's own"), (subgraph, "subgraphs"), (output, "logits")]
    for change, message in changes:
        with pytest.raises(BadArtifact, match=message):
            checked(rewrite_graph(graph, tmp_path / "changed.onnx", change))
    content = graph.read_bytes()
    for n in (1, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.onnx").write_bytes(content[:n])
        with pytest.raises(BadArtifact):
            checked(tmp_path / "cut.onnx")


def test_probes_equal_plain_transformers(exported: Path, toy_base: Path) -> None:
    import torch
    import transformers

    from loid_infer.graphs.parity import probe_texts

    probes = open_folder(exported / "exports/encoders/base", "base").probes()
    tokenizer, model = (
        transformers.AutoTokenizer.from_pretrained(toy_base),
        transformers.AutoModel.from_pretrained(toy_base).eval(),
    )
    batch = tokenizer(probe_texts(), truncation=True, max_length=32, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).last_hidden_state[:, 0].numpy()
    assert len(probes.lengths) == 64
    assert {2, 3, 32} <= set(probes.lengths.tolist()), (
        "the probes must include an empty text, a text of one token and the longest text"
    )
    np.testing.assert_allclose(probes.cls, expected, atol=2e-5)
