"""Loops over slices, as scans; and linear attention that they spell."""

from __future__ import annotations

from typing import Any

import pytest
from equations import (
    M,
    N,
    assert_sound,
    const,
    graph_of,
    ints,
    kinds,
    misses,
    param,
    rewritten as made_by,
    typed,
)

from graphopt.dims import symbol
from graphopt.ir import Graph, Parameter, Value
from graphopt.ops import (
    Add,
    Cast,
    Constant,
    Exp,
    Gather,
    Less,
    LinearAttention,
    Loop,
    MatMul,
    Mul,
    Neg,
    Relu,
    Reshape,
    Scan,
    Shape,
    Slice,
    Squeeze,
    Sub,
    Transpose,
    Unsqueeze,
)
from graphopt.passes.loops import as_scan
from graphopt.passes.raise_recurrences import looped, scanned
from graphopt.types import DType, TensorType

OPSET = 27
T = symbol("t")
WAYS: dict[str, Any] = {"opset": OPSET, "sizes": ({"n": 2, "t": 3}, {"n": 1, "t": 1})}
X, STATE = param("x", N, T, 4), param("s0", N, 4)
TURNS = Gather(Shape(X), const(1, DType.I64), axis=0)
ONE = const(1, DType.I64)
GO = const(True, DType.BOOL)


def number() -> Parameter:
    return param("i", dtype=DType.I64)


def going() -> Parameter:
    return param("on", dtype=DType.BOOL)


def at(x: Value, *axes: int) -> Value:
    return Unsqueeze(x, ints(*axes))


def loop(
    read: Any,
    x: Value = X,
    turns: Value = TURNS,
    *,
    more: Any = lambda i, on: (),
    goes: Any = lambda i, on: on,
    captured: Value | None = None,
) -> Loop:
    """s = s + a slice of x, and -s for each turn."""
    i, on, s = number(), going(), param("s", N, 4)
    inner, w = Parameter(x.type, "x"), param("w", 4)
    new = Add(s, read(inner, i))
    inputs = [i, on, s, inner]
    operands = [turns, None, STATE, x]
    if captured is not None:
        new = Mul(new, w)
        inputs.append(w)
        operands.append(captured)
    body = Graph(inputs, [goes(i, on), new, Neg(new), *more(i, on)])
    outs = 2 + len(body.outputs) - 3
    return Loop(*operands, bodies=(body,), captures=len(operands) - 3, outs=outs)


def gathered(x: Value, i: Value) -> Value:
    return Gather(x, i, axis=1)


def same(before: Loop) -> Scan:
    scan = as_scan(before)
    assert isinstance(scan, Scan), scan
    graph = graph_of(*before.results, opset=OPSET)
    after = graph_of(*scan.results, opset=OPSET, inputs=graph.inputs)
    assert_sound(graph, after, exact=False, sizes=WAYS["sizes"])
    return scan


