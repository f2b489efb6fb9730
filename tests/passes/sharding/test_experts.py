"""Experts on devices of their own, which the planner finds by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mixtures import LARGE, SMALL, Sizes, mixture, tokens

from graphopt.index import Split
from graphopt.ops import Constant
from graphopt.passes.sharding import Mesh, oracle, partition
from graphopt.passes.sharding.hand import NoHandPlan, hand_plan, role_rows
from graphopt.passes.sharding.machine import Machine
from graphopt.passes.sharding.planner import Planner
from graphopt.passes.sharding.solve import NoPlan
from graphopt.reference import run

LAYERS = 2


def planner(sizes: Sizes, mesh: str) -> Planner:
    return Planner(mixture(sizes, LAYERS), Machine.of("h100", Mesh.parse(mesh)))


def room(made: Planner) -> int:
    """Of the cheapest plan, less half of the weights."""
    weights = sum(tensor.nbytes for tensor in made.graph.tensors())
    return int(made.plan().memory - 0.5 * weights)


def test_tokens_go_to_their_experts_and_back() -> None:
    made = planner(LARGE, "8")
    free, tight = made.plan(), made.plan(room(made))
    assert not free.sent
    assert set(tight.sent) == {"AllToAll"}
    experts = {
        layout
        for value, layout in tight.decisions.given.items()
        if isinstance(value, Constant) and value.rank == 3
    }
    assert experts == {(Split(0),)}
    program = partition(made.graph, made.machine.mesh, tight.decisions)
    assert len(list(program.collectives())) == 2 * LAYERS


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["8", "2x4"])
def test_no_hand_plan_is_better(mesh: str) -> None:
    made = planner(LARGE, mesh)
    limit = room(made)
    plan, fit = made.plan(limit), set()
    for roles in role_rows(len(made.machine.mesh.axes), made.graph):
        try:
            other = hand_plan(made, roles, limit)
        except (NoHandPlan, NoPlan):
            continue
        fit.add(roles[-1])
        assert plan.seconds <= other.seconds * (1 + 1e-4), roles
    assert "experts" in fit


@pytest.mark.parametrize(
    "sizes", [SMALL, pytest.param(replace(SMALL, groups=1), marks=pytest.mark.slow)]
)
def test_what_is_planned_gives_the_whole(sizes: Sizes) -> None:
    """Of one group products of experts give addends."""
    made = planner(sizes, "8")
    by_hand = sizes == SMALL
    plan = hand_plan(made, ["experts"]) if by_hand else made.plan(room(made))
    assert not by_hand or set(plan.sent) == {"AllToAll"}
    inputs = tokens(sizes)
    program = partition(made.graph, made.machine.mesh, plan.decisions)
    truth, found = run(made.graph, inputs)["y"], oracle.run(program, inputs)["y"]
    np.testing.assert_allclose(found, truth, 1e-5, 1e-5)
