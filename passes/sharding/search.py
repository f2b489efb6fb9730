"""The integral optimum of a program, by relaxations that leave few columns.

A plan that uses a column costs at least the column's reduced cost more than the
relaxation does: once a good plan is known, few columns are left (Dantzig, Fulkerson and
Johnson, "Solution of a large-scale traveling-salesman problem", 1954). A limit of
memory makes relaxations weak, as they mix layouts of large weights; then it is branched
on the bytes of one of these. HiGHS solves the relaxations, and what is left.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any, Final

import numpy as np

from graphopt.errors import GraphoptError

from .columns import Columns

_FIRST: Final = 2e-3  # columns of so much reduced cost, relatively, are tried first
_WEAK: Final = 1e-3  # gaps of a relaxation above which it is branched
_GOOD: Final = 1e-3  # gaps at which a plan is good enough to leave columns out by
_SHARE: Final = 0.25  # of the time, for one such plan
_FEW: Final = 2000  # columns for which it is not


class NoPlan(GraphoptError):
    """No choice of options keeps the limits, or none was found in time."""

    exit_code = 6


clock: Final = time.thread_time
"""What limits of time are of: CPU time, so that what else runs changes no plan."""
NO_PLAN: Final = "no plan keeps the limits: of memory, or of what was fixed"


@dataclass(frozen=True)
class Optimum:
    """Values of all columns, and a bound that no plan is below.

    ``x`` is None where no plan was found that costs less than what was known.
    """

    x: Any
    value: float
    bound: float


def search(program: Columns, seconds: float, gap: float, value: float = inf) -> Optimum:
    """The best plan, until its relative distance from the bound is at most ``gap``.

    A plan of this ``value`` is known. The bound is inf where there is no plan at all,
    and -inf where the time did not do for one.
    """
    return _Search(program, clock() + seconds, gap, value).run()


@contextmanager
def _stdout_kept() -> Iterator[None]:
    """Let HiGHS, which prints where it mends a plan, do so on stderr.

    Where there is no C library to be asked, as on Windows, or no such descriptor,
    nothing is done.
    """
    try:
        flush = ctypes.CDLL(None).fflush
        flush(None)
        kept = os.dup(1)
        os.dup2(2, 1)
    except (AttributeError, OSError, TypeError):
        yield
        return
    try:
        yield
    finally:
        flush(None)
        os.dup2(kept, 1)
        os.close(kept)


class _Search:
    def __init__(
        self, program: Columns, deadline: float, gap: float, value: float
    ) -> None:
        self.program = program
        self.deadline = deadline
        self.brief = _SHARE * self._left()
        self.gap = gap
        self.value = value
        self.x: Any = None
        self.bound = inf
        """The least of what is proved of the parts that are done with."""

    def run(self) -> Optimum:
        number = itertools.count()
        columns: Any = self.program.possible(np.arange(self.program.count))
        if columns is None:
            return Optimum(None, self.value, inf)
        if len(columns) <= _FEW:
            self._finish(columns, -inf)
            return self._found()
        root = self._relaxed(columns)
        if root is None:
            return Optimum(None, self.value, inf)
        if root.status:
            return Optimum(None, self.value, -inf)
        if not self._start(columns, root):
            return Optimum(None, self.value, inf)
        every = columns
        pending = [(float(root.fun), next(number), columns, root)]
        while pending:
            low, _, columns, relaxed = heapq.heappop(pending)
            if low >= self.value * (1 - self.gap) or self._left() <= 0:
                self.bound = min(self.bound, low)  # all others are higher
                break
            reduced, weak = relaxed.lower.marginals, self._is_weak(low)
            if weak and columns is not every:  # a better plan leaves fewer columns
                self._integral(columns[reduced <= _FIRST * abs(low)], brief=True)
            near = reduced <= self.value - low
            if not near.any():  # rounding put the best plan below its bound
                self.bound = min(self.bound, low)
                continue
            columns, x = columns[near], relaxed.x[near]
            parts = None
            if weak and len(columns) > _FEW:
                parts = self.program.branches(columns, x)
            if parts is None:
                self._finish(columns, low)
                continue
            for each in parts:
                part = self.program.possible(each)
                inner = None if part is None else self._relaxed(part)
                if inner is not None and inner.status:
                    self.bound = min(self.bound, low)  # no time is left for this part
                elif inner is not None:
                    above = max(low, float(inner.fun))
                    heapq.heappush(pending, (above, next(number), part, inner))
        return self._found()

    def _found(self) -> Optimum:
        return Optimum(self.x, self.value, self.bound)

    def _is_weak(self, low: float) -> bool:
        """True where a bound is far below the best plan."""
        return self.value - low > _WEAK * abs(low)

    def _left(self) -> float:
        return self.deadline - clock()

    def _start(self, columns: Any, root: Any) -> bool:
        """A first plan, of columns that the relaxation is next to taking.

        False where there is none.
        """
        allowance = _FIRST * abs(float(root.fun))
        while self.value == inf and self._left() > 0:
            near = columns[root.lower.marginals <= allowance]
            found = self._integral(near, brief=True)
            if found.x is None and found.status == 2 and len(near) == len(columns):
                return False
            if found.status == 2:
                allowance *= 8
            self.brief *= 2
        return True

    def _finish(self, columns: Any, low: float) -> None:
        """The best plan of these columns; with others it is no better than the best."""
        found = self._integral(columns)
        bound = found.mip_dual_bound
        if bound is not None and math.isfinite(bound):
            low = max(low, min(float(bound), self.value))
        if found.status != 2:
            self.bound = min(self.bound, low)

    def _integral(self, columns: Any, *, brief: bool = False) -> Any:
        """What HiGHS finds with these columns alone; ``brief``: something good."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        program = self.program
        matrix, limit = program.matrix[:, columns], self.brief if brief else inf
        with _stdout_kept():
            found: Any = milp(
                program.prices[columns],
                integrality=program.whole[columns],
                bounds=Bounds(0, 1),
                constraints=LinearConstraint(matrix, *program.bounds),
                options={
                    "time_limit": max(0.5, min(self._left(), limit)),
                    "mip_rel_gap": _GOOD if brief else self.gap,
                },
            )
        if found.x is not None and found.fun < self.value:
            self.value = float(found.fun)
            self.x = np.zeros(program.count)
            self.x[columns] = found.x
        return found

    def _relaxed(self, columns: Any) -> Any:
        """The optimum without integrality, with reduced costs; None without any.

        ``status`` is not 0 where the time did not do.
        """
        from scipy.optimize import linprog
        from scipy.sparse import vstack

        matrix, (low, high) = (
            self.program.matrix[:, columns].tocsr(),
            self.program.bounds,
        )
        equal = low == high
        under, over = ~equal & np.isfinite(high), ~equal & np.isfinite(low)
        found: Any = linprog(
            self.program.prices[columns],
            A_ub=vstack([matrix[under], -matrix[over]]),
            b_ub=np.concatenate([high[under], -low[over]]),
            A_eq=matrix[equal],
            b_eq=low[equal],
            bounds=(0, None),
            method="highs",
            options={"time_limit": max(0.5, self._left())},
        )
        return None if found.status == 2 else found
