"""The dims of an attention that goes by blocks, in a loop or as one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.dims import Shape
from graphopt.ops import Attention
from graphopt.rewrite import Miss, miss


@dataclass(frozen=True)
class Sizes:
    """The dims of an attention: ``shared`` are the heads of keys and values."""

    batch: int
    heads: int
    queries: int
    width: int
    shared: int
    depth: int
    keys: int

    @property
    def scores(self) -> int:
        """How many there are."""
        return self.batch * self.heads * self.queries * self.keys


def sizes_of(
    op: Attention, shapes: Sequence[Shape | None] | None = None
) -> Sizes | Miss:
    """The dims of an attention; ``shapes`` are those of its operands where it runs.

    A miss where the op has a past, lengths, other results, or unknown dims.
    """
    if op.outs > 1 or op.operand(4) is not None or op.operand(6) is not None:
        return miss("it has a past, lengths, or other results", op)
    given = [None if v is None else v.shape for v in op.operands]
    shapes = given if shapes is None else shapes
    heads = (op.q_num_heads, op.kv_num_heads, op.kv_num_heads)
    found: list[tuple[int, ...]] = []
    for shape, count in zip(shapes[:3], heads, strict=True):
        known = [dim for dim in shape or () if isinstance(dim, int)]
        if shape is None or len(known) < len(shape):
            return miss("its dims are not known", op)
        if len(known) == 3:
            batch, length, hidden = known
            known = [batch, count, length, hidden // count]
        found.append(tuple(known))
    (batch, queried, queries, width), k, v = found
    mask = shapes[3] if len(shapes) > 3 else None
    if op.operand(3) is not None and (not mask or mask[-1] != k[2]):
        return miss("the mask is of other keys", op.operand(3))
    return Sizes(batch, queried, queries, width, k[1], v[3], k[2])
