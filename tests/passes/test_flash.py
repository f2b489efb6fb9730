"""Attention by blocks of keys: the same means, whatever is hidden."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from equations import graph_of, param

from graphopt.dims import symbol
from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Parameter, Value
from graphopt.lowering import find
from graphopt.ops import Attention, Constant, Tiled
from graphopt.passes import Flash
from graphopt.passes.memory.attended import Sizes
from graphopt.passes.tiling import flash
from graphopt.passes.tiling.flash import by_keys
from graphopt.passes.tiling.needs import Meter
from graphopt.plan import Plan
from graphopt.reference import evaluate
from graphopt.rewrite import Log, Miss
from graphopt.types import DType
from graphopt.verify import verify

BOOL = DType.BOOL
MASKS: dict[str, tuple[Parameter | None, dict[str, Any]]] = {
    "nothing": (None, {}),
    "a scale": (None, {"scale": 0.3}),
    "later keys": (None, {"is_causal": 1}),
    "distant keys": (None, {"left_window_size": 2, "right_window_size": 1}),
    "a condition": (param("mask", 2, 1, 12, 12, dtype=BOOL), {}),
    "a condition for all queries": (param("mask", 2, 1, 1, 12, dtype=BOOL), {}),
    "later keys and a bias": (param("mask", 12, 12), {"is_causal": 1}),
    "a cap": (None, {"softcap": 2.0}),
}


def attention(
    mask: Parameter | None, attrs: dict[str, Any], *, shared: int = 4, flat: bool
) -> tuple[Graph, Attention]:
    if flat:
        q, k, v = (
            param(name, 2, 12, heads * size)
            for name, heads, size in (("q", 4, 4), ("k", shared, 4), ("v", shared, 3))
        )
        attrs = {**attrs, "q_num_heads": 4, "kv_num_heads": shared}
    else:
        q, k, v = (
            param(name, 2, heads, 12, size)
            for name, heads, size in (("q", 4, 4), ("k", shared, 4), ("v", shared, 3))
        )
    op = Attention(q, k, v, mask, **attrs)
    inputs = [q, k, v, *([mask] if mask is not None else [])]
    return Graph(inputs, [op]), op


@pytest.mark.parametrize("flat", [False, True], ids=["split", "flat"])
@pytest.mark.parametrize("shared", [4, 2])
@pytest.mark.parametrize("hidden", MASKS)
def test_blocks_are_the_whole(hidden: str, shared: int, flat: bool) -> None:
    graph, op = attention(*MASKS[hidden], shared=shared, flat=flat)
    fed = random_inputs(graph, seed=3)
    truth = evaluate(graph, fed, precision="float64")
    found = [by_keys(op, size) for size in (4, 5, 11)]
    for value in found:
        assert not isinstance(value, Miss), value
        made = Graph(graph.inputs, [value])
        verify(made)
        result = evaluate(made, fed, precision="float64")
        np.testing.assert_allclose(result, truth, rtol=1e-10, atol=1e-10)
    both = Flash(keys=5, queries=4)(graph)
    verify(both)
    assert not any(isinstance(inner, Attention) for _, inner in both.walk())
    result = evaluate(both, fed, precision="float64")
    np.testing.assert_allclose(result, truth, rtol=1e-10, atol=1e-10)


def test_a_query_without_keys_gives_zeros() -> None:
    mask = param("mask", 12, 12, dtype=BOOL)
    graph, op = attention(mask, {}, flat=False)
    fed = random_inputs(graph, seed=4)
    fed["mask"] = np.ones((12, 12), bool)
    fed["mask"][3] = False
    fed["mask"][5, :7] = False
    value = by_keys(op, 5)
    assert not isinstance(value, Miss)
    (found,) = evaluate(Graph(graph.inputs, [value]), fed)
    (truth,) = evaluate(graph, fed)
    assert (found[:, :, 3] == 0).all()
    np.testing.assert_allclose(found, truth, rtol=1e-5, atol=1e-6)


def test_large_scores_do_not_overflow() -> None:
    graph, op = attention(None, {"scale": 1.0}, flat=False)
    fed = {n: 40 * x for n, x in random_inputs(graph, seed=5).items()}
    value = by_keys(op, 5)
    assert not isinstance(value, Miss)
    (found,) = evaluate(Graph(graph.inputs, [value]), fed)
    (truth,) = evaluate(graph, fed, precision="float64")
    np.testing.assert_allclose(found, truth, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("target", ["ort-cpu", "xla-cpu"])
def test_targets_run_the_blocks(target: str) -> None:
    pytest.importorskip("onnxruntime" if target == "ort-cpu" else "jax")
    graph, _ = attention(*MASKS["later keys"], flat=True)
    fed = random_inputs(graph, seed=6)
    made = Flash(keys=5, queries=4)(graph.with_header(opsets={"": 23}))
    found = find(target).compile(made, Plan())(fed)
    truth = evaluate(graph, fed)
    np.testing.assert_allclose(
        next(iter(found.values())), truth[0], rtol=1e-4, atol=1e-5
    )


def test_scores_are_never_whole() -> None:
    q, k, v = (param(name, 1, 8, 1024, 16) for name in "qkv")
    graph = Graph([q, k, v], [Attention(q, k, v)])
    meter = Meter({})
    scores = 4 * 8 * 1024 * 1024
    assert meter.needs(graph).peak >= scores
    made = Flash(keys=128, queries=64)(graph)
    assert meter.needs(made).peak < 3 * 4 * 8 * 1024 * 16 + scores // 16
    (outer,) = (op for op in made.ops if isinstance(op, Tiled))
    (inner,) = (op for op in outer.bodies[0].ops if isinstance(op, Tiled))
    assert (outer.count, inner.count) == (16, 8)


def test_few_keys_stay() -> None:
    graph, _ = attention(None, {}, flat=False)
    log = Log()
    assert Flash().run(graph, log) is graph
    assert not log.fired


def test_each_attention_is_looked_at_and_built_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of one query no tiles of queries can be: what is asked in vain stays asked."""
    asked, built = Counter[Attention](), 0
    look, run = flash.sizes_of, flash._Blocks.run

    def looked(op: Attention) -> Sizes | Miss:
        asked[op] += 1
        return look(op)

    def counted(self: Any) -> Any:
        nonlocal built
        built += 1
        return run(self)

    monkeypatch.setattr(flash, "sizes_of", looked)
    monkeypatch.setattr(flash._Blocks, "run", counted)
    value: Value = param("q", 1, 1, 1, 8)
    k = param("k", 1, 1, 2048, 8)
    for _ in range(12):
        value = Attention(value, k, k)
    log = Log()
    Flash().run(graph_of(value), log)
    assert max(asked.values()) <= 4  # twice whether, what is said of it, when built
    assert built == 12
    assert log.fired["by_keys"] == 12
    assert log.notes == ["12 x attention in a loop over blocks, 512 keys"]


@pytest.mark.parametrize(
    ("attrs", "reason"),
    [({"outs": 3}, "other results"), ({"lengths": True}, "lengths")],
)
def test_what_blocks_cannot_say(attrs: dict[str, Any], reason: str) -> None:
    q = param("q", 2, 4, 12, 4)
    if "lengths" in attrs:
        lengths = Constant(np.array([12, 7], np.int64))
        op = Attention(q, q, q, None, None, None, lengths)
    else:
        op = Attention(q, q, q, **attrs)
    made = by_keys(op, 4)
    assert isinstance(made, Miss)
    assert reason in made.reason


def test_unknown_dims_are_a_reason() -> None:
    q = param("q", symbol("n"), 4, 12, 4)
    made = by_keys(Attention(q, q, q), 4)
    assert isinstance(made, Miss)
    assert "dims are not known" in made.reason
