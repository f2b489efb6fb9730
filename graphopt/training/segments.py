"""A graph in segments: what is made in one is forgotten, but for what is kept.

Each segment is a `jax.checkpoint` whose policy saves the values of certain names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from ..ir import Graph, Op, Value
from ..lowering.xla.function import Function
from ..lowering.xla.trace import Tracer
from .batches import Array
from .forward import VIEWS, Forward
from .retention import Retention

_named: Any = checkpoint_name


@dataclass(frozen=True)
class Segment:
    """Ops that run together, and the names of their results that are kept.

    ``forgets`` is False where nothing is made again: then it is run as it is.
    """

    ops: tuple[Op, ...]
    reads: tuple[Value, ...]
    makes: tuple[Value, ...]
    names: Mapping[Value, str]
    forgets: bool


def segments_of(graph: Graph, forward: Forward, plan: Retention) -> list[Segment]:
    """The segments of a plan, for the ops of a forward pass in their order."""
    training = forward.training
    places = [*plan.starts, len(forward.steps)]
    parts: list[list[Op]] = [[] for _ in plan.starts]
    number = step = 0
    for op in forward.ops:
        step = max(step, *[forward.step_of[r] for r in op.results])
        while step >= places[number + 1]:
            number += 1
        parts[number].append(op)
    last: dict[Value, int] = {}
    for number, part in enumerate(parts):
        last |= {v: number for op in part for v in op.operands if v is not None}
    last |= dict.fromkeys(graph.outputs, len(parts))
    found = []
    for number, (part, span) in enumerate(zip(parts, pairwise(places), strict=True)):
        known = forward.known
        own = {result: op for op in part for result in op.results}
        reads = {v: None for op in part for v in op.operands if v is not None}
        names = {
            value: f"{op.label} {forward.step_of[value]}"
            for value, op in own.items()
            if forward.step_of[value] in plan.kept and op.kind not in VIEWS
        }
        again = training.remade(plan.kept, *span)
        inside = any(i in training.inner_of for i in range(*span))
        found.append(
            Segment(
                tuple(part),
                tuple([v for v in reads if v not in own]),
                tuple([v for v in own if last.get(v, -1) > number and v not in known]),
                names,
                bool(again) or inside,
            )
        )
    return found


class Segmented(Function):
    """A function whose ops run in segments."""

    segments: Sequence[Segment]
    known: Mapping[Value, Any]

    def computed(self, tracer: Tracer, env: dict[Value, Array]) -> list[Array]:
        cells = {**self.known, **env}
        with tracer.xp.scope():
            for segment in self.segments:
                given = {v: cells[v] for v in segment.reads if v in cells}
                outside = {
                    v: a for v, a in given.items() if not isinstance(a, jax.Array)
                }
                inside = {v: a for v, a in given.items() if v not in outside}
                run = _Run(tracer, segment, outside, tuple(inside))
                call: Any = run
                if segment.forgets:
                    policy = jax.checkpoint_policies.save_only_these_names(
                        *segment.names.values()
                    )
                    call = jax.checkpoint(run, policy=policy)
                made = call(*inside.values())
                cells |= zip(segment.makes, made, strict=True)
            return [_cell(tracer, cells, value) for value in self.graph.outputs]


@dataclass(frozen=True, eq=False)
class _Run:
    """The ops of one segment, as a function of arrays for ``reads``."""

    tracer: Tracer
    segment: Segment
    outside: Mapping[Value, Any]
    reads: tuple[Value, ...]

    def __call__(self, *arrays: Array) -> list[Array]:
        cells = {**self.outside, **dict(zip(self.reads, arrays, strict=True))}
        names = self.segment.names
        for op in self.segment.ops:
            operands = [
                None if v is None else _cell(self.tracer, cells, v) for v in op.operands
            ]
            made = self.tracer.apply(op, operands)
            for value, array in zip(op.results, made, strict=True):
                if value in names and isinstance(array, jax.Array):
                    array = _named(array, names[value])
                cells[value] = array
        return [cells[value] for value in self.segment.makes]


def _cell(tracer: Tracer, cells: Mapping[Value, Array], value: Value) -> Array:
    """A value that was computed, or a constant."""
    if value in cells:
        return cells[value]
    assert value.op is not None
    return tracer.apply(value.op, ())[0]
