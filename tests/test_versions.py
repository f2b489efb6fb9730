"""Every opset's spelling: read into the newest meaning, and written back as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, checker, defs, parser

from graphopt import reference
from graphopt.errors import TypeMismatch
from graphopt.exporter import choose_opset, to_proto
from graphopt.importer import load
from graphopt.ir import Graph, Header, Parameter
from graphopt.ops import Clip, Constant
from graphopt.ops.opaque import Opaque
from graphopt.ops.registry import find
from graphopt.ops.schema import LATEST
from graphopt.types import DType, tensor
from graphopt.versions import Node, has_changed, read, spelling, turning_points
from graphopt.versions.table import changes_after

Array = np.ndarray[Any, Any]


def model(opset: int, text: str, ir_version: int = 8) -> ModelProto:
    """A model from ``(inputs) => (outputs) {nodes}``."""
    header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>'
    return parser.parse_model(f"{header} main {text}")


def softmax(x: Array, axes: tuple[int, ...]) -> Array:
    powers = np.exp(x - x.max(axes, keepdims=True))
    return powers / powers.sum(axes, keepdims=True)


def clipped(low: float, high: float) -> Callable[[Array], Array]:
    return lambda x: np.clip(x, np.float32(low), np.float32(high))


X = "(float[2, 3, 4] x) => (float[M, N, K] y)"
XB = "(float[2, 3, 4] x, float[3] b) => (float[2, 3, 4] y)"

OLD: dict[str, tuple[int, str, Callable[..., Any]]] = {
    "Squeeze": (
        11,
        "(float[1, 3, 1] x) => (float[3, 1] y) { y = Squeeze <axes=[0]> (x) }",
        lambda x: x[0],
    ),
    "Unsqueeze": (
        1,
        "(float[3] x) => (float[1, 3, 1] y) { y = Unsqueeze <axes=[0, 2]> (x) }",
        lambda x: x[None, :, None],
    ),
    "ReduceSum": (
        11,
        "(float[2, 3] x) => (float[2] y) { y = ReduceSum <axes=[1], keepdims=0> (x) }",
        lambda x: x.sum(1),
    ),
    "ReduceMean": (
        13,
        "(float[2, 3] x) => (float[1, 1] y) { y = ReduceMean (x) }",
        lambda x: x.mean(keepdims=True),
    ),
    "ReduceMax over -1": (
        11,
        "(float[2, 3] x) => (float[2, 1] y) { y = ReduceMax <axes=[-1]> (x) }",
        lambda x: x.max(1, keepdims=True),
    ),
    "Slice": (
        1,
        "(float[4, 5] x) => (float[2, 3] y) "
        "{ y = Slice <axes=[1, 0], ends=[5, 3], starts=[2, 1]> (x) }",
        lambda x: x[1:3, 2:5],
    ),
    "Split sizes": (
        2,
        "(float[5] x) => (float[2] y, float[3] z) { y, z = Split <split=[2, 3]> (x) }",
        lambda x: (x[:2], x[2:]),
    ),
    "Split evenly": (
        13,
        "(float[4] x) => (float[2] y, float[2] z) { y, z = Split (x) }",
        lambda x: (x[:2], x[2:]),
    ),
    "Pad": (
        2,
        "(float[2, 3] x) => (float[3, 5] y) "
        "{ y = Pad <pads=[1, 0, 0, 2], value=1.5> (x) }",
        lambda x: np.pad(x, ((1, 0), (0, 2)), constant_values=1.5),
    ),
    "Pad by paddings": (
        1,
        "(float[2, 3] x) => (float[2, 5] y) "
        '{ y = Pad <mode="reflect", paddings=[0, 1, 0, 1]> (x) }',
        lambda x: np.pad(x, ((0, 0), (1, 1)), mode="reflect"),
    ),
    "Reshape": (
        1,
        "(float[2, 3] x) => (float[3, 2] y) { y = Reshape <shape=[3, -1]> (x) }",
        lambda x: x.reshape(3, 2),
    ),
    "TopK": (
        1,
        "(float[5] x) => (float[2] y, int64[2] i) { y, i = TopK <k=2> (x) }",
        lambda x: (np.sort(x)[:-3:-1], np.argsort(x)[:-3:-1]),
    ),
    "Clip": (
        6,
        f"{X} {{ y = Clip <max=1.0, min=-0.5> (x) }}",
        clipped(-0.5, 1.0),
    ),
    "Clip below": (6, f"{X} {{ y = Clip <min=-0.5> (x) }}", clipped(-0.5, np.inf)),
    "Concat": (
        1,
        "(float[2, 1] x, float[2, 2] b) => (float[2, 3] y) { y = Concat (x, b) }",
        lambda x, b: np.concatenate([x, b], 1),
    ),
    "Cast": (
        1,
        '(float[3] x) => (int64[3] y) { y = Cast <to="INT64"> (x) }',
        lambda x: x.astype(np.int64),
    ),
    "Add alike": (
        6,
        "(float[2, 3] x, float[2, 3] b) => (float[2, 3] y) { y = Add (x, b) }",
        np.add,
    ),
    "Add at the end": (
        6,
        "(float[2, 3] x, float[3] b) => (float[2, 3] y) "
        "{ y = Add <broadcast=1> (x, b) }",
        np.add,
    ),
    "Mul along axis": (
        6,
        f"{XB} {{ y = Mul <axis=1, broadcast=1> (x, b) }}",
        lambda x, b: x * b[:, None],
    ),
    "Sub a constant along axis": (
        6,
        "(float[2, 3, 4] x) => (float[2, 3, 4] y) <float[3] b = {1, 2, 3}> "
        "{ y = Sub <axis=1, broadcast=1> (x, b) }",
        lambda x: x - np.array([[1], [2], [3]], np.float32),
    ),
    "Pow with consumed inputs": (
        1,
        "(float[2, 3] x, float[1] b) => (float[2, 3] y) "
        "{ y = Pow <broadcast=1> (x, b) }",
        lambda x, b: np.abs(x) ** b,
    ),
    "And": (
        1,
        "(bool[2, 2] x, bool[2] b) => (bool[2, 2] y) "
        "{ y = And <axis=0, broadcast=1> (x, b) }",
        lambda x, b: x & b[:, None],
    ),
    "PRelu": (
        6,
        f"{XB} {{ y = PRelu (x, b) }}",
        lambda x, b: np.where(x < 0, x * b[:, None], x),
    ),
    "Gemm": (
        6,
        "(float[2, 3] x, float[3, 4] b, float[4] c) => (float[2, 4] y) "
        "{ y = Gemm <broadcast=1> (x, b, c) }",
        lambda x, b, c: x @ b + c,
    ),
    "Softmax of a matrix": (
        11,
        "(float[2, 3] x) => (float[2, 3] y) { y = Softmax <axis=1> (x) }",
        lambda x: softmax(x, (1,)),
    ),
    "Softmax of a cube": (
        1,
        f"{X} {{ y = Softmax <axis=1> (x) }}",
        lambda x: softmax(x, (1, 2)),
    ),
    "Softmax before unit dims": (
        11,
        "(float[2, 3, 1] x) => (float[2, 3, 1] y) { y = Softmax <axis=1> (x) }",
        lambda x: softmax(x, (1,)),
    ),
    "LogSoftmax of a cube": (
        11,
        f"{X} {{ y = LogSoftmax <axis=0> (x) }}",
        lambda x: np.log(softmax(x, (0, 1, 2))),
    ),
    "BatchNormalization": (
        7,
        "(float[2, 3, 4] x, float[3] s, float[3] b, float[3] m, float[3] v) => "
        "(float[2, 3, 4] y) "
        "{ y = BatchNormalization <epsilon=0.5> (x, s, b, m, v) }",
        lambda x, s, b, m, v: (
            (x - m[:, None]) / np.sqrt(v[:, None] + 0.5) * s[:, None] + b[:, None]
        ),
    ),
    "BatchNormalization in test": (
        6,
        "(float[2, 3] x, float[3] s, float[3] b, float[3] m, float[3] v) => "
        "(float[2, 3] y) "
        "{ y = BatchNormalization <is_test=1> (x, s, b, m, v) }",
        lambda x, s, b, m, v: (x - m) / np.sqrt(v + 1e-5) * s + b,
    ),
    "Dropout": (
        7,
        "(float[2, 3] x) => (float[2, 3] y) { y = Dropout <ratio=0.3> (x) }",
        lambda x: x,
    ),
    "Dropout in test": (
        6,
        "(float[2, 3] x) => (float[2, 3] y) { y = Dropout <is_test=1> (x) }",
        lambda x: x,
    ),
    "Upsample": (
        7,
        "(float[1, 1, 2, 2] x) => (float[1, 1, 4, 6] y) "
        "{ y = Upsample <scales=[1.0, 1.0, 2.0, 3.0]> (x) }",
        lambda x: x.repeat(2, 2).repeat(3, 3),
    ),
    "Upsample by operand": (
        9,
        "(float[1, 1, 2, 2] x) => (float[1, 1, 4, 4] y) "
        '<float[4] s = {1, 1, 2, 2}> { y = Upsample <mode="nearest"> (x, s) }',
        lambda x: x.repeat(2, 2).repeat(2, 3),
    ),
    "Upsample by two": (
        1,
        "(float[1, 1, 2, 2] x) => (float[1, 1, 4, 4] y) "
        "{ y = Upsample <height_scale=2.0, width_scale=2.0> (x) }",
        lambda x: x.repeat(2, 2).repeat(2, 3),
    ),
    "Resize": (
        10,
        "(float[1, 1, 2, 2] x) => (float[1, 1, 4, 4] y) "
        "<float[4] s = {1, 1, 2, 2}> { y = Resize (x, s) }",
        lambda x: x.repeat(2, 2).repeat(2, 3),
    ),
    "Scatter": (
        9,
        "(float[3] x, int64[1] i, float[1] u) => (float[3] y) "
        "{ y = Scatter <axis=0> (x, i, u) }",
        lambda x, i, u: np.array([x[0], u[0], x[2]]),
    ),
    "Selu": (
        1,
        "(float[3] x) => (float[3] y) { y = Selu (x) }",
        lambda x: 1.0507 * np.where(x > 0, x, 1.6732 * (np.exp(x) - 1)),
    ),
    "LpPool": (
        1,
        "(float[1, 1, 4] x) => (float[1, 1, 3] y) "
        "{ y = LpPool <kernel_shape=[2], p=1.0> (x) }",
        lambda x: np.abs(x[..., 1:]) + np.abs(x[..., :-1]),
    ),
    "Tile": (
        1,
        "(float[2, 3] x) => (float[2, 6] y) <float n = {2}, float a = {1}> "
        "{ y = Tile (x, n, a) }",
        lambda x: np.tile(x, (1, 2)),
    ),
    "Flatten from behind": (
        11,
        "(float[2, 3, 4] x) => (float[6, 4] y) { y = Flatten <axis=-1> (x) }",
        lambda x: x.reshape(6, 4),
    ),
}


def inputs(proto: ModelProto) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    made: dict[str, Array] = {}
    for value in proto.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        kind = value.type.tensor_type.elem_type
        if kind == 1:
            made[value.name] = rng.normal(size=shape).astype(np.float32)
        elif kind == 9:
            made[value.name] = rng.random(shape) < 0.5
        else:
            made[value.name] = np.ones(shape, np.int64)
    for name in ("v",):
        if name in made:
            made[name] = np.abs(made[name])
    return made


def named(case: str) -> tuple[ModelProto, dict[str, Array], Callable[..., Any]]:
    opset, text, meaning = OLD[case]
    proto = model(opset, text)
    feeds = inputs(proto)
    if "Pow" in case:
        feeds["x"] = np.abs(feeds["x"])
    return proto, feeds, meaning


@pytest.mark.parametrize("case", OLD)
def test_an_old_form_means_what_its_opset_says(case: str) -> None:
    proto, feeds, meaning = named(case)
    graph = load(proto)
    assert not any(isinstance(op, Opaque) for op in graph.ops)
    expected = meaning(*feeds.values())
    found = list(reference.run(graph, feeds, seed=0).values())
    for mine, theirs in zip(
        found, expected if isinstance(expected, tuple) else (expected,), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", OLD)
def test_an_old_form_is_written_as_it_was(case: str) -> None:
    opset, _, _ = OLD[case]
    proto, _, _ = named(case)
    written = to_proto(load(proto))
    assert [o.version for o in written.opset_import] == [opset]
    (mine,), (source,) = written.graph.node, proto.graph.node
    assert mine.op_type == source.op_type
    assert list(mine.input) == list(source.input)
    assert attributes(mine, opset) == attributes(source, opset)
    checker.check_model(written)


def attributes(node: Any, opset: int) -> dict[str, Any]:
    """With defaults; axes from the front, as they were before opset 11."""
    found = dict(spelling(node.op_type, "", opset).defaults)  # type: ignore[union-attr]
    for attribute in node.attribute:
        values = {f.name: v for f, v in attribute.ListFields()}
        values = {k: v for k, v in values.items() if k not in ("name", "type")}
        found[attribute.name] = next(iter(values.values()), 0)
        if isinstance(found[attribute.name], bytes):
            found[attribute.name] = found[attribute.name].decode()
        elif hasattr(found[attribute.name], "append"):
            found[attribute.name] = list(found[attribute.name])
    return {k: v for k, v in found.items() if k != "consumed_inputs"}


@pytest.mark.runtime
@pytest.mark.parametrize("opset", [11, 13, 18, 21])
@pytest.mark.parametrize("case", OLD)
def test_an_old_form_can_be_modernized(case: str, opset: int) -> None:
    ort = pytest.importorskip("onnxruntime")
    proto, feeds, meaning = named(case)
    if opset < OLD[case][0]:
        pytest.skip("older than the form itself")
    written = to_proto(load(proto), opset=opset)
    checker.check_model(written, full_check=True)
    session = ort.InferenceSession(
        written.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = meaning(*feeds.values())
    for mine, theirs in zip(
        session.run(None, feeds),
        expected if isinstance(expected, tuple) else (expected,),
        strict=True,
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def all_kinds() -> list[tuple[str, int]]:
    return sorted(
        (schema.name, schema.since_version)
        for schema in defs.get_all_schemas_with_history()
        if not schema.domain and not schema.deprecated
    )


def test_every_attribute_that_an_opset_took_away_is_accounted_for() -> None:
    """What an old schema knows and the newest does not, reading must take away."""
    forgotten = []
    for kind, since in all_kinds():
        old = spelling(kind, "", since)
        assert old is not None
        now = has_changed(kind, since) or kind
        newest = spelling(now, "", LATEST)
        cls = find(now)
        if newest is None or cls is None:
            continue
        operands: list[Any] = [PLACEHOLDER] * min(old.max_operands, 5)
        node = Node(kind, operands, dict(old.defaults), (True,))
        try:
            made = read(node, since) if has_changed(kind, since) else node
        except (AttributeError, AssertionError, TypeError, KeyError, TypeMismatch):
            continue  # needs operands of its own; the cases above are for it
        if isinstance(made, Node):
            left = made.attrs.keys() - newest.attributes.keys()
            forgotten += [(kind, since, name) for name in left]
    assert not forgotten


PLACEHOLDER: Any = load(
    model(13, "(float[2, 3, 4] x) => (float[2, 3, 4] x) { }")
).inputs[0]


def test_every_new_attribute_has_a_default_that_changes_nothing() -> None:
    """Schemas that gained an attribute without a change of ours: reviewed by hand."""
    reviewed = {
        "ArgMax.select_last_index",
        "ArgMin.select_last_index",
        "Attention.left_window_size",
        "Attention.right_window_size",
        "AveragePool.ceil_mode",
        "AveragePool.count_include_pad",
        "Cast.round_mode",
        "Cast.saturate",
        "CastLike.round_mode",
        "CastLike.saturate",
        "DepthToSpace.mode",
        "DequantizeLinear.axis",
        "DequantizeLinear.block_size",
        "DequantizeLinear.output_dtype",
        "GRU.layout",
        "GRU.linear_before_reset",
        "GatherND.batch_dims",
        "LSTM.layout",
        "LpPool.ceil_mode",
        "MaxPool.ceil_mode",
        "MaxPool.storage_order",
        "QuantizeLinear.axis",
        "QuantizeLinear.block_size",
        "QuantizeLinear.output_dtype",
        "QuantizeLinear.precision",
        "QuantizeLinear.saturate",
        "RNN.layout",
        "Resize.antialias",
        "Resize.keep_aspect_ratio_policy",
        "Range.stash_type",
        "ScatterElements.reduction",
        "ScatterND.reduction",
        "Shape.start",
        "SpaceToDepth.mode",
        "TopK.largest",
        "TopK.sorted",
    }
    found = set()
    for kind, since in all_kinds():
        points = [p for p in turning_points(kind) if p > since]
        for later in points[:1]:
            old, new = spelling(kind, "", since), spelling(kind, "", later)
            if old is None or new is None:
                continue
            gained = new.defaults.keys() - old.attributes.keys()
            if any(change.since == later for change in changes_after(kind, since)):
                continue
            found |= {f"{kind}.{name}" for name in gained}
    assert found <= reviewed, found - reviewed


def test_what_an_opset_cannot_say_asks_for_the_lowest_that_can() -> None:
    graph = load(
        model(
            13,
            "(float[2, 3] x, int64[N] axes) => (float[M, K] y) "
            "{ z = Relu (x) y = ReduceSum (z, axes) }",
        )
    )
    old = graph.with_header(opsets={"": 9})
    chosen = choose_opset(old)
    assert chosen.version == 13
    assert chosen.forced_by is not None
    assert chosen.forced_by.kind == "ReduceSum"
    assert [o.version for o in to_proto(old).opset_import] == [13]


@pytest.mark.parametrize("opset", [6, 10, 11, 13])
def test_a_clip_without_bounds_had_some_once(opset: int) -> None:
    """Before opset 11 the bounds were the largest float32 where none was given."""
    graph = load(model(opset, "(float[3] x) => (float[3] y) { y = Clip (x) }"))
    x = np.array([-np.inf, 1, np.inf], np.float32)
    largest = np.finfo(np.float32).max if opset < 11 else np.inf
    for each in (graph, load(to_proto(graph))):
        np.testing.assert_array_equal(
            reference.evaluate(each, [x])[0], [-largest, 1, largest]
        )


def test_a_clip_from_one_side_stays_so_in_old_opsets() -> None:
    """What a rule makes for opset 6 has no bound that nobody asked for."""
    x = Parameter(tensor(DType.F32, 3), "x")
    clip = Clip(x, Constant(np.float32(0)))
    graph = Graph([x], [clip], header=Header(opsets={"": 6}, ir_version=7))
    written = load(to_proto(graph))
    assert written.header.opsets[""] == 6
    given = np.array([-1, 1, np.inf], np.float32)
    assert reference.evaluate(written, [given])[0].tolist() == [0, 1, np.inf]
