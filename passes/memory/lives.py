"""Live ranges: from when to when each value of a graph needs memory, and where it lies.

A step is an op of the order, constants apart. Operands and results of an op are live at
its step. Values that share memory (`aliases`) are one block, alive from the first
result to the last reader of any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from itertools import accumulate
from typing import TypeAlias

from graphopt.errors import UsageError
from graphopt.exporter import source_order
from graphopt.ir import Graph, Op, Value
from graphopt.ops import Constant

from .aliases import overwritten, viewed
from .sizes import Sizes
from .space import Space


class Kind(Enum):
    """Whose the memory of a block is."""

    TEMPORARY = "temporary"
    WORKSPACE = "workspace"
    """What an op needs beside its operands and results, at its step alone."""
    OUTPUT = "output"
    """The caller's, unless the space has outputs in its arena."""
    INPUT = "input"
    """The caller's, for the whole run."""
    CONSTANT = "constant"


@dataclass(eq=False, slots=True)
class Block:
    """Bytes that live for the steps [first, last]; values that share them, in order."""

    kind: Kind
    size: int
    first: int
    last: int
    values: list[Value] = field(default_factory=list)
    op: Op | None = None
    """Whose workspace it is."""


@dataclass(frozen=True)
class Lives:
    """The blocks of a graph in one order, and the block of each value.

    ``unknown`` are values without a size: strings, sequences, extents that depend on
    data. They lie outside of any plan.
    """

    order: tuple[Op, ...]
    blocks: tuple[Block, ...]
    block_of: Mapping[Value, Block]
    unknown: tuple[Value, ...]

    @cached_property
    def planned(self) -> tuple[Block, ...]:
        """The blocks that lie in the arena."""
        return tuple([b for b in self.blocks if b.kind in ARENA and b.size])

    @cached_property
    def live(self) -> list[int]:
        """Bytes of the arena that are live at each step."""
        changes = [0] * (len(self.order) + 1)
        for block in self.planned:
            changes[block.first] += block.size
            changes[block.last + 1] -= block.size
        return list(accumulate(changes[:-1]))

    def bytes_of(self, kind: Kind) -> int:
        """Bytes of all blocks of a kind."""
        return sum(block.size for block in self.blocks if block.kind is kind)


Operands: TypeAlias = tuple[Value | None, ...]

Reads: TypeAlias = Mapping[Op, Operands]
"""What ops read in place of their own operands."""

ARENA = frozenset({Kind.TEMPORARY, Kind.WORKSPACE})


def steps_of(graph: Graph, order: Sequence[Op] | None = None) -> tuple[Op, ...]:
    """The ops of a graph in an order, constants apart; else as they would be written.

    Raises UsageError where an op is left out, or comes before its operands.
    """
    ops = [op for op in source_order(graph) if not isinstance(op, Constant)]
    if order is None:
        return tuple(ops)
    steps = [op for op in order if not isinstance(op, Constant)]
    if len(steps) != len(ops) or set(steps) != set(ops):
        raise UsageError(
            f"an order of {len(steps)} ops is not one of the graph's {len(ops)}"
        )
    done: set[Op] = set()
    for op in steps:
        for value in op.operands:
            source = None if value is None else value.op
            if source and not isinstance(source, Constant) and source not in done:
                raise UsageError(f"in this order {op.label} comes before its operand")
        done.add(op)
    return tuple(steps)


def lives_of(
    graph: Graph,
    sizes: Sizes,
    space: Space,
    *,
    order: Sequence[Op] | None = None,
    workspace: Mapping[Op, int] | None = None,
) -> Lives:
    """When which memory is needed, ops in the order given, else in that of the file.

    ``workspace`` are bytes that ops need for themselves.
    """
    return lives_in(graph, steps_of(graph, order), sizes, space, workspace)


def lives_in(
    graph: Graph,
    steps: tuple[Op, ...],
    sizes: Sizes,
    space: Space,
    workspace: Mapping[Op, int] | None = None,
    reads: Reads | None = None,
    outputs: Iterable[Value] | None = None,
) -> Lives:
    """The same with the ops as `steps_of` gives them.

    ``reads`` are operands of some steps in place of their own, ``outputs`` those in
    place of the graph's: so the lives of a graph are known that is not built.
    """
    kept = graph.outputs if outputs is None else outputs
    builder = _Lives(graph, sizes, space, steps, reads or {}, frozenset(kept))
    for number, op in enumerate(steps):
        builder.step(number, op, (workspace or {}).get(op, 0))
    return builder.finished()


