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

from .mesh_view import (
    PARTS,
    alike,
    counted_bytes,
    head,
    laid,
    mesh_lines,
    ms,
)
from .report import sized

Json: TypeAlias = Mapping[str, Any]

_WIDTH: Final = 1080
_LEFT: Final = 28
_RIGHT: Final = _WIDTH - 28
_ACROSS: Final = _RIGHT - _LEFT

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
    for section in (_step, _devices, _weights, _layer):
        drawn, y = section(found, y)
        parts += [*drawn, ""]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} '
            f'{math.ceil(y)}" role="img">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style>",
            '<rect class="ground" width="100%" height="100%"/>',
            f'<text x="{_LEFT}" y="34" class="head" style="font-size:17px">'
            f"{escape(title)}</text>",
            _text(_LEFT, 54, head(found), "soft"),
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


# --- pieces -------------------------------------------------------------------------


def _text(x: float, y: float, said: str, kind: str = "", anchor: str = "") -> str:
    at = f' text-anchor="{anchor}"' if anchor else ""
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{named}{at}>{escape(said)}</text>'


def _box(
    x: float, y: float, width: float, height: float, kind: str, said: str = ""
) -> str:
    tip = f"<title>{escape(said)}</title>" if said else ""
    rx = min(3.0, height / 3)
    return (
        f'<rect class="{kind}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" '
        f'height="{height:.2f}" rx="{rx:.1f}">{tip}</rect>'
    )


def _hue(state: str) -> str:
    """The end of a class name for a state: ``S(1)`` --> ``1``"""
    if found := re.fullmatch(r"S\((\d+)\)", state):
        return str(int(found[1]) % 4)
    return state[0] if state[0] in "RP" else "no"


_CHIP: Final = 44


def _chips(x: float, y: float, layout: Sequence[str] | None) -> Iterator[str]:
    """A state for each axis, side by side; ``y`` is the base line of text."""
    for i, state in enumerate(layout or ()):
        at = x + i * (_CHIP + 4)
        yield _box(at, y - 13, _CHIP, 18, f"f-{_hue(state)}")
        yield _text(
            at + _CHIP / 2, y, state.replace("P(sum)", "P"), "on small", "middle"
        )


def _cut(said: str, most: int) -> str:
    return said if len(said) <= most else f"{said[: most - 1]}…"


# --- the step -----------------------------------------------------------------------


