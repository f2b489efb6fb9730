"""Which values of a graph must be known before XLA can compile it.

XLA compiles for fixed shapes. What an op declares `static` (shapes, axes, k, sizes)
steers them, and so does whatever that is computed from, back to constants and inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from math import prod
from typing import Final

from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops.control import Control, If, Loop, Scan
from graphopt.ops.generation import Shape, Size
from graphopt.ops.sequence import OptionalHasElement, SequenceLength
from graphopt.ops.strips import Strips
from graphopt.ops.structured import Computed
from graphopt.ops.tiled import Tiled
from graphopt.types import TensorType

STRUCTURAL: Final = (Shape, Size, SequenceLength, OptionalHasElement)
"""Ops that look at the shape of their operand, and at none of its elements."""

STEERING_ELEMENTS: Final = 1024
"""An input of more elements is data, and cannot steer shapes."""


def steering(graph: Graph) -> frozenset[Value]:
    """The values, those of bodies too, that a trace needs to know.

    Every step goes from a value to what its op reads; bodies are entered.
    """
    found: set[Value] = set()
    _spread(graph, found)
    return frozenset(found)


def steering_inputs(graph: Graph, known: Collection[Value]) -> Iterator[Parameter]:
    """The inputs in ``known`` that callers give when a program is made.

    Few integers, and floats that an op reads as scales or limits; others are data.
    """
    for parameter in graph.inputs:
        type_ = parameter.type
        if parameter not in known or not isinstance(type_, TensorType):
            continue
        if type_.dtype is None or (
            type_.dtype.is_float and not _is_read_as_static(graph, parameter)
        ):
            continue
        extents = [d for d in type_.shape or () if isinstance(d, int)]
        if prod(extents) <= STEERING_ELEMENTS:
            yield parameter


def _is_read_as_static(graph: Graph, parameter: Parameter) -> bool:
    """True where an op reads all of it to know its shape; of lists at most."""
    if len(parameter.shape or ()) > 1:
        return False
    return any(
        isinstance(op, Computed) and i in op.static for op, i in graph.users[parameter]
    )


def _spread(graph: Graph, found: set[Value]) -> None:
    for op in reversed(graph.ops):
        found.update(steers(op))
        if isinstance(op, Control):
            _enter(op, found)
        if not isinstance(op, STRUCTURAL) and not found.isdisjoint(op.results):
            found.update(v for v in op.operands if v is not None)


def steers(op: Op) -> Iterator[Value]:
    """The operands that decide shapes: of its results, or how many there are."""
    if isinstance(op, Computed):
        yield from present(op.operand(i) for i in op.static)
    if isinstance(op, Loop) and op.outs > op.carried:
        yield from present(op.operands[:2])  # they say how many rows there are
    if isinstance(op, If) and not _alike(op):
        yield from present(op.operands[:1])


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
        pairs = list(fed(op, body))
        before = -1
        while before != len(found):  # what a loop carries comes around
            before = len(found)
            for result, value in zip(aligned(op, body), body.outputs, strict=False):
                if result in found:
                    found.add(value)
            _spread(body, found)
            for parameter, value in pairs:
                if parameter in found:
                    found.add(value)
            if isinstance(op, Loop) and body.inputs[0] in found:
                found.update(present(op.operands[:2]))


def fed(op: Control, body: Graph) -> Iterator[tuple[Value, Value]]:
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


def aligned(op: Control, body: Graph) -> Iterator[Value | None]:
    """The result of the op that each output of a body becomes."""
    if isinstance(op, Loop):
        yield None  # the condition
    yield from op.results


def present(values: Iterable[Value | None]) -> Iterator[Value]:
    return (value for value in values if value is not None)
