"""A limit is kept in the way that is fast: with layouts, unless these cost more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from graphopt.fitted import Fitted, Limits
from graphopt.ir import Graph, Parameter, Value
from graphopt.limits import _fast
from graphopt.ops import Constant, Conv, Relu
from graphopt.passes.memory import SPACES, plan_memory
from graphopt.types import DType, tensor

LIMITS = Limits(activations=1 << 30)


def made(
    convolutions: int, *, layouts: bool, fits: bool = True, uncounted: str = ""
) -> Fitted:
    """A plan of so many equal convolutions, opened with layouts or without."""
    x: Value = Parameter(tensor(DType.F32, 1, 4, 8, 8), "x")
    weight = Constant(np.ones((4, 4, 3, 3), np.float32))
    y: Value = Relu(x)
    for _ in range(convolutions):
        y = Conv(y, weight, pads=(1, 1, 1, 1))
    graph = Graph([x], [y])  # type: ignore[list-item]
    plan = plan_memory(graph, space=SPACES["ort-cpu"])
    limits = LIMITS if fits else Limits(activations=1)
    planned = Fitted(graph, plan, limits, target="ort-cpu")
    return replace(planned, layouts=layouts, uncounted=uncounted)


def chosen(*plans: Fitted) -> int:
    """Which of them is taken, by its place."""
    found = _fast(plans)
    return next(i for i, plan in enumerate(plans) if plan is found)


def test_the_first_with_layouts_that_fits_is_taken() -> None:
    over = made(10, layouts=True, fits=False)
    slow, fast = made(10, layouts=False), made(11, layouts=True)
    assert chosen(over, fast, slow) == 1
    assert chosen(over, slow, fast) == 2
    assert chosen(slow, over, fast, made(10, layouts=True)) == 2


def test_without_layouts_where_these_compute_much_more_or_nothing_has_them() -> None:
    over = made(10, layouts=True, fits=False)
    slow = made(10, layouts=False)
    assert chosen(over, slow, made(14, layouts=True)) == 1
    assert chosen(over, slow, made(11, layouts=False), over) == 1


@pytest.mark.parametrize(("convolutions", "uncounted"), [(0, ""), (3, "not installed")])
def test_nothing_faster_is_sought_where_none_is_known(
    convolutions: int, uncounted: str
) -> None:
    """Without convolutions, and where a run cannot be asked."""

    def plans() -> Iterator[Fitted]:
        yield made(convolutions, layouts=False, uncounted=uncounted)
        pytest.fail("the search goes on")

    assert _fast(plans()) is not None
