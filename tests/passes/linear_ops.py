"""Linear ops of every layout on float64, and norms to fold into them."""

from __future__ import annotations

from typing import Any

import numpy as np
from equations import N, const, param, random

from graphopt.ir import Value
from graphopt.ops import BatchNormalization, Constant, Conv, ConvTranspose, Gemm, MatMul
from graphopt.types import DType

F64, HALF = DType.F64, DType.F16
OVERFLOW = "would overflow"
IMAGE = param("x", N, 4, 5, 6, dtype=F64)
MATRIX = param("m", N, 4, dtype=F64)
TOKENS = param("t", N, 3, 4, dtype=F64)
SCALAR = param("s", dtype=F64)
POSITIVE = const([0.5, 1.5, 2.0, 0.1, 1.0, 3.0], F64)


def w(*shape: int, seed: int = 0) -> Constant:
    return random(*shape, dtype=F64, seed=seed)


def norm(x: Value, channels: int, **attrs: Any) -> Value:
    parts = [w(channels, seed=i) for i in range(1, 4)]
    variance = const(np.linspace(0.3, 2, channels), F64)
    return BatchNormalization(x, *parts, variance, **attrs)


CONV = Conv(IMAGE, w(6, 4, 2, 3))
BIASED = Conv(IMAGE, w(6, 4, 2, 3), w(6, seed=1), pads=(1, 0, 0, 1))
GROUPED = Conv(IMAGE, w(6, 2, 2, 3), w(6, seed=1), group=2)
DEPTHWISE = Conv(IMAGE, w(8, 1, 2, 2), group=4)
TURNED = ConvTranspose(IMAGE, w(4, 6, 2, 3), w(6, seed=1), strides=(2, 1))
GROUPS_TURNED = ConvTranspose(IMAGE, w(4, 3, 2, 3), group=2)
LINES = Conv(param("l", 2, 4, 7, dtype=F64), w(6, 4, 3))
GEMM = Gemm(MATRIX, w(4, 6), w(6, seed=1), alpha=0.5, beta=3.0)
GEMM_TURNED = Gemm(MATRIX, w(6, 4), transB=1)
PRODUCT = MatMul(MATRIX, w(4, 6))
ALONG = w(6, 1, 1, seed=9)
ROW = w(6, seed=9)

LINEARS = {
    "conv": CONV,
    "biased": BIASED,
    "grouped": GROUPED,
    "depthwise": DEPTHWISE,
    "turned": TURNED,
    "groups turned": GROUPS_TURNED,
    "lines": LINES,
    "gemm": GEMM,
    "gemm turned": GEMM_TURNED,
    "product": PRODUCT,
}


def per_channel(x: Value, seed: int = 9) -> Constant:
    """A constant along the channels of x, of the same rank or less."""
    assert x.shape is not None
    channels, rank = x.shape[1], len(x.shape)
    assert isinstance(channels, int)
    return w(channels, *[1] * (rank - 2), seed=seed)
