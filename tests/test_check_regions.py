"""Checks region by region, and where two graphs part."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np
import pytest
from checked import BATCH, graph_of, weight
from test_check import WRONG

from graphopt.check import check
from graphopt.check.difference import first_difference
from graphopt.ir import Graph, Parameter, Value
from graphopt.ops import (
    Add,
    Constant,
    Equal,
    Identity,
    MatMul,
    Mul,
    Neg,
    Tanh,
)
from graphopt.types import DType, tensor


def tower(depth: int, width: int = 8, *, broken: int = -1, exact: bool = True) -> Graph:
    """Layers of one name in every version; layer ``broken`` is wrong."""
    x = Parameter(tensor(DType.F32, BATCH, width), "x")
    value: Value = x
    names: dict[Value, str] = {}
    for i in range(depth):
        w = _weights.setdefault((width, i), weight(width, width, seed=i))
        inner = MatMul(value, w) if exact else MatMul(Identity(value), w)
        names[inner] = f"product {i}"
        value = Tanh(Neg(inner)) if i == broken else Tanh(inner)
        names[value] = f"layer {i}"
    return Graph([x], [value], names=names)


_weights: dict[tuple[int, int], Constant] = {}


def test_regions_find_where_it_breaks() -> None:
    before = tower(40)
    fine = check(before, tower(40, exact=False), mode="regions")
    assert fine.passed
    assert fine.mode == "regions"
    wrong = check(before, tower(40, broken=23), mode="regions")
    assert not wrong.passed
    assert wrong.notes[-1] == "the first value that differs is layer 23"


def test_names_are_only_hints() -> None:
    """A value that got another meaning under its old name is no failure."""
    before = tower(20)
    after = tower(20, exact=False)
    names = {v: name for v, name in after.names.items() if name != "layer 7"}
    odd = next(v for v, name in after.names.items() if name == "product 7")
    after = after.replace(names={**names, odd: "layer 7"})
    assert check(before, after, mode="regions").passed


def test_auto_takes_regions_for_what_is_large() -> None:
    before, after = tower(12, 512), tower(12, 512, exact=False)
    assert check(before, after).mode == "full"
    small = check(before, after, limit_bytes=100_000)
    assert small.mode == "regions"
    assert not small.outputs  # widening one weight takes 2 MiB
    assert small.unchecked == ("output output_0",)
    began = time.monotonic()
    hasty = check(before, after, seconds=1e-3)
    assert time.monotonic() - began < 5
    assert hasty.mode == "regions"
    assert hasty.unchecked == ("output output_0",)
    assert hasty.passed


def test_waiting_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that others use, as much is compared as on one's own."""
    hours = itertools.count(step=3600.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(hours))
    before, after = tower(12, 64), tower(12, 64, exact=False)
    for mode in ("auto", "regions"):
        result = check(before, after, mode=mode)
        assert result.passed
        assert [each.name for each in result.outputs] == ["output_0"]


def test_regions_run_what_changed_only() -> None:
    """Two hundred equal layers and one that is spelled in another way."""
    before = tower(200, 64)
    last = before.outputs[0]
    twice = [Graph(before.inputs, [f(last)], names=before.names) for f in _DOUBLES]
    began = time.process_time()
    result = check(*twice, mode="regions")
    seconds = time.process_time() - began
    assert result.passed
    began = time.process_time()
    check(*twice, mode="full")
    assert seconds < 2 * (time.process_time() - began)


_DOUBLES: tuple[Callable[[Value], Value], ...] = (
    lambda v: Add(v, v),
    lambda v: Mul(v, Constant(np.float32(2))),
)


# --- the first difference -----------------------------------------------------------


def test_first_difference() -> None:
    before = tower(10)
    assert first_difference(before, tower(10, exact=False)) is None
    found = first_difference(before, tower(10, broken=4))
    assert found is not None
    assert found.name == "layer 4"
    assert found.before is not None
    assert found.before.kind == "Tanh"
    assert not found.found.passed
    for name in WRONG:
        if name in ("a result short", "right for one batch only"):
            continue
        assert first_difference(*map(graph_of, WRONG[name])), name


def test_first_difference_in_outputs_alone() -> None:
    found = first_difference(
        graph_of(lambda x, y: [Equal(x, y), x]), graph_of(lambda x, y: [Equal(x, y), y])
    )
    assert found is not None
    assert found.name == "output_1"
