"""The index maps of every op by brute force: what they claim holds on split operands."""

from __future__ import annotations

from typing import Any

import pytest
from index_samples import samples
from parts import FOLLOWING, computed, extents_of
from single import Case

from graphopt import index
from graphopt.index import TileSlice
from graphopt.index.check import Array, Verdict, validate_strategies, validate_tiling

CASES = samples()


def judged(case: Case, ways: int = 2) -> Verdict:
    op = case.op
    maps, extents = op.iteration_domain()
    shapes = [None if x is None else x.shape for x in case.operands]
    whole = index.domain(maps, shapes, op.extents())
    following = FOLLOWING[case.kind]() if case.kind in FOLLOWING else None

    def device(arrays: list[Array]) -> list[Array]:
        return computed(op, arrays, extents_of(whole, arrays))

    def tile(arrays: list[Array], part: TileSlice) -> list[Array]:
        if following is not None:
            return following(op, arrays, part)
        extents = dict(whole.extents) | {part.axis: part.hi - part.lo}
        return computed(op, arrays, extents, part)

    tolerance = 1e-9 if all(x is None or x.dtype != 'float32' for x in case.operands) else 1e-5
    v = validate_strategies(device, maps, case.operands, ways, op.extents(), tolerance)
    t = validate_tiling(device, maps, case.operands, ways, op.extents(), tolerance, tile)
    return Verdict(v.unsound + t.unsound, v.missed + t.missed)
