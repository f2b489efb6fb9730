"""What is chosen among tiles that fit: what costs little, and no more of it."""

from __future__ import annotations

from functools import cache

from equations import graph_of, param, random

from graphopt.cost import graph_flops
from graphopt.ir import Graph, Value
from graphopt.ops import Conv, MatMul, Relu, Tiled
from graphopt.passes.memory import SPACES
from graphopt.passes.tiling import Tile
from graphopt.passes.tiling.needs import Meter
from graphopt.rewrite import Log


def block(x: Value, wide: int, out: int, stride: int) -> Value:
    """Channels made more, a window over each, and made fewer: of MobileNetV2."""
    channels = (x.shape or ())[1]
    assert isinstance(channels, int)
    x = Relu(Conv(x, random(wide, channels, 1, 1)))
    each = random(wide, 1, 3, 3)
    x = Conv(x, each, group=wide, strides=(stride, stride), pads=(1, 1, 1, 1))
    return Conv(Relu(x), random(out, wide, 1, 1))


@cache
def small_image() -> Graph:
    """Blocks on 112 by 112 positions: 4.8 MB at the most, which a cache holds."""
    x: Value = param("x", 1, 16, 112, 112)
    for wide, out, stride in ((96, 24, 2), (144, 24, 1), (144, 32, 2), (192, 32, 1)):
        x = block(x, wide, out, stride)
    return graph_of(x)


@cache
def tiled(budget: int) -> Graph:
    return Tile(budget=budget, target="ort-cpu").run(small_image(), Log())


def turns(graph: Graph) -> int:
    """How often bodies of tiles run an op."""
    return sum(
        int(op.count) * len(op.bodies[0].ops)
        for op in graph.ops
        if isinstance(op, Tiled)
    )


def peak(graph: Graph) -> int:
    return Meter({}, SPACES["ort-cpu"]).needs(graph).peak


def test_a_wider_limit_costs_less() -> None:
    """What near memory saves pays for few borders where a cache holds all images."""
    whole = peak(small_image())
    wide, narrow = (tiled(int(share * whole)) for share in (0.9, 0.4))
    assert peak(wide) <= 0.9 * whole
    assert peak(narrow) <= 0.4 * whole
    flops = [graph_flops(graph, {}) for graph in (small_image(), wide, narrow)]
    before, little, more = (flop for flop in flops if isinstance(flop, int))
    assert little - before < (more - before) / 4
    assert turns(wide) < turns(narrow) / 2


def test_few_tiles_are_enough_where_more_cost_the_same() -> None:
    """What finer tiles save of a cache is nothing beside large products. Two are too
    few: half of both values of a tile is as much as one of them.
    """
    up = Relu(MatMul(param("x", 4096, 256), random(256, 1024)))
    graph = graph_of(MatMul(up, random(1024, 256)))
    made = Tile(budget=int(0.8 * peak(graph)), target="ort-cpu").run(graph, Log())
    assert peak(made) <= 0.8 * peak(graph)
    assert [int(op.count) for op in made.ops if isinstance(op, Tiled)] == [4]
