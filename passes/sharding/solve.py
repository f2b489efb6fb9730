"""The best options, as a mixed-integer linear program that HiGHS solves.

A binary for each option of a node. A value flows from the layout that its source gives
it to that which each sink wants, over single steps; what is paid for a step is at least
the flow of any sink through it. Zheng et al., "Alpa: automating inter- and
intra-operator parallelism for distributed deep learning", OSDI 2022, choose likewise
among pairs of layouts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from graphopt.errors import GraphoptError

from .problem import Carried, Port, Problem
from .shrink import Block, Shrunk, routes

SECONDS: Final = 60.0
"""How long the solver may take."""
GAP: Final = 1e-6
"""The relative gap at which an optimum is taken for proved."""
_FIRST: Final = 2e-3  # columns of so much reduced cost, relatively, are tried first
_NONE: Final = "no plan keeps the limits: of memory, or of what was fixed"
_UNIT: Final = 1e-6  # costs in microseconds, as the solver's tolerances are absolute


class NoPlan(GraphoptError):
    """No choice of options keeps the limits, or none was found in time."""

    exit_code = 6


@dataclass(frozen=True)
class Solution:
    """An option for each node, and what is proved of it.

    No choice costs less than ``bound`` seconds. ``columns`` and ``rows`` are those of
    the program.
    """

    chosen: tuple[int, ...]
    seconds: float
    bound: float
    proved: bool
    columns: int = 0
    rows: int = 0
    built: float = 0.0
    """Seconds that it took to write the program down."""
    solved: float = 0.0
    """Seconds that the solver took."""

    @property
    def gap(self) -> float:
        """How much dearer than the bound it is, relative to itself."""
        return max(0.0, 1 - self.bound / self.seconds) if self.seconds else 0.0


def solve(
    problem: Problem,
    *,
    allowed: Mapping[int, Iterable[int]] | None = None,
    seconds: float = SECONDS,
    gap: float = GAP,
    shrink: bool = True,
) -> Solution:
    """The cheapest options for all nodes.

    ``allowed`` restricts those of some. ``shrink`` is off only to see what it does.
    Raises NoPlan where none keeps the limits, or none was found in time.
    """
    start = time.perf_counter()
    for number, some in (allowed or {}).items():
        if not list(some):
            raise NoPlan(f"no option is left for {problem.nodes[number].name}")
    shrunk = Shrunk(problem, allowed)
    if shrink:
        shrunk.shrink()
    program = _Program(shrunk)
    built = time.perf_counter() - start
    chosen, bound, proved = program.solve(seconds, gap)
    found = problem.seconds(chosen)
    if not problem.keeps(chosen):
        raise NoPlan("what the solver rounds breaks a limit; allow some more memory")
    return Solution(
        chosen,
        found,
        min(bound, found),
        proved,
        program.columns,
        program.rows,
        built,
        time.perf_counter() - start - built,
    )


class _Program:
    """Columns and rows, in arrays that are put together in the end."""

    def __init__(self, shrunk: Shrunk) -> None:
        self.shrunk = shrunk
        self.columns = 0
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
        leaves = {k: v for v in shrunk.carried if (k := self._leaf(v)) is not None}
        for key, block in shrunk.blocks.items():
            if key not in leaves:
                self._add_block(key, block)
        for value in shrunk.carried:
            key = shrunk.owner[value.source[0]]
            if key in leaves:
                self._add_leaf(key, value)
            elif len(value.sinks) == 1:
                self._add_flow(value)
            else:
                self._add_flows(value)
        self._add_limits()

    # --- columns and rows

    def _add_columns(self, costs: Any, whole: int) -> int:
        first = self.columns
        self.columns += len(costs)
        self._costs.append(np.asarray(costs, float) / _UNIT)
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
        """Pairs of stored and wanted layouts: of equal rows, none both larger and dearer."""
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
        """What comes to a layout is what leaves it: from the source, and to the sink."""
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
            unit = max(abs(limit), 1.0)
            row = self._add_rows(1, -np.inf, limit / unit)
            for columns, amounts in self._limits:
                self._put(row, columns, amounts[number] / unit)

    # --- solving

    def solve(self, seconds: float, gap: float) -> tuple[tuple[int, ...], float, bool]:
        """The option of each node, the bound in seconds, and whether it is proved.

        A plan with a column in it costs at least its reduced cost more than the
        relaxation, so that columns are left out whose reduced cost is above what the
        best plan costs more.
        """
        deadline = time.perf_counter() + seconds
        relaxed = self._relaxed(seconds)
        low, reduced = float(relaxed.fun), relaxed.lower.marginals
        allowance = _FIRST * abs(low)
        best: Any = None
        while True:
            kept = np.flatnonzero(reduced <= allowance)
            left = max(1.0, deadline - time.perf_counter())
            found = self._integral(kept, left, gap)
            if found.x is not None and (best is None or found.fun < best[0]):
                best = (float(found.fun), kept, found.x)
            late = found.status == 1 or time.perf_counter() > deadline
            bound = low if found.status == 1 else low + allowance
            if found.mip_dual_bound is not None and math.isfinite(found.mip_dual_bound):
                bound = min(low + allowance, max(low, float(found.mip_dual_bound)))
            complete = len(kept) == self.columns
            if best is None and (late or complete):
                if complete and not late:
                    raise NoPlan(_NONE)
                raise NoPlan(f"no plan was found within {seconds:g} s")
            if best is not None:
                if late or complete or best[0] - low <= allowance:
                    break
                allowance = best[0] - low
            else:
                allowance *= 8
        x = np.zeros(self.columns)
        x[best[1]] = best[2]
        proved = not late and best[0] - bound <= gap * abs(best[0]) * (1 + 1e-9)
        return self._chosen(x), bound * _UNIT, proved

    def _relaxed(self, seconds: float) -> Any:
        """The optimum without integrality, and its reduced costs."""
        from scipy.optimize import linprog
        from scipy.sparse import vstack

        matrix, low, high = self._matrix.tocsr(), self._bounds[0], self._bounds[1]
        equal = low == high
        under, over = ~equal & np.isfinite(high), ~equal & np.isfinite(low)
        found: Any = linprog(
            self._prices,
            A_ub=vstack([matrix[under], -matrix[over]]),
            b_ub=np.concatenate([high[under], -low[over]]),
            A_eq=matrix[equal],
            b_eq=low[equal],
            bounds=(0, None),
            method="highs",
            options={"time_limit": seconds},
        )
        if found.status == 2:
            raise NoPlan(_NONE)
        if found.status != 0:
            raise NoPlan(f"no plan was found within {seconds:g} s")
        return found

    def _integral(self, kept: Any, seconds: float, gap: float) -> Any:
        """What HiGHS finds among some of the columns."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        return milp(
            self._prices[kept],
            integrality=np.concatenate(self._whole)[kept],
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(self._matrix[:, kept], *self._bounds),
            options={"time_limit": seconds, "mip_rel_gap": gap},
        )

    @cached_property
    def _prices(self) -> Any:
        return np.concatenate(self._costs)

    @cached_property
    def _bounds(self) -> tuple[Any, Any]:
        return np.concatenate(self._low), np.concatenate(self._high)

    @cached_property
    def _matrix(self) -> Any:
        from scipy.sparse import coo_array

        rows, columns, entries = (
            np.concatenate([part[i].ravel() for part in self._entries])
            for i in range(3)
        )
        places = (rows.astype(np.int32), columns.astype(np.int32))
        return coo_array((entries, places), (self.rows, self.columns)).tocsc()

    def _chosen(self, x: Any) -> tuple[int, ...]:
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
