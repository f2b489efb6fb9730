"""Picks sunk: only the positions that are asked for are computed.

A Gather or Slice along one axis goes below every op that treats each position of that
axis by itself. Which ops do is read from their index maps: a language model that gives
the scores of the last token runs its head, and the last norm and MLP, for that token
alone; columns of a product become columns of its weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from graphopt.dims import Dim, add, equal, nonnegative, sub
from graphopt.errors import TypeMismatch
from graphopt.index import Affine, domain
from graphopt.ir import Op, Parameter, Value
from graphopt.ops import Concat, Constant, Gather, Reshape, Slice, Squeeze
from graphopt.ops.structured import Structured
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import TensorType

from .match import axis_of
from .movement import segments
from .scale_shift import GROWTH

Place: TypeAlias = tuple[Value, int]
"""A value and the axis of it along which positions are picked."""

LONGEST = 256
"""Ops that one pick is sunk below at once."""


def _vector(*numbers: int) -> Constant:
    return Constant(np.array(numbers, np.int64))


@dataclass(frozen=True)
class Pick:
    """What a Gather or Slice along one axis takes, to be taken of other values too."""

    op: Gather | Slice
    axis: int
    count: Dim

    @classmethod
    def of(cls, op: Gather | Slice) -> Pick | None:
        """None for several axes, for more than a list of positions, and for all."""
        x = op.operands[0]
        if x is None or x.shape is None or op.shape is None:
            return None
        if isinstance(op, Gather):
            indices = op.operands[1]
            if indices is None or indices.rank is None or indices.rank > 1:
                return None
            axis = axis_of(op.axis, len(x.shape))
            count = 1 if indices.rank == 0 else op.shape[axis]
            extent = x.shape[axis]
            if isinstance(count, int) and isinstance(extent, int):
                return cls(op, axis, count) if count < extent else None
            return cls(op, axis, count) if count == 1 else None
        cuts = op.cuts()
        if cuts is None or len(cuts) != 1 or any(d is None for d in op.shape):
            return None
        (axis,) = cuts
        count = op.shape[axis]
        return None if equal(count, x.shape[axis]) else cls(op, axis, count)

    @property
    def drops(self) -> bool:
        """The axis goes: one position is picked by a scalar."""
        indices = self.op.operands[1]
        return isinstance(self.op, Gather) and indices is not None and not indices.rank

    @property
    def is_known(self) -> bool:
        """Of a constant it takes a constant."""
        return all(v is None or v.ints is not None for v in self.op.operands[1:])

    def taken(self, value: Value, axis: int) -> Value:
        """The positions of another value; the axis stays, also where it is one."""
        op = self.op
        if isinstance(op, Slice):
            operands = [value, *op.operands[1:3], _vector(axis), op.operand(4)]
            return op.with_operands(operands)
        indices = op.operands[1]
        if self.drops and indices is not None:
            indices = Reshape(indices, _vector(1))
        return Gather(value, indices, axis=axis)


def picked_operands(op: Op, axis: int) -> list[int | None] | str:
    """Where to pick of each operand, to have positions of an axis of the result.

    None for an operand that is read whole at each position. Or a reason why positions
    are not computed one by one, by the op's index maps.
    """
    if not isinstance(op, Structured) or op.outs != 1 or not op.deterministic:
        return "nothing says how its result indexes its operands"
    if isinstance(op, Slice):
        return "two picks would only change places"
    iteration = op.iteration_domain()
    if iteration is None:
        return "a rank is not known"
    shapes = [None if v is None else v.shape for v in op.operands]
    maps = domain(iteration[0], shapes, op.extents()).maps
    term = maps.results[0][axis]
    name = term.plain if isinstance(term, Affine) else None
    if name is None or name not in maps.operand_axes:
        return "positions of the result are not those of an operand"
    if name in maps.whole | maps.carried | maps.positional:
        return "a position is computed from others, or from where it is"
    places: list[int | None] = []
    for map_ in maps.operands:
        at = [i for i, t in enumerate(map_ or ()) if name in t.axes]
        if len(at) > 1:
            return "a position is read twice"
        if at and (map_ is None or getattr(map_[at[0]], "plain", None) != name):
            return "a position is read among others"
        places.append(at[0] if at else None)
    places += [None] * (len(op.operands) - len(places))
    return places


def sums_products(op: Op) -> bool:
    """True for products of matrices and their kin: most of a model's time."""
    maps = op.index_maps() if isinstance(op, Structured) else None
    return maps is not None and bool(maps.reduced) and len(maps.linear) > 1


