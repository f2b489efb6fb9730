"""Choose how a check goes: whole runs or regions, which sizes, which random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice

from ..cost import peak_memory
from ..errors import GraphoptError
from ..inputs import STYLES, WIDE_STYLES, Sizes, alone, bindings, neighbours
from ..ir import Graph
from ..reference import OutOfBudget, OutOfTime, clock
from ..unnamed import shown
from .regions import Outcome, by_regions, seconds_for
from .sides import Setting, Sides, fixed_dims
from .tolerance import UNDECIDED, OutputCheck
from .trial import Bounds, run_both

_ATTEMPTS = 24  # settings that are tried until enough of them run
_GUESSES = 3  # of them, where types are guessed
_ENOUGH = 4  # of them, where some symbol still has one size only
_EXTRA, _NOTHING = 2, 0.005  # more seeds, for models that take so many seconds
_SEEDS = 3  # seeds that are tried where too little is decided


class Checker:
    """One check on its way. ``mode`` is what it settles for: full or regions.

    ``fixed`` are the sizes of some dims; at those of ``also`` it is run once more.
    """

    def __init__(
        self,
        sides: Sides,
        bounds: Bounds,
        seconds: float,
        mode: str,
        fixed: Mapping[str, int],
        also: Mapping[str, int],
    ) -> None:
        self.sides = sides
        self.bounds = bounds
        self.seconds = seconds
        self.mode = mode
        self.fixed = fixed
        self.also = also

    def outcome(self) -> Outcome:
        """Everything that is found."""
        if self.mode == "full":
            return self._full()
        self.bounds = self._within(self.seconds)
        if self.mode == "auto":
            self.mode = "regions" if self._too_large() else "full"
        if self.mode == "full":
            outcome = self._full()
            if outcome.sizes or outcome.failed or not outcome.starved:
                return outcome
            self.mode = "regions"
            self.bounds = replace(self.bounds, deadline=None)
            self.bounds = self._within(self.seconds / 2)
        return self._regions()

    def _within(self, seconds: float) -> Bounds:
        """The bounds with a deadline in so many seconds, if not earlier."""
        deadline = clock() + seconds
        return replace(
            self.bounds, deadline=min(deadline, self.bounds.deadline or deadline)
        )

    # Whole runs

    def _full(self) -> Outcome:
        """Whole runs, at two sizes of every symbol where the model allows it."""
        for sides in self.sides.ways():
            outcome = self._settings(sides)
            if outcome.sizes or outcome.failed:
                break
            # What an unknown op gives may not be what random numbers pretend.
        return outcome

    def _settings(self, sides: Sides) -> Outcome:
        outcome = Outcome(sides.unchecked)
        values: dict[str, set[int]] = {}
        reasons: list[str] = []
        candidates = _Candidates(self._sizes())
        for attempt, sizes in enumerate(candidates):
            settled = outcome.sizes and all(len(v) > 1 for v in values.values())
            if settled or len(outcome.sizes) >= _ENOUGH or attempt >= _attempts(sides):
                break
            if any(sizes == done for done in outcome.sizes):
                continue
            if attempt > 1 and 4 * _seconds(sides.before, sizes) > self.seconds:
                continue
            try:
                wide = outcome.sizes and not self.bounds.budget
                styles = WIDE_STYLES if wide else STYLES
                setting = Setting(sizes, self.bounds.seed)
                checks = self._best(sides, setting, styles, self._share())
            except GraphoptError as error:
                outcome.starved |= isinstance(error, OutOfBudget | OutOfTime)
                reasons.append(str(error))
                candidates.fails()
                if self._over():
                    outcome.notes.append("the time was over before more was tried")
                    break
                continue
            outcome.add(checks, sizes)
            for name in sizes.keys() - self.fixed.keys():
                values.setdefault(name, set()).add(sizes[name])
            single = [name for name, seen in values.items() if len(seen) == 1]
            candidates.runs(self._near(sizes, single))
            if outcome.failed:
                break
        if not outcome.sizes:
            outcome.notes.append(self._nothing_ran(reasons))
        outcome.record(sides.proven)
        outcome.lose(sides.before.output_names)
        self._once_more(
            outcome, lambda s: outcome.add(run_both(sides, s, self._share()), s.sizes)
        )
        self._again(sides, outcome)
        self._overridden(sides, outcome)
        for name, sizes_seen in values.items():
            if (
                len(sizes_seen) == 1
                and not outcome.failed
                and self.sides.inputs is None
            ):
                outcome.notes.append(
                    f"{shown(name)} ran only as {next(iter(sizes_seen))}"
                )
        return outcome

    def _near(self, sizes: Sizes, names: Sequence[str]) -> Iterator[Sizes]:
        """Sizes like these in which some of the names have another."""
        like = self.sides.before, dict(sizes), self.fixed
        for near in chain(neighbours(*like), alone(*like)):
            if any(near[name] != sizes[name] for name in names):
                yield near

    def _once_more(self, outcome: Outcome, run: Callable[[Setting], None]) -> None:
        """At the sizes that were asked for beside."""
        given = self.sides.inputs is not None
        if not self.also or given or not outcome.sizes or outcome.failed:
            return
        fixed = {**self.also, **self.fixed}
        reasons = []
        for sizes in islice(bindings(self.sides.before, fixed), _GUESSES):
            if sizes in outcome.sizes:
                return
            try:
                return run(Setting(sizes, self.bounds.seed))
            except GraphoptError as error:
                reasons.append(str(error))
        said = ", ".join(f"{name} = {size}" for name, size in self.also.items())
        why = f": {reasons[0]}" if reasons else ""
        outcome.notes.append(f"not run with {said}, where tiles are several{why}")

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
                setting = Setting(outcome.sizes[-1], self.bounds.seed + extra)
                wide = extra % 2 and not self.bounds.budget  # stated for usual inputs
                styles = WIDE_STYLES if wide else STYLES
                checks = self._best(sides, setting, styles, self._within(2))
                outcome.record(checks)
            except GraphoptError:
                return

    def _nothing_ran(self, reasons: Sequence[str]) -> str:
        """Why nothing was compared."""
        fixed = fixed_dims(self.sides.before, self.sides.after)
        if self.sides.inputs is None and fixed.items() - self.fixed.items():
            words = " ".join(f"--dim {name}={size}" for name, size in fixed.items())
            return (
                "the result has numbers where the original has symbols; compare them at"
                f" these sizes: {words} (sizes={fixed})"
            )
        reason = f": {reasons[0]}" if reasons else ""
        return f"found no inputs on which the original runs{reason}"

    def _overridden(self, sides: Sides, outcome: Outcome) -> None:
        """Initializers that callers may override are no constants."""
        if not any(p.default is not None for p in sides.before.inputs):
            return
        if not outcome.sizes or outcome.failed:
            return
        setting = Setting(outcome.sizes[-1], self.bounds.seed, overrides=True)
        try:
            outcome.record(run_both(sides, setting, self._share()))
        except GraphoptError as error:
            outcome.notes.append(f"not run with overridden initializers: {error}")

    def _sizes(self) -> Iterable[Sizes]:
        return (
            [{}]
            if self.sides.inputs is not None
            else bindings(self.sides.before, self.fixed)
        )

    def _share(self) -> Bounds:
        """What one setting may take: random inputs may send a loop round forever."""
        return self._within(
            self.seconds * (10 if self.bounds.deadline is None else 1 / 3)
        )

    def _over(self) -> bool:
        deadline = self.bounds.deadline
        return deadline is not None and clock() > deadline

    def _best(
        self, sides: Sides, setting: Setting, styles: Sequence[str], bounds: Bounds
    ) -> list[OutputCheck]:
        """In one style; in others where too little is finite, or is decided."""
        if sides.inputs is not None:
            return run_both(sides, setting, bounds)
        best: list[OutputCheck] = []
        for style in styles:
            checks = _decided(sides, replace(setting, style=style), bounds)
            if not best or _lost(checks) < _lost(best):
                best = checks
            if _lost(best) <= UNDECIDED:
                break
        return best

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
        return isinstance(peak, int) and 2 * peak > self.bounds.limit_bytes

    def _regions(self) -> Outcome:
        reasons: list[str] = []
        for sides in self.sides.ways():
            outcome = Outcome(sides.unchecked)
            for sizes in islice(self._sizes(), _attempts(sides)):
                setting, began = Setting(sizes, self.bounds.seed), clock()
                try:
                    by_regions(sides, setting, self.bounds, outcome)
                except OutOfTime:
                    outcome.starved = True
                    outcome.notes.append(
                        "the time was over before all regions were compared"
                    )
                    break
                except GraphoptError as error:
                    outcome.starved |= isinstance(error, OutOfBudget)
                    reasons.append(str(error))
                    continue
                took = clock() - began
                settled = not sizes or outcome.failed or len(outcome.sizes) > 1
                if settled or not self._left(1.5 * took):
                    break
            if outcome.sizes or outcome.notes:
                break
        else:
            outcome.notes.append(self._nothing_ran(reasons))
        self._once_more(outcome, lambda s: by_regions(sides, s, self.bounds, outcome))
        outcome.record(sides.proven)
        outcome.lose(sides.before.output_names)
        return outcome

    def _left(self, seconds: float) -> bool:
        """True where so much time is left."""
        deadline = self.bounds.deadline
        return deadline is None or clock() + seconds < deadline


class _Candidates:
    """Sizes to try: where most fail, those near the ones on which the model runs."""

    def __init__(self, sizes: Iterable[Sizes]) -> None:
        self._far = iter(sizes)
        self._near: Iterator[Sizes] = iter(())
        self._failed = False

    def runs(self, near: Iterable[Sizes]) -> None:
        """The last one did; ``near`` are like it."""
        self._near, self._failed = iter(near), False

    def fails(self) -> None:
        """The last one did not."""
        self._failed = True

    def __iter__(self) -> Iterator[Sizes]:
        while True:
            sizes = next(self._near, None) if self._failed else None
            sizes = next(self._far, None) if sizes is None else sizes
            if sizes is None:
                return
            yield sizes


def _attempts(sides: Sides) -> int:
    """A guess of types that is wrong once is mostly wrong for all sizes."""
    return _GUESSES if sides.free == "guessed" else _ATTEMPTS


def _decided(sides: Sides, setting: Setting, bounds: Bounds) -> list[OutputCheck]:
    for again in range(_SEEDS):
        trial = replace(setting, seed=setting.seed + 1000 * again)
        checks = run_both(sides, trial, bounds)
        if not any(check.doubtful for check in checks):
            break
    return checks


def _seconds(graph: Graph, sizes: Mapping[str, int]) -> float:
    """About what one run takes."""
    return sum(seconds_for(op, sizes) for op in graph.ops)


def _lost(checks: Sequence[OutputCheck]) -> float:
    """The largest share of an output that is not finite."""
    return max((c.nonfinite / c.size for c in checks if c.size), default=0.0)
