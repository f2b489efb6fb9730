"""The seconds of one op on its local operands, for each way to share it out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from graphopt import index
from graphopt.cost import op_cost
from graphopt.index import Split
from graphopt.ir import Op, Value
from graphopt.ops import Identity
from graphopt.ops.reshaping import Reshaping
from graphopt.types import TensorType

from .choices import Choice
from .layout import local_bytes
from .machine import TIE, Machine
from .ways import domain_of, value_bytes


class Timing:
    """One op, and what of it does not depend on the choice.

    A device does its share of the operations: axes that split an operand or a result
    share them out. Of each tensor it moves what it holds, or less where the op reads
    but some of it (a table that is looked up). What it exchanges inside comes on top.
    """

    def __init__(self, op: Op, machine: Machine) -> None:
        self.op = op
        self.machine = machine
        self.free = isinstance(op, Reshaping | Identity)
        flops = op_cost(op).flops
        self.flops = flops if isinstance(flops, int) else 0
        self.values: Sequence[Value | None] = (*op.operands, *op.results)
        self.touched = _touched(op)
        self.dtype = next((v.dtype for v in op.operands if v is not None), None)

    def seconds(self, choice: Choice) -> float:
        """What a run on parts takes; never 0."""
        if self.free:
            return TIE
        mesh, layouts = self.machine.mesh, (*choice.operands, *choice.results)
        share = math.prod(
            size
            for axis, size in enumerate(mesh.sizes)
            if any(isinstance(layout[axis], Split) for layout in layouts)
        )
        moved = 0.0
        for value, layout, touched in zip(
            self.values, layouts, self.touched, strict=True
        ):
            if value is not None and isinstance(value.type, TensorType):
                held = local_bytes(value.type, layout, mesh)
                moved += held if touched is None else min(held, touched / share)
        run = self.machine.run_seconds(self.flops / share, moved, self.dtype)
        return run + sum(seconds for *_, seconds in self.exchanges(choice))

    def exchanges(self, choice: Choice) -> Iterator[tuple[str, int, int, float]]:
        """Collectives inside: kind, mesh axis, bytes of the larger side, seconds.

        The choice is one of `choices`, which has looked for them.
        """
        assert choice.inside is not None or not choice.ways, str(choice)
        names = self.machine.mesh.names
        for kind, name, size in choice.inside or ():
            axis = names.index(name)
            yield kind, axis, size, self.machine.sending(kind, axis, size)


def _touched(op: Op) -> list[float | None]:
    """Bytes of each tensor that the op reads or writes, None for all of them."""
    values = (*op.operands, *op.results)
    domain = domain_of(op)
    if domain is None or len(domain.maps.results) != op.outs:
        return [None] * len(values)
    count = len(op.operands)
    found: list[float | None] = []
    for i, value in enumerate(values):
        alone = [0.0] * (len(domain.maps.operands) + op.outs)
        at = i if i < count else i - count + len(domain.maps.operands)
        bits = 0 if value is None or value.dtype is None else value.dtype.bits
        alone[at] = bits / 8
        moved: Any = index.bytes_moved(domain, alone)
        whole = 0 if value is None else value_bytes(value)
        found.append(float(moved) if isinstance(moved, int) and moved < whole else None)
    return found
