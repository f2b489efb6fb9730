"""A graph as a pure function of weights and inputs: for `jax.jit`, `grad`, `vmap`."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from graphopt.errors import UsageError
from graphopt.feeds import bind, widened
from graphopt.ir import Graph, Parameter, Value
from graphopt.ops.constant import Constant
from graphopt.ops.random import draws
from graphopt.types import DType
from graphopt.weights import Tensor
from graphopt.xp import traced

from .kept import kept
from .platforms import precision_named
from .steering import steering, steering_inputs
from .trace import LITERAL_BYTES, Tracer, on_device

Array = Any
Arrays = Mapping[str, Array]


class Function:
    """A graph as ``f(params, inputs) -> outputs``, all by name.

    >>> function = Function(load("model.onnx"))
    >>> jax.jit(function)(function.params, {"x": x})["y"]

    Inputs may also be keywords, and those with a default may be left out. Integers of
    fewer bits than an input has are widened, and so is float32 for float64. Inputs in
    ``steering`` decide shapes: each of their values is another program, so they are
    given as NumPy arrays, not as tracers. Weights are ``params``, by their names in the
    model; nothing of them is part of the program. A function that ``draws`` numbers
    needs a key: ``function.keyed(jax.random.key(0))(params, inputs)``. One that
    ``keeps`` has sums that XLA does not make again, if so compiled (`compiling`).
    """

    def __init__(
        self, graph: Graph, *, precision: str = "fp32", keeps: bool = False
    ) -> None:
        self.key: Array | None = None
        self.draws = any(draws(op) for _, op in graph.walk())
        self.graph = graph
        self.precision = precision_named(precision)
        self._known = steering(graph)
        self._kept = kept(graph) if keeps else {}
        self.weights: Mapping[str, Value] = dict(_weights(graph, self._known))
        self.steering: tuple[str, ...] = tuple(
            p.name for p in steering_inputs(graph, self._known)
        )

    @property
    def params(self) -> dict[str, Array]:
        """The weights as the model has them: memory-mapped where they are large."""
        return {name: tensor_of(value).array() for name, value in self.weights.items()}

    def keyed(self, key: Array) -> Function:
        """The function that draws its random numbers from a key of `jax.random`.

        Those for which the model states a seed stay what the seed says. Raises
        UsageError for what is no key.
        """
        if not hasattr(key, "dtype"):
            raise UsageError(
                f"{key!r} is no key of JAX: make one, fn.keyed(jax.random.key(0))"
            )
        made = copy.copy(self)
        made.key = key
        return made

    def __call__(
        self, params: Arrays, inputs: Arrays | None = None, /, **named: Array
    ) -> dict[str, Array]:
        """The outputs by name.

        Raises UsageError where arguments do not fit, DataDependent where a shape
        depends on data, UnsupportedModel for what XLA does not have.
        """
        if not isinstance(params, Mapping):
            raise UsageError(
                "the parameters are a dict of weights by name, as fn.params is, not of"
                f" type {type(params).__name__}"
            )
        missing = self.weights.keys() ^ params.keys()
        if missing:
            name = min(missing)
            known = "lack" if name in self.weights else "have an unknown"
            raise UsageError(f"the parameters {known} {name!r}")
        with traced(self.precision).scope():
            if not isinstance(inputs, Mapping | None):
                raise UsageError("inputs are keywords, or a dict by their names")
            given = {**(inputs or {}), **named}
            weights = {v: _weight(n, params[n], v) for n, v in self.weights.items()}
            for value, array in weights.items():
                if isinstance(value, Parameter):
                    given.setdefault(value.name, array)
            fed, symbols = bind(self.graph, given, widened)
            sources = self.graph.sources
            tracer = Tracer(
                *(weights, self._known, symbols, self.precision, sources, self.key),
                kept=self._kept,
            )
            env: dict[Value, Array] = {p: self._placed(p, a) for p, a in fed.items()}
            made = self.computed(tracer, env)
            placed = map(tracer.placed, made, self.graph.outputs)
            return dict(zip(self.graph.output_names, placed, strict=True))

    def computed(self, tracer: Tracer, env: dict[Value, Array]) -> list[Array]:
        """The outputs in order, from values for all inputs."""
        return tracer.run(self.graph.outputs, env)

    def _placed(self, parameter: Parameter, value: Array) -> Array:
        """An input as the trace has it: on the host where it steers shapes."""
        if parameter.name not in self.steering:
            return on_device(value)
        if isinstance(value, jax.core.Tracer):
            raise UsageError(
                f"input {parameter.name!r} decides shapes: give its value when the"
                " function is traced, as by functools.partial or static arguments"
            )
        return np.asarray(value)


def with_params(graph: Graph, params: Arrays) -> Graph:
    """The graph with other weights, named as in ``Function(graph).params``.

    Raises UsageError where a name is unknown, or a shape or element type another.
    """
    weights = dict(_weights(graph, steering(graph)))
    changed: dict[Value, Value] = {}
    for name, array in params.items():
        old = weights.get(name)
        if old is None:
            raise UsageError(f"no weight of the model is called {name!r}")
        new = Tensor.of(np.asarray(array))
        if new.type != tensor_of(old).type:
            raise UsageError(
                f"weight {name!r} is {new.type}, not {tensor_of(old).type}"
            )
        if isinstance(old, Parameter):
            changed[old] = Parameter(old.type, old.name, default=new)
        else:
            assert isinstance(old, Constant)
            changed[old] = Constant(new, instance=old.instance)
    names = {changed.get(value, value): n for value, n in graph.names.items()}
    made = graph.replace(names=names).substitute(changed)
    return made.replace(inputs=[changed.get(p, p) for p in graph.inputs])


def tensor_of(weight: Value) -> Tensor:
    """What the model gives for a weight: a constant, or the default of an input."""
    tensor = weight.default if isinstance(weight, Parameter) else weight.constant
    assert tensor is not None
    return tensor


def _weights(graph: Graph, known: Collection[Value]) -> Iterator[tuple[str, Value]]:
    """The constants and defaults that are data, each with a name of its own."""
    taken = set(graph.input_names)
    for parameter in graph.inputs:
        default = parameter.default
        if default is None or default.dtype is DType.STRING or parameter in known:
            continue
        yield parameter.name, parameter
    seen: set[Value] = set()
    for home, op in graph.walk():
        if not isinstance(op, Constant) or op in seen or op in known:
            continue
        seen.add(op)
        if not is_data(op.tensor):
            continue
        stem = name = home.names.get(op) or graph.names.get(op) or "weight"
        while name in taken:
            name = f"{stem}_{len(taken)}"
        taken.add(name)
        yield name, op


def is_data(tensor: Tensor) -> bool:
    """Floats that have axes, and all that is large; programs hold the rest."""
    if tensor.dtype is DType.STRING:
        return False
    return (tensor.dtype.is_float and tensor.rank > 0) or tensor.nbytes > LITERAL_BYTES


def _weight(name: str, array: Array, weight: Value) -> Array:
    """A parameter on its device, widened as inputs are.

    Raises UsageError for a shape or an element type that is not its own. Defaults of
    inputs may have any shape that fits the input.
    """
    dtype = tensor_of(weight).dtype
    array = jnp.asarray(widened(array, dtype))
    if array.dtype != dtype.numpy:
        hint = f"cast it to {dtype}"
        if dtype is DType.F32 and array.dtype.itemsize == 2:
            hint += (
                "; for products in bfloat16 leave weights f32, and say"
                " to_jax(…, precision='bfloat16') or fit(…, mixed_precision=True)"
            )
        raise UsageError(
            f"weight {name!r} has elements of {_named(array.dtype)}, not of {dtype}:"
            f" {hint}"
        )
    if isinstance(weight, Constant) and array.shape != weight.tensor.shape:
        raise UsageError(
            f"weight {name!r} has the shape {list(array.shape)}, not"
            f" {list(weight.tensor.shape)}"
        )
    return array


def _named(dtype: np.dtype[Any]) -> str:
    try:
        return str(DType.of(dtype))
    except TypeError:
        return str(dtype)
