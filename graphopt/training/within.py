"""A step of training within a budget of memory: what it keeps, compiled and measured.

What counts is what XLA says of the compiled program: its temporary memory, which holds
gradients too. The plan is made for less, until the program fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ..reference import OutOfBudget
from .budget import Found, lowest, retain
from .forward import Forward
from .retention import Retention
from .segments import Segmented, segments_of
from .steps import Steps

ROUNDS: Final = 4
"""Programs that are compiled to come below a budget, beside the plain one."""

NEARER: Final = 0.97
"""Of what seems to be enough, after a program that did not fit."""

OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "cpu": {"xla_disable_hlo_passes": "cse_barrier_expander"}
}
"""By platform, what keeps XLA from making everything again at once.

JAX ties what is made again to the slopes that want it by optimization barriers, which
XLA's CPU compiler takes out before it orders the ops.
"""


@dataclass(frozen=True)
class Activations:
    """Temporary memory of a step of training, and what it costs to need no more.

    Bytes and FLOPs are what XLA says of the programs, ``plain_…`` of the one that keeps
    all it can use. ``kept`` of ``values`` results are kept, in so many ``segments``,
    which nest so ``deep``: no result is made again more often.
    """

    budget: int
    bytes: int
    plain_bytes: int
    flops: float
    plain_flops: float
    kept: int
    values: int
    segments: int
    deep: int

    def __str__(self) -> str:
        if self.segments == 0:
            return f"activations: {_mib(self.bytes)}, nothing is made again"
        more = self.flops / self.plain_flops - 1 if self.plain_flops else 0.0
        return (
            f"activations: {_mib(self.bytes)} instead of {_mib(self.plain_bytes)}, for"
            f" {more:.1%} more FLOPs: {self.kept} of {self.values} results are kept,"
            f" the others made again in {self.segments} segments"
            + (f", nested {self.deep} deep" if self.deep > 1 else "")
        )


def within(steps: Steps, budget: int, *arguments: Any) -> tuple[Any, Activations]:
    """A step that needs at most ``budget`` bytes of temporary memory, compiled.

    ``arguments`` are those of `Steps.train`. Raises OutOfBudget with the least that was
    reached where no program fits.
    """
    plain = _Tried.of(steps, arguments)
    if plain.bytes <= budget:
        return plain.program, _said(budget, plain, plain, None, 0)
    forward = steps.forward(*arguments)
    training = forward.training
    least = plain.bytes
    target = int(budget * training.plain_peak() / plain.bytes)
    for _ in range(ROUNDS):
        found = retain(training, target) or lowest(training)
        tried = _Tried.of(segmented(steps, forward, found.plan), arguments)
        least = min(least, tried.bytes)
        if tried.bytes <= budget:
            said = _said(budget, tried, plain, found, len(forward.steps) - 1)
            return tried.program, said
        if found.peak > target:
            break
        target = int(NEARER * found.peak * budget / tried.bytes)
    raise OutOfBudget(
        f"a step of training needs {_mib(least)} beside weights and batch, and only"
        f" {_mib(budget)} are allowed: take a smaller batch_size, or allow"
        f" max_activations={least}"
    )


def segmented(steps: Steps, forward: Forward, plan: Retention) -> Steps:
    """The same step, forgetting what the plan does not keep."""
    function = Segmented(steps.graph, precision=steps.precision)
    function.known = forward.known
    function.segments = segments_of(steps.graph, forward, plan)
    platform = steps.mesh.devices.flat[0].platform
    return replace(steps, segmented=function, options=OPTIONS.get(platform, {}))


@dataclass(frozen=True)
class _Tried:
    """A compiled step, and what XLA says of it."""

    program: Any
    bytes: int
    flops: float

    @classmethod
    def of(cls, steps: Steps, arguments: tuple[Any, ...]) -> _Tried:
        program = steps.train.lower(*arguments).compile()
        taken = program.memory_analysis().temp_size_in_bytes
        costs = program.cost_analysis() or {}
        return cls(program, int(taken), float(costs.get("flops", 0.0)))


def _said(
    budget: int, tried: _Tried, plain: _Tried, found: Found | None, values: int
) -> Activations:
    return Activations(
        budget,
        tried.bytes,
        plain.bytes,
        tried.flops,
        plain.flops,
        values if found is None else len(found.plan.kept - {values}),
        values,
        0 if found is None else len(found.plan.starts),
        0 if found is None else found.plan.depth,
    )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
