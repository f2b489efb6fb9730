"""Losses: how far class scores are from labels. ``[batch, class, ...]`` and ints."""

from __future__ import annotations

from collections.abc import Sequence

from ..dims import Shape
from ..ir import Value
from ..types import TensorType, Type
from .bodies import scalar, vector
from .comparison import Equal, Where
from .elementwise import Div, Mul, Neg
from .indexing import Gather, GatherElements
from .reduction import ReduceMean, ReduceSum
from .registry import op
from .reshaping import Squeeze, Unsqueeze
from .softmax import LogSoftmax
from .steering import shape_of
from .structured import Composite


class Loss(Composite):
    """A loss by element, or its ``reduction``: the sum or the (weighed) mean."""

    def loss_shape(self) -> Shape | None:
        """The dims of the first result."""
        return shape_of(self, 1) if self.reduction == "none" else ()


@op("NegativeLogLikelihoodLoss")
class NegativeLogLikelihoodLoss(Loss):
    """Minus the log-probability of each target class, times the weight of the class.

    Elements whose target is ``ignore_index`` count nothing. The mean is that of the
    weights' sum.
    """

    def infer(self) -> Sequence[Type]:
        return [TensorType(self._dtype(0), self.loss_shape())]

    def body(self) -> Value | None:
        x, target, *weights = self.operands
        if x is None or target is None or x.dtype is None or target.dtype is None:
            return None
        weight = weights[0] if weights else None
        ignored = None
        if self.ignore_index is not None:
            ignored = Equal(target, scalar(self.ignore_index, target.dtype))
            target = Where(ignored, scalar(0, target.dtype), target)
        axis = vector(1)
        chosen = GatherElements(x, Unsqueeze(target, axis), axis=1)
        loss: Value = Neg(Squeeze(chosen, axis))
        if weight is None and ignored is not None:
            weight = scalar(1, x.dtype)
            weight = Where(ignored, scalar(0, x.dtype), weight)
        elif weight is not None:
            weight = Gather(weight, target, axis=0)
            if ignored is not None:
                weight = Where(ignored, scalar(0, x.dtype), weight)
        if weight is not None:
            # A product would keep what is not finite at an ignored element.
            if ignored is not None:
                loss = Where(ignored, scalar(0, x.dtype), loss)
            loss = Mul(loss, weight)
        if self.reduction == "none":
            return loss
        if self.reduction == "mean" and weight is None:
            return ReduceMean(loss, keepdims=0)
        total = ReduceSum(loss, keepdims=0)
        if self.reduction == "sum":
            return total
        assert weight is not None
        return Div(total, ReduceSum(weight, keepdims=0))


@op("SoftmaxCrossEntropyLoss")
class SoftmaxCrossEntropyLoss(Loss):
    """`NegativeLogLikelihoodLoss` of the logarithm of the scores' softmax.

    That logarithm is an optional result.
    """

    def infer(self) -> Sequence[Type]:
        scores = self.operands[0]
        assert scores is not None
        return [TensorType(scores.dtype, self.loss_shape()), scores.type][: self.outs]

    def body(self) -> tuple[Value, ...] | None:
        scores, labels, *weights = self.operands
        if scores is None or scores.dtype is None:
            return None
        logarithm = LogSoftmax(scores, axis=1)
        loss = NegativeLogLikelihoodLoss(
            logarithm,
            labels,
            *weights,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
        return (loss, logarithm)[: self.outs]
