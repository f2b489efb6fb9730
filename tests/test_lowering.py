"""Targets: the reference, ONNX Runtime, and the runtime in a process of its own."""

from __future__ import annotations

import io
import os
import pickle
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt import BackendMissing, Graph, UsageError, load
from graphopt.ir import Parameter
from graphopt.lowering import find, isolated, targets
from graphopt.ops import Add, Neg
from graphopt.plan import Plan
from graphopt.types import DType, tensor


@pytest.fixture
def graph() -> Graph:
    x, y = (Parameter(tensor(DType.F32, 2), name) for name in "xy")
    return Graph([x, y], [Add(x, y), Neg(x)], output_names=["sum", "negative"])


X = np.array([1, 2], np.float32)
Y = np.array([10, 20], np.float32)


def runnable() -> list[object]:
    """Every target that a machine without accelerators may have."""
    marks = {"ort": [pytest.mark.runtime], "xla": [pytest.mark.xla]}
    return [
        pytest.param(name, marks=marks.get(name[:3], []))
        for name in targets
        if name not in ("ort-cuda", "xla-cuda", "xla-tpu")
    ]


def need(name: str) -> None:
    """Skip where what the target is made with is not installed."""
    packages = {"ort": "onnxruntime", "xla": "jax"}
    if name[:3] in packages:
        pytest.importorskip(packages[name[:3]])


@pytest.mark.parametrize("name", runnable())
def test_compiled_graphs_are_called_by_name(name: str, graph: Graph) -> None:
    need(name)
    run = find(name).compile(graph, Plan())
    for outputs in (run(x=X, y=Y), run({"x": X, "y": Y}), run({"x": X}, y=Y)):
        assert list(outputs) == ["sum", "negative"]
        assert outputs["sum"].tolist() == [11, 22]
        assert outputs["negative"].tolist() == [-1, -2]
    assert run.used()["target"] == name


@pytest.mark.parametrize("name", runnable())
def test_wrong_inputs_are_named(name: str, graph: Graph) -> None:
    need(name)
    run = find(name).compile(graph, Plan())
    with pytest.raises(UsageError, match="'y'"):
        run(x=X)
    with pytest.raises(UsageError, match="'z'"):
        run(x=X, y=Y, z=Y)


def test_unknown_target() -> None:
    with pytest.raises(UsageError, match="did you mean 'ort-cpu'"):
        find("ort-cpus")


def test_backend_missing(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendMissing, match=r"pip install 'graphopt\[cpu\]'"):
        find("ort-cpu").compile(graph, Plan())


