"""The exact optimum of recomputation on small graphs, as a mixed-integer program.

Jain et al., "Checkmate: breaking the memory wall with optimal tensor
rematerialization", MLSys 2020: stage t computes node t for the first time, and before
it any earlier ones again; what is kept goes from stage to stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np


class Node(Protocol):
    """A piece of work: the nodes that it reads, what it makes, what it costs."""

    @property
    def reads(self) -> tuple[int, ...]: ...
    @property
    def bytes(self) -> int: ...
    @property
    def flops(self) -> int: ...


class Optimum(NamedTuple):
    """FLOPs of the best schedule that was found, and FLOPs that none stays below."""

    flops: float
    bound: float


def optimum(
    nodes: Sequence[Node], order: Sequence[int], budget: int, seconds: float = 60.0
) -> Optimum | None:
    """The fewest FLOPs at which all nodes are computed within ``budget`` bytes.

    ``order`` is the topological one in which they are computed first. None where no
    schedule fits, or none was found in time. HiGHS solves it, in scipy.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    program = _Program(nodes, order, budget)
    rows, columns, entries = zip(*program.entries, strict=True)
    places = tuple([np.asarray(each, np.int32) for each in (rows, columns)])
    matrix = coo_array((entries, places), (program.rows, program.columns))
    found: Any = milp(
        program.costs(),
        integrality=program.whole(),
        bounds=Bounds(*program.bounds()),
        constraints=LinearConstraint(
            matrix.tocsc(), np.asarray(program.low), np.asarray(program.high)
        ),
        options={"time_limit": seconds},
    )
    if found.x is None:
        return None
    return Optimum(float(found.fun), float(found.mip_dual_bound))


class _Program:
    """Variables by name, and rows ``low <= sum <= high``; bytes are budgets' shares."""

    def __init__(self, nodes: Sequence[Node], order: Sequence[int], budget: int):
        number = {node: i for i, node in enumerate(order)}
        self.reads = [sorted({number[r] for r in nodes[k].reads}) for k in order]
        self.bytes = [nodes[k].bytes / max(budget, 1) for k in order]
        self.flops = [nodes[k].flops for k in order]
        self.users: list[list[int]] = [[] for _ in order]
        for i, reads in enumerate(self.reads):
            for read in reads:
                self.users[read].append(i)
        self.names: dict[tuple[object, ...], int] = {}
        self.upper: list[float] = []
        self.entries: list[tuple[int, int, float]] = []
        self.low: list[float] = []
        self.high: list[float] = []
        for stage in range(len(order)):
            self._stage(stage)

    @property
    def rows(self) -> int:
        return len(self.low)

    @property
    def columns(self) -> int:
        return len(self.names)

    def costs(self) -> Any:
        found = np.zeros(self.columns)
        for name, column in self.names.items():
            if name[0] == "run":
                found[column] = self.flops[name[2]]  # type: ignore[call-overload]
        return found

    def whole(self) -> Any:
        return np.asarray([int(name[0] != "live") for name in self.names])

    def bounds(self) -> tuple[Any, Any]:
        low = np.asarray(
            [float(n[0] == "run" and n[1] == n[2]) for n in self.names], dtype=float
        )
        return low, np.ones(self.columns)

    def _column(self, *name: object) -> int:
        return self.names.setdefault(name, len(self.names))

    def _row(self, terms: dict[int, float], low: float, high: float) -> None:
        self.entries += [(self.rows, column, x) for column, x in terms.items() if x]
        self.low.append(low)
        self.high.append(high)

    def _stage(self, t: int) -> None:
        """``run``: computed in this stage; ``held``: kept on the way into it."""
        for i in range(t + 1):
            run = self._column("run", t, i)
            for read in self.reads[i]:
                has = {run: -1.0, self._column("run", t, read): 1.0}
                if read < t:
                    has[self._column("held", t, read)] = 1.0
                self._row(has, 0, np.inf)
        for i in range(t):
            had = {self._column("held", t, i): -1.0}
            had[self._column("run", t - 1, i)] = 1.0
            if i < t - 1:
                had[self._column("held", t - 1, i)] = 1.0
            self._row(had, 0, np.inf)
        self._memory(t)

    def _memory(self, t: int) -> None:
        """``live``: bytes when a node was computed; ``free``: those that it frees."""
        for k in range(t + 1):
            terms = {self._column("live", t, k): -1.0}
            terms[self._column("run", t, k)] = self.bytes[k]
            if k == 0:
                for i in range(t):
                    terms[self._column("held", t, i)] = self.bytes[i]
            else:
                terms[self._column("live", t, k - 1)] = 1.0
                for i in (*self.reads[k - 1], k - 1):
                    terms[self._free(t, i, k - 1)] = -self.bytes[i]
            self._row(terms, 0, 0)

    def _free(self, t: int, i: int, k: int) -> int:
        """Whether result i dies with node k: run here, nothing behind it reads i."""
        free = self._column("free", t, i, k)
        against = {self._column("run", t, k): -1.0}
        if t + 1 < len(self.reads):
            against[self._column("held", t + 1, i)] = 1.0
        for user in self.users[i]:
            if k < user <= t:
                against[self._column("run", t, user)] = 1.0
        most = float(len(against))
        # free = 1 only where none is against it, and then it is
        self._row({free: 1.0, **against}, 0, np.inf)
        self._row({free: most, **against}, -np.inf, most - 1)
        return free
