"""Losses over many classes as simpler ops, along whose positions tiles can go."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir import Graph, Op, Value, rebuild
from graphopt.ops.losses import Loss

from .needs import Meter


def spelled(graph: Graph, meter: Meter, least: int) -> Graph:
    """The graph without losses whose scores take ``least`` bytes or more.

    cross_entropy(x, i) = -gather(log_softmax(x), i), then its mean or sum
    """

    def is_large(op: Op) -> bool:
        scores = op.operands[0] if isinstance(op, Loss) else None
        return scores is not None and meter.bytes(scores) >= least

    def build(op: Op, operands: tuple[Value | None, ...]) -> Op | Sequence[Value]:
        made = op.with_operands(operands)
        found = made.expansion if isinstance(made, Loss) and is_large(made) else None
        return made if found is None else found

    while any(map(is_large, graph.ops)):
        before, graph = graph, rebuild(graph, build)
        if len(graph.ops) == len(before.ops):
            break  # a type is not known
    return graph
