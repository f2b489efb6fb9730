"""Causal convolutions and their states, as one op."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equations import (
    M,
    N,
    assert_sound,
    const,
    fires,
    graph_of,
    ints,
    kinds,
    misses,
    param,
    random,
    rewritten,
)

import graphopt
from graphopt import ops
from graphopt.dims import symbol
from graphopt.exporter import to_proto
from graphopt.ir import Value
from graphopt.lowering.ort.pipeline import FUSIONS
from graphopt.lowering.ort.recurrences import FuseRecurrences
from graphopt.ops import (
    Concat,
    Conv,
    Mul,
    Pad,
    Relu,
    Sigmoid,
    Slice,
    Split,
    Swish,
    Transpose,
)
from graphopt.ops.contrib import CausalConvWithState as Contrib
from graphopt.passes.causal_convolutions import (
    activated_convolution,
    causal_convolution,
    rules,
    steps_first,
)
from graphopt.passes.raise_recurrences import RaiseRecurrences
from graphopt.reference import evaluate

OPSET, C, K = 27, 3, 4
T = symbol("t")
SIZES = ({"n": 2, "t": 5, "m": 2}, {"n": 1, "t": 1, "m": 1})
X, LONG = param("x", N, C, T), param("long", N, C, 6)
PAST = param("past", N, C, K - 1)
W, B = random(C, 1, K), random(C)
BEHIND, ACTIVATED = causal_convolution(Contrib), activated_convolution(Contrib)
RULES = rules(Contrib)
END = 1 << 62
WAYS: dict[str, Any] = {"opset": OPSET, "sizes": SIZES}


def joined(x: Value = X, past: Value = PAST, axis: int = 2) -> Concat:
    return Concat(past, x, axis=axis)


def conv(x: Value, w: Value = W, b: Value | None = B, **attrs: Any) -> Conv:
    return Conv(x, w, b, **{"group": C} | attrs)


def before(x: Value = X, **attrs: Any) -> Conv:
    """A convolution that sees zeros before x."""
    return conv(x, **{"pads": (K - 1, 0)} | attrs)


def silu(y: Value) -> Value:
    return Mul(y, Sigmoid(y))


def end(x: Value, count: int = K - 1, **more: int) -> Slice:
    """The last steps."""
    start, axis = more.get("start", -count), more.get("axis", 2)
    last, step = more.get("last", END), more.get("step", 1)
    return Slice(x, ints(start), ints(last), ints(axis), ints(step))


def made(x: Value = X, past: Value | None = PAST, **attrs: Any) -> Contrib:
    return Contrib(x, W, B, past, outs=2, **attrs)


# --- a past -------------------------------------------------------------------------


def test_one_channel() -> None:
    x, past, w = param("x", N, 1, T), param("p", N, 1, 3), random(1, 1, K)
    after = Contrib(x, w, None, past, outs=2).results[0]
    fires(BEHIND, conv(joined(x, past), w, None, group=1), after, **WAYS)


@pytest.mark.parametrize("axis", [2, -1])
def test_a_past_that_is_put_before(axis: int) -> None:
    after = made().results
    x = joined(axis=axis)
    fires(BEHIND, conv(x), after[0], **WAYS)
    fires(BEHIND, (conv(x), end(x)), after, **WAYS)
    fires(BEHIND, (conv(x), end(x, axis=-1)), after, **WAYS)
    pads: dict[str, Any] = {"pads": (0, 0), "strides": (1,), "dilations": (1,)}
    fires(BEHIND, conv(x, **pads), after[0], **WAYS)
    fires(BEHIND, conv(x, auto_pad="VALID"), after[0], **WAYS)


def test_ends_of_steps_that_are_counted() -> None:
    x = joined(LONG)
    after = made(LONG).results
    fires(BEHIND, (conv(x), end(x, start=6)), after, opset=OPSET)
    fires(BEHIND, (conv(x), end(LONG)), after, opset=OPSET)
    parts = Split(x, ints(6, K - 1), axis=2, outs=2).results
    fires(BEHIND, (conv(x), parts[1]), after, opset=OPSET)
    parts = Split(x, ints(2, 4, K - 1), axis=2, outs=3).results
    fires(BEHIND, (conv(x), parts[2]), after, opset=OPSET)
    for other in (
        end(x, start=5),
        end(x, start=-3, last=-1),
        end(x, 2),
        end(x, start=-1, last=-4, step=-1),
        Slice(x, ints(0, -3), ints(1, END), ints(1, 2)),
        Split(x, ints(5, 4), axis=-1, outs=2).results[1],
        Slice(x, ints(-3), ints(END), ints(1)),
        Split(x, ints(0, 3), axis=1, outs=2).results[1],
    ):
        kept = rewritten(BEHIND, (silu(conv(x)), other, end(x)), opset=OPSET)
        assert kept.outputs[1] is other
        misses(BEHIND, (conv(x), other), "as many ops", opset=OPSET)


def test_what_is_no_convolution_behind_a_past() -> None:
    def stays(y: Value, reason: str = "") -> None:
        misses(BEHIND, y, reason, opset=OPSET)

    stays(conv(joined(past=param("past", N, C, K))), "not as long as")
    stays(conv(joined(past=param("past", N, C, M))), "not as long as")
    three = Concat(PAST, LONG, LONG, axis=2)
    stays(conv(three), "a past and new steps")
    stays(conv(X), "too few before")
    stays(conv(joined(), pads=(0, 1)), "too few before")
    stays(conv(joined(), pads=(1, 0)), "too few before")
    wide = Concat(param("a", N, 1, T), param("b", N, 2, T), axis=1)
    stays(conv(wide), "too few before")
    stays(conv(joined(), strides=(2,)), "leaves out steps")
    stays(conv(joined(), auto_pad="SAME_UPPER"), "by its own rule")
    stays(conv(joined(), random(2 * C, 1, K), None))  # two results of each channel
    stays(conv(joined(), random(C, C, K), group=1))
    square = joined(param("s", N, C, T, 5), param("p", N, C, K - 1, 5))
    stays(Conv(square, random(C, 1, K, 1), group=C))
    x = joined()
    misses(BEHIND, (conv(x), Relu(x)), "as many ops", opset=OPSET)


def test_steps_that_are_left_out() -> None:
    """ONNX's own op has none of that."""
    x = joined(past=param("past", N, C, 2 * (K - 1)))
    y, state = conv(x, dilations=(2,)), end(x, 2 * (K - 1))
    after = Contrib(X, W, B, x.operands[0], dilation=2, outs=2)
    fires(BEHIND, (y, state), after.results, **WAYS)
    own = causal_convolution(ops.CausalConvWithState)
    misses(own, (y, state), "leaves out steps", opset=OPSET)
    x = joined()
    misses(BEHIND, conv(x, dilations=(2,)), "not as long as", opset=OPSET)


