"""Records the operators that a module applies to its inputs as an ONNX graph.

torch dispatches every function that gets a `Traced` to `Traced.__torch_function__`. Only what the modules of
`architectures` use is known here. Dimensions are numbers, or names where they differ between batches. What does not
depend on the inputs is computed by torch while recording.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

_TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.int64: TensorProto.INT64,
    torch.bool: TensorProto.BOOL,
}
_Shape: TypeAlias = tuple[int | str, ...]


def trace(module: nn.Module, inputs: Mapping[str, _Shape], output: str, producer: str, opset: int) -> Any:
    """The ONNX model of `module`, whose inputs are int64 tensors of these shapes and whose output is float32.

    Raises:
        NotImplementedError: the module uses a function that is not known here.
    """
    recorder = Recorder()
    result = module(*(Traced(recorder, name, shape, torch.int64) for name, shape in inputs.items()))
    nodes = _used(recorder.nodes, result.name)
    for node in nodes:
        node.output[:] = [output if name == result.name else name for name in node.output]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        output,
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, result.shape)],
    )
    opsets = [helper.make_opsetid("", opset)]
    version = helper.find_min_ir_version_for(opsets)
    model = helper.make_model(graph, producer_name=producer, opset_imports=opsets, ir_version=version)
    for name, value in recorder.constants.items():  # one by one into the model, which would be copied with them
        if name in used:
            model.graph.initializer.append(_stored(value.contiguous(), name))
    return model


def _stored(value: Tensor, name: str) -> Any:
    if value.dtype != torch.bfloat16:
        return numpy_helper.from_array(value.numpy(), name)
    bits = value.view(torch.int16).numpy().tobytes()  # numpy has no such type
    return helper.make_tensor(name, TensorProto.BFLOAT16, value.shape, bits, raw=True)


def _used(nodes: list[Any], output: str) -> list[Any]:
    """The nodes on which the value `output` depends, in their order."""
    needed, kept = {output}, []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    return kept[::-1]


class Recorder:
    """The nodes and constants of a graph."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Tensor] = {}  # kept, so that no other tensor gets the address of one
        self._names: dict[tuple[Any, ...], str] = {}  # of constants, by content or by tensor

    def node(self, kind: str, inputs: Sequence[str], attributes: Mapping[str, Any], n_outputs: int = 1) -> list[str]:
        """Append a node; the names of its outputs."""
        name = f"{kind}_{len(self.nodes)}"
        outputs = [name, *(f"{name}.{i}" for i in range(1, n_outputs))]
        self.nodes.append(helper.make_node(kind, inputs, outputs, name, **attributes))
        return outputs

    def constant(self, value: Tensor) -> str:
        """The name of the constant `value`. Equal small ones, and one tensor that is used twice, are stored once."""
        value = value.detach()
        key: tuple[Any, ...] = (value.dtype, *value.shape)
        key += tuple(value.flatten().tolist()) if value.numel() <= 8 else (value.data_ptr(), *value.stride())
        if key not in self._names:
            name = f"constant_{len(self.constants)}"
            self._names[key], self.constants[name] = name, value
        return self._names[key]

    def integers(self, *values: int) -> str:
        """The name of a constant `[n]` of int64."""
        return self.constant(torch.tensor(values, dtype=torch.int64))


