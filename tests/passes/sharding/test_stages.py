"""Stages of a graph: what crosses, what they hold, and that they make up the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from real_models import every_model

from graphopt import load, ops, reference
from graphopt.check import check
from graphopt.dims import symbol
from graphopt.errors import GraphoptError, UsageError
from graphopt.exporter import to_proto
from graphopt.inputs import random_inputs, usual
from graphopt.ir import Graph, Parameter, Value
from graphopt.passes.sharding.cuts import NoCut
from graphopt.passes.sharding.machine import Link
from graphopt.passes.sharding.stages import (
    Line,
    Rates,
    Stages,
    ordered,
    planned,
    split,
)
from graphopt.testing.strategies import graphs
from graphopt.types import DType, tensor
from graphopt.verify import verify

BATCH = symbol("batch")
RATES = Rates(flops=1e9, bandwidth=1e9, link=1e8, latency=1e-6)


def weight(*shape: int) -> ops.Constant:
    return ops.Constant(np.full(shape, 0.5, np.float32))


def chain(length: int = 6, width: int = 8) -> Graph:
    """Products with a residual connection around all of them."""
    x = Parameter(tensor(DType.F32, BATCH, width), "x")
    first: Value = ops.Relu(x)
    value = first
    for i in range(length):
        scale = np.full((width, width), 1 / (i + 2), np.float32)
        value = ops.MatMul(value, ops.Constant(scale))
    return Graph([x], [ops.Add(value, first)], output_names=["y"])


def run(stages: Stages, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of the model, stage by stage in the reference."""
    named = dict(inputs)
    for graph in stages.graphs:
        given = {name: named[name] for name in graph.input_names if name in named}
        named |= reference.run(graph, given, seed=0)
    return {name: named[name] for name in stages.outputs}


# --- what is planned ----------------------------------------------------------------


def test_what_is_made_before_and_read_behind_crosses() -> None:
    graph = chain()
    line = Line.of(graph, RATES, {"batch": 4})
    one = 4 * 8 * 4
    # Behind the first op only its result; then the residual goes along, to the Add.
    assert line.crossing == (one, *[2 * one] * 6)
    assert not line.unknown
    assert all(seconds > 0 for seconds in line.seconds)


def test_rates_of_a_device_by_its_name() -> None:
    near = Rates.of("ort-cuda:h100", 4)
    far = Rates.of("h100", 64)  # more than a node holds
    assert near.memory == far.memory
    assert near.memory is not None
    assert near.memory > 70 << 30
    assert near.link > far.link
    assert near.latency < far.latency
    assert Rates.of("h100", 4, dtype=DType.BF16).flops > near.flops
    slow = Rates.of("h100", 4, Link(alpha=1e-3, beta=1e6))
    assert (slow.latency, slow.link) == (1e-3, 1e6)
    with pytest.raises(UsageError, match="unknown device"):
        Rates.of("ort-cuda:abacus", 2)


def test_no_cut_where_a_size_is_not_known() -> None:
    x = Parameter(tensor(DType.F32, 8), "x")
    some = ops.NonZero(x)
    graph = Graph([x], [ops.Cast(ops.Neg(some), to=DType.F32.value)])
    line = Line.of(graph, RATES, {})
    assert line.crossing == (None, None)
    assert planned(graph, 3, RATES, micro_batches=64).cuts == ()


def test_the_plan_pays_for_what_crosses() -> None:
    graph = chain()
    cheap = planned(graph, 4, RATES, micro_batches=8, sizes={"batch": 4096})
    assert len(cheap.cuts) >= 1
    dear = Rates(flops=1e9, bandwidth=1e9, link=1.0)
    assert planned(graph, 4, dear, micro_batches=8, sizes={"batch": 4096}).cuts == ()


def test_weights_must_fit() -> None:
    graph = chain(length=6, width=64)  # 16 KiB each
    rates = Rates(1e9, 1e9, 1e8, memory=3 * (16 << 10) + 3 * 256)
    found = planned(graph, 2, rates, sizes={"batch": 1})
    assert found.cuts == (4,)  # Relu and three products in each
    with pytest.raises(NoCut, match="are enough, or 2 stages") as told:
        planned(graph, 1, rates, sizes={"batch": 1})
    enough = int(
        told.value.message.partition("; ")[2].partition(" ")[0].replace(",", "")
    )
    assert not planned(graph, 1, replace(rates, memory=enough), sizes={"batch": 1}).cuts
    with pytest.raises(NoCut):
        planned(graph, 1, replace(rates, memory=enough - 1), sizes={"batch": 1})


def test_a_weight_that_is_read_twice_counts_once() -> None:
    x = Parameter(tensor(DType.F32, 4, 64), "x")
    tied = weight(64, 64)
    graph = Graph([x], [ops.MatMul(ops.Relu(ops.MatMul(x, tied)), tied)])
    room = (16 << 10) + 2 * 4 * 64 * 4
    assert planned(graph, 1, Rates(1e9, 1e9, 1e9, memory=room)).cuts == ()
    with pytest.raises(NoCut):
        planned(graph, 1, Rates(1e9, 1e9, 1e9, memory=room - 1))


