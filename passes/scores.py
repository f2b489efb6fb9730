"""Attention scores: products that were scaled, capped and masked before a softmax."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphopt.dims import equal
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    And,
    Cast,
    Concat,
    Constant,
    Div,
    Equal,
    Expand,
    Flatten,
    Gather,
    IsNaN,
    MatMul,
    Mul,
    Neg,
    Not,
    Reshape,
    Slice,
    Softmax,
    Squeeze,
    Sub,
    Tanh,
    Transpose,
    Unsqueeze,
    Where,
)
from graphopt.ops.bodies import scalar
from graphopt.rewrite import Scene
from graphopt.types import DType

from .bounds import largest
from .causal import sees_a_key
from .match import READ_LIMIT, axis_of, is_zero, same_shape, uniform
from .raise_gelu import plus
from .triangles import triangle_of
from .zero_one import chosen_by, is_zero_one

HIDING = -1e30
"""Numbers at most this hide a score: added to one, even in float64, they stay."""


@dataclass(frozen=True)
class Scores:
    """``softcap(scale * product) + masks``; bool masks hide where they are False.

    ``chosen`` marks those of which one stands in the stead of scores, by a number that
    is too near to them to be added: they are no sum yet.
    """

    product: MatMul
    scale: float = 1.0
    softcap: float = 0.0
    masks: tuple[Value, ...] = ()
    chosen: bool = False

    def above(self, number: float) -> bool:
        """True where the exponential of ``number``, beside that of any score, is 0."""
        if number <= HIDING:
            return True
        bound = self.softcap or abs(self.scale) * largest(self.product)
        return number < -1000 - 4 * bound  # twice of what is exact, for rounding

    def settled(self) -> Scores | None:
        """These, with a condition for their only mask where it hides for certain.

        That is where each query sees some key, beside whose score the others are
        nothing. None for a choice that may count.
        """
        if len(self.masks) == 1:
            found = _condition(self.masks[0])
            if found is not None and sees_a_key(found[0]) and self.above(found[1]):
                return replace(self, masks=(found[0],), chosen=False)
        return None if self.chosen else self


def read_scores(value: Value, scene: Scene) -> Scores | None:
    """How scores come from one product; None where they do not, or are read twice."""
    if not scene.single(value):
        return None
    unmerged = same_rows(value)
    if unmerged is not None:
        return read_scores(unmerged, scene)
    for x, mask, chosen in _masked(value):
        inner = read_scores(x, scene)
        if inner is not None:
            masks = (*inner.masks, mask)
            return replace(inner, masks=masks, chosen=inner.chosen or chosen)
    outer = scaled_by(value)
    if outer is not None and isinstance(outer[0], Tanh) and scene.single(outer[0]):
        inner = _scaled(outer[0].operands[0], scene)
        cap = outer[1]
        return inner and replace(inner, scale=inner.scale * cap, softcap=abs(cap))
    return _scaled(value, scene)


def _scaled(value: Value | None, scene: Scene) -> Scores | None:
    scale = 1.0
    while value is not None and scene.single(value):
        if isinstance(value, MatMul):
            return Scores(value, scale)
        found = scaled_by(value)
        if found is None:
            return None
        value, scale = found[0], scale * found[1]
    return None


def same_rows(value: Value) -> Value | None:
    """What a reshape only merges or splits the leading dims of."""
    if not isinstance(value, Reshape | Squeeze | Unsqueeze | Flatten):
        return None
    x = value.operands[0]
    if x is None or x.shape is None or value.shape is None:
        return None
    if len(x.shape) < 2 or len(value.shape) < 2:
        return None
    return x if all(map(equal, x.shape[-2:], value.shape[-2:])) else None


def scaled_by(value: Value) -> tuple[Value, float] | None:
    """x and c, where ``value`` is c * x, or x / (1 / c), for a number c."""
    if isinstance(value, Mul):
        pairs = [value.operands, value.operands[::-1]]
    else:
        pairs = [value.operands] if isinstance(value, Div) else []
    for x, number in pairs:
        factor = uniform(number)
        if factor and x is not None and same_shape(x, value):
            return x, 1 / float(factor) if isinstance(value, Div) else float(factor)
    return None


def unscaled(value: Value) -> tuple[Value, float]:
    """x and c, where ``value`` is c * x."""
    scale = 1.0
    while (found := scaled_by(value)) is not None:
        value, scale = found[0], scale * found[1]
    return value, scale


def _masked(value: Value) -> Iterator[tuple[Value, Value, bool]]:
    """x and a mask whose sum, or choice, ``value`` is; True where it is no sum."""
    if isinstance(value, Where):
        condition, *branches = value.operands
        for x, number in (branches, branches[::-1]):
            hidden = uniform(number)
            if hidden is None or not hidden < 0 or condition is None or x is None:
                continue
            if not same_shape(x, value) or x.dtype is None:
                continue
            seen = condition if x is branches[0] else _negated(condition)
            if hidden != -math.inf:
                seen = Where(seen, scalar(0, x.dtype), number)
            yield x, seen, hidden > HIDING
    for x, mask in _switched(value):
        yield x, mask, True
    for x, mask in plus(value):
        if same_shape(x, value):
            yield x, mask, False


def _switched(value: Value) -> Iterator[tuple[Value, Value]]:
    """x and a mask of 0 and -c, where ``value`` is x * m - c * (1 - m).

    As m is 0 or 1, that is x or -c, for any x that is a number.
    """
    if not isinstance(value, Add | Sub):
        return
    sides = [value.operands]
    if isinstance(value, Add):
        sides.append(value.operands[::-1])
    for product, rest in sides:
        if not isinstance(product, Mul):
            continue
        for x, switch in (product.operands, product.operands[::-1]):
            if x is None or switch is None or x.dtype is None:
                continue
            if not same_shape(x, value) or not is_zero_one(switch):
                continue
            found = chosen_by(rest, switch)
            if found is None or found[1] != 0:
                continue
            hidden = -float(found[0]) if isinstance(value, Sub) else float(found[0])
            if HIDING < hidden < 0:
                none, number = (scalar(n, x.dtype) for n in (0, hidden))
                yield x, Where(_is_one(switch), none, number)


def _is_one(switch: Value) -> Value:
    """The condition that a value of 0 and 1 is a number for."""
    tensor = switch.constant
    if tensor is not None:
        return Constant(tensor.array() == 1)
    x = switch.operands[0] if isinstance(switch, Cast) else None
    if x is not None and x.dtype is DType.BOOL:
        return x
    assert switch.dtype is not None
    return Equal(switch, scalar(1, switch.dtype))


def joined_mask(masks: Sequence[Value], dtype: DType) -> Value | None:
    """One mask for all of them; None for nothing to hide or add."""
    seen: Value | None = None
    added: Value | None = None
    for mask in (part for whole in masks for part in _addends(whole)):
        condition, hidden = mask, -math.inf
        if mask.dtype is not DType.BOOL:
            condition, hidden = _condition(mask) or (mask, 0.0)
        if hidden == -math.inf:
            seen = condition if seen is None else And(seen, condition)
        elif not is_zero(mask):
            added = mask if added is None else Add(added, mask)
    if seen is None or added is None:
        return added if seen is None else seen
    return Where(seen, added, scalar(-math.inf, dtype))


def _addends(mask: Value) -> Iterator[Value]:
    """A mask, or both sides of its sum where one of them hides for certain."""
    if isinstance(mask, Add):
        sides = [side for side in mask.operands if side is not None]
        found = [_condition(side) for side in sides if side.rank]
        if any(each is not None and each[1] == -math.inf for each in found):
            for side in sides:
                yield from _addends(side)
            return
    yield mask


def _condition(mask: Value) -> tuple[Value, float] | None:
    """The condition and the number of a mask that is 0 where it holds, else that.

    Of a constant with several numbers, it is the one that is nearest to 0.
    """
    if mask.constant is not None:
        if mask.constant.size > READ_LIMIT**2:
            return None
        array = mask.constant.array()
        seen = array == 0
        if seen.all() or not (array <= 0).all():
            return None
        return Constant(seen), float(array[~seen].max())
    if not isinstance(mask, Where):
        return _triangle(mask)
    condition, none, hidden = mask.operands
    if condition is None or condition.rank != mask.rank:
        return _triangle(mask)
    for one, other, holds in ((none, hidden, True), (hidden, none, False)):
        number = uniform(other)
        if is_zero(one) and number is not None:
            return condition if holds else _negated(condition), float(number)
    return _triangle(mask)


def _triangle(mask: Value) -> tuple[Value, float] | None:
    """The same of what hides later keys, and is made by no choice."""
    found = None if mask.dtype is None else triangle_of(mask)
    if found is None or found.diagonal != 0 or found.inside or not found.outside < 0:
        return None
    zero = np.zeros((), found.inside.dtype)
    return Equal(mask, Constant(zero)), float(found.outside)


def _negated(condition: Value) -> Value:
    tensor = condition.constant
    if tensor is None or tensor.size > READ_LIMIT**2:
        return Not(condition)
    return Constant(~tensor.array())


def softmax_of(weights: Value, scene: Scene) -> Softmax | None:
    """The softmax over keys, also where NaN, of a query without keys, become 0."""
    uses = 1
    if isinstance(weights, Where):
        test, zero, weights_ = weights.operands
        if not isinstance(test, IsNaN) or not is_zero(zero) or weights_ is None:
            return None
        if test.operands[0] is not weights_ or not scene.single(weights):
            return None
        weights, uses = weights_, 2
    if uses == 1 and scene.single(weights):
        weights = same_rows(weights) or weights
    if not isinstance(weights, Softmax) or scene.uses(weights) > uses:
        return None
    rank = weights.rank
    if rank is None or axis_of(weights.axis, rank) != rank - 1:
        return None
    return weights


MASK_OPS = (
    *(Add, Sub, Mul, Neg, Where, Expand, Reshape, Squeeze, Unsqueeze, Transpose),
    *(Slice, Gather, Concat),
)
"""What masks are made by; of finite operands, results are finite."""


HIDDEN = {DType.F32: (-1e31, -1e30), DType.F16: (-6.4e4, -6e4)}
"""Numbers below the first one become the second: both hide a score."""


def softened(mask: Value, depth: int = 12) -> Value:
    """The mask, made of constants that are not near the lowest number."""
    if mask.dtype not in HIDDEN or not depth:
        return mask
    tensor = mask.constant
    if tensor is not None:
        bound, instead = HIDDEN[mask.dtype]
        array = tensor.array()
        low = np.isfinite(array) & (array < bound)
        if not low.any():
            return mask
        return Constant(np.where(low, instead, array).astype(array.dtype))
    if not isinstance(mask, MASK_OPS) or mask.op is None:
        return mask
    operands = [v and softened(v, depth - 1) for v in mask.op.operands]
    if all(map(operator.is_, operands, mask.op.operands)):
        return mask
    return mask.op.with_operands(operands)