# --- an activation ------------------------------------------------------------------


@pytest.mark.parametrize("activate", [silu, Swish, lambda y: Mul(Sigmoid(y), y)])
def test_an_activation_is_taken_in(activate: Any) -> None:
    y, state = made(activation="silu").results
    x = joined()
    done = rewritten(RULES, (activate(conv(x)), end(x)), **WAYS)
    assert done.outputs == (y, state)
    alone = made(past=None, activation="silu").results[0]
    fires(ACTIVATED, activate(before()), alone, **WAYS)


def test_other_activations() -> None:
    y = before()
    misses(ACTIVATED, y, opset=OPSET)
    misses(ACTIVATED, Swish(y, alpha=2.0), opset=OPSET)
    misses(ACTIVATED, Mul(y, Sigmoid(Relu(y))), opset=OPSET)
    misses(ACTIVATED, Mul(Relu(y), Sigmoid(y)), opset=OPSET)
    misses(ACTIVATED, (silu(y), Relu(y)), opset=OPSET)
    misses(ACTIVATED, (Swish(y), Relu(y)), opset=OPSET)
    misses(ACTIVATED, (silu(y), Sigmoid(y)), opset=OPSET)
    misses(ACTIVATED, Mul(y, y), opset=OPSET)
    misses(ACTIVATED, silu(X), opset=OPSET)
    misses(ACTIVATED, silu(before(pads=(0, K - 1))), "steps to come", opset=OPSET)
    misses(ACTIVATED, silu(made(activation="silu").results[0]), opset=OPSET)
    misses(ACTIVATED, silu(made().results[1]), opset=OPSET)
    misses(BEHIND, before(), "as many ops", opset=OPSET)
    own = activated_convolution(ops.CausalConvWithState)
    misses(own, silu(before()), "no causal convolution", opset=26)


def test_states_behind_zeros() -> None:
    """Of what is padded, or of as many steps as a state has at least."""
    padded = Pad(LONG, ints(0, 0, K - 1, 0, 0, 0))
    after = made(LONG, None, activation="silu").results
    fires(ACTIVATED, (silu(before(LONG)), end(padded)), after, opset=OPSET)
    fires(ACTIVATED, (silu(before(LONG)), end(LONG)), after, opset=OPSET)
    zero = Pad(LONG, ints(3, 0), const(0.0), ints(2))
    fires(ACTIVATED, (silu(before(LONG)), end(zero)), after, opset=OPSET)
    fires(BEHIND, (before(LONG), end(LONG)), made(LONG, None).results, opset=OPSET)
    three = param("x", N, C, K - 1)
    fires(BEHIND, (before(three), end(three)), made(three, None).results, opset=OPSET)
    for other in (
        end(Pad(LONG, ints(0, 0, 2, 0, 0, 0))),
        end(Pad(LONG, ints(0, 0, 3, 0, 0, 1))),
        end(Pad(LONG, ints(1, 0, 3, 0, 0, 0))),
        end(Pad(LONG, ints(3, 0), const(1.0), ints(2))),
        end(Pad(LONG, ints(0, 0, 3, 0, 0, 0), mode="edge")),
        end(X),
    ):
        done = rewritten(ACTIVATED, (silu(before(LONG)), other), **WAYS)
        assert done.outputs[1] is other
    done = rewritten(ACTIVATED, (silu(before()), end(X)), **WAYS)  # may be fewer
    assert "Slice" in kinds(done)
    short = param("short", N, C, 2)  # whose state has zeros, too
    done = rewritten(ACTIVATED, (silu(before(short)), end(short, 3)), opset=OPSET)
    assert "Slice" in kinds(done)


