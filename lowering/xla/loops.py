"""The loops in which a CPU's library runs products, and what lies between joined ones.

A product (b, m, k, n) packs its second operand some columns at a time, and has loops
over these, and in them over rows, whose tiles grow until they are worth a task:

```
columns  =  step * max(1, 128 KiB / (width k step))     but no more than there are
rows     =  all, or those of a tile of 64 x 64 to 256 x 256 elements
```

What lies between two products is in the loops of the second where it has the same
ones. That of softmax(s) for scores s of b heads, m positions and n keys, by how the
product with the values runs, of t threads:

```
in no loop                                 -->  s         in place
in a loop over rows                        -->  s + 2 t b rows n
in the same one as the product that is s   -->      2 t b rows n
in one over columns, or in pieces of b m   -->  2 s
```

With one head, and as many keys as positions, the library takes one for the other: rows
of the softmax are in a loop over columns of the product that is s. The rules are those
of YNNPACK's schedule in May 2026; of 60 kernels of random sizes, with jaxlib 0.10.2, 50
ask for what these say within a tenth. With one head they ask for 0.8 to 1.6, of which
not all is written: processes grow by 0.8 to 1.15. Scores that are the second operand
count whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from .instructions import PRODUCTS, Instruction, Tensor

CACHE: Final = 128 << 10
"""Bytes of a second operand that the library packs at a time, if k allows it; of what
is no product, those of a piece of a loop."""

STEPS: Final = (256, 128, 64)
"""Bytes of the columns of its kernels; those that pad least, of these the widest."""

LANE: Final = 64
"""Bytes of the narrowest columns."""

LEAST: Final = 64
MOST: Final = 256
"""Rows and columns of the least and of the largest tile that is a task."""

FIRST: Final = 16
"""Rows at which a tile begins to grow, twice by twice."""

WORK: Final = 64 << 10
DEEP: Final = 1024
"""(rows + columns) k from which on a tile is large enough, and the largest k there."""

TALL: Final = 4
"""Rows by columns of a tile."""

BUFFERS: Final = 2
"""Of what lies between products: what is read, and what is made of it."""


@dataclass(frozen=True)
class Product:
    """(batch, m, k) x (batch, k, n), elements of so many bytes."""

    batch: int
    m: int
    k: int
    n: int
    width: int

    @classmethod
    def of(cls, line: Instruction, operands: Sequence[Tensor]) -> Product:
        """A ``dot`` of two operands."""
        left, right = operands
        k = math.prod(right.shape[a] for a in line.axes("rhs_contracting_dims"))
        batch = math.prod(right.shape[a] for a in line.axes("rhs_batch_dims"))
        m, n = (math.prod(t.shape) // max(k * batch, 1) for t in (left, right))
        return cls(batch, m, k, n, right.width)

    @cached_property
    def columns(self) -> int:
        """Columns of the second operand that are packed at a time."""
        lane = LANE // self.width
        all_ = _up(self.n, lane)
        steps = [bytes_ // self.width for bytes_ in STEPS]
        few = self.n <= 2 * steps[0]
        step = min(steps, key=lambda s: _up(self.n, s)) if few else steps[0]
        most = step * max(1, CACHE // (self.width * step * max(self.k, 1)))
        return max(1, min(most, all_))

    @property
    def pieces(self) -> int:
        """How often columns are packed."""
        return -(-self.n // self.columns)

    def packed(self, threads: int) -> int:
        """Bytes of the columns that are packed at a time, by all threads."""
        pieces = min(threads, self.pieces)
        return self.batch * self.k * self.columns * self.width * pieces

    @cached_property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of a task."""
        least = min(self.m, LEAST) * min(self.n, LEAST)
        rows, columns = min(self.m, FIRST), min(self.n, self.columns)
        while True:
            work = (rows + columns) * min(self.k, DEEP)
            area = rows * columns
            if area >= least and (work >= WORK or area >= MOST * MOST):
                break
            tall = TALL * columns <= rows or rows >= self.m
            if tall and columns < self.n:
                columns *= 2
            elif (rows <= TALL * columns or columns >= self.n) and rows < self.m:
                rows *= 2
            else:
                break
        return rows, columns

    @property
    def rows_in_loop(self) -> int | None:
        """Rows at a time, of all of a batch; None where there is no such loop."""
        return self.tile[0] if self.tile[0] < self.m else None

    @property
    def columns_in_loop(self) -> int | None:
        """Columns at a time; None where all are packed at once."""
        return self.tile[1] if self.columns < self.n else None

    @property
    def is_at_once(self) -> bool:
        """Whether it runs in no loop."""
        return self.rows_in_loop is None and self.columns_in_loop is None


def between(lines: Sequence[Instruction], threads: int) -> int:
    """Bytes of what products of one kernel read of each other, or others of them."""
    made = {line.name: line for line in lines}
    products = [line for line in lines if line.kind in PRODUCTS]
    whole = {product.name for product in products if _is_reread(product, lines)}
    read, readers = set[str](), dict[str, Instruction]()
    for product in products:
        for i, operand in enumerate(product.operands):
            names = _behind(operand, made)
            read |= names
            if not i:
                readers |= dict.fromkeys(names, product)
    size = sum(made[name].result.bytes for name in read - whole)
    for name in whole:
        scores, bytes_ = _product(made[name], made), made[name].result.bytes
        after = _product(readers[name], made) if name in readers else None
        if scores is None or (after is None and name in read):
            size += bytes_
        else:
            size += _scores(scores, after, bytes_, threads)
    return size


def _scores(scores: Product, after: Product | None, size: int, threads: int) -> int:
    """Bytes of scores and of what is made of them for the product ``after`` them."""

    def tiles(rows: int) -> int:
        return BUFFERS * size * min(threads * rows, scores.m) // max(scores.m, 1)

    taken = _mistaken(scores)
    if after is None and taken is not None:
        return tiles(taken)
    if after is None:  # in the place of what is given out, if it is all there at once
        return 0 if scores.is_at_once else size
    if after.is_at_once:
        return size
    if after.columns_in_loop is not None:
        return size + (size if taken is None else min(size, tiles(taken)))
    if scores.batch * scores.m > CACHE // scores.width:
        return 2 * size
    rows = after.tile[0]
    if scores.columns_in_loop is None and scores.rows_in_loop == rows:
        return tiles(rows) + scores.packed(threads)
    return size + tiles(rows)


def _mistaken(scores: Product) -> int | None:
    """Columns that a loop over rows takes of one head with as many keys; else None."""
    looped = scores.m * scores.n > CACHE // scores.width
    if scores.batch > 1 or scores.m != scores.n or not looped:
        return None
    return scores.columns_in_loop or scores.rows_in_loop


def _product(line: Instruction, made: Mapping[str, Instruction]) -> Product | None:
    operands = [made[name].result for name in line.operands if name in made]
    if line.kind != "dot" or len(operands) != 2:
        return None
    return Product.of(line, operands)


def _behind(name: str, made: Mapping[str, Instruction]) -> set[str]:
    """The products that an operand is made of, without others between."""
    found, seen, pending = set[str](), set[str](), [name]
    while pending:
        line = made.get(pending.pop())
        if line is None or line.name in seen:
            continue
        seen.add(line.name)
        if line.kind in PRODUCTS:
            found.add(line.name)
        else:
            pending += line.operands
    return found


def _is_reread(product: Instruction, lines: Sequence[Instruction]) -> bool:
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


def _up(extent: int, step: int) -> int:
    return -(-extent // step) * step
