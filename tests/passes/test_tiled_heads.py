"""Reductions that keep more than their result, cut along the axis that they reduce."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from equations import ints, random
from hypothesis import given, settings, strategies as st

from graphopt.dims import symbol
from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.lowering import find
from graphopt.ops import (
    Add,
    ArgMax,
    ArgMin,
    Constant,
    GatherElements,
    LogSoftmax,
    MatMul,
    ReduceLogSumExp,
    ReduceMax,
    ReduceSum,
    Reshape,
    Softmax,
    SoftmaxCrossEntropyLoss,
    Tiled,
    TopK,
)
from graphopt.passes import Tile
from graphopt.passes.tiling.heads import spelled
from graphopt.passes.tiling.needs import Meter
from graphopt.passes.tiling.tiles import tile
from graphopt.passes.tiling.written import written_out
from graphopt.plan import Plan
from graphopt.reference import evaluate
from graphopt.rewrite import Miss
from graphopt.types import DType, tensor
from graphopt.verify import verify

F32, I64 = DType.F32, DType.I64
POSITIONS, CLASSES = 12, 200

Head = Callable[[Value, Value], Sequence[Value]]


def everything(graph: Graph) -> list[Op]:
    return [op for op in graph.ops if not isinstance(op, Constant)]


def log_of_sum(x: Value, labels: Value) -> list[Value]:
    return [ReduceLogSumExp(x, ints(2), keepdims=k) for k in (0, 1)]


HEADS: dict[str, Head] = {
    "the largest": lambda x, at: [
        ArgMax(x, axis=-1, keepdims=0),
        ReduceMax(x, ints(2)),
    ],
    "the last of the largest": lambda x, at: [ArgMax(x, axis=2, select_last_index=1)],
    "the smallest": lambda x, at: [ArgMin(x, axis=-1)],
    "the five best": lambda x, at: list(TopK(x, ints(5)).results),
    "where the five least are": lambda x, at: [TopK(x, ints(5), largest=0).results[1]],
    "a log of a sum": log_of_sum,
    "of all rows": lambda x, at: [ReduceLogSumExp(x, ints(0, 2), keepdims=0)],
    "those of labels": lambda x, at: [GatherElements(x, at, axis=-1)],
    "a loss by parts": lambda x, at: [
        GatherElements(x, at, axis=2),
        ReduceLogSumExp(x, ints(2)),
        ReduceMax(x, ints(2)),
        ReduceSum(x, ints(2)),
    ],
}


def headed(head: Head) -> tuple[Graph, Value]:
    h = Parameter(tensor(F32, 1, POSITIONS, 8), "h")
    labels = Parameter(tensor(I64, 1, POSITIONS, 1), "labels")
    logits = Add(MatMul(h, random(8, CLASSES)), random(CLASSES))
    graph = Graph([h, labels], head(logits, labels)).with_header(opsets={"": 23})
    return graph, logits


def fed_to(graph: Graph) -> dict[str, Any]:
    fed = random_inputs(graph, seed=1)
    fed["labels"] = np.arange(POSITIONS).reshape(1, POSITIONS, 1) * 16 - 7
    return fed


@pytest.mark.parametrize("size", [7, 64, 150])
@pytest.mark.parametrize("name", HEADS)
def test_a_vocabulary_goes_by_parts(name: str, size: int) -> None:
    graph, logits = headed(HEADS[name])
    made = tile(graph, everything(graph), logits, 2, size)
    assert isinstance(made, Graph), made
    assert any(isinstance(op, Tiled) for op in made.ops) == (size < 100)
    fed = fed_to(graph)
    truth = evaluate(graph, fed)
    for other in (made, written_out(made)[0]):
        verify(other)
        for a, b in zip(truth, evaluate(other, fed), strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_allclose(b, a, rtol=1e-5)


@pytest.mark.parametrize(
    "target", ["ort-cpu", pytest.param("xla-cpu", marks=pytest.mark.slow)]
)
def test_targets_run_a_vocabulary_by_parts(target: str) -> None:
    pytest.importorskip("onnxruntime" if target == "ort-cpu" else "jax")
    graph, logits = headed(lambda x, at: [v for f in HEADS.values() for v in f(x, at)])
    made = tile(graph, everything(graph), logits, 2, 64)
    assert isinstance(made, Graph), made
    fed = fed_to(graph)
    results = find(target).compile(made, Plan())(fed)
    for a, b in zip(evaluate(graph, fed), results.values(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


NUMBERS = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, 1e4, -1e4, np.inf, -np.inf])


@st.composite
def reduced(draw: st.DrawFn) -> tuple[Graph, Parameter, int, dict[str, Any]]:
    """Equal elements, infinities and NaN, in tiles of any size."""
    extent = draw(st.integers(2, 11))
    nan = draw(st.booleans())
    x = Parameter(tensor(F32, 2, extent), "x")
    at = Parameter(tensor(I64, 2, 3), "at")
    number = NUMBERS | st.just(np.nan) if nan else NUMBERS
    rows = draw(st.lists(number, min_size=2 * extent, max_size=2 * extent))
    places = draw(st.lists(st.integers(-extent, extent - 1), min_size=6, max_size=6))
    last, keep = draw(st.integers(0, 1)), draw(st.integers(0, 1))
    k = draw(st.integers(1, extent))
    kind = draw(st.sampled_from([ArgMax, ArgMin]))
    heads: list[Callable[[], Sequence[Value]]] = [
        lambda: [kind(x, axis=1, keepdims=keep, select_last_index=last)],
        lambda: [ReduceLogSumExp(x, ints(1), keepdims=keep)],
        lambda: [GatherElements(x, at, axis=-1)],
    ]
    if not nan:
        heads.append(lambda: TopK(x, ints(k), largest=last).results)
    outputs = draw(st.sampled_from(heads))()
    fed = {
        "x": np.asarray(rows, np.float32).reshape(2, extent),
        "at": np.asarray(places).reshape(2, 3),
    }
    return Graph([x, at], outputs), x, draw(st.integers(1, extent - 1)), fed


@given(reduced())
@settings(max_examples=80, deadline=None)
def test_parts_are_the_whole_whatever_the_numbers(
    case: tuple[Graph, Parameter, int, dict[str, Any]],
) -> None:
    graph, x, size, fed = case
    made = tile(graph, graph.ops, x, 1, size)
    if isinstance(made, Miss):
        assert "best" in made.reason
        return
    verify(made)
    with np.errstate(all="ignore"):
        pairs = zip(evaluate(graph, fed), evaluate(made, fed), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(b, a, rtol=1e-6)


def test_half_precision_is_summed_in_single() -> None:
    x = Parameter(tensor(DType.F16, 4096), "x")
    graph = Graph([x], [ReduceLogSumExp(x, ints(0))])
    made = tile(graph, graph.ops, x, 0, 64)
    assert isinstance(made, Graph), made
    fed = {"x": np.zeros(4096, np.float16)}
    (found,) = evaluate(made, fed)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, [np.log(4096)], rtol=1e-3)


def test_how_many_are_wanted_must_be_known() -> None:
    x, k = Parameter(tensor(F32, 9), "x"), Parameter(tensor(I64, 1), "k")
    graph = Graph([x, k], TopK(x, k).results)
    made = tile(graph, graph.ops, x, 0, 3)
    assert isinstance(made, Miss)
    assert "depends on data" in made.reason
    graph = Graph([x], TopK(x, ints(4)).results)
    made = tile(graph, graph.ops, x, 0, 3)
    assert isinstance(made, Miss)
    assert "no 4 best" in made.reason


def test_the_best_of_a_softmax_are_not_those_of_its_parts() -> None:
    x = Parameter(tensor(F32, 3, 9), "x")
    y = Softmax(x)
    graph = Graph([x], [ArgMax(y, axis=1)])
    assert isinstance(tile(graph, graph.ops, y, 1, 3), Miss)


# --- losses -------------------------------------------------------------------------


def loss(positions: int = 64, classes: int = 4096, **attrs: Any) -> Graph:
    h = Parameter(tensor(F32, 1, positions, 8), "h")
    labels = Parameter(tensor(I64, 1, positions), "labels")
    logits = MatMul(h, random(8, classes))
    rows = Reshape(logits, ints(positions, classes))
    flat = Reshape(labels, ints(positions))
    return Graph([h, labels], [SoftmaxCrossEntropyLoss(rows, flat, **attrs)])


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_loss_picks_what_it_reads_before_it_is_relative(reduction: str) -> None:
    graph = loss(reduction=reduction, ignore_index=-100)
    made = spelled(graph, Meter({}), 1000)
    assert {op.kind for op in made.ops}.isdisjoint({"LogSoftmax"})
    fed = random_inputs(graph, seed=3)
    fed["labels"] = np.where(np.arange(64) % 5, np.arange(64) * 63, -100)[None]
    for a, b in zip(evaluate(graph, fed), evaluate(made, fed), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5)


def test_narrow_logarithms_keep_their_digits() -> None:
    """Scores far from 0, whose logarithm of a sum float16 holds by quarters."""
    x = Parameter(tensor(DType.F16, 4, 500), "x")
    at = Parameter(tensor(I64, 4, 1), "at")
    graph = Graph([x, at], [GatherElements(LogSoftmax(x), at, axis=1)])
    made = spelled(graph, Meter({}), 1000)
    assert {op.kind for op in made.ops}.isdisjoint({"LogSoftmax"})
    scores = 1000 + np.random.default_rng(0).normal(size=(4, 500)).astype(np.float16)
    fed = {"x": scores.astype(np.float16), "at": np.arange(4)[:, None]}
    (exact,) = evaluate(graph, fed, precision="float64")
    (found,) = evaluate(made, fed)
    np.testing.assert_allclose(found, exact, rtol=1e-3)


def test_logarithms_that_others_read_stay() -> None:
    x = Parameter(tensor(F32, 4, 500), "x")
    at = Parameter(tensor(I64, 4, 1), "at")
    some = Parameter(tensor(I64, 2, 1), "some")
    y = LogSoftmax(x)
    picked = GatherElements(y, at, axis=1)
    graphs = [
        Graph([x, at], [picked, y]),
        Graph([x, at], [picked, ReduceMax(y, ints(1))]),
        Graph([x, some], [GatherElements(y, some, axis=1)]),
        Graph([x, at], [GatherElements(LogSoftmax(x, axis=0), at, axis=1)]),
    ]
    for graph in graphs:
        assert spelled(graph, Meter({}), 1000) is graph


def test_symbolic_positions_are_no_hindrance() -> None:
    h = Parameter(tensor(F32, symbol("n"), 8), "h")
    logits = MatMul(h, random(8, 512))
    graph = Graph([h], [ArgMax(logits, axis=1), *TopK(logits, ints(3)).results])
    meter = Meter({"n": 64})
    whole = meter.needs(graph).peak
    made = Tile(budget=whole // 3, sizes=(("n", 64),))(graph)
    assert meter.needs(made).peak <= whole // 3
    fed = {"h": np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)}
    for a, b in zip(evaluate(graph, fed), evaluate(made, fed), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6)