def computes(op: Op) -> bool:
    """True for ops that do more than move elements."""
    return isinstance(op, Structured) and op.flops > 0


@dataclass
class Region:
    """Ops between a pick and where it is sunk to, and where each is to be picked."""

    pick: Pick
    scene: Scene
    inside: dict[Op, list[int | None]] = field(default_factory=dict)
    axes: dict[Op, int] = field(default_factory=dict)
    reads: Counter[Place] = field(default_factory=Counter)
    why: tuple[str, Value] | None = None

    def grow(self) -> None:
        """Take in every op that is read by the region alone, along one axis."""
        x = self.pick.op.operands[0]
        assert x is not None
        waiting: list[Place] = [(x, self.pick.axis)]
        self.reads[waiting[0]] += 1
        while waiting and len(self.inside) < LONGEST:
            value, axis = waiting.pop()
            op = value.op
            if op is None or value.constant is not None or op in self.inside:
                continue
            if self.reads[value, axis] != self.scene.uses(value):
                self.why = self.why or ("it is read elsewhere too", value)
                continue
            places = picked_operands(op, axis)
            if not isinstance(places, str):
                places = self.told(op, axis, places) or places
            if isinstance(places, str):
                self.why = self.why or (places, value)
                continue
            self.enter(op, axis, places)
            waiting += [p for p in self.places(op) if p[0].op is not None]

    def enter(self, op: Op, axis: int, places: list[int | None]) -> None:
        self.inside[op] = places
        self.axes[op] = axis
        self.reads.update(self.places(op))

    def places(self, op: Op) -> list[Place]:
        """What the op reads of the picked positions."""
        pairs = zip(op.operands, self.inside[op], strict=True)
        return [(v, at) for v, at in pairs if v is not None and at is not None]

    def border(self) -> dict[Place, int]:
        """What is picked, and how often it is read."""
        return {p: n for p, n in self.reads.items() if n and p[0] not in self.inside}

    def shrink(self) -> None:
        """Give ops back that multiply picks and save no product."""
        while True:
            border = self.border()
            for op in reversed(self.inside):
                own = Counter(self.places(op))
                if not all(p in border for p in own) or sums_products(op):
                    continue
                freed = [p for p in own if border[p] == own[p] and self.costs(p)]
                if len(freed) > 1:
                    self.reads.subtract(own)
                    del self.inside[op], self.axes[op]
                    self.why = ("there would be more ops, and no smaller product", op)
                    break
            else:
                return

    def costs(self, place: Place) -> bool:
        """True where picking takes an op when the model runs."""
        return place[0].constant is None or not self.pick.is_known

    @property
    def extra(self) -> int:
        """How many ops there are more than before."""
        return sum(map(self.costs, self.border())) - 1 + self.pick.drops

    def rebuilt(self) -> Value:
        """The picked result, computed of picked operands."""
        made: dict[Place, Value] = {}
        for place in self.border():
            made[place] = self.pick.taken(*place)
        for op in reversed(self.ordered()):
            operands: list[Value | None] = [
                v if at is None or v is None else made[v, at]
                for v, at in zip(op.operands, self.inside[op], strict=True)
            ]
            made[op, self.axes[op]] = op.with_operands(operands)
        last = made[self.start]
        return Squeeze(last, _vector(self.pick.axis)) if self.pick.drops else last

    @property
    def start(self) -> Place:
        x = self.pick.op.operands[0]
        assert x is not None
        return x, self.pick.axis

    def ordered(self) -> list[Op]:
        """The ops, each before those that it reads."""
        left = Counter({p: n for p, n in self.reads.items() if p[0] in self.inside})
        ready, found = [self.start[0].op], []
        left[self.start] -= 1
        while ready:
            op = ready.pop()
            assert op is not None
            found.append(op)
            for place in self.places(op):
                left[place] -= 1
                if place[0] in self.inside and not left[place]:
                    ready.append(place[0].op)
        return found

    def told(self, op: Op, axis: int, places: list[int | None]) -> str | None:
        """Why the op, on operands that are picked, has not just the picked result."""
        operands = [
            v if v is None or at is None else Parameter(self.part(v, at))
            for v, at in zip(op.operands, places, strict=True)
        ]
        try:
            after = op.with_operands(operands).type
        except TypeMismatch:
            after = None
        wanted = self.part(op, axis).shape
        found = after.shape if isinstance(after, TensorType) else None
        if found is None or wanted is None or len(found) != len(wanted):
            return "it cannot be computed of a part"
        if not all(map(equal, found, wanted)):
            return "an operand or attribute tells how many positions there are"
        return None

    def part(self, value: Value, axis: int) -> TensorType:
        """The type of a value that is picked."""
        dims = list(value.shape or ())
        dims[axis] = self.pick.count
        return TensorType(value.dtype, tuple(dims))


