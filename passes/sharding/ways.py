"""The ways to run an op over one mesh axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, TypeAlias

from graphopt import index
from graphopt.index import (
    Affine,
    Combiner,
    Domain,
    Lookup,
    Partial,
    Replicated,
    Split,
    State,
    Strategy,
)
from graphopt.ir import Op, Value
from graphopt.ops import Constant, Gather, If, Loop, Range, Scan
from graphopt.ops.structured import Composite, Structured
from graphopt.rewrite import Miss
from graphopt.types import TensorType

from . import bodies
from .layout import REPLICATED, type_bytes
from .local import WINDOWED, border, is_told
from .regions import is_all_replicated, sends
from .selection import SELECTIONS
from .spanning import Spanning, spanning

Form: TypeAlias = Literal["plain", "told", "windows", "opened", "region"] | Spanning


@dataclass(frozen=True, slots=True)
class Way:
    """A strategy for one mesh axis, and what makes it so.

    "plain": the op on parts. "told": it is told where its part begins. "windows": its
    neighbours' borders are put around the part. "lookup": what is not in the part gives
    zeros. "selected": the best of each part, then of all. "moved": positions are sent
    to where they belong. "added": each device gives those that it has. "running":
    totals of the parts before are put on top. "written": each device writes into its
    part. "combined": a softmax over each part, weighed by their sums. "opened": the op
    as its body, with collectives of small values inside. "region": its bodies on parts
    of what they are given.
    """

    strategy: Strategy
    form: Form = "plain"
    even: int = 1
    """Inside of bodies dims are split that so many divide."""

    @property
    def axis(self) -> str | None:
        return self.strategy.axis

    @property
    def shares(self) -> bool:
        """False for what runs an op as it is: replicated, or linear in its operands."""
        return self.axis is not None or self.form != "plain"


@lru_cache(maxsize=4096)
def domain_of(op: Op) -> Domain | None:
    """The domain of an op of which all sizes are known; None where it has none."""
    if not isinstance(op, Structured):
        return None
    values = [*op.operands, *op.results]
    if any(v is not None and not _is_sized(v) for v in values):
        return None
    maps = op.index_maps()
    if maps is None or len(maps.operands) < len(op.operands):
        return None
    shapes = [None if v is None else v.shape for v in op.operands]
    found = index.domain(maps, shapes, op.extents())
    return found if all(isinstance(e, int) for e in found.extents.values()) else None


def _is_sized(value: Value) -> bool:
    type_ = value.type
    if not isinstance(type_, TensorType) or type_.shape is None:
        return False
    return all(isinstance(dim, int) for dim in type_.shape)


@lru_cache(maxsize=4096)
def ways_of(op: Op) -> tuple[Way, ...]:
    """The ways to run an op over one mesh axis, replicated first.

    Whether so many devices divide what they share out is not asked yet.
    """
    count, outs = len(op.operands), op.outs
    whole = Way(Strategy(None, (REPLICATED,) * count, (REPLICATED,) * outs))
    found = [whole]
    domain = domain_of(op)
    if domain is not None and op.deterministic:
        padded = index.strategies(domain)
        found += [Way(_cut(s, count, outs)) for s in padded[1:]]
        found += _told(op, domain)
        found += _windows(op, domain)
        found += _lookups(op, domain)
        found += _selections(op)
        found += [Way(strategy, form) for strategy, form in spanning(op, domain)]
    if isinstance(op, Composite) and op.deterministic:
        others = [way.strategy for way in found if way.form == "plain"]
        combined = [way for way in found if way.form == "combined"]
        shared = {cut for way in combined for cut in _cuts(way)}
        opened = [Way(x, "opened") for x in openings(op, others)]
        found += [way for way in opened if shared.isdisjoint(_cuts(way))]
    if isinstance(op, If | Loop | Scan):
        for even in EVEN:
            found += [
                Way(x, "region", even) for x in bodies.strategies(op, spread, even)
            ]
    unique: dict[tuple[object, ...], Way] = {}
    for way in found:
        if way is whole or _matters(op, domain, way):
            key = (way.strategy.operands, way.strategy.results, way.even)
            unique.setdefault(key, way)
    return tuple(unique.values())


def _cut(strategy: Strategy, count: int, outs: int) -> Strategy:
    """Without states for operands and results that this op does not have."""
    return Strategy(strategy.axis, strategy.operands[:count], strategy.results[:outs])


def _cuts(way: Way) -> set[tuple[int, int]]:
    """The operands that are split, and their dims."""
    states = enumerate(way.strategy.operands)
    return {(i, state.dim) for i, state in states if isinstance(state, Split)}


def _matters(op: Op, domain: Domain | None, way: Way) -> bool:
    """False for an axis of one position, and for parts of what is absent."""
    if domain is not None and way.axis is not None and way.form != "opened":
        extent = domain.extents.get(way.axis)
        if not isinstance(extent, int) or extent < 2:
            return False
    pairs = [
        *zip(op.operands, way.strategy.operands, strict=True),
        *zip(op.results, way.strategy.results, strict=True),
    ]
    for value, state in pairs:
        if isinstance(state, Partial) and (
            not _is_number(value)
            or state.combiner is Combiner.LOGSUMEXP  # opened, a maximum and a sum
        ):
            return False
    taken = [(v, s) for v, s in pairs[: len(op.operands)] if v is not None]
    partial = [v for v, s in taken if isinstance(s, Partial)]
    if not way.shares and all(isinstance(v, Constant) for v in partial):
        return False  # addends of a weight help nobody
    present = [s for _, s in taken]
    return not all(isinstance(s, Replicated) for s in present) or isinstance(op, Range)


def _is_number(value: Value | None) -> bool:
    dtype = None if value is None else value.dtype
    return value is None or (dtype is not None and (dtype.is_float or dtype.is_integer))


def _told(op: Op, domain: Domain) -> Iterator[Way]:
    """Axes of which a part can be told where it begins."""
    for axis in domain.maps.axes:
        if is_told(op, axis) or (isinstance(op, Range) and op.operands[0] is not None):
            strategy = _along(domain, axis, op)
            if strategy is not None:
                yield Way(strategy, "told")


def _along(domain: Domain, axis: str, op: Op) -> Strategy | None:
    """The states where an axis is shared out and each value has it plainly, or not."""
    states: list[State] = []
    for map_ in (*domain.maps.operands[: len(op.operands)], *domain.maps.results):
        at = [i for i, term in enumerate(map_ or ()) if axis in term.axes]
        if not at:
            states.append(REPLICATED)
            continue
        term = (map_ or ())[at[0]]
        if len(at) > 1 or not isinstance(term, Affine) or term.plain != axis:
            return None
        states.append(Split(at[0]))
    count = len(op.operands)
    results = states[count : count + op.outs]
    if not all(isinstance(s, Split) for s in results):
        return None
    return Strategy(axis, tuple(states[:count]), tuple(results))


def _windows(op: Op, domain: Domain) -> Iterator[Way]:
    """Spatial axes: parts of the operand, with borders of the neighbours' parts."""
    if type(op) not in WINDOWED or domain.maps.operands[0] is None:
        return
    for at in range(len(domain.maps.operands[0]) - 2):
        axis = f"y{at}"
        if axis not in domain.extents or isinstance(border(op, domain, at), Miss):
            continue
        states: list[State] = [REPLICATED] * len(op.operands)
        states[0] = Split(2 + at)
        yield Way(Strategy(axis, tuple(states), (Split(2 + at),) * op.outs), "windows")


