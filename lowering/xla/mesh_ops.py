"""What devices of a mesh exchange, in XLA: within `jax.shard_map`, by axes' names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from graphopt.index import Combiner
from graphopt.ops.mesh import (
    Addend,
    AllGather,
    AllReduce,
    AllToAll,
    OverMesh,
    Permute,
    Position,
    ReduceScatter,
    Shard,
    Shift,
)

if TYPE_CHECKING:
    from graphopt.xp import Namespace

Array = Any

lax: Final[Any] = jax.lax  # some of it has no types

_SUM: Final = Combiner.SUM.value
_ALL: Final[Mapping[str, Callable[..., Array]]] = {
    _SUM: lax.psum,
    Combiner.MAX.value: lax.pmax,
    Combiner.MIN.value: lax.pmin,
}
_OVER: Final[Mapping[str, Callable[..., Array]]] = {
    _SUM: jnp.sum,
    Combiner.MAX.value: jnp.max,
    Combiner.MIN.value: jnp.min,
    Combiner.PROD.value: jnp.prod,
}
_OF_TRUTH: Final = {_SUM: Combiner.MAX.value, Combiner.PROD.value: Combiner.MIN.value}


def position(op: Position, xp: Namespace) -> Array:
    return lax.axis_index(op.axis).astype(np.int64)


def shard(op: Shard, xp: Namespace, x: Array) -> Array:
    x = jnp.asarray(x)
    size = x.shape[op.dim] // op.ways
    first = lax.axis_index(op.axis) * size
    return lax.dynamic_slice_in_dim(x, first, size, op.dim)


def addend(op: Addend, xp: Namespace, x: Array) -> Array:
    x = jnp.asarray(x)
    return jnp.where(lax.axis_index(op.axis) == 0, x, jnp.zeros_like(x))


def all_gather(op: AllGather, xp: Namespace, x: Array) -> Array:
    return lax.all_gather(jnp.asarray(x), op.axis, axis=op.dim, tiled=True)


def all_to_all(op: AllToAll, xp: Namespace, x: Array) -> Array:
    return _exchanged(op, jnp.asarray(x), op.dim, op.joined)


def shift(op: Shift, xp: Namespace, x: Array) -> Array:
    pairs = [(i, i + op.by) for i in range(op.ways) if 0 <= i + op.by < op.ways]
    return lax.ppermute(jnp.asarray(x), op.axis, pairs)


def permute(op: Permute, xp: Namespace, x: Array) -> Array:
    return lax.ppermute(jnp.asarray(x), op.axis, op.links())


def all_reduce(op: AllReduce, xp: Namespace, x: Array) -> Array:
    """Products, which XLA does not merge, are merged part by part and gathered."""
    x, combiner = _numbers(x, op.combiner)
    if combiner in _ALL:
        return _ALL[combiner](x, op.axis)
    for dim, size in enumerate(x.shape):
        if size and size % op.ways == 0:
            merged = _merged(op, combiner, x, dim)
            return lax.all_gather(merged, op.axis, axis=dim, tiled=True)
    return _OVER[combiner](lax.all_gather(x, op.axis), axis=0)


def reduce_scatter(op: ReduceScatter, xp: Namespace, x: Array) -> Array:
    x, combiner = _numbers(x, op.combiner)
    if combiner == _SUM:
        return lax.psum_scatter(x, op.axis, scatter_dimension=op.dim, tiled=True)
    return _merged(op, combiner, x, op.dim)


def _numbers(x: Array, combiner: str) -> tuple[Array, str]:
    """Truth values as numbers: the sum of some is their "or", the product "and"."""
    x = jnp.asarray(x)
    if x.dtype != np.bool_:
        return x, combiner
    return x.astype(np.uint8), _OF_TRUTH.get(combiner, combiner)


def _merged(op: OverMesh, combiner: str, x: Array, dim: int) -> Array:
    """Each device's part along ``dim``, merged from the parts that all have of it."""
    x = _exchanged(op, x, dim, dim)
    shape = (*x.shape[:dim], op.ways, x.shape[dim] // op.ways, *x.shape[dim + 1 :])
    return _OVER[combiner](x.reshape(shape), axis=dim).astype(x.dtype)


def _exchanged(op: OverMesh, x: Array, dim: int, joined: int) -> Array:
    return lax.all_to_all(x, op.axis, split_axis=dim, concat_axis=joined, tiled=True)


MESH_OPS: Final[Mapping[type, Callable[..., Any]]] = {
    Position: position,
    Shard: shard,
    Addend: addend,
    AllGather: all_gather,
    AllReduce: all_reduce,
    ReduceScatter: reduce_scatter,
    AllToAll: all_to_all,
    Shift: shift,
    Permute: permute,
}
"""How each op of a mesh is computed by XLA."""
