"""Raise: rotary position embedding from the rotations that spell it.

`rotations` finds them; here the cosines and sines are put where the op reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.dims import Dim, equal, mul
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Concat,
    Expand,
    Gather,
    Mul,
    Reshape,
    RotaryEmbedding,
    Shape,
    Slice,
    Split,
    Squeeze,
    Sub,
    Unsqueeze,
)
from graphopt.ops.bodies import vector
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import DType

from .last_axis import last_dim, same_leads, source_of
from .match import axis_of, same_shape
from .rotations import Rotation, rotation, run_of, signed

_FLOATS = (DType.F32, DType.F16, DType.BF16)

# --- where the tables go ------------------------------------------------------------


@dataclass(frozen=True)
class Placed:
    """Cosines and sines as ``[batch, position, half]``; heads are axis 1, 2 or none."""

    cosine: Value
    sine: Value
    heads: int | None


def placed(x: Value, cosine: Value, sine: Value) -> Placed | None:
    """The tables as the op reads them; None where they vary by head."""
    shape = x.shape
    if shape is None:
        return None
    for heads in (1, 2) if len(shape) == 4 else (None,):
        dims = [dim for i, dim in enumerate(shape) if i != heads]
        made = [_without_heads(table, len(shape), heads) for table in (cosine, sine)]
        if made[0] is None or made[1] is None:
            continue
        if all(_leads(table, dims) for table in made if table is not None):
            return Placed(made[0], made[1], heads)
    return None


def _leads(table: Value, dims: Sequence[Dim]) -> bool:
    """The table has the positions of x and half its size, its batch or one for all."""
    if table.shape is None or len(table.shape) != 3:
        return False
    batch, position, half = table.shape
    if not equal(position, dims[1]) or not equal(mul(half, 2), dims[2]):
        return False
    return batch == 1 or equal(batch, dims[0])


def _without_heads(table: Value, rank: int, heads: int | None) -> Value | None:
    """A table that broadcasts to x, of ``rank`` dims, as one of three dims."""
    if table.shape is None or not table.shape or len(table.shape) > rank:
        return None
    missing = rank - len(table.shape)
    if heads is not None:
        at = heads - missing
        if at < 0:
            missing -= 1
        elif table.shape[at] != 1:
            return None
        else:
            table = _squeezed(table, at)
    return Unsqueeze(table, vector(*range(missing))) if missing > 0 else table


def _squeezed(table: Value, axis: int) -> Value:
    if isinstance(table, Unsqueeze) and table.rank is not None:
        axes = table.operands[1]
        known = None if axes is None else axes.ints
        if known is not None and [axis_of(a, table.rank) for a in known] == [axis]:
            assert table.operands[0] is not None
            return table.operands[0]
    return Squeeze(table, vector(axis))


def looked_up(cosine: Value, sine: Value, x: Value, heads: int | None) -> list[Value]:
    """Tables and positions, where both tables are looked up at positions of x."""
    if not isinstance(cosine, Gather) or not isinstance(sine, Gather):
        return [cosine, sine]
    (c, where), (s, also) = cosine.operands, sine.operands
    if where is not also or where is None or c is None or s is None or x.shape is None:
        return [cosine, sine]
    if c.rank != 2 or s.rank != 2 or cosine.axis != 0 or sine.axis != 0:
        return [cosine, sine]
    dims = [dim for i, dim in enumerate(x.shape[:-1]) if i != heads]
    if where.dtype is not DType.I64 or where.shape is None:
        return [cosine, sine]
    if len(where.shape) != 2 or not all(map(equal, where.shape, dims)):
        return [cosine, sine]
    return [c, s, where]


def _embedded(found: Rotation, scene: Scene) -> Outcome:
    """The op for a rotation."""
    x = found.x
    tables = found.cosine, found.sine
    if x.dtype not in _FLOATS or any(t.value.dtype is not x.dtype for t in tables):
        return miss("it computes in a type that the op does not", x)
    if x.rank not in {3, 4}:
        return miss("what is turned is not of rank 3 or 4", x)
    where = placed(x, *(t.value for t in tables))
    if where is None:
        return miss("cosines and sines do not go with batches and positions", x)
    cosine, sine = found.cosine.written(where.cosine), found.sine.written(where.sine)
    operands = looked_up(cosine, sine, x, where.heads)
    interleaved = int(found.interleaved)
    if where.heads == 1:
        return RotaryEmbedding(x, *operands, interleaved=interleaved)
    assert x.shape is not None
    count, size = (x.shape[2] if where.heads else 1), x.shape[-1]
    if not isinstance(count, int) or not isinstance(size, int):
        return miss("the number of heads is not known", x)
    if where.heads is None:
        return RotaryEmbedding(x, *operands, interleaved=interleaved, num_heads=1)
    flat = Reshape(x, vector(0, 0, count * size))
    made = RotaryEmbedding(flat, *operands, interleaved=interleaved, num_heads=count)
    return Reshape(made, vector(0, 0, count, size))


@rule(exact=False)
def rotary(op: Add | Sub, scene: Scene) -> Outcome:
    """x * c + concat(-second(x), first(x)) * s = rotary(x, c, s)

    Where both halves of c, and of s, are equal.
    """
    if not scene.has(RotaryEmbedding) or op.rank not in {3, 4}:
        return None
    if not all(isinstance(signed(v).value, Mul) for v in op.operands if v is not None):
        return None
    found = rotation(op)
    return None if found is None else _embedded(found, scene)


@rule(exact=False)
def rotary_halves(op: Concat, scene: Scene) -> Outcome:
    """concat(c * a - s * b, c * b + s * a, ...) = concat(rotary(concat(a, b)), ...)"""
    if not scene.has(RotaryEmbedding) or op.rank not in {3, 4}:
        return None
    if axis_of(op.axis, op.rank or 0) != (op.rank or 0) - 1 or len(op.operands) < 2:
        return None
    halves, rest = op.operands[:2], op.operands[2:]
    if not all(isinstance(v, Add | Sub) for v in halves):
        return None
    found = rotation(Concat(*halves, axis=-1))
    made = None if found is None else _embedded(found, scene)
    return Concat(made, *rest, axis=-1) if rest and isinstance(made, Value) else made


@rule(exact=False)
def rotary_pairs(op: Reshape, scene: Scene) -> Outcome:
    """flat(stack(c * a - s * b, c * b + s * a)) = rotary(flat(stack(a, b)))"""
    stack = op.operands[0]
    if not scene.has(RotaryEmbedding) or op.rank not in {3, 4}:
        return None
    if not isinstance(stack, Concat) or stack.rank != (op.rank or 0) + 1:
        return None
    if last_dim(stack) != 2 or not all(map(_is_sum, stack.operands)):
        return None
    found = rotation(op)
    return None if found is None else _embedded(found, scene)


def _is_sum(value: Value | None) -> bool:
    while isinstance(value, Unsqueeze | Reshape):
        value = value.operands[0]
    return isinstance(value, Add | Sub)


# --- a part of each head ------------------------------------------------------------


@rule
def rotary_part(op: Concat) -> Outcome:
    """concat(rotary(first(x)), rest(x)) = rotary(x), of its first elements"""
    if op.rank not in {3, 4} or axis_of(op.axis, op.rank or 0) != (op.rank or 0) - 1:
        return None
    head, *tail = op.operands
    found = None if head is None else _unpacked(head)
    if found is None or len(tail) != 1 or tail[0] is None:
        return None
    size, rest = last_dim(op), last_dim(tail[0])
    if size is None or rest is None:
        return None
    embedding, part = found
    (source, start), (other, after) = source_of(part), source_of(tail[0])
    turned = size - rest
    if source is not other or after != start + turned or not same_leads(source, op):
        return miss("the rest is not of what is turned", tail[0])
    x = _wider(part, run_of(source, start, size, source), size)
    _, *operands = embedding.operands
    if embedding.rank == 4 or embedding is head:
        return embedding.copy(operands=(x, *operands), rotary_embedding_dim=turned)
    count = embedding.num_heads
    flat = Reshape(x, vector(0, 0, count * size))
    made = embedding.copy(operands=(flat, *operands), rotary_embedding_dim=turned)
    return Reshape(made, vector(0, 0, count, size))


def _wider(part: Value, x: Value, size: int) -> Value:
    """x as it is already there: what ``part`` was cut from."""
    wanted = source_of(x)
    while last_dim(part) != size or source_of(part) != wanted:
        op = part.op
        if not isinstance(op, Slice | Split) or op.operands[0] is None:
            return x
        part = op.operands[0]
    return part


def _unpacked(value: Value) -> tuple[RotaryEmbedding, Value] | None:
    """An embedding of whole heads, and the heads that it turns, shaped like value."""
    if isinstance(value, RotaryEmbedding):
        x = value.operands[0]
        plain = value.rank == 4 or value.num_heads == 1
        whole = not value.rotary_embedding_dim
        return (value, x) if x is not None and plain and whole else None
    if not isinstance(value, Reshape) or value.rank != 4:
        return None
    inner = value.operands[0]
    if not isinstance(inner, RotaryEmbedding) or inner.rotary_embedding_dim:
        return None
    flat = inner.operands[0]
    if inner.rank != 3 or not isinstance(flat, Reshape):
        return None
    x = flat.operands[0]
    return (inner, x) if x is not None and same_shape(x, value) else None


@rule
def rotary_batch(op: RotaryEmbedding) -> Outcome:
    """rotary(x, c, s) = rotary(x, expand(c), expand(s)), of as many batches as x

    ONNX does not let angles be broadcast; where they are looked up, their places.
    """
    x, *angles = op.operands
    looked_up = len(angles) > 2
    given = angles[2:] if looked_up else angles[:2]
    if x is None or x.shape is None or (not looked_up and given[0].rank == 2):  # type: ignore[union-attr]
        return None
    if not any(_is_one_for_many(value, x) for value in given):
        return None
    batch = x.shape[0]
    count = vector(batch) if isinstance(batch, int) else Shape(x, start=0, end=1)
    ones = vector(*[1] * (1 if looked_up else 2))
    target = Concat(count, ones, axis=0)
    wide = [None if value is None else Expand(value, target) for value in given]
    return op.with_operands([x, *(angles[:2] if looked_up else ()), *wide])


def _is_one_for_many(value: Value | None, x: Value) -> bool:
    """True for a value of one batch where x is of another number of them."""
    if value is None or not value.shape or not x.shape:
        return False
    return bool(value.shape[0] == 1) and not equal(x.shape[0], 1)


RULES: tuple[Rule, ...] = (
    rotary,
    rotary_halves,
    rotary_pairs,
    rotary_part,
    rotary_batch,
)


@dataclass(frozen=True)
class RaiseRotary(RulePass):
    """Recognise RotaryEmbedding (opset 23), of halves or of neighbours.

    x * cos + concat(-second(x), first(x)) * sin   -->   rotary(x, cos, sin)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
