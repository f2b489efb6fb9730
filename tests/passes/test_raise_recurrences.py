"""Linear attention, found in loops and in steps that are written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equations import (
    M,
    N,
    const,
    graph_of,
    ints,
    kinds,
    misses,
    param,
    rewritten,
)

import graphopt
from graphopt.dims import symbol
from graphopt.exporter import to_proto
from graphopt.ir import Graph, Parameter, Value
from graphopt.lowering.ort.recurrences import FuseRecurrences
from graphopt.ops import (
    Add,
    Concat,
    ConstantOfShape,
    Exp,
    Gather,
    LinearAttention,
    MatMul,
    Mul,
    Neg,
    ReduceSum,
    Relu,
    Reshape,
    Scan,
    Sigmoid,
    Squeeze,
    Sub,
    Unsqueeze,
)
from graphopt.ops.contrib import LinearAttention as Contrib
from graphopt.passes.raise_recurrences import FEWEST, scanned, unrolled
from graphopt.reference import evaluate
from graphopt.rewrite import rewrite
from graphopt.types import DType

OPSET = 27
T = symbol("t")
HEADS, KEY, VALUE = 2, 3, 4
SIZES = ({"n": 2, "t": 3}, {"n": 1, "t": 1})
RULE = scanned(LinearAttention)
DIMS = {
    "S": (HEADS, KEY, VALUE),
    "q": (HEADS, KEY),
    "k": (HEADS, KEY),
    "v": (HEADS, VALUE),
    "g": (HEADS, KEY),
    "h": (HEADS,),
    "b": (HEADS,),
}


def part(name: str) -> Parameter:
    made = param(name, N, *DIMS[name])
    assert isinstance(made, Parameter)
    return made


def at(x: Value, *axes: int) -> Value:
    return Unsqueeze(x, ints(*axes))


def outer(k: Value, v: Value, kind: Any = Mul) -> Value:
    return kind(at(k, 3), at(v, 2))


def read(q: Value, state: Value) -> Value:
    return Squeeze(MatMul(at(q, 2), state), ints(2))


def loop(
    names: str,
    new: Value,
    y: Value,
    parts: dict[str, Parameter],
    axis: int = 0,
    **ways: Any,
) -> Scan:
    """A Scan of a body; what is scanned has steps along ``axis``."""
    body = Graph([parts["S"], *(parts[n] for n in names)], [new, y])
    given = []
    for name in names:
        dims: list[Any] = [N, *DIMS[name]]
        dims.insert(axis, T)
        x: Value = param(name.upper(), *dims)
        given.append(ways.pop(name)(x) if name in ways else x)
    if axis:
        ways |= {"scan_input_axes": (axis,) * len(names)}
    count = len(names)
    start = param("S0", N, *DIMS["S"])
    return Scan(start, *given, bodies=(body,), num_scan_inputs=count, outs=2, **ways)


def parts() -> dict[str, Parameter]:
    return {name: part(name) for name in DIMS}


def linear(p: dict[str, Parameter], **ways: Any) -> Scan:
    new = Add(p["S"], outer(p["k"], p["v"]))
    return loop("qkv", new, read(p["q"], new), p, **ways)


def gated(p: dict[str, Parameter], gate: Value, **ways: Any) -> Scan:
    new = Add(Mul(gate, p["S"]), outer(p["k"], p["v"], MatMul))
    return loop("qkvgh", new, read(p["q"], new), p, **ways)


def found(before: Scan, update: str) -> LinearAttention:
    done = rewritten(RULE, before.results, opset=OPSET, sizes=SIZES)
    (made,) = [op for op in done.ops if isinstance(op, LinearAttention)]
    assert made.update_rule == update
    assert "Scan" not in kinds(done)
    return made


def test_a_state_that_only_grows() -> None:
    found(linear(parts(), axis=1), "linear")
    found(linear(parts(), axis=1, scan_output_axes=(2,)), "linear")
    p = parts()
    new = Add(
        outer(p["v"], p["k"], lambda v, k: Mul(at(p["v"], 2), at(p["k"], 3))), p["S"]
    )
    y = ReduceSum(Mul(new, at(p["q"], 3)), ints(2), keepdims=0)
    found(loop("qkv", new, y, p, axis=1), "linear")


def test_where_it_would_take_more_ops_the_rest_is_still_improved() -> None:
    """What is scanned along the first axis is turned: of a plain step that is more."""
    plain = linear(parts())
    misses(RULE, plain.results, "more ops", opset=OPSET)
    before = graph_of(*(Neg(Neg(x)) for x in plain.results), opset=OPSET)
    done = graphopt.optimize(before)
    assert kinds(done.graph) == ["Scan"]
    assert not any("kept" in note for note in done.report.notes)
    before = graph_of(*linear(parts(), axis=1).results, opset=OPSET)
    assert "LinearAttention" in kinds(graphopt.optimize(before).graph)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_results_of_a_step_keep_their_dims_of_one(axis: int) -> None:
    p = parts()
    new = Add(Mul(Exp(at(p["g"], 3)), p["S"]), outer(p["k"], p["v"], MatMul))
    row = MatMul(at(p["q"], 2), new)
    before = loop("qkvg", new, row, p, axis=1, scan_output_axes=(axis,))
    found(before, "gated")
    summed = ReduceSum(Mul(new, at(p["q"], 3)), ints(2), keepdims=1)
    before = loop("qkvg", new, summed, p, axis=1, scan_output_axes=(axis,))
    found(before, "gated")


def test_results_that_begin_with_another_dim() -> None:
    p = parts()
    new = Add(p["S"], outer(p["k"], p["v"]))
    before = loop("qkv", new, at(read(p["q"], new), 0), p, axis=1)
    misses(RULE, before.results, "that of instances", opset=OPSET)


def test_sizes_that_are_not_known() -> None:
    p = parts() | {"S": param("S", N, HEADS, M, VALUE)}
    p |= {"q": param("q", N, HEADS, M), "k": param("k", N, HEADS, M)}
    start = param("S0", N, HEADS, M, VALUE)
    new = Add(p["S"], outer(p["k"], p["v"]))
    body = Graph([p[n] for n in "Sqkv"], [new, read(p["q"], new)])
    given = [param(n, T, *p[n].shape) for n in "qkv"]
    before = Scan(start, *given, bodies=(body,), num_scan_inputs=3, outs=2)
    misses(RULE, before.results, "is unknown", opset=OPSET)


@pytest.mark.parametrize(("batch", "count"), [(0, 3), (2, 0)])
def test_without_instances_or_steps(batch: int, count: int) -> None:
    sizes = ({"n": batch, "t": count},)
    p = parts()
    kept = Mul(p["S"], Exp(at(p["g"], 3)))
    rest = Sub(p["v"], read(p["k"], kept))
    new = Add(kept, outer(p["k"], Mul(rest, at(p["b"], 2))))
    before = loop("qkvgb", new, read(p["q"], new), p)
    rewritten(RULE, before.results, opset=OPSET, sizes=sizes)
    rewritten(OUT, steps(start=START)[0], opset=OPSET, sizes=({"n": 0},))


def test_a_state_that_decays() -> None:
    p = parts()
    made = found(gated(p, Exp(at(p["g"], 3))), "gated")
    assert made.operands[4].shape[2] == HEADS * KEY
    p = parts()
    made = found(gated(p, at(Exp(p["h"]), 2, 3)), "gated")
    assert made.operands[4].shape[2] == HEADS
    p = parts()
    found(gated(p, at(p["g"], 3), g=Exp), "gated")


@pytest.mark.parametrize("decays", [True, False])
def test_the_delta_rule(decays: bool) -> None:
    p = parts()
    kept: Value = Mul(p["S"], Exp(at(p["h"], 2, 3))) if decays else p["S"]
    rest = Sub(p["v"], read(p["k"], kept))
    new = Add(kept, outer(p["k"], Mul(rest, at(p["b"], 2))))
    update = "gated_delta" if decays else "delta"
    found(loop("qkvhb", new, read(p["q"], new), p), update)


def test_a_beta_for_each_value() -> None:
    """With one instance, and as many heads as values, it has the dims of the other."""
    p = {n: param(n, 1, *(2 for _ in DIMS[n])) for n in DIMS}
    b = p["b"]
    for beta, takes in ((b, False), (at(b, 2, 3), True)):
        rest = Sub(at(p["v"], 2), MatMul(at(p["k"], 2), p["S"]))
        new = Add(p["S"], MatMul(at(p["k"], 3), Mul(rest, beta)))
        body = Graph([p[n] for n in "Sqkvb"], [new, read(p["q"], new)])
        start = param("S0", 1, 2, 2, 2)
        given = [param(n.upper(), T, *p[n].shape) for n in "qkvb"]
        scan = Scan(start, *given, bodies=(body,), num_scan_inputs=4, outs=2)
        if takes:
            found(scan, "delta")
        else:
            misses(RULE, scan.results, "no step of", opset=OPSET)


def test_other_loops() -> None:
    def stays(before: Scan, reason: str = "no step of", opset: int = OPSET) -> None:
        misses(RULE, before.results, reason, opset=opset)

    p = parts()
    stays(linear(p), "no linear attention", opset=20)
    stays(linear(parts(), scan_input_directions=(1, 1, 1)), "backwards")
    stays(linear(parts(), scan_output_directions=(1,)), "backwards")
    p = parts()
    stays(gated(p, at(p["g"], 3)), "no exponential")
    stays(gated(p, Sigmoid(at(p["g"], 3))))
    new = Sub(p["S"], outer(p["k"], p["v"]))
    stays(loop("qkv", new, read(p["q"], new), p))
    new = Add(p["S"], outer(p["k"], p["v"]))
    stays(loop("qkv", new, read(p["q"], p["S"]), p))  # what was known before
    stays(loop("qkv", new, Neg(read(p["q"], new)), p))
    stays(loop("qkv", new, read(Relu(p["q"]), new), p))
    new = Add(p["S"], outer(Relu(p["k"]), p["v"]))
    stays(loop("qkv", new, read(p["q"], new), p))
    new = Add(Mul(p["S"], p["S"]), outer(p["k"], p["v"]))
    stays(loop("qkv", new, read(p["q"], new), p))
    rest = Sub(p["v"], read(p["q"], p["S"]))  # of another vector than is written
    new = Add(p["S"], outer(p["k"], Mul(rest, at(p["b"], 2))))
    stays(loop("qkvb", new, read(p["q"], new), p))
    rest = Sub(read(p["k"], p["S"]), p["v"])
    new = Add(p["S"], outer(p["k"], Mul(rest, at(p["b"], 2))))
    stays(loop("qkvb", new, read(p["q"], new), p))
    kept = Mul(p["S"], Exp(at(p["h"], 2, 3)))
    rest = Sub(p["v"], read(p["k"], p["S"]))  # before it decays
    new = Add(kept, outer(p["k"], Mul(rest, at(p["b"], 2))))
    stays(loop("qkvhb", new, read(p["q"], new), p))


def test_a_loop_that_captures_or_carries_more() -> None:
    p = parts()
    new = Add(p["S"], outer(p["k"], p["v"]))
    y = read(p["q"], new)
    body = Graph([p["S"], p["k"], p["v"], p["q"]], [new, y])
    given = [param("S0", N, *DIMS["S"])]
    given += [param(n.upper(), T, N, *DIMS[n]) for n in "kv"]
    captured = Scan(
        *given, param("Q", N, *DIMS["q"]), bodies=(body,), num_scan_inputs=2, outs=2
    )
    misses(RULE, captured.results, opset=OPSET)


# --- written out --------------------------------------------------------------------

CHANNELS, SIZE, STEPS = 3, 2, 5
OUT = unrolled(LinearAttention)


def steps(
    count: int = STEPS,
    *,
    gate: Any = Exp,
    start: Value | None = None,
    order: Any = lambda t: t,
    flip: bool = False,
) -> tuple[Value, list[Value]]:
    """The result of a state-space model, and its states."""
    gates = gate(param("a", N, CHANNELS, STEPS, SIZE))
    writes, reads = param("w", N, CHANNELS, STEPS, SIZE), param("c", N, STEPS, SIZE)
    zeros = ConstantOfShape(ints(2, CHANNELS, SIZE)) if start is None else start
    state, states, results = zeros, [], []
    for t in range(count):
        where = const(order(t), DType.I64)
        kept = Mul(state, Gather(gates, where, axis=2))
        state = Add(*((Gather(writes, where, axis=2), kept)[:: -1 if flip else 1]))
        column = at(Gather(reads, const(t, DType.I64), axis=1), -1)
        states.append(state)
        results.append(MatMul(state, column))
    return Concat(*results, axis=-1), states


START = param("s0", N, CHANNELS, SIZE)


@pytest.mark.parametrize("flip", [False, True])
def test_steps_that_are_written_out(flip: bool) -> None:
    y, states = steps(start=START, flip=flip)
    done = rewritten(OUT, y, opset=OPSET)
    assert kinds(done).count("LinearAttention") == 1
    assert "MatMul" not in kinds(done)
    done = rewritten(OUT, (y, Relu(states[-1])), opset=OPSET)
    assert kinds(done).count("LinearAttention") == 1
    assert "MatMul" not in kinds(done)


def test_steps_that_stay() -> None:
    misses(OUT, steps(STEPS - 1, start=START)[0], "not all steps", opset=OPSET)
    y, states = steps(start=START)
    misses(OUT, (y, Relu(states[2])), "read elsewhere", opset=OPSET)
    misses(OUT, steps(start=START, gate=Sigmoid)[0], "no exponentials", opset=OPSET)
    misses(OUT, steps(start=START, order=lambda t: STEPS - 1 - t)[0], opset=OPSET)
    misses(OUT, steps(FEWEST - 1, start=START)[0], opset=OPSET)
    rows = [Reshape(v, ints(-1, CHANNELS, 1)) for v in y.operands]
    misses(OUT, Concat(*rows, axis=-1), opset=OPSET)
    misses(OUT, Concat(*y.operands, axis=1), opset=OPSET)
    first, *others = y.operands
    misses(OUT, Concat(*others, first, axis=-1), opset=OPSET)
    wide = steps(start=param("one", 1, CHANNELS, SIZE))[0]
    misses(OUT, wide, "other dims", opset=OPSET)


# --- in ONNX Runtime ----------------------------------------------------------------


@pytest.mark.parametrize("spelled", ["scan", "steps"])
def test_the_runtime_computes_the_same(spelled: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    p = parts()
    before = (
        gated(p, Exp(at(p["g"], 3))).results
        if spelled == "scan"
        else steps(start=START)
    )
    graph = graph_of(*(before if spelled == "scan" else before[:1]), opset=21)  # type: ignore[arg-type]
    done = FuseRecurrences(most=True)(graph)
    assert any(isinstance(op, Contrib) for op in done.ops)
    sizes = {N: 2, T: 5}
    rng = np.random.default_rng(0)
    feeds = [
        rng.normal(size=[sizes.get(d, d) for d in each.shape]).astype(np.float32)
        for each in graph.inputs
    ]
    wanted = evaluate(graph, feeds, precision="float64")
    session = runtime.InferenceSession(
        to_proto(done).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_inputs()]
    found = session.run(None, dict(zip(names, feeds, strict=True)))
    for old, new in zip(wanted, found, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-4)
    assert rewrite(done, FuseRecurrences(most=True).rules()) is done


def test_an_outer_product_of_rows() -> None:
    """Keys and values of one size: an elementwise product is no outer one."""
    sizes = dict.fromkeys("qkv", (2, 3)) | {"S": (2, 3, 3)}
    p = {n: param(n, N, *dims) for n, dims in sizes.items()}
    row = Mul(at(p["k"], 2), at(p["v"], 2))
    new = Add(p["S"], row)
    body = Graph([p[n] for n in "Sqkv"], [new, read(p["q"], new)])  # type: ignore[misc]
    given = [param(n.upper(), T, N, *sizes[n]) for n in "qkv"]
    start = param("S0", N, 2, 3, 3)
    scan = Scan(start, *given, bodies=(body,), num_scan_inputs=3, outs=2)
    misses(RULE, scan.results, "no step of", opset=OPSET)


def test_keys_in_other_dims() -> None:
    """Those of a reshape are not those of what is reshaped."""
    p = parts() | {"k": param("k", N, KEY, HEADS)}
    key = Reshape(p["k"], ints(0, HEADS, KEY))
    new = Add(p["S"], outer(key, p["v"]))
    body = Graph([p[n] for n in "Sqkv"], [new, read(p["q"], new)])
    given = [param(n.upper(), T, *(p[n].shape or ())) for n in "qkv"]
    start = param("S0", N, *DIMS["S"])
    scan = Scan(start, *given, bodies=(body,), num_scan_inputs=3, outs=2)
    misses(RULE, scan.results, "no step of", opset=OPSET)


def test_a_state_of_whole_numbers() -> None:
    p = {n: param(n, N, *DIMS[n], dtype=DType.I64) for n in "Sqkv"}
    new = Add(p["S"], outer(p["k"], p["v"]))
    body = Graph([p[n] for n in "Sqkv"], [new, read(p["q"], new)])
    given = [param(n.upper(), T, N, *DIMS[n], dtype=DType.I64) for n in "qkv"]
    start = param("S0", N, *DIMS["S"], dtype=DType.I64)
    scan = Scan(start, *given, bodies=(body,), num_scan_inputs=3, outs=2)
    misses(RULE, scan.results, "no step of", opset=OPSET)


def test_steps_that_end_with_something_else() -> None:
    y, _ = steps(start=START)
    first, *others = y.operands
    assert first is not None
    last = param("last", N, CHANNELS, 1)
    misses(OUT, Concat(*others, last, axis=-1), opset=OPSET)
