"""What the inputs of a graph are for, read from the ops that they reach.

An integer that indexes a table of n rows lies in [0, n); a mask is mostly ones; a
number whose logarithm is taken is positive. `graphopt.inputs` draws accordingly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from . import dims
from .dims import Dim
from .ir import Graph, Op, Value
from .ops.constant import Constant
from .ops.structured import Composite
from .types import DType


@dataclass(frozen=True)
class Role:
    """What a value is used for.

    Numbers lie in [low, high), where those are known; ``choices`` are constants that it
    is compared with; ``mask`` marks flags, ``steers`` what shapes are made of.
    """

    low: float | None = None
    high: float | None = None
    choices: tuple[int, ...] = ()
    mask: bool = False
    steers: bool = False

    def also(self, other: Role) -> Role:
        """Both uses at once."""
        lows = [x for x in (self.low, other.low) if x is not None]
        highs = [x for x in (self.high, other.high) if x is not None]
        return Role(
            max(lows, default=None),
            min(highs, default=None),
            tuple(dict.fromkeys(self.choices + other.choices)),
            self.mask or other.mask,
            self.steers or other.steers,
        )


# Where a value goes on as it is: op kind -> operand positions (None: all of them).
_MOVES: Final[Mapping[str, tuple[int, ...] | None]] = {
    "Identity": (0,),
    "Cast": (0,),
    "CastLike": (0,),
    "Reshape": (0,),
    "Unsqueeze": (0,),
    "Squeeze": (0,),
    "Flatten": (0,),
    "Transpose": (0,),
    "Expand": (0,),
    "Tile": (0,),
    "Slice": (0,),
    "Split": (0,),
    "Gather": (0,),
    "GatherElements": (0,),
    "GatherND": (0,),
    "Pad": (0,),
    "Concat": None,
    "Where": (1, 2),
    "SequenceConstruct": None,
    "SequenceInsert": (0, 1),
    "SequenceAt": (0,),
    "ConcatFromSequence": (0,),
    "Optional": (0,),
    "OptionalGetElement": (0,),
}
# Where an integer goes on nearly as it is.
_COUNTS: Final[Mapping[str, tuple[int, ...] | None]] = {
    "Add": (0, 1),
    "Sub": (0,),
    "Max": None,
    "Min": None,
    "Clip": (0,),
    "Abs": (0,),
}
_FLAGS: Final[Mapping[str, tuple[int, ...]]] = {
    "Where": (0,),
    "Not": (0,),
    "And": (0, 1),
    "Or": (0, 1),
    "Xor": (0, 1),
    "If": (0,),
    "Compress": (1,),
}
_RANGES: Final[Mapping[tuple[str, int], tuple[float, float]]] = {
    ("Log", 0): (0.1, 4),
    ("Sqrt", 0): (0.01, 4),
    ("Pow", 1): (-2, 3),
    ("Acos", 0): (-0.9, 0.9),
    ("Asin", 0): (-0.9, 0.9),
    ("Atanh", 0): (-0.9, 0.9),
    ("Acosh", 0): (1.1, 4),
    ("BatchNormalization", 4): (0.1, 2),
    ("Dropout", 1): (0.1, 0.6),
    ("Bernoulli", 0): (0, 1),
    ("QuantizeLinear", 1): (0.01, 0.1),
    ("DequantizeLinear", 1): (0.01, 0.1),
    ("Range", 0): (0, 1),
    ("Range", 1): (3, 4),
    ("Range", 2): (1, 2),
    ("Loop", 0): (2, 3),
    ("Resize", 2): (1, 2),
    ("Upsample", 1): (1, 2),
    ("BitShift", 1): (0, 4),
}
_STEERING: Final[Mapping[str, tuple[int, ...]]] = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Resize": (3,),
    "Tile": (1,),
    "TopK": (1,),
}


def roles(
    graph: Graph, values: Iterable[Value], symbols: Mapping[str, int]
) -> dict[Value, Role]:
    """The role of each value (parameters, or results that stand for some).

    ``symbols`` are the sizes of symbolic dims.
    """
    found = {}
    for value in values:
        role = _trace(graph, value, symbols)
        if role.low is not None and role.high is not None and role.low >= role.high:
            role = replace(role, low=None, high=None)
        found[value] = role
    return found


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a value is followed: a graph, or the body of a composite op.

    ``leaves`` maps results of the body to those of the op, where they go on.
    """

    users: Mapping[Value, Sequence[tuple[Op, int]]]
    leaves: Mapping[Value, tuple[_Place, Value]] = field(default_factory=dict)


