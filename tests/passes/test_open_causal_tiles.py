"""Causal attention of a length that a run tells, in tiles: right at every length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equations import graph_of, misses, param, random

import graphopt
from graphopt.byte_sizes import parse_size
from graphopt.dims import evaluate as evaluate_dim, symbol
from graphopt.inputs import random_inputs
from graphopt.ir import Graph
from graphopt.lowering import find
from graphopt.lowering.ort.tiling import (
    OPEN_TILES,
    SHORTEST,
    causal_tiles,
    causal_tiles_at,
)
from graphopt.ops import Attention, MatMul, Softmax
from graphopt.ops.schema import LATEST
from graphopt.passes.memory import plan_memory
from graphopt.plan import Plan
from graphopt.reference import evaluate
from graphopt.rewrite import rewrite
from graphopt.types import DType
from graphopt.verify import verify

B, N = symbol("b"), symbol("n")
USUAL = {"n": SHORTEST, "b": 1}
LENGTHS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 31, 64)
"""Below as many as there are tiles, and above, with a remainder of each kind."""

MASKS: dict[str, Any] = {
    "none": None,
    "of keys": (DType.BOOL, (B, 1, 1, N)),
    "of all": (DType.BOOL, (B, 2, N, N)),
    "added": (DType.F32, (N, N)),
    "added to keys": (DType.F32, (1, N)),
}


def attention(mask: str = "none", rank: int = 3, shared: int = 1) -> Graph:
    heads: dict[str, int] = {}
    if rank == 3:
        q = param("q", B, N, 8)
        k, v = (param(name, B, N, 8 // shared) for name in "kv")
        heads = {"q_num_heads": 2, "kv_num_heads": 2 // shared}
    else:
        q = param("q", B, 2, N, 4)
        k, v = (param(name, B, 2 // shared, N, 4) for name in "kv")
    hides = []
    if MASKS[mask] is not None:
        dtype, shape = MASKS[mask]
        hides = [param("m", *shape, dtype=dtype)]
    y = Attention(q, k, v, *hides, is_causal=1, **heads)
    return graph_of(y, inputs=[q, k, v, *hides], opset=LATEST)


def tiled(graph: Graph) -> Graph:
    made = rewrite(graph, [causal_tiles_at(USUAL)])
    verify(made)
    assert sum(isinstance(op, Attention) for op in made.ops) == OPEN_TILES
    return made


@pytest.mark.runtime
@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("mask", MASKS)
def test_tiles_give_the_same_at_every_length(mask: str, rank: int) -> None:
    graph = attention(mask, rank)
    made = tiled(graph)
    assert made.outputs[0].type == graph.outputs[0].type
    session = find("ort-cpu").compile(made, Plan())
    for n in LENGTHS:
        fed = random_inputs(graph, seed=n, sizes={"n": n, "b": 2})
        (truth,) = evaluate(graph, fed, precision="float64")
        (found,) = evaluate(made, fed, precision="float64")
        np.testing.assert_allclose(found, truth, rtol=1e-10, atol=1e-10)
        (real,) = session(fed).values()
        np.testing.assert_allclose(real, truth, rtol=1e-4, atol=1e-5)


def test_heads_may_be_shared() -> None:
    graph = attention("of keys", shared=2)
    made = tiled(graph)
    for n in (1, 6, 17):
        fed = random_inputs(graph, seed=n, sizes={"n": n, "b": 1})
        (truth,) = evaluate(graph, fed, precision="float64")
        (found,) = evaluate(made, fed, precision="float64")
        np.testing.assert_allclose(found, truth, rtol=1e-10, atol=1e-10)


def test_no_tile_has_more_keys_than_its_last_query_sees() -> None:
    made = tiled(attention())
    for n in (*LENGTHS, 1000):
        seen = 0
        for op in made.ops:
            if isinstance(op, Attention):
                sizes = op.sizes()
                assert sizes is not None
                queries, keys = (
                    evaluate_dim(dim, {"n": n}) for dim in (sizes[0][2], sizes[3])
                )
                seen += queries * keys
        share = -(-n // OPEN_TILES)
        starts = [min(i * share, n - share) for i in range(OPEN_TILES)]
        assert seen == sum(share * (start + share) for start in starts)


def test_all_of_them_have_a_size_for_a_plan() -> None:
    plan = plan_memory(tiled(attention("of all")), {"n": 1000, "b": 2})
    assert not plan.unknown


def test_a_length_that_is_usually_short_is_one_tile() -> None:
    (op,) = attention().outputs
    short = causal_tiles_at({"n": SHORTEST - 1, "b": 1})
    misses(short, op, "too short", opset=LATEST)
    misses(causal_tiles_at({"b": 1}), op, "is not known", opset=LATEST)
    misses(causal_tiles, op, "is not known", opset=LATEST)
    other = param("k", B, symbol("m"), 8)
    q = param("q", B, N, 8)
    heads = {"q_num_heads": 2, "kv_num_heads": 2}
    longer = Attention(q, other, other, is_causal=1, **heads)
    misses(causal_tiles_at({**USUAL, "m": SHORTEST}), longer, "not known", opset=LATEST)


def model() -> Graph:
    """Two layers that a limit puts into tiles and strips."""
    x = param("x", B, N, 8)
    h = x
    for _ in range(2):
        h = Attention(h, h, h, is_causal=1, q_num_heads=2, kv_num_heads=2)
    return graph_of(Softmax(MatMul(h, random(8, 8))))


@pytest.mark.runtime
@pytest.mark.parametrize(("limit", "strips"), [("2MiB", 0), ("352KiB", 6)])
def test_limits_take_tiles_and_strips_of_them(limit: str, strips: int) -> None:
    graph = model()
    result = graphopt.optimize(
        graph, "ort-cpu", max_activations=limit, memory_sizes={"n": 600}
    )
    fitted = result.report.memory
    assert fitted is not None
    assert fitted.activations <= parse_size(limit)
    assert not fitted.plan.unknown
    assert sum(op.kind == "Scan" for op in result.graph.ops) == strips
    run = result.compile("ort-cpu")
    for n in (1, 3, 50, 161, 600, *fitted.lapping.values()):
        fed = random_inputs(graph, seed=n, sizes={"n": n, "b": 1})
        (truth,) = evaluate(graph, fed, precision="float64")
        (found,) = run(fed).values()
        np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-5)


def test_a_mask_of_one_row_or_of_all_is_not_cut_where_it_is_not_known_which() -> None:
    q = param("q", B, 2, N, 4)
    mask = param("m", symbol("rows"), N, dtype=DType.BOOL)
    y = Attention(q, q, q, mask, is_causal=1)
    misses(causal_tiles_at(USUAL), y, "whether the mask has rows", opset=LATEST)
    graph = graph_of(y, inputs=[q, mask], opset=LATEST)
    lowered = graphopt.optimize(graph, "ort-cpu", check="off").graph
    assert [op.kind for op in lowered.ops if "Attention" in op.kind] == ["Attention"]
