"""Object detection: which of many boxes to keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dims import Shape
from .registry import op
from .structured import Array, Computed

if TYPE_CHECKING:
    from ..xp import Namespace


@op("NonMaxSuppression")
class NonMaxSuppression(Computed):
    """The best boxes of each class, without those that overlap better ones too much.

    Rows of ``batch, class, box``, best first within a class; of equal scores the box
    of the lower index counts as better. Overlap is intersection over union. Boxes are
    two corners, or with ``center_point_box`` center and size. The host only.
    """

    static = (0, 1, 2, 3, 4)

    def result_shapes(self) -> Sequence[Shape | None]:
        return [(None, 3)]

    def compute(
        self,
        xp: Namespace,
        boxes: Array,
        scores: Array,
        most: Array = None,
        overlap: Array = None,
        least: Array = None,
    ) -> Array:
        limit = 0 if most is None else int(most.item())
        threshold = 0.0 if overlap is None else overlap.item()
        rows: list[tuple[int, int, int]] = []
        for batch, classes in enumerate(scores):
            corners = self._corners(boxes[batch])
            for number, score in enumerate(classes):
                order = np.argsort(-score, kind="stable")
                if least is not None:
                    order = order[score[order] > least.item()]
                for box in _kept(corners, order, limit, threshold):
                    rows.append((batch, number, box))
        return np.array(rows, np.int64).reshape(-1, 3)

    def _corners(self, boxes: Array) -> Array:
        """``low, low, high, high`` coordinates, in columns."""
        first, second = boxes[:, :2], boxes[:, 2:]
        if self.center_point_box:
            first, second = first - second / 2, first + second / 2
        low, high = np.minimum(first, second), np.maximum(first, second)
        return np.concatenate([low, high], axis=1)


def _kept(corners: Any, order: Any, limit: int, threshold: float) -> list[int]:
    """The boxes that are kept of those in ``order``, best first."""
    kept: list[int] = []
    while len(order) and len(kept) < limit:
        best, order = order[0], order[1:]
        kept.append(int(best))
        order = order[~(_overlap(corners[best], corners[order]) > threshold)]
    return kept


def _overlap(box: Any, others: Any) -> Any:
    """Intersection over union; 0 with a box that has no area."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = np.maximum(sides, 0).prod(axis=1)
    area = (box[2:] - box[:2]).prod()
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    union = area + areas - common
    solid = (area > 0) & (areas > 0) & (common > 0)
    return np.where(solid, common / np.where(solid, union, 1), 0)
