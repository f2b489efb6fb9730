"""Classes of ops that do the same at the same place of equal layers.

Colours are refined by those of operands and users for a few rounds, so that an op is
told from others by what is near it. Weisfeiler and Leman, "The reduction of a graph to
canonical form and the algebra which appears therein", 1968.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops import Constant

from .signature import signature

ROUNDS: Final = 4
"""How far an op sees. Ops so far from the first and last layers are classes of their
own; fewer rounds tell less apart, within a layer too."""
_SMALL: Final = 64  # elements of a constant that may steer an op

Item = Op | Parameter
"""What makes values: an op, constants among them, or an input of the graph."""


@dataclass(frozen=True)
class Use:
    """That members of a class read a value, as which operand; or that it is an output.

    Then ``reader`` is -1, and ``end`` what the caller says of it.
    """

    reader: int
    operand: int = 0
    end: Hashable = None


@dataclass(frozen=True)
class Passed:
    """Values alike: the class that makes them, as which result, and all uses."""

    source: int
    result: int
    uses: tuple[Use, ...]
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Folded:
    """The classes of a graph: members in graph order, and the values between them."""

    classes: Sequence[tuple[Item, ...]]
    passed: Sequence[Passed]
    number: Mapping[Item, int]


def fold(
    graph: Graph,
    rounds: int | None = ROUNDS,
    labels: Mapping[Item, Hashable] | None = None,
    ends: Sequence[Hashable] | None = None,
) -> Folded:
    """The classes of all items of a graph; each by itself where ``rounds`` is None.

    ``labels`` tells items apart that are otherwise alike, ``ends`` outputs.
    """
    items: list[Item] = [p for p in graph.inputs if graph.uses[p]]
    items += graph.ops
    ends = ends if ends is not None else [None] * len(graph.outputs)
    outputs: dict[Value, list[Hashable]] = defaultdict(list)
    for value, end in zip(graph.outputs, ends, strict=True):
        outputs[value].append(end)
    if rounds is None:
        number = {item: i for i, item in enumerate(items)}
    else:
        number = _refined(graph, items, outputs, labels or {}, rounds)
    members: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        members[number[item]].append(item)
    return Folded(
        [tuple(members[i]) for i in range(len(members))],
        _passed(graph, items, number, outputs),
        number,
    )


def _refined(
    graph: Graph,
    items: Sequence[Item],
    outputs: Mapping[Value, list[Hashable]],
    labels: Mapping[Item, Hashable],
    rounds: int,
) -> dict[Item, int]:
    """A colour for each item, numbered by first appearance."""
    colours = _numbered({i: (_colour(i), labels.get(i)) for i in items})
    for _ in range(rounds):
        seen: dict[Item, Hashable] = {}
        for item in items:
            reads = [_made(v, colours) for v in _operands(item)]
            read = [
                frozenset(
                    Counter((colours[op], i) for op, i in graph.users[value]).items()
                )
                for value in _results(item)
            ]
            ends = [frozenset(outputs.get(v, ())) for v in _results(item)]
            seen[item] = (colours[item], tuple(reads), tuple(read), tuple(ends))
        refined = _numbered(seen)
        if len(set(refined.values())) == len(set(colours.values())):
            break
        colours = refined
    return colours


def _numbered(colours: Mapping[Item, Hashable]) -> dict[Item, int]:
    numbers: dict[Hashable, int] = {}
    return {item: numbers.setdefault(c, len(numbers)) for item, c in colours.items()}


def _colour(item: Item) -> Hashable:
    """What an item is by itself: of weights the type, of small constants the bits."""
    if isinstance(item, Parameter):
        return (Parameter, item.type)
    if isinstance(item, Constant):
        small = item.tensor.size <= _SMALL and item.contents is not None
        return (Constant, item.type, item.tensor.key if small else None)
    return (
        signature(item),
        tuple([None if v is None else v.ints for v in item.operands]),
        tuple([value.ints for value in item.results]),
        item.instance,
    )


def _operands(item: Item) -> Sequence[Value | None]:
    return () if isinstance(item, Parameter) else item.operands


def _results(item: Item) -> Sequence[Value]:
    return (item,) if isinstance(item, Parameter) else item.results


def made_by(value: Value) -> tuple[Item, int]:
    """The item that makes a value, and which of its results it is."""
    op = value.op
    if op is None:
        assert isinstance(value, Parameter)
        return value, 0
    return op, next(i for i, r in enumerate(op.results) if r is value)


def _made(value: Value | None, colours: Mapping[Item, int]) -> Hashable:
    if value is None:
        return None
    item, result = made_by(value)
    return colours[item], result


def _passed(
    graph: Graph,
    items: Sequence[Item],
    number: Mapping[Item, int],
    outputs: Mapping[Value, list[Hashable]],
) -> list[Passed]:
    alike: dict[tuple[int, int, frozenset[Use]], list[Value]] = defaultdict(list)
    for item in items:
        for result, value in enumerate(_results(item)):
            uses = {Use(number[op], i) for op, i in graph.users[value]}
            uses |= {Use(-1, 0, end) for end in outputs.get(value, ())}
            if uses:
                alike[number[item], result, frozenset(uses)].append(value)
    return [
        Passed(source, result, tuple(sorted(uses, key=_place)), tuple(values))
        for (source, result, uses), values in alike.items()
    ]


def _place(use: Use) -> tuple[int, int, str]:
    return use.reader, use.operand, str(use.end)
