"""A plan for a mesh, told: who holds what, what is sent, how long a step takes."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeGuard

from .ir import Graph, Op, Parameter, Value
from .mesh_flow import flow_facts, step_seconds
from .mesh_regimes import regime_facts, regime_lines
from .ops import Constant
from .ops.mesh import OverMesh
from .passes.sharding.hand import NoHandPlan, hand_plan, role_rows
from .passes.sharding.layout import Layout, local_bytes, replicated, wire_bytes
from .passes.sharding.live import local_peak, peak
from .passes.sharding.program import handled_bytes
from .passes.sharding.solve import NoPlan
from .passes.sharding.turns import runs
from .report import on_host, sized, table
from .sharded import Sharded
from .types import TensorType, Type

Json: TypeAlias = Mapping[str, Any]

_SHOWN: Final = 12
"""Rows of a table for people; JSON has all."""


def mesh_facts(sharded: Sharded) -> dict[str, Any]:
    """What there is to say of a plan, as plain data.

    Bytes are those of one device: all hold as much. A layout is a state for each axis
    of the mesh.
    """
    mesh, graph, program = sharded.machine.mesh, sharded.graph, sharded.program
    plan = sharded.plan
    weights = [op for op in graph.ops if isinstance(op, Constant) and op.rank]
    weights = [op for op in weights if op.ints is None]  # else it steers shapes
    held = [_held(sharded, value) for value in (*graph.inputs, *weights)]
    collectives = [
        _collective(sharded, op, times)
        for op, times in runs(program.graph, _sent)
        if isinstance(op, OverMesh) and op.communicates
    ]
    step = step_seconds(program, sharded.machine)
    total: Counter[str] = Counter()
    for each in collectives:
        total[each["kind"]] += each["bytes"]
    return {
        "mesh": dict(mesh.axes),
        "device": sharded.machine.device.name,
        "links": {
            name: {"alpha_seconds": link.alpha, "bytes_per_second": link.beta}
            for name, link in zip(mesh.names, sharded.machine.links, strict=True)
        },
        "seconds": sum(step.values()),
        "step": step,
        "solved": None
        if plan is None
        else {"proved": plan.solution.proved, "gap": plan.solution.gap},
        "memory": _memory(sharded),
        "held": held,
        "split": sum(set(row["layout"]) != {"R"} for row in held),
        "outputs": {
            name: list(map(str, layout))
            for name, layout in zip(graph.output_names, program.outputs, strict=True)
        },
        "ops": _ops(sharded),
        "collectives": collectives,
        "sent_bytes": dict(total),
        "choices": len(sharded.decisions.choices),
        "host": {} if sharded.parts is None else sharded.parts.kinds,
        "layer": flow_facts(program, sharded.machine, graph.names),
        **regime_facts(sharded),
    }


def hand_facts(sharded: Sharded, seconds: float = 20.0) -> list[dict[str, Any]]:
    """What plans that people make would take, the cheapest first.

    Each has a name, and seconds by the same model, or None and the reason. Those
    that are not reached in so many seconds are left out; so are all of a plan that a
    file brought along.
    """
    planner, end = sharded.planner, time.perf_counter() + seconds
    names = sharded.machine.mesh.names
    found: list[dict[str, Any]] = []
    for roles in role_rows(len(names), sharded.graph) if planner is not None else ():
        if time.perf_counter() > end:
            break
        assert planner is not None
        row: dict[str, Any] = {"name": " x ".join(roles), "seconds": None, "reason": ""}
        if len(set(roles)) == 1:
            row["name"] = roles[0]
        try:
            row["seconds"] = hand_plan(planner, roles, limit_of(sharded)).seconds
        except (NoHandPlan, NoPlan) as error:
            row["reason"] = str(error)
        found.append(row)
    return sorted(found, key=lambda r: (r["seconds"] is None, r["seconds"]))


def _memory(sharded: Sharded) -> dict[str, int]:
    """Bytes on a device by what they are for.

    ``copy_bytes`` are those of the program's activations at their peak that the plan
    does not count: values and weights in other layouts than that they are made in.
    """
    mesh, graph, program = sharded.machine.mesh, sharded.graph, sharded.program
    given, choices = sharded.decisions.given, sharded.decisions.choices
    whole = replicated(mesh)

    def lying(value: Value, layout: Layout) -> int:
        type_ = value.type
        return local_bytes(type_, layout, mesh) if _is_tensor(type_) else 0

    made = {
        value: lying(value, layout)
        for op, choice in choices.items()
        for value, layout in zip(op.results, choice.results, strict=True)
    }
    alive, _ = peak(graph, lambda value: made.get(value, 0))
    local = local_peak(program.graph)
    weights = [op for op in graph.ops if isinstance(op, Constant)]
    outputs = zip(graph.outputs, program.outputs, strict=True)
    return {
        "weight_bytes": sum(lying(w, given.get(w, whole)) for w in weights),
        "input_bytes": sum(lying(p, given.get(p, whole)) for p in graph.inputs),
        "output_bytes": sum(lying(value, layout) for value, layout in outputs),
        "activation_bytes": alive,
        "copy_bytes": max(0, local - alive),
        "limit_bytes": limit_of(sharded),
    }


def limit_of(sharded: Sharded) -> int:
    """The bytes that a device may hold."""
    return sharded.limit or sharded.machine.device.memory


def _is_tensor(type_: Type) -> TypeGuard[TensorType]:
    return isinstance(type_, TensorType) and type_.shape is not None


def _held(sharded: Sharded, value: Value) -> dict[str, Any]:
    mesh = sharded.machine.mesh
    layout = sharded.decisions.given.get(value, replicated(mesh))
    type_ = value.type
    return {
        "name": _named(value, sharded.graph),
        "type": str(type_),
        "what": "input" if isinstance(value, Parameter) else "weight",
        "layout": list(map(str, layout)),
        "shape": list(value.shape or ()),
        "bytes": local_bytes(type_, layout, mesh) if _is_tensor(type_) else None,
    }


def _named(value: Value, graph: Graph) -> str:
    """The name of an input or a weight; of one without, who reads it."""
    if isinstance(value, Parameter):
        return value.name
    readers = sorted({op.label for op, _ in graph.users[value]})
    return graph.names.get(value) or f"(read by {', '.join(readers)})"


def _collective(sharded: Sharded, op: OverMesh, times: int) -> dict[str, Any]:
    """A collective that runs so many times, its bytes and seconds all together."""
    axis = sharded.machine.mesh.names.index(op.axis)
    seconds = sharded.machine.sending(op.kind, axis, handled_bytes(op))
    return {
        "kind": op.kind,
        "axis": str(op.axis),
        "devices": int(op.ways),
        "type": str(op.type),
        "times": times,
        "bytes": times * _sent(op),
        "seconds": times * seconds,
    }


def _sent(op: Op) -> float:
    """The bytes that a device sends in one run of an op."""
    if not isinstance(op, OverMesh):
        return 0.0
    return wire_bytes(op.kind, int(op.ways), handled_bytes(op))


def _ops(sharded: Sharded) -> list[dict[str, Any]]:
    """How the ops run, those of one kind that run alike together."""
    counted: Counter[tuple[str, str]] = Counter()
    for op in sharded.graph.ops:
        choice = sharded.decisions.choices.get(op)
        if choice is not None:
            counted[op.label, str(choice)] += 1
    return [
        {"op": kind, "runs": how, "count": count}
        for (kind, how), count in counted.most_common()
    ]


def head(found: Json) -> str:
    """``h100, mesh data=2 x model=4: a step takes 0.218 ms …``"""
    mesh = " x ".join(f"{name}={size}" for name, size in found["mesh"].items())
    return f"{found['device']}, mesh {mesh}: a step takes {said_seconds(found)}"


def said_seconds(found: Json) -> str:
    """``0.218 ms by the model, proved best``"""
    said = f"{ms(found['seconds'])} ms by the model"
    solved = found["solved"]
    if solved is None:
        return f"{said}, by the plan of the file"
    proof = "proved best" if solved["proved"] else f"gap {solved['gap']:.2%}"
    return f"{said}, {proof}"


PARTS: Final = {
    "weight_bytes": "weights",
    "input_bytes": "inputs",
    "output_bytes": "outputs",
    "activation_bytes": "activations",
}
"""What a plan counts of a device's memory."""


