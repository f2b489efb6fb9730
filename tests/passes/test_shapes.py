"""Shape arithmetic: what becomes a constant, what is read from inputs, what stays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
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
    rewritten,
    typed,
)

from graphopt import dims
from graphopt.dims import Dim, maximum, minimum, symbol
from graphopt.exporter import choose_opset
from graphopt.exporter.spelled import can_say
from graphopt.ir import Op, Value
from graphopt.ops import (
    Add,
    Cast,
    Concat,
    Conv,
    Div,
    Expand,
    Flatten,
    Gather,
    Max,
    Min,
    Mod,
    Mul,
    NonZero,
    Relu,
    Reshape,
    Shape,
    Size,
    Slice,
    Squeeze,
    Sub,
    Unsqueeze,
)
from graphopt.passes import shapes as s
from graphopt.passes.shapes import Shapes, dims_value, filled_dims, reshape_to
from graphopt.reference import evaluate
from graphopt.rewrite import rewrite
from graphopt.types import DType, TensorType

X = param("x", N, 4, 6)
TWO = param("two", N, M)
FIXED = param("fixed", 2, 3, 4)
UNKNOWN = param("unknown", None, None, 6)
WANTED = param("wanted", 3, dtype=DType.I64)


def at(shape: Value, *where: int) -> Value:
    """One dim, as exporters take it from a shape."""
    return Gather(shape, const(where[0], DType.I64), axis=0)


def row(*parts: Value | int) -> Value:
    """Dims glued to a vector."""
    pieces = [ints(p) if isinstance(p, int) else Unsqueeze(p, ints(0)) for p in parts]
    return Concat(*pieces, axis=0)


n_of_x = at(Shape(X), 0)
n_of_two, m_of_two = at(Shape(TWO), 0), at(Shape(TWO), 1)

EQUATIONS: list[tuple[Any, Value, Value | None]] = [
    (s.reshape_nothing, Reshape(X, Shape(X)), X),
    (s.reshape_nothing, Reshape(X, ints(0, 0, 0)), X),
    (s.reshape_nothing, Reshape(X, ints(0, -1, 6)), X),
    (s.reshape_nothing, Reshape(FIXED, ints(2, 3, 4)), FIXED),
    (s.expand_nothing, Expand(X, Shape(X)), X),
    (s.expand_nothing, Expand(X, ints(1, 1, 1)), X),
    (s.expand_nothing, Expand(X, ints(6)), X),
    (
        s.reshape_by_constant,
        Reshape(X, row(n_of_x, 2, 12)),
        Reshape(X, ints(0, 2, 12)),
    ),
    (
        s.reshape_by_constant,
        Reshape(X, row(n_of_x, -1)),
        Reshape(X, ints(0, 24)),
    ),
    (
        s.reshape_by_constant,
        Reshape(X, row(Mul(n_of_x, const(4, DType.I64)), 6)),
        Reshape(X, ints(-1, 6)),
    ),
    (
        s.reshape_by_constant,
        Reshape(TWO, row(n_of_two, 1, m_of_two)),
        # m is one too far to the right to be copied, and beside it n may be 0
        None,
    ),
    (
        s.reshape_by_constant,
        Reshape(TWO, row(n_of_two, 1, -1)),
        # as the source infers m, n is not 0
        Reshape(TWO, ints(0, 1, -1)),
    ),
]


@pytest.mark.parametrize(("rule", "before", "after"), EQUATIONS)
def test_equation(rule: Any, before: Value, after: Value | None) -> None:
    if after is None:
        misses(rule, before, "more than one dim is unknown")
    else:
        fires(rule, before, after)


def test_a_dim_is_inferred_where_none_beside_it_can_be_zero() -> None:
    """Runtimes refuse -1 for a tensor without elements: [0, -1] of f32[0, 4]."""
    # n*m is at the place of n, so m is beside an inferred dim
    merged = Reshape(TWO, row(Mul(n_of_two, m_of_two)))
    fires(s.reshape_by_constant, merged, Reshape(TWO, ints(-1)))
    tall = param("tall", N, M, 4)
    both = at(Shape(tall), 0), at(Shape(tall), 1)
    apart = Reshape(tall, row(both[0], Mul(both[1], const(4, DType.I64))))
    misses(s.reshape_by_constant, apart, "more than one dim is unknown")
    # the -1 of the source is at m*4: n is not 0
    fires(
        s.reshape_by_constant,
        Reshape(tall, row(both[0], -1)),
        Reshape(tall, ints(0, -1)),
    )
    # the -1 of the source is at n: nothing is known of n
    turned = Reshape(tall, row(-1, Mul(both[1], const(4, DType.I64))))
    misses(s.reshape_by_constant, turned, "more than one dim is unknown")


def test_an_empty_batch_survives() -> None:
    """What becomes of n = 0 is what was there before."""
    for asked in (row(n_of_x, 24), row(Mul(n_of_x, const(4, DType.I64)), 6)):
        done = rewritten(
            s.reshape_by_constant, Reshape(X, asked), sizes=({"n": 0}, {"n": 2})
        )
        assert kinds(done) == ["Reshape"]


def test_filled_dims_come_from_a_minus_one() -> None:
    made = Reshape(TWO, row(n_of_two, -1, 1))
    assert filled_dims(made) == [N, 1]
    assert filled_dims(Reshape(TWO, row(n_of_two, m_of_two))) == []
    assert filled_dims(Relu(X), Flatten(X)) == []


@pytest.mark.parametrize(
    ("source", "target", "wanted"),
    [
        ((N, 4), (N, 4), None),
        ((N, 4), (N, 2, 2), (0, 2, 2)),
        ((N, 4), (4, N), (4, -1)),
        ((N, M), (M, N), "no"),
        ((1 + N, 1 + M), (1 + M, 1 + N), "no"),  # none is zero, but there are two
        ((N, M), (N * 2, M), "no"),  # beside it m may be zero
        ((N, M), (N * M,), (-1,)),
        ((0, 4), (0, 2), (0, 2)),
        ((3, 0), (0, 5), "no"),
        ((2, 3), (6,), (6,)),
        ((2, 3), (), "no"),
        ((1, 1), (), ()),
    ],
)
def test_reshape_to(source: Any, target: Any, wanted: Any) -> None:
    if wanted == "no" and not target:
        return  # no such reshape: the caller never asks
    x = param("x", *source)
    made = reshape_to(x, target)
    if wanted == "no":
        assert made is None
    elif wanted is None:
        assert made is x
    else:
        assert made is Reshape(x, ints(*wanted))


GUARDS: list[tuple[Any, Value, str]] = [
    (s.reshape_nothing, Reshape(X, ints(0, 6, 4)), ""),
    (s.reshape_nothing, Reshape(FIXED, WANTED), ""),
    (s.reshape_nothing, Reshape(UNKNOWN, ints(0, 0, 0)), ""),
    (s.expand_nothing, Expand(X, ints(2, 1, 1, 1)), ""),
    (s.expand_nothing, Expand(param("one", 1, 4), Shape(TWO)), ""),
    (s.expand_nothing, Expand(TWO, row(m_of_two, 1)), ""),
    (s.reshape_by_constant, Reshape(X, ints(0, 2, 12)), ""),
    (s.reshape_by_constant, Reshape(FIXED, WANTED), "more than one dim is unknown"),
    (
        s.reshape_by_constant,
        Reshape(X, row(at(Shape(NonZero(X)), 1), -1)),
        "more than one dim is unknown",
    ),
    (s.known_dims, Shape(X), ""),
    (s.known_dims, Shape(X, start=0, end=2), ""),
    (s.known_dims, Shape(FIXED), ""),
    (s.known_dims, at(Shape(X), 0), "as short as it can be"),
    (s.known_dims, Shape(NonZero(X)), ""),
    (s.known_dims, Size(X), "as short as it can be"),
    (s.known_dims, Cast(at(Shape(X), 0), to=DType.I32), "as short as it can be"),
]


@pytest.mark.parametrize(("rule", "before", "reason"), GUARDS)
def test_guard(rule: Any, before: Value, reason: str) -> None:
    outcome_of = misses if not isinstance(before, Shape) else misses_quietly
    outcome_of(rule, before, reason)


def misses_quietly(rule: Any, before: Value, reason: str) -> None:
    """Dims that are as short as they can be say so, and stay."""
    graph = graph_of(before)
    assert rewrite(graph, [rule]) is graph


def test_allowzero() -> None:
    """With ``allowzero`` 0 is a dim; a rule must not take it for a copy."""
    empty = param("empty", 0, 3)
    fires(s.reshape_nothing, Reshape(empty, ints(0, 3), allowzero=1), empty)
    misses(s.reshape_nothing, Reshape(empty, ints(3, 0), allowzero=1))
    misses(s.reshape_by_constant, Reshape(empty, ints(3, 0), allowzero=1))
    asked = Concat(Slice(Shape(X), ints(1), ints(2)), ints(0), axis=0)  # [4, 0]
    made = Reshape(empty, asked, allowzero=1)
    assert made.shape == (4, 0)
    misses(s.reshape_by_constant, made, "more than one dim is unknown")


# --- dims read from inputs ----------------------------------------------------------


def test_dims_of_any_value_are_read_from_the_inputs() -> None:
    deep = Relu(Relu(Reshape(X, ints(0, 24))))
    done = rewritten(s.known_dims, at(Shape(deep), 0))
    assert done.outputs == (at(Shape(X), 0),)


def test_a_run_of_dims_is_one_shape() -> None:
    y = param("y", 1, N, M, 3)
    pair = row(at(Shape(y), 1), at(Shape(y), 2))
    done = rewritten(s.known_dims, Concat(pair, ints(7), axis=0))
    assert done.outputs == (Concat(Shape(y, start=1, end=3), ints(7), axis=0),)
    done = rewritten(s.known_dims, Concat(pair, ints(7), axis=0), opset=13)
    assert done.outputs == (Concat(Gather(Shape(y), ints(1, 2)), ints(7), axis=0),)
    parts = (Shape(Relu(y), start=1, end=2), ints(7), Shape(Relu(y), start=3))
    done = rewritten(s.known_dims, Concat(*parts, axis=0))
    assert done.outputs == (Concat(Shape(y, start=1, end=2), ints(7, 3), axis=0),)
    done = rewritten(s.known_dims, Concat(pair, ints(7), pair, axis=0))
    wanted = Shape(y, start=1, end=3)
    assert done.outputs == (Concat(wanted, ints(7), wanted, axis=0),)
    done = rewritten(s.known_dims, row(at(Shape(y), 2), 3))
    assert done.outputs == (Shape(y, start=2),)


def test_a_sum_in_a_vector_of_dims() -> None:
    deep = Shape(Relu(TWO))
    done = rewritten(s.known_dims, row(Add(at(deep, 0), at(deep, 1)), 3))
    assert kinds(done).count("Reshape") == 1


def test_a_parameter_of_unknown_rank_has_no_dims() -> None:
    vague = typed("vague", TensorType(DType.F32, None))
    graph = graph_of(Relu(TWO), inputs=[vague, TWO])
    assert dims_value(graph, [N, M], at_opset(20)) is Shape(TWO)


def test_the_longest_run_is_taken() -> None:
    first, second = param("first", N, M, 3), param("second", 1, N)
    vector = Concat(Shape(Relu(first), end=2), ints(7), axis=0)
    graph = graph_of(vector, inputs=[first, second])
    (value,) = rewrite(graph, [s.known_dims]).outputs
    assert value is Concat(Shape(first, start=0, end=2), ints(7), axis=0)


def test_a_vector_with_a_dim_that_no_input_has_stays() -> None:
    count = Shape(NonZero(X), start=1)
    misses(s.known_dims, Concat(Shape(X, end=1), count, axis=0), "no sum or product")


def test_sums_and_products_are_written_once() -> None:
    b = Shape(Relu(TWO))
    twice = Add(at(b, 0), Add(at(b, 1), at(b, 0)))
    done = rewritten(s.known_dims, Add(twice, Sub(twice, twice)))
    (value,) = done.outputs
    n, m = at(Shape(TWO), 0), at(Shape(TWO), 1)
    assert value in (
        Add(Mul(n, const(2, DType.I64)), m),
        Add(m, Mul(n, const(2, DType.I64))),
    )


def at_opset(opset: int) -> Callable[[Op], bool]:
    return partial(can_say, version=opset)


K: Any = N
L: Any = M
DIMS: list[tuple[Dim, int, str | None]] = [
    (K + 1, 7, "Shape Gather Add"),
    (K * L * 3, 7, "Shape Gather Mul"),
    (K // 2, 7, "Shape Gather Div"),
    (K % 2, 10, "Shape Gather Mod"),
    (K % 2, 9, None),
    (maximum(N, M), 12, "Shape Gather Max"),
    (maximum(N, M), 11, None),
    (maximum(K - 3, 0), 12, "Shape Gather Add Max"),
    (minimum(N, 3), 12, "Shape Gather Min"),
    (minimum(N, 3), 11, None),
    ((K - 3) // 2, 20, "Shape Gather Add Div"),  # (n + 1) // 2 - 2
    ((K - 3) // (L + 1), 20, None),  # rounds down where ONNX rounds to zero
    (7 // (K + 1), 20, "Shape Gather Add Div"),
    (symbol("elsewhere"), 20, None),
    (None, 20, None),
]


@pytest.mark.parametrize(("dim", "opset", "kinds_"), DIMS, ids=str)
def test_dims_as_values(dim: Dim, opset: int, kinds_: str | None) -> None:
    made = dims_value(graph_of(TWO), [dim], at_opset(opset), scalar=True)
    if kinds_ is None:
        assert made is None
        return
    assert made is not None
    graph = graph_of(made, opset=opset)
    assert set(kinds(graph)) == set(kinds_.split())
    assert choose_opset(graph).version == opset
    for n, m in ((5, 2), (1, 3), (0, 4)):
        (got,) = evaluate(graph, [np.zeros((n, m), np.float32)])
        assert got == dims.evaluate(dim, {"n": n, "m": m})


def test_a_longer_way_is_not_taken() -> None:
    """Reading n // 2 from one op is shorter than computing it from the input."""
    w = const(np.ones((1, 1, 2)))
    half = Conv(param("wave", 1, 1, N), w, strides=(2,), kernel_shape=(2,))
    misses(s.known_dims, at(Shape(half), 2), "as short as it can be")


