"""Compare two graphs by running both: do they compute the same?

Both run through the NumPy reference on the same inputs, the original also in float64;
`tolerance` states the rule. Symbolic dims take at least two sizes each. Where an op has
no reference the graph is cut (`sides`): its operands are compared, its results become
free inputs, equal on both sides, and it is named in ``unchecked``. Large models are
compared in `regions`, between values that both graphs have.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from ..errors import CheckFailed, UsageError
from ..ir import Graph
from ..unnamed import shown
from .checker import Checker
from .pairs import with_constants_of
from .sides import Sides, inputs_of, interface_faults
from .tolerance import FLOOR, OutputCheck
from .trial import Bounds

MODES: Final = ("auto", "full", "regions", "off")
SLACK: Final = 4.0
MEMORY: Final = 4 << 30
SECONDS: Final = 60.0


@dataclass(frozen=True)
class CheckResult:
    """What a check found. ``mode`` is identical, full, regions or off.

    ``operands`` are those of ops without a reference. ``unchecked`` names the ops and
    outputs of which nothing is known; ``sizes`` are those that symbolic dims took, and
    ``notes`` say what else was special.
    """

    mode: str
    outputs: tuple[OutputCheck, ...] = ()
    operands: tuple[OutputCheck, ...] = ()
    unchecked: tuple[str, ...] = ()
    sizes: tuple[Mapping[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    slack: float = SLACK
    budget: float = 0.0
    seed: int = 0
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """True where nothing that was compared differs; see also ``unchecked``."""
        return all(each.passed for each in (*self.outputs, *self.operands))

    @property
    def lost(self) -> tuple[str, ...]:
        """The members of ``unchecked`` that are outputs: nothing is known of them."""
        return tuple(name for name in self.unchecked if name.startswith("output "))

    def raise_if_failed(self) -> CheckResult:
        """The result itself. Raises CheckFailed, naming the first output that fails."""
        for what, checks in (("output", self.outputs), ("value", self.operands)):
            for each in checks:
                if not each.passed:
                    named = each.name == "interface" or each.name.startswith("op ")
                    where = each.name if named else f"{what} {each.name!r}"
                    raise CheckFailed(_sentence(each), where=where)
        return self

    def to_json(self) -> dict[str, Any]:
        """The result as plain data; what is not finite becomes None."""
        return {
            "passed": self.passed,
            "mode": self.mode,
            "unchecked": list(self.unchecked),
            "outputs": [_row(output) for output in self.outputs],
            "operands": [_row(operand) for operand in self.operands],
            "sizes": [dict(sizes) for sizes in self.sizes],
            "notes": list(self.notes),
            "slack": self.slack,
            "budget": self.budget,
            "floor": FLOOR,
            "seed": self.seed,
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        if self.mode == "off":
            return "not checked"
        verdict = "passed" if self.passed else "FAILED"
        if self.passed and self.unchecked:
            verdict = "passed in part"
        if not (self.outputs or self.operands):
            verdict = "compared nothing"
        lines = [f"check {verdict} ({self.mode}, {self.seconds:.1f} s)"]
        if self.budget:
            lines.append(f"  allowed: {self.budget:.2g} of an output's largest number")
        lines += [f"  {_sentence(output)}" for output in self.outputs]
        failed = [operand for operand in self.operands if not operand.passed]
        lines += [f"  {_sentence(operand)}" for operand in failed]
        if same := len(self.operands) - len(failed):
            lines.append(f"  {same} operands of ops without a reference are the same")
        lines += [f"  not checked: {what}" for what in _grouped(self.unchecked)]
        for sizes in self.sizes:
            if sizes:
                lines.append(
                    "  with " + ", ".join(f"{shown(k)}={v}" for k, v in sizes.items())
                )
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def check(
    before: Graph,
    after: Graph,
    *,
    inputs: Mapping[str, Any] | Sequence[Any] | None = None,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    mode: str = "auto",
    slack: float = SLACK,
    budget: float = 0.0,
    exact: bool = False,
    declared: bool = False,
    limit_bytes: int = MEMORY,
    seconds: float = SECONDS,
    also: Mapping[str, int] | None = None,
) -> CheckResult:
    """Run both graphs and compare their outputs.

    ``inputs`` replace random ones from ``seed``, of which ``sizes`` fix some dims.
    ``mode``: "full" compares whole runs whatever they take, "regions" goes from value
    to value within ``seconds`` of work (waiting is none), "auto" takes the former where
    it will do, "off" runs nothing. ``budget``, a share of each output's largest number,
    is what a lossy result may be off in any case; it is compared as a whole, as its
    parts are not those of the original. ``exact`` wants equal bits, ``declared`` the
    very types that the interface of ``before`` states. No run may hold more than
    ``limit_bytes``. ``also`` are sizes to run at beside those that it chooses. Raises
    UsageError for bad inputs, also for those on which the
    original does not run.
    """
    began = time.monotonic()
    if mode not in MODES:
        raise UsageError(f"no check mode {mode!r}; known: {', '.join(MODES)}")
    result = CheckResult(mode, slack=slack, budget=budget, seed=seed)
    if mode == "off":
        lost = tuple(f"output {name}" for name in before.output_names)
        return replace(result, unchecked=lost)
    if faults := interface_faults(before, after, declared=declared):
        wrong = [OutputCheck("interface", False, math.inf, note=f) for f in faults]
        return replace(result, mode="full", outputs=tuple(wrong))
    after = with_constants_of(before, after)
    if mode == "auto" and after.key == before.key:
        same = [
            OutputCheck(name, True, note="the same ops") for name in before.output_names
        ]
        return replace(result, mode="identical", outputs=tuple(same))
    if budget:
        mode = "full"
    given = None if inputs is None else inputs_of(before, inputs)
    bounds = Bounds(slack, exact, limit_bytes, seed, budget=budget)
    sides = Sides(before, after, given)
    if sides.faults:
        return replace(result, mode="full", outputs=sides.faults)
    checker = Checker(sides, bounds, seconds, mode, sizes or {}, also or {})
    outcome = checker.outcome()
    if given is not None and not (outcome.checks or outcome.starved):
        raise UsageError(f"nothing could be compared: {'; '.join(outcome.notes)}")
    outputs = frozenset(before.output_names)
    return replace(
        result,
        mode=checker.mode,
        outputs=tuple(each for each in outcome.checks if each.name in outputs),
        operands=tuple(each for each in outcome.checks if each.name not in outputs),
        unchecked=outcome.unchecked,
        sizes=tuple(outcome.sizes),
        notes=tuple(dict.fromkeys(outcome.notes)),
        seconds=time.monotonic() - began,
    )


_NAMED: Final = 3
"""Ops of one type that are named; all are counted."""


def _grouped(unchecked: Sequence[str]) -> Iterator[str]:
    """``4 Einsum ('a', 'b', 'c', …)``, each type of op once; outputs one by one."""
    groups: dict[str, list[str]] = {}
    for what in unchecked:
        label, _, name = what.removeprefix("op ").partition(" ")
        groups.setdefault(label if what.startswith("op ") else what, []).append(name)
    for label, names in groups.items():
        if label in unchecked:
            yield label
            continue
        named = [name for name in names if name]
        shown = ", ".join([*named[:_NAMED], *["…"] * (len(named) > _NAMED)])
        yield f"{len(names)} {label} ({shown})" if named else f"{len(names)} {label}"


def _row(check: OutputCheck) -> dict[str, Any]:
    """A check as plain data; what is not finite becomes None."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(check).items()
    }


def _sentence(output: OutputCheck) -> str:
    text = f"{output.name}: "
    if output.note:
        text += f"{output.note}; "
    if not output.size and (output.passed or not math.isfinite(output.max_error)):
        return text.removesuffix("; ") if output.note else f"{output.name}: is empty"
    text += (
        f"error {output.max_error:.3g}, before {output.error_before:.3g},"
        f" allowed {output.tolerance:.3g}"
    )
    for count, what in (
        (output.undecided, "undecided"),
        (output.nonfinite, "not finite"),
    ):
        if count:
            text += f", {count} of {output.size} {what}"
    return text
