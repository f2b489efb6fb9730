"""How a runtime uses memory: what shares it, and how it is laid out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

LANES: Final = (8, 128)
"""A TPU keeps the last two dims in tiles of so many sublanes and lanes."""


@dataclass(frozen=True)
class Space:
    """A memory space of one device, and what its runtime does there.

    Sizes are rounded up to ``alignment`` bytes, and so are offsets. ``views``: a
    reshape gives the same bytes. ``in_place``: an elementwise op may write over an
    operand that nothing reads later. ``outputs``: those of the graph lie in the arena;
    else the caller has them, as he has the inputs. ``padded``: the last two dims fill
    whole tiles of `LANES`. ``joins``: parts of a result are copied into it when all are
    there; else each is written to its place.
    """

    alignment: int = 64
    views: bool = True
    in_place: bool = True
    outputs: bool = False
    padded: bool = False
    joins: bool = True

    def size(self, shape: tuple[int, ...], bits: int) -> int:
        """Bytes that a tensor takes here."""
        if self.padded and len(shape) >= 2:
            rest, tail = shape[:-2], shape[-2:]
            shape = (*rest, *map(_rounded_up, tail, LANES))
        return self.rounded(-(-math.prod(shape) * bits // 8))

    def rounded(self, size: int) -> int:
        """``size`` bytes as they are handed out."""
        return _rounded_up(size, self.alignment)


SPACES: Final = {
    "reference": Space(),
    "ort-cpu": Space(alignment=256),
    "ort-cuda": Space(alignment=256),
    "xla-cpu": Space(joins=False),
    "xla-cuda": Space(alignment=256, joins=False),
    "xla-tpu": Space(alignment=512, padded=True, joins=False),
}
"""The main memory of each target.

256: `kAllocAlignment` of ONNX Runtime's arena, and what CUDA's allocator gives. 512:
the least transfer from a TPU's HBM.
"""


def _rounded_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
