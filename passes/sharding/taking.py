"""Values with some positions of a dim, made from weights that have these alone.

What an op gives at some positions of a dim it gives of operands with these positions,
where its index maps have the dim as an axis of its own::

    take(f(x, w), i, dim) = f(x, take(w, i, dim))
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from graphopt.index import Affine, Compound, Term
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops import Constant
from graphopt.ops.structured import Structured
from graphopt.types import TensorType
from graphopt.weights import Tensor

from .local import Local, on_parts
from .ways import domain_of

Positions: TypeAlias = tuple[int, ...]
"""Positions of a dim in the order in which they are wanted; -1 stands for zeros."""

Wanted: TypeAlias = tuple[Value, int, Positions]
"""A value, a dim, and its positions."""

Changed: TypeAlias = Mapping[Op, tuple[Value | None, ...]]
"""Ops that are made again, and their new operands."""

MOST: Final = 64
"""Values of which positions are taken, on the way to one."""


def take(
    graph: Graph,
    last: Op,
    wanted: Sequence[Wanted],
    suits: Callable[[Changed], bool] = lambda _: True,
) -> list[Value] | None:
    """``take(value, positions, dim)`` of what ``last`` reads.

    None where one does not come from weights, where something else reads what is made
    again, or where that does not suit. No weight is read before that is known.
    """
    trial = _Taking(reads=False)
    if any(trial.of(*each) is None for each in wanted):
        return None
    if not trial.is_closed(graph, last) or not suits(trial.changed):
        return None
    made = _Taking(reads=True)
    return [value for each in wanted if (value := made.of(*each)) is not None]


class _Taking:
    """Values with some positions of a dim, each made from weights with these alone.

    What stands for a weight is a parameter where weights are not read.
    """

    def __init__(self, *, reads: bool) -> None:
        self.reads = reads
        self.known: dict[Wanted, Value | None] = {}
        self.changed: dict[Op, tuple[Value | None, ...]] = {}

    def of(self, value: Value, dim: int, positions: Positions) -> Value | None:
        """take(value, positions, dim); None where it does not come from weights."""
        key = value, dim, positions
        if key not in self.known:
            self.known[key] = None
            if len(self.known) <= MOST:
                self.known[key] = self._made(*key)
        return self.known[key]

    def is_closed(self, graph: Graph, last: Op) -> bool:
        """True where nothing but ``last`` reads what the changed ops gave."""
        inside = {*self.changed, last}
        return all(
            value not in graph.outputs
            and inside.issuperset([user for user, _ in graph.users.get(value, ())])
            for op in self.changed
            for value in op.results
        )

    def _made(self, value: Value, dim: int, positions: Positions) -> Value | None:
        op = value.op
        if isinstance(op, Constant):
            if self.reads:
                return Constant(taken(op.tensor, dim, positions))
            dims = op.tensor.shape
            shape = (*dims[:dim], len(positions), *dims[dim + 1 :])
            return Parameter(TensorType(op.tensor.dtype, shape))
        domain = None if op is None or not op.deterministic else domain_of(op)
        if not isinstance(op, Structured) or domain is None or value.shape is None:
            return None
        at = op.results.index(value)
        found = _axis(domain.maps.results[at][dim], positions, domain.extents)
        if found is None or found[0] in domain.maps.positional:
            return None
        axis, chosen = found
        operands: list[Value | None] = []
        for operand, map_ in zip(op.operands, domain.maps.operands, strict=False):
            places = [i for i, term in enumerate(map_ or ()) if axis in term.axes]
            if operand is not None and places:
                if len(places) > 1 or map_ is None:
                    return None
                wanted = _within(map_[places[0]], axis, chosen, domain.extents)
                if wanted is None:
                    return None
                operand = self.of(operand, places[0], wanted)
                if operand is None:
                    return None
            operands.append(operand)
        extents = {**domain.extents, axis: len(chosen)}
        made = on_parts(op, operands, Local(domain, {}, extents))
        results = made.results if isinstance(made, Op) else ()
        shape = (*value.shape[:dim], len(positions), *value.shape[dim + 1 :])
        if not results or results[at].shape != shape:
            return None
        self.changed[op] = tuple(operands)
        return results[at]


def taken(tensor: Tensor, dim: int, positions: Positions) -> Tensor:
    """The tensor with these positions of a dim; -1 gives zeros."""
    array = np.take(tensor.array(), np.maximum(positions, 0), dim)
    added = np.asarray(positions) < 0
    if added.any():
        array[(slice(None),) * dim + (added,)] = 0
    return Tensor.of(array, tensor.dtype)


def blocks(positions: Positions, size: int) -> Positions:
    """The positions of all that lies in blocks of this size; -1 stays so."""
    rows = [[p * size + i if p >= 0 else -1 for i in range(size)] for p in positions]
    return tuple(itertools.chain.from_iterable(rows))


def _axis(
    term: Term, positions: Positions, extents: Mapping[str, Any]
) -> tuple[str, Positions] | None:
    """The axis that a dim is, or the major one of it, and the positions of that."""
    if isinstance(term, Affine):
        return None if term.plain is None else (term.plain, positions)
    if not isinstance(term, Compound):
        return None
    size = math.prod([extents[name] for name in term.axes[1:]])
    chosen = tuple([p // size if p >= 0 else -1 for p in positions[::size]])
    return (term.axes[0], chosen) if blocks(chosen, size) == positions else None


def _within(
    term: Term, axis: str, positions: Positions, extents: Mapping[str, Any]
) -> Positions | None:
    """The positions of a dim in which the axis is all, or the major factor."""
    if isinstance(term, Affine):
        return positions if term.plain == axis else None
    if not isinstance(term, Compound) or term.axes[0] != axis:
        return None
    return blocks(positions, math.prod([extents[name] for name in term.axes[1:]]))
