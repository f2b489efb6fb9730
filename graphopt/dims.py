"""Symbolic dimensions: ints, polynomials in named symbols, or unknown.

A ``Dim`` is an ``int``, an ``Expr`` or ``None`` where nothing is known. Symbols stand
for integers >= 0, as the dims of a tensor do. Every function takes any Dim; an unknown
operand gives an unknown result, and ints never leave the fast path.

An ``Expr`` is in normal form: a sum of integer multiples of products of symbols,
``a // b``, ``a % b``, ``max(...)`` and ``min(...)``. Equal normal forms are equal dims;
the converse is tried (`equal`) but not promised. A quotient is simplified as if it were
defined, its divisor not being 0: ``n*m // n`` is ``m``.

Expressions are bounded: one of more than ``MAX_TERMS`` terms (those inside of quotients
and extrema included) or of a degree above ``MAX_DEGREE`` becomes ``None``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

from .polynomial import (
    ON_INTS,
    Atom,
    Polynomial,
    extremum,
    quotient_and_rest,
    without_rests,
)

MAX_TERMS: Final = 64
MAX_DEGREE: Final = 16
_MAX_NESTING: Final = 64  # parentheses that `parse_dim` follows


class Expr:
    """A polynomial that is not a constant. Immutable; made by `symbol` and operators.

    Operators return a Dim: an int where the result is constant, None where it would be
    too large.
    """

    __slots__ = ("polynomial",)

    def __init__(self, polynomial: Polynomial) -> None:
        self.polynomial = polynomial

    def __hash__(self) -> int:
        return hash(self.polynomial)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expr) and self.polynomial == other.polynomial

    def __reduce__(self) -> tuple[Callable[[str], Dim], tuple[str]]:
        return parse_dim, (str(self),)

    def __str__(self) -> str:
        return str(self.polynomial)

    def __repr__(self) -> str:
        return f"Expr({self})"

    def __add__(self, other: Dim) -> Dim:
        return add(self, other)

    def __radd__(self, other: int) -> Dim:
        return add(other, self)

    def __sub__(self, other: Dim) -> Dim:
        return sub(self, other)

    def __rsub__(self, other: int) -> Dim:
        return sub(other, self)

    def __mul__(self, other: Dim) -> Dim:
        return mul(self, other)

    def __rmul__(self, other: int) -> Dim:
        return mul(other, self)

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: int) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __rmod__(self, other: int) -> Dim:
        return mod(other, self)

    def __neg__(self) -> Expr:
        return Expr(-self.polynomial)


Dim: TypeAlias = int | Expr | None
Shape: TypeAlias = tuple[Dim, ...]


def symbol(name: str) -> Expr:
    """The dim called `name`. Raises ValueError for an empty name."""
    if not name:
        raise ValueError("a symbolic dim needs a name")
    return Expr(Polynomial.symbol(name))


# --- arithmetic ---------------------------------------------------------------------


def add(a: Dim, b: Dim) -> Dim:
    """a + b."""
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    if a is None or b is None:
        return None
    return _dim(_polynomial(a) + _polynomial(b))


def sub(a: Dim, b: Dim) -> Dim:
    """a - b."""
    if isinstance(a, int) and isinstance(b, int):
        return a - b
    if a is None or b is None:
        return None
    return _dim(_polynomial(a) - _polynomial(b))


def mul(a: Dim, b: Dim) -> Dim:
    """a * b."""
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    if a is None or b is None:
        return None
    if isinstance(a, int):
        a, b = b, a
    if isinstance(b, int):
        return a if b == 1 else _dim(_polynomial(a).scaled(b))
    return _dim(_polynomial(a) * _polynomial(b))


def floordiv(a: Dim, b: Dim) -> Dim:
    """a // b, rounded towards minus infinity. Raises ZeroDivisionError for b == 0."""
    if isinstance(b, int) and b == 0:
        raise ZeroDivisionError(f"{format_dim(a)} // 0")
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if a is None or b is None:
        return None
    return _dim(quotient_and_rest(_polynomial(a), _polynomial(b))[0])


def mod(a: Dim, b: Dim) -> Dim:
    """a % b, with the sign of b. Raises ZeroDivisionError for b == 0."""
    if isinstance(b, int) and b == 0:
        raise ZeroDivisionError(f"{format_dim(a)} % 0")
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if a is None or b is None:
        return None
    return _dim(quotient_and_rest(_polynomial(a), _polynomial(b))[1])


