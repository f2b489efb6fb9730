"""What kernels of a CPU's libraries take for themselves, which XLA does not count.

The library packs the second operand of a product, some columns at a time, and all
filters of a convolution, which also reads its operand from a padded copy, or from one
of all patches. Threads have pieces of their own:

```
product (b, m, k, n)   --> b k columns       where m is more than ten blocks of rows
convolution            --> filters + padded operand
convolution, no pads   --> filters + patches
joined ops             --> the largest of these + what lies between products (`loops`)
```

Products that the library does not take are Eigen's. All of it was read from requests
for memory of single kernels, with jaxlib 0.10.2.
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
from .instructions import (
    NO_BYTES,
    PRODUCTS,
    Instruction,
    Tensor,
    computations,
    outputs,
)
from .loops import Product, between

BLOCK: Final = 5
"""Rows of one block of the library's kernels."""

FEW: Final = 10
"""Blocks of rows for which packing does not pay."""

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
_NO_OPS: Final = NO_BYTES | {"tuple"}
_NODE: Final = re.compile(r'op_name="jit\(call\)/([^"]*)/[^/"]*"')
_CALLS: Final = re.compile(r"/while/(body|cond)(/closed_call)?(?=/|$)")
"""What JAX puts between the name of an op and those in its bodies."""
_NAMES: Final = re.compile(r"%([\w.\-]+)")
_UNKNOWN: Final = (math.inf, math.inf)


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
    for op, (inner, outer) in _kernels(text, threads, places):
        there = int(min(temp, inner) + min(output, outer))
        most = max(most, there + op.scratch(threads))
        kept += op.kept() if op.library else 0
    kept += Kept.PROGRAM if text else 0
    return max(0, most - temp - output), int(SPREAD * kept)


def largest(text: str, threads: int | None = None) -> tuple[int, str]:
    """Bytes of the kernel that takes most for itself, and of which node it is."""
    threads = threads or _threads()
    sizes = (
        (op.scratch(threads), op.line.attributes) for op, _ in _kernels(text, threads)
    )
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

    line: Instruction
    library: bool
    operands: Sequence[Tensor]
    between: int = 0
    joined: int = 0

    def kept(self) -> int:
        """Bytes that the library keeps of it."""
        others = self.joined * Kept.OTHER
        if self.line.kind == "convolution":
            padded = any(self.line.window(len(self.line.result.shape) - 2)["pad"])
            return others + Kept.CONVOLUTION + (Kept.PADDED if padded else 0)
        if self.line.kind != "dot" or len(self.operands) != 2:
            return others + Kept.ALONE
        product = Product.of(self.line, self.operands)
        kept = others + Kept.PRODUCT
        kept += Kept.BATCH_AXIS * len(self.line.axes("rhs_batch_dims"))
        if self._transposed():
            kept += Kept.TRANSPOSED
        elif -(-product.m // BLOCK) > FEW:
            kept += Kept.PACKED
        return kept + (Kept.PIECES if product.pieces > 1 else 0)

    def scratch(self, threads: int) -> int:
        """Bytes that it has while it runs."""
        if self.line.kind not in PRODUCTS or len(self.operands) != 2:
            return self.between
        if self.line.kind == "dot":
            return self.between + self._product(threads)
        return self.between + self._convolution(threads)

    def _product(self, threads: int) -> int:
        left, right = self.operands
        product = Product.of(self.line, self.operands)
        if not product.k * product.batch:
            return 0
        if not self.library:  # Eigen's, and loops where one side is a vector
            matrices = min(product.m, product.n) > 1
            return 2 * max(left.bytes, right.bytes) if matrices else 0
        if -(-product.m // BLOCK) <= FEW and not self._transposed():
            return 0
        return product.packed(threads)

    def _transposed(self) -> bool:
        """Whether a product sums over the last axis of its second operand."""
        last = len(self.operands[1].shape) - 1
        return self.line.axes("rhs_contracting_dims")[-1:] == [last]

    def _convolution(self, threads: int) -> int:
        x, w = self.operands
        inner, outer, made = self.line.labels()
        axes = [i for i, label in enumerate(inner) if label.isdigit()]
        window = self.line.window(len(axes))
        extents = [w.shape[outer.index(inner[i])] for i in axes]
        out = [self.line.result.shape[made.index(inner[i])] for i in axes]
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
        groups = self.line.number("feature_group_count", 1)
        copies = padded if any(window["pad"]) else patches
        if 1 < groups < channels and any(window["pad"]):
            copies += patches
        rows = batch * math.prod(out)
        k = math.prod(extents) * channels // groups
        pieces = Product(1, rows, k, features, w.width).pieces
        blocks = batch * math.prod(out[:-1]) * -(-out[-1] // BLOCK) if out else 0
        return copies * min(threads, pieces) + (w.bytes if blocks > FEW else 0)


def _kernels(
    text: str,
    threads: int,
    places: Mapping[str, Sequence[Place]] = MappingProxyType({}),
) -> Iterator[tuple[_Op, tuple[float, float]]]:
    """The products and convolutions of a program, and other kernels of the library.

    With the bytes of all temporaries and of all outputs that are written until it is
    done; more than there are where that is not known, as in a loop.
    """
    entry, homes = computations(text)
    fused = {
        line.called: _LIBRARY in line.attributes
        for lines in homes.values()
        for line in lines
        if line.called
    }
    for name, lines in homes.items():
        if name in fused:
            continue
        known = {line.name: line.result for line in lines}
        there = _there(lines, homes, places) if name == entry else repeat(_UNKNOWN)
        for line, written in zip(lines, there, strict=False):
            ops = [_op(line, known, library=False)] if line.kind in PRODUCTS else []
            if line.called and fused[line.called]:
                ops = _joined(homes[line.called], threads)
            yield from ((op, written) for op in ops)


def _there(
    lines: Sequence[Instruction],
    homes: Mapping[str, Sequence[Instruction]],
    places: Mapping[str, Sequence[Place]],
) -> Iterator[tuple[float, float]]:
    """Bytes of temporaries and of outputs that are written, after each line."""
    if not places:
        given, sums = outputs(lines), [0, 0]
        for line in lines:
            if line.kind not in NO_BYTES:
                sums[line.name in given] += line.result.bytes
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


def _joined(lines: Sequence[Instruction], threads: int) -> list[_Op]:
    """The products and convolutions of one kernel, each beside all that they read.

    Of a kernel without any there is what it gives.
    """
    products = [line for line in lines if line.kind in PRODUCTS]
    known = {line.name: line.result for line in lines}
    others = sum(line.kind not in _NO_OPS | PRODUCTS for line in lines)
    size = between(lines, threads)
    return [
        _op(line, known, library=True, between=size, joined=0 if i else others)
        for i, line in enumerate(products or lines[-1:])
    ]


def _op(
    line: Instruction,
    known: Mapping[str, Tensor],
    *,
    library: bool,
    between: int = 0,
    joined: int = 0,
) -> _Op:
    """The kernel that a line is, by what else is in its computation."""
    operands = [known[name] for name in line.operands if name in known]
    return _Op(line, library, operands, between, joined)
