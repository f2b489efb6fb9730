"""Old forms that newer opsets say in another way, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import checker, defs
from test_versions import inputs, model

from graphopt import reference
from graphopt.exporter import to_proto
from graphopt.importer import load
from graphopt.importer.reading import reading
from graphopt.ops.opaque import Opaque
from graphopt.ops.registry import find
from graphopt.ops.schema import LATEST
from graphopt.ops.structured import Composite, Computed
from graphopt.versions import has_changed, spelling

Array = np.ndarray[Any, Any]


def grouped(x: Array, groups: int, scale: Array, bias: Array) -> Array:
    """GroupNormalization of opset 18, with epsilon 0.5."""
    parts = x.reshape(len(x), groups, -1)
    centred = parts - parts.mean(2, keepdims=True)
    parts = centred / np.sqrt(parts.var(2, keepdims=True) + 0.5)
    weighed: Array = parts * scale[:, None] + bias[:, None]
    return weighed.reshape(x.shape)


def trained(axes: tuple[int, ...]) -> Callable[..., Any]:
    """BatchNormalization in training over axes, with epsilon 0.5 and momentum 0.75."""

    def meaning(x: Array, s: Array, b: Array, m: Array, v: Array) -> Any:
        mean, variance = x.mean(axes), x.var(axes)
        shape = [1 if i in axes else n for i, n in enumerate(x.shape)]
        spread = np.sqrt(variance.reshape(shape) + 0.5)
        y = (x - mean.reshape(shape)) / spread * s.reshape(shape) + b.reshape(shape)
        return y, 0.75 * m + 0.25 * mean, 0.75 * v + 0.25 * variance

    return meaning


STATISTICS = "float[3] s, float[3] b, float[3] m, float[3] v"
EACH = "float[3, 4] s, float[3, 4] b, float[3, 4] m, float[3, 4] v"
TRAINED = "<epsilon=0.5, momentum=0.75"
ROWS = np.arange(20, dtype=np.float32).reshape(1, 1, 4, 5)

LATER: dict[str, tuple[int, str, Callable[..., Any], int]] = {
    "BatchNormalization in training": (
        9,
        f"(float[2, 3, 4] x, {STATISTICS}) => "
        "(float[2, 3, 4] y, float[3] mean, float[3] var) "
        f"{{ y, mean, var = BatchNormalization {TRAINED}> (x, s, b, m, v) }}",
        trained((0, 2)),
        14,
    ),
    "BatchNormalization in training, said twice": (
        6,
        f"(float[2, 3, 4] x, {STATISTICS}) => "
        "(float[2, 3, 4] y, float[3] mean, float[3] var) "
        f"{{ y, mean, var = BatchNormalization {TRAINED}> (x, s, b, m, v) }}",
        trained((0, 2)),
        14,
    ),
    "BatchNormalization by position": (
        7,
        f"(float[2, 3, 4] x, {EACH}) => (float[2, 3, 4] y) "
        "{ y = BatchNormalization <epsilon=0.5, spatial=0> (x, s, b, m, v) }",
        lambda x, s, b, m, v: (x - m) / np.sqrt(v + 0.5) * s + b,
        7,
    ),
    "BatchNormalization by position in training": (
        7,
        f"(float[2, 3, 4] x, {EACH}) => "
        "(float[2, 3, 4] y, float[3, 4] mean, float[3, 4] var) "
        f"{{ y, mean, var = BatchNormalization {TRAINED}, spatial=0> "
        "(x, s, b, m, v) }",
        trained((0,)),
        14,
    ),
    "Tile by what is given": (
        5,
        "(float[2, 3] x, float n, float a) => (float[4, 3] y) { y = Tile (x, n, a) }",
        lambda x, n, a: np.tile(x, (2, 1)),
        9,
    ),
    "GroupNormalization": (
        18,
        "(float[2, 4, 3] x, float[2] s, float[2] b) => (float[2, 4, 3] y) "
        "{ y = GroupNormalization <epsilon=0.5, num_groups=2> (x, s, b) }",
        lambda x, s, b: grouped(x, 2, s, b),
        21,
    ),
    "GroupNormalization of some channels": (
        18,
        "(float[2, C, 3] x, float[2] s, float[2] b) => (float[2, C, 3] y) "
        "{ y = GroupNormalization <epsilon=0.5, num_groups=2> (x, s, b) }",
        lambda x, s, b: grouped(x, 2, s, b),
        21,
    ),
    "GroupNormalization of any rank": (
        18,
        "(float[24] z, int64[3] r, float[2] s, float[2] b) => (float[2, 4, 3] y) "
        "{ x = Reshape (z, r)\n "
        "y = GroupNormalization <epsilon=0.5, num_groups=2> (x, s, b) }",
        lambda z, r, s, b: grouped(z.reshape(r), 2, s, b),
        21,
    ),
    "Resize that grows and shrinks": (
        10,
        "(float[1, 1, 4, 5] x) => (float[1, 1, 8, 3] y) "
        "<float[4] s = {1, 1, 2, 0.6}> { y = Resize (x, s) }",
        lambda x: x.repeat(2, 2)[..., [0, 2, 4]],
        10,
    ),
    "Resize by what is given": (
        10,
        "(float[1, 1, 4, 5] x, float[4] s) => (float[1, 1, 8, 3] y) "
        "{ y = Resize (x, s) }",
        lambda x, s: x.repeat(2, 2)[..., [0, 2, 4]],
        11,
    ),
    "Resize from half a pixel": (
        11,
        "(float[1, 1, 4, 5] x) => (float[1, 1, 6, 10] y) "
        "<float[0] r = {}, float[4] s = {1, 1, 1.7, 2}> { y = Resize "
        '<coordinate_transformation_mode="tf_half_pixel_for_nn", '
        'nearest_mode="floor"> (x, r, s) }',
        lambda x: x[:, :, [0, 0, 1, 2, 2, 3]].repeat(2, 3),
        11,
    ),
    "LpPool by any power": (
        1,
        "(float[1, 1, 4] x) => (float[1, 1, 3] y) "
        "{ y = LpPool <kernel_shape=[2], p=2.5> (x) }",
        lambda x: (np.abs(x[..., 1:]) ** 2.5 + np.abs(x[..., :-1]) ** 2.5) ** 0.4,
        7,
    ),
    "GlobalLpPool by any power": (
        1,
        "(float[2, 3, 4] x) => (float[2, 3, 1] y) { y = GlobalLpPool <p=2.5> (x) }",
        lambda x: (np.abs(x) ** 2.5).sum(2, keepdims=True) ** 0.4,
        1,
    ),
}
"""Old forms that are said in another way, and the opset at which they are."""

GIVEN: dict[str, dict[str, Any]] = {
    "Tile by what is given": {"n": np.float32(2), "a": np.float32(0)},
    "Resize by what is given": {
        "x": ROWS,
        "s": np.array([1, 1, 2, 0.6], np.float32),
    },
    "Resize that grows and shrinks": {"x": ROWS},
    "GroupNormalization of any rank": {"r": np.array([2, 4, 3])},
    "GroupNormalization of some channels": {
        "x": np.sin(np.arange(24, dtype=np.float32)).reshape(2, 4, 3)
    },
}


@pytest.mark.parametrize("case", LATER)
def test_an_old_form_may_need_more(case: str) -> None:
    opset, text, meaning, needed = LATER[case]
    proto = model(opset, text)
    feeds = {
        name: np.asarray(array)
        for name, array in (inputs(proto) | GIVEN.get(case, {})).items()
    }
    graph = load(proto)
    assert not any(isinstance(op, Opaque) for op in graph.ops)
    written = to_proto(graph)
    assert [entry.version for entry in written.opset_import] == [needed]
    checker.check_model(written, full_check=True)
    expected = meaning(*feeds.values())
    expected = expected if isinstance(expected, tuple) else (expected,)
    for each in (proto, written):
        found = reference.run(load(each), feeds).values()
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_dropout_was_training_by_default() -> None:
    proto = model(
        6,
        "(float[100] x) => (float[100] y, float[100] mask) "
        "{ y, mask = Dropout <ratio=0.25> (x) }",
    )
    x = np.ones(100, np.float32)
    y, mask = reference.run(load(proto), {"x": x}, seed=0).values()
    assert mask.dtype == np.float32
    assert 0 < mask.sum() < 100
    np.testing.assert_allclose(y, mask / 0.75, rtol=1e-6)
    assert [entry.version for entry in to_proto(load(proto)).opset_import] == [12]


UNSAID: dict[str, tuple[int, str, str]] = {
    "what training saves": (
        9,
        f"(float[2, 3, 4] x, {STATISTICS}) => (float[2, 3, 4] y, float[3] a, "
        "float[3] c, float[3] d, float[3] e) "
        "{ y, a, c, d, e = BatchNormalization (x, s, b, m, v) }",
        "ONNX does not say what saved_var holds",
    ),
    "training with the results of a test": (
        6,
        f"(float[2, 3, 4] x, {STATISTICS}) => (float[2, 3, 4] y) "
        "{ y = BatchNormalization (x, s, b, m, v) }",
        "is_test and the number of results contradict each other",
    ),
    "a recurrent sequence that is not asked for": (
        1,
        "(float[3, 2, 4] x, float[1, 5, 4] w, float[1, 5, 5] r) => "
        "(float[3, 1, 2, 5] y) { y = RNN <hidden_size=5> (x, w, r) }",
        "ONNX does not say what Y holds with output_sequence=0",
    ),
    "a line from half a pixel": (
        11,
        "(float[1, 1, 2, 2] x) => (float[1, 1, 4, 4] y) "
        "<float[0] r = {}, float[4] s = {1, 1, 2, 2}> { y = Resize "
        '<coordinate_transformation_mode="tf_half_pixel_for_nn", mode="linear"> '
        "(x, r, s) }",
        "opset 13 took the positions away; only nearest elements can be said since",
    ),
    "an axis of nobody knows how many": (
        6,
        "(float[2, 3] x, float[2] b, int64[N] r) => (float[M] y) "
        "{ a = Reshape(x, r)\n y = Add <axis=0, broadcast=1> (a, b) }",
        "where the dims of b go depends on a rank that is not known",
    ),
    "slopes of nobody knows which axis": (
        6,
        "(float[2, 3] x, float[3] b, int64[N] r) => (float[M] y) "
        "{ a = Reshape(x, r)\n y = PRelu (a, b) }",
        "slopes go along axis 1, which is so many from behind as nobody knows",
    ),
    "a number in an element type that nobody knows": (
        2,
        "(float[4] x) => (float[M] y) "
        "{ a = Mystery(x)\n y = Pad <pads=[1, 1], value=1.5> (a) }",
        "the number of newer opsets has the type of the data",
    ),
    "any power in an element type that nobody knows": (
        1,
        "(float[1, 1, 4] x) => (float[M, N, K] y) "
        "{ a = Mystery(x)\n y = GlobalLpPool <p=2.5> (a) }",
        "the power of newer ops has the type of the data, and so do the axes its rank",
    ),
    "a tiled axis of nobody knows how many": (
        5,
        "(float[2, 3] x, int64[N] r, float n, float i) => (float[M] y) "
        "{ a = Reshape(x, r)\n y = Tile (a, n, i) }",
        "the counts of newer opsets are as many as axes, which is not known",
    ),
}
"""Old forms of the default domain that stay opaque, and why."""


@pytest.mark.parametrize("case", UNSAID)
def test_an_old_form_without_a_newer_one_is_kept(case: str) -> None:
    opset, text, _ = UNSAID[case]
    proto = model(opset, text)
    graph = load(proto)
    assert isinstance(graph.outputs[0].op, Opaque)
    written = to_proto(graph)
    assert written.opset_import == proto.opset_import
    assert written.graph.node[-1].attribute == proto.graph.node[-1].attribute


def test_every_form_that_onnx_has_is_read() -> None:
    """All ops of the default domain and of ai.onnx.ml, at every opset that has them."""
    unread = [
        (schema.domain, schema.name, schema.since_version)
        for schema in defs.get_all_schemas_with_history()
        if schema.domain in ("", "ai.onnx.ml") and not schema.deprecated
        if schema.name != "Constant"  # read as what it holds
        if reading(schema.name, schema.domain, schema.since_version) is None
    ]
    assert unread == []


def test_every_op_of_the_newest_opset_has_a_meaning() -> None:
    """Computed, or by a body of simpler ops; two were withdrawn, and are others now."""
    kinds = {schema.name for schema in defs.get_all_schemas() if not schema.domain}
    withdrawn = {kind for kind in kinds if spelling(kind, "", LATEST) is None}
    assert {kind: has_changed(kind, 1) for kind in withdrawn} == {
        "Scatter": "ScatterElements",
        "Upsample": "Resize",
    }
    assert len(kinds) >= 203
    without = [
        kind
        for kind in kinds - withdrawn - {"Constant"}
        if (cls := find(kind)) is None
        or not issubclass(cls, Computed)
        or not (issubclass(cls, Composite) or cls.compute is not Computed.compute)
    ]
    assert without == []
