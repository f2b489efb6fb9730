"""Programs for XLA: exported, checked, put in place, loaded by JAX alone."""

from __future__ import annotations

import json
import os
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import graphopt
from graphopt import (
    BackendMissing,
    CheckFailed,
    Graph,
    InvalidModel,
    UnsupportedModel,
    UsageError,
)
from graphopt.dims import Expr, add, floordiv, mul, symbol
from graphopt.exporter import save
from graphopt.inputs import random_inputs
from graphopt.interface import ENTRY, SUFFIX, read_interface
from graphopt.ir import Parameter
from graphopt.lowering import find, to_program
from graphopt.ops import (
    Add,
    ArgMax,
    AveragePool,
    Cast,
    Concat,
    Constant,
    ConstantOfShape,
    Conv,
    CumSum,
    Einsum,
    Expand,
    Gather,
    GatherElements,
    GatherND,
    GlobalAveragePool,
    MatMul,
    MaxPool,
    Mul,
    OneHot,
    Pad,
    Range,
    ReduceMean,
    ReduceSum,
    Relu,
    Reshape,
    Resize,
    ReverseSequence,
    Shape,
    Slice,
    Softmax,
    Squeeze,
    Tile,
    TopK,
    Transpose,
    Trilu,
    Unsqueeze,
)
from graphopt.reference import run as reference
from graphopt.types import DType, tensor

jax = pytest.importorskip("jax")
pytest.importorskip("flatbuffers")
pytest.importorskip("safetensors")
pytestmark = pytest.mark.xla

from jax import export  # noqa: E402
from safetensors.flax import load_file  # noqa: E402

Command = Callable[..., tuple[int, str, str]]

DOCS = Path(__file__).parents[1] / "docs"
N = symbol("n")


def const(*values: int) -> Constant:
    return Constant(np.array(values, np.int64))


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def linear() -> Graph:
    """x w + b, with the batch symbolic."""
    x = Parameter(tensor(DType.F32, N, 3), "x")
    w, b = Constant(normal(3, 2)), Constant(normal(2, seed=1))
    graph = Graph([x], [Add(MatMul(x, w), b)], output_names=["y"])
    return graph.replace(names={w: "w", b: "b"})


def model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]>\n{text}')


