"""Scaled dot-product attention (ONNX Attention, opset 25)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .. import dims
from ..dims import Dim, Shape
from ..index import Affine, Maps
from ..ir import Value
from ..types import DType, TensorType, Type
from .bodies import cast, scalar, vector, widest
from .comparison import And, Equal, Less, LessOrEqual, Where
from .constant import Constant
from .contraction import MatMul
from .elementwise import TRANSCENDENTAL, Add, Div, Mul, Sub, Tanh
from .generation import Range, Shape as ShapeOf
from .movement import Expand, Transpose
from .padding import Pad
from .reduction import ReduceMax
from .registry import op
from .reshaping import Reshape, Squeeze, Unsqueeze
from .segments import Concat
from .softmax import Softmax
from .steering import present, shape_of
from .structured import Array, Composite, Structured

if TYPE_CHECKING:
    from ..xp import Namespace

SWAPPED = (0, 2, 1, 3)
"""Heads and positions exchanged: [batch, position, head, size] and back."""


@op("Attention")
class Attention(Structured, Composite):
    """softmax(scale * q k' + bias) v, for each head.

    Operands: q, k, v (``[batch, head, position, size]``, or heads and sizes in one last
    dim), a mask (bool: True attends; else added), keys and values of the past, and how
    many keys of each instance count. Each key head serves as many query heads as there
    are more of these. ``is_causal`` hides later keys, ``left_window_size`` and
    ``right_window_size`` distant ones (-1: no bound); positions count from the past. A
    query without any key gives zeros. ``softcap`` c takes c * tanh(scores / c) first.
    Optional results: the keys and values with the past, and the scores at the stage
    that ``qk_matmul_output_mode`` names. Vaswani et al., arXiv 1706.03762.
    """

    combiner = None

    # Dims

    def infer(self) -> Sequence[Type]:
        q, k, v = (self.operands[i] for i in range(3))
        assert q is not None
        assert k is not None
        assert v is not None
        shapes = self.result_shapes()
        dtypes = (q.dtype, k.dtype, v.dtype, q.dtype)
        return [TensorType(d, s) for d, s in zip(dtypes, shapes, strict=False)]

    def split_shape(self, index: int, heads: int | None) -> Shape | None:
        """Dims of q, k or v as [batch, head, position, size]."""
        shape = shape_of(self, index)
        if shape is None or len(shape) == 4:
            return shape
        if len(shape) != 3:
            raise self.error(f"operand {index} is of rank {len(shape)}, not 3 or 4")
        if not heads:
            raise self.error("operands of rank 3 need q_num_heads and kv_num_heads")
        batch, length, hidden = shape
        if isinstance(hidden, int) and hidden % heads:
            raise self.error(f"{heads} heads do not divide {hidden}")
        return batch, heads, length, dims.floordiv(hidden, heads)

    def sizes(self) -> tuple[Shape, Shape, Shape, Dim] | None:
        """Dims of q, k and v by head, and the number of keys with those of the past."""
        q = self.split_shape(0, self.q_num_heads)
        k = self.split_shape(1, self.kv_num_heads)
        v = self.split_shape(2, self.kv_num_heads)
        if q is None or k is None or v is None:
            return None
        total = k[2]
        if present(self, 4):
            past = shape_of(self, 4)
            total = None if past is None else dims.add(past[2], k[2])
        return q, k, v, total

    def result_shapes(self) -> Sequence[Shape | None]:
        sizes, own = self.sizes(), shape_of(self)
        if sizes is None or own is None:
            return [None] * self.outs
        q, k, v, total = sizes
        merged = dims.mul(q[1], v[3])
        y: Shape = (*q[:3], v[3]) if len(own) == 4 else (q[0], q[2], merged)
        return [
            y,
            (*k[:2], total, k[3]),
            (*v[:2], total, v[3]),
            (*q[:3], total),
        ][: self.outs]

    def groups(self) -> int | None:
        """How many query heads share a key head; None where that is not known."""
        sizes = self.sizes()
        if sizes is None:
            return None
        queries, keys = sizes[0][1], sizes[1][1]
        if not isinstance(queries, int) or not isinstance(keys, int):
            return 1 if dims.equal(queries, keys) else None
        if not keys or queries % keys:
            raise self.error(f"{queries} query heads cannot share {keys} key heads")
        return queries // keys

    # Index maps

    def index_maps(self) -> Maps | None:
        sizes, shared = self.sizes(), self.groups()
        if sizes is None or shared is None:
            return None
        heads = "(g r)" if shared > 1 else "g"
        if len(shape_of(self) or ()) == 4:
            rows = [f"b {heads} s d", "b g t d", "b g t v"]
            y = f"b {heads} s v"
        else:
            head = heads.strip("()")
            rows = [f"b s ({head} d)", "b t (g d)", "b t (g v)"]
            y = f"b s ({head} v)"
        mask = " ".join(self._mask_words(heads, sizes))
        past = ["b g t d", "b g t v"] if present(self, 4) else ["-", "-"]
        operands = [*rows, mask, *past, "b"][: len(self.operands)]
        results = [y, "b g t d", "b g t v", f"b {heads} s t"][: self.outs]
        maps = self.parse_maps(
            f"{', '.join(operands)} -> {', '.join(results)}",
            positional=self._positional(),
            linear=[(2, 5) if present(self, 5) else (2,)] if self.outs == 1 else (),
            cost=self._cost(sizes),
        )
        return maps if maps is None or not present(self, 4) else self._joined(maps)

    def _joined(self, maps: Maps) -> Maps:
        """The maps with the keys in two parts: those of the past, then the others."""
        past, keys = (shape_of(self, i) for i in (4, 1))
        assert past is not None
        assert keys is not None
        before = Affine((("t", 1),), 0, past[2])
        after = Affine((("t", 1),), dims.mul(-1, past[2]), keys[len(keys) - 2])
        parts = {1: after, 2: after, 4: before, 5: before}
        operands = [
            map_ and tuple([parts.get(i, t) if t.axes == ("t",) else t for t in map_])
            for i, map_ in enumerate(maps.operands)
        ]
        return replace(maps, operands=tuple(operands))

    def _mask_words(
        self, heads: str, sizes: tuple[Shape, Shape, Shape, Dim]
    ) -> list[str]:
        """The words of the mask, which broadcasts to the scores."""
        shape = shape_of(self, 3)
        if shape is None:
            return ["-"]
        q, _, _, total = sizes
        words = ["b", heads, "s", "t"]
        target = (*q[:3], total)
        lead = 4 - len(shape)
        return [
            words[lead + i]
            if dims.equal(dim, target[lead + i])
            else "1"
            if dim == 1 and lead + i < 3
            else "_"
            for i, dim in enumerate(shape)
        ]

    def extents(self) -> Mapping[str, Dim]:
        sizes, shared = self.sizes(), self.groups()
        if sizes is None or shared is None:
            return {}
        q, k, v, total = sizes
        return {"g": k[1], "r": shared, "t": total, "d": q[3], "v": v[3]}

    def _positional(self) -> list[str]:
        """Axes of which a part must be told where it is."""
        windows = self.left_window_size >= 0 or self.right_window_size >= 0
        looks = self.is_causal or windows or present(self, 6)
        return ["s", "t"] * bool(looks)

    def _cost(self, sizes: tuple[Shape, Shape, Shape, Dim]) -> float:
        """Operations per point: the domain has both head sizes, each product one."""
        d, v = sizes[0][3], sizes[2][3]
        if not isinstance(d, int) or not isinstance(v, int) or not d * v:
            return 2.0
        return (2 * (d + v) + TRANSCENDENTAL + 6) / (d * v)

    # Meaning by simpler ops

    def body(self) -> tuple[Value, ...] | None:
        sizes, shared = self.sizes(), self.groups()
        q, k, v = (self.operands[i] for i in range(3))
        if sizes is None or shared is None or not q or not k or not v:
            return None
        own, kept = q.dtype, v.dtype
        if own is None or k.dtype is None or kept is None:
            return None
        size, scale = sizes[0][3], self.scale
        if scale is None:
            if not isinstance(size, int):
                return None
            scale = 1 / math.sqrt(size)
        q = self.by_head(q, self.q_num_heads)
        k = self.by_head(k, self.kv_num_heads)
        v = self.by_head(v, self.kv_num_heads)
        past_key, past_value = self.operand(4), self.operand(5)
        if past_key is not None and past_value is not None:
            k, v = Concat(past_key, k, axis=2), Concat(past_value, v, axis=2)
        keys, values = k, v
        if shared > 1:
            if not isinstance(size, int) or not isinstance(sizes[2][3], int):
                return None
            keys = repeated(k, shared, sizes[0][1], size)
            values = repeated(v, shared, sizes[0][1], sizes[2][3])
        root = scalar(math.sqrt(scale), own)
        scores: Value = MatMul(
            Mul(q, root), Mul(Transpose(keys, perm=(0, 1, 3, 2)), root)
        )
        stages = [scores]
        if self.softcap > 0:
            cap = scalar(self.softcap, own)
            scores = Mul(cap, Tanh(Div(scores, cap)))
        stages.append(scores)
        bias = self._bias(q, k, own)
        if bias is not None:
            scores = Add(scores, bias)
        stages.append(scores)
        precision = self.softmax_precision
        exact = own if precision is None else DType(precision)
        weights = cast(Softmax(cast(scores, exact)), own)
        if bias is not None:
            nothing = scalar(-math.inf, own)
            hidden = Equal(ReduceMax(bias, vector(-1)), nothing)
            weights = Where(hidden, scalar(0, own), weights)
        stages.append(weights)
        y: Value = MatMul(cast(weights, kept), values)
        y = cast(y, own)
        if len(shape_of(self) or ()) == 3:
            y = Reshape(Transpose(y, perm=SWAPPED), vector(0, 0, -1))
        return (y, k, v, stages[self.qk_matmul_output_mode])[: self.outs]

    def by_head(self, x: Value, heads: int) -> Value:
        """x as [batch, head, position, size]."""
        if x.rank == 4:
            return x
        return Transpose(Reshape(x, vector(0, 0, heads, -1)), perm=SWAPPED)

    def _bias(self, q: Value, keys: Value, dtype: DType) -> Value | None:
        """What is added to the scores: 0 or -inf, and the mask; None for nothing."""
        mask, lengths = self.operand(3), self.operand(6)
        none, hidden = scalar(0, dtype), scalar(-math.inf, dtype)
        bias: Value | None = None
        if mask is not None:
            bias = _padded(mask, keys)
            if mask.dtype is DType.BOOL:
                bias = Where(bias, none, hidden)
            bias = cast(bias, dtype)
        for seen in self._seen(q, keys, lengths):
            part = Where(seen, none, hidden)
            bias = part if bias is None else Add(bias, part)
        return bias

    def _seen(self, q: Value, keys: Value, lengths: Value | None) -> list[Value]:
        """Conditions under which a query attends to a key, by position."""
        column = _positions(keys)
        row: Value = Unsqueeze(_positions(q), vector(1))
        past = self.operand(4)
        if past is not None:
            row = Add(row, ShapeOf(past, start=2, end=3))
        elif lengths is not None:
            offset = Sub(lengths, ShapeOf(q, start=2, end=3))
            row = Add(row, Unsqueeze(offset, vector(1, 2, 3)))
        return self.conditions(row, column, lengths)

    def conditions(
        self, row: Value, column: Value, lengths: Value | None
    ) -> list[Value]:
        """Those under which queries attend to keys, from the positions of both."""
        conditions: list[Value] = []
        if self.is_causal:
            conditions.append(LessOrEqual(column, row))
        within: Value | None = None
        if self.left_window_size >= 0:
            bound = scalar(self.left_window_size, DType.I64)
            within = LessOrEqual(Sub(row, column), bound)
        if self.right_window_size >= 0:
            bound = scalar(self.right_window_size, DType.I64)
            near = LessOrEqual(Sub(column, row), bound)
            within = near if within is None else And(within, near)
        if within is not None:
            conditions.append(within)
        if lengths is not None:
            conditions.append(Less(column, Unsqueeze(lengths, vector(1, 2, 3))))
        return conditions

    # The same, faster

    def compute(
        self,
        xp: Namespace,
        q: Array,
        k: Array,
        v: Array,
        mask: Array | None = None,
        past_key: Array | None = None,
        past_value: Array | None = None,
        lengths: Array | None = None,
    ) -> Array | tuple[Array, ...]:
        own, flat = q.dtype, q.ndim == 3
        if flat:
            q = _heads(xp, q, self.q_num_heads)
            k, v = (_heads(xp, x, self.kv_num_heads) for x in (k, v))
        if past_key is not None:
            k, v = xp.concat([past_key, k], 2), xp.concat([past_value, v], 2)
        kinds = [DType.of(x.dtype) for x in (q, k, v)]
        if self.softmax_precision is not None:
            kinds.append(DType(self.softmax_precision))
        wide = widest(DType.F32, *kinds)
        batch, heads, queries, size = q.shape
        groups, keys = k.shape[1:3]
        scale = 1 / math.sqrt(size) if self.scale is None else self.scale
        root = math.sqrt(scale)

        # Query heads that share a key head are more rows of one product.
        rows = (batch, groups, heads // groups * queries)
        left = xp.multiply(xp.cast(q, wide), root)
        right = xp.multiply(xp.cast(k, wide), root)
        scores = xp.matmul(
            xp.reshape(left, (*rows, size)), xp.transpose(right, (0, 1, 3, 2))
        )
        scores = xp.reshape(scores, (batch, heads, queries, keys))
        stages = [scores]
        if self.softcap > 0:
            scores = xp.multiply(xp.tanh(xp.divide(scores, self.softcap)), self.softcap)
        stages.append(scores)
        past = 0 if past_key is None else past_key.shape[2]
        bias = self._added(xp, (queries, keys), mask, past, lengths, wide)
        if bias is not None:
            scores = xp.add(scores, bias)
        stages.append(scores)
        top = xp.held(xp.max(scores, -1, keepdims=True))
        if bias is not None:
            # A query that sees nothing: no NaN may arise, or gradients would be NaN.
            seen = xp.greater(xp.max(bias, -1, keepdims=True), -math.inf)
            top = xp.where(seen, top, 0)
        powers = xp.exp(xp.subtract(scores, top))
        total = xp.sum(powers, -1, keepdims=True)
        if bias is not None:
            total = xp.where(seen, total, 1)
        weights = xp.divide(powers, total)
        if bias is not None:
            weights = xp.where(seen, weights, 0)
        stages.append(weights)
        y = xp.matmul(xp.reshape(weights, (*rows, keys)), xp.cast(v, wide))
        y = xp.cast(xp.reshape(y, (batch, heads, queries, v.shape[3])), own)
        if flat:
            y = xp.reshape(xp.transpose(y, SWAPPED), (batch, queries, -1))
        shown = xp.cast(stages[self.qk_matmul_output_mode], own)
        return y if self.outs == 1 else (y, k, v, shown)[: self.outs]

    def _added(
        self,
        xp: Namespace,
        extents: tuple[int, int],
        mask: Array | None,
        past: int,
        lengths: Array | None,
        dtype: DType,
    ) -> Array | None:
        """What is added to the scores; None for nothing."""
        queries, keys = extents
        seen: Array | None = None
        row = xp.arange(0, queries, 1, DType.I64)[:, None] + past
        column = xp.arange(0, keys, 1, DType.I64)
        if lengths is not None:
            lengths = xp.reshape(lengths, (-1, 1, 1, 1))
            seen = xp.less(column, lengths)
            row = row if past else xp.add(row, xp.subtract(lengths, queries))
        left, right = self.left_window_size, self.right_window_size
        if self.is_causal:
            right = 0
        if right >= 0:
            near = xp.less_equal(column, xp.add(row, right))
            seen = near if seen is None else xp.logical_and(seen, near)
        if left >= 0:
            near = xp.greater_equal(column, xp.subtract(row, left))
            seen = near if seen is None else xp.logical_and(seen, near)
        bias: Array | None = None
        if mask is not None:
            is_bool = DType.of(mask.dtype) is DType.BOOL
            pads = [(0, 0)] * (mask.ndim - 1) + [(0, keys - mask.shape[-1])]
            if pads[-1][1]:
                mask = xp.pad(mask, pads, value=False if is_bool else -math.inf)
            if is_bool:
                seen = mask if seen is None else xp.logical_and(seen, mask)
            else:
                bias = xp.cast(mask, dtype)
        if seen is None:
            return bias
        zero = xp.zeros((), dtype)
        return xp.where(seen, zero if bias is None else bias, -math.inf)


def _heads(xp: Namespace, x: Array, count: int) -> Array:
    """[batch, position, head * size] as [batch, head, position, size]."""
    batch, length, _ = x.shape
    return xp.transpose(xp.reshape(x, (batch, length, count, -1)), SWAPPED)


def repeated(x: Value, count: int, heads: Dim, size: int) -> Value:
    """[batch, head, position, size] with each head ``count`` times in a row."""
    assert isinstance(heads, int)
    spread = Expand(Unsqueeze(x, vector(2)), vector(1, 1, count, 1, 1))
    return Reshape(spread, vector(0, heads, -1, size))


def _positions(x: Value) -> Value:
    """0, 1, ... along the positions of [batch, head, position, size]."""
    length = Squeeze(ShapeOf(x, start=2, end=3), vector(0))
    return Range(scalar(0, DType.I64), length, scalar(1, DType.I64))


def _padded(mask: Value, keys: Value) -> Value:
    """The mask, with keys beyond its last dim hidden."""
    if mask.shape and keys.shape and dims.equal(mask.shape[-1], keys.shape[2]):
        return mask
    missing = Sub(ShapeOf(keys, start=2, end=3), ShapeOf(mask, start=-1))
    hidden: Value = Constant(np.array(False))
    if mask.dtype is not None and mask.dtype is not DType.BOOL:
        hidden = scalar(-math.inf, mask.dtype)
    return Pad(mask, Concat(vector(0), missing, axis=0), hidden, vector(-1))
