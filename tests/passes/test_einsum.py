"""Einstein sums: every kind of axis, in every order, as products of matrices."""

from __future__ import annotations

from itertools import permutations

import pytest
from equations import (
    M,
    N,
    fires,
    graph_of,
    kinds,
    misses,
    param,
    random,
    rewritten,
    typed,
)

from graphopt.ir import Value
from graphopt.ops import Constant, Einsum, MatMul, Mul, Transpose
from graphopt.passes import einsum as e
from graphopt.passes.einsum import Einsums
from graphopt.rewrite import rewrite
from graphopt.types import DType, TensorType

F64 = DType.F64
SIZES = {"a": N, "b": 3, "c": M, "d": 4, "e": 5, "f": 2}
LATEST = 23
"""An opset with Attention, where an equation may become several ops."""


def x(axes: str, name: str = "") -> Value:
    return param(name or axes, *[SIZES[a] for a in axes], dtype=F64)


def w(*shape: int) -> Constant:
    return random(*shape, dtype=F64)


def einsum(equation: str) -> Value:
    """An einsum of inputs, their dims by the letters of the equation."""
    terms = equation.partition("->")[0].split(",")
    return Einsum(*[x(t, f"{t}{i}") for i, t in enumerate(terms)], equation=equation)


@pytest.mark.parametrize(
    "equation",
    [
        "abd,ade->abe",  # a batched product
        "abd,aed->abe",  # with a transpose
        "adb,ade->abe",
        "bd,de->be",
        "d,de->e",
        "bd,d->b",
        "bd,bd->b",  # a sum of products
        "bd,bd->",
        "bd,bd->bd",  # an elementwise product
        "b,d->bd",  # an outer one
        "b,d->db",
        "ab,de->eadb",
        "abed,abde->abe",
        "aecd,abcd->acbe",  # scores of attention
        "acbe,aecd->abcd",  # and what is made of them
        "abf,fde->abde",  # heads
        "abde,def->abf",
        "abcd,bd->acb",
        "bdf,be->bde",  # an axis of one operand is summed
        "bdf,eb->de",
        "bfd,bde->fbe",
    ],
)
def test_two_operands(equation: str) -> None:
    done = rewritten(e.einsum_of_two, einsum(equation), opset=LATEST)
    assert "Einsum" not in kinds(done)
    assert len(kinds(done)) <= 6


@pytest.mark.parametrize("order", ["".join(p) for p in permutations("abe")])
def test_every_order(order: str) -> None:
    """The result, and the operands, with their axes in any order."""
    for left, right in (("abd", order.replace("b", "d")), (order, "bd")):
        equation = f"{left},{right}->{order if right != 'bd' else 'aed'}"
        rewritten(e.einsum_of_two, einsum(equation), opset=LATEST)


def test_what_is_one_product() -> None:
    """At any opset, and nothing beside it."""
    p, q = x("abd", "p"), x("ade", "q")
    fires(e.einsum_of_two, Einsum(p, q, equation="abd,ade->abe"), MatMul(p, q))
    fires(e.einsum_of_two, Einsum(q, p, equation="ade,abd->abe"), MatMul(p, q))
    fires(e.einsum_of_two, Einsum(p, q, equation="...bd,...de->...be"), MatMul(p, q))
    r = x("abd", "r")
    fires(e.einsum_of_two, Einsum(p, r, equation="abd,abd->abd"), Mul(p, r))
    heads = w(4, 6)
    fires(e.einsum_of_two, Einsum(p, heads, equation="xyz,zk->xyk"), MatMul(p, heads))
    turned = Transpose(heads, perm=(1, 0))
    before = Einsum(p, turned, equation="xyz,kz->xyk")
    after = MatMul(p, Transpose(turned, perm=(1, 0)))
    constant = w(6, 4)
    before = Einsum(p, constant, equation="xyz,kz->xyk")
    after = MatMul(p, Transpose(constant, perm=(1, 0)))
    fires(e.einsum_of_two, before, after)


def test_more_ops_only_where_attention_may_come_of_it() -> None:
    scores = einsum("aecd,abcd->acbe")
    misses(e.einsum_of_two, scores, "more ops", opset=20)
    done = rewritten(e.einsum_of_two, scores, opset=LATEST)
    assert kinds(done) == ["Transpose", "Transpose", "MatMul"]
    heads = Einsum(x("abd"), w(4, 3, 5), equation="abd,dhe->abhe")
    misses(e.einsum_of_two, heads, "more ops")
    done = rewritten(e.einsum_of_two, heads, opset=LATEST)
    assert kinds(done) == ["Reshape", "MatMul", "Reshape"]


