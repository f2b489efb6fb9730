"""Ops with bodies on a mesh: parts of batches go through them, without collectives."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt import ops
from graphopt.index import Replicated, Split
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops.bodies import scalar
from graphopt.passes.sharding import Decisions, Mesh, choices, oracle, partition
from graphopt.reference import run
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


@pytest.mark.parametrize("make", [scan, loop, branch])
def test_every_way_gives_the_whole(make: object) -> None:
    graph = graph_of(make())  # type: ignore[operator]
    (op,) = (op for op in graph.ops if op.bodies)
    rng = np.random.default_rng(0)
    inputs = {
        p.name: rng.normal(size=p.shape).astype(p.dtype.numpy)  # type: ignore[arg-type, union-attr]
        for p in graph.inputs
    }
    whole = run(graph, inputs)
    found = choices(op, MESH)
    assert any(Split(0) in c.results[0] for c in found)
    assert any(all(isinstance(s, Split) for s in c.results[0]) for c in found)
    for choice in found:
        program = partition(graph, MESH, Decisions({op: choice}))
        assert not any(o.communicates for o in _inside(program.graph))
        for name, array in oracle.run(program, inputs).items():
            np.testing.assert_allclose(array, whole[name], rtol=1e-5, atol=1e-6)


def _inside(graph: Graph) -> list[ops.mesh.OverMesh]:
    """The mesh ops of bodies."""
    return [
        op
        for _, op in graph.walk()
        if isinstance(op, ops.mesh.OverMesh) and op not in graph.ops
    ]


def test_what_a_loop_mixes_is_not_split() -> None:
    op = scan()
    assert all(c.operands[2] == (R, R) for c in choices(op, MESH))  # the weight
    assert all(Split(1) not in c.results[0] for c in choices(op, MESH))
