"""Layers that do the same are cut in one step."""

from __future__ import annotations

from collections.abc import Sequence

from equations import graph_of, param, random
from tiled_regions import checked, counts

from graphopt.ir import Graph, Value
from graphopt.ops import Add, Gelu, MatMul, Mul, Relu
from graphopt.passes import Tile
from graphopt.passes.tiling.follow import Followed, follow
from graphopt.passes.tiling.needs import Meter
from graphopt.passes.tiling.twins import twins
from graphopt.rewrite import Log


def layers(count: int, widths: Sequence[int]) -> tuple[Graph, list[Value]]:
    """Blocks that mix positions, and of them units; all read one mask."""
    h: Value = param("h", 1, 64, 8)
    mask, hidden = param("mask", 1, 64, 1), list[Value]()
    mixed = random(64, 64)
    for i in range(count):
        width = widths[i % len(widths)]
        hidden.append(Gelu(MatMul(Mul(h, mask), random(8, width))))
        h = Add(MatMul(mixed, h), MatMul(hidden[-1], random(width, 8)))
    return graph_of(h), hidden


def test_equal_layers_are_cut_in_one_step() -> None:
    graph, _ = layers(6, [128])
    meter, log = Meter({}), Log()
    budget = meter.needs(graph).peak // 3
    made = Tile(budget=budget).run(graph, log)
    assert meter.needs(made).peak <= budget
    assert len(log.notes) == 1
    assert log.notes[0].startswith("6 x ")
    assert len(set(counts(made))) == 1
    checked(graph, made)


def test_twins_are_regions_that_do_the_same_elsewhere() -> None:
    graph, hidden = layers(4, [128, 64])
    (op,) = (user for user, _ in graph.users[hidden[0]])
    region = follow(graph, [hidden[0].op, op], hidden[0], 1)
    assert isinstance(region, Followed)
    found = list(twins(graph, region, hidden[0]))
    assert [value for _, value in found] == [hidden[2]]
    assert {o.kind for o in found[0][0]} == {"Gelu", "MatMul"}
    assert set(found[0][0]).isdisjoint(region.axes)


def test_readers_that_are_not_told_apart_are_no_twins() -> None:
    """One of two equal readers here, one reader there."""
    x, y = param("x", 16, 4), param("y", 16, 4)
    a, b = Relu(x), Relu(y)
    weights = [param(f"w{i}", 4, 3) for i in range(3)]
    outputs = [MatMul(a, weights[0]), MatMul(a, weights[1]), MatMul(b, weights[2])]
    graph = Graph([x, y, *weights], outputs)
    region = follow(graph, [a, outputs[0]], a, 0)
    assert isinstance(region, Followed)
    assert list(twins(graph, region, a)) == []
