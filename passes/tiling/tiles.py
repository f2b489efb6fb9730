"""Run a region tile by tile: `Tiled` for equal tiles, else ops of their own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from graphopt.errors import TypeMismatch
from graphopt.index import Combiner
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops import Add, Concat, Constant, Expand, Max, Min, Mul, Slice, Tiled
from graphopt.ops.bodies import scalar, vector
from graphopt.ops.tiled import NUMBER, resized
from graphopt.rewrite import Miss, miss
from graphopt.substitution import RewriteLimit, substitute
from graphopt.types import DType

from .follow import Followed, domain_of, follow
from .pieces import Place, piece
from .windows import Span, Windows, windows

MOST: Final = 4096
"""More tiles than that are no plan."""

MERGES: Final[dict[Combiner, tuple[type[Op], float]]] = {
    Combiner.SUM: (Add, 0.0),
    Combiner.PROD: (Mul, 1.0),
    Combiner.MAX: (Max, -np.inf),
    Combiner.MIN: (Min, np.inf),
}
"""How results over parts of an axis are combined, and what changes nothing."""


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
    if not isinstance(extent, int):
        return miss(f"how long dim {dim} is is not known", value)
    if not 0 < size < extent:
        return miss(f"{size} of {extent} positions are no tile", value)
    if extent > size * MOST:
        return miss(f"more than {MOST} tiles", value)
    groups = _groups(found, extent, size)
    if isinstance(groups, Miss):
        return groups
    try:
        return _Tiler(found).run(groups)
    except TypeMismatch as error:  # dims that an op has as numbers
        return miss(f"a tile does not fit: {error.message}", value)


@dataclass(frozen=True)
class _Group:
    """Tiles that one body computes: the first, the one after it, and how many."""

    first: Windows
    second: Windows
    count: int


def _groups(region: Followed, extent: int, size: int) -> list[_Group] | Miss:
    """Equal tiles, in order.

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
        known, beyond = number, count
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

    def __init__(self, region: Followed) -> None:
        self.region = region
        made = {r for op in region.axes for r in op.results}
        read = dict.fromkeys(v for op in region.axes for v in op.operands)
        self.outer = [v for v in read if v is not None and v not in made]
        self.placed = [v for v in region.outputs if v in region.marks]
        self.merged = [v for v in region.outputs if v not in region.marks]

    def run(self, groups: Sequence[_Group]) -> dict[Value, Value] | Miss:
        """What stands for each output."""
        merges = [self._merge(v) for v in self.merged]
        for merge in merges:
            if isinstance(merge, Miss):
                return merge
        states: list[Value] = []
        rows: list[list[Value]] = [[] for _ in self.placed]
        for group in groups:
            made = self._group(group, states)
            if isinstance(made, Miss):
                return made
            states, parts = made[: len(self.merged)], made[len(self.merged) :]
            for row, part in zip(rows, parts, strict=True):
                row.append(part)
        new = dict(zip(self.merged, states, strict=True))
        for value, row in zip(self.placed, rows, strict=True):
            dim = self.region.marks[value].dim
            new[value] = row[0] if len(row) == 1 else Concat(*row, axis=dim)
        return new

    def _merge(self, value: Value) -> Miss | None:
        combiner = self._combiner(value)
        if combiner not in MERGES or value.dtype is DType.BOOL:
            return miss(f"parts of it cannot be combined by {combiner}", value)
        return None

    def _combiner(self, value: Value) -> Combiner | None:
        assert value.op is not None
        domain = domain_of(value.op)
        assert domain is not None
        return domain.maps.combiner(self.region.axes[value.op].name)

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
        if self.merged and not states:
            filled = [self._neutral(v) for v in self.merged]
            states = [v for v in filled if v is not None]
            if len(states) < len(filled):
                return miss("what its parts begin with is not known", self.merged[0])
        return self._tiled(group, states)

    def _neutral(self, value: Value) -> Value | None:
        """What a sum begins with; None where its dims are not known."""
        combiner, dtype, shape = self._combiner(value), value.dtype, value.shape
        if combiner is None or dtype is None or shape is None:
            return None
        if not all(isinstance(dim, int) for dim in shape):
            return None
        number = MERGES[combiner][1]
        if not np.isfinite(number) and not dtype.is_float:
            return None
        filling = scalar(number, dtype)
        return Expand(filling, vector(*shape)) if shape else filling

    def _tiled(self, group: _Group, states: list[Value]) -> list[Value] | Miss:
        first, second = group.first, group.second
        taken = [v for v in self.outer if v in first.spans]
        whole = [
            v
            for v in self.outer
            if v not in first.spans and not isinstance(v, Constant)
        ]
        number = Parameter(NUMBER, "number")
        carried = [Parameter(v.type, f"state_{i}") for i, v in enumerate(self.merged)]
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
            place = Place(
                self.region.axes[op].name,
                part,
                _first(number, part.span[0], step),
            )
            made = piece(op, tuple(operands), place)
            if isinstance(made, Miss):
                return made
            results = made.results if isinstance(made, Op) else (made,)
            new |= dict(zip(op.results, results, strict=True))
        outputs: list[Value] = []
        for i, v in enumerate(self.merged):
            combiner = self._combiner(v)
            assert combiner is not None
            merge = MERGES[combiner][0]
            outputs.append(merge(states[i], new[v]) if states else new[v])
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
