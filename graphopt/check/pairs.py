"""What two graphs have in common: equal constants, values of one name, unknown ops.

A check compares a graph with the one that was made of it. Names are only hints here:
whoever cuts at a pair must find out whether the two values are the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from ..errors import GraphoptError
from ..ir import Graph, Op, Parameter, Value
from ..ops.constant import Constant
from ..ops.opaque import Opaque
from ..proto import rename_free, subgraphs
from ..reference import has_reference, schedule
from ..types import clash
from ..weights import Tensor


def with_constants_of(before: Graph, after: Graph) -> Graph:
    """``after``, with the constants of ``before`` wherever they have the same bits.

    Large constants are told apart by identity; a model that was written and read again
    has other ones. Reads only those of which the other graph has one of equal type.
    """
    known: dict[Hashable, list[Tensor]] = defaultdict(list)
    own: dict[Tensor, Constant] = {}
    for op in before.ops:
        if isinstance(op, Constant):
            known[op.type].append(op.tensor)
            own[op.tensor] = op
    mapping: dict[Value, Value] = {}
    for op in after.ops:
        if isinstance(op, Constant) and op.tensor not in own:
            alike = known.get(op.type, [])
            for i, tensor in enumerate(alike):
                if tensor.same_bits(op.tensor):
                    mapping[op] = own[tensor]
                    # Both graphs hold them in about the same order.
                    alike.append(alike.pop(i))
                    break
    return after.substitute(mapping) if mapping else after


def named(graph: Graph) -> dict[str, Value]:
    """The values that a name tells apart; an output's name counts."""
    found: dict[str, Value] = {}
    doubtful: set[str] = set()
    results = [v for op in graph.ops for v in op.results if v in graph.names]
    pairs = [
        *zip(graph.output_names, graph.outputs, strict=True),
        *((graph.names[v], v) for v in results),
    ]
    for name, value in pairs:
        if found.setdefault(name, value) is not value:
            doubtful.add(name)
    return {name: value for name, value in found.items() if name not in doubtful}


def same_values(before: Graph, after: Graph) -> dict[Value, Value]:
    """For results of ``before``, those of ``after`` that claim to be the same.

    One object in both graphs is one value; else a name (and a type that may be equal).
    """
    pairs: dict[Value, Value] = {}
    ours = named(before)
    for name, value in named(after).items():
        mine = ours.get(name)
        if mine is None or isinstance(mine, (Parameter, Constant)):
            continue
        if not clash(mine.type, value.type):
            pairs[mine] = value
    theirs = {v for op in after.ops for v in op.results}
    for op in before.ops:
        for value in op.results:
            if value in theirs and not isinstance(op, Constant):
                pairs[value] = value
    return pairs


@dataclass(frozen=True)
class Barrier:
    """An op without a reference, and the one that stands for it in the other graph.

    ``alike``: both do the same, whatever that is, if they are given the same.
    """

    before: Op
    after: Op | None
    name: str
    alike: bool = True


def barriers(before: Graph, after: Graph) -> list[Barrier]:
    """The ops of ``before`` that cannot be run, operands first, each with its partner.

    Partners have the same result name; else they are alike and have the same token, or
    the same place among those that are alike.
    """
    ours = [op for op in before.ops if not has_reference(op)]
    free = dict.fromkeys(op for op in after.ops if not has_reference(op))
    partners: dict[Op, Op] = {}
    for op in ours:
        partner = next((o for o in free if _same_place(op, before, o, after)), None)
        if partner is not None:
            partners[op] = partner
            del free[partner]
    for op in ours:
        like = [] if op in partners else [o for o in free if alike(op, o)]
        if like:
            partner = next((o for o in like if o.token == op.token), like[0])
            partners[op] = partner
            del free[partner]
    found = []
    for op in ours:
        partner = partners.get(op)
        label = before.names.get(op.results[0]) or f"{op.label} {op.token}"
        same = partner is None or alike(op, partner)
        found.append(Barrier(op, partner, label, same))
    return found


