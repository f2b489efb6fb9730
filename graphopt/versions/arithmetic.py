"""Changes to elementwise ops, reductions, products and softmax."""

from __future__ import annotations

import math

import numpy as np

from ..dims import Dim, Shape
from ..ir import Value
from ..ops.bodies import vector
from ..ops.constant import Constant
from ..ops.flattened import FLATTENED
from ..ops.reshaping import Unsqueeze
from ..types import DType
from ..weights import Tensor
from .moved import SCALAR_LIKE_DATA, from_front, slots
from .table import Node, Read, changed, spelled_before

_BOUNDS = slots(min=(1, SCALAR_LIKE_DATA), max=(2, SCALAR_LIKE_DATA))
_LARGEST = float(np.finfo(np.float32).max)


def _has_larger(dtype: DType | None) -> bool:
    """True where a type may have numbers, infinity too, beyond the largest f32."""
    return dtype in (None, DType.F32, DType.F64)


def _read_bounds(node: Node) -> Node | None:
    """Before opset 11 the bounds were attributes, the largest f32 by default."""
    for name, default in (("min", -_LARGEST), ("max", _LARGEST)):
        if node.attrs.get(name, default) == default:
            node.attrs[name] = default if _has_larger(node.data.dtype) else None
    return _BOUNDS.read(node)


def _spell_bounds(node: Node) -> Node | None:
    absent = [name for name, i in (("min", 1), ("max", 2)) if node.operand(i) is None]
    made = _BOUNDS.spell(node)
    if made is not None and _has_larger(node.data.dtype):
        # Without a bound, infinity stays infinity.
        for name in absent:
            made.attrs[name] = -math.inf if name == "min" else math.inf
    return made


changed("Clip", 11, read=_read_bounds, spell=_spell_bounds)


# --- broadcasting --------------------------------------------------------------------


def _may_equal(a: Dim, b: Dim) -> bool:
    return not (isinstance(a, int) and isinstance(b, int)) or a == b


def _may_be_alike(a: Shape | None, b: Shape | None) -> bool:
    """False where two shapes surely differ, or one surely has a dim to broadcast."""
    if a is None or b is None:
        return True
    return len(a) == len(b) and all(map(_may_equal, a, b))


def _alike(node: Node) -> Node | None:
    """Before opset 8 these ops did not broadcast."""
    shapes = [None if v is None else v.shape for v in node.operands]
    return node if all(_may_be_alike(shapes[0], s) for s in shapes[1:]) else None


changed("Max Min Sum Mean", 8, spell=_alike)


def _broadcast_by_rank(node: Node) -> Read:
    """Before opset 7 ``axis`` said where the dims of operand 1 begin in operand 0."""
    a, b = node.operands
    axis = node.attrs.pop("axis", None)
    if not node.attrs.pop("broadcast", 0) or axis is None:
        return node
    assert a is not None
    assert b is not None
    if a.rank is None or b.rank is None:
        return None
    behind = a.rank - b.rank - (axis + a.rank if axis < 0 else axis)
    if behind < 0:
        return None
    if behind and b.rank:
        node.put(1, Unsqueeze(b, vector(*range(b.rank, b.rank + behind))))
    return node


def _broadcast_by_axis(node: Node) -> Node | None:
    """Only operand 1 may be repeated, and its dims follow each other in operand 0."""
    a, b = node.operands
    assert a is not None
    assert b is not None
    if _may_be_alike(a.shape, b.shape):
        return node
    if a.shape is None or b.shape is None:
        return None
    if _must_repeat(a.shape, b.shape):
        if node.kind not in _COMMUTATIVE or _must_repeat(b.shape, a.shape):
            return None
        node.operands.reverse()
        a, b = b, a
    return _placed(node, a, b)


_COMMUTATIVE = frozenset({"Add", "Mul", "And", "Or", "Xor", "Equal"})


def _must_repeat(a: Shape, b: Shape) -> bool:
    """Whether ``a`` is repeated to fit ``b``, both aligned at the end."""
    return len(a) < len(b) or any(
        x == 1 and y != 1 for x, y in zip(reversed(a), reversed(b), strict=False)
    )


def _placed(node: Node, a: Value, b: Value) -> Node | None:
    assert a.shape is not None
    assert b.shape is not None
    node.attrs["broadcast"] = 1
    if all(d == 1 for d in b.shape):
        return node
    front = len(a.shape) - len(b.shape)
    inner = [i for i, dim in enumerate(b.shape) if dim != 1]
    first, last = inner[0], inner[-1] + 1
    middle = b.shape[first:last]
    if a.shape[front + first : front + last] != middle:
        return None
    if first == 0 and last == len(b.shape):
        return node
    core = _core(b, first, last)
    if core is None:
        return None
    node.put(1, core)
    node.attrs["axis"] = front + first
    return node


