"""Each high-level op, spelled out at random, is found again, alone, and means the same.

The default pipeline runs at opset 24. Spellings are drawn piece by piece from the op's
own arithmetic: which operand comes first, where a scale or a sign stands, what glues.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pytest
from equations import compare, const, feed, graph_of, ints, kinds, param, random
from hypothesis import HealthCheck, given, settings, strategies as st

from graphopt.driver import choose
from graphopt.ir import Value
from graphopt.ops import (
    Abs,
    Add,
    Cast,
    Clip,
    Concat,
    Cos,
    Div,
    Erf,
    Exp,
    Expand,
    Greater,
    GreaterOrEqual,
    InstanceNormalization,
    LessOrEqual,
    Log,
    MatMul,
    Max,
    Min,
    Mul,
    Neg,
    Not,
    Or,
    Pow,
    Range,
    Reciprocal,
    ReduceLogSumExp,
    ReduceMax,
    ReduceMean,
    ReduceSum,
    Relu,
    Reshape,
    Sigmoid,
    Sin,
    Slice,
    Softmax,
    Split,
    Sqrt,
    Sub,
    Tanh,
    Transpose,
    Unsqueeze,
    Where,
)
from graphopt.passes.raise_activations import RaiseActivations
from graphopt.types import DType
from graphopt.verify import verify

T = TypeVar("T")
PIPELINE = choose(target="xla-cpu")
B, H, S, D = 2, 2, 3, 4
MOVES = {"Reshape", "Transpose", "Unsqueeze", "Squeeze"}
"""What may stay around an op that was found."""


@dataclass
class Speller:
    """Ways to write an operation, drawn one by one."""

    data: st.DataObject

    def one(self, *ways: Callable[[], T]) -> T:
        """What one of these gives."""
        return self.data.draw(st.sampled_from(ways))()

    def pick(self, *values: T) -> T:
        return self.data.draw(st.sampled_from(values))

    def two(self, op: Any, a: Value, b: Value) -> Value:
        return self.one(lambda: op(a, b), lambda: op(b, a))

    def add(self, a: Value, b: Value) -> Value:
        return self.two(Add, a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self.two(Mul, a, b)

    def minus(self, x: Value) -> Value:
        return self.one(
            lambda: Neg(x), lambda: self.times(x, -1.0), lambda: Div(x, const(-1.0))
        )

    def times(self, x: Value, number: float) -> Value:
        """x times a number; where 1 over that is one too, also x over that."""
        if float(np.float32(1 / number)) * number == 1:
            return self.one(
                lambda: self.mul(x, const(number)), lambda: Div(x, const(1 / number))
            )
        return self.mul(x, const(number))

    def over(self, a: Value, b: Value) -> Value:
        return self.one(
            lambda: Div(a, b),
            lambda: self.mul(a, Reciprocal(b)),
            lambda: self.mul(Div(const(1.0), b), a),
        )

    def square(self, x: Value) -> Value:
        return self.one(lambda: Mul(x, x), lambda: Pow(x, const(2.0)))

    def root(self, x: Value) -> Value:
        return self.one(lambda: Sqrt(x), lambda: Pow(x, const(0.5)))

    def mean(self, x: Value, *axes: int) -> Value:
        count = float(np.prod([(x.shape or ())[axis] for axis in axes]))
        return self.one(
            lambda: ReduceMean(x, ints(*axes)),
            lambda: Div(ReduceSum(x, ints(*axes)), const(count)),
            lambda: Unsqueeze(ReduceMean(x, ints(*axes), keepdims=0), ints(*axes)),
        )

    def positive(self, x: Value) -> Value:
        return self.one(
            lambda: Relu(x),
            lambda: self.two(Max, x, const(0.0)),
            lambda: Clip(x, const(0.0)),
        )

    def between(self, x: Value, low: float, high: float) -> Value:
        return self.one(
            lambda: Clip(x, const(low), const(high)),
            lambda: self.two(Min, self.two(Max, x, const(low)), const(high)),
            lambda: self.two(Max, self.two(Min, x, const(high)), const(low)),
        )

    def softplus(self, x: Value) -> Value:
        direct = Log(self.add(Exp(x), const(1.0)))
        size = Exp(self.minus(Abs(x)))
        return self.one(
            lambda: direct,
            lambda: self.add(self.positive(x), Log(self.add(size, const(1.0)))),
            lambda: Where(Greater(x, const(20.0)), x, direct),
        )

    def sigmoid(self, x: Value) -> Value:
        return self.one(
            lambda: Sigmoid(x),
            lambda: self.over(const(1.0), self.add(const(1.0), Exp(self.minus(x)))),
        )

    def unit(self, x: Value, epsilon: float, *axes: int) -> tuple[Value, Value]:
        """x less its mean, and the root of its variance and epsilon."""
        first = self.mean(x, *axes)
        top = Sub(x, first)
        spread = self.one(
            lambda: self.mean(self.square(top), *axes),
            lambda: Sub(self.mean(self.square(x), *axes), self.square(first)),
        )
        return top, self.root(self.add(spread, const(epsilon)))


def found(
    before: Value, kind: str, *, around: Sequence[str] = (), tolerance: float = 0.0
) -> None:
    """The pipeline leaves one op of this kind, and beside it nothing that computes."""
    graph = graph_of(before, opset=24)
    done, _ = PIPELINE.run(graph)
    verify(done)
    counts = Counter(kinds(done))
    assert counts.pop(kind, 0) == 1, f"{graph}\nbecame\n{done}"
    assert set(counts) <= MOVES | set(around), f"{graph}\nbecame\n{done}"
    feeds = [feed(p, {}, special=False) for p in graph.inputs]
    if not tolerance:
        compare(graph, done, feeds, exact=False)
        return
    from graphopt.reference import evaluate

    old, new = (evaluate(g, feeds, precision="float64") for g in (graph, done))
    np.testing.assert_allclose(new[0], old[0], rtol=tolerance, atol=tolerance)


def examples(count: int) -> Any:
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


X = param("x", B, S, D)


# --- activations --------------------------------------------------------------------


@examples(15)
@given(st.data())
def test_gelu(data: st.DataObject) -> None:
    w = Speller(data)
    if w.pick(True, False):
        curve: Value = Erf(w.mul(X, const(0.5**0.5)))
    else:
        cube = w.one(lambda: Pow(X, const(3.0)), lambda: w.mul(X, w.mul(X, X)))
        inner = w.add(X, w.mul(cube, const(0.044715)))
        curve = Tanh(w.mul(inner, const((2 / np.pi) ** 0.5)))
    bracket = w.add(curve, const(1.0))
    spelled = w.one(
        lambda: w.times(w.mul(X, bracket), 0.5),
        lambda: w.mul(w.times(X, 0.5), bracket),
        lambda: w.mul(X, w.times(bracket, 0.5)),
    )
    found(spelled, "Gelu", tolerance=1e-6)  # constants have seven digits


@examples(12)
@given(st.data())
def test_swish(data: st.DataObject) -> None:
    w = Speller(data)
    alpha = w.pick(1.0, 1.702, 0.5)
    gate = w.sigmoid(X if alpha == 1 else w.times(X, alpha))
    found(w.mul(X, gate), "Swish")


@examples(12)
@given(st.data())
def test_hard_swish(data: st.DataObject) -> None:
    w = Speller(data)
    six = w.between(w.add(X, const(3.0)), 0.0, 6.0)
    spelled = w.one(
        lambda: Div(w.mul(X, six), const(6.0)),
        lambda: w.mul(X, Div(six, const(6.0))),
        lambda: w.mul(Div(X, const(6.0)), six),
        lambda: w.mul(w.mul(six, const(1 / 6)), X),
    )
    found(spelled, "HardSwish", tolerance=1e-6)  # so is the slope of the op


@examples(12)
@given(st.data())
def test_mish_and_softplus(data: st.DataObject) -> None:
    w = Speller(data)
    curve = w.softplus(X)
    found(curve, "Softplus")
    found(w.mul(X, Tanh(curve)), "Mish")


@examples(12)
@given(st.data())
def test_log_softmax(data: st.DataObject) -> None:
    w = Speller(data)
    axis = w.pick(-1, 1, 2)
    top = Sub(X, ReduceMax(X, ints(axis)))
    x = w.pick(X, top)
    power = Exp(x)
    total = ReduceSum(power, ints(axis))
    spelled = w.one(
        lambda: Log(Softmax(X, axis=axis)),
        lambda: Log(w.over(power, total)),
        lambda: Sub(x, Log(total)),
        lambda: Sub(x, ReduceLogSumExp(x, ints(axis))),
    )
    found(spelled, "LogSoftmax")


# --- norms --------------------------------------------------------------------------


@examples(20)
@given(st.data())
def test_layer_norm(data: st.DataObject) -> None:
    w = Speller(data)
    top, root = w.unit(X, 1e-3, -1)
    gain, bias = random(D), random(D, seed=1)
    spelled = w.one(
        lambda: w.mul(w.over(top, root), gain),
        lambda: w.mul(top, w.mul(Reciprocal(root), gain)),
        lambda: w.over(top, root),
    )
    if w.pick(True, False):
        spelled = w.add(spelled, bias)
    found(spelled, "LayerNormalization", around=["Add"])


@examples(15)
@given(st.data())
def test_rms_norm(data: st.DataObject) -> None:
    w = Speller(data)
    gain, more = random(D), const([0.5, 0.25, -0.5, 0.125])  # 1 more has no rounding
    root = w.root(w.add(w.mean(w.square(X), -1), const(1e-3)))
    spelled = w.one(
        lambda: w.mul(w.over(X, root), gain),
        lambda: w.mul(X, w.mul(Reciprocal(root), gain)),
        lambda: w.over(X, root),
        lambda: w.mul(w.over(X, root), Add(more, const(1.0))),
    )
    found(spelled, "RMSNormalization")


@examples(15)
@given(st.data())
def test_group_norm(data: st.DataObject) -> None:
    w = Speller(data)
    x = param("image", B, 4, 3, 5)
    gain, bias = random(4, 1, 1), random(4, 1, 1, seed=1)
    flat = Reshape(x, w.pick(ints(0, 2, -1), ints(B, 2, 30)))
    apart = Reshape(x, ints(0, 2, 2, 3, 5))
    one, zero = const(np.ones(2)), const(np.zeros(2))
    normal = w.one(
        lambda: InstanceNormalization(flat, one, zero, epsilon=1e-3),
        lambda: w.over(*w.unit(flat, 1e-3, -1)),
        lambda: w.over(*w.unit(apart, 1e-3, 2, 3, 4)),
    )
    back = Reshape(normal, w.pick(ints(0, 4, 3, 5), ints(B, 4, 3, -1)))
    spelled = w.add(w.mul(back, gain), bias)
    found(spelled, "GroupNormalization", tolerance=1e-7)  # epsilon as an attribute


# --- rotary embeddings --------------------------------------------------------------


def cut(x: Value, start: int, end: int, step: int = 1) -> Value:
    return Slice(x, ints(start), ints(end), ints(-1), ints(step))


@examples(25)
@given(st.data())
def test_rotary(data: st.DataObject) -> None:
    w = Speller(data)
    by_head = w.pick(True, False)
    x = param("q", *((B, H, S, D) if by_head else (B, S, H, D)))
    half = D // 2
    angles = Mul(
        Unsqueeze(Cast(param("ids", B, S, dtype=DType.I64), to=DType.F32), ints(-1)),
        const([1e-18, 1e-19]),
    )
    axis = ints(1 if by_head else 2)
    c, s = (Unsqueeze(f(angles), axis) for f in (Cos, Sin))
    neighbours = w.pick(True, False)
    if neighbours:
        a, b = cut(x, 0, D, 2), cut(x, 1, D, 2)
    else:
        a, b = w.one(
            lambda: (cut(x, 0, half), cut(x, half, D)),
            lambda: tuple(Split(x, axis=-1, num_outputs=2).results),
        )

    def glued(first: Value, second: Value) -> Value:
        if not neighbours:
            return Concat(first, second, axis=-1)
        both = (Unsqueeze(v, ints(-1)) for v in (first, second))
        return Reshape(Concat(*both, axis=-1), ints(0, 0, 0, D))

    def whole() -> Value:
        turned = glued(w.minus(b), a)
        return w.add(w.mul(x, glued(c, c)), w.mul(turned, glued(s, s)))

    def moved() -> Value:
        return w.add(w.mul(x, glued(c, c)), w.mul(glued(b, a), glued(w.minus(s), s)))

    def apart() -> Value:
        first = w.one(
            lambda: Sub(w.mul(a, c), w.mul(s, b)),
            lambda: w.add(w.mul(a, c), w.minus(w.mul(s, b))),
            lambda: w.add(w.mul(a, c), w.mul(s, w.minus(b))),
        )
        return glued(first, w.add(w.mul(b, c), w.mul(a, s)))

    spelled = w.one(whole, moved, apart)
    found(spelled, "RotaryEmbedding", around=["Cast", "Mul", "Cos", "Sin"])


# --- attention ----------------------------------------------------------------------


def split(w: Speller, x: Value, transposed: bool = False) -> Value:
    """``[batch, position, heads]`` by head; the last two dims exchanged, if wished."""
    apart = Reshape(x, w.pick(ints(0, 0, H, D), ints(B, S, H, -1)))
    if not transposed:
        return Transpose(apart, perm=(0, 2, 1, 3))
    return w.one(
        lambda: Transpose(apart, perm=(0, 2, 3, 1)),
        lambda: Transpose(Transpose(apart, perm=(0, 2, 1, 3)), perm=(0, 1, 3, 2)),
    )


def masked(w: Speller, scores: Value) -> Value:
    """Scores with a mask of one of the kinds that exporters write, or none."""
    own = const(np.eye(S), DType.BOOL)
    seen = Or(param("seen", B, 1, S, S, dtype=DType.BOOL), own)
    low = const(-np.inf)
    rows = Range(*(const(v, DType.I64) for v in (0, S, 1)))
    down, across = Unsqueeze(rows, ints(1)), Unsqueeze(rows, ints(0))
    earlier = w.one(
        lambda: const(np.tri(S), DType.BOOL),
        lambda: LessOrEqual(across, down),
        lambda: GreaterOrEqual(down, across),
        lambda: Not(Greater(across, down)),
    )
    return w.one(
        lambda: scores,
        lambda: w.add(scores, param("bias", B, 1, S, S)),
        lambda: Where(seen, scores, low),
        lambda: Where(Not(seen), low, scores),
        lambda: w.add(scores, Where(seen, const(0.0), low)),
        lambda: Where(Expand(earlier, ints(1, 1, S, S)), scores, low),
        lambda: w.add(scores, Where(earlier, const(0.0), low)),
    )


@examples(30)
@given(st.data())
def test_attention(data: st.DataObject) -> None:
    w = Speller(data)
    q, k, v = (param(name, B, S, H * D) for name in "qkv")
    left, right, values = split(w, q), split(w, k, True), split(w, v)
    number = w.pick(D**-0.5, 1.0, 0.25)
    scores = w.one(
        lambda: w.times(MatMul(left, right), number),
        lambda: MatMul(w.times(left, number), right),
        lambda: MatMul(left, w.times(right, number)),
        lambda: MatMul(split(w, w.times(q, number)), right),
    )
    weights = Softmax(masked(w, scores), axis=w.pick(-1, 3))
    together = Transpose(MatMul(weights, values), perm=(0, 2, 1, 3))
    spelled = Reshape(together, ints(0, 0, H * D))
    masks, scale_of_flat_queries = ["Or", "Not", "Where"], ["Mul", "Div"]
    found(spelled, "Attention", around=[*masks, *scale_of_flat_queries])


def test_what_is_drawn_is_checked() -> None:
    """An op that is not found, or another beside it, fails."""
    with pytest.raises(AssertionError):
        found(Mul(X, Tanh(X)), "Mish")
    with pytest.raises(AssertionError):
        found(Add(Mul(X, Sigmoid(X)), X), "Swish")
    assert RaiseActivations in {type(p) for p in PIPELINE.passes}
