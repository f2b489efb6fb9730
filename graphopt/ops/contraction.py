"""Sums of products: matrix products, Einstein summation, determinants.

Narrow floats are summed in float32 and rounded once; integers wrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..dims import Dim
from ..index import Maps
from ..ir import Value
from ..types import DType, Type
from .bodies import cast, scalar
from .elementwise import Add, Mul, is_inexact
from .movement import Transpose
from .registry import op
from .steering import joined
from .structured import Array, Composite, Structured

if TYPE_CHECKING:
    from ..xp import Namespace


@op("MatMul")
class MatMul(Structured):
    """Matrix product over the last two axes, broadcast over the leading ones.

    A vector is a row on the left, a column on the right, and loses that axis again.
    """

    linear = ((0,), (1,))
    flops = 2.0

    def index_maps(self) -> Maps | None:
        a, b = (v.rank if v is not None else None for v in self.operands)
        if a is None or b is None:
            return None
        if not a or not b:
            raise self.error("a matrix product needs operands of rank 1 or more")
        left, m = ("... m k", "m") if a > 1 else ("k", "")
        right, n = ("... k n", "n") if b > 1 else ("k", "")
        lead = "..." if max(a, b) > 1 else ""
        return self.parse_maps(f"{left}, {right} -> {lead} {m} {n}")

    def compute(self, xp: Namespace, a: Array, b: Array) -> Array:
        return xp.matmul(a, b)


@op("Gemm")
class Gemm(Structured, Composite):
    """alpha * A' B' + beta * C, where ' transposes as the attributes ask.

    C broadcasts to the product. Integers are weighed as float64.
    """

    flops = 2.0

    def infer(self) -> Sequence[Type]:
        return Structured.infer(self)

    def index_maps(self) -> Maps | None:
        a = "k m" if self.transA else "m k"
        b = "n k" if self.transB else "k n"
        linear = ((0,), (1,)) if len(self.operands) < 3 else ((0, 2), (1, 2))
        facts: dict[str, Any] = {"linear": linear}
        if self._weighs() and not is_inexact(self._dtype(0)):
            # Parts are rounded, and so is the whole: their sum is another number.
            facts = {"combiner": None}
        if len(self.operands) < 3:
            return self.parse_maps(f"{a}, {b} -> m n", **facts)
        c = self.operands[2].rank  # type: ignore[union-attr]
        if c is None:
            return None
        words = ["m?", "n?"][2 - c :] if c else []
        return self.parse_maps(f"{a}, {b}, {' '.join(words)} -> m n", **facts)

    def body(self) -> Value | None:
        a, b, *rest = self.operands
        if a is None or a.dtype is None:
            return None
        own = a.dtype
        wide = DType.F64 if own.is_integer and self._weighs() else own
        a = Transpose(a, perm=(1, 0)) if self.transA else a
        b = Transpose(b, perm=(1, 0)) if self.transB else b
        result: Value = MatMul(a, b)
        result = cast(result, wide)
        if self.alpha != 1:
            result = Mul(scalar(self.alpha, wide), result)
        for c in rest:
            if c is not None:
                scaled = cast(c, wide)
                if self.beta != 1:
                    scaled = Mul(scalar(self.beta, wide), scaled)
                result = Add(result, scaled)
        return cast(result, own)

    def _weighs(self) -> bool:
        return self.alpha != 1 or (self.beta != 1 and len(self.operands) > 2)

    def compute(
        self, xp: Namespace, a: Array, b: Array, c: Array | None = None
    ) -> Array:
        a = xp.transpose(a) if self.transA else a
        b = xp.transpose(b) if self.transB else b

        def affine(a: Array, b: Array, *rest: Any) -> Array:
            result, own = xp.matmul(a, b), DType.of(a.dtype)
            if own.is_integer and self._weighs():
                result, *terms = (xp.cast(v, DType.F64) for v in (result, *rest))
            else:
                terms = list(rest)
            if self.alpha != 1:
                result = xp.multiply(result, self.alpha)
            for c in terms:
                scaled = c if self.beta == 1 else xp.multiply(c, self.beta)
                result = xp.add(result, scaled)
            return xp.cast(result, own)

        return xp.each(affine, a, b, *([] if c is None else [c]))


@op("Einsum")
class Einsum(Structured):
    """Einstein summation: ``bij, bjk -> bik``.

    An axis named twice in one operand is its diagonal; an extent of 1 meets any other.
    """

    flops = 2.0

    def index_maps(self) -> Maps | None:
        terms, result = self.terms()
        wide = self._repeated(terms)
        parts = [
            [name + "?" * (name in wide) for name in term] for term in (*terms, result)
        ]
        count = len(terms)
        return self.parse_maps(
            joined(parts[:count], [result]),
            linear=[(i,) for i in range(count)],
            cost=float(max(count, 1)),
        )

    def terms(self) -> tuple[list[list[str]], list[str]]:
        """The words of each operand and of the result: letters, and ``...``."""
        left, arrow, right = self.equation.replace(" ", "").partition("->")
        terms = [_words(term) for term in left.split(",")]
        if len(terms) != len(self.operands):
            raise self.error(f"the equation {self.equation!r} has {len(terms)} terms")
        if arrow:
            return terms, _words(right)
        names = [name for term in terms for name in term]
        once = sorted(n for n in names if names.count(n) == 1 and n != "...")
        return terms, ["..."] * ("..." in names) + once

    def _repeated(self, terms: list[list[str]]) -> set[str]:
        """Axes for which one operand has extent 1 and another has more."""
        found: dict[str, set[Dim]] = {}
        for term, value in zip(terms, self.operands, strict=True):
            shape = None if value is None else value.shape
            if shape is not None and "..." not in term:
                for name, dim in zip(term, shape, strict=False):
                    found.setdefault(name, set()).add(dim)
        return {name for name, dims in found.items() if 1 in dims and len(dims) > 1}

    def compute(self, xp: Namespace, *operands: Array) -> Array:
        return xp.einsum(self.equation, *operands)


def _words(term: str) -> list[str]:
    """``a...b`` as a, ..., b."""
    head, dots, tail = term.partition("...")
    return [*head, dots, *tail] if dots else [*head]


@op("Det")
class Det(Structured):
    """The determinant of the last two axes."""

    maps = "... _r _c -> ..."
    combiner = None

    def compute(self, xp: Namespace, x: Array) -> Array:
        return xp.det(x)
