"""Models that break ONNX's promises: refused with a reason that names the place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper, parser

from graphopt.errors import InvalidModel, UnsupportedModel
from graphopt.importer import load

F32 = TensorProto.FLOAT


def model(
    text: str = "(float[2] x) => (float[2] y) { y = Mul (x, w) }",
    weight: TensorProto | None = None,
) -> ModelProto:
    proto = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18, "me" : 1]> main {text}'
    )
    if weight is not None:
        proto.graph.initializer.append(weight)
    return proto


def refused(proto: ModelProto | bytes | Path, message: str, where: str = "") -> None:
    with pytest.raises((InvalidModel, UnsupportedModel), match=message) as caught:
        load(proto)
    assert caught.value.exit_code == 3
    assert where in (caught.value.where or "")


RELU = "(float[2] x) => (float[2] y) { y = Relu (x) }"


# --- files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"\x08\x08", bytes(100), b"\x3a\xff\xff\xff\xff\x0f"],
    ids=["empty", "text", "no graph", "zeros", "length past the end"],
)
def test_not_a_model(data: bytes) -> None:
    refused(data, "not an ONNX model")


def test_every_truncation_is_refused_or_read(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones(2, np.float32), "w")
    data = model(weight=weight).SerializeToString()
    for end in range(len(data)):
        try:
            load(data[:end])
        except (InvalidModel, UnsupportedModel):
            continue


def test_flipped_bytes_never_end_in_a_traceback() -> None:
    data = bytearray(
        model(
            """(bool c, float[2] x) => (float[2] y) {
            z = ReduceSum <keepdims = 1> (x)
            y = If (c) < then_branch = t () => (float[2] r) { r = Add (x, z) },
                         else_branch = e () => (float[2] r) { r = me.f (x) } >
        }
        <domain: "me", opset_import: ["" : 18]> f (a) => (b) { b = Neg (a) }"""
        ).SerializeToString()
    )
    rng = np.random.default_rng(0)
    for _ in range(1500):
        mutant = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            mutant[place] = rng.integers(0, 256)
        try:
            load(bytes(mutant))
        except (InvalidModel, UnsupportedModel):
            continue


# --- tensors -------------------------------------------------------------------------


def tensor(**fields: object) -> TensorProto:
    return TensorProto(**{"name": "w", "data_type": F32, "dims": [2], **fields})  # type: ignore[arg-type]


TENSORS: dict[str, tuple[TensorProto, str]] = {
    "negative dim": (tensor(dims=[-2]), "negative dim"),
    "dims that overflow": (tensor(dims=[1 << 62, 8]), "claim over"),
    "a little too much": (tensor(dims=[1 << 40]), "claim over"),
    "zero hides the rest": (tensor(dims=[0, 1 << 62, 8]), "claim over"),
    "short raw data": (tensor(raw_data=b"1234"), "4 bytes"),
    "long raw data": (tensor(raw_data=bytes(12)), "12 bytes"),
    "no data": (tensor(), "no data"),
    "two fields": (tensor(raw_data=bytes(8), float_data=[1, 2]), "both"),
    "wrong field": (tensor(int64_data=[1, 2]), "cannot lie in"),
    "unknown type": (tensor(data_type=99, raw_data=bytes(8)), "element type 99"),
    "no type": (tensor(data_type=0, raw_data=bytes(8)), "element type 0"),
    "many axes": (tensor(dims=[1] * 100, raw_data=bytes(4)), "axes"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_a_broken_tensor(case: str) -> None:
    weight, message = TENSORS[case]
    refused(model(weight=weight), message, "'w'")
    proto = model("(float[2] x) => (float[2] y) { y = Mul (x, w) }")
    node = proto.graph.node.add(op_type="Constant", output=["w"], name="weight")
    attribute = node.attribute.add(name="value", type=AttributeProto.TENSOR)
    attribute.t.CopyFrom(weight)
    refused(proto, message, "weight")


def external(**entries: object) -> TensorProto:
    weight = tensor(data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        weight.external_data.add(key=key, value=str(value))
    return weight


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../w.bin"}, "leaves the model's folder"),
        ({"location": "sub/../../w.bin"}, "leaves the model's folder"),
        ({"location": "/etc/hostname"}, "relative"),
        ({"location": "nowhere.bin"}, "not found"),
        ({"location": "link.bin"}, "link"),
        ({"location": "hard.bin"}, "hard links"),
        ({"location": "folder/w.bin"}, "link"),
        ({"location": "pipe"}, "not a regular file"),
        ({"location": "w.bin", "offset": -4}, "offset"),
        ({"location": "w.bin", "offset": 4}, "has 8 bytes"),
        ({"location": "w.bin", "offset": 1 << 62}, "offset"),
        ({"location": "w.bin", "length": 4}, "4 bytes"),
        ({"location": "w.bin", "__class__": "x"}, "unknown external data key"),
        ({}, "without a location"),
    ],
)
def test_external_data_that_is_not_safe(
    tmp_path: Path, entries: dict[str, object], message: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for folder in (tmp_path, home):
        (folder / "w.bin").write_bytes(bytes(8))
    (home / "link.bin").symlink_to(tmp_path / "w.bin")
    os.link(tmp_path / "w.bin", home / "hard.bin")
    (home / "folder").symlink_to(tmp_path)
    os.mkfifo(home / "pipe")
    path = home / "m.onnx"
    path.write_bytes(model(weight=external(**entries)).SerializeToString())
    refused(path, message, "'w'")


def test_an_initializer_must_be_what_its_input_says() -> None:
    text = "(float[2] x, int64[2] w) => (float[2] y) { y = Mul (x, w) }"
    weight = numpy_helper.from_array(np.ones(2, np.float32), "w")
    refused(model(text, weight), "stated as i64", "'w'")
    refused(model(text.replace("int64[2]", "float[3]"), weight), r"f32\[3\]", "'w'")


# --- names ---------------------------------------------------------------------------

GRAPHS: dict[str, tuple[str, str, str]] = {
    "nothing produces an operand": (
        "(float[2] x) => (float[2] y) { y = Add (x, z) }",
        "reads 'z'",
        "Add node 'y'",
    ),
    "nothing produces an output": (
        "(float[2] x) => (float[2] y) { z = Relu (x) }",
        "nothing produces",
        "'y'",
    ),
    "produced twice": (
        "(float[2] x) => (float[2] y) { y = Relu (x) y = Neg (x) }",
        "produced twice",
        "Neg node 'y'",
    ),
    "twice by one node": (
        "(float[2] x) => (float[1] y) { y, y = Split <num_outputs = 2> (x) }",
        "produced twice",
        "Split",
    ),
    "an input is produced": (
        "(float[2] x) => (float[2] x) { x = Relu (x) }",
        "produced twice",
        "Relu",
    ),
    "two inputs of a name": (
        "(float[2] x, float[2] x) => (float[2] y) { y = Relu (x) }",
        "two graph inputs",
        "x",
    ),
    "a cycle": (
        "(float[2] x) => (float[2] y) { a = Add (x, y) b = Relu (a) y = Neg (b) }",
        "depends on its own result",
        "node",
    ),
    "a node that reads itself": (
        "(float[2] x) => (float[2] y) { y = Add (x, y) }",
        "depends on its own result",
        "Add node 'y'",
    ),
    "a cycle through a body": (
        """(bool c, float[2] x) => (float[2] y) {
            y = If (c) < then_branch = t () => (float[2] r) { r = Neg (y) },
                         else_branch = e () => (float[2] r) { r = Neg (x) } > }""",
        "depends on its own result",
        "If node 'y'",
    ),
    "a body reads what is not there": (
        """(bool c, float[2] x) => (float[2] y) {
            y = If (c) < then_branch = t () => (float[2] r) { r = Neg (q) },
                         else_branch = e () => (float[2] r) { r = Neg (x) } > }""",
        "reads 'q'",
        "Neg node 'r'",
    ),
    "branches disagree": (
        """(bool c, float[2] x) => (float[2] y) {
            y = If (c) < then_branch = t () => (float[2] r) { r = Neg (x) },
                         else_branch = e () => (int64[2] r) { r = Shape (x) } > }""",
        "branches give",
        "If node 'y'",
    ),
    "a loop without its inputs": (
        """(float[2] x) => (float[2] y) {
            y = Loop (, , x) < body = b (int64 i) => (bool g) { g = Not (g0) } > }""",
        "inputs, is given",
        "Loop node 'y'",
    ),
    "operands clash": (
        "(float[2] x, float[3] z) => (float[2] y) { y = Add (x, z) }",
        "Add",
        "Add node 'y'",
    ),
    "element types clash": (
        "(float[2] x, int64[2] z) => (float[2] y) { y = Add (x, z) w = Relu (x) }",
        "",
        "",
    ),
    "too many inputs": (
        "(float[2] x) => (float[2] y) { y = Relu (x, x) }",
        "2 inputs, takes 1 to 1",
        "Relu node 'y'",
    ),
    "an input is missing": (
        "(float[2] x) => (float[2] y) { y = Add (x, ) }",
        "missing|inputs",
        "Add node 'y'",
    ),
    "too many outputs": (
        "(float[2] x) => (float[2] y) { y, z = Relu (x) }",
        "2 outputs, has at most 1",
        "Relu node 'y'",
    ),
    "an attribute of the wrong type": (
        "(float[2] x) => (float[2] y) { y = Softmax <axis = 1.0> (x) }",
        "must be INT, is FLOAT",
        "Softmax node 'y'",
    ),
    "a required attribute is missing": (
        "(float[2] x) => (float[2] y) { y = Concat (x) }",
        "'axis' is missing",
        "Concat node 'y'",
    ),
    "a reference outside of a function": (
        "(float[2] x) => (float[2] y) { y = Elu <alpha: float = @a> (x) }",
        "in none",
        "Elu node 'y'",
    ),
    "a body where a number belongs": (
        """(float[2] x) => (float[2] y) {
            y = Softmax (x) < axis = b () => (float[2] r) { r = Neg (x) } > }""",
        "must be INT, is GRAPH",
        "Softmax",
    ),
    "the output is of another type": (
        "(float[2] x) => (int64[2] y) { y = Relu (x) }",
        "stated as i64",
        "'y'",
    ),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_a_broken_graph(case: str) -> None:
    text, message, where = GRAPHS[case]
    if not message:
        pytest.skip("the runtime's business: ONNX's types are checked by the verifier")
    refused(model(text), message, where)


def test_two_initializers_of_a_name() -> None:
    proto = model()
    for _ in range(2):
        proto.graph.initializer.append(
            numpy_helper.from_array(np.ones(2, np.float32), "w")
        )
    refused(proto, "two initializers", "'w'")


def test_names_that_are_not_utf8() -> None:
    data = model(RELU).SerializeToString().replace(b"Relu", b"\xff\xfelu")
    refused(data, "UTF-8|not an ONNX model")
    data = model("(float[2] abcd) => (float[2] y) { y = Relu (abcd) }")
    refused(
        data.SerializeToString().replace(b"abcd", b"\xff\xfe\xff\xfe"),
        "UTF-8|not an ONNX model",
    )


def test_negative_dims_of_values() -> None:
    proto = model(RELU)
    dim = proto.graph.input[0].type.tensor_type.shape.dim[0]
    dim.dim_value = -7
    refused(proto, "negative dim -7", "'x'")
    dim.dim_value = -1  # how some exporters write "unknown"
    assert load(proto).inputs[0].shape == (None,)


# --- functions and nesting -----------------------------------------------------------


def test_a_function_that_calls_itself() -> None:
    proto = model("""(float[2] x) => (float[2] y) { y = me.f (x) }
        <domain: "me", opset_import: ["" : 18, "me" : 1]> f (a) => (b) { b = me.g (a) }
        <domain: "me", opset_import: ["" : 18, "me" : 1]> g (a) => (b) { b = me.f (a) }
    """)
    refused(proto, "calls itself", "function me::f")


def test_a_function_that_is_defined_twice() -> None:
    one = '<domain: "me", opset_import: ["" : 18]> f (a) => (b) { b = Neg (a) }'
    text = "(float[2] x) => (float[2] y) { y = me.f (x) }"
    refused(model(f"{text} {one} {one}"), "defined twice", "me::f")


def functions(count: int, body: Callable[[int], str]) -> ModelProto:
    imports = 'opset_import: ["" : 18, "me" : 1]'
    texts = [
        f'<domain: "me", {imports}> f{i} (a) => (b) {{ {body(i)} }}'
        for i in range(count)
    ]
    return model(
        f"(float[2] x) => (float[2] y) {{ y = me.f{count - 1} (x) }}" + "\n".join(texts)
    )


def test_calls_nested_too_deep() -> None:
    proto = functions(100, lambda i: f"b = me.f{i - 1} (a)" if i else "b = Neg (a)")
    refused(proto, "over 64 deep", "function")


def test_calls_that_stand_for_too_many_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.functions.MAX_CALLED_NODES", 1000)

    def twice(i: int) -> str:
        if not i:
            return "b = me.Thing (a)"  # never merged
        return " ".join(
            [f"c{k} = me.f{i - 1} (a)" for k in range(8)]
            + [f"b = Sum ({', '.join(f'c{k}' for k in range(8))})"]
        )

    refused(functions(12, twice), "stand for over", "function")


def nested(depth: int) -> ModelProto:
    """Ifs within Ifs."""
    body = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["r"])], "leaf", [],
        [helper.make_tensor_value_info("r", F32, [2])],
    )  # fmt: skip
    for i in range(depth):
        node = helper.make_node(
            "If", ["c"], [f"r{i}"], then_branch=body, else_branch=body
        )
        result = helper.make_tensor_value_info(f"r{i}", F32, [2])
        if i == depth - 1:
            break
        other = helper.make_graph(
            [helper.make_node("Neg", ["x"], ["q"])], "other", [],
            [helper.make_tensor_value_info("q", F32, [2])],
        )  # fmt: skip
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("then_branch", body))
        node.attribute.append(helper.make_attribute("else_branch", other))
        body = helper.make_graph([node], f"b{i}", [], [result])
    proto = model("(bool c, float[2] x) => (float[2] y) { y = Neg (x) }")
    del proto.graph.node[:]
    node.output[0] = "y"
    proto.graph.node.append(node)
    return proto


def test_bodies_may_nest(monkeypatch: pytest.MonkeyPatch) -> None:
    """As deep as protobuf can say; the limit of 64 is behind that of 100 messages."""
    load(nested(22))
    monkeypatch.setattr("graphopt.importer.nodes.MAX_NESTING", 8)
    refused(nested(22), "nested over 8 deep", "If node")


def test_types_nested_too_deep() -> None:
    proto = model(RELU)
    inner = proto.graph.input.add(name="s").type
    for _ in range(80):
        inner = inner.sequence_type.elem_type
    inner.tensor_type.elem_type = F32
    refused(proto, "nested too deep", "'s'")


# --- cost ----------------------------------------------------------------------------

BOMB = """
import resource, sys
from onnx import parser
from graphopt.importer import load
from graphopt.exporter import to_proto
resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
model = parser.parse_model('''<ir_version: 8, opset_import: ["" : 18]>
    main () => (float[N] y, float[M] z) {
        s = Constant <value_ints = [1099511627776]> ()
        y = ConstantOfShape (s)
        a = Constant <value_floats = [1.0]> ()
        z = Expand (a, s)
    }''')
graph = load(model)
assert [v.shape for v in graph.outputs] == [(1 << 40,)] * 2
assert len(to_proto(graph).SerializeToString()) < 1000
"""


def test_a_folding_bomb_is_not_lit() -> None:
    subprocess.run([sys.executable, "-c", BOMB], check=True, timeout=60)
