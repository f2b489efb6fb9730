"""ONNX -> Graph: every way of writing a model is read into one meaning.

Names become values, outer references become captures, functions are read in place,
old opsets are modernized (`graphopt.versions`), weights stay in their files. What is
not modelled becomes `Opaque`. The bytes may come from anybody: everything that ONNX
promises is checked, and a broken promise is an InvalidModel that says where.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnx import ModelProto

from ..errors import GraphoptError, InvalidModel, UsageError
from ..interface import is_program
from ..ir import Graph
from .model import read_model

__all__ = ["load"]


def load(
    source: str | os.PathLike[str] | bytes | ModelProto,
    *,
    folder: str | os.PathLike[str] | None = None,
    apart: bool = False,
) -> Graph:
    """The graph of an ONNX model: a file, its bytes, or a ModelProto.

    External data is looked for in ``folder``, by default the file's own, and not read.
    ``apart`` keeps equal initializers apart, as training makes them differ.
    Raises InvalidModel, UnsupportedModel, UsageError for a program that was exported
    for XLA, and OSError where the file cannot be read.
    """
    if not isinstance(source, bytes | ModelProto):
        path = Path(source)
        if is_program(path):
            raise UsageError(
                f"{path} is a program for XLA, and no model any more; graphopt run and"
                " graphopt bench take it"
            )
        try:
            return load(
                path.read_bytes(),
                folder=path.parent if folder is None else folder,
                apart=apart,
            )
        except GraphoptError as error:
            error.where = error.where or str(path)
            raise
    model = source if isinstance(source, ModelProto) else _parse(source)
    with _without_collector():
        return read_model(model, None if folder is None else Path(folder), apart)


def _parse(data: bytes) -> ModelProto:
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError; where it lives is private
        raise InvalidModel(f"not an ONNX model: {error}") from None
    if not model.HasField("graph"):
        raise InvalidModel("not an ONNX model: it has no graph")
    return model


@contextmanager
def _without_collector() -> Iterator[None]:
    """The cyclic collector would walk every new object again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
