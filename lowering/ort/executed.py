"""What a planned graph with convolutions takes, whose kernels have memory of their own.

Where the runtime may have other layouts for them, it puts nodes of its own around, some
of which run elsewhere than the order says: what it makes is read back, and runs once,
in a child. Else the file itself does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from onnx import ModelProto, NodeProto

from graphopt.errors import UnsupportedModel
from graphopt.exporter import save
from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Op

from ..meters import Child, MeterFailed, answer, ask
from .advice import has_convolutions, recipe, runs_otherwise
from .allocation import Predicted
from .measured import Measured, measured
from .ordered import KEPT
from .recipe import Recipe
from .session import Session

MODULE: Final = "graphopt.lowering.ort.executed"

LIMIT_S: Final = 120.0
"""A model that runs longer is not asked."""

OPENINGS: Final = 5
"""So often a model is opened with layouts, unless two in a row have the same order."""


def arena_of(
    graph: Graph,
    sizes: Mapping[str, int],
    order: Sequence[Op],
    *,
    layouts: bool = True,
    limit_s: float = LIMIT_S,
    child: Child | None = None,
) -> Sequence[int]:
    """Bytes of a session's arena, outputs in it, at these sizes of symbolic dims.

    Without buffers that are reused, and with. Without ``layouts`` the order is kept.
    ``child`` is one of this module that answers more than this; by default none is.

    Raises UnsupportedModel where a size is not known, MeterFailed where the model does
    not run, or takes too long, and BackendMissing.
    """
    assert runs_otherwise(graph)
    layouts = layouts and has_convolutions(graph)
    opened = recipe(graph, "cpu", ordered=True, layouts=layouts)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source.onnx")
        try:
            save(graph, source, order=order)
        except OSError as error:
            raise MeterFailed(f"no copy of the model was written: {error}") from error
        asked = str(source), opened, layouts, random_inputs(graph, 0, sizes)
        found: list[int] | None
        if child is None:
            found = ask(MODULE, asked, limit_s)
        else:
            found = child.ask(asked, limit_s)
    if found is None:
        raise UnsupportedModel("the size of a value is not known before a run")
    return found


def _found(
    asked: tuple[str, Recipe, bool, Mapping[str, Any]],
) -> list[int] | None:
    """In the child: bytes of the arena, None where a size is not known.

    Layouts make nodes whose order hangs on where the runtime's objects lie: the largest
    arena of some openings counts.
    """
    source, opened, layouts, inputs = asked
    made, orders = Path(source), list[dict[str, int]]()
    if layouts:
        made = made.with_name("executed.onnx")
        for _ in range(OPENINGS):
            Session(source, recipe=opened.unpacked, threads=1, executed=made)
            orders.append(_places(ModelProto.FromString(made.read_bytes())))
            if len(orders) > 1 and orders[-1] == orders[-2]:
                break
    model = ModelProto.FromString(made.read_bytes())
    ran = measured(
        model,
        inputs,
        folder=made.parent,
        recipe=replace(opened, session={**opened.session, **KEPT}),
    )
    others = orders[:-1]  # the last one is the model's
    ways = [_largest(ran, model, others, reuse=reuse) for reuse in (False, True)]
    known = [way for way in ways if way is not None]
    if len(known) < len(ways):
        return None
    casts = max(0, ran.in_use - known[0].in_use)  # which the runtime puts between
    return [way.block + casts for way in known]


def _largest(
    ran: Measured, model: ModelProto, orders: Sequence[dict[str, int]], *, reuse: bool
) -> Predicted | None:
    """What is foreseen in the order that takes most, the model's or another.

    ``orders`` say where each node is, by what it gives; None where a size is not known.
    """
    outputs = [_given(node) for node in model.graph.node]
    found = [ran.foreseen(reuse=reuse)]
    for places in orders:

        def place(op: Op, places: dict[str, int] = places) -> int:
            numbers = [int(name) for name in ran.graph.sources.get(op, ())]
            return max([places.get(outputs[i], 0) for i in numbers], default=0)

        found.append(ran.foreseen(sorted(ran.graph.ops, key=place), reuse=reuse))
    known = [each for each in found if each is not None]
    return max(known, key=lambda each: each.block) if len(known) == len(found) else None


def _places(model: ModelProto) -> dict[str, int]:
    """Where each node is, by what it gives."""
    return {_given(node): i for i, node in enumerate(model.graph.node)}


def _given(node: NodeProto) -> str:
    """The first result that has a name."""
    return next(filter(None, node.output), "")


if __name__ == "__main__":
    answer(_found)
