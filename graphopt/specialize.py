"""Change which dims of a model are symbolic: fix some, or free baked ones.

Fixing is exact: sizes are put in for symbols, and every type is inferred anew. Freeing
an axis goes the other way: its extent becomes a symbol, Reshapes to baked dims are made
to follow, and the result is run at three sizes, as constants deep in the model may
still hold the old extent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from . import dims
from .dims import Dim, Expr, Shape
from .errors import TypeMismatch, UsageError, nearest
from .ir import Graph, Op, Parameter, Value, rebuild
from .ops import Constant, Reshape, Scan
from .ops.body_types import join, unstacked
from .ops.control import If, Loop
from .provenance import place
from .types import OptionalType, SequenceType, SparseType, TensorType, Type
from .unnamed import shown
from .verify import declarations
from .weights import Tensor


@dataclass(frozen=True)
class Specialized:
    """A graph with other dims: ``freed`` maps each new symbol to its old extent.

    ``followed`` names the Reshapes whose baked dims were made to follow. ``resized``
    is true where a baked dim was given another extent: inputs no longer fit the old
    model. ``forbidden`` says of each branch that these dims forbid, and that keeps its
    own, which one it is and why.
    """

    graph: Graph
    resized: bool = False
    freed: Mapping[str, int] = field(default_factory=dict)
    followed: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()


def specialize(
    graph: Graph,
    dims_: Mapping[str, int | str] | None = None,
    input_shapes: Mapping[str, Sequence[int | str]] | None = None,
) -> Specialized:
    """The graph with some symbols fixed, or some axes of inputs fixed or freed.

    ``dims_`` maps a symbol or an axis to a size or a new symbol: ``{"batch": 8}``,
    ``{"x:0": "batch"}``. ``input_shapes`` gives all dims of an input at once. Raises
    UsageError for what is not there, for a size that leaves nothing to compute, and
    where an op forbids it, which it names. A branch that forbids it keeps its dims
    where the other one does not: it is not taken.
    """
    request = _Request(graph)
    for name, shape in (input_shapes or {}).items():
        request.set_shape(name, shape)
    for name, value in (dims_ or {}).items():
        if not isinstance(value, int | str):
            raise UsageError(f"{value!r} is no size for {name!r}")
        if name in request.symbols or not _AXIS.fullmatch(name):
            request.bind(name, value)
        else:
            request.set_axis(name, value)
    made = request.made()
    asked = dict(dims_ or {})
    for name, shape in (input_shapes or {}).items():
        asked |= {f"{name}:{axis}": value for axis, value in enumerate(shape)}
    called = places_of(graph)
    refuse_empty(made.graph, {called.get(n) or n: size for n, size in asked.items()})
    return made


def refuse_empty(graph: Graph, sizes: Mapping[str, int | str]) -> None:
    """Raises UsageError for sizes that leave no output with an element.

    A length of 0 can be meant, that of a past that is still to come; a batch of 0 not.
    """
    empty = [shown(name) for name, size in sizes.items() if size == 0]
    if not empty or not graph.outputs:
        return
    numbers = {name: size for name, size in sizes.items() if isinstance(size, int)}
    for value in graph.outputs:
        try:
            shape = [dims.substitute(d, numbers) for d in _dims_of(value.type)]
        except ZeroDivisionError:
            raise UsageError(f"with {empty[0]}=0 a dim is divided by 0") from None
        if 0 not in shape:
            return
    raise UsageError(f"{empty[0]}=0 leaves nothing to compute: every output is empty")


def symbols_of(graph: Graph) -> set[str]:
    """The symbols that the dims of a graph's inputs are made of."""
    return {
        name
        for p in graph.inputs
        for dim in _dims_of(p.type)
        for name in dims.symbols(dim)
    }


def places_of(graph: Graph) -> dict[str, str | None]:
    """``x:1`` for each dim that is one symbol, and that; None where it has no name."""
    return {
        f"{p.name}:{axis}": None if dim is None else str(dim)
        for p in graph.inputs
        if isinstance(p.type, TensorType)
        for axis, dim in enumerate(p.type.shape or ())
        if dim is None or (isinstance(dim, Expr) and dims.symbols(dim) == {str(dim)})
    }


def no_dim(name: str, graph: Graph) -> UsageError:
    """The error for what is the name of no dim; those that have one are told by it."""
    at = places_of(graph)
    known = symbols_of(graph) | {place for place, symbol in at.items() if not symbol}
    others = {p: f"{symbol!r} ({p})" for p, symbol in at.items() if symbol}
    near = nearest(name, map(shown, known), others) or "; all dims are fixed"
    return UsageError(f"no dim of an input is called {name!r}{near}")


