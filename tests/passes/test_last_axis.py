"""Elements of a last axis: a cut holds what a slice would."""

from __future__ import annotations

import numpy as np
import pytest
from equations import const, graph_of, ints, param

from graphopt.ir import Value
from graphopt.ops import Add, Bernoulli, Concat, Gather, Mul, Slice
from graphopt.passes.last_axis import LastAxis, slice_last
from graphopt.reference import evaluate
from graphopt.types import DType

X, Y = param("x", 3, 4), param("y", 3, 4)
PARTS = Concat(Slice(X, ints(0), ints(2), ints(1)), Y, axis=1)
TABLE = const(np.arange(12).reshape(3, 4))


def same(cut: Value, before: Value) -> None:
    graph = graph_of(cut, before)
    feeds = [np.random.default_rng(i).normal(size=(3, 4)) for i in range(2)]
    made, wanted = evaluate(graph, [x.astype("f4") for x in feeds[: len(graph.inputs)]])
    np.testing.assert_array_equal(made, wanted)


@pytest.mark.parametrize("x", [X, TABLE, PARTS])
@pytest.mark.parametrize(
    "positions",
    [(3, 2, 1, 0), (2, 0, 1), (1, 1), (3, 1), (-1, -2), (0, 2), (1, 0, 1, 0)],
)
def test_gathered_in_any_order(x: Value, positions: tuple[int, ...]) -> None:
    gathered = Gather(x, ints(*positions), axis=-1)
    for start in range(len(positions)):
        for count in range(1, len(positions) - start + 1):
            cut = LastAxis(X).cut(gathered, start, count)
            same(cut, slice_last(gathered, start, count))
        at = LastAxis(X).at(gathered, start)
        same(at, Gather(gathered, const(start, DType.I64), axis=-1))


def test_a_table_read_backwards_two_times() -> None:
    """Both halves are one value."""
    axis = LastAxis(X)
    twice = Gather(TABLE, ints(1, 0, 1, 0), axis=-1)
    assert axis.cut(twice, 0, 2) is axis.cut(twice, 2, 2)


def test_what_is_drawn_stays_whole() -> None:
    """Numbers drawn for a part are others than those drawn for all."""
    drawn = Bernoulli(X)
    axis = LastAxis(X)
    assert axis.cut(Mul(drawn, Y), 0, 2) is Mul(
        slice_last(drawn, 0, 2), slice_last(Y, 0, 2)
    )
    at = axis.at(Add(drawn, Y), 1)
    assert all(isinstance(v, Gather) for v in at.op.operands if at.op)
