"""ONNX models on disk: finding them, counting their nodes, feeding and running them."""

import argparse
import importlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

Arrays = dict[str, np.ndarray[Any, Any]]
Nodes = Iterable[onnx.NodeProto]

DEFAULT_EXTENT = 128


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model folders and what chooses among their models."""
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="FOLDER",
        help="model files or folders of them (default: those in $GRAPHOPT_MODELS)",
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only models with TEXT in the name"
    )


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what decides the inputs that models are run on."""
    parser.add_argument(
        "--dim",
        action="append",
        default=[],
        metavar="NAME=N",
        help="extent of a symbolic dimension (default: what the model names as "
        f"example_dims, else 1 on the first axis, {DEFAULT_EXTENT} elsewhere)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of random inputs")


def chosen_models(options: argparse.Namespace) -> dict[str, Path]:
    """The models that the arguments name, by a short name, in a stable order."""
    listed = os.environ.get("GRAPHOPT_MODELS", "").split(os.pathsep)
    roots = options.paths or [Path(root) for root in listed if root]
    found = {}
    for root in roots:
        files = [root] if root.is_file() else sorted(root.rglob("*.onnx"))
        for path in files:
            name = short_name(path)
            if options.only in name:
                found[name if name not in found else str(path)] = path
    if not found:
        print("no models: name folders, or set GRAPHOPT_MODELS", file=sys.stderr)
        raise SystemExit(2)
    return found


def short_name(path: Path) -> str:
    """`folder/name`, or only the folder for the many files called model.onnx."""
    parent = path.absolute().parent.name
    return parent if path.stem == "model" else f"{parent}/{path.stem}"


def chosen_dims(options: argparse.Namespace) -> dict[str, int]:
    """The extents given by `--dim`."""
    pairs = [text.partition("=") for text in options.dim]
    return {name: int(extent) for name, _, extent in pairs}


