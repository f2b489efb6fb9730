"""Convolution, pooling and windows against ONNX Runtime and on both sides."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from xp_sides import compare, on_host

from graphopt.errors import TypeMismatch
from graphopt.xp import convolution, host
from graphopt.xp.spatial import Geometry


def random(dtype: Any, *shape: int, seed: int = 0) -> Any:
    return (np.random.default_rng(seed).normal(size=shape) * 4).astype(dtype)


def naive(x: Any, w: Any, strides: Any, pads: Any, dilations: Any, groups: int) -> Any:
    """Convolution by its definition, in Python's own integers or floats."""
    crop = [slice(max(-b, 0), n - max(-a, 0)) for n, (b, a) in zip(x.shape[2:], pads)]  # noqa: B905
    widths = [(0, 0)] * 2 + [(max(b, 0), max(a, 0)) for b, a in pads]
    x = np.pad(x[(slice(None), slice(None), *crop)], widths).astype(object)
    w = w.astype(object)
    rank = w.ndim - 2
    extents = [
        (x.shape[2 + i] - dilations[i] * (w.shape[2 + i] - 1) - 1) // strides[i] + 1
        for i in range(rank)
    ]
    out = np.zeros((x.shape[0], w.shape[0], *extents), object)
    block, depth = w.shape[0] // groups, w.shape[1]
    for n, m, *place in np.ndindex(*out.shape):
        first = m // block * depth
        reach = [
            slice(p * s, p * s + d * (k - 1) + 1, d)
            for p, s, d, k in zip(place, strides, dilations, w.shape[2:], strict=True)
        ]
        part = x[(n, slice(first, first + depth), *reach)]
        out[(n, m, *place)] = (part * w[m]).sum()
    return out


@st.composite
def geometries(draw: Any, least_pad: int = -2, *, inside: bool = False) -> Any:
    rank = draw(st.integers(1, 3))
    many = st.integers(1, 3)

    def per_axis(strategy: Any) -> Any:
        return tuple(draw(st.tuples(*[strategy] * rank)))

    kernel, strides, dilations = per_axis(many), per_axis(many), per_axis(many)
    ends = [st.integers(least_pad, k - 1 if inside else 3) for k in kernel]
    pads = tuple(draw(st.tuples(end, end)) for end in ends)
    spatial = per_axis(st.integers(1, 7))
    for extent, k, d, pad in zip(spatial, kernel, dilations, pads, strict=True):
        assume(extent + min(pad[0], 0) + min(pad[1], 0) >= 1)
        assume(extent + sum(pad) >= d * (k - 1) + 1)
    return spatial, kernel, strides, pads, dilations


@given(
    geometries(),
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 2),
    st.sampled_from([np.int32, np.int8, np.float64]),
)
@settings(max_examples=60, deadline=None)
def test_convolve_is_its_definition(
    shape: Any, batch: int, groups: int, depth: int, block: int, dtype: Any
) -> None:
    spatial, kernel, strides, pads, dilations = shape
    x = random(dtype, batch, groups * depth, *spatial)
    w = random(dtype, groups * block, depth, *kernel, seed=1)
    ours = host().convolve(x, w, strides, pads, dilations, groups)
    assert ours.dtype == dtype
    truth = naive(x, w, strides, pads, dilations, groups)
    if np.dtype(dtype).kind == "i":
        np.testing.assert_array_equal(ours, truth.astype(np.int64).astype(dtype))
    else:
        np.testing.assert_allclose(ours, truth.astype(float), rtol=0, atol=1e-11)


@given(geometries(), st.integers(1, 2), st.integers(1, 2), st.integers(1, 2))
@settings(max_examples=60, deadline=None)
def test_convolve_transpose_is_the_transpose(
    shape: Any, groups: int, depth: int, block: int
) -> None:
    """<convolve(x), y> == <x, convolve_transpose(y)>, exactly, in integers."""
    spatial, kernel, strides, pads, dilations = shape
    x = random(np.int64, 2, groups * depth, *spatial)
    w = random(np.int64, groups * block, depth, *kernel, seed=1)
    forward = host().convolve(x, w, strides, pads, dilations, groups)
    y = random(np.int64, *forward.shape, seed=2)
    # Elements behind the last window are reached by nothing: pad them on.
    rest = [
        (n + sum(pad) - d * (k - 1) - 1) % s
        for n, pad, d, k, s in zip(
            spatial, pads, dilations, kernel, strides, strict=True
        )
    ]
    ends = [(b, a - r) for (b, a), r in zip(pads, rest, strict=True)]
    back = host().convolve_transpose(y, w, strides, ends, dilations, groups)
    assert back.shape == x.shape
    assert (forward * y).sum() == (x * back).sum()


