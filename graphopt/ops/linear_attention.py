"""Linear attention: a recurrent state instead of scores (ONNX, opset 27)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .. import dims
from ..dims import Dim, Shape
from ..index import Maps
from ..types import DType, TensorType, Type
from .registry import op
from .steering import present, shape_of
from .structured import Array, Structured

if TYPE_CHECKING:
    from ..xp import Namespace


@op("LinearAttention")
class LinearAttention(Structured):
    """For each head and step, scale * q S, where S += k (x) write in every step.

    The ``update_rule`` says what is written: v, or with "delta" what S does not know of
    it yet, beta * (v - S k); with "gated" S first decays by exp(decay). Operands: q, k
    and v ``[batch, step, head * size]``, S, decay, beta. Results: the outputs, S at the
    end.
    """

    combiner = None

    def default_outs(self) -> int:
        return 2

    def infer(self) -> Sequence[Type]:
        q = self.operands[0]
        assert q is not None
        past = self.operand(3)
        state = q.dtype if past is None else past.dtype
        types = [
            TensorType(q.dtype, self._output_shape()),
            TensorType(state, self._state_shape()),
        ]
        return types[: self.outs]

    def result_shapes(self) -> Sequence[Shape | None]:
        return [self._output_shape(), self._state_shape()][: self.outs]

    def index_maps(self) -> Maps | None:
        queries, keys = self.q_num_heads, self.kv_num_heads
        head = "g r" if queries > keys else "g"
        decay, beta = shape_of(self, 4), shape_of(self, 5)
        by_head = decay is not None and decay[2] == keys
        words = [
            f"b t ({head} d)",
            "b t (g d)",
            "b t (g m)",
            "b g d m",
            "b t g" if by_head else "b t (g d)",
            "b t 1" if beta is not None and beta[2] == 1 else "b t g",
        ]
        results = [f"b t ({head} m)", "b g d m"][: self.outs]
        return self.parse_maps(
            f"{', '.join(words[: len(self.operands)])} -> {', '.join(results)}",
            carried=["t"],
            linear=self._linear(),
            # A product written for each key head, one read for each query head.
            cost=2 + (2 + 2 * ("delta" in self.update_rule)) * keys / queries,
        )

    def _linear(self) -> list[tuple[int, ...]]:
        """What is written adds to the state; what is read is a product with q."""
        state = (3,) if present(self, 3) else ()
        linear = [(2, *state)]
        if "delta" not in self.update_rule:
            linear.append((1, *state))
        if self.outs == 1:
            linear.append((0,))
        return linear

    def extents(self) -> Mapping[str, Dim]:
        queries, keys = self.q_num_heads, self.kv_num_heads
        return {"g": keys, "r": queries // keys}

    def _output_shape(self) -> Shape | None:
        q, v = shape_of(self, 0), shape_of(self, 2)
        if q is None:
            return None
        size = None if v is None else dims.floordiv(v[2], self.kv_num_heads)
        return q[0], q[1], dims.mul(size, self.q_num_heads)

    def _state_shape(self) -> Shape | None:
        past, k, v = (shape_of(self, i) for i in (3, 1, 2))
        if past is not None or k is None or v is None:
            return past
        heads = self.kv_num_heads
        sizes = [dims.floordiv(x[2], heads) for x in (k, v)]
        return k[0], heads, *sizes

    def compute(
        self,
        xp: Namespace,
        q: Array,
        k: Array,
        v: Array,
        state: Array | None = None,
        decay: Array | None = None,
        beta: Array | None = None,
    ) -> Array | tuple[Array, ...]:
        own = q.dtype
        kept = own if state is None else state.dtype
        heads, shared = self.kv_num_heads, self.q_num_heads // self.kv_num_heads
        batch, steps, _ = q.shape

        def by_step(x: Array, *split: int) -> Array:
            """[step, batch, *split], in float32."""
            # A dim of -1 could not be told from no elements.
            size = x.shape[2] // math.prod(split)
            x = xp.reshape(xp.cast(x, DType.F32), (batch, steps, *split, size))
            return xp.transpose(x, (1, 0, *range(2, x.ndim)))

        sequences = [by_step(q, heads, shared), by_step(k, heads), by_step(v, heads)]
        size, width = (x.shape[-1] for x in sequences[1:])
        scale = self.scale or 1 / math.sqrt(size)
        gated = self.update_rule in ("gated", "gated_delta")
        delta = self.update_rule in ("delta", "gated_delta")
        if gated:
            sequences.append(xp.exp(by_step(decay, heads)))
        if delta:
            assert beta is not None
            sequences.append(by_step(beta, beta.shape[2]))
        if state is None:
            shape = (batch, heads, size, width)
            state = xp.zeros(shape, DType.F32)

        def step(
            carried: tuple[Array, ...], slices: tuple[Array, ...]
        ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
            (state,) = carried
            q, k, v, *rest = slices
            if gated:
                state = xp.multiply(state, xp.unsqueeze(rest[0], (3,)))
            if delta:
                known = xp.einsum("bhdm,bhd->bhm", state, k)
                v = xp.multiply(rest[-1], xp.subtract(v, known))
            written = xp.multiply(xp.unsqueeze(k, (3,)), xp.unsqueeze(v, (2,)))
            state = xp.add(state, written)
            read = xp.multiply(xp.einsum("bhrd,bhdm->bhrm", q, state), scale)
            return (state,), (read,)

        (state,), (read,) = xp.scan(
            step, (xp.cast(state, DType.F32),), sequences, steps
        )
        read = xp.transpose(read, (1, 0, 2, 3, 4))
        read = xp.reshape(read, (batch, steps, heads * shared * width))
        result = xp.cast(read, own)
        return result if self.outs == 1 else (result, xp.cast(state, kept))
