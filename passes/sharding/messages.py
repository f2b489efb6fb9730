"""A bound that no plan is below, from messages between nodes, and plans on the way.

Costs are moved between the options of nodes and the values that they share, which
changes that of no plan; the sum of the least of each is a bound, and no move makes it
less. Kolmogorov, "Convergent tree-reweighted message passing for energy minimization",
PAMI 28 (2006). A limit of memory has a price (Held and Karp, "The traveling-salesman
problem and minimum spanning trees: part II", 1971), so that any prices give a bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .problem import UNIT
from .resharding import TREES
from .shrink import Shrunk
from .states import States

FAR: Final = 1e8
"""What cannot be costs this, in units."""


class Port:
    """Where a block meets a value: its options by layout, and what was moved there."""

    def __init__(self, block: int, layouts: Any) -> None:
        self.block = block
        self.layouts, self.number = np.unique(layouts, return_inverse=True)
        self._order = np.argsort(self.number, kind="stable")
        self._starts = np.searchsorted(
            self.number[self._order], np.arange(len(self.layouts))
        )
        self.moved = np.zeros(len(self.layouts))

    def least(self, costs: Any) -> Any:
        """By layout, the least of the options that have it."""
        return np.minimum.reduceat(costs[self._order], self._starts)


class Trees:
    """What a value costs by the layouts of its source and of its sinks.

    Ports are the source's and the sinks'. Trees as in `resharding`.
    """

    def __init__(self, states: States, scale: float, ports: Sequence[Port]) -> None:
        self.ports = ports
        self.sinks = len(ports) - 1
        self.low = 0.0
        far = np.minimum(states.distances * scale, FAR)
        source, *sinks = (port.layouts for port in ports)
        if self.sinks == 1:
            self._forth = far[np.ix_(source, sinks[0])]
            self._back = np.ascontiguousarray(self._forth.T)
            return
        self._far = far
        self._back = np.ascontiguousarray(far.T)
        self._out = far[source]
        self._leave = np.ascontiguousarray(self._out.T)
        self._into = [np.ascontiguousarray(far[:, each]) for each in sinks]
        self._reach = [np.ascontiguousarray(each.T) for each in self._into]

    def marginal(self, at: int) -> Any:
        """By layout of a port, the least over those of all others."""
        ports = self.ports
        if self.sinks == 1:
            if at:
                return _least_sum(ports[0].moved, self._forth)
            return _least_sum(ports[1].moved, self._back)
        if at == 0:
            tables = self._tables(range(self.sinks))
            return _least_sum(_split(tables, tables, len(tables) - 1), self._leave)
        others = [i for i in range(self.sinks) if i != at - 1]
        tables = self._tables(others)
        spent = [_least_sum(ports[0].moved, self._out)]
        for some in range(1, len(tables)):
            here = _split(spent, tables, some)
            if some == len(tables) - 1:
                return _least_sum(here, self._into[at - 1])
            spent.append(_least_sum(here, self._far))
        raise AssertionError("a tree has two sinks at least")

    def _tables(self, sinks: Sequence[int]) -> list[Any]:
        """By set of sinks, what the tree to them costs from each layout; 0 is none."""
        tables: list[Any] = [0.0]
        for some in range(1, 1 << len(sinks)):
            if some & (some - 1) == 0:
                i = sinks[some.bit_length() - 1]
                tables.append(_least_sum(self.ports[i + 1].moved, self._reach[i]))
            elif some < (1 << len(sinks)) - 1 or len(sinks) < self.sinks:
                tables.append(_least_sum(_split(tables, tables, some), self._back))
            else:
                tables.append(None)  # of all of them the source's part is enough
        return tables

    def least(self) -> float:
        """The least over all layouts, with what was moved here."""
        return float((self.marginal(0) + self.ports[0].moved).min())


def _least_sum(costs: Any, matrix: Any) -> Any:
    """``min over i of costs[i] + matrix[i, j]``"""
    return (costs[:, None] + matrix).min(0)


def _split(first: Sequence[Any], second: Sequence[Any], some: int) -> Any:
    """The least sum of a part of the set in ``first`` and the rest in ``second``.

    Where both are the same, so that order does not matter, each is tried once.
    """
    same = first is second
    low = some & -some if same else 0
    rest, best = some ^ low, None
    part = rest
    while part:
        total = second[part] + first[some ^ part]
        best = total if best is None else np.minimum(best, total)
        part = (part - 1) & rest
    return best


@dataclass(frozen=True)
class Picks:
    """An option for each block, and the share that it takes of each limit."""

    picks: Sequence[int]
    shares: Any


@dataclass(frozen=True)
class Moved:
    """What was moved, and at which prices: to go on from there."""

    prices: Any
    ports: Sequence[Any]


class Messages:
    """Costs of all options and values of a problem, as they are moved about.

    Numbers are in `UNIT`. ``prices`` are those of the whole of each limit that binds.
    """

    def __init__(self, shrunk: Shrunk) -> None:
        self.shrunk = shrunk
        blocks = shrunk.blocks
        self.keys = sorted(blocks, key=lambda key: max(blocks[key].members))
        self.blocks = [blocks[key] for key in self.keys]
        self.place = {key: i for i, key in enumerate(self.keys)}
        self.trees: list[Trees] = []
        self.whole: dict[int, Trees] = {}
        """By number of a value, its trees where they are taken whole."""
        self._ports: list[list[tuple[Trees, int, Port]]] = [[] for _ in self.keys]
        for number, value in enumerate(shrunk.carried):
            for first in range(0, len(value.sinks), TREES):
                some = value.sinks[first : first + TREES]
                at = self.place[shrunk.owner[value.source[0]]]
                ports = [Port(at, self.blocks[at].gives[value.source])]
                for sink in some:
                    at = self.place[shrunk.owner[sink[0]]]
                    ports.append(Port(at, self.blocks[at].wants[sink]))
                scale = value.times * len(some) / len(value.sinks) / UNIT
                made = Trees(value.states, scale, ports)
                self.trees.append(made)
                if len(value.sinks) <= TREES:
                    self.whole[number] = made
                for at, port in enumerate(ports):
                    self._ports[port.block].append((made, at, port))
        self._weights = [self._shares_out(i) for i in range(len(self.keys))]
        self._plain = [b.times * b.seconds / UNIT for b in self.blocks]
        self._shares = self._limits()
        self.allowed = [np.ones(len(b), bool) for b in self.blocks]
        self.prices = np.zeros(0)
        self.reprice(np.zeros(len(self._shares[0]) if self._shares else 0))

    def _shares_out(self, block: int) -> tuple[Sequence[float], Sequence[float]]:
        """What of a block's costs goes to each tree, on the way forth and back."""
        ports = self._ports[block]
        ahead = [max(p.block for p in t.ports) > block for t, _, _ in ports]
        behind = [min(p.block for p in t.ports) < block for t, _, _ in ports]
        most = max(sum(ahead), sum(behind), 1)
        return [a / most for a in ahead], [b / most for b in behind]

    def _limits(self) -> list[Any]:
        """By block, what its options take of each limit that binds and none implies."""
        problem = self.shrunk.problem
        limits = np.asarray([problem.limit, *(row.limit for row in problem.rows)])
        every = np.concatenate([block.amounts for block in self.blocks], 1)
        most = sum(block.amounts.max(1, initial=0) for block in self.blocks)
        rows: list[int] = []
        for row in np.flatnonzero(most > limits)[::-1]:  # the first are often implied
            if not any(
                limits[row] >= limits[other] and (every[row] <= every[other]).all()
                for other in rows
            ):
                rows.append(int(row))
        unit = np.maximum(limits[rows], 1e-9)
        return [block.amounts[rows] / unit[:, None] for block in self.blocks]

    # --- what it costs

    def reprice(self, prices: Any) -> None:
        """Let the whole of each limit cost so much."""
        self.prices = np.maximum(prices, 0.0)
        self._costs = [
            np.where(ok, plain + self.prices @ shares, FAR)
            for plain, shares, ok in zip(
                self._plain, self._shares, self.allowed, strict=True
            )
        ]

    def bound(self) -> float:
        """No allowed plan that keeps the limits costs less."""
        total = -float(self.prices.sum())
        for tree in self.trees:
            tree.low = tree.least()
            total += tree.low
        return total + sum(float(self.rest(i).min()) for i in range(len(self.keys)))

    def rest(self, block: int) -> Any:
        """What its options cost after what was moved away."""
        costs = self._costs[block].copy()
        for _, _, port in self._ports[block]:
            costs -= port.moved[port.number]
        return costs

    def sweep(self, *, back: bool = False) -> list[Any]:
        """Move costs on, block by block.

        Gives by block how much more than the bound before a plan costs that takes an
        option.
        """
        excess: list[Any] = [None] * len(self.keys)
        order = range(len(self.keys))
        for i in reversed(order) if back else order:
            costs = self._costs[i].copy()
            found = []
            for tree, at, port in self._ports[i]:
                least = tree.marginal(at)
                port.moved = -least  # before another port of the block at this tree
                found.append(least)
                costs += least[port.number]
            excess[i] = costs - costs.min()
            pairs = zip(self._ports[i], found, self._weights[i][back], strict=True)
            for (_, _, port), least, weight in pairs:
                if weight:
                    port.moved = weight * port.least(costs) - least
        return excess

    def decoded(self) -> Picks:
        """A plan: each block takes what is best by those before it."""
        kept = self.moved().ports
        picks: list[int] = []
        shares: Any = np.zeros(len(self.prices))
        for i in range(len(self.keys)):
            costs = self._costs[i].copy()
            for tree, at, port in self._ports[i]:
                costs += tree.marginal(at)[port.number]
            pick = int(costs.argmin())
            picks.append(pick)
            shares = shares + self._shares[i][:, pick]
            for _, _, port in self._ports[i]:
                port.moved = np.full(len(port.layouts), FAR)
                port.moved[port.number[pick]] = 0.0
        self._put(kept)
        return Picks(picks, shares)

    def share(self, block: int, row: int) -> Any:
        """What the options of a block take of one limit."""
        return self._shares[block][row]

    # --- to and fro

    def moved(self) -> Moved:
        """A copy of what is where."""
        ports = [port.moved for each in self._ports for _, _, port in each]
        return Moved(self.prices, ports)

    def restore(self, moved: Moved, allowed: Sequence[Any]) -> None:
        """Go on from there, with these options alone."""
        self.allowed = list(allowed)
        self._put(moved.ports)
        self.reprice(moved.prices)

    def _put(self, kept: Sequence[Any]) -> None:
        each = iter(kept)
        for ports in self._ports:
            for _, _, port in ports:
                port.moved = next(each)

    def chosen(self, picks: Sequence[int]) -> tuple[int, ...]:
        """The option of each node of the problem."""
        chosen = [0] * len(self.shrunk.problem.nodes)
        for block, pick in zip(self.blocks, picks, strict=True):
            for member, k in zip(block.members, block.picks[pick], strict=True):
                chosen[member] = int(k)
        return tuple(chosen)

    def picks(self, chosen: Sequence[int]) -> tuple[int, ...]:
        """The option of each block that stands for those of its members."""
        found: list[int] = []
        for block in self.blocks:
            wanted = [chosen[member] for member in block.members]
            found.append(int((block.picks == wanted).all(1).argmax()))
        return tuple(found)