# --- channels last ------------------------------------------------------------------


def turned(x: Value) -> Transpose:
    return Transpose(x, perm=(0, 2, 1))


def test_steps_come_first() -> None:
    x = param("x", N, T, C)
    y = turned(made(turned(x), None, activation="silu").results[0])
    after = made(x, None, activation="silu", channels_last=1).results[0]
    fires(steps_first, y, after, **WAYS)
    reason = "have to be transposed"
    misses(steps_first, turned(made(turned(x)).results[0]), reason, opset=OPSET)
    both = made(turned(x), None).results
    misses(steps_first, (turned(both[0]), both[1]), reason, opset=OPSET)
    misses(steps_first, (turned(both[0]), Relu(both[0])), reason, opset=OPSET)
    misses(steps_first, turned(both[1]), opset=OPSET)
    misses(steps_first, turned(made(X, None).results[0]), opset=OPSET)
    misses(steps_first, Transpose(both[0], perm=(2, 0, 1)), opset=OPSET)
    moved = made(Transpose(param("z", T, C, N), perm=(2, 1, 0)), None).results[0]
    misses(steps_first, turned(moved), opset=OPSET)
    last = made(x, None, channels_last=1)
    misses(steps_first, turned(last.results[0]), opset=OPSET)
    turned_last = Contrib(
        turned(param("z", N, C, T)), W, B, outs=2, channels_last=1
    ).results[0]
    misses(steps_first, turned(turned_last), opset=OPSET)


# --- passes -------------------------------------------------------------------------


def test_onnx_has_the_op_from_opset_27() -> None:
    x = joined()
    y, state = silu(conv(x)), end(x)
    graph = graph_of(y, state, opset=27)
    done = RaiseRecurrences(convolutions=True)(graph)
    assert kinds(done) == ["CausalConvWithState"]
    assert_sound(graph, done, exact=False, sizes=SIZES)
    assert RaiseRecurrences()(graph) is graph
    old = graph.with_header(opsets={"": 26})
    assert RaiseRecurrences(convolutions=True)(old) is old


@pytest.mark.parametrize("steps", [1, 8, 9])
def test_few_steps_are_fused_by_default(steps: int) -> None:
    x = joined(param("x", N, C, steps))
    graph = graph_of(silu(conv(x)), end(x), opset=23)
    done = graphopt.optimize(graph, target="ort-cpu").graph
    assert ("CausalConvWithState" in kinds(done)) == (steps <= 8)
    most = graphopt.optimize(graph, target="ort-cpu", fuse="max").graph
    assert kinds(most) == ["CausalConvWithState"]


def test_onnx_ops_become_those_of_the_runtime() -> None:
    heads = {"q_num_heads": 2, "kv_num_heads": 2, "update_rule": "linear"}
    q = param("q", N, T, 6)
    attention = ops.LinearAttention(q, q, q, outs=2, scale=2.0, **heads)
    y = ops.CausalConvWithState(X, W, B, PAST, activation="silu", outs=2)
    graph = graph_of(*attention.results, *y.results, opset=27)
    for most in (False, True):
        done = FuseRecurrences(most=most)(graph)
        assert {op.domain for op in done.ops if op.outs == 2} == {"com.microsoft"}
        assert_sound(graph, done, exact=False, sizes=SIZES)
    assert FuseRecurrences in FUSIONS


@pytest.mark.parametrize("last", [False, True])
def test_the_runtime_computes_the_same(last: bool) -> None:
    runtime = pytest.importorskip("onnxruntime")
    long = param("long", N, 9, C) if last else LONG
    x = joined(long) if not last else None
    if x is None:
        graph = graph_of(turned(silu(before(turned(long)))), opset=21)
    else:
        graph = graph_of(silu(conv(x)), end(x), opset=21)
    done = FuseRecurrences(most=True)(graph)
    assert kinds(done) == ["CausalConvWithState"]
    rng = np.random.default_rng(0)
    feeds = [
        rng.normal(size=[2 if d is N else d for d in each.shape]).astype(np.float32)
        for each in done.inputs
    ]
    wanted = evaluate(graph, feeds, precision="float64")
    session = runtime.InferenceSession(
        to_proto(done).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_inputs()]
    found = session.run(None, dict(zip(names, feeds, strict=True)))
    for old, new in zip(wanted, found, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)
