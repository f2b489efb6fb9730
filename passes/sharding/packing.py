"""Weights that hold several things side by side, taken apart; uneven ones, padded.

A projection to queries, keys and values in one product, or to gate and up, is split
after it: its columns cannot be shared out so that each device has the heads of all
three. As products of their own they can::

    split(x W + b) --> x W_i + b_i

The parts of W are views: nothing is read. Megatron-LM interleaves them by hand
(Shoeybi et al., arXiv 1909.08053).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import numpy as np

from graphopt.ir import Graph, Op, Value
from graphopt.ops import (
    Add,
    Constant,
    Gather,
    Gemm,
    Less,
    MatMul,
    Mul,
    Reshape,
    Slice,
    Split,
    Squeeze,
    Transpose,
    Where,
)
from graphopt.ops.bodies import scalar, vector
from graphopt.substitution import substitute
from graphopt.types import DType
from graphopt.weights import Tensor

ROWS: Final = 16
"""Rows of a table for each device from which on it is padded."""
HEAD: Final = 128
"""Columns of a weight for each device from which on they are padded."""


def unpacked(graph: Graph) -> Graph:
    """The graph with packed projections taken apart; all its sizes are known."""
    changed: dict[Value, Value] = {}
    parts = _Parts(graph)
    for op in graph.ops:
        for value, packed, dim, start, stop in _cuts(op):
            if not _read_once(graph, packed):
                continue
            part = parts.of(packed, dim, start, stop)
            if part is not None:
                gone = isinstance(op, Gather)
                changed[value] = Squeeze(part, vector(dim)) if gone else part
    if not changed:
        return graph
    made = substitute(graph, changed)
    return made.replace(names={**parts.names, **made.names})


def _cuts(op: Op) -> Iterator[tuple[Value, Value, int, int, int]]:
    """Each part of an operand that an op gives: itself, the operand, dim, positions."""
    x = op.operands[0] if op.operands else None
    if x is None or x.shape is None:
        return
    if isinstance(op, Split):
        axis = op.axis % len(x.shape)
        start = 0
        for part in op.results:
            assert part.shape is not None
            size = part.shape[axis]
            if not isinstance(size, int):
                return
            yield part, x, axis, start, start + size
            start += size
    elif isinstance(op, Slice):
        cuts = op.cuts()
        if cuts is None or len(cuts) != 1:
            return
        ((axis, (first, step, count)),) = cuts.items()
        if step == 1 and isinstance(first, int) and isinstance(count, int) and count:
            yield op, x, axis, first, first + count
    elif isinstance(op, Gather):
        index = op.operands[1]
        if index is None or index.rank or index.ints is None:
            return
        axis = op.axis % len(x.shape)
        extent = x.shape[axis]
        if isinstance(extent, int):
            at = index.ints[0] % extent
            yield op, x, axis, at, at + 1


def _read_once(graph: Graph, packed: Value) -> bool:
    """True where the parts that are taken of a value are no more than all of it."""
    if packed in graph.outputs or packed.shape is None:
        return False
    taken, axes = 0, set()
    for user, _ in graph.users.get(packed, ()):
        found = list(_cuts(user))
        if not found:
            return False
        for _, _, dim, start, stop in found:
            axes.add(dim)
            taken += stop - start
    if len(axes) != 1:
        return False
    whole = packed.shape[axes.pop()]
    return isinstance(whole, int) and taken <= whole


class _Parts:
    """Parts of what products with weights give, each by a product of its own.

    ``names`` are those of the weights that this makes.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.names: dict[Value, str] = {}

    def of(self, value: Value, dim: int, start: int, stop: int) -> Value | None:
        """Positions of a dim of a value, by a product that gives them alone."""
        op = value.op
        if op is None or value.shape is None or value in self.graph.outputs:
            return None
        shape, size = list(value.shape), stop - start
        x = op.operands[0] if op.operands else None
        if isinstance(op, Constant):
            return self._view(op, dim, start, stop)
        if isinstance(op, MatMul):
            weight = op.operands[1]
            if dim != len(shape) - 1 or not isinstance(weight, Constant):
                return None
            if weight.rank == 1:  # then the last dim is one of x
                return None
            return MatMul(x, self._view(weight, weight.rank - 1, start, stop))  # type: ignore[operator]
        if isinstance(op, Gemm):
            return self._of_gemm(op, dim, start, stop)
        if isinstance(op, Transpose):
            perm = op.order(len(shape))
            if x is None:
                return None
            inner = self.of(x, perm[dim], start, stop)
            return None if inner is None else op.with_operands((inner,))
        if isinstance(op, Reshape) and x is not None and x.shape is not None:
            source = _major(x.shape, shape, dim)
            if source is None:
                return None
            times = math.prod(shape[dim + 1 : dim + 1 + source[1]])
            inner = self.of(x, source[0], start * times, stop * times)
            shape[dim] = size
            return (
                None if inner is None else Reshape(inner, vector(*shape), allowzero=1)
            )
        if isinstance(op, Add | Mul):
            return self._of_pair(op, dim, start, stop)
        return None

    def _of_gemm(self, op: Gemm, dim: int, start: int, stop: int) -> Value | None:
        x, weight, bias = (op.operand(i) for i in range(3))
        if dim != 1 or not isinstance(weight, Constant):
            return None
        part = self._view(weight, 0 if op.transB else 1, start, stop)
        if bias is None:
            return op.with_operands((x, part))
        if bias.shape and bias.shape[-1] != 1:
            if not isinstance(bias, Constant):
                return None
            bias = self._view(bias, len(bias.shape) - 1, start, stop)
        return op.with_operands((x, part, bias))

    def _of_pair(self, op: Op, dim: int, start: int, stop: int) -> Value | None:
        """A part of a sum or product with a constant."""
        assert op.shape is not None
        made: list[Value] = []
        constant = False
        for operand in op.operands:
            assert operand is not None
            lead = len(op.shape) - (operand.rank or 0)
            at = dim - lead
            own = operand.shape[at] if operand.shape is not None and at >= 0 else 1
            constant |= isinstance(operand, Constant)
            part = operand if own == 1 else self.of(operand, at, start, stop)
            if part is None:
                return None
            made.append(part)
        return op.with_operands(made) if constant else None

    def _view(self, weight: Constant, dim: int, start: int, stop: int) -> Constant:
        """Some positions of a dim of a weight; its data stays where it is."""
        old = weight.tensor
        shape = (*old.shape[:dim], stop - start, *old.shape[dim + 1 :])
        index = (slice(None),) * dim + (slice(start, stop),)
        part = Constant(Tensor(old.dtype, shape, old.array()[index]))
        name = self.graph.names.get(weight)
        if name:
            self.names[part] = f"{name}[{start}:{stop}]"
        return part


