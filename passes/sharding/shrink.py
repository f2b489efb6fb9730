"""A smaller problem with the same optimum: options that never pay, ops that are one.

Both steps are exact. An option is left out where another is at most as dear with its
operands and results converted to the layouts of the first. An op and its only user
become one node: its options are pairs, of which most never pay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .machine import TIE
from .problem import Carried, Port, Problem
from .states import States

LARGEST: Final = 1500
"""Most options of a node that contraction makes."""


@dataclass(eq=False)
class Block:
    """Nodes with one choice together.

    Arrays are by option: ``wants`` and ``gives`` hold numbers of layouts, of ports that
    a class of values belongs to; ``picks`` the option of each member; ``amounts`` what
    it adds to each row of the problem, the bytes first.
    """

    members: tuple[int, ...]
    times: int
    seconds: Any
    wants: dict[Port, Any]
    gives: dict[Port, Any]
    amounts: Any
    picks: Any

    def __len__(self) -> int:
        return len(self.seconds)

    def only(self, keep: Any) -> Block:
        """With the options that ``keep`` selects."""
        return Block(
            self.members,
            self.times,
            self.seconds[keep],
            {port: each[keep] for port, each in self.wants.items()},
            {port: each[keep] for port, each in self.gives.items()},
            self.amounts[:, keep],
            self.picks[keep],
        )


class Shrunk:
    """The blocks of a problem, and the values that still go from one to another."""

    def __init__(
        self, problem: Problem, allowed: Mapping[int, Iterable[int]] | None = None
    ) -> None:
        self.problem = problem
        self.states: dict[Port, States] = {}
        self._results: dict[Port, States] = {}
        for value in problem.carried:
            self._results[value.source] = value.states
            self.states.update(dict.fromkeys(value.sinks, value.states))
        self.blocks = {
            number: self._block(number, (allowed or {}).get(number))
            for number in range(len(problem.nodes))
        }
        self.owner = dict(zip(self.blocks, self.blocks, strict=True))
        self.carried = list(problem.carried)

    def _block(self, number: int, allowed: Iterable[int] | None) -> Block:
        node, problem = self.problem.nodes[number], self.problem
        count = len(node.options)
        which = range(count) if allowed is None else sorted(set(allowed))
        options = [node.options[k] for k in which]
        wants, gives = {}, {}
        for i in range(len(options[0].wants) if options else 0):
            if states := self.states.get((number, i)):
                found = [states.number[o.wants[i]] for o in options]
                wants[number, i] = np.asarray(found)
        for i in range(len(options[0].gives) if options else 0):
            if states := self._results.get((number, i)):
                found = [states.number[o.gives[i]] for o in options]
                gives[number, i] = np.asarray(found)
        amounts = np.zeros((1 + len(problem.rows), len(options)))
        amounts[0] = [node.times * float(o.bytes) for o in options]
        for row, limit in enumerate(problem.rows, 1):
            if number in limit.amounts:
                amounts[row] = [limit.amounts[number][k] for k in which]
        seconds = np.asarray([o.seconds for o in options])
        picks = np.asarray(which, int).reshape(-1, 1)
        return Block((number,), node.times, seconds, wants, gives, amounts, picks)

    def shrink(self, *, contract: bool = True) -> None:
        """Leave out what never pays, and contract, until nothing more comes of it."""
        for key, block in self.blocks.items():
            self.blocks[key] = self._without_dominated(block)
        tried: dict[tuple[Port, ...], tuple[Block, ...]] = {}
        grown = contract
        while grown:
            grown = False
            for value in list(self.carried):
                ends = value.source, *value.sinks
                pair = tuple([self.blocks[self.owner[node]] for node, _ in ends])
                if tried.get(ends) != pair:  # as it was when it was not worth it
                    tried[ends] = pair
                    grown |= self._contract(value)

    def only(self, keep: Mapping[int, Any]) -> Shrunk:
        """A copy, with these options of the blocks alone."""
        found = copy(self)
        found.blocks = {k: b.only(keep[k]) for k, b in self.blocks.items()}
        return found

    def has_room(self, allowed: dict[int, Any]) -> bool:
        """Forbid options that leave no room for the least of all other blocks.

        ``allowed`` has a mask of the options of each block. False where there is none.
        """
        problem = self.problem
        limits = [problem.limit, *(row.limit for row in problem.rows)]
        for number, limit in enumerate(limits):
            if limit == math.inf:
                continue
            amounts = {k: b.amounts[number] for k, b in self.blocks.items()}
            least = {k: a[allowed[k]].min(initial=np.inf) for k, a in amounts.items()}
            spare = limit * (1 + 1e-12) - sum(least.values())
            if not spare >= 0:
                return False
            for k, a in amounts.items():
                allowed[k] = allowed[k] & (a <= least[k] + spare)
        return True

    # --- options that never pay

    def _without_dominated(self, block: Block) -> Block:
        """What is left costs as much; no result takes more memory than it did."""
        if len(block) < 2:
            return block
        block = block.only(self._cheapest(block))
        extra = self._towards(block.wants, len(block))
        extra += self._back(block.gives, len(block))
        np.fill_diagonal(extra, np.inf)
        for amounts in block.amounts:
            extra[amounts[None, :] > amounts[:, None]] = np.inf
        pays = _less((block.seconds[None, :] + extra).min(1)) > block.seconds
        return block.only(np.flatnonzero(pays))

    def _cheapest(self, block: Block) -> Any:
        """Of options with equal layouts and amounts, the first of the cheapest."""
        columns = [*block.wants.values(), *block.gives.values(), *block.amounts]
        order = np.argsort(block.seconds, kind="stable")
        if not columns:
            return order[:1]
        rows = np.stack([np.asarray(c, float)[order] for c in columns], 1)
        _, first = np.unique(rows, axis=0, return_index=True)
        return np.sort(order[first])

    def _towards(self, wants: Mapping[Port, Any], count: int) -> Any:
        """By option and other, the seconds to get operands to what the other wants."""
        total = np.zeros((count, count))
        for port, each in wants.items():
            total += self.states[port].distances[np.ix_(each, each)]
        return total

    def _back(self, gives: Mapping[Port, Any], count: int) -> Any:
        """By option and other, the seconds to turn the other's results into its own.

        inf where a result of the other takes more memory.
        """
        total = np.zeros((count, count))
        for port, each in gives.items():
            states = self._results[port]
            total += states.distances[np.ix_(each, each)].T
            size = states.bytes[each]
            total[size[None, :] > size[:, None]] = np.inf
        return total

    # --- ops that are one

    def _contract(self, value: Carried) -> bool:
        """Make the source one with the sink of a value that goes nowhere else."""
        if len(value.sinks) != 1:
            return False
        (sink,) = value.sinks
        a, b = self.owner[value.source[0]], self.owner[sink[0]]
        upper, lower = self.blocks[a], self.blocks[b]
        if a == b or not upper.times == lower.times == value.times:
            return False
        if len(upper.gives) != 1 or not upper.wants:
            return False
        if upper.amounts.any() or lower.amounts.any():
            return False
        between = [
            v for v in self.carried if v.source == value.source or sink in v.sinks
        ]
        if len(between) != 1:
            return False
        found = self._pairs(upper, lower, value)
        if found is None:
            return False
        self.blocks[b] = found
        del self.blocks[a]
        for member in upper.members:
            self.owner[member] = b
        self.carried.remove(value)
        return True

    def _pairs(self, upper: Block, lower: Block, value: Carried) -> Block | None:
        """The pairs of options that may pay; None where they are too many."""
        (sink,) = value.sinks
        given, wanted = upper.gives[value.source], lower.wants[sink]
        others = {port: each for port, each in lower.wants.items() if port != sink}
        inner = value.states.distances[np.ix_(given, wanted)]
        cost = upper.seconds[:, None] + inner + lower.seconds[None, :]
        tops, top = _signatures(list(upper.wants.values()), len(upper))
        ends, end = _signatures([*others.values(), *lower.gives.values()], len(lower))
        best, where = _least(cost, top, end, len(tops), len(ends))
        enter = self._towards({p: w[tops] for p, w in upper.wants.items()}, len(tops))
        leave = self._towards({p: w[ends] for p, w in others.items()}, len(ends))
        leave += self._back({p: g[ends] for p, g in lower.gives.items()}, len(ends))
        np.fill_diagonal(enter, np.inf)
        np.fill_diagonal(leave, np.inf)
        other = _min_plus(best, leave.T)
        all_ways = np.minimum(best, other)
        other = np.minimum(other, _min_plus(enter, all_ways))
        keep = np.flatnonzero((_less(other) > best).ravel())
        before = len(upper) + len(lower) + len(value.states.arcs)
        if len(keep) > min(LARGEST, before):
            return None
        up, low = np.divmod(where.ravel()[keep], len(lower))
        return Block(
            (*upper.members, *lower.members),
            upper.times,
            best.ravel()[keep],
            {
                **{port: each[up] for port, each in upper.wants.items()},
                **{port: each[low] for port, each in others.items()},
            },
            {port: each[low] for port, each in lower.gives.items()},
            np.zeros((len(lower.amounts), len(keep))),
            np.concatenate([upper.picks[up], lower.picks[low]], 1),
        )


def _less(seconds: Any) -> Any:
    """So that sums of equal steps, added up in another order, are not more."""
    return seconds - np.minimum(1e-9 * seconds, TIE / 4)


def _signatures(columns: Sequence[Any], count: int) -> tuple[Any, Any]:
    """One option for each different row, and the number of its row for each option."""
    if not columns:
        return np.zeros(1, int), np.zeros(count, int)
    rows = np.stack(columns, 1)
    _, first, number = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first, number.ravel()


def _least(cost: Any, top: Any, end: Any, tops: int, ends: int) -> tuple[Any, Any]:
    """The least entry for each pair of groups of rows and columns, and where it is."""
    order = np.argsort(-cost.ravel(), kind="stable")  # the last of a group is the least
    group = (top[:, None] * ends + end[None, :]).ravel()[order]
    best, where = np.full(tops * ends, math.inf), np.zeros(tops * ends, int)
    best[group], where[group] = cost.ravel()[order], order
    return best.reshape(tops, ends), where.reshape(tops, ends)


def _min_plus(a: Any, b: Any) -> Any:
    """``min over j of a[i, j] + b[j, k]``"""
    found = np.full((len(a), b.shape[1]), math.inf)
    total = np.empty_like(found)
    for j in range(len(b)):
        np.add(a[:, j, None], b[None, j], out=total)
        np.minimum(found, total, out=found)
    return found


def routes(states: States, sources: Any, targets: Any) -> Any:
    """Arcs that hold a cheapest way from each source to each target: their numbers."""
    arcs, far = states.arcs, states.distances
    starts = np.unique(sources)
    used = np.zeros(len(arcs), bool)
    if not len(arcs):
        return np.flatnonzero(used)
    for target in np.unique(targets):
        rest = arcs.seconds + far[arcs.heads, target]
        tight = np.flatnonzero(rest <= far[arcs.tails, target] * (1 + 1e-9))
        tight = tight[np.isfinite(rest[tight])]
        next_arc = np.full(len(states), -1)
        next_arc[arcs.tails[tight[::-1]]] = tight[::-1]
        next_arc[target] = -1
        at = starts
        while len(at):
            taken = next_arc[at]
            taken = taken[taken >= 0]
            used[taken] = True
            at = np.unique(arcs.heads[taken])
    return np.flatnonzero(used)
