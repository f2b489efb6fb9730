"""JAX's symbolic dims: shapes that stay open in a program, and what follows from them.

A value that is known up to such dims is an object array of ints and dims. What
graphopt infers of a graph (`Value.contents`) says which values those are.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax.export import is_symbolic_dim

from graphopt import dims
from graphopt.dims import Dim, Expr
from graphopt.ir import Graph, Value
from graphopt.polynomial import Polynomial

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


def identifiers(found: Iterable[Dim]) -> dict[str, str]:
    """The symbols of some dims, with names that JAX can read; in order."""
    names: dict[str, str] = {}
    for dim in found:
        for name in sorted(dims.symbols(dim) - names.keys()):
            ours = re.sub(r"\W", "_", name, flags=re.ASCII)
            if not ours[:1].isalpha() or ours in _RESERVED:
                ours = f"d_{ours}"
            while ours in names.values():
                ours += "_"
            names[name] = ours
    return names


_RESERVED: Final = ("max", "min", "mod", "floordiv", "non_negative")
"""What means something else where JAX reads dims."""


def caps(graph: Graph, names: Iterable[str]) -> list[tuple[str, int]]:
    """What symbols are held against in the graph: min(n, 512) says that n <= 512.

    Tables of positions are sliced to a length, and then added to what is as long.
    """
    found: dict[str, int] = {}
    todo: list[Polynomial] = []
    for _, op in graph.walk():
        for value in op.results:
            known = () if value.contents is None else value.contents.flat
            followed = (*(value.shape or ()), *known)
            todo += [d.polynomial for d in followed if isinstance(d, Expr)]
    seen: set[Polynomial] = set()
    while todo:
        polynomial = todo.pop()
        if polynomial in seen:
            continue
        seen.add(polynomial)
        for monomial, _ in polynomial.terms:
            for atom in monomial:
                todo += atom.operands
                if atom.operation != "min":
                    continue
                ends = [x.constant for x in atom.operands if not x.degree]
                alone = [x.single for x in atom.operands if x.single is not None]
                for symbol in alone:
                    if ends and symbol.operation == "symbol":
                        name = symbol.key[0]
                        found[name] = min(ends[0], found.get(name, ends[0]))
    return [(name, found[name]) for name in names if found.get(name, 0) > 0]
