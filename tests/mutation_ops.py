"""Mutants of graphs: what one slip of the hand makes of one op.

Only slips that leave every type as it was count, as the others are told by types alone.
What cannot make a difference is not made at all: operands that are equal or commute are
not swapped, an axis is not spelled in another way, a reshape, which its result's type
says whole, keeps its shape, and attributes that mean nothing here stay (`IDLE`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np

from graphopt import ops
from graphopt.errors import GraphoptError
from graphopt.ir import Graph, Op, Value, rebuild
from graphopt.ops.schema import schema_of
from graphopt.types import DType
from graphopt.verify import verify
from graphopt.weights import Tensor

IDLE = {
    "captures": "counts operands",
    "num_scan_inputs": "counts operands",
    "momentum": "is read in training only",
    "stash_type": "is the precision inside, float32 already",
    "storage_order": "is read for indices only",
    "saturate": "is read for 8-bit floats only",
    "select_last_index": "is read for ties only, and floats have none",
    "noop_with_empty_axes": "is read where there are no axes",
    "allowzero": "is read where a dim is zero",
    "block_size": "is read for scales in blocks",
    "precision": "is the float type that is written already",
    "output_dtype": "is the type that is given already",
}
"""Attributes that mean nothing for these graphs, and why."""

_FLAGS: tuple[str, ...] = (
    "keepdims",
    "reverse",
    "exclusive",
    "transA",
    "transB",
    "upper",
)
_FLAGS += ("count_include_pad", "ceil_mode")
_SAID_TWICE = {("Conv", "kernel_shape"), ("ConvTranspose", "kernel_shape")}
"""Attributes of which another operand says the same."""

_RESHAPES = (ops.Reshape, ops.Expand, ops.Squeeze, ops.Unsqueeze, ops.Flatten)
_WORDS = {
    "mode": {"constant": "edge", "reflect": "edge", "DCR": "CRD"},
    "approximate": {"none": "tanh", "tanh": "none"},
}
_KINDS: dict[type[Op], tuple[type[Op], ...]] = {
    ops.Add: (ops.Sub, ops.Mul),
    ops.Sub: (ops.Add,),
    ops.Mul: (ops.Add, ops.Div),
    ops.Div: (ops.Mul,),
    ops.Max: (ops.Min,),
    ops.And: (ops.Or,),
    ops.Or: (ops.Xor, ops.And),
    ops.Xor: (ops.Or,),
    ops.BitwiseAnd: (ops.BitwiseOr,),
    ops.BitwiseXor: (ops.BitwiseOr,),
    ops.Less: (ops.Greater,),
    ops.Greater: (ops.Less,),
    ops.LessOrEqual: (ops.Less, ops.Equal, ops.GreaterOrEqual),
    ops.GreaterOrEqual: (ops.LessOrEqual,),
    ops.Equal: (ops.Less,),
    ops.ReduceMean: (ops.ReduceSum, ops.ReduceMax),
    ops.ReduceSum: (ops.ReduceMean,),
    ops.ReduceMax: (ops.ReduceMin,),
    ops.ReduceMin: (ops.ReduceMax,),
    ops.ReduceL2: (ops.ReduceL1, ops.ReduceSumSquare),
    ops.ReduceLogSumExp: (ops.ReduceLogSum,),
    ops.ArgMax: (ops.ArgMin,),
    ops.LogSoftmax: (ops.Softmax,),
    ops.Softmax: (ops.LogSoftmax,),
    ops.Floor: (ops.Ceil, ops.Round),
    ops.Relu: (ops.Abs,),
    ops.Tanh: (ops.Erf,),
    ops.Erf: (ops.Tanh,),
    ops.Sigmoid: (ops.HardSigmoid,),
    ops.Sin: (ops.Cos,),
    ops.Sqrt: (ops.Abs,),
    ops.GlobalAveragePool: (ops.GlobalMaxPool,),
}


@dataclass(frozen=True)
class GraphMutant:
    """A graph with one op changed."""

    kind: str
    key: str
    graph: Graph


def mutants_of(graph: Graph, name: str, share: int = 1) -> Iterator[GraphMutant]:
    """Mutants of a graph whose interface, types among it, is that of the graph.

    One of ``share`` is taken, by a hash of what it is.
    """
    types = [v.type for v in graph.outputs]
    seen: set[str] = set()
    for kind, label, mutant in _mutated(graph, share):
        if [v.type for v in mutant.outputs] != types or mutant.key == graph.key:
            continue
        if label not in seen:
            seen.add(label)
            yield GraphMutant(kind, f"{name}: {label}", mutant)


def _mutated(graph: Graph, share: int = 1) -> Iterator[tuple[str, str, Graph]]:
    numbers: Counter[str] = Counter()
    for op in graph.ops:
        if isinstance(op, ops.Constant):
            continue
        numbers[op.kind] += 1
        called = f"{op.kind} {numbers[op.kind]}"
        if op.contents is not None and op not in graph.outputs:
            continue  # a dim: types, which stay, say what it is
        for kind, label, make in _slips(op):
            if share > 1 and crc32(f"{called} {label}".encode()) % share:
                continue
            try:
                values = make()
                if [v.type for v in values] == list(op.types):
                    mutant = _replaced(graph, op, values)
                    verify(mutant)
                    yield kind, f"{called}, {label}", mutant
            except (GraphoptError, ValueError, KeyError, IndexError, TypeError):
                continue  # no such op


def _replaced(graph: Graph, target: Op, values: Sequence[Value]) -> Graph:
    def build(op: Op, operands: tuple[Value | None, ...]) -> Op | Sequence[Value]:
        return values if op is target else op.with_operands(operands)

    return rebuild(graph, build)


_Slip = tuple[str, str, Callable[[], Sequence[Value]]]


def _slips(op: Op) -> Iterator[_Slip]:
    """What else an op could have been; making it may fail."""
    for i, value in enumerate(op.operands):
        if value is None or op.outs != 1 or isinstance(op, ops.Cast):
            continue
        if value.type == op.type:
            yield "dropped op", f"dropped for operand {i}", partial(_only, value)
    yield from _swaps(op)
    for other in _KINDS.get(type(op), ()):
        yield "kind", f"{other.kind} instead", partial(_as, other, op)
    for name, old in op.attrs.items():
        if name not in IDLE and (op.kind, name) not in _SAID_TWICE:
            for kind, new in _attributes(op, name, old):
                yield kind, f"{name}={new}", partial(_with, op, name, new)
    for i, value in enumerate(op.operands):
        if isinstance(value, ops.Constant) and not isinstance(op, _RESHAPES):
            for label, array in _arrays(value.tensor):
                kind = "weight" if value.tensor.dtype.is_float else "bound"
                text = f"operand {i}{label}"
                yield kind, text, partial(_on, op, {i: ops.Constant(array)})
    if isinstance(op, ops.Slice):
        yield "bound", "window moved", partial(_moved, op)
    yield from _bodies(op)


def _swaps(op: Op) -> Iterator[_Slip]:
    operands = op.operands
    if not op.commutative:
        for i in range(len(operands) - 1):
            if operands[i] is not operands[i + 1]:
                pair = {i: operands[i + 1], i + 1: operands[i]}
                yield "swapped", f"operands {i}, {i + 1}", partial(_on, op, pair)
    if isinstance(op, ops.If):
        turned = op.bodies[::-1]
        yield "swapped", "branches", partial(_around, op, turned)


def _bodies(op: Op) -> Iterator[_Slip]:
    """A slip in one of the bodies."""
    for i, body in enumerate(op.bodies):
        for kind, label, mutant in _mutated(body):
            bodies = [*op.bodies[:i], mutant, *op.bodies[i + 1 :]]
            text = f"body {i}: {label}"
            yield kind, text, partial(_around, op, bodies)


def _only(value: Value) -> Sequence[Value]:
    return [value]


def _around(op: Op, bodies: Sequence[Graph]) -> Sequence[Value]:
    return op.copy(bodies=bodies).results


def _as(kind: type[Op], op: Op) -> Sequence[Value]:
    """The same operands and attributes in another kind of op."""
    known = schema_of(kind.kind)
    names = known.attributes if known else frozenset()
    attrs: dict[str, Any] = {k: v for k, v in op.attrs.items() if k in names}
    return kind(*op.operands, **attrs).results


def _with(op: Op, name: str, value: Any) -> Sequence[Value]:
    return op.copy(**{name: value}).results


def _on(op: Op, others: Mapping[int, Value | None]) -> Sequence[Value]:
    return op.with_operands(
        [others.get(i, v) for i, v in enumerate(op.operands)]
    ).results


def _moved(op: Op) -> Sequence[Value]:
    """A slice of as many, one further."""
    bounds: dict[int, Value | None] = {}
    for i in (1, 2):
        value = op.operands[i]
        assert value is not None
        assert value.constant is not None
        bounds[i] = ops.Constant(value.constant.array() + 1)
    return _on(op, bounds)


def _attributes(op: Op, name: str, old: Any) -> Iterator[tuple[str, Any]]:
    schema = schema_of(op.kind)
    default = schema.defaults.get(name) if schema else None
    if default is not None and default != old:
        yield "lost attribute", default
    if name == "to":
        for dtype in (DType.F16, DType.I8, DType.I32):
            yield "attribute", dtype.value
    elif isinstance(old, str):
        if old in _WORDS.get(name, {}):
            yield "attribute", _WORDS[name][old]
    elif isinstance(old, float):
        yield "epsilon" if name == "epsilon" else "attribute", old * 3 or 0.5
    elif name in _FLAGS:
        yield "attribute", 1 - old
    elif isinstance(old, int):
        kind = "axis" if name == "axis" else "attribute"
        rank = op.operands[0].rank if op.operands and op.operands[0] else None
        for new in (old + 1, old - 1):
            if name != "axis" or not rank or (new - old) % rank:
                yield kind, new
    elif isinstance(old, tuple) and all(isinstance(v, int) for v in old):
        kind = "axis" if name == "perm" else "attribute"
        least = 1 if name in ("strides", "dilations", "kernel_shape") else -len(old)
        vectors = [v for v in _vectors(list(old)) if min(v) >= least]
        yield from ((kind, tuple(new)) for new in vectors)


def _vectors(old: list[int]) -> Iterator[list[int]]:
    """One number more or less, two exchanged, one moved from the first half over."""
    for i in range(len(old)):
        for step in (1, -1):
            yield [n + step * (i == k) for k, n in enumerate(old)]
    for i in range(len(old) - 1):
        if old[i] != old[i + 1]:
            yield [*old[:i], old[i + 1], old[i], *old[i + 2 :]]
    half = len(old) // 2
    for i in range(half):
        for step in (1, -1):
            yield [
                n + step * (i == k) - step * (i + half == k) for k, n in enumerate(old)
            ]


def _arrays(tensor: Tensor) -> Iterator[tuple[str, Any]]:
    """A constant with one element changed; a short one of integers in every way."""
    array = tensor.array()
    if tensor.dtype.is_integer and array.ndim == 1 and array.size <= 8:
        for new in _vectors(array.tolist()):
            yield f" = {new}", np.array(new, array.dtype)
        return
    if not array.size or not (tensor.dtype.is_float or tensor.dtype.is_integer):
        return
    for at in sorted({0, array.size // 2, array.size - 1}):
        changed = array.copy()
        old = changed.flat[at]
        changed.flat[at] = old + 1 if tensor.dtype.is_integer else old * 1.1 + 0.1
        yield f"[{at}]", changed
