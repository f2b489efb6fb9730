"""Heads and hidden dims that devices do not divide, padded with zeros.

Between two products a dim may have more positions: where the weights of the first give
nothing there, those of the second take nothing from there::

    f(x W_1) W_2 = f(x pad(W_1)) pad(W_2)

and likewise for heads of attention, each of which is a block of such positions. What
lies between has to be finite where all is 0. An infinite operand that has no such dim
(a gate, a fill) makes NaN there, and so of an infinite result.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from graphopt import ops
from graphopt.index import Compound
from graphopt.ir import Graph, Op, Value
from graphopt.ops import Constant, Div, Gemm, MatMul, Pow
from graphopt.substitution import substitute

from .layout import known_size
from .taking import Changed, blocks, take, taken
from .ways import domain_of

WORK: Final = 2.0
"""How often a padded dim may hold what the old one did."""

FINITE: Final = (
    ops.Add,
    ops.Attention,
    ops.Cast,
    ops.Concat,
    ops.Erf,
    ops.Expand,
    ops.Gelu,
    ops.Gemm,
    ops.HardSigmoid,
    ops.HardSwish,
    ops.Identity,
    ops.IsNaN,
    ops.LeakyRelu,
    ops.MatMul,
    ops.Mul,
    ops.Neg,
    ops.Relu,
    ops.Reshape,
    ops.Sigmoid,
    ops.Slice,
    ops.Softmax,
    ops.Squeeze,
    ops.Sub,
    ops.Swish,
    ops.Tanh,
    ops.Transpose,
    ops.Unsqueeze,
    ops.Where,
)
"""Ops that give something finite of zeros, and of what they give."""


def rounded(graph: Graph, ways: int) -> Graph:
    """The graph whose heads and hidden dims so many devices divide, where that can be.

    All its sizes are known. What lies between two products may be read by nothing else.
    """
    changed: dict[Value, Value] = {}
    for op in graph.ops:
        if isinstance(op, MatMul | Gemm):
            found = _padded(graph, op, ways)
            if found is not None:
                changed[op] = found
    return substitute(graph, changed) if changed else graph


def _padded(graph: Graph, op: MatMul | Gemm, ways: int) -> Value | None:
    """The second of two products, both on more positions."""
    hidden, weight, *rest = op.operands
    if not isinstance(weight, Constant) or weight.rank != 2 or hidden is None:
        return None
    if hidden.shape is None or hidden.op is None or isinstance(hidden.op, Constant):
        return None
    if isinstance(op, Gemm) and op.transA:
        return None
    width, last = hidden.shape[-1], len(hidden.shape) - 1
    down = 1 if isinstance(op, Gemm) and op.transB else 0
    for count, size in _factors(hidden):
        if count * size != width or not count % ways:
            continue
        wanted = count + -count % ways
        if wanted > WORK * count:
            continue
        positions = blocks((*range(count), *[-1] * (wanted - count)), size)
        made = take(graph, op, [(hidden, last, positions)], _is_product)
        if made is not None:
            second = Constant(taken(weight.tensor, down, positions))
            return op.with_operands((*made, second, *rest))
    return None


def _factors(hidden: Value) -> Iterator[tuple[int, int]]:
    """How a last dim is made of blocks: heads of a size, or all alone."""
    at: Value | None = hidden
    while at is not None and at.op is not None and at.shape is not None:
        domain = domain_of(at.op)
        if domain is None:
            break
        term = domain.maps.results[at.op.results.index(at)][len(at.shape) - 1]
        if isinstance(term, Compound):
            first, *inner = [domain.extents[name] for name in term.axes]
            if isinstance(first, int):
                yield first, known_size(tuple(inner))
            return
        if isinstance(at.op, MatMul | Gemm):
            break
        at = at.op.operands[0] if at.op.operands else None
    width = hidden.shape[-1] if hidden.shape else None
    if isinstance(width, int):
        yield width, 1


def _is_product(changed: Changed) -> bool:
    """True for what begins with a product, and is finite where that gives zeros."""
    first = any(isinstance(op, MatMul | Gemm) for op in changed)
    return first and all(map(_is_finite, changed.items()))


def _is_finite(changed: tuple[Op, tuple[Value | None, ...]]) -> bool:
    """True for ops that give something finite of zeros."""
    op, operands = changed
    if isinstance(op, Div):  # by what is as it was
        return operands[1] is op.operands[1]
    if isinstance(op, Pow):
        power = op.operands[1]
        return isinstance(power, Constant) and bool((power.tensor.array() > 0).all())
    return isinstance(op, FINITE)
