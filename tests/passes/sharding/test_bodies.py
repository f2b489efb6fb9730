"""Ops with bodies on a mesh: parts go through them, and devices exchange in turns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from looped_graphs import looped
from random_plans import judged

from graphopt import ops, shard
from graphopt.index import Replicated, Split
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.mesh_flow import step_seconds
from graphopt.ops.bodies import scalar
from graphopt.ops.mesh import AllReduce, OverMesh, Position
from graphopt.passes.sharding import Decisions, Mesh, choices, oracle, partition
from graphopt.passes.sharding.captured import captured
from graphopt.passes.sharding.layout import wire_bytes
from graphopt.passes.sharding.program import Program, handled_bytes
from graphopt.passes.sharding.saved import restored
from graphopt.passes.sharding.turns import UNKNOWN, turns
from graphopt.passes.sharding.work import Exchange, InTurns, exchanges
from graphopt.reference import EvaluationFailed, run
from graphopt.types import DType, tensor

R, MESH = Replicated(), Mesh.parse("2x2")


def matrix(*shape: int) -> Parameter:
    return Parameter(tensor(DType.F32, *shape), "x" + "x".join(map(str, shape)))


def scan() -> Op:
    """h = tanh(h w + x[t]), and all of them."""
    state, slice_, weight = matrix(8, 4), matrix(8, 4), matrix(4, 4)
    new = ops.Tanh(ops.Add(ops.MatMul(state, weight), slice_))
    body = Graph([state, slice_, weight], [new, new])
    given = matrix(8, 4), matrix(6, 8, 4), matrix(4, 4)
    return ops.Scan(*given, bodies=(body,), num_scan_inputs=1, captures=1)


def loop() -> Op:
    """x = 2 x, three times, and all of them."""
    number = Parameter(tensor(DType.I64), "i")
    goes_on = Parameter(tensor(DType.BOOL), "c")
    x = matrix(8, 4)
    new = ops.Add(x, x)
    body = Graph([number, goes_on, x], [goes_on, new, new])
    return ops.Loop(scalar(3, DType.I64), None, matrix(8, 4), bodies=(body,))


@pytest.mark.parametrize("limit", [2**63 - 1, 2**31])
def test_a_limit_that_nobody_reaches_is_none(limit: int) -> None:
    """Loops that end by their condition are written with such a number."""
    number = Parameter(tensor(DType.I64), "i")
    goes_on = Parameter(tensor(DType.BOOL), "c")
    body = Graph([number, goes_on], [goes_on, number])
    start = Parameter(tensor(DType.BOOL), "start")
    endless = ops.Loop(scalar(limit, DType.I64), start, bodies=(body,))
    assert turns(endless) == UNKNOWN
    assert turns(ops.Loop(scalar(7, DType.I64), start, bodies=(body,))) == 7


def test_of_branches_the_one_that_sends_most_is_told() -> None:
    """Half of what is handled by a gathering is sent by each of two devices."""
    gathers, reduces = (
        Exchange("AllGather", "x", 2, 1000),
        Exchange("AllReduce", "x", 2, 600),
    )
    told = list(exchanges([InTurns(3, ((gathers,), (reduces,)))]))
    assert told == [(reduces, 3)]


def branch() -> Op:
    """-x or 2 x"""
    then, other = matrix(8, 4), matrix(8, 4)
    bodies = (
        Graph([then], [ops.Neg(then)]),
        Graph([other], [ops.Add(other, other)]),
    )
    return ops.If(Parameter(tensor(DType.BOOL), "c"), matrix(8, 4), bodies=bodies)


def graph_of(op: Op) -> Graph:
    inputs: list[Value] = [
        v for v in op.operands if v is not None and not isinstance(v, ops.Constant)
    ]
    named = [Parameter(v.type, f"x{i}") for i, v in enumerate(inputs)]
    made = op.with_operands(
        [
            dict(zip(inputs, named, strict=True)).get(v, v) if v else v
            for v in op.operands
        ]
    )
    return Graph(named, made.results)


def nested() -> Op:
    """x = if (i < 2) { relu(x w) v } else { x }, three times."""
    number = Parameter(tensor(DType.I64), "i")
    goes_on = Parameter(tensor(DType.BOOL), "c")
    x, w, v = matrix(8, 4), matrix(4, 8), matrix(8, 4)
    then, w0, v0 = matrix(8, 4), matrix(4, 8), matrix(8, 4)
    other, w1, v1 = matrix(8, 4), matrix(4, 8), matrix(8, 4)
    product = ops.MatMul(ops.Relu(ops.MatMul(then, w0)), v0)
    bodies = Graph([then, w0, v0], [product]), Graph([other, w1, v1], [other])
    few = ops.Less(number, scalar(2, DType.I64))
    made = ops.If(few, x, w, v, bodies=bodies)
    body = Graph([number, goes_on, x, w, v], [goes_on, made])
    given = matrix(8, 4), matrix(4, 8), matrix(8, 4)
    return ops.Loop(scalar(3, DType.I64), None, *given, bodies=(body,), captures=2)


def inputs_of(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        p.name: rng.normal(size=p.shape).astype(p.dtype.numpy)  # type: ignore[arg-type, union-attr]
        for p in graph.inputs
    }


@pytest.mark.parametrize("make", [scan, loop, branch, nested])
def test_every_way_gives_the_whole(make: Callable[[], Op]) -> None:
    graph = graph_of(make())
    (op,) = (op for op in graph.ops if op.bodies)
    inputs = inputs_of(graph)
    whole = run(graph, inputs)
    found = choices(op, MESH)
    assert any(Split(0) in c.results[0] for c in found)
    assert any(all(isinstance(s, Split) for s in c.results[0]) for c in found)
    for choice in found:
        program = partition(graph, MESH, Decisions({op: choice}))
        for name, array in oracle.run(program, inputs).items():
            np.testing.assert_allclose(array, whole[name], rtol=1e-5, atol=1e-6)


def exchanged(graph: Graph) -> list[str]:
    """The collectives of bodies."""
    inner = [op for _, op in graph.walk() if op not in graph.ops]
    return [op.kind for op in inner if isinstance(op, OverMesh) and op.communicates]


def test_parts_of_a_batch_go_through_without_exchanges() -> None:
    graph = graph_of(scan())
    (op,) = (op for op in graph.ops if op.bodies)
    batch = (Split(0), Split(0))
    choice = next(c for c in choices(op, MESH) if c.operands[0] == batch)
    assert choice.operands[2] == (R, R)
    assert not exchanged(partition(graph, MESH, Decisions({op: choice})).graph)


def test_a_split_weight_takes_one_exchange_a_turn() -> None:
    graph = graph_of(scan())
    (op,) = (op for op in graph.ops if op.bodies)
    line = Mesh.parse("4")
    found = [c for c in choices(op, line) if isinstance(c.operands[2][0], Split)]
    assert found
    for choice in found:
        program = partition(graph, line, Decisions({op: choice}))
        assert len(exchanged(program.graph)) == 1


def test_what_no_turn_changes_is_not_gathered_in_each() -> None:
    for make in (scan, nested):
        graph = graph_of(make())
        (op,) = (op for op in graph.ops if op.bodies)
        for choice in choices(op, MESH):
            program = partition(graph, MESH, Decisions({op: choice}))
            (local,) = (op for op in program.graph.ops if op.bodies)
            (body,) = local.bodies
            kept = body.inputs[-int(local.captures) :]
            for each in body.ops:
                assert not (isinstance(each, OverMesh) and each.operands[0] in kept)


def recurrent(hidden: int) -> Graph:
    """h = tanh(h w + x[t]), the weight inside."""
    state, slice_ = matrix(4, hidden), matrix(4, hidden)
    rng = np.random.default_rng(0)
    weight = ops.Constant(rng.normal(size=(hidden, hidden)).astype(np.float32) / hidden)
    new = ops.Tanh(ops.Add(ops.MatMul(state, weight), slice_))
    body = Graph([state, slice_], [new, new], names={weight: "w"})
    return graph_of(
        ops.Scan(
            matrix(4, hidden), matrix(6, 4, hidden), bodies=(body,), num_scan_inputs=1
        )
    )


def test_weights_of_bodies_are_captured() -> None:
    graph = recurrent(16)
    made = captured(graph)
    (weight,) = (op for op in made.ops if isinstance(op, ops.Constant))
    assert made.names[weight] == "w"
    inputs = inputs_of(graph)
    for name, array in run(graph, inputs).items():
        np.testing.assert_array_equal(run(made, inputs)[name], array)
    assert captured(made).key == made.key


def test_few_numbers_stay_inside() -> None:
    made = captured(recurrent(8))
    (op,) = (op for op in made.ops if op.bodies)
    assert not op.captures


@pytest.mark.parametrize("mesh", ["4", "2x2"])
def test_a_weight_too_large_for_a_device_stays_split(mesh: str) -> None:
    graph = recurrent(64)
    made = shard(graph, mesh, "xla-cpu", max_memory=16_000)
    assert exchanged(made.program.graph)
    inputs = inputs_of(graph)
    whole = run(graph, inputs)
    for name, array in oracle.run(made.program, inputs).items():
        np.testing.assert_allclose(array, whole[name], rtol=1e-5, atol=1e-6)
    step = step_seconds(made.program, made.machine)
    assert made.plan is not None
    assert sum(step.values()) == pytest.approx(made.plan.seconds, rel=1e-3)
    (kind,) = set(exchanged(made.program.graph))
    sent = made.plan.sent[kind]
    (local,) = (op for op in made.program.graph.ops if op.bodies)
    (inner,) = (
        op for op in local.bodies[0].ops if isinstance(op, OverMesh) and op.communicates
    )
    assert sent >= 6 * wire_bytes(kind, int(inner.ways), handled_bytes(inner))
    again = restored(made.graph, made.kept)
    assert again is not None
    assert partition(made.graph, made.machine.mesh, again.decisions).graph.key == (
        partition(made.graph, made.machine.mesh, made.decisions).graph.key
    )


def test_turns_that_differ_are_told() -> None:
    number = Parameter(tensor(DType.I64), "i")
    goes_on, x = Parameter(tensor(DType.BOOL), "c"), matrix(2, 4)
    fewer = ops.Less(number, Position(axis="x", ways=2))
    new = AllReduce(x, axis="x", ways=2, combiner="sum")
    body = Graph([number, goes_on, x], [fewer, new])
    start = matrix(2, 4)
    made = ops.Loop(scalar(5, DType.I64), None, start, bodies=(body,))
    local = Graph([start], made.results)
    program = Program(Mesh.parse("2"), local, ((R,),), ((R,),))
    with pytest.raises(EvaluationFailed, match="same turns"):
        oracle.run(program, {start.name: np.ones((2, 4), np.float32)})


@pytest.mark.parametrize(
    "seeds", [range(3), pytest.param(range(3, 40), marks=pytest.mark.slow)]
)
def test_random_plans_of_loops_give_the_whole(seeds: range) -> None:
    meshes = ("2", "4", "2x2", "2x4")
    for seed in seeds:
        found = judged(looped(seed), seed, meshes[seed % len(meshes)])
        assert found is not None
        assert found.right, (seed, found.what)
