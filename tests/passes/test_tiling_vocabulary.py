"""Heads over a vocabulary go by positions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from equations import graph_of, ints, param, random
from tiled_regions import checked

from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Parameter, Value
from graphopt.ops import (
    Add,
    ArgMax,
    GatherElements,
    LogSoftmax,
    MatMul,
    ReduceMax,
    Reshape,
    Softmax,
    SoftmaxCrossEntropyLoss,
    TopK,
)
from graphopt.passes import Tile
from graphopt.passes.memory import SPACES
from graphopt.passes.tiling.needs import Meter
from graphopt.reference import evaluate
from graphopt.rewrite import Log
from graphopt.types import DType, tensor

POSITIONS, CLASSES = 64, 512


def of_the_largest(logits: Value, labels: Value) -> list[Value]:
    return [ArgMax(logits, axis=-1, keepdims=0), ReduceMax(logits, ints(-1))]


def of_five(logits: Value, labels: Value) -> list[Value]:
    return list(TopK(Softmax(logits), ints(5)).results)


def of_labels(logits: Value, labels: Value) -> list[Value]:
    at = Reshape(labels, ints(1, POSITIONS, 1))
    return [GatherElements(LogSoftmax(logits), at, axis=2)]


def of_a_loss(logits: Value, labels: Value) -> list[Value]:
    rows = Reshape(logits, ints(POSITIONS, CLASSES))
    flat = Reshape(labels, ints(POSITIONS))
    return [SoftmaxCrossEntropyLoss(rows, flat, ignore_index=3)]


@pytest.mark.parametrize("head", [of_the_largest, of_five, of_labels, of_a_loss])
def test_heads_over_a_vocabulary_go_by_positions(
    head: Callable[[Value, Value], list[Value]],
) -> None:
    """All scores of all positions are never there at once; what is kept is exact."""
    h = param("h", 1, POSITIONS, 8)
    labels = Parameter(tensor(DType.I64, 1, POSITIONS), "labels")
    graph = Graph([h, labels], head(MatMul(h, random(8, CLASSES)), labels))
    meter = Meter({})
    whole = meter.needs(graph).peak
    made = Tile(budget=whole // 6)(graph)
    assert meter.needs(made).peak <= whole // 6
    fed = random_inputs(graph, seed=1)
    fed["labels"] = np.arange(POSITIONS)[None] % CLASSES
    for old, new in zip(evaluate(graph, fed), evaluate(made, fed), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)


def test_scores_before_a_bias_go_by_positions_though_two_tiles_need_more() -> None:
    h = param("h", 1, 64, 8)
    graph = graph_of(Add(MatMul(h, random(8, 200)), random(200)))
    meter = Meter({}, SPACES["xla-cpu"])
    whole = meter.needs(graph).peak
    made = Tile(budget=whole // 3, target="xla-cpu")(graph)
    assert meter.needs(made).peak <= whole // 3
    checked(graph, made)


def test_logits_that_are_outputs_are_told_apart() -> None:
    log = Log()
    logits = MatMul(param("h", 1, POSITIONS, 8), random(8, CLASSES))
    graph = graph_of(logits)
    assert Tile(budget=1000).run(graph, log) is graph
    assert log.notes == [
        f"{4 * POSITIONS * CLASSES} bytes are outputs, which no tiles make fewer"
    ]
