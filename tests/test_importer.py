"""ONNX's many ways of writing a model, read into one meaning."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import (
    AttributeProto,
    ModelProto,
    TensorProto,
    helper,
    numpy_helper,
    parser,
)
from real_models import every_model

from graphopt import reference
from graphopt.dims import symbol
from graphopt.errors import InvalidModel, UnsupportedModel
from graphopt.importer import load
from graphopt.ir import Graph, Op, Value
from graphopt.ops import Relu
from graphopt.ops.constant import Constant
from graphopt.ops.opaque import Opaque
from graphopt.types import DType, SequenceType, TensorType, UnknownType, tensor
from graphopt.verify import verify

F32 = TensorProto.FLOAT


def model(text: str, *, opset: int = 18, ir_version: int = 8) -> ModelProto:
    """A model from ``(inputs) => (outputs) {nodes}`` and functions after it."""
    header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "me" : 1]>'
    return parser.parse_model(f"{header} main {text}")


def kinds(graph: Graph) -> list[str]:
    return [op.kind for op in graph.ops if not isinstance(op, Constant)]


def run(graph: Graph, **inputs: Any) -> list[Any]:
    arrays = {k: np.asarray(v, np.float32) for k, v in inputs.items()}
    return list(reference.run(graph, arrays, seed=0).values())


def only(graph: Graph, kind: type[Op]) -> Any:
    (found,) = [op for op in graph.ops if isinstance(op, kind)]
    return found


# --- the interface -------------------------------------------------------------------


def test_inputs_and_outputs_keep_names_order_and_types() -> None:
    graph = load(
        model(
            "(float[N, 3] b, int64[2] unused, float[N, 3] a) => (float[N, 3] y)"
            "{ y = Add (a, b) }"
        )
    )
    assert graph.input_names == ("b", "unused", "a")
    assert graph.inputs[0].type == tensor(DType.F32, symbol("N"), 3)
    assert graph.output_names == ("y",)
    assert graph.output_types == (tensor(DType.F32, symbol("N"), 3),)


def test_types_of_any_kind_are_read() -> None:
    graph = load(
        model(
            "(seq(float[?, 3]) s, float[] x, optional(float[2]) o) => (float[2] y)"
            "{ y = OptionalGetElement (o) }"
        )
    )
    sequence, unranked, _ = graph.inputs
    assert sequence.type == SequenceType(tensor(DType.F32, None, 3))
    assert unranked.type == TensorType(DType.F32)


@pytest.mark.parametrize("ir_version", [3, 4])
def test_before_ir_4_initializers_that_are_inputs_are_constant(
    ir_version: int,
) -> None:
    text = "(float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}>"
    proto = model(f"{text} {{ y = Mul (x, w) }}", ir_version=ir_version)
    graph = load(proto)
    if ir_version < 4:
        assert graph.input_names == ("x",)
        assert isinstance(graph.outputs[0].op.operands[1], Constant)
    else:
        assert graph.input_names == ("x", "w")
        default = graph.inputs[1].default
        assert default is not None
        assert default.array().tolist() == [1, 2]


def test_a_sparse_initializer_is_spelled_out() -> None:
    proto = model("(float[2, 3] x) => (float[2, 3] y) { y = Mul (x, w) }")
    proto.graph.sparse_initializer.add(
        values=numpy_helper.from_array(np.array([5], np.float32), "w"),
        indices=numpy_helper.from_array(np.array([4], np.int64)),
        dims=[2, 3],
    )
    weight = load(proto).outputs[0].op.operands[1].constant
    assert weight.array().tolist() == [[0, 0, 0], [0, 5, 0]]


def test_every_way_of_writing_a_constant() -> None:
    proto = model("() => (float y) { }")
    values = {
        "value_float": 1.5,
        "value_floats": [1.0, 2.0],
        "value_int": 3,
        "value_ints": [],
        "value_string": "a",
        "value_strings": ["a", "b"],
        "value": numpy_helper.from_array(np.eye(2)),
    }
    del proto.graph.output[:]
    for name, value in values.items():
        node = proto.graph.node.add(op_type="Constant", output=[name])
        if value == []:
            node.attribute.add(name=name, type=AttributeProto.INTS)
        else:
            node.attribute.append(helper.make_attribute(name, value))
        proto.graph.output.add(name=name)
    found = [str(value.type) for value in load(proto).outputs]
    assert found == [
        "f32[]", "f32[2]", "i64[]", "i64[0]", "string[]", "string[2]", "f64[2, 2]",
    ]  # fmt: skip


def test_header_and_metadata_are_kept() -> None:
    proto = model("(float[2] x) => (float[2] y) { y = Relu (x) }")
    proto.doc_string = "about"
    proto.producer_name, proto.producer_version = "someone", "3"
    proto.metadata_props.add(key="k", value="v")
    header = load(proto).header
    assert header.doc == "about"
    assert header.producer == ("someone", "3")
    assert header.metadata == {"k": "v"}
    assert header.opsets == {"": 18, "me": 1}


def test_the_default_domain_has_two_names() -> None:
    proto = model("(float[2] x) => (float[2] y) { y = Relu (x) }")
    proto.opset_import[0].domain = "ai.onnx"
    proto.graph.node[0].domain = "ai.onnx"
    graph = load(proto)
    assert kinds(graph) == ["Relu"]
    assert graph.header.opsets[""] == 18


def test_without_an_opset_nodes_are_kept_as_they_are() -> None:
    proto = model("(float[2] x) => (float[2] y) { y = Relu (x) }")
    del proto.opset_import[0]
    assert kinds(load(proto)) == ["Opaque"]


def test_names_and_sources_say_where_ops_come_from() -> None:
    proto = model(
        "(float[2] x) => (float[2] y) { a = Relu (x) b = Relu (x) y = Add (a, b) }"
    )
    proto.graph.node[0].name = "first"
    graph = load(proto)
    relu = only(graph, Relu)
    assert graph.names[relu] == "a"
    assert graph.sources[relu] == ("first", "Relu_1")


def test_the_collector_is_left_as_it_was() -> None:
    assert gc.isenabled()
    load(model("(float[2] x) => (float[2] y) { y = Relu (x) }"))
    assert gc.isenabled()
    with pytest.raises(InvalidModel):
        load(model("(float[2] x) => (float[2] y) { y = Relu (z) }"))
    assert gc.isenabled()


def test_nodes_may_stand_in_any_order() -> None:
    graph = load(
        model("(float[2] x) => (float[2] y) { y = Relu (b) b = Neg (a) a = Abs (x) }")
    )
    assert kinds(graph) == ["Abs", "Neg", "Relu"]


def test_external_weights_are_not_read(tmp_path: Path) -> None:
    proto = model("(float[N] x) => (float[N] y) { y = Mul (x, w) }")
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(1 << 33)  # a hole: reading it all would take long
    weight = proto.graph.initializer.add(name="w", data_type=F32, dims=[1 << 31])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="w.bin")
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    tensor_ = load(path).outputs[0].op.operands[1].constant
    assert tensor_.location.length == 1 << 33
    with pytest.raises(InvalidModel, match="not loaded from a folder"):
        load(proto)


# --- functions -----------------------------------------------------------------------


def test_functions_are_read_in_place() -> None:
    graph = load(
        model("""(float[2] x) => (float[2] y) { y = me.twice <k = 3.0> (x) }
        <domain: "me", opset_import: ["" : 18, "me" : 1]>
        twice <k> (a) => (b) { c = me.scaled <by: float = @k> (a) b = Add (c, c) }
        <domain: "me", opset_import: ["" : 18]>
        scaled <by> (a) => (b) { s = Constant <value_float: float = @by> ()
                                 b = Mul (a, s) }""")
    )
    assert kinds(graph) == ["Mul", "Add"]
    assert run(graph, x=[1, 2])[0].tolist() == [6, 12]
    (mul, _) = (op for op in graph.ops if not isinstance(op, Constant))
    (source,) = graph.sources[mul]
    assert source.endswith("/Mul_1")


def test_a_function_has_its_own_opset() -> None:
    graph = load(
        model("""(float[2, 3] x) => (float[2, 3] y) { y = me.f (x) }
        <domain: "me", opset_import: ["" : 11]>
        f (a) => (b) { c = ReduceSum <axes = [1]> (a) b = Div (a, c) }""")
    )
    assert kinds(graph) == ["ReduceSum", "Div"]
    assert only(graph, type(graph.ops[1])).operands[1].ints == (1,)


def test_attributes_and_inputs_of_a_call_may_be_left_out() -> None:
    graph = load(
        model("""(float[2] x) => (float[2] y) { y = me.f (x) }
        <domain: "me", opset_import: ["" : 18]>
        f <beta: float = 0.5> (a, low) => (b) {
            c = Elu <alpha: float = @beta> (a)
            b = Clip (c, low)
        }""")
    )
    elu, clip = (op for op in graph.ops if not isinstance(op, Constant))
    assert elu.alpha == 0.5
    assert len(clip.operands) == 1


def test_functions_of_one_name_differ_by_overload() -> None:
    proto = model("""(float[2] x) => (float[2] y) { y = me.f (x) }
        <domain: "me", opset_import: ["" : 18]> f (a) => (b) { b = Neg (a) }
        <domain: "me", opset_import: ["" : 18]> f (a) => (b) { b = Abs (a) }""")
    proto.functions[1].overload = "other"
    assert kinds(load(proto)) == ["Neg"]
    proto.graph.node[0].overload = "other"
    assert kinds(load(proto)) == ["Abs"]


def test_a_function_goes_before_a_standard_op() -> None:
    graph = load(
        model("""(float[2] x) => (float[2] y) { y = Relu (x) }
        <domain: "", opset_import: ["" : 18]> Relu (a) => (b) { b = Neg (a) }""")
    )
    assert kinds(graph) == ["Neg"]


# --- what is not modelled ------------------------------------------------------------


def opaque(graph: Graph) -> Opaque:
    found: Opaque = only(graph, Opaque)
    return found


def test_a_foreign_op_is_kept_with_its_stated_types() -> None:
    proto = model(
        "(float[2] x) => (float[2] y) { a, b = me.Thing <k = 2> (x, , x) y = Relu (b) }"
    )
    proto.graph.value_info.append(helper.make_tensor_value_info("b", F32, [2]))
    thing = opaque(load(proto))
    assert thing.operands[1] is None
    assert [type(t) for t in thing.types] == [UnknownType, TensorType]
    assert thing.node.attribute[0].i == 2


def test_bodies_of_a_foreign_op_capture_too() -> None:
    graph = load(
        model("""(float[2] x) => (float[2] y) {
            a = Abs (x)
            y = me.Maybe (x) < body = b () => (float[2] r) { r = Neg (a) } >
        }""")
    )
    thing = opaque(graph)
    assert thing.captures == ("a",)
    assert [v.op and v.op.kind for v in thing.operands if v] == [None, "Abs"]


def test_foreign_and_random_ops_are_never_merged() -> None:
    graph = load(
        model("""(float[2] x) => (float[2] y) {
            a = me.Thing (x)  b = me.Thing (x)
            c = RandomNormalLike (x)  d = RandomNormalLike (x)
            e = Sum (a, b, c, d)  y = Relu (e)
        }""")
    )
    assert kinds(graph).count("Opaque") == 2
    assert kinds(graph).count("RandomNormalLike") == 2


def test_an_attribute_that_no_schema_knows_makes_a_node_opaque() -> None:
    proto = model("(float[2] x) => (float[2] y) { y = Relu <speed = 9> (x) }")
    assert kinds(load(proto)) == ["Opaque"]


def test_an_opset_from_the_future_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="newer"):
        load(model("(float[2] x) => (float[2] y) { y = Relu (x) }", opset=29))


@every_model()
def test_real_models_are_read_or_refused_with_a_reason(path: Path) -> None:
    refusal, graph = None, None
    try:
        graph = load(path)
    except (InvalidModel, UnsupportedModel) as error:
        refusal = error
    if graph is None:
        assert refusal is not None
        assert refusal.where
        return
    verify(graph)
    values: set[Value] = {r for op in graph.ops for r in op.results}
    assert {op for op in graph.ops if not isinstance(op, Constant)} <= set(
        graph.sources
    )
    assert all(isinstance(graph.names.get(v, ""), str) for v in values)


def test_a_sparse_initializer_can_be_the_default_of_an_input() -> None:
    proto = model("(float[2] x, float[2] w) => (float[2] y) { y = Mul (x, w) }")
    proto.graph.sparse_initializer.add(
        values=numpy_helper.from_array(np.array([5], np.float32), "w"),
        indices=numpy_helper.from_array(np.array([1], np.int64)),
        dims=[2],
    )
    default = load(proto).inputs[1].default
    assert default is not None
    assert default.array().tolist() == [0, 5]
