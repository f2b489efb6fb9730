"""Models that ONNX Runtime wrote, optimized or quantized: read, understood, checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper, parser
from real_models import every_model, model_paths

import graphopt
from graphopt.check import CheckResult

pytestmark = pytest.mark.runtime

ort = pytest.importorskip("onnxruntime")

SMALL = 5_000_000
"""Models of no more bytes are tried."""


# --- a layer of a transformer -------------------------------------------------------

WIDTH, HEADS, INNER = 16, 2, 32


def norm(x: str, y: str, name: str) -> str:
    """Layer normalization, op by op."""
    return f"""
      {name}m = ReduceMean <axes = [-1]> ({x})
      {name}d = Sub ({x}, {name}m)
      {name}s = Pow ({name}d, two)
      {name}v = ReduceMean <axes = [-1]> ({name}s)
      {name}e = Add ({name}v, epsilon)
      {name}r = Sqrt ({name}e)
      {name}n = Div ({name}d, {name}r)
      {name}w = Mul ({name}n, {name}g)
      {y} = Add ({name}w, {name}b)
    """


def heads(x: str, y: str, weight: str, order: str = "[0, 2, 1, 3]") -> str:
    return f"""
      {y}p = MatMul ({x}, {weight})
      {y}a = Add ({weight}b, {y}p)
      {y}h = Reshape ({y}a, split)
      {y} = Transpose <perm = {order}> ({y}h)
    """


LAYER = f"""
    <ir_version: 8, opset_import: ["" : 13]>
    layer (float[batch, steps, {WIDTH}] x) => (float[batch, steps, {WIDTH}] y) {{
      {heads("x", "q", "wq")}
      {heads("x", "k", "wk", "[0, 2, 3, 1]")}
      {heads("x", "v", "wv")}
      scores = MatMul (q, k)
      scaled = Div (scores, root)
      shares = Softmax <axis = -1> (scaled)
      found = MatMul (shares, v)
      turned = Transpose <perm = [0, 2, 1, 3]> (found)
      merged = Reshape (turned, join)
      mixed = MatMul (merged, wo)
      biased = Add (mixed, wob)
      skipped = Add (biased, x)
      {norm("skipped", "h", "one")}
      wide = MatMul (h, wi)
      raised = Add (wide, wib)
      ratio = Div (raised, half)
      erf = Erf (ratio)
      more = Add (erf, unit)
      part = Mul (raised, more)
      gelu = Mul (part, fifty)
      narrow = MatMul (gelu, wf)
      lowered = Add (narrow, wfb)
      total = Add (lowered, h)
      {norm("total", "y", "two_")}
    }}
"""


def layer() -> ModelProto:
    """Attention and a network of two products, as an exporter spells them."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> Any:
        return (rng.normal(size=shape) / 4).astype(np.float32)

    square, row = (WIDTH, WIDTH), (WIDTH,)
    arrays: dict[str, Any] = {
        **{name: drawn(*square) for name in ("wq", "wk", "wv", "wo")},
        **{f"{name}b": drawn(*row) for name in ("wq", "wk", "wv", "wo", "wf")},
        **{"wi": drawn(WIDTH, INNER), "wib": drawn(INNER), "wf": drawn(INNER, WIDTH)},
        **{name: drawn(*row) for name in ("oneg", "oneb", "two_g", "two_b")},
        "split": np.array([0, 0, HEADS, WIDTH // HEADS]),
        "join": np.array([0, 0, WIDTH]),
        **{
            name: np.array(value, np.float32)
            for name, value in (
                ("two", 2),
                ("epsilon", 1e-5),
                ("root", np.sqrt(WIDTH / HEADS)),
                ("half", np.sqrt(2)),
                ("unit", 1),
                ("fifty", 0.5),
            )
        },
    }
    model = parser.parse_model(LAYER)
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "layer.onnx"
    onnx.save(layer(), path)
    return path


# --- what the runtime makes of a model ----------------------------------------------


def extended(path: Path, folder: Path) -> Path:
    """The file that ONNX Runtime writes with its extended optimizations."""
    made = folder / "extended.onnx"
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(made)
    options.log_severity_level = 4
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return made


def kinds_of(path: Path) -> set[str]:
    model = onnx.load(path, load_external_data=False)
    return {node.op_type for node in model.graph.node}


def compared(
    before: Path, after: Path, inputs: Mapping[str, Any] | None = None
) -> CheckResult:
    """A check in full, however slow the machine is just now."""
    pair = (graphopt.load(before), graphopt.load(after))
    return graphopt.check(*pair, inputs=inputs, mode="full")


def assert_same(before: Path, after: Path) -> None:
    """Both mean the same, which is known of every op; and what we write runs."""
    result = compared(before, after)
    assert result.passed, result
    assert result.unchecked == ()
    assert_understood(after)


def assert_understood(path: Path) -> None:
    """A model is optimized with every op checked, and the runtime runs the result."""
    result = graphopt.optimize(graphopt.load(path), check="full")
    assert result.report.check is not None
    assert result.report.check.passed, result.report.check
    assert result.report.check.unchecked == ()
    made = graphopt.optimize_model(onnx.load(path), check="off")
    ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])


