"""Convolutions of images that were made larger by repeating their elements."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from graphopt.ir import Graph
from graphopt.ops import Constant, Conv, ConvTranspose, Resize
from graphopt.passes.resizes import repeats
from graphopt.rewrite import Log, Outcome, Rule, Scene, miss, rewrite, rule
from graphopt.weights import Tensor

from .gate import GatedPass

FEWEST = 48
"""With fewer channels a sum takes less time than what puts the results together.

On one thread of a CPU, 3 x 3 windows on twice the size, this takes 0.57 to 0.64 of the
time with 64 to 512 channels, 0.97 with 32 and 1.30 with 16 (measured with version
1.32.0).
"""


@rule(exact=False)
def grown_convolution(op: Conv, scene: Scene) -> Outcome:
    """conv(resize(x, k), w) = convtranspose(x, w') with strides k

    A window of n repeated elements holds fewer of x: of 3 x 3 on twice the size each is
    read 4 x 4 times instead of 6 x 6. Source: Shi et al., "Is the deconvolution layer
    the same as a convolutional layer?", 2016.
    """
    resize = op.operands[0]
    if not isinstance(resize, Resize):
        return None
    x, weight, *bias = (*resize.operands[:1], *op.operands[1:])
    counts = repeats(resize)
    if counts is None or counts[:2] != (1, 1) or x is None:
        return miss("more is done than to repeat pixels", resize)
    tensor = None if weight is None else weight.constant
    if tensor is None or not scene.single(resize):
        return miss("the weight is no constant, or the image is read elsewhere", op)
    window, times = tensor.shape[2:], counts[2:]
    if tensor.shape[1] < FEWEST or max(times) < 2 or max(window) < 2:
        return miss("there is too little to gain", op)
    still = [*(op.strides or ()), *(op.dilations or ())]
    if any(n != 1 for n in still) or op.auto_pad not in ("NOTSET", "VALID"):
        return miss("the window jumps, or is padded by its own rule", op)
    pads = op.pads if op.pads and op.auto_pad == "NOTSET" else (0,) * (2 * len(window))
    cropped = [n - 1 - pad for n, pad in zip((*window, *window), pads, strict=True)]
    if min(cropped) < 0:
        return miss("it pads more than the window reaches", op)
    if weight is None or weight.dtype is None:
        return None
    with np.errstate(over="ignore"):
        spread = _spread(tensor.array().astype(np.float64), times, op.group)
        narrow = spread.astype(weight.dtype.numpy)
    if not np.all(np.isfinite(narrow.astype(np.float64))):
        return miss("the sums of weights would overflow", weight)
    return ConvTranspose(
        *(x, Constant(Tensor.of(narrow, weight.dtype)), *bias),
        strides=times,
        pads=tuple(cropped),
        group=op.group,
        kernel_shape=narrow.shape[2:],
    )


def _spread(weight: Any, times: Sequence[int], group: int) -> Any:
    """Kernels ``[in, out / group, ...]`` of which each place sums those it falls on.

    Place ``p`` of a repeated element meets place ``w`` of the window at
    ``p - w + n - 1``, n being the extent of the window.
    """
    outs, each, *window = weight.shape
    by_group = weight.reshape(group, outs // group, each, *window)
    turned = np.swapaxes(by_group, 1, 2).reshape(group * each, outs // group, *window)
    turned = np.flip(turned, axis=tuple(range(2, turned.ndim)))
    extents = [n + k - 1 for n, k in zip(window, times, strict=True)]
    total = np.zeros((*turned.shape[:2], *extents))
    for place in product(*map(range, times)):
        at = [slice(p, p + n) for p, n in zip(place, window, strict=True)]
        part = total[(slice(None), slice(None), *at)]
        part += turned
    return total


@dataclass(frozen=True)
class GrowByConvolving(GatedPass):
    """Convolve the small image, and not the large one made of it.

    conv(resize(x, 2), w)   -->   convtranspose(x, w') with strides of 2

    The weights grow, as a window of 3 x 3 becomes one of 4 x 4: by no more than
    ``share`` of all weights, where most windows are changed for that.
    """

    share: float = 0.05

    def equations(self) -> Sequence[Rule]:
        return (grown_convolution,)

    @property
    def growth(self) -> float:
        return self.share

    def run(self, graph: Graph, log: Log) -> Graph:
        rules = [r for r in self.rules() if r.exact or not self.exact]
        wanted: list[int] = []
        rewrite(graph, [_counted(r, wanted) for r in rules])
        left = self.share * sum(tensor.nbytes for tensor in graph.tensors())
        allowed: Counter[int] = Counter()
        for growth in sorted(wanted):
            left -= growth
            allowed[growth] += left >= 0
        return rewrite(graph, [_within(r, allowed) for r in rules], log=log)


def _counted(rule: Rule, growths: list[int]) -> Rule:
    """The rule, which never fires but takes note of how much weights would grow."""

    def apply(op: Conv, scene: Scene) -> Outcome:
        made = rule.apply(op, scene)
        if isinstance(made, ConvTranspose):
            growths.append(_bytes(made) - _bytes(op))
        return None

    return dataclasses.replace(rule, apply=apply)


def _within(rule: Rule, allowed: Counter[int]) -> Rule:
    """The rule, for as many growths of each size as are allowed."""

    def apply(op: Conv, scene: Scene) -> Outcome:
        made = rule.apply(op, scene)
        if isinstance(made, ConvTranspose):
            growth = _bytes(made) - _bytes(op)
            if not allowed[growth]:
                return miss("the weights would grow too much", op)
            allowed[growth] -= 1
        return made

    return dataclasses.replace(rule, apply=apply)


def _bytes(op: Conv | ConvTranspose) -> int:
    weight = op.operands[1]
    assert weight is not None
    assert weight.constant is not None
    return weight.constant.nbytes