def _core(b: Value, first: int, last: int) -> Value | None:
    """What ``b`` is without the unit dims before ``first`` and from ``last`` on."""
    assert b.shape is not None
    if isinstance(b, Unsqueeze):
        source, axes = b.operands
        assert source is not None
        assert axes is not None
        if source.shape == b.shape[first:last] and axes.ints is not None:
            return source
    if b.constant is not None:
        array = b.constant.array()
        return Constant(Tensor.of(array.reshape(array.shape[first:last])))
    return None


changed(
    "Add Sub Mul Div Pow And Or Xor Equal Greater Less",
    7,
    read=_broadcast_by_rank,
    spell=_broadcast_by_axis,
)


def _slope_by_rank(node: Node) -> Read:
    """Before opset 7 a vector of slopes went along the channels."""
    x, slope = node.operands
    assert x is not None
    assert slope is not None
    if slope.shape == (1,) or slope.shape == ():
        return node
    if slope.rank != 1 or x.rank is None:
        return None
    if x.rank > 2:
        node.put(1, Unsqueeze(slope, vector(*range(1, x.rank - 1))))
    return node


def _slope_by_channel(node: Node) -> Node | None:
    x, slope = node.operands
    assert x is not None
    assert slope is not None
    if slope.shape in ((), (1,)):
        return node
    if slope.rank is None or slope.shape is None or x.rank is None:
        return None
    if slope.rank == x.rank - 1 and all(d == 1 for d in slope.shape[1:]):
        core = slope if slope.rank == 1 else _core(slope, 0, 1)
        if core is not None:
            node.put(1, core)
            return node
    return None


changed("PRelu", 7, read=_slope_by_rank, spell=_slope_by_channel)


def _of_integers(node: Node) -> Node | None:
    """Before opset 28 the remainder that takes the divisor's sign was for integers."""
    dtype = node.data.dtype
    return node if node.attrs["fmod"] or (dtype and dtype.is_integer) else None


changed("Mod", 28, spell=_of_integers)


# --- Gemm ----------------------------------------------------------------------------


def _with_bias(node: Node) -> Node | None:
    return None if node.operand(2) is None else node


def _forget_broadcast(node: Node) -> Node:
    node.attrs.pop("broadcast", None)
    return node


def _say_broadcast(node: Node) -> Node:
    node.attrs["broadcast"] = 1
    return node


changed("Gemm", 11, spell=_with_bias)
changed("Gemm", 7, read=_forget_broadcast, spell=_say_broadcast)


# --- reductions ----------------------------------------------------------------------

_AXES = slots({"axes": ()}, axes=1)


def _reduced_axes(node: Node) -> Node | None:
    axes = node.operand(1)
    if axes is not None and axes.ints:
        node.attrs["noop_with_empty_axes"] = 0  # of no matter
    node = _AXES.spell(node) or node
    if axes is not None and "axes" not in node.attrs:
        return None
    if node.attrs.get("axes") == ():
        del node.attrs["axes"]
    return node


_REDUCTIONS = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
    "ReduceProd ReduceSumSquare"
)
changed(_REDUCTIONS, 18, read=_AXES.read, spell=_reduced_axes)
changed("ReduceSum", 13, read=_AXES.read, spell=_reduced_axes)
changed(f"{_REDUCTIONS} ReduceSum", 11, spell=from_front)


# --- softmax -------------------------------------------------------------------------


def _of_a_matrix(node: Node) -> Read:
    """Before opset 13 all axes from ``axis`` on were taken as one."""
    shape = node.data.shape
    axis = node.attrs["axis"]
    if shape is None:
        return node if axis == -1 else (FLATTENED[node.kind](node.data, axis=axis),)
    inner = list(range(axis % len(shape) if shape else 0, len(shape)))
    wide = [i for i in inner if shape[i] != 1] or inner[-1:]
    if len(wide) != 1:
        return (FLATTENED[node.kind](node.data, axis=axis),)
    node.attrs["axis"] = wide[0]
    return node


def _along_one_axis(node: Node) -> Node | None:
    shape = node.data.shape
    axis = node.attrs["axis"]
    if shape is None:
        return node if axis == -1 else None
    node.attrs["axis"] = axis % len(shape) if shape else axis
    behind = shape[node.attrs["axis"] + 1 :] if shape else ()
    return node if all(d == 1 for d in behind) else None


changed("Softmax LogSoftmax Hardmax", 13, read=_of_a_matrix, spell=_along_one_axis)
for _kind, _flattened in FLATTENED.items():
    spelled_before(_flattened.kind, 13, lambda node: node, older=_kind)
