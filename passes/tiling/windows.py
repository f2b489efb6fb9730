"""What one tile reads and makes of each value of a region, results first."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from graphopt.index import Affine, Compound, tile_slice
from graphopt.ir import Op, Value
from graphopt.rewrite import Miss, miss

from .follow import Axis, Followed, domain_of

Span: TypeAlias = tuple[int, int]
"""First position, and the one after the last."""


@dataclass(frozen=True, slots=True)
class Read:
    """The part of an operand; so many positions more lie ``before`` and ``after``."""

    span: Span
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Part:
    """What an op does for a tile: the span of its axis, and of each cut operand."""

    span: Span
    reads: tuple[Read | None, ...]


@dataclass(frozen=True, slots=True)
class Windows:
    """What a tile needs: of each op in the order of the graph, and of each value.

    ``spans`` are what is read of a value from outside, or made of one inside;
    ``outputs`` what the tile is to give of each output.
    """

    parts: dict[Op, Part]
    spans: dict[Value, Span]
    outputs: dict[Value, Span]

    @property
    def shape(self) -> tuple[object, ...]:
        """Equal for tiles that one body computes."""
        rows: list[object] = [stop - start for start, stop in self.spans.values()]
        for value, (start, stop) in self.outputs.items():
            rows.append((start - self.spans[value][0], stop - start))
        for op, part in self.parts.items():
            rows.append(part.span[1] - part.span[0])
            for operand, read in zip(op.operands, part.reads, strict=True):
                if operand is not None and read is not None:
                    start = read.span[0] - self.spans[operand][0]
                    rows.append((start, read.span[1] - read.span[0]))
                    rows.append((read.before, read.after))
        return tuple(rows)


def windows(region: Followed, lo: int, hi: int) -> Windows | Miss:
    """The windows of the tile [lo, hi) of the dim that is followed."""
    spans: dict[Value, Span] = {}
    for value in region.outputs:
        mark = region.marks.get(value)
        if mark is not None:
            span = _scaled(lo, hi, mark.ratio)
            if span is None:
                return miss("a tile ends between two positions of a result", value)
            spans[value] = span
    outputs = dict(spans)
    parts: dict[Op, Part] = {}
    for op, axis in reversed(region.axes.items()):
        wanted = _wanted(op, axis, region, spans, lo, hi)
        if wanted is None:
            return miss(f"a tile ends between two positions of {op.label}", op)
        part = _part(op, axis, wanted)
        if isinstance(part, Miss):
            return part
        parts[op] = part
        for result in op.results:
            if result in region.marks:
                made = _scaled(*wanted, region.marks[result].ratio / axis.ratio)
                assert made is not None
                spans[result] = made
        for operand, read in zip(op.operands, part.reads, strict=True):
            if operand is not None and read is not None:
                spans[operand] = hull(spans.get(operand), read.span)
    return Windows(dict(reversed(parts.items())), spans, outputs)


def hull(span: Span | None, other: Span) -> Span:
    """The least span that holds both."""
    if span is None:
        return other
    return min(span[0], other[0]), max(span[1], other[1])


def _scaled(lo: int, hi: int, ratio: Fraction) -> Span | None:
    start, stop = lo * ratio, hi * ratio
    if start.denominator != 1 or stop.denominator != 1:
        return None
    return int(start), int(stop)


def _wanted(
    op: Op, axis: Axis, region: Followed, spans: dict[Value, Span], lo: int, hi: int
) -> Span | None:
    """The positions of an op's axis whose results somebody needs."""
    domain = domain_of(op)
    assert domain is not None
    found: Span | None = None
    for value, map_ in zip(op.results, domain.maps.results, strict=False):
        mark, span = region.marks.get(value), spans.get(value)
        if mark is None or span is None:
            continue
        term = map_[mark.dim]
        if isinstance(term, Compound):
            size = Fraction(1, _inner(op, term))
            exact = _scaled(*span, size)
            if exact is None:
                return None
            span = exact
        elif not isinstance(term, Affine) or term.plain is None:
            return None
        found = hull(found, span)
    if found is None:  # a sum over the tiles
        return _scaled(lo, hi, axis.ratio)
    return found


def _inner(op: Op, term: Compound) -> int:
    domain = domain_of(op)
    assert domain is not None
    size = 1
    for name in term.axes[1:]:
        extent = domain.extents[name]
        assert isinstance(extent, int)
        size *= extent
    return max(size, 1)


def _part(op: Op, axis: Axis, span: Span) -> Part | Miss:
    domain = domain_of(op)
    assert domain is not None
    found = tile_slice(domain, axis.name, *span)
    reads: list[Read | None] = []
    for region in found.operands:
        windows = [w for w in region or () if w is not None]
        if not windows:
            reads.append(None)
            continue
        (w,) = windows
        ends = (w.start, w.stop, w.before, w.after)
        if not all(isinstance(end, int) for end in ends) or w.stop <= w.start:  # type: ignore[operator]
            return miss(f"{op.label} reads nothing, or an unknown part", op)
        reads.append(Read((w.start, w.stop), w.before, w.after))  # type: ignore[arg-type]
    reads += [None] * (len(op.operands) - len(reads))
    return Part(span, tuple(reads))
