"""Casts between numbers and strings, on the host."""

from __future__ import annotations

from typing import Any

import numpy as np

from .casting import Casting, kind
from .foundation import Array

_NAMES = {"inf": "INF", "-inf": "-INF", "nan": "NaN"}


def cast(xp: Casting, x: Array, target: np.dtype[Any]) -> Array:
    """``x`` as strings, or strings as numbers.

    Floats are written with the fewest digits that read back equal. Raises ValueError
    for a string that is no number: ONNX leaves that open.
    """
    if target.kind == "O":
        result = np.empty(x.shape, object)
        result.reshape(-1)[:] = [_written(v) for v in x.reshape(-1)]
        return result
    texts = x.reshape(-1).tolist()
    of = kind(target)
    if of == "b":
        values = np.array([float(text) != 0 for text in texts], np.bool_)
    elif of in "iu":
        values = np.array([_whole(text) for text in texts], np.int64)
    else:
        values = np.array([float(text) for text in texts], np.float64)
    made: Array = xp.cast(values.reshape(x.shape), target)
    return made


def _written(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode()
    text = str(value)
    return _NAMES.get(text, text)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return int(float(text))
