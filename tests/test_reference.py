"""The evaluator: meaning, precision, memory, bodies, and what it refuses."""

from __future__ import annotations

import sys
import warnings
import weakref
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from real_models import every_model

from graphopt.dims import add, symbol
from graphopt.errors import GraphoptError, NoReference, UsageError
from graphopt.importer import load
from graphopt.inputs import bindings, random_inputs
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops import (
    Add,
    Cast,
    CastLike,
    Clip,
    Constant,
    ConstantOfShape,
    DequantizeLinear,
    Div,
    Exp,
    Gelu,
    If,
    LayerNormalization,
    Log,
    Loop,
    MatMul,
    Mul,
    Neg,
    QuantizeLinear,
    RandomNormal,
    Relu,
    Reshape,
    Scan,
    Sin,
    Split,
    Sub,
    Transpose,
)
from graphopt.ops.opaque import Opaque
from graphopt.reference import (
    EvaluationFailed,
    Evaluator,
    OutOfBudget,
    evaluate,
    fold,
    has_reference,
    run,
)
from graphopt.types import DType, OptionalType, SequenceType, TensorType, tensor
from graphopt.weights import Tensor

N = symbol("n")
F = tensor(DType.F32, N, 4)
ONES = np.ones((3, 4), np.float32)
SCALAR = tensor(DType.I64)
FLAG = tensor(DType.BOOL)


def values(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


@pytest.fixture
def x() -> Parameter:
    return Parameter(F, "x")


def test_what_nothing_reads_is_not_an_absent_operand() -> None:
    """Clip without a lower bound, after an op of which one result is unused."""
    x = Parameter(tensor(DType.F32, 4), "x")
    left, _ = Split(x, num_outputs=2).results
    graph = Graph([x], [Clip(left, None, Constant(Tensor.of(np.float32(1))))])
    (result,) = evaluate(graph, [np.array([-5, 5, 7, 8], np.float32)])
    np.testing.assert_array_equal(result, np.array([-5, 1], np.float32))


def test_values_by_name_and_in_order(x: Parameter) -> None:
    y = Parameter(F, "y")
    graph = Graph([x, y], [Sub(x, y), x], output_names=["difference", "same"])
    a, b = values((3, 4)), 2 * ONES
    for inputs in ({"x": a, "y": b}, {"y": b, "x": a}, [a, b]):
        difference, same = evaluate(graph, inputs)
        np.testing.assert_array_equal(difference, a - b)
        assert same is a
    assert run(graph, [a, b]).keys() == {"difference", "same"}
    (total,) = evaluate(graph, [a, b], wanted=[Add(x, y)])
    np.testing.assert_array_equal(total, a + b)


def test_defaults_may_be_left_out(x: Parameter) -> None:
    five = Tensor.of(np.full((1, 4), 5, np.float32))
    y = Parameter(five.type, "y", default=five)
    graph = Graph([x, y], [Add(x, y)])
    np.testing.assert_array_equal(evaluate(graph, [ONES])[0], ONES + 5)
    np.testing.assert_array_equal(evaluate(graph, [ONES, ONES[:1]])[0], ONES + 1)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'x' (f32[n, 4]) is missing; the model has 'x': f32[n, 4]"),
        ({"x": ONES, "z": ONES}, "no input is called 'z'"),
        ([ONES, ONES, ONES], "3 values for 2 inputs"),
        ({"x": ONES[0]}, "input 'x' has the shape [4], not f32[n, 4]"),
        ({"x": np.ones((3, 5), np.float32)}, "input 'x' has the shape [3, 5]"),
        ({"x": ONES.astype(float)}, "input 'x' has elements of f64, not of f32"),
        ({"x": None}, "input 'x' is None"),
        ([ONES, np.ones((4, 4), np.float32)], "input 'y': n + 1 is 4"),
        ([ONES, np.ones((3, 4), np.float32)], "input 'y': n + 1 is 4, but got 3"),
    ],
)
def test_inputs_that_do_not_fit(x: Parameter, inputs: Any, message: str) -> None:
    y = Parameter(tensor(DType.F32, add(N, 1), 4), "y")
    graph = Graph([x, y], [Neg(x), Neg(y)])
    if "but got" not in message and isinstance(inputs, list) and len(inputs) == 2:
        evaluate(graph, inputs)  # n + 1 = 4 holds
        return
    with pytest.raises(UsageError) as error:
        evaluate(graph, inputs)
    assert message in str(error.value)


