"""Checks an ONNX graph before a runtime loads it, and makes the errors of loading one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loid_infer.errors import BadArtifact

DATA_SUFFIX = ".data"  # of the file beside a graph that may contain its tensors: a graph is limited to 2 GB
_FIX = "Export the encoder again."


def checked(path: Path) -> Path:
    """`path`, if the graph is safe to load: no files outside its folder, no operators other than ONNX's own.

    Raises:
        BadArtifact: not an ONNX file, tensors in another file than `model.onnx.data`, a subgraph, a sparse tensor, an
            operator of another domain, or other inputs and outputs than expected.
    """
    import onnx
    from google.protobuf.message import DecodeError

    def bad(what: str, got: str = "", expected: str = "") -> BadArtifact:
        return BadArtifact(f"the graph {what}", where=str(path), got=got, expected=expected, fix=_FIX)

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError) as error:
        raise bad(f"cannot be read: {error}") from error
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    if any(part.HasField("g") or part.graphs for part in attributes):
        raise bad("has subgraphs")
    sparse = [part for part in attributes if part.HasField("sparse_tensor") or part.sparse_tensors]
    if sparse or model.graph.sparse_initializer:
        raise bad("has sparse tensors")
    constants = [tensor for part in attributes for tensor in (part.t, *part.tensors)]
    files = {_file(tensor) for tensor in (*model.graph.initializer, *constants)} - {"", path.name + DATA_SUFFIX}
    if files or any(map(_file, constants)):
        raise bad("has tensors outside its file")
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if foreign or model.functions:
        raise bad("has operators that are not ONNX's own", ", ".join(foreign))
    names = [value.name for value in (*model.graph.input, *model.graph.output)]
    if names != ["input_ids", "attention_mask", "cls"]:
        raise bad("has other inputs or outputs", ", ".join(names), "input_ids, attention_mask, cls")
    return path


def _file(tensor: Any) -> str:
    """The external file of a tensor; empty if there is none."""
    if tensor.data_location != 1 and not tensor.external_data:  # EXTERNAL
        return ""
    return next((part.value for part in tensor.external_data if part.key == "location"), "no file")


def load_error(runtime: str, graph: Path, error: Exception) -> BadArtifact:
    """The error to raise if a runtime cannot load `graph`."""
    reason = str(error).strip().splitlines()[-1][:300] if str(error).strip() else type(error).__name__
    fix = f"Run `pip install --upgrade {runtime}`, or uninstall it to use another runtime."
    return BadArtifact(f"{runtime} cannot load the graph: {reason}", where=str(graph), fix=fix)
