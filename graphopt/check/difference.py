"""Where two graphs part: the first value of one name that does not compute the same.

All three runs (the original natively and in float64, the other natively) go in step,
and a value is dropped once it was compared and read: memory stays that of the runs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ..errors import GraphoptError
from ..inputs import bindings
from ..ir import Graph, Op, Value
from ..reference import OutOfBudget, schedule
from . import MEMORY, SLACK
from .pairs import same_values, with_constants_of
from .sides import Fed, Setting, Sides, inputs_of
from .tolerance import OutputCheck, Runs, compare, units
from .trial import Bounds, reconsidered, truth

Array = Any


@dataclass(frozen=True)
class Difference:
    """The first value that differs, the ops that compute it, and by how much."""

    name: str
    before: Op | None
    after: Op | None
    found: OutputCheck


def first_difference(
    before: Graph,
    after: Graph,
    *,
    inputs: Mapping[str, Any] | Sequence[Any] | None = None,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    slack: float = SLACK,
    limit_bytes: int = MEMORY,
) -> Difference | None:
    """The first value, in the order of ``before``, that differs; None where none does.

    Values are matched by name, outputs too. Errors add up along the graph on both
    sides, and are held against the rule of `graphopt.check.tolerance`. Raises what the
    original raises where no inputs make it run.
    """
    after = with_constants_of(before, after)
    given = None if inputs is None else inputs_of(before, inputs)
    bounds = Bounds(slack, False, limit_bytes, seed)
    failure: GraphoptError | None = None
    for sides in Sides(before, after, given).ways():
        for tried in [{}] if given is not None else bindings(before, sizes or {}):
            try:
                return _first(sides, sides.feed(Setting(tried, seed)), bounds)
            except OutOfBudget:
                raise
            except GraphoptError as error:
                failure = failure or error
    assert failure is not None
    raise failure


def _first(sides: Sides, fed: Fed, bounds: Bounds) -> Difference | None:
    pairs = same_values(sides.before, sides.after)
    names = {v: sides.before.names.get(v) or _by_kind(v) for v in pairs}
    for target in sides.targets:
        pairs[target.before] = target.after
        names[target.before] = target.name
    ours = [target.before for target in sides.targets]
    theirs = [target.after for target in sides.targets]
    order = schedule(ours, fed.before)
    rounding = units(order, pairs)
    exactly = bounds.evaluator(fed.symbols, precision="float64")
    wide = {value: exactly.adopt(array) for value, array in fed.before.items()}
    native = bounds.evaluator(fed.symbols).steps(ours, fed.before)
    other = _Ahead(bounds.evaluator(fed.symbols).steps(theirs, fed.after), fed.after)
    other.waiting.update(pairs.values())
    given = ((v, fed.before[v], wide[v]) for v in pairs if v in fed.before)
    made = ((v, x, y) for (v, x), (_, y) in zip(native, exactly.steps(ours, wide)))  # noqa: B905
    for value, array, true in chain(given, made):
        if value not in pairs or value.constant is not None:
            continue
        partner = pairs[value]
        try:
            result = other.reach(partner)
        except GraphoptError as error:
            note = f"the other graph cannot run: {error}"
            check = OutputCheck(names[value], False, math.inf, note=note)
            return Difference(names[value], value.op, partner.op, check)
        if result is None:
            continue  # no output of the other graph needs it
        runs = Runs(true, array, result, unit=rounding[value])
        check = compare(names[value], runs, bounds.slack)
        if not check.passed:
            (check,) = reconsidered(
                [check],
                [runs],
                bounds.slack,
                lambda noise, v=value: truth([v], fed, bounds, noise),  # type: ignore[misc]
            )
        if not check.passed:
            return Difference(names[value], value.op, partner.op, check)
    return None


def _by_kind(value: Value) -> str:
    return "a value" if value.op is None else f"a result of {value.op.kind}"


class _Ahead:
    """The other run, as far as it had to go; keeps what has yet to be compared."""

    def __init__(
        self, steps: Iterator[tuple[Value, Array]], fed: Mapping[Value, Array]
    ) -> None:
        self.steps = steps
        self.fed = fed
        self.waiting: Counter[Value] = Counter()
        self.kept: dict[Value, Array] = {}

    def reach(self, value: Value) -> Array | None:
        """The value; None where this run does not compute it."""
        while value not in self.kept and value not in self.fed:
            step = next(self.steps, None)
            if step is None:
                return None
            made, array = step
            if self.waiting[made]:
                self.kept[made] = array
        self.waiting[value] -= 1
        if value in self.fed:
            return self.fed[value]
        return self.kept[value] if self.waiting[value] else self.kept.pop(value)
