"""Tiles as ops of their own, as ONNX has them: so a plan sees all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count

from graphopt.exporter import source_order
from graphopt.ir import Graph, Op, Value, rebuild
from graphopt.ops import Strips, Tiled
from graphopt.ops.tiled import WRITTEN_OUT


def written_out(graph: Graph) -> tuple[Graph, list[Op]]:
    """The graph with its tiles as ops of their own, as ONNX has them, and their order.

    So a plan sees all of them, and the order is one of these ops: tile after tile.
    Each region has its own: what two of them make alike is not kept between them.
    """
    order = source_order(graph)
    regions = count(1 + max((op.instance for op in graph.ops), default=0))
    while any(isinstance(op, Tiled | Strips) for op in graph.ops):
        made: dict[Op, list[Sequence[Value]]] = {}

        def build(op: Op, operands: tuple[Value | None, ...]) -> Op | Sequence[Value]:
            new = op.with_operands(operands)
            turns, results = [], new.results
            if isinstance(new, Tiled) and new.count <= WRITTEN_OUT:
                turns = new.turns(next(regions))
                results = new.joined(turns)
            elif isinstance(new, Tiled | Strips):
                results = new.body()
            made[op] = [*turns, results]  # noqa: B023
            return results

        graph = rebuild(graph, build)
        order = _in_turn([values for op in order for values in made[op]], graph)
    return graph, order


def _in_turn(values: Iterable[Sequence[Value]], graph: Graph) -> list[Op]:
    """The ops of a graph, those that some values need before those of later ones."""
    left, order = set(graph.ops), list[Op]()
    for some in values:
        pending = [(v.op, False) for v in reversed(some)]
        while pending:
            op, ready = pending.pop()
            if op is None or op not in left:
                continue
            if ready:
                left.discard(op)
                order.append(op)
                continue
            pending.append((op, True))
            pending += [(v.op, False) for v in reversed(op.operands) if v is not None]
    return order
