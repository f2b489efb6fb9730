"""Affine maps before convolutions that pad: the border is what becomes of zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equations import (
    M,
    N,
    assert_sound,
    const,
    fires,
    graph_of,
    ints,
    kinds,
    misses,
    op_of,
    param,
    random,
    rewritten,
)

from graphopt.dims import symbol
from graphopt.ir import Value
from graphopt.ops import (
    Add,
    BatchNormalization,
    Conv,
    Div,
    Mul,
    Pad,
    Relu,
    Shape,
    Slice,
    Sub,
)
from graphopt.passes import FoldAffine, Padding
from graphopt.passes.borders import cropped_convolution, shifted_border
from graphopt.types import DType, TensorType

F64 = DType.F64
X = param("x", N, 2, 5, 6, dtype=F64)
W, B = random(3, 2, 2, 3, dtype=F64), random(3, dtype=F64, seed=1)
PADS = {"pads": (1, 2, 0, 1)}


def number(*of: float) -> Value:
    """One number, or one for each channel."""
    if len(of) == 1:
        return const(of[0], F64)
    return const(np.array(of).reshape(-1, 1, 1), F64)


def scaled(x: Value = X) -> Value:
    """-1 to 1, as images are before many a network."""
    return Sub(Div(x, number(127.5)), number(1.0))


CHAINS: list[tuple[Value, float]] = [
    (scaled(), 127.5),
    (Add(Mul(X, number(0.5)), number(-3.0)), 6.0),
    (Mul(Add(X, number(2.0)), number(3.0)), -2.0),
    (Div(Sub(X, number(3.0)), number(2.0, 4.0)), 3.0),
    (Add(number(-4.0), Mul(number(2.0), X)), 2.0),
    (Mul(Sub(Mul(X, number(2.0, -1.0)), number(6.0, -3.0)), number(0.5)), 3.0),
]


@pytest.mark.parametrize(("chain", "zero"), CHAINS)
@pytest.mark.parametrize("bias", [(), (B,)])
def test_the_border_is_what_becomes_of_zero(
    chain: Value, zero: float, bias: Any
) -> None:
    done = rewritten(shifted_border, Conv(chain, W, *bias, **PADS))
    assert kinds(done) == ["Pad", "Conv"]
    pad = op_of(op_of(done.outputs[0]).operands[0])
    assert pad.operands[0] is X
    assert pad.operands[1].ints == (0, 0, 1, 2, 0, 0, 0, 1)
    assert pad.operands[2].constant.array() == zero


def test_batch_norms_and_groups() -> None:
    ones, zeros = const(np.ones(2), F64), const(np.zeros(2), F64)
    norm = BatchNormalization(Mul(X, number(2.0)), ones, ones, zeros, ones)
    done = rewritten(shifted_border, Conv(norm, W, **PADS))
    assert kinds(done) == ["Pad", "Conv"]
    each = random(4, 1, 3, 3, dtype=F64)
    done = rewritten(shifted_border, Conv(scaled(), each, group=2, pads=(1, 1, 1, 1)))
    assert kinds(done) == ["Pad", "Conv"]
    line = param("line", N, 2, 7, dtype=F64)
    before = Conv(scaled(line), random(3, 2, 3, dtype=F64), pads=(2, 0), strides=(2,))
    assert kinds(rewritten(shifted_border, before)) == ["Pad", "Conv"]


def test_what_stays() -> None:
    def stays(chain: Value, reason: str = "", w: Value = W, **ways: Any) -> None:
        misses(shifted_border, Conv(chain, w, **(ways or PADS)), reason)

    stays(X)
    stays(Relu(scaled()))
    stays(Sub(X, number(1.0)), "a single op")
    stays(Mul(Mul(X, number(2.0)), number(3.0)), "a single op")
    stays(scaled(), pads=(0, 0, 0, 0))
    stays(scaled(), auto_pad="SAME_UPPER")
    stays(scaled(), auto_pad="VALID")
    means = Div(Sub(X, number(3.0, 4.0)), number(2.0))
    stays(means, "a border of its own")
    stays(Add(Mul(X, number(0.0)), number(1.0)), "nothing but its shift")
    stays(Add(Mul(X, number(1e-200)), number(1e200)), "a border of its own")
    stays(scaled(), "is no constant", w=param("w", 3, 2, 2, 3, dtype=F64))
    stays(Add(Mul(X, param("c", dtype=F64)), number(1.0)), "a single op")
    moved = Conv(scaled(), W, param("bias", 3, dtype=F64), **PADS)
    misses(shifted_border, moved, "is no constant")
    flat = param("flat", N, 1, 5, 6, dtype=F64)
    wide = Sub(Mul(flat, number(2.0, 2.0)), number(1.0))
    stays(wide, "a single op")
    shared = scaled()
    misses(shifted_border, (Conv(shared, W, **PADS), Relu(shared)))
    inner = Div(X, number(127.5))
    both = (Conv(Sub(inner, number(1.0)), W, **PADS), Relu(inner))
    misses(shifted_border, both, "a single op")


def test_a_weight_that_others_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.passes.affine.SHARED_LIMIT", 0)
    two = (Conv(scaled(), W, **PADS), Conv(X, W))
    misses(shifted_border, two, "others read")


def test_an_image_is_scaled_by_the_first_convolution() -> None:
    """As Keras puts Rescaling and ZeroPadding2D before it."""
    image = param("image", N, 3, 8, 8, dtype=F64)
    rescaled = Add(Mul(image, number(1 / 127.5)), number(-1.0))
    padded = Pad(rescaled, const([0, 0, 0, 0, 0, 0, 1, 1], DType.I64))
    weight = random(4, 3, 3, 3, dtype=F64)
    graph = graph_of(Conv(padded, weight, strides=(2, 2)))
    done = FoldAffine()(Padding()(graph))
    assert kinds(done) == ["Pad", "Conv"]
    assert_sound(graph, done, exact=False)
    assert FoldAffine()(Padding()(done)) is done


# --- borders that are cut off again -------------------------------------------------

T = symbol("t")
SIZES = ({"n": 2, "t": 5}, {"n": 1, "t": 2})


def cut(x: Value, start: int, end: int, *axes: int) -> Value:
    count = len(axes)
    return Slice(x, ints(*(start,) * count), ints(*(end,) * count), ints(*axes))


def test_a_causal_convolution_pads_in_front() -> None:
    x, w = param("x", N, 4, 8, dtype=F64), random(4, 1, 3, dtype=F64)
    wide = Conv(x, w, group=4, pads=(2, 2))
    fires(cropped_convolution, cut(wide, 0, 8, 2), Conv(x, w, group=4, pads=(2, 0)))
    fires(cropped_convolution, cut(wide, 1, -1, -1), Conv(x, w, group=4, pads=(1, 1)))
    open_ = param("open", N, 4, T, dtype=F64)
    wide = Conv(open_, w, group=4, pads=(2, 2))
    fires(
        *(cropped_convolution, cut(wide, 0, -2, 2)),
        Conv(open_, w, group=4, pads=(2, 0)),
        sizes=SIZES,
    )
    picked = Conv(x, w, group=4, pads=(2, 2), strides=(2,))  # 5 of it
    after = Conv(x, w, group=4, pads=(0, 0), strides=(2,))
    fires(cropped_convolution, cut(picked, 1, 4, 2), after)


def test_borders_of_two_axes() -> None:
    x, w = param("x", N, 2, 5, 7, dtype=F64), random(3, 2, 3, 3, dtype=F64)
    wide = Conv(x, w, pads=(1, 2, 2, 1))
    after = Conv(x, w, pads=(0, 1, 2, 1))
    fires(cropped_convolution, cut(wide, 1, 99, 2, 3), after)
    fires(cropped_convolution, cut(wide, 1, 99, 3), Conv(x, w, pads=(1, 1, 2, 1)))


def test_each_axis_has_its_stride() -> None:
    x, w = param("x", N, 2, 5, 6, 7, dtype=F64), random(3, 2, 3, 3, 3, dtype=F64)
    ways: Any = {"strides": (1, 2, 3)}
    wide = Conv(x, w, pads=(1, 2, 3, 1, 2, 3), **ways)  # [5, 4, 4]
    after = Conv(x, w, pads=(1, 0, 0, 0, 2, 0), **ways)
    before = Slice(wide, ints(0, 1, 1), ints(4, 99, 3), ints(2, 3, 4))
    fires(cropped_convolution, before, after)


def test_what_is_not_only_border_stays() -> None:
    def stays(reason: str, before: Value, *others: Value) -> None:
        misses(cropped_convolution, (before, *others), reason)

    x, w = param("x", N, 4, 8, dtype=F64), random(4, 1, 3, dtype=F64)
    wide = Conv(x, w, group=4, pads=(2, 2))
    stays("than what the border gives", cut(wide, 0, 7, 2))
    stays("than what the border gives", cut(wide, 3, 10, 2))
    stays("where it pads", cut(Conv(x, w, group=4), 1, 6, 2))
    unknown = param("unknown", 1, dtype=F64)
    unknown.type = TensorType(F64, None)
    stays("", cut(Conv(unknown, w, group=4, pads=(2, 2)), 0, 8, 2))
    axes = param("axes", 1, dtype=DType.I64)
    stays("", Slice(wide, ints(0), ints(8), axes))
    open_ = Conv(param("open", N, 4, T, dtype=F64), w, group=4, pads=(2, 2))
    length = Shape(param("other", M, dtype=F64))
    stays("how much is cut", Slice(open_, length, ints(99), ints(2)))
    stays("how much is cut", Slice(open_, ints(0), length, ints(2)))
    held = Shape(param("held", N, 4, T, dtype=F64), start=2, end=3)
    stays("how much is cut", Slice(open_, held, ints((1 << 63) - 1), ints(2)))
    stays("something else", cut(wide, 0, 3, 1))
    stays("something else", cut(wide, 0, 1, 0))
    stays("picks", Slice(wide, ints(0), ints(8), ints(2), ints(2)))
    stays("", cut(wide, 0, 8, 2), Relu(wide))
    stays("picks", Slice(wide, ints(0), param("e", 1, dtype=DType.I64), ints(2)))
    same = Conv(x, w, group=4, auto_pad="SAME_UPPER")
    stays("where it pads", cut(same, 0, 7, 2))
    unread = Conv(x, w, group=4, auto_pad="VALID", pads=(2, 2))
    stays("where it pads", cut(unread, 1, 6, 2))
    stays("", cut(Relu(wide), 0, 8, 2))
