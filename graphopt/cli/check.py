"""Compare two models numerically, against a float64 run of the first.

Both run on the same inputs in the NumPy reference. Exit code 4 where they differ.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..check import MODES, check
from ..divergence import Divergence, first_divergence
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
    parser.add_argument(
        "--by-value",
        action="store_true",
        help="where they differ, name the first value of A that does",
    )
    add_inputs(parser)


def run(options: argparse.Namespace) -> int:
    """Load both, compare, print."""
    before, after = load(options.before), load(options.after)
    inputs, first = read_arrays(options.inputs), None
    with Progress(options) as progress:
        progress("comparing")
        found = check(
            before,
            after,
            inputs=inputs,
            seed=options.seed,
            mode=options.mode,
            exact=options.exact,
        )
        if options.by_value and not found.passed:
            progress("looking for the first value that differs")
            first = first_divergence(before, after, inputs=inputs, seed=options.seed)
    lines = str(found).splitlines()
    members = check_to_json(found)
    if options.by_value:
        lines += list(_told(first, found.passed))
        members["first"] = None if first is None else _json(first)
    say(options, lines, **members)
    return 0 if found.passed else CheckFailed.exit_code


def _told(first: Divergence | None, passed: bool) -> Iterator[str]:
    if first is not None:
        where = f", {first.op}" if first.op else ""
        yield (
            f"first value that differs: {first.name}{where}: {first.check.note},"
            f" error {first.check.max_error:.3g}"
        )
        yield f"({first.compared} values before it are the same)"
    elif not passed:
        yield "no value that both models name differs on the inputs that were tried"


def _json(first: Divergence) -> dict[str, Any]:
    return {"name": first.name, "op": first.op, "values_before": first.compared}
