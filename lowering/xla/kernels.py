"""What kernels of a CPU's libraries take for themselves, which XLA does not count.

The library packs the second operand of a product, some columns at a time, and all
filters of a convolution, which also reads its operand from a padded copy, or from one
of all patches. Threads have pieces of their own. In elements, n of them in 256 bytes:

```
columns                 = n * max(1, 128 KiB / (256 k))    but no more than there are
product (b, m, k, n)   --> b k columns       where m is more than ten blocks of rows
convolution            --> filters + padded operand
convolution, no pads   --> filters + patches
joined ops             --> the largest of these + all products that others read
                           + 256 rows of what is made of scores for a product
```

A product is read by others, too, where what is reduced of it is read beside it, as the
largest of scores. Products that the library does not take are Eigen's. All of it was
read from requests for memory of single kernels, with jaxlib 0.10.2.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from types import MappingProxyType
from typing import Final

from .buffers import Place, Written

ROW: Final = 256
"""Bytes of the narrowest columns."""

CACHE: Final = 128 << 10
"""Bytes of a second operand that the library packs at a time, if k allows it."""

BLOCK: Final = 5
"""Rows of one block of the library's kernels."""

FEW: Final = 10
"""Blocks of rows for which packing does not pay."""

TILE: Final = 256
"""Rows of what lies between two joined products that are there at a time: for 2 to 8
heads of 2,048 to 6,144 positions, within 1 %."""

PRODUCTS: Final = frozenset({"dot", "convolution"})
"""Ops that are kernels by themselves."""

SPREAD: Final = 1.07
"""Bytes of pages by bytes of the many small pieces in them that a kernel keeps: what is
built beside these and freed leaves holes of less than a page, 1.03 to 1.2."""


class Kept:
    """Bytes that the library keeps of a kernel from its first run on, to run it again.

    It is a tree of expressions, so that the ops, axes and loops count, not how large a
    tensor is. By what single kernels ask for, headers of pieces included; what has no
    product of its own by a fit to 51 programs, of which 50 ask within 6 % of the sum.
    """

    PROGRAM: Final = 31_000
    """What a first run leaves, whatever the program: of the compiler and of JAX."""

    PRODUCT: Final = 12_600
    PACKED: Final = 4_600
    TRANSPOSED: Final = 8_200
    """The same of an operand that is transposed as it is packed."""

    BATCH_AXIS: Final = 2_700
    PIECES: Final = 1_500
    """A loop over columns that are packed at a time."""

    CONVOLUTION: Final = 27_000
    PADDED: Final = 6_300
    ALONE: Final = 3_000
    """Of a kernel without products, such as a sum."""

    OTHER: Final = 6_300
    """Of each op that is joined to these, or is alone."""


_LIBRARY: Final = '"kind":"__ynn_fusion"'
_NO_BYTES: Final = frozenset({"bitcast", "constant", "opt-barrier", "parameter"})
_NO_OPS: Final = _NO_BYTES | {"tuple"}
_OPENED: Final = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_MADE: Final = re.compile(
    r"^\s+(?:ROOT )?%?([\w.\-]+) = [a-z]+(\d*)\w*\[([\d,]*)\]\S* "
    r"([\w\-]+)\((.*?)\)(.*)$"
)
_GIVEN: Final = re.compile(r"^\s+ROOT %?([\w.\-]+) = \(.*\) tuple\((.*?)\)")
_CALLED: Final = re.compile(r"calls=%?([\w.\-]+)")
_NODE: Final = re.compile(r'op_name="jit\(call\)/([^"]*)/[^/"]*"')
_CALLS: Final = re.compile(r"/while/(body|cond)(/closed_call)?(?=/|$)")
"""What JAX puts between the name of an op and those in its bodies."""
_NAMES: Final = re.compile(r"%([\w.\-]+)")
_UNKNOWN: Final = (math.inf, math.inf)


@dataclass(frozen=True)
class _Tensor:
    """The shape of an operand, and the bytes of an element."""

    shape: tuple[int, ...]
    width: int

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.width


def taken(
    text: str,
    temp: int,
    output: int,
    threads: int | None = None,
    places: Mapping[str, Sequence[Place]] = MappingProxyType({}),
) -> tuple[int, int]:
    """Bytes that a compiled program takes beside temporaries and outputs.

    By how much the kernels take it over these while it runs on so many threads, by
    default those of this process; and what all of them keep. Pages come when they are
    written: a kernel that runs early lies beside those that are there by then, by the
    ``places`` of instructions, else by the sizes of their results.
    """
    threads = threads or _threads()
    most = kept = 0
    for op, (inner, outer) in _kernels(text, places):
        there = int(min(temp, inner) + min(output, outer))
        most = max(most, there + op.scratch(threads))
        kept += op.kept() if op.library else 0
    kept += Kept.PROGRAM if text else 0
    return max(0, most - temp - output), int(SPREAD * kept)


