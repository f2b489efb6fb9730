"""Compare two graphs by running both: do they compute the same?

Both run through the NumPy reference on the same inputs, the original also in float64;
`graphopt.tolerance` states the rule. Symbolic dims take at least two sizes each. Where
an op has no reference the graph is cut: its operands are compared, its results become
free inputs, equal on both sides, and it is named in ``unchecked``. Large models are
compared region by region, between values that both graphs have (`graphopt.regional`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from .cost import peak_memory
from .errors import CheckFailed, GraphoptError, UsageError
from .inputs import STYLES, bindings
from .ir import Graph
from .pairs import with_constants_of
from .reference import OutOfBudget, OutOfTime
from .regional import Outcome, by_regions, seconds_for
from .sides import Setting, Sides, inputs_of, interface_faults
from .tolerance import FLOOR, UNDECIDED, OutputCheck
from .trial import Bounds, run_both

MODES: Final = ("auto", "full", "regions", "off")
SLACK: Final = 4.0
MEMORY: Final = 4 << 30
SECONDS: Final = 60.0
_ATTEMPTS = 24  # settings that are tried until enough of them run
_ENOUGH = 4  # of them, where some symbol still has one size only
_EXTRA, _NOTHING = 2, 0.005  # more seeds, for models that take so many seconds


@dataclass(frozen=True)
class CheckResult:
    """What a check found. ``mode`` is identical, full, regions or off.

    ``unchecked`` names the ops and outputs of which nothing is known; ``sizes`` are
    those that symbolic dims took, and ``notes`` say what else was special.
    """

    mode: str
    outputs: tuple[OutputCheck, ...] = ()
    unchecked: tuple[str, ...] = ()
    sizes: tuple[Mapping[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    slack: float = SLACK
    seed: int = 0
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """True where nothing that was compared differs; see also ``unchecked``."""
        return all(output.passed for output in self.outputs)

    def raise_if_failed(self) -> CheckResult:
        """The result itself. Raises CheckFailed, naming the first output that fails."""
        for output in self.outputs:
            if not output.passed:
                raise CheckFailed(_sentence(output), where=f"output {output.name!r}")
        return self

    def to_json(self) -> dict[str, Any]:
        """The result as plain data; what is not finite becomes None."""
        rows = [asdict(output) for output in self.outputs]
        for row in rows:
            for name, value in row.items():
                if isinstance(value, float) and not math.isfinite(value):
                    row[name] = None
        return {
            "passed": self.passed,
            "mode": self.mode,
            "unchecked": list(self.unchecked),
            "outputs": rows,
            "sizes": [dict(sizes) for sizes in self.sizes],
            "notes": list(self.notes),
            "slack": self.slack,
            "floor": FLOOR,
            "seed": self.seed,
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        if self.mode == "off":
            return "not checked"
        verdict = "passed" if self.passed else "FAILED"
        if not self.outputs:
            verdict = "compared nothing"
        lines = [f"check {verdict} ({self.mode}, {self.seconds:.1f} s)"]
        lines += [f"  {_sentence(output)}" for output in self.outputs]
        lines += [f"  not checked: {name}" for name in self.unchecked]
        for sizes in self.sizes:
            if sizes:
                lines.append(
                    "  with " + ", ".join(f"{k}={v}" for k, v in sizes.items())
                )
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def check(
    before: Graph,
    after: Graph,
    *,
    inputs: Mapping[str, Any] | Sequence[Any] | None = None,
    seed: int = 0,
    mode: str = "auto",
    slack: float = SLACK,
    exact: bool = False,
    limit_bytes: int = MEMORY,
    seconds: float = SECONDS,
) -> CheckResult:
    """Run both graphs and compare their outputs.

    ``inputs`` replace random ones from ``seed``. ``mode``: "full" compares whole runs
    whatever they take, "regions" goes from value to value within ``seconds``, "auto"
    takes the former where it will do, "off" runs nothing. ``exact`` wants equal bits.
    No run may hold more than ``limit_bytes``. Raises UsageError for bad inputs.
    """
    began = time.monotonic()
    if mode not in MODES:
        raise UsageError(f"no check mode {mode!r}; known: {', '.join(MODES)}")
    result = CheckResult(mode, slack=slack, seed=seed)
    if mode == "off":
        lost = tuple(f"output {name}" for name in before.output_names)
        return replace(result, unchecked=lost)
    if faults := interface_faults(before, after):
        wrong = [OutputCheck("interface", False, math.inf, note=f) for f in faults]
        return replace(result, mode="full", outputs=tuple(wrong))
    after = with_constants_of(before, after)
    if mode == "auto" and after.key == before.key:
        same = [
            OutputCheck(name, True, note="the same ops") for name in before.output_names
        ]
        return replace(result, mode="identical", outputs=tuple(same))
    given = None if inputs is None else inputs_of(before, inputs)
    bounds = Bounds(slack, exact, limit_bytes, seed)
    checker = _Checker(Sides(before, after, given), bounds, seconds, mode)
    outcome = checker.outcome()
    return replace(
        result,
        mode=checker.mode,
        outputs=outcome.outputs,
        unchecked=outcome.unchecked,
        sizes=tuple(outcome.sizes),
        notes=tuple(dict.fromkeys(outcome.notes)),
        seconds=time.monotonic() - began,
    )


def _sentence(output: OutputCheck) -> str:
    text = f"{output.name}: "
    if output.note:
        text += f"{output.note}; "
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


class _Checker:
    """One check on its way: chooses settings and mode."""

    def __init__(self, sides: Sides, bounds: Bounds, seconds: float, mode: str) -> None:
        self.sides = sides
        self.bounds = bounds
        self.seconds = seconds
        self.mode = mode

    def outcome(self) -> Outcome:
        if self.mode == "auto":
            self.mode = "regions" if self._too_large() else "full"
            self.bounds = replace(self.bounds, deadline=time.monotonic() + self.seconds)
        elif self.mode == "regions":
            self.bounds = replace(self.bounds, deadline=time.monotonic() + self.seconds)
        bounded = self.bounds.deadline is not None
        if self.mode == "full":
            outcome = self._full()
            if outcome.sizes or outcome.failed or not (outcome.starved and bounded):
                return outcome
            self.mode = "regions"
            later = time.monotonic() + self.seconds / 2
            self.bounds = replace(self.bounds, deadline=later)
        return self._regions()

    # Whole runs

    def _full(self) -> Outcome:
        """Whole runs, at two sizes of every symbol where the model allows it."""
        outcome = self._settings(self.sides)
        if not outcome.sizes and not outcome.failed and self.sides.freed:
            # What an unknown op gives may not be what random numbers pretend.
            outcome = self._settings(self.sides.without_free())
        return outcome

    def _settings(self, sides: Sides) -> Outcome:
        outcome = Outcome(sides.unchecked)
        values: dict[str, set[int]] = {}
        reasons: list[str] = []
        for attempt, sizes in enumerate(self._sizes()):
            settled = outcome.sizes and all(len(v) > 1 for v in values.values())
            if settled or len(outcome.sizes) >= _ENOUGH or attempt >= _ATTEMPTS:
                break
            if any(sizes == done for done in outcome.sizes):
                continue
            try:
                checks = self._best(sides, sizes, self.bounds.seed)
            except OutOfTime:
                outcome.starved = True
                outcome.notes.append("the time was over before more sizes were tried")
                break
            except GraphoptError as error:
                outcome.starved |= isinstance(error, OutOfBudget)
                reasons.append(str(error))
                continue
            outcome.add(checks, sizes)
            for name, size in sizes.items():
                values.setdefault(name, set()).add(size)
            if outcome.failed:
                break
        if not outcome.sizes:
            reason = f": {reasons[0]}" if reasons else ""
            outcome.notes.append(f"found no inputs on which the original runs{reason}")
            outcome.lose(sides.before.output_names)
        self._again(sides, outcome)
        for name, sizes_seen in values.items():
            if (
                len(sizes_seen) == 1
                and not outcome.failed
                and self.sides.inputs is None
            ):
                outcome.notes.append(f"{name} ran only as {next(iter(sizes_seen))}")
        return outcome

    def _again(self, sides: Sides, outcome: Outcome) -> None:
        """More random inputs, for models that cost next to nothing."""
        if not outcome.sizes or sides.inputs is not None:
            return
        if _seconds(sides.before, outcome.sizes[-1]) > _NOTHING:
            return
        for extra in range(1, _EXTRA + 1):
            if outcome.failed:
                return
            try:
                seed = self.bounds.seed + extra
                outcome.record(self._best(sides, outcome.sizes[-1], seed))
            except GraphoptError:
                return

    def _sizes(self) -> Any:
        return [{}] if self.sides.inputs is not None else bindings(self.sides.before)

    def _best(
        self, sides: Sides, sizes: Mapping[str, int], seed: int
    ) -> list[OutputCheck]:
        """One setting; others are tried where too little is finite, or is decided."""
        if sides.inputs is not None:
            return run_both(sides, Setting(sizes, seed), self.bounds)
        best: list[OutputCheck] = []
        for style in STYLES:
            setting = Setting(sizes, seed, style)
            checks = self._decided(sides, setting)
            if not best or _lost(checks) < _lost(best):
                best = checks
            if _lost(best) <= UNDECIDED:
                break
        return best

    def _decided(self, sides: Sides, setting: Setting) -> list[OutputCheck]:
        for again in range(3):
            trial = replace(setting, seed=setting.seed + 1000 * again)
            checks = run_both(sides, trial, self.bounds)
            if not any(check.doubtful for check in checks):
                break
        return checks

    # Regions

    def _too_large(self) -> bool:
        """True where whole runs would take too long, or too much memory."""
        before = self.sides.before
        sizes = next(iter(self._sizes()))
        if self.sides.inputs is not None:
            sizes = self.sides.feed(Setting({})).symbols
        runs = 4 * (2 if sizes else 1)
        if runs * _seconds(before, sizes) > self.seconds:
            return True
        peak = peak_memory(before, sizes)
        return peak is not None and 2 * peak > self.bounds.limit_bytes

    def _regions(self) -> Outcome:
        reasons: list[str] = []
        for sizes in self._sizes():
            outcome = Outcome(self.sides.unchecked)
            try:
                by_regions(
                    self.sides, Setting(sizes, self.bounds.seed), self.bounds, outcome
                )
            except OutOfTime:
                outcome.notes.append(
                    "the time was over before all regions were compared"
                )
            except GraphoptError as error:
                reasons.append(str(error))
                if len(reasons) < _ATTEMPTS:
                    continue
            outcome.lose(self.sides.before.output_names)
            return outcome
        outcome = Outcome(self.sides.unchecked)
        outcome.notes.append(
            f"found no inputs on which the original runs: {reasons[0]}"
        )
        outcome.lose(self.sides.before.output_names)
        return outcome


def _seconds(graph: Graph, sizes: Mapping[str, int]) -> float:
    """About what one run takes."""
    return sum(seconds_for(op, sizes) for op in graph.ops)


def _lost(checks: Sequence[OutputCheck]) -> float:
    """The largest share of an output that is not finite."""
    return max((c.nonfinite / c.size for c in checks if c.size), default=0.0)
