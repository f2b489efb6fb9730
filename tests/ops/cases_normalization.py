"""Cases of normalizations."""

from __future__ import annotations

from typing import Any

import numpy as np
from single import Case, positive, sweep

from graphopt.types import DType


def cases(every: bool = False) -> list[Case]:
    made: list[Case] = []

    def add(kind: str, shapes: Any, attrs: Any = ({},), **options: Any) -> None:
        options.setdefault("ulps", 16)
        made.extend(sweep(kind, shapes, attrs, every=every, **options))

    image = (2, 3, 4, 5)
    vectors = ((3,), (3,), (3,), _variance)
    add(
        "BatchNormalization",
        [(image, *vectors), ((4, 3), *vectors), ((2, 3, 4), *vectors)],
        [{}, {"epsilon": 0.01}],
    )
    add(
        "BatchNormalization",
        [(image, *vectors), ((4, 3), *vectors)],
        [{"training_mode": 1}, {"training_mode": 1, "momentum": 0.5}],
        outs=3,
        dtypes=[DType.F32, DType.F64, DType.F16],
    )
    add("InstanceNormalization", [(image, (3,), (3,)), ((2, 3, 6), (3,), (3,))])
    wholes = [{}, {"axis": -2}, {"axis": 1}, {"epsilon": 0.01}]
    fits = [
        (image, (5,), (5,)),
        (image, (4, 5), (4, 5)),
        (image, (3, 4, 5), (3, 4, 5)),
        (image, (5,)),
    ]
    for outs in (1, 3):
        floats = None if outs == 1 else [DType.F32]
        add("LayerNormalization", fits, wholes, outs=outs, dtypes=floats)
    add("RMSNormalization", [fit[:2] for fit in fits], wholes)
    groups = [{"num_groups": 2}, {"num_groups": 4, "epsilon": 0.01}, {"num_groups": 1}]
    add(
        "GroupNormalization",
        [((2, 4, 3, 2), (4,), (4,)), ((2, 4, 6), (4,), (4,))],
        groups,
    )
    add(
        "MeanVarianceNormalization",
        [(image,)],
        [{}, {"axes": (1, 2)}, {"axes": (0, -1)}],
    )
    sizes = [
        {"size": 3},
        {"size": 2, "alpha": 0.5, "beta": 0.5},
        {"size": 5, "bias": 2.0},
        {"size": 1},
    ]
    add("LRN", [((2, 6, 3, 2),), ((1, 4, 3),)], sizes)
    return made


def _variance(rng: np.random.Generator, dtype: DType) -> Any:
    return positive(rng, (3,), dtype)
