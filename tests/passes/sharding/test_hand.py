"""Plans made by hand: what they are, and that none is better than the planner's."""

from __future__ import annotations

import pytest
from small_transformers import transformer
from test_planner import planner

from graphopt.index import Replicated, Split
from graphopt.ir import Op
from graphopt.ops import Constant, LayerNormalization, MatMul
from graphopt.passes.sharding.hand import ROLES, NoHandPlan, hand_plan, role_rows
from graphopt.passes.sharding.solve import NoPlan

SIZES = {"width": 512, "hidden": 2048}


def products(graph_ops: tuple[Op, ...]) -> list[Op]:
    """Those with a weight: three and one of attention, two behind it."""
    return [
        op
        for op in graph_ops
        if isinstance(op, MatMul) and isinstance(op.operands[1], Constant)
    ]


def test_data_sends_nothing() -> None:
    made = planner(transformer(2, **SIZES), "8")
    plan = hand_plan(made, ["data"])
    assert not plan.sent
    weights = {x for v, x in plan.decisions.given.items() if isinstance(v, Constant)}
    assert weights == {(Replicated(),)}


def test_fsdp_stores_parts_and_gathers_them() -> None:
    made = planner(transformer(2, **SIZES), "8")
    plan, whole = hand_plan(made, ["fsdp"]), hand_plan(made, ["data"])
    assert set(plan.sent) == {"AllGather"}
    weights = sum(t.nbytes for t in made.graph.tensors())
    assert plan.sent["AllGather"] == pytest.approx(weights * 7 / 8, rel=1e-2)
    assert plan.stored < whole.stored - 0.8 * weights


def test_megatron_adds_up_twice_a_layer() -> None:
    graph = transformer(2, **SIZES)
    plan = hand_plan(planner(graph, "8"), ["megatron"])
    layouts = [plan.decisions.choices[op].operands[1] for op in products(graph.ops)]
    column, row = (Split(1),), (Split(0),)
    assert layouts == [column, column, column, row, column, row] * 2
    assert set(plan.sent) == {"AllReduce"}
    residual = 8 * 64 * 512 * 4
    assert plan.sent["AllReduce"] == pytest.approx(4 * 2 * 7 / 8 * residual)


def test_sequence_parallel_norms_share_the_sequence() -> None:
    graph = transformer(2, batch=1, **SIZES)
    plan = hand_plan(planner(graph, "8"), ["sequence"])
    norms = [op for op in graph.ops if isinstance(op, LayerNormalization)]
    assert {plan.decisions.choices[op].operands[0] for op in norms} == {(Split(1),)}
    assert set(plan.sent) == {"AllGather", "ReduceScatter"}


def test_ulysses_shares_heads_where_activations_meet() -> None:
    graph = transformer(2, batch=1, **SIZES)
    plan = hand_plan(planner(graph, "8"), ["ulysses"])
    assert set(plan.sent) == {"AllToAll"}
    meet = [op for op in graph.ops if isinstance(op, MatMul)]
    meet = [op for op in meet if op not in products(graph.ops)]
    for op in meet:
        assert plan.decisions.choices[op].operands == ((Split(1),), (Split(1),))


def test_context_gathers_keys_and_values() -> None:
    plan = hand_plan(planner(transformer(2, batch=1, **SIZES), "8"), ["context"])
    assert set(plan.sent) == {"AllGather"}
    assert plan.sent["AllGather"] == pytest.approx(2 * 2 * 7 / 8 * 64 * 512 * 4)


def test_what_does_not_apply_is_said() -> None:
    made = planner(transformer(1, batch=3, seq=64), "8")
    with pytest.raises(NoHandPlan, match="no input has a first dim that 8 devices"):
        hand_plan(made, ["data"])
    made = planner(transformer(1, batch=8, seq=1, width=12, heads=4, hidden=12), "8")
    for role in ("megatron", "context"):
        with pytest.raises(NoHandPlan, match=r"can be shared out|that 8 devices"):
            hand_plan(made, [role])
    made = planner(transformer(1, **SIZES), "8")
    with pytest.raises(NoPlan):
        hand_plan(made, ["data"], memory=sum(t.nbytes for t in made.graph.tensors()))


def test_rows_of_roles_have_two_at_most() -> None:
    assert set(role_rows(1)) == {(role,) for role in ROLES}
    assert len(set(role_rows(2))) == 36
    rows = set(role_rows(3))
    assert ("data", "data", "sequence") in rows
    assert ("data", "sequence", "data") not in rows


@pytest.mark.parametrize("mesh", ["8", pytest.param("2x4", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "sizes",
    [
        {"batch": 1, "seq": 128},
        {"batch": 8, "seq": 64},
        {"batch": 8, "seq": 1, "past": 64},
    ],
    ids=["prefill", "batch", "decode"],
)
@pytest.mark.parametrize("share", [None, 0.5], ids=["all", "half"])
def test_no_hand_plan_is_better(
    mesh: str, sizes: dict[str, int], share: float | None
) -> None:
    graph = transformer(3, **SIZES, **sizes)
    made = planner(graph, mesh)
    room = sum(t.nbytes for t in graph.tensors()) * (share or 100)
    best = made.plan(room)
    feasible = 0
    for roles in role_rows(len(made.machine.mesh.axes)):
        try:
            plan = hand_plan(made, roles, room)
        except (NoHandPlan, NoPlan):
            continue
        feasible += 1
        assert best.seconds <= plan.seconds * (1 + 1e-6), roles
    assert feasible >= 2
