"""The text form: what is printed parses back to the equal graph."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from real_models import every_model

from graphopt.dims import add, floordiv, mul, symbol
from graphopt.errors import GraphoptError, InvalidModel
from graphopt.external import ExternalSlice, open_external
from graphopt.importer import load
from graphopt.ir import Graph, Header, Op, Parameter, Value
from graphopt.literal import Weights, format_attr, read_attr, read_type
from graphopt.ops import (
    Add,
    Concat,
    Constant,
    Gemm,
    If,
    LeakyRelu,
    MatMul,
    Mul,
    Neg,
    RandomNormal,
    Relu,
    Split,
)
from graphopt.ops.opaque import Opaque
from graphopt.testing.strategies import graphs
from graphopt.text import format_graph, format_op, parse, weights_of
from graphopt.types import (
    UNKNOWN,
    DType,
    MapType,
    OptionalType,
    SequenceType,
    SparseType,
    TensorType,
    Type,
    tensor,
)
from graphopt.weights import Tensor

F = tensor(DType.F32, symbol("n"), 4)


@pytest.fixture
def x() -> Parameter:
    return Parameter(F, "x")


def holds(graph: Graph) -> Graph:
    """Asserts the law, and returns the graph that was read."""
    text = format_graph(graph)
    again = parse(text, weights_of(graph))
    assert again.key == graph.key
    assert format_graph(again) == text
    return again


def test_what_it_looks_like(x: Parameter) -> None:
    y = Add(x, Constant(np.array([1, -0.0, 0.1, np.inf], np.float32)))
    graph = Graph(
        [x],
        [Relu(y)],
        output_names=["out"],
        output_types=[F],
        name="demo",
        names={y: "a/b"},
        sources={y: ("/add", "/bias")},
    )
    assert str(graph).splitlines() == [
        'graph "demo"',
        "  input %x : f32[n, 4]",
        "  %0 = f32[4](1.0, -0.0, 0.1, inf)",
        '  %1 = Add(%x, %0) : f32[n, 4]  # "a/b" from "/add", "/bias"',
        "  %2 = Relu(%1) : f32[n, 4]",
        '  output "out" = %2 : f32[n, 4]',
    ]


def test_defaults_are_left_out(x: Parameter) -> None:
    w = Constant(np.ones((3, 4), np.float32))
    line = str(Graph([x], [Gemm(x, w, transB=1)])).splitlines()[-2]
    assert line.strip() == "%1 = Gemm(%x, %0) {transB=1} : f32[n, 3]"


def test_names_sources_and_interface_come_back(x: Parameter) -> None:
    scalar = Constant(np.float32(2))
    double = Mul(x, scalar)
    default = Tensor.of(np.ones((1, 4), np.float32))
    odd = Parameter(F, "odd name", default=default)
    graph = Graph(
        [x, odd],
        [Add(double, odd), x, double],
        output_names=["sum", "x again", "%"],
        output_types=[F, None, TensorType(DType.F32)],
        name='with "quotes"\n',
        doc="two\nlines",
        header=Header({"": 17, "com.example": 3}, 8, ("maker", "1.0"), "d", 5, "doc"),
        names={double: "double", scalar: "two"},
        sources={double: ("Mul_0", "a, b", 'c"d')},
    ).with_header(metadata={"key": "value # from"})
    again = holds(graph)
    assert again.header == graph.header
    assert (again.name, again.doc) == (graph.name, graph.doc)
    assert again.output_names == graph.output_names
    assert again.output_types == graph.output_types
    assert again.input_names == graph.input_names
    assert again.inputs[1].default is not None
    assert again.inputs[1].default.digest() == default.digest()
    assert again.names[again.outputs[2]] == "double"
    assert [again.sources[op] for op in again.ops if op in again.sources] == [
        ("Mul_0", "a, b", 'c"d')
    ]
    assert Header(opsets={}) == parse('graph ""\n  opset\n').header


@pytest.mark.parametrize(
    "type_",
    [
        F,
        UNKNOWN,
        TensorType(),
        TensorType(DType.F8E4M3FN, None),
        tensor(None, 1, None, add(mul(symbol("a b"), 2), floordiv(symbol("n"), 3))),
        tensor(DType.BOOL),
        SequenceType(OptionalType(tensor(DType.STRING, 2))),
        MapType(DType.I64, SequenceType(TensorType(DType.F32))),
        SparseType(tensor(DType.F64, 3, 4)),
    ],
    ids=str,
)
def test_types(type_: Type) -> None:
    assert read_type(f"{type_} ") == (type_, len(str(type_)))


@pytest.mark.parametrize("dtype", DType, ids=str)
def test_constants_keep_every_bit(dtype: DType) -> None:
    random = np.random.default_rng(0)
    if dtype is DType.STRING:
        strings = np.array(["", 'a"b', "é\n, )", "\udc80", "#  %"], object)
        value = Tensor.of(strings)
    else:
        patterns = 256 if dtype.numpy.itemsize == 1 else 24
        codes = np.arange(patterns, dtype=np.uint8)
        if dtype is DType.BOOL:
            codes &= 1
        elif dtype.bits < 8:
            codes &= (1 << dtype.bits) - 1
        elif dtype.numpy.itemsize > 1:
            size = patterns // dtype.numpy.itemsize * dtype.numpy.itemsize
            codes = random.integers(0, 256, size, dtype=np.uint8)
        value = Tensor.of(codes.view(dtype.numpy))
    again = holds(Graph([], [Constant(value)])).outputs[0]
    assert isinstance(again, Constant)
    assert again.tensor.same_bits(value)


def test_special_floats_keep_their_bits() -> None:
    patterns = [0x7FC00000, 0x7FC00001, 0xFFC00000, 0x80000000, 0x7F800000, 1]
    value = np.array(patterns, np.uint32).view(np.float32)
    text = format_graph(Graph([], [Constant(value)]))
    assert "(nan, 0x7fc00001, 0xffc00000, -0.0, inf, 1e-45)" in text
    (again,) = parse(text).outputs
    assert again.constant is not None
    assert again.constant.array().view(np.uint32).tolist() == patterns


def test_padding_bits_of_narrow_constants_stay() -> None:
    stray = Constant(Tensor(DType.I4, (1,), b"\xf1"))
    holds(Graph([], [stray, Constant(Tensor(DType.BOOL, (1,), b"\x02"))]))


@given(st.floats())
def test_float_attributes_keep_their_bits(number: float) -> None:
    text = format_attr(number, Weights())
    again, end = read_attr(text, 0, Weights())
    assert end == len(text)
    assert struct.pack("d", again) == struct.pack("d", number)


def test_attributes_of_every_kind() -> None:
    node = Opaque(
        node=b"\x00\xff",
        declared=(SequenceType(F), UNKNOWN),
        ints=(1, -2),
        floats=(1.0, -0.0),
        none=(),
        text='quote " and } and \\ and \n',
        texts=("a, b", "]"),
        raw=(b"", b"]"),
        value=Tensor.of([1.5]),
        values=(Tensor.of([True]), Tensor.of("s")),
        number=3,
        token=7,
    )
    again = holds(Graph([], node.results))
    (op,) = again.ops
    assert dict(op.attrs).keys() == dict(node.attrs).keys()
    assert op.token == 7
    assert op.types == (SequenceType(F), UNKNOWN)


def test_large_constants_go_by_digest(x: Parameter) -> None:
    w = np.random.default_rng(0).normal(size=(4, 4096)).astype(np.float32)
    first, twin = Constant(w.copy()), Constant(w.copy())
    graph = Graph([x], [MatMul(x, first), MatMul(x, twin), MatMul(x, first)])
    assert len(weights_of(graph)) == 2
    assert first.tensor.digest() in format_graph(graph)
    holds(graph)
    only_digests = {first.tensor.digest(): first.tensor}
    again = parse(format_graph(graph), only_digests)
    left, right, third = again.outputs
    assert left is third
    assert left is not right  # what was kept apart stays apart
    with pytest.raises(InvalidModel, match="not written out"):
        parse(format_graph(graph))


def test_external_constants_go_by_file(x: Parameter, tmp_path: Path) -> None:
    data = np.arange(4096, dtype=np.float32)
    (tmp_path / "w.bin").write_bytes(b"1234" + data.tobytes())
    slice_ = ExternalSlice(open_external(tmp_path, "w.bin"), 4, data.nbytes)
    w = Constant(Tensor(DType.F32, (4, 1024), slice_))
    graph = Graph([x], [MatMul(x, w)])
    text = format_graph(graph)
    assert 'file="w.bin", offset=4, length=16384' in text
    assert parse(text, folder=tmp_path).key == graph.key
    (tmp_path / "w.bin").write_bytes(b"1234" + (data + 1).tobytes())
    with pytest.raises(InvalidModel, match="not those that were printed"):
        parse(text, folder=tmp_path)


def test_bodies_and_several_results(x: Parameter) -> None:
    parts = Split(x, Constant(np.array([1, 3])), axis=1)
    left, right = parts.results
    inner = Parameter(left.type, "inner")
    deep = Parameter(left.type, "deep")
    cond = Parameter(tensor(DType.BOOL), "c")
    deepest = [Graph([deep], [f(deep)], name=f.kind) for f in (Neg, Relu)]
    flag = Constant(np.array(True))
    nested = If(flag, inner, bodies=deepest)
    then = Graph([inner], [nested], name="then")
    other = Parameter(left.type, "other")
    otherwise = Graph([other], [other], name="else")
    chosen = If(cond, left, bodies=[then, otherwise])
    graph = Graph([x, cond], [Concat(chosen, right, axis=1)], names={right: "rest"})
    text = format_graph(graph)
    assert "%1, %rest = Split(%x, %0) {axis=1}" in text
    assert '      %1 = If(%0, %inner) : f32[n, 1]\n        body "Neg"\n' in text
    holds(graph)


def test_instances_and_tokens(x: Parameter) -> None:
    once, twice = Relu(x), Relu(x, instance=1)
    noise = [RandomNormal(shape=(2,), token=i) for i in range(2)]
    graph = holds(Graph([x], [once, twice, *noise]))
    assert len(graph.ops) == 4
    assert [op.token for op in graph.ops] == [0, 0, 0, 1]


def test_hand_written_text_needs_no_types() -> None:
    graph = parse(
        """
