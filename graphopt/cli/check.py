"""Compare two models numerically, against a float64 run of the first.

Both run on the same inputs in the NumPy reference, and in ONNX Runtime, if that is
installed, where it could not compare an output. Exit code 4 where an output differs, or
could not be compared at all.

With --target, B is also run there, and compared with A in the reference; B may then be
left out, and A is held against itself. A or B may be a folder of stages: these are put
together, and those of B also run one after the other, where their devices are there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..artifact import Artifact, Feed, run_in, try_out, try_program
from ..check import MODES, check
from ..check.difference import Difference, first_difference
from ..errors import (
    BackendMissing,
    CheckFailed,
    InvalidModel,
    UnsupportedModel,
    UsageError,
)
from ..importer import load
from ..inputs import bindings
from ..ir import Graph
from ..ops import Opaque
from ..ops.random import is_random
from ..provenance import place
from ..report import Trial, check_to_json, trial_line
from .arguments import (
    add_inputs,
    add_sizes,
    add_target,
    heed_strict,
    read_arrays,
    say,
    sizes_of,
    target_of,
)
from .progress import Progress
from .run import is_staged


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("before", type=Path, metavar="A")
    parser.add_argument("after", type=Path, metavar="B", nargs="?")
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
    add_target(parser, None)
    add_sizes(parser, "size of a symbolic dim in random inputs (default: several)")
    add_inputs(parser)


def run(options: argparse.Namespace) -> int:
    """Load both, compare, print."""
    heed_strict(options)
    if options.after is None and options.target is None:
        raise UsageError("give a second model, or a --target to run this one in")
    target = None if options.target is None else target_of(options)
    if options.after is None:
        options.after = options.before
    before, after = _model(options.before), _model(options.after)
    stages = is_staged(options.after)
    if stages and target is not None and not target.name.startswith("ort-"):
        raise UsageError(
            f"{options.after} holds stages for ONNX Runtime: leave out --target, or"
            " name ort-cpu"
        )
    inputs, first = read_arrays(options.inputs, options.before), None
    fixed = sizes_of(options, before, inputs)
    with Progress(options) as progress:
        progress("comparing")
        found = check(
            before,
            after,
            inputs=inputs,
            sizes=fixed,
            seed=options.seed,
            mode=options.mode,
            exact=options.exact,
        )
        trial, sizes = None, {**next(bindings(before, fixed)), **fixed}
        sizes = {**sizes, **next(iter(found.sizes), {})}
        feed = Feed(inputs, sizes, options.seed)
        if stages and found.passed:
            progress("running the stages in ONNX Runtime")
            trial = _in_stages(before, options.after, feed)
        elif target is not None and found.passed:
            progress(f"running it in {target.name}")
            trial = run_in(before, str(options.after), target, feed)
        elif found.passed and found.lost and not is_staged(options.before):
            progress("running both in ONNX Runtime")
            files = Artifact(str(options.before)), Artifact(str(options.after))
            trial = try_out(before, *files, feed)
        if options.by_value and not found.passed:
            progress("looking for the first value that differs")
            first = first_difference(
                before, after, inputs=inputs, sizes=fixed, seed=options.seed
            )
    lines = str(found).splitlines()
    members = check_to_json(found)
    verdict = None if found.passed and found.lost else found.passed
    if trial is not None:
        lines.append(trial_line(trial))
        verdict = trial.passed
        if verdict is None and target is not None:
            raise UnsupportedModel(f"not run in {trial.runtime}: {trial.note}")
    members["runtime"] = None if trial is None else vars(trial).copy()
    members["verdict"] = verdict
    if verdict is None:
        lines.append(f"nothing is known of {', '.join(found.lost)}")
    if options.by_value:
        lines += list(_told(first, before, found.passed))
        members["first"] = None if first is None else _json(first, before)
    say(options, lines, **members)
    return 0 if verdict else CheckFailed.exit_code


def _model(path: Path) -> Graph:
    """A model, or stages put together to one. Raises as `load`, and InvalidModel."""
    if not is_staged(path):
        return load(path)
    from ..lowering.ort.stages import read

    stages = read(path)
    if any(
        is_random(op) or isinstance(op, Opaque)
        for g in stages.graphs
        for _, op in g.walk()
    ):
        raise UnsupportedModel(
            f"{path} has random or opaque ops, which stages number each by itself: they"
            " cannot be put together again",
            where=str(path),
        )
    try:
        return stages.whole
    except KeyError as error:
        raise InvalidModel(
            f"the stages do not join: nothing gives {error}", where=str(path)
        ) from None


def _in_stages(before: Graph, folder: Path, feed: Feed) -> Trial:
    """The stages of a folder, run next to the original in the reference."""
    from ..lowering.ort.stages import Pipelined

    runtime = "onnxruntime, in stages"
    try:
        trial = try_program(before, Pipelined.open(folder), [feed])
    except BackendMissing as error:
        return Trial(runtime, None, note=error.message)
    return replace(trial, runtime=runtime)


def _told(first: Difference | None, graph: Graph, passed: bool) -> Iterator[str]:
    if first is not None:
        found = first.found
        by = "" if first.before is None else f", by the {place(graph, first.before)}"
        yield f"first value that differs: {first.name}{by}"
        error, allowed = f"{found.max_error:.3g}", f"{found.tolerance:.3g}"
        yield f"  {found.note}; error {error}, allowed {allowed}"
    elif not passed:
        yield "no value that both models name differs on the inputs that were tried"


def _json(first: Difference, graph: Graph) -> dict[str, Any]:
    op = None if first.before is None else place(graph, first.before)
    return {"name": first.name, "op": op, "note": first.found.note}
