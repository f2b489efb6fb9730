"""Weights of few bits, packed into bytes, with a scale for each block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ...ir import Value
from ...types import DType
from ..bitwise import BitShift, BitwiseAnd
from ..bodies import cast, scalar, vector
from ..constant import Constant
from ..contraction import MatMul
from ..elementwise import Mul, Sub
from ..generation import Shape as ShapeOf
from ..indexing import Gather
from ..movement import Expand, Transpose
from ..quantization import DequantizeLinear
from ..registry import op
from ..reshaping import Reshape, Unsqueeze
from .base import DOMAIN, Contrib, summed
from .heads import part


def unpacked(x: Value, bits: int) -> Value:
    """The numbers in the bytes of the last axis, the lowest bits first."""
    if bits == 8:
        return x
    shifts = Constant(np.arange(0, 8, bits, dtype=np.uint8))
    apart = BitShift(Unsqueeze(x, vector(-1)), shifts, direction="RIGHT")
    numbers = BitwiseAnd(apart, scalar((1 << bits) - 1, DType.U8))
    assert x.rank is not None
    return Reshape(numbers, vector(*[0] * (x.rank - 1), -1))


@op("MatMulNBits", domain=DOMAIN)
class MatMulNBits(Contrib):
    """a @ w' + bias, of weights w (``[N, K]``) of few bits.

    Operands: a, the weights in blocks along K, a scale for each block, zero points
    (packed like the weights, or real), the block of each k, the bias. How exactly a
    kernel should compute is not part of the meaning.
    """

    __slots__ = ()
    facts = (3, 6, 1)
    defaults: ClassVar[Mapping[str, Any]] = {
        "accuracy_level": 0,
        "bits": 4,
        "weight_prepacked": 0,
    }
    required = frozenset(("K", "N", "block_size"))

    def body(self) -> Value | None:
        a, packed, scales = self.operands[:3]
        if a is None or packed is None or scales is None:
            return None
        if self.weight_prepacked or packed.rank is None or 8 % self.bits:
            return None
        if packed.shape is not None and 0 in packed.shape:
            return None
        rows = Reshape(packed, vector(self.N, -1))
        numbers = part(unpacked(rows, self.bits), 0, self.K, 1)
        weights = self._weights(numbers, Reshape(scales, vector(self.N, -1)))
        if weights is None:
            return None
        return summed(MatMul(a, Transpose(weights, perm=(1, 0))), self.operand(5))

    def _weights(self, numbers: Value, scales: Value) -> Value | None:
        """What the weights stand for, ``[N, K]``."""
        zeros, blocks, given = self._zeros(scales), self.operand(4), self.operand(3)
        if blocks is not None and given is not None and given.dtype is DType.U8:
            return None  # the kernel passes over such zero points
        if blocks is None and zeros.dtype is DType.U8:
            return DequantizeLinear(
                *(numbers, scales, zeros), axis=1, block_size=self.block_size
            )
        if scales.dtype is None:
            return None
        if blocks is None:
            blocks = Constant(np.arange(self.K, dtype=np.int32) // self.block_size)
        zero, scale = (Gather(x, blocks, axis=1) for x in (zeros, scales))
        dtype = scales.dtype
        return Mul(Sub(cast(numbers, dtype), cast(zero, dtype)), scale)

    def _zeros(self, scales: Value) -> Value:
        """A zero point for each block, ``[N, blocks]``."""
        zeros = self.operand(3)
        if zeros is None:
            middle = scalar(1 << (self.bits - 1), DType.U8)
            return Expand(middle, ShapeOf(scales))
        rows = Reshape(zeros, vector(self.N, -1))
        if zeros.dtype is not DType.U8:
            return rows
        count = -(-self.K // self.block_size)
        return part(unpacked(rows, self.bits), 0, count, 1)


@op("GatherBlockQuantized", domain=DOMAIN)
class GatherBlockQuantized(Contrib):
    """What slices of a quantized table stand for.

    Operands: the table, indices along ``gather_axis``, a scale for each block along
    ``quantize_axis``, zero points. Bytes hold numbers of fewer bits in the last axis.
    """

    __slots__ = ()
    facts = (3, 4, 1)
    defaults: ClassVar[Mapping[str, Any]] = {
        "bits": 4,
        "block_size": 128,
        "gather_axis": 0,
        "quantize_axis": 1,
    }

    def body(self) -> Value | None:
        table, indices, scales, zeros = (self.operand(i) for i in range(4))
        if table is None or indices is None or scales is None:
            return None
        rank, bytes_ = table.rank, table.dtype is DType.U8
        if rank is None or indices.rank is None or table.dtype is None:
            return None
        if not table.dtype.is_integer or 8 % self.bits:
            return None
        if bytes_:
            zeros = self._zeros(scales)
            if zeros is None:
                return None
        gathered, along = self.gather_axis % rank, self.quantize_axis % rank
        if gathered == along:
            whole = DequantizeLinear(
                *(table, scales, zeros), axis=along, block_size=self.block_size
            )
            return Gather(whole, indices, axis=gathered)
        found: list[Value | None] = [
            None if x is None else Gather(x, indices, axis=gathered)
            for x in (table, scales, zeros)
        ]
        numbers = found[0]
        if bytes_ and numbers is not None:
            found[0] = unpacked(numbers, self.bits)
        moved = along if along < gathered else along + indices.rank - 1
        return DequantizeLinear(*found, axis=moved, block_size=self.block_size)

    def _zeros(self, scales: Value) -> Value | None:
        """The zero points of a table of bytes."""
        zeros, shape = self.operand(3), scales.shape
        if zeros is None:
            middle = scalar(1 << (self.bits - 1), DType.U8)
            return Expand(middle, ShapeOf(scales))
        count = None if shape is None else shape[-1]
        if not isinstance(count, int):
            return None
        return part(unpacked(zeros, self.bits), 0, count)


FP4 = (0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4)
"""The numbers of FP4, which their negations follow."""
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634),
    *(0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)
"""The numbers of NF4. Dettmers et al., arXiv 2305.14314."""


@op("MatMulBnb4", domain=DOMAIN)
class MatMulBnb4(Contrib):
    """a @ w', of weights w (``[N, K]``) that are 4-bit names of a number each.

    Operands: a, the names in pairs, the first in the higher bits, and what the numbers
    of each block are multiplied by.
    """

    __slots__ = ()
    facts = (3, 3, 1)
    defaults: ClassVar[Mapping[str, Any]] = {"training_mode": 0, "transB": 1}
    required = frozenset(("K", "N", "block_size", "quant_type"))

    def body(self) -> Value | None:
        a, packed, most = self.operands
        if most is None or most.dtype is None or self.quant_type not in (0, 1):
            return None
        if not self.transB:
            return None  # the kernel and its document differ
        table = NF4 if self.quant_type else (*FP4, *(-x for x in FP4))
        shifts = Constant(np.array([4, 0], np.uint8))
        pairs = BitShift(Unsqueeze(packed, vector(-1)), shifts, direction="RIGHT")
        names = Reshape(BitwiseAnd(pairs, scalar(15, DType.U8)), vector(-1))
        size = self.N * self.K
        blocks = Constant(np.arange(size, dtype=np.int32) // self.block_size)
        numbers = Constant(np.array(table).astype(most.dtype.numpy))
        found = Gather(numbers, cast(part(names, 0, size), DType.I32))
        weights = Reshape(Mul(found, Gather(most, blocks)), vector(self.N, self.K))
        return MatMul(a, Transpose(weights, perm=(1, 0)))
