"""Graph: parameters in, values out, and the side tables that passes need not know."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ..types import Type
from ..weights import Tensor
from .rebuild import postorder, rebuild
from .values import Op, Parameter, Value


@dataclass(frozen=True)
class Header:
    """What a model says around its graph; kept from import to export."""

    opsets: Mapping[str, int] = field(default_factory=lambda: {"": 28})
    ir_version: int = 0
    producer: tuple[str, str] = ("", "")
    domain: str = ""
    model_version: int = 0
    doc: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    verbatim: bytes = b""
    """What the source says and no pass reads: a ModelProto without its nodes."""


class Graph:
    """Parameters in, values out; immutable. A body is a Graph too.

    ``output_names`` and ``output_types`` are the declared interface (the types that the
    user wrote; inference may know more). ``names`` suggests names for other values and
    ``sources`` says which nodes of the source model an op stands for; both are side
    tables that mean nothing to passes.
    """

    def __init__(
        self,
        inputs: Iterable[Parameter],
        outputs: Iterable[Value],
        *,
        output_names: Iterable[str] | None = None,
        output_types: Iterable[Type | None] | None = None,
        name: str = "",
        doc: str = "",
        header: Header | None = None,
        names: Mapping[Value, str] | None = None,
        sources: Mapping[Op, tuple[str, ...]] | None = None,
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        if output_names is None:
            output_names = [f"output_{i}" for i in range(len(self.outputs))]
        self.output_names = tuple(output_names)
        if output_types is None:
            output_types = [None] * len(self.outputs)
        self.output_types = tuple(output_types)
        self.name = name
        self.doc = doc
        self.header = header or Header()
        self.names: Mapping[Value, str] = names if names is not None else {}
        self.sources: Mapping[Op, tuple[str, ...]] = (
            sources if sources is not None else {}
        )

    @cached_property
    def ops(self) -> tuple[Op, ...]:
        """Ops that the outputs need, operands first; bodies are not entered."""
        return tuple(postorder(self.outputs))

    @cached_property
    def kinds(self) -> frozenset[type[Op]]:
        """The classes of all ops, those of bodies too."""
        return frozenset(type(op) for _, op in self.walk())

    @cached_property
    def users(self) -> Mapping[Value, list[tuple[Op, int]]]:
        """For each value, the ops and operand positions that read it."""
        users: dict[Value, list[tuple[Op, int]]] = defaultdict(list)
        for op in self.ops:
            for i, operand in enumerate(op.operands):
                if operand is not None:
                    users[operand].append((op, i))
        return users

    @cached_property
    def uses(self) -> Mapping[Value, int]:
        """How often each value is read, by ops and as an output."""
        counts: dict[Value, int] = defaultdict(int)
        for op in self.ops:
            for operand in op.operands:
                if operand is not None:
                    counts[operand] += 1
        for value in self.outputs:
            counts[value] += 1
        return counts

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.inputs)

    @cached_property
    def key(self) -> Hashable:
        """Equal for graphs that differ only in their parameters' identity and names."""
        number: dict[Value, int] = {p: i for i, p in enumerate(self.inputs)}
        rows: list[Hashable] = [p.type for p in self.inputs]
        for op in self.ops:
            rows.append(
                (
                    op.meaning,
                    tuple([None if v is None else number[v] for v in op.operands]),
                    op.instance,
                    op.token,
                )
            )
            for value in op.results:
                number[value] = len(number)
        rows.append(tuple([number[v] for v in self.outputs]))
        return _Digest(tuple(rows))

    def replace(self, **changes: Any) -> Graph:
        """A graph with some of the constructor's arguments replaced."""
        parts: dict[str, Any] = {
            "inputs": self.inputs,
            "outputs": self.outputs,
            "output_names": self.output_names,
            "output_types": self.output_types,
            "name": self.name,
            "doc": self.doc,
            "header": self.header,
            "names": self.names,
            "sources": self.sources,
        }
        return Graph(**(parts | changes))

    def with_header(self, **changes: Any) -> Graph:
        """A graph whose header has some fields replaced."""
        return self.replace(header=replace(self.header, **changes))

    def walk(self) -> Iterator[tuple[Graph, Op]]:
        """Every op with its graph, those of bodies too, outer ones first."""
        pending = [self]
        while pending:
            graph = pending.pop()
            for op in graph.ops:
                yield graph, op
                pending.extend(op.bodies)

    def tensors(self) -> list[Tensor]:
        """All weights, each once: constants, those of bodies too, and defaults."""
        constants = [op.constant for _, op in self.walk()]
        defaults = [p.default for p in self.inputs]
        return list(dict.fromkeys(t for t in (*constants, *defaults) if t is not None))

    @cached_property
    def depth(self) -> int:
        """How deep bodies nest; 0 without any."""
        return max((1 + b.depth for op in self.ops for b in op.bodies), default=0)

    def substitute(self, mapping: Mapping[Value, Value]) -> Graph:
        """The graph that reads ``mapping[v]`` wherever this one reads ``v``."""
        return rebuild(self, lambda op, operands: op.with_operands(operands), mapping)

    def __str__(self) -> str:
        from ..text import format_graph  # printing is a need of people, not of passes

        return format_graph(self)

    def __repr__(self) -> str:
        return f"<graph {self.name or '?'}: {len(self.ops)} ops>"


class _Digest:
    """A large key with its hash computed once."""

    __slots__ = ("_hash", "rows")

    def __init__(self, rows: tuple[Hashable, ...]) -> None:
        self.rows = rows
        self._hash = hash(rows)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, _Digest)
            and self._hash == other._hash
            and self.rows == other.rows
        )
