"""Index maps by brute force: placements and tiles are what split operands compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from graphopt.index import (
    Combiner,
    Maps,
    TileSlice,
    parse,
)
from graphopt.index.check import Array, validate_strategies, validate_tiling


def real(*shape: int) -> Array:
    return np.random.default_rng(shape).normal(size=shape)


def convolve(operands: list[Array], before: int, after: int) -> list[Array]:
    x, w = operands
    padded = np.pad(x, [(0, 0), (0, 0), (before, after)])
    windows = sliding_window_view(padded, w.shape[2], axis=2)[:, :, ::2]
    return [np.einsum("bcyr,kcr->bky", windows, w)]


def softmax(operands: list[Array]) -> list[Array]:
    e = np.exp(operands[0])
    return [e / e.sum(-1, keepdims=True)]


def logsumexp(operands: list[Array]) -> list[Array]:
    return [np.log(np.exp(operands[0]).sum(1))]


def gather(operands: list[Array]) -> list[Array]:
    x, i = operands
    assert np.all((i >= 0) & (i < len(x)))
    return [x[i]]


def trilu(x: Array, offset: int) -> Array:
    rows, columns = np.indices(x.shape[-2:])
    return np.where(columns <= rows + offset, x, 0.0)


def trilu_tile(operands: list[Array], tile: TileSlice) -> list[Array]:
    assert isinstance(tile.lo, int)
    return [trilu(operands[0], tile.lo if tile.axis == "m" else -tile.lo)]


class Cumsum:
    """The carry of a cumulative sum, from tile to tile."""

    def __init__(self) -> None:
        self.carry: Any = 0.0

    def __call__(self, operands: list[Array], tile: TileSlice) -> list[Array]:
        result = operands[0].cumsum(1) + (0.0 if tile.lo == 0 else self.carry)
        self.carry = result[:, -1:]
        return [result]


def conv_tile(operands: list[Array], tile: TileSlice) -> list[Array]:
    region = tile.operands[0]
    assert region is not None
    window = region[2]
    before, after = (1, 1) if window is None else (window.before, window.after)
    assert isinstance(before, int)
    assert isinstance(after, int)
    return convolve(operands, before, after)


@dataclass
class Case:
    """An op in NumPy, with the maps that it declares."""

    maps: Maps
    compute: Callable[[list[Array]], list[Array]]
    operands: list[Array]
    declared: Mapping[str, int] = field(default_factory=dict)
    compute_tile: Any = None


ids = np.array([[3, 1, 0, 2], [1, 1, 2, 0]])
LINEAR = {"linear": [[0]]}
CASES = {
    "matmul": Case(
        parse("m k, k n -> m n", linear=[[0], [1]]),
        lambda x: [x[0] @ x[1]],
        [real(4, 6), real(6, 2)],
    ),
    "matmul, broadcast": Case(
        parse("... m k, ... k n -> ... m n", (4, 3), linear=[[0], [1]]),
        lambda x: [x[0] @ x[1]],
        [real(2, 1, 2, 4), real(6, 4, 2)],
    ),
    "matmul with a bias": Case(
        parse("m k, k n, m? n? -> m n", linear=[[0, 2], [1, 2]]),
        lambda x: [x[0] @ x[1] + x[2]],
        [real(4, 6), real(6, 2), real(1, 2)],
    ),
    "sum": Case(
        parse("a r c -> a c", **LINEAR), lambda x: [x[0].sum(1)], [real(2, 4, 6)]
    ),
    "sum, dim kept": Case(
        parse("a r -> a 1", **LINEAR),
        lambda x: [x[0].sum(1, keepdims=True)],
        [real(4, 6)],
    ),
    "max": Case(
        parse("a r -> a", combiner=Combiner.MAX), lambda x: [x[0].max(1)], [real(4, 6)]
    ),
    "min of integers": Case(
        parse("a r -> a", combiner=Combiner.MIN),
        lambda x: [x[0].min(1)],
        [np.random.default_rng(3).integers(-90, 90, (4, 6))],
    ),
    "product": Case(
        parse("a r -> a", combiner=Combiner.PROD),
        lambda x: [x[0].prod(1)],
        [real(4, 6)],
    ),
    "log-sum-exp": Case(
        parse("a r -> a", combiner=Combiner.LOGSUMEXP), logsumexp, [real(4, 6)]
    ),
    "sum and maximum": Case(
        parse("a r -> a r, a"),
        lambda x: [np.exp(x[0]), np.exp(x[0]).sum(1)],
        [real(4, 6)],
    ),
    "argmax": Case(
        parse("a r -> a", combiner=None), lambda x: [x[0].argmax(1)], [real(4, 6)]
    ),
    "transpose": Case(
        parse("a b c -> c a b", **LINEAR),
        lambda x: [x[0].transpose(2, 0, 1)],
        [real(2, 4, 6)],
    ),
    "softmax": Case(parse("a b _v -> a b _v"), softmax, [real(2, 4, 6)]),
    "gather": Case(parse("@1 k, i j -> i j k", **LINEAR), gather, [real(4, 6), ids]),
    "take along": Case(
        parse("a _r, a i -> a i", linear=[[0]]),
        lambda x: [np.take_along_axis(x[0], x[1] % x[0].shape[1], 1)],
        [real(2, 6), ids],
    ),
    "concat": Case(
        parse("a c:4, a c-4:2 -> a c", linear=[[0, 1]]),
        lambda x: [np.concatenate(x, 1)],
        [real(2, 4), real(2, 2)],
        {"c": 6},
    ),
    "split": Case(
        parse("a c -> a c:2, a c-2:4", **LINEAR),
        lambda x: [x[0][:, :2], x[0][:, 2:]],
        [real(2, 6)],
        compute_tile=lambda x, tile: [
            x[0][:, : max(0, 2 - tile.lo)],
            x[0][:, max(0, 2 - tile.lo) :],
        ],
    ),
    "slice": Case(
        parse("a 2*i+1:8 -> a i", **LINEAR),
        lambda x: [x[0][:, 1:7:2]],
        [real(4, 8)],
        {"i": 3},
        lambda x, tile: [x[0][:, ::2]],
    ),
    "reverse": Case(
        parse("a 5-i:6 -> a i", **LINEAR),
        lambda x: [x[0][:, ::-1]],
        [real(4, 6)],
        {"i": 6},
    ),
    "padded convolution": Case(
        parse("b c 2*y+r-1, k c r -> b k y", linear=[[0], [1]]),
        lambda x: convolve(x, 1, 1),
        [real(2, 4, 9), real(6, 4, 3)],
        {"y": 5},
        conv_tile,
    ),
    "split heads": Case(
        parse("b (h d) -> b h d", **LINEAR),
        lambda x: [x[0].reshape(len(x[0]), -1, 3)],
        [real(2, 12)],
        {"d": 3},
    ),
    "merge heads": Case(
        parse("b h d -> b (h d)", **LINEAR),
        lambda x: [x[0].reshape(len(x[0]), -1)],
        [real(2, 4, 3)],
    ),
    "cumulative sum": Case(
        parse("a t -> a t", carried="t", linear=[[0]]),
        lambda x: [x[0].cumsum(1)],
        [real(4, 6)],
        compute_tile=Cumsum(),
    ),
    "lower triangle": Case(
        parse("a m n -> a m n", positional=["m", "n"], linear=[[0]]),
        lambda x: [trilu(x[0], 0)],
        [real(2, 4, 4)],
        compute_tile=trilu_tile,
    ),
    "add": Case(
        parse("..., ... -> ...", (2, 2), linear=[[0, 1]]),
        lambda x: [x[0] + x[1]],
        [real(4, 6), real(1, 6)],
    ),
    "multiply": Case(
        parse("..., ... -> ...", (1, 2), linear=[[0], [1]]),
        lambda x: [x[0] * x[1]],
        [real(6), real(4, 6)],
    ),
    "divide": Case(
        parse("..., ... -> ...", (2, 0), linear=[[0]]),
        lambda x: [x[0] / x[1]],
        [real(4, 6), np.array(3.0)],
    ),
    "relu": Case(
        parse("... -> ...", (2,)), lambda x: [np.maximum(x[0], 0)], [real(4, 6)]
    ),
    "where": Case(
        parse("..., ..., ... -> ...", (2, 2, 2), linear=[[1, 2]]),
        lambda x: [np.where(*x)],
        [real(4, 6) > 0, real(4, 6), real(4, 1)],
    ),
    "diagonal": Case(
        parse("a i i -> a i", **LINEAR),
        lambda x: [np.einsum("aii->ai", x[0])],
        [real(2, 4, 4)],
    ),
    "sort": Case(parse("a _v -> a _v"), lambda x: [np.sort(x[0], 1)], [real(4, 6)]),
}


@pytest.mark.parametrize("name", CASES)
def test_every_true_placement_is_derived_and_no_other(name: str) -> None:
    case = CASES[name]
    verdict = validate_strategies(
        case.compute, case.maps, case.operands, declared=case.declared
    )
    assert verdict, verdict


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tiles", [2, 3])
def test_tile_by_tile_equals_the_whole(name: str, tiles: int) -> None:
    case = CASES[name]
    verdict = validate_tiling(
        case.compute,
        case.maps,
        case.operands,
        tiles,
        case.declared,
        compute_tile=case.compute_tile,
    )
    assert verdict, verdict


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("relu", {"linear": (frozenset({0}),)}),
        ("add", {"linear": (frozenset({0}), frozenset({1}))}),
        ("matmul with a bias", {"linear": (frozenset({0}), frozenset({1}))}),
        ("max", {"combiners": (("r", Combiner.SUM),)}),
        ("argmax", {"combiners": (("r", Combiner.MAX),)}),
        (
            "softmax",
            {
                "operands": parse("a b v -> a b v").operands,
                "results": parse("a b v -> a b v").results,
            },
        ),
        ("cumulative sum", {"carried": frozenset()}),
        ("lower triangle", {"positional": frozenset()}),
    ],
)
def test_wrong_maps_are_found_unsound(name: str, wrong: dict[str, Any]) -> None:
    case = CASES[name]
    verdict = validate_strategies(
        case.compute, replace(case.maps, **wrong), case.operands
    )
    assert verdict.unsound


@pytest.mark.parametrize(
    ("name", "poorer"),
    [
        ("matmul", {"linear": (frozenset({0}),)}),
        ("sum", {"combiners": (("r", None),)}),
        ("transpose", {"operands": parse("_a b c -> c _a b").operands}),
    ],
)
def test_maps_that_say_too_little_are_found(name: str, poorer: dict[str, Any]) -> None:
    case = CASES[name]
    maps = replace(case.maps, **poorer)
    assert validate_strategies(case.compute, maps, case.operands).missed
    if name != "matmul":
        assert validate_tiling(case.compute, maps, case.operands).missed