def runtime_result(kind: str, outputs: int, *arrays: Any, **attributes: Any) -> Any:
    runtime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    names = "xw"[: len(arrays)]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
        for name, array in zip(names, arrays, strict=True)
    ]
    types = [TensorProto.FLOAT, TensorProto.INT64]
    results = [
        helper.make_tensor_value_info(f"y{i}", types[i], None) for i in range(outputs)
    ]
    made = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(kind, list(names), made, **attributes)
    graph = helper.make_graph([node], "g", inputs, results)
    opset = [helper.make_opsetid("", 22)]
    model = helper.make_model(graph, ir_version=10, opset_imports=opset)
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, dict(zip(names, arrays, strict=True)))


def attributes(strides: Any, pads: Any, dilations: Any, **more: Any) -> dict[str, Any]:
    flat = [p[0] for p in pads] + [p[1] for p in pads]
    return {"strides": strides, "pads": flat, "dilations": dilations, **more}


@given(geometries(least_pad=0), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_convolve_equals_onnx_runtime(
    shape: Any, groups: int, depth: int, block: int
) -> None:
    spatial, kernel, strides, pads, dilations = shape
    x = random(np.float32, 2, groups * depth, *spatial)
    w = random(np.float32, groups * block, depth, *kernel, seed=1)
    options = attributes(strides, pads, dilations, group=groups)
    (theirs,) = runtime_result("Conv", 1, x, w, **options)
    ours = host().convolve(x, w, strides, pads, dilations, groups)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-4)


@given(geometries(least_pad=0), st.integers(1, 2), st.integers(1, 2))
@settings(max_examples=30, deadline=None)
def test_convolve_transpose_equals_onnx_runtime(
    shape: Any, groups: int, block: int
) -> None:
    spatial, kernel, strides, pads, dilations = shape
    spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    for n, s, span, pad in zip(spatial, strides, spans, pads, strict=True):
        assume(s * (n - 1) + span - sum(pad) >= 1)
    x = random(np.float32, 2, groups * 2, *spatial)
    w = random(np.float32, groups * 2, block, *kernel, seed=1)
    more = [min(s, d) - 1 for s, d in zip(strides, dilations, strict=True)]
    options = attributes(strides, pads, dilations, group=groups, output_padding=more)
    (theirs,) = runtime_result("ConvTranspose", 1, x, w, **options)
    ends = [(b, a - m) for (b, a), m in zip(pads, more, strict=True)]
    ours = host().convolve_transpose(x, w, strides, ends, dilations, groups)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-4)


@given(geometries(least_pad=0, inside=True))
@settings(max_examples=40, deadline=None)
def test_pools_equal_onnx_runtime(shape: Any) -> None:
    spatial, kernel, strides, pads, dilations = shape
    ones = np.ones((1, 1, *spatial), np.float32)
    seen = host().pool(ones, kernel, strides, pads, dilations, kind="sum")
    assume(np.all(seen > 0))  # a window of nothing but padding has no maximum
    x = random(np.float32, 2, 3, *spatial)
    options = attributes(strides, pads, dilations, kernel_shape=kernel)
    largest, places = runtime_result("MaxPool", 2, x, **options)
    ours = host().pool(x, kernel, strides, pads, dilations)
    np.testing.assert_array_equal(ours, largest)
    values, indices = host().pool_indices(x, kernel, strides, pads, dilations)
    np.testing.assert_array_equal(values, largest)
    image = np.arange(6).reshape(2, 3, *[1] * len(spatial)) * int(np.prod(spatial))
    np.testing.assert_array_equal(indices + image, places)
    options["count_include_pad"] = 1
    (mean,) = runtime_result("AveragePool", 1, x, **options)
    total = host().pool(x, kernel, strides, pads, dilations, "sum")
    np.testing.assert_allclose(total / np.prod(kernel), mean, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.int32, ml_dtypes.bfloat16]
)
def test_sides_agree(dtype: Any) -> None:
    x = np.abs(random(dtype, 2, 4, 7, 6)) + dtype(1)
    w = np.abs(random(dtype, 4, 2, 3, 2, seed=1)) + dtype(1)
    pads = ((1, -1), (-2, 2))
    cases = {
        "convolve": lambda xp, x, w: xp.convolve(x, w, (2, 1), pads, (1, 2), 2),
        "transpose": lambda xp, x, w: xp.convolve_transpose(
            x, w, (2, 1), pads, (1, 2), 2
        ),
        "depthwise": lambda xp, x, w: xp.convolve(x, w[:, :1], groups=4),
        "pointwise": lambda xp, x, w: xp.convolve(x[:, :2], w[..., :1, :1], (2, 3)),
        "patches": lambda xp, x, w: xp.convolve(x[:, :2], w, (3, 2)),
        "max": lambda xp, x, w: xp.pool(x, (3, 2), (2, 1), pads, (1, 2)),
        "sum": lambda xp, x, w: xp.pool(x, (3, 2), (2, 1), pads, (1, 2), "sum"),
        "indices": lambda xp, x, w: xp.pool_indices(x, (3, 2), (2, 1), pads, (1, 2)),
        "windows": lambda xp, x, w: xp.windows(x, (3, 2), (2, 1), (1, 2)),
    }
    compare(cases, x, w, units=8)
    wide = {"wide": lambda xp, x, w: xp.convolve(x, w, accumulate=np.float64)}
    compare(wide, x[:, :2], w, units=8)


