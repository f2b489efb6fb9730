"""Run a written model in its runtime, or in a target, next to the original."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from .check import MEMORY, SLACK
from .check.tolerance import Runs, compare, units
from .debug import timed
from .errors import BackendMissing, GraphoptError
from .feeds import bind
from .inputs import bindings, random_inputs
from .ir import Graph, Value
from .lowering import Executable, Target
from .lowering.isolated import Artifact as Artifact, run
from .ops.random import is_random
from .reference import Evaluator, clock, run as reference, schedule
from .report import Trial, on_host

RUNTIME: Final = "ONNX Runtime"
XLA: Final = "XLA on the CPU"
SECONDS: Final = 60.0
"""How long both models together may take."""

_NO_KERNEL: Final = "NOT_IMPLEMENTED"
"""The runtime's code where it has no kernel here: other devices may have one."""

Array = Any


@dataclass(frozen=True)
class Feed:
    """What both are fed with: the user's ``inputs``, or random ones of ``sizes``."""

    inputs: Mapping[str, Array] | None = None
    sizes: Mapping[str, int] | None = None
    seed: int = 0

    def arrays(self, graph: Graph) -> Mapping[str, Array]:
        """The arrays by name. Raises UsageError where none can be made."""
        if self.inputs is not None:
            return self.inputs
        sizes = self.sizes or next(iter(bindings(graph)))
        return random_inputs(graph, self.seed, sizes)


def try_out(
    graph: Graph,
    original: Artifact,
    candidate: Artifact,
    feed: Feed,
    budget: float = 0.0,
) -> Trial | None:
    """Run both files; None where the runtime is not installed.

    ``graph`` is the original's. The two agree where each output of the candidate is
    within the tolerance of `graphopt.check`, the runtime taking the reference's place,
    or within a ``budget``, a share of its largest number.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    if any(is_random(op) for _, op in graph.walk()):
        return Trial(RUNTIME, None, note="the model draws random numbers")
    try:
        inputs = feed.arrays(graph)
    except GraphoptError as error:
        return Trial(RUNTIME, None, note=str(error))
    with timed(f"running both in {RUNTIME}"):
        before, after = run([original, candidate], inputs, SECONDS)
    if before.outputs is None:
        return Trial(RUNTIME, None, note=f"of the original: {before.error}")
    if after.outputs is None:
        if budget and _NO_KERNEL in str(after.error):
            return Trial(RUNTIME, None, note=f"on the CPU: {after.error}")
        return Trial(RUNTIME, False, note=f"of the result only: {after.error}")
    assert after.outputs is not None
    return _compared(
        graph, inputs, RUNTIME, before.outputs, after.outputs, budget=budget
    )


def try_program(graph: Graph, program: Executable, feeds: Iterable[Feed]) -> Trial:
    """Run an exported program next to the reference, on up to two of the feeds.

    ``graph`` is the original's. It passes where each output is within the tolerance of
    `graphopt.check`; where the reference cannot run, nothing is known.
    """
    if any(is_random(op) for _, op in graph.walk()):
        return Trial(XLA, None, note="the model draws random numbers")
    deadline = clock() + SECONDS
    done: list[float] = []
    reason = ""
    for feed in feeds:
        try:
            inputs = feed.arrays(graph)
            with timed("running the original in the reference"):
                ours = _reference(graph, inputs, "native", deadline)
                truths = _reference(graph, inputs, "float64", deadline)
        except GraphoptError as error:
            reason = reason or str(error)
            continue
        try:
            with timed("compiling and running the program"):
                made = program(inputs)
        except GraphoptError as error:
            return Trial(XLA, False, note=f"of the result only: {error}")
        outputs = dict(zip(graph.output_names, ours, strict=True))
        trial = _compared(graph, inputs, XLA, outputs, made, truths)
        if not trial.passed:
            return trial
        done.append(trial.difference)
        if len(done) == 2:
            break
    if not done:
        return Trial(XLA, None, note=f"the reference does not run: {reason}")
    return Trial(XLA, True, max(done))


def run_in(graph: Graph, path: str, target: Target, feed: Feed) -> Trial:
    """The file in a target, next to the original ``graph`` in the reference.

    Raises UsageError where no inputs can be made, and what the reference raises.
    """
    if any(is_random(op) for _, op in graph.walk()):
        return Trial(target.name, None, note="the model draws random numbers")
    inputs = feed.arrays(graph)
    before = reference(graph, inputs, limit_bytes=MEMORY)
    try:
        executable = target.open(path)
        after = executable(inputs)
    except BackendMissing:
        raise
    except GraphoptError as error:
        return Trial(target.name, None, note=str(error))
    trial = _compared(graph, inputs, target.name, before, after)
    host = executable.used().get("host")
    return replace(trial, note=on_host(host)) if host and trial.passed else trial


def _compared(
    graph: Graph,
    inputs: Mapping[str, Array],
    runtime: str,
    before: Mapping[str, Array],
    after: Mapping[str, Array],
    truths: Sequence[Array] | None = None,
    *,
    budget: float = 0.0,
) -> Trial:
    """Each output against that of the original; also against its truth, if needed."""
    rounding = units(schedule(graph.outputs, graph.inputs), graph.outputs)
    largest = 0.0
    for i, (name, value) in enumerate(
        zip(graph.output_names, graph.outputs, strict=True)
    ):
        ours, theirs = before[name], after[name]
        largest = max(largest, _difference(ours, theirs))
        unit = rounding[value]
        run_ = Runs(ours, ours, theirs, unit=unit, budget=budget)
        found = compare(name, run_, SLACK)
        if not found.passed:  # the original's own error decides what is allowed
            truths = truths or _truths(graph, inputs)
            if truths is not None:
                run_ = Runs(truths[i], ours, theirs, unit=unit, budget=budget)
                found = compare(name, run_, SLACK)
        if not found.passed:
            note = f"output {name!r}: {found.note or 'differs'}"
            return Trial(runtime, False, largest, note)
    return Trial(runtime, True, largest)


def _truths(graph: Graph, inputs: Mapping[str, Array]) -> list[Array] | None:
    """The outputs in float64, where the reference can have them."""
    try:
        return _reference(graph, inputs, "float64", None)
    except GraphoptError:
        return None


def _reference(
    graph: Graph, inputs: Mapping[str, Array], precision: str, deadline: float | None
) -> list[Array]:
    """The outputs in the reference. Raises what it raises."""
    fed, symbols = bind(graph, inputs)
    evaluator = Evaluator(
        precision=precision,
        limit_bytes=MEMORY,
        seed=0,
        symbols=symbols,
        deadline=deadline,
    )
    env: dict[Value, Array] = {v: evaluator.adopt(a) for v, a in fed.items()}
    return evaluator.run(graph.outputs, env)


def _difference(a: Array, b: Array) -> float:
    """The largest difference as a share of the largest number; 0 where none is."""
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        return 0.0
    if a.shape != b.shape or a.dtype == object or not a.size:
        return 0.0
    x, y = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        scale = np.nanmax(np.abs(np.where(np.isfinite(x), x, 0.0)))
        apart = np.abs(x - y)
    finite = apart[np.isfinite(apart)]
    return float(finite.max() / scale) if finite.size and scale else 0.0
