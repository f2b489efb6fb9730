"""Group norms are said by instance norms, for which ONNX Runtime has a kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equations import N, graph_of, kinds, misses, param, random, rewritten

from graphopt import optimize
from graphopt.inputs import random_inputs
from graphopt.lowering import find
from graphopt.lowering.ort.group_norms import by_instances
from graphopt.ops import GroupNormalization
from graphopt.plan import Plan
from graphopt.reference import evaluate
from graphopt.types import DType

OPSET = 21


def group_norm(
    *shape: Any, dtype: DType = DType.F32, **attrs: Any
) -> GroupNormalization:
    x = param("x", *shape, dtype=dtype)
    gain, bias = (random(shape[1], seed=seed, dtype=dtype) for seed in (1, 2))
    return GroupNormalization(x, gain, bias, num_groups=2, epsilon=0.01, **attrs)


@pytest.mark.parametrize("shape", [(2, 6, 5), (N, 6, 4, 3), (1, 6, N, 1, 2)])
def test_groups_are_instances(shape: tuple[Any, ...]) -> None:
    """What is computed is the same: `rewritten` runs both."""
    done = rewritten(by_instances, group_norm(*shape), opset=OPSET)
    assert "InstanceNormalization" in kinds(done)
    assert "GroupNormalization" not in kinds(done)


def test_other_types_stay() -> None:
    narrow = group_norm(1, 6, 4, dtype=DType.F16)
    misses(by_instances, narrow, "another type", opset=OPSET)
    wide = group_norm(1, 6, 4, stash_type=DType.F64.value)
    misses(by_instances, wide, "another type", opset=OPSET)


@pytest.mark.parametrize(
    ("target", "fuse", "kept"),
    [("ort-cpu", "auto", False), ("ort-cpu", "max", True), ("onnx", "auto", True)],
)
def test_by_default(target: str, fuse: Any, kept: bool) -> None:
    graph = graph_of(group_norm(1, 6, 4, 4), opset=OPSET)
    done = optimize(graph, target, fuse=fuse, check="off").graph
    assert ("GroupNormalization" in kinds(done)) == kept


@pytest.mark.runtime
def test_the_kernel_gives_what_the_op_does() -> None:
    pytest.importorskip("onnxruntime")
    graph = graph_of(group_norm(2, 6, 9, 7), opset=OPSET)
    made = optimize(graph, "ort-cpu", check="off").graph
    inputs = random_inputs(graph)
    (found,) = find("ort-cpu").compile(made, Plan())(inputs).values()
    (wanted,) = evaluate(graph, inputs)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
