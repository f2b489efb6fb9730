"""Symbolic dims: arithmetic agrees with ints, normal forms, bounds, text."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings, strategies as st

from graphopt import dims
from graphopt.dims import (
    Dim,
    add,
    at_least,
    broadcast,
    ceildiv,
    divide_exact,
    equal,
    evaluate,
    floordiv,
    format_dim,
    lower_bound,
    maximum,
    minimum,
    mod,
    mul,
    parse_dim,
    positive,
    product,
    read_dim,
    sub,
    substitute,
    symbol,
    symbols,
    upper_bound,
)

n, m, k = symbol("n"), symbol("m"), symbol("k")
NAMES = ("n", "m", "k")
OPERATIONS: dict[str, tuple[Callable[[Dim, Dim], Dim], Callable[[int, int], int]]] = {
    "+": (add, lambda a, b: a + b),
    "-": (sub, lambda a, b: a - b),
    "*": (mul, lambda a, b: a * b),
    "//": (floordiv, lambda a, b: a // b),
    "%": (mod, lambda a, b: a % b),
    "ceildiv": (ceildiv, lambda a, b: -(-a // b)),
    "max": (maximum, max),
    "min": (minimum, min),
}

Tree = Any  # an int, a symbol's name, or (operation, tree, tree)
trees: st.SearchStrategy[Tree] = st.recursive(
    st.integers(-9, 9) | st.sampled_from(NAMES),
    lambda inner: st.tuples(st.sampled_from(sorted(OPERATIONS)), inner, inner),
    max_leaves=9,
)
sizes = st.fixed_dictionaries({name: st.integers(0, 13) for name in NAMES})


def built(tree: Tree) -> Dim:
    """The Dim of a tree. Raises ZeroDivisionError for a divisor that is 0."""
    if isinstance(tree, int):
        return tree
    if isinstance(tree, str):
        return symbol(tree)
    operation, a, b = tree
    return OPERATIONS[operation][0](built(a), built(b))


def computed(tree: Tree, values: dict[str, int]) -> int:
    """The value of a tree in plain integers."""
    if isinstance(tree, int):
        return tree
    if isinstance(tree, str):
        return values[tree]
    operation, a, b = tree
    x, y = computed(a, values), computed(b, values)
    assume(operation != "ceildiv" or y > 0)
    return OPERATIONS[operation][1](x, y)


def dim_of(tree: Tree) -> Dim:
    try:
        return built(tree)
    except ZeroDivisionError:
        assume(False)
        raise


@settings(max_examples=300, deadline=None)
@given(trees, sizes)
def test_a_dim_is_worth_what_its_formula_is(tree: Tree, values: dict[str, int]) -> None:
    dim = dim_of(tree)
    try:
        expected = computed(tree, values)
    except ZeroDivisionError:
        assume(False)
    assert dim is not None
    assert evaluate(dim, values) == expected
    low, high = lower_bound(dim), upper_bound(dim)
    assert low is None or low <= expected
    assert high is None or expected <= high


@settings(max_examples=300, deadline=None)
@given(trees)
def test_text_round_trip(tree: Tree) -> None:
    dim = dim_of(tree)
    assert parse_dim(format_dim(dim)) == dim


@settings(deadline=None)
@given(st.text(min_size=1, max_size=8))
def test_any_name_round_trips(name: str) -> None:
    dim = sub(mul(symbol(name), 2), symbol("n"))
    assert parse_dim(format_dim(dim)) == dim
    assert symbols(symbol(name)) == {name}


@settings(max_examples=100, deadline=None)
@given(trees, trees, sizes)
def test_substituting_commutes_with_evaluating(
    tree: Tree, inner: Tree, values: dict[str, int]
) -> None:
    dim, replacement = dim_of(tree), dim_of(inner)
    try:
        value = computed(inner, values)
        assume(value >= 0)
        expected = computed(tree, values | {"n": value})
        result = substitute(dim, {"n": replacement})
        assume(result is not None)
        assert evaluate(result, values) == expected
    except ZeroDivisionError:
        assume(False)


@settings(max_examples=100, deadline=None)
@given(trees, trees)
def test_equal_dims_have_equal_hashes_and_survive_pickling(a: Tree, b: Tree) -> None:
    x, y = dim_of(a), dim_of(b)
    assert pickle.loads(pickle.dumps(x)) == x
    assert equal(add(x, y), add(y, x))
    assert hash(mul(x, y)) == hash(mul(y, x))


@pytest.mark.parametrize(
    ("text", "simplified"),
    [
        ("n + 0", "n"),
        ("n - n", "0"),
        ("(n*m*2)//(2*n)", "m"),
        ("(n*4 + 3)//4", "n"),
        ("(n*4 + 3) % 4", "3"),
        ("(n*m + n)//(m + 1)", "n"),
        ("(n*m + m - 1)//m", "n + (m - 1)//m"),
        ("n//1", "n"),
        ("n % 1", "0"),
        ("n//n", "1"),
        ("n//(n + 1)", "0"),
        ("n % (n + 1)", "n"),
        ("(n - 1)//2 + 1", "(n + 1)//2"),
        ("(n//2)//3", "n//6"),
        ("(n//2 + 1)//3", "(n + 2)//6"),
        ("(6*n + 3)//9", "(2*n + 1)//3"),
        ("(6*n + 4) % 9", "3*((2*n + 1) % 3) + 1"),
        ("(n*m) % (n*k)", "n*(m % k)"),
        ("n//-2", "-n + n//2"),
        ("max(n, 0)", "n"),
        ("min(n, 0)", "0"),
        ("max(n, n + 1)", "n + 1"),
        ("max(n + 2, 1)", "n + 2"),
        ("max(max(n, m), n)", "max(m, n)"),
        ("max(n, max(m, k))", "max(max(k, n), m)"),
        ("max(n, max(m, n - 1))", "max(m, n)"),
        ("max(2*max(n, m) + 1, 2*n + 2)", "max(2*m, 2*n + 1) + 1"),
        ("max(2*n + 4, 2*m + 2)", "2*max(n + 1, m) + 2"),
        ("min(max(n - 5, 0), n)", "max(n - 5, 0)"),
        ("max(n//2, 0)", "n//2"),
        ("max(n - n//2, 0)", "n - n//2"),
        ("n**2 - n*n", "0"),
        ("(n + 1)*(n - 1)", "n*n - 1"),
        ("--n", "n"),
    ],
)
def test_normal_forms(text: str, simplified: str) -> None:
    assert parse_dim(text) == parse_dim(simplified)
    assert format_dim(parse_dim(text)) == format_dim(parse_dim(simplified))


def test_what_only_equal_finds_out() -> None:
    assert parse_dim("2*(n//2) + n % 2") != n
    assert equal(parse_dim("2*(n//2) + n % 2"), n)
    assert not equal(n, m)
    assert not equal(None, None)
    assert not equal(n, None)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("n", 0, None),
        ("n + 3", 3, None),
        ("3 - n", None, 3),
        ("n % 4", 0, 3),
        ("n//2 + 1", 1, None),
        ("n - n//2", 0, None),
        ("n - n % 3", 0, None),
        ("n - min(n, 5)", 0, None),
        ("max(n - 5, 0) - n", -5, 0),
        ("5 - min(n, 5)", 0, 5),
        ("min(n, m) - max(n, m)", None, 0),
        ("min(n, 7)", 0, 7),
        ("min(n, 7)//2", 0, 3),
        ("n*m + 2", 2, None),
        ("n - m", None, None),
        ("max(n, 1)*max(m, 2)", 2, None),
        ("(n + 7)//8*8 - n", 0, 7),
    ],
)
def test_bounds(text: str, low: int | None, high: int | None) -> None:
    dim = parse_dim(text)
    assert (lower_bound(dim), upper_bound(dim)) == (low, high)


def test_at_least() -> None:
    assert positive(n + 1)
    assert not positive(n)
    assert at_least(3, 3)
    assert not at_least(3, 4)
    assert not at_least(None, -100)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (1, 1, 1),
        (1, 5, 5),
        (5, 1, 5),
        (5, 5, 5),
        (0, 1, 0),
        (n, 1, n),
        (1, n, n),
        (n, n, n),
        (n, 5, 5),
        (0, n, 0),
        (n, m, None),
        (n + 2, m, n + 2),
        (m, n + 2, n + 2),
        (None, 1, None),
        (None, 4, 4),
        (None, n, None),
        (None, None, None),
    ],
)
def test_broadcast(a: Dim, b: Dim, expected: Dim) -> None:
    assert broadcast(a, b) == expected


def test_broadcast_clash() -> None:
    with pytest.raises(ValueError, match="dims 3 and 4"):
        broadcast(3, 4)


def test_divide_exact() -> None:
    assert divide_exact(n * m, n) == m
    assert divide_exact(n * 6, 3) == n * 2
    assert divide_exact(n * m + n, m + 1) == n
    assert divide_exact(12, 4) == 3
    assert divide_exact(0, n) == 0
    for a, b in [(n, m), (n, 2), (n + 1, n), (13, 4), (n, 0), (12, n), (None, 2)]:
        assert divide_exact(a, b) is None


def test_unknown_gives_unknown() -> None:
    for operation, _ in OPERATIONS.values():
        assert operation(None, 2) is None
        assert operation(n, None) is None
    assert product([2, None, 3]) is None
    assert product([2, None, 0]) == 0
    assert product([]) == 1
    assert substitute(n + 1, {"n": None}) is None


def test_operators_return_ints_where_constant() -> None:
    assert n - n == 0
    assert type(n // n) is int
    assert (3 + n, 3 - n, 3 * n, 3 // n, 3 % n) == (
        add(3, n),
        sub(3, n),
        mul(3, n),
        floordiv(3, n),
        mod(3, n),
    )
    assert -n == 0 - n


def test_errors() -> None:
    with pytest.raises(KeyError, match="seq"):
        evaluate(symbol("seq") + n, {"n": 1})
    with pytest.raises(ValueError, match="unknown"):
        evaluate(None, {})
    with pytest.raises(ValueError, match="name"):
        symbol("")
    for operation in (floordiv, mod):
        with pytest.raises(ZeroDivisionError):
            operation(n, 0)


@pytest.mark.parametrize(
    "text",
    ["", "n +", "n m", "(n", "max(n", "max()", "n//0", "!", '"', "n**99", "(" * 99],
)
def test_text_that_is_no_dim(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_dim(text)


def test_read_dim_stops_where_the_dim_does() -> None:
    assert read_dim("f32[n + 1, max(m, 2)]", 4) == (n + 1, 9)
    assert read_dim("f32[n + 1, max(m, 2)]", 10) == (maximum(m, 2), 20)
    assert parse_dim("?") is None


def test_large_expressions_become_unknown() -> None:
    many: Dim = 0
    for i in range(dims.MAX_TERMS):
        many = add(many, symbol(f"s{i}"))
    assert many is not None
    assert add(many, 1) is None
    assert floordiv(many, 2) is None
    assert product([n] * dims.MAX_DEGREE) is not None
    assert product([n] * (dims.MAX_DEGREE + 1)) is None
    deep: Dim = n
    for i in range(200):
        deep = floordiv(add(mul(deep, 5), symbol(f"s{i}")), 7)
    assert deep is None


def test_broadcast_against_its_own_cap() -> None:
    """A table of 512 rows sliced to n: they are equal in any legal run."""
    n = dims.symbol("n")
    capped = dims.minimum(n, 512)
    assert dims.broadcast(n, capped) == n
    assert dims.broadcast(capped, n) == n
    assert dims.broadcast(n, dims.minimum(n, 1)) is None
    assert dims.broadcast(dims.symbol("m"), capped) is None
