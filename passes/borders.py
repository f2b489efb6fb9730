"""Borders of convolutions: less of them, and what scales and shifts are there.

Before a convolution that pads the border is not shifted: the window sees zeros where
``scale * x + shift`` would be none. They are what becomes of ``-shift / scale``, so
that x can be padded with that: exactly where it is one number for all channels, for an
image is padded with one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from graphopt.dims import add, sub
from graphopt.ir import Value
from graphopt.ops import Add, BatchNormalization, Conv, Div, Mul, Pad, Slice, Sub
from graphopt.ops.bodies import scalar, vector
from graphopt.rewrite import Outcome, Scene, miss, rule

from .affine import QUIET, absorbed, is_shared, linear_op, unpadded
from .match import stretches_nothing
from .scale_shift import ScaleShift, known_shape, scale_shift


def chain(value: Value | None, scene: Scene) -> tuple[ScaleShift, int] | None:
    """What ops in a row do along the channels, and how many nobody else reads."""
    found, count = None, 0
    while isinstance(value, BatchNormalization | Mul | Add | Div | Sub):
        each = scale_shift(value, 1)
        if each is None or not scene.single(value):
            break
        if not stretches_nothing(value, each.x):
            break
        if found is None:
            found = each
        else:
            shift = found.scale * each.shift + found.shift
            found = replace(
                found, x=each.x, scale=found.scale * each.scale, shift=shift
            )
        value, count = each.x, count + 1
    return None if found is None else (found, count)


@rule(exact=False)
@QUIET
def shifted_border(op: Conv, scene: Scene) -> Outcome:
    """conv(c * x + d, w, pads) = conv(pad(x, -d/c), c*w, sum(d*w)), for two ops or more

    One op less: of a single one there would be as many, and a copy is no faster.
    """
    if op.auto_pad != "NOTSET" or unpadded(op):
        return None
    found = chain(op.operands[0], scene)
    if found is None:
        return None
    affine, count = found
    if count < 2 or not affine.shifts:
        return miss("a single op would become another", op.operands[0])
    weight, rank = op.operands[1], op.rank
    shape = known_shape(weight)
    if linear_op(op) is None or weight is None or shape is None or rank is None:
        return miss("the weight is no constant", weight)
    if is_shared(weight, scene):
        return miss("others read the weight too", weight)
    if np.any(affine.scale == 0):
        return miss("a channel is nothing but its shift", op.operands[0])
    assert weight.dtype is not None
    zero = (-affine.shift / affine.scale).astype(weight.dtype.numpy).ravel()
    if not np.all(zero == zero[0]) or not np.isfinite(float(zero[0])):
        return miss("each channel would need a border of its own", op.operands[0])
    half = rank - 2
    pads = [0, 0, *op.pads[:half], 0, 0, *op.pads[half:]]
    value = scalar(float(zero[0]), weight.dtype)
    affine = replace(affine, x=Pad(affine.x, vector(*pads), value))
    bare = op.copy(pads=(0,) * (2 * half))
    return absorbed(bare, affine, shape[1] * op.group, weight.dtype)


@rule(exact=False)
def cropped_convolution(op: Slice, scene: Scene) -> Outcome:
    """slice(conv(x, w, pads=(3, 3)), 0 to n) = conv(x, w, pads=(3, 0))

    So it is with causal convolutions, as frameworks pad both ends alike.
    """
    conv, cuts = op.operands[0], op.cuts()
    if not isinstance(conv, Conv) or not cuts or not scene.single(conv):
        return None
    if conv.auto_pad != "NOTSET" or not conv.pads:
        return miss("where it pads is not known", conv)
    assert conv.shape is not None
    half, pads = len(conv.shape) - 2, list(conv.pads)
    for axis, (start, step, extent) in cuts.items():
        if axis < 2 or step != 1:
            return miss("it slices something else, or picks", op)
        end = sub(conv.shape[axis], add(start, extent))
        if not isinstance(start, int) or not isinstance(end, int):
            return miss("how much is cut is not known", op)
        stride = (conv.strides or [1] * half)[axis - 2]
        pads[axis - 2] -= start * stride
        pads[axis - 2 + half] -= end * stride
    if min(pads) < 0:
        return miss("more is cut than what the border gives", op)
    return conv.copy(pads=tuple(pads))
