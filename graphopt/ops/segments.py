"""Ops that join, cut and pad: a dim of one side is a segment of a dim of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .. import dims
from ..dims import Dim, Shape
from ..index import Affine, Map, Maps, Term, Whole, axis, build
from .movement import Movement
from .registry import op
from .steering import (
    agreed,
    axis_names,
    concrete,
    dims_of,
    ints_of,
    length_of,
    normal_axes,
    normal_axis,
    present,
    shape_of,
)
from .structured import Array, Structured

if TYPE_CHECKING:
    from ..xp import Namespace

NO_END = (1 << 31) - 1
"""A slice that ends here or further away ends with its dim."""


@op("Concat")
class Concat(Movement):
    """The operands one after the other along ``axis``."""

    arithmetic = True

    def compute(self, xp: Namespace, *operands: Array) -> Array:
        return xp.concat(operands, self.axis)

    def _parts(self) -> list[Dim]:
        """The extent of each operand along the axis."""
        shapes = [shape_of(self, i) for i in range(len(self.operands))]
        return [None if shape is None else shape[self.axis] for shape in shapes]

    def result_shapes(self) -> Sequence[Shape | None]:
        shapes = [shape_of(self, i) for i in range(len(self.operands))]
        known = [shape for shape in shapes if shape is not None]
        if not known:
            return [None]
        if len(set(map(len, known))) > 1:
            raise ValueError("the operands have different ranks")
        at = normal_axis(self.axis, len(known[0]))
        columns = enumerate(zip(*known, strict=True))
        total = _total(self._parts())
        return [tuple([total if i == at else agreed(*column) for i, column in columns])]

    def index_maps(self) -> Maps | None:
        source = shape_of(self)
        if source is None or None in [value and value.shape for value in self.operands]:
            return None
        terms, at = plain(source), normal_axis(self.axis, len(source))
        segments, whole = _segments(f"i{at}", self._parts())
        return build(
            [_put(terms, at, segment) for segment in segments],
            [_put(terms, at, Whole(f"i{at}") if whole else terms[at])],
            linear=[range(len(segments))],
            cost=self.flops,
        )

    def extents(self) -> Mapping[str, Dim]:
        parts = self._parts()
        name = f"i{normal_axis(self.axis, len(shape_of(self) or ()))}"
        return {name: _total(parts)} | _segments(name, parts)[1]


@op("Split")
class Split(Movement):
    """Pieces along ``axis``: of the sizes ``split``, or ``num_outputs`` equal ones.

    Where these do not divide the extent, the last piece is smaller.
    """

    static = (1,)
    arithmetic = True

    def default_outs(self) -> int:
        return self.num_outputs or length_of(self, 1) or 1

    def compute(self, xp: Namespace, x: Array, split: Array = None) -> Array:
        sizes = self._sizes(x.shape[self.axis], concrete(split))
        pieces = xp.split(x, sizes, self.axis)
        return pieces if self.outs > 1 else pieces[0]

    def _sizes(self, extent: Dim, wanted: Sequence[Dim] | None) -> list[Dim]:
        if wanted is not None:
            if len(wanted) != self.outs:
                raise ValueError(f"{len(wanted)} sizes for {self.outs} pieces")
            return list(wanted)
        size = dims.ceildiv(extent, self.outs)
        rest = dims.sub(extent, dims.mul(size, self.outs - 1))
        return [size] * (self.outs - 1) + [rest]

    def pieces(self) -> list[Dim]:
        """The extents along the axis."""
        extent = (shape_of(self) or ())[self.axis]
        wanted = dims_of(self, 1)
        if wanted is None and present(self, 1):
            return [None] * self.outs
        sizes = self._sizes(extent, wanted)
        if isinstance(extent, int) and isinstance(total := _total(sizes), int):
            agreed(extent, total)
        return sizes

    def result_shapes(self) -> Sequence[Shape | None]:
        source = shape_of(self)
        if source is None:
            return [None] * self.outs
        at = normal_axis(self.axis, len(source))
        return [(*source[:at], n, *source[at + 1 :]) for n in self.pieces()]

    def index_maps(self) -> Maps | None:
        source = shape_of(self)
        if source is None:
            return None
        terms, at = plain(source), normal_axis(self.axis, len(source))
        segments, _ = _segments(f"i{at}", self.pieces())
        results = [_put(terms, at, segment) for segment in segments]
        return unary_maps(self, terms, results)

    def extents(self) -> Mapping[str, Dim]:
        return _segments("", self.pieces())[1]


@op("Slice")
class Slice(Movement):
    """Every ``steps``-th element from ``starts`` to before ``ends`` along ``axes``.

    Negative starts and ends count from the back; both are clamped to the dim.
    """

    static = (1, 2, 3, 4)
    arithmetic = True

    def compute(
        self,
        xp: Namespace,
        x: Array,
        starts: Array,
        ends: Array,
        axes: Array = None,
        steps: Array = None,
    ) -> Array:
        return xp.strided_slice(x, starts, ends, steps, axes)

    def cuts(self) -> dict[int, Cut] | None:
        """What is taken of each sliced axis; None where the axes are not known."""
        source, count = shape_of(self), length_of(self, 1)
        if source is None or count is None:
            return None
        axes = ints_of(self, 3) if present(self, 3) else tuple(range(count))
        if axes is None:
            return None
        unknown: tuple[Dim, ...] = (None,) * count
        starts, ends = dims_of(self, 1) or unknown, dims_of(self, 2) or unknown
        steps = dims_of(self, 4) or (unknown if present(self, 4) else (1,) * count)
        return {
            at: _cut(source[at], start, end, step)
            for at, start, end, step in zip(
                normal_axes(axes, len(source)), starts, ends, steps, strict=True
            )
        }

    def result_shapes(self) -> Sequence[Shape | None]:
        source, cuts = shape_of(self), self.cuts()
        if source is None or cuts is None:
            return [None if source is None else (None,) * len(source)]
        return [tuple([cuts[i][2] if i in cuts else d for i, d in enumerate(source)])]

    def index_maps(self) -> Maps | None:
        source, cuts = shape_of(self), self.cuts()
        if source is None:
            return None
        if cuts is None:
            cuts = dict.fromkeys(range(len(source)), (None, None, None))
        operand, result = list(plain(source)), list(plain(source))
        for i, (first, step, count) in cuts.items():
            if first is None or step is None:
                operand[i], result[i] = Whole(f"s{i}"), Whole(f"i{i}")
            elif first != 0 or step != 1 or not dims.equal(count, source[i]):
                operand[i] = Affine(((f"i{i}", step),), first, source[i])
        return unary_maps(self, tuple(operand), [tuple(result)])

    def extents(self) -> Mapping[str, Dim]:
        return {f"i{i}": dim for i, dim in enumerate(self.result_shapes()[0] or ())}


Cut = tuple[Dim, Dim, Dim]
"""The first element of a slice, its step, and how many there are; None if unknown."""


def _cut(extent: Dim, start: Dim, end: Dim, step: Dim) -> Cut:
    """A slice of a dim, clamped. Raises ValueError for a step of 0."""
    if step == 0:
        raise ValueError("a slice has step 0")
    if not isinstance(step, int) or start is None or end is None:
        return None, None, None
    if step > 0:
        return _forwards(extent, start, end, step)
    return _backwards(extent, start, end, step)


def _forwards(extent: Dim, start: Dim, end: Dim, step: int) -> Cut:
    if isinstance(end, int) and end >= NO_END:
        end = extent
    elif _counts_from_back(end):
        end = dims.add(extent, end)
    else:
        end = dims.minimum(end, extent) if dims.nonnegative(end) else None
    if _not_after(start, 0) and _not_after(dims.add(extent, start), 0):
        start, room = 0, end  # also where it is 0, and does not count from the back
    elif _counts_from_back(start):
        start = dims.add(extent, start)
        # end - max(start, 0), in a form that cancels
        room = dims.minimum(dims.sub(end, start), end)
        start = dims.maximum(start, 0)
    elif dims.nonnegative(start):
        room = dims.sub(end, start)
    else:
        return None, None, None
    return start, step, dims.maximum(0, dims.ceildiv(room, step))


def _backwards(extent: Dim, start: Dim, end: Dim, step: int) -> Cut:
    last = dims.sub(extent, 1)
    if isinstance(end, int) and end <= -NO_END:
        end = -1
    elif _counts_from_back(end):
        end = dims.maximum(dims.add(extent, end), -1)
    elif not dims.nonnegative(end):
        end = None
    if isinstance(start, int) and (start == -1 or start >= NO_END):
        start = last
    elif _counts_from_back(start):
        start = dims.minimum(dims.maximum(dims.add(extent, start), 0), last)
    elif dims.nonnegative(start):
        start = dims.minimum(start, last)
    else:
        return None, None, None
    count = dims.maximum(0, dims.ceildiv(dims.sub(start, end), -step))
    return start, step, count


def _counts_from_back(bound: Dim) -> bool:
    return _not_after(bound, -1)


def _not_after(bound: Dim, last: int) -> bool:
    high = dims.upper_bound(bound)
    return high is not None and high <= last


# --- terms --------------------------------------------------------------------------


def plain(shape: Sequence[Dim]) -> Map:
    """The axes ``i0 i1 ...`` of a tensor."""
    return tuple([axis(name) for name in axis_names(len(shape))])


def unary_maps(op: Structured, operand: Map, results: Sequence[Map]) -> Maps:
    """Maps of an op whose other operands are not indexed."""
    others = [None] * (len(op.operands) - 1)
    return build([operand, *others], results, linear=op.linear, cost=op.flops)


def _put(terms: Map, at: int, term: Term) -> Map:
    return (*terms[:at], term, *terms[at + 1 :])


def _segments(name: str, parts: Sequence[Dim]) -> tuple[list[Term], dict[str, Dim]]:
    """Consecutive parts of an axis as terms; those at unknown places are whole.

    Also the extents of the latter.
    """
    if len(parts) == 1:
        return [axis(name)], {}
    terms: list[Term] = []
    whole: dict[str, Dim] = {}
    offset: Dim = 0
    for i, part in enumerate(parts):
        if offset is None or part is None:
            whole[f"part{i}"] = part
            terms.append(Whole(f"part{i}"))
        else:
            terms.append(Affine(((name, 1),), dims.mul(-1, offset), part))
        offset = dims.add(offset, part)
    return terms, whole


def _total(parts: Sequence[Dim]) -> Dim:
    total: Dim = 0
    for part in parts:
        total = dims.add(total, part)
    return total