def _trace(graph: Graph, start: Value, symbols: Mapping[str, int]) -> Role:
    counts = start.dtype is None or not start.dtype.is_float
    role = Role()
    outermost = _Place(graph.users)
    seen: set[tuple[_Place, Value]] = {(outermost, start)}
    pending: list[tuple[_Place, Value, int]] = [(outermost, start, 0)]
    places: dict[Graph | tuple[_Place, Op], _Place] = {}

    def go(place: _Place, value: Value, shift: int) -> None:
        if (place, value) not in seen and len(seen) < _FAR:
            seen.add((place, value))
            pending.append((place, value, shift))

    while pending:
        place, value, shift = pending.pop()
        if value in place.leaves:
            go(*place.leaves[value], shift)
        for op, index in place.users.get(value, ()):
            use = _use(op, index, shift, symbols)
            if place is outermost or not place.leaves or op.kind in _LOOKUPS:
                role = role.also(use)
            moves = _MOVES.get(op.kind, _COUNTS.get(op.kind, ()) if counts else ())
            if moves is None or index in moves:
                for result in op.results:
                    go(place, result, shift + _added(op, index))
            for body in op.bodies:
                inner = index - len(op.operands) + len(body.inputs)
                if 0 <= inner < len(body.inputs):
                    within = places.setdefault(body, _Place(body.users))
                    go(within, body.inputs[inner], shift)
            if counts and use == Role() and isinstance(op, Composite):
                if (place, op) not in places:
                    places[place, op] = _within(op, place)
                go(places[place, op], value, shift)
    return role


def _within(op: Composite, around: _Place) -> _Place:
    """The body of a composite op; empty where it is not known."""
    results = op.expansion or ()
    users: dict[Value, list[tuple[Op, int]]] = defaultdict(list)
    pending = [made.op for made in results]
    seen: set[Op | None] = {None, *(v.op for v in op.operands if v is not None)}
    while pending:
        inner = pending.pop()
        if inner is None or inner in seen:
            continue
        seen.add(inner)
        for index, operand in enumerate(inner.operands):
            if operand is not None:
                users[operand].append((inner, index))
                pending.append(operand.op)
    leaves = {a: (around, b) for a, b in zip(results, op.results, strict=False)}
    return _Place(users, leaves)


def _use(op: Op, index: int, shift: int, symbols: Mapping[str, int]) -> Role:
    """What one op asks of an operand that is the value plus ``shift``."""
    if (op.kind, index) in _TABLES:
        rows = dims.substitute(_rows(op, index), symbols)
        high = rows if isinstance(rows, int) and rows > 0 else 1
        low = 1 if op.kind in _COUNTED_FROM_ONE else 0
        return Role(low=low - shift, high=high - shift)
    if index in _FLAGS.get(op.kind, ()):
        return Role(mask=True)
    if op.kind == "Cast" and op.attrs["to"] == DType.BOOL.value:
        return Role(mask=True)
    if op.kind == "Sub" and index == 1 and _number(op.operand(0)) == 1:
        return Role(mask=True)  # (1 - mask) * -10000
    if op.kind == "Equal":
        number = _number(op.operand(1 - index))
        return Role() if number is None else Role(choices=(int(number) - shift,))
    if op.kind == "Pow" and index == 0:
        exponent = _number(op.operand(1))
        whole = exponent is not None and exponent >= 0 and exponent == int(exponent)
        return Role() if whole else Role(0.1, 2)
    if (op.kind, index) in _RANGES:
        return Role(*_RANGES[op.kind, index])
    if op.kind == "Reshape" and index == 1:
        return Role(low=-1, steers=True)
    if index in _STEERING.get(op.kind, ()) or index in getattr(op, "static", ()):
        return Role(steers=True)
    return Role()