def alike(a: Op, b: Op) -> bool:
    """True where two ops do the same with the same operands, as far as can be seen."""
    if a is b:
        return True
    if type(a) is not type(b) or a.outs != b.outs or len(a.operands) != len(b.operands):
        return False
    if isinstance(a, Opaque) and isinstance(b, Opaque):
        return a.version == b.version and not difference(a, b)
    same_bodies = [body.key for body in a.bodies] == [body.key for body in b.bodies]
    return same_bodies and a.attrs == b.attrs


def difference(a: Op, b: Op) -> str:
    """What surely is another in two ops without a reference; empty where nothing.

    Of bodies nothing is said, nor of another version of the same op.
    """
    given = zip_longest(a.operands, b.operands)
    if any((x is None) != (y is None) for x, y in given) and not a.bodies:
        return "it has other operands"
    if isinstance(a, Opaque) and isinstance(b, Opaque):
        return "" if _meaning(a) == _meaning(b) else "its attributes differ"
    return "" if a.bodies or a.attrs == b.attrs else "its attributes differ"


def _meaning(op: Opaque) -> tuple[object, ...]:
    """What opaque ops that do the same have in common, whatever names there are."""
    node = op.node
    count, present = len(node.input), [bool(name) for name in node.output]
    captures: Any = op.captures
    renamed = {name: f"capture {i}" for i, name in enumerate(captures)}
    for body in subgraphs(node):
        rename_free(body, renamed)
    attributes = sorted(
        (a.name, a.SerializeToString(deterministic=True)) for a in node.attribute
    )
    kind = (node.domain, node.op_type, node.overload)
    return *kind, count, *present, *attributes


def _same_place(a: Op, before: Graph, b: Op, after: Graph) -> bool:
    if a is b:
        return True
    if type(a) is not type(b) or a.outs != b.outs:
        return False
    names = [before.names.get(v) for v in a.results]
    return None not in names and names == [after.names.get(v) for v in b.results]


# --- regions ------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """A place in the order of ops: all values that cross it have partners.

    ``crossing`` are computed by the first ``position`` ops and read by later ones.
    """

    position: int
    crossing: tuple[Value, ...]


def cuts(
    order: Sequence[Op],
    pairs: Mapping[Value, Value],
    costs: Sequence[float],
    count: int,
) -> Iterator[Cut]:
    """At most about ``count`` cuts that share the costs of the ops out evenly."""
    last: dict[Value, int] = {}
    for i, op in enumerate(order):
        for operand in op.operands:
            if operand is not None and not isinstance(operand, (Parameter, Constant)):
                last[operand] = i
    crossing: dict[Value, None] = {}
    lone = 0
    since, step = 0.0, sum(costs) / count
    for i, op in enumerate(order):
        since += costs[i]
        for operand in dict.fromkeys(op.operands):
            if operand is not None and last.get(operand) == i and operand in crossing:
                del crossing[operand]
                lone -= operand not in pairs
        for value in op.results:
            if value in last:
                crossing[value] = None
                lone += value not in pairs
        if since >= step and not lone and 0 < len(crossing) <= _WIDEST:
            since = 0.0
            yield Cut(i + 1, tuple(crossing))


_WIDEST = 64  # values that may cross a cut


def respelled(
    wanted: Sequence[Value], mapping: Mapping[Value, Value]
) -> list[Value] | None:
    """The values as they would be built on other ones; None where that cannot be.

    Ops are interned: what computes the same in the same way *is* the same.
    """
    new = dict(mapping)
    try:
        for op in schedule(wanted, mapping):
            operands = [None if v is None else new[v] for v in op.operands]
            made = op.with_operands(operands)
            new.update(zip(op.results, made.results, strict=True))
    except GraphoptError:
        return None
    return [new[value] for value in wanted]
