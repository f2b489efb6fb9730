"""The check: equal graphs pass, wrong ones do not, and it says what it left out."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checked import BATCH, MODES, Build, compared, graph_of, ints, weight
from hypothesis import given, settings
from real_models import every_model

from graphopt.check import check
from graphopt.check.tolerance import Runs, compare
from graphopt.dims import symbol
from graphopt.errors import CheckFailed, GraphoptError, UsageError
from graphopt.importer import load
from graphopt.ir import Graph, Parameter, Value
from graphopt.ops import (
    Add,
    ArgMax,
    Cast,
    Concat,
    Constant,
    Div,
    Exp,
    Gather,
    Gemm,
    Identity,
    LayerNormalization,
    Less,
    Loop,
    MatMul,
    Min,
    Mul,
    Neg,
    Pow,
    QuantizeLinear,
    ReduceSum,
    Relu,
    Reshape,
    Round,
    Sigmoid,
    Softmax,
    Sqrt,
    Sub,
    Tanh,
    Transpose,
    Where,
)
from graphopt.testing.strategies import graphs
from graphopt.text import format_graph, parse, weights_of
from graphopt.types import DType, tensor
from graphopt.weights import Tensor


def epsilon(value: float, dtype: Any = np.float32) -> Build:
    ones = Constant(np.ones(8, dtype))
    return lambda x, y: LayerNormalization(x, ones, epsilon=value, stash_type=11)


EQUAL: dict[str, tuple[Build, Build]] = {
    "same": (lambda x, y: Add(x, y), lambda x, y: Add(x, y)),
    "swapped sum": (lambda x, y: Add(x, y), lambda x, y: Add(y, x)),
    "one matrix": (
        lambda x, y: MatMul(MatMul(x, weight(8, 8)), weight(8, 8, seed=1)),
        lambda x, y: MatMul(x, Constant(_product())),
    ),
    "softmax spelled out": (
        lambda x, y: Softmax(x),
        lambda x, y: Div(Exp(x), ReduceSum(Exp(x), ints(-1))),
    ),
    "not finite for half of the inputs": (
        lambda x, y: Sqrt(x),
        lambda x, y: Pow(x, Constant(np.float32(0.5))),
    ),
    "never finite": (
        lambda x, y: Sqrt(Sub(Neg(Mul(x, x)), Constant(np.float32(1)))),
        lambda x, y: Sqrt(Sub(Constant(np.float32(-1)), Mul(x, x))),
    ),
    "zero": (
        lambda x, y: Sub(Mul(x, y), Mul(y, x)),
        lambda x, y: Sub(Mul(Mul(x, y), Constant(np.float32(0.1))), Mul(Mul(
            y, Constant(np.float32(0.1))), x)),
    ),
}  # fmt: skip
WRONG: dict[str, tuple[Build, Build]] = {
    "swapped difference": (lambda x, y: Sub(x, y), lambda x, y: Sub(y, x)),
    "wrong axis": (
        lambda x, y: Softmax(x, axis=1),
        lambda x, y: Softmax(x, axis=0),
    ),
    "wrong epsilon": (epsilon(1e-5), epsilon(1e-3)),
    "lost transpose": (
        lambda x, y: MatMul(x, weight(8, 8)),
        lambda x, y: Gemm(x, weight(8, 8), transB=1),
    ),
    "lost term of 1e-4": (
        lambda x, y: Add(x, Mul(y, Constant(np.float32(1e-4)))),
        lambda x, y: Identity(x),
    ),
    "wrong class": (
        lambda x, y: ArgMax(x, axis=1),
        lambda x, y: ArgMax(Neg(x), axis=1),
    ),
    "wrong rounding": (lambda x, y: Round(x), lambda x, y: Relu(Round(x))),
    "other shape": (
        lambda x, y: ReduceSum(x, ints(1), keepdims=1),
        lambda x, y: ReduceSum(x, ints(1), keepdims=0),
    ),
    "other element type": (
        lambda x, y: Add(x, y),
        lambda x, y: Cast(Add(x, y), to=DType.F64),
    ),
    "new NaN": (lambda x, y: Relu(x), lambda x, y: Relu(Mul(Sqrt(x), Sqrt(x)))),
    "right for one batch only": (
        lambda x, y: Reshape(x, ints(-1, 8)),
        lambda x, y: Reshape(x, ints(2, 8)),
    ),
    "batch and features mixed up": (
        lambda x, y: Reshape(x, ints(-1)),
        lambda x, y: Reshape(Transpose(x, perm=(1, 0)), ints(-1)),
    ),
    "a result short": (lambda x, y: [x, y], lambda x, y: [x]),
    "wrong beside a large number": (
        lambda x, y: Mul(x, row(1e9, 1)),
        lambda x, y: Mul(x, row(1e9, 0)),
    ),
    "wrong beside what is masked": (
        lambda x, y: Where(Less(y, half()), x, lowest()),
        lambda x, y: Where(Less(y, half()), Mul(x, Constant(np.float32(2))), lowest()),
    ),
    "numbers in the place of infinities": (
        lambda x, y: Div(ReduceSum(x, ints(1)), row(0, 1, 500)),
        lambda x, y: Min(
            Div(ReduceSum(x, ints(1)), row(0, 1, 500)), Constant(np.float32(1e3))
        ),
    ),
}


def row(first: float, others: float, length: int = 8) -> Constant:
    """[first, others, others, …]"""
    numbers = np.full(length, others, np.float32)
    numbers[0] = first
    return Constant(numbers)


def half() -> Constant:
    return Constant(np.float32(0.5))


def lowest() -> Constant:
    return Constant(np.finfo(np.float32).min)


def _product() -> Any:
    a, b = (weight(8, 8, seed=i).tensor.array().astype(float) for i in (0, 1))
    return (a @ b).astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", EQUAL)
def test_equal_graphs_pass(name: str, mode: str) -> None:
    result = compared(*EQUAL[name], mode=mode)
    assert result.passed, str(result)
    assert result.outputs
    assert not result.unchecked
    assert result.mode == mode


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WRONG)
def test_wrong_graphs_fail(name: str, mode: str) -> None:
    if name == "right for one batch only" and mode == "regions":
        pytest.skip("regions take one size of each symbol")
    result = compared(*WRONG[name], mode=mode)
    assert not result.passed, str(result)
    with pytest.raises(CheckFailed, match=r"output_0|interface"):
        result.raise_if_failed()


def test_small_errors_show_in_float64() -> None:
    close = (epsilon(1e-5, float), epsilon(1.00001e-5, float))
    assert not compared(*close, dtype=DType.F64).passed
    assert compared(close[0], close[0], dtype=DType.F64, mode="full").passed


@settings(max_examples=100, deadline=None)
@given(graphs(max_ops=12))
def test_random_graphs_equal_themselves(graph: Graph) -> None:
    again = parse(format_graph(graph), weights_of(graph))
    for mode in MODES:
        result = check(graph, again, mode=mode)
        assert result.passed, f"{result}\n{graph}"


def test_symbols_take_two_sizes() -> None:
    result = compared(*EQUAL["swapped sum"], mode="full")
    assert [sizes["batch"] for sizes in result.sizes] == [2, 3]
    baked = compared(
        lambda x, y: Reshape(x, ints(1, 8)), lambda x, y: Reshape(x, ints(1, -1))
    )
    assert [sizes["batch"] for sizes in baked.sizes] == [1]
    assert baked.notes == ("batch ran only as 1",)


def test_a_length_that_is_baked_in_leaves_others_free() -> None:
    token = Parameter(tensor(DType.F32, symbol("seq"), 4), "token")
    past = Parameter(tensor(DType.F32, symbol("past"), 4), "past")

    def step(form: tuple[int, ...]) -> Graph:
        return Graph([token, past], [Concat(past, Reshape(token, ints(*form)), axis=0)])

    result = check(step((1, 4)), step((1, -1)))
    assert result.passed
    assert len({sizes["past"] for sizes in result.sizes}) > 1
    assert result.notes == ("seq ran only as 1",)


def test_identical_graphs_need_no_run() -> None:
    result = compared(*EQUAL["same"])
    assert result.mode == "identical"
    assert result.passed
    large = [Constant(np.ones((8, 999), np.float32)) for _ in range(2)]
    assert large[0] is not large[1]
    read_again = compared(
        lambda x, y: MatMul(x, large[0]), lambda x, y: MatMul(x, large[1])
    )
    assert read_again.mode == "identical"


def test_what_is_reported() -> None:
    result = compared(*EQUAL["one matrix"], mode="full", slack=3.0)
    (output,) = result.outputs
    assert output.name == "output_0"
    assert 0 < output.error_before < 1e-5
    assert 0 < output.max_error <= output.tolerance < 1e-3
    assert output.size == (2 + 3 + 3 + 3) * 8
    assert (result.slack, result.seed, result.mode) == (3.0, 0, "full")
    told = json.loads(json.dumps(result.to_json()))
    assert told["passed"] is True
    assert told["outputs"][0]["tolerance"] == output.tolerance
    assert "check passed (full" in str(result)
    failed = compared(*WRONG["other shape"])
    told = json.loads(json.dumps(failed.to_json(), allow_nan=False))
    assert told["outputs"][0]["max_error"] is None
    assert "the shape is" in str(failed)


def test_modes() -> None:
    off = compared(*WRONG["wrong axis"], mode="off")
    assert (off.mode, off.outputs, off.unchecked) == ("off", (), ("output output_0",))
    with pytest.raises(UsageError, match="no check mode 'some'"):
        compared(*EQUAL["same"], mode="some")


def test_exact_means_bits() -> None:
    assert compared(*EQUAL["swapped sum"], exact=True).passed
    assert not compared(*EQUAL["one matrix"], exact=True).passed
    zero = Constant(np.zeros((1, 8), np.float32))
    signed = Constant(np.full((1, 8), -0.0, np.float32))
    result = compared(lambda x, y: zero, lambda x, y: signed, exact=True)
    assert result.outputs[0].note == "8 of 8 elements have other bits"
    nan = Constant(np.full(2, np.nan, np.float32))
    assert compared(lambda x, y: nan, lambda x, y: Neg(nan), exact=True).passed


def test_given_inputs() -> None:
    inputs = {"x": np.ones((4, 8), np.float32), "y": np.zeros((4, 8), np.float32)}
    hidden = (lambda x, y: Sqrt(x), lambda x, y: Identity(x))
    assert compared(*hidden, inputs=inputs).passed
    assert not compared(*hidden).passed
    with pytest.raises(UsageError, match="'y'"):
        compared(*EQUAL["swapped sum"], inputs={"x": inputs["x"]}).raise_if_failed()


def test_results_that_cannot_run_fail() -> None:
    table = weight(8, 4)
    result = compared(
        lambda x, y: Gather(table, ints(0, 7)),
        lambda x, y: Gather(table, Cast(ReduceSum(Mul(x, x)), to=DType.I64)),
    )
    assert not result.passed


# --- what is undecided --------------------------------------------------------------


def test_ties_are_undecided_not_wrong() -> None:
    truth = np.array([3, 5, 1])
    runs = Runs(truth, np.array([3, 5, 1]), np.array([3, 4, 1]))
    assert not compare("y", runs, 4).passed
    many = np.zeros(1000, np.int64)
    flipped = many.copy()
    flipped[7] = 1
    noisy = [(flipped, many), (many, many)]
    settled = compare("y", Runs(many, many, flipped, noisy), 4)
    assert settled.passed
    assert settled.undecided == 1
    everywhere = compare("y", Runs(many, many, many + 1, [(many + 1, many)]), 4)
    assert not everywhere.passed
    assert everywhere.doubtful


def test_rounding_boundaries_do_not_alarm() -> None:
    scale = Constant(np.float32(0.1))
    halves = Constant((np.arange(800) / 20).astype(np.float32).reshape(100, 8))

    def before(x: Value, y: Value) -> Value:
        return QuantizeLinear(Mul(halves, Constant(np.float32(1))), scale)

    def after(x: Value, y: Value) -> Value:
        third = Mul(halves, Constant(np.float32(1 / 3)))
        return QuantizeLinear(Mul(third, Constant(np.float32(3))), scale)

    result = compared(before, after, mode="full")
    (output,) = result.outputs
    assert not output.wrong  # half of the numbers lie on a boundary
    assert 0.01 < output.undecided / output.size < 0.5
    assert output.doubtful
    shifted = compared(
        before, lambda x, y: QuantizeLinear(Add(halves, scale), scale), mode="full"
    )
    assert not shifted.passed


def test_noise_widens_only_what_is_noisy() -> None:
    """(a + b) - b loses digits in every run; what else is there is held tight."""
    large = Constant(np.float32(1e4))
    lossy = compared(
        lambda x, y: Sub(Add(x, large), large),
        lambda x, y: Sub(Add(large, x), large),
        mode="full",
    )
    assert lossy.passed
    assert lossy.outputs[0].error_before > 1e-5
    wrong = compared(
        lambda x, y: Sub(Add(x, large), large),
        lambda x, y: Sub(Add(x, large), Constant(np.float32(1e4 + 1))),
    )
    assert not wrong.passed


def test_non_finite_values_that_are_new_fail() -> None:
    truth = np.ones(1000)
    before = truth.astype(np.float32)
    after = before.copy()
    after[3] = np.inf
    result = compare("y", Runs(truth, before, after, unit=2**-24), 4)
    assert not result.passed
    assert result.max_error == math.inf
    before[3] = np.inf  # overflows natively, too
    left_out = compare("y", Runs(truth, before, after, unit=2**-24), 4)
    assert left_out.passed
    assert left_out.nonfinite == 1


@every_model()
def test_real_models_equal_themselves(path: Path) -> None:
    try:
        graph = load(path)
    except GraphoptError as error:
        pytest.skip(str(error))
    again = parse(format_graph(graph), weights_of(graph))
    result = check(graph, again, mode="full")
    assert result.passed, str(result)
    assert result.sizes
    assert result.seconds < 60


def test_concatenated_names_do_not_confuse() -> None:
    """Two values of one name are no pair."""
    x = Parameter(tensor(DType.F32, 4), "x")
    a, b = Tanh(x), Sigmoid(x)
    both = Graph([x], [Concat(a, b, axis=0)], names={a: "same", b: "same"})
    swapped = Graph([x], [Concat(b, a, axis=0)], names={a: "same", b: "same"})
    assert check(both, both, mode="regions").passed
    assert not check(both, swapped, mode="regions").passed


def test_loops_that_never_end() -> None:
    """Whoever draws random inputs must not wait for a loop that they keep alive."""
    step, go = Parameter(tensor(DType.I64), "i"), Parameter(tensor(DType.BOOL), "go")
    carried = Parameter(tensor(DType.F32, BATCH, 8), "carried")
    forever = Graph([step, go, carried], [go, Neg(carried)])

    def build(x: Value, y: Value) -> list[Value]:
        loop = Loop(None, Constant(np.array(True)), x, bodies=[forever])
        return [loop, Add(x, y)]

    began = time.monotonic()
    result = check(
        graph_of(build), graph_of(lambda x, y: [*build(x, y)][::-1]), seconds=0.3
    )
    assert time.monotonic() - began < 5
    assert result.unchecked == ("output output_0", "output output_1")
    assert "the time was over before" in " ".join(result.notes)


def test_sizes_that_only_the_result_fixes_are_to_be_named() -> None:
    def built(rows: Any) -> Graph:
        x = Parameter(tensor(DType.F32, rows, 3), "x")
        return Graph([x], [Exp(Neg(x))])

    before, after = built(BATCH), built(8)
    for mode in ("full", "regions"):
        result = check(before, after, mode=mode)
        assert result.unchecked == ("output output_0",)
        assert "these sizes: --dim batch=8 (sizes={'batch': 8})" in result.notes[0]
    assert check(before, after, sizes={"batch": 4}).unchecked
    assert check(before, after, sizes={"batch": 8}).sizes == ({"batch": 8},)


def test_the_interface_keeps_its_symbols_where_it_is_declared() -> None:
    x, y = (Parameter(tensor(DType.F32, d, 8), "x") for d in (BATCH, symbol("n")))
    before, after = (
        Graph([p], [Tanh(p)], output_names=["y"], output_types=[p.type]) for p in (x, y)
    )
    assert check(before, after, mode="full").passed
    result = check(before, after, mode="full", declared=True)
    assert not result.passed
    assert "input 'x' is" in str(result)
    vague = before.replace(output_types=[tensor(DType.F32, None, 8)])
    assert not check(before, vague, declared=True).passed
    assert check(vague, before, declared=True).passed is False


def test_overridable_initializers_are_overridden() -> None:
    x = Parameter(tensor(DType.F32, 8), "x")
    weight_ = Tensor.of(np.linspace(1, 2, 8, dtype=np.float32))
    w = Parameter(tensor(DType.F32, 8), "w", default=weight_)
    before = Graph([x, w], [Mul(x, w)])
    folded = Graph([x, w], [Mul(x, Constant(weight_))])
    assert not check(before, folded, mode="full").passed
    swapped = Graph([x, w], [Mul(w, x)])
    assert check(before, swapped, mode="full").passed


def test_bounds_that_normal_numbers_do_not_reach_show() -> None:
    capped = Constant(np.float32(6))
    small = compared(lambda x, y: Relu(x), lambda x, y: Min(Relu(x), capped))
    assert not small.passed
