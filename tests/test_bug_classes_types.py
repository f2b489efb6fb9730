"""Bug classes that other optimizers had: element types, sequences, strings.

Names and marks are those of `test_bug_classes`.
"""

from __future__ import annotations

import struct

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto
from test_bug_classes import X2, everywhere, f32, improve, kinds, model, numbers, run

from graphopt import optimize_model, run_model

# --- element types -------------------------------------------------------------------


@everywhere
@pytest.mark.parametrize(
    ("source", "middle", "gone"),
    [
        ("float", "float16", False),
        ("float", "double", True),
        ("float", "int32", False),
        ("float16", "float", True),
        ("int32", "float", False),
        ("int32", "double", True),
        ("uint8", "int8", False),
    ],
)
def test_casts_that_lose_stay(
    target: str, source: str, middle: str, gone: bool
) -> None:
    """There and back is nothing only if the middle holds all (seen: all are right)."""
    to = {"float": 1, "uint8": 2, "int8": 3, "int32": 6, "float16": 10, "double": 11}
    text = f"""({source}[4] x) => ({source}[4] y) {{
        a = Cast <to = {to[middle]}> (x)  b = Cast <to = {to[source]}> (a)
        y = Add (b, x) }}"""
    if source == "uint8":
        text = text.replace("Add", "Max")
    names = {"float": "float32", "double": "float64"}
    x = np.array([1.5, 16777217, 3, 70], np.float64)
    if source in ("uint8", "float16"):
        x = np.minimum(x, 200)
    made = improve(target, model(text), {"x": x.astype(names.get(source, source))})
    assert kinds(made).count("Cast") == (0 if gone else 2)


@everywhere
def test_float16_is_not_widened_by_norms(target: str) -> None:
    """fp16 sums overflow as written (ORT #20321, #18959, #17689, #14827, #20189)."""
    text = """(float16[N, 8] x) => (float16[N, 8] y) <int64[1] last = {-1}> {
        m = ReduceMean (x, last)  d = Sub (x, m)  q = Mul (d, d)
        v = ReduceMean (q, last)  e = Add (v, eps)  r = Sqrt (e)  n = Div (d, r)
        g = Mul (n, gain)  y = Add (g, bias) }"""
    weights = {
        "eps": np.array(1e-3, np.float16),
        "gain": np.ones(8, np.float16) * np.float16(1.5),
        "bias": np.zeros(8, np.float16),
    }
    proto = model(text, weights)
    before = {"x": numbers(3, 8).astype(np.float16)}
    made = optimize_model(proto)
    after, source = (run(target, p, before)[0] for p in (made, proto))
    np.testing.assert_allclose(after.astype(float), source.astype(float), atol=8e-3)
    assert "ReduceMean" not in kinds(made)


@everywhere
def test_scales_of_resize_stay_float32(target: str) -> None:
    """Resize scales keep type and value in fp16 (onnxconverter-common #207, #208)."""
    text = """(float16[1, 1, 2, 2] x) => (float16[1, 1, A, B] y)
        <float[4] scales = {1, 1, 2, 2}>
        { i = Identity (scales)  y = Resize <mode = "nearest"> (x, , i) }"""
    x = numbers(1, 1, 2, 2).astype(np.float16)
    made = improve(target, model(text), {"x": x})
    assert kinds(made) == ["Resize"]
    (scales,) = made.graph.initializer
    assert scales.data_type == TensorProto.FLOAT


@everywhere
def test_folding_resizes_ends(target: str) -> None:
    """A Resize of constants is folded once (SCR #2859: folded without end)."""
    text = """(float[1, 1, 4, 4] x) => (float[1, 1, 4, 4] y)
    <float[1, 1, 2, 2] c = {1, 2, 3, 4}, float[4] scales = {1, 1, 2, 2}> {
        a = Resize <mode = "nearest"> (c, , scales)
        b = Resize <mode = "nearest"> (x, , ones)
        y = Add (a, b) }"""
    made = improve(
        target, model(text, {"ones": f32(1, 1, 1, 1)}), {"x": numbers(1, 1, 4, 4)}
    )
    assert len(kinds(made)) <= 2
    assert kinds(made).count("Resize") <= 1


@pytest.mark.parametrize("saturate", [0, 1])
def test_cast_like_saturates_as_told(saturate: int) -> None:
    """CastLike keeps saturate=0 (SCR: 448 for NaN in 8 cases of the backend suite)."""
    text = f"""(float[4] x, float8e4m3fn[1] like) => (float[4] y) {{
        a = CastLike <saturate = {saturate}> (x, like)  y = Cast <to = 1> (a) }}"""
    proto = model(text, opset=19, ir_version=9)
    x = f32(1e6, -1e6, 2, np.inf)
    feeds = {"x": x, "like": np.zeros(1, ml_dtypes.float8_e4m3fn)}
    made = improve("reference", proto, feeds)
    (y,) = run_model(made, feeds)
    assert np.isnan(y[0]) == (saturate == 0)


