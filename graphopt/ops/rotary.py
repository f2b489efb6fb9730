"""Rotary position embedding (ONNX RotaryEmbedding, opset 23)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..dims import Dim
from ..ir import Value
from .bodies import vector
from .elementwise import Add, Mul, Sub
from .indexing import Gather
from .registry import op
from .reshaping import Reshape, Unsqueeze
from .segments import Concat, Slice
from .steering import shape_of
from .structured import Array, Composite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..types import Type
    from ..xp import Namespace


@op("RotaryEmbedding")
class RotaryEmbedding(Composite):
    """Pairs of elements of each head, rotated by an angle that depends on the position.

    ``x`` is ``[batch, head, position, size]``, or heads and sizes in one last dim. The
    first ``rotary_embedding_dim`` elements (0: all) are turned: each of the first half
    with its fellow in the second, or ``interleaved`` with its neighbour. With
    ``position_ids`` the cosines and sines are looked up there. Su et al., arXiv
    2104.09864.
    """

    def infer(self) -> Sequence[Type]:
        x, *tables = self.operands[:3]
        assert x is not None
        turned = self.rotary_embedding_dim or self._size()
        wanted = turned // 2 if isinstance(turned, int) else None
        for table in tables:
            half = table.shape[-1] if table is not None and table.shape else None
            if isinstance(half, int) and wanted is not None and half != wanted:
                raise self.error(
                    f"{turned} elements are turned by {wanted} angles, not {half}"
                )
        return [x.type]

    def _size(self) -> Dim:
        """Elements of a head."""
        shape = shape_of(self)
        if shape is None:
            return None
        if len(shape) == 4:
            return shape[3]
        if len(shape) != 3 or not self.num_heads:
            raise self.error("x is of rank 4, or of rank 3 with num_heads")
        hidden = shape[2]
        return hidden // self.num_heads if isinstance(hidden, int) else None

    def body(self) -> Value | None:
        x, cosine, sine, *positions = self.operands
        size = self._size()
        if x is None or cosine is None or sine is None or not isinstance(size, int):
            return None
        flat = x.rank == 3
        turned = self.rotary_embedding_dim or size
        data: Value = x
        if flat:
            data = Reshape(x, vector(0, 0, self.num_heads, size))
        if positions:
            cosine, sine = (Gather(v, positions[0], axis=0) for v in (cosine, sine))
        axis = vector(2 if flat else 1)
        cosine, sine = Unsqueeze(cosine, axis), Unsqueeze(sine, axis)
        first, second = self._pairs(data, turned)
        real = Sub(Mul(cosine, first), Mul(sine, second))
        other = Add(Mul(sine, first), Mul(cosine, second))
        if self.interleaved:
            last = vector(-1)
            both = Concat(Unsqueeze(real, last), Unsqueeze(other, last), axis=-1)
            result: Value = Reshape(both, vector(0, 0, 0, turned))
        else:
            result = Concat(real, other, axis=-1)
        if turned < size:
            result = Concat(result, _sliced(data, turned, size), axis=-1)
        return Reshape(result, vector(0, 0, -1)) if flat else result

    def _pairs(self, x: Value, turned: int) -> tuple[Value, Value]:
        if self.interleaved:
            return _sliced(x, 0, turned, 2), _sliced(x, 1, turned, 2)
        return _sliced(x, 0, turned // 2), _sliced(x, turned // 2, turned)

    def compute(
        self,
        xp: Namespace,
        x: Array,
        cosine: Array,
        sine: Array,
        positions: Array | None = None,
    ) -> Array:
        shape = x.shape
        if x.ndim == 3:
            x = xp.reshape(x, (*shape[:2], self.num_heads, -1))
        if positions is not None:
            cosine, sine = xp.take(cosine, positions), xp.take(sine, positions)
        head = 2 if len(shape) == 3 else 1
        cosine, sine = xp.unsqueeze(cosine, (head,)), xp.unsqueeze(sine, (head,))
        turned = self.rotary_embedding_dim or x.shape[-1]

        def rotated(x: Array, cosine: Array, sine: Array) -> Array:
            if self.interleaved:
                first, second = x[..., 0:turned:2], x[..., 1:turned:2]
            else:
                half = turned // 2
                first, second = x[..., :half], x[..., half:turned]
            real = xp.subtract(xp.multiply(cosine, first), xp.multiply(sine, second))
            other = xp.add(xp.multiply(sine, first), xp.multiply(cosine, second))
            if self.interleaved:
                pairs = xp.reshape(xp.stack([real, other], -1), (*x.shape[:-1], turned))
            else:
                pairs = xp.concat([real, other], -1)
            return xp.concat([pairs, x[..., turned:]], -1)

        return xp.reshape(xp.each(rotated, x, cosine, sine), shape)


def _sliced(x: Value, start: int, end: int, step: int = 1) -> Value:
    """Elements of the last axis."""
    return Slice(x, vector(start), vector(end), vector(-1), vector(step))
