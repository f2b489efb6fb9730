"""Sums that a program keeps whole where its memory is planned.

XLA makes what is cheap again for each that reads it, and holds what it is made of until
then. Of a sum that is more than the sum; residual networks have one in each block:

```
y = relu(a + b), f(y), g(y)  -->  f(relu(a + b)), g(relu(a + b))     holds a, b until g
y = keep(relu(a + b))        -->  f(y), g(y)                         holds y
```

A CPU's convolutions have channels last, and XLA moves no layout past what keeps: there
it is kept so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import jax
import jax.numpy as jnp

from graphopt.ir import Graph, Op, Value
from graphopt.ops.constant import Constant
from graphopt.ops.convolution import Conv
from graphopt.ops.structured import Elementwise

_barrier: Final[Any] = jax.lax.optimization_barrier  # which JAX has not typed


def kept(graph: Graph) -> dict[Value, bool]:
    """The values, those of bodies too; and of which channels come last."""
    return dict(_kept(graph))


def keep(array: Any, *, channels_last: bool) -> Any:
    """The array as XLA does not make it again."""
    if not channels_last:
        return _barrier(array)
    return jnp.moveaxis(_barrier(jnp.moveaxis(array, 1, -1)), -1, 1)


def _kept(graph: Graph) -> Iterator[tuple[Value, bool]]:
    for op in graph.ops:
        for body in op.bodies:
            yield from _kept(body)
        if not isinstance(op, Elementwise) or len(op.results) != 1:
            continue
        value = op.results[0]
        readers = {reader for reader, _ in graph.users[value]}
        if len(readers) < 2 or value.shape is None:
            continue
        parts = _parts(graph, op)
        alike = [p for p in parts if (p.shape, p.dtype) == (value.shape, value.dtype)]
        if len(alike) > 1:
            images = [r for r, at in graph.users[value] if at == 0]
            images += [part.op for part in parts if part.op is not None]
            yield value, any(isinstance(each, Conv) for each in images)


def _parts(graph: Graph, op: Op) -> set[Value]:
    """What is computed and must be there to make the result of an op again."""
    found, pending = set[Value](), [op]
    while pending:
        for value in pending.pop().operands:
            maker = None if value is None else value.op
            if value is None or maker is None or isinstance(maker, Constant):
                continue  # a constant or an input is there anyway
            if isinstance(maker, Elementwise) and len(graph.users[value]) == 1:
                pending.append(maker)
            else:
                found.add(value)
    return found
