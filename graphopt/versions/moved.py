"""Operands that once were attributes, and axes that once could not be negative."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..ir import Value
from ..ops.constant import Constant
from ..types import DType
from .table import Node, changed


class Form(NamedTuple):
    """How an attribute and the operand that replaced it hold the same.

    Both give None where the other cannot be made.
    """

    to_operand: Callable[[Any, Node], Value | None]
    to_attribute: Callable[[Value], Any]


def _ints(value: Value) -> tuple[int, ...] | None:
    return value.ints if value.rank == 1 else None


def _one_int(value: Value) -> int | None:
    known = value.ints
    return known[0] if known is not None and len(known) == 1 else None


def _floats(value: Value) -> tuple[float, ...] | None:
    tensor = value.constant
    if tensor is None or tensor.dtype is not DType.F32 or tensor.rank != 1:
        return None
    return tuple(tensor.array().tolist())


def _one_float(value: Value) -> float | None:
    """A number that a 32-bit float attribute can hold."""
    tensor = value.constant
    if tensor is None or tensor.size != 1 or tensor.dtype is DType.STRING:
        return None
    number = float(tensor.array().reshape(()))
    return number if float(np.float32(number)) == number else None


def _like_data(number: float, node: Node) -> Value | None:
    dtype = node.data.dtype
    if dtype is None or dtype is DType.STRING:
        return None
    return Constant(np.asarray(number).astype(dtype.numpy))


INTS = Form(lambda ints, _: Constant(np.array(ints, np.int64)), _ints)
"""Integers and a vector."""
ONE_INT = Form(lambda i, _: Constant(np.array([i], np.int64)), _one_int)
"""An integer and a vector of one."""
SCALAR_INT = Form(lambda i, _: Constant(np.array(i, np.int64)), _one_int)
"""An integer and a scalar."""
FLOATS = Form(lambda floats, _: Constant(np.array(floats, np.float32)), _floats)
"""Numbers and a vector."""
SCALAR = Form(lambda f, _: Constant(np.array(f, np.float32)), _one_float)
"""A number and a scalar."""
SCALAR_LIKE_DATA = Form(_like_data, _one_float)
"""A number and a scalar of operand 0's element type."""


class Moved(NamedTuple):
    """Attributes that became operands: ``slots[name]`` is where.

    An attribute equal to its ``absent`` value means an absent operand.
    """

    slots: Mapping[str, tuple[int, Form]]
    absent: Mapping[str, Any]

    def read(self, node: Node) -> Node | None:
        for name, (slot, form) in self.slots.items():
            value = node.attrs.pop(name, None)
            if value is None or self.absent.get(name) == value:
                continue
            operand = form.to_operand(value, node)
            if operand is None:
                return None
            node.put(slot, operand)
        return node

    def spell(self, node: Node) -> Node | None:
        for name, (slot, form) in self.slots.items():
            operand = node.operand(slot)
            if operand is None:
                continue
            value = form.to_attribute(operand)
            if value is None:
                return None
            node.attrs[name] = value
        node.drop(min(slot for slot, _ in self.slots.values()))
        return node


def slots(
    absent: Mapping[str, Any] | None = None, **places: int | tuple[int, Form]
) -> Moved:
    """Attributes with the operands that they became: a place, or place and form."""
    return Moved(
        {n: (p, INTS) if isinstance(p, int) else p for n, p in places.items()},
        absent or {},
    )


def moved(kinds: str, since: int, moved_slots: Moved) -> None:
    """Before ``since``, some operands were attributes.

    >>> moved("Squeeze Unsqueeze", 13, slots(axes=1))
    """
    changed(kinds, since, read=moved_slots.read, spell=moved_slots.spell)


def from_front(node: Node) -> Node:
    """Axes counted from the front, where the rank is known."""
    rank = node.data.rank
    if rank is None:
        return node
    axis = node.attrs.get("axis")
    if isinstance(axis, int) and axis < 0:
        node.attrs["axis"] = axis + rank
    axes = node.attrs.get("axes")
    if axes:
        if node.kind == "Unsqueeze":
            rank += len(axes)
        node.attrs["axes"] = tuple([a + rank if a < 0 else a for a in axes])
    return node
