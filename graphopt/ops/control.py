"""Control flow: ops that run bodies. Captured values are operands like any other.

A body's parameters are its formal ones, then the captures, the same for every body of
an op. Constants are never captured: a body uses the interned op itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from .. import dims
from ..errors import NoReference
from ..ir import Op
from ..types import UNKNOWN, DType, SequenceType, TensorType, Type
from .body_types import element_of, holds, join, stacked, unstacked
from .registry import op
from .schema import Schema, schema_of
from .structured import Array, Computed

if TYPE_CHECKING:
    from ..dims import Dim
    from ..ir import Graph, Value
    from ..xp import Namespace

Run: TypeAlias = Callable[[int, Sequence[Any]], list[Any]]
"""Runs body ``index`` on arrays for all its parameters; gives its outputs."""

Step: TypeAlias = Callable[[Any, Any, Sequence[Any]], list[Any]]
"""One iteration of a loop."""


class Control(Computed):
    """An op with bodies. ``captures`` counts the operands that are captured values."""

    __slots__ = ()

    body_names: ClassVar[tuple[str, ...]] = ()
    """The attributes that may hold bodies in ONNX, in the order of ``bodies``."""
    own_attrs: ClassVar[tuple[str, ...]] = ("captures",)
    """Attributes that ONNX does not know."""

    @classmethod
    def schema(cls) -> Schema:
        return _without_bodies(cls.kind, cls.domain, cls.body_names, cls.own_attrs)

    @property
    def written(self) -> tuple[str, ...]:
        """The attribute of each body."""
        return self.body_names

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

    def signature(self) -> tuple[list[Type], list[Type]]:
        """The types that each body is given, and those that are taken from it."""
        raise NotImplementedError

    def given(self) -> list[Type]:
        """The types of the operands, unknown for those that are absent."""
        return [UNKNOWN if v is None else v.type for v in self.operands]


@cache
def _without_bodies(
    kind: str, domain: str, body_names: tuple[str, ...], own_attrs: tuple[str, ...]
) -> Schema:
    """ONNX's schema, the bodies apart and the attributes added that are ours."""
    schema = schema_of(kind, domain)
    assert schema is not None
    own = {name: 0 if name == "captures" else () for name in own_attrs}
    return replace(
        schema,
        required=schema.required - set(body_names),
        optional=schema.optional - set(body_names),
        defaults={**schema.defaults, **own},
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

    def signature(self) -> tuple[list[Type], list[Type]]:
        return self.given()[1:], list(self.types)

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

    def compute(  # type: ignore[override]
        self, xp: Namespace, cond: Array, *captured: Array, run: Run
    ) -> Array | tuple[Array, ...]:
        made = xp.cond(
            cond,
            lambda *values: tuple(run(0, values)),
            lambda *values: tuple(run(1, values)),
            *captured,
        )
        return made if self.outs > 1 else made[0]


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
            types.append(holds(formal.type, value.type))
        trips = self.trips()
        for row in body.outputs[1 + carried :]:
            types.append(stacked(row.type, trips))
        return types

    def signature(self) -> tuple[list[Type], list[Type]]:
        rows = [unstacked(t) for t in self.types[self.carried :]]
        return (
            [TensorType(DType.I64, ()), _CONDITION, *self.given()[2:]],
            [_CONDITION, *self.types[: self.carried], *rows],
        )

    def trips(self) -> Dim:
        """The number of iterations, where it is known and no condition ends them."""
        limit = self.operand(0)
        if limit is None or limit.contents is None or not self.goes_on:
            return None
        return dims.maximum(limit.contents.item(), 0)

    @property
    def goes_on(self) -> bool:
        """True where the condition surely holds before and after every iteration."""
        first, (body,) = self.operand(1), self.bodies
        if first is not None and not _surely_true(first):
            return False
        kept = body.outputs[0]
        while isinstance(kept, Op) and kept.kind == "Identity":
            assert kept.operands[0] is not None
            kept = kept.operands[0]
        return kept is body.inputs[1] or _surely_true(kept)

    def compute(  # type: ignore[override]
        self,
        xp: Namespace,
        limit: Array | None = None,
        cond: Array | None = None,
        *others: Array,
        run: Run,
    ) -> Array | tuple[Array, ...]:
        carried, captured = others[: self.carried], others[self.carried :]
        step = self.step(captured, run)
        if xp.name == "host":
            made = self.stepwise(xp, limit, cond, carried, step)
        elif isinstance(limit, np.ndarray) and self.goes_on:
            count = max(int(limit.item()), 0)
            made = self.scanned(xp, count, carried, step)
        elif len(self.types) == len(carried):
            made = self.looped(xp, limit, cond, carried, step)
        else:
            raise NoReference("a Loop that stacks results must have a known length")
        return made if self.outs > 1 else made[0]

    def step(self, captured: Sequence[Array], run: Run) -> Step:
        """One iteration: number, condition, carried -> condition, carried and rows."""
        number, cond = (
            p.shape if p.shape is not None else () for p in self.bodies[0].inputs[:2]
        )

        def step(i: Array, keep: Array, carried: Sequence[Array]) -> list[Array]:
            made = run(0, [i.reshape(number), keep.reshape(cond), *carried, *captured])
            return [made[0].reshape(()), *made[1:]]

        return step

    def stepwise(
        self,
        xp: Namespace,
        limit: Array | None,
        cond: Array | None,
        carried: Sequence[Array],
        step: Step,
    ) -> tuple[Array, ...]:
        """As Python would: any number of iterations, any types."""
        keep = xp.asarray(True if cond is None else cond.item(), np.bool_)
        count = len(carried)
        rows: list[list[Array]] = [[] for _ in self.types[count:]]
        number = 0
        while keep.item() and (limit is None or number < limit.item()):
            keep, *made = step(xp.asarray(number, np.int64), keep, carried)
            carried = made[:count]
            for column, row in zip(rows, made[count:], strict=True):
                column.append(row)
            number += 1
        stacks = [
            xp.stack(column) if column else no_rows(xp, type_)
            for column, type_ in zip(rows, self.types[count:], strict=True)
        ]
        return (*carried, *stacks)

    def looped(
        self,
        xp: Namespace,
        limit: Array | None,
        cond: Array | None,
        carried: Sequence[Array],
        step: Step,
    ) -> tuple[Array, ...]:
        """Without rows to stack the number of iterations may be unknown."""

        def test(state: tuple[Array, ...]) -> Array:
            number, keep = state[:2]
            if limit is None:
                return keep
            below = xp.less(number, xp.reshape(xp.asarray(limit), ()))
            return xp.logical_and(below, keep)

        def body(state: tuple[Array, ...]) -> tuple[Array, ...]:
            number, keep, *values = state
            one = xp.asarray(1, np.int64)
            return (xp.add(number, one), *step(number, keep, values))

        zero = xp.asarray(0, np.int64)
        keep = xp.asarray(True, np.bool_) if cond is None else xp.reshape(cond, ())
        return tuple(xp.while_loop(test, body, (zero, keep, *carried))[2:])

    def scanned(
        self, xp: Namespace, count: int, carried: Sequence[Array], step: Step
    ) -> tuple[Array, ...]:
        """A known number of iterations."""

        def body(
            state: tuple[Array, ...], slices: tuple[Array, ...]
        ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
            number, *values = state
            _, *made = step(number, xp.asarray(True, np.bool_), values)
            following = xp.add(number, xp.asarray(1, np.int64))
            return (following, *made[: len(carried)]), tuple(made[len(carried) :])

        zero = xp.asarray(0, np.int64)
        state, rows = xp.scan(body, (zero, *carried), (), count)
        return (*state[1:], *rows)


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
            types.append(holds(formal.type, value.type))
        length = self.length()
        axes = self.scan_output_axes or (0,) * (len(body.outputs) - states)
        for row, axis in zip(body.outputs[states:], axes, strict=True):
            types.append(stacked(row.type, length, axis))
        return types

    def signature(self) -> tuple[list[Type], list[Type]]:
        given, first = self.given(), self.states
        axes = self.scan_input_axes or (0,) * int(self.num_scan_inputs)
        for i, axis in enumerate(axes, first):
            given[i] = unstacked(given[i], axis)
        axes = self.scan_output_axes or (0,) * (len(self.types) - first)
        rows = [
            unstacked(type_, axis)
            for type_, axis in zip(self.types[first:], axes, strict=True)
        ]
        return given, [*self.types[:first], *rows]

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

    def compute(  # type: ignore[override]
        self, xp: Namespace, *operands: Array, run: Run
    ) -> Array | tuple[Array, ...]:
        states, count = self.states, int(self.num_scan_inputs)
        captured = operands[states + count :]
        backwards = self.scan_input_directions or (0,) * count
        axes = self.scan_input_axes or (0,) * count
        sequences = [
            _turned(xp, _moved(xp, x, axis, 0), reverse)
            for x, axis, reverse in zip(
                operands[states : states + count], axes, backwards, strict=True
            )
        ]

        def body(
            state: tuple[Array, ...], slices: tuple[Array, ...]
        ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
            made = run(0, [*state, *slices, *captured])
            return tuple(made[:states]), tuple(made[states:])

        state, rows = xp.scan(body, operands[:states], sequences)
        backwards = self.scan_output_directions or (0,) * len(rows)
        axes = self.scan_output_axes or (0,) * len(rows)
        stacks = [
            _moved(xp, _turned(xp, x, reverse), 0, axis)
            for x, axis, reverse in zip(rows, axes, backwards, strict=True)
        ]
        made = (*state, *stacks)
        return made if self.outs > 1 else made[0]


@op("SequenceMap")
class SequenceMap(Control):
    """A body on the elements of a sequence, one by one.

    ``SequenceMap(sequence, *others, *captures, bodies=(body,))``: other sequences go
    along, of the same length; tensors are given whole every time.
    """

    __slots__ = ()
    body_names = ("body",)

    def infer(self) -> Sequence[Type]:
        (body,) = self.bodies
        if len(self.operands) != len(body.inputs):
            raise self.error("the body has other parameters than the op has operands")
        return [SequenceType(value.type) for value in body.outputs]

    def signature(self) -> tuple[list[Type], list[Type]]:
        given = self.given()
        along = len(given) - int(self.captures)
        return (
            [*map(element_of, given[:along]), *given[along:]],
            [element_of(type_) for type_ in self.types],
        )

    def compute(  # type: ignore[override]
        self, xp: Namespace, sequence: Any, *others: Any, run: Run
    ) -> Any | tuple[Any, ...]:
        count = len(others) - int(self.captures)
        along, captured = others[:count], others[count:]
        rows = [
            run(0, [x, *[o[i] if isinstance(o, list) else o for o in along], *captured])
            for i, x in enumerate(sequence)
        ]
        made = tuple([list(column) for column in zip(*rows, strict=True)])
        made = made or ([],) * self.outs
        return made if self.outs > 1 else made[0]


_CONDITION = TensorType(DType.BOOL, None)


def _surely_true(value: Value) -> bool:
    known = value.contents
    return known is not None and known.size == 1 and known.item() is True


def _moved(xp: Namespace, x: Array, source: int, target: int) -> Array:
    """x with one axis moved to another place."""
    order = list(range(x.ndim))
    axis = order.pop(source)
    order.insert(target % x.ndim, axis)
    return xp.transpose(x, order)


def _turned(xp: Namespace, x: Array, reverse: int) -> Array:
    return xp.flip(x, (0,)) if reverse else x


def no_rows(xp: Namespace, type_: Type) -> Array:
    """What a loop without iterations stacks; dims that are not known become 0."""
    if not isinstance(type_, TensorType) or type_.dtype is None:
        raise NoReference("a Loop without iterations, and of unknown type")
    shape = [d if isinstance(d, int) else 0 for d in (type_.shape or (0,))]
    return xp.zeros([0, *shape[1:]], type_.dtype)
