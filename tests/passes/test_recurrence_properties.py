"""Recurrences, spelled out at random, become one op of ONNX Runtime's again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from equations import compare, const, feed, graph_of, ints, kinds, param, random
from hypothesis import given, strategies as st
from test_raise_properties import Speller, examples

import graphopt
from graphopt.ir import Graph, Value
from graphopt.ops import (
    Add,
    Concat,
    Conv,
    CumSum,
    Exp,
    Expand,
    Gather,
    Loop,
    MatMul,
    Mul,
    Pad,
    ReduceSum,
    Reshape,
    Scan,
    Slice,
    Split,
    Squeeze,
    Sub,
    Transpose,
    Trilu,
    Unsqueeze,
    Where,
)
from graphopt.types import DType

B, T, H, K, V = 2, 6, 2, 3, 4
MOVES = {"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Split", "Slice"}


def found(before: Sequence[Value], kind: str, around: set[str] | None = None) -> None:
    """One op of this kind is left, and beside it nothing that computes."""
    graph = graph_of(*before, opset=21)
    done = graphopt.optimize(graph, target="ort-cpu", fuse="max", check="off").graph
    counts = Counter(kinds(done))
    assert counts.pop(kind, 0) == 1, f"{graph}\nbecame\n{done}"
    assert set(counts) <= MOVES | (around or set()), f"{graph}\nbecame\n{done}"
    feeds = [feed(p, {}, special=False) / 4 for p in graph.inputs]
    compare(graph, done, feeds, exact=False)


# --- causal convolutions ------------------------------------------------------------


@pytest.mark.slow
@examples(25)
@given(st.data())
def test_a_causal_convolution(data: st.DataObject) -> None:
    w = Speller(data)
    channels, kernel, end = 3, w.pick(2, 4), 1 << 62
    back = kernel - 1
    x, weight, bias = param("x", B, channels, T), random(channels, 1, kernel), random(3)
    past = param("past", B, channels, back)
    zeros = Pad(x, ints(0, 0, back, 0, 0, 0))
    steps: Value = w.pick(zeros, Concat(past, x, axis=w.pick(2, -1)))
    y: Value = w.one(
        lambda: Conv(steps, weight, bias, group=channels),
        lambda: Conv(steps, weight, group=channels, pads=(0, 0)),
        lambda: w.add(Conv(steps, weight, group=channels), random(3, 1)),
    )
    y = w.mul(y, w.sigmoid(y))
    state = w.one(
        lambda: Slice(steps, ints(-back), ints(end), ints(w.pick(2, -1))),
        lambda: Slice(steps, ints(T), ints(T + back), ints(2)),
        lambda: Split(steps, ints(T, back), axis=2).results[1],
        lambda: Slice(x, ints(T - back), ints(T), ints(2)),
    )
    found(w.pick((y,), (y, state)), "CausalConvWithState")


# --- a step of linear attention -----------------------------------------------------


def one(x: Value, *axes: int) -> Value:
    return Unsqueeze(x, ints(*axes))


def read(w: Speller, row: Value, state: Value) -> Value:
    """``row @ state`` for each head."""
    return w.one(
        lambda: Squeeze(MatMul(one(row, 2), state), ints(2)),
        lambda: ReduceSum(w.mul(one(row, 3), state), ints(w.pick(2, -2)), keepdims=0),
    )


def stepped(w: Speller, p: dict[str, Value], rule: str) -> tuple[Value, Value]:
    """The state after a step, and what is read of it."""
    kept, value = p["s"], p["v"]
    if "gated" in rule:
        kept = w.mul(w.pick(Exp(one(p["g"], 3)), one(Exp(p["g"]), 3)), kept)
    if "delta" in rule:
        value = w.mul(Sub(value, read(w, p["k"], kept)), one(p["b"], 2))
    outer = w.one(
        lambda: w.mul(one(p["k"], 3), one(value, 2)),
        lambda: MatMul(one(p["k"], 3), one(value, 2)),
    )
    new = w.add(kept, outer)
    return new, read(w, p["q"], new)


@pytest.mark.slow
@examples(30)
@given(st.data())
def test_steps_of_linear_attention(data: st.DataObject) -> None:
    w = Speller(data)
    rule = w.pick("linear", "gated", "delta", "gated_delta")
    dims: dict[str, tuple[int, ...]] = {"q": (H, K), "k": (H, K), "v": (H, V)}
    dims |= {"g": (H, K)} if "gated" in rule else {}
    dims |= {"b": (H,)} if "delta" in rule else {}
    state = param("s", B, H, K, V)
    start, sources = (
        param("S", B, H, K, V),
        [param(n.upper(), B, T, *rest) for n, rest in dims.items()],
    )
    if w.pick(True, False):
        parts = {n: param(n, B, *rest) for n, rest in dims.items()}
        new, y = stepped(w, {**parts, "s": state}, rule)
        body = Graph([state, *parts.values()], [new, y])
        results = Scan(
            *(start, *sources),
            bodies=(body,),
            num_scan_inputs=len(dims),
            scan_input_axes=(1,) * len(dims),
            outs=2,
        ).results
    else:
        i, on = param("i", dtype=DType.I64), param("on", dtype=DType.BOOL)
        whole = {n: param(n, B, T, *rest) for n, rest in dims.items()}
        at = {n: gathered(w, x, i) for n, x in whole.items()}
        new, y = stepped(w, {**at, "s": state}, rule)
        body = Graph([i, on, state, *whole.values()], [on, new, y])
        turns = const(T, DType.I64)
        goes = w.pick(None, const(True, DType.BOOL))
        results = Loop(
            *(turns, goes, start, *sources),
            bodies=(body,),
            captures=len(dims),
            outs=2,
        ).results
    found(results, "LinearAttention")


def gathered(w: Speller, x: Value, i: Value) -> Value:
    after = w.add(i, const(1, DType.I64))
    return w.one(
        lambda: Gather(x, i, axis=1),
        lambda: Squeeze(Gather(x, one(i, 0), axis=1), ints(1)),
        lambda: Squeeze(Slice(x, one(i, 0), one(after, 0), ints(1)), ints(1)),
    )


# --- by chunks ----------------------------------------------------------------------


@pytest.mark.slow
@examples(20)
@given(st.data())
def test_linear_attention_by_chunks(data: st.DataObject) -> None:
    """The triangle, the products and the sums in several orders."""
    w = Speller(data)
    count, length = w.pick((2, 3), (3, 2))
    q, k = (param(n, B, H, T, K) for n in "qk")
    v, g = param("v", B, H, T, V), param("g", B, H, T)

    def split(x: Value) -> Value:
        return Reshape(x, ints(0, H, count, length, *(x.shape or ())[3:]))

    def turned(x: Value) -> Value:
        return Transpose(x, perm=(0, 1, 2, 4, 3))

    queries, keys, values, gates = map(split, (q, k, v, g))
    total = CumSum(gates, const(w.pick(-1, 3), DType.I64))
    row, column = one(total, 4), one(total, 3)
    seen = const(np.tri(length), DType.BOOL)
    decays = w.one(
        lambda: Exp(Where(seen, Sub(row, column), const(-np.inf))),
        lambda: Trilu(Exp(Sub(row, column)), upper=0),
        lambda: w.mul(Exp(Sub(row, column)), const(np.tri(length))),
    )
    scores = w.mul(MatMul(queries, turned(keys)), decays)
    within = MatMul(scores, values)
    last = Slice(total, ints(-1), ints(1 << 62), ints(3))
    tail = w.mul(one(Exp(Sub(last, total)), 4), keys)
    made = w.one(
        lambda: MatMul(turned(tail), values),
        lambda: turned(MatMul(turned(values), tail)),
    )
    fade, whole = w.mul(queries, Exp(row)), Exp(one(last, 4))
    state: Value = Expand(const(0.0), ints(B, H, K, V))
    states = []
    for i in range(count):
        at = const(i, DType.I64)
        states.append(one(state, 2))
        state = w.add(w.mul(state, Gather(whole, at, axis=2)), Gather(made, at, axis=2))
    between = MatMul(fade, Concat(*states, axis=2))
    y = Reshape(w.add(within, between), ints(0, H, T, V))
    found(w.pick((y,), (y, state)), "LinearAttention")


def test_what_is_drawn_is_checked() -> None:
    """A product of something else is not what is wanted."""
    x = param("x", B, 3, T)
    y = Conv(x, random(3, 1, 2), group=3, pads=(0, 1))
    with pytest.raises(AssertionError):
        found((Add(y, Mul(y, y)),), "CausalConvWithState")