def load_graph(path: Path) -> onnx.ModelProto:
    """The model without its external weights."""
    return onnx.load(path, load_external_data=False)


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node: of the graph, of bodies at any depth, and of local functions."""
    stack: list[Nodes] = [model.graph.node, *(body.node for body in model.functions)]
    while stack:
        for node in stack.pop():
            yield node
            for attribute in node.attribute:
                stack.extend(graph.node for graph in attribute.graphs)
                if attribute.HasField("g"):
                    stack.append(attribute.g.node)


def op_counts(model: onnx.ModelProto) -> Counter[str]:
    """How often each op occurs, an op of another domain by its full name."""
    names = Counter[str]()
    for node in all_nodes(model):
        domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}."
        names[domain + node.op_type] += 1
    return names


def interface(model: onnx.ModelProto) -> tuple[list[object], list[object]]:
    """What callers rely on: inputs with types and fixed dimensions, outputs with types.

    Names of symbolic dimensions are left out: a peer may give some where none were. So
    are initializers before IR version 4: they had to be listed, and are constants.
    """
    listed = model.graph.initializer if model.ir_version < 4 else ()
    constant = {tensor.name for tensor in listed}

    def dims(value: onnx.ValueInfoProto) -> list[object]:
        shape = value.type.tensor_type.shape
        return [
            dim.dim_value if dim.HasField("dim_value") else None for dim in shape.dim
        ]

    def dtype(value: onnx.ValueInfoProto) -> int:
        return value.type.tensor_type.elem_type

    inputs = [
        (value.name, dtype(value), dims(value))
        for value in model.graph.input
        if value.name not in constant
    ]
    outputs = [(value.name, dtype(value)) for value in model.graph.output]
    return list(inputs), list(outputs)


def make_inputs(path: Path, dims: Mapping[str, int], seed: int = 0) -> Arrays:
    """Inputs for the model: `test_data_set_0` beside it, else seeded random ones.

    Random integers stay below the extents of the weights that they index, or are 0 or
    1; masks are ones. `dims` go before the extents that the model's own properties name
    as `example_dims` (`batch=1,seq=128`).
    """
    model = load_graph(path)
    weights = {weight.name for weight in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in weights]
    stored = path.parent / "test_data_set_0"
    if path.stem == "model" and stored.is_dir():
        return {
            value.name: _read_tensor(stored / f"input_{index}.pb")
            for index, value in enumerate(values)
        }
    rng = np.random.default_rng(seed)
    known = {**example_dims(model), **dims}
    bounds = _index_bounds(model)
    return {
        value.name: _random_array(value, known, bounds.get(value.name, 2), rng)
        for value in values
    }


def example_dims(model: onnx.ModelProto) -> dict[str, int]:
    """The extents of symbolic dimensions that a model says that it runs on."""
    properties = {entry.key: entry.value for entry in model.metadata_props}
    text = properties.get("example_dims", "")
    pairs = (part.partition("=") for part in text.split(",") if part)
    return {name: int(extent) for name, _, extent in pairs}


def _index_bounds(model: onnx.ModelProto) -> dict[str, int]:
    """For what Gather takes from weights by: the least extent that is taken from."""
    weights = {weight.name: weight.dims for weight in model.graph.initializer}
    same = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type in ("Cast", "Identity")
    }
    found: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[0] in weights:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            name = node.input[1]
            while name in same:
                name = same[name]
            extent = weights[node.input[0]][axis]
            found[name] = min(extent, found.get(name, extent))
    return found


def _extent(name: str, default: int, dims: Mapping[str, int]) -> int:
    """The extent of a symbolic dimension, which may be a sum as in `past + 1`."""
    if name in dims:
        return dims[name]
    if "+" not in name:
        return default
    parts = [part.strip() for part in name.split("+")]
    return sum(
        int(part) if part.isdecimal() else dims.get(part, default) for part in parts
    )


def _read_tensor(path: Path) -> np.ndarray[Any, Any]:
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


def _random_array(
    value: onnx.ValueInfoProto,
    dims: Mapping[str, int],
    bound: int,
    rng: np.random.Generator,
) -> np.ndarray[Any, Any]:
    if not value.type.HasField("tensor_type"):
        raise ValueError(f"input {value.name} is not a tensor")
    shape = []
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        default = DEFAULT_EXTENT if axis else 1
        fixed = dim.HasField("dim_value") and dim.dim_value >= 0  # some write -1
        shape.append(dim.dim_value if fixed else _extent(dim.dim_param, default, dims))
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    if np.issubdtype(dtype, np.floating):
        return rng.standard_normal(shape).astype(dtype)
    if np.issubdtype(dtype, np.integer) or dtype == np.bool_:
        if "mask" in value.name:
            return np.ones(shape, dtype)
        return rng.integers(0, bound, shape).astype(dtype)
    raise ValueError(f"input {value.name}: no random values of type {dtype}")


def ort_session(path: Path, optimized: bool = True) -> Any:
    """An ONNX Runtime session on one CPU thread, by default with its optimizations."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4
    if not optimized:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings.graph_optimization_level = level
    return onnxruntime.InferenceSession(
        str(path), settings, providers=["CPUExecutionProvider"]
    )


def ort_run(session: Any, inputs: Arrays) -> list[Any]:
    """The session's outputs, fed with those inputs that it has."""
    names = {value.name for value in session.get_inputs()}
    feeds = {name: array for name, array in inputs.items() if name in names}
    return list(session.run(None, feeds))


def relative_error(expected: Sequence[Any], actual: Sequence[Any]) -> float:
    """The largest difference over the outputs, each relative to its largest value.

    Infinite where number, shape, or the place of a non-finite value differs.
    """
    if len(expected) != len(actual):
        return float("inf")
    worst = 0.0
    for one, other in zip(expected, actual, strict=True):
        a, b = np.asarray(one), np.asarray(other)
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        if not np.issubdtype(a.dtype, np.number):
            worst = worst if np.array_equal(a, b) else float("inf")
            continue
        a, b = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(a)
        if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
            return float("inf")
        a, b = a[finite], b[finite]
        if a.size:
            scale = max(float(np.abs(a).max()), float(np.finfo(np.float32).tiny))
            error = float(np.abs(a - b).max()) / scale
            worst = max(worst, error if np.isfinite(error) else float("inf"))
    return worst
