"""Take out of a program what it computes from weights alone: once, not in every run.

``program(weights, inputs) = rest(first(weights), inputs)``

The first part is done by NumPy, as compiling it would take longer than running it; it
holds what NumPy does just so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, Var

Array = Any
Equation = Any


def _spread(x: Array, *, shape: Any, broadcast_dimensions: Any, **_: Any) -> Array:
    kept = [1] * len(shape)
    for place, extent in zip(broadcast_dimensions, x.shape, strict=True):
        kept[place] = extent
    return np.broadcast_to(x.reshape(kept), shape)


def _cut(
    x: Array, *, start_indices: Any, limit_indices: Any, strides: Any, **_: Any
) -> Array:
    steps = strides or (1,) * x.ndim
    return x[tuple(map(slice, start_indices, limit_indices, steps))]


_MOVES: Final[Mapping[str, Callable[..., Array]]] = {
    "broadcast_in_dim": _spread,
    "concatenate": lambda *x, dimension, **_: np.concatenate(x, dimension),
    "reshape": lambda x, *, new_sizes, **_: x.reshape(new_sizes),
    "slice": _cut,
    "squeeze": lambda x, *, dimensions, **_: np.squeeze(x, dimensions),
    "transpose": lambda x, *, permutation, **_: np.transpose(x, permutation),
}
"""What moves elements, by JAX's name for it."""

_ARITHMETIC: Final[Mapping[str, Callable[..., Array]]] = {
    "add": lambda a, b, **_: np.add(a, b),
    "convert_element_type": lambda x, *, new_dtype, **_: x.astype(new_dtype),
    "div": lambda a, b, **_: np.divide(a, b),
    "mul": lambda a, b, **_: np.multiply(a, b),
    "neg": lambda x, **_: np.negative(x),
    "sqrt": lambda x, **_: np.sqrt(x),
    "sub": lambda a, b, **_: np.subtract(a, b),
}
"""What computes; of floats, where NumPy and XLA agree."""


@dataclass(frozen=True)
class Hoisted:
    """What the rest of a program reads, and how it is made from weights."""

    weights: tuple[Var, ...]
    made: tuple[Var, ...]
    first: tuple[Equation, ...]
    constants: Mapping[Var, Array]
    rest: ClosedJaxpr
    """From what was made, and the inputs: the outputs."""

    @cached_property
    def keys(self) -> list[str]:
        """One of each value that is made; equal where the same is made of weights."""
        known = {v: f"weight {i}" for i, v in enumerate(self.weights)}
        known |= {v: _digest("constant", a) for v, a in self.constants.items()}
        for equation in self.first:
            read = [
                _digest("literal", v.val) if isinstance(v, Literal) else known[v]
                for v in equation.invars
            ]
            said = f"{equation.primitive} {equation.params} {read}"
            known[equation.outvars[0]] = _digest(said)
        return [known[v] for v in self.made]

    def prepare(self, weights: Sequence[Array]) -> list[Array]:
        """What the rest reads of the weights; contiguous arrays on the host."""
        known: dict[Var, Array] = dict(zip(self.weights, weights, strict=True))
        known |= self.constants
        with np.errstate(all="ignore"):
            for equation in self.first:
                twin = _twin(equation)
                assert twin is not None
                operands = [
                    np.asarray(v.val) if isinstance(v, Literal) else known[v]
                    for v in equation.invars
                ]
                known[equation.outvars[0]] = twin(*operands, **equation.params)
        return [np.asarray(known[v], order="C") for v in self.made]


def _digest(text: str, array: Array | None = None) -> str:
    made = hashlib.sha256(text.encode())
    if array is not None:
        held = np.asarray(array)
        made.update(f"{held.dtype}{held.shape}".encode())
        made.update(held.tobytes())
    return made.hexdigest()


def hoist(program: ClosedJaxpr, weights: int) -> Hoisted:
    """Split a program whose first ``weights`` operands are weights.

    An equation is hoisted where all it reads is known from weights, and where its
    results are no larger than that: a broadcast or a dequantization stays, but for one
    number that a product takes for all its weights.
    """
    jaxpr = program.jaxpr
    given = tuple(jaxpr.invars[:weights])
    early: set[Var] = {*given, *jaxpr.constvars}
    factors = _factors(jaxpr.eqns)
    before, after = [], []
    for equation in jaxpr.eqns:
        if _is_early(equation, early, factors):
            early.update(equation.outvars)
            before.append(equation)
        else:
            after.append(equation)
    read = [v for equation in after for v in equation.invars] + list(jaxpr.outvars)
    needed = {v: None for v in read if isinstance(v, Var) and v in early}
    rest = jaxpr.replace(
        constvars=[], invars=[*needed, *jaxpr.invars[weights:]], eqns=after
    )
    return Hoisted(
        given,
        tuple(needed),
        tuple(_used(before, needed)),
        dict(zip(jaxpr.constvars, program.consts, strict=True)),
        ClosedJaxpr(rest, []),
    )


def _used(
    equations: Sequence[Equation], wanted: Mapping[Var, Any]
) -> Iterator[Equation]:
    """The equations that what is wanted needs, in order."""
    needed, kept = set(wanted), []
    for equation in reversed(equations):
        if not needed.isdisjoint(equation.outvars):
            needed.update(v for v in equation.invars if isinstance(v, Var))
            kept.append(equation)
    return reversed(kept)


def _factors(equations: Sequence[Equation]) -> set[Var]:
    """The right operands of products, and what is only moved to become one."""
    found: set[Var] = set()
    for equation in reversed(equations):
        name = str(equation.primitive)
        if name in ("dot_general", "conv_general_dilated"):
            read = [equation.invars[1]]
        elif name in _MOVES and not found.isdisjoint(equation.outvars):
            read = equation.invars
        else:
            continue
        found.update(v for v in read if isinstance(v, Var))
    return found


def _is_early(equation: Equation, early: set[Var], factors: set[Var]) -> bool:
    read = [v for v in equation.invars if not isinstance(v, Literal)]
    if not early.issuperset(read) or _twin(equation) is None:
        return False
    if _is_spread(equation) and not factors.isdisjoint(equation.outvars):
        # On CPUs XLA 0.10 and 0.11 fuse product and sum, and where the right operand
        # is one number, spread, the result is what memory happened to hold.
        return True
    return bool(read) and sum(map(_bytes, equation.outvars)) <= sum(map(_bytes, read))


def _is_spread(equation: Equation) -> bool:
    """If one number is made a whole array."""
    return (
        str(equation.primitive) == "broadcast_in_dim"
        and prod(equation.invars[0].aval.shape) == 1
    )


def _twin(equation: Equation) -> Callable[..., Array] | None:
    """What NumPy has for an equation."""
    name = str(equation.primitive)
    values = [*equation.invars, *equation.outvars]
    if all(jnp.issubdtype(v.aval.dtype, np.floating) for v in values):
        return _MOVES.get(name) or _ARITHMETIC.get(name)
    return _MOVES.get(name)


def _bytes(value: Any) -> int:
    return int(prod(value.aval.shape)) * int(value.aval.dtype.itemsize)
