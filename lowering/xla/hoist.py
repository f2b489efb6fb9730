"""Take out of a program what it computes from weights alone: once, not in every run.

``program(weights, inputs) = rest(first(weights), inputs)``
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var, jaxpr_as_fun

Array = Any
Equation = Any


@dataclass(frozen=True)
class Hoisted:
    """Two programs of flat arrays in the place of one."""

    first: ClosedJaxpr
    """From all weights: what the rest reads, weights themselves among it."""
    rest: ClosedJaxpr
    """From what the first made, and the inputs: the outputs."""

    def prepare(self, weights: Sequence[Array]) -> list[Array]:
        """What the first program makes of the weights."""
        return jax.jit(jaxpr_as_fun(self.first))(*weights)  # type: ignore[no-any-return]


def hoist(program: ClosedJaxpr, weights: int) -> Hoisted:
    """Split a program whose first ``weights`` operands are weights.

    An equation is hoisted where all it reads is known from weights, and where its
    results are no larger than that: a broadcast or a dequantization stays.
    """
    jaxpr = program.jaxpr
    early: set[Var] = {*jaxpr.invars[:weights], *jaxpr.constvars}
    before, after = [], []
    for equation in jaxpr.eqns:
        if _is_early(equation, early):
            early.update(equation.outvars)
            before.append(equation)
        else:
            after.append(equation)
    needed = list(
        dict.fromkeys(
            v
            for v in (*_read(after), *jaxpr.outvars)
            if isinstance(v, Var) and v in early
        )
    )
    first = _program(
        jaxpr, jaxpr.invars[:weights], needed, before, jaxpr.constvars, program.consts
    )
    rest = _program(
        jaxpr, [*needed, *jaxpr.invars[weights:]], jaxpr.outvars, after, (), ()
    )
    return Hoisted(first, rest)


def _is_early(equation: Equation, early: set[Var]) -> bool:
    read = [v for v in equation.invars if not isinstance(v, Literal)]
    if equation.effects or not read or not early.issuperset(read):
        return False
    return sum(map(_bytes, equation.outvars)) <= sum(map(_bytes, read))


def _bytes(value: Any) -> int:
    return int(prod(value.aval.shape)) * int(value.aval.dtype.itemsize)


def _read(equations: Sequence[Equation]) -> Iterator[Any]:
    for equation in equations:
        yield from equation.invars


def _program(
    like: Jaxpr,
    operands: Sequence[Var],
    results: Sequence[Any],
    equations: Sequence[Equation],
    constants: Sequence[Var],
    values: Sequence[Array],
) -> ClosedJaxpr:
    made = like.replace(  # type: ignore[no-untyped-call]
        constvars=list(constants),
        invars=list(operands),
        outvars=list(results),
        eqns=list(equations),
    )
    return ClosedJaxpr(made, list(values))
