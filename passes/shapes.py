"""Shape arithmetic: what is known of shapes is said once, and as a constant if it can.

Inference has already evaluated integer tensors as dims (`Value.contents`), so these
rules only write down what is known; nothing is matched against an exporter's spelling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.dims import (
    Dim,
    Expr,
    Shape,
    at_least,
    divide_exact,
    equal,
    symbol,
)
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops import (
    Add,
    Concat,
    Constant,
    Div,
    Expand,
    Gather,
    Max,
    Min,
    Mod,
    Mul,
    Reshape,
    Shape as ShapeOp,
)
from graphopt.pipeline import RulePass
from graphopt.polynomial import Atom, Polynomial
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import DType

from .match import same_shape


def reshape_to(
    x: Value, shape: Shape | None, filled: Sequence[Dim] = ()
) -> Value | None:
    """``x`` reshaped to dims that may be symbolic, by a constant shape operand.

    A symbolic dim is copied (0) where ``x`` has it at the same place; one other may be
    inferred (-1), where no dim beside it can be zero: for a tensor without elements
    runtimes infer nothing. ``filled`` are dims that are surely not zero. None where
    that is not enough.
    """
    source = x.shape
    if source is None or shape is None:
        return None
    if len(source) == len(shape) and all(map(equal, source, shape)):
        return x
    wanted: list[int] = []
    open_at = -1
    for i, dim in enumerate(shape):
        if isinstance(dim, int) and dim > 0:
            wanted.append(dim)
        elif i < len(source) and equal(dim, source[i]):
            wanted.append(0)
        elif isinstance(dim, int) or open_at >= 0:
            return None  # a literal 0 here, or a second dim that is not known
        else:
            open_at = i
            wanted.append(-1)
    beside = [d for i, d in enumerate(shape) if i != open_at]
    if open_at >= 0 and not all(_is_filled(d, filled) for d in beside):
        return None
    return Reshape(x, Constant(np.array(wanted, np.int64)))


def _is_filled(dim: Dim, filled: Sequence[Dim]) -> bool:
    """Not zero by itself, or a factor of a dim that is not."""
    return at_least(dim, 1) or any(divide_exact(d, dim) is not None for d in filled)


def filled_dims(*ops: Op) -> list[Dim]:
    """Dims that are not zero, as a dim beside them in a Reshape is inferred (-1)."""
    found: list[Dim] = []
    for op in ops:
        wanted = op.operand(1) if isinstance(op, Reshape) else None
        known = None if wanted is None else wanted.contents
        asked = [] if known is None else known.tolist()
        if op.shape is not None and -1 in asked:
            pairs = zip(op.shape, asked, strict=True)
            found += [dim for dim, ask in pairs if ask != -1]
    return found


@rule
def reshape_by_constant(op: Reshape) -> Outcome:
    """reshape(x, computed shape) = reshape(x, [0, 0, 8, 64])"""
    x, wanted = op.operands
    if x is None or wanted is None or wanted.constant is not None:
        return None
    made = reshape_to(x, op.shape, filled_dims(op))
    return made or miss("more than one dim is unknown until it runs", wanted)


@rule
def reshape_nothing(op: Reshape) -> Outcome:
    """reshape(x, shape(x)) = x"""
    x = op.operands[0]
    return x if x is not None and same_shape(op, x) else None


@rule
def expand_nothing(op: Expand) -> Outcome:
    """expand(x, shape) = x where the result has the shape of x"""
    x = op.operands[0]
    return x if x is not None and same_shape(op, x) else None


@rule
def known_dims(op: Op, scene: Scene) -> Outcome:
    """Dims computed from anywhere = the same dims read from the graph's inputs"""
    contents = op.contents if op.outs == 1 else None
    if contents is None or isinstance(op, Constant):
        return None
    if op.dtype is not DType.I64 or contents.ndim > 1 or not contents.size:
        return None
    dims = contents.ravel().tolist()
    if not any(isinstance(d, Expr) for d in dims):
        return None
    made = dims_value(scene.graph, dims, scene.says, scalar=contents.ndim == 0)
    if made is None:
        return miss("a dim is no sum or product of input dims")
    if made is op or _cone(made) > _cone(op):
        return miss("it is as short as it can be")
    return made


Says = Callable[[Op], bool]
"""True for an op that the model's opset has."""


def dims_value(
    graph: Graph, dims: Sequence[Dim], says: Says, *, scalar: bool = False
) -> Value | None:
    """Dims as a value: read from the graph's parameters, glued, canonical.

    None where a dim is not a sum of products of the parameters' own dims.
    """
    if scalar:
        return _scalar(graph, dims[0], says)
    pieces: list[Value] = []
    i = 0
    while i < len(dims):
        run = _run(graph, dims, i, says)
        if run is None:
            return None
        piece, length = run
        pieces.append(piece)
        i += length
    return pieces[0] if len(pieces) == 1 else Concat(*pieces, axis=0)