def ceildiv(a: Dim, b: Dim) -> Dim:
    """a / b rounded up, for b > 0: ``(a + b - 1) // b``."""
    if isinstance(a, int) and isinstance(b, int):
        return -(-a // b)
    return floordiv(add(a, sub(b, 1)), b)


def maximum(a: Dim, b: Dim) -> Dim:
    """The larger of a and b."""
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    if a is None or b is None:
        return None
    return _dim(extremum("max", _polynomial(a), _polynomial(b)))


def minimum(a: Dim, b: Dim) -> Dim:
    """The smaller of a and b."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    if a is None or b is None:
        return None
    return _dim(extremum("min", _polynomial(a), _polynomial(b)))


def numbers(dim: Dim) -> tuple[int, ...]:
    """An integer, or the factors in an expression; atoms within it have their own."""
    if isinstance(dim, Expr):
        return tuple([number for _, number in dim.polynomial.terms])
    return () if dim is None else (dim,)


def product(dims: Iterable[Dim]) -> Dim:
    """The number of elements of a shape; 0 where one dim is 0, whatever the others."""
    result: Dim = 1
    for dim in dims:
        if isinstance(dim, int) and dim == 0:
            return 0
        result = mul(result, dim)
    return result


# --- knowledge ----------------------------------------------------------------------


def equal(a: Dim, b: Dim) -> bool:
    """True where a and b are known to be equal. An unknown dim equals nothing."""
    if a is None or b is None:
        return False
    if a == b:
        return True
    if isinstance(a, int) and isinstance(b, int):
        return False
    # x % y and x - y*(x // y) are two normal forms of one dim: compare the second
    return not without_rests(_polynomial(a) - _polynomial(b)).terms


def at_least(dim: Dim, bound: int) -> bool:
    """True where ``dim >= bound`` can be proved, all symbols being >= 0."""
    low = lower_bound(dim)
    return low is not None and low >= bound


def nonnegative(dim: Dim) -> bool:
    """True where ``dim >= 0`` can be proved."""
    return at_least(dim, 0)


def positive(dim: Dim) -> bool:
    """True where ``dim >= 1`` can be proved."""
    return at_least(dim, 1)


def lower_bound(dim: Dim) -> int | None:
    """The greatest provable lower bound, or None."""
    return dim.polynomial.lower() if isinstance(dim, Expr) else dim


def upper_bound(dim: Dim) -> int | None:
    """The least provable upper bound, or None."""
    return dim.polynomial.upper() if isinstance(dim, Expr) else dim


def divide_exact(a: Dim, b: Dim) -> Dim:
    """a / b where b is known to divide a (wherever b is not 0), else None."""
    if a is None or b is None or b == 0:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return None if a % b else a // b
    quotient, rest = _polynomial(a).divided(_polynomial(b))
    return None if rest.terms else _dim(quotient)


def broadcast(a: Dim, b: Dim) -> Dim:
    """The dim that a and b broadcast to by NumPy's rule.

    A dim that cannot be 1 wins: a legal partner is 1 or equal to it; so does n against
    min(n, 2 or more). Two symbolic dims either of which may be 1 give None. Raises
    ValueError for ints that clash.
    """
    if isinstance(a, int) and isinstance(b, int):
        if a == b or b == 1:
            return a
        if a == 1:
            return b
        raise ValueError(f"dims {a} and {b} do not broadcast")
    if isinstance(a, int):
        return b if a == 1 else a
    if isinstance(b, int):
        return a if b == 1 else b
    if equal(a, b) or at_least(a, 2) or _caps(a, b):
        return a
    return b if at_least(b, 2) or _caps(b, a) else None


def _caps(a: Dim, b: Dim) -> bool:
    """True where b is min(a, k) with k >= 2: then b is 1 only where a is.

    So a legal pair has b == a, as where a table of k positions is sliced to length a.
    """
    if not isinstance(a, Expr) or not isinstance(b, Expr):
        return False
    atom = b.polynomial.single
    if atom is None or atom.operation != "min" or a.polynomial not in atom.operands:
        return False
    others = [x for x in atom.operands if x != a.polynomial]
    return all(not x.degree and x.constant >= 2 for x in others)


# --- symbols ------------------------------------------------------------------------


def symbols(dim: Dim) -> frozenset[str]:
    """The names of the symbols in a dim."""
    names: set[str] = set()
    todo = [dim.polynomial] if isinstance(dim, Expr) else []
    while todo:
        for monomial, _ in todo.pop().terms:
            for factor in monomial:
                if factor.operation == "symbol":
                    names.add(factor.key[0])
                todo += factor.operands
    return frozenset(names)


def substitute(dim: Dim, values: Mapping[str, Dim]) -> Dim:
    """`dim` with some symbols replaced, all at once.

    Raises ZeroDivisionError where a divisor comes out as 0.
    """
    if not isinstance(dim, Expr):
        return dim
    result: Dim = 0
    for monomial, coefficient in dim.polynomial.terms:
        term: Dim = coefficient
        for factor in monomial:
            term = mul(term, _substituted(factor, values))
        result = add(result, term)
    return result


def _substituted(factor: Atom, values: Mapping[str, Dim]) -> Dim:
    name, operation = factor.key
    if operation == "symbol":
        return values[name] if name in values else symbol(name)
    result, *rest = (substitute(_dim(x), values) for x in factor.operands)
    for x in rest:
        result = _OPERATIONS[operation](result, x)
    return result


def evaluate(
    dim: Dim,
    values: Mapping[str, Any],
    operations: Mapping[str, Callable[[Any, Any], Any]] | None = None,
) -> Any:
    """The number that a dim is for these symbols.

    ``values`` may be of any type that adds and multiplies like int; ``operations`` are
    then its ``//``, ``%``, ``max`` and ``min``. Raises KeyError naming a symbol without
    a value, ValueError for an unknown dim, and ZeroDivisionError where a divisor comes
    out as 0.
    """
    if dim is None:
        raise ValueError("an unknown dim has no value")
    if isinstance(dim, int):
        return dim
    return dim.polynomial.evaluate(values, operations or ON_INTS)


# --- normal form --------------------------------------------------------------------


def _polynomial(dim: int | Expr) -> Polynomial:
    return dim.polynomial if isinstance(dim, Expr) else Polynomial.number(dim)


def _dim(polynomial: Polynomial | None) -> Dim:
    if polynomial is None:
        return None
    if not polynomial.degree:
        return polynomial.constant
    if polynomial.size > MAX_TERMS or polynomial.degree > MAX_DEGREE:
        return None
    return Expr(polynomial)


# --- text ---------------------------------------------------------------------------


def format_dim(dim: Dim) -> str:
    """``2*n + 3``; ``?`` where unknown; names that are no identifiers are quoted."""
    return "?" if dim is None else str(dim)


def parse_dim(text: str) -> Dim:
    """The inverse of `format_dim`. Raises ValueError where the text is no dim."""
    dim, end = read_dim(text)
    if text[end:].strip():
        raise ValueError(f"{text!r}: {text[end:].strip()!r} does not belong to a dim")
    return dim


def read_dim(text: str, start: int = 0) -> tuple[Dim, int]:
    """The dim that begins at `start`, and the position after it."""
    reader = _Reader(text, start)
    return reader.sum(), reader.position


_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r'|(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<sign>//|\*\*|[-+*%(),?]))'
)


class _Reader:
    """Recursive descent: sums of products of signed powers of primaries."""

    def __init__(self, text: str, position: int) -> None:
        self.text = text
        self.position = position
        self.depth = 0

    def error(self, expected: str) -> ValueError:
        rest = self.text[self.position :].strip()
        return ValueError(f"{self.text!r}: expected {expected} before {rest!r}")

    def peek(self) -> str:
        found = _TOKEN.match(self.text, self.position)
        return (found["sign"] or "") if found else ""

    def take(self) -> re.Match[str]:
        found = _TOKEN.match(self.text, self.position)
        if found is None:
            raise self.error("a dim")
        self.position = found.end()
        return found

    def skip(self, sign: str) -> None:
        if self.peek() != sign:
            raise self.error(repr(sign))
        self.take()

    def sum(self) -> Dim:
        self.depth += 1
        if self.depth > _MAX_NESTING:
            raise self.error(f"at most {_MAX_NESTING} nested parentheses")
        result = self.product()
        while self.peek() in ("+", "-"):
            result = _OPERATIONS[self.take()["sign"]](result, self.product())
        self.depth -= 1
        return result

    def product(self) -> Dim:
        result = self.power()
        while self.peek() in ("*", "//", "%"):
            operation = _OPERATIONS[self.take()["sign"]]
            try:
                result = operation(result, self.power())
            except ZeroDivisionError:
                raise self.error("no division by zero") from None
        return result

    def power(self) -> Dim:
        sign = 1
        while self.peek() == "-":
            self.take()
            sign = -sign
        result = self.primary()
        if self.peek() == "**":
            self.take()
            exponent = int(self.take()["number"] or MAX_DEGREE + 1)
            if exponent > MAX_DEGREE:
                raise self.error(f"a power of at most {MAX_DEGREE}")
            result = product([result] * exponent)
        return mul(sign, result)

    def primary(self) -> Dim:
        token = self.take()
        if token["number"]:
            return int(token["number"])
        if token["quoted"]:
            return symbol(json.loads(token["quoted"]))
        if token["name"]:
            if token["name"] in ("max", "min") and self.peek() == "(":
                return self.extremum(token["name"])
            return symbol(token["name"])
        if token["sign"] == "?":
            return None
        if token["sign"] != "(":
            self.position = token.start("sign")
            raise self.error("a dim")
        inner = self.sum()
        self.skip(")")
        return inner

    def extremum(self, name: str) -> Dim:
        self.skip("(")
        result = self.sum()
        while self.peek() == ",":
            self.take()
            result = _OPERATIONS[name](result, self.sum())
        self.skip(")")
        return result


_OPERATIONS: Final[Mapping[str, Callable[[Dim, Dim], Dim]]] = {
    "+": add,
    "-": sub,
    "*": mul,
    "//": floordiv,
    "%": mod,
    "max": maximum,
    "min": minimum,
}
