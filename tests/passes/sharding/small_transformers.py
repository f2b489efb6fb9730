"""Transformers as graphs, whose large weights take no memory."""

from __future__ import annotations

import numpy as np

from graphopt import ops
from graphopt.ir import Graph, Parameter, Value
from graphopt.types import DType, TensorType
from graphopt.weights import Tensor


def weight(*shape: int, dtype: DType = DType.F32) -> ops.Constant:
    """One of its own; the elements of a large one are all one in memory."""
    global _made
    _made += 1
    if np.prod(shape) > 1 << 14:
        one = np.full((), 0.5, dtype.numpy)
        return ops.Constant(Tensor(dtype, shape, np.broadcast_to(one, shape)))
    drawn = np.random.default_rng(_made).standard_normal(shape) / shape[0] ** 0.5
    return ops.Constant(drawn.astype(dtype.numpy))


_made = 0  # weights so far: equal small ones would be one


def ints(*values: int) -> ops.Constant:
    return ops.Constant(np.asarray(values, np.int64))


def transformer(
    layers: int = 1,
    batch: int = 8,
    seq: int = 64,
    width: int = 64,
    heads: int = 8,
    hidden: int = 256,
    past: int = 0,
    dtype: DType = DType.F32,
) -> Graph:
    """Layers as exporters write them; with ``past``, a cache for each that grows."""
    x = Parameter(TensorType(dtype, (batch, seq, width)), "x")
    inputs, outputs, names = [x], [], []
    each = width // heads

    def linear(v: Value, rows: int, columns: int) -> Value:
        made = ops.MatMul(v, weight(rows, columns, dtype=dtype))
        return ops.Add(made, weight(columns, dtype=dtype))

    def norm(v: Value) -> Value:
        scale, bias = weight(width, dtype=dtype), weight(width, dtype=dtype)
        return ops.LayerNormalization(v, scale, bias, axis=-1)

    def split(v: Value) -> Value:
        shaped = ops.Reshape(v, ints(batch, seq, heads, each))
        return ops.Transpose(shaped, perm=(0, 2, 1, 3))

    scale = ops.Constant(np.asarray(each**-0.5, dtype.numpy))
    at: Value = x
    for i in range(layers):
        inside = norm(at)
        q, k, v = (split(linear(inside, width, width)) for _ in range(3))
        if past:
            type_ = TensorType(dtype, (batch, heads, past, each))
            caches = [Parameter(type_, f"{name}{i}") for name in "kv"]
            inputs += caches
            k, v = (
                ops.Concat(c, n, axis=2) for c, n in zip(caches, (k, v), strict=True)
            )
            outputs += [k, v]
            names += [f"new_k{i}", f"new_v{i}"]
        scores = ops.MatMul(q, ops.Transpose(k, perm=(0, 1, 3, 2)))
        seen = ops.Softmax(ops.Mul(scores, scale), axis=-1)
        mixed = ops.Transpose(ops.MatMul(seen, v), perm=(0, 2, 1, 3))
        merged = ops.Reshape(mixed, ints(batch, seq, width))
        at = ops.Add(at, linear(merged, width, width))
        up = ops.Gelu(linear(norm(at), width, hidden))
        at = ops.Add(at, linear(up, hidden, width))
    return Graph(inputs, [at, *outputs], output_names=["y", *names])
