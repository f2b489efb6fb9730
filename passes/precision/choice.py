"""Choose which ops become narrow: as many as the stated error allows, by measuring.

Out are those whose numbers leave the range, and those that are off too far all alone.
Where the whole is off too far still, those go that are off the most, with what gives
them their operands, twice as many at each try. What only moves numbers goes with its
neighbours, and so does what costs less than the casts around it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from graphopt.ir import Graph, Op, Value
from graphopt.ops.constant import Constant
from graphopt.ops.structured import Elementwise
from graphopt.types import DType

from .fills import largest, saturated
from .measure import Run, error_of
from .narrowing import Narrowing
from .shares import Share, is_single, moves


@dataclass(frozen=True)
class Choice:
    """The narrowed graph, its error, None if unknown, and why ops are not narrow."""

    graph: Graph
    error: float | None
    narrow: Mapping[Op, Share]
    kept: Mapping[Op, str]
    flushed: int = 0

    @property
    def reasons(self) -> Counter[str]:
        """How many ops stay float32 for each reason."""
        return Counter(self.kept.values())


def choose(
    graph: Graph,
    shares: Mapping[Op, Share],
    to: DType,
    run: Run,
    budget: float,
    *,
    keep_io: bool = True,
) -> Choice:
    """The choice for one measured run, with an error of at most ``budget``."""
    kept: dict[Op, str] = {}
    for op in shares:
        seen = run.ops.get(op)
        if seen is None:
            kept[op] = "in bodies that did not run"
        elif seen.overflows:
            kept[op] = "out of range"
        elif seen.vanishes:
            kept[op] = "with a constant that would vanish"
        elif seen.error > budget:
            kept[op] = "off too far alone"
            if seen.error < 1:  # by what its operands lost, not by what it made
                for source in _sources(op, shares):
                    kept.setdefault(source, "as operands of those")
    free = [op for op in shares if op not in kept and not moves(op)]
    ranked = sorted(free, key=lambda op: -run.ops[op].error)
    count, done = 1, 0
    while True:  # in the end nothing is narrow, and nothing is off
        choice = _built(graph, shares, to, kept, run, keep_io)
        if choice.error is not None and choice.error <= budget:
            return choice
        for op in ranked[done : done + count]:
            for each in (op, *_sources(op, shares)):
                kept.setdefault(each, "by the error of the whole")
        done, count = done + count, 2 * count


def unmeasured(
    graph: Graph, shares: Mapping[Op, Share], to: DType, *, keep_io: bool = True
) -> Choice:
    """The choice where nothing can be run: products and movement, by their weights."""
    kept = {
        op: "as nothing could be measured"
        for op in shares
        if not (moves(op) or op.kind in PRODUCTS) or _overflows(op, shares[op], to)
    }
    return _built(graph, shares, to, kept, None, keep_io)


PRODUCTS: Final = frozenset(
    (
        *("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "Attention"),
        *("FusedMatMul", "FusedGemm", "FusedConv", "MultiHeadAttention"),
        *("GroupQueryAttention", "LSTM", "GRU", "RNN"),
    )
)
"""Kinds that are mostly products of matrices: those that "mixed" narrows."""


def _overflows(op: Op, share: Share, to: DType) -> bool:
    most = largest(to)
    constants = [op.operands[i] for i in share.operands]
    arrays = [
        saturated(v.tensor.array(), to) for v in constants if isinstance(v, Constant)
    ]
    return any(a.size and float(abs(a).max()) > most for a in arrays)


def _built(
    graph: Graph,
    shares: Mapping[Op, Share],
    to: DType,
    kept: Mapping[Op, str],
    run: Run | None,
    keep_io: bool,
) -> Choice:
    given = frozenset(() if keep_io else filter(is_single, graph.inputs))
    chosen = {op: share for op, share in shares.items() if op not in kept}
    done: set[Graph] = set()
    for inner, _ in graph.walk():
        if inner not in done:
            done.add(inner)
            _settle(inner, chosen, given)
    if not any(not moves(op) for op in chosen):
        return Choice(graph, 0.0, {}, kept)
    narrowing = Narrowing(to, chosen, () if run is None else run.fills)
    made = narrowing.graph(graph, keep_io=keep_io)
    error = None if run is None else error_of(made, graph, run, to)
    return Choice(made, error, chosen, kept, narrowing.flushed)


def _settle(graph: Graph, chosen: dict[Op, Share], given: Collection[Value]) -> None:
    """Leave out what has no narrow neighbour, and would be cast for nothing."""
    light = [op for op in graph.ops if op in chosen and _is_light(op)]
    shares = {op: chosen[op] for op in light}
    for op in light:
        if moves(op):
            del chosen[op]
    changed = True
    while changed:
        changed = False
        for op in (*light, *reversed(light)):
            if moves(op):
                fits = _is_given(op, shares[op], chosen, given) or _is_read(
                    graph, op, chosen
                )
            else:
                fits = op in chosen and _has_neighbour(graph, op, shares[op], chosen)
            if fits and op not in chosen:
                chosen[op] = shares[op]
                changed = True
            elif not fits and op in chosen and not moves(op):
                del chosen[op]
                changed = True


def _is_light(op: Op) -> bool:
    return moves(op) or isinstance(op, Elementwise)


def _is_given(
    op: Op, share: Share, chosen: Mapping[Op, Share], inputs: Collection[Value]
) -> bool:
    """True where all its operands are narrow, or constants."""
    given = [op.operands[i] for i in share.operands]
    from_narrow = [
        v in inputs or _is_made(v, chosen) for v in given if not isinstance(v, Constant)
    ]
    return bool(from_narrow) and all(from_narrow)


def _is_read(graph: Graph, op: Op, chosen: Mapping[Op, Share]) -> bool:
    """True where all that read it are narrow."""
    for value in op.results:
        users = graph.users.get(value, [])
        if len(users) < graph.uses.get(value, 0):
            return False  # an output
        if not all(u in chosen and i in chosen[u].operands for u, i in users):
            return False
    return any(graph.users.get(value) for value in op.results)


def _has_neighbour(
    graph: Graph, op: Op, share: Share, chosen: Mapping[Op, Share]
) -> bool:
    if any(_is_made(op.operands[i], chosen) for i in share.operands):
        return True
    return any(
        user in chosen and i in chosen[user].operands
        for value in op.results
        for user, i in graph.users.get(value, ())
    )


def _is_made(value: Value | None, chosen: Mapping[Op, Share]) -> bool:
    """True for the narrow result of a chosen op."""
    if value is None or value.op is None:
        return False
    share = chosen.get(value.op)
    return share is not None and value.op.results.index(value) in share.results


def _sources(op: Op, shares: Mapping[Op, Share]) -> Iterable[Op]:
    """What computes the operands of an op, behind what moves them."""
    pending = [op]
    seen: set[Op] = set()
    while pending:
        for value in pending.pop().operands:
            source = None if value is None else value.op
            if source is None or source in seen or source not in shares:
                continue
            seen.add(source)
            if moves(source):
                pending.append(source)
            else:
                yield source