def frozen(graph: Graph) -> Graph:
    """The graph whose inputs with a default are constants: nobody can override them."""
    fixed: dict[Value, Value] = {
        p: Constant(p.default) for p in graph.inputs if p.default is not None
    }
    inputs = [p for p in graph.inputs if p.default is None]
    return graph.replace(inputs=inputs).substitute(fixed) if fixed else graph


def parse_dim(text: str) -> tuple[str, int | str]:
    """``batch=8`` or ``x:0=batch``, as a user writes it."""
    name, equals, value = text.rpartition("=")
    if not equals or not name or not value:
        raise UsageError(f"cannot read {text!r}; write NAME=SIZE or INPUT:AXIS=NAME")
    return name.strip(), _size_or_name(value.strip(), text)


def parse_shape(text: str) -> tuple[str, tuple[int | str, ...]]:
    """``x=1,3,224,224``, as a user writes it; names stand for symbolic dims."""
    name, equals, shape = text.rpartition("=")
    if not equals or not name:
        raise UsageError(f"cannot read {text!r}; write INPUT=D0,D1,…")
    parts = [part.strip() for part in shape.split(",")] if shape.strip() else []
    return name.strip(), tuple(_size_or_name(part, text) for part in parts)


LARGEST: Final = 2**63 - 1
"""What ONNX can write of a dim."""

_AXIS = re.compile(r"(.+):(-?\d+)")


def _size_or_name(text: str, whole: str) -> int | str:
    if re.fullmatch(r"-?\d+", text):
        if not 0 <= int(text) <= LARGEST:
            raise UsageError(f"{text} in {whole!r} is no size")
        return int(text)
    if not text:
        raise UsageError(f"a dim is missing in {whole!r}")
    return text


class Impossible(UsageError):
    """The dims that were asked for, or chosen ``at`` a size, do not fit an op."""

    def __init__(self, reason: str, *, where: str | None, at: str = "") -> None:
        with_ = f"with {at}, " if at else ""
        super().__init__(f"{with_}these dims are impossible: {reason}", where=where)
        self.reason = reason


