"""Programs whose dims stay open: shapes, derivatives, inputs that decide shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import (
    Graph,
    UnsupportedModel,
    UsageError,
)
from graphopt.dims import Expr, add, floordiv, mul, symbol
from graphopt.inputs import random_inputs
from graphopt.interface import read_interface
from graphopt.ir import Parameter
from graphopt.lowering import find, to_program
from graphopt.ops import (
    Add,
    ArgMax,
    AveragePool,
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
from xla_programs import N, alone, called, const, linear, model, normal, saved, to_float  # noqa: E402

Command = Callable[..., tuple[int, str, str]]


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
        lambda x: Add(x, to_float(scalar(x, 0))),
    ),
}


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
    said = r"'x' has 513 along axis 1, the dim 'n', .* n <= 512: give it at most 512"
    with pytest.raises(UsageError, match=said):
        run(x=normal(2, 513))


def test_dims_are_at_least_one(tmp_path: Path) -> None:
    x = Parameter(tensor(DType.F32, None, 3), "x")
    path = tmp_path / "m.stablehlo"
    saved(Graph([x], [Relu(x)], output_names=["y"]), path)
    said = "'x' has 0 along axis 0, .* x:0 >= 1: give it at least 1, .* --dim x:0=0"
    with pytest.raises(UsageError, match=said):
        find("xla-cpu").open(path)(x=normal(0, 3))


def test_a_dim_that_cannot_stay_open_is_named() -> None:
    x = image(N, 4)
    half = Reshape(x, Constant(np.array([2, -1])))
    graph = Graph([x], [Add(half, Constant(normal(2, 8)))], output_names=["y"])
    with pytest.raises(UnsupportedModel, match=r"'n'.*--dim n=N") as raised:
        to_program(graph, "xla-cpu")
    assert raised.value.exit_code == 3
    assert "Add" in str(raised.value)


def test_dims_that_must_be_one_are_named_together() -> None:
    text = """graph (float[n, 3] x, float[m, 3] s) => (float[k, 6] y) {
        y = Concat <axis = 1> (x, s)
    }"""
    graph = graphopt.importer.load(model(text))
    with pytest.raises(
        UnsupportedModel, match=r"'n', 'm'.*--dim n=batch --dim m=batch"
    ):
        to_program(graph, "xla-cpu")
    tied = graphopt.specialize.specialize(graph, {"n": "batch", "m": "batch"}).graph
    assert to_program(tied, "xla-cpu").interface.symbols == ("batch",)


def test_a_baked_batch_is_found_before_a_program_runs() -> None:
    x = image(N, 4)
    graph = Graph([x], [Relu(Reshape(x, const(1, 4)))], output_names=["y"])
    with pytest.raises(UnsupportedModel, match=r"'n'.*--dim n=1\).*Reshape"):
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
    with pytest.raises(UnsupportedModel, match=r"branches of If.*--dim n=2 "):
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


# --- one platform ---------------------------------------------------------------------


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
