"""The best along a dim that devices share out, equals and NaN among them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt import ops
from graphopt.index import Split
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops.bodies import vector
from graphopt.passes.sharding.choices import choices
from graphopt.passes.sharding.mesh import Mesh
from graphopt.passes.sharding.oracle import run
from graphopt.passes.sharding.partition import Decisions, partition
from graphopt.reference import run as reference
from graphopt.types import DType, tensor

X = Parameter(tensor(DType.F32, 3, 8), "x")

CHOOSING: list[Any] = [
    lambda: ops.TopK(X, vector(2), outs=2),
    lambda: ops.TopK(X, vector(7), axis=1, largest=0, outs=2),
    lambda: ops.TopK(X, vector(5), axis=-1, sorted=0, outs=2),
    lambda: ops.ArgMax(X, axis=1),
    lambda: ops.ArgMax(X, axis=-1, keepdims=0, select_last_index=1),
    lambda: ops.ArgMin(X, axis=1, keepdims=0),
]


@pytest.mark.parametrize("made", CHOOSING)
@pytest.mark.parametrize("mesh", [Mesh.parse("2"), Mesh.parse("2x2"), Mesh.parse("8")])
def test_the_best_of_the_parts_is_the_best_of_all(made: Any, mesh: Mesh) -> None:
    op: Op = made().op
    split = (Split(1),) * len(mesh.axes)
    (choice,) = [c for c in choices(op, mesh) if c.operands[0] == split]
    results: list[Value] = list(op.results)
    graph = Graph([X], results, output_names=[f"y{i}" for i in range(len(results))])
    program = partition(graph, mesh, Decisions({op: choice}, {X: split}))
    rng = np.random.default_rng(0)
    odd = rng.choice([np.nan, -np.inf, np.inf, -0.0, 0.0, 1.0], (3, 8))
    for x in (
        rng.normal(size=(3, 8)),
        rng.integers(0, 3, (3, 8)),
        odd,
        np.full((3, 8), 2),
    ):
        array = x.astype(np.float32)
        found, whole = run(program, {"x": array}), reference(graph, {"x": array})
        for name, expected in whole.items():
            np.testing.assert_array_equal(found[name], expected)
