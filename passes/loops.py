"""Loops that go through slices one by one, as scans over them."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.dims import equal
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops import Add, Gather, Loop, Reshape, Scan, Slice, Squeeze, Unsqueeze
from graphopt.ops.bodies import vector
from graphopt.ops.body_types import unstacked
from graphopt.rewrite import Miss, miss

from .match import axis_of, is_uniform


@dataclass(frozen=True)
class Taken:
    """A read of one slice of a captured value, along an axis that it may keep."""

    op: Op
    axis: int
    kept: bool


def _bare(value: Value | None) -> Value | None:
    """A number without the dims of 1 around it."""
    while isinstance(value, Reshape | Squeeze | Unsqueeze):
        value = value.operands[0]
    return value


def _slice_at(op: Op, x: Value, number: Value) -> Taken | None:
    """How an op reads the slice of x that has the number of the turn."""
    if x.rank is None:
        return None
    if isinstance(op, Gather):
        index = op.operands[1]
        if index is None or index.rank not in (0, 1) or _bare(index) is not number:
            return None
        return Taken(op, axis_of(op.axis, x.rank), kept=index.rank == 1)
    if not isinstance(op, Slice) or op.operand(4) not in (None, *_ones(op)):
        return None
    start, end, axes = op.operands[1], op.operands[2], op.operand(3)
    given = (0,) if axes is None else axes.ints
    if given is None or _bare(start) is not number:
        return None
    end = _bare(end)
    if isinstance(end, Add):
        for a, b in (end.operands, end.operands[::-1]):
            if _bare(a) is number and is_uniform(b, 1):
                return Taken(op, axis_of(given[0], x.rank), kept=True)
    return None


def _ones(op: Slice) -> tuple[Value, ...]:
    step = op.operand(4)
    return (step,) if step is not None and is_uniform(step, 1) else ()


def as_scan(op: Loop) -> Scan | Miss:
    """A loop whose every turn reads the slices of its number, as a Scan over them.

    It takes as many turns as there are slices, and reads its number for that alone.
    """
    (body,), carried, turns = op.bodies, op.carried, op.trips()
    if turns is None:
        return miss("how many turns there are depends on data", op)
    number, goes_on, *rest = body.inputs
    states, captured = rest[:carried], rest[carried:]
    given = op.operands[2:]
    slices: list[Parameter] = []
    scanned: list[tuple[Value, int]] = []
    others: list[tuple[Parameter, Value | None]] = []
    mapping: dict[Value, Value] = {}
    for parameter, value in zip(captured, given[carried:], strict=True):
        users = [user for user, _ in body.users.get(parameter, ())]
        found = [_slice_at(user, parameter, number) for user in users]
        takes = [t for t in found if t is not None]
        axes = {t.axis for t in takes}
        if len(takes) < len(users) or len(axes) != 1 or value is None:
            others.append((parameter, value))
            continue
        (axis,) = axes
        if not value.shape or not equal(value.shape[axis], turns):
            return miss("not all slices are read", value)
        one = Parameter(unstacked(parameter.type, axis), parameter.name)
        for taken in takes:
            mapping[taken.op] = Unsqueeze(one, vector(axis)) if taken.kept else one
        slices.append(one)
        scanned.append((value, axis))
    if not scanned:
        return miss("no slices are read by number", op)
    results = body.substitute(mapping).outputs[1:]
    made = Graph([*states, *slices, *(p for p, _ in others)], results)
    if any(made.uses.get(v) for v in (number, goes_on)):
        return miss("its number counts for something else", op)
    return Scan(
        *(*given[:carried], *(v for v, _ in scanned), *(v for _, v in others)),
        bodies=(made,),
        num_scan_inputs=len(scanned),
        scan_input_axes=tuple([axis for _, axis in scanned]),
        captures=len(others),
    )
