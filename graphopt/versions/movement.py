"""Changes to ops that move, select and pad elements."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from ..ir import Value
from ..ops.bodies import cast, scalar, vector
from ..ops.comparison import Equal, Where
from ..ops.constant import Constant
from ..ops.elementwise import Max, Min
from ..ops.reshaping import Reshape
from ..ops.resize import Resize
from ..types import DType
from .moved import FLOATS, INTS, ONE_INT, SCALAR_LIKE_DATA, from_front, moved, slots
from .table import Node, Read, changed

moved("Squeeze Unsqueeze", 13, slots(axes=1))
moved("TopK", 10, slots(k=(1, ONE_INT)))
changed(
    "Concat Gather Split Squeeze Unsqueeze Flatten Compress ArgMax ArgMin",
    11,
    spell=from_front,
)


# --- Reshape, Tile, Concat, Cast, Scatter --------------------------------------------

moved("Reshape", 5, slots(shape=1))


def _zeros_kept(node: Node) -> Node | None:
    """Where no wanted dim is 0, what 0 means does not matter."""
    if node.attrs.get("allowzero"):
        shape = node.operand(1)
        known = None if shape is None else shape.ints
        if known is None or 0 in known:
            return None
        node.attrs["allowzero"] = 0
    return node


changed("Reshape", 14, spell=_zeros_kept)


def _count_of_each_axis(node: Node) -> Node | None:
    """Before opset 6 one axis was repeated; axis and count were floats."""
    rank, dtype = node.data.rank, node.data.dtype
    count, axis = node.operands[1:]
    if rank is None or dtype is None or count is None or axis is None:
        return None
    counts: Value
    if count.constant is None or axis.constant is None:
        one = vector(1)
        at, count = (Reshape(cast(v, DType.I64), one) for v in (axis, count))
        counts = Where(Equal(vector(*range(rank)), at), count, one)
    else:
        found = [1] * rank
        found[int(axis.constant.array().item())] = int(count.constant.array().item())
        counts = vector(*found)
    node.put(1, counts)
    node.drop(2)
    return node


def _one_count(node: Node) -> Node | None:
    dtype, counts = node.data.dtype, node.operands[1]
    if dtype is None or counts is None or counts.ints is None:
        return None
    many = [i for i, n in enumerate(counts.ints) if n != 1] or [0]
    if len(many) > 1 or not counts.ints:
        return None
    node.put(1, scalar(counts.ints[many[0]], dtype))
    node.put(2, scalar(many[0], dtype))
    return node


changed("Tile", 6, read=_count_of_each_axis, spell=_one_count)


def _axis_one(node: Node) -> Node:
    node.attrs.setdefault("axis", 1)
    return node


def _unless_axis_one(node: Node) -> Node:
    if node.attrs["axis"] == 1:
        del node.attrs["axis"]
    return node


changed("Concat", 4, read=_axis_one, spell=_unless_axis_one)


def _type_by_number(node: Node) -> Node | None:
    name = node.attrs.get("to")
    if name not in TensorProto.DataType.keys():  # noqa: SIM118  no dict
        return None
    node.attrs["to"] = TensorProto.DataType.Value(name)
    return node


def _type_by_name(node: Node) -> Node:
    node.attrs["to"] = TensorProto.DataType.Name(node.attrs["to"])
    return node


changed("Cast", 6, read=_type_by_number, spell=_type_by_name)
changed("ScatterElements", 11, spell=from_front, older="Scatter")


# --- Slice, Split --------------------------------------------------------------------

_SLICE = slots(starts=1, ends=2, axes=3)


def _slice_with_attributes(node: Node) -> Node | None:
    steps = node.operand(4)
    if steps is not None and (steps.ints is None or set(steps.ints) != {1}):
        return None
    node = _SLICE.spell(node) or node
    return from_front(node) if "starts" in node.attrs else None


changed("Slice", 10, read=_SLICE.read, spell=_slice_with_attributes)


def _count_outputs(node: Node) -> Node:
    """Without sizes, the number of outputs used to say into how many parts."""
    if node.operand(1) is None:
        node.attrs["num_outputs"] = len(node.used)
    return node


def _even_parts(node: Node) -> Node | None:
    """Before opset 18 parts without sizes had to be equal."""
    count = node.attrs.pop("num_outputs", None)
    shape = node.data.shape
    axis = node.attrs["axis"]
    if count is None or shape is None or not -len(shape) <= axis < len(shape):
        return node
    extent = shape[axis]
    if isinstance(extent, int) and extent % count:
        part = -(-extent // count)
        last = extent - part * (count - 1)
        if last <= 0:
            return None
        node.put(1, vector(*[part] * (count - 1), last))
    return node


changed("Split", 18, read=_count_outputs, spell=_even_parts)
moved("Split", 13, slots(split=1))


def _axis_of_old_split(node: Node) -> Node:
    node.attrs.setdefault("axis", 0)
    return node


changed("Split", 2, read=_axis_of_old_split)


# --- Pad -----------------------------------------------------------------------------


def _without_wrap(node: Node) -> Node | None:
    return None if node.attrs["mode"] == "wrap" else node


def _all_axes(node: Node) -> Node | None:
    """Before opset 18 every axis has its pads."""
    axes, pads = node.operand(3), node.operand(1)
    if axes is None:
        return node
    rank = node.data.rank
    if rank is None or axes.ints is None or pads is None or pads.ints is None:
        return None
    every = [0] * (2 * rank)
    for i, axis in enumerate(axes.ints):
        every[axis % rank] = pads.ints[i]
        every[axis % rank + rank] = pads.ints[i + len(axes.ints)]
    node.put(1, vector(*every))
    node.drop(3)
    return node


changed("Pad", 19, spell=_without_wrap)
changed("Pad", 18, spell=_all_axes)
moved("Pad", 11, slots({"value": 0.0}, pads=(1, INTS), value=(2, SCALAR_LIKE_DATA)))


def _pads(node: Node) -> Node:
    node.attrs["pads"] = node.attrs.pop("paddings")
    return node


def _paddings(node: Node) -> Node:
    node.attrs["paddings"] = node.attrs.pop("pads")
    return node


changed("Pad", 2, read=_pads, spell=_paddings)


# --- Resize, Upsample ----------------------------------------------------------------


def _known_scales(node: Node, slot: int) -> list[float] | None:
    scales = node.operand(slot)
    if scales is None or scales.constant is None:
        return None
    return scales.constant.array().reshape(-1).tolist()


def _without_symmetric(node: Node) -> Node | None:
    mode = node.attrs["coordinate_transformation_mode"]
    return None if mode == "half_pixel_symmetric" else node


_HALF_A_PIXEL_ON = {"floor": "round_prefer_ceil", "round_prefer_floor": "ceil"}
"""Ways to round that differ in where positions begin: by half a pixel."""


def _drop_empty(node: Node) -> Node | None:
    """Before opset 13 an empty tensor stood for an operand that is absent."""
    if node.attrs["coordinate_transformation_mode"] == "tf_half_pixel_for_nn":
        nearest = _HALF_A_PIXEL_ON.get(node.attrs["nearest_mode"])
        if node.attrs["mode"] != "nearest" or nearest is None:
            return None
        node.attrs["coordinate_transformation_mode"] = "half_pixel"
        node.attrs["nearest_mode"] = nearest
    for slot in (1, 2):
        value = node.operand(slot)
        if value is not None and value.shape == (0,):
            node.put(slot, None)
    return node


def _fill_empty(node: Node) -> Node:
    for slot in (1, 2):
        if node.operand(slot) is None:
            node.put(slot, Constant(np.zeros(0, np.float32)))
    return node


def _coordinates(node: Node) -> Read:
    """Opset 10 only scaled, without shift: down to the next pixel, up when shrinking.

    The latter is what runtimes do; the standard leaves it open. Where some axes grow
    and others shrink, or nobody knows, those that grow go first.
    """
    node.put(2, node.operand(1))
    node.put(1, None)
    node.attrs["coordinate_transformation_mode"] = "asymmetric"
    if "nearest_mode" in node.attrs:
        return node
    nearest = "floor"
    if node.attrs["mode"] == "nearest":
        scales = _known_scales(node, 2)
        if scales is None or min(scales) < 1 < max(scales):
            return (_grown_and_shrunk(node),)
        nearest = "floor" if min(scales) >= 1 else "ceil"
    node.attrs["nearest_mode"] = nearest
    return node


def _grown_and_shrunk(node: Node) -> Value:
    scales, one = node.operands[2], scalar(1, DType.F32)
    made = node.data
    for part, nearest in ((Max, "floor"), (Min, "ceil")):
        factors: Value = part(scales, one)
        if scales is not None and scales.constant is not None:
            bound = np.maximum if part is Max else np.minimum
            factors = Constant(bound(scales.constant.array(), np.float32(1)))
        attrs = {**node.attrs, "nearest_mode": nearest}
        made = Resize(made, None, factors, **attrs)
    return made


def _no_coordinates(node: Node) -> Node | None:
    attrs = node.attrs
    if attrs.pop("coordinate_transformation_mode") != "asymmetric":
        return None
    if node.operand(3) is not None or attrs["mode"] == "cubic":
        return None
    scales = _known_scales(node, 2)
    nearest = attrs.pop("nearest_mode")
    if attrs["mode"] == "nearest":
        if scales is None or min(scales) < 1 < max(scales):
            return None
        if nearest != ("ceil" if min(scales) < 1 else "floor"):
            return None
    node.put(1, node.operand(2))
    node.drop(2)
    return node


def _enlarged(node: Node) -> Node:
    node.attrs["nearest_mode"] = "floor"
    return node


def _enlarging(node: Node) -> Node | None:
    scales = _known_scales(node, 1)
    return None if scales is not None and min(scales) < 1 else node


def _four_scales(node: Node) -> Node:
    attrs = node.attrs
    height, width = attrs.pop("height_scale"), attrs.pop("width_scale")
    attrs["scales"] = (1.0, 1.0, height, width)
    return node


def _two_scales(node: Node) -> Node | None:
    scales = node.attrs.pop("scales")
    if len(scales) != 4 or scales[:2] != (1.0, 1.0):
        return None
    node.attrs["height_scale"], node.attrs["width_scale"] = scales[2:]
    return node


changed("Resize", 19, spell=_without_symmetric)
changed("Resize", 13, read=_drop_empty, spell=_fill_empty)
changed("Resize", 11, read=_coordinates, spell=_no_coordinates)
changed("Resize", 10, read=_enlarged, spell=_enlarging, older="Upsample")
moved("Upsample", 9, slots(scales=(1, FLOATS)))
changed("Upsample", 7, read=_four_scales, spell=_two_scales)
