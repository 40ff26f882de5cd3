"""Writes ONNX graphs from token ids and mask to vectors, without traces of the machine."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loid_infer.encoders.graph import DATA_SUFFIX
from loid_infer.types import Spec

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES = 2**31 - 2**26  # of tensors in one file; the limit of protobuf is 2^31 - 1 including names
_OPSET, _SMALL_BYTES = 18, 1024


def write_graph(spec: Spec, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write `model.onnx`: inputs `input_ids`, `attention_mask` int64 `[n, tokens]`, output `cls` float32 `[n, dim]`
    for every pooling.

    The same spec and tensors give the same bytes.
    """
    import torch

    from loid_infer.architectures.transformer import Transformer

    module = Transformer(spec, tensors)
    # Two objects, since the exporter would merge equal objects to one input.
    shape = (2, min(5, spec.max_tokens))
    ids, mask = torch.ones(shape, dtype=torch.int64), torch.ones(shape, dtype=torch.int64)
    axes = {0: torch.export.Dim("n"), 1: torch.export.Dim("tokens", max=spec.max_tokens)}
    logger = logging.getLogger("torch.onnx")
    with contextlib.ExitStack() as quiet:  # the exporter prints progress and warns about torchvision
        quiet.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
        quiet.enter_context(warnings.catch_warnings(action="ignore"))
        quiet.enter_context(contextlib.redirect_stdout(io.StringIO()))
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
    _split_transposes(model)
    save_graph(model, path)


def save_graph(model: Any, path: Path) -> None:
    """Replace the files, since a runtime may have mapped the old ones. Tensors above 2 GiB go to a data file."""
    import onnx

    fresh, data = path.with_suffix(".fresh"), path.with_name(path.name + DATA_SUFFIX)
    data.unlink(missing_ok=True)
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > MAX_BYTES:
        onnx.save_model(model, str(fresh), save_as_external_data=True, location=data.name, size_threshold=_SMALL_BYTES)
    else:
        fresh.write_bytes(model.SerializeToString(deterministic=True))
    fresh.replace(path)
    onnx.checker.check_model(str(path))


def _strip(model: Any) -> None:
    # The exporter writes source paths and lines to every node.
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")
    graph.name = "cls"
    model.producer_name, model.producer_version = "loid-infer", ""


def _split_transposes(model: Any) -> None:
    # The exporter fuses the split into heads and the transposition of keys. OpenVINO fuses the second with the
    # attention product only if it is separate; else it copies all keys (2 % of the time in bfloat16, 4 % in int8).
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
