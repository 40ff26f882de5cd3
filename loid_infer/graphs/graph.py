"""From weights to an ONNX graph: ids and mask in, CLS out, nothing of the machine it was made on inside.

Knows torch's exporter and the graph's outside; not folders, not parity, not runtimes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loid_infer.errors import BadArtifact
from loid_infer.types import Card

if TYPE_CHECKING:
    from torch import Tensor

_OPSET = 18


def write_graph(card: Card, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write `model.onnx`: inputs `input_ids`, `attention_mask` int64 `[n, tokens]`, output `cls` float32 `[n, dim]`.

    The same card and tensors give the same bytes.
    """
    import onnx
    import torch

    from loid_infer.encoders.torch import ClsBert

    module = ClsBert(card, tensors)
    # Two tensors, not one given twice: the exporter takes one object for one input.
    ids, mask = torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64)
    axes = {0: torch.export.Dim("n"), 1: torch.export.Dim("tokens", max=card.max_tokens)}
    with _quiet():
        program = torch.onnx.export(
            module,
            (ids, mask),
            dynamo=True,
            opset_version=_OPSET,
            verbose=False,
            input_names=["input_ids", "attention_mask"],
            output_names=["cls"],
            dynamic_shapes={"input_ids": axes, "attention_mask": axes},
        )
    assert program is not None  # it is None only without dynamo
    model = program.model_proto
    _strip(model)
    _part_transposes(model)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def check_graph(path: Path) -> None:
    """Refuse a graph that reaches outside its file or beyond ONNX's own operators.

    Raises:
        BadArtifact: no ONNX file, external data, a subgraph, a sparse tensor, an operator of another domain, or other
            inputs and outputs than ours.
    """
    import onnx
    from google.protobuf.message import DecodeError

    mend = "Export the encoder again."
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError) as error:
        raise BadArtifact(f"the graph cannot be read: {error}", where=str(path), mend=mend) from error
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    if any(part.HasField("g") or part.graphs for part in attributes):
        raise BadArtifact("the graph has graphs inside", where=str(path), mend=mend)
    sparse = [part for part in attributes if part.HasField("sparse_tensor") or part.sparse_tensors]
    if sparse or model.graph.sparse_initializer:
        raise BadArtifact("the graph has sparse tensors", where=str(path), mend=mend)
    tensors = [*model.graph.initializer, *(tensor for part in attributes for tensor in (part.t, *part.tensors))]
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
        raise BadArtifact("the graph keeps tensors outside its file", where=str(path), mend=mend)
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if foreign or model.functions:
        raise BadArtifact(
            "the graph has operators that are not ONNX's own", where=str(path), got=", ".join(foreign), mend=mend
        )
    names = [value.name for value in (*model.graph.input, *model.graph.output)]
    if names != ["input_ids", "attention_mask", "cls"]:
        raise BadArtifact(
            "a graph with other inputs or outputs",
            where=str(path),
            got=", ".join(names),
            expected="input_ids, attention_mask, cls",
            mend=mend,
        )


def _strip(model: Any) -> None:
    # The exporter notes source files and lines in every node: paths of this machine, and bytes that would differ.
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")
    graph.name = "cls"
    model.producer_name, model.producer_version = "loid-infer", ""


def _part_transposes(model: Any) -> None:
    # The exporter joins "to heads" and "keys on columns" into one transpose. OpenVINO takes the second one into the
    # attention product where it stands alone; joined, it copies every key: 2 % of the time in bfloat16, 4 % in int8.
    import onnx

    nodes = []
    for node in model.graph.node:
        if node.op_type == "Transpose" and list(node.attribute[0].ints) == [0, 2, 3, 1]:
            heads = f"{node.output[0]}_heads"
            nodes.append(onnx.helper.make_node("Transpose", node.input, [heads], heads, perm=[0, 2, 1, 3]))
            nodes.append(onnx.helper.make_node("Transpose", [heads], node.output, node.name, perm=[0, 1, 3, 2]))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@contextlib.contextmanager
def _quiet() -> Any:
    # torch's exporter prints its steps and warns of torchvision; neither is the user's business.
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
