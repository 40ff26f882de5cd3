"""Joined graphs: what each computes, with whatever they have in common computed once."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from loid_infer.errors import BadArtifact
from loid_infer.graphs.joint import join_graphs
from tests.conftest import FAMILY

PRODUCTS = {0: 8, 1: 8, 2: 7}  # of each layer; the last one's keys and values meet one query


def graphs(root: Path, *names: str) -> list[Path]:
    return [root / "exports" / "encoders" / name / "model.onnx" for name in names]


def n_products(model: onnx.ModelProto) -> int:
    return Counter(node.op_type for node in model.graph.node)["MatMul"]


@pytest.mark.parametrize(
    "names", [("plain", "top"), ("top", "plain"), ("plain", "upper"), ("plain", "whole"), ("plain", "plain"),
              ("plain", "top", "upper"), ("whole", "upper", "top")]
)  # fmt: skip
def test_what_is_equal_is_computed_once(family: Path, names: tuple[str, ...]) -> None:
    joined = onnx.load_from_string(join_graphs(graphs(family, *names)))
    separate = [n_products(onnx.load(str(path))) for path in graphs(family, *names)]
    assert separate == [sum(PRODUCTS.values())] * len(names)
    different = {(i, name if FAMILY[name] and i >= min(FAMILY[name]) else "plain") for name in names for i in PRODUCTS}
    assert n_products(joined) == sum(PRODUCTS[i] for i, _ in different)
    words = [tensor for tensor in joined.graph.initializer if len(tensor.dims) == 2 and tensor.dims[0] > 90]
    assert len(words) == 1, "one table of words"


def test_the_same_graphs_give_the_same_bytes(family: Path) -> None:
    assert join_graphs(graphs(family, "plain", "top")) == join_graphs(graphs(family, "plain", "top"))


Build = Callable[[Callable[[str, np.ndarray], str]], list[onnx.NodeProto]]


def write(path: Path, build: Build, inputs: tuple[str, ...] = ("x",), opset: int = 18) -> Path:
    constants = []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    nodes = build(constant)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in inputs]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", None])
    graph = helper.make_graph(nodes, "g", values, [out], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), str(path))
    return path


def step(kind: str, inputs: list[str], *outputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, list(outputs), **attributes)


ONES = np.ones((1, 4), np.float32)
# Pairs that differ in one thing only, behind the same names.
PAIRS: dict[str, tuple[Build, Build]] = {
    "constants": (
        lambda c: [step("Add", ["x", c("w", ONES)], "out")],
        lambda c: [step("Add", ["x", c("w", 2 * ONES)], "out")],
    ),
    "attributes": (
        lambda c: [step("Softmax", ["x"], "out", axis=0)],
        lambda c: [step("Softmax", ["x"], "out", axis=1)],
    ),
    "operators": (lambda c: [step("Relu", ["x"], "out")], lambda c: [step("Abs", ["x"], "out")]),
    "input order": (
        lambda c: [step("Sub", ["x", c("w", ONES)], "out")],
        lambda c: [step("Sub", [c("w", ONES), "x"], "out")],
    ),
    "optional inputs": (
        lambda c: [step("Clip", ["x", c("w", np.float32(0.5)), ""], "out")],
        lambda c: [step("Clip", ["x", "", c("w", np.float32(0.5))], "out")],
    ),
    "which output": (
        lambda c: [step("Split", ["x"], "out", "rest", axis=1, num_outputs=2)],
        lambda c: [step("Split", ["x"], "rest", "out", axis=1, num_outputs=2)],
    ),
    "dtype of a constant": (
        lambda c: [step("Cast", [c("w", np.zeros(4, np.int32))], "z", to=1), step("Add", ["x", "z"], "out")],
        lambda c: [step("Cast", [c("w", ONES.ravel())], "z", to=1), step("Add", ["x", "z"], "out")],
    ),
    "names": (
        lambda c: [step("Relu", ["x"], "a"), step("Neg", ["a"], "b"), step("Add", ["a", "b"], "out")],
        lambda c: [step("Relu", ["x"], "b"), step("Exp", ["b"], "a"), step("Add", ["b", "a"], "out")],
    ),
}


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_graphs_that_differ_in_one_thing_keep_it(tmp_path: Path, pair: str) -> None:
    paths = [write(tmp_path / f"{i}.onnx", build) for i, build in enumerate(PAIRS[pair])]
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    parts = [ReferenceEvaluator(onnx.load(str(path))).run(None, {"x": x})[0] for path in paths]
    assert not np.array_equal(*parts)
    joined = onnx.load_from_string(join_graphs(paths))
    (found,) = ReferenceEvaluator(joined).run(["cls"], {"x": x})
    np.testing.assert_array_equal(found, np.concatenate(parts, axis=1))


def test_equal_steps_behind_other_names_are_one(tmp_path: Path) -> None:
    first = write(tmp_path / "0.onnx", PAIRS["names"][0])
    other = write(tmp_path / "1.onnx", PAIRS["names"][1])
    kinds = Counter(node.op_type for node in onnx.load_from_string(join_graphs([first, other])).graph.node)
    assert kinds == {"Relu": 1, "Neg": 1, "Exp": 1, "Add": 2, "Concat": 1}


def test_what_cannot_be_joined_is_refused(tmp_path: Path) -> None:
    def same(c: object) -> list[onnx.NodeProto]:
        return [step("Relu", ["x"], "out")]

    plain = write(tmp_path / "0.onnx", same)
    with pytest.raises(BadArtifact, match=r"operator sets.*one --encoder at a time"):
        join_graphs([plain, write(tmp_path / "1.onnx", same, opset=17)])
    with pytest.raises(ValueError, match="other inputs"):
        join_graphs([plain, write(tmp_path / "2.onnx", same, inputs=("x", "y"))])
