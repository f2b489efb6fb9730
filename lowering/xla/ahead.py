"""Programs compiled ahead of time: shapes are enough, no array goes to a device."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import jax
import numpy as np

from graphopt.errors import UnsupportedModel
from graphopt.feeds import bind
from graphopt.inputs import random_inputs, shape_of
from graphopt.ir import Graph
from graphopt.types import DType, TensorType, tensor

from .. import Array
from .flash import forms
from .function import Function, tensor_of
from .report import Examined, read
from .shortage import limit_of_hbm, refused

_Spec: Final[Any] = jax.ShapeDtypeStruct

_TOO_MUCH: Final = 1 << 50
"""Bytes that no device has."""


def lower(
    function: Function,
    params: Any,
    known: Mapping[str, Array],
    named: Mapping[str, Any],
    device: jax.Device,
) -> Any:
    """The program before XLA compiles it, as `jax.stages.Lowered`.

    ``known`` are the inputs that steer shapes; all else may be arrays or their specs.
    """

    if function.draws:
        function = function.keyed(jax.random.key(0))

    def call(params: Any, arrays: Any) -> dict[str, Array]:
        return function(params, {**arrays, **known})

    where = jax.sharding.SingleDeviceSharding(device)
    with jax.enable_x64(True):
        return jax.jit(call, out_shardings=where).lower(params, named)


def examine(
    function: Function,
    inputs: Mapping[str, Any],
    device: jax.Device,
    used: Mapping[str, Any],
    options: Mapping[str, str],
) -> Examined:
    """What XLA says of the program for inputs like these: arrays or their specs.

    ``used`` says what compiles, ``options`` are the compiler's. Raises UsageError where
    the inputs do not fit the graph, UnsupportedModel for what XLA refuses, DoesNotFit
    for what is too large.
    """
    graph = function.graph
    fed, symbols = bind(graph, inputs, _as_it_is)
    named = {p.name: fed[p] for p in graph.inputs if p.name in inputs}
    known = {n: named.pop(n) for n in function.steering if n in named}
    where = jax.sharding.SingleDeviceSharding(device)
    tensors = {name: tensor_of(value) for name, value in function.weights.items()}
    begin = time.perf_counter()
    params = {n: spec(t.shape, t.dtype, n, where) for n, t in tensors.items()}
    specs = {n: _specs(value, n, where) for n, value in named.items()}
    lowered = lower(function, params, known, specs, device)
    middle = time.perf_counter()
    try:
        compiled = lowered.compile(dict(options))
    except jax.errors.JaxRuntimeError as error:
        raise refused(str(error), graph, symbols) from error
    end = time.perf_counter()
    tpu = device.platform == "tpu"
    return Examined(
        used=used,
        inputs={n: _described(inputs[n]) for n in graph.input_names if n in inputs},
        tpu=tpu,
        hbm_limit=hbm_limit(device) if tpu else None,
        lower_seconds=middle - begin,
        compile_seconds=end - middle,
        attention=forms(graph, symbols) if tpu else {},
        **read(compiled, device.platform),
    )


def inputs_like_random(
    function: Function, seed: int = 0, sizes: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """As `random_inputs` would draw them; but specs of those that steer no shapes."""
    graph: Graph = function.graph
    found: dict[str, Any] = {}
    drawn = set(function.steering)
    for p in graph.inputs:
        if p.default is not None or p.name in drawn:
            continue
        if isinstance(p.type, TensorType) and p.type.dtype is not None:
            shape = shape_of(p.type, p.name, sizes or {})
            found[p.name] = spec(shape, p.type.dtype, p.name)
        else:
            drawn.add(p.name)
    return found | random_inputs(graph, seed, sizes, only=drawn)


@cache
def hbm_limit(device: jax.Device) -> int | None:
    """Bytes of HBM that a program may use on a TPU, None where nobody says.

    The compiler names the limit where it is exceeded, so it is given a program that
    does; this takes it no time.
    """
    where = jax.sharding.SingleDeviceSharding(device)
    with jax.enable_x64(True):
        row = _Spec((_TOO_MUCH,), np.int8, sharding=where)
        lowered = jax.jit(lambda x: x, out_shardings=where).lower(row)
    try:
        lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return limit_of_hbm(str(error))
    return None


def spec(shape: tuple[int, ...], dtype: DType, name: str, where: Any = None) -> Any:
    """What JAX needs to know of an array. Raises UnsupportedModel for strings."""
    if dtype is DType.STRING:
        raise UnsupportedModel("XLA has no strings", where=name)
    with jax.enable_x64(True):  # 64 bits are narrowed outside
        return _Spec(shape, dtype.numpy, sharding=where)


def _specs(value: Any, name: str, where: Any) -> Any:
    return jax.tree.map(lambda a: spec(a.shape, DType.of(a.dtype), name, where), value)


def _described(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_described, value))}]"
    if value is None:
        return "nothing"
    array = _as_it_is(value, None)
    return str(tensor(DType.of(array.dtype), *array.shape))


def _as_it_is(value: Any, dtype: DType | None) -> Any:
    return value if hasattr(value, "dtype") else np.asarray(value)
