"""Limits that are far below what any op takes: no plans are made of their tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from graphopt import ops
from graphopt.fitted import FAR, Limits
from graphopt.ir import Graph, Parameter
from graphopt.passes.tiling import Tile
from graphopt.savings import Savings
from graphopt.types import DType, TensorType


def _joined() -> Graph:
    """Of what is wide a softmax is made over rows, and all of it is read at once."""
    x = Parameter(TensorType(DType.F32, (256, 16)), "x")
    up = Parameter(TensorType(DType.F32, (16, 256)), "up")
    wide = ops.Softmax(ops.MatMul(x, up), axis=-1)
    return Graph([x, up], [ops.MatMul(ops.Transpose(wide, perm=[1, 0]), wide)])


@pytest.fixture
def savings() -> Callable[[Graph], Savings]:
    def of(graph: Graph) -> Savings:
        def remade(tile: Tile) -> Graph:
            return tile(graph)

        return Savings(graph, {}, "ort-cpu", remade, None, rounding=True)

    return of


def _planned(savings: Savings, limit: int, **how: Any) -> list[int]:
    tried = savings.towards(Limits(activations=limit), **how)
    return [each.plan.lower_bound for each in tried if each.tile is not None]


def test_tiles_are_planned_unless_one_op_is_far_over_the_limit(
    savings: Callable[[Graph], Savings],
) -> None:
    graph = _joined()
    made = savings(graph)
    least = min(_planned(made, 1, however_far=True))
    assert not _planned(savings(graph), 64)
    assert _planned(savings(graph), least)
    assert least > FAR * 64


def test_the_least_is_the_same_whatever_was_asked_before(
    savings: Callable[[Graph], Savings],
) -> None:
    graph = _joined()
    found = {
        savings(graph).least(Limits(activations=limit)).activations
        for limit in (1, 64, 4096)
    }
    asked = savings(graph)
    [*asked.towards(Limits(activations=64))]
    found.add(asked.least(Limits(activations=64)).activations)
    assert len(found) == 1
