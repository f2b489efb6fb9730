"""Cheap producers computed again where they are read late, not kept alive until then.

Of what lives through the highest step and is not read there, those values are copied
that cost few operations: masks, casts, tables, whatever follows from inputs, constants
and what lives anyway. A copy is an op of another ``instance``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from graphopt.cost import op_flops
from graphopt.ir import Graph, Op, Parameter, Value, forward
from graphopt.ops import Constant
from graphopt.ops.structured import Computed

from .lives import ARENA, Lives, Operands, Reads, lives_in, steps_of
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
    made, steps = search.built()
    return Recomputed(
        made,
        steps,
        before[0],
        search.height[0],
        search.flops - total,
        len(steps) - len(steps_of(graph)),
    )


class _Search:
    """An order of a graph with copies, which is built when all copies are known.

    ``reads`` are operands of its ops in place of their own, ``origin`` what an op is a
    copy of.
    """

    def __init__(self, graph: Graph, order: tuple[Op, ...], sizes: Sizes) -> None:
        self.given, self.order, self.sizes = graph, order, sizes
        self.reads: Reads = {}
        self.origin: dict[Op, Op] = {}
        self.tries = TRIES
        self.copies = 1 + max((op.instance for op in order), default=0)
        self._costs: dict[Op, int] = {}
        self._need: dict[Op, int] = {}
        self._look()

    def _look(self) -> None:
        self.lives = self._lived(self.order, self.reads)
        self.live = self.lives.live
        self.height = _height(self.live)
        self.highest = [i for i, n in enumerate(self.live) if n == self.height[0]]
        self.flops = sum(map(self.cost, self.order))
        steps = enumerate(self.order)
        self.made = {result: i for i, op in steps for result in op.results}
        self.readers: dict[Value, list[int]] = defaultdict(list)
        for number, op in enumerate(self.order):
            for value in dict.fromkeys(self._operands(op)):
                if value is not None:
                    self.readers[value].append(number)
        self.last = {value: steps[-1] for value, steps in self.readers.items()}
        self.last.update(dict.fromkeys(self.given.outputs, len(self.order)))

    def _operands(self, op: Op) -> Operands:
        return self.reads.get(op, op.operands)

    def _lived(self, order: tuple[Op, ...], reads: Reads) -> Lives:
        for op in order:
            if op not in self._need and not op.bodies:
                self._need[op] = workspace(op, self.sizes, ())
        return lives_in(
            self.given, order, self.sizes, self.sizes.space, self._need, reads=reads
        )

    def cost(self, op: Op) -> int:
        """Operations of an op; of one that has none, the elements that it writes."""
        if op not in self._costs:
            written = sum(self.sizes.of(result) or 0 for result in op.results) // 4
            done = largest(op_flops(op), self.sizes.binding) or 0
            self._costs[op] = max(done, written)
        return self._costs[op]

    def improve(self, most: int) -> bool:
        """Copy the largest value that lowers the highest step, if there is one.

        All operations are ``most`` then.
        """
        highest = self.highest[0]
        left = most - self.flops
        for value in self._idle(highest):
            late = [number for number in self.readers[value] if number > highest]
            parts = self._parted(late)
            for groups in [parts, [late]] if len(parts) > 1 else [parts]:
                chains = [self._chain(value, group[0]) for group in groups]
                added = [
                    self._added(chain, group[0]) if chain else left + 1
                    for chain, group in zip(chains, groups, strict=True)
                ]
                if sum(added) > left:
                    continue
                if self.tries == 0:
                    return False
                self.tries -= 1
                if self._taken(chains, groups):
                    return True
        return False

    def _parted(self, late: Sequence[int]) -> list[list[int]]:
        """Steps that read a value, apart where one as high as any lies between them.

        All of those must be lowered: of equal layers each has one.
        """
        groups = [[late[0]]]
        for before, after in pairwise(late):
            if bisect_left(self.highest, after) > bisect_right(self.highest, before):
                groups.append([])
            groups[-1].append(after)
        return groups

    def _taken(
        self, chains: Sequence[Sequence[Op]], groups: Sequence[Sequence[int]]
    ) -> bool:
        """Let each group of steps read a copy of its own, if that lowers the height."""
        order, reads, copied = self._copied(chains, groups)
        if _height(self._lived(order, reads).live) >= self.height:
            return False
        self.order, self.reads = order, reads
        for op, made in copied:
            self.origin[made] = self.origin.get(op, op)
        self.copies += len(groups)
        self._look()
        return True

    def _added(self, chain: Sequence[Op], step: int) -> int:
        """Operations of copies; those of a value that nobody reads before are none."""
        value = chain[-1].results[0]
        early = self.readers[value][0] < step
        return sum(map(self.cost, chain if early else chain[:-1]))

    def _idle(self, step: int) -> Iterator[Value]:
        """What lives through a step and is not used there, the largest first."""
        here = {*self._operands(self.order[step]), *self.order[step].results}
        blocks = [
            block
            for block in self.lives.blocks
            if block.kind in ARENA and block.first < step < block.last
            if here.isdisjoint(block.values)
        ]
        for block in sorted(blocks, key=lambda block: -block.size):
            made = [v for v in block.values if self.made[v] < step]
            late = [v for v in made if self.last.get(v, -1) > step]
            if len(late) == 1 and late[0] not in self.given.outputs:
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
            pending += [(v, False) for v in self._operands(op) if v is not None]
        return list(dict.fromkeys(found))

    def _is_there(self, value: Value, step: int) -> bool:
        if isinstance(value, Parameter | Constant):
            return True
        return self.last.get(value, -1) >= step

    def _copied(
        self, chains: Sequence[Sequence[Op]], groups: Sequence[Sequence[int]]
    ) -> tuple[tuple[Op, ...], Reads, list[tuple[Op, Op]]]:
        """An order whose steps read copies, made right before the first of a group."""
        copied: list[tuple[Op, Op]] = []
        reads = dict(self.reads)
        order: list[Op] = []
        done = 0
        for i, (chain, group) in enumerate(zip(chains, groups, strict=True)):
            order += self.order[done : group[0]]
            done = group[0]
            new: dict[Value, Value] = {}
            for op in chain:
                operands = [v and new.get(v, v) for v in self._operands(op)]
                made = op.copy(operands=operands, instance=self.copies + i)
                new.update(zip(op.results, made.results, strict=True))
                copied.append((op, made))
                order.append(made)
            value = chain[-1].results[0]
            for number in group:
                op = self.order[number]
                operands_ = self._operands(op)
                reads[op] = tuple([new[v] if v is value else v for v in operands_])
        order += self.order[done:]
        needed = set(self.given.outputs)  # one that was only read late is made late
        kept = []
        for op in reversed(order):
            if not needed.isdisjoint(op.results):
                needed.update(v for v in reads.get(op, op.operands) if v is not None)
                kept.append(op)
        return tuple(reversed(kept)), reads, copied

    def built(self) -> tuple[Graph, tuple[Op, ...]]:
        """The graph with its copies, and its ops in the order that was found."""
        graph, order = self.given, []
        if not self.reads:
            return graph, self.order
        new: dict[Value, Value] = {}
        names, sources = dict(graph.names), dict(graph.sources)
        for op in self.order:
            operands = [v and new.get(v, v) for v in self._operands(op)]
            made = op.with_operands(operands)
            new.update(zip(op.results, made.results, strict=True))
            forward(self.origin.get(op, op), made.results, names, sources)
            order.append(made)
        outputs = [new.get(v, v) for v in graph.outputs]
        return graph.replace(outputs=outputs, names=names, sources=sources), (*order,)


def _can_repeat(op: Op) -> bool:
    """True for an op that gives the same again, and only one result."""
    known = isinstance(op, Computed) and op.deterministic
    return known and not op.token and not op.bodies and op.outs == 1


def _height(live: Sequence[int]) -> tuple[int, int]:
    """The most live bytes, and at how many steps."""
    most = max(live, default=0)
    return most, live.count(most)
