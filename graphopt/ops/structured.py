"""What an op declares, and what is derived from it.

`Structured` ops declare index maps and a `compute`; `Composite` ops a body of simpler
ops. Result types, contents (shape arithmetic), cost, tiling and sharding follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from ..dims import Dim, Shape, broadcast
from ..errors import NoReference, TypeMismatch
from ..index import Combiner, Maps, extents, parse, result_shapes
from ..ir import Contents, Value
from ..types import UNKNOWN, DType, TensorType, Type
from ..xp import symbolic
from .registry import Modelled

if TYPE_CHECKING:
    from ..xp import Namespace

Array = Any
"""An array of whichever namespace runs: NumPy's, JAX's, or of dims."""

CONTENTS_LIMIT = 1024
"""Integer tensors of at most so many elements are followed as dims."""


class Computed(Modelled):
    """An op with a `compute`. Element types follow ONNX's type variables."""

    __slots__ = ()

    static: ClassVar[tuple[int, ...]] = ()
    """Operands that steer shapes (axes, k): always concrete when `compute` runs."""
    arithmetic: ClassVar[bool] = False
    """True where `compute` also runs on dims: the op takes part in shape arithmetic."""

    def compute(self, xp: Namespace, *operands: Array) -> Array | tuple[Array, ...]:
        """The results, from arrays (None for an absent operand)."""
        raise NoReference(f"no reference for {self.kind}")

    @classmethod
    def available(cls) -> bool:
        """False where `compute` needs a package that is not installed."""
        return True

    def default_outs(self) -> int:
        return max(1, self.schema().min_results)

    def infer(self) -> Sequence[Type]:
        try:
            shapes = self.result_shapes()
        except ValueError as error:
            raise self.error(str(error)) from None
        return tuple(map(TensorType, self.result_dtypes(), shapes))

    def result_dtypes(self) -> Sequence[DType | None]:
        """Element types of the results; by default what ONNX's schema says."""
        rules = self.schema().result_types
        rules += rules[-1:] * (self.outs - len(rules))
        return [
            rule if isinstance(rule, DType) or rule is None else self._dtype(rule)
            for rule in rules[: self.outs]
        ]

    def _dtype(self, index: int) -> DType | None:
        value = self.operand(index)
        return None if value is None else value.dtype

    def result_shapes(self) -> Sequence[Shape | None]:
        """Dims of the results, None for an unknown rank.

        Raises ValueError where the operands do not fit.
        """
        return [None] * self.outs

    def infer_contents(self) -> tuple[Contents | None, ...]:
        nothing = (None,) * self.outs
        if not self.arithmetic or not all(map(_may_be_followed, self.types)):
            return nothing
        known = [None if v is None else v.contents for v in self.operands]
        for value, contents in zip(self.operands, known, strict=True):
            if contents is None and value is not None:
                return nothing
        try:
            results = self.compute(cast("Namespace", symbolic.namespace), *known)
        except (symbolic.Undecided, LookupError, ValueError):
            return nothing  # a run would fail, or decide what cannot be decided here
        results = results if isinstance(results, tuple) else (results,)
        return tuple(
            [symbolic.checked(r, t) for r, t in zip(results, self.types, strict=True)]
        )

    def error(self, message: str) -> TypeMismatch:
        """A TypeMismatch that names this op and its operands' types."""
        types = ", ".join("-" if v is None else str(v.type) for v in self.operands)
        return TypeMismatch(f"{self.kind}({types}): {message}")


def _may_be_followed(type_: Type) -> bool:
    """Small integer (or truth) tensors are what shapes are made of."""
    if not isinstance(type_, TensorType) or type_.shape is None:
        return False
    if type_.dtype is None or not (type_.dtype.is_integer or type_.dtype is DType.BOOL):
        return False
    size = 1
    for dim in type_.shape:
        if not isinstance(dim, int):
            return False
        size *= dim
    return size <= CONTENTS_LIMIT


