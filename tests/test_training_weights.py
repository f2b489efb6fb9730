"""Training: which weights move, and in what precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphopt
from graphopt import UnsupportedModel, UsageError, to_jax

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
pytest.importorskip("orbax.checkpoint")
pytestmark = pytest.mark.xla

from training_network import (  # noqa: E402
    NETWORK,
    examples,
    fitted,
    network,
    programs as programs,
)

# --- which weights --------------------------------------------------------------------


def test_frozen_weights_stay() -> None:
    start = {t.name: numpy_helper.to_array(t) for t in network().graph.initializer}
    by_pattern = fitted(frozen=["w1", "b*"])
    by_function = fitted(frozen=lambda name: name in ("w1", "b1", "b2"))
    assert by_pattern.losses == by_function.losses
    assert by_pattern.untrained == dict.fromkeys(["w1", "b1", "b2"], "frozen")
    for name in ("w1", "b1", "b2"):
        np.testing.assert_array_equal(by_pattern.params[name], start[name])
    assert (by_pattern.params["w2"] != start["w2"]).all()
    with pytest.raises(UsageError, match="called 'w3'"):
        fitted(frozen="w3")
    with pytest.raises(UsageError, match="no weight is left"):
        fitted(frozen="*")


NORMALIZED = """
<ir_version: 10, opset_import: ["": 21]>
net (float[n, 6] x) => (float[n, 3] p) {
    h = BatchNormalization (x, scale, bias, mean, variance)
    q = DequantizeLinear <axis = 1> (codes, steps, zero)
    s = MatMul (h, q)
    p = Softmax (s)
}
"""


def test_statistics_and_quantized_weights_stay() -> None:
    model = onnx.parser.parse_model(NORMALIZED)
    rng = np.random.default_rng(0)
    arrays = {name: np.ones(6, np.float32) for name in ("scale", "variance")}
    arrays |= {name: np.zeros(6, np.float32) for name in ("bias", "mean")}
    arrays["codes"] = rng.integers(-9, 9, (6, 3)).astype(np.int8)
    arrays["steps"] = np.full(3, 0.1, np.float32)
    arrays["zero"] = np.zeros(3, np.int8)
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    result = fitted(model=model)
    statistic = "a running statistic of BatchNormalization"
    assert result.untrained == {
        **dict.fromkeys(("mean", "variance"), statistic),
        "steps": "a scale of DequantizeLinear",
    }
    np.testing.assert_array_equal(result.params["steps"], arrays["steps"])
    assert (result.params["scale"] != 1).all()
    (p,) = graphopt.run_model(
        graphopt.exporter.to_proto(result.graph), {"x": examples()[0]}
    )
    assert p.shape == (50, 3)


def dropping(seed: int | None = None) -> onnx.ModelProto:
    """The network with half of its hidden values dropped at random."""
    stated = "" if seed is None else f"<seed = {seed}>"
    text = NETWORK.replace(
        "a = Tanh (b)", f"d = Tanh (b)\n a = Dropout {stated} (d, r, t)"
    )
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(network().graph.initializer)
    for name, array in {"r": np.float32(0.5), "t": np.array(True)}.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def test_each_step_draws_anew_and_the_seed_says_what() -> None:
    first, again = fitted(model=dropping()), fitted(model=dropping())
    assert first.losses == again.losses
    assert first.losses != fitted(model=dropping(), seed=1, shuffle=False).losses
    alike = fitted(model=dropping(), optimizer=optax.sgd(0.0), shuffle=False, epochs=2)
    half = len(alike.losses) // 2
    assert alike.losses[:half] != alike.losses[half:]  # the same data and weights


def test_a_stated_seed_would_draw_the_same_every_time_and_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="Dropout states a seed"):
        fitted(model=dropping(seed=3))


# --- precision ------------------------------------------------------------------------


def test_mixed_precision_rounds_products_and_keeps_float32_weights() -> None:
    plain, mixed = fitted(epochs=6), fitted(epochs=6, mixed_precision=True)
    assert mixed.losses != plain.losses
    assert mixed.losses == pytest.approx(plain.losses, rel=0.03)
    assert all(a.dtype == np.float32 for a in mixed.params.values())
    fn, params = to_jax(network(), precision="bfloat16")
    shown = str(jax.make_jaxpr(lambda p: fn(p, x=examples()[0]))(params))
    products = [line for line in shown.splitlines() if "dot_general" in line]
    assert products
    assert all(":bf16[" in line for line in products)


@pytest.mark.slow
def test_convolutions_in_mixed_precision() -> None:
    text = """<ir_version: 10, opset_import: ["": 21]>
    net (float[2, 3, 6, 5] x) => (float[n, c, h, w] y) {
        a = Conv <strides = [2, 1], pads = [1, 1, 0, 0]> (x, v)
        y = ConvTranspose <strides = [2, 2]> (a, w)
    }"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in {"v": (4, 3, 3, 2), "w": (4, 2, 3, 3)}.items():
        array = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    x = rng.normal(size=(2, 3, 6, 5)).astype(np.float32)
    slopes = []
    for precision in ("fp32", "bfloat16"):
        fn, params = to_jax(model, precision=precision)
        slope = jax.grad(lambda p, fn=fn: (fn(p, x=x)["y"] ** 2).mean())(params)
        assert all(a.dtype == np.float32 for a in slope.values())
        slopes.append(slope)
    for name, exact in slopes[0].items():
        error = abs(slopes[1][name] - exact).max() / abs(exact).max()
        assert 1e-5 < error < 0.03, name


def test_narrow_weights_are_trained_as_float32() -> None:
    """Steps far smaller than float16 resolves add up all the same."""
    x, labels = examples(16)
    options: dict[str, Any] = {
        "data": (x.astype(np.float16), labels),
        "optimizer": optax.sgd(2e-5),
        "epochs": 200,
    }
    result = fitted(model=network(np.float16), **options)
    assert all(a.dtype == np.float16 for a in result.params.values())
    start = {
        t.name: numpy_helper.to_array(t) for t in network(np.float16).graph.initializer
    }
    assert any((result.params[name] != array).any() for name, array in start.items())
    assert result.losses[-1] < result.losses[0]
