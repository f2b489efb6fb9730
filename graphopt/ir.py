"""The graph IR: Value, Op, Graph. Immutable and interned.

Equal ops are the same object: asking for ``Add(a, b)`` twice gives one op, so common
subexpressions merge as they are built, and what no output reaches is simply not there.
Keys hold operand *identities* and the *bits* of attributes; nothing hashes or prints
recursively, as graphs may be 100,000 ops deep.

An op with one result is its own value; the results of others are `Result` projections.
"""

from __future__ import annotations

import struct
import weakref
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeAlias, cast

import numpy as np

from .types import DType, TensorType, Type
from .weights import Tensor

Attr: TypeAlias = (
    "int | float | str | bytes | Tensor | Type | tuple[int, ...] | tuple[float, ...]"
    " | tuple[str, ...] | tuple[bytes, ...] | tuple[Tensor, ...] | tuple[Type, ...]"
)
Contents: TypeAlias = np.ndarray[Any, np.dtype[np.object_]]
"""A small integer tensor known as dims: an object array of ints and `dims.Expr`."""


class Value:
    """What an op computes, or a graph is given. ``type`` may be partly unknown."""

    __slots__ = ("__weakref__",)
    type: Type
    contents: Contents | None

    @property
    def op(self) -> Op | None:
        """The op that produces this value; None for a parameter."""
        return None

    @property
    def shape(self) -> tuple[Any, ...] | None:
        """Dims of a tensor, None where its rank is unknown or it is no tensor."""
        type_ = self.type
        return type_.shape if isinstance(type_, TensorType) else None

    @property
    def rank(self) -> int | None:
        shape = self.shape
        return None if shape is None else len(shape)

    @property
    def dtype(self) -> DType | None:
        type_ = self.type
        return type_.dtype if isinstance(type_, TensorType) else None

    @property
    def constant(self) -> Tensor | None:
        """The tensor, where this value is one that is known before any run."""
        return None

    @property
    def ints(self) -> tuple[int, ...] | None:
        """The elements in order, where this is a small tensor of known integers."""
        known = self.contents
        if known is None or not all(type(x) is int for x in known.flat):
            return None
        return tuple(known.flat)


class Parameter(Value):
    """An input of one graph; compares by identity.

    ``default`` makes it an overridable initializer: callers may leave it out.
    """

    __slots__ = ("contents", "default", "name", "type")

    def __init__(
        self, type: Type, name: str = "", *, default: Tensor | None = None
    ) -> None:
        self.type = type
        self.name = name
        self.default = default
        self.contents = None

    def __repr__(self) -> str:
        return f"<parameter {self.name}: {self.type}>"


_interned: weakref.WeakValueDictionary[Hashable, Op] = weakref.WeakValueDictionary()


