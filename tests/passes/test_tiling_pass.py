"""Tiles until a run fits: which regions, how small, and that nothing changes."""

from __future__ import annotations

import re

import numpy as np
import pytest
from equations import const, graph_of, ints, param, random
from tiled_regions import checked, counts

from graphopt import dims
from graphopt.driver import optimize
from graphopt.errors import UsageError
from graphopt.exporter import to_proto
from graphopt.ir import Graph, Value
from graphopt.ops import (
    Add,
    And,
    Constant,
    Conv,
    Exp,
    Expand,
    Gelu,
    LessOrEqual,
    MatMul,
    Neg,
    Relu,
    Reshape,
    Softmax,
    Transpose,
    Where,
)
from graphopt.passes import Tile
from graphopt.passes.tiling.choice import sizes
from graphopt.passes.tiling.copies import apart, makers, together
from graphopt.passes.tiling.needs import Meter
from graphopt.passes.tiling.written import written_out
from graphopt.rewrite import Log
from graphopt.types import DType


def stack(length: int = 64) -> Graph:
    """Blocks of attention and MLP: both have large values that nobody reads later."""
    x = param("x", 1, length, 8)
    h: Value = x
    for i in range(2):
        q, k, v = (
            Transpose(
                Reshape(MatMul(h, random(8, 8, seed=s + i)), ints(1, length, 2, 4)),
                perm=(0, 2, 1, 3),
            )
            for s in range(3)
        )
        scores = MatMul(q, Transpose(k, perm=(0, 1, 3, 2)))
        y = Transpose(MatMul(Softmax(scores), v), perm=(0, 2, 1, 3))
        h = Add(h, Reshape(y, ints(1, length, 8)))
        up = Gelu(MatMul(h, random(8, 64, seed=i)))
        h = Add(h, MatMul(up, random(64, 8, seed=i)))
    return graph_of(h, inputs=[x])


def test_the_pass_comes_under_the_budget() -> None:
    graph = stack()
    meter = Meter({})
    whole = meter.needs(graph).peak
    for share in (0.5, 0.4, 0.36):
        log = Log()
        budget = int(share * whole)
        made = Tile(budget=budget).run(graph, log)
        assert meter.needs(made).peak <= budget
        checked(graph, made)
        said = [re.match(r"(\d+) x ", note) for note in log.notes]
        assert log.fired["tile"] == sum(int(m[1]) if m else 1 for m in said)


def masked(layers: int = 3, length: int = 64) -> Graph:
    """Layers that share a mask, which follows from a row of small inputs."""
    x = param("x", 1, length, 8)
    row = param("row", 1, length, dtype=DType.BOOL)
    column = Constant(np.arange(length).reshape(1, -1))
    causal = LessOrEqual(column, Constant(np.arange(length).reshape(-1, 1)))
    seen = And(causal, row)
    h: Value = x
    for i in range(layers):
        scores = MatMul(MatMul(h, random(8, 8, seed=i)), Transpose(h, perm=(0, 2, 1)))
        hidden = Where(seen, scores, Constant(np.float32(-100)))
        h = Add(h, MatMul(Softmax(hidden), h))
    return graph_of(h, inputs=[x, row])


def test_tiles_make_their_own_part_of_a_mask_that_layers_share() -> None:
    graph = masked()
    meter = Meter({})
    whole = meter.needs(graph).peak
    budget = int(0.36 * whole)
    made = Tile(budget=budget)(graph)
    assert meter.needs(made).peak <= budget
    assert not any(isinstance(op, And) for op in made.ops)
    inside = [op for _, op in made.walk() if isinstance(op, And)]
    assert len({op.instance for op in inside}) == 3
    checked(graph, made)
    checked(graph, written_out(made)[0])


def test_long_chains_of_cheap_ops_are_made_by_each_reader() -> None:
    """Such as the buckets of relative positions, 16 ops and more."""
    wide: Value = Expand(param("row", 1, 64), ints(64, 64))
    for _ in range(10):
        wide = Neg(Add(wide, const(1.0)))
    readers = [MatMul(wide, param(name, 64, 64)) for name in "ab"]
    _, copies = apart(graph_of(*readers), Meter({}), 64 * 64)
    assert len(copies) == 2


def test_copies_that_no_tiles_took_are_one_again() -> None:
    graph = masked()
    meter = Meter({})
    parted, copies = apart(graph, meter, 64 * 64)
    assert sum(isinstance(op, And) for op in parted.ops) == len(copies) == 3
    checked(graph, parted)
    merged = together(parted, copies)
    assert sum(isinstance(op, And) for op in merged.ops) == 1
    made = Tile(budget=1)(graph)
    checked(graph, made)
    assert meter.needs(made).peak < meter.needs(graph).peak


