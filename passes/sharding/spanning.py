"""Ops along a dim that devices share out, where parts of it are not enough.

What an op reads there may be elsewhere: each form says how devices hear of it, or how
they get along without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from graphopt.index import Domain, Split, State, Strategy
from graphopt.ir import Op, Value
from graphopt.ops import Gather, TensorScatter
from graphopt.rewrite import Miss

from . import combined, running, segments, writing
from .local import Local, Made, Place, looked_up, on_parts
from .mesh import Mesh
from .running import Running
from .segments import Segmented
from .selection import Selection, selected

Spanning: TypeAlias = Literal[
    "lookup", "selected", "moved", "added", "running", "written", "combined"
]

SPANNING: Final[tuple[Spanning, ...]] = get_args(Spanning)


def spanning(op: Op, domain: Domain) -> Iterator[tuple[Strategy, Spanning]]:
    """The strategies along dims of which parts are not enough, and their forms."""
    for strategy in segments.moving(op):
        yield strategy, "moved"
    for strategy in segments.adding(op):
        yield strategy, "added"
    for strategy in running.along(op):
        yield strategy, "running"
    for strategy in writing.into(op):
        yield strategy, "written"
    for strategy in combined.over_keys(op, domain):
        yield strategy, "combined"


def built(
    op: Any,
    ways: Sequence[tuple[str, Strategy]],
    mesh: Mesh,
    operands: Sequence[Value | None],
    local: Local,
) -> Made | tuple[Value, ...]:
    """An op on a device's parts, from the form and the strategy of each mesh axis."""
    if any(form == "combined" for form, _ in ways):
        return combined.attended(op, operands, ways, mesh.axes, local)
    over: dict[tuple[str, Strategy], list[tuple[str, int]]] = {}
    for way, axis in zip(ways, mesh.axes, strict=True):
        if way[0] in SPANNING:
            over.setdefault(way, []).append(axis)
    if not over:
        return on_parts(op, operands, local)
    if len(over) > 1:
        return Miss("two dims span devices")
    (((form, strategy), axes),) = over.items()
    at, dim = _first(strategy.operands)
    part = operands[at]
    assert part is not None
    assert part.shape is not None
    place = Place("@", tuple(axes), cast(int, part.shape[dim]))
    match form:
        case "lookup":
            rows = cast(int, op.operands[0].shape[dim])
            return looked_up(cast(Gather, op), operands, rows, place)
        case "selected":
            return selected(cast(Selection, op), operands, place)
        case "moved":
            return segments.rearranged(cast(Segmented, op), operands, dim, place)
        case "added":
            return segments.contributed(op, operands, dim, place)
        case "running":
            return running.run_on(cast(Running, op), operands, dim, place)
        case _ if isinstance(op, TensorScatter):
            return writing.written(op, operands, dim, place)
        case _:
            return writing.scattered(op, operands, dim, place)


def _first(states: Sequence[State]) -> tuple[int, int]:
    """The first operand that is split, and its dim."""
    rows = enumerate(states)
    return next((i, state.dim) for i, state in rows if isinstance(state, Split))
