"""XLA's targets by name: the CPU, a GPU, a TPU, or a TPU that is not here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jax

from graphopt.errors import BackendMissing, UsageError
from graphopt.importer import load
from graphopt.interface import is_program
from graphopt.ir import Graph
from graphopt.plan import LIBRARY, Plan

from .. import Executable, Model
from . import phases  # noqa: F401  says how long they take
from .ahead import examine, inputs_like_random
from .compiling import compiling, keeps
from .exported import ExportedProgram
from .function import Function
from .platforms import PLATFORMS, precision_of, refuse_described
from .program import Program
from .report import Examined
from .tail import split
from .topology import Topology, devices, libtpu_version, parse

if TYPE_CHECKING:
    from graphopt.passes.sharding import Program as MeshProgram

    from .mesh_report import MeshExamined

_INSTALL: Final = {
    "cpu": "pip install 'graphopt[jax]'",
    "cuda": "pip install 'jax[cuda13]'",
    "tpu": "pip install 'graphopt[tpu]' on a machine that has one, or name a topology"
    " to compile for, as in xla-tpu:v5e:2x2",
}


@dataclass(frozen=True, kw_only=True)
class Xla:
    """A device of JAX that runs programs.

    ``precision`` of float32 products is "highest", float32's own, or "default", the
    chip's; ``chosen`` where it was asked for, which programs do not take. ``options``
    are those of XLA's compiler. A program whose memory is planned, which a plan with an
    order says, has those of `compiling`, too.
    """

    name: str
    precision: str
    chosen: bool = False
    options: Mapping[str, str] = field(default_factory=dict)

    def compile(self, graph: Graph, plan: Plan) -> Executable:
        planned = str(plan.whole.get(LIBRARY, ""))
        return Program(
            graph,
            self.name,
            self.device,
            precision=self.precision,
            options=self.compiling(planned),
            keeps=keeps(self.device.platform, planned),
        )

    def open(self, model: Model) -> Executable:
        if is_program(model):
            if self.chosen:
                raise UsageError(
                    f"{model} has the precision that it was exported with; --precision"
                    " is of models, also where they are optimized for XLA"
                )
            return ExportedProgram(
                Path(model), self.name, self.device, options=self.compiling
            )
        return self.compile(load(model), Plan())

    def examine(
        self,
        graph: Graph,
        inputs: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        sizes: Mapping[str, int] | None = None,
        planned: str = "",
    ) -> Examined:
        parts = split(graph)
        head = graph if parts is None else parts.head
        function = Function(
            head, precision=self.precision, keeps=keeps(self.device.platform, planned)
        )
        if inputs is None:
            inputs = inputs_like_random(function, seed, sizes)
        host = {} if parts is None else {"host": parts.kinds}
        used = {**self.used(), **host}
        options = self.compiling(planned)
        return examine(function, inputs, self.device, used, options)

    def compiling(self, planned: str) -> dict[str, str]:
        """The compiler's options, by how memory is `planned`."""
        return {**compiling(self.device, planned), **self.options}

    @property
    def device(self) -> Any:
        """The first device of the platform. Raises BackendMissing."""
        platform = PLATFORMS[self.name]
        try:
            return jax.devices(platform)[0]
        except (AssertionError, RuntimeError) as error:  # the former where none is left
            allowed, hint = os.environ.get("JAX_PLATFORMS", ""), ""
            if allowed and platform not in allowed.split(","):
                hint = f" (JAX_PLATFORMS={allowed} leaves none: unset it)"
            raise BackendMissing(
                f"JAX has no {platform} device{hint}; {_INSTALL[platform]}",
                where=str(error) or None,
            ) from None

    def used(self) -> dict[str, Any]:
        """What compiles, and for what."""
        return {
            "target": self.name,
            "runtime": "jax",
            "version": jax.__version__,
            "device": self.device.device_kind,
            "precision": self.precision,
        }


@dataclass(frozen=True, kw_only=True)
class Tpu(Xla):
    """TPUs that are not here: programs are compiled for one device of them, never run.

    A chip has one device, but for tpu7x, where each of its two cores is one.
    """

    topology: Topology

    def compile(self, graph: Graph, plan: Plan) -> Executable:
        refuse_described(self.name)
        return super().compile(graph, plan)

    def open(self, model: Model) -> Executable:
        refuse_described(self.name)
        return super().open(model)

    def examine_on_mesh(self, program: MeshProgram) -> MeshExamined:
        """Compile a program for a mesh of these devices. Raises UsageError, DoesNotFit.

        Also UnsupportedModel for what XLA refuses.
        """
        from .mesh_report import examine_on_mesh

        used = {**self.used(), "devices": None}
        return examine_on_mesh(
            program, devices(self.topology), used, precision=self.precision
        )

    @property
    def device(self) -> Any:
        """The first device. Raises BackendMissing, UsageError."""
        return devices(self.topology)[0]

    def used(self) -> dict[str, Any]:
        """What compiles, and for what; a program takes one device of a topology."""
        return super().used() | {
            "libtpu": libtpu_version(),
            "chips": {"program": 1, "topology": self.topology.chips},
            "devices": {"program": 1, "topology": len(devices(self.topology))},
        }


def target(name: str, device: str, precision: str | None = None) -> Xla:
    """The target of this name; ``precision`` of products is "fp32" or the chip's.

    Raises UsageError for a topology or a precision that there is none of,
    BackendMissing where the compiler for a topology is not installed.
    """
    own, chosen = precision_of(name, precision), precision is not None
    if not device:
        return Xla(name=name, precision=own, chosen=chosen)
    topology = parse(device)
    devices(topology)  # says now what is missing or wrong
    return Tpu(
        name=f"{name}:{topology}", precision=own, chosen=chosen, topology=topology
    )
