"""Dims of results where those of operands are symbols; shape arithmetic by movement."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt import ops
from graphopt.dims import evaluate as evaluate_dim, parse_dim, symbol
from graphopt.errors import TypeMismatch
from graphopt.ir import Graph, Parameter, Value
from graphopt.ops.reshaping import factored
from graphopt.types import DType, TensorType, tensor

B, S = symbol("b"), symbol("s")
X = Parameter(tensor(DType.F32, B, S, 512), "x")
IMAGE = Parameter(tensor(DType.F32, B, 3, S, 224), "image")
FOUR = Parameter(tensor(DType.F32, B, 4, 512), "four")
UNSURE = Parameter(tensor(DType.F32, None, None, 512), "u")
RANKLESS = Parameter(TensorType(DType.F32), "r")
END = 2**63 - 1


def ints(*values: int) -> Value:
    return ops.Constant(np.array(values, np.int64))


def reals(*values: float) -> Value:
    return ops.Constant(np.array(values, np.float32))


def vector(length: int) -> Value:
    """Integers of which nothing but the number is known."""
    return Parameter(tensor(DType.I64, length), "v")


def weights(*dims: int) -> Value:
    return Parameter(tensor(DType.F32, *dims), "w")


def part(start: int, end: int) -> Value:
    """Some dims of X."""
    return ops.Slice(ops.Shape(X), ints(start), ints(end))


def joined(*parts: Value) -> Value:
    return ops.Concat(*parts, axis=0)


SHIFTED = ops.Pad(ops.Slice(X, ints(1), ints(END), ints(1)), ints(0, 0, 0, 0, 1, 0))
"""Each position holds the next one."""

DIMS: list[tuple[Value, str]] = [
    (ops.Reshape(X, ints(0, 0, 8, 64)), "b; s; 8; 64"),
    (ops.Reshape(X, ints(0, 0, 8, -1)), "b; s; 8; 64"),
    (ops.Reshape(X, ints(-1, 8, 64)), "b*s; 8; 64"),
    (ops.Reshape(X, ints(-1, 1024)), "b*s//2; 1024"),
    (ops.Reshape(X, joined(part(0, 2), ints(8, -1))), "b; s; 8; 64"),
    (ops.Reshape(X, joined(part(0, 1), ints(-1, 8, 64))), "b; s; 8; 64"),
    (ops.Reshape(UNSURE, ints(0, 0, 8, -1)), "?; ?; 8; 64"),
    (ops.Reshape(RANKLESS, ints(0, -1, 4)), "?; ?; 4"),
    (ops.Reshape(X, vector(2)), "?; ?"),
    (ops.Flatten(X, axis=2), "b*s; 512"),
    (ops.Flatten(X, axis=0), "1; 512*b*s"),
    (ops.Unsqueeze(X, ints(0, -1)), "1; b; s; 512; 1"),
    (ops.Unsqueeze(X, vector(1)), "?; ?; ?; ?"),
    (ops.Squeeze(ops.Unsqueeze(X, ints(1)), ints(1)), "b; s; 512"),
    (ops.Squeeze(X, vector(1)), "?; ?"),
    (ops.Transpose(X, perm=(2, 0, 1)), "512; b; s"),
    (ops.Transpose(RANKLESS, perm=(1, 0)), "?; ?"),
    (ops.Expand(weights(1, 512), joined(part(0, 2), ints(1))), "b; s; 512"),
    (ops.Tile(X, ints(2, 1, 3)), "2*b; s; 1536"),
    (ops.Concat(X, FOUR, X, axis=1), "b; 2*s + 4; 512"),
    (ops.Concat(SHIFTED, X, axis=2), "b; s; 1024"),  # equal, or it cannot run
    (ops.Concat(UNSURE, X, axis=2), "b; s; 1024"),
    (ops.Slice(X, ints(1), ints(END), ints(1)), "b; max(s - 1, 0); 512"),
    (ops.Slice(X, ints(0), ints(-1), ints(1)), "b; max(s - 1, 0); 512"),
    (ops.Slice(X, ints(-1), ints(END), ints(1)), "b; min(s, 1); 512"),
    (ops.Slice(X, ints(0), ints(END), ints(1), ints(2)), "b; (s + 1)//2; 512"),
    (ops.Slice(X, ints(-1), ints(-END), ints(1), ints(-1)), "b; s; 512"),
    (ops.Slice(X, ints(0), part(1, 2), ints(2)), "b; s; min(512, s)"),
    (ops.Slice(X, ops.Neg(part(1, 2)), ints(END), ints(1)), "b; s; 512"),
    (ops.Slice(FOUR, ops.Neg(part(1, 2)), ints(END), ints(1)), "b; ?; 512"),
    (ops.Slice(X, vector(1), ints(4), ints(1)), "b; ?; 512"),
    (ops.Slice(X, ints(0), ints(4), vector(1)), "?; ?; ?"),
    (ops.Pad(X, ints(0, 1, 0, 0, 2, -12)), "b; s + 3; 500"),
    (ops.CenterCropPad(X, ints(7), axes=(1,)), "b; 7; 512"),
    (ops.DepthToSpace(weights(2, 8, 3, 5), blocksize=2), "2; 2; 6; 10"),
    (ops.SpaceToDepth(IMAGE, blocksize=2), "b; 12; s//2; 112"),
    (ops.Gather(X, vector(7), axis=1), "b; 7; 512"),
    (ops.Conv(IMAGE, weights(8, 3, 3, 3)), "b; 8; s - 2; 222"),
    (
        ops.Conv(IMAGE, weights(8, 3, 7, 7), pads=(3, 3, 3, 3), strides=(2, 2)),
        "b; 8; (s + 1)//2; 112",
    ),
    (
        ops.Conv(IMAGE, weights(8, 3, 3, 3), auto_pad="SAME_UPPER", strides=(2, 2)),
        "b; 8; (s + 1)//2; 112",
    ),
    (
        ops.ConvTranspose(IMAGE, weights(3, 4, 2, 2), strides=(2, 2), group=3),
        "b; 12; 2*s; 448",
    ),
    (
        ops.MaxPool(IMAGE, kernel_shape=(2, 2), strides=(2, 2)),
        "b; 3; s//2; 112",
    ),
    (ops.GlobalAveragePool(IMAGE), "b; 3; 1; 1"),
    (ops.Resize(IMAGE, None, reals(1, 1, 2, 0.5)), "b; 3; 2*s; 112"),
    (ops.Resize(IMAGE, None, reals(1, 1, 0.5, 2)), "b; 3; s//2; 448"),
    (ops.Resize(IMAGE, None, None, ints(7, 9), axes=(2, 3)), "b; 3; 7; 9"),
    (ops.LSTM(X, weights(1, 32, 512), weights(1, 32, 8), hidden_size=8), "b; 1; s; 8"),
    (ops.QuantizeLinear(X, reals(0.5)), "b; s; 512"),
]


@pytest.mark.parametrize(("value", "dims"), DIMS, ids=lambda v: getattr(v, "kind", v))
def test_dims(value: Value, dims: str) -> None:
    assert value.shape == tuple(parse_dim(dim) for dim in dims.split("; "))


def test_split_of_symbols() -> None:
    assert [str(t) for t in ops.Split(X, axis=1, num_outputs=2).types] == [
        "f32[b, (s + 1) // 2, 512]",
        "f32[b, -((s + 1) // 2) + s, 512]",
    ]
    thirds = ops.Split(ops.Tile(X, ints(3, 1, 1)), axis=0, num_outputs=3)
    assert [t.shape for t in thirds.types] == [X.shape] * 3  # type: ignore[union-attr]
    pieces = ops.Split(X, vector(2), axis=2)
    assert [t.shape for t in pieces.types] == [(B, S, None)] * 2  # type: ignore[union-attr]


SHAPE = ops.Shape(X)
FIRST = ops.Constant(np.array([[0], [2]]))
CONTENTS: list[tuple[Value, list[str]]] = [
    (part(1, 3), ["s", "512"]),
    (ops.Slice(SHAPE, ints(-1), ints(-END), ints(0), ints(-2)), ["512", "b"]),
    (ops.Gather(SHAPE, ints(-1, 0)), ["512", "b"]),
    (ops.GatherElements(SHAPE, ints(2, 0)), ["512", "b"]),
    (ops.GatherND(SHAPE, FIRST), ["b", "512"]),
    (ops.ScatterElements(SHAPE, ints(1), ints(7)), ["b", "7", "512"]),
    (ops.ScatterND(SHAPE, FIRST, ints(1, 2)), ["1", "s", "2"]),
    (ops.Concat(SHAPE, ints(4), axis=0), ["b", "s", "512", "4"]),
    (ops.Reshape(SHAPE, ints(3, 1)), ["b", "s", "512"]),
    (ops.Flatten(SHAPE, axis=0), ["b", "s", "512"]),
    (ops.Unsqueeze(ops.Squeeze(part(1, 2)), ints(0)), ["s"]),
    (ops.Expand(part(1, 2), ints(2)), ["s", "s"]),
    (ops.Tile(part(0, 2), ints(2)), ["b", "s", "b", "s"]),
    (ops.Split(SHAPE, ints(1, 2), axis=0).results[1], ["s", "512"]),
    (ops.Transpose(ops.Reshape(SHAPE, ints(1, 3))), ["b", "s", "512"]),
]


@pytest.mark.parametrize(
    ("value", "wanted"), CONTENTS, ids=[str(value.op) for value, _ in CONTENTS]
)
def test_contents(value: Value, wanted: list[str]) -> None:
    assert value.contents is not None
    assert [str(v) for v in value.contents.ravel()] == wanted


def test_a_reduction_on_the_way_is_not_followed() -> None:
    made = ops.ScatterElements(SHAPE, ints(1), ints(7), reduction="add")
    assert made.contents is None


FACTORS: list[tuple[tuple[Any, ...], tuple[Any, ...], str]] = [
    ((B, S, 512), (B, S, 8, 64), "a3 a2 (a1 a0) -> a3 a2 a1 a0"),
    ((B, S, 512), (B * S, 8, 64), "a3 a2 (a1 a0) -> (a3 a2) a1 a0"),
    ((6, 4), (3, 8), "(a2 a1) a0 -> a2 (a1 a0)"),
    ((6, 4), (4, 6), "_s0 _s1 -> _t0 _t1"),
    ((3, 4, 5), (2, 6, 5), "_s0 _s1 a0 -> _t0 _t1 a0"),
    ((1, S, 1, 4), (S, 4), "1 a1 1 a0 -> a1 a0"),
    ((None, 512), (None, 8, 64), "a2 (a1 a0) -> a2 a1 a0"),
    ((0, 4), (4, 0), "_s0 _s1 -> _t0 _t1"),
]


@pytest.mark.parametrize(("source", "target", "maps"), FACTORS)
def test_factors(source: Any, target: Any, maps: str) -> None:
    left, right, _ = factored(source, target)
    assert f"{' '.join(left)} -> {' '.join(right)}" == maps


REFUSED = [
    lambda: ops.Reshape(weights(2, 3), ints(4, 2)),
    lambda: ops.Reshape(weights(2, 3), ints(-1, -1)),
    lambda: ops.Reshape(weights(2, 3), ints(0, 0, 0)),
    lambda: ops.Reshape(weights(2, 3), ints(-1, 4)),
    lambda: ops.Reshape(weights(2, 3), ints(-2, 3)),
    lambda: ops.Flatten(X, axis=4),
    lambda: ops.Squeeze(X, ints(2)),
    lambda: ops.Unsqueeze(X, ints(0, 0)),
    lambda: ops.Transpose(X, perm=(0, 1)),
    lambda: ops.Expand(weights(2, 3), ints(2, 2)),
    lambda: ops.Tile(X, ints(2)),
    lambda: ops.Concat(weights(2, 3), weights(3, 2), axis=0),
    lambda: ops.Concat(weights(2, 3), weights(2), axis=0),
    lambda: ops.Split(weights(2, 3), ints(1, 1), axis=1),
    lambda: ops.Slice(X, ints(0), ints(1), ints(3)),
    lambda: ops.Slice(X, ints(0), ints(1), ints(0), ints(0)),
    lambda: ops.Pad(X, ints(1, 1)),
    lambda: ops.Gather(X, vector(2), axis=3),
    lambda: ops.Conv(weights(1, 3, 4, 4), weights(2, 4, 3, 3)),
    lambda: ops.Conv(weights(1, 3, 4, 4), weights(2, 3, 5, 5)),
    lambda: ops.Conv(weights(1, 3, 4, 4), weights(2, 3, 3, 3), strides=(1,)),
    lambda: ops.MaxPool(weights(1, 3, 4), kernel_shape=(2, 2)),
]


@pytest.mark.parametrize("build", REFUSED)
def test_what_does_not_fit_is_refused(build: Any) -> None:
    with pytest.raises(TypeMismatch) as caught:
        build()
    kinds = [word for word in build.__code__.co_names if hasattr(ops, word)]
    assert any(kind in str(caught.value) for kind in kinds)


def test_a_loop_runs_never_less_than_not_at_all() -> None:
    number, going = (
        Parameter(tensor(DType.I64), "i"),
        Parameter(tensor(DType.BOOL), "c"),
    )
    row = ops.Constant(np.float32(1))
    body = Graph([number, going], [ops.Identity(going), row])
    trips = ops.Sub(
        ops.Gather(ops.Shape(X), ops.Constant(np.int64(0))), ops.Constant(np.int64(5))
    )
    loop = ops.Loop(trips, None, bodies=(body,), captures=0)
    assert loop.shape is not None
    assert [evaluate_dim(loop.shape[0], {"b": b}) for b in (2, 5, 9)] == [0, 0, 4]


def test_a_dim_that_may_be_negative_is_no_dim() -> None:
    """Reshape takes -1 for what is left."""
    wanted = joined(ops.Sub(part(0, 1), ints(2)), ints(-1))
    assert ops.Reshape(weights(3, 4), wanted).shape == (None, None)
