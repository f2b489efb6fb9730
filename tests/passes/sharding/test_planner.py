"""Plans of small graphs: what they cost, what they leave, that they can be run."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from small_transformers import transformer, weight

from graphopt import ops
from graphopt.errors import UsageError
from graphopt.index import Partial, Replicated, Split
from graphopt.ir import Graph, Parameter, Value
from graphopt.mesh_flow import step_seconds
from graphopt.ops import Constant
from graphopt.passes.sharding import Decisions, Mesh, Program, oracle, partition
from graphopt.passes.sharding.layout import Layout, is_partial, path, wire_bytes
from graphopt.passes.sharding.machine import Machine
from graphopt.passes.sharding.planner import Planner, Sharding
from graphopt.passes.sharding.solve import NoPlan
from graphopt.passes.sharding.ways import is_fixed
from graphopt.reference import evaluate
from graphopt.types import DType, TensorType
from graphopt.weights import Tensor

R, S0 = Replicated(), Split(0)


def planner(graph: Graph, mesh: str, **options: object) -> Planner:
    machine = Machine.of("h100", Mesh.parse(mesh))
    return Planner(graph, machine, **options)  # type: ignore[arg-type]


def walked(graph: Graph, plan: Sharding, machine: Machine) -> float:
    """What a plan costs, op by op: each value is brought to a layout once."""
    decisions, mesh = plan.decisions, machine.mesh
    made: dict[Value, set[Layout]] = {v: {x} for v, x in decisions.given.items()}
    total = 0.0

    def bring(value: Value, layout: Layout) -> None:
        nonlocal total
        if layout in made[value]:
            return
        type_ = value.type
        assert isinstance(type_, TensorType)
        ways = []
        for source in made[value]:
            steps = path(source, layout, type_, mesh, machine.seconds)
            if steps is not None:
                spent = sum(machine.seconds(step, type_) for step in steps)
                ways.append((spent, steps))
        spent, steps = min(ways, key=lambda way: way[0])
        made[value] |= {step.target for step in steps}
        total += spent

    for op in graph.ops:
        if isinstance(op, Constant) or is_fixed(op):
            continue
        choice = decisions.choices[op]
        for value, layout in zip(op.operands, choice.operands, strict=True):
            if value is not None and value.ints is None:
                bring(value, layout)
        total += machine.taking(choice.work or ())
        made.update({v: {x} for v, x in zip(op.results, choice.results, strict=True)})
    for value, layout in zip(graph.outputs, decisions.outputs, strict=True):
        assert layout is not None
        bring(value, layout)
    return total


def sent(program: Program) -> dict[str, float]:
    """The bytes that a device sends in the collectives of a program."""
    found: dict[str, float] = {}
    for op in program.collectives():
        sizes = [math.prod(v.shape) * v.dtype.bits // 8 for v in (*op.operands, op)]
        moved = wire_bytes(op.kind, op.ways, max(sizes))
        found[op.kind] = found.get(op.kind, 0.0) + moved
    return found


CASES: Mapping[str, Mapping[str, int]] = {
    "prefill": {"batch": 1, "seq": 128},
    "batch": {"batch": 8, "seq": 32},
    "decode": {"batch": 8, "seq": 1, "past": 64},
}


@pytest.mark.parametrize(
    "mesh", ["8", "2x4", pytest.param("2x2x2", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("case", CASES)
def test_a_plan_costs_what_it_says_and_runs(case: str, mesh: str) -> None:
    graph = transformer(2, **CASES[case])
    made = planner(graph, mesh)
    plan = made.plan()
    assert plan.solution.proved
    assert walked(graph, plan, made.machine) == pytest.approx(plan.seconds, rel=1e-6)
    program = partition(graph, made.machine.mesh, plan.decisions, made.machine.seconds)
    step = step_seconds(program, made.machine)
    assert sum(step.values()) == pytest.approx(plan.seconds, rel=1e-9)
    assert sent(program) == pytest.approx(plan.sent)
    rng = np.random.default_rng(0)
    feeds = [rng.standard_normal(p.shape, np.float32) for p in graph.inputs]
    expected = evaluate(graph, feeds)
    actual = oracle.run(program, feeds)
    for name, one in zip(graph.output_names, expected, strict=True):
        np.testing.assert_allclose(actual[name], one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mesh", ["8", "2x4"])
def test_folding_loses_little(mesh: str) -> None:
    graph = transformer(3, batch=1, seq=512, width=512, hidden=2048)
    folded = planner(graph, mesh).plan()
    whole = planner(graph, mesh, rounds=None).plan()
    assert whole.seconds <= folded.seconds * (1 + 1e-6)
    assert folded.seconds <= whole.seconds * 1.005


def test_little_memory_splits_weights() -> None:
    graph = transformer(4, batch=1, seq=64, width=256, hidden=1024)
    made = planner(graph, "8")
    weights = sum(t.nbytes for t in graph.tensors())
    free = made.plan()
    limit = weights // 4
    tight = made.plan(limit)
    assert free.memory > limit >= tight.memory
    assert tight.seconds > free.seconds
    assert tight.solution.proved
    with pytest.raises(NoPlan, match="at least, and what else is stored"):
        made.plan(weights // 9)


def test_activations_count_against_the_limit() -> None:
    """A product of 4 MiB that all devices could make whole, and have no room for."""
    x = Parameter(TensorType(DType.F32, (1024, 8)), "x")
    y = ops.MatMul(x, ops.Transpose(x, perm=(1, 0)))
    graph = Graph([x], [ops.ReduceMax(ops.Relu(y), ints_(0, 1))])
    made = planner(graph, "4")
    kept = 1024 * 8 * 4
    plan = made.plan(3 * 2**20)
    assert kept <= plan.memory <= 3 * 2**20
    with pytest.raises(NoPlan):
        made.plan(2**20)


def ints_(*values: int) -> Constant:
    return Constant(np.asarray(values, np.int64))


def test_inputs_and_outputs_can_be_given() -> None:
    x = Parameter(TensorType(DType.F32, (64, 64)), "x")
    graph = Graph([x], [ops.MatMul(x, weight(64, 64))], output_names=["y"])
    made = planner(graph, "4", inputs={"x": (S0,)}, outputs={"y": (R,)})
    plan = made.plan()
    assert plan.decisions.given[x] == (S0,)
    assert plan.decisions.outputs == ((R,),)
    with pytest.raises(UsageError, match="does not divide"):
        planner(graph, "3", inputs={"x": (S0,)})


def test_no_output_is_left_partial() -> None:
    x = Parameter(TensorType(DType.F32, (8, 4096)), "x")
    graph = Graph([x], [ops.MatMul(x, weight(4096, 8))])
    made = planner(graph, "8", inputs={"x": (Split(1),)})
    plan = made.plan()
    (op,) = [op for op in graph.ops if op.kind == "MatMul"]
    assert plan.decisions.choices[op].results == ((Partial(),),)
    assert not is_partial(plan.decisions.outputs[0] or ())
    assert set(plan.sent) <= {"AllReduce", "ReduceScatter"}
    assert plan.sent


def test_a_weight_read_twice_is_stored_once() -> None:
    table = weight(4096, 64)
    x = Parameter(TensorType(DType.F32, (8, 64)), "x")
    up = ops.MatMul(x, ops.Transpose(table, perm=(1, 0)))
    graph = Graph([x], [ops.MatMul(up, table)])
    made = planner(graph, "8", inputs={"x": (R,)}, outputs={"output_0": (R,)})
    plan = made.plan(2 * table.tensor.nbytes // 8 + 2**16)  # and its transpose
    assert plan.decisions.given[table] == (S0,)
    assert plan.stored == table.tensor.nbytes // 8 + 2 * 8 * 64 * 4
    assert math.isclose(plan.sent["AllReduce"], 2 * 7 / 8 * 8 * 64 * 4)


def test_a_value_with_two_names_lies_as_each_is_asked_for() -> None:
    x = Parameter(TensorType(DType.F32, (4, 4)), "x")
    y = ops.Relu(x)
    graph = Graph([x], [y, y], output_names=["parted", "whole"])
    asked: dict[str, Layout] = {"parted": (S0,), "whole": (R,)}
    plan = planner(graph, "2", outputs=asked).plan()
    assert plan.decisions.outputs == ((S0,), (R,))


def test_weights_in_bodies_are_stored() -> None:
    asked = Parameter(TensorType(DType.BOOL, ()), "asked")
    x = Parameter(TensorType(DType.F32, (4, 64)), "x")

    def body() -> Graph:
        inner = Parameter(x.type, "inner")
        return Graph([inner], [ops.MatMul(inner, weight(64, 64))])

    graph = Graph([asked, x], [ops.If(asked, x, bodies=(body(), body()), outs=1)])
    plan = planner(graph, "2").plan()
    assert plan.stored >= 2 * 64 * 64 * 4


def test_an_input_with_a_default_stays_whole() -> None:
    value = Tensor.of(np.ones((4, 4), np.float32))
    x = Parameter(TensorType(DType.F32, (4, 4)), "x", default=value)
    graph = Graph([x], [ops.Relu(x)])
    made = planner(graph, "2")
    plan = made.plan()
    assert plan.decisions.given[x] == (R,)
    program = partition(graph, made.machine.mesh, plan.decisions, made.machine.seconds)
    assert program.graph.inputs[0].default is not None
    with pytest.raises(UsageError, match="has a default"):
        partition(graph, made.machine.mesh, Decisions(given={x: (S0,)}))


def test_copies_count_where_they_are_told() -> None:
    """As if each plan made a little more than the best one does."""
    graph = transformer(1, batch=1, seq=64, width=64, hidden=256)
    made = planner(graph, "8")
    weights = sum(t.nbytes for t in graph.tensors())
    free, more = made.plan(weights // 2), 2**12
    limit = free.memory + more // 2
    plan = made.plan(limit, copies=lambda _: free.memory - free.stored + more)
    assert plan.stored + free.memory - free.stored + more <= limit
    assert plan.seconds >= free.seconds * (1 - 1e-9)
    assert plan.solution.bound <= free.seconds * (1 + 1e-9)
    with pytest.raises(NoPlan, match="with copies in other layouts, the least"):
        made.plan(limit, seconds=1.0, copies=lambda _: limit)


def test_each_plan_that_is_taken_was_looked_at() -> None:
    """However little those before it copied."""
    graph = transformer(2, batch=2, seq=16, width=64, hidden=1024)
    limit = sum(t.nbytes for t in graph.tensors())
    looked: list[Decisions] = []

    def copies(decisions: Decisions) -> int:
        looked.append(decisions)
        return 0 if len(looked) == 1 else 2**10 * len(looked)

    plan = planner(graph, "4").plan(limit, copies=copies)
    assert any(decisions == plan.decisions for decisions in looked)
