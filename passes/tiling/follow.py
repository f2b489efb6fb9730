"""Which dims of a region's values move together with one of them, by index maps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Final

from graphopt import index
from graphopt.dims import product
from graphopt.index import (
    Affine,
    Combiner,
    Compound,
    Domain,
    Kind,
    Map,
    Maps,
    Term,
    Tiling,
)
from graphopt.ir import Graph, Op, Value
from graphopt.ops import ArgMax, ArgMin, Constant, GatherElements, TopK
from graphopt.ops.steering import normal_axis
from graphopt.ops.structured import Structured
from graphopt.rewrite import Miss, miss

KNOWN: Final = 1 << 14
"""Answers of so many ops are kept: a graph is asked again for every region."""


KEEPING: Final = (ArgMax, ArgMin, TopK, GatherElements)
"""Ops that need more than their results to be combined over their axis."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A dim that is cut: ``ratio`` positions of it go with one of what is followed."""

    dim: int
    ratio: Fraction


@dataclass(frozen=True, slots=True)
class Axis:
    """The axis of an op's domain that is cut, and its positions likewise."""

    name: str
    ratio: Fraction


@dataclass(frozen=True)
class Followed:
    """What is cut in a region where one dim of one of its values is.

    ``axes`` are in the order of the graph; ops of the region that are not there do not
    depend on the tile. ``outputs`` are read outside; those without a mark are sums (or
    maxima …) over the tiles.
    """

    axes: dict[Op, Axis]
    marks: dict[Value, Mark]
    outputs: tuple[Value, ...]


@lru_cache(maxsize=KNOWN)
def domain_of(op: Op) -> Domain | None:
    """The domain of an op; None where it has no index maps, or ranks are unknown."""
    if not isinstance(op, Structured):
        return None
    maps = op.index_maps()
    if maps is None:
        return None
    maps = _combined(op, maps)
    shapes = [None if v is None else v.shape for v in op.operands]
    return index.domain(maps, shapes, op.extents())


def _combined(op: Op, maps: Maps) -> Maps:
    """Index maps of an op with its axis as one that is reduced tile by tile."""
    x = op.operands[0]
    if not isinstance(op, KEEPING) or x is None or x.rank is None:
        return maps
    at = normal_axis(op.axis, x.rank)
    first = maps.operands[0]
    assert first is not None
    name = getattr(first[at], "plain", None)
    if name is None:  # any position of it may be read
        name = "cut"
        first = (*first[:at], Affine(((name, 1),)), *first[at + 1 :])
    return replace(
        maps,
        operands=(first, *maps.operands[1:]),
        combiners=((name, Combiner.MAX),),
        positional=maps.positional - {name},
    )


@lru_cache(maxsize=KNOWN)
def tiling_of(op: Op, axis: str) -> Tiling:
    """How an axis of an op that has a domain may be tiled."""
    return index.tiling(_domain(op), axis)


def follow(
    graph: Graph, region: Collection[Op], value: Value, dim: int
) -> Followed | Miss:
    """What is cut where ``dim`` of ``value`` is; a miss where that cannot be."""
    inside = set(region)
    marks: dict[Value, Mark] = {value: Mark(dim, Fraction(1))}
    axes: dict[Op, Axis] = {}
    pending = [value]
    while pending:
        at = pending.pop()
        mark = marks[at]
        reading = [op for op, _ in graph.users.get(at, ())]
        for op in dict.fromkeys([*([at.op] if at.op else []), *reading]):
            if op not in inside or isinstance(op, Constant):
                continue
            axis = axis_at(op, at, mark)
            if isinstance(axis, Miss):
                return axis
            known = axes.get(op)
            if known is not None:
                if known != axis:
                    return miss(f"{op.label} would be cut along two axes", op)
                continue
            axes[op] = axis
            plan = tiling_of(op, axis.name)
            if plan.kind in (Kind.WHOLE, Kind.CARRIED):
                return miss(f"{op.label}: {plan.reason}", op)
            for other, found in marked(op, axis):
                if isinstance(found, Miss):
                    return found
                old = marks.setdefault(other, found)
                if old != found:
                    return miss("a value would be cut along two dims", other)
                if old is found:
                    pending.append(other)
    if not axes:
        return miss("no op of the region reads or makes it", value)
    return _closed(graph, inside, axes, marks)


