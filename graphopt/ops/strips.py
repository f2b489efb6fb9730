"""A region of ops that runs strip by strip, along a dim whose extent only a run tells.

Strip mining, as compilers do it to a loop of unknown length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from .. import dims
from ..dims import Dim
from ..ir import Graph, Parameter, Value
from ..types import DType, Type
from .bodies import scalar, vector
from .body_types import unstacked
from .comparison import Less, Where
from .constant import Constant
from .control import Control, Run, Scan
from .elementwise import Add, Div, Max, Min, Mul, Sub
from .generation import Range, Shape
from .indexing import Gather
from .movement import Transpose
from .registry import op
from .reshaping import Reshape, Unsqueeze
from .schema import Schema
from .segments import Concat
from .structured import Array, Composite
from .tiled import NUMBER, inlined, resized

if TYPE_CHECKING:
    from ..xp import Namespace


def strips_of(extent: Dim, size: int) -> tuple[Dim, Dim]:
    """How many strips of at most ``size`` positions there are, and how long each is."""
    count = dims.maximum(1, dims.ceildiv(extent, size))
    return count, dims.ceildiv(extent, count)


def firsts_of(extent: int, size: int) -> tuple[list[int], int]:
    """Where each strip begins, and how long all of them are."""
    count, length = strips_of(extent, size)
    assert isinstance(count, int)
    assert isinstance(length, int)
    return [min(i * length, extent - length) for i in range(count)], length


@op("Strips", domain="graphopt")
class Strips(Composite, Control):
    """Strips of at most ``size`` positions: ``Strips(*cut, *captures, bodies=[body])``.

    The body gets the position where the strip begins, a part of each cut operand and
    the captures whole; it gives parts of the results, which are put side by side. A
    position is ``ratios[i]`` places of the dim ``axes[i]`` of a cut operand, and
    ``result_ratios[j]`` of the dim ``result_axes[j]`` of a result.

    n positions are ``c = max(1, ceil(n / size))`` strips, each of ``s = ceil(n / c)``
    positions: all alike, whatever n is. Strip i begins at ``min(i * s, n - s)``: the
    last one lies over the end of the one before, by less than c positions, where it
    has the last word. So no strip may keep anything for the next one.
    """

    __slots__ = ()
    body_names = ("body",)

    @classmethod
    def schema(cls) -> Schema:
        return _schema()

    @property
    def parts(self) -> slice:
        """Where the cut operands are."""
        return slice(0, len(self.operands) - int(self.captures))

    @property
    def tiles(self) -> tuple[Parameter, ...]:
        """The parameters for parts of operands."""
        return self.bodies[0].inputs[1 : 1 + self.parts.stop]

    @property
    def extent(self) -> Dim:
        """The number of positions. Raises TypeMismatch where the operands differ."""
        found: Dim = None
        rows = zip(self.operands[self.parts], self.axes, self.ratios, strict=True)
        for i, (x, axis, ratio) in enumerate(rows):
            shape = None if x is None else x.shape
            dim = shape[axis] if shape and 0 <= axis < len(shape) else None
            positions = dims.divide_exact(dim, ratio)
            if positions is None:
                raise self.error(f"operand {i} has no axis {axis} by {ratio}: {shape}")
            if found is not None and not dims.equal(found, positions):
                raise self.error(
                    f"{found} positions of one operand, {positions} of another"
                )
            found = positions
        return found

    @property
    def count(self) -> Dim:
        """How many strips there are."""
        return strips_of(self.extent, self.size)[0]

    @property
    def length(self) -> Dim:
        """The positions of each strip."""
        return strips_of(self.extent, self.size)[1]

    def infer(self) -> Sequence[Type]:
        (body,) = self.bodies
        if len(body.inputs) != 1 + len(self.operands):
            raise self.error("the body has other parameters than the op has operands")
        if not 0 < self.parts.stop == len(self.axes) == len(self.ratios):
            raise self.error("axes and ratios are not those of its cut operands")
        if not len(body.outputs) == len(self.result_axes) == len(self.result_ratios):
            raise self.error("the body's results are not the parts")
        if min(self.size, *self.ratios, *self.result_ratios) < 1:
            raise self.error(f"strips of {self.size} positions, or a ratio below 1")
        extent = self.extent
        rows = zip(body.outputs, self.result_axes, self.result_ratios, strict=True)
        return [
            resized(piece.type, axis, dims.mul(extent, ratio))
            for piece, axis, ratio in rows
        ]

    def signature(self) -> tuple[list[Type], list[Type]]:
        given, length = self.given(), self.length
        for i, (axis, ratio) in enumerate(zip(self.axes, self.ratios, strict=True)):
            given[i] = resized(given[i], axis, dims.mul(length, ratio))
        rows = zip(self.types, self.result_axes, self.result_ratios, strict=True)
        made = [resized(t, axis, dims.mul(length, ratio)) for t, axis, ratio in rows]
        return [NUMBER, *given], made

    def positions(self, operands: Sequence[Array]) -> int:
        """How many there are of these arrays."""
        return int(operands[0].shape[self.axes[0]]) // int(self.ratios[0])

    def compute(  # type: ignore[override]
        self, xp: Namespace, *operands: Array, run: Run
    ) -> Array | tuple[Array, ...]:
        where, extent = self.parts, self.positions(operands)
        firsts, length = firsts_of(extent, self.size)
        columns: list[list[Array]] = [[] for _ in self.result_axes]
        ends = [*firsts[1:], extent]
        for first, end in zip(firsts, ends, strict=True):
            parts = [
                _taken(x, axis, first * ratio, (first + length) * ratio)
                for x, axis, ratio in zip(
                    operands[where], self.axes, self.ratios, strict=True
                )
            ]
            number = xp.asarray(first, np.int64)
            made = run(0, [number, *parts, *operands[where.stop :]])
            rows = zip(columns, made, self.result_axes, self.result_ratios, strict=True)
            for column, piece, axis, ratio in rows:
                column.append(_taken(piece, axis, 0, (end - first) * ratio))
        results = tuple(
            [
                xp.concat(column, axis)
                for column, axis in zip(columns, self.result_axes, strict=True)
            ]
        )
        return results if self.outs > 1 else results[0]

    # Without strips in the language

    def body(self) -> tuple[Value, ...]:
        """A Scan over the positions of each strip; of each the last that was made.

        Its body looks its parts up: so types tell how long they are.
        """
        where, (body,) = self.parts, self.bodies
        source = self.operands[0]
        assert source is not None
        ruler = _Ruler.of(self, source)
        rows = ruler.rows()
        first = Parameter(NUMBER, "first")
        row = Parameter(unstacked(rows.type), "positions")
        pairs = zip(self.operands, body.inputs[1:], strict=True)
        captured = [Parameter(v.type, p.name) for v, p in pairs if v is not None]
        parts = [
            Gather(x, _places(row, ratio), axis=axis)
            for x, axis, ratio in zip(
                captured[where], self.axes, self.ratios, strict=True
            )
        ]
        made = inlined(body, [first, *parts, *captured[where.stop :]])
        scan = Scan(
            ruler.firsts(),
            rows,
            *self.operands,
            bodies=(Graph([first, row, *captured], made, name=body.name),),
            num_scan_inputs=2,
            captures=len(captured),
        )
        results = zip(scan.results, self.result_axes, self.result_ratios, strict=True)
        return tuple([ruler.joined(x, axis, ratio) for x, axis, ratio in results])


@dataclass(frozen=True)
class _Ruler:
    """What a run measures, int64 scalars: positions, strips, and positions of each."""

    extent: Value
    count: Value
    length: Value

    @classmethod
    def of(cls, op: Strips, source: Value) -> _Ruler:
        """``source`` is the first cut operand of ``op``."""
        if isinstance(op.extent, int):
            count, length = strips_of(op.extent, op.size)
            assert isinstance(count, int)
            assert isinstance(length, int)
            return cls(_int(op.extent), _int(count), _int(length))
        extent: Value = Gather(Shape(source), _int(op.axes[0]))
        if op.ratios[0] > 1:
            extent = Div(extent, _int(op.ratios[0]))
        strips = Max(Div(Add(extent, _int(op.size - 1)), _int(op.size)), _int(1))
        return cls(extent, strips, Div(Add(extent, Sub(strips, _int(1))), strips))

    def firsts(self) -> Value:
        """Where each strip begins: min(i * length, extent - length)."""
        numbers = _numbered(self.count)
        last = Sub(self.extent, self.length)
        return Min(Mul(numbers, self.length), last)

    def rows(self) -> Value:
        """The positions of each strip, in a row."""
        return Add(Unsqueeze(self.firsts(), vector(1)), _numbered(self.length))

    def joined(self, rows: Value, axis: int, ratio: int) -> Value:
        """Stacked strips as one dim, each position once: the last of those that lap.

        A Scan that stacks along another axis than the first copies it all at its end,
        when all that it reads is still there.
        """
        if axis:
            order = [*range(1, axis + 1), 0, *range(axis + 1, rows.rank or 0)]
            rows = Transpose(rows, perm=tuple(order))
        total = _times(Mul(self.count, self.length), ratio)
        before, after = Shape(rows, start=0, end=axis), Shape(rows, start=axis + 2)
        shape = Concat(before, Reshape(total, vector(1)), after, axis=0)
        merged = Reshape(rows, shape, allowzero=1)
        extent = _times(self.extent, ratio)
        if total.ints is not None and total.ints == extent.ints:
            return merged
        last = _times(Sub(self.extent, self.length), ratio)
        there = _numbered(extent)
        places = Add(there, Where(Less(there, last), _int(0), Sub(total, extent)))
        return Gather(merged, places, axis=axis)


def _places(row: Value, ratio: int) -> Value:
    """The places of a dim that positions are, ``ratio`` for each."""
    if ratio == 1:
        return row
    firsts = Unsqueeze(_times(row, ratio), vector(1))
    each = Add(firsts, Constant(np.arange(ratio, dtype=np.int64)))
    return Reshape(each, vector(-1))


@cache
def _schema() -> Schema:
    return Schema(
        defaults={"captures": 0},
        required=frozenset(("size", "axes", "ratios", "result_axes", "result_ratios")),
        optional=frozenset(),
        min_operands=1,
        max_operands=(1 << 31) - 1,
        min_results=1,
        max_results=(1 << 31) - 1,
        operand_names=(),
        variadic_operand=True,
        variadic_result=True,
        result_types=(None,),
    )


def _taken(x: Array, axis: int, start: int, stop: int) -> Array:
    return x[(slice(None),) * axis + (slice(start, stop),)]


def _int(number: int) -> Value:
    return scalar(number, DType.I64)


def _times(x: Value, ratio: int) -> Value:
    return x if ratio == 1 else Mul(x, _int(ratio))


def _numbered(count: Value) -> Value:
    return Range(_int(0), count, _int(1))
