"""The torch runtime: the module on the CPU, or on a GPU with packed texts (`cuda`)."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING

import numpy as np

from loid_infer.encoders.folder import EncoderFolder, export_again
from loid_infer.encoders.processor import exact_products, torch_threads
from loid_infer.encoders.protocol import Backend, Runtime
from loid_infer.encoders.schedule import MAX_BATCH_TOKENS
from loid_infer.errors import BadArtifact
from loid_infer.types import Floats, Ints, TokenBatch

if TYPE_CHECKING:
    from loid_infer.architectures.transformer import Transformer


def backend() -> Backend:
    """torch. On a CPU, fp16 is computed in float32."""
    floats = ("fp32", "bf16", "fp16")
    return Backend("torch", "torch", {"cpu": floats, "cuda": floats}, _open)


def _open(encoder: EncoderFolder, device: str, n_threads: int, _: int | None) -> Runtime:
    if device == "cpu":
        return TorchRuntime(module_of(encoder), encoder.spec.precision, n_threads)
    from loid_infer.encoders.cuda import MAX_PACK_TOKENS, PackedRuntime, gpu_budget

    budget = gpu_budget("torch", encoder.spec, MAX_PACK_TOKENS)
    half = encoder.spec.store_dtype == "fp16"
    return PackedRuntime(module_of(encoder), encoder.spec.precision, device, budget, half=half)


def module_of(encoder: EncoderFolder) -> Transformer:
    """The encoder's module.

    Raises:
        BadArtifact: the weights do not fit the spec.
    """
    from loid_infer.architectures.transformer import Transformer

    try:
        module = Transformer(encoder.spec, encoder.tensors())
        if len(module.words.weight) <= max(encoder.tokenizer().ids.values()):
            raise ValueError("the tokenizer has ids without an embedding")
        return module
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        what, fix = f"the weights do not fit the spec: {error}", export_again(encoder.name)
        raise BadArtifact(what, where=str(encoder.path), fix=fix) from error


class TorchRuntime:
    """The module on the CPU, one batch at a time. bf16 is autocast, which keeps norms and softmax in float32."""

    name = "torch"
    max_batch_tokens, pads, tile, n_tokenizers = MAX_BATCH_TOKENS, True, 1, 1

    def __init__(self, module: Transformer, precision: str, n_threads: int) -> None:
        self._module, self._n_threads = module, n_threads
        self._bf16 = precision == "bf16"
        self.detail = f"CPU, {n_threads} threads, {precision}" + (" with fp32" if precision == "fp16" else "")

    def run(self, batches: Iterable[TokenBatch]) -> Generator[tuple[Ints, Floats]]:
        """See `Runtime.run`."""
        import torch

        with torch_threads(self._n_threads):
            for batch in batches:
                ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
                autocast = torch.autocast("cpu", torch.bfloat16, enabled=self._bf16)
                with exact_products(), torch.inference_mode(), autocast:
                    vectors: Floats = self._module(ids, mask).float().numpy()
                yield batch.slots, np.ascontiguousarray(vectors)
