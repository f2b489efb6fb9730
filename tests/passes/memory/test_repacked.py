"""Plans whose offsets are searched for later, or to a capacity: where that decides."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given, settings, strategies as st
from packings import least_peak, overlapping, perfect

from graphopt.fitted import Fitted, Limits, Saving
from graphopt.ir import Graph, Parameter
from graphopt.passes.memory import (
    Buffer,
    MemoryPlan,
    Placement,
    Space,
    pack,
    plan_memory,
    repacked,
    validate,
)
from graphopt.passes.memory.buffers import peak_of
from graphopt.passes.memory.greedy import _Lives, _orders, greedy
from graphopt.passes.memory.lives import Kind
from graphopt.passes.memory.order import most_held
from graphopt.passes.memory.sizes import Sizes
from graphopt.testing import graphs
from graphopt.types import DType, TensorType

TRAP: Final = [
    Buffer(i, *row)
    for i, row in enumerate(
        [(5, 8, 8), (6, 8, 4), (4, 6, 9), (3, 5, 6), (2, 3, 8), (1, 4, 7)]
    )
]
"""Greedy ends at 21; 17 is possible, and live at once."""


def planned(buffers: Sequence[Buffer]) -> MemoryPlan:
    """A plan of no graph, with greedy offsets."""
    packing = pack(buffers, methods=())
    return MemoryPlan(
        order=(),
        placements=tuple(
            Placement(b, packing.offsets[b.id], Kind.TEMPORARY, ()) for b in buffers
        ),
        peak=packing.peak,
        lower_bound=packing.lower_bound,
        proof=packing.proof,
        space=Space(alignment=1),
        binding={},
        inputs=0,
        outputs=0,
        constants=0,
        method=packing.method,
    )


def checked(plan: MemoryPlan) -> MemoryPlan:
    """The plan, whose offsets are doubted byte by byte."""
    buffers = [place.buffer for place in plan.placements]
    offsets = {place.buffer.id: place.offset for place in plan.placements}
    assert not overlapping(buffers, offsets)
    assert plan.peak == max(place.end for place in plan.placements)
    assert plan.lower_bound <= plan.peak
    return plan


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The capacities that a search was asked for, in units."""
    module: Any = sys.modules["graphopt.passes.memory.allocate"]
    asked, search = [], module.search

    def noted(packed: Any, capacity: int, *rest: Any, **more: Any) -> Any:
        asked.append(capacity)
        return search(packed, capacity, *rest, **more)

    monkeypatch.setattr(module, "search", noted)
    return asked


class TestRepacked:
    def test_it_is_what_a_plan_had_at_once(self) -> None:
        rough = checked(planned(TRAP))
        plan = checked(repacked(rough))
        assert (rough.peak, plan.peak) == (21, 17)
        assert plan.peak == least_peak(TRAP) == plan.lower_bound
        assert (plan.proof, plan.method) == ("optimal", "search")

    def test_more_live_bytes_than_may_be_are_no_reason_to_search(
        self, searched: list[int]
    ) -> None:
        rough = planned(TRAP)
        assert repacked(rough, 16) is rough
        assert repacked(rough, 21) is rough
        assert not searched
        assert checked(repacked(rough, 18)).peak <= 18
        assert searched == [18]

    @pytest.mark.parametrize("seed", range(6))
    def test_no_peak_is_higher_than_before(self, seed: int) -> None:
        rough = planned(perfect(14, seed))
        for capacity in (None, 63, 64, 66, 70):
            plan = checked(repacked(rough, capacity))
            assert plan.peak <= rough.peak
        assert repacked(rough).peak == 64

    @settings(max_examples=20, deadline=None)
    @given(graph=graphs())
    def test_a_plan_to_a_capacity_is_one(self, graph: Graph) -> None:
        whole, rough = plan_memory(graph), plan_memory(graph, capacity=0)
        validate(rough, graph)
        later = repacked(rough)
        validate(later, graph)
        assert later.peak == whole.peak
        assert later.order == whole.order


@pytest.mark.parametrize("seed", range(8))
def test_greedy_ends_early_only_where_nothing_is_lower(seed: int) -> None:
    made = perfect(20, seed)
    lives = _Lives(made)
    each = [
        peak_of(made, lives.placed(order, best=best) or ())
        for _, order in _orders(lives)
        for best in (False, True)
    ]
    assert peak_of(made, greedy(made, 0)[0]) == min(each)


@settings(max_examples=20, deadline=None)
@given(graph=graphs(), seed=st.integers(0, 3))
def test_no_order_has_less_than_its_largest_op_holds(graph: Graph, seed: int) -> None:
    space = Space(alignment=2**seed)
    plan = plan_memory(graph, space=space, reorder=seed % 2 == 0)
    assert most_held(graph, Sizes({}, space)) <= plan.lower_bound


class TestFitted:
    def _rough(self, limit: int) -> Fitted:
        x = Parameter(TensorType(DType.F32, (4,)), "x")
        plan = planned(TRAP)
        saving = Saving("tiles", 30, plan.peak, 0)
        limits = Limits(activations=limit)
        return Fitted(Graph([x], [x]), plan, limits, (saving,), rough=True)

    def test_a_limit_between_the_live_bytes_and_the_peak_is_searched_for(
        self, searched: list[int]
    ) -> None:
        for limit in (16, 21, 30):
            rough = self._rough(limit)
            assert rough.within() is rough
        assert not searched
        found = self._rough(17).within()
        assert found.fits
        assert checked(found.plan).peak == found.savings[-1].after == 17

    def test_what_was_looked_for_is_not_looked_for_again(
        self, searched: list[int]
    ) -> None:
        rough = self._rough(17)
        for _ in range(3):
            replace(rough).within()
        assert searched == [17]

    def test_the_smallest_is_packed_where_its_arena_is_no_larger(self) -> None:
        rough = self._rough(4)
        assert rough.lowered().plan.peak == 17
        in_arena = replace(rough, executed=21)
        assert in_arena.lowered() is in_arena
        assert in_arena.packed().plan.peak == 17
        assert not in_arena.packed().rough
