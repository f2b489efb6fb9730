"""Devices, links, and the seconds of steps and ops."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from typing import Any

import pytest

from graphopt import ops
from graphopt.errors import UsageError
from graphopt.hardware import device, devices
from graphopt.index import Partial, Replicated, Split
from graphopt.ir import Op, Parameter
from graphopt.ir.rebuild import postorder
from graphopt.passes.sharding import Mesh, choices
from graphopt.passes.sharding.choices import Choice, localized, part_type
from graphopt.passes.sharding.layout import Step, steps
from graphopt.passes.sharding.machine import TIE, Link, Machine
from graphopt.passes.sharding.work import Exchange, deeds
from graphopt.rewrite import Miss
from graphopt.types import DType, TensorType

choosing = import_module("graphopt.passes.sharding.choices")
R, S0, S1, P = Replicated(), Split(0), Split(1), Partial()
TYPE = TensorType(DType.F32, (1024, 1024))
BYTES = 4 * 2**20


def machine(mesh: str = "8", alpha: float = 1e-6, beta: float = 1e11) -> Machine:
    parsed = Mesh.parse(mesh)
    return Machine.of("h100", parsed, {n: Link(alpha, beta) for n in parsed.names})


def seconds(of: Machine, choice: Choice) -> float:
    assert choice.work is not None
    return of.taking(choice.work)


def given(*shape: int, dtype: DType = DType.F32) -> Parameter:
    return Parameter(TensorType(dtype, shape))


SHARED = (
    ops.MatMul(given(8, 16, 32), given(32, 64)),
    ops.Conv(given(8, 16, 8, 8), given(32, 16, 1, 1), strides=(2, 2)),
    ops.Gather(given(64, 32), given(8, 16, dtype=DType.I64)),
    ops.LayerNormalization(given(8, 16, 32), given(32), given(32)),
    ops.Attention(*[given(8, 4, 16, 8)] * 3, is_causal=1),
    ops.SoftmaxCrossEntropyLoss(given(16, 64), given(16, dtype=DType.I64)),
)


@pytest.mark.parametrize(
    ("kind", "source", "target", "rounds", "sent"),
    [
        ("AllGather", S0, R, 7, 7 / 8 * BYTES),
        ("ReduceScatter", P, S0, 7, 7 / 8 * BYTES),
        ("AllToAll", S0, S1, 7, 7 / 8 * BYTES / 8),
        ("AllReduce", P, R, 14, 2 * 7 / 8 * BYTES),
    ],
)
def test_collectives_cost_rounds_and_bytes(
    kind: str, source: object, target: object, rounds: int, sent: float
) -> None:
    step = Step(kind, 0, (source,), (target,))  # type: ignore[arg-type]
    expected = rounds * 1e-6 + sent / 1e11
    assert machine().seconds(step, TYPE) == pytest.approx(expected, rel=1e-2)


def test_an_all_reduce_costs_what_its_halves_do() -> None:
    of = machine()
    halves = [Step("ReduceScatter", 0, (P,), (S0,)), Step("AllGather", 0, (S0,), (R,))]
    both = Step("AllReduce", 0, (P,), (R,))
    total = sum(of.seconds(step, TYPE) for step in halves)
    assert of.seconds(both, TYPE) == pytest.approx(total, rel=1e-12)


def test_no_step_is_free() -> None:
    of = machine("2x4")
    layouts = [(R, R), (S0, S1), (P, R), (S1, S1)]
    found = [s for x in layouts for s in steps(x, (1024, 1024), of.mesh)]
    assert min(of.seconds(step, TYPE) for step in found) >= TIE
    assert {step.kind for step in found} >= {"None", "Shard", "Addend", "AllToAll"}


def test_what_is_local_costs_its_traffic() -> None:
    step = Step("Shard", 0, (R,), (S0,))
    traffic = 2 * BYTES / 8 / device("h100").bandwidth
    assert machine().seconds(step, TYPE) == pytest.approx(TIE + traffic)


def test_axes_beyond_a_node_are_slower() -> None:
    inside, across = (Machine.of("h100", Mesh.parse(m)) for m in ("2x4", "2x8"))
    assert inside.links[0] == inside.links[1] == across.links[1]
    assert across.links[0].beta < across.links[1].beta / 5
    assert across.links[0].alpha > across.links[1].alpha
    pod = Machine.of("xla-tpu:v5e:4x8", Mesh.parse("4x8"))
    assert pod.links[0] == pod.links[1]


def test_links_can_be_given() -> None:
    link = Link.parse("8us, 35GB/s")
    assert link == Link(pytest.approx(8e-6), 35e9)  # type: ignore[arg-type]
    found = Machine.of("h100", Mesh.parse("data=2,model=4"), {"data": link})
    assert found.links[0] == link != found.links[1]
    with pytest.raises(UsageError, match="no axis 'x'"):
        Machine.of("h100", Mesh.parse("data=2"), {"x": link})
    for text in ("8us", "fast", "8us,0GB/s", "-1us,1GB/s", "1us,nanGB/s"):
        with pytest.raises(UsageError, match="cannot read the link"):
            Link.parse(text)


def test_devices_by_target() -> None:
    assert device("xla-cpu").name == "cpu"
    assert device("xla-cuda:h200").memory == 141 * 2**30
    assert device("xla-tpu:v5e:4x4").name == device("v5e").name == "v5e"
    with pytest.raises(UsageError, match="unknown device 'h10'; did you mean 'h100'"):
        device("xla-cuda:h10")


def test_each_device_is_whole() -> None:
    for each in devices().values():
        assert each.memory > 2**33
        assert each.bandwidth > each.reach > 1e9
        assert each.flops_per_second(DType.F32) > 1e11
        bf16, f8 = (each.flops_per_second(t) for t in (DType.BF16, DType.F8E4M3FN))
        assert f8 >= bf16 > 0


def test_what_a_device_is_does_not_hang_on_its_links() -> None:
    kinds = {name: each.kind for name, each in devices().items()}
    assert {*kinds.values()} == {"cpu", "gpu", "tpu"}
    assert kinds["cpu"] == "cpu"
    assert {name for name, kind in kinds.items() if kind == "tpu"} == {
        *("v4", "v5e", "v5p", "v6e", "tpu7x")
    }
    assert dataclasses.replace(device("v5e"), torus=0).is_tpu
    assert not dataclasses.replace(device("h100"), torus=2).is_tpu


def test_ops_share_their_work() -> None:
    of = machine()
    x = Parameter(TensorType(DType.F32, (4096, 4096)))
    op = ops.MatMul(x, Parameter(TensorType(DType.F32, (4096, 4096))))
    found = {c.operands[0]: seconds(of, c) for c in choices(op, of.mesh)}
    peak = of.efficiency * of.device.flops_per_second(DType.F32)
    assert found[(R,)] == pytest.approx(2 * 4096**3 / peak + of.floor)
    assert found[(S0,)] == pytest.approx(2 * 4096**3 / peak / 8 + of.floor)


def test_a_table_is_not_read_whole() -> None:
    of = machine()
    table = Parameter(TensorType(DType.F32, (2**20, 64)))
    op = ops.Gather(table, Parameter(TensorType(DType.I64, (256,))))
    whole = choices(op, of.mesh)[0]
    moved = (2 * 256 * 64 * 4 + 256 * 8) / of.device.bandwidth
    assert seconds(of, whole) - of.floor == pytest.approx(moved)


def test_what_runs_inside_counts() -> None:
    """A softmax over a dim in parts: its body, and two small all-reduces."""
    of = machine()
    x = Parameter(TensorType(DType.F32, (64, 4096)))
    op = ops.Softmax(x, axis=-1)
    (split,) = [c for c in choices(op, of.mesh) if c.operands == ((S1,),)]
    assert split.work is not None
    sent = [deed.kind for deed in split.work if isinstance(deed, Exchange)]
    assert sent == ["AllReduce", "AllReduce"]
    local = localized(op, split, of.mesh, [Parameter(TensorType(DType.F32, (64, 512)))])
    assert not isinstance(local, Miss)
    found = sum(of.doing(deed) for _, deed in deeds([*postorder(local)]))
    assert seconds(of, split) == pytest.approx(found, rel=1e-12)
    assert found > 5 * of.floor + 2 * of.links[0].alpha * 14


@pytest.mark.parametrize("op", SHARED, ids=lambda op: op.kind)
def test_an_op_on_parts_costs_what_its_choice_says(op: Op) -> None:
    """Of ops that stay themselves the work is known without making them."""
    of = machine("2x4")
    for choice in choices(op, of.mesh):
        parts = [
            None if v is None else Parameter(part_type(v, layout, of.mesh) or v.type)
            for v, layout in zip(op.operands, choice.operands, strict=True)
        ]
        local = localized(op, choice, of.mesh, parts)
        assert not isinstance(local, Miss)
        found = sum(of.doing(deed) for _, deed in deeds([*postorder(local)]))
        assert seconds(of, choice) == pytest.approx(found, rel=1e-12), str(choice)


def test_what_cannot_be_built_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where several ways exchange something inside, all of it is built once."""
    built = localized

    def refusing(op: Op, choice: Choice, *rest: Any) -> Any:
        if sum(way.form == "opened" for way in choice.ways) > 1:
            return Miss("two at once")
        return built(op, choice, *rest)

    op = ops.Softmax(Parameter(TensorType(DType.F32, (4, 20, 12))), axis=-1)
    square = machine("2x2")
    kept = choices(op, square.mesh)
    forms = [tuple([way.form for way in c.ways]) for c in kept]
    assert ("opened", "opened") in forms
    monkeypatch.setattr(choosing, "localized", refusing)
    monkeypatch.setattr(choosing, "_KNOWN", {})
    left = choices(op, square.mesh)
    assert left == [
        c for c, form in zip(kept, forms, strict=True) if form != ("opened", "opened")
    ]
    assert all(seconds(square, c) > 0 for c in left)