def test_one_symbol_has_one_size(x: Parameter) -> None:
    y = Parameter(tensor(DType.F32, N), "y")
    graph = Graph([x, y], [Neg(x), Neg(y)])
    with pytest.raises(UsageError, match="'y': n is 3 in another input, but 2 here"):
        evaluate(graph, [ONES, ONES[:2, 0]])


def test_sequences_and_optionals() -> None:
    rows = Parameter(SequenceType(tensor(DType.F32, 4)), "rows")
    maybe = Parameter(OptionalType(F), "maybe")
    graph = Graph([rows, maybe], [rows, maybe])
    got = evaluate(graph, [list(ONES), None], precision="float64")
    assert [row.dtype for row in got[0]] == [np.float64] * 3
    assert got[1] is None
    with pytest.raises(UsageError, match="'rows' is a list"):
        evaluate(graph, [ONES, None])
    with pytest.raises(UsageError, match=r"'rows' has the shape \[5\]"):
        evaluate(graph, [[np.ones(5, np.float32)], None])


# --- precision ----------------------------------------------------------------------


def test_float64_is_the_same_model_in_real_numbers(x: Parameter) -> None:
    w = Constant(values((4, 64)))
    graph = Graph([x], [Gelu(MatMul(x, w))])
    a = values((5, 4))
    (native,) = evaluate(graph, [a])
    (truth,) = evaluate(graph, [a], precision="float64")
    assert (native.dtype, truth.dtype) == (np.float32, np.float64)
    z = a.astype(float) @ w.tensor.array().astype(float)
    from scipy.special import erf

    exact = 0.5 * z * (1 + erf(z / np.sqrt(2)))
    np.testing.assert_allclose(truth, exact, rtol=1e-13, atol=1e-15)
    assert 1e-9 < np.max(np.abs(native - exact)) < 1e-5


@pytest.mark.parametrize("narrow", [DType.F16, DType.BF16])
def test_casts_round_in_float64_too(x: Parameter, narrow: DType) -> None:
    down = Cast(Exp(x), to=narrow)
    back = Mul(Cast(down, to=DType.F32), Constant(np.float32(1) / np.float32(3)))
    a = values((3, 4))
    rounded, product = evaluate(Graph([x], [down, back]), [a], precision="float64")
    assert rounded.dtype == product.dtype == np.float64
    exact = np.exp(a.astype(float))
    np.testing.assert_array_equal(rounded, exact.astype(narrow.numpy).astype(float))
    np.testing.assert_allclose(product, rounded * float(np.float32(1 / 3)), rtol=1e-15)


def test_casts_that_lose_nothing_do_not_round(x: Parameter) -> None:
    same = Cast(Exp(x), to=DType.F32)
    wider = Cast(Exp(x), to=DType.F64)
    half = Parameter(tensor(DType.F16, 3), "half")
    up = Cast(Exp(half), to=DType.F32)
    a, h = values((3, 4)), values((3,), np.float16)
    got = evaluate(Graph([x, half], [same, wider, up]), [a, h], precision="float64")
    for result, start in zip(got, (a, a, h), strict=True):
        np.testing.assert_array_equal(result, np.exp(start.astype(float)))


def test_casts_to_the_type_of_another_value(x: Parameter) -> None:
    like = Parameter(tensor(DType.F16), "like")
    graph = Graph([x, like], [CastLike(x, like)])
    a = values((3, 4))
    (got,) = evaluate(graph, [a, np.float16(1)], precision="float64")
    np.testing.assert_array_equal(got, a.astype(np.float16).astype(float))


def test_quantization_stays_real_in_float64(x: Parameter) -> None:
    scale, zero = Constant(np.float32(0.1)), Constant(np.uint8(3))
    codes = QuantizeLinear(x, scale, zero)
    back = DequantizeLinear(codes, scale, zero)
    a = values((3, 4))
    got, real = evaluate(Graph([x], [codes, back]), [a], precision="float64")
    step = float(np.float32(0.1))
    expected = np.clip(np.rint(a.astype(float) / step) + 3, 0, 255)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_allclose(real, (expected - 3) * step, rtol=1e-15)


def test_integers_are_integers_in_float64() -> None:
    i = Parameter(tensor(DType.I32, 2), "i")
    (got,) = evaluate(
        Graph([i], [Div(i, Constant(np.int32(2)))]),
        [np.array([7, -7], np.int32)],
        precision="float64",
    )
    assert got.dtype == np.int32
    assert got.tolist() == [3, -3]


