"""Elements of a last axis: a cut holds what a slice would."""

from __future__ import annotations

import numpy as np
import pytest
from equations import const, graph_of, ints, param

from graphopt.ir import Value
from graphopt.ops import Add, Bernoulli, Concat, Gather, Mul, Slice, Tile
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


SLICES = {
    "every other": Slice(X, ints(0), ints(4), ints(1), ints(2)),
    "rows too": Slice(X, ints(1, 0), ints(3, 4), ints(0, 1), ints(1, 2)),
    "columns first": Slice(X, ints(1, 1), ints(4, 3), ints(1, 0), ints(2, 1)),
    "rows alone": Slice(X, ints(1), ints(3), ints(0)),
    "tiles": Tile(X, ints(1, 2)),
    "tiles of rows": Tile(X, ints(2, 2)),
}


@pytest.mark.parametrize("name", SLICES)
def test_what_is_cut_or_repeated_is_cut_again(name: str) -> None:
    value = SLICES[name]
    extent = value.shape[-1] if value.shape else None
    assert isinstance(extent, int)
    for start in range(extent):
        for count in range(1, extent - start + 1):
            same(LastAxis(X).cut(value, start, count), slice_last(value, start, count))


def test_a_cut_of_one_tile_is_a_cut_of_the_source() -> None:
    cut = LastAxis(X).cut(Tile(X, ints(1, 2)), 5, 2)
    assert cut is slice_last(X, 1, 2)


def test_a_cut_of_a_slice_is_a_slice_of_the_source() -> None:
    assert LastAxis(X).cut(SLICES["every other"], 1, 1) is slice_last(X, 2, 1, 2)
    assert LastAxis(X).cut(SLICES["every other"], 0, 2) is slice_last(X, 0, 2, 2)
