"""The forward pass of a model as steps: what each makes, and what goes back through it.

JAX says it: each op is traced with its pullback, whose leaves are what that looks at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal

from ..ir import Op, Value
from ..lowering.xla.function import Function
from ..lowering.xla.trace import Tracer, is_known
from ..ops import Constant
from .batches import Array
from .flops import flops_of
from .retention import Step, Training

VIEWS: Final = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Ops whose result is their first operand's memory, for XLA."""

_Spec: Final[Any] = jax.ShapeDtypeStruct


@dataclass
class Forward:
    """The ops that a program runs, in order; ``step_of`` places values in ``steps``.

    A view has no step of its own, and what is ``known`` to the trace none at all. The
    last step has no op: it is the loss, where `finish` was called.
    """

    ops: list[Op] = field(default_factory=list)
    known: dict[Value, Any] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    step_of: dict[Value, int] = field(default_factory=dict)
    moving: set[Value] = field(default_factory=set)
    """Values of which the loss may have a slope."""

    @property
    def training(self) -> Training:
        return Training(self.steps)

    def finish(
        self, loss: Callable[..., Array], outputs: Sequence[Value], made: Sequence[Any]
    ) -> None:
        """Add the loss as the last step, a function of all outputs."""
        moves = [value in self.moving for value in outputs]
        self._add([], outputs, _probe(lambda given: [loss(*given)], made, moves))

    def note(self, op: Op, operands: Sequence[Array], results: Sequence[Array]) -> bool:
        """Add an op that was run; True where it is to be probed, too."""
        pairs = zip(op.results, results, strict=True)
        self.known |= {value: array for value, array in pairs if is_known(array)}
        if all(map(is_known, results)):
            return False
        self.ops.append(op)
        source = op.operands[0] if op.operands else None
        if op.kind in VIEWS and source in self.step_of:
            self.step_of[op.results[0]] = self.step_of[source]
            self.moving |= {op.results[0]} if source in self.moving else set()
            return False
        return True

    def _add(
        self, results: Sequence[Value], operands: Sequence[Value | None], found: _Probed
    ) -> None:
        at = {i: self.step_of[v] for i, v in enumerate(operands) if v in self.step_of}
        reads = tuple(sorted({*at.values()}))
        self.step_of |= dict.fromkeys(results, len(self.steps))
        self.steps.append(
            Step(
                reads,
                found.bytes,
                found.flops,
                frozenset(at[i] for i in found.needs if i in at),
                tuple(sorted({at[i] for i in found.slopes if i in at})),
                found.inner,
                found.again,
                found.back,
                bool(found.slopes),
                found.own,
            )
        )


class Observed(Function):
    """A function that notes what it runs, while it is traced.

    ``trained`` are the names of the weights of which a slope is wanted.
    """

    trained: Collection[str]
    forward: Forward

    def computed(self, tracer: Tracer, env: dict[Value, Array]) -> list[Array]:
        forward = self.forward
        forward.moving |= {
            value for name, value in self.weights.items() if name in self.trained
        }
        cells = dict(env)
        known: dict[Hashable, _Probed] = {}
        waiting: list[Array] = []
        current: Op | None = None
        for value, array in tracer.steps(self.graph.outputs, env):
            cells[value] = array
            op = value.op
            if op is not current:
                waiting, current = [], op
            waiting.append(array)
            if op is None or isinstance(op, Constant) or len(waiting) < op.outs:
                continue
            operands = [None if v is None else cells[v] for v in op.operands]
            if forward.note(op, operands, waiting):
                self._probe(tracer, op, operands, waiting, known)
        return [cells[value] for value in self.graph.outputs]

    def _probe(
        self,
        tracer: Tracer,
        op: Op,
        operands: Sequence[Array],
        results: Sequence[Array],
        known: dict[Hashable, _Probed],
    ) -> None:
        moves = [
            value in self.forward.moving and _has_slope(array)
            for value, array in zip(op.operands, operands, strict=True)
        ]
        traced = [not is_known(array) for array in results]

        def run(given: Sequence[Array]) -> list[Array]:
            made = tracer.apply(op, given)
            return [array for array, kept in zip(made, traced, strict=True) if kept]

        key = _key(op, operands, moves)
        if key not in known:
            known[key] = _probe(run, operands, moves)
        if known[key].slopes:
            self.forward.moving |= {
                value
                for value, array in zip(op.results, results, strict=True)
                if _has_slope(array)
            }
        self.forward._add(op.results, op.operands, known[key])


