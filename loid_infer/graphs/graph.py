"""Writes ONNX graphs from token ids and mask to vectors, without traces of the machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loid_infer.encoders.graph import DATA_SUFFIX
from loid_infer.types import Spec

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES = 2**31 - 2**26  # of tensors in one file; the limit of protobuf is 2^31 - 1 including names
_OPSET, _SMALL_BYTES = 18, 1024


def write_graph(spec: Spec, tensors: Mapping[str, Tensor], path: Path, *, reduced: bool = False) -> None:
    """Write `model.onnx`: inputs `input_ids`, `attention_mask` int64 `[n, tokens]`, output `cls` float32 `[n, dim]`
    for every pooling.

    The same arguments give the same bytes.

    Args:
        reduced: the graph that OpenVINO computes fastest in bf16 and int8: words in bf16, norms folded into the next
            products, and norms and residual sums of all layers but the last in the reduced precision. It keeps
            everything in float32 that the output depends on without a matrix product in between, and so the whole
            residual stream, unless the pooled token is selected by one (seen in 2026.4; mean pooling is a product).
    """
    import torch

    from loid_infer.architectures.folding import with_folded_norms
    from loid_infer.architectures.transformer import Transformer
    from loid_infer.graphs.tracing import trace

    if reduced:
        module = with_folded_norms(spec, tensors)
        module.selects_by_product = True
        module.words.to(torch.bfloat16).register_forward_hook(lambda _, ids, rows: rows.float())
    else:
        module = Transformer(spec, tensors)
    inputs = dict.fromkeys(("input_ids", "attention_mask"), ("n", "tokens"))
    save_graph(trace(module, inputs, "cls", "loid-infer", _OPSET), path)


def save_graph(model: Any, path: Path) -> None:
    """Replace the files, since a runtime may have mapped the old ones. Tensors above 2 GiB go to a data file."""
    import onnx

    fresh, data = path.with_suffix(".fresh"), path.with_name(path.name + DATA_SUFFIX)
    data.unlink(missing_ok=True)
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > MAX_BYTES:
        onnx.save_model(model, str(fresh), save_as_external_data=True, location=data.name, size_threshold=_SMALL_BYTES)
    else:
        fresh.write_bytes(model.SerializeToString(deterministic=True))
    del model  # as large as what the check reads
    fresh.replace(path)
    onnx.checker.check_model(str(path))