READS = {
    "gather": gathered,
    "from the end": lambda x, i: Gather(x, i, axis=-2),
    "kept": lambda x, i: Squeeze(Gather(x, at(i, 0), axis=1), ints(1)),
    "reshaped": lambda x, i: Squeeze(Gather(x, Reshape(i, ints(1)), axis=1), ints(1)),
    "slice": lambda x, i: Squeeze(
        Slice(x, at(i, 0), at(Add(i, ONE), 0), ints(1)), ints(1)
    ),
    "slice by one": lambda x, i: Squeeze(
        Slice(x, at(i, 0), Add(ints(1), at(i, 0)), ints(-2), ints(1)), ints(1)
    ),
    "twice": lambda x, i: Add(gathered(x, i), Relu(Gather(x, i, axis=-2))),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_slices_by_number(read: Any) -> None:
    scan = same(loop(read))
    assert scan.scan_input_axes == (1,)
    assert (scan.num_scan_inputs, scan.captures) == (1, 0)
    first = param("x", T, N, 4)
    turns = Gather(Shape(first), const(0, DType.I64), axis=0)
    assert same(loop(lambda x, i: Gather(x, i), first, turns)).scan_input_axes == (0,)


def test_what_is_captured_whole() -> None:
    scan = same(loop(gathered, captured=param("w", 4)))
    assert (scan.num_scan_inputs, scan.captures) == (1, 1)
    five = param("x", N, 5, 4)
    assert same(loop(gathered, five, const(5, DType.I64))).length() == 5


def test_loops_that_stay() -> None:
    def stays(before: Loop, reason: str) -> None:
        scan = as_scan(before)
        assert not isinstance(scan, Scan)
        assert reason in scan.reason

    def ended(i: Value, on: Value) -> Value:
        return Less(i, const(2, DType.I64))

    def counted(i: Value, on: Value) -> tuple[Value, ...]:
        return (Cast(i, to=DType.F32.value),)

    none = "no slices"
    stays(loop(gathered, goes=ended), "depends on data")
    stays(loop(gathered, turns=param("m", dtype=DType.I64)), "depends on data")
    none_of = Gather(Shape(param("y", M, 4)), const(0, DType.I64), axis=0)
    stays(loop(gathered, turns=none_of), "not all slices")
    stays(loop(gathered, param("x", N, 5, 4), const(4, DType.I64)), "not all slices")
    stays(loop(gathered, more=counted), "something else")
    stays(loop(gathered, more=lambda i, on: (on,)), "something else")
    stays(loop(lambda x, i: Gather(x, Add(i, ONE), axis=1)), none)
    stays(loop(lambda x, i: Gather(x, const(0, DType.I64), axis=1)), none)
    square = param("q", N, T, T)
    pair = Squeeze(Gather(square, ints(0), axis=2), ints(2))
    assert pair.rank == 2
    both = loop(
        lambda x, i: Add(gathered(x, i), Gather(x, const(0, DType.I64), axis=1))
    )
    stays(both, none)

    def cut(start: Any, end: Any, axes: Any = (1,), step: Any = None) -> Any:
        return lambda x, i: Squeeze(
            Slice(x, at(start(i), 0), at(end(i), 0), ints(*axes), step), ints(1)
        )

    def after(i: Value) -> Value:
        return Add(i, ONE)

    stays(loop(cut(lambda i: i, after, step=ints(2))), none)
    stays(loop(cut(lambda i: const(0, DType.I64), lambda i: ONE)), none)
    stays(loop(cut(lambda i: const(0, DType.I64), after)), none)
    stays(loop(cut(lambda i: i, lambda i: Add(const(3, DType.I64), ONE))), none)
    unknown = typed("u", TensorType(DType.F32))
    stays(loop(lambda x, i: Gather(x, i, axis=-2), unknown, ONE), none)
    two = const(2, DType.I64)
    spread = loop(lambda x, i: Slice(x, at(i, 0), at(Add(i, two), 0), ints(2)))
    stays(spread, none)
    stays(loop(cut(lambda i: i, lambda i: Sub(i, const(-1, DType.I64)))), none)


# --- linear attention ---------------------------------------------------------------

HEADS, KEY, VALUE = 2, 3, 4
RULE = looped(LinearAttention)


def attention(axis: int = 1, beside: Any = None) -> Loop:
    """A gated step, whose sources have steps along an axis."""
    dims = dict.fromkeys("qkg", (HEADS, KEY)) | {"v": (HEADS, VALUE)}
    i, on, state = number(), going(), param("S", N, HEADS, KEY, VALUE)
    outer: list[Value] = []
    inner: list[Parameter] = []
    for name, rest in dims.items():
        shape: list[Any] = [N, *rest]
        shape.insert(axis, T)
        outer.append(param(name.upper(), *shape))
        inner.append(param(name, *shape))
    q, k, g, v = (Gather(x, i, axis=axis) for x in inner)
    new = Add(Mul(Exp(at(g, 3)), state), Mul(at(k, 3), at(v, 2)))
    y = Squeeze(MatMul(at(q, 2), new), ints(2))
    body = Graph([i, on, state, *inner], [on, new, beside(y) if beside else y])
    turns = Gather(Shape(outer[0]), const(axis, DType.I64), axis=0)
    start = param("S0", N, HEADS, KEY, VALUE)
    return Loop(turns, GO, start, *outer, bodies=(body,), captures=4, outs=2)


@pytest.mark.parametrize("axis", [0, 1])
def test_linear_attention_in_a_loop(axis: int) -> None:
    before = attention(axis)
    done = made_by(RULE, before.results, **WAYS)
    (made,) = [op for op in done.ops if isinstance(op, LinearAttention)]
    assert made.update_rule == "gated"
    assert "Loop" not in kinds(done)


def test_other_loops() -> None:
    reason = "no step of linear attention"
    misses(RULE, attention(beside=Neg).results, reason, opset=OPSET)
    misses(RULE, loop(gathered).results, "no step of", opset=OPSET)
    misses(RULE, attention().results, "no linear attention", opset=26)
    before = loop(gathered, more=lambda i, on: (on,))
    misses(RULE, before.results, opset=OPSET)


# --- steps along the first axis -----------------------------------------------------


def plain(turned: str, back: bool) -> list[Value]:
    """A Scan of a plain step along the first axis, whose sources are transposed."""
    dims = {"q": (HEADS, KEY), "k": (HEADS, KEY), "v": (HEADS, VALUE)}
    state = param("S", N, HEADS, KEY, VALUE)
    q, k, v = (param(n, N, *rest) for n, rest in dims.items())
    new = Add(state, Mul(at(k, 3), at(v, 2)))
    y = Squeeze(MatMul(at(q, 2), new), ints(2))
    body = Graph([state, q, k, v], [new, y])
    sources: list[Value] = []
    for name, rest in dims.items():
        if name in turned:
            x: Value = param(name.upper(), N, T, *rest)
            sources.append(Transpose(x, perm=(1, 0, 2, 3)))
        else:
            sources.append(param(name.upper(), T, N, *rest))
    start = param("S0", N, HEADS, KEY, VALUE)
    scan = Scan(start, *sources, bodies=(body,), num_scan_inputs=3, outs=2)
    rows = scan.results[1]
    return [scan.results[0], Transpose(rows, perm=(1, 0, 2, 3)) if back else rows]


@pytest.mark.parametrize(("turned", "back"), [("qkv", True), ("k", False), ("", True)])
def test_what_is_transposed_for_a_scan(turned: str, back: bool) -> None:
    done = made_by(scanned(LinearAttention), plain(turned, back), **WAYS)
    assert "LinearAttention" in kinds(done)
    if turned == "qkv":
        assert kinds(done).count("Transpose") == 2 * back


def test_what_is_transposed_for_others_too() -> None:
    rule = scanned(LinearAttention)
    misses(rule, plain("", False), "more ops", opset=OPSET)
    state, rows = plain("", True)
    inner = rows.op
    assert inner is not None
    scan_rows = inner.operands[0]
    assert scan_rows is not None
    misses(rule, [state, rows, Relu(scan_rows)], "more ops", opset=OPSET)
    other = Transpose(scan_rows, perm=(0, 1, 3, 2))
    misses(rule, [state, other], "more ops", opset=OPSET)
    assert not isinstance(state, Constant)
