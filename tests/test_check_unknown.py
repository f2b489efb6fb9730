"""Checks of graphs with ops that have no reference, or are random."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from checked import BATCH, MODES, Build, compared, graph_of, ints, weight

from graphopt import optimize
from graphopt.check import check
from graphopt.errors import UsageError
from graphopt.importer import load
from graphopt.ir import Graph, Parameter, Value
from graphopt.ops import (
    Add,
    Constant,
    Gather,
    MatMul,
    Neg,
    RandomNormal,
    Reshape,
    Sigmoid,
    Sub,
    Tanh,
)
from graphopt.ops.opaque import Opaque
from graphopt.types import UNKNOWN, DType, Type, tensor


def mystery(x: Value, *declared: Type, token: int = 0) -> Opaque:
    node = onnx.helper.make_node("Mystery", ["x"], ["y"], domain="com.example")
    text = node.SerializeToString()
    kept = {"node": text, "declared": declared, "captures": (), "version": 1}
    return Opaque(x, token=token, **kept)


@pytest.mark.parametrize("mode", MODES)
def test_graphs_are_cut_at_unknown_ops(mode: str) -> None:
    type_ = tensor(DType.F32, BATCH, 8)

    def around(first: Build, then: Build) -> Build:
        def build(x: Value, y: Value) -> list[Value]:
            hidden = mystery(first(x, y), type_, token=4)
            return [then(hidden, y), Tanh(x)]

        return build

    fine = compared(
        around(lambda x, y: Add(x, y), lambda h, y: Sub(h, y)),
        around(lambda x, y: Add(y, x), lambda h, y: Add(h, Neg(y))),
        mode=mode,
    )
    assert fine.passed
    assert fine.unchecked == ("op com.example.Mystery 4",)
    assert [output.name for output in fine.outputs] == ["output_0", "output_1"]
    assert [operand.name for operand in fine.operands] == [
        "operand 0 of com.example.Mystery 4"
    ]
    for before, after in [
        (around(Add, Sub), around(Sub, Sub)),
        (around(Add, Sub), around(Add, Add)),
    ]:
        assert not compared(before, after, mode=mode).passed


def test_what_hangs_on_unknown_types_is_run_on_a_guess() -> None:
    def around(then: Build) -> Build:
        return lambda x, y: [then(mystery(Add(x, y), UNKNOWN), y), Tanh(x)]

    before = around(Sub)
    fine = compared(before, around(lambda h, y: Add(h, Neg(y))), mode="full")
    assert fine.passed
    assert not fine.lost
    assert all(output.size for output in fine.outputs)
    assert not compared(before, around(Add), mode="full").passed


@pytest.mark.parametrize("mode", MODES)
def test_what_no_guess_fits_must_be_made_of_the_same_ops(mode: str) -> None:
    weights = [Constant(np.full((5, 3), n, np.float32)) for n in (1, 2)]

    def head(n: int, token: int = 0) -> Build:
        return lambda x, y: [MatMul(mystery(x, UNKNOWN, token=token), weights[n])]

    same = compared(head(0), head(0, token=7), mode=mode)
    assert same.passed
    assert not same.lost
    other = compared(head(0), head(1), mode=mode)
    assert other.lost == ("output output_0",)
    assert "output_0" not in [output.name for output in other.outputs]


def test_unknown_ops_that_became_others_fail() -> None:
    def with_attribute(number: int) -> Graph:
        def build(x: Value, y: Value) -> list[Value]:
            made = mystery(x, UNKNOWN)
            node = made.node
            node.attribute.append(onnx.helper.make_attribute("heads", number))
            attrs = {**made.attrs, "node": node.SerializeToString()}
            return [Opaque(x, token=0, **attrs)]

        graph = graph_of(build)
        return graph.replace(names={graph.outputs[0]: "z"})

    assert check(with_attribute(1), with_attribute(1)).passed
    result = check(with_attribute(1), with_attribute(2))
    assert not result.passed
    assert "attributes differ" in str(result)


def test_unknown_ops_may_ask_for_other_shapes_than_they_declare() -> None:
    wrong = tensor(DType.F32, None, None)

    def build(x: Value, y: Value) -> list[Value]:
        hidden = mystery(x, wrong)
        return [MatMul(hidden, weight(8, 4)), Add(Sigmoid(x), y)]

    result = compared(build, build, mode="full")
    assert result.passed
    assert not result.lost
    assert "output_1" in [output.name for output in result.outputs]


def test_random_ops_draw_the_same_on_both_sides() -> None:
    noise = RandomNormal(shape=(1, 8), token=1)
    assert compared(
        lambda x, y: Add(x, noise), lambda x, y: Add(noise, x), mode="full"
    ).passed
    assert not compared(
        lambda x, y: Add(x, noise), lambda x, y: Sub(x, noise), mode="full"
    ).passed


def test_nothing_is_called_passed_where_nothing_ran() -> None:
    result = compared(
        lambda x, y: Reshape(x, ints(7, 7)), lambda x, y: Reshape(x, ints(49, 1))
    )
    assert result.outputs == ()
    assert result.unchecked == ("output output_0",)
    assert "found no inputs" in result.notes[0]
    assert "compared nothing" in str(result)


def read(text: str) -> Graph:
    header = '<ir_version: 8, opset_import: ["" : 18, "my" : 1]> g '
    return load(onnx.parser.parse_model(header + text))


def test_what_unknown_ops_are_given_counts() -> None:
    """Of one that may have been given something else, nothing follows."""

    def between(nodes: str) -> Graph:
        text = f"a = my.A (x) {nodes} y = my.B (n)"
        return read(f"(float[2, 3] x) => (float[2, 3] y) {{ {text} }}")

    once = between("n = BitwiseNot (a)")
    twice = between("m = BitwiseNot (a)  n = BitwiseNot (m)")
    assert not check(once, once, mode="full").lost
    assert check(once, twice, mode="full").lost == ("output y",)


BRANCHES = """(bool c, float[2, 3] a, float[2, 3] b) => (float[2, 3] y) { y = If (c) <
    then_branch = t () => (float[2, 3] u) { s = Shape (a)  v = my.M (b, s)  u = F (v) },
    else_branch = e () => (float[2, 3] w) { w = Neg (b) }> }"""


def test_unknown_ops_in_bodies_hide_what_is_around_them() -> None:
    relu, other = (read(BRANCHES.replace("F (v)", f"{f} (v)")) for f in ("Relu", "Neg"))
    assert not check(relu, relu, mode="full").lost
    assert check(relu, other, mode="full").lost == ("output y",)


def test_captures_beside_unknown_ops_may_go() -> None:
    """The branch needs only the dims of one capture, and those are known."""
    graph = read(BRANCHES.replace("F (v)", "Relu (v)"))
    made = optimize(graph).graph
    (branch,) = [op for op in made.ops if op.kind == "If"]
    assert len(branch.operands) < 3


def test_too_little_memory_is_not_the_fault_of_the_inputs() -> None:
    x = Parameter(tensor(DType.F32, 20, 30), "x")
    graph, other = Graph([x], [Sigmoid(x)]), Graph([x], [Sub(Sigmoid(x), x)])
    ones = {"x": np.ones((20, 30), np.float32)}
    result = check(graph, other, inputs=ones, limit_bytes=1000, mode="full")
    assert result.lost
    i = Parameter(tensor(DType.I64, 1), "i")
    rows = Gather(weight(4, 4), i)
    with pytest.raises(UsageError, match="nothing could be compared"):
        check(Graph([i], [rows]), Graph([i], [Neg(rows)]), inputs={"i": np.array([9])})
