"""A mixture of experts with a capacity, dispatched by products as GShard does.

Lepikhin and others, "GShard", arXiv 2006.16668.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from graphopt import ops
from graphopt.ir import Graph, Parameter, Value
from graphopt.types import DType, tensor
from graphopt.weights import Tensor

EXPERTS, CHOSEN = 8, 2


@dataclass(frozen=True)
class Sizes:
    groups: int = 8
    tokens: int = 16
    width: int = 32
    hidden: int = 64

    @property
    def room(self) -> int:
        """Of each expert for a group."""
        return 2 * CHOSEN * self.tokens // EXPERTS


SMALL: Final = Sizes()
LARGE: Final = Sizes(8, 1024, 1024, 4096)
"""To be planned, not run: weights are zeros that take no memory."""


def mixture(sizes: Sizes = SMALL, layers: int = 2) -> Graph:
    """Each token by two of eight experts, as far as these have room for its group."""
    rng = np.random.default_rng(0)
    x = Parameter(tensor(DType.F32, sizes.groups, sizes.tokens, sizes.width), "x")
    made: Value = x
    for _ in range(layers):
        made = ops.Add(made, _layer(made, sizes, rng))
    return Graph([x], [made], output_names=["y"])


def _layer(x: Value, sizes: Sizes, rng: np.random.Generator) -> Value:
    def weight(*shape: int) -> Value:
        if sizes is LARGE:
            whole = np.broadcast_to(np.float32(rng.normal()), shape)
            return ops.Constant(Tensor(DType.F32, shape, whole))
        drawn = rng.normal(size=shape) / np.sqrt(shape[-2])
        return ops.Constant(drawn.astype(np.float32))

    groups, count = sizes.groups, sizes.tokens
    gates = ops.Softmax(ops.MatMul(x, weight(sizes.width, EXPERTS)), axis=-1)
    best, which = ops.TopK(gates, _ints(CHOSEN), axis=-1, outs=2).results
    zero_one = ops.Constant(np.array([0, 1], np.float32))
    spread = ops.OneHot(which, _ints(EXPERTS), zero_one)  # by token, choice, expert
    first = ops.Transpose(spread, perm=(0, 2, 1, 3))
    flat = ops.Reshape(first, _ints(groups, CHOSEN * count, EXPERTS))
    place: Value = ops.CumSum(flat, ops.Constant(np.array(1)), exclusive=1)
    place = ops.Reshape(place, _ints(groups, CHOSEN, count, EXPERTS))
    place = ops.Transpose(place, perm=(0, 2, 1, 3))
    at = ops.ReduceSum(ops.Mul(place, spread), _ints(-1), keepdims=0)
    seat = ops.OneHot(ops.Cast(at, to=DType.I64), _ints(sizes.room), zero_one)
    fits = ops.Cast(ops.Less(at, ops.Constant(np.float32(sizes.room))), to=DType.F32)
    gate = ops.Mul(best, fits)
    combine = ops.Einsum(gate, spread, seat, equation="gsk,gske,gskc->gsec")
    sent = ops.Cast(ops.Cast(combine, to=DType.BOOL), to=DType.F32)
    given = ops.Einsum(sent, x, equation="gsec,gsm->egcm")
    up = weight(EXPERTS, sizes.width, sizes.hidden)
    down = weight(EXPERTS, sizes.hidden, sizes.width)
    inner = ops.Relu(ops.Einsum(given, up, equation="egcm,emh->egch"))
    made = ops.Einsum(inner, down, equation="egch,ehm->egcm")
    return ops.Einsum(combine, made, equation="gsec,egcm->gsm")


def tokens(sizes: Sizes = SMALL) -> dict[str, Any]:
    shape = (sizes.groups, sizes.tokens, sizes.width)
    return {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}


def _ints(*values: Any) -> Value:
    return ops.Constant(np.asarray(values, np.int64))
