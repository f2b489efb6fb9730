"""Time models against each other, on the same inputs.

Runs are interleaved in random order. Ratios to the first model are taken within each
round; their median is given with the interval that covers it with 95 %.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..bench import measure
from ..errors import UsageError
from ..report import table
from .arguments import Progress, add_inputs, add_sizes, add_target, say, target_of
from .run import check_runs, feeds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    add_target(parser, "ort-cpu")
    parser.add_argument(
        "--rounds", type=int, default=30, metavar="N", help="runs of each (default: 30)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="0: as many as there are"
    )
    add_sizes(parser, "size of a symbolic dim in random inputs")
    add_inputs(parser)


def run(options: argparse.Namespace) -> int:
    """Load all, warm up, measure, print."""
    if options.rounds < 1:
        raise UsageError("at least one round is needed")
    target_of(options)  # what is missing is said first
    for model in options.models:
        check_runs(model, options.target)
    fed = feeds(options, options.models[0])
    with Progress(options) as progress:
        timings = measure(
            options.models,
            fed,
            target=options.target,
            precision=options.precision,
            rounds=options.rounds,
            threads=options.threads,
            seed=options.seed,
            progress=progress,
        )
    rows = [("model", "CPU ms", "ratio", "95 % interval")]
    rows += [
        (
            t.model,
            f"{1000 * t.seconds:.3f}",
            f"{t.ratio:.3f}",
            f"[{t.low:.3f}, {t.high:.3f}]",
        )
        for t in timings
    ]
    shapes = {n: list(getattr(a, "shape", ())) for n, a in fed.items()}
    said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    threads = options.threads or "all"
    head = f"{options.target}, {threads} threads, {options.rounds} rounds; {said}"
    say(
        options,
        [head, "", *table(rows)],
        inputs=shapes,
        target=options.target,
        threads=options.threads,
        rounds=options.rounds,
        models=[vars(t) for t in timings],
    )
    return 0
