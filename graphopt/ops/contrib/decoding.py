"""Attention to keys and values in a cache that grows by a step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ...ir import Value
from ...types import DType, TensorType, Type
from ..attention import Attention
from ..bodies import cast, scalar, vector
from ..comparison import And, Equal, Less, LessOrEqual, Where
from ..elementwise import Add, Max, Sub
from ..generation import Shape as ShapeOf
from ..indexing import TensorScatter
from ..movement import Expand
from ..normalization import RMSNormalization
from ..padding import Pad
from ..registry import op
from ..reshaping import Reshape, Unsqueeze
from ..rotary import RotaryEmbedding
from ..segments import Concat, Slice
from .attention import Separate, split
from .base import DOMAIN, Contrib
from .heads import by_head, flat, length, positions


@op("GroupQueryAttention", domain=DOMAIN)
class GroupQueryAttention(Contrib):
    """Attention in which some query heads share a key head, to a cache and a new step.

    Operands: q, k, v (or all of them in the last dim of q); the keys and values of the
    past, filled from the front; the last position of each instance, and how many there
    are at most; cosines and sines by position; positions; what is added to the scores;
    a score of each head that nothing belongs to; scales of a quantized cache; weights
    of q and k, whose heads are normalized first; how much of the step counts. The cache
    with the step are the next two results.
    """

    __slots__ = ()
    facts = (7, 17, 4)
    required = frozenset(("num_heads", "kv_num_heads"))
    defaults: ClassVar[Mapping[str, Any]] = {
        "causal": 1,
        "k_quant_type": "NONE",
        "local_window_size": -1,
        "qk_norm_epsilon": 1e-6,
        "qk_output": 0,
        "sliding_window_cache": 0,
        "smooth_softmax": -1,
        "v_quant_type": "NONE",
    }
    others = frozenset(
        (
            "do_rotary",
            "k_norm_epsilon",
            "kv_cache_bit_width",
            "q_norm_epsilon",
            "rotary_interleaved",
            "scale",
            "softcap",
        )
    )

    def body(self) -> tuple[Value, ...] | None:
        lengths, parts = self.operand(5), self._parts()
        if parts is None or lengths is None or not self._is_plain():
            return None
        q, k, v = parts
        if q.dtype is None:
            return None
        totals = Add(cast(lengths, DType.I64), scalar(1, DType.I64))
        begin = self._begin(q, totals)
        if self.do_rotary:
            places = self._places(q, begin)
            q, k = self._turned(q, places), self._turned(k, places)
        keys = _written(self.operand(3), k, begin, self._end())
        values = _written(self.operand(4), v, begin, self._end())
        if keys is None or values is None:
            return None
        mask = self._mask(q, keys, totals, begin)
        seen_keys, seen_values = keys, values
        if self.smooth_softmax > 0 or self.operand(11) is not None:
            mask = self._with_sink(mask, q)
            seen_keys, seen_values = _and_nothing(keys), _and_nothing(values)
        y = Attention(
            *(q, seen_keys, seen_values, mask),
            scale=self.scale or None,
            softcap=self.softcap or 0.0,
        )
        return (flat(y), keys, values)[: self.outs]

    def infer(self) -> Sequence[Type]:
        types = super().infer()
        q, k, past = self.operand(0), self.operand(1), self.operand(3)
        if self.expansion is not None or q is None or past is None or k is None:
            return types
        caches = [past.type if self.sliding_window_cache else _longer(past)] * 2
        return [q.type, *caches, *types[3:]][: self.outs]

    def _is_plain(self) -> bool:
        """False for a cache that is quantized or holds a window, and some operands."""
        plain = self.k_quant_type == self.v_quant_type == "NONE"
        if self.operand(16) is not None:  # then some results are anything
            return False
        return plain and not self.sliding_window_cache and self.outs <= 3

    def _parts(self) -> tuple[Value, Value, Value] | None:
        """q, k and v by head."""
        q, k, v = (self.operand(i) for i in range(3))
        assert q is not None
        heads, groups = self.num_heads, self.kv_num_heads
        if k is None or v is None:
            width = None if q.shape is None else q.shape[-1]
            if not isinstance(width, int):
                return None
            size = width // (heads + 2 * groups)
            q, k, v = split(q, (heads * size, groups * size, groups * size))
        if not q.rank == k.rank == v.rank == 3:
            return None
        q, k, v = by_head(q, heads), by_head(k, groups), by_head(v, groups)
        q = self._normalized(q, self.operand(14), self.q_norm_epsilon)
        k = self._normalized(k, self.operand(15), self.k_norm_epsilon)
        return q, k, v

    def _normalized(
        self, x: Value, weight: Value | None, epsilon: float | None
    ) -> Value:
        if weight is None:
            return x
        return RMSNormalization(x, weight, epsilon=epsilon or self.qk_norm_epsilon)

    def _is_first(self, q: Value) -> Value:
        """Whether a step is all there is; its instances may end before it does."""
        return Equal(self._end(), ShapeOf(q, start=2, end=3))

    def _end(self) -> Value:
        most = self.operand(6)
        assert most is not None
        return Reshape(cast(most, DType.I64), vector(1))

    def _begin(self, q: Value, totals: Value) -> Value:
        """The position of the first query of each instance."""
        begin = Sub(totals, ShapeOf(q, start=2, end=3))
        return Where(self._is_first(q), scalar(0, DType.I64), begin)

    def _places(self, q: Value, begin: Value) -> Value:
        """The positions of the queries; of a first step, all follow the first one."""
        steps, places = positions(length(q, 2)), self.operand(9)
        if places is None:
            return Add(Unsqueeze(begin, vector(1)), steps)
        first = Slice(places, vector(0, 0), vector(1, 1), vector(0, 1))
        return Where(self._is_first(q), Add(first, steps), places)

    def _turned(self, x: Value, places: Value) -> Value:
        return RotaryEmbedding(
            *(x, self.operand(7), self.operand(8), places),
            interleaved=self.rotary_interleaved or 0,
            rotary_embedding_dim=self._turned_size(),
        )

    def _turned_size(self) -> int:
        cosine = self.operand(7)
        shape = None if cosine is None else cosine.shape
        angles = None if shape is None else shape[-1]
        return 2 * angles if isinstance(angles, int) else 0

    def _mask(self, q: Value, keys: Value, totals: Value, begin: Value) -> Value:
        """What is added to the scores: -inf for the keys that a query does not see."""
        column = positions(length(keys, 2))
        axes = vector(1, 2, 3)
        row = Add(Unsqueeze(begin, axes), Unsqueeze(positions(length(q, 2)), vector(1)))
        seen: Value = Less(column, Unsqueeze(totals, axes))
        if self.causal:
            seen = And(seen, LessOrEqual(column, row))
        if self.local_window_size >= 0:
            window = scalar(self.local_window_size, DType.I64)
            seen = And(seen, Less(Sub(row, column), window))
        assert q.dtype is not None
        bias = self.operand(10) or scalar(0, q.dtype)
        return Where(seen, bias, scalar(-math.inf, q.dtype))

    def _with_sink(self, mask: Value, q: Value) -> Value:
        """The mask with a column for the score that nothing belongs to."""
        sink = self.operand(11)
        assert q.dtype is not None
        score: Value = scalar(0, q.dtype)
        if sink is not None:
            score = Unsqueeze(sink, vector(0, 2, 3))
        rows = ShapeOf(q, start=0, end=3)
        column = Expand(score, Concat(rows, vector(1), axis=0))
        lead = Concat(rows, ShapeOf(mask, start=3), axis=0)
        return Concat(Expand(mask, lead), column, axis=3)


def _longer(past: Value) -> Type:
    """The type of a cache that may have grown."""
    shape = past.shape
    if shape is None or len(shape) != 4:
        return past.type
    return TensorType(past.dtype, (*shape[:2], None, shape[3]))


def _written(past: Value | None, step: Value, begin: Value, end: Value) -> Value | None:
    """What the cache holds before a step, and the step; nothing after it.

    It is made long enough for all positions before ``end``.
    """
    if past is None:
        return step
    if past.rank != 4:
        return None
    held = ShapeOf(past, start=2, end=3)
    more = Sub(Max(held, end), held)
    longer = Pad(past, Concat(vector(0), more, axis=0), None, vector(2))
    assert past.dtype is not None
    column = Unsqueeze(positions(length(longer, 2)), vector(1))
    is_held = Less(column, Unsqueeze(begin, vector(1, 2, 3)))
    kept = Where(is_held, longer, scalar(0, past.dtype))
    return TensorScatter(kept, step, begin, axis=2)


def _and_nothing(x: Value) -> Value:
    """Keys or values, and one more of zeros."""
    return Pad(x, vector(0, 1), None, vector(2))


@op("DecoderMaskedMultiHeadAttention", domain=DOMAIN)
class DecoderMaskedMultiHeadAttention(Separate):
    """Attention of one query of each instance to keys and values.

    Operands: q, k, v (or all of them in the last dim of one), mask, what is added to
    the scores, a cache of keys and values, how many it holds, and, after those for
    beams, the bias.
    """

    __slots__ = ()
    facts = (1, 11, 4)
    defaults: ClassVar[Mapping[str, Any]] = {
        "output_qk": 0,
        "past_present_share_buffer": 0,
    }

    def body(self) -> tuple[Value, ...] | None:
        if self.operand(9) is not None or self.outs > 3:
            return None
        mask, added, keys, values, held = (self.operand(i) for i in range(3, 8))
        parts = self.parts(self.operand(10))
        if parts is None or (keys is None) != (values is None):
            return None
        q, k, v = parts
        if keys is None or values is None:
            made = self.attend(q, k, v, mask=mask, bias=added)
            return None if made is None else (flat(made[0]), *made[1:])
        if held is None or not self.past_present_share_buffer:
            return None
        begin = cast(Reshape(held, vector(1)), DType.I64)
        end = Add(begin, vector(1))
        batch = Expand(begin, ShapeOf(q, start=0, end=1))
        keys = TensorScatter(keys, k, batch, axis=2)
        values = TensorScatter(values, v, batch, axis=2)
        k, v = (Slice(x, vector(0), end, vector(2)) for x in (keys, values))
        made = self.attend(q, k, v, mask=mask, bias=added)
        return None if made is None else (flat(made[0]), keys, values)
