"""The array namespace: both sides agree, and say what ONNX says."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from functools import partial
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from xp_sides import agree, compare, on_host

from graphopt.errors import BackendMissing, NoReference, TypeMismatch, UnsupportedModel
from graphopt.types import DType
from graphopt.xp import Namespace, host, traced

FLOATS = (np.float32, np.float64)
NARROW = (
    np.float16,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2fnuz,
    ml_dtypes.float4_e2m1fn,
)
INTEGERS = (np.int8, np.int32, np.uint64, ml_dtypes.int4)
MORE_INTEGERS = (np.uint8, np.int16, np.uint32, np.int64, ml_dtypes.uint4)
PAIRED = """add subtract multiply divide floor_divide remainder fmod maximum minimum
    power equal not_equal less less_equal greater greater_equal"""
SINGLE = """floor ceil round trunc isnan isinf isfinite negative abs sign square sqrt
    reciprocal exp expm1 log log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh
    atanh erf sigmoid softplus"""
XLA_UNITS = {"sinh": 16, "cosh": 16, "log1p": 128, "atanh": 128}


def function(name: str) -> Any:
    return lambda xp, *arrays: getattr(xp, name)(*arrays)


def functions(names: str) -> dict[str, Any]:
    return {name: function(name) for name in names.split()}


def floats(dtype: Any, count: int = 80) -> np.ndarray[Any, Any]:
    special = [0, -0.0, 1, -1, 0.5, -0.5, 1.5, -2.5, 2.5, np.nan, np.inf, -np.inf]
    ordinary = [1e-3, 100, -100, 60, -60, 3.3, 1e30, -1e30, 20.25, -7.75, 0.3, math.pi]
    random = np.random.default_rng(0).normal(size=count) * 3
    with np.errstate(over="ignore"):
        return np.concatenate([special, ordinary, random]).astype(dtype)


def integers(dtype: Any) -> np.ndarray[Any, Any]:
    info = ml_dtypes.iinfo(dtype)
    values = [v for v in range(-9, 10) if info.min <= v <= info.max]
    wide = np.uint64 if info.min == 0 else np.int64
    return np.array([int(info.min), int(info.max), *values], wide).astype(dtype)


def normal(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Any:
    values = np.random.default_rng(seed).normal(size=shape) * 4
    return values.astype(dtype)


# --- one element at a time -----------------------------------------------------------


def name_of(dtype: Any) -> str:
    return np.dtype(dtype).name


@pytest.mark.parametrize("dtype", FLOATS, ids=name_of)
def test_sides_agree_on_floats(dtype: Any) -> None:
    x = floats(dtype)
    compare(functions(SINGLE), x, units_of=XLA_UNITS)
    compare(functions(PAIRED), x[:40, None], x[None, :40], units_of={"power": 16})


@pytest.mark.parametrize("dtype", NARROW, ids=name_of)
def test_sides_agree_on_narrow_floats(dtype: Any) -> None:
    x = floats(dtype)
    compare(functions("round isnan exp sqrt"), x)
    compare(functions("add divide less"), x[:40, None], x[None, :40])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", NARROW, ids=name_of)
def test_sides_agree_on_all_of_narrow_floats(dtype: Any) -> None:
    x = floats(dtype)
    compare(functions(SINGLE), x)
    compare(functions(PAIRED), x[:40, None], x[None, :40])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", MORE_INTEGERS, ids=name_of)
def test_sides_agree_on_more_integers(dtype: Any) -> None:
    test_sides_agree_on_integers(dtype)


@pytest.mark.parametrize("dtype", INTEGERS, ids=name_of)
def test_sides_agree_on_integers(dtype: Any) -> None:
    x = integers(dtype)
    compare(functions("abs sign square negative bitwise_not"), x)
    bits = " bitwise_and bitwise_or bitwise_xor"
    compare(functions(PAIRED + bits), x[:, None], x[None])
    if np.dtype(dtype).kind == "u":
        count = np.arange(70).astype(dtype)
        compare(functions("shift_left shift_right"), x[:, None], count[None])


def test_integer_division_follows_c_and_python_and_tames_zero() -> None:
    a = np.array([7, -7, 7, -7, 5, -(2**31)], np.int32)
    b = np.array([2, 2, -2, -2, 0, -1], np.int32)
    expected = {
        "divide": [3, -3, -3, 3, 0, -(2**31)],
        "floor_divide": [3, -4, -4, 3, 0, -(2**31)],
        "remainder": [1, 1, -1, -1, 0, 0],
        "fmod": [1, -1, 1, -1, 0, 0],
    }
    for name, values in expected.items():
        (result,) = on_host(function(name), a, b)
        np.testing.assert_array_equal(result, np.array(values, np.int32), name)


def test_integer_power_wraps_and_truncates() -> None:
    a = np.array([3, -1, -1, 1, 2, 0, 2], np.int32)
    b = np.array([4, -3, -2, -5, -1, -1, 33], np.int32)
    (result,) = on_host(function("power"), a, b)
    assert result.tolist() == [81, -1, 1, 1, 0, 0, 0]


def test_narrow_types_round_once() -> None:
    x = normal(1000, dtype=ml_dtypes.bfloat16)
    (result,) = on_host(function("sum"), x)
    exact = np.float32(x.astype(np.float64).sum())
    assert result == exact.astype(ml_dtypes.bfloat16)
    (result,) = on_host(function("add"), *[np.array([7], ml_dtypes.int4)] * 2)
    assert result == -2


def test_numbers_take_the_type_of_the_array_beside_them() -> None:
    for dtype in (np.float16, np.float32, np.int8, ml_dtypes.bfloat16):
        x = np.ones((2, 1), dtype)
        for name in ("add", "multiply", "maximum"):
            (result,) = on_host(lambda xp, x, n=name: getattr(xp, n)(3, x), x)
            assert result.dtype == dtype
        (result,) = on_host(lambda xp, x: xp.where(x > 0, x, 2), x)
        assert result.dtype == dtype


def test_two_types_are_an_error() -> None:
    with pytest.raises(TypeMismatch, match="float32 and float64"):
        host().add(np.ones(2, np.float32), np.ones(2))


def test_clip_lets_the_upper_bound_win() -> None:
    x = np.array([-2, 0.5, np.nan, 9], np.float32)
    cases = {
        "both": lambda xp, x: xp.clip(x, -1, 1),
        "crossed": lambda xp, x: xp.clip(x, 3, 1),
        "low": lambda xp, x: xp.clip(x, low=0),
        "none": lambda xp, x: xp.clip(x),
    }
    compare(cases, x)
    assert on_host(cases["crossed"], x[:1])[0] == 1


def test_logic_and_choice() -> None:
    a = np.array([[True], [False]])
    b = np.array([True, False])
    compare(functions("logical_and logical_or logical_xor equal"), a, b)
    compare({"logical_not": function("logical_not")}, b)
    compare({"where": function("where")}, b, normal(3, 1), normal(3, 2, seed=1))


def test_complex_numbers() -> None:
    real, imaginary = normal(2, 3), np.full((1, 3), np.inf, np.float32)
    cases = {
        "complex": lambda xp, a, b: xp.complex(a, b),
        "real": lambda xp, a, b: xp.real(xp.complex(a, b)),
        "imag": lambda xp, a, b: xp.imag(xp.complex(a, b)),
    }
    compare(cases, real, imaginary)
    assert on_host(cases["complex"], real, imaginary)[0].dtype == np.complex64


@pytest.mark.parametrize(("dtype", "units"), [(np.float32, 0.52), (np.float64, 4)])
def test_erf_is_as_exact_as_its_type(dtype: Any, units: float) -> None:
    x = np.concatenate([np.linspace(-7, 7, 40_001), np.logspace(-30, 0, 4_001)])
    x = x.astype(dtype)
    truth = np.array([math.erf(v) for v in x.tolist()])
    (result,) = on_host(function("erf"), x)
    assert result.dtype == dtype
    unit = np.spacing(np.abs(truth).astype(dtype)).astype(np.float64)
    assert (np.abs(result - truth) / unit).max() <= units
    for value in (0.0, -0.0, np.inf, -np.inf, np.nan):
        (result,) = on_host(function("erf"), np.array(value, dtype))
        np.testing.assert_array_equal(result, math.erf(value))
        assert np.signbit(result) == np.signbit(value)


def test_float_warnings_stay_inside_the_scope() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        on_host(function("log"), np.array([-1, 0], np.float32))
        on_host(function("exp"), np.array([1e4], np.float32))
        on_host(lambda xp, x: xp.cast(x, np.int32), np.array([np.nan, 1e30]))


# --- along axes ----------------------------------------------------------------------

REDUCERS = ["sum", "prod", "max", "min", "mean"]
AXES = [None, 0, -1, (0, 2), ()]


@pytest.mark.parametrize(
    "dtype", [np.float32, ml_dtypes.bfloat16, np.int8], ids=name_of
)
@pytest.mark.parametrize("shape", [(3, 1, 5), (2, 0, 3)], ids=str)
def test_reductions_agree(dtype: Any, shape: tuple[int, ...]) -> None:
    def reduced(xp: Namespace, x: Any, name: str, axis: Any, keep: bool) -> Any:
        return getattr(xp, name)(x, axis, keepdims=keep)

    cases = {
        f"{name}{axis}{keep}": partial(reduced, name=name, axis=axis, keep=keep)
        for name in REDUCERS
        for axis in AXES
        for keep in (False, True)
        # Sums over axes of both kinds, and a plain one: enough to compile.
        if keep == (axis in (-1, (0, 2)))
    }
    magnitude = np.abs(normal(*shape, dtype=np.float32)) + 1
    compare(cases, magnitude.astype(dtype), units=8)


def test_reductions_of_special_values() -> None:
    x = np.array([[np.nan, 1, 2], [np.inf, -np.inf, 0], [-0.0, 5, 5]], np.float32)
    cases = {
        name: partial(lambda xp, x, n: getattr(xp, n)(x, 1), n=name)
        for name in REDUCERS
    }
    compare(cases, x)
    compare(
        {
            n: partial(lambda xp, x, n: getattr(xp, n)(x, 0), n=n)
            for n in ("max", "min", "all", "any")
        },
        np.array([[True, False], [True, True]]),
    )
    assert np.isnan(on_host(cases["max"], x)[0][0])


def test_positions_of_extremes() -> None:
    x = np.array([[1, 3, 3, 0], [5, 5, 2, 2], [4, np.nan, 4, np.nan]], np.float32)
    cases = {
        f"{name} {axis} {keep} {last}": partial(
            lambda xp, x, name, axis, keep, last: getattr(xp, name)(
                x, axis, keepdims=keep, select_last=last
            ),
            name=name,
            axis=axis,
            keep=keep,
            last=last,
        )
        for name in ("argmax", "argmin")
        for axis in (0, -1)
        for keep in (False, True)
        for last in (False, True)
    }
    compare(cases, x)
    compare(cases, x[:2].astype(np.int8))
    assert on_host(cases["argmax -1 False False"], x)[0].tolist() == [1, 0, 1]
    assert on_host(cases["argmax -1 False True"], x)[0].tolist() == [2, 1, 3]


@pytest.mark.parametrize("dtype", [np.float16, np.int8])
def test_running_sums(dtype: Any) -> None:
    cases = {
        f"{name} {exclusive} {reverse}": partial(
            lambda xp, x, name, **o: getattr(xp, name)(x, 1, **o),
            name=name,
            exclusive=exclusive,
            reverse=reverse,
        )
        for name in ("cumsum", "cumprod")
        for exclusive in (False, True)
        for reverse in (False, True)
    }
    x = np.array([[1, 2, 3, 4], [-1, 5, 7, 1]], dtype)
    compare(cases, x)
    compare(cases, x[:, :0])
    assert on_host(cases["cumsum True True"], x)[0][0].tolist() == [9, 7, 4, 0]
    assert on_host(cases["cumprod True False"], x)[0][0].tolist() == [1, 1, 2, 6]


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.uint8])
def test_order_is_stable_and_puts_nan_last(dtype: Any) -> None:
    x = np.array([[3, 1, 3, 0, 1], [2, 2, 2, 2, 2]]).astype(dtype)
    cases: dict[str, Any] = {}
    for down in (False, True):
        cases[f"sort {down}"] = lambda xp, x, d=down: xp.sort(x, 1, descending=d)
        cases[f"argsort {down}"] = lambda xp, x, d=down: xp.argsort(x, 0, descending=d)
        cases[f"topk {down}"] = lambda xp, x, d=down: xp.topk(x, 3, largest=d)
    compare(cases, x)
    values, places = on_host(cases["topk True"], x)
    assert places.tolist() == [[0, 2, 1], [0, 1, 2]]
    assert values.astype(int).tolist() == [[3, 3, 1], [2, 2, 2]]
    if np.dtype(dtype).kind == "f":
        (order,) = on_host(cases["argsort False"], np.array([[np.nan], [1]], dtype))
        assert order.tolist() == [[1], [0]]


# --- shapes --------------------------------------------------------------------------


def test_moving_elements() -> None:
    x = normal(2, 3, 4)
    cases = {
        "reshape": lambda xp, x: xp.reshape(x, np.array([4, -1])),
        "transpose": lambda xp, x: xp.transpose(x),
        "transpose axes": lambda xp, x: xp.transpose(x, (2, 0, 1)),
        "broadcast_to": lambda xp, x: xp.broadcast_to(x, (5, 2, 3, 4)),
        "expand": lambda xp, x: xp.expand(x, (3, 1)),
        "unsqueeze": lambda xp, x: xp.unsqueeze(x, (0, -1)),
        "squeeze": lambda xp, x: xp.squeeze(xp.unsqueeze(x, (0, 2)), (2,)),
        "squeeze all": lambda xp, x: xp.squeeze(xp.unsqueeze(x, (0, 2))),
        "concat": lambda xp, x: xp.concat([x, x[:, :1]], 1),
        "stack": lambda xp, x: xp.stack([x, x], -1),
        "split": lambda xp, x: xp.split(x, (1, 0, 3), -1),
        "flip": lambda xp, x: xp.flip(x, (0, -1)),
        "tile": lambda xp, x: xp.tile(x, (1, 2, 3)),
        "repeat": lambda xp, x: xp.repeat(x, 2, 1),
        "tril": lambda xp, x: xp.tril(x, -1),
        "triu": lambda xp, x: xp.triu(x, 1),
    }
    compare(cases, x)
    compare(cases, x.astype(ml_dtypes.float8_e4m3fn))
    compare({name: cases[name] for name in ("expand", "flip", "tril")}, x[:0])
    assert host().broadcast_shapes((2, 1), (3,)) == (2, 3)
    with pytest.raises(TypeMismatch):
        host().split(x, (1, 1), 2)


def test_slices_clamp_as_onnx_runtime_does() -> None:
    runtime = pytest.importorskip("onnxruntime")
    x = np.arange(5, dtype=np.float32)
    session = _session(runtime, "Slice", x, [np.zeros(1, np.int64)] * 4)
    ends = (-(2**63), -9, -5, -1, 0, 3, 5, 2**63 - 1)
    for start, end, step in product((-9, -5, -2, 0, 4, 5, 9), ends, (1, 2, -1, -3)):
        if step < 0 and end == 2**63 - 1:
            continue  # ONNX Runtime takes it for the front; ONNX says INT_MIN is.
        fed = zip(("i0", "i1", "i2", "i3"), (start, end, 0, step), strict=True)
        fed = {name: np.array([value], np.int64) for name, value in fed}
        theirs = session.run(None, {"x": x, **fed})[0]
        ours = host().strided_slice(x, start, end, step, 0)
        np.testing.assert_array_equal(ours, theirs, f"{start}:{end}:{step}")


def _session(runtime: Any, kind: str, x: Any, indices: Any, **attributes: Any) -> Any:
    """A session for one op on ``x`` and int64 operands, warnings off."""
    from onnx import helper

    names = ["x", *(f"i{i}" for i in range(len(indices)))]
    inputs = [
        helper.make_tensor_value_info(name, DType.of(a.dtype).value, [None] * a.ndim)
        for name, a in zip(names, [x, *indices], strict=True)
    ]
    output = helper.make_tensor_value_info("y", DType.of(x.dtype).value, None)
    node = helper.make_node(kind, names, ["y"], **attributes)
    graph = helper.make_graph([node], "g", inputs, [output])
    model = helper.make_model(
        graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]
    )
    return runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def test_slices_of_several_axes() -> None:
    cases = {
        "two": lambda xp, x: xp.strided_slice(x, (0, -1), (9, -9), (2, -2), (0, 2)),
        "plain": lambda xp, x: xp.strided_slice(x, (1,), (2,)),
        "none": lambda xp, x: xp.strided_slice(x, (2,), (1,), None, (1,)),
        "dynamic": lambda xp, x: xp.dynamic_slice(x, 1, 2, 1),
        "clamped": lambda xp, x: xp.dynamic_slice(x, 7, 2, 1),
        "below": lambda xp, x: xp.dynamic_slice(x, -7, 2, 1),
        "update": lambda xp, x: xp.dynamic_update(x, x[:, :2] * 2, 1, 1),
    }
    compare(cases, normal(3, 4, 5))
    with pytest.raises(TypeMismatch, match="step 0"):
        host().strided_slice(np.ones(3), 0, 1, 0, 0)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_pads_also_crop(mode: str) -> None:
    cases = {
        str(pads): partial(lambda xp, x, p: xp.pad(x, p, mode, 7), p=pads)
        for pads in [
            ((1, 2), (0, 3)),
            ((-1, 2), (2, -2)),
            ((0, 0), (-1, 0)),
            ((3, 0), (4, 4)),
        ]
    }
    compare(cases, normal(3, 4))
    compare(cases, np.arange(12, dtype=np.int8).reshape(3, 4))


def test_creation() -> None:
    cases = {
        "full": lambda xp: xp.full((2, 0), 3, DType.BF16),
        "zeros": lambda xp: xp.zeros(np.array([2, 3]), np.int8),
        "ones": lambda xp: xp.ones((), DType.F8E5M2),
        "eye": lambda xp: xp.eye(3, 4, 1, dtype=np.float16),
        "onehot": lambda xp: xp.onehot(
            np.array([[0, -1], [9, 1]]), 3, 1, on=5, off=-1, dtype=np.int32
        ),
    }
    compare(cases)
    assert on_host(cases["onehot"])[0][:, :, 1].tolist() == [[-1, -1, 5], [-1, 5, -1]]


@pytest.mark.parametrize(
    ("bounds", "dtype", "expected"),
    [
        ((1, 10, 3), np.int32, [1, 4, 7]),
        ((10, 1, -3), np.int64, [10, 7, 4]),
        ((1, 1, 5), np.int16, []),
        ((5, 1, 1), np.int32, []),
        ((0.5, 2, 0.5), np.float32, [0.5, 1, 1.5]),
        ((2**62, 2**62 + 3, 2), np.int64, [2**62, 2**62 + 2]),
        ((1, -1, -0.75), np.float64, [1, 0.25, -0.5]),
        ((0, 4, 1), ml_dtypes.bfloat16, [0, 1, 2, 3]),
    ],
)
def test_ranges(bounds: Any, dtype: Any, expected: list[float]) -> None:
    (ours,) = on_host(lambda xp: xp.arange(*bounds, dtype))
    np.testing.assert_array_equal(ours, np.array(expected).astype(dtype))
    compare({"arange": lambda xp: xp.arange(*bounds, dtype)})


# --- where JAX is not, or cannot -----------------------------------------------------


def test_what_xla_cannot_trace_is_told() -> None:
    jax = pytest.importorskip("jax")
    xp = traced()
    with pytest.raises(NoReference, match="data-dependent"):
        xp.nonzero(jax.numpy.ones(3))
    with pytest.raises(NoReference, match="data-dependent"):
        xp.unique(jax.numpy.ones(3))
    assert xp.nonzero(np.eye(2)).tolist() == [[0, 1], [0, 1]]  # what is known is not
    assert xp.unique(np.array([2, 1, 2]))[0].tolist() == [1, 2]
    with pytest.raises(UnsupportedModel, match="float6"):
        xp.zeros(3, DType.F6E2M3)
    with pytest.raises(UnsupportedModel, match="object"):
        xp.cast(np.ones(3, np.float32), DType.STRING)


def test_eager_calls_need_no_trace() -> None:
    pytest.importorskip("jax")
    x = normal(3, 4, dtype=np.float64)
    with traced().scope():
        for name in ("exp", "sum", "argmax"):
            arguments = (x, 1) if name == "argmax" else (x,)
            (ours,) = on_host(function(name), *arguments)
            agree(name, ours, np.asarray(getattr(traced(), name)(*arguments)), 4)


def test_missing_jax_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.delitem(sys.modules, "graphopt.xp.tracing", raising=False)
    with pytest.raises(BackendMissing, match=r"pip install 'graphopt\[jax\]'"):
        traced.__wrapped__()


def test_accessors_stay_what_they_are() -> None:
    pytest.importorskip("jax")
    import graphopt.xp

    assert graphopt.xp.traced() is graphopt.xp.traced()
    assert graphopt.xp.host() is graphopt.xp.host()


def test_the_host_side_is_light() -> None:
    code = (
        "import sys, graphopt.xp; graphopt.xp.host()\n"
        "heavy = {'jax', 'scipy', 'scipy.special'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
