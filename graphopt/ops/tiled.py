"""A region of ops that runs tile by tile, so that only one tile of it is ever alive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .. import dims
from ..dims import Dim
from ..ir import Graph, Op, Parameter, Value, rebuild
from ..types import DType, TensorType, Type
from .bodies import scalar, vector
from .body_types import holds
from .constant import Constant
from .control import Control, Run, Scan
from .elementwise import Add, Mul
from .generation import Shape
from .registry import op
from .reshaping import Reshape
from .schema import Schema
from .segments import Concat, Slice
from .structured import Array, Composite

if TYPE_CHECKING:
    from ..xp import Namespace

WRITTEN_OUT: Final = 64
"""In ONNX so many tiles at most are written one after the other; more are a Scan.

A Scan is one body, but takes 15 % more memory and 65 % more time there (attention over
4,096 positions by 256, ONNX Runtime 1.31.1 on a CPU)."""

NUMBER: Final = TensorType(DType.I64, ())


@dataclass(frozen=True, slots=True)
class Cut:
    """Tile i of an operand: ``size`` positions of a dim from ``start + i * step``."""

    axis: int
    start: int
    step: int
    size: int

    def at(self, number: int) -> tuple[int, int]:
        """First position of a tile, and the one after its last."""
        first = self.start + number * self.step
        return first, first + self.size

    def fills(self, extent: Dim, count: int) -> bool:
        """True where the tiles lie side by side and are all there is of the dim."""
        apart = self.start == 0 and self.step == self.size
        return apart and extent == count * self.size


@op("Tiled", domain="graphopt")
class Tiled(Composite, Control):
    """``count`` equal tiles: ``Tiled(*states, *cut, *captures, bodies=(body,))``.

    The body gets the number of the tile, the ``states`` as the tile before left them, a
    part of each cut operand and the captures whole; it gives the states, and parts that
    are put side by side along ``result_axes``. Tile i of a cut operand begins at
    ``starts + i * steps`` of its dim ``axes``, and is as large as the parameter. Tiles
    may overlap, and need not be all of the operand: what is left of a dim, and tiles at
    a border, are ops beside this one.
    """

    __slots__ = ()
    body_names = ("body",)

    @classmethod
    def schema(cls) -> Schema:
        return _schema()

    @property
    def parts(self) -> slice:
        """Where the cut operands are."""
        return slice(int(self.states), len(self.operands) - int(self.captures))

    @property
    def tiles(self) -> tuple[Parameter, ...]:
        """The parameters for parts of operands."""
        where = self.parts
        return self.bodies[0].inputs[1 + where.start : 1 + where.stop]

    @property
    def cuts(self) -> list[Cut]:
        """How each cut operand is cut. Raises TypeMismatch."""
        rows = zip(self.axes, self.starts, self.steps, self.tiles, strict=True)
        found = []
        for axis, start, step, tile in rows:
            inside = tile.shape is not None and 0 <= axis < len(tile.shape)
            size = tile.shape[axis] if inside and tile.shape else None
            if not isinstance(size, int):
                raise self.error(f"a tile of unknown size: {tile.type}, axis {axis}")
            found.append(Cut(axis, start, step, size))
        return found

    def infer(self) -> Sequence[Type]:
        (body,) = self.bodies
        if len(body.inputs) != 1 + len(self.operands):
            raise self.error("the body has other parameters than the op has operands")
        states, count = int(self.states), int(self.count)
        where = self.parts
        lengths = {len(self.axes), len(self.starts), len(self.steps)}
        if lengths != {where.stop - where.start} or where.start > where.stop:
            raise self.error("axes, starts and steps are not those of its cut operands")
        if len(body.outputs) != states + len(self.result_axes):
            raise self.error("the body's results are not the states and the parts")
        if count < 1:
            raise self.error(f"{count} tiles")
        for operand, cut in zip(self.operands[where], self.cuts, strict=True):
            shape = None if operand is None else operand.shape
            extent = shape[cut.axis] if shape and cut.axis < len(shape) else None
            end = cut.at(count - 1)[1]
            if not isinstance(extent, int):
                raise self.error(f"tiles of a dim of unknown size: {extent}")
            if cut.start < 0 or cut.step < 0:
                raise self.error(f"tiles begin at {cut.start} and go on by {cut.step}")
            if end > extent:
                raise self.error(f"the last tile ends at {end}, the dim at {extent}")
        types: list[Type] = [
            holds(formal.type, value.type)
            for formal, value in zip(
                body.inputs[1:], body.outputs[:states], strict=False
            )
        ]
        pieces = zip(body.outputs[states:], self.result_axes, strict=True)
        return [*types, *(_lined_up(piece.type, axis, count) for piece, axis in pieces)]

    def signature(self) -> tuple[list[Type], list[Type]]:
        given = self.given()
        for i, cut in enumerate(self.cuts, int(self.states)):
            given[i] = resized(given[i], cut.axis, cut.size)
        outputs = self.bodies[0].outputs
        parts: list[Type] = []
        for i, axis in enumerate(self.result_axes, int(self.states)):
            shape = outputs[i].shape
            extent = shape[axis] if shape and axis < len(shape) else None
            parts.append(resized(self.types[i], axis, extent))
        return [NUMBER, *given], [*self.types[: int(self.states)], *parts]

    def compute(  # type: ignore[override]
        self, xp: Namespace, *operands: Array, run: Run
    ) -> Array | tuple[Array, ...]:
        where, count = self.parts, int(self.count)
        states: Sequence[Array] = operands[: where.start]
        columns: list[list[Array]] = [[] for _ in self.result_axes]
        for number in range(count):
            parts = [
                x[(slice(None),) * cut.axis + (slice(*cut.at(number)),)]
                for x, cut in zip(operands[where], self.cuts, strict=True)
            ]
            first = xp.asarray(number, np.int64)
            made = run(0, [first, *states, *parts, *operands[where.stop :]])
            states = made[: where.start]
            for column, piece in zip(columns, made[where.start :], strict=True):
                column.append(piece)
        rows = [
            xp.concat(column, axis)
            for column, axis in zip(columns, self.result_axes, strict=True)
        ]
        results = (*states, *rows)
        return results if self.outs > 1 else results[0]

    # Without tiles in the language

    def body(self) -> tuple[Value, ...]:
        return self.unrolled() if self.count <= WRITTEN_OUT else self.scanned()

    def tile(
        self, number: int, states: Sequence[Value | None], instance: int = 0
    ) -> tuple[Value, ...]:
        """What the body gives for one tile, built on this op's operands."""
        where = self.parts
        cut = [
            _part(x, cut.axis, vector(first), vector(last), instance)
            for x, cut in zip(self.operands[where], self.cuts, strict=True)
            for first, last in [cut.at(number)]
        ]
        whole = self.operands[where.stop :]
        return inlined(
            self.bodies[0], [scalar(number, DType.I64), *states, *cut, *whole], instance
        )

    def unrolled(self) -> tuple[Value, ...]:
        """Each tile as ops of its own."""
        return self.joined(self.turns())

    def turns(self, instance: int = 0) -> list[tuple[Value, ...]]:
        """What each tile gives, the states after it and its parts, as ops.

        Ops of an ``instance`` stay apart from equal ones of other regions: parts of a
        mask that layers share, which else would live from the first to the last.
        """
        states: Sequence[Value | None] = self.operands[: int(self.states)]
        found: list[tuple[Value, ...]] = []
        for number in range(int(self.count)):
            found.append(self.tile(number, states, instance))
            states = found[-1][: int(self.states)]
        return found

    def joined(self, turns: Sequence[tuple[Value, ...]]) -> tuple[Value, ...]:
        """The results: the last states, and the parts of all tiles side by side."""
        count = int(self.states)
        columns = zip(*[made[count:] for made in turns], strict=True)
        rows = [
            Concat(*column, axis=axis)
            for column, axis in zip(columns, self.result_axes, strict=False)
        ]
        return (*turns[-1][:count], *rows)

    def scanned(self) -> tuple[Value, ...]:
        """The tiles as slices of a Scan.

        An operand whose tiles fill it has them along a dim of its own; of another one
        the body takes its part by the number of the tile.
        """
        where, count = self.parts, int(self.count)
        (body,) = self.bodies
        number = Parameter(NUMBER, "number")
        given: list[Value] = [number]
        states = [Parameter(p.type, p.name) for p in body.inputs[1 : 1 + where.start]]
        scanned: list[Parameter] = []
        captured: list[Parameter] = []
        rows: list[Value] = [Constant(np.arange(count, dtype=np.int64))]
        axes, kept = [0], list[Value | None]()
        given += states
        for x, cut, tile in zip(
            self.operands[where], self.cuts, self.tiles, strict=True
        ):
            assert x is not None
            if x.shape is not None and cut.fills(x.shape[cut.axis], count):
                parameter = Parameter(tile.type, tile.name)
                scanned.append(parameter)
                given.append(parameter)
                rows.append(_split(x, cut.axis, count, cut.size))
                axes.append(cut.axis)
            else:
                parameter = Parameter(x.type, tile.name)
                captured.append(parameter)
                kept.append(x)
                along = Add(Mul(number, _int(cut.step)), _int(cut.start))
                first = Reshape(along, vector(1))
                last = Add(first, vector(cut.size))
                given.append(_part(parameter, cut.axis, first, last))
        whole = body.inputs[1 + where.stop :]
        more = [Parameter(p.type, p.name) for p in whole]
        made = inlined(body, [*given, *more])
        inner = Graph(
            [*states, number, *scanned, *captured, *more], made, name=body.name
        )
        scan = Scan(
            *self.operands[: where.start],
            *rows,
            *kept,
            *self.operands[where.stop :],
            bodies=(inner,),
            num_scan_inputs=len(rows),
            scan_input_axes=tuple(axes),
            scan_output_axes=self.result_axes or None,
            captures=len(captured) + len(more),
        )
        results = list(scan.results)
        for i, axis in enumerate(self.result_axes, where.start):
            results[i] = _merged(results[i], axis)
        return tuple(results)