def _lookups(op: Op, domain: Domain) -> Iterator[Way]:
    """Rows that are looked up, of which each device has some."""
    if not isinstance(op, Gather) or not _is_number(op):
        return
    for dim, term in enumerate(domain.maps.operands[0] or ()):
        if isinstance(term, Lookup):
            yield Way(Strategy(None, (Split(dim), REPLICATED), (Partial(),)), "lookup")


def _selections(op: Op) -> Iterator[Way]:
    """The dim along which the op chooses."""
    if isinstance(op, SELECTIONS):
        (x, *others) = op.operands
        assert x is not None
        assert x.rank is not None
        taken: tuple[State, ...] = (Split(op.axis % x.rank),)
        taken += (REPLICATED,) * len(others)
        yield Way(Strategy(None, taken, (REPLICATED,) * op.outs), "selected")


# --- the body of a composite op -----------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """How the states of some values go on through a body.

    ``ways`` is how each op runs, ``states`` what it leaves; where an op takes another
    state than a value has, the value is resharded. ``moved`` are the bytes of what is.
    """

    ways: Mapping[Op, Way]
    states: Mapping[Value, State]
    moved: float


@lru_cache(maxsize=1024)
def inside(op: Composite) -> tuple[Op, ...]:
    """The ops of the body, each after what it reads; without constants."""
    if op.expansion is None:
        return ()
    stop = {v.op for v in op.operands if v is not None and v.op is not None}
    done: set[Op] = set()
    order: list[Op] = []
    stack = [(v.op, False) for v in reversed(op.expansion)]
    while stack:
        at, ready = stack.pop()
        if at is None or isinstance(at, Constant):
            continue
        if ready:
            order.append(at)
        elif at not in stop and at not in done:
            done.add(at)
            stack.append((at, True))
            stack += [(v.op, False) for v in reversed(at.operands) if v is not None]
    return tuple(order)


@lru_cache(maxsize=4096)
def spread_of(op: Composite, states: tuple[State, ...]) -> Spread:
    """How states of a composite op's operands go on through its body."""
    pairs = zip(op.operands, states, strict=True)
    return spread(inside(op), {v: s for v, s in pairs if v is not None})


