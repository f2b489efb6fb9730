"""Run a region strip by strip, along a dim of which only a run tells how long it is.

All strips are alike, and the last one lies over the one before: what is summed over
the dim would count there twice, and a window would be clipped at other places of it.
Such a region is a miss; so is one with a dim that is only equal at some sizes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from graphopt import dims
from graphopt.dims import Dim, format_dim
from graphopt.errors import TypeMismatch
from graphopt.index import Kind
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops import Constant, Div, Mul, Strips
from graphopt.ops.bodies import scalar
from graphopt.ops.strips import firsts_of, strips_of
from graphopt.ops.tiled import NUMBER, resized
from graphopt.rewrite import Miss, miss
from graphopt.types import DType

from .follow import Axis, Followed, Mark, domain_of, tiling_of
from .pieces import Place, length_of, piece

ALIKE: Final = (Kind.PARALLEL, Kind.POSITIONAL)
"""Axes along which all strips do the same, told where they begin."""

LAPPED: Final = 2
"""Sizes to check are looked for up to so many pairs of the largest strips."""


def in_strips(region: Followed, extent: Dim, size: int) -> dict[Value, Value] | Miss:
    """What stands for each output of a region that is followed along ``extent``.

    ``size`` are the positions of a strip, at most.
    """
    why = _obstacle(region, extent)
    if why is not None:
        return why
    try:
        return _Stripper(region, extent, size).run()
    except TypeMismatch as error:  # dims that an op has as numbers
        return miss(f"a strip does not fit: {error.message}", region.outputs[0])


def lapping(graph: Graph) -> dict[str, int]:
    """Sizes of dims at which strips are several, and the last lies over another.

    They are the smallest at which most strips of a graph are so: a check at others may
    run each as one. Other symbols of an extent are 1.
    """
    cuts: dict[str, set[tuple[Dim, int]]] = defaultdict(set)
    for _, op in graph.walk():
        if isinstance(op, Strips) and (names := dims.symbols(op.extent)):
            cuts[max(names)].add((op.extent, int(op.size)))
    found: dict[str, int] = {}
    for name, each in cuts.items():
        others = {s: 1 for extent, _ in each for s in dims.symbols(extent)}
        most = 0
        for n in range(2, 2 * LAPPED * max(size for _, size in each)):
            known = {**others, name: n}
            laps = [_laps(dims.evaluate(extent, known), s) for extent, s in each]
            if sum(laps) > most:
                most, found[name] = sum(laps), n
    return found


def _laps(extent: int, size: int) -> bool:
    firsts, length = firsts_of(extent, size)
    return len(firsts) > 1 and len(firsts) * length > extent


def _obstacle(region: Followed, extent: Dim) -> Miss | None:
    """Why strips would not all be alike, or not all there is of the dim."""
    for op, axis in region.axes.items():
        plan = tiling_of(op, axis.name)
        if plan.kind is Kind.REDUCED:
            return miss(
                f"{op.label}: strips of {format_dim(extent)} may overlap, and parts of"
                " what is reduced would count twice",
                op,
            )
        if plan.kind not in ALIKE:
            return miss(f"{op.label}: {plan.reason}, of an extent that a run tells", op)
        domain = domain_of(op)
        assert domain is not None
        if not _covers(domain.extents[axis.name], axis, extent):
            return miss(f"{op.label} has other positions than {extent}", op)
    for value, mark in region.marks.items():
        if not _covers((value.shape or ())[mark.dim], mark, extent):
            found = format_dim((value.shape or ())[mark.dim])
            return miss(f"{found} is {format_dim(extent)} at some sizes only", value)
    return None


def _covers(dim: Dim, along: Axis | Mark, extent: Dim) -> bool:
    """True where a dim is as many places as go with all positions, at any size."""
    if along.ratio.denominator != 1:
        return False
    return dims.equal(dim, dims.mul(extent, along.ratio.numerator))


@dataclass
class _Stripper:
    """Builds the strips of a region."""

    region: Followed
    extent: Dim
    size: int

    @property
    def length(self) -> Dim:
        return strips_of(self.extent, self.size)[1]

    def run(self) -> dict[Value, Value] | Miss:
        """What stands for each output."""
        region, marks = self.region, self.region.marks
        made = {r for op in region.axes for r in op.results}
        read = dict.fromkeys(v for op in region.axes for v in op.operands)
        outer = [v for v in read if v is not None and v not in made]
        taken = [v for v in outer if v in marks]
        whole = [v for v in outer if v not in marks and not isinstance(v, Constant)]
        if not taken:
            return miss("nothing that it reads tells how long it is", region.outputs[0])
        first = Parameter(NUMBER, "first")
        tiles = [self._tile(v, f"strip_{i}") for i, v in enumerate(taken)]
        captured = [Parameter(v.type, f"whole_{i}") for i, v in enumerate(whole)]
        given = zip([*taken, *whole], [*tiles, *captured], strict=True)
        parts = self._parts(dict(given), first, _long(tiles[0], marks[taken[0]]))
        if isinstance(parts, Miss):
            return parts
        op = Strips(
            *taken,
            *whole,
            bodies=[Graph([first, *tiles, *captured], parts, name="strip")],
            size=self.size,
            captures=len(whole),
            axes=tuple([marks[v].dim for v in taken]),
            ratios=tuple([_ratio(marks[v]) for v in taken]),
            result_axes=tuple([marks[v].dim for v in region.outputs]),
            result_ratios=tuple([_ratio(marks[v]) for v in region.outputs]),
        )
        return dict(zip(region.outputs, op.results, strict=True))

    def _tile(self, value: Value, name: str) -> Parameter:
        mark = self.region.marks[value]
        long = dims.mul(self.length, _ratio(mark))
        return Parameter(resized(value.type, mark.dim, long), name)

    def _parts(
        self, given: dict[Value, Value], first: Value, length: Callable[[], Value]
    ) -> list[Value] | Miss:
        """The part of each output that a strip gives."""
        new = dict(given)
        for op, axis in self.region.axes.items():
            ratio = _ratio(axis)
            place = Place(
                axis.name,
                dims.mul(self.length, ratio),
                (None,) * len(op.operands),
                lambda ratio=ratio: _times(first, ratio),  # type: ignore[misc]
                lambda ratio=ratio: _times(length(), ratio),  # type: ignore[misc]
                lambda dim: _found(dim, given.values()),
            )
            made = piece(op, tuple([v and new.get(v, v) for v in op.operands]), place)
            if isinstance(made, Miss):
                return made
            results = made.results if isinstance(made, Op) else (made,)
            new |= zip(op.results, results, strict=True)
        return [new[v] for v in self.region.outputs]


def _found(dim: Dim, parameters: Iterable[Value]) -> Value | None:
    """An extent as a run finds it at what a body is given; None where it has it not."""
    for x in parameters:
        for axis, other in enumerate(x.shape or ()):
            if dims.equal(dim, other):
                return length_of(x, axis)()
    return None


def _ratio(along: Axis | Mark) -> int:
    return along.ratio.numerator


def _times(x: Value, ratio: int) -> Value:
    return x if ratio == 1 else Mul(x, scalar(ratio, DType.I64))


def _long(tile: Value, mark: Mark) -> Callable[[], Value]:
    """How many positions a strip has, as its first part tells."""
    length, ratio = length_of(tile, mark.dim), _ratio(mark)
    if ratio == 1:
        return length
    return lambda: Div(length(), scalar(ratio, DType.I64))
