"""Names: what each one means where it is read, and in which order they come to be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import InvalidModel
from ..ir import Op, Parameter, Value
from ..ops.constant import Constant
from ..proto import free_names, label, subgraphs, text

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, NodeProto, ValueInfoProto


@dataclass(slots=True)
class Level:
    """One graph or body in the making: its side tables, and what it captures."""

    proto: GraphProto
    depth: int = 0
    names: dict[Value, str] = field(default_factory=dict)
    origins: dict[Op, dict[str, None]] = field(default_factory=dict)
    captures: dict[Value, Parameter] = field(default_factory=dict)
    stated: dict[str, ValueInfoProto] | None = None

    def note(self, results: Sequence[Value], source: str) -> None:
        """Say that the node ``source`` stands behind some results."""
        op = results[0].op if results else None
        if op is not None and not isinstance(op, Constant):
            self.origins.setdefault(op, {})[source] = None

    @property
    def sources(self) -> dict[Op, tuple[str, ...]]:
        return {op: tuple(names) for op, names in self.origins.items()}


@dataclass(slots=True)
class Scope:
    """The names that nodes can see: of a graph, a body, or a function being called.

    ``attributes`` are what references to attributes mean, None outside of functions;
    ``absent`` are formal names that a call leaves out.
    """

    level: Level
    opsets: Mapping[str, int]
    values: dict[str, Value] = field(default_factory=dict)
    outer: Scope | None = None
    attributes: Mapping[str, AttributeProto] | None = None
    absent: frozenset[str] = frozenset()
    prefix: str = ""

    def find(self, name: str) -> Value | None:
        """The value of a name; None for an absent one. Raises InvalidModel."""
        value = self.values.get(name)
        if value is not None or not name or name in self.absent:
            return value
        if self.outer is None:
            raise InvalidModel(f"reads {name!r:.200}, which nothing produces")
        value = self.outer.find(name)
        if value is None or isinstance(value, Constant):
            return value
        captured = self.level.captures.get(value)
        if captured is None:
            captured = Parameter(value.type, name)
            captured.contents = value.contents
            self.level.captures[value] = captured
        self.values[name] = captured
        return captured

    def define(self, name: str, value: Value) -> None:
        self.values[text(name)] = value
        self.level.names.setdefault(value, name)


def in_order(
    nodes: Iterable[NodeProto], known: Iterable[str]
) -> Iterator[tuple[int, NodeProto]]:
    """Nodes with their place in the file, each after those that it reads from.

    Raises InvalidModel for a name that is given twice, and for cycles.
    """
    protos = list(nodes)
    producers: dict[str, int] = {}
    known = set(known)
    ordered = True
    reads: list[Sequence[str]] = []
    for index, node in enumerate(protos):
        names = _reads(node)
        reads.append(names)
        for name in node.output:
            if not name:
                continue
            if name in producers or name in known:
                raise InvalidModel(
                    f"{name!r:.200} is produced twice", where=label(node)
                )
            producers[name] = index
    for index, names in enumerate(reads):
        for name in names:
            if producers.get(name, -1) >= index:
                ordered = False
    order = range(len(protos)) if ordered else _sorted(protos, reads, producers)
    return ((index, protos[index]) for index in order)


def _reads(node: NodeProto) -> Sequence[str]:
    """What a node reads, its bodies too."""
    names: list[str] = list(node.input)
    for body in subgraphs(node):
        names.extend(free_names(body))
    return names


def _sorted(
    protos: Sequence[NodeProto],
    reads: Sequence[Sequence[str]],
    producers: Mapping[str, int],
) -> list[int]:
    order: list[int] = []
    state = [0] * len(protos)  # 1: being visited, 2: done
    for root in range(len(protos)):
        stack = [(root, iter(reads[root]))] if not state[root] else []
        state[root] = state[root] or 1
        while stack:
            index, rest = stack[-1]
            for name in rest:
                producer = producers.get(name)
                if producer is None or state[producer] == 2:
                    continue
                if state[producer] == 1:
                    raise InvalidModel(
                        f"depends on its own result through {name!r:.200}",
                        where=label(protos[index]),
                    )
                state[producer] = 1
                stack.append((producer, iter(reads[producer])))
                break
            else:
                state[index] = 2
                order.append(index)
                stack.pop()
    return order
