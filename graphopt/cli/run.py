"""Run a model on arrays: in the NumPy reference, in ONNX Runtime or in XLA.

Arrays go in and come out by name, in .npz files. Without --inputs, random arrays are
made that fit the model.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..files import atomic_write
from ..importer import load
from ..inputs import random_inputs
from ..interface import is_program, read_interface
from ..output import check_destination, files_of
from .arguments import (
    add_inputs,
    add_output,
    add_sizes,
    add_target,
    read_arrays,
    say,
    sizes_of,
    target_of,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("model", type=Path, metavar="MODEL")
    add_output(parser, "write the outputs to this .npz file")
    add_target(parser, "reference")
    add_sizes(parser, "size of a symbolic dim in random inputs")
    add_inputs(parser)


def run(options: argparse.Namespace) -> int:
    """Feed the model, run it, write or print what comes out."""
    if options.output is not None:
        check_destination(
            options.output,
            options.model,
            overwrite=options.force,
            data=False,
            inputs=files_of(options.model, options.inputs),
        )
    target = target_of(options)
    check_runs(options.model, options.target)
    executable = target.open(options.model)
    outputs = executable(feeds(options, options.model))
    if options.output is not None:
        _write(options.output, outputs)
    rows = {name: _described(value) for name, value in outputs.items()}
    lines = [f"{name}: {row['type']}  {row['values']}" for name, row in rows.items()]
    written = None if options.output is None else str(options.output)
    say(options, lines, output=written, outputs=rows, used=dict(executable.used()))
    return 0


def check_runs(model: Path, target: str) -> None:
    """Raises UsageError for a program and a target that is not XLA's."""
    if is_program(model) and not target.startswith("xla-"):
        raise UsageError(
            f"{model} is a program for XLA, which {target} does not run; name an XLA"
            " target, as --target xla-cpu"
        )


def feeds(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    """The arrays that the user gave, or random ones."""
    given = read_arrays(options.inputs, model)
    if given is not None:
        return given
    graph = read_interface(model).graph() if is_program(model) else load(model)
    return random_inputs(graph, options.seed, sizes_of(options, graph))


def _write(path: Path, outputs: Mapping[str, Any]) -> None:
    for name, value in outputs.items():
        if not isinstance(value, np.ndarray):
            raise UsageError(f"the output {name!r} is no array; .npz cannot hold it")
    plain = {
        name: value.astype(str) if value.dtype == object else value
        for name, value in outputs.items()
    }
    atomic_write(path, lambda file: np.savez(file, **plain))


def _described(value: Any) -> dict[str, str]:
    if not isinstance(value, np.ndarray):
        return {"type": type(value).__name__, "values": f"{value!r:.60}"}
    text = np.array2string(value, threshold=8, edgeitems=3, precision=5)
    return {
        "type": f"{value.dtype}{list(value.shape)}",
        "values": " ".join(text.split())[:80],
    }
