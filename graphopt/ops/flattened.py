"""Softmax and its kin as they were before opset 13: over several axes taken as one.

They are in no newer opset, so these are composite ops of graphopt's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import ClassVar

from ..ir import Value
from ..types import Type
from .generation import Shape
from .registry import op
from .reshaping import Flatten, Reshape
from .schema import Schema, schema_of
from .softmax import Hardmax, LogSoftmax, Softmax
from .structured import Composite, Structured


class Flattened(Composite):
    """A function of the rows of ``Flatten(x, axis)``, in the dims of x."""

    __slots__ = ()

    of_rows: ClassVar[type[Structured]]

    @classmethod
    def schema(cls) -> Schema:
        return _schema(cls.of_rows.kind)

    def infer(self) -> Sequence[Type]:
        x = self.operands[0]
        assert x is not None
        return [x.type]

    def body(self) -> Value:
        x = self.operands[0]
        assert x is not None
        rows = self.of_rows(Flatten(x, axis=self.axis), axis=-1)
        return Reshape(rows, Shape(x), allowzero=1)


@cache
def _schema(kind: str) -> Schema:
    schema = schema_of(kind)
    assert schema is not None
    return schema


@op("FlatSoftmax", domain="graphopt")
class FlatSoftmax(Flattened):
    """Softmax over the axes from ``axis`` on."""

    __slots__ = ()
    of_rows = Softmax


@op("FlatLogSoftmax", domain="graphopt")
class FlatLogSoftmax(Flattened):
    """LogSoftmax over the axes from ``axis`` on."""

    __slots__ = ()
    of_rows = LogSoftmax


@op("FlatHardmax", domain="graphopt")
class FlatHardmax(Flattened):
    """Hardmax over the axes from ``axis`` on."""

    __slots__ = ()
    of_rows = Hardmax


FLATTENED: dict[str, type[Flattened]] = {
    "Softmax": FlatSoftmax,
    "LogSoftmax": FlatLogSoftmax,
    "Hardmax": FlatHardmax,
}
"""By the kind of the op that works on rows."""
