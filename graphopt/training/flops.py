"""Floating-point operations of programs of JAX, counted before XLA sees them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

Jaxpr = Any
Equation = Any

MOVES: Final = frozenset(
    {
        *("broadcast_in_dim", "concatenate", "convert_element_type", "copy", "copy_p"),
        *("dynamic_slice", "dynamic_update_slice", "expand_dims", "gather", "iota"),
        *("pad", "reshape", "rev", "slice", "split", "squeeze", "stop_gradient"),
        *("transpose", "bitcast_convert_type", "name", "optimization_barrier"),
    }
)
"""Primitives that only move numbers, or make them of nothing."""


def flops_of(equations: Iterable[Equation]) -> int:
    """What a run of these takes; of branches the dearest, of a while loop one turn."""
    return sum(map(_flops, equations))


def _flops(equation: Equation) -> int:
    kind, params = equation.primitive.name, equation.params
    inside = list(_programs(params))
    if inside:
        costs = [flops_of(program.eqns) for program in inside]
        if kind == "cond":
            return max(costs)
        return sum(costs) * (params["length"] if kind == "scan" else 1)
    if kind in MOVES:
        return 0
    made: int = sum(math.prod(v.aval.shape) for v in equation.outvars)
    if kind == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * made * int(math.prod(shape[axis] for axis in contracted))
    if kind == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outs = kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2 * made * int(math.prod(kernel) // outs)
    if kind.startswith(("reduce", "arg", "cum")):
        return int(math.prod(equation.invars[0].aval.shape))
    return made


def _programs(params: dict[str, Any]) -> Iterable[Jaxpr]:
    """The programs inside of an equation; not those that only say its derivative."""
    for name, value in params.items():
        if name in ("jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd", "jvp_jaxpr_thunk"):
            continue
        for each in value if isinstance(value, tuple | list) else (value,):
            program = getattr(each, "jaxpr", each)
            if hasattr(program, "eqns"):
                yield program