class Op(Value):
    """An operation on values: kind, operands, attributes, bodies.

    Subclasses are kinds. ``MatMul(a, b)`` builds one or returns the equal one that is
    alive. Trailing absent operands (None) are dropped. ``outs`` asks for optional
    results beyond the first; ``instance`` keeps copies apart that recomputation wants;
    ``token`` keeps ops apart that must never merge (random, opaque).
    """

    __slots__ = (
        "_results",
        "attrs",
        "bodies",
        "instance",
        "known",
        "operands",
        "outs",
        "token",
        "types",
    )

    kind: ClassVar[str] = "?"
    domain: ClassVar[str] = ""
    commutative: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True
    operands: tuple[Value | None, ...]
    attrs: Mapping[str, Attr]
    bodies: tuple[Graph, ...]
    outs: int
    instance: int
    token: int
    types: tuple[Type, ...]
    known: tuple[Contents | None, ...]

    def __new__(
        cls,
        *operands: Value | None,
        bodies: Sequence[Graph] = (),
        outs: int | None = None,
        instance: int = 0,
        token: int = 0,
        **attrs: Attr | DType | None,
    ) -> Self:
        while operands and operands[-1] is None:
            operands = operands[:-1]
        merged = cls.complete(attrs)
        self = object.__new__(cls)
        self.operands = operands
        self.attrs = MappingProxyType(merged)
        self.bodies = tuple(bodies)
        self.instance = instance
        self.token = token
        self.outs = outs if outs is not None else self.default_outs()
        key = (
            cls,
            operands,
            tuple([(name, _attr_key(merged[name])) for name in sorted(merged)]),
            tuple([body.key for body in self.bodies]),
            self.outs,
            instance,
            token,
        )
        found = _interned.get(key)
        if found is not None:
            return cast(Self, found)
        self._results = None
        self.types = tuple(self.infer())
        if len(self.types) != self.outs:
            self.outs = len(self.types)
        self.known = self.infer_contents()
        _interned[key] = self
        return self

    # What a kind may say about itself; graphopt.ops gives most of it.

    @classmethod
    def complete(cls, attrs: Mapping[str, Any]) -> dict[str, Attr]:
        """Attributes in canonical form: defaults added, None dropped."""
        return {k: canonical(v) for k, v in attrs.items() if v is not None}

    def default_outs(self) -> int:
        """How many results there are when nobody asks for more."""
        return 1

    def infer(self) -> Sequence[Type]:
        """The types of the results. Raises TypeMismatch."""
        raise NotImplementedError(f"{self.kind} infers no types")

    def infer_contents(self) -> tuple[Contents | None, ...]:
        """The results as dims, where they are small known integer tensors."""
        return (None,) * self.outs

    # Reading an op.

    @property
    def op(self) -> Op:
        return self

    @property
    def type(self) -> Type:  # type: ignore[override]
        return self.types[0]

    @property
    def contents(self) -> Contents | None:  # type: ignore[override]
        return self.known[0]

    @property
    def results(self) -> tuple[Value, ...]:
        """The values of this op; the op itself where it has one result."""
        if self.outs == 1:
            return (self,)
        alive = self._results
        values = None if alive is None else tuple(ref() for ref in alive)
        if values is None or None in values:
            old = values or (None,) * self.outs
            values = tuple(v or Result(self, i) for i, v in enumerate(old))
            self._results = tuple(weakref.ref(v) for v in values if v is not None)
        return cast("tuple[Value, ...]", values)

    def operand(self, index: int) -> Value | None:
        """Operand ``index``, None where it is absent."""
        return self.operands[index] if index < len(self.operands) else None

    def __getattr__(self, name: str) -> Any:
        """An attribute of the op; None for one that is optional and not set."""
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self.attrs[name]
        except KeyError:
            if name in self.optional_attrs():
                return None
            raise AttributeError(f"{self.kind} has no attribute {name!r}") from None

    @classmethod
    def optional_attrs(cls) -> frozenset[str]:
        """Names of attributes that may be left out and have no default."""
        return frozenset()

    def with_operands(self, operands: Sequence[Value | None]) -> Self:
        """This op on other operands."""
        return self.copy(operands=operands)

    def copy(
        self,
        *,
        operands: Sequence[Value | None] | None = None,
        bodies: Sequence[Graph] | None = None,
        token: int | None = None,
        outs: int | None = None,
        instance: int | None = None,
        **attrs: Attr | DType | None,
    ) -> Self:
        """This op with some parts replaced."""
        return type(self)(
            *(self.operands if operands is None else operands),
            bodies=self.bodies if bodies is None else bodies,
            outs=self.outs if outs is None else outs,
            instance=self.instance if instance is None else instance,
            token=self.token if token is None else token,
            **({**self.attrs, **attrs}),
        )

    def __repr__(self) -> str:
        attrs = ", ".join(f"{k}={v!r:.40}" for k, v in self.attrs.items())
        return f"<{self.kind}({len(self.operands)} operands) {attrs} : {self.types}>"


