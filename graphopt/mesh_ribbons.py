"""A layer of a plan for a mesh as ribbons: a value by its state along each axis.

A ribbon has a strand for each axis of the mesh, in the colour of the value's state
along it; where devices exchange something, colours change.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final, TypeAlias

from .mesh_view import laid, ms
from .report import sized

Json: TypeAlias = Mapping[str, Any]

WIDTH: Final = 1080
LEFT: Final = 28
RIGHT: Final = WIDTH - LEFT
ACROSS: Final = RIGHT - LEFT


# --- pieces -------------------------------------------------------------------------


def write(x: float, y: float, said: str, kind: str = "", anchor: str = "") -> str:
    at = f' text-anchor="{anchor}"' if anchor else ""
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{named}{at}>{escape(said)}</text>'


def block(
    x: float, y: float, width: float, height: float, kind: str, said: str = ""
) -> str:
    tip = f"<title>{escape(said)}</title>" if said else ""
    rx = min(3.0, height / 3)
    return (
        f'<rect class="{kind}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" '
        f'height="{height:.2f}" rx="{rx:.1f}">{tip}</rect>'
    )


def hue_of(state: str) -> str:
    """The end of a class name for a state: ``S(1)`` --> ``1``"""
    if found := re.fullmatch(r"S\((\d+)\)", state):
        return str(int(found[1]) % 4)
    return state[0] if state[0] in "RP" else "no"


CHIP: Final = 44


def states(x: float, y: float, layout: Sequence[str] | None) -> Iterator[str]:
    """A state for each axis, side by side; ``y`` is the base line of text."""
    for i, state in enumerate(layout or ()):
        at = x + i * (CHIP + 4)
        yield block(at, y - 13, CHIP, 18, f"f-{hue_of(state)}")
        yield write(
            at + CHIP / 2, y, state.replace("P(sum)", "P"), "on small", "middle"
        )


def cut(said: str, most: int) -> str:
    return said if len(said) <= most else f"{said[: most - 1]}…"


# --- the layer ----------------------------------------------------------------------

_HEIGHT: Final = 30
_LANE: Final = 26
_BAR: Final = 64
_MOST: Final = 80
"""Rows of a layer that are drawn."""


def layer_picture(found: Json, y: float) -> tuple[list[str], float]:
    """The ops of a layer from top to bottom, values as ribbons on the left."""
    flow = found["layer"]
    rows: Sequence[Json] = flow["rows"][:_MOST]
    axes = list(found["mesh"])
    if flow["times"] > 1:
        name = f"One of {flow['times']} equal layers"
    elif len(flow["rows"]) < flow["ops"]:
        name = "A layer"
    else:
        name = "What each device does"
    seconds = sum(row["seconds"] for row in flow["rows"])
    sent = sum(row["bytes"] for row in flow["rows"])
    count = "" if len(flow["rows"]) == flow["ops"] else f"{len(flow['rows'])} of "
    said = f"{count}{flow['ops']} ops, {ms(seconds)} ms"
    said += f", {sized(round(sent))} sent" if sent else ", nothing sent"
    out = [
        write(LEFT, y + 16, name, "head"),
        write(LEFT + 14 + 7.6 * len(name), y + 16, said, "soft num"),
    ]
    y += 40
    out += _legend(y)
    y += 40
    lanes, width = _lanes(flow, rows)
    label = LEFT + _LANE * width + 14
    chips = label + 206
    types = chips + (CHIP + 4) * len(axes) + 14
    for i, axis in enumerate(axes):
        at = chips + i * (CHIP + 4) + CHIP / 2
        out.append(write(at, y, cut(axis, 7), "soft small", "middle"))
    out.append(write(types, y, "on each device", "soft small"))
    out.append(write(types + 160, y, "weights", "soft small"))
    out.append(write(RIGHT, y, "µs", "soft small", "end"))
    top = y + 10
    slowest = max([1e-12, *(row["seconds"] for row in rows)])
    middle = [top + _HEIGHT * (i + 1) for i in range(len(rows))]
    for row, at in zip(rows, middle, strict=True):
        if row["axis"] is not None:
            out.append(
                f'<rect class="sends" x="{LEFT - 12}" y="{at - _HEIGHT / 2:.1f}" '
                f'width="{ACROSS + 24}" height="{_HEIGHT}" rx="6"/>'
            )
    out += _ribbons(flow, rows, lanes, top, middle)
    for i, (row, at) in enumerate(zip(rows, middle, strict=True)):
        out += _row(row, (_lane_x(lanes[i]), label, chips, types), at, slowest)
    y = top + _HEIGHT * (len(rows) + 1)
    if len(flow["rows"]) > _MOST:
        y += 16
        out.append(write(label, y, f"and {len(flow['rows']) - _MOST} more", "soft"))
    return out, y + 26


def _legend(y: float) -> Iterator[str]:
    words = (
        ("R", "whole on each device"),
        ("S(0)", "split along dim 0"),
        ("S(1)", "dim 1"),
        ("S(2)", "dim 2"),
        ("P", "partial: addends of the value"),
    )
    x = float(LEFT)
    for state, said in words:
        yield from states(x, y + 4, (state,))
        yield write(x + CHIP + 8, y + 4, said, "soft small")
        x += CHIP + 30 + 6.3 * len(said)
    yield f'<circle class="node c" cx="{x + 6:.1f}" cy="{y}" r="6"/>'
    yield write(x + 20, y + 4, "devices exchange", "soft small")


def _lane_x(lane: int) -> float:
    return LEFT + _LANE * lane + _LANE / 2


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
                yield f'<path class="strand s-{hue_of(state)}" d="{path}"/>'
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
    yield write(label, base, cut(said, 25), "head" if sends else "")
    yield from states(chips, base, row["layout"])
    yield write(types, base, cut(row["type"], 24), "soft small num")
    at = types + 160
    if sends:
        yield write(at, base, f"each sends {sized(round(row['bytes']))}", "num small")
        at += 150
    for weight in row["weights"]:
        if at > RIGHT - 52 - _BAR - 150:
            break
        yield from _small(at, base, weight)
        at += 180
    width = _BAR * row["seconds"] / slowest
    colour = "k0" if sends else "compute"
    yield block(RIGHT - 52 - width, y - 4, max(width, 0.5), 8, colour)
    yield write(RIGHT, base, f"{row['seconds'] * 1e6:,.1f}", "small num", "end")


def _small(x: float, y: float, weight: Json) -> Iterator[str]:
    """A weight in a row of the layer: its states, its type, its name as a tip."""
    for state in weight["layout"]:
        yield block(x, y - 9, 9, 11, f"f-{hue_of(state)}", state)
        x += 11
    tip = f"{weight['name']} {weight['type']} {laid(weight['layout'])}"
    name = escape(cut(weight["type"], 22))
    yield (
        f'<text x="{x + 4:.1f}" y="{y:.1f}" class="soft small num">{name}'
        f"<title>{escape(tip)}</title></text>"
    )
