"""Ops of old opsets against ONNX Runtime, where onnx's own reference misreads them.

That fails on BatchNormalization-7, takes -9 for training, Softmax-9 for that of one
axis, and has no DequantizeLinear-10.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, parser

import graphopt
from graphopt.importer import load
from graphopt.ops import Opaque

STATISTICS = "float[3] s, float[3] b, float[3] m, float[3] v"
BATCH = (
    f"(float[2, 3, 4] x, {STATISTICS}) => (float[2, 3, 4] y) "
    "{ y = BatchNormalization <epsilon=0.25, momentum=0.5> (x, s, b, m, v) }"
)
CASES: dict[str, tuple[int, str]] = {
    "BatchNormalization-7": (7, BATCH),
    "BatchNormalization-9": (9, BATCH),
    **{
        f"{kind}-9, axis {axis}": (
            9,
            f"(float[2, 3, 4] x) => (float[2, 3, 4] y) {{ y = {kind} {said} (x) }}",
        )
        for kind in ("Softmax", "LogSoftmax", "Hardmax")
        for axis, said in (("1", ""), ("0", "<axis=0>"), ("2", "<axis=2>"))
    },
    "DequantizeLinear-10": (
        10,
        "(uint8[2, 3] q, float c, uint8 z) => (float[2, 3] y) "
        "{ y = DequantizeLinear (q, c, z) }",
    ),
    "DequantizeLinear-10 without a zero point": (
        10,
        "(int8[2, 3] q, float c) => (float[2, 3] y) { y = DequantizeLinear (q, c) }",
    ),
    "QuantizeLinear-10": (
        10,
        "(float[2, 3] w, float c, int8 z) => (int8[2, 3] y) "
        "{ y = QuantizeLinear (w, c, z) }",
    ),
    "Resize-10": (
        10,
        "(float[1, 1, 4, 5] e, float[4] f) => (float[M, N, K, L] y) "
        "{ y = Resize (e, f) }",
    ),
    "Resize-10, linear": (
        10,
        "(float[1, 1, 4, 5] e, float[4] f) => (float[M, N, K, L] y) "
        '{ y = Resize <mode="linear"> (e, f) }',
    ),
    "GroupNormalization-18": (
        18,
        "(float[2, 3, 4] x, float[1] g, float[1] h) => (float[2, 3, 4] y) "
        "{ y = GroupNormalization <num_groups=1> (x, g, h) }",
    ),
    "Scan-8": (
        8,
        "(int64[2] n, float[2, 4] a, float[2, 3, 4] x) => "
        "(float[2, 4] t, float[2, 3, 4] y, float[2, 3, 4] z) { "
        "t, y, z = Scan <num_scan_inputs=2, directions=[0, 1], body = step "
        "(float[4] s, float[4] p, float[4] q) => "
        "(float[4] next, float[4] k, float[4] l) "
        "{ next = Add (s, p)\n k = Mul (next, q)\n l = Identity (q) }> (n, a, x, x) }",
    ),
}


def feeds() -> dict[str, Any]:
    """What the cases read, by name."""
    rng = np.random.default_rng(0)

    def floats(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32)

    return {
        "x": floats(2, 3, 4),
        **{name: floats(3) for name in "sbm"},
        "v": np.abs(floats(3)),
        "a": floats(2, 4),
        "n": np.array([3, 2]),
        "q": np.array([[0, 1, 2], [3, 127, 100]], np.uint8),
        "c": np.float32(0.25),
        "z": np.uint8(3),
        "w": 10 * floats(2, 3),
        "e": floats(1, 1, 4, 5),
        "f": np.array([1, 1, 1.5, 0.6], np.float32),
        "g": floats(1),
        "h": floats(1),
    }


def stated(proto: ModelProto) -> dict[str, Any]:
    """The feeds of a model, in its element types."""
    made, known = {}, feeds()
    for value in proto.graph.input:
        array = np.asarray(known[value.name])
        kind = value.type.tensor_type.elem_type
        made[value.name] = array.astype(np.int8) if kind == 3 else array
    return made


@pytest.mark.runtime
@pytest.mark.parametrize("case", CASES)
def test_an_old_op_is_what_the_runtime_has(case: str) -> None:
    ort = pytest.importorskip("onnxruntime")
    opset, text = CASES[case]
    header = f'<ir_version: 7, opset_import: ["" : {opset}]>'
    proto = parser.parse_model(f"{header} main {text}")
    given = stated(proto)

    def run(model: ModelProto) -> list[Any]:
        providers = ["CPUExecutionProvider"]
        session = ort.InferenceSession(model.SerializeToString(), providers=providers)
        found: list[Any] = session.run(None, given)
        return found

    expected = run(proto)
    assert not any(isinstance(op, Opaque) for op in load(proto).ops)
    written = graphopt.optimize_model(proto)
    for found in (graphopt.run_model(proto, given), run(written)):
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.dtype == theirs.dtype
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
