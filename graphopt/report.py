"""What `optimize` did, as data, as a JSON object and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from . import __version__
from .ir import Graph
from .pipeline import PassRecord

if TYPE_CHECKING:
    from .check import CheckResult
    from .fitted import Fitted
    from .tuning import Tuning

SCHEMA: Final = 1
"""Version of every JSON object that graphopt prints; grows when a field changes."""

ROWS: Final = 12
"""Kinds of op that the table shows, or more where more are new; the rest is summed."""

UNCHECKED: Final = 5
"""Ops and outputs that could not be checked, of which the table shows the names."""


@dataclass(frozen=True)
class Change:
    """A number before and after."""

    before: int
    after: int

    def __str__(self) -> str:
        return f"{self.before:,} --> {self.after:,}"

    @property
    def percent(self) -> str:
        """``-65 %``, or nothing where nothing changed."""
        share = 100 * (self.after - self.before) / (self.before or 1)
        return f"{share:+.0f} %" if self.before and abs(share) >= 0.5 else ""


@dataclass(frozen=True)
class Missed:
    """A rule that could not fire, why, and on which ops of the result."""

    rule: str
    reason: str
    ops: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """The original and the result, run side by side in a runtime.

    ``difference`` is the largest difference of an output, as a share of its largest
    number. ``note`` says what is wrong, why nothing ran, or what ran elsewhere.
    """

    runtime: str
    passed: bool | None
    difference: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What was done to a model. ``bytes`` are those of weights, until it is written.

    ``program`` is the interface of what was exported for XLA.
    """

    target: str
    level: int
    kinds: Mapping[str, Change]
    passes: tuple[PassRecord, ...]
    bytes: Change
    opset: Change
    seconds: float
    notes: tuple[str, ...] = ()
    check: CheckResult | None = None
    trial: Trial | None = None
    missed: tuple[Missed, ...] = ()
    tuning: Tuning | None = None
    memory: Fitted | None = None
    input: str | None = None
    output: str | None = None
    program: Mapping[str, Any] | None = None

    @property
    def ops(self) -> Change:
        """Ops that do work, those of bodies too; constants do not count."""
        return Change(
            sum(change.before for change in self.kinds.values()),
            sum(change.after for change in self.kinds.values()),
        )

    @property
    def _bytes_of(self) -> str:
        """What the bytes are of: a program holds more than the model did."""
        if self.program is None:
            return "bytes"
        derivative = self.program.get("no_derivative") is None
        return f"bytes (model; program, {'derivative, ' * derivative}weights)"

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        ops = self.ops
        return {
            "schema": SCHEMA,
            "version": __version__,
            "input": self.input,
            "output": self.output,
            "target": self.target,
            "level": self.level,
            "ops": {
                "before": ops.before,
                "after": ops.after,
                "by_kind": {
                    kind: {"before": change.before, "after": change.after}
                    for kind, change in sorted(self.kinds.items())
                },
            },
            "bytes": {"before": self.bytes.before, "after": self.bytes.after},
            "opset": self.opset.after,
            "source_opset": self.opset.before,
            "passes": [
                {
                    "name": record.name,
                    "ops_before": record.ops_before,
                    "ops_after": record.ops_after,
                    "seconds": round(record.seconds, 6),
                    "rules": dict(record.fired),
                }
                for record in self.passes
            ],
            "check": check_to_json(self.check),
            "runtime": None if self.trial is None else vars(self.trial).copy(),
            "missed": [
                {"rule": m.rule, "reason": m.reason, "ops": list(m.ops)}
                for m in self.missed
            ],
            "tuning": None if self.tuning is None else self.tuning.to_json(),
            "memory": None if self.memory is None else self.memory.to_json(),
            "notes": list(self.notes),
            "seconds": round(self.seconds, 6),
            **({} if self.program is None else {"program": dict(self.program)}),
        }

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self, *, passes: bool = False) -> Iterator[str]:
        """The tables that people read; ``passes`` adds what each pass did."""
        rows = [
            ("", "before", "after", ""),
            _row("ops", self.ops),
            *(_row(f"  {kind}", change) for kind, change in shown_kinds(self.kinds)),
            _row(self._bytes_of, self.bytes),
        ]
        if self.opset.before != self.opset.after:
            rows.append((*_row("opset", self.opset)[:3], ""))
        yield from table(rows)
        if passes:
            yield ""
            head = ("pass", "before", "after", "seconds")
            done = [
                (r.name, f"{r.ops_before:,}", f"{r.ops_after:,}", f"{r.seconds:.3f}")
                for r in self.passes
            ]
            yield from table([head, *done])
        yield ""
        if self.tuning is not None:
            yield from self.tuning.lines()
            yield ""
        if self.memory is not None:
            yield from self.memory.lines()
            yield ""
        yield from check_lines(self.check)
        if self.trial is not None:
            yield trial_line(self.trial)
        yield from self.notes


def kinds_of(graph: Graph) -> Counter[str]:
    """How many ops of each kind do work, in bodies too."""
    return Counter(op.label for _, op in graph.walk() if op.kind != "Constant")