def _step(found: Json, y: float) -> tuple[list[str], float]:
    """The seconds of a step, by what devices do."""
    total = found["seconds"] or 1.0
    rows = [(k, s) for k, s in found["step"].items() if s]
    rows = [*rows[:1], *sorted(rows[1:], key=lambda row: -row[1])]
    out = [_text(_LEFT, y + 16, "A step", "head")]
    x, below = float(_LEFT), float(_LEFT)
    for i, (kind, seconds) in enumerate(rows):
        width = _ACROSS * seconds / total
        colour = "compute" if kind == "compute" else f"k{(i - 1) % 5}"
        said = f"{kind} {ms(seconds)} ms, {seconds / total:.0%}"
        out.append(_box(x, y + 28, max(width - 1.5, 0.5), 22, colour, said))
        out.append(_box(below, y + 61, 10, 10, colour))
        out.append(_text(below + 16, y + 70, said, "soft num"))
        x += width
        below += 34 + 7.2 * len(said)
    hand = found.get("hand") or ()
    y += 92
    if hand:
        out.append(_text(_LEFT, y + 8, "Plans made by hand", "head"))
        most = max([total, *(r["seconds"] or 0.0 for r in hand)])
        rows_ = [{"name": "this plan", "seconds": total, "reason": ""}, *hand]
        for row in rows_:
            y += 22
            out.append(_text(_LEFT, y + 8, _cut(row["name"], 30)))
            if row["seconds"] is None:
                out.append(_text(_LEFT + 220, y + 8, _cut(row["reason"], 100), "soft"))
                continue
            width = 560 * row["seconds"] / most
            kind = "weights" if row is rows_[0] else "compute"
            out.append(_box(_LEFT + 220, y - 2, width, 12, kind))
            said = f"{ms(row['seconds'])} ms"
            if row is not rows_[0]:
                said += f", {row['seconds'] / total:.2f} of this plan"
            out.append(_text(_LEFT + 230 + width, y + 8, said, "soft num"))
        y += 30
    return out, y


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
    columns = min(sizes[-1], _COLUMNS)
    rows = list(itertools.product(*map(range, sizes[:-1])))
    out = [_text(_LEFT, y + 16, "Who holds what", "head")]
    said = f"each device {sized(total)} of {sized(memory['limit_bytes'])}"
    if memory["copy_bytes"]:
        said += f", and up to {sized(memory['copy_bytes'])} of copies in other layouts"
    shown = columns * min(len(rows), _ROWS)
    if shown < math.prod(sizes):
        said += f"; {shown} of {math.prod(sizes)} devices are drawn"
    out.append(_text(_LEFT + 130, y + 16, said, "soft"))
    y += 28
    x = float(_LEFT)
    for part, name in (*PARTS.items(), ("copy_bytes", "copies")):
        if memory[part]:
            label = f"{name} {sized(memory[part])}"
            out.append(_box(x, y + 2, 10, 10, name))
            out.append(_text(x + 16, y + 11, label, "soft small num"))
            x += 34 + 6.4 * len(label)
    out.append(f'<path class="limit" d="M{x + 4:.1f},{y}v14"/>')
    out.append(_text(x + 14, y + 11, "what it may hold", "soft small"))
    y += 24
    gap, height = 10, 104
    width = (_ACROSS - gap * (columns - 1)) / columns
    width = min(width, 250.0)
    weights = _largest(found)[:_BOXES]
    for row in rows[:_ROWS]:
        for column in range(columns):
            place = (*row, column)
            out += _device(
                dict(zip(names, place, strict=True)),
                found,
                weights,
                (_LEFT + column * (width + gap), y, width, height),
                most,
            )
        y += height + gap
    return out, y + 8


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
    yield _text(x + 10, y + 19, _cut(said, int(width / 7)), "small num")
    inner = width - 20
    yield _box(x + 10, y + 28, inner, 12, "empty")
    at = x + 10
    for part, name in (*PARTS.items(), ("copy_bytes", "copies")):
        size = inner * memory[part] / most
        if memory[part]:
            tip = f"{name}: {sized(memory[part])}"
            yield _box(at, y + 28, max(size, 0.4), 12, name, tip)
            at += size
    end = x + 10 + inner * memory["limit_bytes"] / most
    yield f'<path class="limit" d="M{end:.1f},{y + 25:.1f}v18"/>'
    step = inner / _BOXES
    side = min(step - 8, 30.0)
    for i, weight in enumerate(weights):
        left = x + 10 + i * step
        yield from _tensor(left, y + 52, side, weight, place, found["mesh"])
        yield _text(left + side / 2, y + 97, "abcd"[i], "soft small", "middle")


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
        hue = _hue(state)
        dim = int(split[1]) + (len(row["shape"]) == 1)
        if dim < 2:
            start, size = share[dim]
            share[dim] = start + size * place[axis] / ways, size / ways
    (down, tall), (over, wide) = share
    tip = f"{row['name']} {row['type']} {laid(row['layout'])}"
    yield _box(left, top, width, height, "empty", tip)
    yield _box(
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
    chips = _LEFT + 640
    if rows:
        for i, axis in enumerate(axes):
            at = chips + i * (_CHIP + 4) + _CHIP / 2
            out.append(_text(at, y + 10, _cut(axis, 7), "soft small", "middle"))
        out.append(_text(_RIGHT, y + 10, "on each device", "soft small", "end"))
        y += 14
    first = _largest(found)
    for i, (((_, name, type_, _), (n, size)), row) in enumerate(
        zip(rows[:most], first, strict=False)
    ):
        y += 24
        letter = "abcd"[i] if i < _BOXES else ""
        out.append(_text(_LEFT + 4, y, letter, "soft"))
        times = f"{n} × " if n > 1 else ""
        out.append(_text(_LEFT + 24, y, _cut(f"{times}{name}", 58)))
        out.append(_text(chips - 20, y, type_, "soft num", "end"))
        out += _chips(chips, y, row["layout"])
        out.append(_text(_RIGHT, y, sized(size), "num", "end"))
    if len(rows) > most:
        y += 24
        rest = sum(size for _, (_, size) in rows[most:])
        said = f"and {len(rows) - most} more kinds, {sized(rest)}"
        out.append(_text(_LEFT + 24, y, said, "soft"))
    return out, y + 34


# --- the layer ----------------------------------------------------------------------

_HEIGHT: Final = 30
_LANE: Final = 26
_MOST: Final = 80
"""Rows of a layer that are drawn."""


def _layer(found: Json, y: float) -> tuple[list[str], float]:
    """The ops of a layer from top to bottom, values as ribbons on the left."""
    flow = found["layer"]
    rows: Sequence[Json] = flow["rows"][:_MOST]
    axes = list(found["mesh"])
    name = (
        f"One of {flow['times']} equal layers"
        if flow["times"] > 1
        else "What each device does"
    )
    seconds = sum(row["seconds"] for row in flow["rows"])
    sent = sum(row["bytes"] for row in flow["rows"])
    said = f"{len(flow['rows'])} ops, {ms(seconds)} ms, {sized(round(sent))} sent"
    out = [
        _text(_LEFT, y + 16, name, "head"),
        _text(_LEFT + 11 + 7.3 * len(name), y + 16, said, "soft num"),
    ]
    y += 32
    out += _legend(y)
    y += 36
    lanes, width = _lanes(flow, rows)
    label = _LEFT + _LANE * width + 14
    chips = label + 176
    types = chips + (_CHIP + 4) * len(axes) + 14
    for i, axis in enumerate(axes):
        at = chips + i * (_CHIP + 4) + _CHIP / 2
        out.append(_text(at, y, _cut(axis, 7), "soft small", "middle"))
    out.append(_text(types, y, "on each device", "soft small"))
    out.append(_text(types + 160, y, "weights", "soft small"))
    out.append(_text(_RIGHT, y, "µs", "soft small", "end"))
    top = y + 10
    slowest = max([1e-12, *(row["seconds"] for row in rows)])
    middle = [top + _HEIGHT * (i + 1) for i in range(len(rows))]
    for row, at in zip(rows, middle, strict=True):
        if row["axis"] is not None:
            out.append(
                f'<rect class="sends" x="{_LEFT - 12}" y="{at - _HEIGHT / 2:.1f}" '
                f'width="{_ACROSS + 24}" height="{_HEIGHT}" rx="6"/>'
            )
    out += _ribbons(flow, rows, lanes, top, middle)
    for i, (row, at) in enumerate(zip(rows, middle, strict=True)):
        out += _row(row, (_lane_x(lanes[i]), label, chips, types), at, slowest)
    y = top + _HEIGHT * (len(rows) + 1)
    if len(flow["rows"]) > _MOST:
        y += 16
        out.append(_text(label, y, f"and {len(flow['rows']) - _MOST} more", "soft"))
    return out, y + 26


def _legend(y: float) -> Iterator[str]:
    words = (
        ("R", "whole on each device"),
        ("S(0)", "split along dim 0"),
        ("S(1)", "along dim 1"),
        ("S(2)", "along dim 2"),
        ("P", "partial: addends of the value"),
    )
    x = float(_LEFT)
    for state, said in words:
        yield from _chips(x, y + 4, (state,))
        yield _text(x + _CHIP + 8, y + 4, said, "soft small")
        x += _CHIP + 30 + 6.3 * len(said)
    yield f'<circle class="node c" cx="{x + 6:.1f}" cy="{y}" r="6"/>'
    yield _text(x + 20, y + 4, "devices exchange", "soft small")


def _lane_x(lane: int) -> float:
    return _LEFT + _LANE * lane + _LANE / 2


def _lanes(flow: Json, rows: Sequence[Json]) -> tuple[dict[int, int], int]:
    """A lane for each value, rows and what is given alike, and how many there are.

    A value takes the lane of what it is made of and what dies there, else a free one.
    """
    last = _last(flow, rows)
    taken: dict[int, int] = {}  # lanes, by the row after which they are free
    lanes: dict[int, int] = {}

    def put(number: int, wanted: Sequence[int], start: int) -> None:
        order = itertools.chain(wanted, itertools.count())
        lanes[number] = next(x for x in order if taken.get(x, start) <= start)
        taken[lanes[number]] = last[number]

    for k in range(len(flow["given"])):
        put(-1 - k, (), -1)
        taken[lanes[-1 - k]] = max(last[-1 - k], 0)
    for i, row in enumerate(rows):
        put(i, [lanes[r] for r in row["reads"]], i)
    return lanes, max(lanes.values(), default=0) + 1


def _last(flow: Json, rows: Sequence[Json]) -> dict[int, int]:
    """The row that reads each value last; past the end for what leaves."""
    last = {-1 - k: -1 for k in range(len(flow["given"]))}
    for i, row in enumerate(rows):
        last[i] = len(rows) if row["leaves"] else i
        for read in row["reads"]:
            last[read] = max(last[read], i)
    return last


def _ribbons(
    flow: Json,
    rows: Sequence[Json],
    lanes: Mapping[int, int],
    top: float,
    middle: Sequence[float],
) -> Iterator[str]:
    """Each value from where it is made to all that read it."""
    end = (middle[-1] if middle else top) + _HEIGHT
    for number, lane in lanes.items():
        value = flow["given"][-1 - number] if number < 0 else rows[number]
        start = top + 4 if number < 0 else middle[number]
        x = _lane_x(lane)
        ends = [
            (_lane_x(lanes[i]), middle[i])
            for i, row in enumerate(rows)
            if number in row["reads"]
        ]
        if number >= 0 and rows[number]["leaves"]:
            ends.append((x, end))
        tip = f"{value['type']} {laid(value['layout'] or ())}"
        strands = value["layout"] or ["?"]
        yield f"<g><title>{escape(tip)}</title>"
        for k, state in enumerate(strands):
            shift = 4.6 * (k - (len(strands) - 1) / 2)
            path = "".join(_curve(x + shift, start, to + shift, at) for to, at in ends)
            if path:
                yield f'<path class="strand s-{_hue(state)}" d="{path}"/>'
        yield "</g>"


def _curve(x: float, y: float, to: float, end: float) -> str:
    if to == x:
        return f"M{x:.1f},{y:.1f}V{end:.1f}"
    turn = max(y, end - _HEIGHT)
    half = (turn + end) / 2
    return (
        f"M{x:.1f},{y:.1f}V{turn:.1f}C{x:.1f},{half:.1f} {to:.1f},{half:.1f} "
        f"{to:.1f},{end:.1f}"
    )


def _row(
    row: Json, columns: tuple[float, float, float, float], y: float, slowest: float
) -> Iterator[str]:
    x, label, chips, types = columns
    op = row["op"].removeprefix("mesh.")
    sends = row["axis"] is not None
    radius, kind = (6.5, "node c") if sends else (5.5, "node")
    tip = f"{op}: {row['type']} {laid(row['layout'] or ())}"
    yield (
        f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">'
        f"<title>{escape(tip)}</title></circle>"
    )
    base = y + 4.5
    said = f"{op} over {row['axis']}" if sends else op
    yield _text(label, base, _cut(said, 25), "head" if sends else "")
    yield from _chips(chips, base, row["layout"])
    yield _text(types, base, _cut(row["type"], 24), "soft small num")
    at = types + 160
    if sends:
        yield _text(at, base, f"each sends {sized(round(row['bytes']))}", "num small")
    for weight in row["weights"][: 1 if sends else 2]:
        if sends:
            at += 130
        yield from _small(at, base, weight)
        at += 180
    width = 64 * row["seconds"] / slowest
    colour = "k0" if sends else "compute"
    yield _box(_RIGHT - 52 - width, y - 4, max(width, 0.5), 8, colour)
    yield _text(_RIGHT, base, f"{row['seconds'] * 1e6:,.1f}", "small num", "end")


def _small(x: float, y: float, weight: Json) -> Iterator[str]:
    """A weight in a row of the layer: its states, its type, its name as a tip."""
    for state in weight["layout"]:
        yield _box(x, y - 9, 9, 11, f"f-{_hue(state)}", state)
        x += 11
    tip = f"{weight['name']} {weight['type']} {laid(weight['layout'])}"
    name = escape(_cut(weight["type"], 22))
    yield (
        f'<text x="{x + 4:.1f}" y="{y:.1f}" class="soft small num">{name}'
        f"<title>{escape(tip)}</title></text>"
    )
