"""Control flow: ops that run bodies. Captured values are operands like any other.

A body's parameters are its formal ones, then the captures, the same for every body of
an op. Constants are never captured: a body uses the interned op itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from ..errors import TypeMismatch
from ..types import (
    UNKNOWN,
    OptionalType,
    SequenceType,
    TensorType,
    Type,
    UnknownType,
)
from .registry import op
from .schema import Schema, schema_of
from .structured import Computed

if TYPE_CHECKING:
    from ..dims import Dim, Shape
    from ..ir import Graph, Value

Run: TypeAlias = Callable[[int, Sequence[Any]], list[Any]]
"""Runs body ``index`` on arrays for all its parameters; gives its outputs."""


class Control(Computed):
    """An op with bodies. ``captures`` counts the operands that are captured values."""

    __slots__ = ()

    body_names: ClassVar[tuple[str, ...]] = ()
    """The attributes that hold the bodies in ONNX, in the order of ``bodies``."""

    @classmethod
    def schema(cls) -> Schema:
        return _without_bodies(cls.kind, cls.body_names)

    def default_outs(self) -> int:
        return len(self.infer())

    @property
    def captured(self) -> tuple[Value | None, ...]:
        """The operands that bodies see as their last parameters."""
        count: int = self.captures
        return self.operands[len(self.operands) - count :]

    def formals(self, body: Graph) -> int:
        """How many parameters of a body are not captures."""
        return len(body.inputs) - int(self.captures)


@cache
def _without_bodies(kind: str, body_names: tuple[str, ...]) -> Schema:
    """ONNX's schema, the bodies apart and the number of captures added."""
    schema = schema_of(kind)
    assert schema is not None
    return replace(
        schema,
        required=schema.required - set(body_names),
        optional=schema.optional - set(body_names),
        defaults={**schema.defaults, "captures": 0},
    )


@op("If")
class If(Control):
    """The results of one body or the other: ``If(cond, *captures, bodies=(t, e))``."""

    __slots__ = ()
    body_names = ("then_branch", "else_branch")

    @classmethod
    def complete(cls, attrs: Any) -> dict[str, Any]:
        return {**super().complete(attrs), "captures": 0}

    @property
    def captured(self) -> tuple[Value | None, ...]:
        return self.operands[1:]

    def formals(self, body: Graph) -> int:
        return 0

    def infer(self) -> Sequence[Type]:
        then, other = self.bodies
        if len(then.outputs) != len(other.outputs):
            raise self.error("branches differ in their number of results")
        for body in self.bodies:
            if len(body.inputs) != len(self.operands) - 1:
                raise self.error("a branch has other parameters than the captures")
        try:
            return [
                join(a.type, b.type)
                for a, b in zip(then.outputs, other.outputs, strict=True)
            ]
        except ValueError as error:
            raise self.error(f"branches give {error}") from None


@op("Loop")
class Loop(Control):
    """Runs a body until its condition fails or the trip count is reached.

    ``Loop(M, cond, *carried, *captures, bodies=(body,))``. The body gets iteration,
    condition and carried values; it gives condition, carried values, and rows that
    are stacked over the iterations. Its parameters' types hold in every iteration.
    """

    __slots__ = ()
    body_names = ("body",)

    @property
    def carried(self) -> int:
        """How many values pass from iteration to iteration."""
        return self.formals(self.bodies[0]) - 2

    def infer(self) -> Sequence[Type]:
        (body,) = self.bodies
        if max(len(self.operands), 2) != len(body.inputs):
            raise self.error("the body has other parameters than the op has operands")
        carried = self.carried
        if carried < 0 or len(body.outputs) < 1 + carried:
            raise self.error(f"the body gives too few results for {carried} carried")
        types: list[Type] = []
        for formal, value in zip(
            body.inputs[2 : 2 + carried], body.outputs[1 : 1 + carried], strict=True
        ):
            types.append(holds(formal.type, value.type, self))
        trips = self.trips()
        for row in body.outputs[1 + carried :]:
            types.append(stacked(row.type, trips))
        return types

    def trips(self) -> Dim:
        """The number of iterations, where the operands alone decide it."""
        return None


