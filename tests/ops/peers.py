"""What graphopt, its bodies, XLA, ONNX Runtime and onnx make of a case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from single import Array, Case

from graphopt import ops, xp
from graphopt.ir import Op, Value
from graphopt.ops.schema import LATEST, schema_of
from graphopt.ops.structured import Composite, Computed
from graphopt.reference import Evaluator, schedule
from graphopt.types import DType, TensorType

RUNTIME_OPSETS = (26, 21)
"""The newest opset that ONNX Runtime takes, and one that it has more kernels for."""


class NoAnswer(Exception):
    """The peer cannot run the case."""


def ours(case: Case, namespace: xp.Namespace | None = None) -> list[Array]:
    """What graphopt computes; element types are those that `compute` gives."""
    op = case.op
    space = namespace or xp.host()
    with space.scope():
        if type(op).compute is Computed.compute:
            return list(Evaluator().apply(op, case.operands))
        results = op.compute(space, *case.operands)
    return list(results) if isinstance(results, tuple) else [results]


def expanded(case: Case) -> list[Array] | None:
    """What the op's body computes; None where there is no body."""
    op = case.op
    if not isinstance(op, Composite) or op.expansion is None:
        return None
    env = {
        value: array
        for value, array in zip(op.operands, case.operands, strict=False)
        if value is not None and not isinstance(value, ops.Constant)
    }
    return Evaluator().run(op.expansion[: op.outs], env)


def widened(case: Case) -> list[Array]:
    """What graphopt computes in float64, rounded to the declared types in the end."""
    evaluator = Evaluator(precision="float64")
    operands = [None if a is None else evaluator.adopt(a) for a in case.operands]
    with evaluator.xp.scope():
        results = evaluator.apply(case.op, operands)
        return [
            array.astype(type_.dtype.numpy)
            for array, type_ in zip(results, case.op.types, strict=True)
            if isinstance(type_, TensorType) and type_.dtype
        ]


def traced(cases: Sequence[Case]) -> list[list[Array]]:
    """What XLA computes: static and constant operands are known, the others traced.

    All cases are one program, as compiling takes longest.
    """
    import jax

    dynamic = [
        [
            i
            for i, array in enumerate(case.operands)
            if array is not None and i not in {*case.constants, *case.op.static}
        ]
        for case in cases
    ]

    def run(rows: list[list[Any]]) -> list[tuple[Any, ...]]:
        results = []
        for case, places, arrays in zip(cases, dynamic, rows, strict=True):
            operands = list(case.operands)
            for i, array in zip(places, arrays, strict=True):
                operands[i] = array
            results.append(lowered(case.op, operands))
        return results

    with xp.traced().scope():
        rows = [
            [case.operands[i] for i in places]
            for case, places in zip(cases, dynamic, strict=True)
        ]
        compiled = jax.jit(run, compiler_options=QUICK)
        return [[np.asarray(r) for r in results] for results in compiled(rows)]


def lowered(op: Op, operands: Sequence[Any]) -> tuple[Any, ...]:
    """The results under a trace: what is known stays with NumPy, bodies are entered."""
    if isinstance(op, ops.Constant):
        return (op.tensor.array(),)
    assert isinstance(op, Computed)
    if all(a is None or isinstance(a, np.ndarray) for a in operands):
        return Evaluator().apply(op, operands)
    if type(op).compute is not Computed.compute:
        results = op.compute(xp.traced(), *operands)
        return results if isinstance(results, tuple) else (results,)
    assert isinstance(op, Composite)
    assert op.expansion is not None
    known: dict[Value, Any] = {
        v: a for v, a in zip(op.operands, operands, strict=False) if v is not None
    }
    for inner in schedule(op.expansion, known):
        arrays = [None if v is None else known[v] for v in inner.operands]
        known |= zip(inner.results, lowered(inner, arrays), strict=True)
    return tuple(known[v] for v in op.expansion[: op.outs])


QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
"""Compiled once and run once: programs need not be fast."""


def model_of(case: Case, opset: int) -> onnx.ModelProto:
    """A model of the one node. Raises NoAnswer where that opset cannot say it."""
    try:
        schema = onnx.defs.get_schema(case.kind, opset, "")
    except onnx.defs.SchemaError as error:
        raise NoAnswer(str(error)) from None
    newest = schema_of(case.kind)
    assert newest is not None
    attrs = {}
    for name, value in case.attrs.items():
        if name in schema.attributes:
            attrs[name] = value
        elif newest.defaults.get(name) != value:
            raise NoAnswer(f"opset {opset} has no attribute {name}")
    names = ["" if a is None else f"x{i}" for i, a in enumerate(case.operands)]
    node = onnx.helper.make_node(
        case.kind, names, [f"y{i}" for i in range(case.outs)], **_plain(attrs)
    )
    inputs, initializers = [], []
    for i, array in enumerate(case.operands):
        if array is None:
            continue
        dtype = DType.of(array.dtype)
        if i in case.constants:
            tensor = onnx.numpy_helper.from_array(np.asarray(array), f"x{i}")
            initializers.append(tensor)
        else:
            inputs.append(
                onnx.helper.make_tensor_value_info(f"x{i}", dtype.value, array.shape)
            )
    outputs = [onnx.ValueInfoProto(name=f"y{i}") for i in range(case.outs)]
    graph = onnx.helper.make_graph([node], "case", inputs, outputs, initializers)
    return onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        ir_version=10 if opset <= RUNTIME_OPSETS[0] else 13,
    )


def _plain(attrs: Mapping[str, Any]) -> dict[str, Any]:
    plain = {}
    for name, value in attrs.items():
        if isinstance(value, DType):
            value = value.value
        elif isinstance(value, np.ndarray):
            value = onnx.numpy_helper.from_array(value)
        plain[name] = value
    return plain


def feeds_of(case: Case) -> dict[str, Array]:
    return {
        f"x{i}": array
        for i, array in enumerate(case.operands)
        if array is not None and i not in case.constants
    }


def runtime(case: Case) -> list[Array]:
    """What ONNX Runtime computes, its optimizations off. Raises NoAnswer."""
    import onnxruntime as ort

    if any(a is not None and a.dtype in _FOREIGN for a in case.operands):
        raise NoAnswer("NumPy cannot hand over this element type")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    failures = []
    for opset in RUNTIME_OPSETS:
        try:
            model = model_of(case, opset)
            session = ort.InferenceSession(model.SerializeToString(), options)
            results = session.run(None, feeds_of(case))
        except Exception as error:
            failures.append(str(error))
        else:
            break
    else:
        raise NoAnswer("; ".join(failures))
    # It gives the bits of what NumPy has no type for.
    return [
        array.view(type_.dtype.numpy)
        if isinstance(type_, TensorType)
        and type_.dtype
        and type_.dtype.bits == 8
        and type_.dtype.is_float
        else array
        for array, type_ in zip(results, case.op.types, strict=True)
    ]


_FOREIGN = {np.dtype(d) for d in (ml_dtypes.bfloat16, ml_dtypes.int4, ml_dtypes.uint4)}


def reference(case: Case) -> list[Array]:
    """What onnx's own evaluator computes. Raises NoAnswer."""
    from onnx.reference import ReferenceEvaluator

    model = model_of(case, LATEST)
    # It takes types of results from the declared ones, in places.
    try:
        with np.errstate(all="ignore"):
            return list(ReferenceEvaluator(model).run(None, feeds_of(case)))
    except Exception as error:
        raise NoAnswer(f"{type(error).__name__}: {error}") from None