def _major(
    source: tuple[Any, ...], target: list[Any], dim: int
) -> tuple[int, int] | None:
    """The dim of the source that a dim of the target is the major factor of.

    Also how many dims of the target after it are its other factors.
    """
    lead = math.prod(target[:dim])
    before = 1
    for at, extent in enumerate(source):
        if before == lead and extent != 1:
            inner = 1
            for count in range(len(target) - dim):
                if count:
                    inner *= target[dim + count]
                if target[dim] * inner == extent:
                    return at, count
            return None
        before *= extent
    return None


# --- remainders ---------------------------------------------------------------------


def padded(graph: Graph, ways: int) -> Graph:
    """The graph whose vocabularies can be shared out over so many devices::

        gather(x, i) --> gather(pad(x), i)      x W --> (x pad(W))[:, :n]

    No index reaches the rows that are added; an index below 0 counts from the last of
    the old ones.
    """
    changed: dict[Value, Value] = {}
    grown: Grown = {}
    for op in graph.ops:
        made: Value | None = None
        if isinstance(op, Gather) and _read_by(graph, op.operands[0], Gather, 0):
            made = _padded_table(op, ways, grown)
        elif isinstance(op, MatMul) and _read_by(graph, op.operands[1], MatMul, 1):
            made = _padded_head(op, ways, grown)
        if made is not None:
            changed[op] = made
    return substitute(graph, changed) if changed else graph


def _read_by(graph: Graph, weight: Value | None, kind: type[Op], at: int) -> bool:
    """True where nothing else reads a weight, which would be there twice."""
    users = graph.users.get(weight, ()) if weight is not None else ()
    return weight not in graph.outputs and all(
        isinstance(user, kind) and place == at for user, place in users
    )


Grown: TypeAlias = dict[tuple[Constant, int], Constant]
"""Weights with zeros after a dim: one for all ops that read the same."""


def _padded_table(op: Gather, ways: int, grown: Grown) -> Value | None:
    table, index = op.operands
    if not isinstance(table, Constant) or index is None or index.dtype is None:
        return None
    if table.tensor.dtype is DType.STRING:
        return None
    rows = table.tensor.shape[0]
    if op.axis % len(table.tensor.shape) or not rows % ways or rows < ROWS * ways:
        return None
    if index.ints is None:
        back = Less(index, scalar(0, index.dtype))
        index = Where(back, Add(index, scalar(rows, index.dtype)), index)
    elif min(index.ints, default=0) < 0:
        return None
    return op.with_operands((_grown(table, 0, ways, grown), index))


def _padded_head(op: MatMul, ways: int, grown: Grown) -> Value | None:
    x, weight = op.operands
    if not isinstance(weight, Constant) or weight.rank != 2 or op.rank is None:
        return None
    count = weight.tensor.shape[1]
    if not count % ways or count < HEAD * ways:
        return None
    whole = MatMul(x, _grown(weight, 1, ways, grown))
    return Slice(whole, vector(0), vector(count), vector(op.rank - 1))


def _grown(weight: Constant, dim: int, ways: int, known: Grown) -> Constant:
    """The weight with zeros after it, so that the devices divide a dim."""
    found = known.get((weight, dim))
    if found is None:
        old = weight.tensor.array()
        pads = [(0, -n % ways if i == dim else 0) for i, n in enumerate(old.shape)]
        found = Constant(Tensor.of(np.pad(old, pads), weight.tensor.dtype))
        known[weight, dim] = found
    return found
