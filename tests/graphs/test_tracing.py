"""Recorded graphs compute what torch computes."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from loid_infer.graphs.tracing import trace

SHAPE = ("n", "tokens")


class Recorded(nn.Module):
    """A function of two inputs, ids and mask, as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, ids, mask):
        return self.function(ids, mask)


def traced(function):
    return trace(Recorded(function), {"ids": SHAPE, "mask": SHAPE}, "out", "tests", 18)


TABLE = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
WEIGHT = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))


def words(ids):
    return functional.embedding(ids, TABLE)


FUNCTIONS = {
    "number first": lambda ids, mask: 3 - 2.5 * words(ids) + mask[:, :, None].float(),
    "tensor first": lambda ids, mask: (WEIGHT[0] * words(ids) - words(ids)) / (1 + mask[:, :, None].float()),
    "truth as a number": lambda ids, mask: ((ids != 3).long().cumsum(-1) * (ids > 5)).float(),
    "linear without bias": lambda ids, mask: functional.linear(words(ids), WEIGHT),
    "gelu": lambda ids, mask: functional.gelu(words(ids)) + functional.gelu(words(ids), approximate="tanh"),
    "silu, relu, tanh, sigmoid": lambda ids, mask: (
        functional.silu(words(ids)) + functional.relu(words(ids)) + torch.tanh(words(ids)) + torch.sigmoid(words(ids))
    ),
    "norms": lambda ids, mask: (
        functional.layer_norm(words(ids), (6,), WEIGHT[0], None, 1e-5)
        + functional.normalize(words(ids), dim=-1)
        + torch.rsqrt(words(ids).square().mean(-1, keepdim=True) + 1)
    ),
    "shapes": lambda ids, mask: words(ids).unflatten(-1, (2, -1)).transpose(1, 2).flatten(0, 0).movedim(-1, 0),
    "heads": lambda ids, mask: (
        words(ids).unflatten(-1, (3, 2)).transpose(1, 2).unsqueeze(2).expand(-1, -1, 2, -1, -1).flatten(1, 2)
    ),
    "chunk and cat": lambda ids, mask: torch.cat([-part for part in words(ids).chunk(2, -1)][::-1], -1),
    "split": lambda ids, mask: words(ids).split([1, 5], -1)[1] @ TABLE[:5, :3],
    "selected": lambda ids, mask: torch.take_along_dim(words(ids), (mask.sum(1) - 1)[:, None, None], 1)[:, 0],
    "sliced": lambda ids, mask: words(ids)[:, :1].squeeze(1)[None] + words(ids)[:, 0],
    "softmax": lambda ids, mask: torch.softmax(words(ids) @ words(ids).transpose(-1, -2), dim=-1),
    "numbers": lambda ids, mask: (torch.ones_like(mask[0]).cumsum(0) - 1).abs().float(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_recorded_function_is_that_of_torch(name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    session = onnxruntime.InferenceSession(
        traced(FUNCTIONS[name]).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for n, tokens in ((1, 1), (3, 7)):
        ids = torch.from_numpy(np.random.default_rng(n).integers(0, 50, (n, tokens)))
        mask = torch.ones_like(ids)
        mask[-1, 2:] = 0
        expected = FUNCTIONS[name](ids, mask).numpy()
        (found,) = session.run(None, {"ids": ids.numpy(), "mask": mask.numpy()})
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=2e-6, rtol=1e-5)


def test_what_does_not_depend_on_the_inputs_is_one_constant_and_unused_nodes_are_dropped() -> None:
    def function(ids, mask):
        words(ids).square()  # unused
        product = (WEIGHT @ WEIGHT.T).exp()
        return words(ids) @ WEIGHT.T @ product + words(ids) @ WEIGHT.T

    graph = traced(function).graph
    assert sorted(node.op_type for node in graph.node) == ["Add", "Gather", "Gather", "MatMul", "MatMul", "MatMul"]
    assert [tuple(tensor.dims) for tensor in graph.initializer] == [(50, 6), (6, 4), (4, 4)]
    assert [value.name for value in (*graph.input, *graph.output)] == ["ids", "mask", "out"]


def test_an_unknown_function_is_refused_by_name() -> None:
    with pytest.raises(NotImplementedError, match=r"torch\.erfinv"):
        traced(lambda ids, mask: torch.erfinv(words(ids)))