@op("Scan")
class Scan(Control):
    """Runs a body over slices: ``Scan(*states, *scanned, *captures, bodies=(body,))``.

    The body gets states and one slice of each scanned operand; it gives the states
    and slices of the stacked results.
    """

    __slots__ = ()
    body_names = ("body",)

    @property
    def states(self) -> int:
        """How many values pass from slice to slice."""
        return self.formals(self.bodies[0]) - int(self.num_scan_inputs)

    def infer(self) -> Sequence[Type]:
        (body,) = self.bodies
        if len(self.operands) != len(body.inputs):
            raise self.error("the body has other parameters than the op has operands")
        states = self.states
        if states < 0 or len(body.outputs) < states:
            raise self.error(f"the body gives too few results for {states} states")
        types: list[Type] = []
        for formal, value in zip(
            body.inputs[:states], body.outputs[:states], strict=True
        ):
            types.append(holds(formal.type, value.type, self))
        length = self.length()
        axes = self.scan_output_axes or (0,) * (len(body.outputs) - states)
        for row, axis in zip(body.outputs[states:], axes, strict=True):
            types.append(stacked(row.type, length, axis))
        return types

    def length(self) -> Dim:
        """The number of slices."""
        first = self.states
        scanned = self.operands[first : first + int(self.num_scan_inputs)]
        axes = self.scan_input_axes or (0,) * len(scanned)
        for value, axis in zip(scanned, axes, strict=True):
            shape = None if value is None else value.shape
            if shape and -len(shape) <= axis < len(shape) and shape[axis] is not None:
                return shape[axis]  # type: ignore[no-any-return]
        return None


def join(a: Type, b: Type) -> Type:
    """The narrowest type that holds both. Raises ValueError where there is none."""
    if a == b:
        return a
    if isinstance(a, UnknownType) or isinstance(b, UnknownType):
        return UNKNOWN
    if isinstance(a, TensorType) and isinstance(b, TensorType):
        if a.dtype and b.dtype and a.dtype is not b.dtype:
            raise ValueError(f"{a} and {b}")
        return TensorType(a.dtype and b.dtype, _join_shapes(a.shape, b.shape))
    if isinstance(a, SequenceType) and isinstance(b, SequenceType):
        return SequenceType(join(a.element, b.element))
    if isinstance(a, OptionalType) and isinstance(b, OptionalType):
        return OptionalType(join(a.element, b.element))
    if isinstance(b, OptionalType):
        a, b = b, a
    if isinstance(a, OptionalType):  # runtimes let a value stand for an optional one
        return OptionalType(join(a.element, b))
    raise ValueError(f"{a} and {b}")


def _join_shapes(a: Shape | None, b: Shape | None) -> Shape | None:
    if a is None or b is None or len(a) != len(b):
        return None
    return tuple([x if x == y else None for x, y in zip(a, b, strict=True)])


def fits(narrow: Type, wide: Type) -> bool:
    """True where every value of the one type is surely one of the other."""
    try:
        return join(narrow, wide) == wide
    except ValueError:
        return False


def holds(formal: Type, result: Type, op_: Computed) -> Type:
    """A carried value's type. Raises TypeMismatch where the body surely breaks it."""
    try:
        join(formal, result)
    except ValueError as error:
        raise TypeMismatch(f"{op_.kind} carries {error}") from None
    return formal


def stacked(row: Type, length: Dim, axis: int = 0) -> Type:
    """The type of ``length`` rows stacked along a new axis."""
    if not isinstance(row, TensorType):
        return UNKNOWN
    if row.shape is None:
        return TensorType(row.dtype)
    place = axis + len(row.shape) + 1 if axis < 0 else axis
    return TensorType(row.dtype, (*row.shape[:place], length, *row.shape[place:]))


def unstacked(type_: Type, axis: int = 0) -> Type:
    """The type of a slice of a scanned operand."""
    if not isinstance(type_, TensorType):
        return UNKNOWN
    if type_.shape is None or not -len(type_.shape) <= axis < len(type_.shape):
        return TensorType(type_.dtype)
    place = axis % len(type_.shape)
    return TensorType(type_.dtype, type_.shape[:place] + type_.shape[place + 1 :])