def test_values_that_are_handed_on_take_memory() -> None:
    graph = chain(length=6, width=8)
    size, product = 1024 * 8 * 4, 8 * 8 * 4
    fits = Rates(1e9, 1e9, 1e9, memory=3 * size + 6 * product)
    assert planned(graph, 1, fits, sizes={"batch": 1024}).cuts == ()
    less = Rates(1e9, 1e9, 1e9, memory=3 * size - 1)
    with pytest.raises(NoCut):
        planned(graph, 8, less, sizes={"batch": 1024})


# --- graphs -------------------------------------------------------------------------


@settings(deadline=None)
@given(graphs(), st.data())
def test_stages_make_up_the_graph(graph: Graph, data: st.DataObject) -> None:
    count = len(ordered(graph))
    places = st.sets(st.integers(1, max(count - 1, 1)), max_size=4)
    cuts = sorted(data.draw(places)) if count > 1 else []
    stages = split(graph, cuts)
    assert len(stages.graphs) == len(cuts) + 1
    for stage in stages.graphs:
        verify(stage)
    assert sum(len(ordered(stage)) for stage in stages.graphs) == count
    joined = stages.joined(graph)
    assert all(a is b for a, b in zip(joined.outputs, graph.outputs, strict=True))


@settings(deadline=None)
@given(graphs(max_ops=8), st.data())
def test_stages_compute_what_the_graph_does(graph: Graph, data: st.DataObject) -> None:
    count = len(ordered(graph))
    cuts = [] if count < 2 else [data.draw(st.integers(1, count - 1))]
    inputs = random_inputs(graph, 0, {"n": 3, "m": 2})
    try:
        whole = reference.run(graph, inputs, seed=0)
    except GraphoptError:
        return
    parts = run(split(graph, cuts), inputs)
    for name, array in whole.items():
        np.testing.assert_array_equal(parts[name], array, name)


def test_a_value_that_crosses_twice_joins_both() -> None:
    graph = chain()
    first, second, third = split(graph, [2, 5]).graphs
    assert first.input_names == ("x",)
    assert set(second.input_names) < set(first.output_names)
    assert len(second.input_names) == 1  # the residual goes past it
    assert set(third.input_names) <= {*first.output_names, *second.output_names}
    assert third.output_names == ("y",)


def test_outputs_on_the_way_inputs_of_nobody_and_what_nothing_computes() -> None:
    x = Parameter(tensor(DType.F32, 4), "x")
    idle = Parameter(tensor(DType.F32, 4), "idle")
    early = ops.Relu(x)
    graph = Graph(
        [x, idle],
        [early, ops.Neg(early), early, x, weight(4)],
        output_names=["early", "late", "again", "same", "fixed"],
    )
    stages = split(graph, [1])
    first, second = stages.graphs
    assert first.input_names == ("x", "idle")
    assert first.output_names == ("early", "again")
    assert second.output_names == ("late", "same", "fixed")
    inputs = {n: np.arange(-2, 2, dtype=np.float32) for n in ("x", "idle")}
    whole = reference.run(graph, inputs)
    found = run(stages, inputs)
    assert list(found) == list(whole)
    for name, array in whole.items():
        np.testing.assert_array_equal(found[name], array)


def test_joints_take_no_name_that_is_taken() -> None:
    x = Parameter(tensor(DType.F32, 4), "x")
    a, b = ops.Relu(x), ops.Neg(x)
    graph = Graph([x], [ops.Add(a, b)], output_names=["y"], names={a: "x", b: "y"})
    first, _ = split(graph, [2]).graphs
    assert not {"x", "y"} & set(first.output_names)


@pytest.mark.parametrize("cuts", [[0], [3, 3], [4, 2], [8], [-1]])
def test_cuts_that_do_not_rise(cuts: list[int]) -> None:
    with pytest.raises(UsageError, match="cuts rise from 1 to 7"):
        split(chain(), cuts)


def test_another_order() -> None:
    x = Parameter(tensor(DType.F32, 4), "x")
    a, b = ops.Relu(x), ops.Neg(x)
    graph = Graph([x], [ops.Add(a, b)], output_names=["y"])
    order = [b.op, a.op, graph.outputs[0].op]
    first, _ = split(graph, [1], order).graphs
    assert [op.kind for op in first.ops] == ["Neg"]
    with pytest.raises(UsageError, match="lacks"):
        split(graph, [1], order[1:])


# --- real models --------------------------------------------------------------------


@every_model()
def test_stages_make_up_a_real_model(path: Path) -> None:
    try:
        graph = load(path)
    except GraphoptError:
        pytest.skip("not taken")
    count = len(ordered(graph))
    if count < 3:
        pytest.skip("nothing to cut")
    stages = split(graph, sorted({count // 3, 2 * count // 3}))
    joined = stages.joined(graph)
    assert all(a is b for a, b in zip(joined.outputs, graph.outputs, strict=True))
    if any(op.token for _, op in graph.walk()):
        return  # files number these each by itself
    read = [load(to_proto(stage)) for stage in stages.graphs]
    again = Stages(tuple(read), stages.inputs, stages.outputs).joined(graph)
    assert check(graph, again, seconds=5, limit_bytes=1 << 30).passed


@every_model()
def test_a_real_model_has_a_plan(path: Path) -> None:
    try:
        graph = load(path)
    except GraphoptError:
        pytest.skip("not taken")
    sizes = usual(graph)
    found = planned(graph, 4, RATES, micro_batches=16, sizes=sizes)
    assert len(found.cuts) < 4
    alone = planned(graph, 1, RATES, micro_batches=16, sizes=sizes)
    assert found.seconds <= alone.seconds
