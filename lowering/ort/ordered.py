"""An order that ONNX Runtime keeps: it optimizes, then nodes are put in order.

By itself the runtime runs nodes in an order of its own. With ``PRIORITY_BASED`` it
keeps that of the file, but its optimizations make new nodes, which it puts last. So it
optimizes once and writes what it made; that is put in order, and opened from then on
without optimizations. What it wrote is for its version and for this processor alone.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from onnx import ModelProto

from graphopt.errors import UnsupportedModel
from graphopt.exporter.order import by_rank, ranks_of, source_order
from graphopt.exporter.storage import data_path
from graphopt.importer import load
from graphopt.ir import Graph, Op
from graphopt.proto import free_names, subgraphs

from .measured import Measured, measured, numbered
from .recipe import Recipe
from .session import Session, made_here

OrderOf: TypeAlias = Callable[[Graph], Sequence[Op]]
"""Puts the ops of a graph in order, operands first; constants may be left out."""

KEPT: Final = {
    "execution_order": "PRIORITY_BASED",
    "graph_optimization_level": "ORT_DISABLE_ALL",
}
"""How a session is opened that keeps the order of the file."""

_REASONS: Final = {
    "execution_order": "nodes run in the order of the file, which was planned",
    "graph_optimization_level": "the runtime optimized the model before it was ordered",
}


def honoured(
    source: str | os.PathLike[str],
    to: str | os.PathLike[str],
    order_of: OrderOf,
    *,
    recipe: Recipe | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> Recipe:
    """Write ``source`` as the runtime optimizes it, in an order that is kept.

    ``recipe`` says how ``source`` is opened, by default on the CPU. With ``inputs`` it
    runs once, so that ``order_of`` is told of all types; then the runtime's own order
    is written where that is foreseen to take less memory, and buffers are not reused
    where that costs less. The recipe for ``to`` comes back and is written beside it:
    sessions that `graphopt.session` opens run its nodes in that order. Raises Refused,
    UsageError where ``order_of`` gives no order, and UnsupportedModel for providers
    that write no models.
    """
    recipe = recipe or Recipe()
    if recipe.provider != "cpu":
        raise UnsupportedModel(
            f"models optimized for {recipe.provider} cannot be written and put in order"
        )
    target = Path(to)
    kept = replace(
        recipe,
        session={**recipe.session, **KEPT},
        made_for=made_here(),
        reasons={**recipe.reasons, **_REASONS},
    )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".graphopt-") as folder:
        executed = Path(folder, target.name)
        Session(source, recipe=recipe, executed=executed)
        model = ModelProto.FromString(executed.read_bytes())
        if inputs is None:
            graph = load(numbered(model), folder=executed.parent, apart=True)
            order = order_of(graph)
        else:
            found = measured(model, inputs, folder=executed.parent, recipe=kept)
            graph = found.graph
            order, reuse = _least(found, order_of(graph))
            kept = kept if reuse else _without_reuse(kept)
        ordered = reordered(model, graph, order)
        executed.write_bytes(ordered.SerializeToString(deterministic=True))
        Session(executed, recipe=kept)  # raises where it does not take its own model
        if data_path(executed).exists():
            os.replace(data_path(executed), data_path(target))
        os.replace(executed, target)
    kept.save(target)
    return kept


def _without_reuse(recipe: Recipe) -> Recipe:
    name = "enable_mem_reuse"
    why = "a buffer that waits for a value of its own shape takes more than it saves"
    return replace(
        recipe,
        session={**recipe.session, name: False},
        reasons={**recipe.reasons, name: why},
    )


def _least(found: Measured, planned: Sequence[Op]) -> tuple[Sequence[Op], bool]:
    """An order, or the runtime's own where that is better; whether buffers are reused.

    Better is what is foreseen to run in the smaller arena. The runtime writes what it
    executes in its own order, whatever it was asked to keep.
    """
    ranks_of(planned, found.graph)
    best: tuple[Sequence[Op], bool] = planned, True
    least: int | None = None
    for order in (planned, source_order(found.graph)):
        for reuse in (True, False):
            foreseen = found.foreseen(order, reuse=reuse)
            if foreseen is not None and (least is None or foreseen.block < least):
                best, least = (order, reuse), foreseen.block
    return best


def reordered(model: ModelProto, graph: Graph, order: Sequence[Op]) -> ModelProto:
    """The model with its nodes in an order of the ops of ``graph``, and nothing else.

    The graph is that of the `numbered` model. What no op of it stands for comes before
    what reads it. Raises UsageError where an op comes before what it reads, or lacks.
    """
    ranks: dict[int, int] = {}
    for op, rank in ranks_of(order, graph).items():
        for name in graph.sources.get(op, ()):
            if name.isdecimal():
                ranks.setdefault(int(name), rank)
    nodes = list(model.graph.node)
    makers = {name: i for i, node in enumerate(nodes) for name in node.output if name}

    def needs(i: int) -> Iterator[int]:
        names = [*nodes[i].input]
        for body in subgraphs(nodes[i]):
            names += free_names(body)
        yield from {makers[name]: None for name in names if name in makers}

    made = ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    made.graph.node.extend([nodes[i] for i in by_rank(range(len(nodes)), ranks, needs)])
    return made
