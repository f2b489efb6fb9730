"""Time models against each other, on the same inputs.

Runs are interleaved in random order. Ratios to the first model are taken within each
round; their median is given with the interval that covers it with 95 %. They are of
CPU time, of all threads, with the wall time beside it; on GPUs and TPUs they are of
wall time, with the way there and back.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..bench import Timing, clock_of, measure, threads_of
from ..errors import UsageError
from ..report import table
from .arguments import (
    add_inputs,
    add_sizes,
    add_target,
    natural,
    say,
    target_of,
)
from .feeding import feeding, told
from .progress import Progress
from .run import check_runs, choose_target


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
    add_sizes(parser, "size of a symbolic dim in random inputs")
    add_inputs(parser)


def run(options: argparse.Namespace) -> int:
    """Load all, warm up, measure, print."""
    if options.rounds < 1:
        raise UsageError("at least one round is needed")
    choose_target(options, options.models, "ort-cpu")
    threads, clock = (
        threads_of(options.target, options.threads),
        clock_of(options.target),
    )
    target_of(options)  # what is missing is said first
    for model in options.models:
        check_runs(model, options.target)
    with Progress(options) as progress:

        def timed(fed: Mapping[str, Any]) -> list[Timing]:
            return measure(
                options.models,
                fed,
                target=options.target,
                precision=options.precision,
                rounds=options.rounds,
                threads=threads,
                seed=options.seed,
                progress=progress,
            )

        timings, fed, sizes = feeding(options, options.models[0], timed)
    beside = clock == "CPU"
    wall = ["wall ms"] if beside else []
    rows = [("model", f"{clock} ms", *wall, f"{clock} ratio", "95 % interval")]
    rows += [
        (
            t.model,
            f"{1000 * t.seconds:.3f}",
            *([f"{1000 * t.wall:.3f}"] if beside else []),
            f"{t.ratio:.3f}",
            f"[{t.low:.3f}, {t.high:.3f}]",
        )
        for t in timings
    ]
    shapes = {n: list(getattr(a, "shape", ())) for n, a in fed.items()}
    said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    who = "1 thread" if threads == 1 else f"{threads or 'all'} threads"
    head = f"{options.target}, {who}, {options.rounds} rounds; {said}"
    say(
        options,
        [head, *told(sizes), "", *table(rows)],
        inputs=shapes,
        target=options.target,
        threads=threads,
        clock=clock.lower(),
        rounds=options.rounds,
        models=[vars(t) for t in timings],
    )
    return 0
