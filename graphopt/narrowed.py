"""Narrow precisions of models: which pass, with whose kernels, and is it any faster?"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

from .bench import measure
from .debug import verifies
from .errors import GraphoptError, UsageError, nearest
from .exporter import Wanted, save
from .feeds import bind
from .inputs import bindings, random_inputs
from .ir import Graph
from .passes.precision import PRECISIONS, Precision, Refuses
from .passes.precision.narrowing import with_interface_of
from .pipeline import PassRecord, Pipeline
from .types import DType
from .verify import verify

KEPT: Final = "fp32"
"""The precision that changes nothing."""

MEASURED: Final = "ort-cpu"
"""The target whose time can be measured anywhere."""

_ROUNDS: Final = 5
_SIZES: Final = 8
_DIFFERENT: Final = 0.05  # a ratio that is nearer to 1 says nothing


def narrowing(
    precision: str,
    target: str,
    budget: float = 0.0,
    keep_io: bool = True,
    inputs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Precision | None:
    """The pass for a target that is a model; None where nothing is to be changed.

    Only that becomes narrow which ONNX Runtime has a kernel for. On the CPU it puts
    casts around ops of float16 by itself; of bfloat16 it refuses them. Raises
    UsageError for an unknown precision.
    """
    if precision == KEPT:
        return None
    if precision not in PRECISIONS:
        known = (KEPT, *PRECISIONS)
        raise UsageError(
            f"no precision {precision!r} for {target}{nearest(precision, known)};"
            f" known: {', '.join(known)}"
        )
    alone = target == MEASURED and PRECISIONS[precision] is DType.F16
    return Precision(
        precision,
        budget,
        seed,
        keep_io,
        inputs,
        None if target == "onnx" or alone else _refuses(target),
    )


def _refuses(target: str) -> Refuses:
    """Why no kernel takes an op, written in the oldest opset that says it."""
    from .lowering.ort.kernels import Kernels

    return Kernels.of(target).why_not


def put(
    narrow: Precision, graph: Graph, target: str, opset: Wanted
) -> tuple[Graph, PassRecord, list[str]]:
    """The narrowed graph, the record of the pass, and what is to be said of both."""
    check = verify if verifies() else None
    made, (record,) = Pipeline((narrow,), rounds=1).run(graph, verify=check)
    notes = list(record.notes)
    if made is not graph:
        inputs, seed = narrow.inputs, narrow.seed
        notes.append(
            compared(graph, made, target, opset=opset, inputs=inputs, seed=seed)
        )
    return made, record, notes


def compared(
    before: Graph,
    after: Graph,
    target: str,
    *,
    opset: Wanted = None,
    inputs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> str:
    """What is to be said of the speed of a narrowed graph, in one sentence."""
    if target != MEASURED:
        return "its speed is not measured: that takes the device that it is for"
    if importlib.util.find_spec("onnxruntime") is None:
        return f"{target} has few kernels for it: it is likely slower than fp32"
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("before.onnx", "after.onnx")]
        try:
            after = with_interface_of(before, after)
            for graph, path in zip((before, after), paths, strict=True):
                save(graph, path, opset=opset)
            fed = _fed(before, inputs, seed)
            timings = measure(paths, fed, target=target, rounds=_ROUNDS)
        except GraphoptError as error:
            return f"its speed is not known: {error}"
    ratio = timings[1].ratio
    times = f"{ratio:.2f} times fp32's time on {target}, measured"
    if ratio > 1 + _DIFFERENT:
        return f"slower than fp32: {times}; stay with fp32 there, or use a GPU target"
    return f"faster than fp32: {times}" if ratio < 1 - _DIFFERENT else times


def _fed(
    graph: Graph, inputs: Mapping[str, Any] | None, seed: int
) -> Mapping[str, Any]:
    """The inputs, or random ones of the first sizes that the graph takes."""
    if inputs is not None:
        return inputs
    from .reference import evaluate

    reason: GraphoptError | None = None
    for sizes in islice(bindings(graph), _SIZES):
        try:
            arrays = random_inputs(graph, seed, sizes)
            bind(graph, arrays)
            evaluate(graph, arrays, seed=seed)
        except GraphoptError as error:
            reason = reason or error
        else:
            return arrays
    assert reason is not None
    raise reason