def test_division_of_negative_numbers_is_left_alone() -> None:
    n = at(Shape(TWO), 0)
    shifted = Div(Sub(n, const(3, DType.I64)), const(2, DType.I64))
    assert shifted.contents is None
    done = rewritten(s.known_dims, shifted, sizes=({"n": 0, "m": 1}, {"n": 8, "m": 1}))
    assert kinds(done) == ["Shape", "Gather", "Add", "Div"]
    assert Mod(n, Sub(n, const(5, DType.I64))).contents is None


def test_the_pass_leaves_no_arithmetic_in_a_dynamic_model() -> None:
    x = param("tokens", N, M, 12)
    shape = Shape(Relu(x))
    heads = Reshape(x, row(at(shape, 0), at(shape, 1), 3, 4))
    back = Reshape(Relu(heads), row(at(Shape(heads), 0), at(Shape(heads), 1), 12))
    graph = graph_of(back, Squeeze(Unsqueeze(back, ints(0)), ints(0)))
    done = Shapes()(graph)
    assert not {"Shape", "Gather", "Concat"} & set(kinds(done))


def test_max_and_min_of_dims_are_dims() -> None:
    top = Max(n_of_two, m_of_two)
    assert Max(top, n_of_two).contents is not None
    assert Min(top, const(3, DType.I64)).contents is not None