def test_the_makers_of_a_value_are_told_once_each() -> None:
    value: Value = param("x", 4)
    for _ in range(40):  # as many ways to the first as 2 ** 40
        value = Add(value, value).copy(instance=7)
    assert value.op is not None
    found = makers(value, range(7, 9))
    assert len(found) == len({*found}) == 40
    assert found[0] is value.op
    for _ in range(2000):
        value = Relu(value).copy(instance=8)
    assert len(makers(value, range(7, 9))) == 2040
    assert len(makers(value, range(8, 9))) == 2000


def test_copies_of_others_are_no_makers() -> None:
    """Recomputation makes ops of other instances too, which one reader does not own."""
    chain = Relu(Exp(param("x", 64)).copy(instance=1))
    assert makers(chain.op.operands[0], range(2, 4)) == []
    assert makers(chain.op.operands[0], ()) == []
    assert makers(None, range(4)) == []


def test_no_region_is_tiled_where_all_fits() -> None:
    graph = stack()
    assert Tile(budget=1 << 30)(graph) is graph


def test_what_cannot_be_reached_is_said() -> None:
    log = Log()
    made = Tile(budget=1000).run(stack(), log)
    assert "no tiling helps" in log.notes[-1]
    checked(stack(), made)


def test_a_convolution_chain_is_tiled_by_rows() -> None:
    x = param("x", 1, 3, 256, 256)
    y = Relu(Conv(x, random(32, 3, 3, 3), pads=(1,) * 4, strides=(2, 2)))
    y = Relu(Conv(y, random(32, 1, 3, 3), pads=(1,) * 4, group=32, strides=(2, 2)))
    y = Conv(y, random(8, 32, 1, 1))
    graph = graph_of(y)
    meter = Meter({})
    before = meter.needs(graph).peak
    made = Tile(budget=before // 3)(graph)
    assert meter.needs(made).peak <= before // 3
    assert meter.flops(made) < 1.15 * meter.flops(graph)
    checked(graph, made)


@pytest.mark.parametrize("extent", [2, 3, 7, 8, 24, 197, 2048, 2305])
def test_sizes_are_few_and_leave_one_remainder(extent: int) -> None:
    found = sizes(extent)
    assert found == sorted(set(found), reverse=True)
    assert all(0 < size < extent for size in found)
    assert len(found) <= 10


def test_symbolic_batches_stay() -> None:
    n = dims.symbol("n")
    x = param("x", n, 32, 8)
    y = MatMul(Relu(MatMul(x, random(8, 64))), random(64, 8))
    graph = graph_of(y)
    made = Tile(budget=4 * (2 * 32 * 8 + 1000))(graph)
    assert counts(made)
    assert made.outputs[0].shape == (n, 32, 8)
    checked(graph, made)


@pytest.mark.parametrize("target", ["onnx", "ort-cpu", "xla-cpu"])
def test_the_driver_runs_it_last_and_checks_the_result(target: str) -> None:
    if target != "onnx":
        pytest.importorskip("onnxruntime" if target == "ort-cpu" else "jax")
    graph = stack().with_header(opsets={"": 23}, ir_version=10)
    budget = Meter({}).needs(graph).peak // 3
    result = optimize(graph, target, add=[f"tile(budget={budget})"])
    assert counts(result.graph)
    (record,) = (r for r in result.report.passes if r.name.startswith("tile("))
    assert "bytes at the peak" in record.notes[0]
    assert not any(
        node.op_type == "Tiled" for node in to_proto(result.graph).graph.node
    )


def test_a_budget_is_a_size() -> None:
    small = graph_of(Add(param("x", 1, dtype=DType.U8), param("y", 1, dtype=DType.U8)))
    assert Tile()(small) is small
    with pytest.raises(UsageError, match="no size of memory"):
        Tile(budget=-1)(small)


def test_a_tile_that_does_not_fit_is_left_out() -> None:
    """Like heads of detectors: rows that a Reshape takes apart by numbers."""
    x = param("x", 1, 6, 40, 30)
    rows = Transpose(Relu(Conv(x, random(6, 6, 3, 3), pads=[1] * 4)), perm=(0, 2, 3, 1))
    graph = graph_of(Softmax(Reshape(rows, ints(1, -1, 2))))
    for share in (2, 3, 5, 9):
        made = Tile(budget=Meter({}).needs(graph).peak // share)(graph)
        checked(graph, made)
