"""Changes to normalization, pooling, recurrent and signal ops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..ir import Value
from ..ops.bodies import scalar, vector
from ..ops.conversion import Cast
from ..ops.elementwise import Abs, Div, Mul, Pow
from ..ops.generation import Shape as ShapeOf
from ..ops.movement import Expand
from ..ops.normalization import BatchNormalization
from ..ops.pooling import AveragePool
from ..ops.random import Dropout
from ..ops.reduction import ReduceSum
from ..ops.reshaping import Flatten, Reshape, Unsqueeze
from ..ops.segments import Concat
from ..types import DType
from .moved import SCALAR, SCALAR_INT, slots
from .table import Node, Read, changed, never

# --- BatchNormalization --------------------------------------------------------------

_SAVED = 3  # from here on results that training saves for itself: ONNX says not which


def _by_results(node: Node) -> Read:
    """Before opset 14 asking for the statistics meant training."""
    if any(node.used[_SAVED:]):
        return None
    if any(node.used[1:]):
        return _trained(node, node.operands)
    return node


def _trained(node: Node, operands: Sequence[Value | None]) -> Sequence[Value]:
    attrs = {**node.attrs, "training_mode": 1}
    return BatchNormalization(*operands, outs=_SAVED, **attrs).results


def _inference_only(node: Node) -> Node | None:
    if node.attrs.pop("training_mode") or any(node.used[1:]):
        return None
    node.used = node.used[:1]
    return node


def _spatial(node: Node) -> Read:
    """``spatial=0`` had statistics for every position, not for every channel."""
    if node.attrs.pop("spatial", 1) or node.data.rank == 2:
        return node
    if any(node.used[_SAVED:]) or None in node.operands:
        return None
    x, *vectors = [v for v in node.operands if v is not None]
    flat = [Flatten(x, axis=1), *[Reshape(v, vector(-1)) for v in vectors]]
    made: Sequence[Value] = (
        _trained(node, flat)
        if any(node.used[1:])
        else BatchNormalization(*flat, **node.attrs).results
    )
    like = (x, *vectors[2:])
    return [
        Reshape(value, ShapeOf(model)) for value, model in zip(made, like, strict=False)
    ]


def _in_test(node: Node) -> Node | None:
    """Opsets 1 to 6 told training twice; where both disagree, that means nothing."""
    training = not node.attrs.pop("is_test", 0)
    return node if training == any(node.used[1:]) else None


def _say_test(node: Node) -> Node:
    node.attrs["is_test"] = 1
    return node


def _say_consumed(node: Node) -> Node:
    """Inputs that the op may overwrite; opset 1 demands the list."""
    node.attrs["consumed_inputs"] = (0, 0, 0, 1, 1)
    return node


changed("BatchNormalization", 14, read=_by_results, spell=_inference_only)
changed("BatchNormalization", 9, read=_spatial)
changed("BatchNormalization", 7, read=_in_test, spell=_say_test)
changed("BatchNormalization", 6, spell=_say_consumed)


# --- GroupNormalization --------------------------------------------------------------


def _of_channels(node: Node) -> Node | None:
    """Before opset 21 scale and bias were those of groups."""
    groups: int = node.attrs["num_groups"]
    shape = node.data.shape
    each: Value = Div(ShapeOf(node.data, start=1, end=2), vector(groups))
    if shape is not None and isinstance(shape[1], int):
        each = vector(shape[1] // groups)
    target = Concat(vector(groups), each, axis=0)
    for i in (1, 2):
        value = node.operands[i]
        assert value is not None
        spread = Expand(Unsqueeze(value, vector(1)), target)
        node.put(i, Reshape(spread, vector(-1)))
    return node


# ONNX withdrew that form, but there are models of it.
changed("GroupNormalization", 21, read=_of_channels, spell=never)


# --- Dropout -------------------------------------------------------------------------

_RATIO = slots({"ratio": 0.5}, ratio=(1, SCALAR))


def _not_training(node: Node) -> Node | None:
    training = node.operand(2)
    known = None if training is None else training.contents
    if training is not None and (known is None or known.any()):
        return None
    node.drop(2)
    return _RATIO.spell(node)


def _mask_like_data(node: Node) -> Read:
    """Before opset 10 the mask had the element type of the data."""
    dtype = node.data.dtype
    if not any(node.used[1:]):
        return node
    newer = _RATIO.read(node)
    if dtype is None or newer is None:
        return None
    data, mask = Dropout(*newer.operands, outs=2, token=node.token).results
    return (data, Cast(mask, to=dtype))


def _no_mask(node: Node) -> Node | None:
    return None if any(node.used[1:]) else node


def _dropped(node: Node) -> Read:
    """Before opset 7 it was training unless it was said that it is not."""
    dtype = node.data.dtype
    if node.attrs.pop("is_test", 0):
        return node
    ratio, always = scalar(node.attrs["ratio"], DType.F32), scalar(1, DType.BOOL)
    op = Dropout(node.data, ratio, always, outs=2, token=node.token)
    if not any(node.used[1:]):
        return op.results[:1]
    return None if dtype is None else (op.results[0], Cast(op.results[1], to=dtype))


changed("Dropout", 12, read=_RATIO.read, spell=_not_training)
changed("Dropout", 10, read=_mask_like_data, spell=_no_mask)
changed("Dropout", 7, read=_dropped, spell=_say_test)


# --- pools ---------------------------------------------------------------------------


def _whole_power(node: Node) -> Read:
    """Before opset 2 the power could be any number."""
    power, x = node.attrs["p"], node.data
    if power == int(power):
        node.attrs["p"] = int(power)
        return node
    if x.dtype is None or x.rank is None:
        return None
    powers = Pow(Abs(x), scalar(power, x.dtype))
    total: Value
    if node.kind == "LpPool":
        window: dict[str, Any] = {
            n: node.attrs.get(n) for n in ("pads", "auto_pad", "strides")
        }
        size = node.attrs["kernel_shape"]
        mean = AveragePool(powers, kernel_shape=size, count_include_pad=1, **window)
        total = Mul(mean, scalar(math.prod(size), x.dtype))
    else:
        total = ReduceSum(powers, vector(*range(2, x.rank)))
    return (Pow(total, scalar(1 / power, x.dtype)),)


def _float_power(node: Node) -> Node:
    node.attrs["p"] = float(node.attrs["p"])
    return node


changed("LpPool GlobalLpPool", 2, read=_whole_power, spell=_float_power)


# --- recurrent -----------------------------------------------------------------------


def _forget_sequence(node: Node) -> Node | None:
    """``output_sequence=0`` left the first output away."""
    wanted = node.attrs.pop("output_sequence", 0)
    return None if node.used and node.used[0] and not wanted else node


def _say_sequence(node: Node) -> Node:
    node.attrs["output_sequence"] = int(bool(node.used) and node.used[0])
    return node


def _forward(node: Node) -> Node:
    if node.attrs.get("direction") == "foward":  # the default, misspelled
        node.attrs["direction"] = "forward"
    return node


changed("RNN GRU LSTM", 7, read=_forget_sequence, spell=_say_sequence)
changed("GRU", 3, read=_forward)


# --- quantization --------------------------------------------------------------------


def _one_scale(node: Node) -> Node | None:
    """Before opset 13 one scale served the whole tensor."""
    scale = node.operand(1)
    shape = None if scale is None else scale.shape
    return node if shape is None or shape in ((), (1,)) else None


changed("QuantizeLinear DequantizeLinear", 13, spell=_one_scale)


# --- signals and samples -------------------------------------------------------------

_DFT = slots(axis=(2, SCALAR_INT))


def _dft_axis(node: Node) -> Node | None:
    if node.operand(2) is None:
        node.put(2, scalar(-2, DType.I64))
    return _DFT.spell(node)


changed("DFT", 20, read=_DFT.read, spell=_dft_axis)

_SAMPLE_MODES = {"bilinear": "linear", "bicubic": "cubic", "nearest": "nearest"}
_OLD_SAMPLE_MODES = {new: old for old, new in _SAMPLE_MODES.items()}


def _mode_without_prefix(node: Node) -> Node | None:
    node.attrs["mode"] = _SAMPLE_MODES.get(node.attrs["mode"])
    return node if node.attrs["mode"] else None


def _mode_with_prefix(node: Node) -> Node | None:
    node.attrs["mode"] = _OLD_SAMPLE_MODES.get(node.attrs["mode"])
    return node if node.attrs["mode"] else None


changed("GridSample", 20, read=_mode_without_prefix, spell=_mode_with_prefix)


def _without_shift(node: Node) -> Node:
    node.attrs["coordinate_transformation_mode"] = "output_half_pixel"
    return node


def _only_without_shift(node: Node) -> Node | None:
    mode = node.attrs.pop("coordinate_transformation_mode")
    return node if mode == "output_half_pixel" else None


changed("RoiAlign", 16, read=_without_shift, spell=_only_without_shift)

# A batch axis everywhere, and lengths: `graphopt.importer.batched` reads that.
changed("Scan", 9, spell=never)
