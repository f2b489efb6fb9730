"""Cheap producers computed again where they are read late, not kept alive until then.

Of what lives through the highest step and is not read there, those values are copied
that cost few operations: masks, casts, tables, whatever follows from inputs, constants
and what lives anyway. A copy is an op of another ``instance``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from graphopt.cost import op_cost
from graphopt.ir import Graph, Op, Parameter, Value, forward
from graphopt.ops import Constant
from graphopt.ops.structured import Computed

from .lives import ARENA, Lives, lives_of, steps_of
from .ranges import Size, largest
from .sizes import Sizes
from .space import Space
from .workspace import workspace

SHARE: Final = 0.01
"""Of the operations of a graph, so many may be done again."""

DEEPEST: Final = 12
"""Ops that one copy may need, one after the other."""

TRIES: Final = 400
"""Graphs that are looked at."""


@dataclass(frozen=True)
class Recomputed:
    """A graph with copies, and the order in which they save what they do.

    ``before`` and ``after`` are the most live bytes; ``flops`` the operations of all
    ``copies``.
    """

    graph: Graph
    order: tuple[Op, ...]
    before: int
    after: int
    flops: int
    copies: int


def recomputed(
    graph: Graph,
    binding: Mapping[str, Size] | None = None,
    budget: int = 0,
    *,
    space: Space | None = None,
    order: Sequence[Op] | None = None,
    share: float = SHARE,
) -> Recomputed:
    """The graph with copies of cheap values, until ``budget`` live bytes are enough.

    They are made where they lower the highest step in this order, at most ``share`` of
    the graph's operations. Raises UsageError for an order that is none.
    """
    sizes = Sizes(binding or {}, space or Space())
    search = _Search(graph, steps_of(graph, order), sizes)
    before = search.height
    total = search.flops
    most = total + int(share * total)
    while search.height[0] > budget and search.improve(most):
        pass
    return Recomputed(
        search.graph,
        search.order,
        before[0],
        search.height[0],
        search.flops - total,
        len(search.order) - len(steps_of(graph)),
    )


class _Search:
    """A graph in an order, and what its copies are numbered by."""

    def __init__(self, graph: Graph, order: tuple[Op, ...], sizes: Sizes) -> None:
        self.graph, self.order, self.sizes = graph, order, sizes
        self.tries = TRIES
        self.copies = 1 + max((op.instance for op in order), default=0)
        self._look()

    def _look(self) -> None:
        self.lives, self.live = self._lived(self.graph, self.order)
        self.height = _height(self.live)
        steps = enumerate(self.order)
        self.made = {result: i for i, op in steps for result in op.results}
        self.last: dict[Value, int] = {}
        for number, op in enumerate(self.order):
            self.last.update({v: number for v in op.operands if v is not None})
        self.last.update(dict.fromkeys(self.graph.outputs, len(self.order)))

    def _lived(self, graph: Graph, order: Sequence[Op]) -> tuple[Lives, list[int]]:
        need = {op: workspace(op, self.sizes, ()) for op in order if not op.bodies}
        lives = lives_of(
            graph, self.sizes, self.sizes.space, order=order, workspace=need
        )
        changes = [0] * (len(order) + 1)
        for block in lives.blocks:
            if block.kind in ARENA:
                changes[block.first] += block.size
                changes[block.last + 1] -= block.size
        live, total = [], 0
        for change in changes[:-1]:
            total += change
            live.append(total)
        return lives, live

    def cost(self, op: Op) -> int:
        """Operations of an op; of one that has none, the elements that it writes."""
        written = sum(self.sizes.of(result) or 0 for result in op.results) // 4
        return max(largest(op_cost(op).flops, self.sizes.binding) or 0, written)

    @property
    def flops(self) -> int:
        """Operations of all ops."""
        return sum(map(self.cost, self.order))

    def improve(self, most: int) -> bool:
        """Copy the largest value that lowers the highest step, if there is one.

        All operations are ``most`` then.
        """
        highest = self.live.index(self.height[0])
        left = most - self.flops
        for value in self._idle(highest):
            late = [
                number
                for number in range(highest + 1, len(self.order))
                if value in self.order[number].operands
            ]
            chain = self._chain(value, late[0])
            if not chain or self._added(chain, late[0]) > left:
                continue
            if self.tries == 0:
                return False
            self.tries -= 1
            graph, order = self._copied(chain, late)
            _, live = self._lived(graph, order)
            if _height(live) < self.height:
                self.graph, self.order = graph, order
                self.copies += 1
                self._look()
                return True
        return False

    def _added(self, chain: Sequence[Op], step: int) -> int:
        """Operations of copies; those of a value that nobody reads before are none."""
        value = chain[-1].results[0]
        early = any(value in op.operands for op in self.order[:step])
        return sum(map(self.cost, chain if early else chain[:-1]))

    def _idle(self, step: int) -> Iterator[Value]:
        """What lives through a step and is not used there, the largest first."""
        here = {*self.order[step].operands, *self.order[step].results}
        blocks = [
            block
            for block in self.lives.blocks
            if block.kind in ARENA and block.first < step < block.last
            if here.isdisjoint(block.values)
        ]
        for block in sorted(blocks, key=lambda block: -block.size):
            made = [v for v in block.values if self.made[v] < step]
            late = [v for v in made if self.last.get(v, -1) > step]
            if len(late) == 1 and late[0] not in self.graph.outputs:
                yield late[0]

    def _chain(self, value: Value, step: int) -> list[Op]:
        """The ops that make a value anew before a step, operands first; or none."""
        found: list[Op] = []
        pending: list[tuple[Value, bool]] = [(value, False)]
        while pending:
            one, ready = pending.pop()
            op = one.op
            if ready:
                assert op is not None
                found.append(op)
                continue
            if one is not value and self._is_there(one, step):
                continue
            if op is None or not _can_repeat(op) or len(found) > DEEPEST:
                return []
            if len(pending) > DEEPEST**2:
                return []
            pending.append((one, True))
            pending += [(v, False) for v in op.operands if v is not None]
        return list(dict.fromkeys(found))

    def _is_there(self, value: Value, step: int) -> bool:
        if isinstance(value, Parameter | Constant):
            return True
        return self.last.get(value, -1) >= step

    def _copied(
        self, chain: Sequence[Op], late: Sequence[int]
    ) -> tuple[Graph, tuple[Op, ...]]:
        """The graph whose steps ``late`` read copies, made right before the first."""
        new: dict[Value, Value] = {}
        names, sources = dict(self.graph.names), dict(self.graph.sources)
        copy: dict[Value, Value] = {}
        order: list[Op] = []

        def add(op: Op, made: Op, into: dict[Value, Value]) -> None:
            into.update(zip(op.results, made.results, strict=True))
            forward(op, made.results, names, sources)
            order.append(made)

        for number, op in enumerate(self.order):
            if number == late[0]:
                for each in chain:
                    operands = [
                        None if v is None else copy.get(v, new.get(v, v))
                        for v in each.operands
                    ]
                    made = each.copy(operands=operands, instance=self.copies)
                    add(each, made, copy)
            reads = {chain[-1].results[0]} if number in late else set()
            operands = [
                None if v is None else copy[v] if v in reads else new.get(v, v)
                for v in op.operands
            ]
            add(op, op.with_operands(operands), new)
        graph = self.graph.replace(
            outputs=[new.get(v, v) for v in self.graph.outputs],
            names=names,
            sources=sources,
        )
        needed = {*graph.ops}  # a value that was only read late is just made late
        return graph, tuple([op for op in order if op in needed])


def _can_repeat(op: Op) -> bool:
    """True for an op that gives the same again, and only one result."""
    known = isinstance(op, Computed) and op.deterministic
    return known and not op.token and not op.bodies and op.outs == 1


def _height(live: Sequence[int]) -> tuple[int, int]:
    """The most live bytes, and at how many steps."""
    most = max(live, default=0)
    return most, live.count(most)
