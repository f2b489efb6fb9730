"""Ops with bodies on a mesh: each value of a body lies as what it is of outside.

Operands, a body's parameters, its outputs and the results are one value at several
times. What a loop carries from turn to turn lies the same in all of them. Bodies run
without collectives: a way that needs some is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from graphopt.index import Partial, Replicated, Split, State
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops import Constant
from graphopt.ops.control import If, Loop, Scan

from .layout import REPLICATED

States = Mapping[Value, State]


def fed(op: Op, states: Sequence[State]) -> list[State] | None:
    """The state of each parameter of the bodies, from those of the operands.

    None where a dim is split that a body does not see.
    """
    if isinstance(op, If):
        return list(states[1:]) if states[0] == REPLICATED else None
    if isinstance(op, Loop):
        known = all(state == REPLICATED for state in states[:2])
        body = op.bodies[0]
        given = list(states) + [REPLICATED] * (len(body.inputs) - len(states))
        return given if known else None
    assert isinstance(op, Scan)
    made = list(states)
    count = int(op.num_scan_inputs)
    axes = op.scan_input_axes or (0,) * count
    for i, axis in enumerate(axes, op.states):
        value = op.operands[i]
        rank = None if value is None else value.rank
        inner = without(made[i], axis % rank) if rank else None
        if inner is None:
            return None
        made[i] = inner
    return made


def without(state: State, axis: int) -> State | None:
    """The state of a slice along an axis; None where the axis is split."""
    if not isinstance(state, Split):
        return state
    if state.dim == axis:
        return None
    return Split(state.dim - (state.dim > axis))


def stacked(state: State, axis: int) -> State:
    """The state of slices side by side along a new axis."""
    return Split(state.dim + (state.dim >= axis)) if isinstance(state, Split) else state


def carried(op: Op) -> int:
    """How many outputs of the body go on into its next turn."""
    if isinstance(op, Loop):
        return int(op.carried)
    return int(op.states) if isinstance(op, Scan) else 0


def results(
    op: Op, given: Sequence[State], rows: Sequence[Sequence[State]]
) -> list[State] | None:
    """The states of the results, from those of the outputs of each body.

    ``given`` are those of the parameters. None where they do not agree.
    """
    first = list(rows[0])
    if any(list(row) != first for row in rows[1:]):
        return None
    if isinstance(op, If):
        return first
    count = carried(op)
    if isinstance(op, Loop):
        if first[0] != REPLICATED:
            return None
        first, start = first[1:], 2
    else:
        start = 0
    if any(isinstance(s, Partial) for s in first[:count]):
        return None
    if first[:count] != list(given[start : start + count]):
        return None
    axes: Sequence[int] = (0,) * (len(first) - count)
    if isinstance(op, Scan) and op.scan_output_axes:
        outputs = op.bodies[0].outputs[count:]
        axes = [
            axis % ((v.rank or 0) + 1)
            for v, axis in zip(outputs, op.scan_output_axes, strict=True)
        ]
    tail = [stacked(s, axis) for s, axis in zip(first[count:], axes, strict=True)]
    return [*first[:count], *tail]


def seeds(op: Op) -> Iterator[tuple[State, ...]]:
    """States of the operands that are worth a try: all that have one extent split.

    Of all operands that have a dim as long, by the first such dim of each and by the
    last; and of one operand alone.
    """
    extents = {
        dim
        for value in op.operands
        if value is not None and not isinstance(value, Constant)
        for dim in value.shape or ()
        if isinstance(dim, int) and dim > 1
    }
    for extent in sorted(extents):
        for last in (False, True):
            yield tuple(_along(value, extent, last) for value in op.operands)
    for i, value in enumerate(op.operands):
        for dim, extent in enumerate(
            (value.shape if value is not None else None) or ()
        ):
            if isinstance(extent, int) and extent > 1:
                row: list[State] = [REPLICATED] * len(op.operands)
                row[i] = Split(dim)
                yield tuple(row)


def _along(value: Value | None, extent: int, last: bool) -> State:
    shape = (value.shape if value is not None else None) or ()
    at = [dim for dim, size in enumerate(shape) if size == extent]
    return Split(at[-1 if last else 0]) if at else REPLICATED


def is_all_replicated(states: Sequence[State]) -> bool:
    return all(isinstance(state, Replicated) for state in states)


def parameters_of(body: Graph, states: Sequence[State]) -> dict[Value, State]:
    """What is said of a body's parameters."""
    found: dict[Value, State] = {}
    for parameter, state in zip(body.inputs, states, strict=True):
        assert isinstance(parameter, Parameter)
        found[parameter] = state
    return found
