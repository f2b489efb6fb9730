"""A memory plan for people: as plain data, and as lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

from .dim_names import said
from .ir import Graph, Op, Value
from .memory_words import first_without_size, left_out, most_inside
from .passes.memory.plan import MemoryPlan, Placement
from .provenance import named_values, place
from .report import sized, table

Json: TypeAlias = Mapping[str, Any]

SHOWN: Final = 8
"""So many blocks are listed as live at the peak."""

MUCH: Final = 1.1
"""Where so many times what was planned is measured, a reason is given."""


def memory_facts(plan: MemoryPlan, graph: Graph) -> dict[str, Any]:
    """What a plan says, as plain data; all sizes in bytes."""
    names = {value: name for name, value in named_values(graph).items()}
    live = plan.live
    worst = max(range(len(live)), key=live.__getitem__, default=0)
    return {
        "sizes": dict(plan.binding),
        "peak_bytes": plan.peak,
        "lower_bound_bytes": plan.lower_bound,
        "proof": plan.proof,
        "alignment": plan.space.alignment,
        "constant_bytes": plan.constants,
        "input_bytes": plan.inputs,
        "output_bytes": plan.outputs,
        "output_bytes_at_peak": plan.beside,
        "resident_bytes": plan.resident,
        "without_size": plan.left_out,
        "first_without_size": first_without_size(plan, graph) or None,
        "steps": [
            {"op": place(graph, op), "live_bytes": size, "output_bytes": given}
            for op, size, given in zip(plan.order, live, plan.given, strict=True)
        ],
        "blocks": [_block(p, names, plan) for p in plan.placements],
        "peak_step": worst,
        "at_peak": [_block(p, names, plan) for p in plan.at(worst)],
    }


def _block(
    place_: Placement, names: Mapping[Value, str], plan: MemoryPlan
) -> dict[str, Any]:
    """A block: its kind, what lies in it, where, and from step to step."""
    op = place_.op if place_.op is not None else _maker(place_)
    within = "" if place_.op is None else most_inside(place_.op, plan)
    return {
        "kind": place_.kind.value,
        "values": [names.get(v, v.op.label if v.op else "?") for v in place_.values],
        "op": "" if op is None else op.kind,
        "type": str(place_.values[0].type) if place_.values else "",
        "offset": place_.offset,
        "bytes": place_.buffer.size,
        "first": place_.buffer.lower,
        "last": place_.buffer.upper - 1,
        **({"inside": within} if within else {}),
    }


def _maker(place_: Placement) -> Op | None:
    return place_.values[0].op


def memory_lines(found: Json) -> Iterator[str]:
    """The same for a terminal."""
    if found["sizes"]:
        yield f"with {said(found['sizes'])}"
    if count := found["without_size"]:
        counted = bool(found.get("realised"))
        compiler = found.get("compiler")
        counted |= compiler is not None and compiler["activation_bytes"] is not None
        words = left_out(count, found["first_without_size"], counted=counted)
        yield f"the plan leaves out {words}"
    proof = {
        "optimal": "no arena is smaller in this order",
        "bound": f"no arena is under {sized(found['lower_bound_bytes'])} in this order",
        "none": "a smaller arena may do",
    }[found["proof"]]
    least = "at least " if found["without_size"] else ""
    yield from table(
        [
            ("activations, in one arena", least + sized(found["peak_bytes"])),
            ("weights", sized(found["constant_bytes"])),
            ("inputs", sized(found["input_bytes"])),
            ("outputs", least + sized(found["output_bytes"])),
            *(
                [("  of these at the peak", sized(found["output_bytes_at_peak"]))]
                if found["output_bytes_at_peak"] != found["output_bytes"]
                else []
            ),
            ("resident in all", least + sized(found["resident_bytes"])),
        ]
    )
    if found["blocks"] or not found["without_size"]:
        yield f"of what has a size, {proof}" if found["without_size"] else proof
    orders = found.get("orders")
    if orders and orders["best"] < orders["file"] and found["order"] == "file":
        yield f"in the best order that was found it is {sized(orders['best'])}"
    if arena := found.get("arena"):
        yield from _arena_lines(arena)
    if compiler := found.get("compiler"):
        size = compiler["activation_bytes"]
        yield (
            f"XLA's compiler takes {sized(size)} for activations, with what kernels"
            " take: limits are held against that"
            if size is not None
            else f"XLA's compiler was not asked: {compiler['reason']}"
        )
    if realised := found.get("realised"):
        given = found["output_bytes_at_peak"]
        foreseen = found["peak_bytes"] + given
        measured = (
            f"measured in {realised['target']}: {sized(realised['peak'])} for"
            f" activations and outputs (planned: {sized(foreseen)}"
            + (f", {sized(given)} of it outputs)" if given else ")")
        )
        grown = realised["growth"]
        more = "" if grown is None else f"; the process grows by {sized(grown)}"
        before = realised.get("foreseen")
        yield (
            measured
            + more
            + (
                f" (foreseen: {sized(before)} with outputs and what kernels keep)"
                if before
                else ""
            )
        )
        if realised.get("recipe") is False and realised["peak"] > MUCH * foreseen:
            yield (
                "  opened as ONNX Runtime does by default, with an order and layouts of"
                " its own; what optimize writes with --target ort-cpu and a limit"
                " (--max-activations) is opened so that its plan holds"
            )
    if not found["at_peak"]:
        return
    step = found["peak_step"]
    worst = found["steps"][step]
    yield ""
    last = len(found["steps"]) - 1
    yield f"most is live at step {step} (of 0 to {last}), {worst['op']}:"
    rows = [
        (
            named(b),
            b["type"],
            sized(b["bytes"]),
            f"steps {b['first']} to {b['last']}",
        )
        for b in found["at_peak"][:SHOWN]
    ]
    yield from (f"  {line}" for line in table(rows))
    rest = found["at_peak"][SHOWN:]
    if rest:
        yield f"  and {len(rest)} more, {sized(sum(b['bytes'] for b in rest))}"
    for block in found["at_peak"]:
        if "inside" in block:
            yield f"  in the {named(block)}: {block['inside']}"
    yield ""
    yield from _sparkline(found)


def _arena_lines(arena: Json) -> Iterator[str]:
    """What limits of ONNX Runtime are held against."""
    size, reason = arena["activation_bytes"], arena["reason"]
    if size is None:
        yield (
            "what ONNX Runtime's arena takes is not known; of a copy with these sizes:"
            f" {reason}"
        )
        return
    where = "as foreseen, in this order"
    if arena["executed"]:
        own = ", in an order and with layouts of its own" if arena["layouts"] else ""
        where = f"as one run took it{own}"
    taken = f"{sized(arena['arena_bytes'])} for activations {where}"
    if arena["arena_bytes"] < size:
        taken += f"; what is planned, {sized(size)}, counts where it is more"
    yield (
        f"ONNX Runtime's arena takes {taken}; in all it is"
        f" {sized(arena['resident_bytes'])}: limits are held against that"
    )
    plain = arena["without_layouts_bytes"]
    if plain is not None and plain < size:
        yield (
            f"  without layouts of convolutions it is {sized(plain)} in this order: a"
            " limit below the first may take that, which is slower"
        )
    if reason:
        yield f"  without layouts and kernels of convolutions: {reason}"


def named(block: Json) -> str:
    """A block by what lies there first, or by the op that works in it."""
    if block["kind"] == "workspace":
        return f"workspace of {block['op']}"
    name, more = block["values"][0], len(block["values"]) - 1
    return f"{name} (+{more} in place)" if more else str(name)


_LEVELS: Final = "▁▂▃▄▅▆▇█"
_COLUMNS: Final = 72


def _sparkline(found: Json) -> Iterator[str]:
    """Live bytes and outputs over the steps, in one row of blocks."""
    live = [sum(bytes_of(step)) for step in found["steps"]]
    columns = min(_COLUMNS, len(live))
    parts = [
        max(live[i * len(live) // columns : (i + 1) * len(live) // columns])
        for i in range(columns)
    ]
    most = max([1, *parts])
    row = "".join(_LEVELS[(len(_LEVELS) - 1) * part // most] for part in parts)
    outputs = " and outputs" if found["output_bytes"] else ""
    yield f"live bytes{outputs} over {len(live)} steps, at most {sized(most)}"
    yield row


def bytes_of(step: Json) -> tuple[int, int]:
    """Of the arena, and of outputs that are there by then."""
    return step["live_bytes"], step["output_bytes"]
