"""Resized images: less of it, later, and said as it is.

Where each element is just repeated (nearest, by a whole factor), resizing moves
elements; every other way makes each of the elements beside it, weighed. The weights of
one add up to 1, so that a convolution of single pixels may come first either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from graphopt.dims import Dim, divide_exact, equal, mul
from graphopt.ir import Value
from graphopt.ops import Constant, Conv, Expand, Reshape, Resize, Tile, Unsqueeze
from graphopt.ops.structured import Elementwise
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule

from .match import same_shape

BY_SCALE: Final = ("half_pixel", "pytorch_half_pixel", "asymmetric")
"""Where coordinates lie by the scale alone, not by the extents too."""


def repeats(op: Resize) -> tuple[int, ...] | None:
    """How often the op repeats each element along each axis; None if it does more."""
    x = op.operands[0]
    if x is None or x.shape is None:
        return None
    counts = op.counts(x.shape)
    found = [counts.get(axis, 1) for axis in range(len(x.shape))]
    known = [count for count in found if count is not None]
    return tuple(known) if len(known) == len(found) else None


def repeated(x: Value, counts: Sequence[int]) -> Resize:
    """Each element of ``x`` as often as is said along each axis."""
    return Resize(
        *(x, None, Constant(np.array(counts, np.float32))),
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def grows(op: Resize) -> bool:
    """True where the result has surely more elements, along no axis fewer."""
    x = op.operands[0]
    assert x is not None
    assert x.shape is not None
    assert op.shape is not None
    ratios = []
    for source, target in zip(x.shape, op.shape, strict=True):
        if isinstance(source, int) and isinstance(target, int) and source:
            ratios.append(target / source)
        else:
            ratio = divide_exact(target, source)
            ratios.append(ratio if isinstance(ratio, int) else 0)
    return min(ratios, default=0) >= 1 and max(ratios) > 1


def resized(op: Resize) -> list[int] | None:
    """The axes that do not stay as they are; None where the rank is not known."""
    x = op.operands[0]
    if x is None or x.shape is None:
        return None
    return [axis for axis, count in op.counts(x.shape).items() if count != 1]


@rule
def resize_nothing(op: Resize) -> Outcome:
    """resize(x, 1) = x"""
    return op.operands[0] if resized(op) == [] else None


@rule
def resize_resize(op: Resize, scene: Scene) -> Outcome:
    """resize(resize(x, 2), 3) = resize(x, 6) where elements are only repeated"""
    inner = op.operands[0]
    if not isinstance(inner, Resize) or not scene.single(inner):
        return None
    x, outer_counts, inner_counts = inner.operands[0], repeats(op), repeats(inner)
    if x is None or outer_counts is None or inner_counts is None:
        return miss("more is done than to repeat elements", inner)
    counts = [a * b for a, b in zip(outer_counts, inner_counts, strict=True)]
    made = repeated(x, counts)
    return made if scene.says(made) else miss("this opset has it not", op)


@rule
def sizes_known(op: Resize, scene: Scene) -> Outcome:
    """resize(x, sizes=[n, c, 2*h, 2*w]) = resize(x, scales=[1, 1, 2, 2])

    Or with the sizes of just those axes that change, where no scale says them.
    """
    x, sizes = op.operands[0], op.operand(3)
    if x is None or x.shape is None or sizes is None or sizes.constant is not None:
        return None
    if op.keep_aspect_ratio_policy != "stretch" or op.operand(1) is not None:
        return miss("the sizes are not all that counts", op)
    if op.coordinate_transformation_mode == "tf_crop_and_resize":
        return None
    assert op.shape is not None
    axes = op.resized_axes(len(x.shape))
    pairs = [(x.shape[axis], op.shape[axis]) for axis in axes]
    rounds = op.coordinate_transformation_mode in BY_SCALE
    scales = [_scale(*pair, rounds=rounds) for pair in pairs]
    if None not in scales:
        numbers = np.array(scales, np.float32)
        made = op.copy(operands=(x, None, Constant(numbers)))
        return made if scene.says(made) else miss("this opset has it not", op)
    changed = [i for i, pair in enumerate(pairs) if not equal(*pair)]
    target = [pairs[i][1] for i in changed]
    if not all(isinstance(dim, int) for dim in target):
        return miss("the sizes cannot be said by a constant", sizes)
    made = op.copy(
        operands=(x, None, None, Constant(np.array(target, np.int64))),
        axes=tuple([axes[i] for i in changed]),
    )
    return made if scene.says(made) else miss("this opset names no axes", op)


def _scale(source: Dim, target: Dim, *, rounds: bool) -> float | None:
    """The float32 between two extents that gives them back, if need be rounded down."""
    if equal(source, target):
        return 1.0
    if isinstance(source, int) and isinstance(target, int):
        if not source:
            return None
        scale = np.float32(target) / np.float32(source)
        exact = float(scale) * source == target
        return (
            float(scale)
            if exact or (rounds and _gives(scale, source, target))
            else None
        )
    ratio = divide_exact(target, source)
    return float(ratio) if isinstance(ratio, int) else None


def _gives(scale: np.float32, source: int, target: int) -> bool:
    return bool(np.floor(np.float32(source) * scale) == target)


@rule
def repeated_by_reshapes(op: Reshape, scene: Scene) -> Outcome:
    """reshape(expand([n, c, h, 1, w, 1], [n, c, h, 2, w, 2])) = resize(x, 2)

    Said of images, all of whose axes grow: heads of attention are repeated along one.
    """
    wide = op.operands[0]
    if not isinstance(wide, Expand | Tile) or not scene.single(wide):
        return None
    narrow = wide.operands[0]
    if not isinstance(narrow, Reshape | Unsqueeze):
        return None
    x, target, between = narrow.operands[0], op.shape, wide.shape
    if x is None or target is None or between is None:
        return None
    source, before, dtype = x.shape, narrow.shape, x.dtype
    if source is None or before is None or dtype is None:
        return None
    if not dtype.is_float or len(target) != len(source):
        return None
    counts = _repeats(source, before, between)
    if counts is None:
        return None
    grown = [mul(dim, count) for dim, count in zip(source, counts, strict=True)]
    if not all(map(equal, grown, target)):
        return miss("the dims are put together otherwise", op)
    spatial = counts[2:]
    if counts[:2] != [1, 1] or len(spatial) < 2 or min(spatial) < 2:
        return miss("it is no image that grows along all axes", op)
    made = repeated(x, counts)
    return made if scene.says(made) else miss("this opset has it not", op)


def _repeats(
    source: Sequence[Dim], narrow: Sequence[Dim], wide: Sequence[Dim]
) -> list[int] | None:
    """How often dims repeat, where each is followed by a 1 that is made wider."""
    counts: list[int] = []
    if len(narrow) != len(wide):
        return None
    for before, after in zip(narrow, wide, strict=True):
        if equal(before, after) and len(counts) < len(source):
            if not equal(before, source[len(counts)]):
                return None
            counts.append(1)
        elif equal(before, 1) and isinstance(after, int) and counts:
            counts[-1] *= after
        else:
            return None
    return counts if len(counts) == len(source) else None


@rule
def elementwise_first(op: Elementwise, scene: Scene) -> Outcome:
    """f(resize(x)) = resize(f(x)) where elements are picked, and more of them"""
    wide = [v for v in op.operands if isinstance(v, Resize)]
    if len(wide) != 1 or not scene.single(wide[0]) or not op.deterministic:
        return None
    (resize,) = wide
    x = resize.operands[0]
    others = [v for v in op.operands if v is not None and v is not resize]
    axes = resized(resize)
    if x is None or axes is None or resize.dtype is not op.dtype:
        return None
    assert x.rank is not None
    if resize.mode != "nearest" or not grows(resize) or op.rank != x.rank:
        return miss("the elements are made anew, or fewer", resize)
    if resize.coordinate_transformation_mode == "tf_crop_and_resize":
        return miss("what is outside is no element", resize)
    if not all(_is_alike(v, axes, x.rank) for v in others):
        return miss("another operand differs between the elements", op)
    made = op.with_operands([x if v is resize else v for v in op.operands])
    if not same_shape(made, x):
        return miss("it broadcasts", op)
    return resize.with_operands([made, *resize.operands[1:]])


def _is_alike(value: Value, axes: Sequence[int], rank: int) -> bool:
    """True for a constant that is the same along these axes."""
    tensor = value.constant
    if tensor is None:
        return False
    aligned = (1,) * (rank - len(tensor.shape)) + tensor.shape
    return all(aligned[axis] == 1 for axis in axes)


@rule(exact=False)
def pixels_first(op: Conv, scene: Scene) -> Outcome:
    """conv(resize(x), w) = resize(conv(x, w)) where w is of single pixels"""
    resize = op.operands[0]
    if not isinstance(resize, Resize) or not scene.single(resize):
        return None
    x, weight, axes = resize.operands[0], op.operands[1], resized(resize)
    if x is None or weight is None or weight.shape is None or axes is None:
        return None
    window = [*weight.shape[2:], *(op.strides or ())]
    if any(n != 1 for n in window) or any(op.pads or ()):
        return None  # which is what most convolutions are
    if op.auto_pad not in ("NOTSET", "VALID") or not grows(resize):
        return miss("it is padded, or of a smaller image", op)
    if min(axes) < 2:
        return miss("the channels are resized too", resize)
    if resize.coordinate_transformation_mode == "tf_crop_and_resize":
        return miss("what is outside is no element", resize)
    if resize.factors() is None and 1 in resize.resized_axes(len(weight.shape)):
        return miss("the sizes say how many channels there are", resize)
    first = op.with_operands([x, *op.operands[1:]])
    return resize.with_operands([first, *resize.operands[1:]])


RULES: tuple[Rule, ...] = (
    resize_nothing,
    resize_resize,
    sizes_known,
    repeated_by_reshapes,
    elementwise_first,
    pixels_first,
)


@dataclass(frozen=True)
class Resizes(RulePass):
    """Resize images once, by known scales, and after what works on single pixels.

    conv(resize(x, 2), w)               -->   resize(conv(x, w), 2)   with 1x1 weights
    resize(x, sizes=[n, c, 2*h, 2*w])   -->   resize(x, scales=[1, 1, 2, 2])
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
