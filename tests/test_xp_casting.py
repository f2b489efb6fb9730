"""Casts of the array namespace against ONNX's tables, its reference and its runtime."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from xp_sides import compare, on_host

from graphopt.errors import TypeMismatch
from graphopt.types import DType
from graphopt.xp import half, host

FLOAT8 = (DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ)
ON_XLA = [
    t
    for t in DType
    if t not in (DType.STRING, DType.F6E2M3, DType.F6E3M2, DType.C64, DType.C128)
]
SMALL = [0, -0.0, 1, -1.5, 2.5, 3.5, -7, 100, 127.6, 200, -300, 2**-7, 2**-10, 1e-5]
LARGE = [448, 464, 465, 480, 57344, 61440, 65504, 65520, 1e6, -1e6, 1e30, -1e30]
HUGE = [2.0**31, -(2.0**31), 3e9, -3e9, 2.0**32, 2.0**63, 1e19, 2e19, -1e19]
SPECIAL = np.array([*SMALL, *LARGE, *HUGE, np.nan, np.inf, -np.inf], np.float32)


def cast(x: Any, dtype: DType, **options: Any) -> np.ndarray[Any, Any]:
    return on_host(lambda xp, x: xp.cast(x, dtype, **options), x)[0]


def bits(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The bits, with one NaN for all, since their signs say nothing."""
    plain = x.view(f"u{x.itemsize}").copy()
    with np.errstate(invalid="ignore"):
        nan = np.isnan(x.astype(np.float64))
    plain[nan] = np.iinfo(plain.dtype).max
    return plain


@pytest.mark.parametrize("source", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_sides_agree_on_casts_of_floats(source: Any) -> None:
    x = SPECIAL.astype(source)
    cases = {
        f"{target} {saturate}": lambda xp, x, t=target, s=saturate: xp.cast(
            x, t, saturate=s
        )
        for target in ON_XLA
        for saturate in (True, False)
        if saturate or target in (*FLOAT8, DType.F8E8M0)
    }
    compare(cases, x, units=0)


def test_sides_agree_on_casts_of_integers() -> None:
    cases = {str(t): lambda xp, x, t=t: xp.cast(x, t) for t in ON_XLA}
    values = [0, 1, -1, 7, 8, -9, 100, 127, 128, 255, 300, 2**24 + 1, -(2**31)]
    compare(cases, np.array(values, np.int64), units=0)
    compare(cases, np.array([True, False]), units=0)
    compare(cases, np.array([-8, -1, 0, 7]).astype(ml_dtypes.int4), units=0)


def test_floats_out_of_range_become_what_x86_makes_of_them() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3e9, -3e9, 1e19, 300, -300.7], np.float32)
    low32, low64 = -(2**31), -(2**63)
    expected = {
        DType.I8: [0, 0, 0, 0, 0, 0, 44, -44],
        DType.U8: [0, 0, 0, 0, 0, 0, 44, 212],
        DType.I32: [low32] * 6 + [300, -300],
        DType.I64: [low64] * 3 + [3 * 10**9, -3 * 10**9, low64, 300, -300],
    }
    for target, values in expected.items():
        assert cast(x, target).tolist() == values, target
    big = np.array([2.0**63, 1e19, 2e19, -1.0, np.nan], np.float64)
    top = [2**63, 10**19, 0, 2**64 - 1, 2**63]
    assert cast(big, DType.U64).tolist() == top


def test_integers_wrap() -> None:
    assert cast(np.array([200], np.int16), DType.I8) == -56
    x = np.array([17, -9, 8, 3], np.int32)
    assert cast(x, DType.I4).tolist() == [1, 7, -8, 3]
    assert cast(x, DType.U2).tolist() == [1, 3, 0, 3]