def _closed(
    graph: Graph, inside: set[Op], axes: dict[Op, Axis], marks: dict[Value, Mark]
) -> Followed | Miss:
    """The outputs of what is cut; a miss where a part of it needs all of another."""
    ordered = {op: axes[op] for op in graph.ops if op in axes}
    kept = set(graph.outputs)
    outputs: list[Value] = []
    after: set[Op] = set()  # ops beside the region that need it
    for op in graph.ops:
        if op in axes:
            for v in op.operands:
                if v is not None and v.op in after:
                    return miss(f"{op.label} needs what is made from the region", op)
            for result in op.results:
                users = [user for user, _ in graph.users.get(result, ())]
                inner = [user for user in users if user in axes]
                if result in kept or len(inner) < len(users):
                    outputs.append(result)
                if result not in marks and inner:
                    return miss(f"{op.label} is reduced, and the region goes on", op)
        elif any(
            v is not None and (v.op in axes or v.op in after) for v in op.operands
        ):
            after.add(op)
    if not outputs:
        return miss("nothing reads the region")
    return Followed(ordered, marks, tuple(outputs))


def _domain(op: Op) -> Domain:
    found = domain_of(op)
    assert found is not None
    return found


def maps_of(op: Op, value: Value) -> list[Map]:
    """The map of each place where an op has a value; none where it is not indexed."""
    maps = _domain(op).maps
    found = [
        map_
        for v, map_ in zip(op.operands, maps.operands, strict=False)
        if v is value and map_ is not None
    ]
    pairs = zip(op.results, maps.results, strict=False)
    return found + [map_ for v, map_ in pairs if v is value]


@lru_cache(maxsize=KNOWN)
def axis_at(op: Op, value: Value, mark: Mark) -> Axis | Miss:
    """The axis of an op that a cut dim of its operand or result is."""
    domain = domain_of(op)
    if domain is None:
        return miss(f"{op.label} has no index maps", op)
    found = maps_of(op, value)
    places = [*op.operands, *op.results]
    if len(found) != sum(v is value for v in places):
        return miss(f"{op.label} looks at all of its operand", op)
    axes = set()
    for map_ in found:
        axis = _moved(domain, map_[mark.dim], mark.ratio)
        if isinstance(axis, str):
            return miss(f"{op.label}: {axis}", op)
        axes.add(axis)
    if len(axes) > 1:
        return miss(f"{op.label} has the value twice, cut along two axes", op)
    return axes.pop()


def _moved(domain: Domain, term: Term, ratio: Fraction) -> Axis | str:
    """The axis that moves along a dim, or why there is none."""
    if isinstance(term, Affine) and term.plain:
        return Axis(term.plain, ratio)
    if isinstance(term, Compound) and term.axes:
        inner = product(domain.extents[a] for a in term.axes[1:])
        if not isinstance(inner, int):
            return f"{term} has parts of unknown size"
        return Axis(term.axes[0], ratio / max(inner, 1))
    if isinstance(term, Affine) and term.axes:
        written = {a for map_ in domain.maps.results for t in map_ for a in t.axes}
        moving = [
            (name, step)
            for name, step in term.coefficients
            if name in written and isinstance(step, int) and step > 0
        ]
        if len(moving) == 1:
            name, step = moving[0]
            return Axis(name, ratio / step)
    return f"the dim {term} does not move along one axis"


@lru_cache(maxsize=KNOWN)
def marked(op: Op, axis: Axis) -> Sequence[tuple[Value, Mark | Miss]]:
    """What else an op has along an axis."""
    domain = _domain(op)
    found: list[tuple[Value, Mark | Miss]] = []
    maps = domain.maps
    sides = [
        *zip(op.operands, maps.operands, strict=False),
        *zip(op.results, maps.results, strict=False),
    ]
    for value, map_ in sides:
        if value is None or map_ is None:
            continue
        at = [i for i, term in enumerate(map_) if axis.name in term.axes]
        if len(at) > 1:
            found.append((value, miss(f"{op.label} has an axis twice in a value", op)))
        elif at:
            ratio = axis.ratio * _step(domain, map_[at[0]], axis.name)
            found.append((value, Mark(at[0], ratio)))
    return found


def _step(domain: Domain, term: Term, axis: str) -> int:
    """Positions of a dim that one of an axis goes with."""
    if isinstance(term, Compound):
        inner = product(domain.extents[a] for a in term.axes[1:])
        return inner if isinstance(inner, int) else 1
    if isinstance(term, Affine):
        step = dict(term.coefficients)[axis]
        return step if isinstance(step, int) else 1
    return 1
