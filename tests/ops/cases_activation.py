"""Cases of activations and of changes of type."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases_elementwise import FLOATS, SINGLES
from single import Case, normal, positive, special, sweep

from graphopt.types import DType

SPREAD = [((3, 40),), ((),), ((2, 0, 3),)]


def wide(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Any:
    return normal(rng, shape, dtype) * dtype.numpy.type(4)


def cases(every: bool = False) -> list[Case]:
    made: list[Case] = []

    def add(kind: str, shapes: Any, attrs: Any = ({},), **options: Any) -> None:
        made.extend(sweep(kind, shapes, attrs, every=every, **options))

    alphas = [{}, {"alpha": 0.25}, {"alpha": 2.0}]
    for kind in ("LeakyRelu", "ThresholdedRelu", "Elu", "Celu", "Swish"):
        add(kind, SPREAD, alphas, values=wide, ulps=16)
    for kind in ("Relu", "Sigmoid", "Softplus", "Softsign", "HardSwish", "Mish"):
        add(kind, SPREAD, values=wide, ulps=16)
    for kind in ("Relu", "Sigmoid"):
        add(kind, SINGLES[:1], values=special, dtypes=[DType.F32])
    add("Gelu", SPREAD, [{}, {"approximate": "tanh"}], values=wide, ulps=16)
    add("Selu", SPREAD, [{}, {"alpha": 2.0, "gamma": 0.5}], values=wide, ulps=16)
    add("HardSigmoid", SPREAD, [{}, {"alpha": 0.5, "beta": 0.25}], values=wide)
    add("Shrink", SPREAD, [{}, {"lambd": 1.0, "bias": 0.5}], values=wide)
    add("PRelu", [((2, 3, 4), (4,)), ((2, 3, 4), (3, 1)), ((4,), ())])
    add("SwiGLU", [((3, 4), (3, 4)), ((2, 0), (2, 0))], alphas, ulps=16)

    number = [
        *FLOATS,
        DType.BOOL,
        *(DType[f"{s}{b}"] for s in "UI" for b in (8, 16, 32, 64)),
    ]
    narrow = [DType.U4, DType.I4]
    eights = [DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ]
    for target in number:
        add("Cast", [((3, 8),)], [{"to": target}], dtypes=number, values=wide)
    for target in narrow:
        add("Cast", [((16,),)], [{"to": target}], dtypes=[DType.F32, DType.I32])
        add("Cast", [((16,),)], [{"to": DType.F32}], dtypes=[target])
    for target in eights:
        for saturate in (0, 1):
            attrs = [{"to": target, "saturate": saturate}]
            add("Cast", [((64,),)], attrs, dtypes=FLOATS[:3], values=huge)
        add("Cast", [((16,),)], [{"to": DType.F32}], dtypes=[target], values=positive)
    text = {"dtypes": [DType.STRING], "traced": False}
    add("Cast", [(_numerals,)], [{"to": DType.F32}, {"to": DType.I64}], **text)
    add("Cast", [((3, 2),)], [{"to": DType.STRING}], dtypes=[DType.I64], traced=False)
    add("CastLike", [((3, 4), _like(t)) for t in number], dtypes=[DType.F32, DType.I32])
    for source, target in (
        (DType.F32, DType.I32),
        (DType.F64, DType.U64),
        (DType.U8, DType.I8),
    ):
        add("BitCast", [((3, 4),)], [{"to": target}], dtypes=[source])
    return made


def huge(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Any:
    """Beyond what eight bits hold, and special."""
    scaled = normal(rng, shape, dtype) * dtype.numpy.type(200)
    return np.where(rng.random(shape) < 0.3, special(rng, shape, dtype), scaled)


def _numerals(rng: np.random.Generator, _: DType) -> Any:
    return np.asarray(["1", "-2", "30"], object)


def _like(dtype: DType) -> Any:
    def like(rng: np.random.Generator, _: DType) -> Any:
        return np.zeros((2,), dtype.numpy)

    like.__name__ = str(dtype)
    return like
