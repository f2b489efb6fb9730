"""Narrow float types: float16 or bfloat16 wherever a stated error allows it.

The only lossy pass: nobody gets it who does not ask. What is allowed is an error of
each output against float64, as a share of its largest number; what is measured is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import ml_dtypes
import numpy as np

from graphopt.errors import GraphoptError, UsageError, nearest
from graphopt.ir import Graph, Op
from graphopt.ops import Cast
from graphopt.pipeline import Pass, count_ops
from graphopt.rewrite import Log
from graphopt.types import DType

from .choice import PRODUCTS, Choice, choose, unmeasured
from .measure import measure
from .shares import Share, moves, narrow_operands, shares

PRECISIONS: Final = {"fp16": DType.F16, "bf16": DType.BF16, "mixed": DType.F16}
"""What can be asked for, and its narrow type; "mixed" has only products in it."""

NAMES: Final = {DType.F16: "float16", DType.BF16: "bfloat16"}

UNITS: Final = 16
"""Roundings of the narrow type that an output may be off, unless a budget is stated."""

OWN: Final = "the model says itself what is narrow in it"

Refuses = Callable[[Op], str | None]
"""Why a runtime has no kernel for an op; None where it has."""


def unit_of(precision: str) -> float:
    """Half the distance from 1 to the next number of the narrow type."""
    info: Any = ml_dtypes.finfo
    return float(info(PRECISIONS[precision].numpy).eps) / 2


@dataclass(frozen=True)
class Precision(Pass):
    """Compute in ``to``: "fp16", "bf16", or "mixed" (products in float16, no more).

    ``budget`` bounds the error of each output, as a share of its largest number; 0 is
    `UNITS` roundings. Errors are measured on ``inputs``, or random ones from ``seed``.
    ``refuses`` says which ops have no kernel; those stay float32. The interface does,
    unless ``keep_io`` is false.
    """

    to: str = "fp16"
    budget: float = 0.0
    seed: int = 0
    keep_io: bool = True
    inputs: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    refuses: Refuses | None = field(default=None, compare=False, repr=False)

    level = 3

    def __post_init__(self) -> None:
        if self.to not in PRECISIONS:
            raise UsageError(
                f"no precision {self.to!r}{nearest(self.to, (*PRECISIONS, 'fp32'))}"
            )
        if not 0 <= self.budget < 1:
            raise UsageError(f"a budget is from 0 to 1, not {self.budget}")

    def __str__(self) -> str:
        stated = f", budget={self.budget}" if self.budget else ""
        io = "" if self.keep_io else ", keep_io=False"
        return f"{self.name}(to={self.to!r}{stated}{io})"

    @property
    def allowed(self) -> float:
        """The error that an output may have."""
        return self.budget or UNITS * unit_of(self.to)

    def run(self, graph: Graph, log: Log) -> Graph:
        choice = self.choice(graph)
        log.notes += self.said(choice)
        return choice.graph

    def choice(self, graph: Graph) -> Choice:
        """What becomes narrow, and how far that is off."""
        with np.errstate(over="ignore"):
            return self._choice(graph)

    def _choice(self, graph: Graph) -> Choice:
        to = PRECISIONS[self.to]
        if (op := _narrow_op(graph, to)) is not None:
            return Choice(graph, 0.0, {}, {op: OWN})
        found, refused = self._candidates(graph, to)
        if not any(not moves(op) for op in found):
            return Choice(graph, 0.0, {}, refused)
        try:
            # An output takes part of what is allowed; other inputs may be worse.
            run = measure(graph, found, to, inputs=self.inputs, seed=self.seed)
            made = choose(graph, found, to, run, self.allowed / 2, keep_io=self.keep_io)
        except GraphoptError:
            made = unmeasured(graph, found, to, keep_io=self.keep_io)
        return Choice(
            made.graph, made.error, made.narrow, {**refused, **made.kept}, made.flushed
        )

    def said(self, choice: Choice) -> list[str]:
        """What the report says of a choice."""
        if not choice.narrow and OWN in choice.kept.values():
            return [f"nothing became narrow: {OWN}"]
        if not choice.narrow:
            reasons = _listed(choice) or "no op is known to compute in float32"
            return [f"nothing became narrow: {reasons}"]
        work, name = count_ops(choice.graph), NAMES[PRECISIONS[self.to]]
        error = "how far outputs are off could not be measured"
        if choice.error is not None:
            error = (
                f"the largest error of an output is {choice.error:.2g} of its largest"
                " number"
            )
        notes = [
            f"{len(choice.narrow)} of {work} ops are {name}; {error}, allowed"
            f" {self.allowed:.2g}"
        ]
        if not self.keep_io:
            notes.append(f"inputs and outputs of float32 are {name}, too")
        if choice.kept:
            notes.append(f"in float32 stay {_listed(choice)}")
        if choice.flushed:
            notes.append(f"{choice.flushed} elements of weights became zero")
        return notes

    def _candidates(
        self, graph: Graph, to: DType
    ) -> tuple[dict[Op, Share], dict[Op, str]]:
        """Ops that could be narrow, and those that only lack a kernel."""
        found: dict[Op, Share] = {}
        refused: dict[Op, str] = {}
        for _, op in graph.walk():
            if op in found or op in refused:
                continue
            if self.to == "mixed" and op.kind not in PRODUCTS and not moves(op):
                continue
            for share in shares(op, to):
                reason = None
                if self.refuses is not None:
                    reason = self.refuses(narrow_operands(op, share, to))
                if reason is None:
                    found[op] = share
                    refused.pop(op, None)
                    break
                refused[op] = "without a kernel"
        return found, refused


def _listed(choice: Choice) -> str:
    return ", ".join(f"{n} ops {reason}" for reason, n in choice.reasons.most_common())


def _narrow_op(graph: Graph, to: DType) -> Op | None:
    """An op of a graph that says itself what is narrow in it."""
    for _, op in graph.walk():
        if not isinstance(op, Cast) and any(v.dtype is to for v in op.results):
            return op
    return None
