"""What a planned graph takes once the runtime has other layouts for its convolutions.

It puts nodes of its own around them, some of which run elsewhere than the order says:
what it makes is read back, and runs once, in a child.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from onnx import ModelProto

from graphopt.errors import UnsupportedModel
from graphopt.exporter import save
from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Op

from ..meters import MeterFailed, answer, ask
from .advice import is_laid_out, recipe
from .measured import measured
from .ordered import KEPT
from .recipe import Recipe
from .session import Session

MODULE: Final = "graphopt.lowering.ort.executed"

LIMIT_S: Final = 120.0
"""A model that runs longer is not asked."""


def arena_of(
    graph: Graph,
    sizes: Mapping[str, int],
    order: Sequence[Op],
    *,
    limit_s: float = LIMIT_S,
) -> int:
    """Bytes of a session's arena, outputs in it, at these sizes of symbolic dims.

    Raises UnsupportedModel where a size is not known, MeterFailed where the model does
    not run, or takes too long, and BackendMissing.
    """
    assert is_laid_out(graph)
    opened = recipe(graph, "cpu", ordered=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source.onnx")
        try:
            save(graph, source, order=order)
        except OSError as error:
            raise MeterFailed(f"no copy of the model was written: {error}") from error
        asked = str(source), opened, random_inputs(graph, 0, sizes)
        found: int | None = ask(MODULE, asked, limit_s)
    if found is None:
        raise UnsupportedModel("the size of a value is not known before a run")
    return found


def _found(asked: tuple[str, Recipe, Mapping[str, Any]]) -> int | None:
    """In the child: bytes of the arena, None where a size is not known."""
    source, opened, inputs = asked
    executed = Path(source).with_name("executed.onnx")
    Session(source, recipe=opened, threads=1, executed=executed)
    found = measured(
        ModelProto.FromString(executed.read_bytes()),
        inputs,
        folder=executed.parent,
        recipe=replace(opened, session={**opened.session, **KEPT}),
    ).foreseen(reuse=bool(opened.session["enable_mem_reuse"]))
    return None if found is None else found.block


if __name__ == "__main__":
    answer(_found)
