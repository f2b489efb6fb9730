"""Another order of a graph, in which ONNX Runtime's arena loses less between pieces.

Each request takes the smallest free piece that does, so that what an arena must hold
hangs on the order even among those that hold the same bytes at their peak. An op is
moved to where its operands are there and nobody reads its results yet; an order stays
that needs no larger arena than the one before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from graphopt.ir import Graph, Op

from .allocation import Facts, events, kept
from .arena import ALIGNMENT, IN_ONE_BLOCK, Growth, most_in_use

WORK: Final = 300_000
"""Ops of all orders that are tried, some seconds' worth."""

MOVES: Final = 1500
"""Orders that are tried at most."""

STALE: Final = 300
"""Orders that are tried in a row without a smaller arena."""


@dataclass(frozen=True)
class Tightened:
    """An order, and the least bytes of an arena in which it runs."""

    order: tuple[Op, ...]
    arena: int


def tightened(
    graph: Graph,
    order: Sequence[Op],
    facts: Facts,
    goal: int,
    *,
    reuse: bool = False,
    growth: Growth = IN_ONE_BLOCK,
) -> Tightened | None:
    """The order of the smallest arena that was found, or the first within the goal.

    Found is the same each time, and for any goal on the way to it. None where a size is
    not known, or where the order holds more than the goal as it is.
    """
    facts = replace(facts, size=cache(facts.size), workspace=cache(facts.workspace))
    here = kept(order)
    found = events(graph, here, facts, reuse)
    if found is None or most_in_use(found) > goal:
        return None
    best = Tightened(tuple(here), growth.least(found))
    stale = 0
    for moved in _moves(graph, here):
        if best.arena <= goal or stale >= STALE:
            break
        stale += 1
        asked = events(graph, moved, facts, reuse)
        assert asked is not None
        less = growth.holds(asked, best.arena - ALIGNMENT)
        if not less and not growth.holds(asked, best.arena):
            continue
        here[:] = moved
        if less and (arena := growth.least(asked)) < best.arena:
            best, stale = Tightened(tuple(moved), arena), 0
    return best


def _moves(graph: Graph, order: list[Op]) -> Iterator[list[Op]]:
    """Orders in which one op runs elsewhere; ``order`` may change between them."""
    rng = random.Random(0)
    count = len(order)
    for _ in range(min(MOVES, WORK // max(1, count))):
        place = {op: i for i, op in enumerate(order)}
        at = rng.randrange(count)
        op = order[at]
        made = [place[v.op] for v in op.operands if v is not None and v.op in place]
        readers = [place[user] for v in op.results for user, _ in graph.users[v]]
        to = rng.randint(max(made, default=-1) + 1, min(readers, default=count) - 1)
        if to != at:
            moved = [*order[:at], *order[at + 1 :]]
            moved.insert(to, op)
            yield moved
