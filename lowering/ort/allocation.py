"""Which buffers ONNX Runtime takes for a graph in a given order, and until when.

Its planner lets a result share the memory of an operand where the kernel allows it and
nobody else reads that; else it takes a buffer that is free, but only one of a value of
the same shape and element size, and keeps that alive in between; else it asks the
arena. Inputs belong to the caller, outputs are never shared. Read in ONNX Runtime's
``allocation_planner.cc``; what kernels allow was measured (version 1.32, CPU).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from types import MappingProxyType
from typing import Final

from graphopt import dims
from graphopt.cost import type_bytes
from graphopt.dims import Dim, Shape
from graphopt.exporter.order import by_rank, source_order
from graphopt.exporter.spelled import used_results
from graphopt.ir import Graph, Op, Value
from graphopt.ops.constant import Constant
from graphopt.passes.memory.space import IN_PLACE
from graphopt.types import DType, Type

from .arena import Event, Free, Take, grown, most_in_use, rounded, smallest_block

ALIASES: Final = frozenset(("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"))
"""Kinds whose result always is the memory of their first operand."""

HOISTED: Final = ("Shape", "Size")
"""Kinds that run as soon as they can, whatever the order of the file."""


@dataclass(frozen=True)
class Facts:
    """What is known beside a graph.

    ``size`` are the bytes of a value, ``shape`` what the runtime knows of it before it
    runs (None for nothing), ``workspace`` what the kernel of an op takes for itself.
    """

    size: Callable[[Value], int | None]
    shape: Callable[[Value], Shape | None] = attrgetter("shape")
    workspace: Callable[[Op], int] = lambda op: 0
    within: dict[Op, list[Event] | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """What bodies ask for, once it was found out."""

    @classmethod
    def of(
        cls,
        binding: Mapping[str, int],
        types: Mapping[Value, Type] = MappingProxyType({}),
    ) -> Facts:
        """What the graph itself says where symbolic dims have these sizes.

        Where dims are symbols the runtime may know less of shapes. ``types`` are those
        of values at these sizes, where they are known to tell more.
        """
        return cls(lambda v: type_bytes(types.get(v, v.type), binding))


@dataclass(frozen=True)
class Predicted:
    """Bytes of a session's arena.

    Most of what is in use at once; the smallest block that holds it, as pieces are
    given out; the sum of blocks where the arena grows by what is asked for.
    """

    in_use: int
    block: int
    grown: int


def predicted(
    graph: Graph,
    order: Sequence[Op] | None = None,
    binding: Mapping[str, int] | None = None,
    *,
    facts: Facts | None = None,
    reuse: bool = True,
) -> Predicted | None:
    """What a session takes for a graph that it runs as it is, in the order of its file.

    ``order`` is by default that in which the graph is written; ``binding`` gives
    symbolic dims their sizes, unless ``facts`` tell more; ``reuse`` is the session's
    ``enable_mem_reuse``. None where a size is not known.
    """
    found = events(graph, order, facts or Facts.of(binding or {}), reuse)
    if found is None:
        return None
    return Predicted(most_in_use(found), smallest_block(found), grown(found))


def events(
    graph: Graph, order: Sequence[Op] | None, facts: Facts, reuse: bool = True
) -> list[Event] | None:
    """What is asked of the arena and given back, in turn; None for unknown sizes."""
    order = kept(source_order(graph) if order is None else order)
    plan = _Plan(graph, order, facts, reuse)
    found: list[Event] = []
    for i, op in enumerate(plan.order):
        for root in plan.taken[i]:
            size = facts.size(root)
            if size is None:
                return None
            found.append(Take(root, size))
        own = ("workspace", op)  # an op may be its own value
        need = facts.workspace(op)
        found += [Take(own, need)] if need else []
        within = _within(op, facts) if op.bodies else []
        if within is None:
            return None
        found += within
        found += [Free(own)] if need else []
        found += map(Free, plan.freed[i])
    return found


def kept(order: Sequence[Op]) -> list[Op]:
    """An order as the runtime keeps it, constants left out."""
    ops = [op for op in order if not isinstance(op, Constant)]
    inside = set(ops)

    def needs(op: Op) -> Iterator[Op]:
        producers = {v.op: None for v in op.operands if v is not None}
        yield from [p for p in producers if p is not None and p in inside]

    early = {op: i - len(ops) * (op.kind in HOISTED) for i, op in enumerate(ops)}
    return by_rank(ops, early, needs)


def rounding(graph: Graph, facts: Facts) -> int:
    """What an arena takes for weights and inputs beside their bytes."""
    sizes = [tensor.nbytes for tensor in graph.tensors()]
    sizes += [facts.size(value) or 0 for value in graph.inputs]
    return sum(map(rounded, sizes)) - sum(sizes)


def inside(op: Op, facts: Facts) -> int:
    """What the bodies of an op take while it runs; 0 where that is not known."""
    return most_in_use(_within(op, facts) or [])


def _within(op: Op, facts: Facts) -> list[Event] | None:
    """What a turn of the body that takes most asks for, all given back after it.

    None for unknown sizes.
    """
    if op not in facts.within:
        facts.within[op] = _turn(op, facts)
    return facts.within[op]


def _turn(op: Op, facts: Facts) -> list[Event] | None:
    bodies = [events(body, None, facts) for body in op.bodies]
    known = [body for body in bodies if body is not None]
    if len(known) < len(bodies):
        return None
    turn = max(known, key=most_in_use, default=[])
    left: dict[Hashable, Event] = {}
    found: list[Event] = []
    for event in turn:
        key = (op, event.key)  # values of a body may be those of another one
        if isinstance(event, Take):
            found.append(Take(key, event.size))
            left[key] = Free(key)
        else:
            found.append(left.pop(key))
    return [*found, *left.values()]


class _Plan:
    """Which value has the memory of which; by step, what is taken and what is freed."""

    def __init__(
        self, graph: Graph, order: Sequence[Op], facts: Facts, reuse: bool
    ) -> None:
        self.order = order
        self._shape = facts.shape
        self._reuse = reuse
        self.taken: list[list[Value]] = [[] for _ in order]
        self.freed: list[list[Value]] = [[] for _ in order]
        self._outputs = set(graph.outputs)
        self._root: dict[Value, Value] = {}
        self._uses = self._count(graph)
        self._free: list[Value] = []
        last: dict[Value, int] = {}
        for i, op in enumerate(order):
            made = list(_written(graph, op))
            for result in made:
                self._place(op, result, i)
            for value in [*filter(None, op.operands), *made]:
                root = self._root.setdefault(value, value)
                self._uses[root] -= 1
                if not self._uses[root]:
                    self._free.insert(0, root)
            for value in filter(None, op.operands):
                last[self._root[value]] = i
        ended = {self._root.get(v, v) for v in self._outputs}
        for taken in self.taken:
            for root in taken:
                if root in last and root not in ended:
                    self.freed[last[root]].append(root)

    def _count(self, graph: Graph) -> dict[Value, int]:
        """How often each value is read, and made; those that are not ours once more."""
        uses: dict[Value, int] = defaultdict(int)
        for value in (*graph.inputs, *graph.outputs):
            uses[value] += 1
        for op in graph.ops:
            if isinstance(op, Constant):
                uses[op.results[0]] += 1
        for op in self.order:
            for value in [*filter(None, op.operands), *_written(graph, op)]:
                uses[value] += 1
        return uses

    def _place(self, op: Op, result: Value, i: int) -> None:
        other = None
        if result not in self._outputs:
            other = self._shared(op, result) or self._found(result)
        if other is None:
            self._root[result] = result
            self.taken[i].append(result)
            return
        root = self._root[result] = self._root.get(other, other)
        self._uses[root] += self._uses[result]

    def _shared(self, op: Op, result: Value) -> Value | None:
        """The operand whose memory a result has."""
        if result is not op.results[0]:
            return None
        if op.kind in ALIASES:
            return op.operands[0]
        for i in IN_PLACE.get(op.kind, ()):
            operand = op.operands[i] if i < len(op.operands) else None
            if (
                operand is not None
                and self._uses[self._root.get(operand, operand)] == 1
                and self._alike(operand, result)
            ):
                return operand
        return None

    def _found(self, result: Value) -> Value | None:
        """A free buffer like the result's, the one that was freed last."""
        if not self._reuse or not self._shape(result):
            return None
        for i, root in enumerate(self._free):
            if self._alike(root, result):
                return self._free.pop(i)
        return None

    def _alike(self, a: Value, b: Value) -> bool:
        """Whether two values have one shape and elements of one size, for all it knows.

        That is numbers and names of dims, no expressions.
        """
        if a.dtype is None or b.dtype is None or a.dtype.bits != b.dtype.bits:
            return False
        shape = self._shape(a)
        if shape is None or shape != self._shape(b):
            return False
        return DType.STRING not in (a.dtype, b.dtype) and all(map(_named, shape))


def _written(graph: Graph, op: Op) -> Iterator[Value]:
    for value, used in zip(op.results, used_results(graph, op), strict=True):
        if used:
            yield value


def _named(dim: Dim) -> bool:
    return isinstance(dim, int) or (dim is not None and str(dim) in dims.symbols(dim))
