"""A small network that learns three corners, and what fits it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import onnx
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from onnx import numpy_helper

from graphopt import training

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Most tests here compile the same programs: they are kept in a folder."""
    folder = str(tmp_path_factory.mktemp("programs"))
    wanted = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    before = {name: getattr(jax.config, name) for name in wanted}
    for name, value in wanted.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


NETWORK = """
<ir_version: 10, opset_import: ["": 21]>
net (float[n, 6] x) => (float[n, 3] p) {
    h = MatMul (x, w1)
    b = Add (h, b1)
    a = Tanh (b)
    s = Gemm (a, w2, b2)
    p = Softmax (s)
}
"""


def network(dtype: Any = np.float32, text: str = NETWORK) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    text = text.replace("float[", {4: "float[", 2: "float16["}[dtype().itemsize])
    model = onnx.parser.parse_model(text)
    shapes = {"w1": (6, 8), "b1": (8,), "w2": (8, 3), "b2": (3,)}
    for name, shape in shapes.items():
        array = (rng.normal(0, 0.4, shape)).astype(dtype)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def examples(count: int = 50) -> tuple[Array, Array]:
    """Points around three corners, and which corner."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, count)
    points = 2 * np.eye(6)[labels] + rng.normal(0, 0.5, (count, 6))
    return points.astype(np.float32), labels


def fitted(**options: Any) -> training.Result:
    chosen: dict[str, Any] = {
        "optimizer": optax.adam(1e-2),
        "loss": "categorical_crossentropy",
        "batch_size": 16,
        "epochs": 2,
    }
    model, data = options.pop("model", None), options.pop("data", None)
    return training.fit(
        network() if model is None else model,
        examples() if data is None else data,
        **chosen | options,
    )
