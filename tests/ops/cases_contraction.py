"""Cases of matrix products, Einstein summation, determinants."""

from __future__ import annotations

from typing import Any

from single import Case, sweep

from graphopt.types import DType

FLOATS = [DType.F32, DType.F64, DType.F16, DType.BF16]


def cases(every: bool = False) -> list[Case]:
    made: list[Case] = []

    def add(kind: str, shapes: Any, attrs: Any = ({},), **options: Any) -> None:
        made.extend(sweep(kind, shapes, attrs, every=every, **options))

    add(
        "MatMul",
        [
            ((3, 4), (4, 5)),
            ((2, 3, 4), (4, 5)),
            ((4,), (4, 5)),
            ((3, 4), (4,)),
            ((4,), (4,)),
            ((2, 1, 3, 4), (3, 4, 2)),
            ((2, 3, 4), (4,)),
            ((4,), (2, 4, 3)),
            ((2, 0), (0, 3)),
        ],
    )
    add(
        "Gemm",
        [
            ((3, 4), (4, 5), (5,)),
            ((3, 4), (4, 5), (3, 1)),
            ((3, 4), (4, 5), ()),
            ((3, 4), (4, 5)),
            ((3, 4), (4, 5), (1, 5)),
        ],
        [{}, {"alpha": 0.5}, {"beta": 2.0}, {"alpha": 0.5, "beta": 0.25}],
    )
    add("Gemm", [((4, 3), (5, 4), (3, 5))], [{"transA": 1, "transB": 1}])
    add("Gemm", [((4, 3), (4, 5), (1,))], [{"transA": 1}])
    add("Gemm", [((3, 4), (5, 4))], [{"transB": 1}])
    for equation, *shapes in (
        ("ij,jk->ik", (3, 4), (4, 5)),
        ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
        ("bhid,bhjd->bhij", (2, 2, 3, 4), (2, 2, 5, 4)),
        ("ij->ji", (3, 4)),
        ("ij->", (3, 4)),
        ("ii->i", (3, 3)),
        ("ii", (3, 3)),
        ("i,i", (4,), (4,)),
        ("i,j", (3,), (4,)),
        ("ba,b", (3, 4), (3,)),
        ("...ij,...jk->...ik", (2, 3, 4), (2, 4, 5)),
        ("...ii->...i", (2, 3, 3)),
        ("ij,jk,kl->il", (2, 3), (3, 4), (4, 2)),
        ("Aa,aB->AB", (2, 3), (3, 4)),
        ("b i j , b j k -> b i k", (2, 3, 4), (2, 4, 5)),
        ("bn,anm,bm->ba", (2, 3), (5, 3, 4), (2, 4)),
    ):
        add("Einsum", [tuple(shapes)], [{"equation": equation}], dtypes=FLOATS[:2])
    add("Einsum", [((3, 4), (4, 5))], [{"equation": "ij,jk->ik"}])
    add("Det", [((3, 3),), ((2, 4, 4),), ((1, 1),)], ulps=64)
    return made
