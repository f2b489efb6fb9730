"""How a runtime uses memory: what shares it, and how it is laid out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

Places: TypeAlias = Mapping[str, tuple[int, ...]]
"""By kind of op, positions of operands."""

IN_PLACE: Final[Mapping[str, tuple[int, ...]]] = {
    **dict.fromkeys(
        (
            *("Cast", "Celu", "Clip", "Elu", "HardSigmoid", "LeakyRelu", "LogSoftmax"),
            *("Relu", "ScatterElements", "Selu", "Shrink", "Sigmoid", "Softmax"),
            *("Softplus", "Softsign", "Tanh", "ThresholdedRelu", "Trilu"),
        ),
        (0,),
    ),
    **dict.fromkeys(("FusedConv", "com.microsoft.nchwc.Conv"), (3,)),
}
"""Of ONNX Runtime's kernels on the CPU: the operands whose memory the first result may
have, if that is their last use. Measured with version 1.32."""
LANES: Final = (8, 128)
"""A TPU keeps the last two dims in tiles of so many sublanes and lanes."""


@dataclass(frozen=True)
class Space:
    """A memory space of one device, and what its runtime does there.

    Sizes are rounded up to ``alignment`` bytes, and so are offsets. ``views``: a
    reshape gives the same bytes. ``in_place``: a result may be written over an operand
    that nothing reads later, of any elementwise op or of kinds that are listed.
    ``outputs``: those of the graph lie in the arena; else the caller has them, as he
    has the inputs: those that are made ``late`` from the step that computes them on,
    others for the whole run. ``padded``: the last two dims fill whole tiles of `LANES`.
    ``joins``: parts of a result are copied into it when all are there; else each is
    written to its place. ``kernels``: attention keeps its scores to itself where there
    is a kernel of TPUs for it (`blocks`). ``scratch``: kernels take what those of ONNX
    Runtime do, a mask as numbers and the sum of an activation with its bias.
    ``pads``: convolutions of single channels read a padded copy of their operand.
    """

    alignment: int = 64
    views: bool = True
    in_place: bool | Places = True
    outputs: bool = False
    late: bool = False
    padded: bool = False
    joins: bool = True
    kernels: bool = False
    scratch: bool = False
    pads: bool = False

    def size(self, shape: tuple[int, ...], bits: int) -> int:
        """Bytes that a tensor takes here."""
        if self.padded and len(shape) >= 2:
            rest, tail = shape[:-2], shape[-2:]
            shape = (*rest, *map(_rounded_up, tail, LANES))
        return self.rounded(-(-math.prod(shape) * bits // 8))

    def rounded(self, size: int) -> int:
        """``size`` bytes as they are handed out."""
        return _rounded_up(size, self.alignment)


_RUNTIME: Final = Space(alignment=256, late=True, in_place=IN_PLACE, scratch=True)

SPACES: Final = {
    "reference": Space(),
    "onnx": _RUNTIME,
    "ort-cpu": _RUNTIME,
    "ort-cuda": _RUNTIME,
    "xla-cpu": Space(joins=False, pads=True),
    "xla-cuda": Space(alignment=256, joins=False),
    "xla-tpu": Space(alignment=512, padded=True, joins=False, kernels=True),
}
"""The main memory of each target.

256: `kAllocAlignment` of ONNX Runtime's arena, and what CUDA's allocator gives. 512:
the least transfer from a TPU's HBM.
"""


def _rounded_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