@rule(exact=False)
def sink_pick(op: Gather | Slice, scene: Scene) -> Outcome:
    """pick(f(x), i) = f(pick(x, i)) where f treats each position by itself

    f may be many ops. They may become more by the picks of several operands only where
    products of matrices become smaller.
    """
    pick = Pick.of(op)
    if pick is None:
        return None
    region = Region(pick, scene)
    region.grow()
    region.shrink()
    if not region.inside:
        return None if region.why is None else miss(*region.why)
    if not any(map(computes, region.inside)):
        return miss("nothing is computed between", op)
    if region.extra > 0 and not any(map(sums_products, region.inside)):
        return miss("there would be more ops, and no smaller product", op)
    copied = [v for v, _ in region.border() if _grows(v, scene)]
    if copied:
        return miss("others read the weight too", copied[0])
    return region.rebuilt()


def _grows(value: Value, scene: Scene) -> bool:
    """A part of a constant would be kept beside it."""
    tensor = value.constant
    return tensor is not None and tensor.nbytes > GROWTH and not scene.single(value)


@rule
def slice_of_parts(op: Slice) -> Outcome:
    """slice(concat(x, y, z), within y) = slice(y), and of just x and y concat(x, y)"""
    joined, cuts = op.operands[0], op.cuts()
    if not isinstance(joined, Concat) or joined.rank is None or not cuts:
        return None
    axis = axis_of(joined.axis, joined.rank)
    parts = segments(joined, axis)
    if parts is None or set(cuts) != {axis}:
        return None
    start, step, count = cuts[axis]
    if step != 1 or start is None or count is None:
        return miss("where it starts and ends is not known", op)
    first = next((i for i, (_, at) in enumerate(parts) if equal(at, start)), None)
    stop = add(start, count)
    ends = [add(at, part.shape[axis]) for part, at in parts if part.shape is not None]
    last = next((i for i, end in enumerate(ends) if equal(end, stop)), None)
    if first is not None and last is not None and first < last:
        kept = [part for part, _ in parts[first : last + 1]]
        return Concat(*kept, axis=axis) if len(kept) < len(parts) else None
    for (part, at), end in zip(parts, ends, strict=True):
        low, high = sub(start, at), sub(end, stop)
        if not isinstance(low, int) or low < 0 or not nonnegative(high):
            continue
        if isinstance(count, int):
            return Slice(part, _vector(low), _vector(low + count), _vector(axis))
    return miss("it is not within one of the parts", op)


RULES: tuple[Rule, ...] = (sink_pick, slice_of_parts)


@dataclass(frozen=True)
class Sink(RulePass):
    """Compute only the positions of a sequence, or the columns, that are asked for.

    gather(norm(x + y) @ w, [-1])   -->   norm(gather(x, [-1]) + gather(y, [-1])) @ w
    slice(x @ w, columns)           -->   x @ slice(w, columns)
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