class _Request:
    """What is to become of the parameters' types, put together and then carried out."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.types: dict[Parameter, Type] = {p: p.type for p in graph.inputs}
        self.bound: dict[str, Dim] = {}
        self.freed: dict[str, int] = {}
        self.resized = False
        self.followed: list[str] = []
        self.forbidden: list[str] = []
        self.symbols = symbols_of(graph)

    def bind(self, name: str, value: int | str) -> None:
        """Put a size, or another symbol, in the place of a symbol."""
        if name not in self.symbols:
            raise no_dim(name, self.graph)
        if value == name:
            return
        dim: Dim = value if isinstance(value, int) else dims.symbol(value)
        if self.bound.setdefault(name, dim) != dim:
            raise UsageError(
                f"the dim {name!r} cannot be both {self.bound[name]} and {dim}"
            )

    def set_shape(self, name: str, shape: Sequence[int | str]) -> None:
        """Give an input all its dims."""
        type_ = self.types[self.parameter(name)]
        assert isinstance(type_, TensorType)
        if type_.shape is not None and len(type_.shape) != len(shape):
            raise UsageError(
                f"the input {name!r} ({type_}) has {len(type_.shape)} axes,"
                f" not {len(shape)}"
            )
        if type_.shape is None:
            self.types[self.parameter(name)] = TensorType(
                type_.dtype, (None,) * len(shape)
            )
        for axis, value in enumerate(shape):
            self.set_axis(f"{name}:{axis}", value)

    def set_axis(self, name: str, value: int | str) -> None:
        """Give one axis of an input another extent, or a symbol."""
        match = _AXIS.fullmatch(name)
        assert match is not None
        parameter, axis = self.parameter(match[1]), int(match[2])
        type_ = self.types[parameter]
        assert isinstance(type_, TensorType)
        shape = type_.shape
        if shape is None or not -len(shape) <= axis < len(shape):
            raise UsageError(
                f"the input {parameter.name!r} ({type_}) has no axis {axis}"
            )
        axis %= len(shape)
        old = shape[axis]
        if isinstance(old, Expr) and dims.symbols(old) == {str(old)}:
            self.bind(str(old), value)
            return
        new: Dim = value if isinstance(value, int) else dims.symbol(value)
        if (
            isinstance(value, str)
            and isinstance(old, int)
            and self.freed.setdefault(value, old) != old
        ):
            raise UsageError(
                f"{value!r} cannot stand for both {self.freed[str(value)]} and {old}"
            )
        self.resized |= isinstance(old, int) and isinstance(new, int) and old != new
        self.types[parameter] = TensorType(
            type_.dtype, (*shape[:axis], new, *shape[axis + 1 :])
        )

    def parameter(self, name: str) -> Parameter:
        names = self.graph.input_names
        if name not in names:
            raise UsageError(f"no input is called {name!r}{nearest(name, names)}")
        parameter = self.graph.inputs[names.index(name)]
        if not isinstance(parameter.type, TensorType):
            raise UsageError(f"the input {name!r} is no tensor but {parameter.type}")
        return parameter

    def made(self) -> Specialized:
        """The graph with the new types, everything inferred from them."""
        types = {p: self.settled(t) for p, t in self.types.items()}
        if all(p.type == t for p, t in types.items()):
            return Specialized(self.graph)
        graph = self.retyped(self.graph, list(types.values()))
        declared = [
            _declared(self.settled(t) if t else None, value.type)
            for t, value in zip(graph.output_types, graph.outputs, strict=True)
        ]
        return Specialized(
            graph.replace(output_types=declared),
            self.resized,
            self.freed,
            tuple(self.followed),
            tuple(self.forbidden),
        )

    def settled(self, type_: Type) -> Type:
        return _with_dims(type_, lambda dim: dims.substitute(dim, self.bound))

    def retyped(self, graph: Graph, types: Sequence[Type]) -> Graph:
        """The graph on parameters of other types."""
        fresh: dict[Value, Parameter] = {
            p: Parameter(t, p.name, default=p.default)
            for p, t in zip(graph.inputs, types, strict=True)
        }

        def build(op: Op, operands: tuple[Value | None, ...]) -> Op:
            try:
                operands = self.following(graph, op, operands)
                bodies = self.bodies(graph, op, operands)
                return op.copy(operands=operands, bodies=bodies)
            except TypeMismatch as error:
                raise Impossible(error.message, where=place(graph, op)) from None

        return rebuild(graph, build, dict(fresh)).replace(inputs=fresh.values())

    def bodies(
        self, graph: Graph, op: Op, operands: Sequence[Value | None]
    ) -> list[Graph]:
        """The bodies; a branch that the dims forbid as it was, if the other fits.

        One that is surely not taken becomes the other. Where baked dims change, no
        branch can stay as it was. Raises Impossible.
        """
        if not isinstance(op, If) or self.freed or self.resized:
            return [self.body(op, body, operands) for body in op.bodies]
        made: list[Graph] = []
        reasons: dict[int, Impossible] = {}
        for index, body in enumerate(op.bodies):
            followed, forbidden = len(self.followed), len(self.forbidden)
            try:
                made.append(self.branch(op, body, operands))
            except Impossible as error:
                del self.followed[followed:], self.forbidden[forbidden:]
                reasons[index] = error
                made.append(body)
        if not reasons:
            return made
        taken = _taken(operands[0])
        if taken is not None:
            if taken in reasons:
                raise reasons[taken]
            return [made[taken]] * 2
        if len(reasons) == 2:
            both = " and ".join(f"{r.reason} [{r.where}]" for r in reasons.values())
            raise Impossible(
                f"both branches forbid them: {both}", where=place(graph, op)
            )
        for index, reason in reasons.items():
            branch = op.body_names[index].replace("_", " ")
            self.forbidden.append(f"the {branch} of the {place(graph, op)}: {reason}")
        return made

    def body(self, op: Op, body: Graph, operands: Sequence[Value | None]) -> Graph:
        """A body whose parameters have the types of what they stand for."""
        types = [self.settled(p.type) for p in body.inputs]
        for k in range(1, min(len(operands), len(types)) + 1):
            old, new = op.operands[len(operands) - k], operands[-k]
            formal = body.inputs[-k].type
            if old is None or new is None:
                continue
            if formal == old.type:
                types[-k] = new.type
            elif isinstance(op, Scan) and formal == unstacked(old.type, _axis(op, k)):
                types[-k] = unstacked(new.type, _axis(op, k))
        return self.carrying(op, body, types)

    def carrying(self, op: Op, body: Graph, types: list[Type]) -> Graph:
        """A body of a loop; what its parameters carry holds in every iteration.

        They begin as what the loop is given. Where the body gives other dims, these are
        not known.
        """
        begun = len(self.followed), len(self.forbidden)
        while True:
            made = self.retyped(body, types)
            wider = list(types)
            for formal, result in _carried(op):
                if types[formal] != self.settled(body.inputs[formal].type):
                    wider[formal] = join(types[formal], made.outputs[result].type)
            if wider == types:
                return made
            types = wider
            del self.followed[begun[0] :], self.forbidden[begun[1] :]

    def branch(self, op: If, body: Graph, operands: Sequence[Value | None]) -> Graph:
        """A branch; Impossible is raised where the dims contradict what it declares."""
        made = self.body(op, body, operands)
        for fault in declarations(made):
            raise Impossible(fault.message, where=place(body, op))
        return made

    def following(
        self, graph: Graph, op: Op, operands: tuple[Value | None, ...]
    ) -> tuple[Value | None, ...]:
        """Operands that let a Reshape to baked dims keep a freed axis."""
        if not self.freed or not isinstance(op, Reshape):
            return operands
        x, target = operands
        if x is None or target is None or target.ints is None or x.shape is None:
            return operands
        old, result = op.operands[0], op.shape
        assert old is not None
        if old.shape is None or result is None:
            return operands
        dims_ = _following(old.shape, x.shape, result, bool(op.allowzero))
        if dims_ is None or dims_ == target.ints:
            return operands
        self.followed.append(place(graph, op))
        return x, Constant(Tensor.of(list(dims_)))


def _taken(cond: Value | None) -> int | None:
    """The branch that a condition takes, where it is known."""
    known = None if cond is None else cond.contents
    if known is None or known.size != 1 or not isinstance(known.item(), int):
        return None
    return 0 if known.item() else 1


def _following(
    old: Shape, new: Shape, result: Shape, allowzero: bool
) -> tuple[int, ...] | None:
    """What to reshape to, so that the axes that became symbolic keep their place.

    An axis keeps its place where as many elements lie before it in operand and result:
    [1, 12, 64] to [1, 768] with a free first axis asks for [-1, 768]. None where there
    is no such place, or more than one axis would need a -1.
    """
    if not all(isinstance(d, int) for d in (*old, *result)):
        return None
    asked: list[int] = [int(d) for d in result]  # type: ignore[arg-type]
    for axis, (was, now) in enumerate(zip(old, new, strict=True)):
        if was == now:
            continue
        before = dims.product(old[:axis])
        aligned = [
            i
            for i in range(len(result))
            if dims.product(result[:i]) == before
            and was
            and dims.mod(result[i], was) == 0
        ]
        if not aligned:
            return None
        if aligned[0] == axis and result[axis] == was and not allowzero:
            asked[axis] = 0  # which copies the operand's dim
        elif -1 in asked:
            return None
        else:
            asked[aligned[0]] = -1
    return tuple(asked)


def _carried(op: Op) -> Iterator[tuple[int, int]]:
    """Places of what a loop carries: among a body's parameters, and its results."""
    if isinstance(op, Loop):
        yield from ((2 + i, 1 + i) for i in range(op.carried))
    elif isinstance(op, Scan):
        yield from ((i, i) for i in range(op.states))


