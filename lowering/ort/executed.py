"""What a planned graph takes once the runtime has other layouts for its convolutions.

It puts nodes of its own around them, some of which run elsewhere than the order says:
what it makes is read back, and runs once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from onnx import ModelProto

from graphopt.errors import UnsupportedModel
from graphopt.exporter import save
from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Op

from .advice import is_laid_out, recipe
from .measured import measured
from .ordered import KEPT
from .session import Session


def arena_of(graph: Graph, sizes: Mapping[str, int], order: Sequence[Op]) -> int:
    """Bytes of a session's arena, outputs in it, at these sizes of symbolic dims.

    Raises UnsupportedModel where a size is not known, and what `Session`, `save` and
    `measured` raise.
    """
    assert is_laid_out(graph)
    opened = recipe(graph, "cpu", ordered=True)
    with tempfile.TemporaryDirectory() as folder:
        source, executed = Path(folder, "source.onnx"), Path(folder, "executed.onnx")
        save(graph, source, order=order)
        Session(source, recipe=opened, threads=1, executed=executed)
        found = measured(
            ModelProto.FromString(executed.read_bytes()),
            random_inputs(graph, 0, sizes),
            folder=executed.parent,
            recipe=replace(opened, session={**opened.session, **KEPT}),
        ).foreseen(reuse=bool(opened.session["enable_mem_reuse"]))
    if found is None:
        raise UnsupportedModel("the size of a value is not known before a run")
    return found.block