def replicated_through(ops: Iterable[Op]) -> Spread:
    """Every op runs replicated."""
    return Spread({op: ways_of(op)[0] for op in ops}, {}, 0.0)


def spread(
    ops: Iterable[Op],
    given: Mapping[Value, State],
    free: Iterable[Value] = (),
    held: float = 0.0,
    even: int = 1,
) -> Spread:
    """Go through ops in order, each run in the cheapest way for what it gets.

    What is not ``given`` and no op makes is replicated; what is ``free`` lies as the
    first op that reads it likes best, and costs ``held`` times its bytes where a device
    has all. An op that shares nothing out costs what it makes, once more.
    """
    undecided = set(free)
    if not undecided and is_all_replicated(tuple(given.values())):
        return replicated_through(ops)
    states: dict[Value, State] = dict(given)
    ways: dict[Op, Way] = {}
    moved = 0.0
    for op in ops:
        if isinstance(op, Constant) or is_fixed(op):
            continue
        best: tuple[float, Way] | None = None
        for way in ways_of(op):
            if way.form in ("moved", "combined"):
                continue  # whether devices divide what it gives is not known here
            if even > 1 and not _is_even(op, way, even):
                continue
            sent = 0.0
            if way.form == "region":
                sent = bodies.sent(op, way.strategy.operands, spread, way.even)
            for value, wanted in zip(op.operands, way.strategy.operands, strict=True):
                if value in undecided:
                    sent += _liked(op, way, value, wanted, held)
                elif value is not None:
                    has = states.get(value, REPLICATED)
                    sent += value_bytes(value) * sends(has, wanted)
            shares = any(isinstance(s, Split) for s in way.strategy.operands)
            made = 0.0 if shares else _AGAIN * sum(map(value_bytes, op.results))
            if best is None or sent + made < best[0]:
                best = (sent + made, way)
        assert best is not None
        ways[op] = best[1]
        for value, wanted in zip(op.operands, best[1].strategy.operands, strict=True):
            if value in undecided:
                undecided.discard(value)
                states[value] = wanted
            elif value is not None:
                has = states.get(value, REPLICATED)
                moved += value_bytes(value) * sends(has, wanted)
        states.update(zip(op.results, best[1].strategy.results, strict=True))
    return Spread(ways, states, moved)


