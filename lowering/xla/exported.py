"""Programs that were exported, read back: a file that JAX reads, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from graphopt.errors import InvalidModel, UnsupportedModel, UsageError
from graphopt.feeds import bind
from graphopt.interface import Interface, read_interface

from .. import Array, Executable
from .weights import load_weights


class ExportedProgram(Executable):
    """A ``.stablehlo`` file on one device of JAX, its weights already there."""

    def __init__(self, path: Path, target: str, device: jax.Device) -> None:
        self.target = target
        self.device = device
        self.interface: Interface = read_interface(path)
        platform = "cuda" if device.platform == "gpu" else device.platform
        if platform not in self.interface.platforms:
            raise UnsupportedModel(
                f"{path} was exported for {', '.join(self.interface.platforms)}, not"
                f" for {platform}"
            )
        self.graph = self.interface.graph()
        try:
            exported = jax.export.deserialize(bytearray(path.read_bytes()))
        except Exception as error:  # flatbuffers raise whatever they stumble over
            raise InvalidModel(f"no program: {error}", where=str(path)) from error
        weights = {}
        if self.interface.weights is not None:
            weights = load_weights(path.with_name(self.interface.weights))
        arguments, _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
        _check(weights, arguments[0], path)
        with jax.enable_x64(True):
            self._weights = jax.device_put(weights, device)
        where = jax.sharding.SingleDeviceSharding(device)
        self._call = jax.jit(exported.call, out_shardings=where)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        fixed = self.interface.fixed_arrays()
        for name, array in fixed.items():
            if name in inputs and not np.array_equal(inputs[name], array):
                raise UsageError(
                    f"the input {name!r} is fixed in the program, as {array.tolist()}"
                )
        free = {name: array for name, array in inputs.items() if name not in fixed}
        fed, _ = bind(self.graph, free)
        named = {parameter.name: array for parameter, array in fed.items()}
        try:
            with jax.enable_x64(True):
                made = jax.tree.map(np.asarray, self._call(self._weights, named))
        except (ValueError, TypeError) as error:  # sizes that its constraints forbid
            raise UsageError(
                f"the program does not take these inputs: {str(error).splitlines()[0]}"
            ) from None
        return {port.name: made[port.name] for port in self.interface.outputs}

    def used(self) -> Mapping[str, Any]:
        return {
            "target": self.target,
            "runtime": "jax",
            "version": jax.__version__,
            "device": self.device.device_kind,
        }


def _check(weights: Mapping[str, Array], wanted: Mapping[str, Any], path: Path) -> None:
    """Raises InvalidModel where a file of weights belongs to another program."""
    have = {name: (array.shape, array.dtype) for name, array in weights.items()}
    want = {name: (aval.shape, aval.dtype) for name, aval in wanted.items()}
    for name in sorted(have.keys() | want.keys()):
        if have.get(name) != want.get(name):
            raise InvalidModel(
                f"the weights beside the program are another model's: {name!r} is not"
                " what the program takes",
                where=str(path),
            )