def _run(
    graph: Graph, dims: Sequence[Dim], start: int, says: Says
) -> tuple[Value, int] | None:
    """The longest run of dims that one op gives, and its length."""
    end = start
    while end < len(dims) and isinstance(dims[end], int):
        end += 1
    if end > start:
        known = _integers([d for d in dims[start:end] if isinstance(d, int)])
        return None if known is None else (known, end - start)
    best: tuple[int, Parameter, int] | None = None
    for parameter in graph.inputs:
        shape = parameter.shape or ()
        for at in range(len(shape)):
            length = 0
            while (
                start + length < len(dims)
                and at + length < len(shape)
                and equal(shape[at + length], dims[start + length])
            ):
                length += 1
            if length and (best is None or length > best[0]):
                best = (length, parameter, at)
    if best is not None:
        length, parameter, at = best
        return _read(parameter, at, length, says), length
    one = _scalar(graph, dims[start], says)
    if one is None:
        return None
    return Reshape(one, Constant(np.array([1], np.int64))), 1


def _integers(given: int | list[int]) -> Constant | None:
    """Integers as a constant; None where i64 cannot hold one."""
    try:
        return Constant(np.array(given, np.int64))
    except OverflowError:
        return None


def _read(parameter: Parameter, at: int, length: int, says: Says) -> Value:
    """``length`` dims of a parameter from ``at``, as a vector."""
    rank = parameter.rank
    assert rank is not None
    if at == 0 and length == rank:
        return ShapeOp(parameter)
    end = None if at + length == rank else at + length
    part = ShapeOp(parameter, start=at, end=end)
    if says(part):
        return part
    which = np.arange(at, at + length, dtype=np.int64)
    return Gather(ShapeOp(parameter), Constant(which), axis=0)


def _scalar(graph: Graph, dim: Dim, says: Says) -> Value | None:
    """One dim as a rank-0 value, by arithmetic on dims that parameters have."""
    if dim is None:
        return None
    if isinstance(dim, int):
        return _integers(dim)
    for parameter in graph.inputs:
        for at, own in enumerate(parameter.shape or ()):
            if own == dim:
                where = Constant(np.array(at, np.int64))
                return Gather(ShapeOp(parameter), where, axis=0)
    return _polynomial(graph, dim.polynomial, says)


def _polynomial(graph: Graph, polynomial: Polynomial, says: Says) -> Value | None:
    total: Value | None = None
    for monomial, coefficient in polynomial.terms:
        term: Value | None = None
        for atom in monomial:
            factor = _atom(graph, atom, says)
            if factor is None:
                return None
            term = factor if term is None else Mul(term, factor)
        number = _integers(coefficient)
        if number is None:
            return None
        if term is None:
            term = number
        elif coefficient != 1:
            term = Mul(term, number)
        total = term if total is None else Add(total, term)
    return total or Constant(np.array(0, np.int64))


_OPERATIONS: dict[str, type[Op]] = {"//": Div, "%": Mod, "max": Max, "min": Min}
"""The op for each operation on dims."""


def _atom(graph: Graph, atom: Atom, says: Says) -> Value | None:
    if atom.operation == "symbol":
        name = atom.key[0]
        for parameter in graph.inputs:
            for at, own in enumerate(parameter.shape or ()):
                if isinstance(own, Expr) and own == symbol(name):
                    where = Constant(np.array(at, np.int64))
                    return Gather(ShapeOp(parameter), where, axis=0)
        return None
    kind = _OPERATIONS[atom.operation]
    if kind is Div and not _divides(*atom.operands):
        return None
    operands = [_polynomial(graph, p, says) for p in atom.operands]
    if None in operands:
        return None
    made = kind(*operands)
    return made if says(made) else None


def _divides(dividend: Polynomial, divisor: Polynomial) -> bool:
    """Where nothing is negative, rounding down is rounding towards zero."""
    low, least = dividend.lower(), divisor.lower()
    return low is not None and least is not None and low >= 0 and least >= 1


def _cone(value: Value) -> int:
    """How many ops a shape value takes, down to the shapes that it reads."""
    seen: set[Op] = set()
    stack = [value]
    while stack:
        op = stack.pop().op
        if op is None or op in seen or isinstance(op, Constant):
            continue
        seen.add(op)
        if not isinstance(op, ShapeOp):
            stack.extend([v for v in op.operands if v is not None])
    return len(seen)


RULES: tuple[Rule, ...] = (
    reshape_nothing,
    expand_nothing,
    reshape_by_constant,
    known_dims,
)


@dataclass(frozen=True)
class Shapes(RulePass):
    """Shape arithmetic gone: constants where it can be, input dims where it must.

    reshape(x, concat(gather(shape(x), 0), 8, 64))   -->   reshape(x, [0, 8, 64])
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
