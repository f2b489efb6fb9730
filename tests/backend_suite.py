"""ONNX's own test cases, as the installed onnx has them: models, inputs, outputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.backend.test.loader import DATA_DIR, load_model_tests

from graphopt.weights import Tensor

KINDS = ("node", "simple", "real", "pytorch-converted", "pytorch-operator")


@dataclass(frozen=True)
class Case:
    """A model, and pairs of inputs by name and outputs in order."""

    name: str
    model: ModelProto
    rtol: float
    atol: float
    data: tuple[tuple[dict[str, Any], list[Any]], ...]


@cache
def cases() -> tuple[Case, ...]:
    """All cases; the large nets in their light form, whose weights are made up."""
    with warnings.catch_warnings():  # what the suite computes when it is loaded
        warnings.simplefilter("ignore")
        found = [test for kind in KINDS for test in load_model_tests(kind=kind)]
    return tuple([_case(test) for test in found])


def _case(test: Any) -> Case:
    if test.model is not None:
        model, sets = test.model, test.data_sets
        data = [([_array(v) for v in i], [_array(v) for v in o]) for i, o in sets]
    elif test.url is not None:
        return _light(test)
    else:
        folder = Path(test.model_dir)
        model = onnx.load(folder / "model.onnx")
        data = [
            (
                list(_read(place, "input", model.graph.input)),
                list(_read(place, "output", model.graph.output)),
            )
            for place in sorted(folder.glob("test_data_set_*"))
        ]
    names = [value.name for value in model.graph.input]
    named = [(dict(zip(names, i, strict=False)), o) for i, o in data]
    return Case(test.name, model, test.rtol, test.atol, tuple(named))


def _light(test: Any) -> Case:
    """A net without its weights: the runner of the suite counts up from 0 to 1."""
    folder, name = Path(DATA_DIR) / "light", Path(test.url).stem
    model = onnx.load(folder / f"{name}.onnx")
    known = {tensor.name for tensor in model.graph.initializer}
    inputs = {}
    for value in model.graph.input:
        if value.name not in known:
            shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            size = int(np.prod(shape))
            counted = np.arange(size).reshape(shape) / size
            inputs[value.name] = counted.astype(np.float32)
    proto = TensorProto()
    proto.ParseFromString((folder / f"{name}_output_0.pb").read_bytes())
    return Case(test.name, model, test.rtol, test.atol, ((inputs, [_array(proto)]),))


def _read(folder: Path, what: str, values: Any) -> Iterator[Any]:
    for i, value in enumerate(values):
        file = folder / f"{what}_{i}.pb"
        if not file.exists():
            return
        if value.type.WhichOneof("value") == "sequence_type":
            sequence = onnx.SequenceProto()
            sequence.ParseFromString(file.read_bytes())
            yield numpy_helper.to_list(sequence)
        elif value.type.WhichOneof("value") == "optional_type":
            optional = onnx.OptionalProto()
            optional.ParseFromString(file.read_bytes())
            yield numpy_helper.to_optional(optional)
        else:
            proto = TensorProto()
            proto.ParseFromString(file.read_bytes())
            yield _array(proto)


def _array(value: Any) -> Any:
    """A tensor as graphopt holds it: narrow types and strings included."""
    if isinstance(value, TensorProto):
        return Tensor.from_proto(value).array()
    if isinstance(value, np.ndarray) and value.dtype.kind in "SU":
        return value.astype(object)
    return value


def disagreement(expected: Any, got: Any, case: Case) -> str:
    """What breaks the rule that the suite has for its cases; empty where nothing."""
    if isinstance(expected, list) or isinstance(got, list):
        if not (isinstance(expected, list) and isinstance(got, list)):
            return "one is a sequence"
        if len(expected) != len(got):
            return f"{len(got)} elements, not {len(expected)}"
        pairs = zip(expected, got, strict=True)
        return next(filter(None, (disagreement(e, g, case) for e, g in pairs)), "")
    if expected is None or got is None:
        return "" if expected is got else "one is nothing"
    expected, got = np.asarray(expected), np.asarray(got)
    if expected.shape != got.shape:
        return f"shape {got.shape}, not {expected.shape}"
    if expected.dtype.kind in "OSU":
        same = expected.astype(str).tolist() == got.astype(str).tolist()
        return "" if same else "other strings"
    if expected.dtype != got.dtype:
        return f"{got.dtype}, not {expected.dtype}"
    rtol = 2.0**-6 if str(expected.dtype) == "bfloat16" else case.rtol
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        close = np.isclose(
            got.astype(wide),
            expected.astype(wide),
            rtol=rtol,
            atol=case.atol,
            equal_nan=True,
        )
    wrong = int(close.size - np.count_nonzero(close))
    return f"{wrong} of {close.size} numbers are off" if wrong else ""