@pytest.mark.parametrize("target", FLOAT8, ids=str)
@pytest.mark.parametrize("source", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_float8_follows_the_table_of_onnx(target: DType, source: Any) -> None:
    x = SPECIAL.astype(source)
    finite = target.numpy.type(ml_dtypes.finfo(target.numpy).max).astype(source)
    nan, infinite = np.isnan(x), np.isinf(x)
    for saturate in (True, False):
        result = cast(x, target, saturate=saturate).astype(source)
        assert np.isnan(result[nan]).all()
        if saturate:
            assert (result[infinite] == np.sign(x[infinite]) * finite).all()
            assert not np.isnan(result[~nan]).any()
        elif target is DType.F8E5M2:
            assert (result[infinite] == x[infinite]).all()
        else:
            assert np.isnan(result[infinite]).all()
        inside = ~nan
        inside[inside] = np.abs(x[inside]) <= finite
        plain = x[inside].astype(target.numpy).astype(source)
        np.testing.assert_array_equal(result[inside], plain)
    assert np.signbit(cast(x, target)[1]) == ("fnuz" not in str(target))


@pytest.mark.parametrize(
    "target", [t for t in DType if t.is_float and t.bits <= 16], ids=str
)
def test_casts_equal_onnx_reference(target: DType) -> None:
    reference = pytest.importorskip("onnx.reference.ops.op_cast")
    random = np.random.default_rng(0).normal(size=4000) * np.logspace(-6, 6, 4000)
    x = np.concatenate([random.astype(np.float32), SPECIAL])
    rows = [(True, "up"), (False, "up")]
    if target is DType.F8E8M0:
        # Its reference takes infinity for NaN, and has no subnormals; the table rules.
        x = np.abs(x[np.isfinite(x) & (x != 0)])
        rows = [(True, "up"), (True, "down"), (True, "nearest"), (False, "nearest")]
    for saturate, mode in rows:
        if not saturate and target not in (*FLOAT8, DType.F8E8M0):
            continue
        with np.errstate(over="ignore"):
            theirs = reference.cast_to(x, target.value, saturate, mode)
        ours = cast(x, target, saturate=saturate, round_mode=mode)
        np.testing.assert_array_equal(bits(ours), bits(theirs), f"{saturate} {mode}")


def test_float8e8m0_follows_its_table() -> None:
    tiny = np.float32(2**-126)
    x = np.array([0, tiny / 2, tiny / 4, np.nan, np.inf, 3e38, 3, 1.5], np.float32)
    up = cast(x, DType.F8E8M0).view(np.uint8)
    assert up.tolist() == [0, 0, 0, 255, 254, 254, 129, 128]
    down = cast(x, DType.F8E8M0, round_mode="down").view(np.uint8)
    assert down.tolist() == [0, 0, 0, 255, 254, 254, 128, 127]
    nearest = cast(x, DType.F8E8M0, saturate=False, round_mode="nearest")
    assert nearest.view(np.uint8).tolist() == [255, 0, 255, 255, 255, 255, 129, 128]
    with pytest.raises(TypeMismatch, match="round_mode"):
        cast(x, DType.F8E8M0, round_mode="sideways")


@pytest.mark.parametrize("saturate", [True, False])
@pytest.mark.parametrize("target", [DType.F16, DType.BF16, *FLOAT8], ids=str)
def test_casts_equal_onnx_runtime(target: DType, saturate: bool) -> None:
    runtime = pytest.importorskip("onnxruntime")
    from onnx import helper

    # Just above the largest value ONNX Runtime leaves the table: 448 for 480, and NaN
    # for what rounds to 65536.
    x = SPECIAL[(SPECIAL != 480) & ((SPECIAL < 57345) | (SPECIAL > 65535))]
    options = {"saturate": int(saturate)} if target in FLOAT8 else {}
    nodes = [
        helper.make_node("Cast", ["x"], ["n"], to=target.value, **options),
        helper.make_node("Cast", ["n"], ["y"], to=DType.F32.value),
    ]
    ends = [helper.make_tensor_value_info(name, 1, x.shape) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    opset = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, ir_version=10, opset_imports=opset)
    settings = runtime.SessionOptions()
    # Its optimizer would drop the pair of casts.
    settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    (theirs,) = session.run(None, {"x": x})
    ours = cast(cast(x, target, saturate=saturate), DType.F32)
    np.testing.assert_array_equal(ours, theirs)


def test_float64_rounds_to_narrow_types_on_both_sides_alike() -> None:
    near = [1 + 2**-11 + 2**-40, 1 + 2**-8 + 2**-40, 1 + 2**-4 + 2**-40, 1 + 3 * 2**-9]
    targets = (DType.F16, DType.BF16, DType.F8E4M3FN, DType.F4E2M1)
    cases = {str(t): lambda xp, x, t=t: xp.cast(x, t) for t in targets}
    compare(cases, np.array(near), units=0)


def test_strings_and_numbers() -> None:
    texts = np.array([["3.14", "1e-5"], ["INF", "-inf"]], object)
    assert cast(texts, DType.F32)[0, 0] == np.float32(3.14)
    assert np.isinf(cast(texts, DType.F64)[1]).all()
    assert np.isnan(cast(np.array(["NaN"], object), DType.F16))[0]
    assert cast(np.array(["12", "-7", "100.5"], object), DType.I64).tolist() == [
        12,
        -7,
        100,
    ]
    assert cast(np.array(["0", "1"], object), DType.BOOL).tolist() == [False, True]
    x = np.array([0.1, 1e20, -0.0, np.inf, -np.inf, np.nan], np.float32)
    written = cast(x, DType.STRING)
    assert written.tolist() == ["0.1", "1e+20", "-0.0", "INF", "-INF", "NaN"]
    again = cast(written, DType.F32)
    np.testing.assert_array_equal(again, x)
    assert cast(np.array(5, np.uint8), DType.STRING).shape == ()
    with pytest.raises(ValueError, match="Hello"):
        cast(np.array(["Hello"], object), DType.F32)


def test_bitcast() -> None:
    cases = {
        "float": lambda xp, x: xp.bitcast(x, np.float32),
        "signed": lambda xp, x: xp.bitcast(x, DType.I32),
    }
    compare(cases, np.array([0, 1, 0x7F800000, 0xFFFFFFFF], np.uint32))


def test_a_cast_to_the_same_type_copies_nothing() -> None:
    x = np.ones(3, np.float32)
    assert host().cast(x, DType.F32) is x


EVERY_HALF = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def test_every_float16_becomes_its_float32() -> None:
    wide = EVERY_HALF.astype(np.float32)
    assert EVERY_HALF.size > half.FEW
    found = cast(EVERY_HALF, DType.F32)
    np.testing.assert_array_equal(found.view(np.uint32), wide.view(np.uint32))


def test_maxima_of_float16_are_those_of_float32() -> None:
    rng = np.random.default_rng(0)
    for pool in (EVERY_HALF, EVERY_HALF[~np.isnan(EVERY_HALF)]):
        a, b = rng.permutation(pool), rng.permutation(pool)
        wide = np.maximum(a.astype(np.float32), b.astype(np.float32))
        found = on_host(lambda xp, a, b: xp.maximum(a, b), a, b)[0]
        # Zeros of two signs are equal, and either may be taken.
        np.testing.assert_array_equal(found, wide.astype(np.float16))
        ahead = on_host(lambda xp, a: xp.maximum(a, 0), a)[0]
        wide = np.maximum(a.astype(np.float32), np.float32(0))
        np.testing.assert_array_equal(bits(ahead), bits(wide.astype(np.float16)))