class Result(Value):
    """Result ``index`` of an op that has several."""

    __slots__ = ("_op", "index")

    def __init__(self, op: Op, index: int) -> None:
        self._op = op
        self.index = index

    @property
    def op(self) -> Op:
        return self._op

    @property
    def type(self) -> Type:  # type: ignore[override]
        return self._op.types[self.index]

    @property
    def contents(self) -> Contents | None:  # type: ignore[override]
        return self._op.known[self.index]

    def __repr__(self) -> str:
        return f"<result {self.index} of {self._op!r}>"


def canonical(value: Any) -> Attr:
    if isinstance(value, DType):
        return value.value
    if isinstance(value, (bool, np.integer)):
        return int(value)
    if isinstance(value, np.floating):
        return float(value)
    if isinstance(value, list):
        return tuple(canonical(v) for v in value)  # type: ignore[return-value]
    return cast(Attr, value)


def _attr_key(value: Any) -> Hashable:
    """The bits of an attribute, tagged with its type: 0.0, -0.0 and 0 all differ."""
    kind = type(value)
    if kind is int or kind is str or kind is bytes:
        return (kind, value)
    if kind is float:
        return (kind, struct.pack("d", value))
    if kind is tuple:
        return tuple([_attr_key(v) for v in value])
    if isinstance(value, Tensor):
        return value.key
    return (kind, value)


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
                    type(op),
                    tuple([None if v is None else number[v] for v in op.operands]),
                    tuple([(k, _attr_key(op.attrs[k])) for k in sorted(op.attrs)]),
                    tuple([body.key for body in op.bodies]),
                    op.outs,
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
        parts = {
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

    def substitute(self, mapping: Mapping[Value, Value]) -> Graph:
        """The graph that reads ``mapping[v]`` wherever this one reads ``v``."""
        return rebuild(self, lambda op, operands: op.with_operands(operands), mapping)

    def __str__(self) -> str:
        from .text import format_graph  # printing is a need of people, not of passes

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


def postorder(values: Iterable[Value]) -> list[Op]:
    """The ops that ``values`` need, each after its operands. Iterative."""
    order: list[Op] = []
    done: set[Op] = set()
    for value in values:
        root = value.op
        if root is None or root in done:
            continue
        stack: list[tuple[Op, Iterator[Value | None]]] = [(root, iter(root.operands))]
        done.add(root)
        while stack:
            op, rest = stack[-1]
            for operand in rest:
                producer = None if operand is None else operand.op
                if producer is not None and producer not in done:
                    done.add(producer)
                    stack.append((producer, iter(producer.operands)))
                    break
            else:
                order.append(op)
                stack.pop()
    return order


def rebuild(
    graph: Graph,
    build: Callable[[Op, tuple[Value | None, ...]], Op | Sequence[Value]],
    mapping: Mapping[Value, Value] | None = None,
) -> Graph:
    """Build the graph anew, op by op: ``build`` gets each op and its new operands.

    It returns the new op, or one value for each result. Names and sources follow.
    """
    new: dict[Value, Value] = dict(mapping or {})
    names = dict(graph.names)
    sources = dict(graph.sources)
    for op in graph.ops:
        results = op.results
        if results[0] in new and all(r in new for r in results):
            continue
        operands = tuple([None if v is None else new.get(v, v) for v in op.operands])
        made = build(op, operands)
        values = made.results if isinstance(made, Op) else made
        for old, value in zip(results, values, strict=True):
            if value is not old:
                new.setdefault(old, value)
        forward(op, values, names, sources)
    return graph.replace(
        outputs=[new.get(v, v) for v in graph.outputs], names=names, sources=sources
    )


def forward(
    op: Op,
    values: Sequence[Value],
    names: dict[Value, str],
    sources: dict[Op, tuple[str, ...]],
) -> None:
    """Let the values that stand for ``op`` inherit its names and provenance."""
    origin = sources.get(op, ())
    for old, value in zip(op.results, values, strict=True):
        if value is old:
            continue
        if old in names:
            names.setdefault(value, names[old])
        producer = value.op
        if origin and producer is not None and producer is not op:
            have = sources.get(producer, ())
            if have != origin:
                sources[producer] = tuple(dict.fromkeys(have + origin))
