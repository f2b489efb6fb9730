"""Sibling convolutions: merged where their windows move alike."""

from __future__ import annotations

from typing import Any

import pytest
from equations import N, assert_sound, graph_of, kinds, param, random

from graphopt.ir import Value
from graphopt.ops import Conv, Relu
from graphopt.passes.siblings import MergeSiblings
from graphopt.types import DType

F64 = DType.F64
IMAGE = param("x", N, 3, 6, 6, dtype=F64)


def merged(*outputs: Value) -> list[str]:
    before = graph_of(*outputs)
    after = MergeSiblings()(before)
    assert_sound(before, after, exact=False)
    return kinds(after)


def conv(x: Value, channels: int, *, biased: bool = False, **attrs: Any) -> Value:
    side = attrs.pop("side", 3)
    weight = random(channels, 3 // attrs.get("group", 1), side, side, dtype=F64)
    bias = [random(channels, dtype=F64, seed=1)] if biased else []
    return Conv(x, weight, *bias, **attrs)


@pytest.mark.parametrize("biased", [False, True])
def test_convolutions(biased: bool) -> None:
    heads = [
        conv(IMAGE, n, biased=biased, pads=(1, 1, 1, 1), strides=(2, 2)) for n in (2, 5)
    ]
    found = merged(Relu(heads[0]), heads[1])
    assert found.count("Conv") == 1
    assert found.count("Split") == 1
    three = [conv(IMAGE, n, biased=biased) for n in (1, 2, 3)]
    assert merged(*three).count("Conv") == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"side": 1}),
        ({}, {"strides": (2, 2)}),
        ({}, {"pads": (1, 1, 1, 1)}),
        ({}, {"biased": True}),
        ({"group": 3}, {"group": 3}),
    ],
)
def test_convolutions_that_differ(one: Any, other: Any) -> None:
    assert merged(conv(IMAGE, 3, **one), conv(IMAGE, 6, **other)).count("Conv") == 2


def test_convolutions_of_two_values() -> None:
    assert merged(conv(IMAGE, 2), conv(Relu(IMAGE), 2)).count("Conv") == 2
    given = param("w", 2, 3, 3, 3, dtype=F64)
    assert merged(conv(IMAGE, 2), Conv(IMAGE, given)).count("Conv") == 2


def test_large_images_are_not_split() -> None:
    two = graph_of(conv(IMAGE, 2), conv(IMAGE, 5))
    assert kinds(MergeSiblings(pixels=15)(two)).count("Conv") == 2
    assert kinds(MergeSiblings(pixels=16)(two)).count("Conv") == 1
