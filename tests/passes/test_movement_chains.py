"""Moves that meet: through ops between them, and several on one chain."""

from __future__ import annotations

from itertools import permutations

import pytest
from equations import (
    M,
    N,
    const,
    fires,
    graph_of,
    ints,
    kinds,
    misses,
    param,
    random,
    rewritten,
)
from moved_values import DYNAMIC, FAR, ROW, VAGUE, D, X

from graphopt.ir import Value
from graphopt.ops import (
    Add,
    Bernoulli,
    Clip,
    Concat,
    DequantizeLinear,
    Flatten,
    Max,
    Mul,
    Pad,
    Relu,
    Reshape,
    Sigmoid,
    Slice,
    Softmax,
    Squeeze,
    Tile,
    Transpose,
    Unsqueeze,
)
from graphopt.passes import movement as m
from graphopt.passes.fold import Fold
from graphopt.passes.movement import Movement

# --- transposes ---------------------------------------------------------------------


@pytest.mark.parametrize("p", list(permutations(range(3))))
@pytest.mark.parametrize("q", [(1, 2, 0), (2, 0, 1), (0, 2, 1)])
def test_every_pair_of_transposes(p: tuple[int, ...], q: tuple[int, ...]) -> None:
    done = rewritten(m.transpose_transpose, Transpose(Transpose(X, perm=p), perm=q))
    assert kinds(done) == ["Transpose"]


def test_transposes_meet_through_elementwise_ops() -> None:
    inner = Transpose(X, perm=(1, 2, 0))
    gain = random(4, 2)
    before = Transpose(Mul(Relu(inner), gain), perm=(2, 0, 1))
    done = rewritten([m.transpose_through, m.transpose_transpose], before)
    assert sorted(kinds(done)) == ["Mul", "Relu", "Reshape", *["Transpose"] * 2]
    # of x nothing is moved any more; what is left moves a constant
    assert sorted(kinds(Movement()(done))) == ["Mul", "Relu", "Reshape", "Transpose"]
    assert kinds(Fold()(Movement()(done))) == ["Relu", "Mul"]


def test_a_square_constant_is_turned_too() -> None:
    before = Transpose(Mul(Transpose(param("two", 2, 2)), random(2, 2)))
    rewritten(m.transpose_through, before)


def test_a_transposed_scalar_stays_a_scalar() -> None:
    before = Transpose(Clip(Transpose(X), const(0.0), const(1.0)))
    done = rewritten(m.transpose_through, before)
    assert kinds(done) == ["Transpose", "Transpose", "Clip"]


THROUGH = [
    (Transpose(Relu(X), perm=(1, 0, 2)), ""),  # no other transpose to meet
    (Transpose(Max(Transpose(X), param("z", 4, 3, 2))), ""),
    (Transpose(Softmax(Transpose(X), axis=1)), ""),
    (Transpose(Add(Transpose(ROW), param("b", 3, 4))), ""),  # not of one rank
    (Transpose(Mul(Transpose(X), Transpose(X))), ""),
    (Transpose(Relu(VAGUE)), ""),
    (Transpose(Bernoulli(Transpose(X), token=1)), ""),
    (
        Transpose(
            DequantizeLinear(
                Transpose(param("i", 2, 3, dtype=D.I8)), const([0.5, 2.0]), axis=1
            )
        ),
        "",
    ),
]


@pytest.mark.parametrize(("before", "reason"), THROUGH)
def test_what_transposes_do_not_pass(before: Value, reason: str) -> None:
    misses(m.transpose_through, before, reason)


def test_transposes_do_not_pass_what_others_read() -> None:
    inner = Sigmoid(Transpose(X))
    misses(m.transpose_through, (Transpose(inner), inner))
    fires(
        m.transpose_through,
        Transpose(inner),
        Sigmoid(Transpose(Transpose(X), perm=(2, 1, 0))),
    )


def test_shared_reshapes_do_not_hold_a_transpose_back() -> None:
    inner = Unsqueeze(DYNAMIC, ints(1))
    before = Transpose(inner, perm=(1, 0, 2, 3))
    misses(m.transpose_ones, (before, inner))


# --- reshapes -----------------------------------------------------------------------


def test_two_reshapes_keep_an_empty_batch_alive() -> None:
    """[0, -1] where n may be 0 is no stand-in for [-1, 12]: runtimes refuse it."""
    y = param("y", N, M, 4)
    inner = Reshape(y, ints(0, -1))  # says that n is not 0
    fires(m.reshape_reshape, Unsqueeze(inner, ints(2)), Reshape(y, ints(0, -1, 1)))
    flat = Flatten(y)
    misses(m.reshape_reshape, Unsqueeze(flat, ints(2)), "cannot be said by a constant")


def test_a_chain_of_reshapes_is_one() -> None:
    value: Value = X
    for shape in ((6, 4), (24,), (2, 12), (3, 8), (4, 3, 2)):
        value = Reshape(value, ints(*shape))
    fires(m.reshape_reshape, value, Reshape(X, ints(4, 3, 2)))


def test_nothing_is_lost_on_the_way() -> None:
    """All rules together on one chain: sound, and settled after one run."""
    value: Value = Squeeze(Unsqueeze(DYNAMIC, ints(0)), ints(0))
    value = Pad(Transpose(value, perm=(1, 0, 2)), ints(*[0] * 6))
    value = Transpose(Unsqueeze(value, ints()), perm=(1, 0, 2))
    value = Tile(Concat(value, axis=0), ints(1, 1, 1))
    graph = graph_of(Slice(value, ints(0), ints(FAR), ints(1)))
    done = Movement()(graph)
    assert done.outputs == (DYNAMIC,)
    assert Movement()(done) is done


def test_transpose_stays_behind_what_broadcasts_to_more_axes() -> None:
    """transpose(transpose(x: 2 axes) + c: 3 axes) cannot be one transpose of x."""
    x = param("matrix", 3, 4)
    wider = Add(Transpose(x), random(2, 4, 3))
    misses(m.transpose_through, Transpose(wider, perm=(2, 1, 0)))
