"""The mixed-integer linear program of a problem: columns, rows and what they mean.

A binary for each option of a node. A value flows from the layout that its source gives
it to that which each sink wants, over single steps; what is paid for a step is at least
the flow of any sink through it. Zheng et al., "Alpa: automating inter- and
intra-operator parallelism for distributed deep learning", OSDI 2022, choose likewise
among pairs of layouts. Where few layouts are left of each end, a value has a column for
each row of them instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final

import numpy as np

from .problem import UNIT, Carried, Port
from .resharding import TREES, trees_seconds
from .shrink import Block, Shrunk, routes

MOST: Final = 20_000
"""Rows of layouts of a value of which those that may pay are looked for."""

Pays = Callable[[int, list[Any], Any], Any]
"""For a value by number, the layouts of its source and sinks, and what each row of them
costs in units: true for rows that may pay."""


class Columns:
    """Columns and rows, in arrays that are put together in the end.

    All columns are at least 0, and none need be above 1. ``pays`` says which rows of
    layouts are worth a column.
    """

    def __init__(self, shrunk: Shrunk, pays: Pays | None = None) -> None:
        self.shrunk = shrunk
        self._pays = pays
        self.count = 0
        self.rows = 0
        self._costs: list[Any] = []
        self._whole: list[Any] = []
        self._entries: list[tuple[Any, Any, Any]] = []
        self._low: list[Any] = []
        self._high: list[Any] = []
        self.options: dict[int, int] = {}
        """By block, its first column."""
        self._stored: dict[int, tuple[int, Any]] = {}
        """By block of a leaf, its first column and the option that each stands for."""
        self._limits: list[tuple[Any, Any]] = []
        self._binding: list[tuple[int, float]] = []
        leaves = {k: v for v in shrunk.carried if (k := self._leaf(v)) is not None}
        for key, block in shrunk.blocks.items():
            if key not in leaves:
                self._add_block(key, block)
        for number, value in enumerate(shrunk.carried):
            key = shrunk.owner[value.source[0]]
            if key in leaves:
                self._add_leaf(key, value)
            elif self._add_trees(number, value):
                continue
            elif len(value.sinks) == 1:
                self._add_flow(value)
            else:
                self._add_flows(value)
        self._add_limits()

    # --- columns and rows

    def _add_columns(self, costs: Any, whole: int) -> int:
        first = self.count
        self.count += len(costs)
        self._costs.append(np.asarray(costs, float) / UNIT)
        self._whole.append(np.full(len(costs), whole))
        return first

    def _add_rows(self, count: int, low: float, high: float) -> int:
        first = self.rows
        self.rows += count
        self._low.append(np.full(count, low))
        self._high.append(np.full(count, high))
        return first

    def _put(self, rows: Any, columns: Any, entry: float | Any) -> None:
        rows, columns = np.broadcast_arrays(rows, columns)
        self._entries.append((rows, columns, np.broadcast_to(entry, rows.shape)))

    # --- what the columns stand for

    def _add_block(self, key: int, block: Block) -> None:
        first = self._add_columns(block.times * block.seconds, 1)
        self.options[key] = first
        columns = first + np.arange(len(block))
        self._put(self._add_rows(1, 1, 1), columns, 1.0)
        self._limits.append((columns, block.amounts))

    def _leaf(self, value: Carried) -> int | None:
        """The block of a weight or an input that one node alone reads."""
        key = self.shrunk.owner[value.source[0]]
        block = self.shrunk.blocks[key]
        users = [v for v in self.shrunk.carried if v.source[0] in block.members]
        plain = len(value.sinks) == 1 and len(users) == 1 and not block.wants
        return key if plain and value.times == block.times else None

    def _add_leaf(self, key: int, value: Carried) -> None:
        """Pairs of stored and wanted layouts, but for those both larger and dearer."""
        block = self.shrunk.blocks[key]
        stored = block.gives[value.source]
        columns, wanted = self._wanted(value.sinks[0])
        targets, number = np.unique(wanted, return_inverse=True)
        cost = value.states.distances[np.ix_(stored, targets)] + block.seconds[:, None]
        picks: list[Any] = []
        places: list[Any] = []
        for j in range(len(targets)):
            pays = _undominated(np.vstack([cost[:, j], block.amounts]))
            picks.append(pays)
            places.append(np.full(len(pays), j))
        pick, place = np.concatenate(picks), np.concatenate(places)
        first = self._add_columns(value.times * cost[pick, place], 1)
        own = first + np.arange(len(pick))
        row = self._add_rows(len(targets), 0, 0)
        self._put(row + place, own, 1.0)
        self._put(row + number, columns, -1.0)
        self._limits.append((own, block.amounts[:, pick]))
        self._stored[key] = (first, pick)

    def _wanted(self, sink: Port) -> tuple[Any, Any]:
        """The columns of a sink, and the layout that each wants."""
        key = self.shrunk.owner[sink[0]]
        wanted = self.shrunk.blocks[key].wants[sink]
        return self.options[key] + np.arange(len(wanted)), wanted

    def _given(self, source: Port) -> tuple[Any, Any]:
        key = self.shrunk.owner[source[0]]
        given = self.shrunk.blocks[key].gives[source]
        return self.options[key] + np.arange(len(given)), given

    def _add_trees(self, number: int, value: Carried) -> bool:
        """A column for each row of layouts that may pay; False where they are many."""
        if self._pays is None or len(value.sinks) > TREES:
            return False
        ends = [self._given(value.source), *map(self._wanted, value.sinks)]
        found = [np.unique(layouts, return_inverse=True) for _, layouts in ends]
        layouts = [each for each, _ in found]
        if math.prod(map(len, layouts)) > MOST:
            return False
        costs = value.times * trees_seconds(value.states, layouts)
        rows = np.nonzero(self._pays(number, layouts, costs / UNIT))
        arcs = (1 + len(value.sinks)) * len(value.states.arcs)
        if len(rows[0]) > arcs:
            return False
        own = self._add_columns(costs[rows], 0) + np.arange(len(rows[0]))
        for axis, (columns, _) in enumerate(ends):
            row = self._add_rows(len(layouts[axis]), 0, 0)
            self._put(row + rows[axis], own, 1.0)
            self._put(row + found[axis][1], columns, -1.0)
        return True

    def _add_flow(self, value: Carried) -> None:
        """One sink: the flow over a cheapest way from each layout to each."""
        (sink,) = value.sinks
        given, wanted = self._given(value.source)[1], self._wanted(sink)[1]
        arcs = value.states.arcs.where(routes(value.states, given, wanted))
        flow = self._add_columns(value.times * arcs.seconds, 0)
        self._balance(value, sink, arcs, flow)

    def _add_flows(self, value: Carried) -> None:
        """Several sinks, and what is paid for all of them together."""
        arcs = value.states.arcs.where(value.states.needed)
        paid = self._add_columns(value.times * arcs.seconds, 0)
        for sink in value.sinks:
            flow = self._add_columns(np.zeros(len(arcs)), 0)
            self._balance(value, sink, arcs, flow)
            row = self._add_rows(len(arcs), 0, np.inf) + np.arange(len(arcs))
            self._put(row, paid + np.arange(len(arcs)), 1.0)
            self._put(row, flow + np.arange(len(arcs)), -1.0)

    def _balance(self, value: Carried, sink: Port, arcs: Any, flow: int) -> None:
        """What comes to a layout leaves it; the source gives some, the sink takes."""
        row = self._add_rows(len(value.states), 0, 0)
        columns = flow + np.arange(len(arcs))
        self._put(row + arcs.heads, columns, 1.0)
        self._put(row + arcs.tails, columns, -1.0)
        columns, given = self._given(value.source)
        self._put(row + given, columns, 1.0)
        columns, wanted = self._wanted(sink)
        self._put(row + wanted, columns, -1.0)

    def _add_limits(self) -> None:
        problem = self.shrunk.problem
        limits = [problem.limit, *(row.limit for row in problem.rows)]
        for number, limit in enumerate(limits):
            most = sum(float(a[number].max(initial=0)) for _, a in self._limits)
            if most <= limit:
                continue
            self._binding.append((number, limit))
            unit = max(abs(limit), 1.0)
            row = self._add_rows(1, -np.inf, limit / unit)
            for columns, amounts in self._limits:
                self._put(row, columns, amounts[number] / unit)

    # --- what a solver needs

    @cached_property
    def whole(self) -> Any:
        """1 for columns that are whole numbers."""
        return np.concatenate(self._whole)

    @cached_property
    def prices(self) -> Any:
        return np.concatenate(self._costs)

    @cached_property
    def bounds(self) -> tuple[Any, Any]:
        return np.concatenate(self._low), np.concatenate(self._high)

    @cached_property
    def matrix(self) -> Any:
        from scipy.sparse import coo_array

        rows, columns, entries = (
            np.concatenate([part[i].ravel() for part in self._entries])
            for i in range(3)
        )
        places = (rows.astype(np.int32), columns.astype(np.int32))
        return coo_array((entries, places), (self.rows, self.count)).tocsc()

    def possible(self, columns: Any) -> Any | None:
        """Those of some columns that leave room for the least of all other nodes.

        None where there is no room.
        """
        use = np.zeros(self.count, bool)
        use[columns] = True
        for number, limit in self._binding:
            least = np.asarray(
                [a[number][use[own]].min(initial=np.inf) for own, a in self._limits]
            )
            spare = limit * (1 + 1e-12) - least.sum()
            if not spare >= 0:
                return None
            for (own, amounts), low in zip(self._limits, least, strict=True):
                use[own[amounts[number] > low + spare]] = False
        return columns[use[columns]]

    def branches(self, columns: Any, x: Any) -> tuple[Any, Any] | None:
        """Two parts of some columns, by the bytes of the node that x mixes most.

        None where x mixes none.
        """
        value = np.zeros(self.count)
        value[columns] = x
        most, found = 1e-3, None
        for number, limit in self._binding:
            for own, amounts in self._limits:
                each, weight = amounts[number] / max(abs(limit), 1.0), value[own]
                mean = float(each @ weight)
                mixed = float(np.abs(each - mean) @ weight)
                if mixed > most:
                    most, found = mixed, (own[each > mean], own[each <= mean])
        if found is None:
            return None
        return np.setdiff1d(columns, found[0]), np.setdiff1d(columns, found[1])

    def chosen(self, x: Any) -> tuple[int, ...]:
        """The option of each node of the problem, from the columns' values."""
        shrunk = self.shrunk
        chosen = [0] * len(shrunk.problem.nodes)
        for key, block in shrunk.blocks.items():
            if key in self._stored:
                first, picks = self._stored[key]
                best = picks[x[first : first + len(picks)].argmax()]
            else:
                best = x[self.options[key] :][: len(block)].argmax()
            for member, pick in zip(block.members, block.picks[best], strict=True):
                chosen[member] = int(pick)
        return tuple(chosen)


def _undominated(rows: Any) -> Any:
    """The columns that no other is as small as in all rows; the first of equal ones."""
    order = np.lexsort(rows[::-1])
    kept: list[int] = []
    for i in order:
        if math.isfinite(rows[0, i]) and not any(
            (rows[:, k] <= rows[:, i]).all() for k in kept
        ):
            kept.append(int(i))
    return np.asarray(kept, int)