class Structured(Computed):
    """An op that says how its results index its operands.

    ``maps`` is that one fact, in the notation of `graphopt.index`; where it depends on
    ranks, attributes or known operands, `index_maps` is overridden instead.
    """

    __slots__ = ()

    maps: ClassVar[str] = ""
    combiner: ClassVar[Combiner | None] = Combiner.SUM
    """How partial results over a reduced axis combine; None where they do not."""
    linear: ClassVar[tuple[tuple[int, ...], ...]] = ()
    """Operand sets in which the op is jointly linear."""
    flops: ClassVar[float] = 1.0
    """Floating-point operations per point of the domain."""

    def index_maps(self) -> Maps | None:
        """The index maps; None while a rank that they need is unknown."""
        return self.parse_maps(self.maps)

    def parse_maps(self, text: str, **facts: Any) -> Maps | None:
        """Index maps from their notation, with what the class declares."""
        ranks = [None if value is None else value.rank for value in self.operands]
        if any(
            rank is None and value is not None
            for rank, value in zip(ranks, self.operands, strict=True)
        ):
            return None
        facts = {
            "combiner": self.combiner,
            "linear": self.linear,
            "cost": self.flops,
        } | facts
        return parse(text, tuple(ranks), **facts)

    def extents(self) -> Mapping[str, Dim]:
        """Extents of axes that operands do not determine."""
        return {}

    def iteration_domain(self) -> tuple[Maps, dict[str, Dim]] | None:
        """The index maps with the extent of each axis; None where ranks are unknown.

        Raises TypeMismatch where operands clash.
        """
        shapes = [None if value is None else value.shape for value in self.operands]
        try:
            maps = self.index_maps()
            if maps is None:
                return None
            return maps, extents(maps, shapes, self.extents())
        except ValueError as error:
            raise self.error(str(error)) from None

    def result_shapes(self) -> Sequence[Shape | None]:
        domain = self.iteration_domain()
        if domain is None:
            return [None] * self.outs
        return list(result_shapes(*domain))[: self.outs]


class Elementwise(Structured):
    """Each result element depends on the operand elements at its position."""

    __slots__ = ()

    def index_maps(self) -> Maps | None:
        count = len(self.operands)
        return self.parse_maps(", ".join(["..."] * count) + " -> ...")

    def result_shapes(self) -> Sequence[Shape | None]:
        # The same answer as the maps give, at a tenth of the cost.
        shape: Shape = ()
        for value in self.operands:
            if value is None:
                continue
            other = value.shape
            if other is None:
                return [None] * self.outs
            try:
                shape = broadcast_shapes(shape, other)
            except ValueError as error:
                raise self.error(str(error)) from None
        return [shape] * self.outs


def broadcast_shapes(a: Shape, b: Shape) -> Shape:
    """NumPy's broadcasting on dims. Raises ValueError where they clash."""
    if a == b and None not in a:
        return a
    if len(a) < len(b):
        a, b = b, a
    lead = len(a) - len(b)
    return a[:lead] + tuple(broadcast(x, y) for x, y in zip(a[lead:], b, strict=True))


class Composite(Computed):
    """An op that means a body of simpler ops."""

    __slots__ = ("_expansion",)

    def body(self) -> Value | tuple[Value, ...] | None:
        """The same results by simpler ops, built on this op's operands.

        None where something that the body depends on is unknown (a rank, a constant).
        """
        raise NotImplementedError(f"{self.kind} has no body")

    @property
    def expansion(self) -> tuple[Value, ...] | None:
        """The body's results, built once."""
        try:
            return self._expansion
        except AttributeError:
            made = self.body()
            if made is not None and not isinstance(made, tuple):
                made = (made,)
            self._expansion: tuple[Value, ...] | None = made
            return made

    def infer(self) -> Sequence[Type]:
        made = self.expansion
        if made is None:
            dtypes = self.result_dtypes()
            return [TensorType(d) if d else UNKNOWN for d in dtypes]
        return [value.type for value in made[: self.outs]]


def constant_contents(array: np.ndarray[Any, Any]) -> Contents | None:
    """A small integer array as dims."""
    if array.size > CONTENTS_LIMIT or array.dtype.kind not in "iub":
        return None
    return symbolic.lift(array)
