"""Changes to normalization, pooling, recurrent and signal ops."""

from __future__ import annotations

from ..ops.bodies import scalar
from ..ops.conversion import Cast
from ..ops.random import Dropout
from ..types import DType
from .moved import SCALAR, SCALAR_INT, slots
from .table import Node, Read, changed, never

# --- BatchNormalization --------------------------------------------------------------


def _inference(node: Node) -> Node | None:
    """Before opset 14 asking for the statistics meant training."""
    return None if any(node.used[1:]) else node


def _inference_only(node: Node) -> Node | None:
    if node.attrs.pop("training_mode") or any(node.used[1:]):
        return None
    node.used = node.used[:1]
    return node


def _spatial(node: Node) -> Node | None:
    """``spatial=0`` had statistics for every position, not for every channel."""
    return node if node.attrs.pop("spatial", 1) or node.data.rank == 2 else None


def _in_test(node: Node) -> Node | None:
    return node if node.attrs.pop("is_test", 0) else None


def _say_test(node: Node) -> Node:
    node.attrs["is_test"] = 1
    return node


def _say_consumed(node: Node) -> Node:
    """Inputs that the op may overwrite; opset 1 demands the list."""
    node.attrs["consumed_inputs"] = (0, 0, 0, 1, 1)
    return node


changed("BatchNormalization", 14, read=_inference, spell=_inference_only)
changed("BatchNormalization", 9, read=_spatial)
changed("BatchNormalization Dropout", 7, read=_in_test, spell=_say_test)
changed("BatchNormalization", 6, spell=_say_consumed)
changed("GroupNormalization", 21, read=never, spell=never)  # scale of each group


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


changed("Dropout", 12, read=_RATIO.read, spell=_not_training)
changed("Dropout", 10, read=_mask_like_data, spell=_no_mask)


# --- pools ---------------------------------------------------------------------------


def _whole_power(node: Node) -> Node | None:
    power = node.attrs["p"]
    node.attrs["p"] = int(power)
    return node if power == int(power) else None


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
