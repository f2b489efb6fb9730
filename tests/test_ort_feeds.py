"""What is no model, and what does not fit one, in words: before ONNX Runtime's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command

import graphopt
from graphopt import ops
from graphopt.dims import symbol
from graphopt.errors import InvalidModel, UsageError
from graphopt.exporter import save
from graphopt.ir import Graph, Parameter
from graphopt.types import DType, OptionalType, SequenceType, tensor
from graphopt.weights import Tensor

pytestmark = pytest.mark.runtime
pytest.importorskip("onnxruntime")

ONES = np.ones((2, 3), np.float32)
N = symbol("n")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """x + y * w, where w has a default."""
    x, y = (Parameter(tensor(DType.F32, N, 3), name) for name in "xy")
    w = Parameter(tensor(DType.F32, 3), "w", default=Tensor.of(np.ones(3, np.float32)))
    path = tmp_path / "sum.onnx"
    save(Graph([x, y, w], [ops.Add(x, ops.Mul(y, w))]), path)
    return path


@pytest.mark.parametrize(
    ("fed", "said"),
    [
        ({"x": ONES}, "input 'y' (f32[n, 3]) is missing"),
        ({"x": ONES, "y": ONES, "z": ONES}, "no input is called 'z'; the model has 'x"),
        ({"x": ONES, "y": ONES, "z": ONES}, "'w': f32[3]"),
        ({"x": ONES, "y": ONES.astype(np.float64)}, "'y' has elements of f64, not of"),
        ({"x": ONES, "y": ONES[0]}, "input 'y' has the shape [3], not f32[n, 3]"),
        ({"x": ONES, "y": ONES[:, :2]}, "input 'y' has the shape [2, 2], not f32[n"),
        ({"x": ONES, "y": np.ones((4, 3), np.float32)}, "'y': n is 2 in another input"),
        ({"x": ONES, "y": None}, "input 'y' is None, not f32[n, 3]"),
        ({"x": ONES, "y": ONES, "w": ONES}, "input 'w' has the shape [2, 3], not f32"),
    ],
)
def test_inputs_that_do_not_fit_are_named(
    model: Path, fed: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        graphopt.session(model)(fed)
    assert said in str(caught.value)


def test_inputs_that_fit(model: Path) -> None:
    run = graphopt.session(model)
    (made,) = run(x=ONES, y=ONES).values()
    assert made.tolist() == [[2] * 3] * 2
    (made,) = run(x=ONES, y=ONES, w=np.zeros(3, np.float32)).values()
    assert made.tolist() == [[1] * 3] * 2


def test_types_that_hold_others(tmp_path: Path) -> None:
    many = Parameter(SequenceType(tensor(DType.F32, N)), "many")
    save(Graph([many], [ops.SequenceAt(many, ops.Constant(0))]), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match=r"'many' is a list: seq\(f32\[\*\]\)"):
        graphopt.session(tmp_path / "m.onnx")(many=ONES)
    some = Parameter(OptionalType(tensor(DType.F32, N)), "some")
    made = Graph([some], [ops.OptionalGetElement(some)]).with_header(opsets={"": 18})
    save(made, tmp_path / "o.onnx")
    with pytest.raises(UsageError, match="'some' has elements of i64, not of f32"):
        graphopt.session(tmp_path / "o.onnx")(some=np.ones(2, np.int64))


@pytest.mark.parametrize("data", [b"", b"no model at all", b"\x08\x07"])
def test_what_is_no_model(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    path.write_bytes(data)
    with pytest.raises(InvalidModel, match=r"not an ONNX model \[.*no\.onnx\]"):
        graphopt.session(path)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        graphopt.session(tmp_path / "none.onnx")
    with pytest.raises(IsADirectoryError):
        graphopt.session(tmp_path)


def test_the_command_line_says_what_optimize_says(
    model: Path, tmp_path: Path, command: Command
) -> None:
    broken, none = tmp_path / "broken.onnx", tmp_path / "none.onnx"
    broken.write_bytes(b"no model at all")
    for line in (["bench", model], ["run", "--target", "ort-cpu"], ["optimize"]):
        code, _, err = command(*line, broken)
        assert code == 3
        assert err.startswith("graphopt: not an ONNX model")
        assert str(broken) in err
        code, _, err = command(*line, none)
        assert (code, err) == (
            2,
            f"graphopt: cannot read {none}: No such file or directory\n",
        )
