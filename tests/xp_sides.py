"""Runs functions of the array namespace on both of its sides, and compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphopt.xp import host, traced

Array = np.ndarray[Any, Any]
Case = Callable[..., Any]

QUICK = {"xla_backend_optimization_level": 0}
"""Compiling takes nearly all the time of these tests."""

PLAIN = {
    **QUICK,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
"""Quicker still; but XLA is then wrong about float8_e5m2fnuz."""


def on_host(case: Case, *arrays: Array) -> tuple[Array, ...]:
    """Results of ``case(xp, *arrays)`` over NumPy, all of them plain arrays."""
    with host().scope():
        results = case(host(), *arrays)
    results = results if isinstance(results, tuple) else (results,)
    for result in results:
        assert type(result) is np.ndarray
    return results


def compare(
    cases: Mapping[str, Case],
    *arrays: Array,
    units: float = 4,
    units_of: Mapping[str, float] | None = None,
) -> None:
    """Both sides of every case agree; XLA compiles all of them at once.

    ``units`` are roundings of the result's type, ``units_of`` those of single cases.
    """
    jax = pytest.importorskip("jax")
    xp = traced()

    def program(*arrays: Any) -> dict[str, Any]:
        return {name: case(xp, *arrays) for name, case in cases.items()}

    with xp.scope():
        theirs = jax.jit(program, compiler_options=QUICK)(*arrays)
    for name, case in cases.items():
        ours = on_host(case, *arrays)
        other = theirs[name] if isinstance(theirs[name], tuple) else (theirs[name],)
        assert len(ours) == len(other)
        for a, b in zip(ours, other, strict=True):
            agree(name, a, np.asarray(b), (units_of or {}).get(name, units))


def agree(name: str, a: Array, b: Array, units: float) -> None:
    """Equal types and shapes; floats within ``units`` roundings, all else exactly.

    XLA flushes subnormal numbers, and takes either zero for an extreme of both.
    """
    assert (a.dtype, a.shape) == (b.dtype, b.shape), name
    if a.dtype.kind in "biuO" or a.dtype.name in ("int4", "uint4", "int2", "uint2"):
        np.testing.assert_array_equal(a, b, err_msg=name)
        return
    if a.dtype.kind == "c":
        agree(name, a.real, b.real, units)
        agree(name, a.imag, b.imag, units)
        return
    info = ml_dtypes.finfo(a.dtype)
    x, y = a.astype(np.float64), b.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(x), np.isnan(y), err_msg=name)
    finite = np.isfinite(x) & np.isfinite(y)
    special = ~finite & ~np.isnan(x)
    np.testing.assert_array_equal(x[special], y[special], err_msg=name)
    bound = units * float(info.eps) * np.abs(x[finite]) + float(info.tiny)
    worst = np.abs(x[finite] - y[finite]) - bound
    assert not (worst > 0).any(), (
        f"{name}: {x[finite][worst.argmax()]} and {y[finite][worst.argmax()]}"
    )