@cache
def _schema() -> Schema:
    return Schema(
        defaults={"captures": 0, "states": 0, "axes": (), "starts": (), "steps": ()}
        | {"result_axes": ()},
        required=frozenset(("count",)),
        optional=frozenset(),
        min_operands=0,
        max_operands=(1 << 31) - 1,
        min_results=1,
        max_results=(1 << 31) - 1,
        operand_names=(),
        variadic_operand=True,
        variadic_result=True,
        result_types=(None,),
    )


def inlined(
    body: Graph, arguments: Sequence[Value | None], instance: int = 0
) -> tuple[Value, ...]:
    """A body's results on ``arguments``, its ops of an instance where they have none.

    It holds nothing random or opaque.
    """
    given = zip(body.inputs, arguments, strict=True)
    mapping: dict[Value, Value] = {p: v for p, v in given if v is not None}

    def build(inner: Op, operands: tuple[Value | None, ...]) -> Op:
        if isinstance(inner, Constant):
            return inner
        return inner.copy(operands=operands, instance=inner.instance or instance)

    return rebuild(body, build, mapping).outputs


def resized(type_: Type, axis: int, extent: Dim) -> Type:
    """A tensor's type with one dim replaced."""
    if not isinstance(type_, TensorType) or type_.shape is None:
        return type_
    shape = type_.shape
    return TensorType(type_.dtype, (*shape[:axis], extent, *shape[axis + 1 :]))


