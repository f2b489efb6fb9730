"""Programs for a mesh of devices, run by JAX: `jax.shard_map` over the local graph.

Every device runs the graph on its parts, and what they exchange is in the graph: XLA
adds no collective and no other layout.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from graphopt.debug import timed
from graphopt.errors import BackendMissing, UnsupportedModel, UsageError
from graphopt.feeds import bind, widened
from graphopt.ir import Graph, Parameter, Value
from graphopt.ops.random import draws
from graphopt.passes.sharding import Layout, Program
from graphopt.passes.sharding.layout import is_partial, text
from graphopt.types import TensorType
from graphopt.xp import traced

from .. import Executable
from .behind import outputs_of
from .distributed import agree, join
from .platforms import PLATFORMS
from .report import Memory, memory_of
from .shards import (
    REPLICATED,
    Weight,
    device_mesh,
    placed,
    spec_of,
    stored,
    to_host,
    weights_of,
    whole_shape,
)
from .steering import steering, steering_inputs
from .tail import Split
from .trace import Tracer, on_device
from .wire import Traffic, compiled as traffic_of

Array = Any
Arrays = Mapping[str, Array]


class LocalTracer(Tracer):
    """Computes what one device of a mesh has; ``parts`` are those of weights."""

    parts: Mapping[Value, Array]

    def run(self, wanted: Sequence[Value], env: Mapping[Value, Array]) -> list[Array]:
        return super().run(wanted, {**self.parts, **env})


class MeshFunction:
    """A program as a function of global arrays, ready to be compiled for a mesh.

    ``weights`` are those that it is given, by name; inputs in ``steering`` decide
    shapes, and are known before. Raises UnsupportedModel for inputs that are no
    tensors, or have dims that are not known.
    """

    def __init__(
        self, program: Program, devices: Sequence[Any], *, precision: str = "highest"
    ) -> None:
        self.program = program
        self.precision = precision
        self.mesh = device_mesh(program.mesh, devices)
        graph = program.graph
        self._known = steering(graph)
        self.weights: Mapping[str, Weight] = weights_of(graph, self._known)
        self.draws = any(draws(op) for _, op in graph.walk())
        self.specs = {
            p.name: spec_of(layout, program.mesh)
            for p, layout in zip(graph.inputs, program.inputs, strict=True)
        }
        self.interface = Graph(list(map(self._whole, graph.inputs)), ())
        """The inputs as callers have them; no outputs."""
        self.steering: tuple[str, ...] = tuple(
            p.name for p in steering_inputs(graph, self._known)
        )
        for name in self.steering:
            if self.specs[name] != REPLICATED:
                raise UnsupportedModel(
                    f"input {name!r} decides shapes, and is split: every device must"
                    " have all of it",
                    where=name,
                )
        self._results = [
            _result(name, layout, program)
            for name, layout in zip(graph.output_names, program.outputs, strict=True)
        ]

    def sharding(self, spec: PartitionSpec) -> NamedSharding:
        """How devices of the mesh hold an array."""
        return NamedSharding(self.mesh, spec)

    def lower(self, params: Any, named: Any, known: Arrays, seed: Sequence[Any]) -> Any:
        """The program before XLA compiles it, as `jax.stages.Lowered`.

        Arrays on the mesh, or their specs: ``params`` for the weights, ``named`` for
        the inputs but those ``known``; ``seed`` holds one where numbers are drawn.
        """
        graph = self.program.graph

        def local(params: Any, named: Any, seed: Any) -> list[Array]:
            fed, symbols = bind(graph, {**named, **known}, widened)
            keys = [jax.random.fold_in(jax.random.key(0), number) for number in seed]
            weights = {self.weights[n].value: array for n, array in params.items()}
            tracer = LocalTracer(
                *({}, self._known, symbols, self.precision, graph.sources),
                key=next(iter(keys), None),
            )
            tracer.parts = weights
            env: dict[Value, Array] = {
                p: a if p.name in known else on_device(a) for p, a in fed.items()
            }
            made = tracer.run(graph.outputs, env)
            return list(map(tracer.placed, made, graph.outputs))

        specs = (
            {name: self.weights[name].spec for name in params},
            {name: self.specs[name] for name in named},
            [REPLICATED] * len(seed),
        )
        with traced(self.precision).scope():
            spread = jax.shard_map(
                local,
                mesh=self.mesh,
                in_specs=specs,
                out_specs=self._results,
                check_vma=False,  # the graph says which values devices have alike
            )
            where = list(map(self.sharding, self._results))
            jitted = jax.jit(spread, out_shardings=where)
            return jitted.lower(params, named, list(seed))

    def _whole(self, parameter: Parameter) -> Parameter:
        """An input as callers have it."""
        type_ = parameter.type
        if not isinstance(type_, TensorType) or type_.shape is None:
            raise UnsupportedModel(
                f"input {parameter.name!r} is {type_}: sharded programs take tensors"
                " of known rank",
                where=parameter.name,
            )
        spec = self.specs[parameter.name]
        if spec == REPLICATED:
            return parameter
        if not all(isinstance(dim, int) for dim in type_.shape):
            raise UnsupportedModel(
                f"input {parameter.name!r} is {type_}, and split: give its dims sizes",
                where=parameter.name,
            )
        shape = whole_shape(type_.shape, spec, self.program.mesh)  # type: ignore[arg-type]
        return Parameter(
            TensorType(type_.dtype, shape), parameter.name, default=parameter.default
        )


def _result(name: str, layout: Layout, program: Program) -> PartitionSpec:
    if is_partial(layout):
        raise UnsupportedModel(
            f"output {name!r} is left partial, {text(layout)}", where=name
        )
    return spec_of(layout, program.mesh)


class ShardedProgram(Executable):
    """A program on devices of JAX, each with its parts of the weights.

    ``devices`` are in the order of the mesh. Where they belong to several processes,
    all of them run the same program on the same inputs, and each has all outputs.
    ``parts`` has the tail that each process runs behind the program, on the host.
    Raises UsageError where the mesh does not fit, UnsupportedModel as `MeshFunction`.
    """

    def __init__(
        self,
        program: Program,
        target: str,
        devices: Sequence[Any],
        *,
        precision: str = "highest",
        parts: Split | None = None,
    ) -> None:
        self.parts = parts
        self.sharded = MeshFunction(program, devices, precision=precision)
        taken = {d.process_index for d in self.sharded.mesh.devices.flat}
        if idle := {d.process_index for d in devices} - taken:
            raise UsageError(
                f"the mesh {program.mesh} leaves process {min(idle)} without a device;"
                " start fewer processes, or name a mesh of all devices"
            )
        self.target = target
        self._programs: dict[Hashable, Any] = {}
        self._defaults: dict[str, jax.Array] = {}
        self._runs = 0
        with timed("loading the weights by shard"):
            self.params = {
                name: stored(weight, self.sharded.sharding(weight.spec))
                for name, weight in self.sharded.weights.items()
            }

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        made = {name: to_host(array) for name, array in self.on_mesh(inputs).items()}
        return made if self.parts is None else outputs_of(self.parts, inputs, made)

    def on_mesh(self, inputs: Mapping[str, Array]) -> dict[str, jax.Array]:
        """What the mesh makes, left where it is: an array of JAX may be an input.

        A process reads its own parts, ``array.addressable_shards``.
        """
        named, known, seed = self._split(inputs)
        with jax.enable_x64(True):
            made = self._compiled(named, known, seed)(self.params, named, seed)
        return dict(zip(self.sharded.program.graph.output_names, made, strict=True))

    def memory(self, inputs: Mapping[str, Array]) -> Memory:
        """What XLA says that the program takes on one device. Raises as `run`."""
        return memory_of(self.compiled(inputs))

    def traffic(self, inputs: Mapping[str, Array]) -> Traffic:
        """What each device sends in a run on inputs like these. Raises as `run`."""
        return traffic_of(self.compiled(inputs).as_text())

    def compiled(self, inputs: Mapping[str, Array]) -> Any:
        """The program for inputs like these, a `jax.stages.Compiled`. Raises as run."""
        return self._compiled(*self._split(inputs))

    def _split(
        self, inputs: Mapping[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Array], list[Array]]:
        """Inputs on the mesh, those that steer shapes, and what draws numbers.

        Raises UsageError, UnsupportedModel.
        """
        sharded = self.sharded
        fed, _ = bind(sharded.interface, inputs, widened)
        named = {p.name: array for p, array in fed.items()}
        known = {n: np.asarray(named.pop(n)) for n in sharded.steering}
        for name in named.keys() - inputs.keys() - self._defaults.keys():
            self._defaults[name] = self._placed(name, named[name])
        on_mesh = {
            n: self._placed(n, array) if n in inputs else self._defaults[n]
            for n, array in named.items()
        }
        seed: list[Array] = []
        if sharded.draws:
            self._runs += 1
            number = np.asarray(self._runs, np.uint32)
            where = sharded.sharding(REPLICATED)
            seed.append(placed((), where, lambda index: number))
        return on_mesh, known, seed

    def _placed(self, name: str, array: Array) -> jax.Array:
        if array.dtype == object:
            raise UnsupportedModel(
                f"input {name!r} holds strings, which XLA does not have", where=name
            )
        where = self.sharded.sharding(self.sharded.specs[name])
        if isinstance(array, jax.Array):
            if array.sharding.is_equivalent_to(where, array.ndim):
                return array
            if not array.is_fully_addressable:
                with jax.enable_x64(True):
                    moved: jax.Array = jax.device_put(array, where)
                return moved
            array = np.asarray(array)
        # A copy: on a CPU the program reads it where it lies, maybe after we return.
        return placed(array.shape, where, lambda index: np.array(array[index]))

    def _compiled(self, named: Arrays, known: Arrays, seed: Sequence[Array]) -> Any:
        key = (
            tuple([(n, a.shape, a.tobytes()) for n, a in known.items()]),
            tuple([(n, a.shape) for n, a in named.items()]),
        )
        found = self._programs.get(key)
        if found is None:
            lowered = self.sharded.lower(self.params, named, known, seed)
            agree(lowered.as_text())
            found = self._programs[key] = lowered.compile()
        return found

    def used(self) -> Mapping[str, Any]:
        mesh = self.sharded.mesh
        devices = list(mesh.devices.flat)
        return {
            "target": self.target,
            "runtime": "jax",
            "version": jax.__version__,
            "device": devices[0].device_kind,
            "mesh": dict(self.sharded.program.mesh.axes),
            "devices": len(devices),
            "processes": len({d.process_index for d in devices}),
            "programs": len(self._programs),
            **({} if self.parts is None else {"host": self.parts.kinds}),
        }


def opened(
    program: Program, target: str, precision: str, parts: Split | None = None
) -> ShardedProgram:
    """A program on the first devices of a target, those of all processes counted."""
    join()
    platform = PLATFORMS[target]
    try:
        devices = jax.devices(platform)
    except RuntimeError as error:
        raise BackendMissing(f"JAX has no {platform} device: {error}") from None
    return ShardedProgram(program, target, devices, precision=precision, parts=parts)
