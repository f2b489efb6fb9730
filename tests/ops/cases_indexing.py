"""Cases of ops whose positions are data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from single import Case, allowed_dtypes, constant, sweep

from graphopt.types import DType

FEW = [DType.F32, DType.I64, DType.F16, DType.BOOL, DType.STRING]
TEXTS = [DType.F32, DType.STRING, DType.BOOL]
NUMBERS = [DType.F32, DType.F64, DType.I32, DType.I64, DType.F16]


def at(values: Any, dtype: Any = np.int64) -> Callable[..., Any]:
    """Positions that are not known when the op is built."""
    array = np.asarray(values, dtype)

    def positions(*_: object) -> Any:
        return array

    positions.__name__ = f"at{array.tolist()}".replace(" ", "")
    return positions


def few(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Any:
    """Numbers of which many are equal."""
    if dtype is DType.STRING:
        return np.asarray(rng.choice(["", "a", "b"], shape), object)
    return rng.integers(0, 3, shape).astype(dtype.numpy)


def cases(every: bool = False) -> list[Case]:
    made: list[Case] = []

    def add(kind: str, shapes: Any, attrs: Any = ({},), **options: Any) -> None:
        made.extend(sweep(kind, shapes, attrs, every=every, **options))

    gathers = [
        ((4, 3), at([[0, -1], [2, 3]])),
        ((4, 3), at(2)),
        ((4, 3), at([1, 2], np.int32)),
        ((4, 3), at(np.zeros((0, 2)))),
    ]
    add("Gather", gathers, dtypes=[*allowed_dtypes("Gather"), DType.STRING])
    add("Gather", [((2, 3, 4), at([[0, -1]]))], [{"axis": 1}, {"axis": -1}], dtypes=FEW)
    elements = [
        ((3, 4), at([[0, 1, -1], [2, 0, 1]])),
        ((3, 4), at([[2, 2, 0, -3]], np.int32)),
    ]
    add("GatherElements", elements, [{}, {"axis": 1}], dtypes=allowed_dtypes("Gather"))
    add("GatherND", [((4, 3, 2), at([[0, 1], [-1, 2]])), ((4, 3), at([[[1]], [[3]]]))])
    batches = [((2, 3, 4), at([[[1], [0]], [[2], [2]]])), ((2, 3, 4), at([[2], [-1]]))]
    add("GatherND", batches, [{"batch_dims": 1}], dtypes=FEW)

    scatters = [
        ((4, 3), at([[1, 0, 2], [0, 3, -1]]), (2, 3)),
        ((4, 3), at([[3, 1]], np.int32), (1, 2)),
    ]
    kinds = [*allowed_dtypes("ScatterElements"), DType.STRING]
    add("ScatterElements", scatters, dtypes=kinds)
    add("ScatterElements", [((2, 5), at([[1, -5]]), (1, 2))], [{"axis": 1}], dtypes=FEW)
    reductions = [{"reduction": r} for r in ("add", "mul", "max", "min")]
    twice = [((4, 3), at([[1, 0, 2], [1, 0, -2]]), (2, 3))]
    add("ScatterElements", twice, reductions, dtypes=NUMBERS)
    places = [
        ((4, 3, 2), at([[0, 1], [-1, 2]]), (2, 2)),
        ((5,), at([[[4], [0]]]), (1, 2)),
        ((4, 3), at([[2]]), (1, 3)),
    ]
    add("ScatterND", places, dtypes=kinds)
    again = [((4, 3), at([[2], [2], [0]]), (3, 3))]
    add("ScatterND", again, reductions, dtypes=NUMBERS)
    caches = [
        ((2, 3, 6, 2), (2, 3, 2, 2), at([1, 4])),
        ((2, 6, 2), (2, 3, 2)),
    ]
    add("TensorScatter", caches)
    wrapping = [((2, 4, 3), (2, 2, 3), at([3, 1]))]
    add("TensorScatter", wrapping, [{"mode": "circular", "axis": 1}], dtypes=NUMBERS)

    hot = [
        (at([[0, 2], [-1, 5]]), constant(4), at([2, 7], np.int32)),
        (at([1, -4]), constant(3), at([0, 1], np.float32)),
        (at([1, 0]), constant([4]), at([0, 1])),
        (at([1.0, 3.0], np.float32), constant(4.0, np.float32), at([1, 5], np.float32)),
    ]
    add("OneHot", hot, [{}, {"axis": 0}], dtypes=[DType.I64])
    best = [((3, 5), constant([2])), ((5,), constant([5])), ((2, 4, 3), constant([1]))]
    ways = [{}, {"largest": 0}, {"axis": 0, "largest": 1}]
    add("TopK", best, ways, outs=2, values=few)
    add("TopK", [((2, 6, 3), constant([4]))], [{"axis": 1}], outs=2)

    for condition, attrs in (
        (at([0, 1, 1], bool), {"axis": 0}),
        (at([1, 0], bool), {}),
        (at([1, 0, 1, 1], bool), {"axis": -1}),
    ):
        chosen = [((3, 4), condition)]
        add("Compress", chosen, [attrs], dtypes=TEXTS, traced=False)
    add("NonZero", [((3, 4),), ((5,),), ((0, 2),)], values=few, traced=False)
    add("NonZero", [(np.array(3.0, np.float32),)], dtypes=[DType.F32], traced=False)
    texts = [*allowed_dtypes("Unique"), DType.STRING]
    unsorted = [{}, {"sorted": 0}]
    add("Unique", [((9,),)], unsorted, dtypes=texts, outs=4, values=few, traced=False)
    along = [{"axis": 0}, {"axis": 1, "sorted": 0}, {"axis": -1}]
    table = np.array([[1, 0, 1], [2, 0, 2], [1, 0, 1]], np.int64)
    add("Unique", [(table,)], along, dtypes=[DType.I64], outs=4, traced=False)
    return made
