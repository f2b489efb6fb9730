"""Bug classes that graphopt itself had, each found by fuzzing it against its runtime.

Names and marks are those of `test_bug_classes`.
"""

from __future__ import annotations

import numpy as np
import pytest
from test_bug_classes import (
    assert_same,
    everywhere,
    f32,
    improve,
    kinds,
    model,
    numbers,
    run,
)

from graphopt import optimize_model

I64 = np.int64
LEAST, MOST = np.iinfo(I64).min, np.iinfo(I64).max


@everywhere
def test_known_integers_are_scattered_where_their_indices_say(target: str) -> None:
    """Indices that are narrower than the data do not broadcast."""
    text = """() => (int64[2, 3] y) { y = ScatterElements <axis = 0> (d, i, u) }"""
    weights = {
        "d": np.arange(6, dtype=I64).reshape(2, 3),
        "i": np.zeros((1, 1), I64),
        "u": np.full((1, 1), 9, I64),
    }
    made = improve(target, model(text, weights), {})
    assert run(target, made, {})[0].tolist() == [[9, 1, 2], [3, 4, 5]]


@everywhere
@pytest.mark.parametrize("pads", [(-2, 3), (3, -2), (-1, 1), (-4, 5)])
def test_cropping_more_than_there_is(target: str, pads: tuple[int, int]) -> None:
    """What an axis lacks is missing from the pad on its other side."""
    text = """(float[n] x) => (float[k] y, int64[1] s)
        { a = Pad (c, p)  y = Add (x, a)  b = Pad (x, p)  s = Shape (b) }"""
    weights = {"c": f32(5), "p": np.array(pads, I64)}
    improve(target, model(text, weights), {"x": numbers(1)})


@everywhere
@pytest.mark.parametrize(
    ("nodes", "number"),
    [
        ("y = Sub (s, c)", LEAST),
        ("a = Mul (s, c)  y = Mul (a, four)", 2**62),
        ("a = Add (s, c)  g = Greater (a, zero)  y = Cast <to = 7> (g)", MOST),
    ],
)
def test_arithmetic_on_dims_wraps_like_any_other(
    target: str, nodes: str, number: int
) -> None:
    """Expressions are exact, int64 is not."""
    text = f"(float[N, M] x) => (int64[2] y) {{ s = Shape (x) {nodes} }}"
    named = {"c": number, "four": 4, "zero": 0}
    weights = {n: np.array(v, I64) for n, v in named.items() if n in nodes}
    improve(target, model(text, weights), {"x": numbers(4, 5)})


@everywhere
def test_a_scalar_is_quantized(target: str) -> None:
    """Of rank 0 there is no axis that scales could vary along."""
    text = """(float x) => (uint8 y)
        { r = Relu (x)  c = Clip (r, , h)  y = QuantizeLinear (c, s, z) }"""
    weights = {"s": np.float32(0.08), "z": np.uint8(1), "h": np.float32(6)}
    weights = {name: np.array(value) for name, value in weights.items()}
    improve(target, model(text, weights), {"x": np.array(0.3, np.float32)}, exact=False)


@everywhere
@pytest.mark.parametrize("kind", ["ReduceLogSum", "ReduceLogSumExp"])
def test_types_that_only_older_opsets_allow(target: str, kind: str) -> None:
    """Opset 28 reduces no logarithms of integers; before, runtimes do."""
    text = f"""(int64[2, 4] x) => (int64[2] y)
        {{ n = Identity (x)  y = {kind} <axes = [1], keepdims = 0> (n) }}"""
    made = improve(target, model(text, opset=13), {"x": np.ones((2, 4), I64)})
    assert kinds(made) == [kind]


@everywhere
def test_erasing_the_last_of_a_sequence(target: str) -> None:
    """Without a position it is the last one."""
    text = """(float[N, 4] x) => (float[N, 4] y)
        { z = Neg (x)  e = SequenceConstruct (x, z, x)
          f = SequenceErase (e)  y = SequenceAt (f, i) }"""
    improve(target, model(text, {"i": np.array(1, I64)}), {"x": numbers(2, 4)})


PRODUCT = """(float[N, 3, K] x, float[K, L] w) => (float[N, 3, L] y)
    { n = Neg (x)  y = MatMul (n, w) }"""
ROWS = "(float[N, 4] x) => (float[N, 4] y) { n = Neg (x)  y = Softmax <axis = 0> (n) }"
PICTURE = """(float[N, 1, 2, 2] x) => (float[N, 1, 4, 4] y)
    { n = Neg (x)  y = Resize <mode = "nearest"> (n, , , s) }"""


@everywhere
@pytest.mark.parametrize(
    ("opset", "text", "shapes"),
    [
        (17, PRODUCT, [(1, 3, 0), (0, 2)]),
        (11, ROWS, [(0, 4)]),
        (15, PICTURE, [(0, 1, 2, 2)]),
    ],
)
def test_nothing_in_gives_nothing(
    target: str, opset: int, text: str, shapes: list[tuple[int, ...]]
) -> None:
    """Dims of zero."""
    feeds = {n: numbers(*shape) for n, shape in zip("xw", shapes, strict=False)}
    weights = {"s": np.array([0, 1, 4, 4], I64)} if text is PICTURE else {}
    improve(target, model(text, weights, opset=opset), feeds)


@everywhere
def test_a_body_keeps_the_rank_that_only_it_states(target: str) -> None:
    """Around a Scan whose operand has no shape, runtimes need the one in the body."""
    text = """(float z, float[*] x) => (float y, float[N] w) {
        y, w = Scan <num_scan_inputs = 1, body = b (float s, float[K] e)
            => (float t, float v) { m = ReduceMax <keepdims = 0> (e)  t = Add (s, m)
               v = Identity (m) }> (z, x) }"""
    proto = model(text.replace("float[*]", "float[N, K]"))
    proto.graph.input[1].type.tensor_type.ClearField("shape")
    feeds = {"z": np.array(1, np.float32), "x": numbers(3, 4)}
    made = optimize_model(proto)
    for after, before in zip(
        run(target, made, feeds), run(target, proto, feeds), strict=True
    ):
        assert_same(after, before, exact=True)
    (scan,) = [n for n in made.graph.node if n.op_type == "Scan"]
    (body,) = [a.g for a in scan.attribute if a.HasField("g")]
    assert len(body.input[1].type.tensor_type.shape.dim) == 1


def test_constants_are_folded_only_while_that_is_cheap() -> None:
    """A convolution of two large constants takes minutes."""
    text = "() => (float[A, B, C, D] y) { y = Conv (a, w) }"
    weights = {"a": np.ones((1, 16, 200, 200)), "w": np.ones((1, 16, 100, 100))}
    proto = model(text, {n: a.astype(np.float32) for n, a in weights.items()})
    assert kinds(optimize_model(proto, check="off")) == ["Conv"]
