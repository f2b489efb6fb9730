"""Weights beside a program, as safetensors: mapped on the way in and on the way out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError, TensorSpec, serialize_file
from safetensors.numpy import load_file

from graphopt.errors import InvalidModel, UsageError
from graphopt.external import open_external

Array = Any

_WORDS: Final = "int8 int16 int32 int64 float16 bfloat16 float32 float64 complex64"
_STORED: Final = frozenset(
    ("bool", "uint8", "uint16", "uint32", "uint64", *_WORDS.split())
)
"""Element types that loaders for NumPy and JAX read back; fp8 is written, not read."""

_TAKEN: Final = "__metadata__"
"""A name that the format keeps for itself."""


def can_store(name: str, array: Array) -> bool:
    """True where a file of weights can hold this one, for loaders of JAX."""
    return name != _TAKEN and array.dtype.name in _STORED


def save_weights(path: Path, weights: Mapping[str, Array]) -> None:
    """Write arrays that `can_store` from where they lie: nothing is copied."""
    held = {name: np.ascontiguousarray(array) for name, array in weights.items()}
    serialize_file(
        {
            name: TensorSpec(
                dtype=array.dtype.name,
                shape=weights[name].shape,
                data_ptr=array.ctypes.data,
                data_len=array.nbytes,
            )
            for name, array in held.items()
        },
        path,
    )


def load_weights(folder: Path, name: str) -> dict[str, Array]:
    """All arrays of a file in ``folder``, which must be a file as `open_external` says.

    Raises UsageError where it is gone, InvalidModel.
    """
    path = folder / name
    if not os.path.lexists(path):  # False for what could be no file's name, too
        raise UsageError(f"{path} is missing: it holds the weights of the program")
    beside = open_external(folder, name)
    try:
        found: dict[str, Array] = load_file(path)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InvalidModel(f"no file of weights: {error}", where=str(path)) from None
    beside.open().close()  # safetensors opened it by its path: still the same one
    return found
