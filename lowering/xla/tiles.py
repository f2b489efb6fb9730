"""Tiles in XLA: a loop that writes each part into its place, never written out.

XLA runs tiles that are written out side by side, and keeps them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from graphopt.ops.strips import Strips, firsts_of
from graphopt.ops.tiled import Tiled

Array = Any
Body = Callable[[Sequence[Array]], list[Array]]


def in_strips(op: Strips, operands: Sequence[Array], body: Body) -> Any:
    """The results of ``op``, strip after strip; how long they are is known here.

    The last one is written over the end of the one before.
    """
    where, whole = op.parts, operands[op.parts.stop :]
    sources = [jnp.asarray(x) for x in operands[where]]
    extent = op.positions(sources)
    firsts, length = firsts_of(extent, op.size)

    def strip(first: Array) -> tuple[Array, ...]:
        parts = [
            lax.dynamic_slice_in_dim(x, first * ratio, length * ratio, axis)
            for x, axis, ratio in zip(sources, op.axes, op.ratios, strict=True)
        ]
        return tuple([jnp.asarray(x) for x in body([first, *parts, *whole])])

    def step(
        carried: tuple[Array, ...], first: Array
    ) -> tuple[tuple[Array, ...], None]:
        rows = zip(carried, strip(first), op.result_axes, op.result_ratios, strict=True)
        made = [
            lax.dynamic_update_slice_in_dim(row, x, first * ratio, axis)
            for row, x, axis, ratio in rows
        ]
        return tuple(made), None

    empty = []
    like = jax.eval_shape(strip, jnp.zeros((), np.int64))
    for x, axis, ratio in zip(like, op.result_axes, op.result_ratios, strict=True):
        shape = list(x.shape)
        shape[axis] = extent * ratio
        empty.append(_room(shape, x.dtype, operands))
    results, _ = lax.scan(step, tuple(empty), jnp.asarray(firsts, np.int64))
    return results if op.outs > 1 else results[0]


def looped(op: Tiled, operands: Sequence[Array], body: Body) -> Any:
    """The results of ``op``, tile after tile; ``body`` runs its body."""
    where, cuts, axes = op.parts, op.cuts, op.result_axes
    first = where.start
    whole = operands[where.stop :]
    sources = [jnp.asarray(x) for x in operands[where]]

    def tile(number: Array, states: Sequence[Array]) -> tuple[Array, ...]:
        parts = [
            lax.dynamic_slice_in_dim(
                x, cut.start + number * cut.step, cut.size, cut.axis
            )
            for x, cut in zip(sources, cuts, strict=True)
        ]
        made = body([number, *states, *parts, *whole])
        return tuple([jnp.asarray(x) for x in made])

    def step(
        carried: tuple[Array, ...], number: Array
    ) -> tuple[tuple[Array, ...], None]:
        made = tile(number, carried[:first])
        rows = [
            lax.dynamic_update_slice_in_dim(row, x, number * x.shape[axis], axis)
            for row, x, axis in zip(carried[first:], made[first:], axes, strict=True)
        ]
        return (*made[:first], *rows), None

    states = [jnp.asarray(x) for x in operands[:first]]
    like = jax.eval_shape(tile, jnp.zeros((), np.int64), states)
    empty = []
    for x, axis in zip(like[first:], axes, strict=True):
        shape = list(x.shape)
        shape[axis] *= op.count
        empty.append(_room(shape, x.dtype, operands[first:]))
    numbers = jnp.arange(op.count, dtype=np.int64)
    results, _ = lax.scan(step, (*states, *empty), numbers)
    return results if op.outs > 1 else results[0]


def _room(shape: Sequence[int], dtype: Any, read: Sequence[Array]) -> Array:
    """An array that is written over: of elements of all that the tiles read.

    XLA would make zeros once for all loops, and a copy for each when the program
    begins; these it can make no earlier than they are needed.
    """
    firsts = [jnp.ravel(x)[0].astype(dtype) for x in map(jnp.asarray, read) if x.size]
    return jnp.broadcast_to(sum(firsts, jnp.zeros((), dtype)), shape)
