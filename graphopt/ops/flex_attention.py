"""Attention whose scores and weights a model modifies (domain ai.onnx.preview)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from .. import dims
from ..dims import Shape
from ..ir import Graph, Op, Value, rebuild
from ..types import DType, TensorType, Type
from .attention import repeated
from .bodies import cast, scalar
from .contraction import MatMul
from .control import Control
from .elementwise import Mul
from .movement import Transpose
from .registry import op
from .softmax import Softmax
from .steering import shape_of
from .structured import Composite

DOMAIN = "ai.onnx.preview"


@op("FlexAttention", domain=DOMAIN)
class FlexAttention(Composite, Control):
    """softmax(f(scale * q k')) v for each head, with g of the softmax.

    ``FlexAttention(q, k, v, *captures, bodies=...)``: operands are
    ``[batch, head, position, size]``; each key head serves as many query heads as there
    are more of these. ``stages`` names the bodies that are there: score_mod is f,
    prob_mod is g. Both keep type and dims. Softmax and what follows run in
    ``softmax_precision``, by default at least float32.
    """

    __slots__ = ()
    body_names = ("score_mod", "prob_mod")
    own_attrs: ClassVar = ("captures", "stages")

    @property
    def written(self) -> tuple[str, ...]:
        return self.stages  # type: ignore[no-any-return]

    def default_outs(self) -> int:
        return 1

    def infer(self) -> Sequence[Type]:
        q, v = self.operands[0], self.operands[2]
        assert q is not None
        assert v is not None
        scores, values = self.scores_shape(), shape_of(self, 2)
        shape = None
        if scores is not None:
            shape = (*scores[:3], None if values is None else values[3])
        return [TensorType(v.dtype or q.dtype, shape)]

    def signature(self) -> tuple[list[Type], list[Type]]:
        scores = self.scores_type()
        return [scores, *[_type(v) for v in self.captured]], [scores]

    def scores_type(self) -> TensorType:
        """What the bodies take and give."""
        return TensorType(self.precision(), self.scores_shape())

    def precision(self) -> DType | None:
        """The element type of scores and weights."""
        if self.softmax_precision is not None:
            return DType(self.softmax_precision)
        dtype = self._dtype(0)
        return DType.F32 if dtype in (DType.F16, DType.BF16) else dtype

    def scores_shape(self) -> Shape | None:
        shapes = [shape_of(self, i) for i in range(3)]
        for i, shape in enumerate(shapes):
            if shape is not None and len(shape) != 4:
                raise self.error(f"operand {i} is of rank {len(shape)}, not 4")
        q, k, _ = shapes
        return q and (*q[:3], None if k is None else k[2])

    def body(self) -> Value | None:
        q, k, v = self.operands[:3]
        shapes = [shape_of(self, i) for i in range(3)]
        precision = self.precision()
        if q is None or k is None or v is None or precision is None or None in shapes:
            return None
        own, of_q, of_v = q.dtype, shapes[0], shapes[2]
        assert own is not None
        assert of_q is not None
        assert of_v is not None
        scale = self.scale
        if scale is None:
            if not isinstance(of_q[3], int):
                return None
            scale = 1 / math.sqrt(of_q[3])
        heads, shared = of_q[1], of_v[1]
        if not dims.equal(heads, shared):
            if not isinstance(heads, int) or not isinstance(shared, int):
                return None
            if not shared or heads % shared:
                raise self.error(f"{heads} query heads cannot share {shared} key heads")
            if not isinstance(of_q[3], int) or not isinstance(of_v[3], int):
                return None
            k = repeated(k, heads // shared, heads, of_q[3])
            v = repeated(v, heads // shared, heads, of_v[3])
        root = scalar(math.sqrt(scale), own)
        product = MatMul(Mul(q, root), Mul(Transpose(k, perm=(0, 1, 3, 2)), root))
        scores = self._modified("score_mod", cast(product, precision))
        weights = self._modified("prob_mod", Softmax(scores))
        return cast(MatMul(weights, cast(v, precision)), own)

    def _modified(self, stage: str, value: Value) -> Value:
        if stage not in self.stages:
            return value
        body: Graph = self.bodies[self.stages.index(stage)]
        given = zip(body.inputs, (value, *self.captured), strict=True)
        mapping: dict[Value, Value] = {p: v for p, v in given if v is not None}

        def build(inner: Op, operands: tuple[Value | None, ...]) -> Op:
            return inner.with_operands(operands)

        return rebuild(body, build, mapping).outputs[0]


def _type(value: Value | None) -> Type:
    assert value is not None
    return value.type
