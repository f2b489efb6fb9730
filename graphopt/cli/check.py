"""Compare two models numerically, against a float64 run of the first.

Both run on the same inputs in the NumPy reference. Exit code 4 where they differ.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..check import MODES, check
from ..errors import CheckFailed
from ..importer import load
from ..report import check_to_json
from .arguments import Progress, add_inputs, read_arrays, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("before", type=Path, metavar="A")
    parser.add_argument("after", type=Path, metavar="B")
    parser.add_argument(
        "--mode",
        default="auto",
        choices=[mode for mode in MODES if mode != "off"],
        help="whole runs, region by region, or what fits the model",
    )
    parser.add_argument(
        "--exact", action="store_true", help="the outputs must have the same bits"
    )
    add_inputs(parser)


def run(options: argparse.Namespace) -> int:
    """Load both, compare, print."""
    before, after = load(options.before), load(options.after)
    with Progress(options) as progress:
        progress("comparing")
        found = check(
            before,
            after,
            inputs=read_arrays(options.inputs),
            seed=options.seed,
            mode=options.mode,
            exact=options.exact,
        )
    say(options, str(found).splitlines(), **check_to_json(found))
    return 0 if found.passed else CheckFailed.exit_code
