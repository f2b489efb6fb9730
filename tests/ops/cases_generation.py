"""Cases of generators, losses and signals."""

from __future__ import annotations

from typing import Any

import numpy as np
from single import Case, constant, sweep

from graphopt.types import DType


def cases(every: bool = False) -> list[Case]:
    made: list[Case] = []

    def add(kind: str, shapes: Any, attrs: Any = ({},), **options: Any) -> None:
        made.extend(sweep(kind, shapes, attrs, every=every, **options))

    parts = [
        {},
        {"start": 1},
        {"start": -1},
        {"start": 1, "end": -1},
        {"start": -9, "end": 9},
        {"start": 2, "end": 1},
    ]
    add("Shape", [((2, 3, 4),), ((5,),), ((),)], parts)
    add("Size", [((2, 3, 4),), ((),), ((0, 2),)])
    for start, limit, delta in ((0, 7, 2), (10, 4, -2), (3, 3, 1), (5, 1, 1)):
        bounds = [_scalar(v) for v in (start, limit, delta)]
        add("Range", [bounds], constants=(0, 1, 2))
    add(
        "Range",
        [[_scalar(v) for v in (1.0, 2.05, 0.1)]],
        dtypes=[DType.F32],
        constants=(0, 1, 2),
    )
    ks = [{}, {"k": 1}, {"k": -2}, {"dtype": DType.F64}, {"dtype": DType.I32, "k": 1}]
    add("EyeLike", [((3, 4),), ((4, 2),)], ks)
    tri = [
        ((3, 4),),
        ((2, 3, 3), _k(1)),
        ((4, 2), _k(-1)),
        ((2, 4), _k(9)),
        ((2, 0), _k(0)),
    ]
    add("Trilu", tri, [{}, {"upper": 0}])
    fills = [{}, *({"value": np.array([3]).astype(d.numpy)} for d in NUMBERS)]
    add(
        "ConstantOfShape",
        [(constant((2, 3)),), (constant((0, 4)),)],
        fills,
        dtypes=[DType.I64],
    )
    add("ConstantOfShape", [(np.zeros(0, np.int64),)], dtypes=[DType.I64])

    reductions = [{"reduction": r} for r in ("mean", "sum", "none")]
    ignoring = [{**r, "ignore_index": i} for r in reductions for i in (1, -1)]
    for kind in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"):
        for shape in ((4, 5), (2, 5, 3), (2, 5, 2, 3)):
            labels = _labels(shape)
            for rest in ((), ((5,),)):
                add(
                    kind,
                    [(shape, labels, *rest)],
                    [*reductions, *ignoring],
                    dtypes=[DType.F32],
                    ulps=16,
                )
        add(kind, [((4, 5), _labels((4, 5)))], ulps=16)
    add(
        "SoftmaxCrossEntropyLoss",
        [((2, 5, 3), _labels((2, 5, 3)))],
        reductions,
        outs=2,
        dtypes=[DType.F32],
    )

    for kind in ("HannWindow", "HammingWindow", "BlackmanWindow"):
        for dtype in (DType.F32, DType.F64, DType.F16):
            add(
                kind,
                [(constant(10),), (constant(7, np.int32),)],
                [{"output_datatype": dtype}, {"output_datatype": dtype, "periodic": 0}],
                dtypes=[DType.I64],
                ulps=16,
            )
    add(
        "MelWeightMatrix",
        [
            [constant(v) for v in (8, 16, 8192)]
            + [constant(v, np.float32) for v in (0.0, 4096.0)]
        ],
        dtypes=[DType.I64],
    )
    signal, spectrum = (2, 8, 1), (2, 8, 2)
    few = [DType.F32, DType.F64]
    add("DFT", [(signal,), (spectrum,)], [{}, {"onesided": 1}][:1], dtypes=few, ulps=32)
    add(
        "DFT",
        [(signal,), (signal, constant(6)), (signal, constant(11))],
        [{"onesided": 1}],
        dtypes=few,
        ulps=32,
    )
    add(
        "DFT",
        [(spectrum,), (spectrum, constant(5), constant(1))],
        [{"inverse": 1}],
        dtypes=few,
        ulps=32,
    )
    add(
        "DFT",
        [((3, 4, 2, 2), None, constant(0)), ((3, 4, 2, 2), constant(6), constant(-3))],
        dtypes=few,
        ulps=32,
    )
    add(
        "DFT",
        [((2, 5, 2),), ((2, 5, 2), constant(8))],
        [{"inverse": 1, "onesided": 1}],
        dtypes=few,
        ulps=32,
    )
    frames = [
        ((2, 16, 1), constant(4), (8,)),
        ((2, 16, 1), constant(3), None, constant(6)),
        ((1, 15, 1), constant(4), (8,), constant(8)),
    ]
    add("STFT", frames, dtypes=few, ulps=64)
    add(
        "STFT",
        [((2, 16, 2), constant(4), (8,))],
        [{"onesided": 0}],
        dtypes=few,
        ulps=64,
    )
    add(
        "Dropout", [((3, 4),), ((3, 4), constant(0.25, np.float32))], dtypes=[DType.F32]
    )
    add(
        "Dropout",
        [((3, 4), constant(0.0, np.float32), constant(True, bool))],
        dtypes=[DType.F32],
        outs=2,
    )
    return made


NUMBERS = [DType.F32, DType.F64, DType.F16, DType.I64, DType.I8, DType.U16, DType.BOOL]


def _scalar(value: float) -> Any:
    def scalar(_: np.random.Generator, dtype: DType) -> Any:
        return np.asarray(value).astype(dtype.numpy)

    scalar.__name__ = str(value)
    return scalar


def _k(value: int) -> Any:
    return constant(value)


def _labels(shape: tuple[int, ...]) -> Any:
    def labels(rng: np.random.Generator, _: DType) -> Any:
        return rng.integers(0, shape[1], (shape[0], *shape[2:]))

    return labels
