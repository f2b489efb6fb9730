"""A single-shot detector over three scales of MobileNetV2, with suppression.

`suppressed` is an op of its own for torch, which has none; `SYMBOL` and `TRANSLATIONS`
say to its exporters that ONNX calls it NonMaxSuppression.
"""

from typing import Any

import torch
import transformers as hf
from onnxscript import FLOAT, INT64, opset18 as op, script
from torch import Tensor, nn

ANCHORS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
BOXES = 50
CANDIDATES = 200
CLASSES = 20
OVERLAP = 0.5
STAGES = (4, 11, 15)  # the last at strides 8, 16 and 32
WIDTHS = (32, 96, 320)


@torch.library.custom_op("zoo::suppressed", mutates_args=())
def suppressed(boxes: Tensor, scores: Tensor) -> Tensor:
    """Numbers of the boxes [N, 4] that no better one overlaps, the best first."""
    order = scores.argsort(descending=True)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    kept = []
    while order.numel():
        best, order = order[0], order[1:]
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[order, :2])
        high = torch.minimum(boxes[best, 2:], boxes[order, 2:])
        common = (high - low).clamp(min=0).prod(dim=1)
        order = order[common <= OVERLAP * (area[best] + area[order] - common)]
    return torch.stack(kept)


@suppressed.register_fake
def _(boxes: Tensor, scores: Tensor) -> Tensor:
    return boxes.new_empty(
        torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64
    )


def SYMBOL(g: Any, boxes: Any, scores: Any) -> Any:
    """`suppressed` for the exporter that traces."""

    def constant(value: object, dtype: torch.dtype) -> Any:
        return g.op("Constant", value_t=torch.tensor(value, dtype=dtype))

    def axes(*values: int) -> Any:
        return constant(values, torch.int64)

    chosen = g.op(
        "NonMaxSuppression",
        g.op("Unsqueeze", boxes, axes(0)),
        g.op("Unsqueeze", scores, axes(0, 1)),
        constant([torch.iinfo(torch.int64).max], torch.int64),
        constant([OVERLAP], torch.float32),
    )
    column = g.op("Gather", chosen, axes(2), axis_i=1)
    return g.op("Squeeze", column, axes(1))


@script()
def _suppressed(boxes: FLOAT, scores: FLOAT) -> INT64:
    chosen = op.NonMaxSuppression(
        op.Unsqueeze(boxes, [0]),
        op.Unsqueeze(scores, [0, 1]),
        op.Constant(value_ints=[1000000]),
        op.Constant(value_floats=[0.5]),
    )
    return op.Squeeze(op.Gather(chosen, [2], axis=1), [1])


TRANSLATIONS = {torch.ops.zoo.suppressed.default: _suppressed}


def separable(before: int, after: int) -> nn.Sequential:
    """A convolution of each channel, then one of all channels."""
    return nn.Sequential(
        nn.Conv2d(before, before, 3, padding=1, groups=before, bias=False),
        nn.BatchNorm2d(before),
        nn.ReLU6(),
        nn.Conv2d(before, after, 1),
    )


class Detector(nn.Module):
    """An image to at most `BOXES` boxes (x1, y1, x2, y2), their scores and classes."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = hf.MobileNetV2Model(hf.MobileNetV2Config(), False)
        count = len(ANCHORS)
        self.places = nn.ModuleList(separable(width, 4 * count) for width in WIDTHS)
        self.kinds = nn.ModuleList(
            separable(width, CLASSES * count) for width in WIDTHS
        )
        # with smaller weights all places look alike, and scores tie
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`image` [1, 3, H, W]; no more than one, as suppression is by image."""
        states = self.backbone(image, output_hidden_states=True).hidden_states
        places, kinds, anchors = [], [], []
        for stage, place, kind in zip(STAGES, self.places, self.kinds, strict=True):
            features = states[stage]
            places.append(_by_anchor(place(features), 4))
            kinds.append(_by_anchor(kind(features), CLASSES))
            anchors.append(_anchors(features, image))
        boxes = _decoded(torch.cat(places), torch.cat(anchors), image)
        return _chosen(boxes, torch.cat(kinds).softmax(dim=-1))


def _by_anchor(x: Tensor, width: int) -> Tensor:
    """[1, anchors * width, H, W] to [H * W * anchors, width]."""
    _, _, height, breadth = x.shape
    x = x.view(len(ANCHORS), width, height, breadth)
    return x.permute(2, 3, 0, 1).reshape(-1, width)


def _anchors(features: Tensor, image: Tensor) -> Tensor:
    """Centers and extents [H * W * anchors, 4] in pixels."""
    height, breadth = features.shape[-2:]
    stride = image.shape[-1] // breadth
    y, x = torch.meshgrid(
        torch.arange(height) * stride + stride / 2,
        torch.arange(breadth) * stride + stride / 2,
        indexing="ij",
    )
    centers = torch.stack([x, y], dim=-1).reshape(-1, 1, 2)
    extents = 4.0 * stride * torch.tensor(ANCHORS)
    count = len(ANCHORS)
    extents = extents[None].expand(height * breadth, count, 2)
    return torch.cat([centers.expand(-1, count, 2), extents], dim=-1).reshape(-1, 4)


def _decoded(places: Tensor, anchors: Tensor, image: Tensor) -> Tensor:
    """Corners of boxes [N, 4] within the image."""
    centers = places[:, :2] * 0.1 * anchors[:, 2:] + anchors[:, :2]
    extents = torch.exp((places[:, 2:] * 0.2).clamp(max=4.0)) * anchors[:, 2:]
    boxes = torch.cat([centers - extents / 2, centers + extents / 2], dim=-1)
    x = boxes[:, 0::2].clamp(0, image.shape[-1])
    y = boxes[:, 1::2].clamp(0, image.shape[-2])
    return torch.stack([x, y], dim=2).reshape(-1, 4)


def _chosen(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best boxes, none of which a better one of its class overlaps."""
    best, flat = scores.flatten().topk(CANDIDATES)
    labels = flat % CLASSES
    boxes = boxes[torch.div(flat, CLASSES, rounding_mode="floor")]
    # classes are moved apart, so that boxes of two classes never overlap
    apart = labels.to(boxes.dtype)[:, None] * (boxes.max() + 1)
    kept = suppressed(boxes + apart, best)[:BOXES]
    return boxes[kept], best[kept], labels[kept]
