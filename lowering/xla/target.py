"""XLA's targets by name: the CPU, a GPU, a TPU, or a TPU that is not here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jax

from graphopt.errors import BackendMissing
from graphopt.importer import load
from graphopt.interface import is_program
from graphopt.ir import Graph
from graphopt.plan import Plan

from .. import Executable, Model
from .exported import ExportedProgram
from .program import Program

_PLATFORMS: Final = {"xla-cpu": "cpu", "xla-cuda": "cuda", "xla-tpu": "tpu"}

_INSTALL: Final = {
    "cpu": "pip install 'graphopt[jax]'",
    "cuda": "pip install 'jax[cuda13]'",
    "tpu": "pip install 'jax[tpu]' on a machine that has one, or name a topology to"
    " compile for, as in xla-tpu:v5e:2x2",
}


@dataclass(frozen=True)
class Xla:
    """A device of JAX that runs programs; "highest" ``precision`` is float32's own."""

    name: str
    precision: str = "highest"

    def compile(self, graph: Graph, plan: Plan) -> Executable:
        return Program(graph, self.name, self.device, precision=self.precision)

    def open(self, model: Model) -> Executable:
        if is_program(model):
            return ExportedProgram(Path(model), self.name, self.device)
        return self.compile(load(model), Plan())

    @property
    def device(self) -> Any:
        """The first device of the platform. Raises BackendMissing."""
        platform = _PLATFORMS[self.name]
        try:
            return jax.devices(platform)[0]
        except RuntimeError as error:
            raise BackendMissing(
                f"JAX has no {platform} device; {_INSTALL[platform]}", where=str(error)
            ) from None


def target(name: str, device: str) -> Xla:
    """The target of this name."""
    return Xla(name)
