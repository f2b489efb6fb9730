"""Losses over many classes as simpler ops, along whose dims tiles can go."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir import Graph, Op, Value, rebuild
from graphopt.ops import GatherElements, LogSoftmax, ReduceLogSumExp, Sub
from graphopt.ops.bodies import cast, vector, widest
from graphopt.ops.losses import Loss
from graphopt.ops.steering import normal_axis
from graphopt.types import DType

from .needs import Meter


def spelled(graph: Graph, meter: Meter, least: int) -> Graph:
    """The graph without losses and logarithms that take ``least`` bytes or more.

    cross_entropy(x, i) = -gather(log_softmax(x), i), then its mean or sum; and of a
    log_softmax only what is read, as `_picked` has it.
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
    return _picked(graph, meter, least)


def _picked(graph: Graph, meter: Meter, least: int) -> Graph:
    """The graph without logarithms of which only elements at some places are read.

    gather(log_softmax(x), i) = gather(x, i) - log(sum(exp(x))), in float32 at least
    """

    def is_picked(op: Op) -> bool:
        if not isinstance(op, LogSoftmax) or op.rank is None or op in graph.outputs:
            return False
        users = graph.users.get(op, ())
        return meter.bytes(op) >= least and all(
            isinstance(user, GatherElements) and place == 0 and _along(op, user)
            for user, place in users
        )

    logarithms = set(filter(is_picked, graph.ops))

    def build(op: Op, operands: tuple[Value | None, ...]) -> Op | Sequence[Value]:
        scores = operands[0] if operands else None
        if op.operands and op.operands[0] in logarithms:
            assert isinstance(scores, LogSoftmax)
            x, axis = scores.operands[0], normal_axis(scores.axis, scores.rank or 0)
            assert x is not None
            assert x.dtype is not None
            wide = widest(x.dtype, DType.F32)
            picked = cast(GatherElements(x, operands[1], axis=axis), wide)
            total = ReduceLogSumExp(cast(x, wide), vector(axis), keepdims=1)
            return [cast(Sub(picked, total), x.dtype)]
        return op.with_operands(operands)

    return rebuild(graph, build) if logarithms else graph


def _along(op: Op, user: Op) -> bool:
    """True for elements of all rows, along the axis of a softmax."""
    axis, rank = normal_axis(op.axis, op.rank or 0), op.rank
    places = None if user.operands[1] is None else user.operands[1].shape
    if places is None or op.shape is None or len(places) != rank:
        return False
    rows = zip(op.shape, places, strict=True)
    alike = all(a == b for i, (a, b) in enumerate(rows) if i != axis)
    return normal_axis(user.axis, rank) == axis and alike
