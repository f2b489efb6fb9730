"""Attention as one kernel of a TPU: whether there is one, and in which blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from graphopt.dims import Shape
from graphopt.hardware import Device, devices
from graphopt.ops import Attention
from graphopt.rewrite import Miss, miss
from graphopt.types import DType

from .attended import Sizes, sizes_of
from .space import LANES

FLOATS: Final = (DType.F32, DType.BF16)
"""What a TPU multiplies, of all floats."""

QUERIES: Final = (128, 256, 512, 1024)
KEYS: Final = (128, 256, 512, 1024, 2048)
"""Sizes of blocks: multiples of the lanes, so that scores fill whole tiles."""

TEMPORARIES: Final = 4
"""Blocks of float32 scores that are there at once, at most: 3.3 were seen (libtpu
0.0.52, v5e; 32 cases of width, type, mask and block)."""

STEP: Final = 0.35e-6
"""Seconds that a step of a grid takes by itself (JAX's guide to Pallas, pipelining)."""


@dataclass(frozen=True)
class Blocks:
    """So many queries and keys at once; ``vmem`` bytes at most are taken for it."""

    queries: int
    keys: int
    vmem: int

    def __str__(self) -> str:
        return f"{self.queries} queries by {self.keys} keys"


def least() -> Device:
    """The TPU with the least VMEM: what it runs, all run."""
    return min((d for d in devices().values() if d.is_tpu), key=lambda d: d.near)


def blocks(
    op: Attention, shapes: Sequence[Shape | None] | None = None
) -> Blocks | Miss:
    """The blocks in which a kernel of every TPU takes an attention.

    ``shapes`` are those of its operands where it runs. A miss says why there is none:
    dims are not known, a type is none of a TPU's, or scores stay in VMEM as they are.
    """
    sizes = sizes_of(op, shapes)
    if isinstance(sizes, Miss):
        return sizes
    kinds = {v.dtype for v in op.operands[:3] if v is not None}
    (own, *others) = kinds
    if others or own not in FLOATS:
        names = ", ".join(sorted(str(kind) for kind in kinds))
        return miss(f"the kernel is of f32 or bf16, not of {names}", op)
    if op.softmax_precision not in (None, 1):  # FLOAT
        return miss("its softmax is not of float32", op)
    mask = op.operand(3)
    if mask is not None and mask.dtype not in (DType.BOOL, *FLOATS):
        return miss(f"the kernel has no masks of {mask.dtype}", mask)
    chip = least()
    if sizes.scores * 4 <= chip.near:
        return miss("its scores stay in VMEM as they are", op)
    given = [None if v is None else v.shape for v in op.operands]
    shape = (given if shapes is None else [*shapes])[3:4]
    found = [
        Blocks(q, k, need)
        for q, k in product(_cut(sizes.queries, QUERIES), _cut(sizes.keys, KEYS))
        if (need := _vmem(op, sizes, (shape or [None])[0], q, k)) <= chip.kernel
    ]
    if not found:
        return miss(f"heads of {sizes.width} and {sizes.depth} do not fit VMEM", op)
    return min(found, key=lambda b: (_seconds(op, sizes, b, chip), b.vmem))


def _cut(extent: int, sizes: Sequence[int]) -> list[int]:
    """Blocks of an axis: all of it, or multiples of the lanes."""
    return [size for size in sizes if size < extent] or [extent]


def _bits(op: Attention, place: int) -> int:
    value = op.operand(place)
    assert value is not None
    assert value.dtype is not None
    return value.dtype.bits


def _vmem(op: Attention, sizes: Sizes, mask: Shape | None, q: int, k: int) -> int:
    """Bytes: each operand and the result twice, as one is fetched while another is
    used; sums; and scores."""
    bits = _bits(op, 0)
    moved = [(q, sizes.width), (k, sizes.width), (k, sizes.depth), (q, sizes.depth)]
    twice = sum(padded(rows, columns, bits) for rows, columns in moved)
    if mask is not None:
        rows = q if len(mask) > 1 and mask[-2] != 1 else 1
        twice += padded(rows, k, max(8, _bits(op, 3)))
    sums = 2 * padded(q, LANES[1], 32) + padded(q, sizes.depth, 32)
    return 2 * twice + sums + TEMPORARIES * padded(q, k, 32)


def padded(rows: int, columns: int, bits: int) -> int:
    """Bytes of a matrix in VMEM: narrow types have more rows in a tile."""
    sublanes = LANES[0] * 32 // bits
    filled = -(-rows // sublanes) * sublanes * -(-columns // LANES[1]) * LANES[1]
    return filled * bits // 8


def _seconds(op: Attention, sizes: Sizes, cut: Blocks, chip: Device) -> float:
    """What the products and the traffic take, the larger one, and the grid's steps."""
    rows = -(-sizes.queries // cut.queries)
    columns = -(-sizes.keys // cut.keys)
    heads = sizes.batch * sizes.heads
    side = chip.matrix
    work = 2 * (cut.queries * rows) * (cut.keys * columns)
    work *= sum(-(-size // side) * side for size in (sizes.width, sizes.depth))
    size = _bits(op, 0) // 8
    read = rows * sizes.keys * (sizes.width + sizes.depth) * size
    if op.operand(3) is not None:
        read += sizes.queries * sizes.keys * max(8, _bits(op, 3)) // 8
    rate = chip.flops_per_second(op.dtype)
    return heads * (max(work / rate, read / chip.bandwidth) + rows * columns * STEP)
