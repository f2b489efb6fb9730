"""What is kept while a limit is searched for: tiles of regions, plans of graphs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from graphopt import ops
from graphopt.errors import GraphoptError
from graphopt.ir import Graph, Parameter, Value
from graphopt.limits import counting
from graphopt.lowering.meters import Child
from graphopt.lowering.ort import executed
from graphopt.passes.tiling import Tile, known
from graphopt.passes.tiling.tiles import in_tiles
from graphopt.plan import Plan
from graphopt.types import DType, TensorType


def _layers(count: int) -> Graph:
    """What is wide takes 256 KiB in each."""
    x = h = Parameter(TensorType(DType.F32, (256, 16)), "x")
    up = Parameter(TensorType(DType.F32, (16, 256)), "up")
    down = Parameter(TensorType(DType.F32, (256, 16)), "down")
    for _ in range(count):
        h = ops.MatMul(ops.Softmax(ops.MatMul(h, up), axis=-1), down)
    return Graph([x, up, down], [h])


def test_graphs_of_equal_tiles_have_the_same_outputs() -> None:
    """By which limits tell whether one was planned before."""
    graph = _layers(3)
    made = [Tile(budget=budget)(graph) for budget in (100_000, 100_001, 250_000)]
    assert made[0].outputs == made[1].outputs
    assert graph.outputs not in [each.outputs for each in made]


@pytest.mark.parametrize("budgets", [[250_000, 90_000], [70_000, 200_000, 70_001]])
def test_what_is_known_of_other_budgets_changes_no_tiles(budgets: list[int]) -> None:
    graph, kept = _layers(4), Tile()
    for budget in budgets:
        alone = Tile(budget=budget)(graph)
        assert replace(kept, budget=budget)(graph).outputs == alone.outputs


def test_a_cut_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(graph: Graph, region: Any, value: Value, dim: int, size: int) -> Any:
        asked.append(size)
        return in_tiles(graph, region, value, dim, size)

    monkeypatch.setattr(known, "in_tiles", counted)
    tile = Tile(budget=90_000)
    graph = _layers(3)
    first = tile(graph)
    count = len(asked)
    assert count
    assert replace(tile, budget=90_001)(graph).outputs == first.outputs
    assert len(asked) == count


def test_graphs_that_are_called_otherwise_keep_their_names() -> None:
    tile, graph = Tile(budget=90_000), _layers(2)
    renamed = graph.replace(output_names=["second"], name="other").with_header(doc="d")
    assert tile(graph).output_names == graph.output_names
    made = tile(renamed)
    assert (made.output_names, made.name, made.header.doc) == (
        ("second",),
        "other",
        "d",
    )


def test_what_is_known_is_no_option_of_the_pass() -> None:
    tile = Tile(budget=30_000)
    tile(_layers(2))
    assert str(tile) == "tile(budget=30000)"
    assert "known" not in Tile.options()


def test_a_runtime_is_asked_once_even_where_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bool] = []

    def arena_of(graph: Graph, *_: object, layouts: bool, child: Child) -> list[int]:
        asked.append(layouts)
        if layouts:
            raise GraphoptError("it cannot be asked")
        return [7, 5]

    monkeypatch.setattr(executed, "arena_of", arena_of)
    graph = _layers(1)
    plain = Plan(order=graph.ops, whole={"layouts": False})
    again = Plan(order=graph.ops, whole={"layouts": False, "reuse": True})
    with counting("ort-cpu") as counter:
        assert counter is not None
        for _ in range(2):
            with pytest.raises(GraphoptError, match="cannot be asked"):
                counter(graph, {}, Plan(order=graph.ops))
        assert [counter(graph, {}, each) for each in (plain, again)] == [7, 5]
    assert asked == [True, False]
