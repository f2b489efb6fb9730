"""Compiled programs of a graph: one for each set of shapes and steering values."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final
from weakref import WeakValueDictionary

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from graphopt.debug import timed
from graphopt.feeds import bind, widened
from graphopt.ir import Graph

from .. import Array, Executable
from .behind import outputs_of
from .function import Function
from .hoist import Hoisted, hoist
from .report import Memory, memory_of
from .tail import split
from .trace import NotInXla

PROGRAMS: Final = 16
"""Compiled programs that are kept; the least recently used one goes first."""


class Program(Executable):
    """A graph on one device of JAX, its weights already there.

    It compiles when it meets shapes, or values of inputs that steer shapes, for the
    first time, with ``options`` of XLA's compiler. What follows from weights alone is
    computed once. The tail of the graph, where shapes depend on data, runs behind the
    program on the host.
    """

    def __init__(
        self,
        graph: Graph,
        target: str,
        device: jax.Device,
        *,
        precision: str,
        options: Mapping[str, str] = MappingProxyType({}),
        keeps: bool = False,
    ) -> None:
        self.parts = split(graph)
        head = graph if self.parts is None else self.parts.head
        self.function = Function(head, precision=precision, keeps=keeps)
        self.target = target
        self.device = device
        self.options: dict[str, str | bool] = {**options}
        self._programs: OrderedDict[Hashable, _Compiled] = OrderedDict()
        self._prepared: WeakValueDictionary[str, Array] = WeakValueDictionary()
        self._runs = 0

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        known, named = self._split(inputs)
        with jax.enable_x64(True):
            made = self._compiled(known, named)(named, self._keys())
        if self.parts is not None:
            return outputs_of(self.parts, inputs, made)
        return {name: made[name] for name in self.function.graph.output_names}

    def memory(self, inputs: Mapping[str, Array]) -> Memory:
        """What XLA says that the program for inputs like these takes. Raises as run."""
        known, named = self._split(inputs)
        with jax.enable_x64(True):
            program = self._compiled(known, named).program
        return memory_of(program, self.device.platform)

    def held(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """The weights as the program for inputs like these reads them."""
        known, named = self._split(inputs)
        with jax.enable_x64(True):
            return self._compiled(known, named).prepared

    def _split(
        self, inputs: Mapping[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Inputs that steer shapes, and the others. Raises UsageError, NotInXla."""
        graph = self.function.graph
        fed, _ = bind(graph, inputs, widened)
        named = {p.name: fed[p] for p in graph.inputs if p.name in inputs}
        known = {n: named.pop(n) for n in self.function.steering if n in named}
        for name, array in named.items():
            if isinstance(array, np.ndarray) and array.dtype == object:
                raise self._strings(name)
        return known, named

    def _keys(self) -> list[Array]:
        """The key of a run, where numbers are drawn: each run has one of its own."""
        if not self.function.draws:
            return []
        self._runs += 1
        return [jax.random.fold_in(jax.random.key(0), self._runs)]

    def _compiled(
        self, known: Mapping[str, Array], named: Mapping[str, Array]
    ) -> _Compiled:
        """The program for these steering values, and for arrays like the named ones."""
        leaves, structure = jax.tree.flatten(named)
        key = (
            tuple([(n, a.shape, a.tobytes()) for n, a in known.items()]),
            tuple([(a.dtype, a.shape) for a in leaves]),
            structure,
        )
        program = self._programs.get(key)
        if program is None:
            program = self._programs[key] = self._compile(known, named)
            if len(self._programs) > PROGRAMS:
                self._programs.popitem(last=False)
        self._programs.move_to_end(key)
        return program

    def _compile(
        self, known: Mapping[str, Array], named: Mapping[str, Array]
    ) -> _Compiled:
        def call(params: Any, arrays: Any, keys: Any) -> dict[str, Array]:
            function = self.function.keyed(*keys) if keys else self.function
            return function(params, {**arrays, **known})

        params, keys = self.function.params, self._keys()
        program, results = jax.make_jaxpr(call, return_shape=True)(params, named, keys)
        with timed("hoisting what follows from weights"):
            hoisted = hoist(program, len(params))
            prepared = self._prepare(hoisted, jax.tree.leaves(params))
        where = jax.sharding.SingleDeviceSharding(self.device)
        rest = jax.jit(jaxpr_as_fun(hoisted.rest), out_shardings=where)
        lowered = rest.lower(*prepared, *jax.tree.leaves((named, keys)))
        compiled = lowered.compile(self.options)
        return _Compiled(compiled, prepared, jax.tree.structure(results))

    def _prepare(self, hoisted: Hoisted, weights: Sequence[Array]) -> list[Array]:
        """What a program reads of the weights; what another one made is shared."""
        found = [self._prepared.get(key) for key in hoisted.keys]
        missing = [i for i, array in enumerate(found) if array is None]
        made = hoisted.prepare(weights) if missing else []
        for i in missing:
            found[i] = jax.device_put(made[i], self.device)
            self._prepared[hoisted.keys[i]] = found[i]
        return found

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
            **({} if self.parts is None else {"host": self.parts.kinds}),
        }


class _Compiled:
    """A program with what was made of the weights."""

    def __init__(self, program: Any, prepared: Sequence[Array], results: Any) -> None:
        self.program = program
        self.prepared = prepared
        self.results = results

    def __call__(self, named: Mapping[str, Array], keys: Sequence[Array]) -> Any:
        made = self.program(*self.prepared, *jax.tree.leaves((named, keys)))
        return jax.tree.unflatten(self.results, map(np.asarray, made))
