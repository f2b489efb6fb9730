"""Group norms, for which ONNX Runtime's CPU has no kernel, by one that it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ops import (
    Add,
    Constant,
    GroupNormalization,
    InstanceNormalization,
    Mul,
    Reshape,
    Shape,
)
from graphopt.ops.bodies import vector
from graphopt.ops.normalization import per_channel
from graphopt.rewrite import Outcome, Rule, miss, rule
from graphopt.types import DType

from .gate import GatedPass


@rule(exact=False)
def by_instances(op: GroupNormalization) -> Outcome:
    """groupnorm(x, g, b) = g * reshape(instancenorm(groups(x))) + b

    The runtime says the op by twenty simpler ones. On one thread of a CPU, these take
    0.50 to 0.56 of their time (measured with version 1.32.0).
    """
    x, gain, bias = op.operands
    if x is None or x.rank is None or x.rank < 3 or gain is None or bias is None:
        return None
    if x.dtype is not DType.F32 or op.stash_type != DType.F32.value:
        return miss("it computes in another type", op)
    groups = Reshape(x, vector(0, op.num_groups, -1))
    ones = Constant(np.ones(op.num_groups, np.float32))
    zeros = Constant(np.zeros(op.num_groups, np.float32))
    normed = InstanceNormalization(groups, ones, zeros, epsilon=op.epsilon)
    whole = Reshape(normed, Shape(x))
    return Add(Mul(whole, per_channel(gain, x.rank)), per_channel(bias, x.rank))


@dataclass(frozen=True)
class OpenGroupNorms(GatedPass):
    """Say group norms by instance norms, which have a kernel.

    groupnorm(x, g, b)   -->   g * reshape(instancenorm(groups(x))) + b
    """

    unrolls = True

    def equations(self) -> Sequence[Rule]:
        return (by_instances,)