@pytest.mark.parametrize(
    ("equation", "wanted"),
    [
        ("abd->dba", ["Transpose"]),
        ("abd->ad", ["ReduceSum"]),
        ("abd->da", ["ReduceSum", "Transpose"]),
        ("abd->", ["ReduceSum"]),
        ("b...->...b", ["Transpose"]),
        ("ba", ["Transpose"]),
    ],
)
def test_one_operand(equation: str, wanted: list[str]) -> None:
    value = x("ba" if equation == "ba" else "bad")
    assert kinds(rewritten(e.einsum_of_one, Einsum(value, equation=equation))) == wanted


def test_nothing_is_left_of_an_einsum_that_does_nothing() -> None:
    same = x("bd")
    fires(e.einsum_of_one, Einsum(same, equation="ij->ij"), same)


def test_many_operands_the_small_product_first() -> None:
    big, left, right = w(40, 50), w(50, 2), x("fd")
    before = Einsum(big, left, right, equation="ij,jk,kl->il")
    done = rewrite(graph_of(before), [e.einsum_of_many])
    first = next(op for op in done.ops if isinstance(op, Einsum))
    assert first.operands == (left, right) or first.operands == (big, left)
    rewritten(e.einsum_of_many, before)
    done = rewritten(e.RULES, einsum("abd,ade,aef->abf"), opset=LATEST)
    assert kinds(done) == ["MatMul", "MatMul"]
    rewritten(e.RULES, einsum("abd,de,bf,a->ef"), opset=LATEST)
    dotted = Einsum(x("acbd"), x("ade"), x("eb"), equation="...bd,...de,eb->...b")
    misses(e.einsum_of_two, dotted)
    leading = Einsum(x("abd"), x("ade"), w(5, 3), equation="...bd,...de,eb->...b")
    rewritten(e.RULES, leading, opset=LATEST)


def test_near_misses() -> None:
    square = param("s", 3, 3, dtype=F64)
    trace = Einsum(square, equation="ii->i")
    misses(e.einsum_of_one, trace, "diagonal")
    misses(e.einsum_of_two, Einsum(square, x("b"), equation="ii,i->i"), "diagonal")
    one = param("o", 1, 4, dtype=F64)
    stretched = Einsum(one, x("bd"), equation="bd,bd->bd")
    misses(e.einsum_of_two, stretched, "as long in all operands")
    whole = param("i", 3, 4, dtype=DType.I32)
    misses(e.einsum_of_two, Einsum(whole, whole, equation="bd,bd->bd"))
    unsaid = Einsum(x("acf"), x("acf", "y"), equation="...f,...f->f")
    misses(e.einsum_of_two, unsaid, "leading axes are summed")


def test_dims_that_no_reshape_can_tell() -> None:
    """Two symbolic dims become one and are split again: there is no constant for it."""
    p, q = x("acbd", "p"), param("q", 3, N, M, 4, dtype=F64)
    made = Einsum(p, q, equation="acbd,bxyd->acbxy")
    misses(e.einsum_of_two, made, "cannot be said", opset=LATEST)


def test_the_pass() -> None:
    assert Einsums().name == "einsums"
    assert tuple(Einsums().rules()) == e.RULES


def test_the_cheapest_product_is_taken_first() -> None:
    """By all axes of both of its operands."""
    for sizes, at in (((2, 5, 3, 4), 0), ((4, 3, 5, 2), 1)):
        i, j, k, m = sizes
        terms = [w(i, j), w(j, k), w(k, m)]
        before = Einsum(*terms, equation="ij,jk,kl->il")
        done = rewrite(graph_of(before), [e.einsum_of_many])
        inner = next(op for op in done.ops if isinstance(op, Einsum))
        assert inner.operands == tuple(terms[at : at + 2])


def test_many_operands_that_stay() -> None:
    square = param("s", 3, 3, dtype=F64)
    three = Einsum(square, x("b"), x("b", "c"), equation="ii,i,i->i")
    misses(e.einsum_of_many, three, "diagonal")
    unknown = typed("u", TensorType(F64, None))
    made = Einsum(unknown, x("bd"), equation="bd,bd->bd")
    misses(e.einsum_of_two, made, "rank is not known")
