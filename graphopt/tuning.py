"""Search for the pipeline whose result is fastest, by measuring it.

The search is greedy: it starts from the default pipeline, changes one decision, and
keeps the change where the target then takes less time. What it finds is no optimum, but
each step was measured; at last it is held against the original.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from .pipeline import Pipeline
from .report import table

if TYPE_CHECKING:
    from .bench import Clock, Ratio

Settings: TypeAlias = Mapping[str, str]
"""What was decided, by the name of the pass that it is about."""


@dataclass(frozen=True)
class Tune:
    """How to search. ``sizes`` are those of symbolic dims, measured one after another.

    What they leave out has usual sizes (`graphopt.inputs.usual`), or the first ones on
    which the model runs. ``steps`` bounds the candidates that are measured, ``rounds``
    are the runs of each; ``seconds`` only stops early, between two candidates. Times
    are of the CPU on one of its ``threads``, and else on the clock (0 threads: all).
    """

    sizes: Sequence[Mapping[str, int]] = ()
    seconds: float | None = None
    steps: int = 40
    rounds: int = 30
    threads: int | None = None
    progress: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Measured:
    """What something takes, something else being 1: over all sizes, and at each."""

    whole: Ratio
    each: tuple[Ratio, ...] = ()

    @property
    def faster(self) -> bool:
        """True where it is surely faster over all, and nowhere surely slower."""
        return self.whole.high < 1 and all(ratio.low <= 1 for ratio in self.each)

    @property
    def slower(self) -> bool:
        """True where it is surely slower, over all or at one of the sizes."""
        return any(ratio.low > 1 for ratio in (self.whole, *self.each))

    def to_json(self) -> dict[str, Any]:
        """The members of a JSON object."""
        return {**vars(self.whole), "each": [vars(ratio) for ratio in self.each]}


@dataclass(frozen=True)
class Tried:
    """One change of what was best then, and what became of it.

    ``note`` says why it was not measured.
    """

    changed: Settings
    what: str
    measured: Measured | None = None
    kept: bool = False
    note: str = ""


@dataclass(frozen=True)
class Tuning:
    """What was tried, what was kept, and on what it was measured.

    ``settings`` are those that differ from the default ones. Where ``original`` is
    true, the result was slower than the original, and given up.
    """

    target: str
    threads: int
    clock: Clock
    rounds: int
    sizes: tuple[Mapping[str, int], ...]
    defaulted: tuple[str, ...]
    tried: tuple[Tried, ...]
    settings: Settings
    against: Measured | None
    original: bool
    stopped: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The member ``tuning`` of the report."""
        return {
            "target": self.target,
            "threads": self.threads,
            "clock": self.clock.lower(),
            "rounds": self.rounds,
            "sizes": [dict(sizes) for sizes in self.sizes],
            "default_sizes": list(self.defaulted),
            "tried": [
                {
                    "what": each.what,
                    "changed": dict(each.changed),
                    "ratio": None if each.measured is None else each.measured.to_json(),
                    "kept": each.kept,
                    "note": each.note,
                }
                for each in self.tried
            ],
            "settings": dict(self.settings),
            "to_original": None if self.against is None else self.against.to_json(),
            "kept": "original" if self.original else "result",
            "verdict": self.verdict,
            "stopped": self.stopped or None,
            "seconds": round(self.seconds, 3),
        }

    def lines(self) -> Iterator[str]:
        """The table that people read."""
        who = "1 thread" if self.threads == 1 else f"{self.threads or 'all'} threads"
        sizes = "; ".join(
            ", ".join(f"{name}={size}" for name, size in each.items())
            for each in self.sizes
            if each
        )
        on = f" at {sizes}" if sizes else ""
        yield f"tuned on {self.target}, {who}, {self.rounds} rounds{on}"
        if self.defaulted:
            names = ", ".join(self.defaulted)
            yield f"  where nobody chose {names}: at other sizes, others may win"
        measured = [each for each in self.tried if each.measured is not None]
        rows = [("tried", f"{self.clock} ratio", "95 % interval", "")]
        for each in measured:
            assert each.measured is not None
            ratio = each.measured.whole
            interval = f"[{ratio.low:.3f}, {ratio.high:.3f}]"
            kept = "kept" if each.kept else ""
            rows.append((each.what, f"{ratio.median:.3f}", interval, kept))
        if measured:
            yield from table(rows)
        notes: dict[str, list[str]] = {}
        for each in self.tried:
            if each.measured is None:
                notes.setdefault(each.note, []).append(each.what)
        for note, which in notes.items():
            yield f"not measured, {note}: {'; '.join(which)}"
        if self.stopped:
            yield f"stopped early: {self.stopped}"
        yield self.verdict

    @property
    def verdict(self) -> str:
        """What was kept, and its time beside the original's, in a sentence."""
        if self.against is None:
            return "the best is the original itself"
        ratio = self.against.whole
        if self.original:
            return f"kept the original: the result takes {ratio} of its time"
        if self.against.faster:
            return f"the result takes {ratio} of the original's time"
        return f"the result takes {ratio} of the original's time: no slower"


@dataclass(frozen=True)
class Space:
    """All that can be decided: ``values`` by setting, in the order of trying.

    ``jumps`` change several at once, by what they are called.
    """

    start: Settings
    values: Mapping[str, tuple[str, ...]]
    build: Callable[[Settings], Pipeline]
    jumps: Mapping[str, Settings] = field(default_factory=dict)

    def moves(self) -> Iterator[tuple[str, Settings]]:
        """Every change, in words: the jumps, then all values of each setting."""
        yield from self.jumps.items()
        for name, values in self.values.items():
            for value in values:
                yield f"{name} {value}", {name: value}


class Rivals(Protocol):
    """What can be measured, by its settings."""

    def refused(self, best: Settings, candidate: Settings) -> str:
        """Why a candidate is not worth measuring; nothing where it is."""

    def race(self, before: Settings | None, after: Settings, seed: int) -> Measured:
        """The time of one, another's being 1; None is the original."""


def search(
    space: Space,
    rivals: Rivals,
    *,
    steps: int,
    spent: Callable[[], bool] = lambda: False,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[Settings, list[Tried], str]:
    """The best settings, what was tried, and why it stopped early, if it did.

    A change is kept where the candidate is faster twice: of many that make no
    difference, one alone would often seem faster.
    """
    best, tried, measured = dict(space.start), list[Tried](), 0
    seen = {frozenset(best.items())}
    moved = True
    while moved:
        moved = False
        for what, changed in space.moves():
            candidate = {**best, **changed}
            if frozenset(candidate.items()) in seen:
                continue
            if spent():
                return best, tried, "the time is over"
            if measured == steps:
                return best, tried, f"{steps} candidates were measured"
            seen.add(frozenset(candidate.items()))
            progress(f"trying {what}")
            new = {n: v for n, v in changed.items() if best.get(n) != v}
            if note := rivals.refused(best, candidate):
                tried.append(Tried(new, what, note=note))
                continue
            measured += 1
            found = rivals.race(best, candidate, seed=0)
            if found.faster:
                found = rivals.race(best, candidate, seed=1)
            tried.append(Tried(new, what, found, found.faster))
            if found.faster:
                best, moved = candidate, True
    return best, tried, ""
