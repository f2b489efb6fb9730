"""How far each op is off in a narrow type, and a whole graph, against float64."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import numpy as np

from graphopt.check.tolerance import largest_number
from graphopt.errors import GraphoptError
from graphopt.feeds import bind
from graphopt.inputs import Sizes, bindings, neighbours, random_inputs
from graphopt.ir import Graph, Op, Value
from graphopt.ops.constant import Constant
from graphopt.reference import Evaluator
from graphopt.types import DType

from .fills import fill_of, is_fill, largest, saturated
from .shares import Share, is_single, narrow_operands

Array = Any

MARGIN: Final = 8
"""How far below the largest number of a type all that is computed must stay."""

_CHEAP, _SECONDS = 2, 20  # after which there are no more seeds, or no more runs
_SIZES = 24  # settings of symbolic dims that are tried until one runs
_MEMORY: Final = 8 << 30


@dataclass
class Measured:
    """What was seen of an op: its error, and whether its numbers leave the range."""

    error: float = 0.0
    overflows: bool = False
    vanishes: bool = False

    def join(self, other: Measured) -> None:
        """Also what was seen in another run."""
        self.error = max(self.error, other.error)
        self.overflows |= other.overflows
        self.vanishes |= other.vanishes


@dataclass(frozen=True)
class Sample:
    """What a graph was fed with, and what it gives in float64."""

    fed: Mapping[Value, Array]
    symbols: Mapping[str, int]
    truths: Sequence[Array]


@dataclass
class Run:
    """Runs of a graph in float64, with what was seen of its ops.

    ``fills`` are values with numbers that stand for infinity, made of such constants.
    """

    samples: list[Sample] = field(default_factory=list)
    ops: dict[Op, Measured] = field(default_factory=dict)
    fills: set[Value] = field(default_factory=set)


def measure(
    graph: Graph,
    shares: Mapping[Op, Share],
    to: DType,
    *,
    inputs: Mapping[str, Array] | None = None,
    seed: int = 0,
) -> Run:
    """Run the graph in float64, and beside it each op of ``shares`` in ``to``.

    Without ``inputs`` they are random: of two sizes of symbolic dims on which the graph
    runs. Once more some are ten times as large, which must just fit into the range.
    Raises GraphoptError where it runs on none.
    """
    run, began = Run(), time.monotonic()
    if inputs is not None:
        _add(run, graph, shares, to, inputs, seed, MARGIN)
        return run
    reason: GraphoptError | None = None
    sizes: Sizes = {}
    far = islice(bindings(graph), _SIZES)
    near: Iterator[Sizes] = iter(())
    failed = False
    while (trial := next(near, None) or next(far, None)) is not None:
        try:
            arrays = random_inputs(graph, seed, trial)
            _add(run, graph, shares, to, arrays, seed, MARGIN)
        except GraphoptError as error:
            reason = reason or error
            if run.samples and not failed:  # far ones may never fit
                near, failed = iter(neighbours(graph, sizes)), True
            continue
        sizes = trial
        if len(run.samples) == 2:
            break
    if not run.samples:
        assert reason is not None
        raise reason
    for more in (seed + 1, seed + 2):
        if time.monotonic() - began < _CHEAP:
            arrays = random_inputs(graph, more, sizes)
            with suppress(GraphoptError):
                _add(run, graph, shares, to, arrays, seed, MARGIN)
    if time.monotonic() - began < _SECONDS:
        with suppress(GraphoptError):
            arrays = random_inputs(graph, seed + 1, sizes, style="wide")
            larger = Run()
            _add(larger, graph, shares, to, arrays, seed, 1)
            for op, seen in larger.ops.items():
                run.ops.setdefault(op, seen).overflows |= seen.overflows
    return run


def _add(
    run: Run,
    graph: Graph,
    shares: Mapping[Op, Share],
    to: DType,
    inputs: Mapping[str, Array],
    seed: int,
    margin: float,
) -> None:
    """One more run. Raises GraphoptError, and then adds nothing."""
    fed, symbols = bind(graph, inputs)
    probe = _Probe(shares, to, seed, symbols, margin)
    known: dict[Value, Array] = {v: a for v, a in fed.items()}  # noqa: C416 (widens)
    env = {value: probe.adopt(array) for value, array in known.items()}
    truths = probe.run(graph.outputs, env)
    run.samples.append(Sample(known, symbols, truths))
    run.fills |= probe.fills
    for op, seen in probe.seen.items():
        run.ops.setdefault(op, Measured()).join(seen)


def error_of(
    graph: Graph, original: Graph, run: Run, to: DType, seed: int = 0
) -> float:
    """The largest error of an output, as a share of its largest number.

    Infinite where an output is not finite that was, or where the graph does not run.
    """
    worst = 0.0
    for sample in run.samples:
        env: dict[Value, Array] = {}
        for old, new in zip(original.inputs, graph.inputs, strict=True):
            if old in sample.fed:
                given = sample.fed[old]
                env[new] = given.astype(to.numpy) if new.dtype is to else given
        evaluator = Evaluator(seed=seed, symbols=sample.symbols, limit_bytes=_MEMORY)
        try:
            made = evaluator.run(graph.outputs, env)
        except GraphoptError:
            return np.inf
        worst = max([worst, *map(off, sample.truths, made)])
    return worst


def off(truth: Array, made: Array) -> float:
    """The largest difference as a share of the largest number; 0 but for floats.

    What stands for infinity is no largest number, and is held against itself.
    """
    if not isinstance(truth, np.ndarray) or truth.dtype.kind != "f" or not truth.size:
        return 0.0
    if np.shape(made) != truth.shape:
        return np.inf
    finite = np.isfinite(truth)
    with np.errstate(all="ignore"):
        difference = np.abs(made.astype(np.float64) - truth)
        size = np.maximum(np.abs(truth), largest_number(truth))
        shares = np.where(difference == 0, 0.0, difference / size)
    worst = float(np.max(shares, where=finite, initial=0.0))
    return np.inf if np.isnan(worst) else worst


class _Probe(Evaluator):
    """A float64 run that tries each op in the narrow type as well."""

    def __init__(
        self,
        shares: Mapping[Op, Share],
        to: DType,
        seed: int,
        symbols: Mapping[str, int],
        margin: float,
    ) -> None:
        super().__init__(
            precision="float64", seed=seed, symbols=symbols, limit_bytes=_MEMORY
        )
        self.seen: dict[Op, Measured] = {}
        self.fills: set[Value] = set()
        self._shares = shares
        self._to = to
        self._narrow = Evaluator(seed=seed, symbols=symbols)
        self._largest = largest(to)
        self._margin = margin
        self._fills = fill_of(to) is not None

    def apply(self, op: Op, operands: Sequence[Array]) -> tuple[Array, ...]:
        made = super().apply(op, operands)
        if self._fills:
            self._trace(op, made)
        share = self._shares.get(op)
        if share is not None:
            seen = self.seen.setdefault(op, Measured())
            with np.errstate(all="ignore"):
                self._see(op, share, operands, made, seen)
        return made

    def _trace(self, op: Op, made: Sequence[Array]) -> None:
        """Follow what stands for infinity, from constants on."""
        if isinstance(op, Constant) or any(v in self.fills for v in op.operands if v):
            for value, array in zip(op.results, made, strict=True):
                if is_single(value) and np.any(is_fill(array)):
                    self.fills.add(value)

    def _see(
        self,
        op: Op,
        share: Share,
        operands: Sequence[Array],
        made: Sequence[Array],
        seen: Measured,
    ) -> None:
        arrays = list(operands)
        for i in share.operands:
            fixed = isinstance(op.operands[i], Constant)
            limit = self._largest / (1 if fixed else self._margin)
            seen.overflows |= _peak(self._bounded(op.operands[i], arrays[i])) > limit
            if op.operands[i] in self.fills:
                arrays[i] = saturated(arrays[i], self._to)
            narrow = arrays[i].astype(self._to.numpy)
            if fixed and narrow.size == 1:
                seen.vanishes |= bool(np.any((narrow == 0) & (arrays[i] != 0)))
            arrays[i] = narrow
        for i in share.results:
            result = self._bounded(op.results[i], made[i])
            seen.overflows |= _peak(result) > self._largest / self._margin
        if seen.overflows or seen.vanishes:
            seen.error = np.inf
            return
        for i, value in enumerate(op.operands):
            if i not in share.operands and is_single(value):
                arrays[i] = arrays[i].astype(np.float32)
        try:
            with self._narrow.xp.scope():
                tried = self._narrow.apply(narrow_operands(op, share, self._to), arrays)
        except GraphoptError:
            seen.error = np.inf
            return
        for i in share.results:
            result = self._bounded(op.results[i], made[i])
            seen.error = max(seen.error, off(result, tried[i]))

    def _bounded(self, value: Value | None, array: Array) -> Array:
        """What is held against the truth: for infinity any large number does."""
        if value not in self.fills:
            return array
        return np.where(is_fill(array), np.copysign(np.inf, array), array)


def _peak(array: Array) -> float:
    """The largest finite magnitude."""
    if not isinstance(array, np.ndarray) or not array.size:
        return 0.0
    magnitudes = np.abs(array)
    peak = float(np.max(magnitudes))
    if np.isfinite(peak):
        return peak
    return float(np.max(magnitudes, where=np.isfinite(magnitudes), initial=0.0))
