"""What a device does to run an op, in numbers that a machine has seconds for.

The same numbers stand for a choice when plans are looked for and for the ops of the
program that a plan becomes, so that both take as long.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from graphopt import index
from graphopt.cost import op_flops
from graphopt.index import Split
from graphopt.ir import Op, Value
from graphopt.ops import Constant, Identity
from graphopt.ops.mesh import OverMesh, Position
from graphopt.ops.reshaping import Reshaping
from graphopt.types import DType, TensorType

from .layout import Layout, local_bytes, wire_bytes
from .mesh import Mesh
from .program import handled_bytes, held
from .signature import signature
from .turns import is_region, turns
from .ways import domain_of, value_bytes


class Work(NamedTuple):
    """Operations on numbers of a type, and the bytes that they read and write."""

    flops: float
    bytes: float
    dtype: DType | None


class Exchange(NamedTuple):
    """An op over an axis of so many devices, and bytes of the larger of its two sides.

    A collective, or something local as taking a part.
    """

    kind: str
    axis: str
    ways: int
    bytes: int

    @property
    def sent(self) -> float:
        """The bytes that a device sends."""
        return wire_bytes(self.kind, self.ways, self.bytes)


class InTurns(NamedTuple):
    """What an op does in its bodies, one of them in each turn.

    In each of the branches of an If another one; the dearest counts.
    """

    turns: int
    bodies: tuple[tuple[Deed, ...], ...]


Deed: TypeAlias = Work | Exchange | InTurns

NOTHING: Final = Work(0.0, 0.0, None)
"""What changes no number, as a reshape."""


class Shared:
    """One op, and what of its work does not depend on how it is shared out.

    A device does its share of the operations: axes that split an operand or a result
    share them out. Of each tensor it moves what it holds, or less where the op reads
    but some of it (a table that is looked up). How much less hangs on what is shared
    out, so that such an op is not ``even``: its parts have work of their own.
    """

    def __init__(self, op: Op) -> None:
        self.free = isinstance(op, Reshaping | Identity)
        self.inside = in_turns(op) if is_region(op) else None
        flops = op_flops(op)
        self.flops = flops if isinstance(flops, int) else 0
        self.values: Sequence[Value | None] = (*op.operands, *op.results)
        self.touched = _touched(op)
        self.even = self.free or not any(self.touched) or self.inside is not None
        self.dtype = next((v.dtype for v in op.operands if v is not None), None)

    def work(self, layouts: Sequence[Layout], mesh: Mesh) -> Deed:
        """That of the op on parts; layouts are of operands, then of results.

        An op with bodies is one of a local program: what its bodies do is known of it.
        """
        if self.free:
            return NOTHING
        if self.inside is not None:
            return self.inside
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
                moved += held if touched is None else min(held, touched)
        return Work(self.flops / share, moved, self.dtype)


def _touched(op: Op) -> list[float | None]:
    """Bytes of each tensor that the op touches, None where that is each once."""
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
        known = isinstance(moved, int) and moved != whole
        found.append(min(float(moved), whole) if known else None)
    return found


# --- ops of a local program ---------------------------------------------------------

_ALONE: Final = Mesh(())


def deeds(ops: Sequence[Op]) -> Iterator[tuple[Op, Deed]]:
    """What a device does for each op of a local program, operands first.

    Weights are there as they are held, and so is what hangs on nothing but constants
    and the place of the device: positions and masks, the same for all layers and steps.
    """
    weights, placed = held(ops), set[Op]()
    known: dict[Hashable, Deed] = {}
    for op in ops:
        if op in weights:
            continue
        if isinstance(op, Position) or _is_placed(op, placed):
            placed.add(op)
            yield op, NOTHING
        elif isinstance(op, OverMesh):
            yield op, Exchange(op.kind, op.axis, int(op.ways), handled_bytes(op))
        else:
            key = signature(op)
            if key not in known:
                count = len(op.operands) + op.outs
                known[key] = Shared(op).work(((),) * count, _ALONE)
            yield op, known[key]


def in_turns(op: Op) -> InTurns:
    """What control flow does in its bodies."""
    rows = [tuple([deed for _, deed in deeds(body.ops)]) for body in op.bodies]
    return InTurns(turns(op), tuple(rows))


def exchanges(work: Iterable[Deed]) -> Iterator[tuple[Exchange, int]]:
    """The exchanges, and how often each is made; of the branch that sends most."""
    for deed in work:
        if isinstance(deed, Exchange):
            yield deed, 1
        elif isinstance(deed, InTurns):
            rows = [list(exchanges(row)) for row in deed.bodies]
            most = max(rows, key=lambda row: sum(n * each.sent for each, n in row))
            yield from ((each, n * deed.turns) for each, n in most)


def _is_placed(op: Op, placed: set[Op]) -> bool:
    """True for what is made of such values and of constants."""
    makers = [v.op for v in op.operands if v is not None]
    return any(made in placed for made in makers) and all(
        made in placed or isinstance(made, Constant) for made in makers
    )