def _is_even(op: Op, way: Way, even: int) -> bool:
    """True where so many devices divide each dim that is split, as far as is known."""
    pairs = [
        *zip(op.operands, way.strategy.operands, strict=True),
        *zip(op.results, way.strategy.results, strict=True),
    ]
    sizes = [
        value.shape[state.dim]
        for value, state in pairs
        if isinstance(state, Split) and value is not None and value.shape is not None
    ]
    return all(isinstance(size, int) and size % even == 0 for size in sizes)


def _liked(op: Op, way: Way, value: Value, wanted: State, held: float) -> float:
    """What it costs that a value may lie as an op wants it.

    Parts of the results are liked better than sums.
    """
    if isinstance(wanted, Partial):
        return math.inf
    whole = 0 if isinstance(wanted, Split) else value_bytes(value)
    left = sum(sends(state, REPLICATED) for state in way.strategy.results)
    return held * whole + 1e-4 * left * value_bytes(op.results[0])


def is_fixed(op: Op) -> bool:
    """True for shape arithmetic whose results are known: they are of the whole."""
    return all(v.ints is not None for v in op.results)


_AGAIN: Final = 5e-4  # what it costs to make a byte on all devices, in bytes sent


def value_bytes(value: Value) -> int:
    """Bytes of a whole value; 0 where it is no tensor."""
    return type_bytes(value.type) if isinstance(value.type, TensorType) else 0


def openings(op: Composite, others: Sequence[Strategy]) -> Iterator[Strategy]:
    """The strategies by which the body runs, with small values exchanged inside.

    One operand is split, or two along dims of one length; the others are replicated.
    Left out is what one of the ``others`` gives as cheaply, its operands resharded.
    """
    body = inside(op)
    if not body or any(v is not None and not _is_sized(v) for v in op.operands):
        return
    assert op.expansion is not None
    for given in _seeds(op):
        found = spread(body, given)
        results = [found.states.get(v, REPLICATED) for v in op.expansion[: op.outs]]
        if all(isinstance(s, Replicated) for s in results):
            continue
        gathered = [value_bytes(v) * sends(s, REPLICATED) for v, s in given.items()]
        if found.moved >= max(gathered):
            continue  # as good to gather it
        operands = [
            REPLICATED if v is None else given.get(v, REPLICATED) for v in op.operands
        ]
        strategy = Strategy(None, tuple(operands), tuple(results))
        if not any(_serves(op, other, strategy, found.moved) for other in others):
            yield strategy


def _serves(op: Op, other: Strategy, wanted: Strategy, moved: float) -> bool:
    """True where the other strategy, after resharding, sends no more bytes."""
    if other.results != wanted.results:
        return False
    sent = 0.0
    for value, has, takes in zip(
        op.operands, wanted.operands, other.operands, strict=True
    ):
        if value is not None:
            sent += value_bytes(value) * sends(has, takes)
    return sent <= moved


def _seeds(op: Op) -> Iterator[dict[Value, State]]:
    places = [
        (value, dim, extent)
        for value in dict.fromkeys(v for v in op.operands if v is not None)
        if not isinstance(value, Constant) or value.rank
        for dim, extent in enumerate(value.shape or ())
        if isinstance(extent, int) and extent > 1
    ]
    for i, (value, dim, extent) in enumerate(places):
        yield {value: Split(dim)}
        for other, at, size in places[i + 1 :]:
            if other is not value and size == extent:
                yield {value: Split(dim), other: Split(at)}


# --- bodies of control flow ---------------------------------------------------------


EVEN: Final = (1, 8)
"""Bodies are laid out with all dims, and with those alone that 8 devices divide."""


def spreads_of(op: Op, way: Way) -> tuple[Spread, ...] | None:
    """How the states of operands go on through each body; None where they cannot."""
    return bodies.spreads_of(op, way.strategy.operands, spread, way.even)


def left_by(op: Op, way: Way) -> list[State] | None:
    """What the outputs of the bodies are brought to; None where that cannot be."""
    return bodies.left_by(op, way.strategy.operands, spread, way.even)