def test_windows_are_a_view_of_what_slices_would_give() -> None:
    x = random(np.float32, 3, 8, 9)
    made = host().windows(x, (2, 3), (3, 2), (2, 1))
    assert made.base is not None
    for i, j in np.ndindex(*made.shape[1:3]):
        part = x[:, 3 * i : 3 * i + 3 : 2, 2 * j : 2 * j + 3]
        np.testing.assert_array_equal(made[:, i, j], part)
    transposed = host().windows(x.transpose(0, 2, 1), (1, 2))
    np.testing.assert_array_equal(transposed[:, 4, 5, 0], x[:, 5:7, 4])


@given(geometries())
@settings(max_examples=40, deadline=None)
def test_windows_without_outer_padding(shape: Any) -> None:
    spatial, kernel, strides, pads, dilations = shape
    wide = tuple((before + 4, after + 3) for before, after in pads)
    geometry = Geometry.of(kernel, strides, wide, dilations)
    x, less = random(np.float32, 2, 3, *spatial), geometry.within(spatial)
    assert less.extents(spatial) == geometry.extents(spatial)
    for kind in ("max", "sum"):
        np.testing.assert_array_equal(
            host().pool_windows(x, less, kind), host().pool_windows(x, geometry, kind)
        )


def test_a_window_over_all_of_a_small_image() -> None:
    geometry = Geometry.of((640, 640), (640, 640), ((0, 638), (1, 637)), None)
    assert geometry.within((2, 2)).kernel == (2, 2)


def test_pools_of_special_values() -> None:
    x = np.array([[[np.nan, 1, 2, -np.inf, -np.inf, -np.inf]]], np.float32)
    cases = {
        "max": lambda xp, x: xp.pool(x, 2, None, ((1, 1),)),
        "indices": lambda xp, x: xp.pool_indices(x, 2, None, ((1, 1),)),
    }
    compare(cases, x)
    values, places = on_host(cases["indices"], x)
    assert places.tolist() == [[[0, 0, 2, 2, 3, 4, 5]]]
    np.testing.assert_array_equal(values, on_host(cases["max"], x)[0])


def test_blocks_cover_every_position_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = random(np.float64, 2, 3, 6, 7, 5), random(np.float64, 4, 3, 2, 2, 2, seed=1)
    whole = host().convolve(x, w)
    depthwise = host().convolve(x, w[:3, :1], groups=3)
    for limit in (1, 1000, 5000, 20_000):
        monkeypatch.setattr(convolution, "SCRATCH", limit)
        monkeypatch.setattr(convolution, "CHUNK", limit)
        np.testing.assert_allclose(host().convolve(x, w), whole, rtol=0, atol=1e-11)
        again = host().convolve(x, w[:3, :1], groups=3)
        np.testing.assert_array_equal(again, depthwise)
    count = np.zeros((6, 7, 5), int)
    for block in convolution.blocks(count.shape, 1 << 10):
        count[block] += 1
    assert (count == 1).all()


def test_empty_operands() -> None:
    x, w = np.ones((0, 2, 5), np.float32), np.ones((3, 2, 2), np.float32)
    assert host().convolve(x, w).shape == (0, 3, 4)
    assert host().convolve(np.ones((1, 0, 5)), np.ones((3, 0, 2))).tolist() == [
        [[0.0] * 4] * 3
    ]
    assert host().convolve_transpose(x, w.transpose(1, 0, 2)).shape == (0, 3, 6)
    assert host().pool(x, 2).shape == (0, 2, 4)


def test_what_does_not_fit_is_told() -> None:
    x, w = np.ones((1, 4, 5)), np.ones((2, 4, 3))
    with pytest.raises(TypeMismatch, match="2 groups"):
        host().convolve(x, w, groups=2)
    with pytest.raises(TypeMismatch, match="reach"):
        host().convolve(x, np.ones((2, 4, 7)))
    with pytest.raises(TypeMismatch, match="ranks"):
        host().convolve(x, w, strides=(1, 1))
    with pytest.raises(TypeMismatch, match="mean"):
        host().pool(x, 2, kind="mean")
