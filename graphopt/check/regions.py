"""Compare two large graphs region by region, between values that both of them have.

A region that is built of the same ops on both sides is equal and need not run twice;
where a value of one name turns out to differ, it was no good cut, and the region grows:
only outputs are judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .. import dims
from ..cost import op_flops
from ..errors import GraphoptError
from ..ir import Op
from ..ops.constant import Constant
from ..ops.structured import Elementwise, Structured
from ..reference import schedule
from .pairs import Cut, cuts, respelled, same_values
from .sides import Fed, Setting, Sides, Target
from .tolerance import OutputCheck
from .trial import Bounds, compare_targets

Array = Any
REGIONS: Final = 48
"""About how many regions there are."""

_FLOPS_A_SECOND = 5e9
_ELEMENTS_A_SECOND = 2e8
_SECONDS_AN_OP = 3e-5


@dataclass
class Outcome:
    """What has been found so far."""

    barred: Sequence[str] = ()
    found: dict[str, OutputCheck] = field(default_factory=dict)
    sizes: list[Mapping[str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lost: dict[str, None] = field(default_factory=dict)
    starved: bool = False

    def add(self, checks: Iterable[OutputCheck], sizes: Mapping[str, int]) -> None:
        """Take in what one setting showed."""
        self.record(checks)
        self.sizes.append(dict(sizes))

    def record(self, checks: Iterable[OutputCheck]) -> None:
        """Keep the worst of each output."""
        for check in checks:
            old = self.found.get(check.name)
            self.found[check.name] = check if old is None else old.worst(check)

    def lose(self, names: Iterable[str]) -> None:
        """Call those outputs unchecked that have not been compared."""
        missing = [f"output {name}" for name in names if name not in self.found]
        self.lost |= dict.fromkeys(missing)

    @property
    def failed(self) -> bool:
        return any(not check.passed for check in self.found.values())

    @property
    def checks(self) -> tuple[OutputCheck, ...]:
        return tuple(self.found.values())

    @property
    def unchecked(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.barred, *self.lost]))


def by_regions(
    sides: Sides, setting: Setting, bounds: Bounds, outcome: Outcome
) -> None:
    """Compare region after region; ``outcome`` has all that was compared.

    Raises OutOfTime, and what the original raises.
    """
    fed = sides.feed(setting)
    targets = sides.targets
    order = schedule([t.before for t in targets], fed.before)
    pairs = same_values(sides.before, sides.after)
    costs = [seconds_for(op, fed.symbols) for op in order]
    places = [*cuts(order, pairs, costs, REGIONS), Cut(len(order), ())]
    made_at = {value: i for i, op in enumerate(order) for value in op.results}
    here, start, suspect, run = fed, -1, "", 0
    for place in places:
        inner = [
            t for t in targets if start <= made_at.get(t.before, -1) < place.position
        ]
        across = [
            Target(sides.before.names.get(v, "a value"), v, pairs[v], is_output=False)
            for v in place.crossing
            if v not in here.before
        ]
        kept = [v for v in place.crossing if v in here.before]
        wanted = [*inner, *across]
        ours = [target.before for target in wanted]
        natives = bounds.evaluator(fed.symbols).run(ours, here.before)
        checks = _same(wanted, here)
        if checks is None:
            run += 1
            checks = compare_targets(wanted, here, bounds, natives)
        judged = checks[: len(inner)]
        wrong = [check for check in checks[len(inner) :] if not check.passed]
        if any(not check.passed for check in judged) or not wrong:
            outcome.record(judged)
        if outcome.failed:
            break
        if wrong:
            suspect = suspect or wrong[0].name
            continue
        values = dict(zip(across, natives[len(inner) :], strict=True))
        known = {t.before: array for t, array in values.items()}
        known |= {v: here.before[v] for v in kept}
        here = Fed(
            fed.before | known,
            fed.after | {pairs[v]: array for v, array in known.items()},
            fed.same | {pairs[v]: v for v in known},
            fed.symbols,
        )
        start, suspect = place.position, ""
    outcome.sizes.append(dict(setting.sizes))
    outcome.notes.append(f"{len(places)} regions, {run} of other ops than before")
    if outcome.failed and suspect:
        outcome.notes.append(f"the first value that differs is {suspect}")


def _same(wanted: Sequence[Target], fed: Fed) -> list[OutputCheck] | None:
    """All passed, where both sides build the values of the same ops on what is fed."""
    if [t.before for t in wanted] != respelled([t.after for t in wanted], fed.same):
        return None
    return [OutputCheck(target.name, True, note="the same ops") for target in wanted]


def seconds_for(op: Op, sizes: Mapping[str, int]) -> float:
    """About what the reference takes for an op, one thread; unknown dims count as 1."""
    if isinstance(op, Constant):
        return 0.0
    elements = 0
    for value in op.results:
        count = 1
        for dim in value.shape or ():
            size = dims.substitute(dim, sizes)
            count *= size if isinstance(size, int) else 1
        elements += count
    seconds = _SECONDS_AN_OP + elements / _ELEMENTS_A_SECOND
    if isinstance(op, Elementwise) or (isinstance(op, Structured) and not op.flops):
        return seconds
    try:
        flops = dims.substitute(op_flops(op), sizes)
    except GraphoptError:
        flops = None
    return seconds + (flops / _FLOPS_A_SECOND if isinstance(flops, int) else 0.0)
