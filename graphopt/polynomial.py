"""Integer polynomials over atoms: the algebra under symbolic dims.

An atom is a symbol (an integer >= 0) or what no polynomial can say: a quotient, a
rest, a maximum or a minimum of polynomials. Simplification and provable bounds need
each other, so both are here; `graphopt.dims` adds the unknown and the too large.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache, reduce
from typing import Any, Final, Literal, TypeAlias

_RELAXATIONS: Final = 6  # atoms that the search for one bound may replace

ON_INTS: Final[Mapping[str, Callable[[int, int], int]]] = {
    "//": operator.floordiv,
    "%": operator.mod,
    "max": max,
    "min": min,
}

Operation: TypeAlias = Literal["symbol", "//", "%", "max", "min"]
Bounds: TypeAlias = tuple[int | None, int | None]  # inclusive; None is infinite


class Atom:
    """A factor of a monomial. Interned: equal atoms are one object."""

    __slots__ = ("bounds", "key", "operands", "operation", "size")

    def __init__(
        self, operation: Operation, operands: tuple[Polynomial, ...], text: str
    ) -> None:
        self.operation = operation
        self.operands = operands
        self.key = text, operation  # orders atoms; of a symbol, text is its bare name
        self.size = sum(x.size for x in operands)
        self.bounds = _atom_bounds(operation, operands)


Monomial: TypeAlias = tuple[Atom, ...]  # in order of key, powers repeated

_symbols: dict[str, Polynomial] = {}
_atoms: dict[tuple[Operation, tuple[Polynomial, ...]], Atom] = {}


class Polynomial:
    """A sum of integer multiples of monomials. Immutable; equal where its terms are."""

    __slots__ = ("_hash", "_lower", "size", "terms")

    terms: tuple[tuple[Monomial, int], ...]
    size: int  # terms, those inside of atoms included

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        kept = [(m, c) for m, c in terms.items() if c]
        kept.sort(key=_term_key)
        self.terms = tuple(kept)
        self.size = len(kept) + sum(x.size for m, _ in kept for x in m)
        self._hash = hash(self.terms)
        self._lower: tuple[int | None] | None = None

    @classmethod
    def number(cls, value: int) -> Polynomial:
        return cls({(): value})

    @classmethod
    def symbol(cls, name: str) -> Polynomial:
        found = _symbols.get(name)
        if found is None:
            found = _symbols[name] = cls({(Atom("symbol", (), name),): 1})
        return found

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Polynomial) or self._hash != other._hash:
            return False
        return self.terms == other.terms

    @property
    def degree(self) -> int:
        """The length of the longest monomial; 0 for constants."""
        return len(self.terms[0][0]) if self.terms else 0

    @property
    def constant(self) -> int:
        """The term without symbols."""
        if self.terms:
            monomial, coefficient = self.terms[-1]
            if not monomial:
                return coefficient
        return 0

    @property
    def single(self) -> Atom | None:
        """The atom, where the polynomial is just that."""
        if len(self.terms) != 1:
            return None
        monomial, coefficient = self.terms[0]
        return monomial[0] if coefficient == 1 and len(monomial) == 1 else None

    def __add__(self, other: Polynomial) -> Polynomial:
        return self._plus(other, 1)

    def __sub__(self, other: Polynomial) -> Polynomial:
        return self._plus(other, -1)

    def _plus(self, other: Polynomial, scale: int) -> Polynomial:
        terms = dict(self.terms)
        for monomial, coefficient in other.terms:
            terms[monomial] = terms.get(monomial, 0) + scale * coefficient
        return Polynomial(terms)

    def scaled(self, factor: int) -> Polynomial:
        return Polynomial({m: c * factor for m, c in self.terms})

    def __neg__(self) -> Polynomial:
        return self.scaled(-1)

    def __mul__(self, other: Polynomial) -> Polynomial:
        terms: dict[Monomial, int] = {}
        for left, x in self.terms:
            for right, y in other.terms:
                both = left + right
                if left and right:
                    both = tuple(sorted(both, key=_atom_key))
                terms[both] = terms.get(both, 0) + x * y
        return Polynomial(terms)

    def divided(self, divisor: Polynomial) -> tuple[Polynomial, Polynomial]:
        """(q, r): self == q*divisor + r, no term of r a multiple of divisor's first."""
        head, scale = divisor.terms[0]
        quotient = rest = Polynomial({})
        todo = self
        while todo.terms:
            monomial, coefficient = todo.terms[0]
            factor = _without(monomial, head)
            if factor is None or coefficient % scale:
                term = Polynomial({monomial: coefficient})
                rest, todo = rest + term, todo - term
            else:
                term = Polynomial({factor: coefficient // scale})
                quotient, todo = quotient + term, todo - term * divisor
        return quotient, rest

    def evaluate(
        self,
        values: Mapping[str, Any],
        operations: Mapping[str, Callable[[Any, Any], Any]],
    ) -> Any:
        """The number that this is for these symbols; see `graphopt.dims.evaluate`."""
        total: Any = 0
        for monomial, coefficient in self.terms:
            term: Any = coefficient
            for factor in monomial:
                name, operation = factor.key
                if operation == "symbol":
                    term = term * values[name]
                    continue
                parts = [x.evaluate(values, operations) for x in factor.operands]
                term = term * reduce(operations[operation], parts)
            total = total + term
        return total

    def common_factor(self, other: Polynomial) -> Polynomial:
        """The greatest monomial that divides every term of both."""
        (first, _), *others = self.terms + other.terms
        shared = Counter(first)
        for monomial, _ in others:
            shared &= Counter(monomial)
        return Polynomial({tuple(sorted(shared.elements(), key=_atom_key)): 1})

    def content(self) -> int:
        """The greatest common divisor of the coefficients."""
        return math.gcd(*(c for _, c in self.terms))

    def lower(self) -> int | None:
        """The greatest provable lower bound."""
        if self._lower is None:
            self._lower = (_lower(self, _RELAXATIONS),)
        return self._lower[0]

    def upper(self) -> int | None:
        """The least provable upper bound."""
        low = (-self).lower()
        return None if low is None else -low

    def __str__(self) -> str:
        parts: list[str] = []
        for monomial, coefficient in self.terms:
            alone = len(monomial) == 1 and coefficient == 1
            factors = [_factor_text(x, alone) for x in monomial]
            if abs(coefficient) != 1 or not factors:
                factors.insert(0, str(abs(coefficient)))
            if parts:
                parts.append(" - " if coefficient < 0 else " + ")
            elif coefficient < 0:
                parts.append("-")
            parts.append("*".join(factors))
        return "".join(parts) or "0"


def _atom_key(atom: Atom) -> tuple[str, str]:
    return atom.key


def _term_key(term: tuple[Monomial, int]) -> tuple[int, list[tuple[str, str]]]:
    """Higher degrees first, then by text: a monomial order, and the order in print."""
    return -len(term[0]), [x.key for x in term[0]]


def _without(monomial: Monomial, factor: Monomial) -> Monomial | None:
    """monomial / factor, or None."""
    rest = list(monomial)
    for x in factor:
        if x not in rest:
            return None
        rest.remove(x)
    return tuple(rest)


# --- rounding and extrema -----------------------------------------------------------


def _atom(operation: Operation, *operands: Polynomial) -> Polynomial:
    """The interned atom of these operands, as a polynomial."""
    if operation in ("max", "min"):
        operands = tuple(sorted(operands, key=lambda x: (not x.degree, str(x))))
    found = _atoms.get((operation, operands))
    if found is None:
        found = Atom(operation, operands, _atom_text(operation, operands))
        _atoms[operation, operands] = found
    return Polynomial({(found,): 1})


def _within(a: Polynomial, b: Polynomial) -> bool:
    """0 <= a < b, provably."""
    return _at_least(a, 0) and _at_least(b - a, 1)


def _at_least(a: Polynomial, bound: int) -> bool:
    low = a.lower()
    return low is not None and low >= bound


@lru_cache(4096)
def quotient_and_rest(a: Polynomial, b: Polynomial) -> tuple[Polynomial, Polynomial]:
    """(a // b, a % b), with what divides pulled out: (q*b + r) // b == q + r // b."""
    zero = Polynomial({})
    if not b.degree:
        k = b.constant
        if k > 0:
            return _divmod_by_int(a, k)
        quotient, rest = _divmod_by_int(-a, -k)
        return quotient, -rest
    if not a.terms or _within(a, b):
        return zero, a
    common = a.common_factor(b)
    if common.degree:  # g*x // (g*y) == x // y, and g*x % (g*y) == g * (x % y)
        quotient, rest = quotient_and_rest(a.divided(common)[0], b.divided(common)[0])
        return quotient, common * rest
    quotient, rest = a.divided(b)
    if not rest.terms or _within(rest, b):
        return quotient, rest
    if len(b.terms) > 1:  # n // (n - m) reads better than 1 + m // (n - m)
        quotient, rest = zero, a
    return quotient + _atom("//", rest, b), _atom("%", rest, b)


def _divmod_by_int(a: Polynomial, k: int) -> tuple[Polynomial, Polynomial]:
    """(a // k, a % k) for k > 0; coefficients that stay inside are in [0, k)."""
    quotient = Polynomial({m: c // k for m, c in a.terms})
    rest = Polynomial({m: c % k for m, c in a.terms})
    if not rest.degree:
        return quotient, rest
    # (g*x + c) // (g*k) == (x + c//g) // k, and (g*x + c) % (g*k) == g*(...) + c%g
    symbolic = rest - Polynomial.number(rest.constant)
    shared = Polynomial({(): k, **dict(symbolic.terms)}).content()
    inside = Polynomial({m: c // shared for m, c in rest.terms})
    low = Polynomial.number(rest.constant % shared)
    small = Polynomial.number(k // shared)
    if _within(inside, small):
        return quotient, inside.scaled(shared) + low
    part = _nested_quotient(inside, k // shared)
    return quotient + part, _atom("%", inside, small).scaled(shared) + low


def _nested_quotient(a: Polynomial, k: int) -> Polynomial:
    """a // k, where (x // j + c) // k == (x + c*j) // (j*k)."""
    inner = (a - Polynomial.number(a.constant)).single
    if inner is not None and inner.operation == "//" and not inner.operands[1].degree:
        x, j = inner.operands[0], inner.operands[1].constant
        return _divmod_by_int(x + Polynomial.number(a.constant * j), j * k)[0]
    return _atom("//", a, Polynomial.number(k))


@lru_cache(4096)
def extremum(
    operation: Literal["max", "min"], a: Polynomial, b: Polynomial
) -> Polynomial:
    """max or min, without the operands that another one provably outdoes."""
    sign = 1 if operation == "max" else -1
    operands: list[Polynomial] = []
    for new in (*_flat(operation, a), *_flat(operation, b)):
        if not any(_at_least((old - new).scaled(sign), 0) for old in operands):
            operands = [x for x in operands if not _at_least((new - x).scaled(sign), 0)]
            operands.append(new)
    return _without_common(operation, operands)


def _flat(operation: Operation, a: Polynomial) -> list[Polynomial]:
    """g*max(x, y) + c == max(g*x + c, g*y + c), for g > 0 and a single such atom."""
    found = [t for t in a.terms if len(t[0]) == 1 and t[0][0].operation == operation]
    if len(found) != 1 or found[0][1] < 0:
        return [a]
    (monomial, factor) = found[0]
    rest = a - Polynomial({monomial: factor})
    return [x.scaled(factor) + rest for x in monomial[0].operands]


def _without_common(operation: Operation, operands: list[Polynomial]) -> Polynomial:
    """max(g*x + c, g*y + c) == g*max(x, y) + c; likewise min."""
    if len(operands) == 1:
        return operands[0]
    terms = set.intersection(*(set(x.terms) for x in operands))
    common = Polynomial(dict(terms))
    if all(x.degree for x in operands) and not common.constant:
        common += Polynomial.number(min(x.constant for x in operands))
    rests = [x - common for x in operands]
    factor = math.gcd(*(x.content() for x in rests))
    parts = [Polynomial({m: c // factor for m, c in x.terms}) for x in rests]
    return _atom(operation, *parts).scaled(factor) + common


def without_rests(a: Polynomial) -> Polynomial:
    """`a` with each x % y outside of other atoms spelled x - y*(x // y)."""
    if not any(x.operation == "%" for monomial, _ in a.terms for x in monomial):
        return a
    result = Polynomial({})
    for monomial, coefficient in a.terms:
        term = Polynomial.number(coefficient)
        for factor in monomial:
            if factor.operation == "%":
                x, y = factor.operands
                term *= x - y * quotient_and_rest(x, y)[0]
            else:
                term *= Polynomial({(factor,): 1})
        result += term
    return result


# --- bounds -------------------------------------------------------------------------


def _atom_bounds(operation: Operation, operands: tuple[Polynomial, ...]) -> Bounds:
    if operation == "symbol":
        return 0, None
    lows, highs = [x.lower() for x in operands], [x.upper() for x in operands]
    if operation == "max":
        return _best(max, lows), _worst(max, highs)
    if operation == "min":
        return _worst(min, lows), _best(min, highs)
    (low, least), (high, most) = lows, highs
    if least is None or least < 0:
        return None, None
    least = max(least, 1)  # a divisor is not 0 where the quotient is defined
    if operation == "//":
        return _quotient(low, least, most, 0), _quotient(high, most, least, -1)
    below = None if most is None else most - 1
    # x % y <= x holds for x >= 0 only
    return 0, _best(min, [below, high if _natural(operands[0]) else None])


def _best(choose: Callable[[list[int]], int], bounds: list[int | None]) -> int | None:
    """The bound of an extremum that any one operand's bound implies."""
    known = [x for x in bounds if x is not None]
    return choose(known) if known else None


def _worst(choose: Callable[[list[int]], int], bounds: list[int | None]) -> int | None:
    """The bound of an extremum that all operands' bounds imply together."""
    return None if None in bounds else _best(choose, bounds)


def _natural(x: Polynomial) -> bool:
    low = x.lower()
    return low is not None and low >= 0


def _quotient(
    a: int | None, if_negative: int | None, if_positive: int | None, limit: int
) -> int | None:
    """a // b for the b that makes it extreme; `limit` is neared as b grows."""
    if a is None:
        return None
    b = if_negative if a < 0 else if_positive
    return limit if b is None else a // b


def _monomial_bounds(monomial: Monomial) -> Bounds:
    if len(monomial) == 1:
        return monomial[0].bounds
    factors = [x.bounds for x in monomial]
    if any(below is None or below < 0 for below, _ in factors):
        return None, None
    low = math.prod(below or 0 for below, _ in factors)
    tops = [above for _, above in factors]
    return low, None if None in tops else math.prod(x or 0 for x in tops)


def _lower(polynomial: Polynomial, relaxations: int) -> int | None:
    """Interval arithmetic, and again with one atom replaced by what bounds it."""
    best: int | None = 0
    for monomial, coefficient in polynomial.terms:
        low, high = _monomial_bounds(monomial)
        end = low if coefficient > 0 else high
        if end is None:
            best = None
            break
        best = (best or 0) + coefficient * end
    if relaxations:
        choose, smaller = _relaxed(polynomial)
        lows = [
            None if low is None else -(-low // scale)
            for scale, low in ((k, _lower(q, relaxations - 1)) for k, q in smaller)
        ]
        best = _best(max, [best, (_best if choose is max else _worst)(choose, lows)])
    return best


_Relaxed: TypeAlias = tuple[Callable[[list[int]], int], list[tuple[int, "Polynomial"]]]


def _relaxed(polynomial: Polynomial) -> _Relaxed:
    """What bounds a polynomial from below, each being free of one atom.

    Pairs (s, q) such that ``s * polynomial >= q`` for all of them (combined by max) or
    for one of them (combined by min). The atom is the first with a linear term c*atom:

    - c > 0: max(x, y) >= x and y; min(x, y) is x or y
    - c < 0: min(x, y) <= x and y; max(x, y) is x or y; x % y <= x for x >= 0
    - k > 0: x - k + 1 <= k * (x // k) <= x
    """
    for monomial, c in polynomial.terms:
        if len(monomial) != 1:
            continue
        operation, operands = monomial[0].operation, monomial[0].operands
        rest = polynomial - Polynomial({monomial: c})
        if operation in ("max", "min"):
            choose = max if operation == ("max" if c > 0 else "min") else min
            return choose, [(1, rest + x.scaled(c)) for x in operands]
        if operation == "%" and c < 0 and _natural(operands[0]):
            return max, [(1, rest + operands[0].scaled(c))]
        if operation == "//" and not operands[1].degree:
            k = operands[1].constant
            x = operands[0] if c < 0 else operands[0] - Polynomial.number(k - 1)
            return max, [(k, rest.scaled(k) + x.scaled(c))]
    return max, []


# --- text ---------------------------------------------------------------------------

_PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _factor_text(atom: Atom, alone: bool) -> str:
    text, operation = atom.key
    if operation == "symbol":
        plain = _PLAIN_NAME.fullmatch(text) and text not in ("max", "min")
        return text if plain else json.dumps(text)
    return text if alone or operation in ("max", "min") else f"({text})"


def _atom_text(operation: Operation, operands: tuple[Polynomial, ...]) -> str:
    if operation in ("max", "min"):
        return f"{operation}({', '.join(map(str, operands))})"
    a, b = (str(x) if _stands_alone(x) else f"({x})" for x in operands)
    return f"{a} {operation} {b}"


def _stands_alone(x: Polynomial) -> bool:
    """Needs no parentheses beside // or %."""
    if not x.degree:
        return x.constant >= 0
    return x.single is not None and x.single.operation not in ("//", "%")
