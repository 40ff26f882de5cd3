"""Several encoders' graphs as one, in which whatever they have in common is computed once.

Hash-consing: constants of equal content and nodes of equal operator, attributes and inputs become one, from the inputs
up, so a common prefix of any shape is shared without a name for it. Knows ONNX; not BERT, not folders, not runtimes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loid_infer.errors import BadArtifact
from loid_infer.graphs.graph import check_graph

# Protobuf's own limit is 2^31 - 1 bytes; nodes and names need a little beside the constants.
MAX_BYTES = 2**31 - 2**26


def one_graph(graphs: Sequence[Path]) -> Path | bytes:
    """`graphs` as one, each of which may reach neither outside its file nor beyond ONNX's operators.

    Raises:
        BadArtifact, ValueError: see `check_graph`, `join_graphs`.
    """
    for path in graphs:
        check_graph(path)
    return join_graphs(graphs) if len(graphs) > 1 else graphs[0]


def join_graphs(graphs: Sequence[Path]) -> bytes:
    """One model with the inputs of `graphs`, and their outputs side by side, in order, as its output `cls`.

    Raises:
        BadArtifact: their operator sets differ.
        ValueError: they name other inputs or outputs, or are larger than protobuf allows; the caller's bug.
    """
    import onnx

    joined = onnx.ModelProto()
    outputs: list[str] = []
    seen: dict[tuple[Any, ...], list[str]] = {}
    for path in graphs:
        model = onnx.load(str(path), load_external_data=False)
        if not outputs:
            _begin(joined, model)
        _check(joined, model, path)
        names = {value.name: value.name for value in model.graph.input} | {"": ""}
        for tensor in model.graph.initializer:
            names[tensor.name] = _constant(joined, tensor, seen)
        for node in model.graph.node:
            names.update(zip(node.output, _node(joined, node, [names[name] for name in node.input], seen), strict=True))
        outputs.append(names[model.graph.output[0].name])
    joined.graph.node.add(op_type="Concat", name="cls", input=outputs, output=["cls"]).attribute.append(
        onnx.helper.make_attribute("axis", 1)
    )
    content: bytes = joined.SerializeToString(deterministic=True)
    return content


def _begin(joined: Any, model: Any) -> None:
    import onnx

    joined.ir_version, joined.producer_name = model.ir_version, model.producer_name
    joined.opset_import.extend(model.opset_import)
    joined.graph.name = model.graph.name
    joined.graph.input.extend(model.graph.input)
    joined.graph.output.append(onnx.helper.make_tensor_value_info("cls", onnx.TensorProto.FLOAT, ["n", None]))


def _check(joined: Any, model: Any, path: Path) -> None:
    if [str(part) for part in model.opset_import] != [str(part) for part in joined.opset_import]:
        raise BadArtifact(
            "graphs of different operator sets cannot be joined",
            where=str(path),
            mend="Export the encoders again, or encode with one --encoder at a time.",
        )
    found, expected = ([str(value) for value in graph.input] for graph in (model.graph, joined.graph))
    if found != expected or len(model.graph.output) != 1:
        raise ValueError(f"{path} has other inputs or outputs than the graph it is to be joined with")


def _constant(joined: Any, tensor: Any, seen: dict[tuple[Any, ...], list[str]]) -> str:
    """The name in `joined` of a constant with the content of `tensor`."""
    name, tensor.name = tensor.name, ""
    key = ("constant", hashlib.sha256(tensor.SerializeToString(deterministic=True)).digest())
    tensor.name = name
    if key not in seen:
        seen[key] = [f"c{len(seen)}"]
        joined.graph.initializer.append(tensor)
        joined.graph.initializer[-1].name = seen[key][0]
    return seen[key][0]


def _node(joined: Any, node: Any, inputs: list[str], seen: dict[tuple[Any, ...], list[str]]) -> list[str]:
    """The outputs in `joined` of a node that does to `inputs` what `node` does to its own."""
    attributes = sorted(part.SerializeToString(deterministic=True) for part in node.attribute)
    key = (node.domain, node.op_type, *attributes, None, *inputs, None, len(node.output))
    if key not in seen:
        label = f"n{len(seen)}"
        seen[key] = [f"{label}.{i}" if name else "" for i, name in enumerate(node.output)]
        made = joined.graph.node.add(op_type=node.op_type, domain=node.domain, name=label)
        made.input.extend(inputs)
        made.output.extend(seen[key])
        made.attribute.extend(node.attribute)
    return seen[key]
