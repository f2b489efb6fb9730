"""Raise: layer and root-mean-square normalization from their arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Div,
    LayerNormalization,
    Mul,
    RMSNormalization,
    Sub,
    Transpose,
)
from graphopt.ops.bodies import cast
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import DType

from .match import perm_of, same_type, stretches_nothing
from .moments import (
    NARROW,
    Reduced,
    Root,
    centred,
    mean,
    mean_square,
    quotients,
    root,
    sum_square,
    uncast,
    variance,
)
from .norm_weights import (
    Norm,
    filled,
    fits,
    fitted,
    layer_norm_bias,
    layer_norm_gain,
    narrow_norm,
)


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
    if middle is None:
        if over is None or over.x is not uncast(top):
            return None
        if not _divides(divisor, over, top):
            return None
        return Normalized(top, over, found.epsilon, centred=False)
    over = variance(found.inner)
    if over is None or over != middle or not _divides(divisor, over, top):
        return None
    return Normalized(_whole(top, over), over, found.epsilon, centred=True)


def _divides(divisor: Value, over: Reduced, top: Value) -> bool:
    """The root keeps the dims that are reduced; or it stretches x, which is a miss."""
    return over.is_kept(divisor) or not stretches_nothing(divisor, top)


def _whole(top: Value, over: Reduced) -> Value:
    """x in the type of what it is less its mean."""
    inner = uncast(top)
    x = inner.op.operands[0] if inner.op is not None else None
    if x is None or top.dtype is None or x.dtype is not top.dtype:
        return cast(over.x, top.dtype or DType.F32)
    return x


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


def _weighed_norm(op: Mul, scene: Scene, kind: type[Norm]) -> Outcome:
    if not scene.has(kind):
        return None
    for found, gain in weighed(op, scene):
        x, axis = found.x, found.axis
        if found.centred != (kind is LayerNormalization) or axis is None:
            continue
        if x.dtype not in NARROW or gain.dtype is not x.dtype or not same_type(op, x):
            return miss("it broadcasts x, or computes in double", x)
        weight = fitted(gain, x, axis)
        if weight is None:
            return miss("the gain does not fit the dims", gain)
        return kind(x, weight, axis=axis, epsilon=found.epsilon)
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
def layer_norm_of_channels(op: Div | Mul, scene: Scene) -> Outcome:
    """layernorm of channels of transpose(y) = transpose(layernorm(y, 1))

    Where these are the last axis of y, and nothing else reads the transpose.
    """
    if not scene.has(LayerNormalization):
        return None
    found = normalized(op)
    rank = None if found is None else found.x.rank
    if found is None or not found.centred or rank is None or rank < 3:
        return None
    x = found.x
    if found.over.axes != (1 - rank,) or not isinstance(x, Transpose):
        return None
    y = x.operands[0]
    if perm_of(rank, x.perm) != (0, rank - 1, *range(1, rank - 1)):
        return None
    if y is None or scene.uses(x) > 2 or x.dtype not in NARROW or not same_type(op, x):
        return miss("the transpose is read elsewhere too, or it computes in double", x)
    ones = filled(y, -1)
    if ones is None:
        return miss("the normalized dims are not known", y)
    return x.with_operands(
        [LayerNormalization(y, ones, axis=-1, epsilon=found.epsilon)]
    )


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
        if over is None or over.x is not uncast(x) or found.epsilon is None:
            continue
        axis, count = over.trailing, over.count
        if axis is None or not count or not over.is_kept(divisor):
            return miss("it is not over the last axes, or these are not known", x)
        if x.dtype not in NARROW or not same_type(op, x):
            return miss("it broadcasts x, or computes in double", x)
        gain = filled(x, axis, count**-0.5)
        return RMSNormalization(x, gain, axis=axis, epsilon=found.epsilon / count)
    return None


# --- as one affine map -------------------------------------------------------------


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
            if k is not also or k is None or over is None or x is None:
                continue
            if over.x is not uncast(x):
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


RULES: tuple[Rule, ...] = (
    layer_norm,
    layer_norm_of_channels,
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
