"""Symbolic dimensions: integer polynomials in dims that are not known yet.

A ``Dim`` is an ``int``, an ``Expr`` over named symbols, or ``None`` where nothing is
known. Symbols stand for integers >= 0, as the dims of a tensor do. Every function takes
any Dim; unknown operands give an unknown result, and ints never leave the fast path.

An ``Expr`` is in normal form: a sum of integer multiples of products of atoms, where an
atom is a symbol, ``a // b``, ``a % b``, ``max(...)`` or ``min(...)``. Equal normal forms
are equal dims; the converse is tried (``equal``) but not promised. A quotient is defined
where its divisor is not 0, and simplified accordingly: ``n*m // n`` is ``m``.

Expressions are bounded: one of more than ``MAX_TERMS`` terms (those inside atoms
included) or of a degree above ``MAX_DEGREE`` becomes ``None``.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

MAX_TERMS: Final = 64
MAX_DEGREE: Final = 16
_MAX_NESTING: Final = 64  # parentheses that `parse_dim` follows
_RELAXATIONS: Final = 6  # atoms that one lower bound may look into


class Expr:
    """A polynomial that is not a constant. Immutable; made by `symbol` and operators.

    Operators return a Dim: an int where the result is constant, None where it would be
    too large.
    """

    __slots__ = ("_hash", "_lower", "size", "terms")

    terms: tuple[tuple[Monomial, int], ...]
    size: int

    def __init__(self, terms: tuple[tuple[Monomial, int], ...], size: int) -> None:
        self.terms = terms
        self.size = size
        self._hash = hash(terms)
        self._lower: int | None | str = "unset"

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Expr) or self._hash != other._hash:
            return False
        return self.terms == other.terms

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return parse_dim, (format_dim(self),)

    def __str__(self) -> str:
        return _format(self)

    def __repr__(self) -> str:
        return f"Expr({_format(self)})"

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

    def __neg__(self) -> Dim:
        return mul(-1, self)


Dim: TypeAlias = int | Expr | None
Shape: TypeAlias = tuple[Dim, ...]


class Atom:
    """A factor of a monomial: a symbol or an operation that no polynomial can say.

    Atoms are interned by their text, so that one is equal to itself only.
    """

    __slots__ = ("bounds", "operands", "operation", "size", "text")

    def __init__(
        self, operation: str, operands: tuple[int | Expr, ...], text: str
    ) -> None:
        self.operation = operation  # "symbol", "//", "%", "max" or "min"
        self.operands = operands
        self.text = text  # of a symbol: its bare name
        self.size = sum(x.size for x in operands if isinstance(x, Expr))
        self.bounds = _atom_bounds(operation, operands)


Monomial: TypeAlias = tuple[Atom, ...]  # factors in order of text, powers repeated
_Polynomial: TypeAlias = dict[Monomial, int]
_Bounds: TypeAlias = tuple[int | None, int | None]  # inclusive; None is infinite

_symbols: dict[str, Expr] = {}
_atoms: dict[tuple[str, tuple[int | Expr, ...]], Atom] = {}


def symbol(name: str) -> Expr:
    """The dim called `name`. Raises ValueError for an empty name."""
    found = _symbols.get(name)
    if found is None:
        if not name:
            raise ValueError("a symbolic dim needs a name")
        atom = Atom("symbol", (), name)
        found = _symbols[name] = Expr((((atom,), 1),), 1)
    return found


# --- arithmetic ---------------------------------------------------------------------


def add(a: Dim, b: Dim) -> Dim:
    """a + b."""
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    if a is None or b is None:
        return None
    if b == 0:
        return a
    if a == 0:
        return b
    return _dim(_sum(_polynomial(a), _polynomial(b)))


def sub(a: Dim, b: Dim) -> Dim:
    """a - b."""
    if isinstance(a, int) and isinstance(b, int):
        return a - b
    if a is None or b is None:
        return None
    return _dim(_sum(_polynomial(a), _polynomial(b), -1))


def mul(a: Dim, b: Dim) -> Dim:
    """a * b."""
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    if a is None or b is None:
        return None
    if a == 1:
        return b
    if b == 1:
        return a
    return _dim(_product(_polynomial(a), _polynomial(b)))


def floordiv(a: Dim, b: Dim) -> Dim:
    """a // b, rounded towards minus infinity. Raises ZeroDivisionError for b == 0."""
    if isinstance(b, int) and b == 0:
        raise ZeroDivisionError(f"{format_dim(a)} // 0")
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if a is None or b is None:
        return None
    return _divide(a, b)[0]