def _axis(op: Scan, from_end: int) -> int:
    """The scanned axis of the operand that stands ``from_end`` places from the end."""
    position = len(op.operands) - from_end - op.states
    axes = op.scan_input_axes
    return int(axes[position]) if axes and 0 <= position < len(axes) else 0


def _dims_of(type_: Type) -> Shape:
    found: list[Dim] = []
    _with_dims(type_, lambda dim: found.append(dim) or dim)  # type: ignore[func-returns-value]
    return tuple(found)


def _with_dims(type_: Type, change: Callable[[Dim], Dim]) -> Type:
    """A type with each of its dims changed."""
    if isinstance(type_, TensorType) and type_.shape is not None:
        return TensorType(type_.dtype, tuple([change(dim) for dim in type_.shape]))
    if isinstance(type_, SparseType):
        inner = _with_dims(type_.tensor, change)
        assert isinstance(inner, TensorType)
        return SparseType(inner)
    if isinstance(type_, SequenceType | OptionalType):
        return type(type_)(_with_dims(type_.element, change))
    return type_


def _declared(declared: Type | None, inferred: Type) -> Type | None:
    """The declared type of an output, by what is now inferred where they differ."""
    if not isinstance(declared, TensorType) or not isinstance(inferred, TensorType):
        return declared
    if declared.shape is None or inferred.shape is None:
        return declared
    if len(declared.shape) != len(inferred.shape):
        return inferred
    return TensorType(
        declared.dtype,
        tuple(
            [
                old
                if new is None or (isinstance(old, Expr) and isinstance(new, Expr))
                else new
                for old, new in zip(declared.shape, inferred.shape, strict=True)
            ]
        ),
    )
