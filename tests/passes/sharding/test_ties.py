"""Caches: found by what ops move, and planned to come back as they came."""

from __future__ import annotations

import math

import pytest
from small_transformers import ints, weight

from graphopt import ops
from graphopt.errors import UsageError
from graphopt.index import Split
from graphopt.ir import Graph, Parameter, Value
from graphopt.passes.sharding import Mesh
from graphopt.passes.sharding.caches import caches, replaced
from graphopt.passes.sharding.layout import layouts
from graphopt.passes.sharding.machine import Machine
from graphopt.passes.sharding.planner import Planner
from graphopt.types import DType, tensor

BATCH, HEADS, PAST, EACH = 8, 8, 1024, 64
WIDTH = HEADS * EACH


def given(name: str, *shape: int) -> Parameter:
    return Parameter(tensor(DType.F32, *shape), name)


def heads(x: Value) -> Value:
    shaped = ops.Reshape(x, ints(BATCH, 1, HEADS, EACH))
    return ops.Transpose(shaped, perm=(0, 2, 1, 3))


def decoding(layers: int = 1) -> Graph:
    """Attention of one token, its keys and values behind those of the past."""
    inputs = [given("x", BATCH, 1, WIDTH)]
    x: Value = inputs[0]
    outputs: dict[str, Value] = {}
    for i in range(layers):
        q, k, v = (heads(ops.MatMul(x, weight(WIDTH, WIDTH))) for _ in range(3))
        for what, new in (("k", k), ("v", v)):
            inputs.append(given(f"past.{i}.{what}", BATCH, HEADS, PAST, EACH))
            outputs[f"present.{i}.{what}"] = ops.Concat(inputs[-1], new, axis=2)
        k, v = (outputs[f"present.{i}.{what}"] for what in "kv")
        seen = ops.Transpose(ops.Attention(q, k, v), perm=(0, 2, 1, 3))
        merged = ops.Reshape(seen, ints(BATCH, 1, WIDTH))
        x = ops.Add(x, ops.MatMul(merged, weight(WIDTH, WIDTH)))
    outputs = {"y": x, **outputs}
    return Graph(inputs, outputs.values(), output_names=outputs)


def names(graph: Graph) -> list[tuple[str, str]]:
    return [cache.names for cache in caches(graph)]


def machine(mesh: str) -> Machine:
    return Machine.of("h100", Mesh.parse(mesh))


# --- found --------------------------------------------------------------------------


def test_what_grows_by_a_token_is_a_cache() -> None:
    found = caches(decoding(2))
    pairs = [(f"{i}.{what}") for i in range(2) for what in "kv"]
    assert [c.names for c in found] == [(f"past.{p}", f"present.{p}") for p in pairs]
    assert {(c.axis, c.added) for c in found} == {(2, 1)}


def test_attention_hands_the_past_on() -> None:
    x = given("x", 2, 4, 1, 8)
    old = [given(name, 2, 4, 16, 8) for name in ("a", "b")]
    made = ops.Attention(*(ops.Relu(x),) * 3, None, *old, outs=3)
    outputs = dict(zip(("y", "c", "d"), made.results, strict=True))
    graph = Graph([x, *old], outputs.values(), output_names=outputs)
    assert names(graph) == [("a", "c"), ("b", "d")]


def test_a_buffer_is_written_into_and_a_state_handed_on() -> None:
    buffer, new = given("buffer", 2, 4, 16, 8), given("new", 2, 4, 1, 8)
    at = Parameter(tensor(DType.I64, 2), "at")
    written = ops.TensorScatter(buffer, new, at, axis=2)
    steps, state = given("steps", 5, 2, 3), given("state", 1, 2, 4)
    gates = [weight(1, 12, 3), weight(1, 12, 4)]
    layer = ops.GRU(steps, *gates, None, None, state, hidden_size=4, outs=2)
    graph = Graph(
        [buffer, new, at, steps, state],
        [written, layer.results[1]],
        output_names=["written", "last"],
    )
    assert names(graph) == [("buffer", "written"), ("state", "last")]
    assert [c.axis for c in caches(graph)] == [None, None]


def test_stacked_caches_are_one() -> None:
    past, new = given("past", 2, 3, 8, 4), given("new", 3, 1, 4)
    parts = [
        ops.Unsqueeze(
            ops.Concat(ops.Gather(past, ints(i), axis=0), row, axis=2), ints(0)
        )
        for i, row in (
            (0, ops.Unsqueeze(new, ints(0))),
            (1, ops.Unsqueeze(new, ints(0))),
        )
    ]
    squeezed = [ops.Squeeze(part, ints(1)) for part in parts]
    graph = Graph(
        [past, new], [ops.Concat(*squeezed, axis=0)], output_names=["present"]
    )
    assert names(graph) == [("past", "present")]


def test_a_state_goes_through_branches() -> None:
    old, new = given("old", 2, 8), given("new", 2, 8)
    inner = [given(name, 2, 8) for name in ("a", "b")]
    bodies = [
        Graph(inner, [ops.Identity(v)], output_names=["y"])
        for v in (inner[0], ops.Relu(inner[1]))
    ]
    flag = Parameter(tensor(DType.BOOL), "flag")
    made = ops.If(flag, old, ops.Relu(new), bodies=bodies)
    graph = Graph([old, new, flag], [made], output_names=["state"])
    assert names(graph) == [("old", "state")]


