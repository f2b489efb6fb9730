"""The verifier: each rule catches what it is for, and legal graphs pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from real_models import every_model

from graphopt import verify as verifier
from graphopt.errors import GraphoptError, InvalidModel
from graphopt.importer import load
from graphopt.ir import Graph, Op, Parameter, Value
from graphopt.ops import (
    Add,
    Constant,
    Gemm,
    If,
    Loop,
    MatMul,
    Neg,
    RandomNormal,
    Relu,
    Scan,
    SequenceConstruct,
    SequenceMap,
    Slice,
)
from graphopt.testing.strategies import graphs
from graphopt.types import DType, TensorType, tensor
from graphopt.verify import Fault, IllegalGraph, faults, verify

F = tensor(DType.F32, 2, 3)
BOOL = tensor(DType.BOOL)
I64 = tensor(DType.I64)


@pytest.fixture
def x() -> Parameter:
    return Parameter(F, "x")


def forged(op: Op, **fields: Any) -> Op:
    """A copy that no constructor would let through, as a broken pass might make it."""
    twin = object.__new__(type(op))
    names = ("operands", "attrs", "bodies", "instance", "token", "outs", "types")
    for name in (*names, "known"):
        setattr(twin, name, fields.get(name, getattr(op, name)))
    object.__setattr__(twin, "_results", None)
    return twin


def broken(graph: Graph) -> str:
    """The name of the only rule that the graph breaks."""
    names = {rule for rule, _, _ in faults(graph)}
    assert len(names) == 1, names
    with pytest.raises(IllegalGraph) as error:
        verify(graph)
    assert error.value.rule in names
    return error.value.rule


def test_the_error_names_rule_op_and_source(x: Parameter) -> None:
    other = Parameter(F, "other")
    add = Add(x, other)
    graph = Graph([x], [Relu(add)], sources={add: ("/layer/Add",)})
    with pytest.raises(IllegalGraph) as error:
        verify(graph)
    assert error.value.rule == "parameters"
    assert error.value.op is add
    assert str(error.value) == (
        "parameters: reads 'other', an input of another graph"
        " [Add(%x, %other) : f32[2, 3], from node /layer/Add]"
    )
    assert isinstance(error.value, InvalidModel)


def test_parameters_of_outputs_count(x: Parameter) -> None:
    assert broken(Graph([x], [x, Parameter(F, "y")])) == "parameters"


def test_interface(x: Parameter) -> None:
    same = Parameter(F, "x")
    assert broken(Graph([x, same], [x])) == "names"
    assert broken(Graph([x], [x, x], output_names=["y", "y"])) == "names"
    assert broken(Graph([x], [x], output_names=["y", "z"])) == "interface"
    assert {r for r, _, _ in faults(Graph([x, x], [x]))} == {"interface", "names"}


def test_cycles(x: Parameter) -> None:
    first = forged(Neg(x))
    second = Relu(first)
    first.operands = (second,)
    assert broken(Graph([x], [second])) == "order"


def test_results_that_do_not_exist(x: Parameter) -> None:
    class Ghost(Value):
        """A result that its op does not have."""

        op = Neg(x)
        type = F

    bad = forged(Relu(x), operands=(Ghost(),))
    assert broken(Graph([x], [Neg(x), bad])) == "order"


def test_arity(x: Parameter) -> None:
    assert broken(Graph([x], [forged(Relu(x), operands=(x, x))])) == "arity"


def test_required_operands(x: Parameter) -> None:
    w = Constant(np.ones((3, 4), np.float32))
    verify(Graph([x], [Gemm(x, w, None)]))
    sliced = Slice(x, Constant(np.array([0])), Constant(np.array([1])), None)
    verify(Graph([x], [sliced]))
    holed = forged(sliced, operands=(sliced.operands[0], None, sliced.operands[2]))
    assert "required" in {rule for rule, _, _ in faults(Graph([x], [holed]))}


@pytest.mark.parametrize(
    "attrs", [{"alpha": 1, "beta": 1.0}, {"gamma": 1.0}, {"transA": 1.0}]
)
def test_attributes(x: Parameter, attrs: dict[str, Any]) -> None:
    gemm = Gemm(x, Constant(np.ones((3, 4), np.float32)))
    bad = forged(gemm, attrs=MappingProxyType({**gemm.attrs, **attrs}))
    assert {r for r, _, _ in faults(Graph([x], [bad]))} >= {"attributes"}


def test_required_attributes() -> None:
    noise = RandomNormal(shape=(2,))
    attrs = {k: v for k, v in noise.attrs.items() if k != "shape"}
    fault = next(verifier.attributes(Graph([], [forged(noise, attrs=attrs)])))
    assert fault.message == "attribute 'shape' is missing"


def test_element_types() -> None:
    x = Parameter(tensor(DType.F32, 3, 3), "x")
    flags = Parameter(tensor(DType.BOOL, 3, 3), "flags")
    mixed = forged(MatMul(x, x), operands=(x, flags))
    assert broken(Graph([x, flags], [mixed])) == "element_types"
    alone = forged(Neg(x), operands=(flags,), types=(flags.type,))
    assert broken(Graph([flags], [alone])) == "element_types"


def test_types(x: Parameter) -> None:
    wide = tensor(DType.F32, 2, 4)
    assert broken(Graph([x], [forged(Relu(x), types=(wide,))])) == "types"


def test_declared_output_types(x: Parameter) -> None:
    def declared(type_: TensorType) -> Graph:
        return Graph([x], [Relu(x)], output_types=[type_])

    for fine in (F, TensorType(), tensor(DType.F32, None, 3), TensorType(DType.F32)):
        verify(declared(fine))
    for bad in (tensor(DType.F64, 2, 3), tensor(DType.F32, 2), tensor(None, 2, 4)):
        assert broken(declared(bad)) == "declarations"


def test_tokens() -> None:
    def noise(token: int) -> Op:
        return RandomNormal(shape=(2,), token=token)

    verify(Graph([], [noise(0), noise(1)]))
    twin = RandomNormal(shape=(3,), token=1)
    assert broken(Graph([], [noise(1), twin])) == "tokens"


def test_bodies_of_if(x: Parameter) -> None:
    cond = Parameter(BOOL, "c")
    p, q = Parameter(F, "p"), Parameter(F, "q")
    fine = If(cond, x, bodies=[Graph([p], [Neg(p)]), Graph([q], [q])])
    verify(Graph([x, cond], [fine]))
    other = Parameter(tensor(DType.F32, 2, 4), "p")
    bad = forged(fine, bodies=(Graph([other], [Neg(other)]), fine.bodies[1]))
    rules = {rule for rule, _, _ in faults(Graph([x, cond], [bad]))}
    assert "bodies" in rules
    short = forged(fine, bodies=(Graph([p], []), fine.bodies[1]))
    assert "its body takes 1 values and gives 0, not 1 and 1" in [
        fault.message for fault in verifier.bodies(Graph([x, cond], [short]))
    ]


def test_rules_look_into_bodies(x: Parameter) -> None:
    cond = Parameter(BOOL, "c")
    p, q = Parameter(F, "p"), Parameter(F, "q")
    fine = If(cond, x, bodies=[Graph([p], [Neg(p)]), Graph([q], [q])])
    leak = forged(fine, bodies=(Graph([p], [Add(p, x)]), fine.bodies[1]))
    assert broken(Graph([x, cond], [leak])) == "parameters"


def test_names_in_bodies_are_free(x: Parameter) -> None:
    cond = Parameter(BOOL, "c")
    bodies = []
    for _ in range(2):
        p, q = Parameter(F, "same"), Parameter(F, "same")
        bodies.append(Graph([p, q], [Add(p, q)]))
    verify(Graph([x, cond], [If(cond, x, Neg(x), bodies=bodies)]))


def test_bodies_of_loop_and_scan(x: Parameter) -> None:
    step, go = Parameter(I64, "i"), Parameter(BOOL, "go")
    carried, extra = Parameter(F, "carried"), Parameter(F, "extra")
    row = Add(carried, extra)
    body = Graph([step, go, carried, extra], [go, row, Neg(row)])
    trips = Constant(np.array(3))
    loop = Loop(trips, None, x, x, captures=1, bodies=[body])
    verify(Graph([x], loop.results))
    wrong = Parameter(tensor(DType.F32, 3, 3), "wrong")
    bad = forged(loop, operands=(trips, None, x, wrong))
    assert "bodies" in {r for r, _, _ in faults(Graph([x, wrong], bad.results))}

    state, part = Parameter(F, "state"), Parameter(tensor(DType.F32, 2), "part")
    inner = Graph([state, part], [Neg(state), Neg(part)])
    scan = Scan(x, x, num_scan_inputs=1, scan_input_axes=(1,), bodies=[inner])
    verify(Graph([x], scan.results))
    other = forged(scan, operands=(x, wrong))
    assert "bodies" in {r for r, _, _ in faults(Graph([x, wrong], other.results))}


def test_users_can_add_rules(x: Parameter, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_relu(graph: Graph) -> Iterator[Fault]:
        """there is no Relu"""
        yield from (Fault("is a Relu", op) for op in graph.ops if isinstance(op, Relu))

    monkeypatch.setattr(verifier, "rules", [*verifier.rules, no_relu])
    verify(Graph([x], [Neg(x)]))
    with pytest.raises(IllegalGraph, match="no_relu: is a Relu"):
        verify(Graph([x], [Relu(x)]))


def test_every_rule_says_what_it_is() -> None:
    for rule in verifier.rules:
        assert rule.__doc__


@settings(max_examples=100, deadline=None)
@given(graphs(max_ops=15))
def test_random_graphs_are_legal(graph: Graph) -> None:
    verify(graph)


@every_model()
def test_real_models_are_legal(path: Path) -> None:
    try:
        graph = load(path)
    except GraphoptError as error:
        pytest.skip(str(error))
    verify(graph)


def test_bodies_of_sequence_map_fit_its_sequences() -> None:
    """Elements go in, not what the body says it takes."""
    x = Parameter(tensor(DType.F32, 3), "x")
    element = Parameter(tensor(DType.I64, 7), "element")
    mapped = SequenceMap(
        SequenceConstruct(x, x), bodies=(Graph([element], [Neg(element)]),), captures=0
    )
    assert "bodies" in {name for name, _, _ in faults(Graph([x], [mapped]))}


def test_bodies_nest_only_so_deep() -> None:
    """What goes into bodies by recursion must come back."""

    def nested(depth: int) -> Graph:
        body = Graph([], [Constant(np.float32(1))])
        for _ in range(depth):
            body = Graph([], [If(Constant(np.array(True)), bodies=(body, body))])
        return body

    assert nested(64).depth == 64
    with pytest.raises(GraphoptError, match="nest over"):
        nested(400)
