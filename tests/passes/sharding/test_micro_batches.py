"""Micro-batches: the parts of a batch, and models that mix samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from real_models import every_model

from graphopt import load, ops, reference
from graphopt.dims import symbol
from graphopt.errors import CheckFailed, GraphoptError, UsageError
from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Parameter, Value
from graphopt.passes.sharding.micro_batches import (
    batch_axes,
    check_micro_batches,
    in_parts,
)
from graphopt.types import DType, tensor
from graphopt.verify import verify

BATCH = symbol("batch")


def graph_of(value: Value, *inputs: Parameter) -> Graph:
    return Graph(inputs, [value], output_names=["y"])


X = Parameter(tensor(DType.F32, 3, BATCH), "x")
BIAS = Parameter(tensor(DType.F32, 3, 1), "bias")


def test_the_batch_is_found_by_its_symbol() -> None:
    graph = graph_of(ops.Add(X, BIAS), X, BIAS)
    assert batch_axes(graph, "batch") == {"x": 1, "y": 1}
    assert batch_axes(graph, "length") == {}


def test_parts_of_a_batch() -> None:
    graph = graph_of(ops.Relu(ops.Add(X, BIAS)), X, BIAS)
    parts = in_parts(graph, "batch", 2, 3)
    verify(parts)
    assert [op.kind for op in parts.ops].count("Relu") == 3
    inputs = random_inputs(graph, 0, {"batch": 6})
    expected = reference.run(graph, inputs)["y"]
    np.testing.assert_array_equal(reference.run(parts, inputs)["y"], expected)
    assert check_micro_batches(graph, "batch").passed


def test_samples_that_are_told_apart_by_nobody() -> None:
    alone = graph_of(ops.Softmax(X, axis=0), X)
    assert check_micro_batches(alone, "batch", size=2).passed
    mixed = graph_of(ops.Softmax(X, axis=1), X)
    with pytest.raises(CheckFailed, match="output 'y'"):
        check_micro_batches(mixed, "batch", size=2)


def test_an_input_that_is_an_output() -> None:
    graph = Graph([X], [X], output_names=["y"])
    parts = in_parts(graph, "batch", 1, 2)
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(reference.run(parts, {"x": x})["y"], x)


def test_an_output_without_a_batch() -> None:
    with pytest.raises(UsageError, match="has no dim 'batch'"):
        in_parts(graph_of(ops.ReduceSum(X), X), "batch", 1, 2)


MIXING = {"vespa__dummy_transformer_mlm"}
"""Models that attend over the batch, for they were built for another order of dims."""


@every_model()
def test_real_models(path: Path) -> None:
    try:
        graph = load(path)
        shapes = [getattr(p.type, "shape", None) or () for p in graph.inputs]
        symbols = {str(dim) for shape in shapes for dim in shape} & {
            *("batch", "batch_size", "N")
        }
        if not symbols:
            pytest.skip("no batch")
        passed = check_micro_batches(graph, symbols.pop()).passed
    except CheckFailed:
        passed = False
    except GraphoptError as error:
        pytest.skip(str(error))
    assert passed == (path.parent.name not in MIXING)
