"""The ways to run ops with bodies over one mesh axis.

States are spread through the bodies as `ways.spread` does it, op by op, and what
devices then exchange in a turn is counted as often as there are turns. What bodies read
and no turn changes is not exchanged there: that is done once, before.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Hashable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol

from graphopt.cost import op_flops
from graphopt.index import Split, State, Strategy
from graphopt.ir import Graph, Op, Value
from graphopt.ops import If
from graphopt.types import TensorType

from .layout import REPLICATED, type_bytes
from .regions import (
    asked,
    entered,
    fed,
    is_all_replicated,
    parameters_of,
    read_from,
    results,
    seeds,
    sends,
    targets,
)
from .turns import turns

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .ways import Spread

EXCHANGING: Final = 4
"""So many ways are kept in which devices exchange something in each turn."""
HELD: Final = (5e-5, 0.5)
"""What a byte that each device has costs, in bytes that are sent: next to nothing, or
what it takes to gather it."""
ROUNDS: Final = 3
"""How often what a turn leaves is tried as what it begins with."""


class Spreading(Hashable, Protocol):
    """`ways.spread`."""

    def __call__(
        self,
        ops: Iterable[Op],
        given: Mapping[Value, State],
        free: Iterable[Value] = (),
        held: float = 0.0,
        even: int = 1,
    ) -> Spread: ...


@lru_cache(maxsize=1024)
def spreads_of(
    op: Op, states: tuple[State, ...], spread: Spreading, even: int
) -> tuple[Spread, ...] | None:
    """How the states of operands go on through each body; None where they cannot."""
    given = fed(op, states)
    if given is None:
        return None
    return tuple(
        [spread(body.ops, parameters_of(body, given), even=even) for body in op.bodies]
    )


def left_by(
    op: Op, states: tuple[State, ...], spread: Spreading, even: int
) -> list[State] | None:
    """What the outputs of the bodies are brought to; None where that cannot be."""
    given, found = fed(op, states), spreads_of(op, states, spread, even)
    if given is None or found is None:
        return None
    return targets(op, given, _left(op, found))


def _left(op: Op, found: Sequence[Spread]) -> list[list[State]]:
    """The states that the outputs of each body are in."""
    pairs = zip(op.bodies, found, strict=True)
    return [[x.states.get(v, REPLICATED) for v in body.outputs] for body, x in pairs]


@lru_cache(maxsize=4096)
def sent(
    op: Op,
    states: tuple[State, ...],
    spread: Spreading,
    even: int,
    constant: frozenset[int] = frozenset(),
) -> float:
    """The bytes that devices exchange in the bodies of an op, all turns together.

    inf where that would be what no turn changes: what a loop captures, and operands
    that are ``constant`` in a loop around.
    """
    made, found = (
        left_by(op, states, spread, even),
        spreads_of(op, states, spread, even),
    )
    if made is None or found is None:
        return math.inf
    count, branches = len(op.operands), isinstance(op, If)
    at = set(constant) if branches else {*constant, *range(read_from(op), count)}
    total = [
        _sent(body, through, made, {body.inputs[i - count] for i in at if i}, spread)
        for body, through in zip(op.bodies, found, strict=True)
    ]
    return turns(op) * max(total)


def _sent(
    body: Graph,
    through: Spread,
    made: Sequence[State],
    constant: Collection[Value],
    spread: Spreading,
) -> float:
    """Of one turn; a value goes to each state once."""
    wanted = set(zip(body.outputs, made, strict=True))
    inner = 0.0
    for op, way in through.ways.items():
        pairs = list(zip(op.operands, way.strategy.operands, strict=True))
        wanted |= {(value, state) for value, state in pairs if value is not None}
        if way.form != "region":
            continue
        at = [i for i, (value, _) in enumerate(pairs) if value in constant]
        inner += sent(op, way.strategy.operands, spread, way.even, frozenset(at))
    for value, state in wanted:
        times = sends(through.states.get(value, REPLICATED), state)
        if times:
            inner += math.inf if value in constant else times * _bytes(value)
    return inner


def _bytes(value: Value) -> int:
    return type_bytes(value.type) if isinstance(value.type, TensorType) else 0


def strategies(op: Op, spread: Spreading, even: int) -> Iterator[Strategy]:
    """The strategies by which the bodies run on parts.

    All without collectives in the bodies; of others that share out some of the work
    those that no other beats in what devices hold and in what they exchange.
    """
    ranked: list[tuple[float, float, Strategy]] = []
    for states in dict.fromkeys(_tried(op, spread, even)):
        made = left_by(op, states, spread, even)
        if made is None or is_all_replicated(states):
            continue
        strategy = Strategy(None, states, tuple(results(op, made)))
        moved = sent(op, states, spread, even)
        if moved == math.inf:
            continue
        if not moved and not is_all_replicated(strategy.results):
            yield strategy
        if _shares(op, states, spread, even):
            pairs = zip(op.operands, states, strict=True)
            whole = [v for v, s in pairs if v is not None and not isinstance(s, Split)]
            ranked.append((sum(map(_bytes, whole)), moved, strategy))
    least, kept = math.inf, 0
    for _, moved, strategy in sorted(ranked, key=lambda each: each[:2]):
        if moved < least and kept < EXCHANGING:
            least, kept = moved, kept + 1
            if moved:
                yield strategy


def _tried(op: Op, spread: Spreading, even: int) -> Iterator[tuple[State, ...]]:
    """States of the operands: what was asked for, and what the bodies make of it."""
    for row in seeds(op):
        given = fed(op, [REPLICATED if s is None else s for s in row])
        if given is None:
            continue
        free = [s is None for s in row[len(op.operands) - len(given) :]]
        free += [False] * (len(given) - len(free))
        for held in HELD if any(free) else HELD[:1]:
            yield from _entering(op, given, free, held, spread, even)


def _entering(
    op: Op,
    given: list[State],
    free: Sequence[bool],
    held: float,
    spread: Spreading,
    even: int,
) -> Iterator[tuple[State, ...]]:
    """States of the operands, as turns leave them for the next ones."""
    for _ in range(ROUNDS):
        decided, rows = list(given), []
        for body in op.bodies:
            known = parameters_of(body, given)
            open_ = list(itertools.compress(body.inputs, free))
            fixed = {p: s for p, s in known.items() if p not in open_}
            found = spread(body.ops, fixed, open_, held, even)
            decided = [
                found.states.get(p, s) if any_ else s
                for p, s, any_ in zip(body.inputs, decided, free, strict=True)
            ]
            rows.append([found.states.get(v, REPLICATED) for v in body.outputs])
        yield tuple(asked(op, decided))
        after = entered(op, given, rows[0])
        if after == given:
            break
        given = after


def _shares(op: Op, states: tuple[State, ...], spread: Spreading, even: int) -> bool:
    """True where devices share out operations of the bodies."""
    ways = [
        (inner, way)
        for through in spreads_of(op, states, spread, even) or ()
        for inner, way in through.ways.items()
    ]
    return any(
        any(isinstance(s, Split) for s in way.strategy.operands) and op_flops(inner)
        for inner, way in ways
    )
