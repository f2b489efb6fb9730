"""Resizes: fewer of them, said by scales, and after what works on single pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equations import (
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
    Bernoulli,
    Cast,
    Clip,
    Concat,
    Conv,
    Expand,
    Gather,
    Mul,
    PRelu,
    Relu,
    Reshape,
    Resize,
    Shape,
    Sigmoid,
    Tile,
    Unsqueeze,
)
from graphopt.passes import resizes as r
from graphopt.rewrite import rewrite
from graphopt.types import DType, TensorType

H, W = symbol("h"), symbol("w")
SIZES = ({"n": 2, "h": 3, "w": 4}, {"n": 1, "h": 5, "w": 2})
REPEATING: dict[str, Any] = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}


def floats(*numbers: float) -> Value:
    return const(numbers)


def image(*dims: Any) -> Value:
    return param("x", *(dims or (N, 2, H, W)))


def grown(x: Value, *scales: float, **ways: Any) -> Resize:
    return Resize(x, None, floats(*scales), **ways)


def equal(rule: Any, before: Value, after: Value, **more: Any) -> None:
    fires(rule, before, after, sizes=SIZES, **more)


# --- nothing, and two at once -------------------------------------------------------


def test_a_resize_to_the_same_extents_is_none() -> None:
    x = image()
    for ways in ({}, {"mode": "linear"}, {"mode": "cubic"}, REPEATING):
        equal(r.resize_nothing, Relu(grown(x, 1, 1, 1, 1, **ways)), Relu(x))
    y = image(1, 2, 3, 4)
    same = Resize(y, None, None, ints(1, 2, 3, 4), mode="linear")
    equal(r.resize_nothing, Relu(same), Relu(y))
    misses(
        r.resize_nothing, grown(image(1, 2, 4, 4), 1, 1, 1, 1.2)
    )  # of other elements
    misses(r.resize_nothing, grown(x, 1, 1, 1, 2))
    crop = Resize(
        *(y, floats(0, 0, 0.2, 0.2, 1, 1, 1, 1), floats(1, 1, 1, 1)),
        coordinate_transformation_mode="tf_crop_and_resize",
    )
    misses(r.resize_nothing, crop)


def test_two_that_repeat_are_one() -> None:
    x = image()
    centered = {"mode": "nearest", "coordinate_transformation_mode": "half_pixel"}
    for ways in (REPEATING, centered):
        twice = grown(grown(x, 1, 1, 2, 1, **ways), 1, 1, 3, 2, **ways)
        equal(r.resize_resize, twice, grown(x, 1, 1, 6, 2, **REPEATING))


def test_two_that_do_more_stay() -> None:
    x = image()
    smooth = grown(grown(x, 1, 1, 2, 2, mode="linear"), 1, 1, 2, 2, **REPEATING)
    misses(r.resize_resize, smooth, "more is done")
    misses(r.resize_resize, grown(smooth, 1, 1, 2, 2, mode="linear"), "more is done")
    shared = grown(x, 1, 1, 2, 2, **REPEATING)
    misses(r.resize_resize, (grown(shared, 1, 1, 2, 2, **REPEATING), Relu(shared)))
    open_ = Resize(param("u", N, 2, 3, 4), None, param("s", 4), **REPEATING)
    misses(r.resize_resize, grown(open_, 1, 1, 2, 2, **REPEATING), "more is done")


def test_axes_that_are_not_named_stay() -> None:
    x = image()
    some = Resize(x, None, floats(2, 3), **REPEATING, axes=(2, 3))
    twice = grown(some, 1, 1, 2, 1, **REPEATING)
    equal(r.resize_resize, twice, grown(x, 1, 1, 4, 3, **REPEATING))


def test_images_of_unknown_rank_stay() -> None:
    x = param("u", 1)
    x.type = TensorType(DType.F32, None)
    wide = grown(x, 1, 1, 2, 2, **REPEATING)
    spelled = Reshape(Expand(Unsqueeze(x, ints(3, 5)), ints(1, 1, 1, 2, 1, 2)), ints(1))
    named = Reshape(Expand(image(), param("sizes", 4, dtype=DType.I64)), ints(-1))
    for before in (
        *(grown(wide, 1, 1, 2, 2), Relu(wide), Conv(wide, random(2, 2, 1, 1))),
        *(Resize(x, None, None, Mul(Shape(x), ints(2))), spelled, named),
    ):
        graph = graph_of(before)
        assert rewrite(graph, r.RULES) is graph


# --- sizes --------------------------------------------------------------------------


def sizes_of(x: Value, *factors: int) -> Value:
    return Mul(Shape(x), ints(*factors))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_sizes_by_arithmetic_are_scales(mode: str) -> None:
    x = image()
    before = Resize(x, None, None, sizes_of(x, 1, 1, 2, 3), mode=mode)
    equal(r.sizes_known, before, grown(x, 1, 1, 2, 3, mode=mode))


def lead(x: Value, *rest: int) -> Value:
    return Concat(Gather(Shape(x), ints(0, 1)), ints(*rest), axis=0)


def test_known_extents_give_scales() -> None:
    x = image(N, 2, 4, 5)
    before = Resize(x, None, None, lead(x, 6, 10), mode="linear")
    equal(r.sizes_known, before, grown(x, 1, 1, 1.5, 2, mode="linear"))
    third = Resize(x, None, None, lead(x, 4, 3), mode="linear")
    scale = float(np.float32(3) / np.float32(5))
    equal(r.sizes_known, third, grown(x, 1, 1, 1, scale, mode="linear"))


def test_sizes_of_the_axes_that_change() -> None:
    x = image()
    before = Resize(x, None, None, lead(x, 6, 10), mode="linear")
    after = Resize(x, None, None, ints(6, 10), mode="linear", axes=(2, 3))
    equal(r.sizes_known, before, after)
    y = image(N, 2, 4, 5)  # between corners, extents count too
    ways = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    before = Resize(y, None, None, lead(y, 4, 3), **ways)
    equal(r.sizes_known, before, Resize(y, None, None, ints(3), **ways, axes=(3,)))
    named = Resize(x, None, None, Gather(lead(x, 6, 10), ints(3, 0)), axes=(3, 0))
    equal(r.sizes_known, named, Resize(x, None, None, ints(10), axes=(3,)))


def test_sizes_that_stay() -> None:
    x = image()
    other = Mul(Shape(image(N, 2, H, W)), ints(1, 1, 2, 3))
    misses(r.sizes_known, Resize(image(N, 2, 4, 5), None, None, other), "cannot be")
    far = Resize(
        param("far", N, 7), None, None, Concat(Shape(x, end=1), ints(117), axis=0)
    )
    assert r._scale(7, 117, rounds=True) is None  # 116.99999 in float32
    equal(
        r.sizes_known,
        far,
        far.copy(operands=(far.operands[0], None, None, ints(117)), axes=(1,)),
    )
    assert r._scale(0, 4, rounds=True) is None
    misses(r.sizes_known, grown(x, 1, 1, 2, 2))
    misses(r.sizes_known, Resize(image(1, 2, 3, 4), None, None, ints(1, 2, 6, 8)))
    odd = Concat(Gather(Shape(x), ints(0, 1, 3)), ints(6), axis=0)
    misses(r.sizes_known, Resize(x, None, None, odd), "cannot be said")
    before = Resize(x, None, None, lead(x, 6, 10), mode="linear")
    misses(r.sizes_known, before, "names no axes", opset=17)
    kept = Resize(
        *(x, None, None, sizes_of(x, 1, 1, 2, 2)),
        keep_aspect_ratio_policy="not_larger",
    )
    misses(r.sizes_known, kept, "not all that counts")
    crop = Resize(
        *(x, None, None, sizes_of(x, 1, 1, 2, 2)),
        coordinate_transformation_mode="tf_crop_and_resize",
    )
    misses(r.sizes_known, crop)
    where = Resize(x, param("roi", 8), None, sizes_of(x, 1, 1, 2, 2))
    misses(r.sizes_known, where, "not all that counts")


@pytest.mark.parametrize("way", [*r.BY_SCALE, "align_corners", "half_pixel_symmetric"])
def test_every_size_of_every_extent(way: str) -> None:
    """The scale that is found gives the size, and the same elements to the bit."""
    taken = 0
    for source in range(1, 9):
        x = param("x", source)
        for target in range(1, 9):
            scale = r._scale(source, target, rounds=way in r.BY_SCALE)
            if scale is None:
                continue
            taken += 1
            ways = {"mode": "linear", "coordinate_transformation_mode": way}
            before = graph_of(Resize(x, None, None, ints(target), **ways))
            after = before.replace(outputs=[grown(x, scale, **ways)])
            assert_sound(before, after, exact=True)
    assert taken >= (60 if way in r.BY_SCALE else 30)


# --- repeated by hand ---------------------------------------------------------------


def test_repeats_that_are_spelled_out() -> None:
    x = image(N, 3, 4, 5)
    after = grown(x, 1, 1, 2, 3, **REPEATING)
    columns = Unsqueeze(x, ints(3, 5))
    wide = Expand(columns, ints(1, 3, 4, 2, 5, 3))
    equal(r.repeated_by_reshapes, Reshape(wide, ints(0, 3, 8, 15)), after)
    wide = Tile(Reshape(x, ints(0, 3, 4, 1, 5, 1)), ints(1, 1, 1, 2, 1, 3))
    equal(r.repeated_by_reshapes, Reshape(wide, ints(-1, 3, 8, 15)), after)
    flat = Expand(Unsqueeze(x, ints(3, 5, 6)), ints(1, 3, 4, 2, 5, 3, 2))
    again = grown(x, 1, 1, 2, 6, **REPEATING)
    equal(r.repeated_by_reshapes, Reshape(flat, ints(0, 3, 8, 30)), again)
    idle = Expand(Unsqueeze(x, ints(3, 5, 6)), ints(1, 3, 4, 2, 5, 3, 1))
    equal(r.repeated_by_reshapes, Reshape(idle, ints(0, 3, 8, 15)), after)


def test_other_reshapes_of_wider_ones() -> None:
    x = image(N, 3, 4, 5)
    columns = Unsqueeze(x, ints(3, 5))
    wide = Expand(columns, ints(1, 3, 4, 2, 5, 3))
    misses(r.repeated_by_reshapes, Reshape(wide, ints(0, 3, 15, 8)), "otherwise")
    misses(r.repeated_by_reshapes, Reshape(wide, ints(0, 24, 15)))
    misses(r.repeated_by_reshapes, (Reshape(wide, ints(0, 3, 8, 15)), Relu(wide)))
    heads = Expand(Unsqueeze(x, ints(2)), ints(1, 3, 2, 4, 5))
    misses(r.repeated_by_reshapes, Reshape(heads, ints(0, 6, 4, 5)), "no image")
    rows = Expand(Unsqueeze(x, ints(3)), ints(1, 3, 4, 2, 5))
    misses(r.repeated_by_reshapes, Reshape(rows, ints(0, 3, 8, 5)), "no image")
    front = Expand(
        Unsqueeze(x, ints(2, 4)), ints(1, 3, 2, 4, 3, 5)
    )  # before, not after
    misses(r.repeated_by_reshapes, Reshape(front, ints(0, 3, 8, 15)), "otherwise")
    leading = Expand(Unsqueeze(x, ints(0)), ints(2, 1, 3, 4, 5))
    misses(r.repeated_by_reshapes, Reshape(leading, ints(-1, 3, 4, 5)))
    whole = param("i", N, 3, 4, 5, dtype=DType.I32)
    wide = Expand(Unsqueeze(whole, ints(3, 5)), ints(1, 3, 4, 2, 5, 3))
    misses(r.repeated_by_reshapes, Reshape(wide, ints(0, 3, 8, 15)))
    misses(
        r.repeated_by_reshapes, Reshape(Expand(x, ints(2, 3, 4, 5)), ints(-1, 3, 4, 5))
    )


def test_what_is_spelled_alike_but_is_no_image() -> None:
    def stays(wide: Value, dims: tuple[int, ...], reason: str = "") -> None:
        misses(r.repeated_by_reshapes, Reshape(wide, ints(*dims)), reason)

    x = image(N, 3, 4, 5)
    columns = Unsqueeze(x, ints(3, 5))
    stays(Expand(columns, ints(2, 1, 3, 4, 2, 5, 3)), (-1, 3, 8, 15))
    twos = Unsqueeze(image(2, 2, 2, 2), ints(3, 5))
    stays(Expand(twos, ints(2, 2, 2, 2, 2, 2, 2)), (-1, 2, 4, 4))
    both = Expand(Unsqueeze(x, ints(2, 4, 6)), ints(1, 3, 2, 4, 2, 5, 2))
    stays(both, (0, 6, 8, 10), "no image")
    row = Expand(Unsqueeze(param("line", N, 3, 4), ints(3)), ints(1, 3, 4, 2))
    stays(row, (0, 3, 8), "no image")
    split = Expand(Reshape(x, ints(0, 3, 5, 1, 4, 1)), ints(1, 3, 5, 2, 4, 3))
    stays(split, (0, 3, 10, 12))
    stays(Tile(columns, ints(1, 1, 2, 1, 1, 1)), (0, 3, 8, 5))
    length = Shape(image(N, 2, H, W), start=2, end=3)
    asked = Concat(ints(1, 3, 4), length, ints(5, 3), axis=0)
    stays(Expand(columns, asked), (0, 3, -1, 15))
    idle = Expand(Unsqueeze(x, ints(3, 5, 6)), ints(1, 3, 4, 2, 5, 3, 1))
    after = grown(x, 1, 1, 2, 3, **REPEATING)
    equal(r.repeated_by_reshapes, Reshape(idle, ints(0, 3, 8, 15)), after)
    none = Resize(param("scalar"), None, const(np.zeros(0)))
    misses(r.elementwise_first, Relu(none), "fewer")


# --- what comes first ---------------------------------------------------------------


def test_elementwise_ops_come_first() -> None:
    x, y = image(), image(N, 2, 4, 5)
    twice = grown(x, 1, 1, 2, 2, **REPEATING)
    equal(r.elementwise_first, Relu(twice), grown(Relu(x), 1, 1, 2, 2, **REPEATING))
    wide = grown(y, 1, 1, 1.5, 2, mode="nearest")
    after = grown(Sigmoid(y), 1, 1, 1.5, 2, mode="nearest")
    equal(r.elementwise_first, Sigmoid(wide), after)
    sized = Resize(y, None, None, ints(6, 10), axes=(2, 3))
    after = Resize(Relu(y), None, None, ints(6, 10), axes=(2, 3))
    equal(r.elementwise_first, Relu(sized), after)
    bias, slope = random(2, 1, 1), random(2, 1, 1, seed=1)
    for of in (
        lambda v: Add(bias, v),
        lambda v: Mul(v, const(3.0)),
        lambda v: Clip(v, const(0.0), const(6.0)),
        lambda v: PRelu(v, slope),
    ):
        wide = grown(x, 1, 1, 2, 2, **REPEATING)
        equal(r.elementwise_first, of(wide), grown(of(x), 1, 1, 2, 2, **REPEATING))


def test_elementwise_ops_that_stay() -> None:
    x = image(N, 2, 4, 6)
    twice = grown(x, 1, 1, 2, 2, **REPEATING)
    misses(r.elementwise_first, Relu(grown(x, 1, 1, 2, 2, mode="linear")), "made anew")
    misses(r.elementwise_first, Relu(grown(x, 1, 1, 0.5, 2)), "fewer")
    misses(r.elementwise_first, Relu(grown(x, 1, 1, 1, 1)), "fewer")
    misses(r.elementwise_first, (Relu(twice), Sigmoid(twice)))
    misses(r.elementwise_first, Add(twice, grown(x, 1, 1, 2, 2)))
    misses(r.elementwise_first, Cast(twice, to=DType.F16))
    misses(r.elementwise_first, Add(twice, param("z", N, 2, 8, 12)), "differs")
    misses(r.elementwise_first, Add(twice, random(8, 1)), "differs")
    misses(r.elementwise_first, Add(twice, random(1, 2, 1, 12)), "differs")
    single = grown(param("s", 1, 1, 4, 6), 1, 1, 2, 2, **REPEATING)
    misses(r.elementwise_first, Add(single, random(2, 1, 1)), "broadcasts")
    misses(r.elementwise_first, Add(single, random(2, 1, 1, 1, 1)), "fewer")
    crop = Resize(
        *(x, floats(0, 0, 0, 0, 1, 1, 1, 1), floats(1, 1, 2, 2)),
        coordinate_transformation_mode="tf_crop_and_resize",
    )
    misses(r.elementwise_first, Relu(crop), "is no element")
    open_ = Resize(x, None, param("f", 4), **REPEATING)
    misses(r.elementwise_first, Relu(open_), "fewer")
    y = image(N, 2, H, 4)
    half = Resize(y, None, None, ints(6, 8), axes=(2, 3))
    misses(r.elementwise_first, Relu(half), "fewer")
    none = Resize(image(1, 2, 0, 4), None, floats(1, 1, 2, 2), **REPEATING)
    misses(r.elementwise_first, Relu(none), "fewer")
    misses(r.elementwise_first, Bernoulli(twice))
    misses(r.elementwise_first, Add(twice, param("one", 1)), "differs")


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_single_pixels_come_first(mode: str) -> None:
    x, weight, bias = image(), random(3, 2, 1, 1), random(3)
    before = Conv(grown(x, 1, 1, 2, 2, mode=mode), weight, bias, kernel_shape=(1, 1))
    after = grown(Conv(x, weight, bias, kernel_shape=(1, 1)), 1, 1, 2, 2, mode=mode)
    equal(r.pixels_first, before, after)
    y = image(N, 2, 4, 5)
    sized = Resize(y, None, None, ints(6, 10), axes=(2, 3), mode=mode)
    before = Conv(sized, weight, auto_pad="VALID", strides=(1, 1), pads=(0, 0, 0, 0))
    after = sized.with_operands(
        [before.with_operands([y, weight]), *sized.operands[1:]]
    )
    equal(r.pixels_first, before, after)


def test_windows_that_stay() -> None:
    x, one = image(N, 2, 4, 5), random(3, 2, 1, 1)
    twice = grown(x, 1, 1, 2, 2)
    misses(r.pixels_first, Conv(twice, random(3, 2, 3, 3)))
    misses(r.pixels_first, Conv(twice, random(3, 2, 3, 1)))
    unknown = param("unknown", 1)
    unknown.type = TensorType(DType.F32, None)
    misses(r.pixels_first, Conv(twice, unknown))
    misses(r.pixels_first, Conv(twice, one, strides=(2, 2)))
    misses(r.pixels_first, Conv(twice, one, pads=(1, 1, 1, 1)))
    misses(r.pixels_first, Conv(twice, one, auto_pad="SAME_UPPER"), "padded")
    misses(r.pixels_first, Conv(grown(x, 1, 1, 0.5, 1), one), "smaller")
    misses(r.pixels_first, Conv(grown(x, 1, 2, 2, 2), random(3, 4, 1, 1)), "channels")
    misses(r.pixels_first, Conv(grown(x, 2, 1, 2, 2), one), "channels")
    misses(r.pixels_first, (Conv(twice, one), Relu(twice)))
    sized = Resize(image(1, 2, 4, 5), None, None, ints(1, 2, 8, 10))
    misses(r.pixels_first, Conv(sized, one), "how many channels")
    crop = Resize(
        *(x, floats(0, 0, 1, 1), floats(2, 2)),
        coordinate_transformation_mode="tf_crop_and_resize",
        axes=(2, 3),
    )
    misses(r.pixels_first, Conv(crop, one), "is no element")
    misses(r.pixels_first, Conv(x, one))


def test_a_head_of_a_pyramid_works_on_the_small_image() -> None:
    """conv, resize, activation: the activation comes to its convolution."""
    x = image(1, 4, 5, 5)
    inner = Conv(x, random(4, 4, 3, 3), pads=(1, 1, 1, 1))
    wide = grown(grown(inner, 1, 1, 2, 2, **REPEATING), 1, 1, 2, 2, **REPEATING)
    done = rewritten(r.RULES, Conv(Relu(wide), random(2, 4, 1, 1)))
    assert kinds(done) == ["Conv", "Relu", "Conv", "Resize"]
    assert op_of(done.outputs[0]).shape == (1, 2, 20, 20)
