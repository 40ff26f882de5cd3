#!/bin/sh
# openvino 2026.4.1 on x86-64: with INFERENCE_PRECISION_HINT=bf16, whether the residual sums and norms of a transformer are
# computed in bf16 depends on how its output takes the pooled token. What the output depends on without a matrix product in
# between stays in float32, and sliced out of the hidden states the pooled token depends on every residual sum that way. Taken
# by a product with a row of a 1 and zeros, or averaged by one (mean pooling), the same layers are bf16: faster, less exact.
# Nothing reports it: the compiled model's precision is bf16 either way.
# Seen: precision of two residual sums and two norms
#   sliced        Add f32, f32   MVN f32, f32
#   by a product  Add bf16, bf16   MVN bf16, bf16
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check openvino==2026.4.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import openvino
from openvino import opset13 as ops

rng = np.random.default_rng(0)
width = 64


def matrix(rows: int) -> np.ndarray:
    return rng.normal(size=(rows, width)).astype(np.float32) / 8


def precisions(select) -> dict[str, list[str]]:
    """Of the sums and norms of two layers `x = norm(x + x W)`, and a product of the pooled token."""
    x = ids = ops.parameter([-1, -1], np.int64)
    x = ops.gather(ops.constant(matrix(100)), x, ops.constant(np.int64(0)))
    x = ops.matmul(x, ops.constant(matrix(width)), False, False)
    for _ in range(2):
        total = ops.add(x, ops.matmul(x, ops.constant(matrix(width)), False, False))
        total.set_friendly_name("Add")
        x = ops.mvn(total, ops.constant(np.array([2])), True, 1e-5, "inside_sqrt")
        x.set_friendly_name("MVN")
    model = openvino.Model([ops.result(select(ids, x))], [ids])
    options = {"INFERENCE_PRECISION_HINT": "bf16"}
    compiled = openvino.Core().compile_model(model, "CPU", options)
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.bf16
    compiled([np.ones((2, 5), np.int64)])
    found: dict[str, list[str]] = {"Add": [], "MVN": []}
    for node in compiled.get_runtime_model().get_ordered_ops():
        kind, info = node.get_friendly_name().split("_")[0], node.get_rt_info()
        if kind in found and info["layerType"].astype(str) != "Reorder":
            found[kind].append(str(info["runtimePrecision"].astype(str)))
    return found


def sliced(ids, x):
    return ops.gather(x, ops.constant(np.int64(0)), ops.constant(np.int64(1)))


def by_product(ids, x):
    n_tokens = ops.gather(ops.shape_of(ids), ops.constant(np.int64(1)), ops.constant(np.int64(0)))
    numbers = ops.range(ops.constant(np.int64(0)), n_tokens, ops.constant(np.int64(1)), "f32")
    first = ops.convert(ops.equal(numbers, ops.constant(np.float32(0))), "f32")
    return ops.matmul(ops.unsqueeze(first, ops.constant(np.int64(0))), x, False, False)


for name, select in (("sliced", sliced), ("by a product", by_product)):
    found = precisions(select)
    print(f"{name:13} " + "   ".join(f"{kind} {', '.join(values)}" for kind, values in found.items()))
    expected = "f32" if select is sliced else "bf16"
    assert all(found.values()) and {value for values in found.values() for value in values} == {expected}, "it changed"
PY
