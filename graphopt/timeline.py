"""A memory plan for people: as plain data, as lines, and as a picture.

The picture has the steps from left to right. Above it shows live bytes, below where in
the arena each block lies. It is one SVG that loads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
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
        foreseen = found["peak_bytes"] + found["output_bytes_at_peak"]
        measured = (
            f"measured in {realised['target']}: {sized(realised['peak'])} for"
            f" activations and outputs (planned: {sized(foreseen)})"
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
            _named(b),
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
            yield f"  in the {_named(block)}: {block['inside']}"
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
    yield (
        f"ONNX Runtime's arena takes {sized(size)} for activations {where}; in all it"
        f" is {sized(arena['resident_bytes'])}: limits are held against that"
    )
    plain = arena["without_layouts_bytes"]
    if plain is not None and plain < size:
        yield (
            f"  without layouts of convolutions it is {sized(plain)} in this order: a"
            " limit below the first may take that, which is slower"
        )
    if reason:
        yield f"  without layouts and kernels of convolutions: {reason}"


def _named(block: Json) -> str:
    if block["kind"] == "workspace":
        return f"workspace of {block['op']}"
    name, more = block["values"][0], len(block["values"]) - 1
    return f"{name} (+{more} in place)" if more else str(name)


_LEVELS: Final = "▁▂▃▄▅▆▇█"
_COLUMNS: Final = 72


def _sparkline(found: Json) -> Iterator[str]:
    """Live bytes and outputs over the steps, in one row of blocks."""
    live = [sum(_bytes(step)) for step in found["steps"]]
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


def _bytes(step: Json) -> tuple[int, int]:
    """Of the arena, and of outputs that are there by then."""
    return step["live_bytes"], step["output_bytes"]


# --- the picture --------------------------------------------------------------------

_WIDTH: Final = 1080
_LEFT: Final = 86
_UPPER: Final = 150
_LOWER: Final = 420
_GAP: Final = 58

_STYLE: Final = """
.ground { fill: #fbfbfa } text { fill: #1d1f23; font: 13px system-ui, sans-serif }
.soft { fill: #666c76 } .line { stroke: #e3e4e7 } .live { fill: #2f6fde }
.outputs { fill: #a9b4c4 }
.peak { stroke: #c0392b; stroke-dasharray: 5 4 } rect.b { stroke: #fbfbfa }
rect.b:hover { opacity: .7 }
@media (prefers-color-scheme: dark) {
 .ground { fill: #16181c } text { fill: #e6e8eb } .soft { fill: #9aa1ac }
 .line { stroke: #31353c } .live { fill: #6ea0f5 } .outputs { fill: #566072 }
 .peak { stroke: #f0766a }
 rect.b { stroke: #16181c } }
"""

_HUES: Final = (
    *("#4e79a7", "#59a14f", "#b07aa1", "#edc948", "#76b7b2"),
    *("#ff9da7", "#9c755f", "#86bcb6", "#d37295", "#a0cbe8"),
)
_WORKSPACE: Final = "#f28e2b"


def memory_picture(found: Json, title: str) -> str:
    """The picture as the text of an SVG file."""
    steps = max(1, len(found["steps"]))
    peak = max(1, found["peak_bytes"])
    most = max([1, *(sum(_bytes(step)) for step in found["steps"])])
    across = (_WIDTH - _LEFT - 20) / steps
    top = 76
    bottom = top + _UPPER + _GAP
    kinds = sorted({b["op"] for b in found["blocks"] if b["kind"] != "workspace"})
    hue = {kind: _HUES[i % len(_HUES)] for i, kind in enumerate(kinds)}
    drawn = [
        *_axes(most, top, _UPPER, "live, outputs above it"),
        *_area(found, across, top, most),
        *_axes(peak, bottom, _LOWER, "arena"),
        *_map(found, across, bottom, peak, hue),
    ]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} '
        f'{bottom + _LOWER + 50}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        '<rect class="ground" width="100%" height="100%"/>',
        f'<text x="{_LEFT}" y="24" font-weight="600">{escape(title)}</text>',
        f'<text x="{_LEFT}" y="43" class="soft">{escape(_subtitle(found))}</text>',
        *(drawn if found["blocks"] else [_nothing(top)]),
        f'<text x="{_LEFT}" y="{bottom + _LOWER + 24}" class="soft">'
        f"step 0 to {steps - 1}, each one op; colours by the op that computes a block, "
        "orange is workspace</text>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _nothing(top: int) -> str:
    return (
        f'<text class="soft" x="{_LEFT}" y="{top + _UPPER}">nothing to draw: no value'
        " of the arena has a size that is known before a run</text>"
    )


def _subtitle(found: Json) -> str:
    sizes = said(found["sizes"])
    bound = found["lower_bound_bytes"]
    proof = "the least" if found["proof"] == "optimal" else f"at least {sized(bound)}"
    said_of = f" ({proof} in this order)" if found["blocks"] else ""
    parts = [f"arena {sized(found['peak_bytes'])}{said_of}"]
    if (taken := found.get("arena")) and taken["activation_bytes"] is not None:
        parts.append(f"ONNX Runtime's {sized(taken['activation_bytes'])}")
    parts.append(f"weights {sized(found['constant_bytes'])}")
    if found["without_size"]:
        parts.append(f"without {found['without_size']} values of unknown size")
    return "; ".join(filter(None, [", ".join(parts), sizes]))


def _axes(peak: int, top: int, height: int, name: str) -> Iterator[str]:
    for share in (0.0, 0.5, 1.0):
        y = top + height * (1 - share)
        yield (
            f'<line class="line" x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{y}" y2="{y}"/>'
            f'<text class="soft" x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">'
            f"{peak * share / (1 << 20):,.4g}</text>"
        )
    yield f'<text class="soft" x="8" y="{top - 10}">{name}, MiB</text>'


def _area(found: Json, across: float, top: int, most: int) -> Iterator[str]:
    """Live bytes step by step, before what outputs add to them."""
    base = top + _UPPER
    rows = [_bytes(step) for step in found["steps"]]
    for name, sizes in (("outputs", [*map(sum, rows)]), ("live", [r[0] for r in rows])):
        points = [f"M{_LEFT},{base}"]
        for i, size in enumerate(sizes):
            y = base - _UPPER * size / most
            points.append(f"V{y:.1f}H{_LEFT + (i + 1) * across:.2f}")
        points.append(f"V{base}Z")
        yield f'<path class="{name}" d="{"".join(points)}"/>'
    x = _LEFT + (found["peak_step"] + 0.5) * across
    yield f'<line class="peak" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{base}"/>'


def _map(
    found: Json, across: float, top: int, peak: int, hue: Mapping[str, str]
) -> Iterator[str]:
    for block in found["blocks"]:
        height = _LOWER * block["bytes"] / peak
        y = top + _LOWER - _LOWER * block["offset"] / peak - height
        x = _LEFT + block["first"] * across
        width = (block["last"] - block["first"] + 1) * across
        said = (
            f"{_named(block)}: {block['type']} {sized(block['bytes'])} at "
            f"{block['offset']:,}, steps {block['first']} to {block['last']}"
        )
        colour = _WORKSPACE if block["kind"] == "workspace" else hue[block["op"]]
        yield (
            f'<rect class="b" x="{x:.2f}" y="{y:.2f}" width="{max(width, 0.5):.2f}" '
            f'height="{max(height, 0.3):.2f}" fill="{colour}" '
            f'stroke-width="{0.6 if min(width, height) > 2 else 0}">'
            f"<title>{escape(said)}</title></rect>"
        )


def memory_page(found: Json, title: str) -> str:
    """The picture inside of a page of HTML, with the lines under it."""
    lines = escape("\n".join(memory_lines(found)))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>:root{{color-scheme:light dark}}"
        "body{margin:2rem auto;max-width:72rem;padding:0 1rem}"
        "pre{font:13px/1.5 ui-monospace,Menlo,monospace;overflow-x:auto}"
        f"</style></head><body>\n{memory_picture(found, title)}<pre>{lines}</pre>"
        "</body></html>\n"
    )
