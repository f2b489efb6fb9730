"""Graphs written as ONNX: the same interface, names, opset and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, checker, helper, parser
from real_models import every_model

from graphopt import reference
from graphopt.errors import InvalidModel, UnsupportedModel
from graphopt.exporter import choose_opset, to_proto
from graphopt.importer import load
from graphopt.ir import Graph, Parameter, Value
from graphopt.ops import Add, Gelu, Identity, Relu, Sigmoid
from graphopt.ops.constant import Constant
from graphopt.types import DType, TensorType, tensor

F32 = TensorProto.FLOAT
RELU = "(float[2] x) => (float[2] y) { y = Relu (x) }"


def model(text: str, *, opset: int = 18, ir_version: int = 8) -> ModelProto:
    header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "me" : 1]>'
    return parser.parse_model(f"{header} main {text}")


def round_trip(text: str, **options: Any) -> ModelProto:
    written = to_proto(load(model(text, **options)))
    checker.check_model(written)
    return written


def kinds(proto: ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def graph_of(*outputs: Value, inputs: tuple[Parameter, ...], **parts: Any) -> Graph:
    return Graph(inputs, outputs, **parts)


def x_of(*shape: int, dtype: DType = DType.F32) -> Parameter:
    return Parameter(TensorType(dtype, shape), "x")


# --- the interface -------------------------------------------------------------------


def test_inputs_and_outputs_are_written_as_they_were() -> None:
    proto = model(
        "(float[N, 3] b, int64[2] unused, seq(float[?]) s) => (float[N, 3] y)"
        "{ y = Relu (b) }"
    )
    proto.graph.input[0].doc_string = "an image"
    dim = proto.graph.input[0].type.tensor_type.shape.dim[0]
    dim.denotation = "DATA_BATCH"
    proto.graph.output[0].doc_string = "a result"
    written = to_proto(load(proto))
    assert list(written.graph.input) == list(proto.graph.input)
    assert list(written.graph.output) == list(proto.graph.output)


@pytest.mark.parametrize("outputs", ["x", "y, x", "y, z", "w", "y, y2, x", "z, w, w2"])
def test_any_value_may_be_an_output(outputs: str) -> None:
    named = ", ".join(f"float[2] {name}" for name in outputs.split(", "))
    proto = model(
        f"(float[2] x) => ({named}) <float[2] w = {{1, 2}}> "
        "{ y = Relu (x) y2 = Relu (x) z = Identity (w) w2 = Identity (x) }"
    )
    written = to_proto(load(proto))
    checker.check_model(written, full_check=True)
    assert [v.name for v in written.graph.output] == outputs.split(", ")
    feeds = {"x": np.array([-1, 3], np.float32)}
    before = reference.run(load(proto), feeds)
    after = reference.run(load(written), feeds)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(
        written.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for array, expected in zip(session.run(None, feeds), before.values(), strict=True):
        np.testing.assert_array_equal(array, expected)


def test_values_that_became_one_keep_both_output_names() -> None:
    x = x_of(2)
    y = Relu(x)
    graph = graph_of(y, y, x, inputs=(x,), output_names=["a", "b", "c"])
    written = to_proto(graph)
    checker.check_model(written)
    assert [v.name for v in written.graph.output] == ["a", "b", "c"]
    assert kinds(written).count("Identity") == 2


def test_initializers_that_may_be_overridden_stay_so() -> None:
    text = "(float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}>"
    written = round_trip(f"{text} {{ y = Mul (x, w) }}")
    assert [v.name for v in written.graph.input] == ["x", "w"]
    assert [t.name for t in written.graph.initializer] == ["w"]


def test_before_ir_4_every_initializer_is_listed_in_the_old_order() -> None:
    text = (
        "(float[2] w, float[2] x, float[2] gone) => (float[2] y) "
        "<float[2] w = {1, 2}, float[2] gone = {1, 2}>"
    )
    written = round_trip(
        f"{text} {{ k = Constant <value = float[2] {{3, 4}}> () "
        "a = Mul (x, w) y = Add (a, k) }",
        ir_version=3,
    )
    assert [v.name for v in written.graph.input] == ["w", "x", "k"]
    assert [t.name for t in written.graph.initializer] == ["w", "k"]
    assert load(written).input_names == ("x",)


# --- what is around ------------------------------------------------------------------


def test_header_and_metadata_are_written() -> None:
    proto = model(
        "(float[2] x) => (float[2] y) { a = me.Thing (x) b = Relu (a) y = Neg (b) }"
    )
    proto.doc_string = "about"
    proto.producer_name, proto.producer_version = "someone", "3"
    proto.domain, proto.model_version = "org", 7
    proto.metadata_props.add(key="k", value="v")
    proto.graph.doc_string = "the graph"
    proto.graph.metadata_props.add(key="g", value="h")
    node = proto.graph.node[1]
    node.name, node.doc_string = "rectify", "from line 3"
    node.ClearField("domain")
    node.metadata_props.add(key="scope", value="block")
    written = to_proto(load(proto))
    for field in (
        "doc_string", "producer_name", "producer_version", "domain", "model_version",
        "metadata_props", "opset_import", "ir_version",
    ):  # fmt: skip
        assert getattr(written, field) == getattr(proto, field), field
    assert written.graph.doc_string == "the graph"
    assert written.graph.metadata_props == proto.graph.metadata_props
    assert written.graph.node[1] == node


def test_training_info_and_annotations_are_kept() -> None:
    proto = model(
        "(float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Mul (x, w) }"
    )
    proto.training_info.add().algorithm.name = "step"
    for name in ("w", "gone"):
        annotation = proto.graph.quantization_annotation.add(tensor_name=name)
        annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    written = to_proto(load(proto))
    assert written.training_info == proto.training_info
    (kept,) = written.graph.quantization_annotation
    assert kept.tensor_name == "w"


def test_a_graph_without_a_source_gets_the_ir_version_of_its_opset() -> None:
    x = x_of(2)
    y = Add(x, Constant(np.ones(2, np.float32)))
    written = to_proto(graph_of(y, inputs=(x,)))
    assert written.opset_import[0].version == 28
    assert written.ir_version >= 13
    assert [v.name for v in written.graph.input] == ["x"]
    checker.check_model(written)


def test_the_oldest_files_have_no_opset() -> None:
    proto = model("(float[2] x) => (float[2] y) { y = Relu (x) }", opset=1)
    del proto.opset_import[:]
    proto.ir_version = 2
    graph = load(proto)
    assert [op.kind for op in graph.ops] == ["Relu"]
    written = to_proto(graph)
    assert written.ir_version == 2
    assert not written.opset_import


def test_names_are_kept_where_they_are_unique() -> None:
    written = round_trip(
        "(float[2] x) => (float[2] y) <float[2] w = {1, 2}> "
        "{ a = Relu (x) b = Mul (a, w) y = Neg (b) }"
    )
    assert [list(node.output) for node in written.graph.node] == [["a"], ["b"], ["y"]]
    assert written.graph.initializer[0].name == "w"


def test_fresh_names_avoid_those_that_are_there() -> None:
    x = Parameter(tensor(DType.F32, 2), "Relu_0")
    y = Add(Relu(x), Constant(np.ones(2, np.float32)))
    graph = graph_of(y, inputs=(x,), output_names=["constant"])
    written = to_proto(graph)
    checker.check_model(written)
    assert len({written.graph.node[0].output[0], "Relu_0", "constant"}) == 3


def test_bytes_are_the_same_every_time() -> None:
    text = "(float[2] x) => (float[2] y) { a = Elu <alpha = 2.0> (x) y = Neg (a) }"
    first, again = (round_trip(text).SerializeToString() for _ in range(2))
    assert first == again


def test_defaults_are_not_written() -> None:
    written = round_trip("(float[2] x) => (float[2] y) { y = Elu <alpha = 1.0> (x) }")
    assert not written.graph.node[0].attribute


def test_results_that_nobody_reads_are_not_named() -> None:
    written = round_trip(
        "(float[2, 3] x, float[3] s) => (float[2, 1] d) "
        "{ y, m, d = LayerNormalization (x, s) }"
    )
    (node,) = written.graph.node
    assert list(node.output) == [node.output[0], "", "d"]


# --- bodies --------------------------------------------------------------------------

NESTED = """(bool c, float[2] x) => (float[2] y) {
    a = Abs (x)
    y = If (c) <
        then_branch = t () => (float[2] r) {
            k = Constant <value = float[2] {1, 2}> ()
            s = Add (a, k)
            r = If (c) <
                then_branch = t2 () => (float[2] q) { s2 = Mul (s, k)
                                                      q = Neg (s2) },
                else_branch = e2 () => (float[2] q) { q = Identity (x) }
            >
        },
        else_branch = e () => (float[2] r) { s = Sub (a, x) r = Relu (s) }
    >
}"""


def names_of(proto: ModelProto) -> list[str]:
    """Names given to values, body by body, outer ones first."""
    pending, names = [proto.graph], [t.name for t in proto.graph.initializer]
    while pending:
        graph = pending.pop()
        names += [v.name for v in graph.input]
        for node in graph.node:
            names += list(node.output)
            pending += [a.g for a in node.attribute if a.HasField("g")]
    return names


def test_bodies_read_the_names_around_them() -> None:
    written = round_trip(NESTED)
    assert len(written.graph.initializer) == 1
    names = names_of(written)
    # Bodies side by side may share names, but nothing shadows: x, a, y are single.
    assert [names.count(name) for name in ("x", "a", "y", "k")] == [1, 1, 1, 1]
    for c in (True, False):
        feeds = {"c": np.array(c), "x": np.array([-1, 2], np.float32)}
        before = reference.run(load(model(NESTED)), feeds)["y"]
        np.testing.assert_array_equal(reference.run(load(written), feeds)["y"], before)


def test_body_outputs_are_computed_in_the_body() -> None:
    written = round_trip("""(bool c, float[1] a) => (float[1] y) <float[1] w = {4}> {
        y = If (c) < then_branch = t () => (float[1] w) { },
                     else_branch = e () => (float[1] a) { } >
    }""")
    for attribute in written.graph.node[0].attribute:
        (node,) = attribute.g.node
        assert node.op_type == "Identity"


def test_formal_names_and_order_of_a_loop_are_kept() -> None:
    text = """(int64 n, float[2] x) => (float[2] last, float[K, 2] rows) {
        t = Constant <value = bool {1}> ()
        last, rows = Loop (n, t, x) <
            body = b (int64 i, bool go, float[2] v)
                   => (bool going, float[2] w, float[2] r) {
                going = Identity (go) w = Add (v, x) f = Cast <to = 1> (i)
                r = Add (w, f)
            }
        >
    }"""
    body = round_trip(text).graph.node[0].attribute[0].g
    assert [v.name for v in body.input] == ["i", "go", "v"]
    assert [v.name for v in body.output] == ["going", "w", "r"]


def test_names_in_opaque_bodies_are_nobody_elses() -> None:
    proto = model("""(float[2] x) => (float[2] y) {
        a = Abs (x)
        z = me.Maybe (x) < body = b () => (float[2] r) { inner = Neg (a)
                                                         r = Relu (inner) } >
        y = Neg (z)
    }""")
    graph = load(proto)
    abs_ = next(op for op in graph.ops if op.kind == "Abs")
    renamed = graph.replace(names={**graph.names, abs_: "inner"})
    written = to_proto(renamed)
    outer = written.graph.node[0].output[0]
    body = written.graph.node[1].attribute[0].g
    assert outer not in ("inner", "r")
    assert body.node[0].input[0] == outer
    assert body.node[0].output[0] == "inner"


# --- opaque ops ----------------------------------------------------------------------


def test_foreign_nodes_are_written_as_they_were() -> None:
    proto = model(
        "(float[2] x) => (float[2] y) { a, b = me.Thing <k = 2> (x, , x) y = Relu (b) }"
    )
    proto.graph.node[0].name = "thing"
    proto.graph.value_info.append(helper.make_tensor_value_info("b", F32, [2]))
    written = to_proto(load(proto))
    assert written.graph.node[0] == proto.graph.node[0]
    assert list(written.graph.value_info) == list(proto.graph.value_info)


def test_functions_that_opaque_bodies_call_are_kept() -> None:
    proto = model("""(float[2] x) => (float[2] y) {
        y = me.Maybe (x) < body = b () => (float[2] r) { r = me.f (x) } >
    }
    <domain: "me", opset_import: ["" : 18]> f (a) => (b) { b = Neg (a) }""")
    assert to_proto(load(proto)).functions == proto.functions
    unused = model(
        RELU + '<domain: "me", opset_import: ["" : 18]> f (a) => (b) { b = Neg (a) }'
    )
    assert not to_proto(load(unused)).functions


# --- opsets --------------------------------------------------------------------------


def gelu() -> Graph:
    x = x_of(2)
    header = load(model(RELU, opset=13)).header
    y = Gelu(x)
    return Graph((x,), (y,), header=header, sources={y: ("the_gelu",)})


def test_the_lowest_opset_that_says_every_op() -> None:
    chosen = choose_opset(gelu())
    assert chosen.version == 20
    assert chosen.forced_by is not None
    assert chosen.forced_by.kind == "Gelu"
    written = to_proto(gelu())
    assert kinds(written) == ["Gelu"]
    assert written.opset_import[0].version == 20
    assert written.ir_version == 9  # that opset 20 came with
    checker.check_model(written)


def test_what_a_kept_opset_cannot_say_is_spelled_out() -> None:
    written = to_proto(gelu(), opset="keep")
    checker.check_model(written, full_check=True)
    assert written.opset_import[0].version == 13
    assert "Erf" in kinds(written)
    x = np.array([-1, 2], np.float32)
    np.testing.assert_allclose(
        reference.run(load(written), {"x": x})["output_0"],
        reference.run(gelu(), {"x": x})["output_0"],
        rtol=1e-6,
    )


def test_what_no_body_can_say_is_refused_by_name() -> None:
    text = "(float[2] x, int64[1] axes) => (float[K] y) { y = ReduceSum (x, axes) }"
    graph = load(model(text, opset=13))
    graph = graph.replace(sources={graph.outputs[0]: ("my_sum",)})
    with pytest.raises(UnsupportedModel, match="opset 12 cannot say ReduceSum") as e:
        to_proto(graph, opset=12)
    assert e.value.where == "my_sum"


def test_latest() -> None:
    written = to_proto(load(model(RELU, opset=9)), opset="latest")
    assert written.opset_import[0].version == 28
    assert written.ir_version >= 8


def test_opaque_standard_ops_pin_the_opset() -> None:
    proto = model(
        "(float[2] x) => (float[2] a, float[2] y) "
        "{ a = Relu <speed = 9> (x) y = Neg (x) }",
        opset=13,
    )
    graph = load(proto)
    with pytest.raises(UnsupportedModel, match="Relu is kept as it is written") as e:
        to_proto(graph, opset=14)
    assert e.value.where == "Relu_0"
    changed = graph.replace(outputs=[graph.outputs[0], Gelu(graph.inputs[0])])
    written = to_proto(changed)
    assert written.opset_import[0].version == 13
    assert "Erf" in kinds(written)


def test_domains_of_new_ops_are_imported() -> None:
    proto = to_proto(load(model(RELU)))
    assert {o.domain: o.version for o in proto.opset_import} == {"": 18, "me": 1}


def test_a_model_without_the_default_domain_stays_without() -> None:
    proto = model("(float[2] x) => (float[2] y) { y = me.Thing (x) }")
    del proto.opset_import[0]
    assert to_proto(load(proto)).opset_import == proto.opset_import


def test_element_types_ask_for_their_ir_version() -> None:
    x = x_of(2, dtype=DType.I4)
    graph = graph_of(Identity(x), inputs=(x,))
    assert to_proto(graph).ir_version >= 10


# --- whole models --------------------------------------------------------------------


@every_model()
def test_real_models_survive(path: Path, tmp_path: Path) -> None:
    try:
        graph = load(path)
    except (InvalidModel, UnsupportedModel):
        return
    written = to_proto(graph)
    source = ModelProto.FromString(path.read_bytes())
    listed = {t.name for t in source.graph.initializer if source.ir_version < 4}
    assert [v for v in written.graph.input if v.name in graph.input_names] == [
        v for v in source.graph.input if v.name not in listed
    ]
    assert written.graph.output == source.graph.output
    assert {o.version for o in written.opset_import} == {
        o.version for o in source.opset_import
    }
    assert written.ir_version == source.ir_version
    again = load(written)
    assert [op.kind for op in again.ops] == [op.kind for op in graph.ops]
    assert to_proto(again).SerializeToString() == written.SerializeToString()


def test_nodes_stand_in_the_order_of_the_source() -> None:
    """Whoever wrote the file may have had reasons; new ones come before their users."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4] x) => (float[N, 4] y)
        { a = Relu (x)  b = Exp (x)  c = Tanh (x)  d = Neg (c)  e = Add (d, b)
          y = Add (e, a) }"""
    proto = parser.parse_model(text)
    for i, node in enumerate(proto.graph.node):
        node.name = f"n{i}"
    graph = load(proto)
    assert [op.kind for op in graph.ops][:3] != ["Relu", "Exp", "Tanh"]
    written = [node.op_type for node in to_proto(graph).graph.node]
    assert written == ["Relu", "Exp", "Tanh", "Neg", "Add", "Add"]
    new = Add(Sigmoid(graph.inputs[0]), graph.outputs[0])
    changed = graph.replace(outputs=[new])
    kinds = [node.op_type for node in to_proto(changed).graph.node]
    assert kinds[:3] == ["Relu", "Exp", "Tanh"]
    assert kinds.index("Sigmoid") >= 4