def test_narrow_storage_types_stay_themselves() -> None:
    small = Parameter(tensor(DType.F8E4M3FN, 3), "small")
    graph = Graph([small], [Cast(small, to=DType.F32), Reshape(small, _ints(3, 1))])
    a = np.array([1, 0.5, 448], ml_dtypes.float8_e4m3fn)
    wide, same = evaluate(graph, [a], precision="float64")
    assert wide.tolist() == [1, 0.5, 448]
    assert same.dtype == a.dtype


def test_norms_compute_in_float64_whatever_they_accumulate_in(x: Parameter) -> None:
    half = Parameter(tensor(DType.F16, 3, 64), "half")
    ones = Constant(np.ones(64, np.float16))
    graph = Graph([half], [LayerNormalization(half, ones, epsilon=1e-5)])
    a = values((3, 64), np.float16)
    (got,) = evaluate(graph, [a], precision="float64")
    z = a.astype(float)
    centered = z - z.mean(-1, keepdims=True)
    epsilon = float(np.float32(1e-5))
    exact = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + epsilon)
    np.testing.assert_allclose(got, exact, rtol=1e-12)


def test_precision_must_be_known(x: Parameter) -> None:
    with pytest.raises(ValueError, match="'native' or 'float64'"):
        evaluate(Graph([x], [x]), [ONES], precision="double")


def _ints(*numbers: int) -> Constant:
    return Constant(np.array(numbers, np.int64))


# --- ops ----------------------------------------------------------------------------


def test_several_results(x: Parameter) -> None:
    left, right = Split(x, _ints(1, 3), axis=1).results
    a = values((3, 4))
    got = evaluate(Graph([x], [right, left]), [a])
    np.testing.assert_array_equal(got[0], a[:, 1:])
    np.testing.assert_array_equal(got[1], a[:, :1])


def test_control_flow(x: Parameter) -> None:
    cond = Parameter(FLAG, "c")
    p, q = Parameter(F, "p"), Parameter(F, "q")
    chosen = If(cond, x, bodies=[Graph([p], [Neg(p)]), Graph([q], [Relu(q)])])

    step, go = Parameter(SCALAR, "i"), Parameter(FLAG, "go")
    carried, extra = Parameter(F, "carried"), Parameter(F, "extra")
    total = Add(carried, extra)
    body = Graph([step, go, carried, extra], [go, total, Neg(total)])
    loop = Loop(Constant(np.array(3)), None, x, x, captures=1, bodies=[body])

    state, part = Parameter(TensorType(DType.F32), "s"), Parameter(F, "part")
    row = tensor(DType.F32, N)
    state, part = Parameter(row, "state"), Parameter(row, "part")
    scan_body = Graph([state, part], [Add(state, part), Add(state, part)])
    start = Constant(np.zeros(3, np.float32))
    scan = Scan(start, x, num_scan_inputs=1, scan_input_axes=(1,), bodies=[scan_body])

    graph = Graph([x, cond], [chosen, *loop.results, *scan.results])
    a = values((3, 4))
    for flag in (True, False):
        got = evaluate(graph, [a, np.array(flag)])
        np.testing.assert_array_equal(got[0], -a if flag else np.maximum(a, 0))
        np.testing.assert_allclose(got[1], 4 * a, rtol=1e-6)
        np.testing.assert_allclose(got[2], [-2 * a, -3 * a, -4 * a], rtol=1e-6)
        np.testing.assert_allclose(got[3], a.sum(1), rtol=1e-5)
        np.testing.assert_allclose(got[4], a.cumsum(1).T, rtol=1e-5)
    truth = evaluate(graph, [a, np.array(True)], precision="float64")
    np.testing.assert_array_equal(truth[1], 4 * a.astype(float))


def test_random_and_opaque_ops_have_no_reference(x: Parameter) -> None:
    noise = RandomNormal(shape=(2,), token=3)
    with pytest.raises(NoReference, match="RandomNormal"):
        evaluate(Graph([], [noise]), [])
    first = evaluate(Graph([], [noise]), [], seed=0)[0]
    np.testing.assert_array_equal(first, evaluate(Graph([], [noise]), [], seed=0)[0])
    node = onnx.helper.make_node("Mystery", ["x"], ["y"], domain="com.example")
    mystery = Opaque(
        x,
        node=node.SerializeToString(),
        op_type="Mystery",
        op_domain="com.example",
        version=3,
        captures=(),
        declared=(F,),
    )
    said = r"Mystery \(domain com.example, opset 3\): no such op is modelled"
    for seed in (None, 0):
        with pytest.raises(NoReference, match=said):
            evaluate(Graph([x], [mystery]), [ONES], seed=seed)
    assert isinstance(NoReference("op"), NotImplementedError)
    assert not has_reference(mystery)
    assert not has_reference(noise)
    assert has_reference(Neg(x))


