"""A graph in segments: what is made in one is forgotten, but for what is kept.

Each segment is a `jax.checkpoint` whose policy saves the values of certain names. Where
it has a plan of its own, its parts are checkpoints, too: they count when it is made
again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from ..ir import Graph, Op, Value
from ..lowering.xla.function import Function
from ..lowering.xla.trace import Tracer
from .batches import Array
from .forward import VIEWS, Forward
from .retention import Retention, Training

_named: Any = checkpoint_name


@dataclass(frozen=True)
class Segment:
    """Ops that run together, and the names of their results that are kept.

    ``forgets`` is False where nothing is made again: then it is run as it is. ``parts``
    are those of one that is made again in parts, with all of its ops.
    """

    ops: tuple[Op, ...]
    reads: tuple[Value, ...]
    makes: tuple[Value, ...]
    names: Mapping[Value, str]
    forgets: bool
    parts: tuple[Segment, ...] = ()


def segments_of(graph: Graph, forward: Forward, plan: Retention) -> list[Segment]:
    """The segments of a plan, for the ops of a forward pass in their order."""
    cutter = _Cutter(forward, forward.training)
    return cutter.cut(plan, frozenset(), forward.ops, graph.outputs, len(forward.steps))


@dataclass(frozen=True)
class _Cutter:
    """Cuts ops by the places of their steps."""

    forward: Forward
    training: Training

    def cut(
        self,
        plan: Retention,
        held: frozenset[int],
        ops: Sequence[Op],
        wanted: Iterable[Value],
        stop: int,
    ) -> list[Segment]:
        """The segments of ops up to a step; behind them some values are wanted."""
        step_of, known = self.forward.step_of, self.forward.known
        spans = [*plan.spans(stop)]
        parts: list[list[Op]] = [[] for _ in spans]
        number = step = 0
        for op in ops:
            step = max(step, *[step_of[r] for r in op.results])
            while step >= spans[number][1]:
                number += 1
            parts[number].append(op)
        last: dict[Value, int] = {}
        for number, part in enumerate(parts):
            last |= {v: number for op in part for v in op.operands if v is not None}
        last |= dict.fromkeys(wanted, len(parts))
        kept = held | plan.kept
        found = []
        for number, (part, (start, end, nested)) in enumerate(
            zip(parts, spans, strict=True)
        ):
            own = {result: op for op in part for result in op.results}
            reads = {v: None for op in part for v in op.operands if v is not None}
            names = {
                value: f"{op.label} {step_of[value]}"
                for value, op in own.items()
                if step_of[value] in plan.kept and op.kind not in VIEWS
            }
            makes = [v for v in own if last.get(v, -1) > number and v not in known]
            again = self.training.remade(kept, start, end)
            inside = any(i in self.training.inner_of for i in range(start, end))
            found.append(
                Segment(
                    tuple(part),
                    tuple([v for v in reads if v not in own]),
                    tuple(makes),
                    names,
                    bool(again) or inside,
                    tuple(self.cut(nested, kept, part, makes, end) if nested else ()),
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
            _run(tracer, self.segments, cells, {})
            return [_cell(tracer, cells, value) for value in self.graph.outputs]


def _run(
    tracer: Tracer,
    segments: Iterable[Segment],
    cells: dict[Value, Any],
    names: Mapping[Value, str],
) -> None:
    """Run segments on the values in ``cells``, and add what they make.

    ``names`` are those that segments around them keep.
    """
    for segment in segments:
        given = {v: cells[v] for v in segment.reads if v in cells}
        outside = {v: a for v, a in given.items() if not isinstance(a, jax.Array)}
        inside = {v: a for v, a in given.items() if v not in outside}
        call: Any = _Run(
            tracer, segment, outside, tuple(inside), {**names, **segment.names}
        )
        if segment.forgets:
            policy = jax.checkpoint_policies.save_only_these_names(
                *segment.names.values()
            )
            call = jax.checkpoint(call, policy=policy)
        made = call(*inside.values())
        cells |= zip(segment.makes, made, strict=True)


@dataclass(frozen=True, eq=False)
class _Run:
    """The ops of one segment, as a function of arrays for ``reads``."""

    tracer: Tracer
    segment: Segment
    outside: Mapping[Value, Any]
    reads: tuple[Value, ...]
    names: Mapping[Value, str]

    def __call__(self, *arrays: Array) -> list[Array]:
        cells = {**self.outside, **dict(zip(self.reads, arrays, strict=True))}
        if self.segment.parts:
            _run(self.tracer, self.segment.parts, cells, self.names)
        else:
            self._ops(cells)
        return [cells[value] for value in self.segment.makes]

    def _ops(self, cells: dict[Value, Any]) -> None:
        for op in self.segment.ops:
            operands = [
                None if v is None else _cell(self.tracer, cells, v) for v in op.operands
            ]
            made = self.tracer.apply(op, operands)
            for value, array in zip(op.results, made, strict=True):
                if value in self.names and isinstance(array, jax.Array):
                    array = _named(array, self.names[value])
                cells[value] = array


def _cell(tracer: Tracer, cells: Mapping[Value, Array], value: Value) -> Array:
    """A value that was computed, or a constant."""
    if value in cells:
        return cells[value]
    assert value.op is not None
    return tracer.apply(value.op, ())[0]
