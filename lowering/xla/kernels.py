"""What kernels of a CPU's libraries take for themselves: XLA's compiler does not count it.

The library packs the second operand of a product, some columns at a time, and all
filters of a convolution, which also reads its operand from a padded copy, or from one
of all patches. Threads have pieces of their own. In elements, n of them in 256 bytes:

```
columns                 = n * max(1, 128 KiB / (256 k))    but no more than there are
product (b, m, k, n)   --> b k columns       where m is more than ten blocks of rows
convolution            --> filters + padded operand
convolution, no pads   --> filters + patches
```

Products that the library does not take are Eigen's. All of it was read from requests
for memory of single kernels, with jaxlib 0.10.2; what lies between ops that the library
has joined is not known.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

ROW: Final = 256
"""Bytes of the narrowest columns."""

CACHE: Final = 128 << 10
"""Bytes of a second operand that the library packs at a time, if k allows it."""

BLOCK: Final = 5
"""Rows of one block of the library's kernels."""

FEW: Final = 10
"""Blocks of rows for which packing does not pay."""

KEPT: Final = {"dot": 17_700, "convolution": 31_000}
"""Bytes that the library keeps of each from the first run on, to run it again."""

_LIBRARY: Final = '"kind":"__ynn_fusion"'
_FUSED: Final = re.compile(r" fusion\(.*?calls=%?([\w.\-]+)")
_OPENED: Final = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_MADE: Final = re.compile(
    r"^\s+(?:ROOT )?%?([\w.\-]+) = (\w+)\[([\d,]*)\]\S* ([\w\-]+)\((.*?)\)(.*)$"
)
_BITS: Final = re.compile(r"\d+")


@dataclass(frozen=True)
class _Tensor:
    """The shape of an operand, and the bytes of an element."""

    shape: tuple[int, ...]
    width: int

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.width


def taken(text: str, threads: int | None = None) -> tuple[int, int]:
    """Bytes that the kernels of a compiled program take beside what it counts.

    The most that one has while it runs on so many threads, by default those of this
    process; and what all of them keep.
    """
    threads = threads or _threads()
    ops = list(_ops(text))
    most = max((op.scratch(threads) for op in ops), default=0)
    return most, sum(KEPT[op.kind] for op in ops if op.library)


def _threads() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


@dataclass(frozen=True)
class _Op:
    """A product or a convolution that is a kernel, or a part of one of the library."""

    kind: str
    library: bool
    operands: Sequence[_Tensor]
    result: _Tensor
    attributes: str

    def scratch(self, threads: int) -> int:
        """Bytes that it has while it runs."""
        if len(self.operands) != 2:
            return 0
        if self.kind == "dot":
            return self._product(threads)
        return self._convolution(threads)

    def _product(self, threads: int) -> int:
        left, right = self.operands
        axes = self._axes("rhs_contracting_dims")
        k = math.prod(right.shape[a] for a in axes)
        batch = math.prod(right.shape[a] for a in self._axes("rhs_batch_dims"))
        if not k * batch:
            return 0
        m, n = (math.prod(t.shape) // (k * batch) for t in self.operands)
        if not self.library:  # Eigen's, and loops where one side is a vector
            return 2 * max(left.bytes, right.bytes) if min(m, n) > 1 else 0
        transposed = axes[-1:] == [len(right.shape) - 1]
        if -(-m // BLOCK) <= FEW and not transposed:
            return 0
        columns = _columns(k, n, right.width)
        pieces = min(threads, -(-n // columns))
        return batch * k * columns * right.width * pieces

    def _convolution(self, threads: int) -> int:
        x, w = self.operands
        inner, outer, made = self._labels()
        axes = [i for i, label in enumerate(inner) if label.isdigit()]
        window = self._window(len(axes))
        extents = [w.shape[outer.index(inner[i])] for i in axes]
        out = [self.result.shape[made.index(inner[i])] for i in axes]
        channels, batch = x.shape[inner.index("f")], x.shape[inner.index("b")]
        features = w.shape[outer.index("o")]
        patches = batch * channels * x.width * math.prod(out) * math.prod(extents)
        if not self.library:
            return patches + w.bytes
        needed = [
            (o - 1) * stride + (e - 1) * dilation + 1
            for o, e, stride, dilation in zip(
                out, extents, window["stride"], window["rhs_dilate"], strict=True
            )
        ]
        padded = batch * channels * x.width * math.prod(needed)
        groups = self._number("feature_group_count", 1)
        copies = padded if any(window["pad"]) else patches
        if 1 < groups < channels and any(window["pad"]):
            copies += patches
        k = math.prod(extents) * channels // groups
        pieces = min(threads, -(-features // _columns(k, features, w.width)))
        rows = batch * math.prod(out[:-1]) * -(-out[-1] // BLOCK) if out else 0
        return copies * pieces + (w.bytes if rows > FEW else 0)

    def _axes(self, name: str) -> list[int]:
        found = re.search(rf"{name}=\{{([\d,]*)\}}", self.attributes)
        return [int(a) for a in found[1].split(",") if a] if found else []

    def _number(self, name: str, otherwise: int) -> int:
        found = re.search(rf"{name}=(\d+)", self.attributes)
        return int(found[1]) if found else otherwise

    def _labels(self) -> tuple[str, str, str]:
        """As in ``dim_labels=b01f_01io->b01f``: of both operands and the result."""
        found = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", self.attributes)
        return (found[1], found[2], found[3]) if found else ("bf", "io", "bf")

    def _window(self, rank: int) -> dict[str, list[int]]:
        """As in ``window={size=3x3 stride=2x2 pad=1_1x1_1}``; pads as their sums."""
        window = {"stride": [1] * rank, "rhs_dilate": [1] * rank, "pad": [0] * rank}
        found = re.search(r"window=\{([^}]*)\}", self.attributes)
        for part in found[1].split() if found else ():
            name, _, values = part.partition("=")
            if name in window:
                window[name] = [sum(map(abs, _ints(v))) for v in values.split("x")]
        return window


def _ints(text: str) -> list[int]:
    return [int(part) for part in text.split("_")]


def _columns(k: int, n: int, width: int) -> int:
    """Columns of a second operand that are packed at a time."""
    step = ROW // width
    most = step * max(1, CACHE // (ROW * max(k, 1)))
    return max(1, min(most, -(-n // 16) * 16))


def _ops(text: str) -> Iterator[_Op]:
    """The products and convolutions that call a library, by the text of a program."""
    lines = text.splitlines()
    fused, library = set[str](), set[str]()
    for line in lines:
        if found := _FUSED.search(line):
            fused.add(found[1])
            if _LIBRARY in line:
                library.add(found[1])
    home, known = "", dict[str, _Tensor]()
    for line in lines:
        if opened := _OPENED.match(line):
            home, known = opened[1], {}
        elif (made := _MADE.match(line)) and (bits := _BITS.search(made[2])):
            shape = tuple(int(d) for d in made[3].split(",") if d)
            known[made[1]] = result = _Tensor(shape, max(1, int(bits[0]) // 8))
            if made[4] not in KEPT or (home in fused and home not in library):
                continue
            names = re.findall(r"%([\w.\-]+)", made[5])
            operands = [known[name] for name in names if name in known]
            yield _Op(made[4], home in library, operands, result, made[6])
