"""What a step is, and what of its caches the next one finds elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt import ops
from graphopt.dims import symbol
from graphopt.index import Replicated, Split
from graphopt.ir import Graph, Parameter
from graphopt.mesh_regimes import (
    Regime,
    dims_of_regimes,
    regime,
    regime_facts,
    regime_lines,
)
from graphopt.passes.sharding import Mesh
from graphopt.passes.sharding.caches import caches
from graphopt.passes.sharding.layout import Layout
from graphopt.passes.sharding.machine import Machine
from graphopt.passes.sharding.planner import Planner
from graphopt.sharded import Sharded
from graphopt.types import DType, TensorType, tensor


def cached(tokens: object, past: object) -> Graph:
    """New keys behind those of the past."""
    shape = (2, 8, tokens, 16)
    x = Parameter(TensorType(DType.F32, shape), "x")  # type: ignore[arg-type]
    old = Parameter(TensorType(DType.F32, (2, 8, past, 16)), "old")  # type: ignore[arg-type]
    made = ops.Concat(old, ops.Relu(x), axis=2)
    return Graph([x, old], [made], output_names=["new"])


def attention(causal: bool) -> Graph:
    """Of ids that are looked up; as exporters write it, with a mask that is added."""
    ids = Parameter(tensor(DType.I64, 2, 6), "ids")
    table = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    x = ops.Gather(ops.Constant(table), ids, axis=0)
    scores = ops.MatMul(x, ops.Transpose(x, perm=(0, 2, 1)))
    hidden = np.triu(np.full((6, 6), -np.inf, np.float32), 1)
    if causal:
        scores = ops.Add(scores, ops.Constant(hidden))
    made = ops.MatMul(ops.Softmax(scores, axis=-1), x)
    return Graph([ids], [made], output_names=["y"])


@pytest.mark.parametrize(
    ("graph", "found"),
    [
        (cached(1, 32), Regime("decode", 1, 32)),
        (cached(4, 32), Regime("prefill", 4, 32)),
        (cached(4, 0), Regime("prefill", 4, 0)),
        (cached(1, 0), Regime("prefill", 1, 0)),
        (attention(causal=True), Regime("prefill", 6)),
        (attention(causal=False), Regime("other")),
    ],
)
def test_the_regime_of_a_graph(graph: Graph, found: Regime) -> None:
    assert regime(graph) == found


def test_a_buffer_that_is_written_into() -> None:
    def writing(tokens: int) -> Graph:
        ids = Parameter(tensor(DType.I64, 2, tokens), "ids")
        buffer = Parameter(tensor(DType.F32, 2, 4, 16, 8), "buffer")
        table = ops.Constant(np.ones((20, 8), np.float32))
        row = ops.Unsqueeze(ops.Gather(table, ids, axis=0), ops.Constant(np.array([1])))
        new = ops.Expand(row, ops.Constant(np.array([2, 4, tokens, 8])))
        at = Parameter(tensor(DType.I64, 2), "at")
        made = ops.TensorScatter(buffer, new, at, axis=2)
        return Graph([ids, buffer, at], [made], output_names=["written"])

    assert regime(writing(1)) == Regime("decode", 1)
    assert regime(writing(5)) == Regime("prefill", 5)


def test_sizes_of_both_regimes() -> None:
    both = cached(symbol("tokens"), symbol("past"))
    sizes = {"decode": {"tokens": 1}, "prefill": {"tokens": 128}}
    assert dims_of_regimes(both) == sizes
    assert dims_of_regimes(cached(1, symbol("past"))) == {}


def planned(**ends: Layout) -> Sharded:
    graph = cached(1, 32)
    machine = Machine.of("h100", Mesh.parse("2"))
    outputs = {"new": ends["new"]} if "new" in ends else None
    ties = () if outputs else [cache.names for cache in caches(graph)]
    planner = Planner(
        graph, machine, inputs={"old": ends["old"]}, outputs=outputs, ties=ties
    )
    plan = planner.plan()
    kept = caches(graph)
    return Sharded(graph, machine, plan.decisions, plan, None, planner, kept)


def test_what_the_next_step_would_move_is_told() -> None:
    tied = planned(old=(Split(1),))
    found = regime_facts(tied)["cache"]
    assert found == {
        "count": 1,
        "bytes": 2 * 8 * 33 * 16 * 4 // 2,
        "whole_bytes": 2 * 8 * 33 * 16 * 4,
        "apart": 0,
        "moved_seconds": 0,
        "replaced": [],
    }
    assert "finds it" in "\n".join(regime_lines(regime_facts(tied)))
    apart = regime_facts(planned(old=(Split(1),), new=(Split(0),)))
    assert apart["cache"]["apart"] == 1
    exchange = apart["cache"]["moved_seconds"]
    gathered = regime_facts(planned(old=(Replicated(),), new=(Split(0),)))["cache"]
    assert 0 < exchange < gathered["moved_seconds"]
    assert "which no plan counts" in "\n".join(regime_lines(apart))
