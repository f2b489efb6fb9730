"""What is declared of the types of results, against the results."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import onnx
from comparison import verdict
from peers import NoAnswer, model_of, ours
from single import Array, Case

from graphopt.dims import Expr, evaluate, symbol
from graphopt.ops.schema import LATEST
from graphopt.types import UNKNOWN, DType, TensorType, Type


def symbolic(array: Array) -> TensorType:
    """A type in which each extent above 1 is a symbol: equal extents are one symbol."""
    dims = [symbol(f"d{n}") if n > 1 else n for n in array.shape]
    return TensorType(DType.of(array.dtype), tuple(dims))


VAGUE: tuple[Callable[[Array], Type], ...] = (
    lambda array: TensorType(DType.of(array.dtype), (None,) * array.ndim),
    lambda array: TensorType(DType.of(array.dtype)),
    lambda array: TensorType(),
    lambda array: UNKNOWN,
)
"""Types that know less and less of an operand."""


def vague_faults(case: Case) -> Iterator[str]:
    """Where an op cannot be built on operands of which less is known, or is wrong."""
    results = ours(case)
    for level, typed in enumerate(VAGUE):
        try:
            op = case.build(typed)
        except Exception as error:
            yield f"{case} of vagueness {level}: {type(error).__name__}: {error}"
            continue
        for type_, array in zip(op.types, results, strict=False):
            if not isinstance(type_, TensorType):
                continue
            where = f"{case} of vagueness {level}: {type_}, not {array.shape}"
            if type_.dtype not in (None, DType.of(array.dtype)):
                yield where
            if type_.shape is not None:
                known = [n if d is None else d for d, n in _pairs(type_.shape, array)]
                if tuple(known) != array.shape:
                    yield where


def _pairs(shape: Sequence[Any], array: Array) -> list[tuple[Any, Any]]:
    return list(itertools.zip_longest(shape, array.shape))


def inferred(case: Case, *, loose: bool) -> list[onnx.TypeProto]:
    """The types that onnx.shape_inference finds. Raises NoAnswer."""
    model = model_of(case, LATEST)
    if loose:
        for info in model.graph.input:
            for dim in info.type.tensor_type.shape.dim:
                if dim.dim_value > 1:
                    dim.dim_param = f"d{dim.dim_value}"
    try:
        made = onnx.shape_inference.infer_shapes(model, True, True, True)
    except Exception as error:
        raise NoAnswer(str(error)) from None
    return [info.type for info in made.graph.output]


def type_faults(case: Case) -> list[str]:
    """Where our types know less than onnx's, contradict them, or the results."""
    faults = (f"types: {fault}" for fault in _type_faults(case))
    return [fault for fault in faults if not verdict(fault)]


def _type_faults(case: Case) -> Iterator[str]:
    static, loose = case.op, case.build(symbolic)
    for i, (type_, array) in enumerate(zip(static.types, ours(case), strict=True)):
        if not isinstance(type_, TensorType):
            yield f"{case} result {i}: {type_} is no tensor"
            continue
        if DType.of(array.dtype) is not type_.dtype:
            yield f"{case} result {i}: {array.dtype} computed, {type_} inferred"
        yield from _dim_faults(f"{case} result {i}", type_.shape, array.shape, {})
    extents = {n for a in case.operands if a is not None for n in a.shape if n > 1}
    sizes = {f"d{n}": n for n in extents}
    for op, is_loose in ((static, False), (loose, True)):
        try:
            theirs = inferred(case, loose=is_loose)
        except NoAnswer:
            continue
        for i, (type_, proto) in enumerate(zip(op.types, theirs, strict=True)):
            where = f"{case} result {i}, {'symbolic' if is_loose else 'static'}"
            assert isinstance(type_, TensorType)
            if not proto.HasField("tensor_type"):
                continue
            tensor = proto.tensor_type
            if tensor.elem_type and DType(tensor.elem_type) is not type_.dtype:
                yield f"{where}: {type_}, onnx says {DType(tensor.elem_type)}"
            if tensor.HasField("shape"):
                dims = [
                    d.dim_value if d.HasField("dim_value") else d.dim_param or None
                    for d in tensor.shape.dim
                ]
                yield from _dim_faults(where, type_.shape, dims, sizes)


def _dim_faults(
    where: str, mine: Any, wanted: Sequence[Any], sizes: Mapping[str, int]
) -> Iterator[str]:
    if mine is None or len(mine) != len(wanted):
        yield f"{where}: {mine} is not of rank {len(wanted)}"
        return
    for i, (ours_, theirs) in enumerate(zip(mine, wanted, strict=True)):
        if theirs is None or str(theirs).startswith("unk__"):
            continue
        if isinstance(theirs, int):
            agrees = ours_ == theirs or (
                isinstance(ours_, Expr) and evaluate(ours_, sizes) == theirs
            )
        else:
            agrees = isinstance(ours_, Expr) and str(ours_) == theirs
        if not agrees:
            yield f"{where}: dim {i} is {ours_}, not {theirs}"
