"""Weights that bodies hold, captured from around them.

What a body holds each device has whole. As an operand of its op a weight lies on the
mesh as others do::

    scan(h, x, {tanh(h W + x)})  =  scan(h, x, W, {w: tanh(h w + x)})
"""

from __future__ import annotations

from typing import Any, Final

from graphopt.ir import Graph, Op, Parameter, Value, rebuild
from graphopt.ops import Constant, If, Loop

from .turns import is_region

SMALL: Final = 64
"""Weights of so few elements stay where they are."""


def captured(graph: Graph) -> Graph:
    """The graph whose control flow captures all its large weights, bodies included."""
    if not any(map(is_region, graph.ops)):
        return graph
    names: dict[Value, str] = {}

    def build(op: Op, operands: tuple[Value | None, ...]) -> Op:
        return (
            _captured(op, operands, names)
            if is_region(op)
            else op.with_operands(operands)
        )

    made = rebuild(graph, build)
    return made.replace(names={**names, **made.names})


def _captured(
    op: Op, operands: tuple[Value | None, ...], names: dict[Value, str]
) -> Op:
    """The op on operands, and on the weights of its bodies."""
    bodies = list(map(captured, op.bodies))
    weights: dict[Value, None] = {}
    for body in bodies:
        for inner in body.ops:
            if isinstance(inner, Constant) and _is_large(inner, body):
                weights[inner] = None
                if inner in body.names:
                    names.setdefault(inner, body.names[inner])
    made = []
    for body in bodies:
        given = [Parameter(w.type, body.names.get(w, "")) for w in weights]
        mapping: dict[Value, Value] = dict(zip(weights, given, strict=True))
        made.append(body.substitute(mapping).replace(inputs=[*body.inputs, *given]))
    if isinstance(op, Loop):  # a trip count and a condition come first
        operands += (None,) * (2 - len(operands))
    attrs: dict[str, Any] = {}
    if not isinstance(op, If):
        attrs["captures"] = int(op.captures) + len(weights)
    return op.copy(operands=(*operands, *weights), bodies=made, **attrs)


def _is_large(weight: Constant, body: Graph) -> bool:
    """True for what devices may share out: no op has to know its numbers."""
    if weight.ints is not None or weight.tensor.size <= SMALL:
        return False
    return not any(at in getattr(op, "static", ()) for op, at in body.users[weight])
