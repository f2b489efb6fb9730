"""What programs of XLA take: arguments, their types, and the words for precision."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import UsageError, to_jax
from graphopt.reference import run as reference

jax = pytest.importorskip("jax")

from xla_programs import linear, model, normal  # noqa: E402

from graphopt.lowering.xla.function import Function  # noqa: E402

pytestmark = pytest.mark.xla


def test_arguments_that_make_no_sense_are_told() -> None:
    fn = Function(linear())
    with pytest.raises(UsageError, match="by their names"):
        fn(fn.params, normal(4, 3))
    with pytest.raises(UsageError, match=r"'bf16'.*'bfloat16'"):
        Function(linear(), precision="bf16")
    for given in (None, list(fn.params.values())):
        with pytest.raises(UsageError, match="are a dict of weights by name"):
            fn(given, x=normal(4, 3))  # type: ignore[arg-type]
    for dtype, what in ((np.int32, "i32"), (np.float16, "f16"), (np.float64, "f64")):
        odd = {name: array.astype(dtype) for name, array in fn.params.items()}
        match = f"'w' has elements of {what}, not of f32: cast it to f32"
        with pytest.raises(UsageError, match=match):
            fn(odd, x=normal(4, 3))
    with pytest.raises(UsageError, match=r"0 is no key .*keyed\(jax.random.key"):
        fn.keyed(0)
    cut = {name: array[:1] for name, array in fn.params.items()}
    with pytest.raises(UsageError, match=r"'w' has the shape \[1, 2\], not \[3, 2\]"):
        fn(cut, x=normal(4, 3))


def test_a_graph_is_a_function_in_the_words_of_the_command_line() -> None:
    graph, x = linear(), normal(4, 3)
    made = {}
    for word in ("fp32", "highest", "default", "bfloat16"):
        fn, params = to_jax(graph, precision=word)
        text = str(jax.make_jaxpr(fn)(params, {"x": x}))
        made[word] = re.sub(r" at 0x\w+", "", text)
    assert made["fp32"] == made["highest"]
    assert "HIGHEST" in made["fp32"]
    assert "HIGHEST" not in made["default"]
    assert len(set(made.values())) == 3
    np.testing.assert_allclose(
        to_jax(graph)[0](params, x=x)["y"], reference(graph, {"x": x})["y"], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("wanted", "given", "taken"),
    [
        ("int64", np.int32, True),
        ("int64", np.uint8, True),
        ("int32", np.int8, True),
        ("int32", np.uint32, False),
        ("uint64", np.int32, False),
        ("int64", np.float32, False),
        ("int64", np.bool_, False),
        ("double", np.float32, True),
        ("float", np.float16, False),
        ("double", np.int32, False),
    ],
)
def test_inputs_are_widened_eagerly_and_traced(
    wanted: str, given: Any, taken: bool
) -> None:
    made = model(f"graph ({wanted}[2] x) => ({wanted}[2] y) {{ y = Add(x, x) }}")
    fn, params = to_jax(made)
    x = np.array([1, 0], given)
    for call in (fn, jax.jit(fn)):
        for array in (x, jax.numpy.asarray(x)):
            if taken:
                y = np.asarray(call(params, x=array)["y"])
                assert y.tolist() == [2, 0]
                assert y.dtype == fn.graph.outputs[0].dtype.numpy
            else:
                with pytest.raises(UsageError, match="has elements of"):
                    call(params, x=array)


def test_targets_widen_inputs_too(tmp_path: Path) -> None:
    made = model("graph (int64[n] x) => (int64[n] y) { y = Add(x, x) }")
    narrow = np.array([1, 2**30], np.int32)
    onnx.save(made, tmp_path / "m.onnx")
    program = tmp_path / "m.stablehlo"
    graphopt.optimize(tmp_path / "m.onnx", "xla-cpu").save(program)
    for path in (tmp_path / "m.onnx", program):
        (y,) = graphopt.run_model(path, {"x": narrow}, target="xla-cpu")
        assert (y.dtype, y.tolist()) == (np.int64, [2, 2**31])
        with pytest.raises(UsageError, match="has elements of f32, not of i64"):
            graphopt.run_model(path, {"x": narrow.astype("f4")}, target="xla-cpu")