def test_the_extended_form_of_a_layer_means_the_same(
    written: Path, tmp_path: Path
) -> None:
    made = extended(written, tmp_path)
    assert {"SkipLayerNormalization", "BiasGelu"} <= kinds_of(made)
    assert_same(written, made)


def is_small_transformer(path: Path) -> bool:
    if path.stat().st_size > SMALL:
        return False
    kinds = kinds_of(path)
    return "MatMul" in kinds and bool(kinds & {"Attention", "Softmax"})


@pytest.mark.slow
@every_model(is_small_transformer)
def test_the_extended_form_of_real_models_means_the_same(
    path: Path, tmp_path: Path
) -> None:
    try:
        made = extended(path, tmp_path)
    except Exception as error:  # its errors have no base of their own
        pytest.skip(f"ONNX Runtime refuses the model: {error!s:.80}")
    assert_same(path, made)


def test_the_fusions_of_its_transformer_tools_mean_the_same(
    written: Path, tmp_path: Path
) -> None:
    pytest.importorskip("sympy")
    optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
    fused = optimizer.optimize_model(
        str(written), "bert", num_heads=HEADS, hidden_size=WIDTH, opt_level=0
    )
    made = tmp_path / "fused.onnx"
    fused.save_model_to_file(str(made))
    assert {"SkipLayerNormalization", "BiasGelu"} <= kinds_of(made)
    assert_same(written, made)


def test_a_mask_that_a_fusion_misreads_is_found(tmp_path: Path) -> None:
    """As a number of tokens, a mask with gaps is another: and the check says so."""
    pytest.importorskip("sympy")
    optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
    paths = [p for p in model_paths() if p.parent.name == "tribuo__tinybert"]
    if not paths:
        pytest.skip("no such model: set GRAPHOPT_MODELS")
    (path,) = paths
    fused = tmp_path / "fused.onnx"
    optimizer.optimize_model(str(path), "bert", opt_level=0).save_model_to_file(
        str(fused)
    )
    assert {"EmbedLayerNormalization", "Attention"} <= kinds_of(fused)
    tokens = np.arange(10).reshape(2, 5)
    for mask, same in (([1, 1, 1, 0, 0], True), ([1, 0, 1, 0, 1], False)):
        inputs = {
            "input_ids": tokens,
            "attention_mask": np.array([mask, [1] * 5]),
            "token_type_ids": np.zeros((2, 5), np.int64),
        }
        result = compared(path, fused, inputs)
        assert result.passed == same
        assert result.unchecked == ()


# --- quantized ----------------------------------------------------------------------


class Drawn:
    """Inputs for a calibration."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        arrays = [rng.normal(size=(2, 3, WIDTH)).astype(np.float32) for _ in range(3)]
        self.left = [{"x": array} for array in arrays]

    def get_next(self) -> dict[str, Any] | None:
        return self.left.pop() if self.left else None


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("form", ["QOperator", "QDQ"])
def test_a_layer_quantized_beforehand(
    form: str, signed: bool, written: Path, tmp_path: Path
) -> None:
    tools = pytest.importorskip("onnxruntime.quantization")
    made = tmp_path / "quantized.onnx"
    tools.quantize_static(
        str(written),
        str(made),
        Drawn(),
        quant_format=tools.QuantFormat[form],
        activation_type=tools.QuantType.QInt8 if signed else tools.QuantType.QUInt8,
    )
    if form == "QOperator":
        assert {"QLinearAdd", "QLinearMul", "QLinearSoftmax"} <= kinds_of(made)
    assert_understood(made)
    assert_same(made, extended(made, tmp_path))


def test_a_layer_quantized_as_it_runs(written: Path, tmp_path: Path) -> None:
    tools = pytest.importorskip("onnxruntime.quantization")
    made = tmp_path / "quantized.onnx"
    tools.quantize_dynamic(str(written), str(made))
    assert_understood(made)
    optimized = extended(made, tmp_path)
    assert {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"} & kinds_of(optimized)
    assert_same(made, optimized)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_layer_with_weights_of_few_bits(
    bits: int, symmetric: bool, written: Path, tmp_path: Path
) -> None:
    tools = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    quantizer = tools.MatMulNBitsQuantizer(
        onnx.load(written), bits=bits, block_size=16, is_symmetric=symmetric
    )
    quantizer.process()
    made = tmp_path / "quantized.onnx"
    quantizer.model.save_model_to_file(str(made))
    assert "MatMulNBits" in kinds_of(made)
    assert_understood(made)