def counted_bytes(found: Json) -> int:
    """What the plan says that a device holds."""
    return sum(found["memory"][part] for part in PARTS)


def mesh_lines(found: Json) -> Iterator[str]:
    """The facts for people."""
    mesh = " x ".join(f"{name}={size}" for name, size in found["mesh"].items())
    yield f"on {found['device']}, mesh {mesh}"
    yield f"a step takes {said_seconds(found)}"
    if found["host"]:
        yield f"{on_host(found['host'])}, not counted"
    yield from regime_lines(found)
    yield ""
    yield from _memory_lines(found)
    yield ""
    yield from _held_lines(found["held"])
    yield ""
    yield from _sent_lines(found["collectives"])
    yield ""
    yield from _op_lines(found["ops"])
    if hand := found.get("hand"):
        yield ""
        yield from _hand_lines(found, hand)


def _memory_lines(found: Json) -> Iterator[str]:
    """What a device holds, and may hold."""
    memory = found["memory"]
    yield "memory of each device"
    yield from table(
        [
            *((name, sized(memory[part])) for part, name in PARTS.items()),
            ("in all", sized(counted_bytes(found))),
            ("it may hold", sized(memory["limit_bytes"])),
        ]
    )
    if memory["copy_bytes"]:
        yield f"copies in other layouts take up to {sized(memory['copy_bytes'])} more"


