"""What XLA says of a program for a mesh: memory of a device, and what devices send."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from graphopt.errors import UsageError
from graphopt.inputs import random_inputs
from graphopt.ir import Graph
from graphopt.passes.sharding import Mesh, Program
from graphopt.types import DType

from .ahead import hbm_limit, spec
from .report import Examined, read
from .sharded import MeshFunction
from .shards import REPLICATED, bytes_held, type_of
from .shortage import refused
from .wire import Traffic, compiled as traffic_of, predicted

Array = Any


@dataclass(frozen=True)
class MeshExamined:
    """A program for a mesh as its compiler sees it; it was not run.

    ``examined`` is of one device. ``weights`` are the bytes that it holds of the model,
    ``sent`` what it sends in a run as compiled, ``foreseen`` as the program says.
    """

    mesh: Mesh
    examined: Examined
    weights: int
    sent: Traffic
    foreseen: Traffic

    @property
    def ratio(self) -> float | None:
        """Bytes that are sent over those foreseen; None where none are."""
        return self.sent.total / self.foreseen.total if self.foreseen.total else None

    def to_json(self) -> dict[str, Any]:
        """The members that ``--json`` prints."""
        ratio = self.ratio
        return {
            **self.examined.to_json(),
            "mesh": dict(self.mesh.axes),
            "weight_bytes": self.weights,
            "sent": {
                "bytes": round(self.sent.total),
                "by_kind": {kind: round(n) for kind, n in self.sent.bytes.items()},
                "foreseen_bytes": round(self.foreseen.total),
                "ratio": None if ratio is None else round(ratio, 6),
                "complete": self.sent.complete and self.foreseen.complete,
            },
        }


def examine_on_mesh(
    program: Program,
    devices: Sequence[Any],
    used: Mapping[str, Any],
    inputs: Mapping[str, Array] = MappingProxyType({}),
    *,
    precision: str = "highest",
    options: Mapping[str, str] = MappingProxyType({}),
) -> MeshExamined:
    """Compile a program for devices, which may be those of a described topology.

    Of ``inputs`` only those matter that decide shapes; without them they are drawn, as
    by `random_inputs`. Raises UsageError, UnsupportedModel for what XLA refuses,
    DoesNotFit for what is too large.
    """
    sharded = MeshFunction(program, devices, precision=precision)
    arguments = _described(sharded, program.graph, inputs)
    begin = time.perf_counter()
    lowered = sharded.lower(*arguments)
    middle = time.perf_counter()
    try:
        made = lowered.compile(dict(options))
    except jax.errors.JaxRuntimeError as error:
        raise refused(str(error), program.graph, {}) from error
    end = time.perf_counter()
    taken = list(sharded.mesh.devices.flat)
    first, tpu = taken[0], taken[0].platform == "tpu"
    if tpu:
        used = {**used, "chips": _counts(taken, devices, lambda d: tuple(d.coords))}
    examined = Examined(
        used={**used, "devices": _counts(taken, devices, lambda d: d.id)},
        inputs={p.name: str(p.type) for p in sharded.interface.inputs},
        tpu=tpu,
        hbm_limit=hbm_limit(first) if tpu else None,
        lower_seconds=middle - begin,
        compile_seconds=end - middle,
        **read(made, first.platform),
    )
    return MeshExamined(
        program.mesh,
        examined,
        bytes_held(sharded.weights),
        traffic_of(made.as_text()),
        predicted(program),
    )


def _described(
    sharded: MeshFunction, graph: Graph, inputs: Mapping[str, Array]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Array], list[Any]]:
    """What a program is lowered for: weights, inputs, those that steer, the seed.

    Types and shardings stand for all but what steers. Raises UsageError for an input
    without sizes.
    """
    steering = set(sharded.steering)
    known = random_inputs(graph, only=steering - inputs.keys())
    known |= {name: np.asarray(inputs[name]) for name in steering & inputs.keys()}
    named: dict[str, Any] = {}
    for parameter in sharded.interface.inputs:
        name = parameter.name
        if name in steering:
            continue
        type_ = type_of(parameter)
        if type_ is None:
            raise UsageError(f"input {name!r} is {parameter.type}: give its dims sizes")
        dtype, shape = type_
        where = sharded.sharding(sharded.specs[name])
        named[name] = spec(shape, dtype, name, where)
    params = {
        name: spec(w.tensor.shape, w.tensor.dtype, name, sharded.sharding(w.spec))
        for name, w in sharded.weights.items()
    }
    seed: list[Any] = []
    if sharded.draws:
        where = sharded.sharding(REPLICATED)
        seed.append(spec((), DType.U32, "seed", where))
    return params, named, known, seed


def _counts(
    taken: Sequence[Any], shown: Sequence[Any], of: Callable[[Any], Hashable]
) -> dict[str, int]:
    """How many there are, those of the program and all."""
    return {"program": len({*map(of, taken)}), "topology": len({*map(of, shown)})}