def identity(dtype: int, kind: str = "Identity", version: int = 21) -> bytes:
    sides = [helper.make_tensor_value_info(name, dtype, [4]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node(kind, ["x"], ["y"])], "g", sides[:1], sides[1:]
    )
    opsets = [helper.make_opsetid("", version)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return bytes(model.SerializeToString())


@pytest.mark.runtime
@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2fnuz"])
def test_narrow_floats(name: str) -> None:
    pytest.importorskip("onnxruntime")
    dtype = np.dtype(getattr(ml_dtypes, name))
    x = np.array([1, -2, 0.5, 3], dtype)
    y = find("ort-cpu").open(identity(DType.of(dtype).value))(x=x)["y"]
    assert y.dtype == dtype
    assert y.tobytes() == x.tobytes()


@pytest.mark.runtime
def test_a_refused_model_says_why() -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(NotImplementedError, match=r"ONNX Runtime refuses.*Identity"):
        find("ort-cpu").open(identity(TensorProto.INT4))


@pytest.mark.runtime
def test_large_weights_go_through_files(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("graphopt.lowering.ort.target.INLINE_BYTES", 0)
    assert find("ort-cpu").compile(graph, Plan())(x=X, y=Y)["sum"].tolist() == [11, 22]


# --- in a process of its own --------------------------------------------------------


@pytest.mark.runtime
def test_isolated_runs(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    good, bad = tmp_path / "good.onnx", tmp_path / "bad.onnx"
    good.write_bytes(identity(TensorProto.FLOAT, "Neg"))
    bad.write_bytes(identity(TensorProto.STRING, "Neg"))
    artifacts = [isolated.Artifact(str(path)) for path in (good, bad, good)]
    x = np.array([1, 2, 3, 4], np.float32)
    first, second, third = isolated.run(artifacts, {"x": x}, 60)
    for outcome in (first, third):
        assert outcome.outputs is not None
        assert outcome.outputs["y"].tolist() == [-1, -2, -3, -4]
    assert second.outputs is None
    assert "refuses" in second.error


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Let an ``onnxruntime`` that does ``body`` be found first by child processes."""
    (tmp_path / "onnxruntime.py").write_text(body)
    old = os.environ.get("PYTHONPATH", "")
    package = str(Path(isolated.__file__).parents[2])
    monkeypatch.setattr(
        isolated, "search_path", lambda: os.pathsep.join([str(tmp_path), package, old])
    )


def test_a_runtime_that_dies_is_told_from_one_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "import os; os.abort()")
    (outcome,) = isolated.run([isolated.Artifact("x.onnx")], {}, 60)
    assert outcome.outputs is None
    assert "died (SIGABRT)" in outcome.error


def test_a_runtime_that_hangs_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "import time; time.sleep(60)")
    (outcome,) = isolated.run([isolated.Artifact("x.onnx")], {}, 2)
    assert "not done after 2 s" in outcome.error


@pytest.mark.runtime
def test_external_data_from_another_folder(tmp_path: Path) -> None:
    """A model whose data lies where it will be moved to, not where it is."""
    pytest.importorskip("onnxruntime")
    home, stage = tmp_path / "home", tmp_path / "stage"
    home.mkdir()
    stage.mkdir()
    weight = helper.make_tensor("w", TensorProto.FLOAT, [512], np.ones(512), raw=False)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [512])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [512])],
        [weight],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(
        model,
        home / "m.onnx",
        save_as_external_data=True,
        location="m.data",
        size_threshold=0,
    )
    staged = stage / "m.onnx"
    staged.write_bytes((home / "m.onnx").read_bytes())
    artifact = isolated.Artifact(str(staged), str(home))
    (outcome,) = isolated.run([artifact], {"x": np.zeros(512, np.float32)}, 60)
    assert outcome.outputs is not None, outcome.error
    assert outcome.outputs["y"].sum() == 512
    assert load(staged.read_bytes(), folder=home).ops


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("exit 3",)


def test_the_child_can_say_arrays_and_nothing_else() -> None:
    arrays = {
        "f": np.ones((2, 3), np.float32),
        "b": np.ones(3, ml_dtypes.bfloat16),
        "s": np.array(["a", "b"], object),
        "q": [np.zeros(2), np.float64(1)],
        "c": np.ones(1, np.complex64),
    }
    good, evil = pickle.dumps((arrays, "")), pickle.dumps((Evil(), ""))
    ((outputs, error),) = isolated._read(good + evil + good)
    assert error == ""
    assert outputs is not None
    for name, array in arrays.items():
        assert np.array_equal(outputs[name][0], array[0])


def test_no_name_leads_out_of_the_array_types() -> None:
    """Protocol 4 follows dots: ``finfo.__init__.__globals__`` and on from there."""
    reader = isolated._Arrays(io.BytesIO())
    assert reader.find_class("ml_dtypes", "bfloat16") is ml_dtypes.bfloat16
    for module, name in (
        ("ml_dtypes", "finfo.__new__.__globals__"),
        ("ml_dtypes", "finfo"),
        ("numpy", "ndarray.__class__"),
        ("numpyx", "ndarray"),
        ("os", "system"),
    ):
        with pytest.raises(pickle.UnpicklingError):
            reader.find_class(module, name)
