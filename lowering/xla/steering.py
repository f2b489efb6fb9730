"""Which values of a graph must be known before XLA can compile it.

XLA compiles for fixed shapes. What an op declares `static` (shapes, axes, k, sizes)
steers them, and so does whatever that is computed from, back to constants and inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from graphopt.ir import Graph, Op, Value
from graphopt.ops.control import Control, If, Loop, Scan
from graphopt.ops.generation import Shape, Size
from graphopt.ops.sequence import OptionalHasElement, SequenceLength
from graphopt.ops.strips import Strips
from graphopt.ops.structured import Computed
from graphopt.ops.tiled import Tiled
from graphopt.types import TensorType

STRUCTURAL: Final = (Shape, Size, SequenceLength, OptionalHasElement)
"""Ops that look at the shape of their operand, and at none of its elements."""


def steering(graph: Graph) -> frozenset[Value]:
    """The values, those of bodies too, that a trace needs to know.

    Every step goes from a value to what its op reads; bodies are entered.
    """
    found: set[Value] = set()
    _spread(graph, found)
    return frozenset(found)


def _spread(graph: Graph, found: set[Value]) -> None:
    for op in reversed(graph.ops):
        found.update(_steers(op))
        if isinstance(op, Control):
            _enter(op, found)
        if not isinstance(op, STRUCTURAL) and not found.isdisjoint(op.results):
            found.update(v for v in op.operands if v is not None)


def _steers(op: Op) -> Iterator[Value]:
    if isinstance(op, Computed):
        yield from _present(op.operand(i) for i in op.static)
    if isinstance(op, Loop) and op.outs > op.carried:
        yield from _present(op.operands[:2])  # they say how many rows there are
    if isinstance(op, If) and not _alike(op):
        yield from _present(op.operands[:1])


def _alike(op: If) -> bool:
    """True where the branches are known to give the same shapes and types."""
    for a, b in zip(op.bodies[0].outputs, op.bodies[1].outputs, strict=True):
        x, y = a.type, b.type
        if not isinstance(x, TensorType) or x.shape is None or None in x.shape:
            return False
        if x != y:
            return False
    return True


def _enter(op: Control, found: set[Value]) -> None:
    """Go on inside the bodies, and from their parameters to what is fed to them."""
    for body in op.bodies:
        pairs = list(_fed(op, body))
        before = -1
        while before != len(found):  # what a loop carries comes around
            before = len(found)
            for result, value in zip(_aligned(op, body), body.outputs, strict=False):
                if result in found:
                    found.add(value)
            _spread(body, found)
            for parameter, value in pairs:
                if parameter in found:
                    found.add(value)
            if isinstance(op, Loop) and body.inputs[0] in found:
                found.update(_present(op.operands[:2]))


def _fed(op: Control, body: Graph) -> Iterator[tuple[Value, Value]]:
    """Each parameter of a body with what it is given: operands, and carried results."""
    operands = op.operands[1:] if isinstance(op, If) else op.operands
    tiles = isinstance(op, Tiled | Strips)
    parameters = body.inputs[1:] if tiles else body.inputs
    for parameter, operand in zip(parameters, operands, strict=False):
        if operand is not None:
            yield parameter, operand
    if isinstance(op, Loop):
        yield from zip(body.inputs[1:], body.outputs[: 1 + op.carried], strict=False)
    elif isinstance(op, Scan):
        yield from zip(body.inputs, body.outputs[: op.states], strict=False)
    elif isinstance(op, Tiled):
        yield from zip(parameters, body.outputs[: op.states], strict=False)


def _aligned(op: Control, body: Graph) -> Iterator[Value | None]:
    """The result of the op that each output of a body becomes."""
    if isinstance(op, Loop):
        yield None  # the condition
    yield from op.results


def _present(values: Iterable[Value | None]) -> Iterator[Value]:
    return (value for value in values if value is not None)
