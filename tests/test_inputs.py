"""Random inputs make sense: indices in range, masks of flags, sizes that run."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest

from graphopt.dims import symbol
from graphopt.errors import UsageError
from graphopt.inputs import STYLES, bindings, likely, random_inputs, usual
from graphopt.ir import Graph, Parameter, Value
from graphopt.ops import (
    Add,
    Cast,
    Constant,
    Equal,
    Expand,
    Gather,
    GatherElements,
    If,
    Log,
    Mul,
    Neg,
    Range,
    Reshape,
    RotaryEmbedding,
    Slice,
    Sqrt,
    Sub,
    Tile,
    TopK,
    Unsqueeze,
    Where,
    contrib,
)
from graphopt.reference import evaluate
from graphopt.types import (
    UNKNOWN,
    DType,
    OptionalType,
    SequenceType,
    TensorType,
    Type,
    tensor,
)
from graphopt.weights import Tensor

IDS = tensor(DType.I64, 50, 40)


def drawn(type_: Type, *uses: Any, name: str = "p", **options: Any) -> Any:
    """What is drawn for one parameter that each of ``uses`` reads."""
    parameter = Parameter(type_, name)
    graph = Graph([parameter], [use(parameter) for use in uses] or [parameter])
    return random_inputs(graph, **options)[name]


def ints(*numbers: int) -> Constant:
    return Constant(np.array(numbers, np.int64))


def rows(count: int) -> Constant:
    return Constant(np.zeros((count, 2), np.float32))


def test_seeds_repeat_and_names_differ() -> None:
    type_ = tensor(DType.F32, 100)
    np.testing.assert_array_equal(drawn(type_), drawn(type_))
    assert not np.array_equal(drawn(type_), drawn(type_, seed=1))
    assert not np.array_equal(drawn(type_), drawn(type_, name="q"))
    array = drawn(tensor(DType.F32, 10_000))
    assert array.dtype == np.float32
    assert abs(array.mean()) < 0.05
    assert abs(array.std() - 1) < 0.05


@pytest.mark.parametrize("dtype", DType, ids=str)
def test_every_element_type(dtype: DType) -> None:
    array = drawn(tensor(dtype, 30))
    assert array.dtype == dtype.numpy
    assert array.shape == (30,)
    assert len({str(x) for x in array}) > 1
    assert drawn(tensor(dtype)).shape == ()
    assert drawn(tensor(dtype, 0, 3)).shape == (0, 3)


def test_indices_stay_below_the_rows_of_their_table() -> None:
    """Through casts, reshapes and offsets, and into bodies."""
    table = rows(7)

    def far(ids: Value) -> Value:
        flat = Reshape(Unsqueeze(Cast(ids, to=DType.I32), ints(0)), ints(-1))
        return Gather(table, flat)

    def shifted(ids: Value) -> Value:
        return Gather(table, Add(ids, ints(2)))

    def inside(ids: Value) -> Value:
        p, q = Parameter(IDS, "p"), Parameter(IDS, "q")
        bodies = [Graph([p], [Gather(table, p)]), Graph([q], [Gather(rows(5), q)])]
        return If(Constant(np.array(True)), ids, bodies=bodies)

    def elements(ids: Value) -> Value:
        return GatherElements(Constant(np.zeros((50, 3), np.float32)), ids, axis=1)

    for use, low, high in [
        (far, 0, 7),
        (shifted, -2, 5),
        (inside, 0, 5),
        (elements, 0, 3),
    ]:
        array = drawn(IDS, use)
        assert (array.min(), array.max()) == (low, high - 1), use
    array = drawn(IDS, far, shifted)
    assert (array.min(), array.max()) == (0, 4)
    floats = drawn(tensor(DType.F32, 50, 40), lambda x: far(Cast(x, to=DType.I64)))
    assert (floats.min(), floats.max()) == (0, 6)
    assert np.array_equal(floats, np.rint(floats))


def test_composite_ops_say_by_their_bodies_what_they_look_up() -> None:
    weights, vector = rows(7), Constant(np.zeros(2, np.float32))
    angles = Constant(np.zeros((6, 4), np.float32))
    x = Constant(np.zeros((50, 2, 40, 8), np.float32))

    def embedded(place: int) -> Any:
        def use(ids: Value) -> Value:
            operands = [Constant(np.zeros((50, 40), np.int32))] * 2
            operands += [weights, rows(11), rows(3), vector, vector]
            made: list[Value | None] = [*operands, None, operands[0]]
            made[place] = ids
            return contrib.EmbedLayerNormalization(*made)

        return use

    def quantized(ids: Value) -> Value:
        table = Constant(np.zeros((9, 16), np.uint8))
        scales = Constant(np.ones((9, 2), np.float32))
        return contrib.GatherBlockQuantized(table, ids, scales, block_size=16, bits=4)

    narrow = tensor(DType.I32, 50, 40)
    for type_, use, high in [
        (narrow, embedded(0), 7),
        (narrow, embedded(1), 3),
        (narrow, embedded(8), 11),
        (narrow, quantized, 9),
        (IDS, lambda ids: RotaryEmbedding(x, angles, angles, ids), 6),
        (IDS, lambda ids: contrib.RotaryEmbedding(x, ids, angles, angles), 6),
    ]:
        array = drawn(type_, use)
        assert (array.min(), array.max()) == (0, high - 1), high


def test_rows_may_be_symbolic() -> None:
    data = Parameter(tensor(DType.F32, symbol("rows"), 2), "data")
    ids = Parameter(IDS, "ids")
    graph = Graph([data, ids], [Gather(data, ids)])
    inputs = random_inputs(graph, sizes={"rows": 3})
    assert inputs["data"].shape == (3, 2)
    assert inputs["ids"].max() == 2
    evaluate(graph, inputs)


@pytest.mark.parametrize(
    "use",
    [
        lambda m: Where(Cast(m, to=DType.BOOL), rows(1), rows(1)),
        lambda m: Mul(
            Sub(Constant(np.float32(1)), Cast(m, to=DType.F32)),
            Constant(np.float32(-1e4)),
        ),
    ],
)
def test_masks_are_flags_and_mostly_ones(use: Any) -> None:
    array = drawn(tensor(DType.I64, 50, 1), use)
    assert set(array.ravel().tolist()) == {0, 1}
    assert 0.75 < array.mean() < 1


def test_masks_by_name() -> None:
    assert set(drawn(IDS, name="attention_mask").ravel().tolist()) == {0, 1}
    flags = drawn(tensor(DType.BOOL, 1000))
    assert 0.4 < flags.mean() < 0.6
    assert 0.8 < drawn(tensor(DType.BOOL, 1000), name="mask").mean() < 1


def test_other_integers() -> None:
    picture = drawn(tensor(DType.U8, 1000))
    assert (picture.min(), picture.max()) == (0, 255)
    assert set(drawn(tensor(DType.I64, 40), name="lengths").tolist()) == {1, 2}
    small = drawn(tensor(DType.I4, 1000)).astype(int)
    assert (small.min(), small.max()) == (-8, 7)


def test_numbers_that_are_asked_for() -> None:
    rate = drawn(tensor(DType.I64), lambda r: Equal(r, Constant(np.array(16000))))
    assert rate == 16000


def test_what_steers_shapes_is_harmless() -> None:
    x = Constant(np.ones((2, 3), np.float32))
    pair, one = tensor(DType.I64, 2), tensor(DType.I64, 1)
    uses: list[tuple[Type, Any]] = [
        (pair, lambda s: Reshape(x, s)),
        (pair, lambda s: Expand(x, s)),
        (pair, lambda s: Tile(x, s)),
        (one, lambda k: TopK(x, k)),
        (one, lambda s: Slice(x, s, ints(2), ints(1))),
        (
            tensor(DType.I64),
            lambda n: Range(Constant(np.array(0)), n, Constant(np.array(1))),
        ),
    ]
    for type_, use in uses:
        parameter = Parameter(type_, "p")
        graph = Graph([parameter], use(parameter).results)
        evaluate(graph, random_inputs(graph))


def test_numbers_of_which_something_is_taken() -> None:
    type_ = tensor(DType.F32, 1000)
    assert drawn(type_, lambda x: Log(Reshape(x, ints(10, 100)))).min() > 0
    assert drawn(type_, Sqrt).min() > 0
    assert drawn(type_, lambda x: Sqrt(Mul(x, x))).min() < 0


def test_styles() -> None:
    type_ = tensor(DType.F32, 1000)
    ranges = {s: drawn(type_, style=s) for s in STYLES}
    assert ranges["normal"].min() < -2
    assert ranges["positive"].min() > 0
    assert ranges["positive"].max() > 2
    assert 0 <= ranges["unit"].min() < ranges["unit"].max() < 1
    assert 1 <= ranges["large"].min() < ranges["large"].max() < 3


def test_sequences_optionals_and_defaults() -> None:
    sequence = drawn(SequenceType(tensor(DType.F32, 3)))
    assert [a.shape for a in sequence] == [(3,), (3,)]
    assert not np.array_equal(*sequence)
    assert drawn(OptionalType(tensor(DType.F32, 3))).shape == (3,)
    preset = Parameter(tensor(DType.F32), "preset", default=Tensor.of(1.0))
    assert random_inputs(Graph([preset], [preset])) == {}
    with pytest.raises(UsageError, match="no random values of type unknown"):
        drawn(UNKNOWN)


def sizes_of(
    *types: Type, constants: tuple[Constant, ...] = ()
) -> list[dict[str, int]]:
    parameters = [Parameter(t, f"p{i}") for i, t in enumerate(types)]
    outputs = [Neg(p) for p in parameters] + list(constants)
    return list(bindings(Graph(parameters, outputs)))


def test_sizes_differ_within_and_between_runs() -> None:
    batch, length, total = map(symbol, ("batch", "length", "past + length"))
    past = symbol("past")
    first, second = sizes_of(
        tensor(DType.F32, batch, length),
        tensor(DType.F32, batch, past, 4),
        tensor(DType.F32, batch, total),
    )[:2]
    assert len({first["batch"], first["length"], first["past"]}) == 3
    for sizes in (first, second):
        assert sizes["past + length"] == sizes["past"] + sizes["length"]
    assert all(first[name] != second[name] for name in first)


def test_sizes_of_pictures_and_unknown_dims() -> None:
    height, width = symbol("h"), symbol("w")
    plan = sizes_of(tensor(DType.F32, None, 3, height, width))
    assert plan[0] == {"?p0:0": 2, "h": 32, "w": 32}
    assert {"?p0:0": 1, "h": 224, "w": 224} in plan
    ranks = {s["?p0:rank"] for s in sizes_of(TensorType(DType.F32))}
    assert ranks >= {1, 2, 3, 4}


def test_sizes_that_constants_mention() -> None:
    plan = sizes_of(tensor(DType.F32, symbol("n")), constants=(ints(77, 1, -1),))
    assert {"n": 77} in plan
    assert sizes_of(tensor(DType.F32, 3)) == [{}]


def test_inputs_of_unknown_rank() -> None:
    parameter = Parameter(TensorType(DType.F32), "p")
    graph = Graph([parameter], [Neg(parameter)])
    shapes = {
        random_inputs(graph, sizes=sizes)["p"].ndim
        for sizes in islice(bindings(graph), 6)
    }
    assert len(shapes) > 2


@pytest.mark.parametrize("dtype", [DType.BOOL, DType.C64, DType.F32, DType.I64])
def test_scalars_are_arrays(dtype: DType) -> None:
    graph = Graph([Parameter(tensor(dtype), "x")], [])
    assert isinstance(random_inputs(graph)["x"], np.ndarray)


def test_usual_sizes() -> None:
    batch, length, past, h, w = map(symbol, ("batch", "length", "past", "h", "w"))
    types = {
        "pictures": tensor(DType.F32, batch, 3, h, w),
        "tokens": tensor(DType.I64, batch, length),
        "mask": tensor(DType.F32, batch, symbol("length + past")),
        "old": tensor(DType.F32, batch, past),
    }
    graph = Graph([Parameter(type_, name) for name, type_ in types.items()], [])
    sizes = usual(graph, {"past": 7})
    assert sizes == {
        **{"batch": 1, "h": 224, "w": 224, "length": 128},
        **{"past": 7, "length + past": 135},
    }
    assert random_inputs(graph, 0, sizes)["mask"].shape == (1, 135)


def test_totals_of_what_is_past_and_new() -> None:
    names = "past_len", "len", "total_len"
    types = [TensorType(DType.F32, (symbol(name),)) for name in names]
    graph = Graph([Parameter(type_, "x") for type_ in types], [])
    assert usual(graph) == {"past_len": 128, "len": 128, "total_len": 256}
    assert usual(graph, {"total_len": 5})["total_len"] == 5
    assert {"past_len": 128, "len": 1, "total_len": 129} in likely(graph)
    for sizes in bindings(graph):
        assert sizes["total_len"] == sizes["past_len"] + sizes["len"]
