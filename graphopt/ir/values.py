"""Value and Op: interned, immutable; graphs of them are `graphopt.ir.graph`.

Keys hold operand *identities* and the *bits* of attributes; nothing hashes or prints
recursively, as graphs may be 100,000 ops deep.
"""

from __future__ import annotations

import struct
import weakref
from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, cast

import numpy as np

from ..errors import TypeMismatch
from ..types import MAX_NESTING, DType, TensorType, Type
from ..weights import Tensor

if TYPE_CHECKING:
    from .graph import Graph

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
        items: list[Any] = [] if known is None else known.ravel().tolist()
        if known is None or not all(type(x) is int for x in items):
            return None
        return tuple(items)


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
    _results: tuple[weakref.ref[Value], ...] | None

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
        if any(body.depth > _DEEPEST for body in self.bodies):
            raise TypeMismatch(f"bodies of {cls.kind} nest over {_DEEPEST} deep")
        self.instance = instance
        self.token = token
        self.outs = outs if outs is not None else self.default_outs()
        key = (self.meaning, operands, instance, token)
        found = _interned.get(key)
        if found is not None:
            return cast(Self, found)
        for value in operands:
            if isinstance(value, Op) and value.outs != 1:
                raise TypeMismatch(
                    f"{cls.kind} reads {value.kind}: which of its {value.outs} results?"
                )
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

    @property
    def label(self) -> str:
        """What people call its kind: ``Gelu``, ``com.microsoft.Attention``."""
        foreign = self.domain not in ("", "graphopt")
        return f"{self.domain}.{self.kind}" if foreign else self.kind

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
    def meaning(self) -> Hashable:
        """What it does, whatever it reads: kind, bits of attributes, bodies, results.

        Equal for ops that give the same results of the same operands.
        """
        return (
            type(self),
            tuple([(k, attribute_key(self.attrs[k])) for k in sorted(self.attrs)]),
            tuple([body.key for body in self.bodies]),
            self.outs,
        )

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


_DEEPEST = MAX_NESTING + 8  # what is read from files is less deep
"""Bodies are the one thing that graphopt goes into by recursion."""


def canonical(value: Any) -> Attr:
    if isinstance(value, DType):
        return value.value
    if isinstance(value, (bool, np.integer)):
        return int(value)
    if isinstance(value, float | np.floating):
        with np.errstate(over="ignore"):
            return float(np.float32(value))  # what ONNX can store
    if isinstance(value, list | tuple):
        return tuple(canonical(v) for v in value)  # type: ignore[return-value]
    return cast(Attr, value)


def attribute_key(value: Any) -> Hashable:
    """The bits of an attribute, tagged with its type: 0.0, -0.0 and 0 all differ."""
    kind = type(value)
    if kind is int or kind is str or kind is bytes:
        return (kind, value)
    if kind is float:
        return (kind, struct.pack("d", value))
    if kind is tuple:
        return tuple([attribute_key(v) for v in value])
    if isinstance(value, Tensor):
        return value.key
    return (kind, value)
