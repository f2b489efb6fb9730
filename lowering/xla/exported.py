"""Programs that were exported, read back: a file that JAX reads, and its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jax.export import is_symbolic_dim

from graphopt.dims import symbol
from graphopt.errors import InvalidModel, UnsupportedModel, UsageError
from graphopt.feeds import bind, widened
from graphopt.interface import Interface, Port, read_interface
from graphopt.ir import Graph

from .. import Array, Executable, not_installed
from .report import Memory, memory_of
from .weights import load_weights


class ExportedProgram(Executable):
    """A ``.stablehlo`` file on one device of JAX, its weights already there.

    ``options`` are those of XLA's compiler, by how memory is planned.
    """

    def __init__(
        self,
        path: Path,
        target: str,
        device: jax.Device,
        *,
        options: Callable[[str], dict[str, str]] = lambda planned: {},
    ) -> None:
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
        exported = _deserialized(path)
        wanted = _weights_of(exported, self.interface, path)
        weights = {}
        if self.interface.weights is not None:
            weights = load_weights(path.parent, self.interface.weights)
        _check(weights, wanted, path)
        self._wanted = wanted
        with jax.enable_x64(True):
            self._weights = jax.device_put(weights, device)
        where = jax.sharding.SingleDeviceSharding(device)
        self._call = jax.jit(
            exported.call,
            out_shardings=where,
            compiler_options=options(self.interface.planned),
        )

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        weights, named = self._fed(inputs)
        try:
            with jax.enable_x64(True):
                made = jax.tree.map(np.asarray, self._call(weights, named))
        except (ValueError, TypeError) as error:  # sizes of which nobody said so
            shapes = ", ".join(f"{n}: {list(a.shape)}" for n, a in named.items())
            raise UsageError(
                f"the program does not take {shapes}; optimize the model again with"
                f" these sizes (--dim NAME=SIZE): {str(error).splitlines()[0]}"
            ) from None
        except jax.errors.JaxRuntimeError as error:
            if "INVALID_ARGUMENT" not in str(error):
                raise
            raise InvalidModel(
                f"XLA does not take the program: {str(error).splitlines()[0]}"
            ) from None
        return {port.name: made[port.name] for port in self.interface.outputs}

    def memory(self, inputs: Mapping[str, Array]) -> Memory:
        """What XLA says that the program takes on inputs like these."""
        weights, named = self._fed(inputs)
        with jax.enable_x64(True):
            compiled = self._call.lower(weights, named).compile()
        return memory_of(compiled, self.device.platform)

    def held(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """The weights as the program reads them."""
        return list(self._fed(inputs)[0].values())

    def _fed(
        self, inputs: Mapping[str, Array]
    ) -> tuple[Mapping[str, Array], dict[str, Array]]:
        """The weights and the other arguments. Raises UsageError."""
        fixed = self.interface.fixed_arrays()
        for name, array in fixed.items():
            if name in inputs and not np.array_equal(inputs[name], array):
                raise UsageError(
                    f"the input {name!r} is fixed in the program, as {array.tolist()}"
                )
        free = {name: array for name, array in inputs.items() if name not in fixed}
        weights = self._overridden(free)
        fed, symbols = bind(self.graph, free, widened)
        _within(self.interface, self.graph, symbols)
        return weights, {parameter.name: array for parameter, array in fed.items()}

    def _overridden(self, inputs: dict[str, Array]) -> Mapping[str, Array]:
        """The weights, with what callers may override taken out of the inputs.

        Raises UsageError.
        """
        weights = dict(self._weights)
        for name in inputs.keys() & set(self.interface.overridable):
            wanted = self._wanted.get(name)
            if wanted is None:
                raise UsageError(f"the initializer {name!r} is part of the program")
            array = np.asarray(inputs.pop(name))
            if (array.shape, array.dtype) != (wanted.shape, wanted.dtype):
                raise UsageError(
                    f"the initializer {name!r} is {wanted.dtype}{list(wanted.shape)},"
                    f" not {array.dtype}{list(array.shape)}"
                )
            weights[name] = array
        return weights

    def used(self) -> Mapping[str, Any]:
        return {
            "target": self.target,
            "runtime": "jax",
            "version": jax.__version__,
            "device": self.device.device_kind,
            "precision": self.interface.precision,
        }


def _within(interface: Interface, graph: Graph, symbols: Mapping[str, int]) -> None:
    """Raises UsageError for a size outside of what the open dims were exported for."""
    broken = interface.refused(symbols)
    if broken is None:
        return
    name, sign, limit = broken
    size = symbols[name]
    input_, axis = next(
        (parameter.name, axis)
        for parameter in graph.inputs
        for axis, dim in enumerate(parameter.shape or ())
        if dim == symbol(name)
    )
    ends = "at least" if sign == ">=" else "at most"
    raise UsageError(
        f"the input {input_!r} has {size} along axis {axis}, the dim {name!r}, but"
        f" the program was exported for {name} {sign} {limit}: give it {ends}"
        f" {limit}, or optimize the model again with --dim {name}={size}, if it"
        " takes that"
    )


def _deserialized(path: Path) -> Any:
    """What JAX reads. Raises InvalidModel, and BackendMissing without flatbuffers."""
    try:
        import flatbuffers  # noqa: F401  or JAX says so in words of its own

        return jax.export.deserialize(bytearray(path.read_bytes()))
    except ModuleNotFoundError as error:
        raise not_installed(error) from error
    except OSError:
        raise
    except Exception as error:  # flatbuffers raise whatever they stumble over
        raise InvalidModel(f"no program: {error}", where=str(path)) from error


def _weights_of(exported: Any, interface: Interface, path: Path) -> Mapping[str, Any]:
    """The weights that a program takes: shapes and element types by name.

    Raises InvalidModel where the interface is another program's.
    """
    try:
        (weights, inputs), named = jax.tree.unflatten(
            exported.in_tree, exported.in_avals
        )
        outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
        fits = (
            not named
            and isinstance(weights, dict)
            and tuple(exported.platforms) == interface.platforms
            and _fit(interface.inputs, inputs)
            and _fit(interface.outputs, outputs)
        )
    except (TypeError, ValueError, AttributeError):
        fits = False
    if not fits:
        raise InvalidModel("the interface is another program's", where=str(path))
    return cast(Mapping[str, Any], weights)


def _fit(ports: Sequence[Port], avals: Mapping[str, Any]) -> bool:
    """True where ports are what a program has; symbolic dims may have other names."""
    if not isinstance(avals, dict) or len(avals) != len(ports):
        return False
    return all(
        port.name in avals
        and avals[port.name].dtype.name == port.dtype
        and len(avals[port.name].shape) == len(port.shape)
        and all(
            isinstance(ours, str) if is_symbolic_dim(theirs) else ours == theirs
            for ours, theirs in zip(port.shape, avals[port.name].shape, strict=True)
        )
        for port in ports
    )


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
