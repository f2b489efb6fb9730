"""Key and value heads that are fewer than devices, repeated in the weights.

Where fewer heads of keys and values than devices serve the query heads, no device can
have its own, and all would have all. With columns of their weights repeated, each
device has the one that its query heads read::

    attention(q, x W_k, x W_v) = attention(q, x W_k[:, i], x W_v[:, i])

``i`` names the columns of each head as often as there are devices to a head. Shazeer,
arXiv 1911.02150; the repetition as in Pope et al., arXiv 2211.05102, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from graphopt.index import Affine, Compound, Term
from graphopt.ir import Graph, Op, Value
from graphopt.ops import Attention, Constant, Expand, Reshape
from graphopt.ops.bodies import vector
from graphopt.ops.structured import Structured
from graphopt.substitution import substitute
from graphopt.weights import Tensor

from .local import Local, on_parts
from .ways import domain_of

MOST: Final = 64
"""Ops between a weight and attention."""


def repeated_heads(graph: Graph, count: int) -> Graph:
    """The graph whose keys and values have ``count`` heads, where that can be.

    All its sizes are known. Keys and values that something else reads (a cache, an
    output) stay as they are, and so do those that do not come from weights alone.
    """
    changed: dict[Value, Value] = {}
    for op in graph.ops:
        found = None
        if isinstance(op, Attention):
            found = _attention(graph, op, count)
        elif isinstance(op, Reshape):
            found = _spelled(graph, op, count)
        if found is not None:
            changed[op] = found
    return substitute(graph, changed) if changed else graph


def key_heads(graph: Graph) -> set[int]:
    """How many heads of keys there are, where several query heads share each."""
    found = set()
    for op in graph.ops:
        if isinstance(op, Attention):
            shared, sizes = op.groups(), op.sizes()
            if shared is not None and shared > 1 and sizes is not None:
                found |= {n for n in (sizes[1][1],) if isinstance(n, int)}
        elif isinstance(op, Reshape):
            spread = _spread(op)
            if spread is not None:
                found.add(spread[1])
    return found


def _attention(graph: Graph, op: Attention, count: int) -> Value | None:
    """attention(q, k, v) with more heads of keys, each for fewer of the queries."""
    sizes, shared = op.sizes(), op.groups()
    if sizes is None or shared is None or op.outs > 1 or op.operand(4) is not None:
        return None
    heads = sizes[1][1]
    if not isinstance(heads, int) or not _fits(heads, shared, count):
        return None
    operands = list(op.operands)
    taken = _Taken()
    for at in (1, 2):
        value = operands[at]
        assert value is not None
        assert value.shape is not None
        dim, size = (1, 1) if len(value.shape) == 4 else (2, value.shape[2] // heads)
        operands[at] = taken.of(value, dim, _positions(heads, count // heads, size))
        if operands[at] is None or not _is_alone(graph, value, op):
            return None
    if op.kv_num_heads:
        return op.copy(operands=operands, kv_num_heads=count)
    return op.with_operands(operands)


def _spelled(graph: Graph, op: Reshape, count: int) -> Value | None:
    """reshape(expand(k, [b, g, r, t, d])): with more heads, each fewer times."""
    spread = _spread(op)
    if spread is None:
        return None
    source, heads, shared = spread
    expand = op.operands[0]
    assert expand is not None
    if not _fits(heads, shared, count) or not _is_alone(graph, expand, op):
        return None
    if not _is_alone(graph, source, expand.op):
        return None
    made = _Taken().of(source, 1, _positions(heads, count // heads, 1))
    if made is None:
        return None
    assert expand.shape is not None
    if count < heads * shared:
        batch, _, _, *rest = expand.shape
        target = vector(batch, count, heads * shared // count, *rest)
        made = Expand(made, target)
    return op.with_operands((made, op.operands[1]))


def _spread(op: Reshape) -> tuple[Value, int, int] | None:
    """What heads are repeated of, how many there are, and how often each is there."""
    expand = op.operands[0]
    if not isinstance(expand, Expand) or op.shape is None or expand.shape is None:
        return None
    source = expand.operands[0]
    if source is None or source.shape is None or len(source.shape) != 5:
        return None
    before, after = source.shape, expand.shape
    (batch, heads, one, *rest), shared = before, after[2]
    whole = (batch, heads * shared, *rest)
    if one != 1 or shared == 1 or op.shape != whole:
        return None
    if after != (batch, heads, shared, *rest) or op.operands[1] is None:
        return None
    return source, heads, shared


def _fits(heads: int, shared: int, count: int) -> bool:
    """True where so many heads are each a part of the old ones' work.

    A single head is what every device reads anyway.
    """
    return count > heads > 1 and not count % heads and not heads * shared % count


def _positions(heads: int, times: int, size: int) -> tuple[int, ...]:
    """The positions of each head of this size, so many times in a row."""
    whole = np.arange(heads * size).reshape(heads, 1, size)
    return tuple(np.broadcast_to(whole, (heads, times, size)).ravel().tolist())


def _is_alone(graph: Graph, value: Value, user: Op | None) -> bool:
    """True where nothing else reads a value."""
    users = {op for op, _ in graph.users.get(value, ())}
    return users == {user} and value not in graph.outputs


class _Taken:
    """Values with some positions of a dim, each made from weights with these alone."""

    def __init__(self) -> None:
        self.left = MOST
        self.known: dict[tuple[Value, int, tuple[int, ...]], Value | None] = {}

    def of(self, value: Value, dim: int, positions: tuple[int, ...]) -> Value | None:
        """take(value, positions, dim); None where it does not come from weights."""
        key = value, dim, positions
        if key not in self.known:
            self.left -= 1
            self.known[key] = self._made(*key) if self.left >= 0 else None
        return self.known[key]

    def _made(self, value: Value, dim: int, positions: tuple[int, ...]) -> Value | None:
        op = value.op
        if isinstance(op, Constant):
            tensor = op.tensor
            array = np.take(tensor.array(), positions, dim)
            return Constant(Tensor.of(array, tensor.dtype))
        domain = None if op is None or not op.deterministic else domain_of(op)
        if not isinstance(op, Structured) or domain is None:
            return None
        at = op.results.index(value)
        term = domain.maps.results[at][dim]
        axis = term.plain if isinstance(term, Affine) else None
        if axis is None or axis in domain.maps.positional:
            return None
        operands: list[Value | None] = []
        for operand, map_ in zip(op.operands, domain.maps.operands, strict=False):
            places = [i for i, term in enumerate(map_ or ()) if axis in term.axes]
            if operand is not None and places:
                if len(places) > 1 or map_ is None:
                    return None
                wanted = _within(map_[places[0]], axis, positions, domain.extents)
                if wanted is None:
                    return None
                operand = self.of(operand, places[0], wanted)
                if operand is None:
                    return None
            operands.append(operand)
        extents = {**domain.extents, axis: len(positions)}
        made = on_parts(op, operands, Local(domain, {}, extents))
        results = made.results if isinstance(made, Op) else ()
        assert value.shape is not None
        shape = (*value.shape[:dim], len(positions), *value.shape[dim + 1 :])
        return results[at] if results and results[at].shape == shape else None


def _within(
    term: Term, axis: str, positions: tuple[int, ...], extents: Mapping[str, Any]
) -> tuple[int, ...] | None:
    """The positions of a dim in which the axis is all, or the major factor."""
    if isinstance(term, Affine):
        return positions if term.plain == axis else None
    if not isinstance(term, Compound) or term.axes[0] != axis:
        return None
    inner = math.prod([extents[name] for name in term.axes[1:]])
    return tuple([p * inner + i for p in positions for i in range(inner)])
