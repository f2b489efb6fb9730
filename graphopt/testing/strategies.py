"""Hypothesis strategies: random valid graphs, over all op families.

Graphs are grown op by op: each family looks at the values that are there and adds what
fits them. Dims may be symbolic, zero, or absent (rank 0); values are shared, some are
outputs, some inputs stay unused.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from .. import dims
from ..dims import Dim
from ..ir import Graph, Header, Parameter, Value
from ..types import DType, TensorType, tensor
from ..weights import Tensor
from . import alphabet, regions, spellings
from .growth import MAX_ELEMENTS, MAX_RANK, Draw, families

__all__ = ["families", "graphs"]

_REGISTERED = (alphabet, regions, spellings)
_DTYPES = [DType.F32] * 6 + [DType.F64, DType.F16, DType.I64, DType.I32, DType.BOOL]
_SIZES: list[Dim] = [0, *[1] * 4, *[2] * 6, *[3] * 6, *[4] * 4]
_SIZES += [dims.symbol("n")] * 4 + [dims.symbol("m")] * 2
_RANKS = [0, 1, 2, 2, 3, 3, 4, 4]
_MOST_OUTPUTS = 6


@st.composite
def graphs(
    draw: Draw,
    *,
    max_ops: int = 12,
    opset: int = 20,
    only: Sequence[str] | None = None,
) -> Graph:
    """Random valid graphs of up to ``max_ops`` growth steps.

    ``only`` names the `families` to use; by default all of them. ``opset`` is the one
    that the header states; some of the ops may need a later one.
    """
    inputs = [_parameter(draw, i) for i in range(draw(st.integers(1, 3)))]
    chosen = [families[name] for name in (only or families)]
    usable: list[Value] = list(inputs)
    made: list[Value] = []
    for _ in range(draw(st.integers(1, max_ops))):
        results = draw(st.sampled_from(chosen))(draw, usable)
        new = [results] if isinstance(results, Value) else list(results or ())
        usable.extend(v for v in new if is_small(v))
        made.extend(v for v in new if v not in made and is_writable(v))
    outputs = _outputs(draw, inputs, made)
    return Graph(
        inputs,
        outputs,
        output_names=[f"y{i}" for i in range(len(outputs))],
        output_types=[v.type for v in outputs],
        name="random",
        header=Header(opsets={"": opset}, ir_version=8 if opset < 21 else 10),
    )


def _parameter(draw: Draw, index: int) -> Parameter:
    rank = draw(st.sampled_from(_RANKS))
    shape = [draw(st.sampled_from(_SIZES)) for _ in range(rank)]
    if rank > 2 and draw(st.booleans()):
        shape[1:] = [draw(st.integers(1, 3)), *[4] * (rank - 2)]  # a picture
    dtype = draw(st.sampled_from(_DTYPES))
    default = None
    if draw(st.integers(0, 9)) == 9 and all(isinstance(d, int) for d in shape):
        default = Tensor.of(np.ones(shape, dtype.numpy))
    return Parameter(tensor(dtype, *shape), f"x{index}", default=default)


def _outputs(draw: Draw, inputs: list[Parameter], made: list[Value]) -> list[Value]:
    """What nothing reads, so that all ops are alive; at times more."""
    if not made:
        return [inputs[0]]
    read = {v for value in made if value.op for v in value.op.operands}
    outputs = [v for v in reversed(made) if v not in read][:_MOST_OUTPUTS]
    if draw(st.integers(0, 3)) == 0:
        outputs.append(draw(st.sampled_from([*inputs, *made])))
    return outputs


def is_small(value: Value) -> bool:
    """A tensor of known rank and dims that others may read."""
    type_ = value.type
    if not isinstance(type_, TensorType) or type_.shape is None:
        return False
    size = dims.substitute(dims.product(type_.shape), {"n": 3, "m": 2})
    return (
        type_.dtype is not None
        and None not in type_.shape
        and isinstance(size, int)
        and size <= MAX_ELEMENTS
        and len(type_.shape) <= MAX_RANK
    )


def is_writable(value: Value) -> bool:
    """A tensor that may be an output: its element type is known, and it is not huge."""
    type_ = value.type
    if not isinstance(type_, TensorType) or type_.dtype is None:
        return False
    return type_.shape is None or None in type_.shape or is_small(value)
