"""Cut a part out of a model: the ops between the values that are named.

Names are those of inputs, outputs and values in between, as the model has them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UsageError
from ..exporter import save
from ..extract import extract
from ..importer import load
from ..output import check_destination, files_of
from ..pipeline import count_ops
from .arguments import add_output, pairs, say, split


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("model", type=Path, metavar="MODEL")
    add_output(parser, "where to write (default: MODEL.part.onnx)")
    parser.add_argument(
        "--inputs", metavar="A,B", help="values that become inputs (default: its own)"
    )
    parser.add_argument(
        "--outputs", metavar="C", help="values that become outputs (default: its own)"
    )
    parser.add_argument(
        "--rename",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="another name for an input or output of the part",
    )


def run(options: argparse.Namespace) -> int:
    """Load, cut, write."""
    source: Path = options.model
    target: Path = options.output or source.with_name(f"{source.stem}.part.onnx")
    check_destination(target, source, overwrite=options.force, inputs=files_of(source))
    rename = pairs(options.rename, _renaming)
    graph = load(source)
    part = extract(
        graph,
        None if options.inputs is None else split(options.inputs),
        None if options.outputs is None else split(options.outputs),
        rename,
    )
    save(part, target)
    inputs = {p.name: str(p.type) for p in part.inputs}
    outputs = {
        name: str(value.type)
        for name, value in zip(part.output_names, part.outputs, strict=True)
    }
    lines = [f"{target}: {count_ops(part)} of {count_ops(graph)} ops"]
    lines += [f"  input {name}: {type_}" for name, type_ in inputs.items()]
    lines += [f"  output {name}: {type_}" for name, type_ in outputs.items()]
    say(options, lines, output=str(target), inputs=inputs, outputs=outputs)
    return 0


def _renaming(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not (old and equals and new):
        raise UsageError(f"cannot read {text!r}; write OLD=NEW")
    return old, new