def changes(before: Graph, after: Graph) -> dict[str, Change]:
    """For each kind of op, how many there were and are."""
    old, new = kinds_of(before), kinds_of(after)
    return {kind: Change(old[kind], new[kind]) for kind in sorted(old | new)}


def shown_kinds(
    kinds: Mapping[str, Change], rows: int = ROWS
) -> list[tuple[str, Change]]:
    """The kinds that changed most, then the most frequent, then all others in one.

    Those that there were none of are shown in any case: they are what was made.
    """

    def weight(item: tuple[str, Change]) -> tuple[int, int, str]:
        kind, change = item
        return -abs(change.after - change.before), -change.before, kind

    ordered = sorted(kinds.items(), key=weight)
    if len(ordered) <= rows + 1:
        return ordered
    new = [item for item in ordered if item[1].after > item[1].before == 0]
    known = [item for item in ordered if item not in new]
    left = max(0, rows - len(new))
    shown = sorted([*new, *known[:left]], key=weight)
    rest = [change for _, change in known[left:]]
    others = Change(sum(c.before for c in rest), sum(c.after for c in rest))
    return [*shown, (f"{len(rest)} other kinds", others)]


def sized(size: int) -> str:
    """Bytes, as people read them."""
    if abs(size) < 10_000:
        return f"{size:,} B"
    if abs(size) < 1 << 20:
        return f"{size / (1 << 10):,.1f} KiB"
    return f"{size / (1 << 20):,.2f} MiB"


def on_host(kinds: Mapping[str, int]) -> str:
    """``on the host, behind the program: 3 Gather, NonMaxSuppression``."""
    listed = (kind if n == 1 else f"{n} {kind}" for kind, n in kinds.items())
    return f"on the host, behind the program: {', '.join(listed)}"


def table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Columns, the first one aligned left and the others right."""
    rows = [tuple(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True)]
        yield "  ".join(cells).rstrip()


def _row(name: str, change: Change) -> tuple[str, str, str, str]:
    return name, f"{change.before:,}", f"{change.after:,}", change.percent


def check_to_json(check: CheckResult | None) -> dict[str, Any]:
    """The ``check`` member; ``passed`` is null where nothing was compared."""
    if check is None:
        return {
            "passed": None,
            "mode": "off",
            "unchecked": [],
            "outputs": [],
            "operands": [],
        }
    members = check.to_json()
    nothing = not (check.outputs or check.operands)
    return members | {"passed": None} if nothing else members


def check_lines(check: CheckResult | None) -> Iterator[str]:
    """What was compared, and how far off each output is."""
    if check is None:
        yield "not checked"
        return
    unchecked = 0
    for line in str(check).splitlines():
        unchecked += line.startswith("  not checked:")
        if unchecked <= UNCHECKED or not line.startswith("  not checked:"):
            yield line
    if unchecked > UNCHECKED:
        more = unchecked - UNCHECKED
        yield f"  nor were {more} more kinds of ops, or outputs (--json has all)"


def trial_line(trial: Trial) -> str:
    """What became of running both models in their runtime."""
    if trial.passed is None:
        return f"not run in {trial.runtime}: {trial.note}"
    if not trial.passed:
        return f"{trial.runtime}: {trial.note}"
    note = f"; {trial.note}" if trial.note else ""
    return (
        f"{trial.runtime} gives the same outputs"
        f" (largest relative difference {trial.difference:.1e}){note}"
    )


GROWTH: Final = (1 << 16, 0.01, 1 << 10)
"""Weights may grow by so many bytes, by that share, or so many for each op saved."""


POSITIONS: Final = 1 << 20
"""Weights may grow by so many bytes where parts have to know where they are."""


def reason_to_keep(
    before: Graph, after: Graph, growth: float = 0.0, unrolled: int = 0
) -> str:
    """Why the original is better than the result; nothing where it is not.

    A result is never worse: not more ops, and no more weights than `GROWTH` allows, and
    beyond that the share ``growth`` (`Pipeline.growth`). Writing work out in parts may
    have added ``unrolled`` ops (`Pipeline.unrolled`), and `POSITIONS` bytes.
    """
    if after is before:
        return ""
    kinds = changes(before, after).values()
    ops = Change(sum(c.before for c in kinds), sum(c.after for c in kinds))
    if ops.after > ops.before + unrolled:
        return f"the result has more ops ({ops})"
    weights = Change(weight_bytes(before), weight_bytes(after))
    bytes_, share, each = GROWTH
    saved = each * (ops.before - ops.after)
    least = POSITIONS if unrolled else bytes_
    allowed = weights.before + max(least, share * weights.before, saved)
    if weights.after > allowed * (1 + growth):
        return f"the result has more bytes of weights ({weights})"
    return ""


def weight_bytes(graph: Graph) -> int:
    """Bytes of all constants and defaults, each counted once."""
    return sum(tensor.nbytes for tensor in graph.tensors())
