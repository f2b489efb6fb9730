"""What a command feeds a model with: the user's arrays, or random ones that fit."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from ..check.running import sizes_that_run
from ..dim_names import shown
from ..errors import (
    BackendMissing,
    GraphoptError,
    InvalidModel,
    NoReference,
    UnsupportedModel,
)
from ..fitting import fitting
from ..importer import load
from ..inputs import TRIED, Sizes, bindings, likely, random_inputs, usual
from ..interface import is_program, read_interface
from ..ir import Graph
from .arguments import read_arrays, sizes_of

T = TypeVar("T")
Feeds = dict[str, Any]

_WHATEVER_SIZES: Final = (BackendMissing, InvalidModel, NoReference, UnsupportedModel)
"""Errors that other sizes would not change."""


def feeding(
    options: argparse.Namespace,
    model: Path,
    use: Callable[[Feeds], T],
    *,
    timed: bool = False,
) -> tuple[T, Feeds, Sizes]:
    """What ``use`` makes of the user's arrays or of random ones; those; `on_sizes`.

    Random ones are small, or, to be ``timed``, of the sizes that callers have. Raises
    UsageError for sizes that the model forbids.
    """
    given = read_arrays(options.inputs, model)
    if given is not None and not options.dim:
        return use(given), given, {}
    program = read_interface(model) if is_program(model) else None
    graph = load(model) if program is None else program.graph()
    sizes = sizes_of(options, graph, given)

    def drawn(sizes: Mapping[str, int]) -> tuple[T, Feeds]:
        fed = random_inputs(graph, options.seed, sizes) if given is None else given
        return use(fed), fed

    wanted: Sizes = {}
    if timed and given is None:
        wanted = fitting(graph, sizes)[0] if program is None else usual(graph, sizes)
    if program is not None and program.refused(wanted):
        tried = islice(likely(graph, sizes), TRIED)
        wanted = next((s for s in tried if not program.refused(s)), wanted)
    if given is not None or (program is not None and not wanted):
        return *drawn(sizes), {}
    (made, fed), found = on_sizes(graph, sizes, drawn, wanted)
    return made, fed, found


def asked_sizes(options: argparse.Namespace, model: Path) -> Sizes:
    """Those that ``--dim`` says, by the names that `feeding` gives sizes."""
    if not options.dim:
        return {}
    program = read_interface(model) if is_program(model) else None
    return sizes_of(options, load(model) if program is None else program.graph())


def on_sizes(
    graph: Graph,
    sizes: Sizes,
    use: Callable[[Mapping[str, int]], T],
    wanted: Sizes | None = None,
) -> tuple[T, Sizes]:
    """What ``use`` makes of these sizes, or of others that were found, and those.

    ``wanted`` has more of them, to begin with. Where it fails, sizes are looked for on
    which the reference runs the graph. Raises UsageError for sizes that it forbids.
    """
    if sizes and not wanted:
        fitting(graph, sizes)
    try:
        return use(wanted or sizes), wanted or {}
    except _WHATEVER_SIZES:
        raise
    except GraphoptError as error:
        found = sizes_that_run(graph, sizes, tried=likely if wanted else bindings)
        if not found:
            raise
        try:
            return use(found), found
        except GraphoptError:
            raise error from None


def say_random(options: argparse.Namespace, fed: Mapping[str, Any]) -> None:
    """A line on stderr: the inputs are nobody's, and of these shapes."""
    if fed and not options.quiet:
        shapes = {name: list(np.shape(array)) for name, array in fed.items()}
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        print(
            f"graphopt: random inputs, seed {options.seed} (or give --inputs):"
            f" {listed}",
            file=sys.stderr,
        )


def told(
    sizes: Mapping[str, int], what: str = "sizes on which the model runs"
) -> list[str]:
    """A line on sizes that were found."""
    if not sizes:
        return []
    listed = " ".join(f"--dim {shown(n)}={s}" for n, s in sizes.items())
    return [f"{what}: {listed}"]
