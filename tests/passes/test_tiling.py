"""Regions in tiles: the same results, whatever is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from equations import graph_of, param, random
from hypothesis import HealthCheck, given, settings, strategies as st
from tiled_regions import (
    CASES,
    MERGED,
    attention,
    checked,
    counts,
    everything,
    mlp,
    tiled,
)

from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Op, Value
from graphopt.lowering import find
from graphopt.ops import Conv, GroupNormalization, Tiled
from graphopt.passes.memory import SPACES
from graphopt.passes.tiling.needs import Meter
from graphopt.passes.tiling.splice import Spliced
from graphopt.passes.tiling.tiles import in_tiles, tile
from graphopt.plan import Plan
from graphopt.reference import evaluate
from graphopt.rewrite import Miss
from graphopt.substitution import substitute
from graphopt.testing.strategies import graphs


@pytest.mark.parametrize("name", [*CASES, *MERGED])
def test_tiles_are_the_whole(name: str) -> None:
    case = {**CASES, **MERGED}[name]()
    checked(case[0], tiled(case))


def test_an_op_told_of_groups_takes_no_part_of_them() -> None:
    x = param("x", 1, 6, 4)
    y = GroupNormalization(x, random(6), random(6), num_groups=3)
    made = tile(graph_of(y), [y], y, 1, 2)
    assert isinstance(made, Miss)


@pytest.mark.parametrize("target", ["ort-cpu", "xla-cpu"])
@pytest.mark.parametrize("name", [*CASES, *MERGED])
def test_targets_run_the_tiles(name: str, target: str) -> None:
    pytest.importorskip("onnxruntime" if target == "ort-cpu" else "jax")
    case = {**CASES, **MERGED}[name]()
    graph = case[0].with_header(opsets={"": 23})
    fed = random_inputs(graph, seed=2)
    made = tiled((graph, *case[1:]))
    results = find(target).compile(made, Plan())(fed)
    for a, b in zip(evaluate(graph, fed), results.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_equal_tiles_are_one_body_and_the_rest_is_by_itself() -> None:
    assert counts(tiled(mlp(5))) == [2]
    made = tiled(mlp(3))
    assert counts(made) == [3]
    assert made.ops[-1].kind == "Concat"


def test_borders_are_by_themselves() -> None:
    image = param("image", 1, 1, 32)
    y = Conv(image, random(1, 1, 3), pads=(1, 1))
    made = tiled((graph_of(y), y, 2, 4))
    assert counts(made) == [6]
    assert sum(op.kind == "Conv" for op in made.ops) == 2


def test_what_does_not_depend_on_the_tile_is_computed_once() -> None:
    graph, value, dim, size = attention(2, 4)
    made = tiled((graph, value, dim, size))
    (op,) = (op for op in made.ops if isinstance(op, Tiled))
    assert any(op.kind == "Transpose" for op in made.ops)
    assert all(inner.kind != "Transpose" for inner in op.bodies[0].ops)


@pytest.mark.parametrize("name", [*CASES, *MERGED])
def test_what_tiles_need_is_known_before_they_are_built(name: str) -> None:
    graph, value, dim, size = {**CASES, **MERGED}[name]()
    new = in_tiles(graph, everything(graph), value, dim, size)
    assert not isinstance(new, Miss)
    for space in ("onnx", "xla-cpu"):
        meter = Meter({}, SPACES[space])
        before, made = meter.needs(graph), substitute(graph, new)
        foreseen, found = Spliced(before, new), meter.needs(made)
        assert list(foreseen.steps) == list(found.steps)
        assert foreseen.flops == meter.flops(made) - meter.flops(graph)
        assert len(foreseen.fresh) - len(foreseen.gone) == len(made.ops) - len(
            graph.ops
        )


# --- at random ----------------------------------------------------------------------


@st.composite
def regions(draw: st.DrawFn) -> tuple[Graph, list[Op], Value, int, int]:
    """A random graph, some of its ops, and a dim of a value to cut."""
    graph = draw(graphs(max_ops=10))
    values = [
        v
        for op in everything(graph)
        for v in (*op.operands, *op.results)
        if v is not None and any(isinstance(d, int) and d > 1 for d in v.shape or ())
    ]
    ops = everything(graph)
    if not values or not ops:
        return graph, [], graph.outputs[0], 0, 1
    value = draw(st.sampled_from(values))
    shape: Sequence[Any] = value.shape or ()
    long = [i for i, d in enumerate(shape) if isinstance(d, int) and d > 1]
    dim = draw(st.sampled_from(long))
    near = [op for op in ops if value in op.operands or value.op is op]
    first = draw(st.integers(0, len(ops) - 1))
    last = draw(st.integers(first, len(ops) - 1))
    region = draw(st.sampled_from([ops, near, ops[first : last + 1]]))
    return graph, region, value, dim, draw(st.integers(1, shape[dim] - 1))


FOUND: list[bool] = []


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(regions())
def test_random_regions(drawn: tuple[Graph, list[Op], Value, int, int]) -> None:
    graph, region, value, dim, size = drawn
    made = tile(graph, region, value, dim, size) if region else None
    FOUND.append(isinstance(made, Graph))
    if isinstance(made, Graph):
        checked(graph, made)
    elif made is not None:
        assert isinstance(made, Miss)
        assert made.reason


def test_enough_random_regions_are_tiled() -> None:
    assert sum(FOUND) > 60, f"{sum(FOUND)} of {len(FOUND)}: the property says little"