graph "short"
  input %x : f32[n, 4]

  %half = f32[](0.5)
  %y = Mul(%x, %half)
  output "y" = %y
"""
    )
    assert graph.outputs[0].type == F
    assert graph.names[graph.outputs[0]] == "y"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%y = Mul(%x, %z)", "%z is not defined above"),
        ("%y = Nonsense(%x)", "no op kind is called 'Nonsense'"),
        ("%y = Relu(%x) : f32[n, 5]", "the text says f32[n, 5], Relu infers f32[n, 4]"),
        ("%y = LeakyRelu(%x) {beta=1.0}", "LeakyRelu has no attribute 'beta'"),
        ("%x = Relu(%x)", "%x is defined twice"),
        ("%y = f32[2](1.0)", "1 elements for f32[2]"),
        ("%y = f32[2](1.0, red)", "could not convert string to float: 'red'"),
        ("%y = Relu(%x) trailing", "this does not belong here: 'trailing'"),
        ("nonsense 1", "no line of a graph begins with 'nonsense'"),
        ("    deeper", "this line is indented too far"),
        ('output "y" = %y', "%y is not defined above"),
        ("%y = q[2](1)", "no element type is called 'q'"),
    ],
)
def test_mistakes_name_the_line(line: str, message: str) -> None:
    text = f'graph ""\n  input %x : f32[n, 4]\n  {line}\n  output "y" = %x\n'
    with pytest.raises(InvalidModel) as error:
        parse(text)
    assert message in error.value.message
    assert error.value.where == f"line 3: {line.strip()}"


def test_mistakes_in_bodies_name_their_line(x: Parameter) -> None:
    cond = Parameter(tensor(DType.BOOL), "c")
    p, q = Parameter(F, "p"), Parameter(F, "q")
    chosen = If(cond, x, bodies=[Graph([p], [Neg(p)]), Graph([q], [q])])
    text = format_graph(Graph([x, cond], [chosen]))
    with pytest.raises(InvalidModel, match=r"line 7: %0 = Nag\(%p\)"):
        parse(text.replace("Neg", "Nag"))


def test_ops_on_one_line(x: Parameter) -> None:
    op = LeakyRelu(Add(x, Constant(np.float32(1))), alpha=0.5)
    assert format_op(op) == "LeakyRelu(f32[n, 4]) {alpha=0.5} : f32[n, 4]"
    add = op.operands[0]
    assert isinstance(add, Op)
    assert format_op(add) == "Add(%x, f32[](1.0)) : f32[n, 4]"
    assert format_op(add, {x: "%3"}) == "Add(%3, f32[](1.0)) : f32[n, 4]"


@pytest.mark.parametrize(
    "depth", [20_000, pytest.param(100_000, marks=pytest.mark.slow)]
)
def test_deep_chains_do_not_recurse(x: Parameter, depth: int) -> None:
    value: Value = x
    for _ in range(depth):
        value = Neg(value)
    graph = Graph([x], [value])
    text = format_graph(graph)
    assert text.count("\n") == depth + 3
    assert parse(text).key == graph.key


@settings(max_examples=60, deadline=None)
@given(graphs(max_ops=15))
def test_law_on_random_graphs(graph: Graph) -> None:
    holds(graph)


@every_model()
def test_law_on_real_models(path: Path) -> None:
    try:
        graph = load(path)
    except GraphoptError as error:
        pytest.skip(str(error))
    holds(graph)
