"""The NumPy reference as a target: needs no runtime, and is what results must match."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt import reference
from graphopt.importer import load
from graphopt.ir import Graph
from graphopt.ops import Constant
from graphopt.plan import Plan

from . import Array, Executable, Model


class Evaluation(Executable):
    """A graph, evaluated op by op in its own precision."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._mapped: list[Array] | None = None

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self._mapped is None:
            # Held, so that weights in files are not mapped anew for each run.
            self._mapped = [
                op.tensor.array()
                for op in self.graph.ops
                if isinstance(op, Constant) and op.tensor.location is not None
            ]
        return reference.run(self.graph, inputs, seed=0)

    def used(self) -> Mapping[str, Any]:
        return {"target": "reference", "runtime": "numpy", "version": np.__version__}


class Reference:
    """Runs any graph whose ops have a NumPy meaning; random ops draw from seed 0."""

    name = "reference"

    def compile(self, graph: Graph, plan: Plan) -> Executable:
        return Evaluation(graph)

    def open(self, model: Model) -> Executable:
        return Evaluation(load(model))


def target(kind: str, device: str) -> Reference:
    """The target; there is one."""
    return Reference()