def largest(text: str, threads: int | None = None) -> tuple[int, str]:
    """Bytes of the kernel that takes most for itself, and of which node it is."""
    threads = threads or _threads()
    sizes = ((op.scratch(threads), op.attributes) for op, _ in _kernels(text))
    most, attributes = max(sizes, default=(0, ""), key=lambda each: each[0])
    named = _NODE.search(attributes)
    return most, _CALLS.sub("", named[1]) if named and most else ""


def _threads() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


@dataclass(frozen=True)
class _Op:
    """A product or a convolution that is a kernel, or a part of one; another kernel.

    ``between`` are the bytes of what such parts read of each other, ``joined`` counts
    the other ops of the kernel; those of several parts are the first one's.
    """

    kind: str
    library: bool
    operands: Sequence[_Tensor]
    result: _Tensor
    attributes: str
    between: int
    joined: int = 0

    def kept(self) -> int:
        """Bytes that the library keeps of it."""
        others = self.joined * Kept.OTHER
        if self.kind == "convolution":
            padded = any(self._window(len(self.result.shape) - 2)["pad"])
            return others + Kept.CONVOLUTION + (Kept.PADDED if padded else 0)
        if self.kind != "dot" or len(self.operands) != 2:
            return others + Kept.ALONE
        k, _, m, n = self._extents()
        kept = others + Kept.PRODUCT
        kept += Kept.BATCH_AXIS * len(self._axes("rhs_batch_dims"))
        if self._transposed():
            kept += Kept.TRANSPOSED
        elif -(-m // BLOCK) > FEW:
            kept += Kept.PACKED
        several = n > _columns(k, n, self.operands[1].width)
        return kept + (Kept.PIECES if several else 0)

    def scratch(self, threads: int) -> int:
        """Bytes that it has while it runs."""
        if self.kind not in PRODUCTS or len(self.operands) != 2:
            return self.between
        if self.kind == "dot":
            return self.between + self._product(threads)
        return self.between + self._convolution(threads)

    def _product(self, threads: int) -> int:
        left, right = self.operands
        k, batch, m, n = self._extents()
        if not k * batch:
            return 0
        if not self.library:  # Eigen's, and loops where one side is a vector
            return 2 * max(left.bytes, right.bytes) if min(m, n) > 1 else 0
        if -(-m // BLOCK) <= FEW and not self._transposed():
            return 0
        columns = _columns(k, n, right.width)
        pieces = min(threads, -(-n // columns))
        return batch * k * columns * right.width * pieces

    def _extents(self) -> tuple[int, int, int, int]:
        """Of a product: what is summed, the batch, rows and columns."""
        right = self.operands[1]
        axes = self._axes("rhs_contracting_dims")
        k = math.prod(right.shape[a] for a in axes)
        batch = math.prod(right.shape[a] for a in self._axes("rhs_batch_dims"))
        m, n = (math.prod(t.shape) // max(k * batch, 1) for t in self.operands)
        return k, batch, m, n

    def _transposed(self) -> bool:
        """Whether a product sums over the last axis of its second operand."""
        last = len(self.operands[1].shape) - 1
        return self._axes("rhs_contracting_dims")[-1:] == [last]

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


@dataclass(frozen=True)
class _Line:
    """One instruction of a computation."""

    name: str
    kind: str
    operands: Sequence[str]
    result: _Tensor
    attributes: str

    def op(
        self,
        known: Mapping[str, _Tensor],
        *,
        library: bool,
        between: int = 0,
        joined: int = 0,
    ) -> _Op:
        """The kernel that it is, by what else is in its computation."""
        operands = [known[name] for name in self.operands if name in known]
        how = (self.result, self.attributes, between, joined)
        return _Op(self.kind, library, operands, *how)


def _kernels(
    text: str, places: Mapping[str, Sequence[Place]] = MappingProxyType({})
) -> Iterator[tuple[_Op, tuple[float, float]]]:
    """The products and convolutions of a program, and other kernels of the library.

    With the bytes of all temporaries and of all outputs that are written until it is
    done; more than there are where that is not known, as in a loop.
    """
    entry, homes = _computations(text)
    fused = {
        called[1]: _LIBRARY in line.attributes
        for lines in homes.values()
        for line in lines
        if line.kind == "fusion" and (called := _CALLED.search(line.attributes))
    }
    for name, lines in homes.items():
        if name in fused:
            continue
        known = {line.name: line.result for line in lines}
        there = _there(lines, homes, places) if name == entry else repeat(_UNKNOWN)
        for line, written in zip(lines, there, strict=False):
            called = _CALLED.search(line.attributes)
            ops = [line.op(known, library=False)] if line.kind in PRODUCTS else []
            if called is not None and fused.get(called[1]):
                ops = _joined(homes[called[1]])
            yield from ((op, written) for op in ops)


def _there(
    lines: Sequence[_Line],
    homes: Mapping[str, Sequence[_Line]],
    places: Mapping[str, Sequence[Place]],
) -> Iterator[tuple[float, float]]:
    """Bytes of temporaries and of outputs that are written, after each line."""
    if not places:
        outputs, sums = _outputs(lines), [0, 0]
        for line in lines:
            if line.kind not in _NO_BYTES:
                sums[line.name in outputs] += line.result.bytes
            yield sums[0], sums[1]
        return
    written = Written()
    for line in lines:
        pending = [line]
        while pending:
            each = pending.pop()
            written.add(places.get(each.name, ()))
            for called in _NAMES.findall(each.attributes):
                pending += homes.get(called, ())
        yield written.bytes[0], written.bytes[1]


def _joined(lines: Sequence[_Line]) -> list[_Op]:
    """The products and convolutions of one kernel, each beside all that they read.

    Of a kernel without any there is what it gives.
    """
    made = {line.name: line for line in lines}
    products = [line for line in lines if line.kind in PRODUCTS]
    whole = {product.name for product in products if _is_reread(product, lines)}
    read = set(whole)
    for product in products:
        pending = list(product.operands)
        while pending:
            line = made.get(pending.pop())
            if line is not None and line.kind in PRODUCTS:
                read.add(line.name)
            elif line is not None:
                pending += line.operands
    between = sum(made[name].result.bytes for name in read)
    between += sum(_carried(line, made, whole) for line in products)
    known = {line.name: line.result for line in lines}
    found = products or lines[-1:]
    others = sum(line.kind not in _NO_OPS | PRODUCTS for line in lines)
    return [
        line.op(known, library=True, between=between, joined=0 if i else others)
        for i, line in enumerate(found)
    ]


def _carried(product: _Line, made: Mapping[str, _Line], whole: set[str]) -> int:
    """Bytes of the rows of a first operand that is made of a product that is ``whole``.

    So many at a time, of all of a batch: in attention exponentials of scores.
    """
    left = made.get(product.operands[0]) if product.operands else None
    if left is None or left.kind in _NO_BYTES | PRODUCTS or len(left.result.shape) < 2:
        return 0
    pending, seen = [left.name], set[str]()
    while pending:
        line = made.get(pending.pop())
        if line is None or line.name in seen:
            continue
        if line.name in whole:
            rows = left.result.shape[-2]
            return left.result.bytes * min(rows, TILE) // max(rows, 1)
        seen.add(line.name)
        pending += line.operands
    return 0


def _is_reread(product: _Line, lines: Sequence[_Line]) -> bool:
    """Whether what is reduced of a product is read beside it, so that it is whole.

    As the scores of a softmax: exp(s - max(s)).
    """
    before, after = {product.name}, set[str]()
    for line in lines:
        late = not after.isdisjoint(line.operands)
        early = not before.isdisjoint(line.operands)
        if line.kind in PRODUCTS:
            continue
        if late and early:
            return True
        if late or (early and line.kind == "reduce"):
            after.add(line.name)
        elif early:
            before.add(line.name)
    return False


def _outputs(lines: Sequence[_Line]) -> set[str]:
    """What the last line gives out, also by another shape."""
    found = set(lines[-1].operands if lines and lines[-1].kind == "tuple" else ())
    for line in reversed(lines):
        if line is lines[-1] and line.kind != "tuple":
            found.add(line.name)
        if line.name in found and line.kind == "bitcast":
            found.update(line.operands)
    return found


def _computations(text: str) -> tuple[str, dict[str, list[_Line]]]:
    """The name of the entry, and all computations in their order.

    Of what makes tuples there is only what gives them out.
    """
    entry, homes = "", dict[str, list[_Line]]()
    lines = list[_Line]()
    for row in text.splitlines():
        if opened := _OPENED.match(row):
            lines = homes[opened[2]] = []
            entry = opened[2] if opened[1] else entry
        elif made := _MADE.match(row):
            name, bits, extents, kind, operands, attributes = made.groups()
            shape = tuple([int(extent) for extent in extents.split(",") if extent])
            result = _Tensor(shape, max(1, int(bits or 8) // 8))
            names = re.findall(r"%([\w.\-]+)", operands)
            lines.append(_Line(name, kind, names, result, attributes))
        elif given := _GIVEN.match(row):
            names = re.findall(r"%([\w.\-]+)", given[2])
            lines.append(_Line(given[1], "tuple", names, _Tensor((0,), 1), ""))
    return entry, homes
