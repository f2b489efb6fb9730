"""Compiled programs of a graph: one for each set of shapes and steering values."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any, Final

import jax
import numpy as np

from graphopt.feeds import bind
from graphopt.ir import Graph

from .. import Array, Executable
from .function import Function
from .trace import NotInXla

PROGRAMS: Final = 16
"""Compiled programs that are kept; the least recently used one goes first."""


class Program(Executable):
    """A graph on one device of JAX, its weights already there.

    It compiles when it meets shapes, or values of inputs that steer shapes, for the
    first time.
    """

    def __init__(
        self, graph: Graph, target: str, device: jax.Device, *, precision: str
    ) -> None:
        self.function = Function(graph, precision=precision)
        self.target = target
        self.device = device
        self._programs: OrderedDict[Hashable, Any] = OrderedDict()
        with jax.enable_x64(True):
            self._params = jax.device_put(self.function.params, device)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        graph = self.function.graph
        fed, _ = bind(graph, inputs)
        named = {p.name: fed[p] for p in graph.inputs if p.name in inputs}
        known = {n: named.pop(n) for n in self.function.steering if n in named}
        for name, array in named.items():
            if isinstance(array, np.ndarray) and array.dtype == object:
                raise self._strings(name)
        with jax.enable_x64(True):
            made = self.compiled(known, named)(self._params, named)
            arrays = jax.tree.map(np.asarray, made)  # a dict in another order
            return {name: arrays[name] for name in graph.output_names}

    def compiled(self, known: Mapping[str, Array], named: Mapping[str, Array]) -> Any:
        """The program for these steering values, and for arrays like the named ones."""
        leaves, structure = jax.tree.flatten(named)
        key = (
            tuple([(n, a.shape, a.tobytes()) for n, a in known.items()]),
            tuple([(a.dtype, a.shape) for a in leaves]),
            structure,
        )
        program = self._programs.get(key)
        if program is None:
            program = self.lowered(known, named).compile()
            self._programs[key] = program
            if len(self._programs) > PROGRAMS:
                self._programs.popitem(last=False)
        self._programs.move_to_end(key)
        return program

    def lowered(self, known: Mapping[str, Array], named: Mapping[str, Array]) -> Any:
        """The program before XLA compiles it, as `jax.stages.Lowered`."""

        def call(params: Any, arrays: Any) -> dict[str, Array]:
            return self.function(params, {**arrays, **known})

        where = jax.sharding.SingleDeviceSharding(self.device)
        return jax.jit(call, out_shardings=where).lower(self._params, named)

    def _strings(self, name: str) -> NotInXla:
        graph = self.function.graph
        (parameter,) = (p for p in graph.inputs if p.name == name)
        readers = ", ".join(sorted({op.label for op, _ in graph.users[parameter]}))
        return NotInXla(
            f"input {name!r} holds strings, which XLA does not have", where=readers
        )

    def used(self) -> Mapping[str, Any]:
        return {
            "target": self.target,
            "runtime": "jax",
            "version": jax.__version__,
            "device": self.device.device_kind,
            "programs": len(self._programs),
        }
