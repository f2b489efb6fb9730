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

STEPS: Final = 3_000_000
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
    if not tasks.tasks:
        return Schedule((), 0, 0, "optimal", "nothing to order")
    orders = _orders(tasks, baselines)
    if len(tasks.tasks) > LARGEST:
        return _best(tasks, orders)
    known = relations(tasks.before, tasks.file_order)
    floor = lower_bound(tasks, known)
    order, lives, stretches = _joined(tasks, orders, cuts(known, tasks.file_order))
    while meter.spend(0):
        highest = max(stretches, key=lambda each: each.peak)
        if highest.peak <= floor:
            break
        highest.improve(tasks, order, lives, floor, meter)
        floor = max(floor, highest.bound)
    highest = max(stretches, key=lambda each: each.peak)
    return Schedule(
        tuple(order),
        highest.peak,
        floor,
        "optimal" if highest.peak == floor else "bound",
        highest.method,
    )


@dataclass
class _Stretch:
    """What lies between two cuts: a part of its own, once it is to be improved."""

    start: int
    stop: int
    peak: int
    method: str
    bound: int = 0
    part: Part | None = None
    members: tuple[int, ...] = ()

    def improve(
        self,
        tasks: Tasks,
        order: list[int],
        lives: Sequence[int],
        floor: int,
        meter: Meter,
    ) -> None:
        """Search once more, and put what was found into the order."""
        here = slice(self.start, self.stop)
        if self.part is None:
            self.members = tuple(order[here])
            inner = part(tasks, order, self.start, self.stop, lives[self.start])
            self.part = Part(inner, inner.file_order, 0, self.method)
        self.part.improve(floor, meter)
        order[here] = [self.members[i] for i in self.part.order]
        self.peak, self.bound = self.part.peak, self.part.bound
        self.method = self.part.method


def _joined(
    tasks: Tasks, orders: Mapping[str, tuple[int, ...]], places: Sequence[int]
) -> tuple[list[int], list[int], list[_Stretch]]:
    """The order that is between any two cuts the best of those for it.

    And the bytes that are live before each step, which are those of all orders at cuts.
    """
    walks = {name: list(walk(tasks, order)) for name, order in orders.items()}
    whole: list[int] = []
    stretches = []
    for start, stop in pairwise(places):
        peaks = {
            name: max(at_step for at_step, _ in steps[start:stop])
            for name, steps in walks.items()
        }
        name = min(peaks, key=lambda each: peaks[each])
        whole += orders[name][start:stop]
        stretches.append(_Stretch(start, stop, peaks[name], name))
    lives = [tasks.given, *(live for _, live in next(iter(walks.values())))]
    return whole, lives, stretches


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
