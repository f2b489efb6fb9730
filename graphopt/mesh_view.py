"""A plan for a mesh, told: who holds what, what is sent, how long a step takes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from .ir import Parameter, Value
from .ops import Constant
from .ops.mesh import OverMesh
from .passes.sharding.layout import replicated, text, wire_bytes
from .passes.sharding.program import handled_bytes
from .passes.sharding.states import local_bytes
from .report import sized, table
from .sharded import Sharded
from .types import TensorType

Json: TypeAlias = Mapping[str, Any]

_SHOWN: Final = 12
"""Rows of a table for people; JSON has all."""


def mesh_facts(sharded: Sharded) -> dict[str, Any]:
    """What there is to say of a plan, as plain data."""
    mesh, graph = sharded.machine.mesh, sharded.graph
    decisions, plan = sharded.decisions, sharded.plan
    whole = replicated(mesh)
    weights = [op for op in graph.ops if isinstance(op, Constant) and op.rank]
    held = [_held(sharded, value) for value in (*graph.inputs, *weights)]
    collectives = [_collective(sharded, op) for op in sharded.program.collectives()]
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
        "predicted": None
        if plan is None
        else {
            "seconds": plan.seconds,
            "stored_bytes": plan.stored,
            "memory_bytes": plan.memory,
            "proved": plan.solution.proved,
            "gap": plan.solution.gap,
        },
        "memory_limit_bytes": sharded.machine.device.memory,
        "held": held,
        "split": sum(row["layout"] != text(whole) for row in held),
        "outputs": {
            name: text(layout)
            for name, layout in zip(
                graph.output_names, sharded.program.outputs, strict=True
            )
        },
        "ops": _ops(sharded),
        "collectives": collectives,
        "sent_bytes": dict(total),
        "choices": len(decisions.choices),
    }


def _held(sharded: Sharded, value: Value) -> dict[str, Any]:
    mesh = sharded.machine.mesh
    layout = sharded.decisions.given.get(value, replicated(mesh))
    if isinstance(value, Parameter):
        name = value.name
    else:
        name = sharded.graph.names.get(value, "")
    type_ = value.type
    whole = isinstance(type_, TensorType)
    return {
        "name": name,
        "type": str(type_),
        "what": "input" if isinstance(value, Parameter) else "weight",
        "layout": text(layout),
        "bytes": local_bytes(type_, layout, mesh) if whole else None,  # type: ignore[arg-type]
    }


def _collective(sharded: Sharded, op: OverMesh) -> dict[str, Any]:
    size = handled_bytes(op)
    return {
        "kind": op.kind,
        "axis": str(op.axis),
        "devices": int(op.ways),
        "type": str(op.type),
        "bytes": wire_bytes(op.kind, int(op.ways), size),
        "seconds": sharded.machine.sending(
            op.kind, sharded.machine.mesh.names.index(op.axis), size
        ),
    }


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


def mesh_lines(found: Json) -> Iterator[str]:
    """The facts for people."""
    mesh = " x ".join(f"{name}={size}" for name, size in found["mesh"].items())
    yield f"on {found['device']}, mesh {mesh}"
    yield ""
    predicted = found["predicted"]
    if predicted is not None:
        proof = "proved best" if predicted["proved"] else f"gap {predicted['gap']:.2%}"
        yield from table(
            [
                (
                    "a step by the model",
                    f"{predicted['seconds'] * 1e3:.3f} ms ({proof})",
                ),
                ("weights, inputs, outputs", sized(predicted["stored_bytes"])),
                ("with activations", sized(predicted["memory_bytes"])),
                ("of each device's", sized(found["memory_limit_bytes"])),
            ]
        )
        yield ""
    rows = alike(found["held"])
    yield "held by each device, largest first"
    yield from table(
        [("", "layout", "times", "bytes")]
        + [(*key, f"{n}", sized(size)) for key, (n, size) in rows[:_SHOWN]]
    )
    if len(rows) > _SHOWN:
        yield f"and {len(rows) - _SHOWN} more"
    yield ""
    sent = collected(found["collectives"])
    if not sent:
        yield "nothing is sent between devices"
    else:
        yield "sent by each device in a step"
        yield from table(
            [("", "axis", "times", "bytes", "ms")]
            + [
                (kind, axis, f"{n}", sized(round(size)), _ms(seconds))
                for (kind, axis), (n, size, seconds) in sent.items()
            ]
        )
    yield ""
    yield "how ops run, most first"
    yield from table(
        [("", "layouts", "times")]
        + [(r["op"], r["runs"], f"{r['count']}") for r in found["ops"][:_SHOWN]]
    )
    if len(found["ops"]) > _SHOWN:
        yield f"and {len(found['ops']) - _SHOWN} more ways"


def alike(held: Sequence[Json]) -> list[tuple[tuple[str, str], tuple[int, int]]]:
    """How many there are of what differs in the numbers of its name, and their bytes.

    Layers have such names; the most bytes come first.
    """
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for row in held:
        name = re.sub(r"\d+", "*", row["name"])
        key = f"{row['what']} {name} {row['type']}", row["layout"]
        n, size = found.get(key, (0, 0))
        found[key] = (n + 1, size + (row["bytes"] or 0))
    return sorted(found.items(), key=lambda item: -item[1][1])


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"


def collected(
    collectives: Sequence[Json],
) -> dict[tuple[str, str], tuple[int, float, float]]:
    """Times, bytes and seconds of collectives by kind and mesh axis."""
    found: dict[tuple[str, str], tuple[int, float, float]] = {}
    for each in collectives:
        key = each["kind"], each["axis"]
        n, size, seconds = found.get(key, (0, 0.0, 0.0))
        found[key] = (n + 1, size + each["bytes"], seconds + each["seconds"])
    return dict(sorted(found.items()))
