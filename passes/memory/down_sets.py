"""Search over down-sets: sets of tasks that hold with each task all that it needs.

What is live depends on the set of tasks that ran, not on their order, so orders that
ran the same set are one state (Ahn et al., SERENITY, MLSys 2020). States are visited by
size, under a budget that no step may exceed. Two rules thin them out:

- A task that fits into the budget and leaves no more live than it found is run at once.
- So is a task whose followers, run at once by the first rule, bring it down to that.

Both move tasks up in an order that is within the budget, or in any. Let ``live(S)`` be
what is live after the tasks of S, and X be what is run at once after S. For each buffer
``live`` counts whether its maker is in S, less whether maker and readers all are, so it
is submodular: for each larger S', ``live(S' + X) - live(S')`` is at most
``live(S + X) - live(S + the part of X in S')``, and that is not positive, as nothing in
X leads to less than X. That holds of followers too: each part of X that
is a down-set has the task they follow. So all steps of others hold at most what they
held, and in place they save no less, as more dies at them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .states import State, States


@dataclass
class Meter:
    """How much may be looked at: steps that are costed, and a time to stop at."""

    steps: int
    deadline: float = float("inf")
    spent: int = 0
    late: bool = field(default=False, init=False)

    def spend(self, steps: int) -> bool:
        """Take steps; false if they, or the time, have run out."""
        self.spent += steps
        if not self.late and time.monotonic() > self.deadline:
            self.late = True
        return not self.late and self.spent <= self.steps

    def share(self, steps: int) -> Meter:
        """A meter for a part of what is left."""
        return Meter(max(0, min(steps, self.steps - self.spent)), self.deadline)


@dataclass(frozen=True)
class Found:
    """What a search found: an order within the budget, or None.

    If ``complete`` there is none, and any order has a step of at least ``over`` bytes.
    """

    order: tuple[int, ...] | None
    complete: bool = False
    over: int = 0


def search(space: States, budget: int, width: int, meter: Meter) -> Found:
    """Look for an order none of whose steps is over the budget.

    Of the states of one size the ``width`` that have least live are followed; if there
    were never more, the search is complete.
    """
    everything = (1 << len(space.runs)) - 1
    ready = sum(1 << i for i, wants in enumerate(space.before) if not wants)
    path: list[int] = []
    start = space.settle((0, space.given, ready), ready, budget, path)
    came = {start[0]: (start[0], path)}
    if start[0] == everything:
        return Found(tuple(space.order(came, everything)))
    layers: list[list[State]] = [[] for _ in range(len(space.runs) + 1)]
    layers[start[0].bit_count()].append(start)
    complete, over = True, 0
    for size, states in enumerate(layers):
        if len(states) > width:
            states.sort(key=lambda state: state[1])
            del states[width:]
            complete = False
        for state in states:
            children, least = _children(space, state, budget)
            costed = state[2].bit_count() + sum(len(path) for _, path in children)
            if not meter.spend(costed * space.weight):
                return Found(None)
            over = min(over or least, least or over)
            for child, path in children:
                if child[0] in came:
                    continue
                came[child[0]] = state[0], path
                if child[0] == everything:
                    return Found(tuple(space.order(came, everything)))
                layers[child[0].bit_count()].append(child)
        layers[size] = []
    return Found(None, complete, over)


def _children(
    space: States, state: State, budget: int
) -> tuple[list[tuple[State, list[int]]], int]:
    """The states after one more run, settled; and the least step over the budget, or 0.

    Where a run with its followers leaves no more live, it alone.
    """
    done, live, ready = state
    children = []
    over = 0
    rest = ready
    while rest:
        bit = rest & -rest
        rest ^= bit
        run = bit.bit_length() - 1
        most, left = space.cost(done, live, run)
        if most > budget:
            over = min(over or most, most)
            continue
        path = [run]
        then, able = space.after(done, ready, run)
        child = space.settle((then, left, able), able & space.near[run], budget, path)
        children.append((child, path))
        if child[1] <= live and not child[0] & ~(then | space.below[run]):
            return children[-1:], over
    return children, over
