"""Which ways to run an op fit on a device at all, whatever else is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.ir import Graph, Op
from graphopt.types import TensorType

from .choices import Choice
from .folding import Folded, made_by
from .layout import local_bytes
from .mesh import Mesh
from .search import NoPlan
from .ties import Tied


def roomy(
    graph: Graph,
    folded: Folded,
    choices: Sequence[Sequence[Choice]],
    tied: Tied,
    mesh: Mesh,
    memory: float,
) -> Mapping[int, set[int]]:
    """By node, the options that run in so many bytes; of nodes where others do not.

    An op has its operands and results at once, copies in other layouts too, and what
    else is stored takes the least that it can. Raises NoPlan for an op that does not
    run at all.
    """
    problem = tied.problem
    least = [n.times * min(o.bytes for o in n.options) for n in problem.nodes]
    stored, kept = sum(least), dict[int, set[int]]()
    outputs = set(graph.outputs)
    for number, found in enumerate(choices):
        op = folded.classes[number][0]
        if not found or not isinstance(op, Op):
            continue
        read = dict.fromkeys(v for v in op.operands if v is not None)
        own = {folded.number[made_by(v)[0]] for v in read}
        own = {tied.leaders.get(n, n) for n in own}
        room = memory - stored + sum(least[n] // problem.nodes[n].times for n in own)
        sizes = [
            _bytes(op, choice, [v not in outputs for v in op.results], mesh)
            for choice in found
        ]
        fits = {k for k, size in enumerate(sizes) if size <= room}
        if not fits:
            others = max(0, round(memory - room))
            raise NoPlan(
                f"{op.label} takes {min(sizes):,} at least, and what else is stored"
                f" {others:,}"
            )
        if len(fits) < len(found):
            kept[number] = fits
    return kept


def _bytes(op: Op, choice: Choice, counts: Sequence[bool], mesh: Mesh) -> int:
    """Of all operands, and of results that count, on a device.

    Of a value in two layouts, of both.
    """
    pairs = [
        *zip(op.operands, choice.operands, strict=True),
        *[
            (value, layout)
            for value, layout, each in zip(
                op.results, choice.results, counts, strict=True
            )
            if each
        ],
    ]
    parts = {
        (value, layout): local_bytes(value.type, layout, mesh)
        for value, layout in pairs
        if value is not None and isinstance(value.type, TensorType)
    }
    return sum(parts.values())