def _lined_up(piece: Type, axis: int, count: int) -> Type:
    """The type of ``count`` equal parts side by side."""
    if not isinstance(piece, TensorType) or piece.shape is None:
        return piece
    return resized(piece, axis, dims.mul(piece.shape[axis], count))


def _int(number: int) -> Value:
    return scalar(number, DType.I64)


def _part(
    x: Value | None, axis: int, first: Value, last: Value, instance: int = 0
) -> Value:
    assert x is not None
    if x.shape and first.ints == (0,) and last.ints == (x.shape[axis],):
        return x
    return Slice(x, first, last, vector(axis), instance=instance)


def _split(x: Value, axis: int, count: int, size: int) -> Value:
    """x with the dim of the tiles in two: which tile, and where in it."""
    return _reshaped(x, axis, axis + 1, (count, size))


def _merged(rows: Value, axis: int) -> Value:
    """Parts along a dim of their own, side by side."""
    shape = rows.shape
    assert shape is not None
    extent = dims.mul(shape[axis], shape[axis + 1])
    return _reshaped(rows, axis, axis + 2, (extent if isinstance(extent, int) else -1,))


def _reshaped(x: Value, first: int, last: int, middle: tuple[Any, ...]) -> Value:
    """x with its dims from ``first`` to before ``last`` replaced."""
    shape = x.shape
    assert shape is not None
    around = (*shape[:first], *shape[last:])
    if all(isinstance(dim, int) for dim in around):
        return Reshape(x, vector(*shape[:first], *middle, *shape[last:]), allowzero=1)
    before, after = Shape(x, start=0, end=first), Shape(x, start=last)
    return Reshape(x, Concat(before, vector(*middle), after, axis=0))
