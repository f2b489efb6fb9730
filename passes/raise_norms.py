"""Raise: layer and root-mean-square normalization from their arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.dims import at_least, equal
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Cast,
    Constant,
    Div,
    LayerNormalization,
    Mul,
    Reshape,
    RMSNormalization,
    Sub,
)
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import DType

from .match import axis_of, is_uniform, same_type
from .moments import (
    Reduced,
    Root,
    centred,
    mean,
    mean_square,
    quotients,
    root,
    sum_square,
    variance,
)

NARROW = (DType.F32, DType.F16, DType.BF16)
"""Both norms compute in float32 inside: they are no stand-in for double arithmetic."""

Norm = LayerNormalization | RMSNormalization


@dataclass(frozen=True)
class Normalized:
    """``x / sqrt(mean(x * x) + epsilon)``, of x or of x less its mean."""

    x: Value
    over: Reduced
    epsilon: float
    centred: bool

    @property
    def axis(self) -> int | None:
        """The first of the last axes, where it is over these."""
        return self.over.trailing


def normalized(op: Div | Mul) -> Normalized | None:
    """What a quotient by (or product with the inverse of) a root mean square says."""
    for top, divisor, found in quotients(op):
        made = _normalized(top, divisor, found)
        if made is not None:
            return made
    return None


def _normalized(top: Value, divisor: Value, found: Root) -> Normalized | None:
    if found.epsilon is None:
        return None
    over = mean_square(found.inner)
    middle = centred(top)
    if over is not None and over.x is top and over.is_kept(divisor):
        if middle is None:
            return Normalized(top, over, found.epsilon, centred=False)
        same = middle.axes == over.axes
        return Normalized(middle.x, over, found.epsilon, centred=True) if same else None
    over = variance(found.inner) if middle is not None else None
    if over is None or over != middle or not over.is_kept(divisor):
        return _stretched(top, divisor, found)
    return Normalized(over.x, over, found.epsilon, centred=True)


def _stretched(top: Value, divisor: Value, found: Root) -> Normalized | None:
    """A root that an epsilon of larger shape stretches: for a miss with that reason."""
    over = mean_square(found.inner)
    if over is None or over.x is not top or not over.is_kept(found.inner):
        return None
    middle = centred(top)
    x = top if middle is None else middle.x
    return Normalized(x, over, found.epsilon or 0.0, centred=middle is not None)


def weighed(op: Mul, scene: Scene) -> Iterator[tuple[Normalized, Value]]:
    """Norms, and what they are multiplied by, in all three orders of the factors."""
    for a, b in (op.operands, op.operands[::-1]):
        if a is None or b is None:
            continue
        if isinstance(a, Div | Mul) and scene.single(a):
            found = normalized(a)
            if found is not None:
                yield found, b
        if not isinstance(b, Mul):
            continue
        for c, gain in (b.operands, b.operands[::-1]):
            if c is None or gain is None or c is gain:
                continue
            inside, outside = root(c), root(a)
            if inside is not None and inside.inverse:  # a * (inverse * gain)
                found = _normalized(a, c, inside)
                if found is not None:
                    yield found, gain
            if outside is not None and outside.inverse:  # (c * gain) * inverse
                found = _normalized(c, a, outside)
                if found is not None:
                    yield found, gain


def fits(gain: Value, x: Value, axis: int) -> bool:
    """The gain has just the dims that are normalized, or broadcasts into them.

    None of these may be zero: there is no norm of nothing.
    """
    if gain.shape is None or x.shape is None or len(gain.shape) > -axis:
        return False
    if not all(at_least(d, 1) for d in x.shape[axis:]):
        return False
    tail = x.shape[len(x.shape) - len(gain.shape) :]
    return all(d == 1 or equal(d, e) for d, e in zip(gain.shape, tail, strict=True))


def filled(x: Value, axis: int, number: float = 1.0) -> Constant | None:
    """A gain that is one number, where the normalized dims are known."""
    last = (x.shape or ())[axis:]
    if x.dtype is None or not all(isinstance(dim, int) and dim for dim in last):
        return None
    return Constant(np.full(last, number, x.dtype.numpy))


def _weighed_norm(op: Mul, scene: Scene, kind: type[Norm]) -> Outcome:
    if not scene.has(kind):
        return None
    for found, gain in weighed(op, scene):
        x, axis = found.x, found.axis
        if found.centred != (kind is LayerNormalization) or axis is None:
            continue
        if x.dtype not in NARROW or gain.dtype is not x.dtype or not same_type(op, x):
            return miss("it broadcasts x, or computes in double", x)
        if not fits(gain, x, axis):
            return miss("the gain does not fit the dims", gain)
        return kind(x, gain, axis=axis, epsilon=found.epsilon)
    return None


def _plain_norm(op: Div | Mul, scene: Scene, kind: type[Norm]) -> Outcome:
    if not scene.has(kind):
        return None
    found = normalized(op)
    if found is None or found.centred != (kind is LayerNormalization):
        return None
    x, axis = found.x, found.axis
    if axis is None:
        if found.over.axes == (1 - (x.rank or 0),):
            return miss("it is over channels, which are not the last axis", x)
        return None
    if x.dtype not in NARROW or not same_type(op, x):
        return miss("it broadcasts x, or computes in double", x)
    ones = filled(x, axis)
    if ones is None:
        return miss("the normalized dims are not known", x)
    return kind(x, ones, axis=axis, epsilon=found.epsilon)


@rule(exact=False)
def layer_norm(op: Mul, scene: Scene) -> Outcome:
    """(x - mean(x)) / sqrt(mean((x - mean(x))**2) + e) * g = layernorm(x, g)"""
    return _weighed_norm(op, scene, LayerNormalization)


@rule(exact=False)
def layer_norm_plain(op: Div | Mul, scene: Scene) -> Outcome:
    """(x - mean(x)) / sqrt(mean((x - mean(x))**2) + e) = layernorm(x, 1)"""
    return _plain_norm(op, scene, LayerNormalization)


@rule(exact=False)
def rms_norm(op: Mul, scene: Scene) -> Outcome:
    """x / sqrt(mean(x**2) + e) * g = rmsnorm(x, g)"""
    return _weighed_norm(op, scene, RMSNormalization)


@rule(exact=False)
def rms_norm_plain(op: Div | Mul, scene: Scene) -> Outcome:
    """x / sqrt(mean(x**2) + e) = rmsnorm(x, 1)"""
    return _plain_norm(op, scene, RMSNormalization)


@rule(exact=False)
def rms_norm_of_sum(op: Div | Mul, scene: Scene) -> Outcome:
    """x / sqrt(sum(x**2) + e) = rmsnorm(x, n**-0.5), of epsilon e / n"""
    if not scene.has(RMSNormalization):
        return None
    for x, divisor, found in quotients(op):
        over = sum_square(found.inner)
        if over is None or over.x is not x or found.epsilon is None:
            continue
        axis, count = over.trailing, over.count
        if axis is None or not count or not over.is_kept(divisor):
            return miss("it is not over the last axes, or these are not known", x)
        if x.dtype not in NARROW or not same_type(op, x):
            return miss("it broadcasts x, or computes in double", x)
        gain = filled(x, axis, count**-0.5)
        return RMSNormalization(x, gain, axis=axis, epsilon=found.epsilon / count)
    return None


# --- what follows a norm ------------------------------------------------------------


@rule(exact=False)
def layer_norm_gain(op: Mul, scene: Scene) -> Outcome:
    """layernorm(x, 1) * g = layernorm(x, g), and so of rmsnorm"""
    for norm, gain in (op.operands, op.operands[::-1]):
        if gain is None:
            continue
        if isinstance(norm, Reshape):
            made = _gain_after_reshape(norm, gain, scene)
            if made is not None:
                return made
        if not isinstance(norm, Norm):
            continue
        x, ones = norm.operands[:2]
        if norm.operand(2) is not None or not scene.single(norm):
            return miss("it has a bias, or is read elsewhere too", norm)
        if not is_uniform(ones, 1) or x is None or x.rank is None:
            return miss("it has a gain", norm)
        if gain.dtype is not x.dtype:
            return miss("the gain is of another type", gain)
        if not fits(gain, x, axis_of(norm.axis, x.rank) - x.rank):
            return miss("the gain does not fit the dims", gain)
        return norm.with_operands([x, gain])
    return None


def _gain_after_reshape(value: Reshape, gain: Value, scene: Scene) -> Value | None:
    """A reshape that keeps the last dim, of a norm over that, with its gain."""
    norm = value.operands[0]
    if not isinstance(norm, Norm) or not scene.single(value) or not scene.single(norm):
        return None
    x, ones = norm.operands[:2]
    if norm.operand(2) is not None or not is_uniform(ones, 1) or x is None:
        return None
    if not x.shape or not value.shape or gain.rank != 1 or gain.dtype is not x.dtype:
        return None
    if axis_of(norm.axis, len(x.shape)) != len(x.shape) - 1:
        return None
    if not equal(x.shape[-1], value.shape[-1]) or not fits(gain, x, -1):
        return None
    return value.with_operands([norm.with_operands([x, gain]), value.operands[1]])


@rule(exact=False)
def layer_norm_bias(op: Add, scene: Scene) -> Outcome:
    """layernorm(x, g) + b = layernorm(x, g, b)"""
    for norm, bias in (op.operands, op.operands[::-1]):
        if not isinstance(norm, LayerNormalization) or bias is None:
            continue
        x = norm.operands[0]
        if norm.operand(2) is not None or not scene.single(norm):
            return miss("it has a bias, or is read elsewhere too", norm)
        if x is None or bias.constant is None or x.rank is None:
            return miss("the bias is no constant", bias)
        if not fits(bias, x, axis_of(norm.axis, x.rank) - x.rank):
            return miss("the bias does not fit the dims", bias)
        return norm.with_operands([x, norm.operands[1], bias])
    return None


@rule(exact=False)
def layer_norm_affine(op: Add | Sub, scene: Scene) -> Outcome:
    """x * k + (b - mean(x) * k) = layernorm(x, g, b), where k = g / sqrt(var(x) + e)"""
    if not scene.has(LayerNormalization):
        return None
    terms = list(_summands(op, scene))
    products = [(v, minus) for v, minus in terms if isinstance(v, Mul)]
    for high, minus in products:
        for low, other in products:
            if minus or not other or high is low:
                continue
            rest = [(v, sign) for v, sign in terms if v is not high and v is not low]
            if len(rest) > 1 or any(sign for _, sign in rest):
                continue
            made = _affine(high, low)
            if made is None:
                continue
            return Add(made, rest[0][0]) if rest else made
    return None


def _summands(op: Value, scene: Scene) -> Iterator[tuple[Value, bool]]:
    """The terms of a sum, and whether each is subtracted."""
    stack = [(op, False, True)]
    while stack:
        value, minus, first = stack.pop()
        if isinstance(value, Add | Sub) and (first or scene.single(value)):
            a, b = value.operands
            if a is not None and b is not None:
                stack.append((a, minus, False))
                stack.append((b, minus != isinstance(value, Sub), False))
        else:
            yield value, minus


def _affine(high: Mul, low: Mul) -> Value | None:
    """The norm that ``x * k - mean(x) * k`` is, with its gain."""
    for x, k in (high.operands, high.operands[::-1]):
        for middle, also in (low.operands, low.operands[::-1]):
            over = mean(middle)
            if k is not also or k is None or over is None or over.x is not x:
                continue
            for inverse, gain in _gained(k):
                found = root(inverse)
                if found is None or not found.inverse or found.epsilon is None:
                    continue
                if variance(found.inner) != over or not over.is_kept(inverse):
                    continue
                if x.dtype not in NARROW or over.trailing is None:
                    return None
                if not same_type(x, high):
                    return None
                gain = filled(x, over.trailing) if gain is None else gain
                if gain is None or not fits(gain, x, over.trailing):
                    return None
                return LayerNormalization(
                    x, gain, axis=over.trailing, epsilon=found.epsilon
                )
    return None


def _gained(k: Value) -> Iterator[tuple[Value, Value | None]]:
    """1 over a root, and the gain that it is multiplied by, if any."""
    yield k, None
    if isinstance(k, Mul):
        for inverse, gain in (k.operands, k.operands[::-1]):
            if inverse is not None and gain is not None:
                yield inverse, gain


@rule(exact=False)
def narrow_norm(op: Cast, scene: Scene) -> Outcome:
    """half(rmsnorm(single(x), g)) = rmsnorm(x, half(g)), computed in single inside"""
    norm = op.operands[0]
    if not isinstance(norm, Norm) or norm.dtype is not DType.F32:
        return None
    if op.dtype not in NARROW or op.dtype is DType.F32:
        return None
    wide, *weights = norm.operands
    x = wide.operands[0] if isinstance(wide, Cast) else None
    if x is None or x.dtype is not op.dtype or norm.stash_type != DType.F32.value:
        return None
    if not scene.single(norm):
        return miss("the norm is read elsewhere too", norm)
    narrow = [None if w is None else _narrowed(w, op.dtype) for w in weights]
    if any(w is None for w in narrow):
        return miss("the narrow type does not hold its gain or bias", norm)
    return norm.with_operands([x, *narrow])


def _narrowed(weight: Value, dtype: DType) -> Value | None:
    """A weight in a narrower type, which holds its very numbers."""
    if isinstance(weight, Cast) and weight.operands[0] is not None:
        inner = weight.operands[0]
        return inner if inner.dtype is dtype else None
    if weight.constant is None:
        return None
    array = weight.constant.array()
    with np.errstate(all="ignore"):
        narrow = array.astype(dtype.numpy)
    same = np.array_equal(narrow.astype(array.dtype), array)
    return Constant(narrow) if same else None


RULES: tuple[Rule, ...] = (
    layer_norm,
    layer_norm_plain,
    layer_norm_gain,
    layer_norm_bias,
    layer_norm_affine,
    rms_norm,
    rms_norm_plain,
    rms_norm_of_sum,
    narrow_norm,
)


@dataclass(frozen=True)
class RaiseNorms(RulePass):
    """Recognise LayerNormalization (opset 17) and RMSNormalization (opset 23).

    (x - mean(x)) / sqrt(var(x) + e) * g + b   -->   layernorm(x, g, b)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
