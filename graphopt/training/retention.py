"""Which results of a forward pass are kept for the backward one, under a budget.

Forward steps run in order, then the backward parts in reverse. What is not kept is made
once more, a segment at a time: all that the backward parts of a segment look at, from
what is kept. A segment may begin wherever all results that are read across are kept; so
what is kept says what is made again, and the segments only when.

Segments nest (Griewank and Walther, "Algorithm 799: revolve", 2000). A segment with a
plan of its own is run over once more for what that keeps, and the rest forgotten; then
its parts are made again one at a time, the last first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise


@dataclass(frozen=True)
class Step:
    """An op of the forward pass, by the places of the steps whose results it reads.

    ``bytes`` are those of its result. Its backward part looks at the results in
    ``needs``, some of ``reads``, and at ``inner`` bytes that ``again`` FLOPs make of
    what it reads; it costs ``back`` and gives a slope of each of ``slopes``, those of
    its reads that have one. ``moves`` says whether there is a backward part at all,
    ``own`` whether it looks at the step's own result. A step that is made again makes
    that once more even where it is kept: what is kept is a copy by another name.
    """

    reads: tuple[int, ...]
    bytes: int
    flops: int
    needs: frozenset[int] = frozenset()
    slopes: tuple[int, ...] = ()
    inner: int = 0
    again: int = 0
    back: int = 0
    moves: bool = True
    own: bool = False


@dataclass(frozen=True)
class Retention:
    """The steps whose results are kept, and where segments begin; 0 is the first.

    ``nested`` are plans of segments: each of the one that begins where its first does,
    for what is kept from when this is made again until its backward parts are done.
    """

    kept: frozenset[int]
    starts: tuple[int, ...] = (0,)
    nested: tuple[Retention, ...] = ()

    @property
    def depth(self) -> int:
        """How often a result may be made again: once, and once more for each level."""
        return 1 + max((plan.depth for plan in self.nested), default=0)

    def spans(self, stop: int) -> Iterator[tuple[int, int, Retention | None]]:
        """The segments up to a place, with their own plans."""
        plans = {plan.starts[0]: plan for plan in self.nested}
        for start, end in pairwise((*self.starts, stop)):
            yield start, end, plans.get(start)


@dataclass(frozen=True)
class Node:
    """A piece of work of one training step: what it reads, makes and costs."""

    reads: tuple[int, ...]
    bytes: int
    flops: int


class Training:
    """A forward and backward pass over steps, the last of which gives the loss.

    ``nodes`` are all that is computed: the result of each step, then what it has inside
    for its backward part, and one slope for each operand that has one, last step first
    (`inner_of`, `slopes_of`). Raises ValueError for steps that read later ones.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)
        count = len(self.steps)
        nodes = []
        for i, step in enumerate(self.steps):
            if any(not 0 <= read < i for read in step.reads):
                raise ValueError(f"step {i} reads a step that is not before it")
            if not (step.needs | {*step.slopes}) <= {*step.reads}:
                raise ValueError(f"step {i} looks at a result that it does not read")
            nodes.append(Node(step.reads, step.bytes, step.flops))
        self.inner_of: dict[int, int] = {}
        for i, step in enumerate(self.steps):
            if step.moves and (step.inner or step.again or step.own):
                self.inner_of[i] = len(nodes)
                inside = step.inner + (step.bytes if step.own else 0)
                nodes.append(Node(step.reads, inside, step.again))
        self.slopes_of: dict[int, list[int]] = {}
        into: list[list[int]] = [[] for _ in range(count)]
        for i in range(count - 1, -1, -1):
            step = self.steps[i]
            if not step.moves:
                continue
            inner = [self.inner_of[i]] if i in self.inner_of else []
            reads = (*sorted(step.needs), *inner, *into[i])
            self.slopes_of[i] = []
            for place, read in enumerate(step.slopes or (None,)):
                cost = 0 if place else step.back
                size = 0 if read is None else self.steps[read].bytes
                if read is not None:
                    into[read].append(len(nodes))
                self.slopes_of[i].append(len(nodes))
                nodes.append(Node(reads, size, cost))
        self.nodes = tuple(nodes)

    @cached_property
    def last_read(self) -> tuple[int, ...]:
        """The last step that reads each result; its own place where none does."""
        last = list(range(len(self.steps)))
        for i, step in enumerate(self.steps):
            for read in step.reads:
                last[read] = i
        return tuple(last)

    @property
    def flops(self) -> int:
        """FLOPs of a step of training in which nothing is made again."""
        back = [step.back for step in self.steps if step.moves]
        return sum(back) + sum(step.flops for step in self.steps)

    def starts(self, kept: frozenset[int]) -> tuple[int, ...]:
        """Every place where a segment may begin: all that is used across is kept."""
        crossing = [0] * (len(self.steps) + 1)
        for i, last in self.uses(kept, 0, len(self.steps)).items():
            if i not in kept:
                crossing[i + 1] += 1
                crossing[last + 1] -= 1
        found, open_ = [], 0
        for place in range(len(self.steps)):
            open_ += crossing[place]
            if not open_:
                found.append(place)
        return tuple(found)

    def uses(self, kept: Collection[int], start: int, stop: int) -> dict[int, int]:
        """By result, the last step of a span that looks at it once more.

        That is, for its backward part, or as it is made again and not kept.
        """
        last: dict[int, int] = {}
        for i in range(stop - 1, start - 1, -1):
            step = self.steps[i]
            if i in last and i not in kept:
                seen: Collection[int] = step.reads
            elif not step.moves:
                continue
            else:
                seen = step.reads if i in self.inner_of else step.needs
            for read in seen:
                last.setdefault(read, i)
        return last

    def across(
        self, kept: Collection[int], starts: Collection[int], stop: int
    ) -> set[int]:
        """What must be kept besides, for segments to begin at these places."""
        last: set[int] = set()
        more: set[int] = set()
        for i in range(stop - 1, min(starts) - 1, -1):
            step = self.steps[i]
            if i in last and i not in kept and i not in more:
                last.update(step.reads)
            if step.moves:
                last.update(step.reads if i in self.inner_of else step.needs)
            if i in starts:
                more.update(read for read in last if read < i)
        return {i for i in more if i >= min(starts)} - {*kept}

    def remade(
        self,
        kept: frozenset[int],
        start: int,
        stop: int,
        nested: Retention | None = None,
    ) -> list[int]:
        """The steps of a segment that run once more, in order.

        With a plan of its own only those on the way to what this keeps.
        """
        wanted = {*self.uses(kept, start, stop)}
        if nested is not None:
            wanted &= nested.kept
            for i in range(stop - 1, start - 1, -1):
                if i in wanted and i not in kept:
                    wanted.update(self.steps[i].reads)
        return [i for i in range(start, stop) if i in wanted and i not in kept]

    def sequence(self, plan: Retention) -> list[int]:
        """The nodes in the order in which they are computed, some of them again."""
        count = len(self.steps)
        return [*range(count), *self._back(plan, frozenset(), count)]

    def _back(self, plan: Retention, held: frozenset[int], stop: int) -> Iterator[int]:
        """Backward parts of the steps before a place, and what is made for them."""
        kept = held | plan.kept
        for start, end, nested in reversed([*plan.spans(stop)]):
            again = self.remade(kept, start, end, nested)
            if nested is not None:
                yield from again
                yield from self._back(nested, kept, end)
                continue
            some = {*again}
            for i in range(start, end):
                if i in some:
                    yield i
                if i in self.inner_of:
                    yield self.inner_of[i]
            for i in range(end - 1, start - 1, -1):
                yield from self.slopes_of.get(i, ())

    def plain_peak(self) -> int:
        """The most bytes at once where nothing is made again.

        All is kept, also what is inside: as JAX does unless it is told otherwise.
        """
        nodes, order = [*self.nodes], []
        for i, step in enumerate(self.steps):
            order.append(i)
            if i in self.inner_of:
                order.append(self.inner_of[i])
                nodes[self.inner_of[i]] = Node((), step.inner, 0)
        for i in range(len(self.steps) - 1, -1, -1):
            for slope in self.slopes_of.get(i, ()):
                order.append(slope)
                if self.steps[i].own:
                    node = nodes[slope]
                    nodes[slope] = Node((*node.reads, i), node.bytes, node.flops)
        return _peak(nodes, order)

    def peak(self, order: Sequence[int]) -> int:
        """The most bytes at once: of each result from its making to its last use.

        What a node reads and what it makes are there together. Of a result that is made
        again, each use takes the newest.
        """
        return _peak(self.nodes, order)

    def cost(self, plan: Retention) -> int:
        """FLOPs of a step of training."""
        return self.flops + sum(self.extra(plan))

    def extra(self, plan: Retention) -> Iterator[int]:
        """FLOPs of each piece of work that is done once more."""
        for i in self.again(plan):
            yield self.steps[i].flops
        for i in self.inner_of:
            yield self.steps[i].again

    def again(
        self,
        plan: Retention,
        held: frozenset[int] = frozenset(),
        stop: int | None = None,
    ) -> Iterator[int]:
        """The steps that run once more, each as often as it does."""
        kept = held | plan.kept
        for start, end, nested in plan.spans(len(self.steps) if stop is None else stop):
            yield from self.remade(kept, start, end, nested)
            if nested is not None:
                yield from self.again(nested, kept, end)


def _peak(nodes: Sequence[Node], order: Sequence[int]) -> int:
    dead: list[list[int]] = [[] for _ in order]
    later: set[int] = set()
    for time in range(len(order) - 1, -1, -1):
        node = order[time]
        if node in later:
            later.discard(node)
        else:
            dead[time].append(node)
        for read in nodes[node].reads:
            if read not in later:
                later.add(read)
                dead[time].append(read)
    live = most = 0
    for time, node in enumerate(order):
        live += nodes[node].bytes
        most = max(most, live)
        live -= sum([nodes[one].bytes for one in dead[time]])
    return most
