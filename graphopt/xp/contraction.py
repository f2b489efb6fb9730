"""Matrix products on the host: everything through BLAS that can go through it."""

from __future__ import annotations

from typing import Any

import numpy as np

from .foundation import Array


def matmul(a: Array, b: Array) -> Array:
    """``a @ b``; integers wrap, and take the BLAS of a float type that holds them."""
    if a.dtype.kind in "iu":
        exact = exact_float(a, b, a.shape[-1])
        if exact is not None:
            return wrapped(matmul(a.astype(exact), b.astype(exact)), a.dtype)
    elif a.ndim > 1 and b.ndim > 1:
        a, b = _blas_ready(a), _blas_ready(b)
        if a.ndim > 2 and b.ndim == 2 and a.size and a.flags.c_contiguous:
            # One large product instead of one for each leading index.
            rows = a.reshape(-1, a.shape[-1])
            return np.matmul(rows, b).reshape(*a.shape[:-1], b.shape[-1])
    return np.asarray(np.matmul(a, b))


def exact_float(a: Array, b: Array, depth: int) -> np.dtype[Any] | None:
    """The float type, if any, in which sums of ``depth`` products of ints are exact."""
    if not (a.size and b.size):
        return None
    largest = _magnitude(a) * _magnitude(b) * max(depth, 1)
    if largest <= 2**24:
        return np.dtype(np.float32)
    return np.dtype(np.float64) if largest <= 2**53 else None


def wrapped(x: Array, dtype: np.dtype[Any]) -> Array:
    """Whole floats below 2**53 as integers, modulo their width."""
    return x.astype(np.int64).astype(dtype)


def _magnitude(x: Array) -> int:
    return max(abs(int(x.max())), abs(int(x.min())))


def _blas_ready(x: Array) -> Array:
    """``x``, copied where its last two axes are laid out as BLAS cannot read them."""
    item = x.itemsize
    rows, columns = x.strides[-2:]
    if (columns == item and rows >= item * x.shape[-1]) or (
        rows == item and columns >= item * x.shape[-2]
    ):
        return x
    return np.ascontiguousarray(x)
