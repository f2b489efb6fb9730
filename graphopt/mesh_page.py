"""A plan for a mesh, drawn: who holds what, and how values flow through a layer.

Each value of a layer is a ribbon with a strand for each axis of the mesh, and the
strand's colour is the state of the value along it; collectives are where colours
change. It is one SVG that loads nothing.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final, TypeAlias

from .mesh_ribbons import (
    ACROSS,
    CHIP,
    LEFT,
    RIGHT,
    WIDTH,
    block,
    cut,
    hue_of,
    layer_picture,
    states,
    write,
)
from .mesh_view import (
    PARTS,
    alike,
    counted_bytes,
    head,
    laid,
    mesh_lines,
    ms,
    shown_by_hand,
)
from .report import sized

Json: TypeAlias = Mapping[str, Any]


_STYLE: Final = """
.ground { fill: #fbfbfa } .card { fill: #fff; stroke: #e3e4e7 }
text { fill: #1d1f23; font: 13px system-ui, sans-serif }
.soft { fill: #666c76 } .small { font-size: 11.5px } .head { font-weight: 600 }
.num { font-variant-numeric: tabular-nums } .on { fill: #fff; font-weight: 600 }
.line { stroke: #e3e4e7 } .empty { fill: #eceef1; stroke: none }
.sends { fill: #f28e2b; opacity: .11 } .limit { stroke: #c0392b; stroke-width: 2 }
.node { fill: #fff; stroke: #1d1f23; stroke-width: 1.6 }
.node.c { fill: #f28e2b; stroke: #b85f0b }
.strand { fill: none; stroke-width: 4 }
.f-R { fill: #8a919c } .f-0 { fill: #2f6fde } .f-1 { fill: #1a8f5a }
.f-2 { fill: #9256c9 } .f-3 { fill: #0f8c99 } .f-P { fill: #d9730d }
.f-no { fill: #b9bec6 }
.s-R { stroke: #b3b8c0 } .s-0 { stroke: #2f6fde } .s-1 { stroke: #1a8f5a }
.s-2 { stroke: #9256c9 } .s-3 { stroke: #0f8c99 } .s-P { stroke: #d9730d }
.s-no { stroke: #d5d8dd }
.weights { fill: #2f6fde } .inputs { fill: #59a14f } .outputs { fill: #76b7b2 }
.activations { fill: #b07aa1 } .copies { fill: #edc948 }
.compute { fill: #6b7a90 } .k0 { fill: #f28e2b } .k1 { fill: #d9730d }
.k2 { fill: #e8b04a } .k3 { fill: #b85f0b } .k4 { fill: #f0c987 }
@media (prefers-color-scheme: dark) {
 .ground { fill: #16181c } .card { fill: #1e2126; stroke: #31353c }
 text { fill: #e6e8eb } .soft { fill: #9aa1ac } .line { stroke: #31353c }
 .empty { fill: #31353c } .on { fill: #fff } .limit { stroke: #f0766a }
 .node { fill: #1e2126; stroke: #e6e8eb } .s-R { stroke: #5b626d }
 .s-no { stroke: #3a3f47 } .f-R { fill: #6b727d }
}
"""


def mesh_picture(found: Json, title: str) -> str:
    """The picture as the text of an SVG file."""
    parts: list[str] = []
    y = 72.0
    for section in (_step, _hand, _devices, _weights, layer_picture):
        drawn, y = section(found, y)
        parts += [*drawn, ""]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} '
            f'{math.ceil(y)}" role="img">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style>",
            '<rect class="ground" width="100%" height="100%"/>',
            f'<text x="{LEFT}" y="34" class="head" style="font-size:17px">'
            f"{escape(title)}</text>",
            write(LEFT, 54, head(found), "soft"),
            *parts,
            "</svg>\n",
        ]
    )


def mesh_page(found: Json, title: str) -> str:
    """The picture inside of a page of HTML, with the lines under it."""
    lines = escape("\n".join(mesh_lines(found)))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title><style>:root{{color-scheme:light dark}}"
        "body{margin:1.5rem auto;max-width:72rem;padding:0 1rem}"
        ".wide{overflow-x:auto}svg{display:block;width:100%;min-width:56rem}"
        "pre{font:13px/1.5 ui-monospace,Menlo,monospace;overflow-x:auto}"
        f'</style></head><body>\n<div class="wide">{mesh_picture(found, title)}</div>'
        f"<pre>{lines}</pre></body></html>\n"
    )


# --- the step -----------------------------------------------------------------------


def _step(found: Json, y: float) -> tuple[list[str], float]:
    """The seconds of a step, by what devices do."""
    total = found["seconds"] or 1.0
    rows = [(k, s) for k, s in found["step"].items() if s]
    rows = [*rows[:1], *sorted(rows[1:], key=lambda row: -row[1])]
    out = [write(LEFT, y + 16, "A step", "head")]
    x, below = float(LEFT), float(LEFT)
    for i, (kind, seconds) in enumerate(rows):
        width = ACROSS * seconds / total
        colour = "compute" if kind == "compute" else f"k{(i - 1) % 5}"
        said = f"{kind} {ms(seconds)} ms, {seconds / total:.0%}"
        out.append(block(x, y + 28, max(width - 1.5, 0.5), 22, colour, said))
        out.append(block(below, y + 61, 10, 10, colour))
        out.append(write(below + 16, y + 70, said, "soft num"))
        x += width
        below += 40 + 7.4 * len(said)
    return out, y + 92


def _hand(found: Json, y: float) -> tuple[list[str], float]:
    """What plans made by hand would take, beside this one; by the same model."""
    hand: Sequence[Json] = found.get("hand") or ()
    if not hand:
        return [], y
    shown, others = shown_by_hand(hand)
    own = found["seconds"]
    most = max([1e-12, own, *(row["seconds"] for row in shown)])
    out = [write(LEFT, y + 8, "Plans made by hand", "head")]
    out.append(write(LEFT + 160, y + 8, "by the same model", "soft"))
    for i, row in enumerate([{"name": "this plan", "seconds": own}, *shown]):
        y += 22
        width = 560 * row["seconds"] / most
        out.append(write(LEFT, y + 8, cut(row["name"], 30)))
        out.append(block(LEFT + 220, y - 2, width, 12, "compute" if i else "weights"))
        said = f"{ms(row['seconds'])} ms"
        if i:
            said += f", {row['seconds'] / own:.2f} of this plan"
        out.append(write(LEFT + 230 + width, y + 8, said, "soft num"))
    for said in others:
        y += 22
        out.append(write(LEFT, y + 8, cut(said, 165), "soft small"))
    return out, y + 36


# --- who holds what -----------------------------------------------------------------

_ROWS: Final = 4
_COLUMNS: Final = 8
_BOXES: Final = 4
"""So many weights are drawn in each device."""


def _devices(found: Json, y: float) -> tuple[list[str], float]:
    """A cell for each device, with its memory and its parts of the largest weights."""
    names, sizes = list(found["mesh"]), list(found["mesh"].values())
    memory, total = found["memory"], counted_bytes(found)
    most = max(memory["limit_bytes"], total + memory["copy_bytes"], 1)
    start = _first_across(sizes)
    across = list(itertools.product(*map(range, sizes[start:])))
    columns = min(len(across), _COLUMNS)
    rows = list(itertools.product(*map(range, sizes[:start])))
    out = [write(LEFT, y + 16, "Who holds what", "head")]
    said = f"each device {sized(total)} of {sized(memory['limit_bytes'])}"
    if memory["copy_bytes"]:
        said += f", and up to {sized(memory['copy_bytes'])} of copies in other layouts"
    shown = columns * min(len(rows), _ROWS)
    if shown < math.prod(sizes):
        said += f"; {shown} of {math.prod(sizes)} devices are drawn"
    out.append(write(LEFT + 130, y + 16, said, "soft"))
    y += 28
    x = float(LEFT)
    for part, name in (*PARTS.items(), ("copy_bytes", "copies")):
        if memory[part]:
            label = f"{name} {sized(memory[part])}"
            out.append(block(x, y + 2, 10, 10, name))
            out.append(write(x + 16, y + 11, label, "soft small num"))
            x += 34 + 6.4 * len(label)
    out.append(f'<path class="limit" d="M{x + 4:.1f},{y}v14"/>')
    out.append(write(x + 14, y + 11, "what it may hold", "soft small"))
    y += 24
    gap, height = 10, 104
    width = (ACROSS - gap * (columns - 1)) / columns
    width = min(width, 250.0)
    weights = _largest(found)[:_BOXES]
    for row in rows[:_ROWS]:
        for column in range(columns):
            place = (*row, *across[column])
            out += _device(
                dict(zip(names, place, strict=True)),
                found,
                weights,
                (LEFT + column * (width + gap), y, width, height),
                most,
            )
        y += height + gap
    return out, y + 8


def _first_across(sizes: Sequence[int]) -> int:
    """The first of the last axes whose devices stand side by side; others go down."""
    starts = range(min(1, len(sizes) - 1), len(sizes))
    fits = [i for i in starts if math.prod(sizes[i:]) <= _COLUMNS]
    return fits[0] if fits else len(sizes) - 1


def _largest(found: Json) -> list[Json]:
    """One of each kind of weights, those of which devices hold most first."""
    first: dict[tuple[str, str, str, str], Json] = {}
    for row in found["held"]:
        if row["what"] == "weight":
            first.setdefault(alike([row])[0][0], row)
    order = [key for key, _ in alike(found["held"]) if key in first]
    return [first[key] for key in order]


def _device(
    place: Mapping[str, int],
    found: Json,
    weights: Sequence[Json],
    box: tuple[float, float, float, float],
    most: int,
) -> Iterator[str]:
    x, y, width, height = box
    memory = found["memory"]
    yield (
        f'<rect class="card" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
        f'height="{height}" rx="7"/>'
    )
    said = " ".join(f"{name} {at}" for name, at in place.items())
    yield write(x + 10, y + 19, cut(said, int(width / 7)), "small num")
    inner = width - 20
    yield block(x + 10, y + 28, inner, 12, "empty")
    at = x + 10
    for part, name in (*PARTS.items(), ("copy_bytes", "copies")):
        size = inner * memory[part] / most
        if memory[part]:
            tip = f"{name}: {sized(memory[part])}"
            yield block(at, y + 28, max(size, 0.4), 12, name, tip)
            at += size
    end = x + 10 + inner * memory["limit_bytes"] / most
    yield f'<path class="limit" d="M{end:.1f},{y + 25:.1f}v18"/>'
    step = inner / _BOXES
    side = min(step - 8, 30.0)
    for i, weight in enumerate(weights):
        left = x + 10 + i * step
        yield from _tensor(left, y + 52, side, weight, place, found["mesh"])
        yield write(left + side / 2, y + 97, "abcd"[i], "soft small", "middle")


def _tensor(
    x: float,
    y: float,
    side: float,
    row: Json,
    place: Mapping[str, int],
    mesh: Mapping[str, int],
) -> Iterator[str]:
    """A weight's first two dims as a box, and in it the part that a device holds."""
    shape = [*row["shape"], 1, 1][:2] if row["shape"] else [1, 1]
    if len(row["shape"]) == 1:
        shape = [1, row["shape"][0]]
    rows, columns = shape
    scale = side / max(rows, columns, 1)
    height, width = (max(n * scale, side / 3) for n in (rows, columns))
    top, left = y + (side - height) / 2, x + (side - width) / 2
    share = [(0.0, 1.0), (0.0, 1.0)]
    hue = "R"
    for state, (axis, ways) in zip(row["layout"], mesh.items(), strict=True):
        split = re.fullmatch(r"S\((\d+)\)", state)
        if split is None:
            continue
        hue = hue_of(state)
        dim = int(split[1]) + (len(row["shape"]) == 1)
        if dim < 2:
            start, size = share[dim]
            share[dim] = start + size * place[axis] / ways, size / ways
    (down, tall), (over, wide) = share
    tip = f"{row['name']} {row['type']} {laid(row['layout'])}"
    yield block(left, top, width, height, "empty", tip)
    yield block(
        left + width * over,
        top + height * down,
        width * wide,
        height * tall,
        f"f-{hue}",
        tip,
    )


def _weights(found: Json, y: float) -> tuple[list[str], float]:
    """The weights that devices hold most of, with their layouts."""
    rows = [row for row in alike(found["held"]) if row[0][0] == "weight"]
    axes = list(found["mesh"])
    most = 6
    out: list[str] = []
    types, chips = LEFT + 380, LEFT + 530
    sizes = chips + len(axes) * (CHIP + 4) + 84
    if rows:
        for i, axis in enumerate(axes):
            at = chips + i * (CHIP + 4) + CHIP / 2
            out.append(write(at, y + 10, cut(axis, 7), "soft small", "middle"))
        out.append(write(sizes, y + 10, "on each", "soft small", "end"))
        y += 14
    first = _largest(found)
    largest = max([1, *(size for _, (_, size) in rows)])
    for i, (((_, name, type_, _), (n, size)), row) in enumerate(
        zip(rows[:most], first, strict=False)
    ):
        y += 24
        letter = "abcd"[i] if i < _BOXES else ""
        out.append(write(LEFT + 4, y, letter, "soft"))
        times = f"{n} × " if n > 1 else ""
        out.append(write(LEFT + 24, y, cut(f"{times}{name}", 48)))
        out.append(write(types, y, type_, "soft num"))
        out += states(chips, y, row["layout"])
        out.append(write(sizes, y, sized(size), "num", "end"))
        width = (RIGHT - sizes - 14) * size / largest
        out.append(block(sizes + 14, y - 9, max(width, 0.5), 9, "weights"))
    if len(rows) > most:
        y += 24
        rest = sum(size for _, (_, size) in rows[most:])
        said = f"and {len(rows) - most} more kinds, {sized(rest)}"
        out.append(write(LEFT + 24, y, said, "soft"))
    return out, y + 34