def test_failures_name_the_op(x: Parameter) -> None:
    shape = Parameter(tensor(DType.I64, 2), "shape")
    graph = Graph([x, shape], [Reshape(x, shape)])
    with pytest.raises(GraphoptError) as error:
        evaluate(graph, [ONES, np.array([5, 5])])
    assert isinstance(error.value, EvaluationFailed)
    assert error.value.where == "Reshape(float32[3, 4], int64[2])"


def test_nothing_warns(x: Parameter) -> None:
    graph = Graph([x], [Log(x), Div(x, x), Exp(x), Cast(x, to=DType.F16)])
    a = np.array([[0, -1, 1e38, np.nan]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for precision in ("native", "float64"):
            evaluate(graph, [a], precision=precision)


def test_folding_one_op() -> None:
    two = Constant(np.float32(2))
    (result,) = fold(Add(two, two))
    assert result.dtype == np.float32
    assert result.item() == 4
    (taken,) = fold(Neg(two), [np.float32(3)])
    assert taken.item() == -3
    with pytest.raises(NoReference, match="not constant"):
        fold(Neg(Parameter(F, "x")))


# --- size ---------------------------------------------------------------------------


def test_chains_do_not_recurse_and_memory_is_freed() -> None:
    x = Parameter(tensor(DType.F32, 1 << 18), "x")
    value: Value = x
    for _ in range(5_000):
        value = Neg(value)
    assert sys.getrecursionlimit() < 5_000
    a = np.ones(1 << 18, np.float32)
    # 3 MiB: the input's copy is not counted, two results of 1 MiB are.
    (got,) = evaluate(Graph([x], [value]), [a], limit_bytes=3 << 20)
    assert got[0] == 1


def test_values_die_at_their_last_use() -> None:
    x = Parameter(tensor(DType.F32, 1000), "x")
    ops: list[Op] = [Sin(x)]
    for _ in range(20):
        ops.append(Sin(ops[-1]))
    graph = Graph([x], [ops[-1]])
    alive: list[int] = []
    seen: list[weakref.ref[Any]] = []

    def after(op: Op, index: int, array: Any) -> Any:
        alive.append(sum(ref() is not None for ref in seen))
        seen.append(weakref.ref(array))
        return array

    Evaluator(after=after).run(graph.outputs, {x: np.ones(1000, np.float32)})
    assert max(alive) == 1


def test_budgets_are_checked_before_anything_is_allocated(x: Parameter) -> None:
    bomb = ConstantOfShape(_ints(1 << 20, 1 << 20))
    with pytest.raises(OutOfBudget, match="4194304 MiB"):
        evaluate(Graph([], [bomb]), [], limit_bytes=1 << 30)
    shape = Parameter(tensor(DType.I64, 2), "shape")
    dynamic = Graph([shape], [ConstantOfShape(shape)])
    with pytest.raises(OutOfBudget):
        evaluate(dynamic, [np.array([1 << 20, 1 << 20])], limit_bytes=1 << 30)
    outer = MatMul(x, Transpose(x, perm=(1, 0)))
    with pytest.raises(OutOfBudget, match=r"f32\[n, n\]"):
        evaluate(
            Graph([x], [outer]), [np.ones((8192, 4), np.float32)], limit_bytes=9 << 20
        )
    assert OutOfBudget.exit_code == 6


@every_model()
def test_real_models_agree_with_themselves_in_float64(path: Path) -> None:
    try:
        graph = load(path)
    except GraphoptError as error:
        pytest.skip(str(error))
    lacking = sorted({op.kind for op in graph.ops if not has_reference(op)})
    if lacking:
        pytest.skip(f"no reference: {', '.join(lacking)}")
    for sizes in bindings(graph):
        inputs = random_inputs(graph, 0, sizes)
        try:
            native = evaluate(graph, inputs)
            break
        except GraphoptError:
            continue
    else:
        pytest.fail("no inputs were found on which it runs")
    truth = evaluate(graph, inputs, precision="float64")
    for a, b, type_ in zip(native, truth, [v.type for v in graph.outputs], strict=True):
        assert isinstance(type_, TensorType)
        assert a.shape == b.shape
        if type_.dtype is DType.F32:
            scale = np.max(np.abs(b), initial=0)
            assert np.max(np.abs(a - b), initial=0) <= 1e-4 * scale
