"""Offsets by CP-SAT, where OR-Tools is installed: rectangles that do not overlap."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .sections import Sections

EFFORT: Final = 1e-3
"""Deterministic seconds of the solver for each step of a budget."""


@dataclass(frozen=True, slots=True)
class Solved:
    """Offsets in units, if found, and a proved lower bound of the peak."""

    offsets: list[int] | None
    bound: int


def available() -> bool:
    """Whether OR-Tools is installed."""
    return importlib.util.find_spec("ortools") is not None


def solve(
    packed: Sections,
    bound: int,
    capacity: int,
    hint: Sequence[int],
    *,
    seconds: float,
    steps: int,
    least: bool,
) -> Solved:
    """Offsets with a peak of at most ``capacity`` units, or with the least peak.

    No packing has a peak below ``bound``. What is found depends on ``steps`` alone, as
    long as ``seconds`` are enough.
    """
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    lives, places, ends = [], [], []
    for b, size in enumerate(packed.sizes):
        first, length = packed.first[b], packed.last[b] - packed.first[b]
        at = model.new_int_var(0, capacity - size, "")
        lives.append(model.new_fixed_size_interval_var(first, length, ""))
        places.append(model.new_fixed_size_interval_var(at, size, ""))
        ends.append((at, at + size))
        model.add_hint(at, min(hint[b], capacity - size))
    model.add_no_overlap_2d(lives, places)
    if least:
        peak = model.new_int_var(bound, capacity, "")
        for _, end in ends:
            model.add(end <= peak)
        model.minimize(peak)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 2
    solver.parameters.interleave_search = True
    solver.parameters.max_time_in_seconds = max(seconds, 0.0)
    solver.parameters.max_deterministic_time = steps * EFFORT
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return Solved(None, capacity + 1)
    if least:
        bound = max(bound, round(solver.best_objective_bound))
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Solved(None, bound)
    return Solved([solver.value(at) for at, _ in ends], bound)
