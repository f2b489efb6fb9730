"""Whether what an annotated node reads lies together, by the index maps of its op.

Operands that share an axis of the domain are split along it alike, and for each part of
the work some device has all that it reads. Proposal 0007 asks for both, of ops that
work element by element and of matrix products.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

from graphopt.index import Affine
from graphopt.ir import Op
from graphopt.ops import Gemm, MatMul
from graphopt.ops.structured import Elementwise

if TYPE_CHECKING:
    from onnx import ShardingSpecProto

MOST: Final = 4096
"""Parts of the work of one node that are looked at."""

Axes: TypeAlias = tuple[str | None, ...]
"""For each sharded dim, in the spec's order, the axis of the domain that it follows."""


def disagreements(
    op: Op, specs: Mapping[str, ShardingSpecProto], names: Mapping[int, str]
) -> Iterator[str]:
    """What is wrong between the operands; ``names`` are theirs, by position.

    Nothing is said of other ops, of dims that follow no single axis, and of operands
    without a sharding. Each sharding is valid by itself.
    """
    maps = op.index_maps() if isinstance(op, Elementwise | Gemm | MatMul) else None
    if maps is None:
        return
    counts: dict[str, tuple[int, str]] = {}
    axes: dict[str, Axes] = {}
    for i, map_ in enumerate(maps.operands[: len(op.operands)]):
        value, name = op.operands[i], names.get(i, "")
        if map_ is None or value is None or name not in specs or value.shape is None:
            continue
        shards = _shards(specs[name], len(value.shape))
        plain = [term.plain if isinstance(term, Affine) else None for term in map_]
        for dim, axis in enumerate(plain):
            if axis is None or value.shape[dim] == 1:
                continue
            count = shards.get(dim, 1)
            known, other = counts.setdefault(axis, (count, name))
            if known != count:
                yield (
                    f"{other!r:.200} and {name!r:.200} share an axis, and are split"
                    f" along it in {known} and {count}"
                )
                return
        axes[name] = tuple(plain[dim] for dim in shards)
    yield from _apart({name: specs[name] for name in axes}, axes, counts)


def _shards(spec: ShardingSpecProto, rank: int) -> dict[int, int]:
    """Into how many parts each sharded dim is split, in the spec's order."""
    return {
        dim.axis % rank: math.prod(each.num_shards for each in dim.simple_sharding)
        for dim in spec.sharded_dim
    }


def _apart(
    specs: Mapping[str, ShardingSpecProto],
    axes: Mapping[str, Axes],
    counts: Mapping[str, tuple[int, str]],
) -> Iterator[str]:
    """The first part of the work for which no device has all operands."""
    used = dict.fromkeys(a for each in axes.values() for a in each if a is not None)
    sizes = {axis: counts[axis][0] for axis in used if axis in counts}
    if math.prod(sizes.values()) > MOST or any(None in each for each in axes.values()):
        return
    for place in itertools.product(*map(range, sizes.values())):
        at = dict(zip(sizes, place, strict=True))
        common: set[int] | None = None
        for name, spec in specs.items():
            number = 0
            for axis in axes[name]:
                number = number * sizes[axis or ""] + at[axis or ""]
            holders = _holders(spec, number)
            common = holders if common is None else common & holders
            if not common:
                said = ", ".join(map(repr, specs))
                yield f"no device has the parts of {said} together"
                return


def _holders(spec: ShardingSpecProto, shard: int) -> set[int]:
    entry = spec.device[shard]
    groups = {e.key: e.value for e in spec.index_to_device_group_map}
    return set(groups.get(entry, [entry]))
