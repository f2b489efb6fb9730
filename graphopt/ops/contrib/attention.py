"""Attention of ONNX Runtime, with its projections or after them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ...ir import Value
from ..bodies import vector
from ..contraction import MatMul
from ..registry import op
from ..reshaping import Reshape, Squeeze
from .base import DOMAIN, summed
from .heads import Masked, by_head, flat, part, stacked, unstacked


def split(x: Value, sizes: tuple[int, int, int]) -> list[Value]:
    """The parts of q, k and v in the last dim."""
    q, k, v = sizes
    return [part(x, 0, q), part(x, q, q + k), part(x, q + k, q + k + v)]


@op("Attention", domain=DOMAIN)
class Attention(Masked):
    """Attention of x to itself, after one projection to queries, keys and values.

    Operands: x, weights, bias, mask (see `heads.seen_by`), keys and values of the past,
    what is added to the scores. The second result are keys and values with the past.
    """

    __slots__ = ()
    facts = (2, 7, 2)
    defaults: ClassVar[Mapping[str, Any]] = {
        "do_rotary": 0,
        "past_present_share_buffer": 0,
        "unidirectional": 0,
    }
    others = Masked.others | {"qkv_hidden_sizes", "rotary_embedding_dim"}

    def body(self) -> tuple[Value, ...] | None:
        x, weights = self.operands[:2]
        if self.do_rotary or self.past_present_share_buffer:
            return None
        assert x is not None
        assert weights is not None
        return self.projected(MatMul(x, weights), self.operand(2), weights, (3, 4, 5))

    def projected(
        self,
        product: Value,
        bias: Value | None,
        weights: Value,
        others: tuple[int, int, int | None],
    ) -> tuple[Value, ...] | None:
        """The results, from x @ weights.

        ``others`` are the operands that hold the mask, the past, and what is added.
        """
        sizes = self._sizes(weights)
        if sizes is None:
            return None
        parts = split(summed(product, bias), sizes)
        q, k, v = (by_head(x, self.num_heads) for x in parts)
        mask, past = self.operand(others[0]), unstacked(self.operand(others[1]))
        added = None if others[2] is None else self.operand(others[2])
        made = self.attend(q, k, v, mask=mask, bias=added, past=past)
        if made is None:
            return None
        y, keys, values, _ = made
        return (flat(y), stacked(keys, values)) if self.outs > 1 else (flat(y),)

    def _sizes(self, weights: Value) -> tuple[int, int, int] | None:
        """Columns of the weights for q, k and v."""
        given = self.attrs.get("qkv_hidden_sizes")
        if isinstance(given, tuple):
            q, k, v = given
            return q, k, v  # type: ignore[return-value]
        width = None if weights.shape is None else weights.shape[-1]
        return (width // 3,) * 3 if isinstance(width, int) else None


class Separate(Masked):
    """Attention of q to keys and values that are given as operands.

    Each is ``[batch, position, head * size]``; keys and values may also be by head, or
    with the others in one tensor of rank 5.
    """

    __slots__ = ()
    facts = (1, 10, 4)

    def attended(
        self,
        *,
        bias: Value | None,
        mask: Value | None,
        added: Value | None,
        past: tuple[Value | None, Value | None],
    ) -> tuple[Value, ...] | None:
        """The results, from operands 0 to 2 and those given."""
        found = self.parts(bias)
        if found is None:
            return None
        made = self.attend(*found, mask=mask, bias=added, past=past)
        if made is None:
            return None
        y, keys, values, scores = made
        return (flat(y), keys, values, scores)[: self.outs]

    def parts(self, bias: Value | None) -> tuple[Value, Value, Value] | None:
        """q, k and v by head, with what is added to them."""
        q, k, v = (self.operand(i) for i in range(3))
        assert q is not None
        if q.rank == 5 and k is None and v is None:
            q, k, v = (_picked(q, i) for i in range(3))
        elif k is not None and k.rank == 5 and v is None:
            k, v = (_picked(k, i) for i in range(2))
        if k is None or v is None:
            return None
        biases: list[Value | None] = [None, None, None]
        if bias is not None:
            sizes = [self._width(x) for x in (q, k, v)]
            if not all(isinstance(size, int) for size in sizes):
                return None
            one, two, three = (int(size or 0) for size in sizes)
            biases = [*split(bias, (one, two, three))]
        made = [self._part(*pair) for pair in zip((q, k, v), biases, strict=True)]
        q, k, v = made
        return None if q is None or k is None or v is None else (q, k, v)

    def _width(self, x: Value) -> int | None:
        """Heads times their size."""
        if x.shape is None or len(x.shape) not in (3, 4):
            return None
        size = x.shape[-1]
        if not isinstance(size, int):
            return None
        return size if len(x.shape) == 3 else size * self.num_heads

    def _part(self, x: Value, bias: Value | None) -> Value | None:
        """An operand by head; those that are so already have no bias."""
        if x.rank == 3:
            return by_head(summed(x, bias), self.num_heads)
        return x if x.rank == 4 else None


def _picked(x: Value, index: int) -> Value:
    """One tensor of [batch, position, head, tensor, size], heads in its last dim."""
    return Reshape(Squeeze(part(x, index, index + 1, 3), vector(3)), vector(0, 0, -1))


@op("MultiHeadAttention", domain=DOMAIN)
class MultiHeadAttention(Separate):
    """Attention of queries to keys and values.

    Operands: q, k, v, bias, mask (see `heads.seen_by`), what is added to the scores,
    keys and values of the past. Further results: keys and values with the past, scores.
    """

    __slots__ = ()

    def body(self) -> tuple[Value, ...] | None:
        if self.operand(8) is not None or self.operand(9) is not None:
            return None
        bias, mask, added, *past = (self.operand(i) for i in range(3, 8))
        keys, values = past
        if keys is not None and self.outs < 3:
            return None  # the kernel reads the past only where it writes the present
        return self.attended(bias=bias, mask=mask, added=added, past=(keys, values))
