"""Padding taken into the convolution or pooling that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import ge
from typing import Any

from graphopt.ops import AveragePool, Conv, MaxPool, Pad
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule

from .borders import cropped_convolution, shifted_border
from .match import axis_of, uniform


def padded_by(op: Pad) -> tuple[list[int], list[int]] | None:
    """Padding before and after each axis, where it is constant and nowhere negative."""
    x, pads = op.operands[0], op.operands[1]
    if x is None or x.rank is None or pads is None or pads.ints is None:
        return None
    rank, given = x.rank, pads.ints
    axes = op.operand(3)
    if axes is None:
        where = list(range(rank))
    elif axes.ints is None:
        return None
    else:
        where = [axis_of(a, rank) for a in axes.ints]
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(where):
        before[axis], after[axis] = given[i], given[i + len(where)]
    return None if min(before + after) < 0 else (before, after)


@rule
def pad_into_window(op: Conv | AveragePool | MaxPool, scene: Scene) -> Outcome:
    """conv(pad(x, p), w, pads=q) = conv(x, w, pads=p+q) where the border is neutral"""
    pad = op.operands[0]
    if not isinstance(pad, Pad) or pad.mode != "constant":
        return None
    if op.auto_pad not in ("NOTSET", "VALID"):
        return miss("the op pads by its own rule", op)
    amounts = padded_by(pad)
    if amounts is None:
        return miss("the padding is computed, or crops", pad)
    before, after = amounts
    if before[0] or before[1] or after[0] or after[1]:
        return miss("it pads the batch or the channels", pad)
    spatial = len(before) - 2
    own = list(op.pads or [0] * (2 * spatial)) if op.auto_pad == "NOTSET" else []
    own = own or [0] * (2 * spatial)
    value = pad.operand(2)
    border = 0 if value is None else uniform(value)
    more: dict[str, Any] = {}
    if isinstance(op, Conv):
        if border != 0:
            return miss("the border is not zero", value)
    elif isinstance(op, AveragePool):
        if border != 0 or op.ceil_mode or (any(own) and not op.count_include_pad):
            return miss("the border would count for more or less", value)
        more["count_include_pad"] = 1
    elif border != float("-inf") or op.ceil_mode or op.outs > 1 or _dilated(op):
        return miss("the border could be the maximum", value)
    pads = [a + b for a, b in zip(own, before[2:] + after[2:], strict=True)]
    if not isinstance(op, Conv) and any(map(ge, pads, 2 * op.kernel_shape)):
        return miss("runtimes refuse a pool that pads a whole window", op)
    made = op.copy(
        operands=(pad.operands[0], *op.operands[1:]),
        pads=tuple(pads),
        auto_pad="NOTSET",
        **more,
    )
    return made if scene.says(made) else miss("this opset counts no border", op)


def _dilated(op: MaxPool) -> bool:
    """A window with gaps may see nothing but the border."""
    return any(d != 1 for d in op.dilations or ())


RULES: tuple[Rule, ...] = (pad_into_window, cropped_convolution, shifted_border)


@dataclass(frozen=True)
class Padding(RulePass):
    """Let convolutions and poolings pad for themselves.

    conv(pad(x, 1), w)          -->   conv(x, w, pads=[1, 1, 1, 1])
    slice(conv(x, w, pads), n)  -->   conv(x, w, fewer pads)
    conv(2 * x - 1, w, pads)   -->   conv(pad(x, 0.5), 2*w, -sum(w))
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
