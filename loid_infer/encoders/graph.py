"""Which ONNX file may be loaded: one that reaches nowhere. Every runtime that loads a graph asks here first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loid_infer.errors import BadArtifact, RuntimeMissing

DATA_SUFFIX = ".data"  # of the one file beside a graph that may hold tensors: a graph itself ends at 2 GB
_MEND = "Export the encoder again."


def checked(path: Path) -> Path:
    """`path`, a graph that reaches neither outside its folder nor beyond ONNX's own operators.

    Raises:
        BadArtifact: no ONNX file, tensors in another file than `model.onnx.data`, a subgraph, a sparse tensor, an
            operator of another domain, or other inputs and outputs than ours.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError) as error:
        raise BadArtifact(f"the graph cannot be read: {error}", where=str(path), fix=_MEND) from error
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    if any(part.HasField("g") or part.graphs for part in attributes):
        raise BadArtifact("the graph has graphs inside", where=str(path), fix=_MEND)
    sparse = [part for part in attributes if part.HasField("sparse_tensor") or part.sparse_tensors]
    if sparse or model.graph.sparse_initializer:
        raise BadArtifact("the graph has sparse tensors", where=str(path), fix=_MEND)
    inside = [tensor for part in attributes for tensor in (part.t, *part.tensors)]
    elsewhere = {_file(tensor) for tensor in (*model.graph.initializer, *inside)} - {"", path.name + DATA_SUFFIX}
    if elsewhere or any(map(_file, inside)):
        raise BadArtifact("the graph keeps tensors outside its file", where=str(path), fix=_MEND)
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if foreign or model.functions:
        raise BadArtifact(
            "the graph has operators that are not ONNX's own", where=str(path), got=", ".join(foreign), fix=_MEND
        )
    names = [value.name for value in (*model.graph.input, *model.graph.output)]
    if names != ["input_ids", "attention_mask", "cls"]:
        raise BadArtifact(
            "a graph with other inputs or outputs",
            where=str(path),
            got=", ".join(names),
            expected="input_ids, attention_mask, cls",
            fix=_MEND,
        )
    return path


def _file(tensor: Any) -> str:
    """The file that holds a tensor outside the graph's own; empty for none."""
    if tensor.data_location != 1 and not tensor.external_data:  # EXTERNAL
        return ""
    return next((part.value for part in tensor.external_data if part.key == "location"), "no file")


def refused(runtime: str, graph: Path, error: Exception) -> BadArtifact:
    """What to raise where a runtime cannot load `graph`."""
    reason = str(error).strip().splitlines()[-1][:300] if str(error).strip() else type(error).__name__
    return BadArtifact(f"{runtime} cannot load the graph: {reason}", where=str(graph), fix=_MEND)


def other_taken(what: str, graph: Path, asked: str, taken: str) -> RuntimeMissing:
    """What to raise where a runtime took something else than it was `asked` for."""
    return RuntimeMissing(what, where=str(graph), expected=asked, got=taken, fix="See `loid-infer doctor`.")