class _Probed(NamedTuple):
    """What `Step` says, by places of operands."""

    bytes: int
    flops: int
    needs: frozenset[int] = frozenset()
    slopes: tuple[int, ...] = ()
    inner: int = 0
    again: int = 0
    back: int = 0
    own: bool = False


def _probe(
    run: Callable[[Sequence[Array]], list[Array]],
    operands: Sequence[Any],
    moves: Sequence[bool],
) -> _Probed:
    """Trace a piece of work, and its pullback by the operands that move."""
    places = [i for i, array in enumerate(operands) if _is_traced(array)]
    specs = [_Spec(operands[i].shape, operands[i].dtype) for i in places]
    moving = [k for k, i in enumerate(places) if moves[i]]

    def filled(arrays: Sequence[Array]) -> list[Array]:
        given = dict(zip(places, arrays, strict=True))
        return [given.get(i, array) for i, array in enumerate(operands)]

    def split(arrays: Sequence[Array]) -> tuple[Callable[..., Any], list[Array]]:
        def of(*moved: Array) -> list[Array]:
            every = [*arrays]
            for k, array in zip(moving, moved, strict=True):
                every[k] = array
            return [a for a in run(filled(every)) if _has_slope(a)]

        return of, [arrays[k] for k in moving]

    plain = jax.make_jaxpr(lambda *arrays: run(filled(arrays)))(*specs)
    size = sum(map(_bytes_of, plain.out_avals))
    flops = flops_of(plain.jaxpr.eqns)
    if not moving:
        return _Probed(size, flops)

    def forward(*arrays: Array) -> Any:
        made, pull = jax.vjp(*_spread(split(arrays)))
        return made, jax.tree.leaves(pull)

    def backward(*arrays: Array) -> Any:
        made, pull = jax.vjp(*_spread(split(arrays)))
        return pull(made)

    traced = jax.make_jaxpr(forward)(*specs).jaxpr
    made = len([a for a in plain.out_avals if np.issubdtype(a.dtype, np.inexact)])
    whole = flops_of(jax.make_jaxpr(backward)(*specs).jaxpr.eqns)
    return _pulled(traced, made, places, tuple(places[k] for k in moving))._replace(
        bytes=size, flops=flops, back=whole - flops_of(traced.eqns)
    )


def _spread(pair: tuple[Callable[..., Any], list[Array]]) -> tuple[Any, ...]:
    return pair[0], *pair[1]


def _pulled(
    jaxpr: Any, made: int, places: Sequence[int], slopes: tuple[int, ...]
) -> _Probed:
    """What the pullback looks at: operands, the result, and what else is computed."""
    given = {id(v): places[k] for k, v in enumerate(jaxpr.invars)}
    results = {id(v) for v in jaxpr.outvars[:made]}
    wanted = {id(v): v for v in jaxpr.outvars[made:] if not isinstance(v, Literal)}
    inner = {k: v for k, v in wanted.items() if k not in given and k not in results}
    own = any(key in results and key not in given for key in wanted)
    live = set(wanted)
    again = []
    for equation in reversed(jaxpr.eqns):
        if any(id(v) in live for v in equation.outvars):
            live |= {id(v) for v in equation.invars}
            again.append(equation)
    needs = frozenset(given[key] for key in live if key in given)
    size = sum(_bytes_of(v.aval) for v in inner.values())
    cost = flops_of(again) if inner or own else 0
    return _Probed(0, 0, needs, slopes, size, cost, 0, own)


def _key(op: Op, operands: Sequence[Any], moves: Sequence[bool]) -> Hashable:
    """Equal for ops that cost the same."""
    given = [
        None if a is None else (a.shape, str(a.dtype)) if _is_traced(a) else _bits(a)
        for a in operands
    ]
    return (op.meaning, tuple(given), tuple(moves))


def _bits(array: Any) -> Hashable:
    if isinstance(array, np.ndarray):
        return array.shape, str(array.dtype), array.tobytes()
    return id(array)


def _is_traced(array: Any) -> bool:
    return isinstance(array, jax.Array | _Spec)


def _has_slope(array: Any) -> bool:
    return _is_traced(array) and bool(jax.numpy.issubdtype(array.dtype, np.inexact))


def _bytes_of(aval: Any) -> int:
    return int(math.prod(aval.shape)) * int(aval.dtype.itemsize)
