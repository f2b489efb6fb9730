"""A memory plan drawn: one SVG that loads nothing, and a page of HTML around it.

The picture has the steps from left to right. Above it shows live bytes, below where in
the arena each block lies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from html import escape
from typing import Final

from .dim_names import said
from .report import sized
from .timeline import Json, bytes_of, memory_lines, named

_WIDTH: Final = 1080
_LEFT: Final = 86
_RIGHT: Final = _WIDTH - 20
_TOP: Final = 82
_UPPER: Final = 150
_LOWER: Final = 420
_GAP: Final = 72

_STYLE: Final = """
.ground { fill: #fbfbfa } text { fill: #1d1f23; font: 13px system-ui, sans-serif }
.soft { fill: #666c76 } .line { stroke: #e3e4e7 } .live { fill: #2f6fde }
.outputs { fill: #a9b4c4 }
.peak { stroke: #c0392b; stroke-width: 1.5; stroke-dasharray: 5 4 }
rect.b { stroke: #fbfbfa }
rect.b:hover { opacity: .7 }
@media (prefers-color-scheme: dark) {
 .ground { fill: #16181c } text { fill: #e6e8eb } .soft { fill: #9aa1ac }
 .line { stroke: #31353c } .live { fill: #6ea0f5 } .outputs { fill: #566072 }
 .peak { stroke: #f0766a }
 rect.b { stroke: #16181c } }
"""

_HUES: Final = (
    *("#4e79a7", "#59a14f", "#b07aa1", "#edc948", "#76b7b2"),
    *("#ff9da7", "#9c755f", "#8a8d3c", "#d37295", "#a0cbe8"),
)
_WORKSPACE: Final = "#f28e2b"
_OTHERS: Final = "#bab0ac"


def memory_picture(found: Json, title: str) -> str:
    """The picture as the text of an SVG file."""
    steps = max(1, len(found["steps"]))
    across = (_RIGHT - _LEFT) / steps
    low = _TOP + _UPPER + _GAP
    bottom = low + _LOWER + 24 if found["blocks"] else _TOP + 20
    hue = _hues(found)
    drawn = [
        *_area(found, across),
        *_map(found, across, low, hue),
        f'<text x="{_LEFT}" y="{bottom}" class="soft">step 0 to {steps - 1}, each one'
        " op; a block has the colour of the op that computes it</text>",
        *_legend(hue, bottom + 24),
    ]
    nothing = (
        f'<text class="soft" x="{_LEFT}" y="{bottom}">nothing to draw: {_why(found)}'
        "</text>"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} '
        f'{bottom + (24 + _ROW * _rows(hue) if found["blocks"] else 24)}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        '<rect class="ground" width="100%" height="100%"/>',
        f'<text x="{_LEFT}" y="24" font-weight="600">{escape(title)}</text>',
        f'<text x="{_LEFT}" y="43" class="soft">{escape(_subtitle(found))}</text>',
        *(drawn if found["blocks"] else [nothing]),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _why(found: Json) -> str:
    """Why nothing is drawn."""
    if found["without_size"]:
        return "no value of the arena has a size that is known before a run"
    return "nothing lies in the arena"


def _subtitle(found: Json) -> str:
    sizes = said(found["sizes"])
    bound = found["lower_bound_bytes"]
    proof = "the least" if found["proof"] == "optimal" else f"at least {sized(bound)}"
    known = found["blocks"] and not found["without_size"]
    said_of = f" ({proof} in this order)" if known else ""
    least = "at least " if found["without_size"] else ""
    parts = [f"arena {least}{sized(found['peak_bytes'])}{said_of}"]
    if (taken := found.get("arena")) and taken["activation_bytes"] is not None:
        parts.append(f"ONNX Runtime's {sized(taken['activation_bytes'])}")
    parts.append(f"weights {sized(found['constant_bytes'])}")
    if found["without_size"]:
        parts.append(f"{found['without_size']} of its values have no known size")
    return "; ".join(filter(None, [", ".join(parts), sizes]))


def _axes(peak: int, top: int, height: int, name: str) -> Iterator[str]:
    unit, scale = ("MiB", 1 << 20) if peak >= 1 << 20 else ("KiB", 1 << 10)
    for share in (0.0, 0.5, 1.0):
        y = top + height * (1 - share)
        yield (
            f'<line class="line" x1="{_LEFT}" x2="{_RIGHT}" y1="{y}" y2="{y}"/>'
            f'<text class="soft" x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">'
            f"{peak * share / scale:,.4g}</text>"
        )
    yield f'<text class="soft" x="{_LEFT}" y="{top - 10}">{name}, {unit}</text>'


def _area(found: Json, across: float) -> Iterator[str]:
    """Live bytes step by step, before what outputs add to them."""
    rows = [bytes_of(step) for step in found["steps"]]
    totals = [*map(sum, rows)]
    most, base = max([1, *totals]), _TOP + _UPPER
    above = ", with outputs above them in grey" if found["output_bytes"] else ""
    yield from _axes(most, _TOP, _UPPER, f"live bytes{above}")
    for name, sizes in (("outputs", totals), ("live", [live for live, _ in rows])):
        points = [f"M{_LEFT},{base}"]
        for i, size in enumerate(sizes):
            y = base - _UPPER * size / most
            points.append(f"V{y:.1f}H{_LEFT + (i + 1) * across:.2f}")
        points.append(f"V{base}Z")
        yield f'<path class="{name}" d="{"".join(points)}"/>'
    step = found["peak_step"]
    x = _LEFT + (step + 0.5) * across
    side = "start" if x < _WIDTH / 2 else "end"
    yield (
        f'<line class="peak" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{base + 20}"/>'
        f'<text class="soft" x="{x + (5 if side == "start" else -5):.1f}"'
        f' y="{base + 18}" text-anchor="{side}">most is live at step {step}</text>'
    )


def _hues(found: Json) -> dict[str, str]:
    """A colour for each kind of op, for as many as there are; what takes most first."""
    room = Counter[str]()
    for block in found["blocks"]:
        steps = block["last"] - block["first"] + 1
        room[_kind(block)] += block["bytes"] * steps
    kinds = [kind for kind, _ in room.most_common()]
    hues = iter(_HUES)
    return {
        kind: _WORKSPACE if kind == "workspace" else next(hues, _OTHERS)
        for kind in kinds
    }


def _kind(block: Json) -> str:
    """Of what a block has the colour."""
    return "workspace" if block["kind"] == "workspace" else block["op"] or "given"


def _map(found: Json, across: float, top: int, hue: Mapping[str, str]) -> Iterator[str]:
    """Each block where it lies in the arena, and when."""
    peak = max(1, found["peak_bytes"])
    yield from _axes(peak, top, _LOWER, "where blocks lie in the arena")
    for block in found["blocks"]:
        height = _LOWER * block["bytes"] / peak
        y = top + _LOWER - _LOWER * block["offset"] / peak - height
        x = _LEFT + block["first"] * across
        width = (block["last"] - block["first"] + 1) * across
        words = (
            f"{named(block)}: {block['type']} {sized(block['bytes'])} at "
            f"{block['offset']:,}, steps {block['first']} to {block['last']}"
        )
        yield (
            f'<rect class="b" x="{x:.2f}" y="{y:.2f}" width="{max(width, 0.5):.2f}" '
            f'height="{max(height, 0.3):.2f}" fill="{hue[_kind(block)]}" '
            f'stroke-width="{0.6 if min(width, height) > 2 else 0}">'
            f"<title>{escape(words)}</title></rect>"
        )


_LETTER: Final = 7.4
"""How wide one is, about."""

_ROW: Final = 20
"""How high a row of the legend is."""


def _rows(hue: Mapping[str, str]) -> int:
    """How many rows the legend has."""
    return 1 + max([row for _, _, row in _places(hue)], default=0)


def _places(hue: Mapping[str, str]) -> Iterator[tuple[str, float, int]]:
    """Each kind of the legend, where it begins, and in which row; others are last."""
    own = [kind for kind, colour in hue.items() if colour != _OTHERS]
    if len(own) < len(hue):
        own.append("others")
    x, row = float(_LEFT), 0
    for kind in own:
        width = 22 + _LETTER * len(kind)
        if x + width > _RIGHT and x > _LEFT:
            x, row = float(_LEFT), row + 1
        yield kind, x, row
        x += width + 8


def _legend(hue: Mapping[str, str], top: int) -> Iterator[str]:
    """Which colour is what."""
    for kind, x, row in _places(hue):
        y = top + _ROW * row
        yield (
            f'<rect x="{x:.0f}" y="{y - 10}" width="11" height="11"'
            f' fill="{hue.get(kind, _OTHERS)}"/>'
            f'<text class="soft" x="{x + 16:.0f}" y="{y}">{escape(kind)}</text>'
        )


def memory_page(found: Json, title: str) -> str:
    """The picture inside of a page of HTML, with the lines under it."""
    lines = escape("\n".join(memory_lines(found)))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>:root{{color-scheme:light dark}}"
        "body{margin:2rem auto;max-width:72rem;padding:0 1rem}"
        "pre{font:13px/1.5 ui-monospace,Menlo,monospace;white-space:pre-wrap}"
        f"</style></head><body>\n{memory_picture(found, title)}<pre>{lines}</pre>"
        "</body></html>\n"
    )