class _Lives:
    """The blocks, step by step."""

    def __init__(
        self,
        graph: Graph,
        sizes: Sizes,
        space: Space,
        order: tuple[Op, ...],
        reads: Reads,
        outputs: frozenset[Value],
    ) -> None:
        self.sizes, self.space, self.order = sizes, space, order
        self.outputs = outputs
        self.reads = [reads.get(op, op.operands) for op in order]
        self.blocks: list[Block] = []
        self.block_of: dict[Value, Block] = {}
        self.unknown: list[Value] = []
        self.last = _last_reads(self.reads)
        self.views = _last_reads_through_views(order, self.reads, self.last, sizes)
        for parameter in graph.inputs:  # one with a default is a weight
            kind = Kind.INPUT if parameter.default is None else Kind.CONSTANT
            self._open(kind, parameter, 0)
        read = (value for operands in self.reads for value in operands)
        constants = [v for v in (*graph.ops, *read) if isinstance(v, Constant)]
        for constant in dict.fromkeys(constants):
            self._open(Kind.CONSTANT, constant, 0)

    def step(self, number: int, op: Op, workspace: int) -> None:
        """Give the results of an op a place, at this step."""
        if workspace:
            size = self.space.rounded(workspace)
            block = Block(Kind.WORKSPACE, size, number, number, [], op)
            self.blocks.append(block)
        for result in op.results:
            shared = self._shared(number, op, result)
            if shared is None:
                is_output = result in self.outputs
                kind = Kind.OUTPUT if is_output else Kind.TEMPORARY
                self._open(kind, result, number)
            else:
                shared.values.append(result)
                self.block_of[result] = shared
        for value in (*self.reads[number], *op.results):
            block_ = None if value is None else self.block_of.get(value)
            if block_ is not None:
                block_.last = max(block_.last, number)

    def finished(self) -> Lives:
        """All blocks; outputs live to the end."""
        end = max(0, len(self.order) - 1)
        for block in self.blocks:
            if block.kind is Kind.OUTPUT:
                block.last = end
                if self.space.outputs:
                    block.kind = Kind.TEMPORARY
        return Lives(self.order, tuple(self.blocks), self.block_of, tuple(self.unknown))

    def _open(self, kind: Kind, value: Value, number: int) -> None:
        size = self.sizes.of(value)
        if size is None:
            self.unknown.append(value)
            return
        block = Block(kind, size, number, number, [value])
        self.blocks.append(block)
        self.block_of[value] = block

    def _shared(self, number: int, op: Op, result: Value) -> Block | None:
        """The block of an operand where this result can lie; an output has its own."""
        if result in self.outputs:
            return None
        operands = self.reads[number]
        source = operands[0] if viewed(op, self.sizes) is not None else None
        if source is not None and source in self.block_of:
            return self.block_of[source]
        for place in overwritten(op, self.sizes):
            operand = operands[place]
            block = None if operand is None else self.block_of.get(operand)
            if block is None or block.kind is not Kind.TEMPORARY:
                continue
            if block.size == self.sizes.of(result) and self._dies(block, number, op):
                return block
        return None

    def _dies(self, block: Block, number: int, op: Op) -> bool:
        """True where nothing reads the block after this step, nor here elsewhere."""
        if any(value in self.outputs for value in block.values):
            return False
        if any(self._read_last(value) > number for value in block.values):
            return False
        operands = self.reads[number]
        inside = {v for v in operands if v is not None and v in self.block_of}
        others = [v for v in inside if self.block_of[v] is block]
        places = [operands[i] for i in overwritten(op, self.sizes)]
        return all(value in places for value in others)

    def _read_last(self, value: Value) -> int:
        return self.views.get(value, self.last.get(value, -1))


def _last_reads(reads: Iterable[Operands]) -> dict[Value, int]:
    """The last step that reads each value."""
    last: dict[Value, int] = {}
    for number, operands in enumerate(reads):
        last.update({value: number for value in operands if value is not None})
    return last


def _last_reads_through_views(
    order: Sequence[Op],
    reads: Sequence[Operands],
    last: Mapping[Value, int],
    sizes: Sizes,
) -> dict[Value, int]:
    """The same, reading a view being reading what it looks at."""
    found = dict(last)
    for op, operands in zip(reversed(order), reversed(reads), strict=True):
        source = operands[0] if viewed(op, sizes) is not None else None
        if source is not None:
            for result in op.results:
                found[source] = max(found.get(source, -1), found.get(result, -1))
    return found
