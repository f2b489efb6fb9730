"""Time models against each other, on the same inputs.

Runs are interleaved in random order. Ratios to the first model are taken within each
round; their median is given with the interval that covers it with 95 %. They are of
CPU time, of all threads, with the wall time beside it; on GPUs and TPUs they are of
wall time, with the way there and back. The control is the first model, opened once
more: as far as its ratio misses 1, no difference means anything. A model whose outputs
are not those of the first one is marked with "!".

Symbolic dims without a --dim are 1 for a batch, 224 for sides of pictures, else 128, or
what the model runs on.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bench import Clock, Timing, clock_of, measure, threads_of
from ..dim_names import shown
from ..errors import UsageError
from ..importer import load
from ..interface import is_program, read_interface
from ..report import table
from .arguments import (
    add_inputs,
    add_sizes,
    add_target,
    heed_strict,
    natural,
    say,
    target_of,
)
from .feeding import asked_sizes, feeding, told
from .progress import Progress
from .run import check_runs, choose_target

if TYPE_CHECKING:
    from ..profile import Profile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    add_target(parser, None, "ort-cpu; of programs, xla-cpu")
    parser.add_argument(
        "--rounds", type=int, default=30, metavar="N", help="runs of each (default: 30)"
    )
    parser.add_argument(
        "--threads",
        type=natural,
        metavar="N",
        help="of ort-cpu (default: 1; 0: as many as there are), others take all",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="of ort-cpu: the time of each kind of op and of the slowest nodes, with"
        " the nodes of the first model that they stand for",
    )
    add_sizes(parser, "size of a symbolic dim in random inputs")
    add_inputs(parser)


def run(options: argparse.Namespace) -> int:
    """Load all, warm up, measure, print."""
    heed_strict(options)
    if options.rounds < 1:
        raise UsageError("at least one round is needed")
    choose_target(options, options.models, "ort-cpu")
    threads, clock = (
        threads_of(options.target, options.threads),
        clock_of(options.target),
    )
    if options.profile and options.target != "ort-cpu":
        raise UsageError(
            f"--profile is for ort-cpu: {options.target} gives no times by node"
        )
    target_of(options)  # what is missing is said first
    for model in options.models:
        check_runs(model, options.target)
    refuse_others(options.models)
    with Progress(options) as progress:

        def timed(fed: Mapping[str, Any]) -> list[Timing]:
            return measure(
                [*options.models, options.models[0]],
                fed,
                target=options.target,
                precision=options.precision,
                rounds=options.rounds,
                threads=threads,
                seed=options.seed,
                progress=progress,
            )

        (*timings, control), fed, sizes = feeding(
            options, options.models[0], timed, timed=True
        )
        profiles = []
        if options.profile:
            progress("profiling")
            profiles = _profiled(options, fed, threads)
    shapes = {n: list(getattr(a, "shape", ())) for n, a in fed.items()}
    said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    who = "1 thread" if threads == 1 else f"{threads or 'all'} threads"
    head = f"{options.target}, {who}, {options.rounds} rounds; {said}"
    given = asked_sizes(options, options.models[0])
    unasked = {shown(n): size for n, size in sizes.items() if n not in given}
    sizes = {shown(name): size for name, size in sizes.items()}
    say(
        options,
        [
            *(
                head,
                *told(unasked, "sizes that nobody gave"),
                "",
                *_lines(timings, control, clock),
            ),
            *(line for found in profiles for line in ("", *found.lines())),
        ],
        inputs=shapes,
        sizes=sizes,
        default_sizes=list(unasked),
        target=options.target,
        threads=threads,
        clock=clock.lower(),
        rounds=options.rounds,
        models=[_members(t) for t in timings],
        control=_members(control),
        **({"profiles": [p.to_json() for p in profiles]} if options.profile else {}),
    )
    return 0


def refuse_others(models: Sequence[Path]) -> None:
    """Raises UsageError for a model with other inputs than the first.

    Those with a default may be there or not.
    """
    first, *others = dict.fromkeys(models)
    if not others:
        return
    needed, known = _inputs(first)
    for model in others:
        wanted, taken = _inputs(model)
        if new := wanted - known:
            raise UsageError(f"{model} has other inputs: {', '.join(sorted(new))}")
        if lost := needed - taken:
            raise UsageError(f"{model} lacks inputs: {', '.join(sorted(lost))}")


def _inputs(model: Path) -> tuple[set[str], set[str]]:
    """The names of the inputs that a model must be given, and of all that it takes."""
    if is_program(model):
        interface = read_interface(model)
        needed = {port.name for port in interface.inputs}
        return needed, needed | {*interface.fixed, *interface.overridable}
    inputs = load(model).inputs
    return {p.name for p in inputs if p.default is None}, {p.name for p in inputs}


def _profiled(
    options: argparse.Namespace, fed: Mapping[str, Any], threads: int
) -> list[Profile]:
    from ..profile import profile  # which needs the runtime

    return profile(options.models, fed, load(options.models[0]), threads=threads)


def _lines(timings: Sequence[Timing], control: Timing, clock: Clock) -> Iterator[str]:
    """The table, and what is wrong with the outputs."""
    beside = clock == "CPU"
    wall = ["wall ms"] if beside else []
    rows = [("model", f"{clock} ms", *wall, f"{clock} ratio", "95 % interval")]
    known = not control.differs
    named = [(f"!{t.model}" if known and t.differs else t.model, t) for t in timings]
    rows += [
        (
            name,
            f"{1000 * t.seconds:.3f}",
            *([f"{1000 * t.wall:.3f}"] if beside else []),
            f"{t.ratio:.3f}",
            f"[{t.low:.3f}, {t.high:.3f}]",
        )
        for name, t in [*named, ("control", control)]
    ]
    yield from table(rows)
    if not known:
        yield "the first model gives something else each time: no outputs are compared"
    elif marked := sum(t.differs for t in timings):
        yield f"!{marked} of them compute something else than the first"


def _members(timing: Timing) -> dict[str, Any]:
    """A timing as JSON; a difference that is no number is null."""
    apart = timing.difference if math.isfinite(timing.difference) else None
    return {**vars(timing), "difference": apart, "differs": timing.differs}
