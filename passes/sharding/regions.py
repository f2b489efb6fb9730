"""Ops with bodies on a mesh: each value of a body lies as what it is of outside.

Operands, a body's parameters, its outputs and the results are one value at several
times. What a loop carries from turn to turn lies the same in all of them. What devices
exchange inside they exchange in each turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from graphopt.index import Partial, Replicated, Split, State
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops import Constant
from graphopt.ops.control import If, Loop, Scan

from .layout import REPLICATED, resharded_bytes

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


def asked(op: Op, given: Sequence[State]) -> list[State]:
    """The states of the operands where the parameters of the bodies have these."""
    if isinstance(op, If):
        return [REPLICATED, *given]
    made = list(given[: len(op.operands)])
    if isinstance(op, Scan):
        axes = op.scan_input_axes or (0,) * int(op.num_scan_inputs)
        for i, axis in enumerate(axes, op.states):
            value = op.operands[i]
            made[i] = stacked(made[i], axis % ((value.rank if value else None) or 1))
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


def carried(op: Op) -> slice:
    """Which outputs of the body go on into its next turn."""
    if isinstance(op, Loop):
        return slice(1, 1 + int(op.carried))
    return slice(0, int(op.states) if isinstance(op, Scan) else 0)


def targets(
    op: Op, given: Sequence[State], rows: Sequence[Sequence[State]]
) -> list[State]:
    """What each output of the bodies is brought to, from the states that they leave.

    ``given`` are those of the parameters. What a loop carries lies at the end of a turn
    as at its begin, its condition is replicated; branches give all alike.
    """
    made = [min(set(column), key=_pull(column)) for column in zip(*rows, strict=True)]
    if isinstance(op, Loop):
        made[0] = REPLICATED
    goes_on = carried(op)
    first = 2 if isinstance(op, Loop) else 0
    made[goes_on] = given[first : first + goes_on.stop - goes_on.start]
    return made


def _pull(column: Sequence[State]) -> Callable[[State], tuple[float, str]]:
    """How often a value is sent to bring it from these states to one of them."""
    return lambda state: (sum(sends(has, state) for has in column), str(state))


def results(op: Op, made: Sequence[State]) -> list[State]:
    """The states of the results, from what the outputs of a body are brought to."""
    if isinstance(op, If):
        return list(made)
    goes_on = carried(op)
    rows = made[goes_on.stop :]
    axes: Sequence[int] = (0,) * len(rows)
    if isinstance(op, Scan) and op.scan_output_axes:
        outputs = op.bodies[0].outputs[goes_on.stop :]
        axes = [
            axis % ((v.rank or 0) + 1)
            for v, axis in zip(outputs, op.scan_output_axes, strict=True)
        ]
    tail = [stacked(s, axis) for s, axis in zip(rows, axes, strict=True)]
    return [*made[goes_on], *tail]


_PAIR: Final = 2
_EVEN: Final = 1 << 20  # bytes, which the pair divides


def sends(has: State, wanted: State) -> float:
    """The share of its bytes that each of two devices sends of a value.

    That is to bring it from a state to another, where ways are compared without a mesh.
    """
    return resharded_bytes(has, wanted, _EVEN, _PAIR) / _EVEN


def seeds(op: Op) -> Iterator[tuple[State | None, ...]]:
    """States of the operands that are worth a try; None for what the bodies may choose.

    All that have one extent split: of all operands that have a dim as long, by the
    first such dim of each and by the last. One operand alone; or none, or one, and what
    the bodies read beside it as they like it best.
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
    free = [_is_read_only(op, i) for i in range(len(op.operands))]
    yield tuple([None if any_ else REPLICATED for any_ in free])
    for i, value in enumerate(op.operands):
        if isinstance(value, Constant):
            continue
        for dim, extent in enumerate(
            (value.shape if value is not None else None) or ()
        ):
            if isinstance(extent, int) and extent > 1:
                row: list[State | None] = [REPLICATED] * len(op.operands)
                row[i] = Split(dim)
                yield tuple(row)
                if any(free) and not free[i]:
                    row = [None if any_ else REPLICATED for any_ in free]
                    row[i] = Split(dim)
                    yield tuple(row)


def _is_read_only(op: Op, at: int) -> bool:
    """True for tensors but vectors that bodies read, and that no turn changes."""
    value = op.operands[at]
    if value is None or (value.rank or 0) < 2 or value.ints is not None:
        return False
    return at >= (op.states if isinstance(op, Scan) else read_from(op))


def read_from(op: Op) -> int:
    """The first operand that bodies capture: of a loop, that no turn changes."""
    return 1 if isinstance(op, If) else len(op.operands) - int(op.captures)


def _along(value: Value | None, extent: int, last: bool) -> State:
    shape = (value.shape if value is not None else None) or ()
    at = [dim for dim, size in enumerate(shape) if size == extent]
    return Split(at[-1 if last else 0]) if at else REPLICATED


def entered(op: Op, given: Sequence[State], made: Sequence[State]) -> list[State]:
    """The states of the parameters where what is carried comes as a turn left it."""
    goes_on, first = carried(op), 2 if isinstance(op, Loop) else 0
    pairs = zip(given[first:], made[goes_on], strict=False)
    kept = [old if isinstance(new, Partial) else new for old, new in pairs]
    return [*given[:first], *kept, *given[first + len(kept) :]]


def is_all_replicated(states: Sequence[State]) -> bool:
    return all(isinstance(state, Replicated) for state in states)


def parameters_of(body: Graph, states: Sequence[State]) -> dict[Value, State]:
    """What is said of a body's parameters."""
    found: dict[Value, State] = {}
    for parameter, state in zip(body.inputs, states, strict=True):
        assert isinstance(parameter, Parameter)
        found[parameter] = state
    return found
