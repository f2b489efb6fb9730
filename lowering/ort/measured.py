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

from graphopt.cost import value_bytes
from graphopt.dim_names import named
from graphopt.dims import Dim, Shape, symbol
from graphopt.feeds import bind
from graphopt.importer import load
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.proto import write_type
from graphopt.provenance import named_values
from graphopt.types import TensorType

from .allocation import Facts, Predicted, predicted
from .arena import UNLIMITED
from .books import books
from .recipe import Recipe
from .session import Session


@dataclass(frozen=True)
class Measured:
    """A model as it is executed: its ``graph`` with the types that a run gave.

    ``sizes`` are those of symbolic dims, ``in_use`` the most bytes that its arena had
    given out, those of nodes that the runtime puts between among them. The names of the
    graph's sources are the numbers of nodes.
    """

    graph: Graph
    sizes: Mapping[str, int]
    facts: Facts
    in_use: int

    def foreseen(
        self, order: Sequence[Op] | None = None, *, reuse: bool = True
    ) -> Predicted | None:
        """What a session takes that runs the graph in an order, or in that of its file.

        ``reuse`` is the session's ``enable_mem_reuse``. None where a size is not known.
        """
        return predicted(self.graph, order, facts=self.facts, reuse=reuse)


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
    known = _known_before(
        counted, None if folder is None else str(folder), recipe or Recipe()
    )
    graph = named(load(_with_types(counted, types), folder=folder, apart=True))
    name_of = {value: name for name, value in named_values(graph).items()}

    _, sizes = bind(graph, inputs)

    def size(value: Value) -> int | None:
        name = name_of.get(value, "")
        seen = Parameter(types[name], name) if name in types else value
        return value_bytes(seen, sizes)

    def shape(value: Value) -> Shape | None:
        found = known.get(name_of.get(value, ""))
        return found or (() if value.shape == () else None)

    def workspace(op: Op) -> int:
        return sum(workspaces.get(name, 0) for name in graph.sources.get(op, ()))

    most = max((entry.after + entry.workspace for entry in entries), default=0)
    in_use = most - entries[0].before if entries else 0
    return Measured(graph, sizes, Facts(size, shape, workspace), in_use)


def numbered(model: ModelProto) -> ModelProto:
    """The model with numbers for the names of its nodes."""
    made = ModelProto()
    made.CopyFrom(model)
    for i, node in enumerate(made.graph.node):
        node.name = str(i)
    return made


def _known_before(
    model: ModelProto, folder: str | None, recipe: Recipe
) -> dict[str, Shape]:
    """By name, the shapes that the runtime knows before it runs; () for none.

    It says them of outputs alone, so all results are some here. Raises as `Session`.
    """
    made = ModelProto()
    made.CopyFrom(model)
    outputs = {value.name for value in made.graph.output}
    names = [n for node in made.graph.node for n in node.output if n]
    made.graph.output.extend(
        [ValueInfoProto(name=name) for name in names if name not in outputs]
    )
    opened = Session(made.SerializeToString(), folder=folder, recipe=recipe.unpacked)
    session = opened.session
    return {
        value.name: tuple([_dim(dim) for dim in value.shape])
        for value in (*session.get_inputs(), *session.get_outputs())
    }


def _dim(said: int | str | None) -> Dim:
    return said if isinstance(said, int | None) else symbol(said)


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