def _rows(op: Op, index: int) -> Dim:
    """How many rows an index operand chooses from; None where that is not known."""
    try:
        return _TABLES[op.kind, index](op)
    except (AssertionError, IndexError, TypeError):  # an operand of unknown rank
        return None


def _extent(op: Op, axis: int, operand: int = 0) -> Dim:
    value = op.operand(operand)
    assert value is not None
    assert value.shape is not None
    dim: Dim = value.shape[axis]
    return dim


def _smallest(op: Op) -> Dim:
    """An index into several axes at once is safe below the shortest."""
    data, indices = op.operands[:2]
    assert data is not None
    assert indices is not None
    assert data.shape is not None
    assert indices.shape is not None
    first, depth = int(op.attrs.get("batch_dims", 0)), indices.shape[-1]  # type: ignore[arg-type]
    extents = [d for d in data.shape[first : first + depth] if isinstance(d, int)]
    return min(extents) if extents else None


def _depth(op: Op) -> Dim:
    number = _number(op.operand(1))
    return None if number is None else int(number)


_TABLES: Final[Mapping[tuple[str, int], Callable[[Op], Dim]]] = {
    ("Gather", 1): lambda op: _extent(op, op.axis),
    ("GatherElements", 1): lambda op: _extent(op, op.axis),
    ("ScatterElements", 1): lambda op: _extent(op, op.axis),
    ("Scatter", 1): lambda op: _extent(op, op.axis),
    ("TensorScatter", 2): lambda op: _extent(op, op.axis),
    ("GatherND", 1): _smallest,
    ("ScatterND", 1): _smallest,
    ("OneHot", 0): _depth,
    ("NegativeLogLikelihoodLoss", 1): lambda op: _extent(op, 1),
    ("SoftmaxCrossEntropyLoss", 1): lambda op: _extent(op, 1),
    ("MaxUnpool", 1): lambda op: dims.product(op.operands[0].shape or ()),  # type: ignore[union-attr]
    ("RoiAlign", 2): lambda op: _extent(op, 0),
    # Lengths, of which the largest is the extent itself.
    ("ReverseSequence", 1): lambda op: dims.add(_extent(op, op.time_axis), 1),
    ("LSTM", 4): lambda op: dims.add(_extent(op, int(op.layout)), 1),
    ("GRU", 4): lambda op: dims.add(_extent(op, int(op.layout)), 1),
    ("RNN", 4): lambda op: dims.add(_extent(op, int(op.layout)), 1),
    ("Slice", 1): lambda op: 1,
    ("Slice", 3): lambda op: 1,
    ("Unsqueeze", 1): lambda op: 1,
    ("Squeeze", 1): lambda op: 1,
    ("CumSum", 1): lambda op: 1,
}

_LOOKUPS: Final = frozenset(("Gather", "GatherElements", "GatherND"))
"""What is believed in bodies of composite ops: that something is an index."""

_COUNTED_FROM_ONE: Final = frozenset({"LSTM", "GRU", "RNN", "ReverseSequence"})
_FAR: Final = 10_000  # values that one trace may look at


def _number(value: Value | None) -> float | None:
    """The one element of a constant."""
    if not isinstance(value, Constant) or value.tensor.size != 1:
        return None
    if value.tensor.dtype is DType.STRING:
        return None
    return float(value.tensor.array().reshape(-1)[0])


def _added(op: Op, index: int) -> int:
    if op.kind not in ("Add", "Sub"):
        return 0
    number = _number(op.operand(1 - index))
    if number is None or abs(number) > 1 << 20:
        return 0
    return int(number if op.kind == "Add" else -number)
