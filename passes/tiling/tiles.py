"""Run a region tile by tile: `Tiled` for equal tiles, else ops of their own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from graphopt.dims import Expr
from graphopt.errors import TypeMismatch
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops import Add, Concat, Constant, Mul, Slice, Tiled
from graphopt.ops.bodies import scalar, vector
from graphopt.ops.tiled import NUMBER, resized
from graphopt.rewrite import Miss, miss
from graphopt.substitution import RewriteLimit, substitute
from graphopt.types import DType

from .follow import Followed, domain_of, follow
from .merging import Merge, merge_of
from .pieces import Place, piece
from .strips import in_strips
from .windows import Span, Windows, windows

MOST: Final = 4096
"""More tiles than that are no plan."""


def tile(
    graph: Graph, region: Collection[Op], value: Value, dim: int, size: int
) -> Graph | Miss:
    """The graph with a region run in tiles of ``size`` positions of a dim of a value.

    The dim is followed through the region by the index maps of its ops. Results that
    have it are put together from parts, the others combined. What does not depend on
    the tile is computed once, before. A miss says which op cannot be tiled, and why.
    """
    new = in_tiles(graph, region, value, dim, size)
    if isinstance(new, Miss):
        return new
    try:
        return substitute(graph, new)
    except RewriteLimit:
        return miss("the region needs what is made from it", value)
    except TypeMismatch as error:
        return miss(f"what reads the region takes no tiles: {error.message}", value)


def in_tiles(
    graph: Graph, region: Collection[Op], value: Value, dim: int, size: int
) -> dict[Value, Value] | Miss:
    """What stands for each value of a region that is read outside: see `tile`."""
    found = follow(graph, region, value, dim)
    if isinstance(found, Miss):
        return found
    extent = None if value.shape is None else value.shape[dim]
    if isinstance(extent, Expr):
        return in_strips(found, extent, size)
    if extent is None:
        return miss(f"how long dim {dim} is is not known", value)
    if not 0 < size < extent:
        return miss(f"{size} of {extent} positions are no tile", value)
    if extent > size * MOST:
        return miss(f"more than {MOST} tiles", value)
    for output in found.outputs:
        if _positions(found, output) != extent:
            return miss("it has more or fewer positions than are cut", output)
    merges = _merges(found)
    if isinstance(merges, Miss):
        return merges
    begun = all(merge.neutral() is not None for merge in merges)
    groups = _groups(found, extent, size, apart=not begun)
    if isinstance(groups, Miss):
        return groups
    try:
        return _Tiler(found, merges).run(groups)
    except TypeMismatch as error:  # dims that an op has as numbers
        return miss(f"a tile does not fit: {error.message}", value)


@dataclass(frozen=True)
class _Group:
    """Tiles that one body computes: the first, the one after it, and how many."""

    first: Windows
    second: Windows
    count: int


def _positions(region: Followed, output: Value) -> Fraction | None:
    """How many positions of what is followed go with all of an output.

    Or with the axis that one without the dim is reduced over. Other than there are:
    where a slice, or a window without a border, lies between.
    """
    mark = region.marks.get(output)
    if mark is not None:
        have, ratio = (output.shape or ())[mark.dim], mark.ratio
    else:
        assert output.op is not None
        domain, axis = domain_of(output.op), region.axes[output.op]
        assert domain is not None
        have, ratio = domain.extents[axis.name], axis.ratio
    return Fraction(have) / ratio if isinstance(have, int) else None


def _merges(region: Followed) -> list[Merge] | Miss:
    """How results that are without the dim are put together."""
    found: list[Merge] = []
    for op in dict.fromkeys(v.op for v in region.outputs if v not in region.marks):
        assert op is not None
        domain = domain_of(op)
        assert domain is not None
        merge = merge_of(op, domain.maps.combiner(region.axes[op].name))
        if isinstance(merge, Miss):
            return merge
        found.append(merge)
    return found


def _groups(
    region: Followed, extent: int, size: int, *, apart: bool
) -> list[_Group] | Miss:
    """Equal tiles, in order, the first one ``apart`` from others.

    Only what is clipped at a border differs, and less of a tile is the further it is
    from there: so tiles between two equal ones are equal.
    """
    count = -(-extent // size)
    seen: dict[int, Windows] = {}

    def at(number: int) -> Windows | Miss:
        made = seen.get(number)
        if made is None:
            lo = number * size
            found = windows(region, lo, min(lo + size, extent))
            if isinstance(found, Miss):
                return found
            made = seen[number] = found
        return made

    groups: list[_Group] = []
    number = 0
    while number < count:
        first = at(number)
        if isinstance(first, Miss):
            return first
        known, beyond = number, number + 1 if apart and not number else count
        while beyond - known > 1:
            middle = (known + beyond) // 2
            other = at(middle)
            if isinstance(other, Miss):
                return other
            if other.shape == first.shape:
                known = middle
            else:
                beyond = middle
        second = at(min(number + 1, known))
        assert isinstance(second, Windows)
        groups.append(_Group(first, second, known + 1 - number))
        number = known + 1
    return groups


class _Tiler:
    """Builds what stands for the outputs of a region."""

    def __init__(self, region: Followed, merges: Sequence[Merge]) -> None:
        self.region, self.merges = region, merges
        self.merge_of = {merge.op: merge for merge in merges}
        made = {r for op in region.axes for r in op.results}
        read = dict.fromkeys(v for op in region.axes for v in op.operands)
        self.outer = [v for v in read if v is not None and v not in made]
        self.placed = [v for v in region.outputs if v in region.marks]

    def run(self, groups: Sequence[_Group]) -> dict[Value, Value] | Miss:
        """What stands for each output."""
        kept: list[Value] = []
        rows: list[list[Value]] = [[] for _ in self.placed]
        for group in groups:
            made = self._group(group, kept)
            if isinstance(made, Miss):
                return made
            count = len(made) - len(self.placed)
            kept, parts = made[:count], made[count:]
            for row, part in zip(rows, parts, strict=True):
                row.append(part)
        new: dict[Value, Value] = {}
        for merge, states in zip(self.merges, self._by_merge(kept), strict=True):
            results = zip(merge.op.results, merge.finished(states), strict=True)
            new |= {v: made for v, made in results if v in self.region.outputs}
        for value, row in zip(self.placed, rows, strict=True):
            dim = self.region.marks[value].dim
            new[value] = row[0] if len(row) == 1 else Concat(*row, axis=dim)
        return new

    def _by_merge(self, kept: Sequence[Value]) -> list[Sequence[Value]]:
        """What is kept for each merge; as much as it keeps."""
        found, start = [], 0
        for merge in self.merges:
            found.append(kept[start : start + merge.kept])
            start += merge.kept
        return found

    def _group(self, group: _Group, states: list[Value]) -> list[Value] | Miss:
        """The states after some tiles, and what they give side by side."""
        first = group.first
        if group.count == 1:
            given = {
                v: cut(v, self.region.marks[v].dim, first.spans[v])
                for v in self.outer
                if v in first.spans
            }
            return self._tile(first, given, None, first, states)
        if not states:
            states = [v for merge in self.merges for v in merge.neutral() or ()]
        return self._tiled(group, states)

    def _tiled(self, group: _Group, states: list[Value]) -> list[Value] | Miss:
        first, second = group.first, group.second
        taken = [v for v in self.outer if v in first.spans]
        whole = [
            v
            for v in self.outer
            if v not in first.spans and not isinstance(v, Constant)
        ]
        number = Parameter(NUMBER, "number")
        carried = [Parameter(v.type, f"state_{i}") for i, v in enumerate(states)]
        given: dict[Value, Value] = {}
        tiles, sizes = [], []
        for i, v in enumerate(taken):
            start, stop = first.spans[v]
            type_ = resized(v.type, self.region.marks[v].dim, stop - start)
            tiles.append(Parameter(type_, f"tile_{i}"))
            sizes.append((start, second.spans[v][0] - start))
            given[v] = tiles[-1]
        captured = [Parameter(v.type, f"whole_{i}") for i, v in enumerate(whole)]
        given |= dict(zip(whole, captured, strict=True))
        made = self._tile(first, given, number, second, list(carried))
        if isinstance(made, Miss):
            return made
        op = Tiled(
            *states,
            *taken,
            *whole,
            bodies=[Graph([number, *carried, *tiles, *captured], made, name="tile")],
            count=group.count,
            states=len(states),
            captures=len(whole),
            axes=tuple([self.region.marks[v].dim for v in taken]),
            starts=tuple([start for start, _ in sizes]),
            steps=tuple([step for _, step in sizes]),
            result_axes=tuple([self.region.marks[v].dim for v in self.placed]),
        )
        return list(op.results)

    def _tile(
        self,
        tile_: Windows,
        given: dict[Value, Value],
        number: Parameter | None,
        following: Windows,
        states: Sequence[Value],
    ) -> list[Value] | Miss:
        """The ops of one tile: the states after it, then its part of each output."""
        new: dict[Value, Value] = dict(given)
        before = dict(zip(self.merge_of, self._by_merge(states), strict=True))
        kept: dict[Op, list[Value]] = {}
        for op, part in tile_.parts.items():
            operands: list[Value | None] = []
            for v, read in zip(op.operands, part.reads, strict=True):
                x = None if v is None else new.get(v, v)
                if read is not None and v is not None and x is not None:
                    start = tile_.spans[v][0]
                    span = (read.span[0] - start, read.span[1] - start)
                    x = cut(x, self.region.marks[v].dim, span)
                operands.append(x)
            step = following.parts[op].span[0] - part.span[0]
            size = part.span[1] - part.span[0]
            place = Place(
                self.region.axes[op].name,
                size,
                part.reads,
                _first(number, part.span[0], step),
                lambda size=size: scalar(size, DType.I64),  # type: ignore[misc]
                lambda _: None,
            )
            merge = self.merge_of.get(op)
            if merge is not None:
                after = merge.step(before[op] or None, tuple(operands), place)
                if isinstance(after, Miss):
                    return after
                kept[op] = after
                continue
            made = piece(op, tuple(operands), place)
            if isinstance(made, Miss):
                return made
            results = made.results if isinstance(made, Op) else (made,)
            new |= dict(zip(op.results, results, strict=True))
        outputs = [v for merge in self.merges for v in kept[merge.op]]
        for v in self.placed:
            dim, start = self.region.marks[v].dim, tile_.spans[v][0]
            lo, hi = tile_.outputs[v]
            outputs.append(cut(new[v], dim, (lo - start, hi - start)))
        return outputs


def _first(number: Parameter | None, first: int, step: int) -> Callable[[], Value]:
    """Where a tile begins, by its number."""

    def build() -> Value:
        if number is None or not step:
            return scalar(first, DType.I64)
        along = Mul(number, scalar(step, DType.I64))
        return Add(along, scalar(first, DType.I64)) if first else along

    return build


def cut(x: Value, dim: int, span: Span) -> Value:
    """The part of a value; all of it by itself."""
    assert x.shape is not None
    if span == (0, x.shape[dim]):
        return x
    return Slice(x, vector(span[0]), vector(span[1]), vector(dim))
