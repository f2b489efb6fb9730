"""JAX's symbolic dims: shapes that stay open in a program, and what follows from them.

A value that is known up to such dims is an object array of ints and dims. What
graphopt infers of a graph (`Value.contents`) says which values those are.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax.export import is_symbolic_dim

from graphopt import dims
from graphopt.dims import Dim
from graphopt.ir import Value

Array = Any

OPERATIONS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "//": operator.floordiv,
    "%": operator.mod,
    "max": jax.core.max_dim,
    "min": jax.core.min_dim,
}
"""What `dims.evaluate` computes with on JAX's dims."""


def is_open(array: Array) -> bool:
    """True for an array that holds symbolic dims."""
    return (
        isinstance(array, np.ndarray)
        and array.dtype == object
        and any(map(is_symbolic_dim, array.flat))
    )


def sized(dim: Dim, symbols: Mapping[str, Any]) -> Any:
    """A dim of graphopt as one of JAX.

    Raises KeyError for a symbol without a size, ValueError where nothing is known.
    """
    return dims.evaluate(dim, symbols, OPERATIONS)


def known_of(value: Value, symbols: Mapping[str, Any]) -> Array | None:
    """The value as far as it follows from shapes; None where it does not."""
    contents, dtype = value.contents, value.dtype
    if contents is None or dtype is None:
        return None
    try:
        items = [_item(x, symbols) for x in contents.flat]
    except (KeyError, ValueError, ZeroDivisionError):
        return None
    return packed(items, contents.shape, dtype.numpy)


def _item(x: Any, symbols: Mapping[str, Any]) -> Any:
    return x if isinstance(x, bool) else sized(x, symbols)


def packed(items: list[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Numbers as an array of that type; as an object array if some are symbolic."""
    array = np.empty(len(items), object)
    array[:] = items
    array = array.reshape(shape)
    return array if is_open(array) else array.astype(dtype)


def computed(array: Array, dtype: np.dtype[Any]) -> Array:
    """An array that holds symbolic dims, as the program computes it."""
    items = [jnp.asarray(x).astype(dtype) for x in array.flat]
    return jnp.stack(items).reshape(array.shape)
