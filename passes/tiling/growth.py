"""The region around a large value: what holds together along one of its dims."""

from __future__ import annotations

from collections.abc import Collection

from graphopt.index import Kind
from graphopt.ir import Graph, Op, Value
from graphopt.ops import Constant
from graphopt.rewrite import Miss

from .follow import Axis, Followed, Mark, axis_at, follow, marked, tiling_of
from .needs import Meter


def grown(
    graph: Graph,
    meter: Meter,
    value: Value,
    dim: int,
    least: int,
    copies: Collection[int] = (),
) -> Followed | Miss:
    """The ops that make or read values of ``least`` bytes, from ``value`` on.

    They are followed along one dim; an op that cannot be cut there ends the region.
    Copies of the instances ``copies`` belong to it whatever their size.
    """
    region = _reached(graph, meter, value, dim, least, copies)
    return follow(graph, _between(graph, region), value, dim)


def _reached(
    graph: Graph,
    meter: Meter,
    value: Value,
    dim: int,
    least: int,
    copies: Collection[int],
) -> dict[Op, Axis]:
    from fractions import Fraction

    marks = {value: Mark(dim, Fraction(1))}
    axes: dict[Op, Axis] = {}
    pending = [value]
    while pending:
        at = pending.pop(0)
        users = [op for op, _ in graph.users.get(at, ())]
        for op in dict.fromkeys([*([at.op] if at.op else []), *users]):
            if op in axes or isinstance(op, Constant):
                continue
            axis = axis_at(op, at, marks[at])
            if isinstance(axis, Miss) or not _may_be_cut(op, axis):
                continue
            found = marked(op, axis)
            if any(isinstance(m, Miss) or marks.get(v, m) != m for v, m in found):
                continue
            axes[op] = axis
            for other, mark in found:
                assert isinstance(mark, Mark)
                if other not in marks:
                    marks[other] = mark
                    copied = other.op is not None and other.op.instance in copies
                    if copied or meter.bytes(other) >= least:
                        pending.append(other)
    return axes


def _may_be_cut(op: Op, axis: Axis) -> bool:
    return tiling_of(op, axis.name).kind not in (Kind.WHOLE, Kind.CARRIED)


def _between(graph: Graph, region: dict[Op, Axis]) -> set[Op]:
    """The region, and what lies on a way from it to itself."""
    after, before = set(region), set(region)
    for op in graph.ops:
        if any(v is not None and v.op in after for v in op.operands):
            after.add(op)
    for op in reversed(graph.ops):
        if op in before:
            before.update(v.op for v in op.operands if v is not None and v.op)
    return after & before


def coarsest(region: Followed) -> tuple[Value, int] | None:
    """The output with the fewest positions along the dim, and that dim."""
    placed = [v for v in region.outputs if v in region.marks]
    if not placed:
        return None
    value = min(placed, key=lambda v: region.marks[v].ratio)
    return value, region.marks[value].dim
