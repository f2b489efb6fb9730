"""Scan as opset 8 had it: over a batch, each instance with a length of its own.

It is read as a scan over instances, whose body scans the steps of one. ONNX leaves
open what stands behind the last step of a short instance; here, as in runtimes, zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import TypeMismatch
from ..ir import Graph, Parameter, Value
from ..ops.bodies import cast, vector
from ..ops.body_types import unstacked
from ..ops.control import Control, Scan
from ..ops.elementwise import Sub
from ..ops.generation import Shape
from ..ops.padding import Pad
from ..ops.reshaping import Reshape
from ..ops.segments import Concat, Slice
from ..types import UNKNOWN, DType
from .bodies import Budget, ReadBody, settled

if TYPE_CHECKING:
    from onnx import GraphProto


def read_batched_scan(
    cls: type[Control],
    operands: list[Value | None],
    attrs: dict[str, Any],
    graphs: Mapping[str, GraphProto],
    read_body: ReadBody,
    budget: Budget,
) -> Sequence[Value]:
    """The results of ``Scan-8(lengths, *states, *scanned)``. Raises as `read_control`.

    ``lengths`` may be absent; all others have the instances along their first axis, and
    the scanned ones steps along the second.
    """
    lengths, given = operands[0], operands[1:]
    count: int = attrs["num_scan_inputs"]
    if not 0 < count <= len(given):
        raise TypeMismatch(f"{cls.kind}: {count} scanned inputs of {len(given)}")
    if None in given:
        raise TypeMismatch(f"{cls.kind}: a state or a scanned input is missing")
    instance = [unstacked(UNKNOWN if v is None else v.type) for v in given]
    states = len(given) - count
    rows = [unstacked(type_) for type_ in instance[states:]]
    body = settled(graphs["body"], [], instance[:states], rows, 0, read_body, budget)
    captured = list(body.level.captures)
    formals = [Parameter(type_, "instance") for type_ in instance]
    inside = [Parameter(v.type, "captured") for v in captured]
    length = None if lengths is None else Parameter(unstacked(lengths.type), "length")
    scanned: list[Value] = list(formals[states:])
    steps = None if length is None else Reshape(cast(length, DType.I64), vector(1))
    if steps is not None:
        scanned = [Slice(v, vector(0), steps, vector(0)) for v in scanned]
    results: list[Value] = list(
        Scan(
            *formals[:states],
            *scanned,
            *inside,
            bodies=[body.graph(captured)],
            captures=len(captured),
            num_scan_inputs=count,
            scan_input_directions=attrs.get("directions"),
        ).results
    )
    if steps is not None:
        behind = Sub(Shape(formals[states], start=0, end=1), steps)
        pads = Concat(vector(0), behind, axis=0)
        for i in range(states, len(results)):
            results[i] = Pad(results[i], pads, None, vector(0))
    own = [] if length is None else [length]
    return Scan(
        *given,
        *([] if lengths is None else [lengths]),
        *captured,
        bodies=[Graph([*formals, *own, *inside], results)],
        captures=len(captured),
        num_scan_inputs=len(given) + len(own),
    ).results