def _held_lines(held: Sequence[Json]) -> Iterator[str]:
    """How what a device holds lies, the largest."""
    rows = alike(held)
    yield "held by each device, largest first"
    yield from table(
        [("", "layout", "times", "bytes")]
        + [
            (f"{what} {name} {type_}", said, f"{n}", sized(size))
            for (what, name, type_, said), (n, size) in rows[:_SHOWN]
        ]
    )
    if len(rows) > _SHOWN:
        yield f"and {len(rows) - _SHOWN} more"


def _sent_lines(collectives: Sequence[Json]) -> Iterator[str]:
    """What a device sends in a step."""
    sent = collected(collectives)
    if not sent:
        yield "nothing is sent between devices"
        return
    yield "sent by each device in a step"
    yield from table(
        [("", "axis", "times", "bytes", "ms")]
        + [
            (kind, axis, f"{n}", sized(round(size)), ms(seconds))
            for (kind, axis), (n, size, seconds) in sent.items()
        ]
    )


def _op_lines(ops: Sequence[Json]) -> Iterator[str]:
    """How most ops run."""
    if ops:
        yield "how ops run, most first"
        yield from table(
            [("", "layouts", "times")]
            + [(r["op"], r["runs"], f"{r['count']}") for r in ops[:_SHOWN]]
        )
    if len(ops) > _SHOWN:
        yield f"and {len(ops) - _SHOWN} more ways"


def _hand_lines(found: Json, hand: Sequence[Json]) -> Iterator[str]:
    """This plan beside those made by hand."""
    yield "what plans made by hand would take, by the same model"
    shown, others = shown_by_hand(hand)
    yield from table(
        [("", "ms", "of this plan")] * bool(shown)
        + [
            (r["name"], ms(r["seconds"]), f"{r['seconds'] / found['seconds']:.2f}")
            for r in shown
        ]
    )
    yield from others


BY_HAND: Final = 6
"""So many of the plans made by hand are shown."""


def shown_by_hand(hand: Sequence[Json]) -> tuple[list[Json], list[str]]:
    """The plans made by hand that are shown, the cheapest, and what is said of others.

    Those that fail for one reason are named together.
    """
    made = [row for row in hand if row["seconds"] is not None]
    said = [f"and {len(made) - BY_HAND} dearer ones"] if len(made) > BY_HAND else []
    reasons: dict[str, list[str]] = {}
    for row in hand:
        if row["seconds"] is None:
            reasons.setdefault(row["reason"], []).append(row["name"])
    for reason, names in reasons.items():
        some = ", ".join(names[:BY_HAND])
        more = f" and {len(names) - BY_HAND} more" if len(names) > BY_HAND else ""
        said.append(f"{some}{more}: {reason}")
    return made[:BY_HAND], said


def laid(layout: Sequence[str]) -> str:
    """``[S(0), R]``"""
    return f"[{', '.join(layout)}]"


def alike(
    held: Sequence[Json],
) -> list[tuple[tuple[str, str, str, str], tuple[int, int]]]:
    """How many there are of what differs in the numbers of its name, and their bytes.

    By what it is, name, type and layout. Layers have such names; the most bytes come
    first.
    """
    found: dict[tuple[str, str, str, str], tuple[int, int]] = {}
    for row in held:
        name = re.sub(r"\d+", "*", row["name"])
        key = row["what"], name, row["type"], laid(row["layout"])
        n, size = found.get(key, (0, 0))
        found[key] = (n + 1, size + (row["bytes"] or 0))
    return sorted(found.items(), key=lambda item: -item[1][1])


def ms(seconds: float) -> str:
    """Milliseconds, as people read them."""
    return f"{seconds * 1e3:,.3f}"


def collected(
    collectives: Sequence[Json],
) -> dict[tuple[str, str], tuple[int, float, float]]:
    """Times, bytes and seconds of collectives by kind and mesh axis."""
    found: dict[tuple[str, str], tuple[int, float, float]] = {}
    for each in collectives:
        key = each["kind"], each["axis"]
        n, size, seconds = found.get(key, (0, 0.0, 0.0))
        n += each["times"]
        found[key] = (n, size + each["bytes"], seconds + each["seconds"])
    return dict(sorted(found.items()))
