"""Find the pass, the rule and the op that break a model.

Where the optimized model computes something else, the first step that makes the
difference is found, and the smallest part of the model that shows it is written.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..bisect import culprit, smallest
from ..driver import Checking
from ..exporter import save
from ..importer import load
from ..ir import Graph
from ..output import check_destination, files_of
from ..pipeline import count_ops
from ..specialize import parse_dim, parse_shape, specialize
from .arguments import (
    add_dims,
    add_inputs,
    add_output,
    add_pipeline,
    pairs,
    pipeline_of,
    read_arrays,
    say,
)
from .progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("model", type=Path, metavar="MODEL")
    add_output(parser, "where to write the failing part (default: MODEL.bisect.onnx)")
    add_pipeline(parser)
    add_dims(parser)
    add_inputs(parser)


def run(options: argparse.Namespace) -> int:
    """Search, and write what was found."""
    source: Path = options.model
    target: Path = options.output or source.with_name(f"{source.stem}.bisect.onnx")
    check_destination(
        target, source, overwrite=options.force, inputs=files_of(source, options.inputs)
    )
    pipeline = pipeline_of(options)
    graph = specialize(
        load(source),
        pairs(options.dim, parse_dim),
        pairs(options.input_shape, parse_shape),
    ).graph
    checking = Checking("auto", read_arrays(options.inputs, source), options.seed)
    alone = Checking("auto", None, options.seed)  # a part has inputs of its own
    with Progress(options) as progress:
        progress("looking for the step that breaks the model")
        found = culprit(
            graph, pipeline, lambda made: not checking.compare(graph, made).passed
        )
        if found is None:
            say(
                options,
                ["nothing to find: the optimized model computes the same"],
                found=None,
            )
            return 0

        def differs(before: Graph, after: Graph) -> bool:
            return not alone.compare(before, after).passed

        progress("looking for the smallest part that shows it")
        part = smallest(found, differs)
    failing = found.before if part is None else part
    save(failing, target)
    say(
        options,
        [str(found), f"written to {target}: {count_ops(failing)} ops"],
        found={
            "pass": str(found.pass_),
            "rule": found.rule or None,
            "op": found.place or None,
        },
        output=str(target),
    )
    return 0
