"""Einstein sums spelled as products, sums, transposes and reshapes.

Other rules, and runtimes, know MatMul and not an equation: constants fold, transposes
cancel, attention is recognised. Axes are sorted as for any batched product: in both
operands and the result (batch), in both and summed, in one operand only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from graphopt.dims import Dim, equal, product
from graphopt.ir import Value
from graphopt.ops import (
    Attention,
    Constant,
    Einsum,
    MatMul,
    Mul,
    ReduceSum,
    Transpose,
)
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule
from graphopt.types import DType

from .shapes import reshape_to

UNKNOWN = 1024
"""What a symbolic dim counts where two orders of products are compared."""


@dataclass(frozen=True)
class Term:
    """A value and the name of each of its axes."""

    value: Value
    axes: tuple[str, ...]

    @property
    def dims(self) -> dict[str, Dim]:
        return dict(zip(self.axes, self.value.shape or (), strict=True))

    def summed(self, kept: Sequence[str]) -> Term:
        """Without the axes that are not among ``kept``."""
        gone = [i for i, name in enumerate(self.axes) if name not in kept]
        if not gone:
            return self
        axes = Constant(np.array(gone, np.int64))
        left = tuple(name for name in self.axes if name in kept)
        return Term(ReduceSum(self.value, axes, keepdims=0), left)

    def ordered(self, axes: Sequence[str]) -> Term:
        """With the axes in another order."""
        perm = tuple(self.axes.index(name) for name in axes)
        if perm == tuple(range(len(perm))):
            return self
        return Term(Transpose(self.value, perm=perm), tuple(axes))

    def grouped(self, groups: Sequence[Sequence[str]]) -> Value | None:
        """With the axes of each group as one dim, and 1 for none."""
        own = self.dims
        dims = [product([own[name] for name in group]) for group in groups]
        axes = [name for group in groups for name in group]
        return reshape_to(self.ordered(axes).value, tuple(dims))


def terms_of(op: Einsum) -> tuple[list[Term], tuple[str, ...]] | str:
    """The operands and the axes of the result, ``...`` spelled out; or why not."""
    words, result = op.terms()
    terms = []
    for value, names in zip(op.operands, words, strict=True):
        if value is None or value.rank is None:
            return "a rank is not known"
        axes = _named(names, value.rank)
        if len(set(axes)) < len(axes):
            return "an axis is named twice: a diagonal"
        terms.append(Term(value, axes))
    if "..." not in result and any("..." in names for names in words):
        return "leading axes are summed"
    dots = [len(t.axes) - len(n) + 1 for t, n in zip(terms, words, strict=True)]
    axes = _named(result, len(result) - 1 + max(dots))
    sizes: dict[str, Dim] = {}
    for term in terms:
        for name, dim in term.dims.items():
            if dim is None or not equal(sizes.setdefault(name, dim), dim):
                return "an axis is not known to be as long in all operands"
    return terms, axes


def _named(words: Sequence[str], rank: int) -> tuple[str, ...]:
    """Words for the axes, with those of ``...`` counted from the last."""
    if "..." not in words:
        return tuple(words)
    at, count = words.index("..."), rank - len(words) + 1
    dots = [f".{i}" for i in range(count, 0, -1)]
    return (*words[:at], *dots, *words[at + 1 :])


def contracted(a: Term, b: Term, axes: Sequence[str]) -> Value | None:
    """The product of two terms with these axes in the result, by simpler ops."""
    a, b = (t.summed([*axes, *other.axes]) for t, other in ((a, b), (b, a)))
    shared = [name for name in a.axes if name in b.axes]
    inner = [name for name in shared if name not in axes]
    batch = [name for name in axes if name in shared]
    rows = [name for name in axes if name in a.axes and name not in shared]
    columns = [name for name in axes if name in b.axes and name not in shared]
    if not inner or not (rows or columns):
        return _multiplied(a, b, axes, inner)
    if not batch and rows:  # a product with one matrix broadcasts over leading rows
        left = a.grouped([*[[name] for name in rows], inner])
        right = b.grouped([inner, columns]) if columns else b.grouped([inner])
        return _put(_product(left, right), a, b, [*rows, *columns], axes)
    lead = [[name] for name in batch]
    order = [*batch, *rows, *columns]
    merged = a.grouped([*lead, rows, inner]), b.grouped([*lead, inner, columns])
    made = _put(_product(*merged), a, b, order, axes)
    if made is not None or len(rows) < 2:
        return made
    *outer, last = rows  # there is no constant that tells how many rows: keep them
    left = a.grouped([*lead, *[[name] for name in outer], [last], inner])
    right = b.grouped([*lead, *[[] for _ in outer], inner, columns])
    return _put(_product(left, right), a, b, order, axes)


def _product(left: Value | None, right: Value | None) -> Value | None:
    return None if left is None or right is None else MatMul(left, right)


def _put(
    made: Value | None, a: Term, b: Term, order: Sequence[str], axes: Sequence[str]
) -> Value | None:
    """A product with its axes split again, in the order of the result."""
    own = a.dims | b.dims
    shape = tuple([own[name] for name in order])
    split = None if made is None else reshape_to(made, shape)
    return None if split is None else Term(split, tuple(order)).ordered(axes).value


def _multiplied(
    a: Term, b: Term, axes: Sequence[str], inner: Sequence[str]
) -> Value | None:
    """Elementwise, then summed: an outer product, or the sum of all products."""
    every = [*axes, *inner]
    wide = []
    for term in (a, b):
        groups = [[name] if name in term.axes else [] for name in every]
        first = next((i for i, group in enumerate(groups) if group), len(groups))
        value = term.grouped(groups[first:])
        if value is None:
            return None
        wide.append(value)
    return Term(Mul(*wide), tuple(every)).summed(axes).value


def running(made: Value, given: Sequence[Value | None]) -> int:
    """Ops down to the given values that are left when constants are folded."""
    stop = {v for v in given if v is not None}
    seen: dict[Value, bool] = {v: v.constant is None for v in stop}

    def runs(value: Value | None) -> bool:
        if value is None or value.constant is not None:
            return False
        if value not in seen:
            assert value.op is not None
            seen[value] = any(list(map(runs, value.op.operands)))
        return seen[value]

    runs(made)
    return sum(is_run for value, is_run in seen.items() if value not in stop)


_TYPES = (DType.F32, DType.F64, DType.F16)
"""Not bfloat16: ONNX Runtime has Einsum for that, and no products on the CPU."""


@rule(exact=False)
def einsum_of_one(op: Einsum) -> Outcome:
    """einsum("ijk->ki", x) = transpose(sum(x, j))"""
    if len(op.operands) != 1 or op.dtype not in _TYPES:
        return None
    found = terms_of(op)
    if isinstance(found, str):
        return miss(found, op)
    (term,), axes = found
    return term.summed(axes).ordered(axes).value


@rule(exact=False)
def einsum_of_two(op: Einsum, scene: Scene) -> Outcome:
    """einsum(a, b) = transpose(reshape(a) @ reshape(b))

    Where that takes more ops, only for an opset in which attention may come of it.
    """
    if len(op.operands) != 2 or op.dtype not in _TYPES:
        return None
    found = terms_of(op)
    if isinstance(found, str):
        return miss(found, op)
    (a, b), axes = found
    made = [contracted(a, b, axes), contracted(b, a, axes)]
    ways = [way for way in made if way is not None]
    if not ways:
        return miss("the dims cannot be said by a constant", op)
    best = min(ways, key=lambda way: running(way, op.operands))
    if running(best, op.operands) > 1 and not scene.has(Attention):
        return miss("it would take more ops", op)
    return best


@rule(exact=False)
def einsum_of_many(op: Einsum) -> Outcome:
    """einsum(a, b, c) = einsum(einsum(a, b), c), the smallest product first"""
    count = len(op.operands)
    if count < 3 or op.dtype not in _TYPES:
        return None
    found = terms_of(op)
    if isinstance(found, str):
        return miss(found, op)
    terms, axes = found
    sizes: dict[str, Dim] = {}
    for term in terms:
        sizes |= term.dims
    letters = {name: chr(ord("a") + i) for i, name in enumerate(sizes)}
    if len(letters) > 26:
        return miss("there are too many axes", op)

    def kept(i: int, j: int) -> list[str]:
        others = [n for k, t in enumerate(terms) if k not in (i, j) for n in t.axes]
        both = dict.fromkeys([*terms[i].axes, *terms[j].axes])
        return [name for name in both if name in axes or name in others]

    def size(names: Sequence[str]) -> int:
        numbers = [sizes[n] for n in names]
        return int(np.prod([d if isinstance(d, int) else UNKNOWN for d in numbers]))

    def price(pair: tuple[int, int]) -> tuple[int, int]:
        both = dict.fromkeys([*terms[pair[0]].axes, *terms[pair[1]].axes])
        return size(list(both)), size(kept(*pair))

    def spelled(names: Sequence[str]) -> str:
        return "".join(letters[name] for name in names)

    i, j = min(combinations(range(count), 2), key=price)
    middle = kept(i, j)
    pair = f"{spelled(terms[i].axes)},{spelled(terms[j].axes)}->{spelled(middle)}"
    first = Einsum(terms[i].value, terms[j].value, equation=pair)
    rest = [t for k, t in enumerate(terms) if k not in (i, j)]
    left = ",".join(spelled(names) for names in (middle, *[t.axes for t in rest]))
    return Einsum(first, *[t.value for t in rest], equation=f"{left}->{spelled(axes)}")


RULES: tuple[Rule, ...] = (einsum_of_one, einsum_of_two, einsum_of_many)


@dataclass(frozen=True)
class Einsums(RulePass):
    """Spell Einstein sums as products of matrices, where that is no longer.

    einsum("bij,bjk->bik", x, y)   -->   x @ y
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
