"""Sums of partial products: equal to what they stand for, of no higher peak."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import graphopt
from graphopt import ops
from graphopt.fitted import DoesNotFit
from graphopt.ir import Graph, Parameter, Value
from graphopt.ops.contrib import FusedConv
from graphopt.passes.memory import SPACES, Space, plan_memory, summed, validate
from graphopt.passes.partial_sums import PartialSums
from graphopt.passes.sum_order import Sums
from graphopt.reference import evaluate
from graphopt.types import DType, tensor
from graphopt.verify import verify

SIDE = 4


class Net:
    """Layers with seeded numbers over images of one size."""

    def __init__(self, seed: int, dtype: DType = DType.F64, channels: int = 4) -> None:
        self.rng, self.dtype = np.random.default_rng(seed), dtype
        self.x = Parameter(tensor(dtype, 1, channels, SIDE, SIDE), "x")

    def constant(self, *shape: int) -> ops.Constant:
        drawn = self.rng.normal(size=shape) + 0.5
        return ops.Constant(drawn.astype(self.dtype.numpy))

    def conv(
        self, x: Value, channels: int, kernel: int = 1, group: int = 1, **attrs: Any
    ) -> Value:
        width = channels_of(x) // group
        weight = self.constant(channels, width, kernel, kernel)
        bias = self.constant(channels)
        pads = (kernel // 2,) * 4
        return ops.Conv(x, weight, bias, pads=pads, group=group, **attrs)

    def norm(self, x: Value) -> Value:
        count = channels_of(x)
        scale, shift, mean = (self.constant(count) for _ in range(3))
        variance = ops.Constant(np.ones(count, self.dtype.numpy))
        return ops.BatchNormalization(x, scale, shift, mean, variance)


def channels_of(x: Value) -> int:
    assert x.shape is not None
    count = x.shape[1]
    assert isinstance(count, int)
    return count


def random_net(seed: int, dtype: DType = DType.F64, size: int = 14) -> Graph:
    """Layers on what came last, of which many join."""
    rng, net = random.Random(seed), Net(seed, dtype)
    values: list[Value] = [net.x]
    for _ in range(size):
        a, *others = rng.sample(values[-5:], min(3, len(values[-5:])))
        kind = rng.choice(
            ("conv", "join", "join", "relu", "norm", "pool", "group", "add", "up")
        )
        if kind == "conv":
            made = net.conv(a, rng.choice((4, 6, 32)), rng.choice((1, 3)))
        elif kind == "join":
            made = ops.Concat(a, *others, axis=1)
        elif kind == "relu":
            made = ops.Relu(a)
        elif kind == "norm":
            made = net.norm(a)
        elif kind == "pool":
            made = ops.MaxPool(a, kernel_shape=(3, 3), pads=(1,) * 4)
        elif kind == "group":
            group = rng.choice((channels_of(a), 1 + (channels_of(a) % 2 == 0)))
            made = net.conv(a, channels_of(a), 3, group)
        elif kind == "add":
            alike = [b for b in others if b.shape == a.shape]
            made = ops.Add(a, alike[0] if alike else net.conv(a, channels_of(a)))
        else:
            weight = net.constant(channels_of(a), 5, 1, 1)
            made = ops.ConvTranspose(a, weight, net.constant(5))
        if channels_of(made) <= 96:
            values.append(made)
    read = {v for value in values if value.op for v in value.op.operands}
    return Graph([net.x], dict.fromkeys(v for v in values[1:] if v not in read))


def computed(graph: Graph) -> list[Any]:
    x = graph.inputs[0]
    drawn = np.random.default_rng(1).normal(size=(1, channels_of(x), SIDE, SIDE))
    return evaluate(graph, {x.name: drawn.astype(x.dtype.numpy)})  # type: ignore[union-attr]


def alike(before: Graph, after: Graph, error: float = 1e-10) -> None:
    """The same numbers by the same names, and not more weights."""
    verify(after)
    assert [p.name for p in after.inputs] == [p.name for p in before.inputs]
    assert [v.type for v in after.outputs] == [v.type for v in before.outputs]
    for a, b in zip(computed(before), computed(after), strict=True):
        np.testing.assert_allclose(b, a, rtol=error, atol=error * np.abs(a).max())


def bytes_of(graph: Graph) -> int:
    return sum(each.nbytes for each in graph.tensors())


# --- equations ----------------------------------------------------------------------


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_random_networks_without_what_joins_compute_the_same(seed: int) -> None:
    graph = random_net(seed)
    partial = PartialSums(graph)
    for avoided in (partial.joins, (*partial.joins, *partial.products)):
        made = partial.without(avoided)
        alike(graph, made)
        assert bytes_of(made) <= bytes_of(graph) + 4096 * len(graph.ops)
        for op in partial.joins:
            assert op not in made.ops


@given(st.integers(0, 10**6), st.booleans(), st.booleans())
@settings(max_examples=20, deadline=None)
def test_random_sums_in_random_orders_compute_the_same(
    seed: int, onto: bool, deep: bool
) -> None:
    graph = random_net(seed, DType.F32)
    made = PartialSums(graph).without(PartialSums(graph).joins)
    ops_ = list(made.ops)
    random.Random(seed).shuffle(ops_)
    sums = Sums(made, {op: i for i, op in enumerate(ops_)}, onto, deep)
    alike(graph, sums.in_order(), 2e-4)


def kinds(graph: Graph) -> list[str]:
    return [op.kind for op in graph.ops if op.kind != "Constant"]


def without_all(graph: Graph) -> Graph:
    partial = PartialSums(graph)
    return partial.without(partial.joins)


def test_a_bias_is_added_once() -> None:
    net = Net(0)
    joined = ops.Concat(ops.Relu(net.x), ops.Tanh(net.x), ops.Sigmoid(net.x), axis=1)
    graph = Graph([net.x], [net.conv(joined, 3)])
    made = without_all(graph)
    biased = [op for op in made.ops if op.kind == "Conv" and op.operand(2) is not None]
    assert len(biased) == 1
    assert kinds(made).count("Conv") == 3
    assert bytes_of(made) == bytes_of(graph)
    alike(graph, made)


def test_norms_activations_and_pools_go_before_what_joins() -> None:
    net = Net(1)
    inner = ops.Concat(ops.Relu(net.x), net.x, axis=1)
    joined = ops.Concat(inner, ops.Tanh(net.x), axis=1)
    pooled = ops.MaxPool(ops.Relu(net.norm(joined)), kernel_shape=(2, 2))
    graph = Graph([net.x], [net.conv(pooled, 3, 3)])
    made = without_all(graph)
    assert "Concat" not in kinds(made)
    assert kinds(made).count("Conv") == 3  # the joins are one
    alike(graph, made)


@pytest.mark.parametrize(
    ("group", "apart"), [(8, True), (4, True), (2, True), (1, True)]
)
def test_groups_stay_whole(group: int, apart: bool) -> None:
    net = Net(2)
    joined = ops.Concat(ops.Relu(net.x), ops.Tanh(net.x), axis=1)
    graph = Graph([net.x], [net.conv(net.conv(joined, 8, 3, group), 3)])
    assert "Concat" not in kinds(without_all(graph))
    alike(graph, without_all(graph))


def test_a_group_of_both_parts_keeps_them_joined() -> None:
    net = Net(3, channels=3)
    joined = ops.Concat(net.x, ops.Tanh(net.x), ops.Relu(net.x), axis=1)
    cut = ops.Concat(net.x, net.conv(net.x, 5), axis=1)
    for whole, group in ((joined, 1), (cut, 2)):
        graph = Graph([net.x], [net.conv(net.conv(whole, 8, 1, group), 3)])
        assert bool(PartialSums(graph).joins) == (group == 1)


def test_products_of_matrices_are_cut_where_they_sum() -> None:
    a = Parameter(tensor(DType.F64, 5, 3), "a")
    rng = np.random.default_rng(0)
    weight = ops.Constant(rng.normal(size=(7, 4)))
    turned = ops.Constant(rng.normal(size=(4, 7)))
    bias = ops.Constant(rng.normal(size=4))
    joined = ops.Concat(a, ops.MatMul(a, ops.Constant(rng.normal(size=(3, 4)))), axis=1)
    gemm = ops.Gemm(joined, turned, bias, transB=1, beta=0.5, alpha=2.0)
    graph = Graph([a], [ops.MatMul(joined, weight), gemm])
    made = without_all(graph)
    assert "Concat" not in kinds(made)
    x = rng.normal(size=(5, 3))
    for got, want in zip(
        evaluate(made, {"a": x}), evaluate(graph, {"a": x}), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_what_is_needed_whole_stays() -> None:
    net = Net(4)
    joined = ops.Concat(ops.Relu(net.x), ops.Tanh(net.x), axis=1)
    softmax = ops.Softmax(joined, axis=1)
    for outputs in ([net.conv(joined, 3), joined], [net.conv(joined, 3), softmax]):
        assert not PartialSums(Graph([net.x], outputs)).joins


def test_a_weight_that_others_read_is_not_doubled() -> None:
    net = Net(5, channels=16)
    weight = net.constant(40, 32, 1, 1)
    joined = ops.Concat(ops.Relu(net.x), ops.Tanh(net.x), axis=1)
    other = ops.Concat(ops.Sigmoid(net.x), net.x, axis=1)
    both = [ops.Conv(joined, weight), ops.Conv(other, weight)]
    assert not PartialSums(Graph([net.x], both)).joins
    assert PartialSums(Graph([net.x], both[:1])).joins


def test_narrow_floats_stay_as_they_are() -> None:
    net = Net(6, DType.F16)
    joined = ops.Concat(ops.Relu(net.x), ops.Tanh(net.x), axis=1)
    assert not PartialSums(Graph([net.x], [net.conv(joined, 3)])).joins


def test_what_is_between_two_products_comes_in_pieces() -> None:
    net = Net(7)
    wide = ops.Relu(net.conv(net.x, 64, 3))
    graph = Graph([net.x], [net.conv(wide, 3)])
    partial = PartialSums(graph)
    assert [op.kind for op in partial.products] == ["Conv"]
    made = partial.without(partial.products)
    assert kinds(made).count("Relu") == 4
    assert bytes_of(made) == bytes_of(graph)
    alike(graph, made)


# --- sums ---------------------------------------------------------------------------


def test_terms_come_in_the_order_in_which_they_are_there() -> None:
    net = Net(8)
    terms = [kind(net.x) for kind in (ops.Relu, ops.Tanh, ops.Sigmoid, ops.Exp)]
    total: Value = terms[0]
    for term in terms[1:]:
        total = ops.Add(total, term)
    ranks = {term: 9 - i for i, term in enumerate(terms)}
    graph = Graph([net.x], [total])
    made = Sums(graph, ranks).in_order()  # type: ignore[arg-type]
    first = next(op for op in made.ops if op.kind == "Add")
    assert {v.op.kind for v in first.operands if v and v.op} == {"Exp", "Sigmoid"}
    alike(graph, made)


def test_convolutions_are_added_onto_one_another_and_the_activation_is_last() -> None:
    net = Net(9, DType.F32)
    joined = ops.Concat(ops.Tanh(net.x), ops.Sigmoid(net.x), net.x, axis=1)
    weight, bias = net.constant(5, 12, 1, 1), net.constant(5)
    graph = Graph([net.x], [FusedConv(joined, weight, bias, activation="Relu")])
    parted = without_all(graph)
    ranks = {op: i for i, op in enumerate(parted.ops)}
    made = Sums(parted, ranks, onto=True).in_order()
    assert "Add" not in kinds(made)
    fused = [op for op in made.ops if isinstance(op, FusedConv)]
    assert [op.activation for op in fused] == [None, "Relu"]
    alike(graph, made, 1e-5)


# --- what it saves ------------------------------------------------------------------


def peak_of(graph: Graph, space: Space) -> int:
    return plan_memory(graph, space=space, reorder=True).lower_bound


@given(st.integers(0, 10**6), st.sampled_from(["ort-cpu", "onnx", "xla-cpu"]))
@settings(max_examples=12, deadline=None)
def test_the_peak_is_never_higher(seed: int, target: str) -> None:
    graph, space = random_net(seed, DType.F32), SPACES[target]
    made = summed(graph, space=space, onto=target == "ort-cpu")
    plan = plan_memory(made.graph, space=space, order=made.order)
    validate(plan, made.graph)
    assert plan.lower_bound == made.peak <= peak_of(graph, space)
    alike(graph, made.graph, 2e-4)


def u_net(channels: int = 8, side: int = 32) -> Graph:
    net = Net(10, DType.F32, 3)
    x = Parameter(tensor(DType.F32, 1, 3, side, side), "x")
    skip = ops.Relu(net.conv(ops.Relu(net.conv(x, channels, 3)), channels, 3))
    low = ops.MaxPool(skip, kernel_shape=(2, 2), strides=(2, 2))
    low = ops.Relu(net.conv(low, 2 * channels, 3))
    up = ops.ConvTranspose(
        low, net.constant(2 * channels, channels, 2, 2), strides=(2, 2)
    )
    joined = ops.Concat(skip, up, axis=1)
    return Graph([x], [net.conv(ops.Relu(net.conv(joined, channels, 3)), 1)])


def test_a_u_net_does_without_its_widest_value() -> None:
    graph, space = u_net(), Space()
    whole = 4 * 32 * 32 * 8
    assert peak_of(graph, space) == 4 * whole
    made = summed(graph, space=space, onto=True)
    assert made.peak <= 2.5 * whole
    assert [op.kind for op in made.avoided] == ["Concat"]


def test_no_more_than_the_budget_asks_for() -> None:
    graph = u_net()
    enough = peak_of(graph, Space())
    made = summed(graph, budget=enough, space=Space())
    assert made.graph is graph
    assert not made.avoided


# --- limits -------------------------------------------------------------------------


def test_a_limit_is_kept_by_sums_before_tiles() -> None:
    graph, whole = u_net(), 4 * 32 * 32 * 8
    result = graphopt.optimize(graph, max_activations=int(3.6 * whole))
    fitted = result.report.memory
    assert fitted is not None
    assert fitted.savings[-1].what == "sums of partial products"
    assert fitted.savings[-1].flops > 0  # the additions
    assert fitted.plan.peak <= 3.6 * whole
    assert fitted.tile is None
    assert result.report.check is not None
    assert result.report.check.passed
    validate(fitted.plan, result.graph)


def test_exact_rules_alone_leave_sums_as_they_are() -> None:
    graph, whole = u_net(), 4 * 32 * 32 * 8
    with pytest.raises(DoesNotFit, match=f"--max-activations {4 * whole} would do"):
        graphopt.optimize(graph, max_activations=int(3.6 * whole), level=1)
