"""The check: equal graphs pass, wrong ones do not, and it says what it left out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from real_models import every_model

from graphopt.check import CheckResult, check
from graphopt.check.difference import first_difference
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
    Equal,
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
    RandomNormal,
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
from graphopt.ops.opaque import Opaque
from graphopt.testing.strategies import graphs
from graphopt.text import format_graph, parse, weights_of
from graphopt.types import UNKNOWN, DType, Type, tensor
from graphopt.weights import Tensor

Build = Callable[[Any, Any], Any]
BATCH = symbol("batch")
MODES = ("full", "regions")


def weight(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Constant:
    return Constant(np.random.default_rng(seed).normal(size=shape).astype(dtype))


def ints(*numbers: int) -> Constant:
    return Constant(np.array(numbers, np.int64))


def graph_of(build: Build, dtype: DType = DType.F32) -> Graph:
    """Two operands [batch, 8] and what is built on them, intermediates named."""
    x = Parameter(tensor(dtype, BATCH, 8), "x")
    y = Parameter(tensor(dtype, BATCH, 8), "y")
    made = build(x, y)
    return Graph([x, y], made if isinstance(made, list) else [made])


def compared(before: Build, after: Build, **options: Any) -> CheckResult:
    dtype = options.pop("dtype", DType.F32)
    return check(graph_of(before, dtype), graph_of(after, dtype), **options)


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


# --- ops without a reference --------------------------------------------------------


def mystery(x: Value, *declared: Type, token: int = 0) -> Opaque:
    node = onnx.helper.make_node("Mystery", ["x"], ["y"], domain="com.example")
    text = node.SerializeToString()
    kept = {"node": text, "declared": declared, "captures": (), "version": 1}
    return Opaque(x, token=token, **kept)


@pytest.mark.parametrize("mode", MODES)
def test_graphs_are_cut_at_unknown_ops(mode: str) -> None:
    type_ = tensor(DType.F32, BATCH, 8)

    def around(first: Build, then: Build) -> Build:
        def build(x: Value, y: Value) -> list[Value]:
            hidden = mystery(first(x, y), type_, token=4)
            return [then(hidden, y), Tanh(x)]

        return build

    fine = compared(
        around(lambda x, y: Add(x, y), lambda h, y: Sub(h, y)),
        around(lambda x, y: Add(y, x), lambda h, y: Add(h, Neg(y))),
        mode=mode,
    )
    assert fine.passed
    assert fine.unchecked == ("op Mystery 4",)
    assert [output.name for output in fine.outputs] == ["output_0", "output_1"]
    assert [operand.name for operand in fine.operands] == ["operand 0 of Mystery 4"]
    for before, after in [
        (around(Add, Sub), around(Sub, Sub)),
        (around(Add, Sub), around(Add, Add)),
    ]:
        assert not compared(before, after, mode=mode).passed


def test_what_hangs_on_unknown_types_is_run_on_a_guess() -> None:
    def around(then: Build) -> Build:
        return lambda x, y: [then(mystery(Add(x, y), UNKNOWN), y), Tanh(x)]

    before = around(Sub)
    fine = compared(before, around(lambda h, y: Add(h, Neg(y))), mode="full")
    assert fine.passed
    assert not fine.lost
    assert all(output.size for output in fine.outputs)
    assert not compared(before, around(Add), mode="full").passed


@pytest.mark.parametrize("mode", MODES)
def test_what_no_guess_fits_must_be_made_of_the_same_ops(mode: str) -> None:
    weights = [Constant(np.full((5, 3), n, np.float32)) for n in (1, 2)]

    def head(n: int, token: int = 0) -> Build:
        return lambda x, y: [MatMul(mystery(x, UNKNOWN, token=token), weights[n])]

    same = compared(head(0), head(0, token=7), mode=mode)
    assert same.passed
    assert not same.lost
    other = compared(head(0), head(1), mode=mode)
    assert other.lost == ("output output_0",)
    assert "output_0" not in [output.name for output in other.outputs]


def test_unknown_ops_that_became_others_fail() -> None:
    def with_attribute(number: int) -> Graph:
        def build(x: Value, y: Value) -> list[Value]:
            made = mystery(x, UNKNOWN)
            node = made.node
            node.attribute.append(onnx.helper.make_attribute("heads", number))
            attrs = {**made.attrs, "node": node.SerializeToString()}
            return [Opaque(x, token=0, **attrs)]

        graph = graph_of(build)
        return graph.replace(names={graph.outputs[0]: "z"})

    assert check(with_attribute(1), with_attribute(1)).passed
    result = check(with_attribute(1), with_attribute(2))
    assert not result.passed
    assert "attributes differ" in str(result)


def test_unknown_ops_may_ask_for_other_shapes_than_they_declare() -> None:
    wrong = tensor(DType.F32, None, None)

    def build(x: Value, y: Value) -> list[Value]:
        hidden = mystery(x, wrong)
        return [MatMul(hidden, weight(8, 4)), Add(Sigmoid(x), y)]

    result = compared(build, build, mode="full")
    assert result.passed
    assert not result.lost
    assert "output_1" in [output.name for output in result.outputs]


def test_random_ops_draw_the_same_on_both_sides() -> None:
    noise = RandomNormal(shape=(1, 8), token=1)
    assert compared(
        lambda x, y: Add(x, noise), lambda x, y: Add(noise, x), mode="full"
    ).passed
    assert not compared(
        lambda x, y: Add(x, noise), lambda x, y: Sub(x, noise), mode="full"
    ).passed


def test_nothing_is_called_passed_where_nothing_ran() -> None:
    result = compared(
        lambda x, y: Reshape(x, ints(7, 7)), lambda x, y: Reshape(x, ints(49, 1))
    )
    assert result.outputs == ()
    assert result.unchecked == ("output output_0",)
    assert "found no inputs" in result.notes[0]
    assert "compared nothing" in str(result)


# --- regions ------------------------------------------------------------------------


def tower(depth: int, width: int = 8, *, broken: int = -1, exact: bool = True) -> Graph:
    """Layers of one name in every version; layer ``broken`` is wrong."""
    x = Parameter(tensor(DType.F32, BATCH, width), "x")
    value: Value = x
    names: dict[Value, str] = {}
    for i in range(depth):
        w = _weights.setdefault((width, i), weight(width, width, seed=i))
        inner = MatMul(value, w) if exact else MatMul(Identity(value), w)
        names[inner] = f"product {i}"
        value = Tanh(Neg(inner)) if i == broken else Tanh(inner)
        names[value] = f"layer {i}"
    return Graph([x], [value], names=names)


_weights: dict[tuple[int, int], Constant] = {}


def test_regions_find_where_it_breaks() -> None:
    before = tower(40)
    fine = check(before, tower(40, exact=False), mode="regions")
    assert fine.passed
    assert fine.mode == "regions"
    wrong = check(before, tower(40, broken=23), mode="regions")
    assert not wrong.passed
    assert wrong.notes == ("the first value that differs is layer 23",)


def test_names_are_only_hints() -> None:
    """A value that got another meaning under its old name is no failure."""
    before = tower(20)
    after = tower(20, exact=False)
    names = {v: name for v, name in after.names.items() if name != "layer 7"}
    odd = next(v for v, name in after.names.items() if name == "product 7")
    after = after.replace(names={**names, odd: "layer 7"})
    assert check(before, after, mode="regions").passed


def test_auto_takes_regions_for_what_is_large() -> None:
    before, after = tower(12, 512), tower(12, 512, exact=False)
    assert check(before, after).mode == "full"
    small = check(before, after, limit_bytes=100_000)
    assert small.mode == "regions"
    assert not small.outputs  # widening one weight takes 2 MiB
    assert small.unchecked == ("output output_0",)
    began = time.monotonic()
    hasty = check(before, after, seconds=1e-3)
    assert time.monotonic() - began < 5
    assert hasty.mode == "regions"
    assert hasty.unchecked == ("output output_0",)
    assert hasty.passed


def test_regions_run_what_changed_only() -> None:
    """Two hundred equal layers and one that is spelled in another way."""
    before = tower(200, 64)
    last = before.outputs[0]
    twice = [Graph(before.inputs, [f(last)], names=before.names) for f in _DOUBLES]
    began = time.process_time()
    result = check(*twice, mode="regions")
    seconds = time.process_time() - began
    assert result.passed
    began = time.process_time()
    check(*twice, mode="full")
    assert seconds < 2 * (time.process_time() - began)


_DOUBLES: tuple[Callable[[Value], Value], ...] = (
    lambda v: Add(v, v),
    lambda v: Mul(v, Constant(np.float32(2))),
)


# --- the first difference -----------------------------------------------------------


def test_first_difference() -> None:
    before = tower(10)
    assert first_difference(before, tower(10, exact=False)) is None
    found = first_difference(before, tower(10, broken=4))
    assert found is not None
    assert found.name == "layer 4"
    assert found.before is not None
    assert found.before.kind == "Tanh"
    assert not found.found.passed
    for name in WRONG:
        if name in ("a result short", "right for one batch only"):
            continue
        assert first_difference(*map(graph_of, WRONG[name])), name


def test_first_difference_in_outputs_alone() -> None:
    found = first_difference(
        graph_of(lambda x, y: [Equal(x, y), x]), graph_of(lambda x, y: [Equal(x, y), y])
    )
    assert found is not None
    assert found.name == "output_1"


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