def mod(a: Dim, b: Dim) -> Dim:
    """a % b, with the sign of b. Raises ZeroDivisionError for b == 0."""
    if isinstance(b, int) and b == 0:
        raise ZeroDivisionError(f"{format_dim(a)} % 0")
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if a is None or b is None:
        return None
    return _divide(a, b)[1]


def ceildiv(a: Dim, b: Dim) -> Dim:
    """a / b rounded up, for b > 0: ``(a + b - 1) // b``."""
    if isinstance(a, int) and isinstance(b, int):
        return -(-a // b)
    return floordiv(add(a, sub(b, 1)), b)


def maximum(a: Dim, b: Dim) -> Dim:
    """The larger of a and b."""
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    return _extremum("max", a, b)


def minimum(a: Dim, b: Dim) -> Dim:
    """The smaller of a and b."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return _extremum("min", a, b)


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
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    if a == b:
        return True
    difference = sub(a, b)
    # x % y and x - y*(x // y) are two normal forms of one dim: compare the second.
    return isinstance(difference, Expr) and _without_mod(difference) == 0


def at_least(dim: Dim, bound: int) -> bool:
    """True where ``dim >= bound`` can be proved, all symbols being >= 0."""
    if isinstance(dim, int):
        return dim >= bound
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
    if not isinstance(dim, Expr):
        return dim
    if isinstance(dim._lower, str):
        dim._lower = _lower(dim, _RELAXATIONS)
    return dim._lower


def upper_bound(dim: Dim) -> int | None:
    """The least provable upper bound, or None."""
    if not isinstance(dim, Expr):
        return dim
    low = lower_bound(-dim)
    return None if low is None else -low


def divide_exact(a: Dim, b: Dim) -> Dim:
    """a / b where b is known to divide a (wherever b is not 0), else None."""
    if a is None or b is None or b == 0:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return None if a % b else a // b
    quotient, rest = _long_division(_polynomial(a), _polynomial(b))
    return None if rest else _dim(quotient)


def broadcast(a: Dim, b: Dim) -> Dim:
    """The dim that a and b broadcast to by NumPy's rule.

    A dim that cannot be 1 wins: a legal partner is 1 or equal to it. Two symbolic dims
    either of which may be 1 give None. Raises ValueError for ints that clash.
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
    if equal(a, b) or at_least(a, 2):
        return a
    return b if at_least(b, 2) else None


# --- symbols ------------------------------------------------------------------------


def symbols(dim: Dim) -> frozenset[str]:
    """The names of the symbols in a dim."""
    if not isinstance(dim, Expr):
        return frozenset()
    names: set[str] = set()
    for monomial, _ in dim.terms:
        for atom in monomial:
            if atom.operation == "symbol":
                names.add(atom.text)
            else:
                names.update(*map(symbols, atom.operands))
    return frozenset(names)


def substitute(dim: Dim, values: Mapping[str, Dim]) -> Dim:
    """`dim` with some symbols replaced, all at once."""
    if not isinstance(dim, Expr):
        return dim
    result: Dim = 0
    for monomial, coefficient in dim.terms:
        term: Dim = coefficient
        for atom in monomial:
            term = mul(term, _substitute_atom(atom, values))
        result = add(result, term)
    return result


def evaluate(dim: Dim, values: Mapping[str, int]) -> int:
    """The number that a dim is for these symbols.

    Raises KeyError naming a symbol without a value, ValueError for an unknown dim, and
    ZeroDivisionError where a divisor comes out as 0.
    """
    if isinstance(dim, int):
        return dim
    if dim is None:
        raise ValueError("an unknown dim has no value")
    total = 0
    for monomial, coefficient in dim.terms:
        for atom in monomial:
            coefficient *= _evaluate_atom(atom, values)
        total += coefficient
    return total


def _substitute_atom(atom: Atom, values: Mapping[str, Dim]) -> Dim:
    if atom.operation == "symbol":
        return values[atom.text] if atom.text in values else symbol(atom.text)
    result, *rest = (substitute(x, values) for x in atom.operands)
    for x in rest:
        result = _OPERATIONS[atom.operation](result, x)
    return result


def _evaluate_atom(atom: Atom, values: Mapping[str, int]) -> int:
    if atom.operation == "symbol":
        return values[atom.text]
    operands = [evaluate(x, values) for x in atom.operands]
    match atom.operation:
        case "//":
            return operands[0] // operands[1]
        case "%":
            return operands[0] % operands[1]
        case "max":
            return max(operands)
        case _:
            return min(operands)


# --- normal form --------------------------------------------------------------------


def _monomial_key(monomial: Monomial) -> tuple[int, list[tuple[str, str]]]:
    """Higher degrees first, then by text: a monomial order, and how dims print."""
    return -len(monomial), [(x.text, x.operation) for x in monomial]


def _atom_key(atom: Atom) -> tuple[str, str]:
    return atom.text, atom.operation


def _polynomial(dim: int | Expr) -> _Polynomial:
    if isinstance(dim, int):
        return {(): dim} if dim else {}
    return dict(dim.terms)


def _dim(polynomial: _Polynomial) -> Dim:
    """The Dim of a polynomial without zero terms."""
    if not polynomial:
        return 0
    if len(polynomial) == 1 and () in polynomial:
        return polynomial[()]
    size = len(polynomial)
    for monomial in polynomial:
        if len(monomial) > MAX_DEGREE:
            return None
        size += sum(atom.size for atom in monomial)
    if size > MAX_TERMS:
        return None
    ordered = sorted(polynomial.items(), key=lambda term: _monomial_key(term[0]))
    return Expr(tuple(ordered), size)


def _sum(a: _Polynomial, b: _Polynomial, scale: int = 1) -> _Polynomial:
    result = dict(a)
    for monomial, coefficient in b.items():
        value = result.get(monomial, 0) + scale * coefficient
        if value:
            result[monomial] = value
        else:
            result.pop(monomial, None)
    return result


def _product(a: _Polynomial, b: _Polynomial) -> _Polynomial:
    result: _Polynomial = {}
    for left, x in a.items():
        for right, y in b.items():
            both = left + right
            if left and right:
                both = tuple(sorted(both, key=_atom_key))
            result[both] = result.get(both, 0) + x * y
    return {monomial: c for monomial, c in result.items() if c}


def _without_factor(monomial: Monomial, factor: Monomial) -> Monomial | None:
    """monomial / factor, or None."""
    rest = list(monomial)
    for atom in factor:
        if atom not in rest:
            return None
        rest.remove(atom)
    return tuple(rest)


def _long_division(a: _Polynomial, b: _Polynomial) -> tuple[_Polynomial, _Polynomial]:
    """(q, r) with a == q*b + r, where no term of r is a multiple of b's first term."""
    head = min(b, key=_monomial_key)
    quotient: _Polynomial = {}
    rest: _Polynomial = {}
    todo = dict(a)
    while todo:
        monomial = min(todo, key=_monomial_key)
        coefficient = todo[monomial]
        factor = _without_factor(monomial, head)
        if factor is None or coefficient % b[head]:
            rest[monomial] = todo.pop(monomial)
            continue
        step = {factor: coefficient // b[head]}
        quotient = _sum(quotient, step)
        todo = _sum(todo, _product(step, b), -1)
    return quotient, rest


def _divide(a: int | Expr, b: int | Expr) -> tuple[Dim, Dim]:
    """(a // b, a % b), simplified: a == q*b + r with q pulled out of the quotient."""
    if isinstance(b, int):
        if b < 0:
            quotient, rest = _divide(_negated(a), -b)
            return quotient, mul(-1, rest)
        return _divide_by_int(_polynomial(a), b)
    if _within(a, b):
        return 0, a
    top, bottom = _polynomial(a), _polynomial(b)
    common = _common_factor([*top, *bottom])
    if common:  # g*x // g*y == x // y, g*x % g*y == g * (x % y)
        scale = _dim({common: 1})
        x = _dim({_without_factor(m, common) or (): c for m, c in top.items()})
        y = _dim({_without_factor(m, common) or (): c for m, c in bottom.items()})
        if x is None or y is None or scale is None:
            return None, None
        return floordiv(x, y), mul(scale, mod(x, y))
    pulled, rest_terms = _long_division(top, bottom)
    quotient, rest = _dim(pulled), _dim(rest_terms)
    if quotient is None or rest is None:
        return None, None
    if _within(rest, b):
        return quotient, rest
    if len(bottom) > 1:  # n // (n - m) reads better than 1 + m // (n - m)
        quotient, rest = 0, a
    return add(quotient, _atom("//", rest, b)), _atom("%", rest, b)


def _divide_by_int(a: _Polynomial, k: int) -> tuple[Dim, Dim]:
    """(a // k, a % k) for k > 0, every coefficient left inside being in [0, k)."""
    quotient: _Polynomial = {m: c // k for m, c in a.items() if c // k}
    rest: _Polynomial = {m: c % k for m, c in a.items() if c % k}
    constant = rest.pop((), 0)
    if not rest:
        return _dim(quotient), constant
    # (g*x + c) // (g*k) == (x + c // g) // k, and the rest is g*(...) + c % g
    shared = math.gcd(k, *rest.values())
    inner = {m: c // shared for m, c in rest.items()}
    inside = _dim(_sum(inner, {(): constant // shared}))
    if inside is None:
        return None, None
    small, low = k // shared, constant % shared
    if _within(inside, small):
        part: Dim = 0
        remainder: Dim = inside
    else:
        part = _nested_quotient(inside, small)
        remainder = _atom("%", inside, small)
    return add(_dim(quotient), part), add(mul(shared, remainder), low)


def _nested_quotient(a: int | Expr, k: int) -> Dim:
    """(x // j + c) // k == (x + c*j) // (j*k) for positive ints."""
    if isinstance(a, Expr) and len(a.terms[0][0]) == 1 and a.terms[0][1] == 1:
        (atom,) = a.terms[0][0]
        offset = sub(a, _dim({(atom,): 1}))
        if atom.operation == "//" and isinstance(offset, int):
            x, j = atom.operands
            if isinstance(j, int):
                return floordiv(add(x, offset * j), j * k)
    return _atom("//", a, k)


def _extremum(operation: str, a: Dim, b: Dim) -> Dim:
    """max or min of dims, by what is provable; else an atom of the flat operands."""
    if a is None or b is None:
        return None
    operands: list[int | Expr] = []
    for x in (*_operands_of(operation, a), *_operands_of(operation, b)):
        _insert(operation, operands, x)
    if len(operands) == 1:
        return operands[0]
    # max(x + c, y + c) == max(x, y) + c, and likewise for a common factor
    polynomials = [_polynomial(x) for x in operands]
    shared = dict(set.intersection(*(set(p.items()) for p in polynomials)))
    if all(set(p) - {()} for p in polynomials):
        least = min(p.get((), 0) for p in polynomials)
        if least:
            shared[()] = least
    polynomials = [_sum(p, shared, -1) for p in polynomials]
    factor = math.gcd(*(c for p in polynomials for c in p.values()))
    inner = [_dim({m: c // factor for m, c in p.items()}) for p in polynomials]
    return add(mul(factor, _atom(operation, *inner)), _dim(shared))


def _operands_of(operation: str, dim: int | Expr) -> tuple[int | Expr, ...]:
    if isinstance(dim, Expr) and len(dim.terms) == 1:
        monomial, coefficient = dim.terms[0]
        if coefficient == 1 and len(monomial) == 1:
            (atom,) = monomial
            if atom.operation == operation:
                return atom.operands
    return (dim,)


def _insert(operation: str, operands: list[int | Expr], new: int | Expr) -> None:
    """Add an operand to a max or min, dropping what another one makes redundant."""
    sign = 1 if operation == "max" else -1
    for old in operands:
        if nonnegative(mul(sign, sub(old, new))):
            return
    operands[:] = [x for x in operands if not nonnegative(mul(sign, sub(new, x)))]
    operands.append(new)


def _atom(operation: str, *dims: Dim) -> Dim:
    operands: list[int | Expr] = []
    for x in dims:
        if x is None:
            return None
        operands.append(x)
    if operation in ("max", "min"):
        operands.sort(key=lambda x: (isinstance(x, int), format_dim(x)))
    key = operation, tuple(operands)
    atom = _atoms.get(key)
    if atom is None:
        text = _atom_text(operation, key[1])
        atom = _atoms[key] = Atom(operation, key[1], text)
    return _dim({(atom,): 1})


def _negated(a: int | Expr) -> int | Expr:
    """-a, which is never too large where a is not."""
    if isinstance(a, int):
        return -a
    return Expr(tuple((m, -c) for m, c in a.terms), a.size)


def _common_factor(monomials: list[Monomial]) -> Monomial:
    shared = Counter(monomials[0])
    for monomial in monomials[1:]:
        shared &= Counter(monomial)
    return tuple(sorted(shared.elements(), key=_atom_key))


def _without_mod(dim: Dim) -> Dim:
    """`dim` with each x % y outside of other atoms spelled ``x - y*(x // y)``."""
    if not isinstance(dim, Expr):
        return dim
    result: Dim = 0
    for monomial, coefficient in dim.terms:
        term: Dim = coefficient
        for atom in monomial:
            factor = _dim({(atom,): 1})
            if atom.operation == "%":
                x, y = atom.operands
                factor = sub(x, mul(y, floordiv(x, y)))
            term = mul(term, factor)
        result = add(result, term)
    return result


# --- bounds -------------------------------------------------------------------------


def _within(a: int | Expr, b: int | Expr) -> bool:
    """0 <= a < b, provably."""
    return nonnegative(a) and positive(sub(b, a))


def _atom_bounds(operation: str, operands: tuple[int | Expr, ...]) -> _Bounds:
    if operation == "symbol":
        return 0, None
    bounds = [(lower_bound(x), upper_bound(x)) for x in operands]
    if operation in ("max", "min"):
        lows, highs = ([b[i] for b in bounds] for i in (0, 1))
        if operation == "max":
            known = [x for x in lows if x is not None]
            return max(known, default=None), _all_known(max, highs)
        known = [x for x in highs if x is not None]
        return _all_known(min, lows), min(known, default=None)
    (low, high), (divisor_low, divisor_high) = bounds
    if divisor_low is None or divisor_low < 0:
        return None, None
    least = max(divisor_low, 1)  # a divisor is not 0 where the quotient is defined
    if operation == "%":
        below = [] if divisor_high is None else [divisor_high - 1]
        if low is not None and low >= 0 and high is not None:
            below.append(high)
        return 0, min(below, default=None)
    return (
        _quotient_bound(low, least, divisor_high, 0),
        _quotient_bound(high, divisor_high, least, -1),
    )


def _all_known(choose: object, values: list[int | None]) -> int | None:
    known = [x for x in values if x is not None]
    if len(known) < len(values):
        return None
    return max(known) if choose is max else min(known)


def _quotient_bound(
    a: int | None, if_negative: int | None, if_positive: int | None, limit: int
) -> int | None:
    """a // b at the divisor that makes it extreme; `limit` as an infinite b nears."""
    if a is None:
        return None
    b = if_negative if a < 0 else if_positive
    return limit if b is None else a // b


def _monomial_bounds(monomial: Monomial) -> _Bounds:
    if len(monomial) == 1:
        return monomial[0].bounds
    low, high = 1, 1 if monomial else 1
    bounded: int | None = high
    for atom in monomial:
        below, above = atom.bounds
        if below is None or below < 0:
            return None, None
        low *= below
        bounded = None if bounded is None or above is None else bounded * above
    return low, bounded


def _lower(dim: Expr, relaxations: int) -> int | None:
    """Interval arithmetic; where that fails, atoms replaced by what bounds them."""
    total = 0
    for monomial, coefficient in dim.terms:
        low, high = _monomial_bounds(monomial)
        end = low if coefficient > 0 else high
        if end is None:
            break
        total += coefficient * end
    else:
        return total if relaxations == 0 else _relaxed(dim, relaxations, total)
    return None if relaxations == 0 else _relaxed(dim, relaxations, None)


def _relaxed(dim: Expr, relaxations: int, best: int | None) -> int | None:
    """The best bound of `dim` with its first replaceable atom bounded from below."""
    for monomial, coefficient in dim.terms:
        if len(monomial) != 1 or monomial[0].operation == "symbol":
            continue
        found = False
        for scale, replaced in _replacements(dim, monomial[0], coefficient):
            found = True
            if isinstance(replaced, Expr):
                low = _lower(replaced, relaxations - 1)
            else:
                low = replaced
            if low is not None:
                low = -(-low // scale)
                best = low if best is None else max(best, low)
        if found:
            return best
    return best


def _replacements(dim: Expr, atom: Atom, c: int) -> Iterable[tuple[int, Dim]]:
    """Pairs (s, d) with ``s * dim >= d``, d being free of `atom`, which occurs as c*atom.

    max(x, y) >= x;  -min(x, y) >= -x;  -(x % y) >= -x for x >= 0;
    k*(x // k) <= x and k*(x // k) >= x - k + 1 for an int k > 0.
    """
    rest = sub(dim, _dim({(atom,): c}))
    if atom.operation == ("max" if c > 0 else "min"):
        for x in atom.operands:
            yield 1, add(rest, mul(c, x))
    elif atom.operation == "%" and c < 0 and nonnegative(atom.operands[0]):
        yield 1, add(rest, mul(c, atom.operands[0]))
    elif atom.operation == "//":
        x, k = atom.operands
        if isinstance(k, int) and k > 0:
            x = x if c < 0 else sub(x, k - 1)  # type: ignore[assignment]
            yield k, add(mul(k, rest), mul(c, x))


# --- text ---------------------------------------------------------------------------

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN = re.compile(
    r'\s*(?:(?P<number>\d+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<quoted>"(?:[^"\\]|\\.)*")'
    r"|(?P<sign>//|\*\*|[-+*%(),?]))"
)


def format_dim(dim: Dim) -> str:
    """``2*n + 3``; ``?`` where unknown; names that are no identifiers are quoted."""
    if dim is None:
        return "?"
    return str(dim)


def _format(expr: Expr) -> str:
    parts: list[str] = []
    for monomial, coefficient in expr.terms:
        factors = [_factor_text(atom, monomial, coefficient) for atom in monomial]
        if abs(coefficient) != 1 or not factors:
            factors.insert(0, str(abs(coefficient)))
        sign = "-" if coefficient < 0 else "+"
        text = "*".join(factors)
        if parts:
            parts.append(f" {sign} {text}")
        else:
            parts.append(f"-{text}" if sign == "-" else text)
    return "".join(parts)


def _factor_text(atom: Atom, monomial: Monomial, coefficient: int) -> str:
    if atom.operation == "symbol":
        return _name_text(atom.text)
    if atom.operation in ("//", "%") and (len(monomial) > 1 or coefficient != 1):
        return f"({atom.text})"
    return atom.text


def _name_text(name: str) -> str:
    if _PLAIN_NAME.fullmatch(name) and name not in ("max", "min"):
        return name
    return json.dumps(name)


def _atom_text(operation: str, operands: tuple[int | Expr, ...]) -> str:
    if operation in ("max", "min"):
        return f"{operation}({', '.join(map(str, operands))})"
    a, b = (str(x) if _is_simple(x) else f"({x})" for x in operands)
    return f"{a} {operation} {b}"


def _is_simple(dim: int | Expr) -> bool:
    """Needs no parentheses beside a // or %."""
    if isinstance(dim, int):
        return dim >= 0
    ((monomial, coefficient),) = dim.terms if len(dim.terms) == 1 else (((), 0),)
    return (
        coefficient == 1
        and len(monomial) == 1
        and monomial[0].operation not in ("//", "%")
    )


def parse_dim(text: str) -> Dim:
    """The inverse of `format_dim`. Raises ValueError where the text is no dim."""
    dim, end = read_dim(text)
    if text[end:].strip():
        raise ValueError(f"{text!r}: {text[end:].strip()!r} does not belong to a dim")
    return dim


def read_dim(text: str, start: int = 0) -> tuple[Dim, int]:
    """The dim that begins at `start`, and the position after it."""
    return _Reader(text, start).read()


class _Reader:
    """Recursive descent over ``sum: product (+ product)*``, ``product: unary (* unary)*``."""

    def __init__(self, text: str, position: int) -> None:
        self.text = text
        self.position = position
        self.depth = 0

    def read(self) -> tuple[Dim, int]:
        return self.sum(), self.position

    def peek(self) -> str:
        found = _TOKEN.match(self.text, self.position)
        return (found["sign"] or "") if found else ""

    def next(self) -> re.Match[str]:
        found = _TOKEN.match(self.text, self.position)
        if found is None:
            rest = self.text[self.position :].strip() or "the end"
            raise ValueError(f"{self.text!r}: expected a dim before {rest!r}")
        self.position = found.end()
        return found

    def expect(self, sign: str) -> None:
        if self.peek() != sign:
            raise ValueError(f"{self.text!r}: expected {sign!r} at {self.position}")
        self.next()

    def sum(self) -> Dim:
        self.depth += 1
        if self.depth > _MAX_NESTING:
            raise ValueError(f"a dim nested more than {_MAX_NESTING} deep")
        result = self.product()
        while self.peek() in ("+", "-"):
            result = _OPERATIONS[self.next()["sign"]](result, self.product())
        self.depth -= 1
        return result

    def product(self) -> Dim:
        result = self.unary()
        while self.peek() in ("*", "//", "%"):
            result = _OPERATIONS[self.next()["sign"]](result, self.unary())
        return result

    def unary(self) -> Dim:
        negative = False
        while self.peek() == "-":
            self.next()
            negative = not negative
        base = self.primary()
        if self.peek() == "**":
            self.next()
            exponent = self.next()["number"]
            if exponent is None or int(exponent) > MAX_DEGREE:
                raise ValueError(f"{self.text!r}: a power is at most {MAX_DEGREE}")
            base = product([base] * int(exponent))
        return mul(-1, base) if negative else base

    def primary(self) -> Dim:
        token = self.next()
        if token["number"]:
            return int(token["number"])
        if token["quoted"]:
            return symbol(json.loads(token["quoted"]))
        if token["name"]:
            if token["name"] in ("max", "min") and self.peek() == "(":
                return self.call(token["name"])
            return symbol(token["name"])
        if token["sign"] == "?":
            return None
        if token["sign"] != "(":
            raise ValueError(f"{self.text!r}: unexpected {token['sign']!r}")
        inner = self.sum()
        self.expect(")")
        return inner

    def call(self, name: str) -> Dim:
        self.expect("(")
        result = self.sum()
        while self.peek() == ",":
            self.next()
            result = _OPERATIONS[name](result, self.sum())
        self.expect(")")
        return result


_OPERATIONS: Final = {
    "+": add,
    "-": sub,
    "*": mul,
    "//": floordiv,
    "%": mod,
    "max": maximum,
    "min": minimum,
}
