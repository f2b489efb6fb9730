"""What a device of a mesh does, op by op: its seconds, and the layer that repeats."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .cost import value_bytes
from .ir import Op, Value
from .ops.mesh import OverMesh
from .passes.sharding.layout import wire_bytes
from .passes.sharding.machine import Machine
from .passes.sharding.program import Program, handled_bytes, is_weight, stored
from .passes.sharding.work import Deed, Exchange, InTurns, deeds


@dataclass(frozen=True)
class Stretch:
    """Items ``start`` to ``start + length``, which are there ``times`` times."""

    start: int
    length: int
    times: int


def repeated(keys: Sequence[Hashable]) -> Stretch:
    """The stretch that, with what repeats it, covers most; all of it where none does.

    Of equal ones the shortest, and of its rotations the first.
    """
    numbers: dict[Hashable, int] = {}
    ids = np.asarray([numbers.setdefault(key, len(numbers)) for key in keys])
    best, found = 0, Stretch(0, len(keys), 1)
    for period in range(1, len(keys) // 2 + 1):
        differ = np.flatnonzero(ids[:-period] != ids[period:])
        ends = np.concatenate([[-1], differ, [len(keys) - period]])
        runs = np.diff(ends) - 1
        longest = int(runs.argmax())
        times = int(runs[longest]) // period + 1
        if times > 1 and times * period > best:
            best = times * period
            found = Stretch(int(ends[longest]) + 1, period, times)
    return found


_LAYER: Final = 3
"""Fewer ops are no layer."""


def layer(program: Program) -> tuple[Stretch, Sequence[Op]]:
    """The ops that devices run, weights as they are stored apart, and what repeats.

    A repeated layer begins where the fewest values come from before. All is one where
    repeated parts are tiny, or less than a quarter of it.
    """
    ops = [op for op in program.graph.ops if not is_weight(op)]
    keys = [_key(op, program) for op in ops]
    found = repeated(keys)
    tiny = found.length < _LAYER or 4 * found.length * found.times < len(ops)
    if found.times == 1 or tiny:
        return Stretch(0, len(ops), 1), ops
    end = found.start + found.length
    while end < len(ops) and keys[end] == keys[end - found.length]:
        end += 1
    place = {op: i for i, op in enumerate(ops)}
    last: dict[Value, int] = {}
    for i, op in enumerate(ops):
        last.update({v: i for v in op.operands if v is not None and not is_weight(v)})

    def crossing(start: int) -> tuple[int, int, int]:
        across = [
            value
            for value, end in last.items()
            if value.op in place and place[value.op] < start <= end
        ]
        return len(across), sum(value_bytes(v, {}) or 0 for v in across), start

    starts = range(found.start, min(found.start + found.length, end - found.length + 1))
    start = min(starts, key=crossing)
    return Stretch(start, found.length, (end - start) // found.length), ops


def _key(op: Op, program: Program) -> Hashable:
    layouts = tuple([program.layouts.get(v) for v in op.results])
    operands = tuple([None if v is None else v.type for v in op.operands])
    axis = op.axis if isinstance(op, OverMesh) else None
    return op.label, axis, op.types, operands, layouts


def flow_facts(program: Program, machine: Machine, names: Mapping[Value, str]) -> Any:
    """The rows of `layer` as plain data.

    ``reads`` are numbers of rows; those below 0 are of ``given``, -1 the first. What a
    row has that is read after the last one, or given to the caller, ``leaves``.
    """
    found, ops = layer(program)
    shown = ops[found.start : found.start + found.length]
    seconds = op_seconds(program, machine)
    place = {value: i for i, op in enumerate(shown) for value in op.results}
    given: dict[Value, int] = {}
    inside = set(shown)
    rows = []
    for op in shown:
        reads = []
        for value in op.operands:
            if value is None or is_weight(value):
                continue
            if value not in place:
                given.setdefault(value, -1 - len(given))
            reads.append(place[value] if value in place else given[value])
        rows.append(
            {
                "op": op.label,
                **_collective(op),
                **_lies(op.results[0], program),
                "seconds": seconds[op],
                "reads": sorted(set(reads)),
                "weights": list(_weights(op, program, names)),
                "leaves": any(
                    value in program.graph.outputs
                    or any(user not in inside for user, _ in program.graph.users[value])
                    for value in op.results
                ),
            }
        )
    return {
        "times": found.times,
        "before": found.start,
        "ops": len(ops),
        "given": [_lies(value, program) for value in given],
        "rows": rows,
    }


def _collective(op: Op) -> dict[str, Any]:
    if not isinstance(op, OverMesh) or not op.communicates:
        return {"axis": None, "bytes": 0.0}
    size = wire_bytes(op.kind, int(op.ways), handled_bytes(op))
    return {"axis": str(op.axis), "bytes": size}


def _lies(value: Value, program: Program) -> dict[str, Any]:
    layout = program.layouts.get(value)
    return {
        "type": str(value.type),
        "layout": None if layout is None else list(map(str, layout)),
    }


def _weights(
    op: Op, program: Program, names: Mapping[Value, str]
) -> Iterator[dict[str, Any]]:
    """The weights that an op reads, but for single numbers and what steers shapes."""
    for value in op.operands:
        held = None if value is None else stored(value)
        if held is None or not held[0].rank or held[0].ints is not None:
            continue
        constant, splits = held
        by = {axis: f"S({dim})" for axis, _, dim in splits}
        yield {
            "name": names.get(constant, ""),
            "type": str(constant.type),
            "layout": [by.get(axis, "R") for axis in program.mesh.names],
        }


def op_seconds(program: Program, machine: Machine) -> dict[Op, float]:
    """The seconds of each op that a device runs, by the model."""
    return {op: machine.doing(deed) for op, deed in deeds(program.graph.ops)}


def step_seconds(program: Program, machine: Machine) -> dict[str, float]:
    """The seconds of a step by what devices do: "compute", and kinds of collectives.

    What only takes a part of what a device has counts as compute.
    """
    work = [deed for _, deed in deeds(program.graph.ops)]
    return {"compute": 0.0} | _spent(work, machine)


def _spent(work: Iterable[Deed], machine: Machine) -> dict[str, float]:
    """The seconds of all that is done, by what it is."""
    found: dict[str, float] = {}
    for deed in work:
        if isinstance(deed, InTurns):
            inner = _spent(max(deed.bodies, key=machine.taking), machine)
            more = {kind: deed.turns * each for kind, each in inner.items()}
        else:
            sends = isinstance(deed, Exchange) and deed.sent > 0
            kind = deed.kind if isinstance(deed, Exchange) and sends else "compute"
            more = {kind: machine.doing(deed)}
        for kind, seconds in more.items():
            found[kind] = found.get(kind, 0.0) + seconds
    return found
