"""What each node of a model takes in ONNX Runtime, by the runtime's own clock."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx

from .recipe import Recipe
from .session import EXECUTED, Session

_ENDING: Final = "_kernel_time"

_BLOCKED: Final = "_nchwc"
"""Ends the names of nodes with channels in blocks; the rest named their output."""


@dataclass(frozen=True)
class NodeTime:
    """A node that the runtime executes, after its own fusions.

    ``seconds`` are those of its fastest run: other processes only lengthen the others.
    ``outputs`` are the names of its results, as the model that was opened has them.
    """

    name: str
    kind: str
    seconds: float
    outputs: tuple[str, ...]


def trace(
    model: str | os.PathLike[str],
    inputs: Mapping[str, Any],
    *,
    runs: int = 10,
    threads: int = 1,
    recipe: Recipe | None = None,
) -> list[NodeTime]:
    """The times of a model's nodes on the CPU, in the order of execution.

    A node with bodies has the time of what they hold. ``recipe`` says how the model is
    opened. Raises what `Session` raises.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = Session(model, threads=threads, recipe=recipe, traces=folder)
        for _ in range(1 + runs):  # the first one warms up
            session(inputs)
        events = json.loads(Path(session.session.end_profiling()).read_bytes())
        executed = onnx.load(Path(folder, EXECUTED), load_external_data=False)
    return list(_joined(executed.graph.node, events))


def _joined(
    nodes: Sequence[onnx.NodeProto], events: Sequence[Mapping[str, Any]]
) -> Iterator[NodeTime]:
    """Each node with its times, as they ran; those inside of bodies are left out.

    The runtime calls a node without a name by its kind and a number of its own; those
    of one kind go by their order.
    """
    samples: dict[tuple[str, str], list[float]] = {}  # in the order of execution
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_ENDING):
            key = event["name"].removesuffix(_ENDING), event["args"]["op_name"]
            samples.setdefault(key, []).append(event["dur"] / 1e6)
    named = {(node.name, node.op_type) for node in nodes}
    numbered: dict[str, list[tuple[str, str]]] = {}
    for name, kind in samples:
        if (name, kind) not in named and name.removeprefix(f"{kind}_").isdigit():
            numbered.setdefault(kind, []).append((name, kind))
    found: dict[tuple[str, str], NodeTime] = {}
    for node in nodes:
        key = node.name, node.op_type
        if not node.name and numbered.get(node.op_type):
            key = numbered[node.op_type].pop(0)
        if key not in samples:
            continue
        kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        outputs = [name for name in node.output if name]
        if node.name.endswith(_BLOCKED):
            outputs.append(node.name.removesuffix(_BLOCKED))
        seconds = min(samples[key][1:])
        found[key] = NodeTime(node.name, kind, seconds, tuple(outputs))
    yield from [found[key] for key in samples if key in found]
