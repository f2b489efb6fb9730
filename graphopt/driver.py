"""The composition root: from a target and a level to a pipeline, and around it.

The driver loads, specializes, runs the pipeline, verifies, keeps the better of original
and result, and checks. Passes know nothing of all this.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .bisect import Culprit, culprit
from .debug import timed, verifies
from .dim_names import inside, named
from .errors import CheckFailed, UsageError
from .explain import misses
from .exporter import Wanted, choose_opset, opset_of, with_opset
from .exporter.storage import Weights
from .files import file_named
from .importer import load
from .ir import Graph
from .levels import RUNTIMES as RUNTIMES, Fuse, choose as choose
from .lowering import Executable, find as find_target, known_targets, refuse_open
from .lowering.xla.platforms import (
    PLATFORMS as PLATFORMS,
    precision_of,
    refuse_described,
)
from .pipeline import Pass, PassRecord, Pipeline
from .plan import Plan
from .provenance import place
from .report import (
    Change,
    Missed,
    Report,
    changes,
    reason_to_keep,
    weight_bytes,
)
from .specialize import Specialized, frozen, specialize
from .tuning import Tune
from .verify import element_types, verify

if TYPE_CHECKING:
    from .check import CheckResult
    from .fitted import Limits
    from .passes.tiling import Tile

TARGETS: Final = ("onnx", *RUNTIMES, "xla-cpu", "xla-cuda", "xla-tpu")
"""What `optimize` can write for; `graphopt.lowering.targets` are those that can run."""


@dataclass(frozen=True)
class Checking:
    """How a result is compared with its original; see `graphopt.check.check`."""

    mode: str = "auto"
    inputs: Mapping[str, Any] | None = None
    seed: int = 0
    budget: float = 0.0
    keep_io: bool = True
    also: Mapping[str, int] = field(default_factory=dict)

    @property
    def wanted(self) -> bool:
        """False where nothing is to be run."""
        return self.mode != "off"

    def compare(self, before: Graph, after: Graph) -> CheckResult:
        """The comparison of two graphs."""
        from .check import check  # with all that runs a graph: only where one is run

        if not self.keep_io:
            from .passes.precision.narrowing import with_interface_of

            after = with_interface_of(before, after)
        with timed("comparing with the original"):
            return check(
                before,
                after,
                mode=self.mode,
                inputs=self.inputs,
                seed=self.seed,
                budget=self.budget,
                declared=True,
                also=self.also,
            )


@dataclass(frozen=True)
class Result:
    """An optimized graph, and what it must equal: ``special``, the original as it was
    specialized. ``origin`` is the file that it came from. Where memory has a limit,
    dims without a name are symbols in both, which no file states (`graphopt.unnamed`).
    """

    graph: Graph
    special: Specialized
    plan: Plan
    report: Report
    pipeline: Pipeline
    checking: Checking
    origin: Path | None = None
    opset: Wanted = None
    precision: str | None = None

    def __str__(self) -> str:
        return str(self.report)

    @property
    def original(self) -> Graph:
        """The graph before any pass."""
        return self.special.graph

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        weights: Weights = "auto",
        bake: bool = False,
        overwrite: bool = False,
    ) -> Result:
        """Write the model, whole or not at all; the result with the final report.

        What is about to be written is read back and checked first. For an XLA target
        it is a program, NAME.stablehlo, with the weights in NAME.safetensors or, if
        ``bake``, inside. Raises UsageError where ``path`` is the original, cannot be
        written, or exists, unless ``overwrite`` is given, and CheckFailed; for a
        program what `lowering.to_program` raises.
        """
        file = file_named(path)
        if self.report.target in PLATFORMS:
            from .programs import put_program_in_place

            return put_program_in_place(self, file, bake=bake, overwrite=overwrite)
        from .output import put_in_place  # which needs results

        return put_in_place(self, file, weights=weights, overwrite=overwrite)

    def compile(self, target: str | None = None) -> Executable:
        """The graph, ready to run: in ONNX Runtime where installed, else the reference.

        Raises UsageError for an unknown target, BackendMissing.
        """
        if target is None:
            import importlib.util

            installed = importlib.util.find_spec("onnxruntime") is not None
            target = "ort-cpu" if installed else "reference"
        return find_target(target).compile(self.graph, self.plan)

    def checked(self) -> Result:
        """The result after its graph was compared with the original.

        Raises CheckFailed, which names the pass and the op that broke it.
        """
        if not self.checking.wanted:
            return self
        found = self.checking.compare(self.original, self.graph)
        if not found.passed:
            raise self.blamed(found)
        return dataclasses.replace(
            self, report=dataclasses.replace(self.report, check=found)
        )

    def blamed(self, found: CheckResult) -> DifferentResults:
        """The error for a failed check, with the pass and op that it goes back to."""

        def broken(graph: Graph) -> bool:
            return not self.checking.compare(self.original, graph).passed

        guilty = culprit(self.original, self.pipeline, broken)
        return DifferentResults(found, guilty)


class DifferentResults(CheckFailed):
    """A check of an optimized graph failed: what differs, and who is to blame."""

    def __init__(self, check: CheckResult, guilty: Culprit | None) -> None:
        try:
            check.raise_if_failed()
            message = ""
        except CheckFailed as error:
            message = error.message
        super().__init__(
            f"the optimized model computes something else: {message}",
            where=None if guilty is None else str(guilty),
        )
        self.check = check


def optimize(
    source: Graph | str | os.PathLike[str],
    target: str = "onnx",
    *,
    level: int = 2,
    passes: Iterable[str | Pass] | None = None,
    add: Iterable[str | Pass] = (),
    skip: Iterable[str] = (),
    check: str = "auto",
    opset: Wanted = None,
    dims: Mapping[str, int | str] | None = None,
    input_shapes: Mapping[str, Sequence[int | str]] | None = None,
    freeze: bool = False,
    inputs: Mapping[str, Any] | None = None,
    seed: int = 0,
    precision: str | None = None,
    budget: float = 0.0,
    keep_io: bool = True,
    fuse: Fuse = "auto",
    tune: bool | Tune = False,
    max_memory: int | str | None = None,
    max_activations: int | str | None = None,
    memory_sizes: Mapping[str, int] | None = None,
) -> Result:
    """A graph, or the model in a file, made better for ``target``, and checked.

    ``target`` is one of `TARGETS`: a model for any runtime, one for ONNX Runtime, with
    ops of its own, or a program for XLA. ``fuse`` "max" makes, for ONNX Runtime, every
    op that it has a kernel for; "auto" leaves out those that are slower than their
    parts.
    ``level`` is 0 (nothing), 1 (exact rules) or 2 (also rules that change rounding).
    ``passes`` are the only ones, ``add`` and ``skip`` change the default ones; a pass
    is an object or ``"name(option=value)"``. ``check`` is auto, full, regions or off.
    ``opset`` is the version to write: a number, "latest", "keep", or None for the
    source's wherever that can express the result. ``dims`` and ``input_shapes``: see
    `graphopt.specialize`. ``freeze`` makes constants of initializers that callers could
    override, and so changes the interface. ``inputs`` are arrays for the check, by
    name, instead of random ones from ``seed``. ``precision`` of a program's float32
    products is "fp32", or the target's own: on a TPU operands are rounded to bfloat16.
    ``tune`` measures other pipelines, for ONNX Runtime, and keeps what wins.
    A model becomes "fp16", "bf16" or "mixed" (products in float16) where the error
    allows: ``budget``, a share of each output's largest number, and else 16 roundings.
    Its inputs and outputs stay float32, unless ``keep_io`` is false.
    ``max_memory`` is what a run may hold at its peak, in bytes or as "512MiB": weights,
    inputs, outputs and activations; ``max_activations`` is for the last alone. Ops are
    put in order and run in tiles until that is kept to, with ``memory_sizes`` of
    symbolic dims, which stay symbolic; usual ones for others.

    Raises UsageError, InvalidModel, UnsupportedModel, CheckFailed, and DoesNotFit.
    """
    result = improve(
        source,
        target,
        choose(
            level=level, passes=passes, add=add, skip=skip, target=target, fuse=fuse
        ),
        level=level,
        opset=opset,
        dims=dims,
        input_shapes=input_shapes,
        freeze=freeze,
        checking=Checking(check, inputs, seed),
        precision=precision,
        tune=Tune() if tune is True else tune or None,
        budget=budget,
        keep_io=keep_io,
        limits=limits_of(max_memory, max_activations, memory_sizes),
    )
    return result.checked()


def limits_of(
    memory: int | str | None,
    activations: int | str | None,
    sizes: Mapping[str, int] | None = None,
) -> Limits | None:
    """Limits, in bytes or as "512MiB"; None for none. Raises UsageError."""
    if memory is None and activations is None:
        if sizes:
            raise UsageError("memory sizes are of a limit, and there is none: add one")
        return None
    from .fitted import Limits

    return Limits.of(memory, activations, sizes)


def improve(
    source: Graph | str | os.PathLike[str],
    target: str,
    pipeline: Pipeline,
    *,
    level: int = 2,
    opset: Wanted = None,
    dims: Mapping[str, int | str] | None = None,
    input_shapes: Mapping[str, Sequence[int | str]] | None = None,
    freeze: bool = False,
    checking: Checking | None = None,
    precision: str | None = None,
    tune: Tune | None = None,
    budget: float = 0.0,
    keep_io: bool = True,
    limits: Limits | None = None,
    writes: bool = False,
) -> Result:
    """What `optimize` does, but for the check.

    ``writes``: the result is to be saved, so what is no program is refused before its
    memory is planned.
    """
    began = time.process_time()
    require_target(target)
    if tune is not None and target not in RUNTIMES:
        raise UsageError(f"tuning (--tune) is for {' and '.join(RUNTIMES)}")
    checking = checking or Checking()
    narrow = None
    if target in PLATFORMS:
        precision_of(target, precision)  # which says what is wrong with it
    elif precision is not None:
        from .narrowed import narrowing, put

        narrow = narrowing(
            *(precision, target, budget, keep_io, checking.inputs, checking.seed)
        )
    if narrow is None and (budget or not keep_io):
        raise UsageError("a budget and keep_io=False are of narrow models alone")
    origin = None if isinstance(source, Graph) else Path(source).absolute()
    with timed("import"):
        given = source if isinstance(source, Graph) else load(source)
    # For what was just read, all other rules hold.
    verify(given, only=None if given is source else (element_types,))
    special = specialize(frozen(given) if freeze else given, dims, input_shapes)
    changed = special.graph is not given
    if limits is not None:
        sizes = inside(limits.sizes, special.graph, given)
        limits = dataclasses.replace(limits, sizes=sizes)
        special = dataclasses.replace(special, graph=named(special.graph))
    original = special.graph
    notes = [f"{who} now follows its operand" for who in special.followed]
    notes += said_of_equals(given)
    notes += _said_of_defaults(given, freeze, target)
    if special.freed and checking.wanted:
        notes.append(_tried(given, special, checking.seed))
    start = with_opset(original, opset)
    if opset is not None:  # then rules must do with that one
        limit = min(pipeline.opset, opset_of(start))
        pipeline = dataclasses.replace(pipeline, opset=limit)
    tuning = None
    if tune is not None:
        from .rivals import tuned  # with all that runs a model

        pipeline, tuning = tuned(
            start, pipeline, target, tune, checking, opset=opset, worse=reason_to_keep
        )

    def made(pipeline: Pipeline) -> tuple[Graph, list[PassRecord]]:
        with timed("passes"):
            return pipeline.run(start, verify=verify if verifies() else None)

    graph, records = made(pipeline)
    never = (*special.forbidden, *(why for record in records for why in record.never))
    if never and target == "onnx" and changed:
        raise UsageError(
            f"with these dims one branch cannot run: {never[0]}; ONNX Runtime refuses"
            " such a model, whichever branch is taken: leave the dim symbolic, or write"
            " for an XLA target with --inputs (inputs=… in Python) that take the other"
        )
    notes += [f"cannot run: {why}" for why in dict.fromkeys(never)]
    if not pipeline.trading and (
        worse := reason_to_keep(
            start, graph, pipeline.growth, pipeline.unrolled(records)
        )
    ):
        graph = start
        notes.append(f"kept the original: {worse}")
    elif graph is start and not changed and narrow is None:
        notes.append("nothing to do")
    elif target in RUNTIMES:
        from .lowering.ort.costs import slower  # only for that runtime

        fired = sum((Counter(record.fired) for record in records), Counter[str]())
        notes += slower(fired, target.removeprefix("ort-"))
    if narrow is not None:
        checking = dataclasses.replace(checking, budget=narrow.allowed, keep_io=keep_io)
        graph, record, said = put(narrow, graph, target, opset)
        records.append(record)
        notes += said
    fitted = None
    if limits is not None:
        from .limits import counting, fitted_to, with_tiles  # all that plans memory

        @functools.cache
        def untiled(first: Pipeline) -> Graph:
            return made(first)[0]

        def remade(tile: Tile) -> Graph:
            first, then = with_tiles(pipeline, tile, target).split()
            with timed("passes"):
                check = verify if verifies() else None
                tiled, _ = then.run(untiled(first), verify=check)
            return tiled if narrow is None else put(narrow, tiled, target, opset)[0]

        if writes and target in PLATFORMS:
            refuse_open(graph, target, checking.inputs, precision)
        with counting(target, precision) as counter:
            asked = limits, graph, original, target, remade, counter
            fitted = fitted_to(*asked, rounding=level > 1)
        graph = fitted.graph
        checking = dataclasses.replace(checking, also=fitted.lapping)
        if fitted.tile is not None:
            pipeline = with_tiles(pipeline, fitted.tile, target)
    if narrow is not None:
        pipeline = pipeline.followed(narrow)
    written = choose_opset(graph, opset)
    if written.forced_by is not None:
        who = place(graph, written.forced_by)
        notes.append(f"opset {written.version} is needed for {who}")
    report = Report(
        target=target,
        level=level,
        kinds=changes(original, graph),
        passes=tuple(records),
        bytes=Change(weight_bytes(given), weight_bytes(graph)),
        opset=Change(opset_of(given), written.version),
        seconds=time.process_time() - began,
        notes=tuple(notes),
        tuning=tuning,
        memory=fitted,
        input=None if isinstance(source, Graph) else os.fspath(source),
    )
    return Result(
        graph,
        special,
        Plan() if fitted is None else fitted.decided,
        report,
        pipeline,
        checking,
        origin,
        opset,
        precision,
    )


def require_target(target: str) -> None:
    """Raises UsageError for what `optimize` cannot write for."""
    if target not in TARGETS:
        refuse_described(target)
        raise UsageError(f"unknown target {target!r}{known_targets(target, TARGETS)}")


def said_of_equals(given: Graph) -> list[str]:
    """Equal nodes are one op from the start; other tools count them all."""
    work = [(graph, op) for graph, op in given.walk() if op.constant is None]
    nodes = sum(max(1, len(graph.sources.get(op, ()))) for graph, op in work)
    equal = nodes - len(work)
    return [f"{equal} of {nodes} nodes equal others, and count once"] if equal else []


def _said_of_defaults(given: Graph, freeze: bool, target: str) -> list[str]:
    """What became of the initializers that callers may override."""
    count = sum(p.default is not None for p in given.inputs)
    if not count:
        return []
    if freeze:
        return [f"{count} initializers can no longer be overridden by callers"]
    if target in PLATFORMS:
        return [
            f"{count} initializers are inputs too: in a program they are weights, and"
            " fixed where they decide shapes (--freeze makes them constants)"
        ]
    return [
        f"{count} initializers are inputs too: callers may override them, so they are"
        " not folded (--freeze makes them constants)"
    ]


def _tried(given: Graph, special: Specialized, seed: int) -> str:
    from .freed import try_sizes  # which runs graphs; most are not freed

    return try_sizes(given, special, seed)


def missed(result: Result) -> tuple[Missed, ...]:
    """What rules of the pipeline could not do, and why not; all passes run again."""
    start = with_opset(result.original, result.opset)
    found: dict[tuple[str, str], dict[str, None]] = {}
    for event in misses(start, result.pipeline):
        found.setdefault((event.rule, event.reason), {})[event.op] = None
    return tuple(
        Missed(rule, reason, tuple(ops)) for (rule, reason), ops in found.items()
    )
