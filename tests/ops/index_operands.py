"""Lists of samples, and operands that index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from single import Case, Spec, normal, positive, sweep

from graphopt.types import DType

Array = np.ndarray[Any, Any]


class Samples:
    """The samples of a family of ops."""

    def __init__(self) -> None:
        self.cases: list[Case] = []

    def __call__(
        self,
        kind: str,
        *operands: Sequence[Spec],
        dtype: DType = DType.F64,
        known: Sequence[int] = (),
        values: Callable[..., Array] | None = None,
        outs: int = 1,
        **attrs: Any,
    ) -> None:
        """One sample of a kind of op for each list of operands."""
        for specs in operands:
            self.cases += sweep(
                kind,
                [specs],
                [attrs],
                dtypes=[dtype],
                values=values or normal,
                constants=known,
                outs=outs,
            )


def below(bound: int, *shape: int) -> Callable[..., Array]:
    """Integers from 0 to before ``bound``."""

    def indices(rng: np.random.Generator, _: DType) -> Array:
        return rng.integers(0, bound, shape)

    indices.__name__ = f"below{bound}[{'x'.join(map(str, shape))}]"
    return indices


def given(array: Any, dtype: Any = np.int64) -> Callable[..., Array]:
    """An operand of these elements, not known when the op is built."""

    def elements(*_: object) -> Array:
        return np.asarray(array, dtype)

    elements.__name__ = str(np.shape(array))
    return elements


def few(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Array:
    """Numbers of which many are equal."""
    return rng.integers(0, 2, shape).astype(dtype.numpy)


def large(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Array:
    """Numbers of which most are far from zero."""
    return rng.normal(20, 20, shape).astype(dtype.numpy)


def variance(rng: np.random.Generator, dtype: DType) -> Array:
    """A positive number for each of four channels."""
    return positive(rng, (4,), dtype)
