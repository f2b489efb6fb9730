"""Costs: from index maps, bodies and regions, of symbolic dims, and of real models."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from composite_ops import inner, ints, weight, x
from real_models import every_model

from graphopt import ops
from graphopt.cost import OpCost, cost, op_cost, peak_memory, roofline, value_bytes
from graphopt.dims import evaluate, symbol
from graphopt.importer import load
from graphopt.ir import Graph, Parameter, Value
from graphopt.types import DType, SequenceType, TensorType

n, m = symbol("n"), symbol("m")


# --- ops ----------------------------------------------------------------------------


def test_a_matrix_product() -> None:
    product = ops.MatMul(x(5, 3, 8), x(8, 4))
    assert op_cost(product) == OpCost(2 * 5 * 3 * 8 * 4, 4 * (5 * 3 * 8 + 8 * 4 + 60))


def test_operands_that_are_broadcast_are_read_once() -> None:
    added = ops.Add(x(6, 1, 5), x(4, 1))
    assert op_cost(added) == OpCost(6 * 4 * 5, 4 * (30 + 4 + 120))


def test_symbolic_dims_give_expressions() -> None:
    found = op_cost(ops.MatMul(x(n, m, 8), weight(8, 4)))
    assert found == OpCost(64 * n * m, 48 * n * m + 128)


def test_a_convolution_in_groups() -> None:
    conv = ops.Conv(
        x(2, 6, 9, 9), weight(4, 3, 3, 3), weight(4), group=2, strides=[2, 2]
    )
    assert conv.shape == (2, 4, 4, 4)
    macs = 2 * 4 * 4 * 4 * 3 * 3 * 3
    assert op_cost(conv).flops == 2 * macs
    assert op_cost(conv).bytes == 4 * (2 * 6 * 81 + 4 * 27 + 4 + 2 * 4 * 16)


def test_windows_side_by_side() -> None:
    patches = ops.Conv(x(1, 3, n * 16, 32), weight(8, 3, 16, 16), strides=[16, 16])
    assert op_cost(patches).flops == 2 * n * 2 * 8 * 3 * 256


def test_what_a_slice_or_look_up_reads() -> None:
    part = ops.Slice(x(100, 8), ints(10), ints(20), ints(0), ints(1))
    assert op_cost(part) == OpCost(0, 2 * 4 * 10 * 8)
    rows = ops.Gather(weight(30000, 16), x(2, 3, dtype=DType.I64))
    assert op_cost(rows) == OpCost(0, 4 * 6 * 16 + 8 * 6 + 4 * 6 * 16)


def test_narrow_types_take_part_of_a_byte() -> None:
    narrow = ops.Transpose(x(4, 6, dtype=DType.I4))
    assert op_cost(narrow).bytes == 24
    assert value_bytes(x(3, 5, dtype=DType.U4), {}) == 8


@pytest.mark.parametrize("past", [0, 7])
def test_attention_is_two_products_and_a_softmax(past: int) -> None:
    batch, heads, queries, keys, size = 2, 8, 16, 24, 64
    operands: list[Value | None] = [x(batch, heads, queries, size)]
    operands += [x(batch, 2, keys, size)] * 2
    if past:
        operands += [None, *[x(batch, 2, past, size)] * 2]
    attention = ops.Attention(*operands, outs=3 if past else 1)
    scores = batch * heads * queries * (keys + past)
    flops = op_cost(attention).flops
    assert isinstance(flops, int)
    assert 0 < flops - 2 * scores * 2 * size <= 20 * scores
    body = sum(op_cost(op).flops or 0 for op in inner(attention))
    assert body == pytest.approx(flops, rel=0.05)


def test_a_recurrent_network_is_its_products() -> None:
    steps, batch, size, hidden = 7, 3, 10, 20
    w, r = weight(1, 4 * hidden, size), weight(1, 4 * hidden, hidden)
    lstm = ops.LSTM(x(steps, batch, size), w, r, weight(1, 8 * hidden))
    macs = steps * batch * 4 * hidden * (size + hidden)
    assert op_cost(lstm).flops == pytest.approx(2 * macs, rel=0.05)


def test_scattered_updates_cost_what_they_are() -> None:
    places = x(2, 1, dtype=DType.I64)
    added = ops.ScatterND(x(1000, 8), places, x(2, 8), reduction="add")
    assert op_cost(added).flops == 2 * 8


# --- graphs -------------------------------------------------------------------------


def network() -> Graph:
    image = x(n, 3, 8, 8)
    features = ops.Relu(ops.Conv(image, weight(4, 3, 3, 3), pads=[1, 1, 1, 1]))
    flat = ops.Flatten(features)
    return Graph([image], [ops.MatMul(flat, weight(256, 10, dtype=np.float32))])


def test_a_graph_costs_what_its_ops_do() -> None:
    found = cost(network())
    assert found.flops == n * (2 * 4 * 64 * 27 + 256 + 2 * 256 * 10)
    assert found.parameters == 4 * 27 + 2560
    assert found.parameter_bytes == 4 * found.parameters
    assert found.peak == 2048 * n
    assert found.unknown == {}


@pytest.mark.parametrize("size", [1, 5])
def test_sizes_of_symbols_make_numbers(size: int) -> None:
    symbolic, found = cost(network()), cost(network(), {"n": size})
    assert found.flops == evaluate(symbolic.flops, {"n": size})
    assert found.bytes == evaluate(symbolic.bytes, {"n": size})
    # The convolution's operand (768 bytes a piece) and result, then two results.
    assert found.peak == size * 4 * (256 + 256)


def test_expressions_that_grow_too_long_are_still_numbers() -> None:
    inputs = [x(symbol(f"n{i}"), symbol(f"m{i}")) for i in range(80)]
    graph = Graph(inputs, [ops.Relu(value) for value in inputs])
    assert cost(graph).flops is None
    sizes = {f"{name}{i}": i for name in "nm" for i in range(80)}
    assert cost(graph, sizes).flops == sum(i * i for i in range(80))


def test_ops_of_unknown_cost_are_counted() -> None:
    kept = ops.NonZero(x(4, 6))
    unknown = ops.Relu(Parameter(TensorType(DType.F32), "unknown"))
    found = cost(Graph([], [kept, unknown, ops.Neg(unknown)]))
    assert found.unknown == {"NonZero": 1, "Relu": 1, "Neg": 1}
    assert found.flops == 0
    assert found.peak is None


def test_weights_count_once_and_defaults_too() -> None:
    shared = weight(16, 16)
    default = Parameter(TensorType(DType.F32, (16,)), "b", default=weight(16).tensor)
    value = ops.MatMul(ops.MatMul(x(2, 16), shared), shared)
    found = cost(Graph([default], [ops.Add(value, default)]))
    assert (found.parameters, found.parameter_bytes) == (272, 1088)


# --- memory -------------------------------------------------------------------------


def test_peak_memory_by_hand() -> None:
    """100 floats are 400 bytes; `sum` of 1 is 4.

    ========= ============================= =====
    op        alive while it runs           bytes
    ========= ============================= =====
    relu      a, relu                         800
    exp       relu, exp                       800
    sum       relu, exp, sum                  804
    product   relu, sum, product              804
    both      relu, product, both            1200
    ========= ============================= =====
    """
    a = x(100)
    relu = ops.Relu(a)
    exp = ops.Exp(relu)
    product = ops.Mul(relu, ops.ReduceSum(exp))
    both = ops.Sub(product, relu)
    assert peak_memory(Graph([a], [both]), {}) == 1200
    assert peak_memory(Graph([a], [both, exp]), {}) == 1600


def test_constants_take_no_activations_and_unused_inputs_none() -> None:
    a, unused = x(10), x(1000)
    graph = Graph([a, unused], [ops.Add(a, weight(10))])
    assert peak_memory(graph, {}) == 80
    assert peak_memory(Graph([a], [a, a]), {}) == 40


def test_outputs_stay_and_unread_results_go() -> None:
    a = x(10)
    best = ops.TopK(a, ints(4), outs=2)
    values, _ = best.results
    graph = Graph([a], [values, ops.Relu(ops.Neg(values))])
    # With the operand: 40 + 4 * (4 + 8); later on three values of 16 bytes.
    assert peak_memory(graph, {}) == 88


def test_a_size_that_is_not_known_gives_no_peak() -> None:
    sequence = Parameter(SequenceType(TensorType(DType.F32, (4,))), "sequence")
    assert value_bytes(sequence, {}) is None
    assert peak_memory(Graph([sequence], [ops.SequenceLength(sequence)]), {}) is None
    assert value_bytes(x(n, 2), {}) is None
    assert value_bytes(x(n, 2), {"n": 3}) == 24


# --- regions ------------------------------------------------------------------------


def branches(heavy: int) -> tuple[Graph, Graph]:
    """Two products, and a sum of the same shape."""
    a, b = x(4, heavy), x(4, heavy)
    product = ops.MatMul(ops.MatMul(a, weight(heavy, heavy)), weight(heavy, 4))
    return Graph([a], [product]), Graph([b], [ops.Slice(b, ints(0), ints(4), ints(1))])


def test_of_branches_the_dearer_one_counts() -> None:
    a, condition = x(4, 8), x(dtype=DType.BOOL)
    chosen = ops.If(condition, a, bodies=branches(8))
    flops = 2 * 4 * 8 * 8 + 2 * 4 * 8 * 4
    assert op_cost(chosen).flops == flops
    found = cost(Graph([a, condition], [ops.Relu(chosen)]))
    assert found.flops == flops + 16
    assert found.parameters == 8 * 8 + 8 * 4 + 3
    # Inside: two results of 128 and 64 bytes, beside the operand and the result.
    assert found.peak == 1 + 128 + 64 + 128 + 64


def loop(limit: Value | None, keep: Value) -> ops.Loop:
    number, going, state = x(dtype=DType.I64), x(dtype=DType.BOOL), x(5, 5)
    after = ops.MatMul(state, weight(5, 5))
    body = Graph([number, going, state], [going, after])
    return ops.Loop(limit, keep, x(5, 5), bodies=[body])


def test_a_loop_costs_its_body_so_often() -> None:
    always, sometimes = ops.Constant(np.array(True)), x(dtype=DType.BOOL)
    times = ops.Constant(np.array(7))
    assert op_cost(loop(times, always)).flops == 7 * 2 * 125
    unknown = loop(times, sometimes)
    assert op_cost(unknown) == OpCost(None, None)
    found = cost(Graph([], [unknown, ops.Relu(unknown)]))
    assert found.unknown == {"Loop": 1}
    assert found.flops == 25


def test_a_scan_costs_its_body_for_each_slice() -> None:
    state, row = x(6), x(6)
    body = Graph([state, row], [ops.Add(state, row)])
    scan = ops.Scan(x(6), x(n, 6), num_scan_inputs=1, bodies=[body])
    found = cost(Graph([], [scan]), {"n": 10})
    assert op_cost(scan).flops == 6 * n
    assert found.flops == 60
    assert found.bytes == 10 * 3 * 24


# --- roofline -----------------------------------------------------------------------


def test_the_roofline_is_the_longer_of_two_times() -> None:
    assert roofline(OpCost(1000, 10), 100.0, 10.0) == 10.0
    assert roofline(OpCost(10, 1000), 100.0, 10.0) == 100.0
    assert roofline(OpCost(10 * n, 1000), 100.0, 10.0) is None
    assert roofline(cost(network(), {"n": 1}), 1e9, 1e3) == pytest.approx(
        int(cost(network(), {"n": 1}).bytes) / 1e3  # type: ignore[arg-type]
    )


# --- real models --------------------------------------------------------------------


def test_the_model_that_comes_along(digits: Path) -> None:
    graph, stored = load(digits), onnx.load(digits).graph.initializer
    weights = sum(math.prod(tensor.dims) for tensor in stored)
    one, three = (cost(graph, {"batch": size}) for size in (1, 3))
    assert weights <= one.parameters <= weights + 20  # with axes and pads
    assert one.unknown == {}
    assert one.peak is not None
    assert one.peak < (three.peak or 0) <= 3 * one.peak
    assert three.flops == pytest.approx(3 * one.flops, rel=0.01)


@every_model()
def test_products_of_real_models_cost_what_their_shapes_say(path: Path) -> None:
    """Of convolutions and matrix products with static dims, counted without maps."""
    try:
        graph = load(path)
        stored = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    except Exception as error:
        pytest.skip(str(error))
    expected = products(stored.graph)
    if not expected:
        pytest.skip("no products of static dims")
    ours: list[int] = []
    for op in graph.ops:
        if op.kind in ("Conv", "MatMul", "Gemm"):
            flops = op_cost(op).flops
            assert isinstance(flops, int)
            ours.append(flops)
    assert sorted(ours) == sorted(expected)


def products(graph: onnx.GraphProto) -> list[int]:
    """The operations of each; none at all where a dim is not known."""
    values = [*graph.input, *graph.output, *graph.value_info]
    shapes = {v.name: shape_of(v.type.tensor_type) for v in values}
    shapes |= {t.name: tuple(t.dims) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            shapes[node.output[0]] = tuple(node.attribute[0].t.dims)
    found = []
    for node in graph.node:
        if node.domain or node.op_type not in ("Conv", "MatMul", "Gemm"):
            continue
        a, w = (shapes.get(name) for name in node.input[:2])
        result = shapes.get(node.output[0])
        if a is None or w is None or result is None or min(*a, *w, *result) < 1:
            return []
        facts = {f.name: f.i for f in node.attribute}
        if node.op_type == "Conv":
            depth = math.prod(w[1:])
        else:
            depth = a[-2] if facts.get("transA") else a[-1]
        found.append(2 * math.prod(result) * depth)
    return found


def shape_of(type_: onnx.TypeProto.Tensor) -> tuple[int, ...] | None:
    """Dims, 0 or less for what is not known."""
    if not type_.HasField("shape"):
        return None
    return tuple(dim.dim_value for dim in type_.shape.dim)