def saved(graph: Graph, path: Path, **options: Any) -> graphopt.Result:
    """The graph as it is, checked, as a program."""
    result = graphopt.optimize(graph, "xla-cpu", level=0, check="off")
    return result.save(path, **options)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The linear model as a file, alone in a folder of its own."""
    save(linear().with_header(opsets={"": 17}), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def called(path: Path, inputs: Any) -> Any:
    """What JAX alone makes of a program."""
    program = export.deserialize(path.read_bytes())
    beside = path.with_suffix(".safetensors")
    with jax.enable_x64(True):
        weights = load_file(beside) if beside.exists() else {}
        return program.call(weights, inputs)


# --- the file -------------------------------------------------------------------------


def test_the_page_of_the_documentation_runs(
    digits: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(digits.parent)
    line = ("optimize", digits.name, "--target", "xla-cpu", "--check", "off")
    assert command(*line)[0] == 0
    assert sorted(os.listdir()) == [
        "digits.onnx",
        "digits.opt.safetensors",
        "digits.opt.stablehlo",
    ]
    names: dict[str, Any] = {}
    for block in _blocks():
        if "topologies" not in block:
            exec(block, names)
    assert all(np.isfinite(array).all() for array in names["gradient"].values())


@pytest.mark.slow
def test_the_page_compiles_for_a_tpu(
    digits: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("libtpu")
    monkeypatch.chdir(digits.parent)
    assert command("optimize", digits.name, "--target", "xla-tpu")[0] == 0
    before = dict(os.environ)
    try:
        names: dict[str, Any] = {}
        for block in _blocks():
            exec(block, names)
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert names["compiled"].memory_analysis().argument_size_in_bytes > 0


def _blocks() -> list[str]:
    text = (DOCS / "stablehlo.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    return blocks


def test_equal_models_give_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        saved(linear(), tmp_path / f"{name}.stablehlo")
    first, second = (tmp_path / f"{n}.safetensors" for n in "ab")
    assert first.read_bytes() == second.read_bytes()
    blobs = [to_program(linear(), "xla-cpu", beside="w").blob for _ in range(2)]
    assert blobs[0] == blobs[1]


def test_a_program_says_nothing_of_the_files_that_made_it() -> None:
    program = to_program(linear(), "xla-cpu", beside="w")
    assert ".py" not in export.deserialize(program.blob).mlir_module()


def test_the_interface_travels_along(tmp_path: Path) -> None:
    path = tmp_path / "m.stablehlo"
    result = saved(linear(), path)
    with zipfile.ZipFile(path) as archive:
        members = json.loads(archive.read(ENTRY))
    assert members == json.loads(json.dumps(result.report.to_json()["program"]))
    assert members["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["n", 3]}]
    assert members["outputs"] == [{"name": "y", "dtype": "float32", "shape": ["n", 2]}]
    assert members["platforms"] == ["cpu", "cuda", "tpu"]
    assert members["symbols"] == ["n"]
    assert members["graphopt"] == graphopt.__version__
    assert members["no_derivative"] is None
    assert result.report.bytes.after == sum(
        file.stat().st_size for file in tmp_path.iterdir()
    )


def test_weights_lie_beside_or_inside(tmp_path: Path) -> None:
    x = normal(4, 3)
    wanted = reference(linear(), {"x": x})["y"]
    beside, inside = tmp_path / "a.stablehlo", tmp_path / "b.stablehlo"
    saved(linear(), beside)
    saved(linear(), inside, bake=True)
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", beside.name, inside.name]
    assert load_file(tmp_path / "a.safetensors").keys() == {"w", "b"}
    assert read_interface(inside).baked == ("w", "b")
    for path in (beside, inside):
        np.testing.assert_allclose(called(path, {"x": x})["y"], wanted, rtol=1e-5)
        made = find("xla-cpu").open(path)(x=x)["y"]
        np.testing.assert_allclose(made, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "beside"),
    [
        (ml_dtypes.bfloat16, True),
        (np.float16, True),
        (ml_dtypes.float8_e4m3fn, False),
        (ml_dtypes.int4, False),
    ],
)
def test_weights_of_narrow_types(dtype: Any, beside: bool, tmp_path: Path) -> None:
    size = 1 << 18  # integers are weights only where they are large
    held = (np.arange(size) % 7).astype(dtype)
    x, w = Parameter(tensor(DType.F32, size), "x"), Constant(held)
    made = Add(x, Cast(w, to=DType.F32.value))
    graph = Graph([x], [made], output_names=["y"]).replace(names={w: "w"})
    path = tmp_path / "m.stablehlo"
    saved(graph, path)
    found = called(path, {"x": np.ones(size, np.float32)})["y"]
    np.testing.assert_array_equal(found, held.astype(np.float32) + 1)
    assert path.with_suffix(".safetensors").exists() == beside
    assert read_interface(path).baked == (() if beside else ("w",))


def test_what_cannot_lie_beside_is_said(tmp_path: Path) -> None:
    x = Parameter(tensor(DType.F32, 2), "x")
    narrow = Constant(np.ones(2, ml_dtypes.float8_e4m3fn))
    made = Mul(Add(x, Constant(normal(2))), _float(narrow))
    report = saved(Graph([x], [made]), tmp_path / "m.stablehlo").report
    assert any("1 weights that JAX cannot load" in note for note in report.notes)


def test_a_weight_with_a_name_that_safetensors_keeps(tmp_path: Path) -> None:
    graph = linear()
    named = {
        value: "__metadata__" if n == "w" else n for value, n in graph.names.items()
    }
    path, x = tmp_path / "m.stablehlo", normal(4, 3)
    saved(graph.replace(names=named), path)
    assert read_interface(path).baked == ("__metadata__",)
    assert load_file(path.with_suffix(".safetensors")).keys() == {"b"}
    wanted = reference(linear(), {"x": x})["y"]
    np.testing.assert_allclose(called(path, {"x": x})["y"], wanted, rtol=1e-5)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    for name, width in (("a", 2), ("b", 5)):
        x = Parameter(tensor(DType.F32, N, 3), "x")
        saved(
            Graph([x], [MatMul(x, Constant(normal(3, width)))]),
            tmp_path / f"{name}.stablehlo",
        )
    (tmp_path / "b.safetensors").replace(tmp_path / "a.safetensors")
    with pytest.raises(InvalidModel, match="another model"):
        find("xla-cpu").open(tmp_path / "a.stablehlo")
    with pytest.raises(UsageError, match="missing"):
        find("xla-cpu").open(tmp_path / "b.stablehlo")


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"nothing" * 99])
def test_what_is_no_program_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.stablehlo"
    path.write_bytes(content)
    with pytest.raises(InvalidModel, match="interface"):
        find("xla-cpu").open(path)


def test_a_damaged_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.stablehlo"
    saved(linear(), path)
    path.write_bytes(bytes(64) + path.read_bytes()[64:])
    with pytest.raises(InvalidModel, match="no program"):
        find("xla-cpu").open(path)


def test_a_program_that_is_damaged_inside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.stablehlo"
    saved(linear(), path)
    held = path.read_bytes()
    assert held.count(b"get_dimension_size_v1") >= 1
    path.write_bytes(held.replace(b"get_dimension_size_v1", b"get_dimension_size_v?"))
    with pytest.raises(InvalidModel, match="does not take the program"):
        find("xla-cpu").open(path)(x=normal(2, 3))


def rewritten(path: Path, **changed: Any) -> None:
    """Give a program another interface."""
    with zipfile.ZipFile(path) as archive:
        members = json.loads(archive.read(ENTRY))
        begins = archive.getinfo(ENTRY).header_offset
    path.write_bytes(path.read_bytes()[:begins])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(ENTRY, json.dumps({**members, **changed}))


def _port(name: str = "x", dtype: str = "float32", *shape: Any) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape or ("n", 3)}


HOSTILE: list[tuple[dict[str, Any], str]] = [
    *(
        ({"weights": name}, "beside the program")
        for name in ("../../etc/x", "/etc/passwd", "a/b.safetensors", "", ".", "..")
    ),
    ({"weights": "a\0b"}, "beside the program"),
    ({"weights": "\ud800"}, "beside the program"),
    ({"weights": 5}, "no words"),
    ({"weights": "w" * 5000}, "missing"),
    ({"jax": None}, "no words"),
    ({"platforms": [1]}, "no words"),
    ({"platforms": 5}, "damaged"),
    ({"platforms": ["cpu"]}, "another program's"),
    ({"outputs": []}, "another program's"),
    ({"inputs": []}, "another program's"),
    ({"inputs": [_port("z")]}, "another program's"),
    ({"inputs": [_port("x", "int32")]}, "another program's"),
    ({"inputs": [_port("x", "float32", "n", 4)]}, "another program's"),
    ({"inputs": [_port("x", "float32", 7, 3)]}, "another program's"),
    ({"inputs": [_port("x", "float32", "n")]}, "another program's"),
    ({"inputs": [_port("x", "float32", "n", 1.5)]}, "no number and no word"),
    ({"inputs": [_port("x", "float32", "n" * 9 + "+", 3)]}, "damaged"),
    ({"outputs": [_port("y", "float33", "n", 2)]}, "no element type"),
    ({"outputs": [_port("y", "float32", "n", 3)]}, "another program's"),
    ({"precision": "fp32"}, "no precision"),
    ({"precision": []}, "no precision"),
    ({"fixed": [1]}, "damaged"),
    ({"fixed": {"k": {"dtype": "uint8", "values": [300]}}}, "damaged"),
    ({"graphopt": "x" * (65 << 20)}, "more than"),
]


@pytest.mark.parametrize(("changed", "told"), HOSTILE, ids=range(len(HOSTILE)))
def test_the_interface_of_a_stranger(
    changed: dict[str, Any], told: str, tmp_path: Path, command: Command
) -> None:
    path = tmp_path / "m.stablehlo"
    saved(linear(), path)
    rewritten(path)
    find("xla-cpu").open(path)
    rewritten(path, **changed)
    code, _, err = command("run", path, "--target", "xla-cpu", "--dim", "n=2")
    assert code == (2 if told == "missing" else 3), err
    assert told in err


def test_nested_without_end(tmp_path: Path) -> None:
    path = tmp_path / "m.stablehlo"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(ENTRY, "[" * 200_000)
    with pytest.raises(InvalidModel, match="damaged"):
        read_interface(path)


@pytest.mark.parametrize("how", ["symlink_to", "hardlink_to"])
def test_weights_are_no_links(how: str, tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "m.stablehlo", tmp_path / "secret"
    saved(linear(), path)
    beside = path.with_suffix(".safetensors")
    beside.rename(elsewhere)
    getattr(beside, how)(elsewhere)
    with pytest.raises(InvalidModel, match=r"link"):
        find("xla-cpu").open(path)


def test_a_package_that_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.stablehlo"
    saved(linear(), path)
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(BackendMissing, match="flatbuffers is not installed"):
        find("xla-cpu").open(path)


# --- symbolic dims --------------------------------------------------------------------


def image(*shape: int | Expr) -> Parameter:
    return Parameter(tensor(DType.F32, *shape), "x")


def length(x: Any, axis: int) -> Shape:
    return Shape(x, start=axis, end=axis + 1)


def scalar(x: Any, axis: int) -> Squeeze:
    return Squeeze(length(x, axis), const(0))


Built = Callable[[Any], Any]

OPEN: dict[str, tuple[tuple[int | Expr, ...], Built]] = {
    "mean": ((N, 3), lambda x: ReduceMean(x, const(0), keepdims=0)),
    "softmax": ((2, N), lambda x: Softmax(x, axis=1)),
    "transpose and matmul": ((N, 3), lambda x: MatMul(x, Transpose(x, perm=(1, 0)))),
    "einsum": ((2, N, 3), lambda x: Einsum(x, x, equation="bij,bkj->bik")),
    "pool": ((1, 2, N, 8), lambda x: AveragePool(x, kernel_shape=(1, 2))),
    "pool over it": (
        (1, 2, N, 8),
        lambda x: MaxPool(x, kernel_shape=(2, 2), pads=(1, 1, 1, 1), strides=(2, 2)),
    ),
    "pool all of it": ((1, 2, N, 8), GlobalAveragePool),
    "convolve": (
        (1, 2, N, 8),
        lambda x: Conv(x, Constant(normal(4, 2, 3, 3)), pads=(1, 1, 1, 1)),
    ),
    "reshape": (
        (N, 4),
        lambda x: Reshape(x, Concat(length(x, 0), const(2, 2), axis=0)),
    ),
    "reshape to -1": ((N, 2, 3), lambda x: Reshape(x, const(-1, 3))),
    "expand": ((N, 1), lambda x: Expand(x, Concat(length(x, 0), const(5), axis=0))),
    "range": (
        (N, 1),
        lambda x: Add(
            x,
            Unsqueeze(
                Range(
                    Constant(np.float32(0)),
                    Constant(np.float32(1)),
                    Constant(np.float32(1)),
                ),
                const(0),
            ),
        ),
    ),
    "positions": (
        (N,),
        lambda x: GatherElements(
            x, Range(Constant(np.int64(0)), scalar(x, 0), Constant(np.int64(1))), axis=0
        ),
    ),
    "zeros": ((N, 2), lambda x: Add(x, ConstantOfShape(Shape(x)))),
    "slice": ((N, 6), lambda x: Slice(x, const(-2), const(9), const(1))),
    "slice backwards": (
        (N, 6),
        lambda x: Slice(x, const(-1), const(-(2**63)), const(0), const(-1)),
    ),
    "slice to itself": (
        (2, N),
        lambda x: Slice(Constant(normal(2, 512)), const(0), length(x, 1), const(1)),
    ),
    "table": (
        (2, N),
        lambda x: Add(
            x, Slice(Constant(normal(1, 512)), const(0), length(x, 1), const(1))
        ),
    ),
    "pad": ((N, 3), lambda x: Pad(x, const(1, 0, 2, 1))),
    "reflect": ((N, 3), lambda x: Pad(x, const(1, 0, 2, 1), mode="reflect")),
    "edge": ((N, 3), lambda x: Pad(x, const(1, 0, 2, 1), mode="edge")),
    "concat": ((N, 3), lambda x: Concat(x, x, axis=0)),
    "tile": ((N, 3), lambda x: Tile(x, const(2, 3))),
    "triangle": ((N, N), Trilu),
    "sum": ((N, 3), lambda x: CumSum(x, Constant(np.int64(0)))),
    "sort": ((N, 5), lambda x: TopK(x, const(2), axis=1).results[0]),
    "largest": ((2, N), lambda x: ArgMax(x, axis=1, select_last_index=1)),
    "gather": ((N, 3), lambda x: Gather(x, const(0, -1), axis=0)),
    "gather elements": (
        (N, 3),
        lambda x: GatherElements(x, ArgMax(x, axis=1), axis=1),
    ),
    "gather within": (
        (N, 3),
        lambda x: GatherND(x, ArgMax(x, axis=1), batch_dims=1),
    ),
    "one hot": (
        (N, 3),
        lambda x: OneHot(
            ArgMax(x, axis=1, keepdims=0), const(3), Constant(normal(2)), axis=-1
        ),
    ),
    "reverse": (
        (2, N),
        lambda x: ReverseSequence(
            x, Add(ArgMax(x, axis=1, keepdims=0), const(1)), batch_axis=0, time_axis=1
        ),
    ),
    "resize": (
        (N, 2, 4),
        lambda x: Resize(x, None, Constant(np.array([1, 1, 2], np.float32))),
    ),
    "resize to": (
        (N, 2, 4),
        lambda x: Resize(
            x,
            None,
            None,
            Concat(length(x, 0), const(2, 7), axis=0),
            mode="linear",
        ),
    ),
    "its number": (
        (N, 3),
        lambda x: Add(x, _float(scalar(x, 0))),
    ),
}


def _float(x: Any) -> Any:
    return Cast(x, to=DType.F32.value)


@pytest.mark.parametrize("name", OPEN)
def test_open_dims(name: str, tmp_path: Path) -> None:
    shape, build = OPEN[name]
    x = image(*shape)
    graph = Graph([x], [build(x)], output_names=["y"])
    path = tmp_path / "m.stablehlo"
    saved(graph, path)
    for size in (3, 6):
        inputs = random_inputs(graph, size, {"n": size})
        made = np.asarray(called(path, inputs)["y"])
        wanted = reference(graph, inputs)["y"]
        assert made.dtype == wanted.dtype
        np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-6)


def test_dims_that_are_sums_and_dims_without_a_name(tmp_path: Path) -> None:
    past, new = symbol("past len"), symbol("max")
    a = Parameter(tensor(DType.F32, past, 2), "a")
    b = Parameter(tensor(DType.F32, new, 2), "b")
    mask = Parameter(tensor(DType.F32, add(past, new)), "mask")
    c = Parameter(tensor(DType.F32, None, 2), "c")
    summed = Mul(ReduceSum(Concat(a, b, axis=0), const(1), keepdims=0), mask)
    graph = Graph([a, b, mask, c], [summed, Relu(c)], output_names=["y", "z"])
    path = tmp_path / "m.stablehlo"
    saved(graph, path)
    interface = read_interface(path)
    assert interface.symbols == ("past len", "max", "c:0")
    assert interface.outputs[1].shape == ("c:0", 2)
    inputs = {
        "a": normal(3, 2),
        "b": normal(4, 2),
        "mask": normal(7),
        "c": normal(5, 2),
    }
    wanted = reference(graph, inputs)
    for made in (called(path, inputs), find("xla-cpu").open(path)(inputs)):
        for name in ("y", "z"):
            np.testing.assert_allclose(made[name], wanted[name], rtol=1e-5, atol=1e-6)
    with pytest.raises(UsageError, match="mask"):
        find("xla-cpu").open(path)({**inputs, "mask": normal(6)})


def test_what_holds_of_a_dim_is_said_and_kept(tmp_path: Path) -> None:
    shape, build = OPEN["table"]
    x = image(*shape)
    path = tmp_path / "m.stablehlo"
    report = saved(Graph([x], [build(x)], output_names=["y"]), path).report
    assert read_interface(path).constraints == ("n <= 512",)
    assert "holds for n <= 512" in report.notes
    run = find("xla-cpu").open(path)
    assert run(x=normal(2, 512))["y"].shape == (2, 512)
    with pytest.raises(UsageError, match="does not take"):
        run(x=normal(2, 513))


def test_a_dim_that_cannot_stay_open_is_named() -> None:
    x = image(N, 4)
    half = Reshape(x, Constant(np.array([2, -1])))
    graph = Graph([x], [Add(half, Constant(normal(2, 8)))], output_names=["y"])
    with pytest.raises(UnsupportedModel, match=r"'n'.*--dim n=8") as raised:
        to_program(graph, "xla-cpu")
    assert raised.value.exit_code == 3
    assert "Add" in str(raised.value)


def test_a_baked_batch_is_found_before_a_program_runs() -> None:
    x = image(N, 4)
    graph = Graph([x], [Relu(Reshape(x, const(1, 4)))], output_names=["y"])
    with pytest.raises(UnsupportedModel, match=r"'n'.*--dim n=8.*Reshape"):
        to_program(graph, "xla-cpu")


def test_a_branch_that_an_open_dim_decides() -> None:
    text = """graph (float[n, 2] x) => (float[m] y) {
        shape = Shape(x)  zero = Constant <value = int64 {0}> ()
        n = Gather(shape, zero)
        three = Constant <value = int64 {3}> ()  few = Less(n, three)
        y = If (few) <
            then_branch = yes () => (float[a] s) {
                flat = Constant <value = int64[1] {-1}> ()  s = Reshape(x, flat)
            },
            else_branch = no () => (float[b] t) {
                axes = Constant <value = int64[1] {1}> ()
                t = ReduceSum <keepdims = 0> (x, axes)
            }
        >
    }"""
    graph = graphopt.load(model(text))
    with pytest.raises(UnsupportedModel, match=r"branches of If.*--dim n=8"):
        to_program(graph, "xla-cpu")
    assert to_program(
        graphopt.optimize(graph, dims={"n": 2}, check="off").graph, "xla-cpu"
    ).interface.outputs[0].shape == (4,)


def test_halves_and_rests_of_dims(tmp_path: Path) -> None:
    x = Parameter(tensor(DType.F32, mul(2, N)), "x")
    rows = Parameter(tensor(DType.F32, N, 2), "rows")
    pairs = Reshape(x, const(-1, 2))
    graph = Graph([x, rows], [Add(pairs, rows)], output_names=["y"])
    path = tmp_path / "m.stablehlo"
    saved(graph, path)
    inputs = {"x": normal(10), "rows": normal(5, 2)}
    wanted = reference(graph, inputs)["y"]
    np.testing.assert_allclose(called(path, inputs)["y"], wanted)
    assert floordiv(mul(2, N), 2) == N


# --- derivatives ----------------------------------------------------------------------


def test_the_derivative_is_inside(tmp_path: Path) -> None:
    path = tmp_path / "m.stablehlo"
    saved(linear(), path)
    program = export.deserialize(path.read_bytes())
    weights, x = load_file(path.with_suffix(".safetensors")), normal(5, 3)
    gradient = jax.grad(lambda w: program.call(w, {"x": x})["y"].sum())(weights)
    np.testing.assert_allclose(gradient["b"], [5, 5], rtol=1e-6)
    wanted = np.repeat(x.sum(0)[:, None], 2, 1)
    np.testing.assert_allclose(gradient["w"], wanted, rtol=1e-5)


LOOP = """graph (float[2] x, float[1] most) => (float[2] y) {
    n = Constant <value = int64 {1000}> ()  go = Constant <value = bool {1}> ()
    y = Loop (n, go, x) <
        body = turn (int64 i, bool c, float[2] v) => (bool d, float[2] w) {
            w = Add(v, v)
            s = ReduceSum <keepdims = 0> (w)  m = ReduceSum <keepdims = 0> (most)
            d = Less(s, m)
        }
    >
}"""


def test_why_there_is_no_derivative(tmp_path: Path) -> None:
    graph = graphopt.load(model(LOOP))
    path = tmp_path / "m.stablehlo"
    report = saved(graph, path).report
    assert report.program is not None
    assert "while_loop" in report.program["no_derivative"]
    inputs = {"x": np.ones(2, np.float32), "most": np.array([100], np.float32)}
    wanted = reference(graph, inputs)["y"]
    np.testing.assert_allclose(called(path, inputs)["y"], wanted)


# --- inputs that decide shapes --------------------------------------------------------


def test_inputs_that_decide_shapes_are_fixed(tmp_path: Path, command: Command) -> None:
    text = "graph (float[6] x, int64[2] to) => (float[a, b] y) { y = Reshape(x, to) }"
    source, arrays = tmp_path / "m.onnx", tmp_path / "in.npz"
    onnx.save(model(text), source)
    code, _, err = command("optimize", source, "--target", "xla-cpu")
    assert code == 2
    assert "'to' decides shapes" in err
    assert "--inputs" in err
    np.savez(arrays, x=normal(6), to=np.array([2, 3]))
    command_line = ("optimize", source, "--target", "xla-cpu", "--inputs", arrays)
    code, out, _ = command(*command_line)
    assert code == 0
    assert "the input 'to' decides shapes, and is fixed" in out
    path = tmp_path / "m.opt.stablehlo"
    assert read_interface(path).fixed_arrays()["to"].tolist() == [2, 3]
    assert called(path, {"x": normal(6)})["y"].shape == (2, 3)
    code, out, _ = command("run", path, "--target", "xla-cpu", "--inputs", arrays)
    assert "float32[2, 3]" in out
    np.savez(arrays, x=normal(6), to=np.array([3, 2]))
    code, _, err = command("run", path, "--target", "xla-cpu", "--inputs", arrays)
    assert code == 2
    assert "fixed" in err


def overridable(text: str, **defaults: Any) -> onnx.ModelProto:
    """A model with initializers that are inputs too."""
    made = model(text)
    for name, array in defaults.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return made


def test_defaults_that_decide_shapes_are_fixed(
    tmp_path: Path, command: Command
) -> None:
    text = "graph (float[6] x, int64[2] to) => (float[a, b] y) { y = Reshape(x, to) }"
    source, path = tmp_path / "m.onnx", tmp_path / "m.opt.stablehlo"
    onnx.save(overridable(text, to=np.array([2, 3])), source)
    code, out, _ = command("optimize", source, "--target", "xla-cpu")
    assert code == 0
    assert "the input 'to' decides shapes, and is fixed" in out
    assert "callers may override" not in out
    assert read_interface(path).fixed_arrays()["to"].tolist() == [2, 3]
    run = find("xla-cpu").open(path)
    assert run(x=normal(6), to=np.array([2, 3]))["y"].shape == (2, 3)
    with pytest.raises(UsageError, match=r"'to' is fixed in the program, as \[2, 3\]"):
        run(x=normal(6), to=np.array([3, 2]))
    arrays = tmp_path / "in.npz"
    np.savez(arrays, x=normal(6), to=np.array([3, 2]))
    line = ("optimize", source, "--target", "xla-cpu", "-f", "--inputs", arrays)
    assert command(*line)[0] == 0
    assert read_interface(path).fixed_arrays()["to"].tolist() == [3, 2]


def test_weights_that_callers_may_override(tmp_path: Path, command: Command) -> None:
    text = "graph (float[n, 3] x, float[3] w) => (float[n, 3] y) { y = Mul(x, w) }"
    source, path = tmp_path / "m.onnx", tmp_path / "m.opt.stablehlo"
    onnx.save(overridable(text, w=np.ones(3, np.float32)), source)
    arrays, x = tmp_path / "in.npz", normal(2, 3)
    np.savez(arrays, x=x, w=np.full(3, 2, np.float32))
    line = ("optimize", source, "--target", "xla-cpu", "-f", "--inputs", arrays)
    code, out, _ = command(*line)
    assert code == 0
    assert "XLA on the CPU gives the same outputs" in out
    assert read_interface(path).overridable == ("w",)
    run = find("xla-cpu").open(path)
    np.testing.assert_array_equal(run(x=x)["y"], x)
    np.testing.assert_array_equal(run(x=x, w=np.full(3, 2, np.float32))["y"], 2 * x)
    with pytest.raises(UsageError, match=r"'w' is float32\[3\], not float32\[4\]"):
        run(x=x, w=np.ones(4, np.float32))
    code, out, _ = command(*line, "--bake-weights")
    assert code == 0
    assert "1 initializers can no longer be overridden" in out
    assert "not run in XLA on the CPU: the initializer 'w' was given" in out
    run = find("xla-cpu").open(path)
    np.testing.assert_array_equal(run(x=x)["y"], x)
    with pytest.raises(UsageError, match="'w' is part of the program"):
        run(x=x, w=np.full(3, 2, np.float32))


def test_a_default_of_strings_is_refused() -> None:
    text = "graph (float[n] x, string[1] s) => (float[n] y) { y = Relu(x) }"
    graph = graphopt.load(overridable(text, s=np.array(["a"], object)))
    with pytest.raises(UnsupportedModel, match=r"'s'.*--freeze"):
        to_program(graph, "xla-cpu")


# --- precision ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "options", "precision"),
    [
        ("xla-cpu", (), "highest"),
        ("xla-cuda", (), "highest"),
        ("xla-tpu", (), "default"),
        ("xla-tpu", ("--precision", "fp32"), "highest"),
    ],
)
def test_precision_follows_the_target(
    target: str,
    options: tuple[str, ...],
    precision: str,
    source: Path,
    command: Command,
) -> None:
    line = ("optimize", source, "--target", target, *options, "--json")
    code, out, _ = command(*line)
    assert code == 0
    members = json.loads(out)
    assert members["program"]["precision"] == precision
    rounds = any("products of float32 round" in note for note in members["notes"])
    assert rounds == (precision == "default")
    path = source.with_name("m.opt.stablehlo")
    assert find("xla-cpu").open(path).used()["precision"] == precision
    text = export.deserialize(path.read_bytes()).mlir_module()
    assert ("precision = [HIGHEST, HIGHEST]" in text) == (precision == "highest")


def test_a_program_keeps_its_precision(source: Path, command: Command) -> None:
    path = source.with_name("m.opt.stablehlo")
    assert command("optimize", source, "--target", "xla-tpu")[0] == 0
    for name in ("run", "bench"):
        line = (name, path, "--target", "xla-cpu", "--precision", "fp32")
        code, _, err = command(*line)
        assert code == 2
        assert "exported with" in err


def test_programs_are_for_targets_of_xla() -> None:
    with pytest.raises(UsageError, match="no programs for 'xla-gpu'"):
        to_program(linear(), "xla-gpu")
    with pytest.raises(UsageError, match="no precision 'fp23'; did you mean 'fp32'"):
        graphopt.optimize(linear(), "xla-tpu", precision="fp23")
    with pytest.raises(UsageError, match="programs for XLA"):
        graphopt.optimize(linear(), precision="fp32")


# --- put in place ---------------------------------------------------------------------


def test_the_command_line(source: Path, command: Command) -> None:
    code, out, _ = command("optimize", source, "--target", "xla-tpu", "--json")
    assert code == 0
    members = json.loads(out)
    path = source.with_name("m.opt.stablehlo")
    assert members["output"] == str(path)
    assert members["target"] == "xla-tpu"
    assert members["program"]["weights"] == "m.opt.safetensors"
    assert members["program"]["symbols"] == ["n"]
    assert members["runtime"]["passed"] is True
    assert members["check"]["passed"] is True
    code, out, _ = command("run", path, "--target", "xla-cpu", "--dim", "n=5")
    assert code == 0
    assert "y: float32[5, 2]" in out
    line = ("bench", path, path, "--target", "xla-cpu", "--rounds", "2")
    assert command(*line)[0] == 0
    for target in ("reference", "ort-cpu"):
        code, _, err = command("run", path, "--target", target)
        assert code == 2
        assert "--target xla-cpu" in err


@pytest.mark.parametrize("name", ["inspect", "check", "optimize", "explain", "extract"])
def test_a_program_is_no_model(name: str, source: Path, command: Command) -> None:
    path = source.with_name("m.opt.stablehlo")
    saved(linear(), path)
    more = {"check": (source, path), "extract": (path, "--outputs", "y")}
    code, _, err = command(name, *more.get(name, (path,)))
    assert code == 2
    assert f"{path} is a program for XLA" in err


def test_inputs_of_a_program_go_by_name(source: Path, command: Command) -> None:
    path = source.with_name("m.opt.stablehlo")
    saved(linear(), path)
    line = ("run", path, "--target", "xla-cpu", "--inputs", source.parent)
    code, _, err = command(*line)
    assert code == 2
    assert ".npz" in err


def test_run_gives_what_the_model_gives(source: Path, command: Command) -> None:
    command("optimize", source, "--target", "xla-cpu")
    arrays = source.with_name("in.npz")
    np.savez(arrays, x=normal(4, 3))
    outputs = []
    for name, target in (
        ("m.onnx", "reference"),
        ("m.opt.stablehlo", "xla-cpu"),
    ):
        out = source.with_name(f"{target}.npz")
        line = ("run", source.with_name(name), "--target", target, "-o", out)
        assert command(*line, "--inputs", arrays)[0] == 0
        with np.load(out) as made:
            outputs.append(made["y"])
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)


def test_nothing_that_exists_is_replaced_unasked(
    source: Path, command: Command
) -> None:
    line = ("optimize", source, "--target", "xla-cpu")
    weights = source.with_name("m.opt.safetensors")
    weights.write_text("precious")
    code, _, err = command(*line)
    assert code == 2
    assert "m.opt.safetensors exists; -f" in err
    assert weights.read_text() == "precious"
    assert command(*line, "--bake-weights")[0] == 0
    assert weights.read_text() == "precious"
    assert command(*line, "-f")[0] == 0
    assert weights.read_bytes()[:8] != b"precious"
    code, _, err = command(*line, "-f", "-o", source)
    assert code == 2
    assert "it is the input" in err
    onnx.load(source)


def test_weights_of_a_program_are_kept(source: Path, command: Command) -> None:
    program, weights = (source.with_name(f"m.opt{s}") for s in (SUFFIX, ".safetensors"))
    line = ("optimize", source, "--target", "xla-cpu")
    code, _, err = command(*line, "--report", weights)
    assert code == 2
    assert "is written, too" in err
    assert not weights.exists()
    assert command(*line)[0] == 0
    before = weights.read_bytes()
    code, _, err = command("run", program, "--target", "xla-cpu", "-o", weights, "-f")
    assert code == 2
    assert "belongs to the input" in err
    assert weights.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--target", "xla-cpu", "--weights", "inline"), "--bake-weights"),
        (("--target", "xla-cpu", "--opset", "latest"), "--opset"),
        (("--target", "xla-cpu", "-o", "out.onnx"), ".stablehlo"),
        (("-o", "out.stablehlo"), "XLA target"),
        (("--bake-weights",), "--weights inline"),
        (("--precision", "fp32"), "XLA targets"),
    ],
)
def test_options_that_do_not_fit(
    options: tuple[str, ...],
    told: str,
    source: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(source.parent)
    code, _, err = command("optimize", source, *options)
    assert code == 2
    assert told in err
    assert os.listdir() == ["m.onnx"]


def test_a_rehearsal_writes_nothing(source: Path, command: Command) -> None:
    code, out, _ = command("optimize", source, "--target", "xla-cpu", "--dry-run")
    assert code == 0
    assert "XLA on the CPU gives the same outputs" in out
    assert os.listdir(source.parent) == ["m.onnx"]


def test_a_program_that_computes_something_else_is_rejected(
    source: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphopt.lowering.xla.function import Function

    right = Function.__call__

    def wrong(self: Function, *args: Any, **named: Any) -> Any:
        return {name: 1.01 * array for name, array in right(self, *args).items()}

    monkeypatch.setattr(Function, "__call__", wrong)
    line = ("optimize", source, "--target", "xla-cpu")
    code, out, _ = command(*line, "--json")
    assert code == 4
    error = json.loads(out)["error"]
    kept = source.with_name("m.opt.rejected.stablehlo")
    assert error["rejected"] == str(kept)
    assert "'y'" in error["message"]
    assert sorted(os.listdir(source.parent)) == [
        "m.onnx",
        "m.opt.rejected.safetensors",
        "m.opt.rejected.stablehlo",
    ]
    find("xla-cpu").open(kept)
    assert command(*line, "--check", "off")[0] == 0


def test_what_was_not_run_is_said(
    source: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ("optimize", source, "--target", "xla-cpu", "-f")
    monkeypatch.setattr("graphopt.artifact.MEMORY", 1)
    code, out, _ = command(*line)
    assert code == 0
    assert "not run in XLA on the CPU: the reference does not run" in out
    code, out, _ = command(*line, "--check", "off")
    assert code == 0
    assert "not checked" in out
    assert "XLA on the CPU" not in out


def alone(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    """JAX as it is where another platform lacks something."""
    exporting = export.export

    def export_(function: Any, *, platforms: Any) -> Any:
        traced = exporting(function, platforms=platforms)

        def made(*args: Any) -> Any:
            found = traced(*args)
            if len(platforms) > 1:
                raise error("another platform lacks it")
            return found

        return made

    monkeypatch.setattr(export, "export", export_)


@pytest.mark.parametrize("target", ["xla-cpu", "xla-cuda", "xla-tpu"])
def test_what_one_platform_alone_can_run(
    target: str, source: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone(monkeypatch, NotImplementedError)
    code, out, _ = command("optimize", source, "--target", target, "--json")
    assert code == 0
    members, platform = json.loads(out), target.removeprefix("xla-")
    assert members["program"]["platforms"] == [platform]
    assert f"the program runs on {platform} only" in members["notes"]
    assert members["check"]["passed"] is True
    tried = members["runtime"]
    assert tried["passed"] is (True if platform == "cpu" else None)
    assert platform == "cpu" or f"for {platform} only" in tried["note"]


@pytest.mark.parametrize("error", [NotImplementedError, ValueError])
def test_one_platform_and_capped_dims(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone(monkeypatch, error)
    shape, build = OPEN["table"]
    x = image(*shape)
    made = to_program(Graph([x], [build(x)], output_names=["y"]), "xla-cuda").interface
    assert made.platforms == ("cuda",)
    assert made.constraints == ("n <= 512",)


def test_what_no_platform_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(function: Any, *, platforms: Any) -> Any:
        raise ValueError("nothing has it.\nmore")

    monkeypatch.setattr(export, "export", lacks)
    with pytest.raises(UnsupportedModel, match=r"for cpu: nothing has it$"):
        to_program(linear(), "xla-cpu")


def test_the_reason_reaches_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = graphopt.optimize(linear(), "xla-cpu")
    monkeypatch.setattr(
        "graphopt.lowering.xla.exported.ExportedProgram.run",
        lambda self, inputs: {"y": np.zeros((2, 2), np.float32)},
    )
    with pytest.raises(CheckFailed, match="XLA on the CPU, output 'y'"):
        result.save(tmp_path / "m.stablehlo")


REFUSED = {
    "the same random": "(float[n] x) => (float[n] y) { y = RandomNormalLike(x) }",
    "y.*no tensor": "(float[2] x) => (seq(float[a]) y) { y = SplitToSequence(x) }",
    "operand 'boxes'": """(float[1, n, 4] b, float[1, 1, n] s) => (int64[k, 3] y) {
        y = NonMaxSuppression(b, s)
    }""",
    "no element type": "(float[n] x) => (string[n] y) { y = Cast <to = 8> (x) }",
}


@pytest.mark.parametrize("told", REFUSED)
def test_what_no_program_can_be(told: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=told):
        saved(graphopt.load(model(f"graph {REFUSED[told]}")), tmp_path / "m.stablehlo")
    assert os.listdir(tmp_path) == []


def test_what_xla_lacks_is_refused_by_name(tmp_path: Path) -> None:
    x = Parameter(tensor(DType.STRING, 2), "x")
    with pytest.raises(UnsupportedModel, match="strings"):
        saved(Graph([x], [Concat(x, x, axis=0)]), tmp_path / "m.stablehlo")
    joined = "y = ConcatFromSequence <axis = 0> (x)"
    made = model(f"graph (seq(float[2]) x) => (float[n] y) {{ {joined} }}")
    with pytest.raises(UnsupportedModel, match="takes tensors"):
        saved(graphopt.load(made), tmp_path / "m.stablehlo")
    assert os.listdir(tmp_path) == []