class Traced:
    """A value of the graph that is being recorded; the methods are those of a tensor."""

    def __init__(self, recorder: Recorder, name: str, shape: _Shape, dtype: torch.dtype) -> None:
        self.recorder, self.name, self.shape, self.dtype = recorder, name, shape, dtype

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, arguments: Sequence[Any] = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        """Record a function of torch."""
        name = function.__name__.strip("_")
        if name in _FUNCTIONS:
            return _FUNCTIONS[name](*arguments, **(options or {}))
        if name in _BINARY:
            return _binary(_BINARY[name], *arguments)
        raise NotImplementedError(f"tracing of torch.{name}")

    def _new(
        self, kind: str, *inputs: str, shape: _Shape | None = None, dtype: torch.dtype | None = None, **attributes: Any
    ) -> Traced:
        name = self.recorder.node(kind, (self.name, *inputs), attributes)[0]
        return Traced(self.recorder, name, self.shape if shape is None else shape, dtype or self.dtype)

    def _axis(self, axis: int) -> int:
        return axis % len(self.shape)

    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def to(self, dtype: torch.dtype) -> Traced:
        """Convert the elements."""
        return self if dtype == self.dtype else self._new("Cast", dtype=dtype, to=_TYPES[dtype])

    def float(self) -> Traced:
        """To float32."""
        return self.to(torch.float32)

    def long(self) -> Traced:
        """To int64."""
        return self.to(torch.int64)

    def abs(self) -> Traced:
        """Absolute values."""
        return self._new("Abs")

    def square(self) -> Traced:
        """Squares."""
        return self * self

    def sum(self, axis: int) -> Traced:
        """Sum over an axis."""
        return self._reduced("ReduceSum", axis, keep=False)

    def mean(self, axis: int, keepdim: bool = False) -> Traced:
        """Mean over an axis."""
        return self._reduced("ReduceMean", axis, keep=keepdim)

    def _reduced(self, kind: str, axis: int, *, keep: bool) -> Traced:
        axis = self._axis(axis)
        shape = (*self.shape[:axis], *([1] if keep else []), *self.shape[axis + 1 :])
        return self._new(kind, self.recorder.integers(axis), shape=shape, keepdims=int(keep))

    def cumsum(self, axis: int) -> Traced:
        """Cumulative sum along an axis."""
        return self._new("CumSum", self.recorder.constant(torch.tensor(self._axis(axis))))

    def transpose(self, first: int, second: int) -> Traced:
        """Exchange two axes."""
        order = [*range(len(self.shape))]
        first, second = self._axis(first), self._axis(second)
        order[first], order[second] = second, first
        return self._permuted(order)

    def movedim(self, source: int, target: int) -> Traced:
        """Move an axis."""
        order = [*range(len(self.shape))]
        order.insert(self._axis(target), order.pop(self._axis(source)))
        return self._permuted(order)

    def _permuted(self, order: list[int]) -> Traced:
        return self._new("Transpose", shape=tuple(self.shape[axis] for axis in order), perm=order)

    def flatten(self, start: int, end: int = -1) -> Traced:
        """Join axes."""
        start, end = self._axis(start), self._axis(end)
        return self._reshaped((*self.shape[:start], math.prod(self.shape[start : end + 1]), *self.shape[end + 1 :]))

    def unflatten(self, axis: int, sizes: tuple[int, ...]) -> Traced:
        """Split an axis."""
        axis = self._axis(axis)
        known = math.prod(size for size in sizes if size != -1)
        split = tuple(self.shape[axis] // known if size == -1 else size for size in sizes)  # type: ignore[operator]
        return self._reshaped((*self.shape[:axis], *split, *self.shape[axis + 1 :]))

    def _reshaped(self, shape: _Shape) -> Traced:
        # 0 keeps the dimension at that place, -1 is computed from the others.
        kept = [0 if self.shape[i : i + 1] == (size,) else -1 for i, size in enumerate(shape)]
        sizes = [size if isinstance(size, int) else kept[i] for i, size in enumerate(shape)]
        assert sizes.count(-1) <= 1, (self.shape, shape)
        return self._new("Reshape", self.recorder.integers(*sizes), shape=shape)

    def unsqueeze(self, axis: int) -> Traced:
        """Insert an axis of size 1."""
        axis = axis % (len(self.shape) + 1)
        return self._new("Unsqueeze", self.recorder.integers(axis), shape=(*self.shape[:axis], 1, *self.shape[axis:]))

    def squeeze(self, axis: int) -> Traced:
        """Remove an axis of size 1."""
        axis = self._axis(axis)
        return self._new("Squeeze", self.recorder.integers(axis), shape=(*self.shape[:axis], *self.shape[axis + 1 :]))

    def expand(self, *sizes: int) -> Traced:
        """Repeat axes of size 1; -1 keeps an axis."""
        shape = tuple(old if new == -1 else new for old, new in zip(self.shape, sizes, strict=True))
        return self._new("Expand", self.recorder.integers(*(max(size, 1) for size in sizes)), shape=shape)

    def chunk(self, n: int, axis: int) -> list[Traced]:
        """Split an axis into `n` equal parts."""
        return self.split([self.shape[self._axis(axis)] // n] * n, axis)  # type: ignore[operator]

    def split(self, sizes: list[int], axis: int) -> list[Traced]:
        """Split an axis into parts of these sizes."""
        axis = self._axis(axis)
        inputs = self.name, self.recorder.integers(*sizes)
        names = self.recorder.node("Split", inputs, {"axis": axis}, len(sizes))
        return [
            Traced(self.recorder, name, (*self.shape[:axis], size, *self.shape[axis + 1 :]), self.dtype)
            for name, size in zip(names, sizes, strict=True)
        ]

    def __getitem__(self, index: Any) -> Traced:
        """Index by None, integers, and slices from the start."""
        value, axis = self, 0
        for part in index if isinstance(index, tuple) else (index,):
            if part is None:
                value = value.unsqueeze(axis)
            elif isinstance(part, int):
                shape = (*value.shape[:axis], *value.shape[axis + 1 :])
                value = value._new("Gather", self.recorder.constant(torch.tensor(part)), shape=shape, axis=axis)
                axis -= 1
            elif part != slice(None):
                limits = (self.recorder.integers(number) for number in (0, part.stop, axis))
                value = value._new("Slice", *limits, shape=(*value.shape[:axis], part.stop, *value.shape[axis + 1 :]))
            axis += 1
        return value

    def __add__(self, other: Any) -> Traced:
        """`x + y`."""
        return _binary("Add", self, other)

    def __radd__(self, other: Any) -> Traced:
        """`y + x`."""
        return _binary("Add", other, self)

    def __sub__(self, other: Any) -> Traced:
        """`x - y`."""
        return _binary("Sub", self, other)

    def __rsub__(self, other: Any) -> Traced:
        """`y - x`."""
        return _binary("Sub", other, self)

    def __mul__(self, other: Any) -> Traced:
        """`x * y`."""
        return _binary("Mul", self, other)

    def __rmul__(self, other: Any) -> Traced:
        """`y * x`."""
        return _binary("Mul", other, self)

    def __truediv__(self, other: Any) -> Traced:
        """`x / y`."""
        return _binary("Div", self, other)

    def __gt__(self, other: Any) -> Traced:
        """`x > y`."""
        return _binary("Greater", self, other)

    def __neg__(self) -> Traced:
        """`-x`."""
        return self._new("Neg")

    __hash__ = None  # type: ignore[assignment]

    def __ne__(self, other: object) -> Traced:  # type: ignore[override]
        """`x != y`."""
        return _binary("Equal", self, other)._new("Not")

    def __matmul__(self, other: Any) -> Traced:
        """`x @ y`."""
        return _matmul(self, other)


def _operand(recorder: Recorder, value: Any, dtype: torch.dtype) -> Traced:
    if isinstance(value, Traced):
        return value.to(dtype)
    tensor = (value if isinstance(value, Tensor) else torch.tensor(value)).to(dtype)
    return Traced(recorder, recorder.constant(tensor), tuple(tensor.shape), dtype)


def _binary(kind: str, first: Any, second: Any) -> Traced:
    """An elementwise operator; a number gets the type of the other operand, and truth values count as 0 and 1."""
    traced = first if isinstance(first, Traced) else second
    types = [value.dtype for value in (first, second) if isinstance(value, Traced | Tensor)]
    dtype = max(types, key=[torch.bool, torch.int64, torch.float32].index)
    left, right = (_operand(traced.recorder, value, dtype) for value in (first, second))
    result = torch.bool if kind in ("Equal", "Greater") else dtype
    shape = _broadcast(left.shape, right.shape)
    return left._new(kind, right.name, shape=shape, dtype=result)


def _broadcast(first: _Shape, second: _Shape) -> _Shape:
    n = max(len(first), len(second))
    pairs = [*zip((1,) * (n - len(first)) + first, (1,) * (n - len(second)) + second, strict=True)]
    for one, other in pairs:
        assert one == other or 1 in (one, other), (first, second)
    return tuple(other if one == 1 else one for one, other in pairs)


def _matmul(first: Any, second: Any) -> Traced:
    traced = first if isinstance(first, Traced) else second
    left, right = (_operand(traced.recorder, value, torch.float32) for value in (first, second))
    shape = (*_broadcast(left.shape[:-2], right.shape[:-2]), left.shape[-2], right.shape[-1])
    return left._new("MatMul", right.name, shape=shape)


def _linear(x: Traced, weight: Tensor, bias: Tensor | None = None) -> Traced:
    product = _matmul(x, weight.T)
    return product if bias is None else _binary("Add", product, bias)


def _embedding(ids: Traced, table: Tensor, *_: Any, **__: Any) -> Traced:
    rows = _operand(ids.recorder, table, table.dtype)
    return rows._new("Gather", ids.name, shape=(*ids.shape, *table.shape[1:]), axis=0)


def _layer_norm(x: Traced, _: Any, weight: Tensor, bias: Tensor | None, eps: float) -> Traced:
    bias = torch.zeros_like(weight) if bias is None else bias
    return x._new("LayerNormalization", *map(x.recorder.constant, (weight, bias)), axis=-1, epsilon=eps)


def _gelu(x: Traced, approximate: str = "none") -> Traced:
    """Hendrycks & Gimpel 2016, with erf or with tanh, in the forms that runtimes recognize."""
    if approximate == "tanh":
        cubed = x * x * x * 0.044715 + x
        return x * ((cubed * math.sqrt(2 / math.pi))._new("Tanh") + 1.0) * 0.5
    return x * (((x / math.sqrt(2))._new("Erf") + 1.0) * 0.5)


def _normalize(x: Traced, p: float, dim: int, eps: float, **_: Any) -> Traced:
    assert p == 2, p
    return x / _binary("Max", x._reduced("ReduceL2", dim, keep=True), eps)


def _cat(parts: Sequence[Traced], axis: int) -> Traced:
    first, *others = parts
    axis, sizes = first._axis(axis), [part.shape[first._axis(axis)] for part in parts]
    shape = (*first.shape[:axis], sum(sizes), *first.shape[axis + 1 :])  # type: ignore[arg-type]
    return first._new("Concat", *(part.name for part in others), shape=shape, axis=axis)


def _take_along_dim(x: Traced, index: Traced, axis: int) -> Traced:
    shape = tuple(
        size if i == axis else other for i, (size, other) in enumerate(zip(index.shape, x.shape, strict=True))
    )
    sizes = [size if isinstance(size, int) and i != axis else 1 for i, size in enumerate(shape)]
    wide = index._new("Expand", x.recorder.integers(*sizes), shape=shape)
    return x._new("GatherElements", wide.name, shape=shape, axis=axis)


def _ones_like(x: Traced) -> Traced:
    one = numpy_helper.from_array(torch.ones(1, dtype=x.dtype).numpy())
    return x._new("Shape", dtype=torch.int64, shape=(len(x.shape),))._new(
        "ConstantOfShape", shape=x.shape, dtype=x.dtype, value=one
    )


_BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div"}  # with a tensor before a `Traced`
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "matmul": _matmul,
    "linear": _linear,
    "embedding": _embedding,
    "layer_norm": _layer_norm,
    "gelu": _gelu,
    "relu": lambda x, *_, **__: x._new("Relu"),
    "silu": lambda x, *_, **__: x * x._new("Sigmoid"),
    "tanh": lambda x: x._new("Tanh"),
    "sigmoid": lambda x: x._new("Sigmoid"),
    "softmax": lambda x, dim: x._new("Softmax", axis=dim),
    "rsqrt": lambda x: x._new("Sqrt")._new("Reciprocal"),
    "normalize": _normalize,
    "cat": _cat,
    "take_along_dim": _take_along_dim,
    "ones_like": _ones_like,
}
