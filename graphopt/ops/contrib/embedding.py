"""Embeddings of tokens and of positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ...ir import Value
from ...types import DType
from .. import rotary
from ..bodies import cast, scalar, vector
from ..comparison import Equal, Where
from ..constant import Constant
from ..elementwise import Add
from ..generation import Shape as ShapeOf
from ..indexing import Gather
from ..movement import Expand
from ..normalization import LayerNormalization
from ..reduction import ReduceSum
from ..registry import op
from ..reshaping import Unsqueeze
from ..segments import Concat
from .base import DOMAIN, Contrib, summed
from .heads import length, positions


@op("EmbedLayerNormalization", domain=DOMAIN)
class EmbedLayerNormalization(Contrib):
    """layernorm(word + position + segment), each embedding looked up.

    Operands: tokens, segments, the three tables, gamma, beta, mask, positions (else 0,
    1, ...). Further results: how many ones each row of the mask has, and the sum.
    """

    __slots__ = ()
    facts = (7, 9, 3)
    defaults: ClassVar[Mapping[str, Any]] = {"epsilon": 1e-12}
    others = frozenset(("mask_index_type",))

    def body(self) -> tuple[Value, ...]:
        tables = (self.operand(2), self.operand(3), self.operand(4))
        weights = (self.operand(5), self.operand(6))
        return self.normalized(tables, weights, self.operand(7), self.operand(8))

    def normalized(
        self,
        tables: tuple[Value | None, Value | None, Value | None],
        weights: tuple[Value | None, Value | None],
        mask: Value | None,
        places: Value | None,
    ) -> tuple[Value, ...]:
        """The results, from tables of words, positions and segments."""
        tokens, segments = self.operand(0), self.operand(1)
        assert tokens is not None
        if places is None:
            places = positions(length(tokens, 1))
        found = [Gather(tables[0], tokens), Gather(tables[1], places)]
        if segments is not None:
            found.append(Gather(tables[2], segments))
        total = summed(*found)
        y = LayerNormalization(total, *weights, axis=-1, epsilon=self.epsilon)
        return (y, _ones(tokens, mask), total)[: self.outs]


def _ones(tokens: Value, mask: Value | None) -> Value:
    """How many elements of each row of a mask are 1; 0 without a mask."""
    if mask is None:
        return Expand(scalar(0, DType.I32), ShapeOf(tokens, start=0, end=1))
    ones = cast(Equal(mask, scalar(1, DType.I32)), DType.I32)
    return ReduceSum(ones, vector(1), keepdims=0)


@op("RotaryEmbedding", domain=DOMAIN)
class RotaryEmbedding(Contrib):
    """ONNX's rotary embedding; one position is that of the first element.

    Operands: x, positions, and the cosines and sines of each position. Without
    ``num_heads`` the angles say how large a head is.
    """

    __slots__ = ()
    facts = (4, 4, 1)
    others = frozenset(
        (
            "interleaved",
            "is_packed_batching",
            "num_heads",
            "rotary_embedding_dim",
            "scale",
        )
    )

    def body(self) -> Value | None:
        x, places, cosine, sine = self.operands
        assert x is not None
        assert places is not None
        assert cosine is not None
        if x.shape is None or cosine.shape is None or places.rank is None:
            return None
        angles, hidden = cosine.shape[-1], x.shape[-1]
        heads = self.num_heads or 0
        if x.rank == 3 and not heads:
            if not isinstance(angles, int) or not isinstance(hidden, int):
                return None
            heads = hidden // (2 * angles)
        if places.rank == 1:
            axis = 1 if x.rank == 3 else 2
            places = Add(positions(length(x, axis)), places)
            batch = ShapeOf(x, start=0, end=1)
            places = Expand(
                Unsqueeze(places, vector(0)), Concat(batch, vector(1), axis=0)
            )
        return rotary.RotaryEmbedding(
            *(x, cosine, sine, places),
            num_heads=heads,
            rotary_embedding_dim=self.rotary_embedding_dim or 0,
            interleaved=self.interleaved or 0,
        )


@op("MRotaryEmbedding", domain=DOMAIN)
class MRotaryEmbedding(Contrib):
    """A rotary embedding whose angles hang on a time, a height and a width.

    Operands: x, the positions in each of the three, and the cosines and sines of each
    position. ``mrope_section`` says how many angles belong to each: in order, or with
    ``mrope_layout`` 1 in turns, the first having what is left.
    """

    __slots__ = ()
    facts = (4, 4, 1)
    required = frozenset(("mrope_section",))
    others = RotaryEmbedding.others | {"mrope_layout"}

    def body(self) -> Value | None:
        x, places, cosine, sine = self.operands
        assert x is not None
        if cosine is None or sine is None or cosine.shape is None:
            return None
        angles = cosine.shape[-1]
        if not isinstance(angles, int) or x.rank != 3 or not self.num_heads:
            return None
        turns = self._turns(angles)
        return rotary.RotaryEmbedding(
            *(x, *(_chosen(Gather(table, places), turns) for table in (cosine, sine))),
            num_heads=self.num_heads,
            rotary_embedding_dim=self.rotary_embedding_dim or 0,
            interleaved=self.interleaved or 0,
        )

    def _turns(self, angles: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Which of the three each angle hangs on."""
        sections = self.mrope_section
        if not self.mrope_layout:
            return np.repeat(np.arange(3), sections)[:angles]
        turns = np.zeros(angles, np.int64)
        for i in (1, 2):
            turns[i : 3 * sections[i] : 3] = i
        return turns


def _chosen(x: Value, turns: np.ndarray[Any, np.dtype[np.int64]]) -> Value:
    """Of [3, ..., angle], for each angle the one that it hangs on."""
    time, height, width = (Gather(x, scalar(i, DType.I64), axis=0) for i in range(3))
    is_time, is_height = (Constant(turns == i) for i in (0, 1))
    return Where(is_time, time, Where(is_height, height, width))