def crossing(*outputs: str) -> Graph:
    """Two inputs, either of which may come back as either output."""
    old = [given("past.key", 2, 8), given("past.value", 2, 8)]
    flag = Parameter(tensor(DType.BOOL), "flag")
    made = [ops.Where(flag, *old), ops.Where(ops.Not(flag), *old)]
    return Graph([*old, flag], made, output_names=outputs)


def test_names_decide_only_between_several() -> None:
    found = names(crossing("new.value", "new.key"))
    assert sorted(found) == [("past.key", "new.key"), ("past.value", "new.value")]
    assert names(crossing("a", "b")) == []


def test_what_is_computed_is_no_cache() -> None:
    x, new = given("x", 2, 8), given("new", 2, 8)
    graph = Graph([x, new], [ops.Add(x, new)], output_names=["y"])
    assert names(graph) == []
    assert [c.names for c in caches(graph, {"x": "y"})] == [("x", "y")]


def test_ties_go_before_what_is_found() -> None:
    graph = decoding()
    found = caches(graph, {"past.0.k": "present.0.v"})
    assert [c.names for c in found] == [("past.0.k", "present.0.v")]
    assert [line.partition(" replaces ")[2] for line in replaced(found)] == [
        "past.0.k=present.0.k, which the graph shows",
        "past.0.v=present.0.v, which the graph shows",
    ]
    assert not list(replaced(caches(graph, {"past.0.k": "present.0.k"})))


@pytest.mark.parametrize(
    ("ties", "said"),
    [
        ({"past.0.q": "present.0.k"}, "no input is called 'past.0.q'"),
        ({"past.0.k": "present.0.q"}, "no output is called 'present.0.q'"),
        ({"x": "present.0.k"}, "differ in more than one dim"),
        ({"present.0.k": "past.0.k"}, "the input comes first, past.0.k=present.0.k"),
        ({"past.0.k": "present.0.v", "past.0.v": "present.0.v"}, "tied twice"),
    ],
)
def test_ties_that_cannot_be(ties: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        caches(decoding(), ties)


# --- planned ------------------------------------------------------------------------


def lying(planner: Planner, memory: float = math.inf) -> tuple[list[str], list[str]]:
    """How caches come in and go out."""
    plan, graph = planner.plan(memory), planner.graph
    given = plan.decisions.given
    outputs = dict(zip(graph.output_names, plan.decisions.outputs, strict=True))
    found = caches(graph)
    return [str(given[c.past]) for c in found], [str(outputs[c.name]) for c in found]


@pytest.mark.parametrize("mesh", ["2", "2x4"])
def test_a_cache_comes_back_as_it_came(mesh: str) -> None:
    graph = decoding(3)
    ties = [c.names for c in caches(graph)]
    tied = Planner(graph, machine(mesh), ties=ties)
    past, present = lying(tied)
    assert past == present
    free, plan = Planner(graph, machine(mesh)).plan(), tied.plan()
    assert plan.seconds >= free.seconds * (1 - 1e-9)
    devices = tied.machine.mesh.devices
    assert plan.stored > 2 * len(ties) * 4 * BATCH * PAST * WIDTH / devices


def test_the_plan_is_the_best_of_all_common_layouts() -> None:
    """Where memory makes the past and what comes of it lie apart, if they may."""
    graph, at = decoding(), machine("4")
    names = [c.names for c in caches(graph)]
    shape = (BATCH, HEADS, PAST + 1, EACH)
    common = [x for x in layouts(shape, at.mesh) if x != (Split(2),)]

    def fixed(k: object, v: object) -> float:
        lying = dict(zip("kv", (k, v), strict=True))
        inputs = {f"past.0.{what}": x for what, x in lying.items()}
        outputs = {f"present.0.{what}": x for what, x in lying.items()}
        made = Planner(graph, at, inputs=inputs, outputs=outputs)  # type: ignore[arg-type]
        return made.plan().seconds

    every = [fixed(k, v) for k in common for v in common]
    best = Planner(graph, at, ties=names).plan().seconds
    assert best == pytest.approx(min(every), rel=1e-9)


def test_ties_move_what_would_lie_apart() -> None:
    """Keys come in by heads, and are wanted by batch: free, they go out as they are."""
    graph, at = decoding(), machine("2")
    ties = [c.names for c in caches(graph)]
    given = {"past.0.k": (Split(1),)}
    wanted = {"present.0.k": (Split(0),)}
    apart = Planner(graph, at, inputs=given, outputs=wanted)
    assert lying(apart)[0][0] != lying(apart)[1][0]
    with pytest.raises(UsageError, match="are tied"):
        Planner(graph, at, inputs=given, outputs=wanted, ties=ties)
    bound = Planner(graph, at, inputs=given, ties=ties)
    assert lying(bound)[0] == lying(bound)[1]


def test_what_is_handed_on_as_it_is() -> None:
    """A cache that no step adds to, as of an encoder's keys."""
    past, x = given("past", 8, 8, 64, 64), given("x", 8, 8, 1, 64)
    scores = ops.MatMul(x, ops.Transpose(past, perm=(0, 1, 3, 2)))
    graph = Graph(
        [past, x], [scores, ops.Identity(past)], output_names=["y", "present"]
    )
    assert names(graph) == [("past", "present")]
    came, went = lying(Planner(graph, machine("2x2"), ties=names(graph)))
    assert came == went


def test_one_tie_of_several_layers() -> None:
    """Classes of equal inputs fall apart, or lie alike altogether."""
    planner = Planner(decoding(2), machine("2"), ties=[("past.0.k", "present.0.k")])
    past, present = lying(planner)
    assert past[0] == present[0]
