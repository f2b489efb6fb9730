"""Limits of memory for ONNX Runtime on a GPU: an arena that grows by what is asked for.

No GPU is needed: the runtime's arena is the same on a CPU, where one grows so, too.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt import ops
from graphopt.fitted import Fitted
from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Parameter, Value
from graphopt.lowering.ort.advice import recipe
from graphopt.lowering.ort.recipe import Recipe
from graphopt.plan import METADATA_KEY
from graphopt.types import DType, tensor


def wide(seed: int, branches: int = 5) -> Graph:
    """Branches of many sizes from one value, each with a product that has weights."""
    rng = random.Random(seed)
    x = Parameter(tensor(DType.F32, 32, 64), "x")
    noise = np.random.default_rng(seed)
    ends: list[Value] = []
    for _ in range(branches):
        wide, narrow = rng.randint(64, 512), rng.randint(8, 64)
        first = noise.normal(size=(64, wide)).astype(np.float32)
        second = noise.normal(size=(wide, narrow)).astype(np.float32)
        y = ops.Sigmoid(ops.MatMul(x, ops.Constant(first)))
        ends.append(ops.MatMul(y, ops.Constant(second)))
    return Graph([x], [ops.Concat(*ends, axis=1)])


def conv() -> Graph:
    x = Parameter(tensor(DType.F16, 1, 32, 32, 32), "x")
    weight = ops.Constant(np.ones((32, 32, 3, 3), np.float16))
    return Graph([x], [ops.Relu(ops.Conv(x, weight, pads=(1, 1, 1, 1)))])


def fitted(graph: Graph, **limit: Any) -> tuple[Fitted, graphopt.Result]:
    """Within a limit of memory, and not yet run."""
    made = graphopt.optimize(graph, target="ort-cuda", check="off", **limit)
    assert made.report.memory is not None
    return made.report.memory, made


@pytest.mark.parametrize("seed", range(2))
def test_a_gpu_is_told_what_it_may_take_and_takes_no_more(
    seed: int, tmp_path: Path
) -> None:
    """With three quarters of the activations that a graph takes by itself.

    On a CPU inputs and weights lie outside; 5 % less of the rest is too little.
    """
    graph, path = wide(seed), tmp_path / "model.onnx"
    free, _ = fitted(graph, max_memory="1TB")
    limit = free.beside + 3 * free.activations // 4
    memory, made = fitted(graph, max_memory=limit)
    made.save(path)
    assert memory.plan.peak < memory.activations
    assert memory.resident <= limit
    assert METADATA_KEY not in graphopt.load(path).header.metadata
    told = Recipe.beside(path)
    assert told is not None
    assert int(told.options["gpu_mem_limit"]) == limit
    assert told.options["arena_extend_strategy"] == "kSameAsRequested"
    assert told.session["execution_order"] == "PRIORITY_BASED"
    pytest.importorskip("onnxruntime", minversion="1.32")
    feeds = random_inputs(made.graph, seed)
    apart = [*feeds.values(), *made.graph.tensors()]
    outside = sum(array.nbytes for array in apart)
    assert runs_in(path, told, feeds, limit - outside)
    short = memory.resident - memory.activations // 20 - outside
    assert not runs_in(path, told, feeds, short)


def runs_in(path: Path, told: Recipe, feeds: dict[str, Any], size: int) -> bool:
    """Whether ONNX Runtime runs a model in an arena of a CPU that grows as told."""
    arena = {
        "arena_extend_strategy": told.options["arena_extend_strategy"],
        "max_mem": size,
    }
    plain = {"session.disable_prepacking": "1"}  # a GPU has no such copies
    opened = Recipe(session=told.session, config=plain, arena=arena)
    session = graphopt.session(path, recipe=opened, threads=1)
    try:
        session(feeds)
        session(feeds)
    except graphopt.GraphoptError:
        return False
    return True


def test_tiles_are_no_finer_than_a_limit_needs() -> None:
    """One wide product, in few tiles; budgets near the peak are out of their reach."""
    graph = wide(0, 8)
    free, _ = fitted(graph, max_activations="1TB")
    ops = []
    for share in (0.9, 0.5):
        memory, _ = fitted(graph, max_activations=int(share * free.activations))
        assert memory.fits
        ops.append(memory.ops)
    few, more = ops
    assert few < 2 * free.ops
    assert few < more < 12 * free.ops


def test_weights_count_as_an_arena_rounds_them_up() -> None:
    x = Parameter(tensor(DType.F32, 1), "x")
    y: Value = x
    for i in range(40):
        y = ops.Mul(ops.Sin(y), ops.Constant(np.full(1, i + 0.5, np.float32)))
    made = graphopt.optimize(Graph([x], [y]), target="ort-cuda", max_memory="1MB")
    assert made.report.memory is not None
    assert made.report.memory.resident > 40 * 256


def test_what_is_not_foreseen_is_told() -> None:
    made = graphopt.optimize(conv(), target="ort-cuda", max_activations="1MB")
    assert made.report.memory is not None
    assert any("cuDNN" in line for line in made.report.memory.lines())


def test_no_algorithms_are_tried_where_memory_is_short() -> None:
    free, held = recipe(conv(), "cuda"), recipe(conv(), "cuda", memory=1 << 28)
    assert free.options["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    assert held.options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert "prefer_nhwc" not in recipe(conv(), "cuda", ordered=True).options
