"""What planning must know of a model as ONNX Runtime executes it: measured in one run.

The runtime makes nodes whose types nobody infers, and its kernels take memory for
themselves of which no graph tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnx import ModelProto, ValueInfoProto

from graphopt.dims import Shape
from graphopt.feeds import bind
from graphopt.importer import load
from graphopt.ir import Graph, Op, Value
from graphopt.proto import stated_type, write_type
from graphopt.provenance import named_values
from graphopt.types import TensorType

from .allocation import Known, Predicted, Workspace, predicted
from .arena import UNLIMITED
from .books import books
from .recipe import Recipe


@dataclass(frozen=True)
class Measured:
    """A model as it is executed: its ``graph`` with the types that a run gave.

    ``sizes`` are those of symbolic dims, ``workspace`` tells what the kernel of an op
    takes for itself, ``known`` what the runtime knows of shapes before it runs. The
    names of the graph's sources are the numbers of nodes.
    """

    graph: Graph
    sizes: Mapping[str, int]
    workspace: Workspace
    known: Known

    def foreseen(
        self, order: Sequence[Op] | None = None, *, reuse: bool = True
    ) -> Predicted | None:
        """What a session takes that runs the graph in an order, or in that of its file.

        ``reuse`` is the session's ``enable_mem_reuse``. None where a size is not known.
        """
        return predicted(
            self.graph,
            order,
            self.sizes,
            workspace=self.workspace,
            known=self.known,
            reuse=reuse,
        )


def measured(
    model: ModelProto,
    inputs: Mapping[str, Any],
    *,
    folder: Path | None = None,
    recipe: Recipe | None = None,
    threads: int = 1,
) -> Measured:
    """What one run of a model says that ``recipe`` opens without optimizations.

    Raises what `Session` and `books` raise.
    """
    counted = numbered(model)
    plain = replace(recipe or Recipe(), arena=UNLIMITED)
    (entries,) = books(
        counted.SerializeToString(),
        inputs,
        folder=None if folder is None else str(folder),
        recipe=plain,
        threads=threads,
    )
    nodes = {node.name: node for node in counted.graph.node}
    types: dict[str, TensorType] = {}
    workspaces: dict[str, int] = {}
    for entry in entries:
        if entry.name in nodes:  # the runtime puts casts of its own between
            names = [name for name in nodes[entry.name].output if name]
            given = zip(names, entry.results, strict=False)
            types |= {name: type_ for name, type_ in given if type_ is not None}
            workspaces[entry.name] = entry.workspace
    stated = {v.name: v for v in _values(counted)}
    graph = load(_with_types(counted, types), folder=folder, apart=True)
    name_of = {value: name for name, value in named_values(graph).items()}

    def workspace(op: Op) -> int:
        return sum(workspaces.get(name, 0) for name in graph.sources.get(op, ()))

    def known(value: Value) -> Shape | None:
        found = stated.get(name_of.get(value, ""))
        type_ = value.type if found is None else stated_type(found)
        if not isinstance(type_, TensorType) or type_.shape is None:
            return None
        fixed = all(isinstance(dim, int) for dim in type_.shape)
        return type_.shape if found is not None or fixed else None

    _, sizes = bind(graph, inputs)
    return Measured(graph, sizes, workspace, known)


def numbered(model: ModelProto) -> ModelProto:
    """The model with numbers for the names of its nodes."""
    made = ModelProto()
    made.CopyFrom(model)
    for i, node in enumerate(made.graph.node):
        node.name = str(i)
    return made


def _values(model: ModelProto) -> list[ValueInfoProto]:
    graph = model.graph
    return [*graph.value_info, *graph.input, *graph.output]


def _with_types(model: ModelProto, types: Mapping[str, TensorType]) -> ModelProto:
    """The model with other types stated for its intermediate values."""
    made = ModelProto()
    made.CopyFrom(model)
    outputs = {value.name for value in made.graph.output}
    others = [v for v in made.graph.value_info if v.name not in types]
    del made.graph.value_info[:]
    made.graph.value_info.extend(others)
    for name, type_ in types.items():
        if name not in outputs:
            value = made.graph.value_info.add(name=name)
            value.type.CopyFrom(write_type(type_))
    return made
