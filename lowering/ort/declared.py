"""What an open model declares of its inputs, and whether what it is fed with fits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from graphopt import dims
from graphopt.feeds import bind
from graphopt.ir import Graph, Parameter
from graphopt.types import UNKNOWN, DType, OptionalType, SequenceType, TensorType, Type
from graphopt.versions.spelling import type_name

from .. import Array


def hold_against(session: Any, inputs: Mapping[str, Array]) -> None:
    """Raises UsageError where inputs do not fit those of an ``InferenceSession``.

    It names the input, what it is declared as and what was given.
    """
    declared, optional = session.get_inputs(), session.get_overridable_initializers()
    known = {each.name for each in (*declared, *optional)}
    if inputs.keys() <= known:  # else all that there are is listed
        optional = [each for each in optional if each.name in inputs]
    bind(Graph([_parameter(each) for each in (*declared, *optional)], []), inputs)


def _parameter(declared: Any) -> Parameter:
    """A ``NodeArg`` as the input of a graph."""
    return Parameter(_type(declared.type, declared.shape), declared.name)


def _type(text: str, shape: list[int | str | None] | None) -> Type:
    """The type that ONNX Runtime writes as ``tensor(float)``.

    No dims may also be no rank: ONNX Runtime says the same of both.
    """
    if text in _TENSORS:
        return TensorType(_TENSORS[text], tuple(map(_dim, shape)) if shape else None)
    if (inner := re.fullmatch(r"(seq|optional)\((.*)\)", text)) is None:
        return UNKNOWN
    outer = SequenceType if inner[1] == "seq" else OptionalType
    return outer(_type(inner[2], None))


def _dim(written: int | str | None) -> dims.Dim:
    if isinstance(written, str) and written:
        return dims.symbol(written)
    return written if isinstance(written, int) and written >= 0 else None


_TENSORS: Final = {type_name(TensorType(dtype)): dtype for dtype in DType}
