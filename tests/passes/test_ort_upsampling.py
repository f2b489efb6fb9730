"""Convolutions of repeated pixels: on the small image, and the same to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equations import N, assert_sound, const, graph_of, kinds, misses, param, random

from graphopt.dims import symbol
from graphopt.exporter import to_proto
from graphopt.ir import Graph, Value
from graphopt.lowering.ort.upsampling import (
    FEWEST,
    GrowByConvolving,
    grown_convolution,
)
from graphopt.ops import Conv, ConvTranspose, If, Relu, Resize
from graphopt.rewrite import Log, rewrite
from graphopt.types import DType
from graphopt.verify import verify

REPEATING: dict[str, Any] = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}
SIZES = ({"n": 2, "h": 2, "w": 3}, {"n": 1, "h": 3, "w": 2})


def grown(x: Value, *scales: float, **ways: Any) -> Resize:
    return Resize(x, None, const(scales), **(ways or REPEATING))


def image(channels: int = FEWEST, *dims: Any, dtype: DType = DType.F64) -> Value:
    return param("x", N, channels, *(dims or (symbol("h"), symbol("w"))), dtype=dtype)


def kernels(*shape: int, seed: int = 0, dtype: DType = DType.F64) -> Value:
    return random(*shape, dtype=dtype, seed=seed)


@pytest.mark.parametrize(
    ("times", "window", "pads", "group"),
    [
        ((2, 2), (3, 3), (1, 1, 1, 1), 1),
        ((2, 2), (3, 3), (), 1),
        ((2, 3), (3, 2), (2, 0, 1, 1), 1),
        ((3, 1), (5, 2), (0, 1, 4, 0), 2),
        ((1, 2), (1, 4), (0, 3, 0, 2), 2),
    ],
)
def test_a_window_on_repeated_pixels(
    times: Any, window: Any, pads: Any, group: int
) -> None:
    x = image(FEWEST * group, 5, 4)
    weight, bias = kernels(2 * group, FEWEST, *window), kernels(2 * group, seed=1)
    ways = {"pads": pads} if pads else {}
    before = Conv(grown(x, 1, 1, *times), weight, bias, group=group, **ways)
    graph = graph_of(before)
    done = rewrite(graph, [grown_convolution])
    assert kinds(done) == ["ConvTranspose"]
    assert_sound(graph, done, exact=False, sizes=SIZES)
    made = done.outputs[0].op
    assert isinstance(made, ConvTranspose)
    assert made.strides == times
    assert made.kernel_shape == tuple(
        n + k - 1 for n, k in zip(window, times, strict=True)
    )


def test_dims_may_be_symbols() -> None:
    weight = kernels(3, FEWEST, 3, 3)
    graph = graph_of(Conv(grown(image(), 1, 1, 2, 2), weight, pads=(1, 1, 1, 1)))
    done = rewrite(graph, [grown_convolution])
    assert kinds(done) == ["ConvTranspose"]
    assert_sound(graph, done, exact=False, sizes=SIZES)


def test_what_stays() -> None:
    x, weight = image(), kernels(2, FEWEST, 3, 3)
    twice = grown(x, 1, 1, 2, 2)

    def stays(
        reason: str, resize: Value = twice, w: Value = weight, **ways: Any
    ) -> None:
        misses(grown_convolution, Conv(resize, w, **ways), reason)

    stays("", x)
    stays("more is done", grown(x, 1, 1, 2, 2, mode="linear"))
    stays("more is done", grown(image(FEWEST // 2), 1, 2, 2, 2))
    stays("more is done", grown(x, 2, 1, 2, 2))
    stays("is no constant", w=param("w", 2, FEWEST, 3, 3, dtype=DType.F64))
    misses(grown_convolution, (Conv(twice, weight), Relu(twice)), "read elsewhere")
    stays("too little", grown(image(8), 1, 1, 2, 2), kernels(2, 8, 3, 3))
    few = grown(image(FEWEST - 1), 1, 1, 2, 2)
    stays("too little", few, kernels(2, FEWEST - 1, 3, 3))
    stays("too little", w=kernels(2, FEWEST, 1, 1))
    stays("too little", grown(x, 1, 1, 1, 1))
    stays("jumps", strides=(2, 1))
    stays("jumps", dilations=(1, 2))
    stays("its own rule", auto_pad="SAME_UPPER")
    stays("more than the window", pads=(3, 1, 1, 1))
    huge = const(np.full((2, FEWEST, 3, 3), 1e308), DType.F64)
    stays("overflow", w=huge)


def test_without_padding_by_its_own_rule() -> None:
    weight = kernels(2, FEWEST, 3, 3)
    graph = graph_of(Conv(grown(image(), 1, 1, 2, 2), weight, auto_pad="VALID"))
    done = rewrite(graph, [grown_convolution])
    assert kinds(done) == ["ConvTranspose"]
    assert_sound(graph, done, exact=False, sizes=SIZES)


def decoder() -> Graph:
    """Two sites, the first with more weights than the other."""
    x: Value = image(dtype=DType.F32)
    x = Conv(
        grown(x, 1, 1, 2, 2),
        kernels(64, FEWEST, 3, 3, dtype=DType.F32),
        pads=(1, 1, 1, 1),
    )
    x = Conv(
        grown(Relu(x), 1, 1, 2, 2),
        kernels(8, 64, 3, 3, dtype=DType.F32),
        pads=(1, 1, 1, 1),
    )
    return graph_of(Relu(x))


@pytest.mark.parametrize(("share", "sites"), [(0.0, 0), (0.15, 1), (0.9, 2)])
def test_weights_grow_within_limits(share: float, sites: int) -> None:
    """The smaller ones first."""
    graph, log = decoder(), Log()
    done = GrowByConvolving(share=share).run(graph, log)
    assert kinds(done).count("ConvTranspose") == sites == log.fired.total()
    if sites == 1:
        (made,) = [op for op in done.ops if isinstance(op, ConvTranspose)]
        assert made.operands[1].shape[1] == 8
    assert (done is graph) == (not sites)


def test_the_pass_is_driven_as_all_passes_of_rules() -> None:
    graph, fired = decoder(), list[tuple[str, str]]()
    grow = GrowByConvolving(share=0.9)
    log = Log(limit=1, on_fire=lambda rule, op, _: fired.append((rule.name, op.kind)))
    done = grow.run(graph, log)
    assert kinds(done).count("ConvTranspose") == log.fired.total() == 1
    assert fired == [("grown_convolution", "Conv")]
    said: list[str] = []
    log = Log(on_miss=lambda rule, op, miss: said.append(miss.reason))
    assert kinds(GrowByConvolving(share=0.15).run(graph, log)).count("Conv") == 1
    assert "the weights would grow too much" in said
    assert GrowByConvolving(exact=True, share=0.9).run(graph, Log()) is graph
    assert grow.limited_to_exact() is None


def test_bodies_share_what_weights_may_grow_by() -> None:
    condition, x = param("c", dtype=DType.BOOL), image(dtype=DType.F32)
    weights = [kernels(8, FEWEST, 3, 3, seed=i, dtype=DType.F32) for i in range(2)]
    bodies = []
    for i, weight in enumerate(weights):
        inner = param(f"x{i}", *x.shape)
        bodies.append(Graph([inner], [Conv(grown(inner, 1, 1, 2, 2), weight)]))
    graph = graph_of(If(condition, x, bodies=bodies, captures=1))
    for share, sites in ((0.3, 0), (0.4, 1), (0.8, 2)):
        log = Log()
        done = GrowByConvolving(share=share).run(graph, log)
        found = [op.kind for _, op in done.walk()].count("ConvTranspose")
        assert found == sites == log.fired.total()
        verify(done)


def test_the_runtime_computes_the_same() -> None:
    runtime = pytest.importorskip("onnxruntime")
    graph = decoder()
    done = GrowByConvolving(share=1.0)(graph)
    x = np.random.default_rng(0).normal(size=(2, FEWEST, 3, 2)).astype(np.float32)
    found = [
        runtime.InferenceSession(
            to_proto(each).SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(None, {"x": x})[0]
        for each in (graph, done)
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-3)
    assert np.abs(found[0]).max() > 10
