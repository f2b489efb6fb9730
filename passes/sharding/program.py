"""What partitioning gives: one local graph that every device of a mesh runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from graphopt.cost import value_bytes
from graphopt.ir import Graph, Op, Value
from graphopt.ops import Constant
from graphopt.ops.mesh import OverMesh, Shard

from .layout import Layout
from .mesh import Mesh


@dataclass(frozen=True)
class Program:
    """A program for all devices of a mesh (single program, multiple data).

    ``graph`` is what each device runs, on its parts: parameters and outputs have the
    dims of a part, and `graphopt.ops.mesh` says what devices send each other. Its
    inputs and outputs have the names and the order of the model's; ``inputs`` and
    ``outputs`` say how these lie on the mesh. A weight that is split is a `Shard` of
    its constant (a chain of them where several axes split it), so that a device reads
    its part alone.
    """

    mesh: Mesh
    graph: Graph
    inputs: tuple[Layout, ...]
    outputs: tuple[Layout, ...]
    layouts: Mapping[Value, Layout] = field(default_factory=dict)
    """Of values of the local graph, for reports."""

    def collectives(self) -> Iterator[OverMesh]:
        """The ops by which devices send each other something, bodies included."""
        for _, op in self.graph.walk():
            if isinstance(op, OverMesh) and op.communicates:
                yield op


def handled_bytes(op: OverMesh) -> int:
    """Bytes of the larger of what a device gives to a collective and gets from it."""
    return max(value_bytes(v, {}) or 0 for v in (*op.operands, op) if v is not None)


def stored(value: Value) -> tuple[Constant, tuple[tuple[str, int, int], ...]] | None:
    """The constant that a local value is a part of, and what splits it.

    Splits are ``(mesh axis, ways, dim)``, in the order in which they are taken; none
    for a replicated weight. None for what is no stored part of a weight.
    """
    splits: list[tuple[str, int, int]] = []
    at: Op | None = value.op
    while isinstance(at, Shard):
        splits.append((at.axis, at.ways, at.dim))
        (operand,) = at.operands
        at = operand.op if operand is not None else None
    return (at, tuple(reversed(splits))) if isinstance(at, Constant) else None


def is_weight(value: Value | Op) -> bool:
    """True for a constant, or the part of it that a device holds."""
    if isinstance(value, Op) and value.outs != 1:
        return False
    return isinstance(value, Constant) or (
        isinstance(value, Value) and stored(value) is not None
    )


def held(ops: Sequence[Op]) -> set[Op]:
    """The weights of a program as a device holds them, and what they are parts of.

    A part of what the device holds anyway is none: it is taken when it is needed.
    """
    weights = [op for op in ops if is_weight(op)]
    found: set[Op] = {op for op in weights if isinstance(op, Constant)}
    readers = (op for op in ops if not isinstance(op, Shard))
    read = {value for op in readers for value in op.operands}
    for op in weights:
        whole = op.operands[0].op if isinstance(op, Shard) and op.operands[0] else None
        if whole in found and whole not in read:
            found.add(op)
    return found
