"""The seconds of one op on its local operands, for each way to share it out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from graphopt import index
from graphopt.cost import op_cost
from graphopt.index import Split
from graphopt.ir import Op, Value
from graphopt.ops import Identity
from graphopt.ops.reshaping import Reshaping
from graphopt.ops.structured import Structured
from graphopt.types import DType

from .layout import Layout
from .machine import TIE, Machine


class Timing:
    """One op, and what of it does not depend on the choice.

    A device does its share of the operations: axes that split an operand or a result
    share them out. Of each tensor it moves what it holds, or less where the op reads
    but some of it (a table that is looked up).
    """

    def __init__(self, op: Op, machine: Machine) -> None:
        self.machine = machine
        self.free = isinstance(op, Reshaping | Identity)
        flops = op_cost(op).flops
        self.flops = flops if isinstance(flops, int) else 0
        self.values: Sequence[Value | None] = (*op.operands, *op.results)
        self.touched = _touched(op)
        self.dtype = _rate(op)

    def seconds(self, operands: Sequence[Layout], results: Sequence[Layout]) -> float:
        """With these layouts; the mesh divides them."""
        if self.free:
            return TIE
        machine, layouts = self.machine, (*operands, *results)
        ways = [
            size
            for axis, size in enumerate(machine.mesh.sizes)
            if any(isinstance(layout[axis], Split) for layout in layouts)
        ]
        share = math.prod(ways)
        moved = 0.0
        for value, layout, touched in zip(
            self.values, layouts, self.touched, strict=True
        ):
            if value is not None and value.shape is not None:
                held = machine.local_bytes(value.shape, layout, value.dtype)
                moved += held if touched is None else min(held, touched / share)
        return machine.run_seconds(self.flops / share, moved, self.dtype)


def _touched(op: Op) -> list[float | None]:
    """Bytes of each tensor that the op reads or writes, None for all of them."""
    values = (*op.operands, *op.results)
    nothing: list[float | None] = [None] * len(values)
    maps = op.index_maps() if isinstance(op, Structured) else None
    if maps is None or len(maps.operands) + len(maps.results) != len(values):
        return nothing
    shapes = [None if v is None else v.shape for v in op.operands]
    domain = index.domain(maps, shapes, op.extents())
    found: list[float | None] = []
    for i, value in enumerate(values):
        size = 0.0 if value is None or value.dtype is None else value.dtype.bits / 8
        alone = [0.0] * len(values)
        alone[i] = size
        moved: Any = index.bytes_moved(domain, alone)
        all_ = _bytes(value)
        less = isinstance(moved, int) and all_ is not None and moved < all_
        found.append(float(moved) if less else None)
    return found


def _bytes(value: Value | None) -> float | None:
    if value is None or value.shape is None or value.dtype is None:
        return None
    return math.prod(value.shape) * value.dtype.bits / 8


def _rate(op: Op) -> DType | None:
    """The element type whose products the op makes: of the first operand with one."""
    return next((v.dtype for v in op.operands if v is not None and v.dtype), None)
