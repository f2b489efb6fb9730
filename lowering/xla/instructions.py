"""The instructions of a compiled program, read from XLA's text of it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PRODUCTS: Final = frozenset({"dot", "convolution"})
"""Ops that are kernels by themselves."""

NO_BYTES: Final = frozenset({"bitcast", "constant", "opt-barrier", "parameter"})

_OPENED: Final = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_MADE: Final = re.compile(
    r"^\s+(?:ROOT )?%?([\w.\-]+) = [a-z]+(\d*)\w*\[([\d,]*)\]\S* "
    r"([\w\-]+)\((.*?)\)(.*)$"
)
_GIVEN: Final = re.compile(r"^\s+ROOT %?([\w.\-]+) = \(.*\) tuple\((.*?)\)")
_CALLED: Final = re.compile(r"calls=%?([\w.\-]+)")


@dataclass(frozen=True)
class Tensor:
    """A shape, and the bytes of an element."""

    shape: tuple[int, ...]
    width: int

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.width


@dataclass(frozen=True)
class Instruction:
    """One line of a computation; ``attributes`` are as they stand there."""

    name: str
    kind: str
    operands: Sequence[str]
    result: Tensor
    attributes: str

    @property
    def called(self) -> str | None:
        """The computation that a fusion is."""
        found = _CALLED.search(self.attributes)
        return found[1] if found and self.kind == "fusion" else None

    def axes(self, name: str) -> list[int]:
        """As in ``rhs_batch_dims={0,1}``; none where it is absent."""
        found = re.search(rf"{name}=\{{([\d,]*)\}}", self.attributes)
        return [int(a) for a in found[1].split(",") if a] if found else []

    def number(self, name: str, otherwise: int) -> int:
        """As in ``feature_group_count=8``."""
        found = re.search(rf"{name}=(\d+)", self.attributes)
        return int(found[1]) if found else otherwise

    def labels(self) -> tuple[str, str, str]:
        """As in ``dim_labels=b01f_01io->b01f``: of both operands and the result."""
        found = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", self.attributes)
        return (found[1], found[2], found[3]) if found else ("bf", "io", "bf")

    def window(self, rank: int) -> dict[str, list[int]]:
        """As in ``window={size=3x3 stride=2x2 pad=1_1x1_1}``; pads as their sums."""
        window = {"stride": [1] * rank, "rhs_dilate": [1] * rank, "pad": [0] * rank}
        found = re.search(r"window=\{([^}]*)\}", self.attributes)
        for part in found[1].split() if found else ():
            name, _, values = part.partition("=")
            if name in window:
                window[name] = [sum(map(abs, _ints(v))) for v in values.split("x")]
        return window


def computations(text: str) -> tuple[str, dict[str, list[Instruction]]]:
    """The name of the entry, and all computations in their order.

    Of what makes tuples there is only what gives them out.
    """
    entry, homes = "", dict[str, list[Instruction]]()
    lines = list[Instruction]()
    for row in text.splitlines():
        if opened := _OPENED.match(row):
            lines = homes[opened[2]] = []
            entry = opened[2] if opened[1] else entry
        elif made := _MADE.match(row):
            name, bits, extents, kind, operands, attributes = made.groups()
            shape = tuple([int(extent) for extent in extents.split(",") if extent])
            result = Tensor(shape, max(1, int(bits or 8) // 8))
            names = re.findall(r"%([\w.\-]+)", operands)
            lines.append(Instruction(name, kind, names, result, attributes))
        elif given := _GIVEN.match(row):
            names = re.findall(r"%([\w.\-]+)", given[2])
            lines.append(Instruction(given[1], "tuple", names, Tensor((0,), 1), ""))
    return entry, homes


def outputs(lines: Sequence[Instruction]) -> set[str]:
    """What the last line gives out, also by another shape."""
    found = set(lines[-1].operands if lines and lines[-1].kind == "tuple" else ())
    for line in reversed(lines):
        if line is lines[-1] and line.kind != "tuple":
            found.add(line.name)
        if line.name in found and line.kind == "bitcast":
            found.update(line.operands)
    return found


def _ints(text: str) -> list[int]:
    return [int(part) for part in text.split("_")]
