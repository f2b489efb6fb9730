"""Pairs of small graphs, compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.check import CheckResult, check
from graphopt.dims import symbol
from graphopt.ir import Graph, Parameter
from graphopt.ops import (
    Constant,
)
from graphopt.types import DType, tensor

Build = Callable[[Any, Any], Any]
BATCH = symbol("batch")
MODES = ("full", "regions")


def weight(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Constant:
    return Constant(np.random.default_rng(seed).normal(size=shape).astype(dtype))


def ints(*numbers: int) -> Constant:
    return Constant(np.array(numbers, np.int64))


def graph_of(build: Build, dtype: DType = DType.F32) -> Graph:
    """Two operands [batch, 8] and what is built on them, intermediates named."""
    x = Parameter(tensor(dtype, BATCH, 8), "x")
    y = Parameter(tensor(dtype, BATCH, 8), "y")
    made = build(x, y)
    return Graph([x, y], made if isinstance(made, list) else [made])


def compared(before: Build, after: Build, **options: Any) -> CheckResult:
    dtype = options.pop("dtype", DType.F32)
    return check(graph_of(before, dtype), graph_of(after, dtype), **options)