@everywhere
def test_group_normalization(target: str) -> None:
    """The body of GroupNormalization stays right (OPT: off by 1.39 in two cases)."""
    text = """(float[2, 4, 3] x) => (float[2, 4, 3] y) {
        r = Relu (x)  y = GroupNormalization <num_groups = 2> (r, s, b) }"""
    weights = {"s": numbers(4, seed=1), "b": numbers(4, seed=2)}
    proto = model(text, weights, opset=21, ir_version=10)
    improve(target, proto, {"x": numbers(2, 4, 3)}, exact=False)
    body = """(float[2, 4, 3] x) => (float[2, 4, 3] y)
    <int64[3] flat = {0, 2, -1}, int64[2] one = {1, -1}, float eps = {1e-5}> {
        shape = Shape (x)  g = Reshape (x, flat)  m = ReduceMean (g, last)
        d = Sub (g, m)  q = Mul (d, d)  v = ReduceMean (q, last)  e = Add (v, eps)
        r = Sqrt (e)  n = Div (d, r)  back = Reshape (n, shape)
        s1 = Reshape (s, one)  sc = Reshape (s, col)  bc = Reshape (b, col)
        k = Mul (back, sc)  y = Add (k, bc) }"""
    parts = {**weights, "last": np.array([-1]), "col": np.array([4, 1])}
    improve(target, model(body, parts), {"x": numbers(2, 4, 3)}, exact=False)


@everywhere
def test_quantized_weights_stay_quantized(target: str) -> None:
    """DequantizeLinear of a weight is not folded to floats (seen: all keep it)."""
    text = """(float[1, 3, 5, 5] x) => (float[1, 4, 3, 3] y) <float s = {0.05}> {
        w = DequantizeLinear (q, s)  y = Conv (x, w) }"""
    q = np.random.default_rng(0).integers(-100, 100, (4, 3, 3, 3)).astype(np.int8)
    feeds = {"x": numbers(1, 3, 5, 5)}
    made = improve(target, model(text, {"q": q}), feeds, exact=False)
    assert kinds(made) == ["Conv", "DequantizeLinear"]
    assert sum(t.data_type == TensorProto.INT8 for t in made.graph.initializer) == 1


# --- others ---------------------------------------------------------------------------


@everywhere
def test_strings(target: str) -> None:
    """(SCR: an Identity of strings that is an output could not be written.)"""
    text = """(string[N] x) => (string[N] y, string[2] z) {
        y = Identity (x)  z = Identity (w) }"""
    proto = model(text, {"w": np.array(["é", ""], object)})
    improve(target, proto, {"x": np.array(["a", "b c"], object)})


@everywhere
def test_an_identity_of_a_sequence(target: str) -> None:
    """(SLIM: typed as tensor; OPT: types of sequence inputs lost, 18 cases.)"""
    text = """(seq(float[?]) s, float[2] x) => (seq(float[?]) y, float[K] z,
    float[M] q) <int64 i = {0}> {
        a = Identity (s)  y = Identity (a)  z = SequenceAt (a, i)
        b = SequenceConstruct (x, x)  q = ConcatFromSequence <axis = 0> (b) }"""
    feeds = {"s": [f32(1), f32(2, 3)], **X2}
    made = improve(target, model(text), feeds)
    assert "SequenceConstruct" not in kinds(made)


@everywhere
def test_splits_of_sequences_keep_their_axes(target: str) -> None:
    """(SCR: `axes` of Unsqueeze and Split were lost; SplitToSequence raised.)"""
    text = """(float[2, 4] x) => (float[2, 4] y, float[2, 1, 2] z)
    <int64 i = {1}, int64 two = {2}> {
        s = SplitToSequence <axis = 1> (x, two)
        y = ConcatFromSequence <axis = 1> (s)
        a = SequenceAt (s, i)  b = SequenceConstruct (a)
        z = ConcatFromSequence <axis = 1, new_axis = 1> (b) }"""
    made = improve(target, model(text), {"x": numbers(2, 4)})
    assert not [k for k in kinds(made) if "Sequence" in k]


def test_optional_types() -> None:
    """(OPT: types of optional inputs lost.)"""
    text = """(optional(float[2]) o, float[2] x) => (bool h,
    float[2] y, optional(float[2]) p) {
        i = Identity (o)  h = OptionalHasElement (i)  q = Optional (x)
        y = OptionalGetElement (q)  p = Identity (i) }"""
    for value in (None, f32(1, 2)):
        improve("reference", model(text), {"o": value, **X2})


NARROW = {
    "bfloat16": ml_dtypes.bfloat16,
    "float8e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8e5m2": ml_dtypes.float8_e5m2,
    "int4": ml_dtypes.int4,
    "uint4": ml_dtypes.uint4,
}


@pytest.mark.parametrize("name", NARROW)
def test_narrow_types(name: str) -> None:
    """Every element type is read, moved, folded, written (OPT: int4 is unknown)."""
    shape = "3, 2"
    text = f"""(float[3, 2] x) => (float[3, 2] y, {name}[{shape}] z)
    <int64[2] s = {{3, 2}}> {{
        t = Reshape (w, s)  u = Transpose (t)  z = Transpose (u)
        f = Cast <to = 1> (w)  g = Reshape (f, s)  y = Add (x, g) }}"""
    weight = np.array([[1, 2, 3], [0, 5, 7]]).astype(NARROW[name])
    proto = model(text, {"w": weight}, opset=21, ir_version=10)
    made = improve("reference", proto, {"x": numbers(3, 2)})
    assert set(kinds(made)) <= {"Add", "Identity"}


def test_bytes_are_little_endian() -> None:
    """(OPT #6: raw data was read in the machine's order.)"""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2])
    weight.raw_data = struct.pack("<2f", 1.5, -2)
    proto = model("(float[2] x) => (float[2] y) { n = Neg (w)  y = Add (x, n) }")
    proto.graph.initializer.append(weight)
    made = improve("reference", proto, X2)
    assert made.graph.initializer[0].raw_data == struct.pack("<2f", -1.5, 2)
