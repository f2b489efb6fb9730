"""Orders of tasks that hold few bytes at once: the best of many, improved by search."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, TypeAlias

from .bounds import cuts, lower_bound, own_bound, relations
from .down_sets import Meter
from .orders import RANKS, greedy, reverse_depth_first
from .parts import Part
from .tasks import Order, Tasks, check_order, part, walk

Proof: TypeAlias = Literal["optimal", "bound", "none"]
"""That no order is better; else whether the bound is of more than single steps."""

STEPS: Final = 1_000_000
"""Steps that a search may cost, unless it is told; some seconds' worth."""

LARGEST: Final = 20_000
"""Tasks of which all pairs are compared; of more, orders found at once are all."""


@dataclass(frozen=True)
class Schedule:
    """An order, the bytes of its highest step, and bytes that no order stays below.

    ``method`` is what found the part of the order in which the peak is.
    """

    order: tuple[int, ...]
    peak: int
    lower_bound: int
    proof: Proof
    method: str


def schedule(
    tasks: Tasks,
    *,
    seconds: float = 60.0,
    steps: int = STEPS,
    baselines: Sequence[Order] = (),
) -> Schedule:
    """An order of low peak, no worse than any known one.

    Those are the ``baselines``, the file's, ONNX Runtime's and greedy ones. What comes
    out is decided by ``steps``; only where ``seconds`` run out first it depends on the
    machine. Raises ValueError if a baseline is no order of the tasks.
    """
    meter = Meter(steps, time.monotonic() + seconds)
    orders = _orders(tasks, baselines)
    if len(tasks.tasks) > LARGEST:
        return _best(tasks, orders)
    known = relations(tasks.before, tasks.file_order)
    floor = lower_bound(tasks, known)
    joined = _joined(tasks, orders, cuts(known, tasks.file_order))
    while joined and meter.spend(0):
        highest = max(joined, key=lambda each: each.part.peak).part
        if highest.peak <= floor:
            break
        highest.improve(floor, meter)
        floor = max(floor, highest.bound)
    method, most = "", 0
    for each in joined:
        if each.part.peak > most:
            method, most = each.part.method, each.part.peak
    order = tuple(each.members[i] for each in joined for i in each.part.order)
    return Schedule(order, most, floor, "optimal" if most == floor else "bound", method)


@dataclass(frozen=True)
class _Joint:
    """The tasks between two cuts of an order, and the part that they are."""

    members: tuple[int, ...]
    part: Part


def _joined(
    tasks: Tasks, orders: Mapping[str, tuple[int, ...]], places: Sequence[int]
) -> list[_Joint]:
    """The parts between cuts, each in the best of the orders for it."""
    walks = {name: list(walk(tasks, order)) for name, order in orders.items()}
    whole: list[int] = []
    chosen = []
    for start, stop in pairwise(places):
        peaks = {
            name: max(at_step for at_step, _ in steps[start:stop])
            for name, steps in walks.items()
        }
        name = min(peaks, key=lambda each: peaks[each])
        chosen.append(name)
        whole += orders[name][start:stop]
    lives = [tasks.given, *(live for _, live in next(iter(walks.values())))]
    found = []
    for name, (start, stop) in zip(chosen, pairwise(places), strict=True):
        inner = part(tasks, whole, start, stop, lives[start])
        found.append(
            _Joint(
                tuple(whole[start:stop]),
                Part(inner, tuple(range(stop - start)), 0, name),
            )
        )
    return found


def _orders(tasks: Tasks, baselines: Sequence[Order]) -> dict[str, tuple[int, ...]]:
    orders = {
        "file order": tasks.file_order,
        "ONNX Runtime's order": reverse_depth_first(tasks),
    }
    for i, order in enumerate(baselines):
        check_order(tasks, order)
        orders[f"baseline {i}"] = tuple(order)
    for name, rank in RANKS.items():
        orders[f"greedy: {name}"] = greedy(tasks, rank)
    return orders


def _best(tasks: Tasks, orders: Mapping[str, tuple[int, ...]]) -> Schedule:
    """The best of the orders, with what each step alone must hold."""
    peaks = {
        name: max(at_step for at_step, _ in walk(tasks, order))
        for name, order in orders.items()
    }
    name = min(peaks, key=lambda each: peaks[each])
    bound = own_bound(tasks)
    proof: Proof = "optimal" if peaks[name] == bound else "none"
    return Schedule(orders[name], peaks[name], bound, proof, name)
