"""The rewriting driver: fixpoint, bodies, several roots, use counts, bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.errors import TypeMismatch, UsageError
from graphopt.ir import Graph, Parameter, Value
from graphopt.ops import Add, Concat, Constant, If, Mul, Neg, Relu, Split, Sub
from graphopt.rewrite import Log, Outcome, RewriteLimit, Scene, miss, rewrite, rule
from graphopt.types import DType, TensorType, tensor

F = tensor(DType.F32, 3)


@pytest.fixture
def x() -> Parameter:
    return Parameter(F, "x")


@rule
def double_negation(op: Neg) -> Outcome:
    """-(-x) = x"""
    inner = op.operands[0]
    return inner.operands[0] if isinstance(inner, Neg) else None


def negated(x: Value, times: int) -> Value:
    for _ in range(times):
        x = Neg(x)
    return x


def test_chain_to_fixpoint(x: Parameter) -> None:
    graph = Graph([x], [negated(x, 7)])
    assert rewrite(graph, [double_negation]).outputs == (Neg(x),)


def test_deep_chain_is_iterative(x: Parameter) -> None:
    value: Value = x
    for _ in range(100_000):
        value = Relu(value)
    graph = Graph([x], [Neg(Neg(value))])
    done = rewrite(graph, [double_negation])
    assert len(done.ops) == 100_000
    assert done.outputs == (value,)


def test_nothing_fires_gives_the_same_object(x: Parameter) -> None:
    graph = Graph([x], [Neg(x)])
    assert rewrite(graph, [double_negation]) is graph


def test_equal_results_merge(x: Parameter) -> None:
    graph = Graph([x], [Relu(negated(x, 2)), Relu(x)])
    done = rewrite(graph, [double_negation])
    assert done.outputs[0] is done.outputs[1]


def test_names_and_sources_follow(x: Parameter) -> None:
    inner, outer = Neg(x), Relu(negated(x, 2))
    graph = Graph(
        [x],
        [outer, inner],
        names={outer: "out"},
        sources={outer: ("relu_node",), inner: ("neg_node",)},
    )
    done = rewrite(graph, [double_negation])
    assert done.names[done.outputs[0]] == "out"
    assert done.sources[done.outputs[0].op] == ("relu_node",)


def test_made_ops_stand_for_the_nodes_they_replace(x: Parameter) -> None:
    @rule
    def spell(op: Neg) -> Outcome:
        """-x = (0 - x) * 1"""
        zero = Constant(np.zeros((), np.float32))
        one = Constant(np.ones((), np.float32))
        return Mul(Sub(zero, op.operands[0]), one)

    root = Neg(x)
    graph = Graph([x], [root], sources={root: ("n",)})
    done = rewrite(graph, [spell])
    work = [op for op in done.ops if not isinstance(op, Constant)]
    assert [type(op) for op in work] == [Sub, Mul]
    assert all(done.sources[op] == ("n",) for op in work)


@pytest.mark.parametrize("form", ["value", "sequence", "mapping"])
def test_a_result_of_another_type_is_refused(
    x: Parameter, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    @rule
    def wrong(op: Neg) -> Outcome:
        """neg(x) = concat(x, x), which is longer"""
        made = Concat(op.operands[0], op.operands[0], axis=0)
        outcomes = {"value": made, "sequence": [made], "mapping": {op: made}}
        return outcomes[form]

    graph = Graph([x], [Relu(Neg(x))])
    monkeypatch.setenv("GRAPHOPT_VERIFY", "0")
    said: list[str] = []
    log = Log(on_miss=lambda rule, op, miss: said.append(miss.reason))
    assert rewrite(graph, [wrong], log=log) is graph
    assert said == ["what it makes does not fit: f32[6] is not f32[3]"]
    assert not log.fired
    monkeypatch.setenv("GRAPHOPT_VERIFY", "1")
    with pytest.raises(TypeMismatch, match=r"f32\[6\] is not f32\[3\]"):
        rewrite(graph, [wrong])


def test_rewrites_inside_bodies(x: Parameter) -> None:
    condition = Parameter(tensor(DType.BOOL), "c")
    inner = Parameter(F, "inner")
    body = Graph([inner], [negated(inner, 2)])
    other = Parameter(F, "other")
    negation = Graph([other], [Neg(other)])
    graph = Graph(
        [condition, x],
        [If(condition, x, bodies=(body, negation), captures=1)],
    )
    done = rewrite(graph, [double_negation])
    (op,) = done.ops
    assert op.bodies[0].outputs == op.bodies[0].inputs


def test_several_roots_at_once(x: Parameter) -> None:
    @rule
    def swap(op: Relu, scene: Scene) -> Outcome:
        """relu(x), neg(x) = mul(x, x), add(x, x)   (wrong, but several at once)"""
        (v,) = op.operands
        negs = [u for u, _ in scene.graph.users.get(v, []) if isinstance(u, Neg)]
        return {op: Mul(v, v), negs[0]: Add(v, v)} if negs else None

    graph = Graph([x], [Relu(x), Neg(x)])
    assert rewrite(graph, [swap]).outputs == (Mul(x, x), Add(x, x))


def test_replacements_that_feed_each_other_are_refused(x: Parameter) -> None:
    from graphopt.rewrite import substitute

    a, b = Relu(x), Neg(x)
    with pytest.raises(RewriteLimit):
        substitute(Graph([x], [Add(a, b)]), {a: Relu(b), b: Neg(a)})


def test_a_rule_that_would_feed_itself_costs_only_its_outcome(
    x: Parameter, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = Relu(x), Neg(Relu(x))

    @rule
    def wrong(op: Neg) -> Outcome:
        """relu(x) = relu(-relu(x)), and x + y = y + x"""
        return {op: op, first: Relu(op)} if op is last else None

    graph = Graph([x], [Add(first, last)])
    monkeypatch.setenv("GRAPHOPT_VERIFY", "0")
    assert rewrite(graph, [wrong]) is graph

    @rule
    def both(op: Neg) -> Outcome:
        """The same, and sqrt = relu   (wrong, but feeds nothing)"""
        return {op: op, first: Relu(op), Mul(x, x): Relu(x)} if op is last else None

    graph = Graph([x], [Add(first, last), Mul(x, x)])
    assert rewrite(graph, [both]).outputs == (Add(first, last), first)
    monkeypatch.setenv("GRAPHOPT_VERIFY", "1")
    with pytest.raises(RewriteLimit, match="feed itself"):
        rewrite(graph, [wrong])


def test_single_use_condition(x: Parameter) -> None:
    @rule
    def drop(op: Neg, scene: Scene) -> Outcome:
        """neg(relu(x)) = x where relu(x) is read once   (wrong, but counts)"""
        inner = op.operands[0]
        if not isinstance(inner, Relu):
            return None
        return inner.operands[0] if scene.single(inner) else miss("shared", inner)

    shared = Relu(x)
    once = Graph([x], [Neg(shared)])
    twice = Graph([x], [Neg(shared), shared])
    assert rewrite(once, [drop]).outputs == (x,)
    assert rewrite(twice, [drop]) is twice


def test_use_counts_fall_within_one_sweep(x: Parameter) -> None:
    """The second reader of ``relu`` vanishes before the rule looks at the first."""

    @rule
    def forget(op: Sub) -> Outcome:
        """x - y = x   (wrong, but drops a reader)"""
        return op.operands[0]

    @rule
    def drop(op: Neg, scene: Scene) -> Outcome:
        """neg(relu(x)) = x where relu(x) is read once"""
        inner = op.operands[0]
        ok = isinstance(inner, Relu) and scene.single(inner)
        return inner.operands[0] if ok and isinstance(inner, Relu) else None

    relu = Relu(x)
    graph = Graph([x], [Add(Sub(x, relu), Neg(relu))])
    done = rewrite(graph, [forget, drop], sweeps=1)
    assert done.outputs == (Add(x, x),)


def test_rules_that_undo_each_other_end(x: Parameter) -> None:
    @rule
    def there(op: Neg) -> Outcome:
        """-x = relu(x)   (wrong)"""
        return Relu(op.operands[0])

    @rule
    def back(op: Relu) -> Outcome:
        """relu(x) = abs(neg(x))   (wrong, grows for ever)"""
        return Relu(Neg(Sub(op.operands[0], op.operands[0])))

    with pytest.raises(RewriteLimit, match="does not come to an end"):
        rewrite(Graph([x], [Neg(x)]), [there, back])


def test_misses_carry_their_reason(x: Parameter) -> None:
    @rule
    def never(op: Neg) -> Outcome:
        """-x = ?"""
        return miss("no reason", op.operands[0])

    seen: list[str] = []
    log = Log(on_miss=lambda r, op, m: seen.append(f"{r.name}: {m.reason}"))
    rewrite(Graph([x], [Neg(x)]), [never], log=log)
    assert seen == ["never: no reason"]


def test_a_rule_on_several_kinds(x: Parameter) -> None:
    @rule
    def first(op: Neg | Relu) -> Outcome:
        """f(x) = x   (wrong)"""
        return op.operands[0]

    assert rewrite(Graph([x], [Neg(Relu(x))]), [first]).outputs == (x,)
    assert first.kinds == (Neg, Relu)


def test_a_rule_without_an_annotation_says_so() -> None:
    def bad(op) -> Outcome:  # type: ignore[no-untyped-def]
        return None

    def worse(op: Parameter) -> Outcome:
        return None

    for function in (bad, worse, lambda: None):
        name = function.__name__
        with pytest.raises(
            UsageError, match=f"first parameter of the rule {name} .*Add"
        ):
            rule(function)


@pytest.mark.parametrize(
    "outcome", [3, "x", [3], {Parameter(F, "x"): 3}, [Parameter(F, "x")] * 2]
)
def test_what_is_no_outcome_names_the_rule(x: Parameter, outcome: object) -> None:
    @rule
    def wrong(op: Neg) -> Any:
        """-x = ?"""
        return outcome

    with pytest.raises(UsageError, match="a rule gave") as caught:
        rewrite(Graph([x], [Neg(x)], names={Neg(x): "n"}), [wrong])
    assert caught.value.__notes__ == ["[rule wrong, on Neg that gives 'n']"]


@pytest.mark.parametrize("kept", [0, 1])
def test_a_rule_may_leave_one_of_several_results_alone(x: Parameter, kept: int) -> None:
    @rule
    def half(op: Split) -> Outcome:
        """one part of split(x) = relu of x's part   (wrong, but only one)"""
        results = list(op.results)
        results[1 - kept] = Relu(x)
        return results

    sizes = Parameter(tensor(DType.I64, 2), "sizes")
    parts = Split(x, sizes, outs=2).results
    done = rewrite(Graph([x, sizes], [Neg(parts[0]), Neg(parts[1])]), [half], sweeps=1)
    assert done.outputs[kept] is Neg(parts[kept])
    assert done.outputs[1 - kept] is Neg(Relu(x))


@rule
def longer(op: Neg) -> Outcome:
    """neg(x) = [1 1 1 1 1 1]: of a size that was not known"""
    ones = Constant(np.ones(3, np.float32))
    return Concat(ones, ones, axis=0)


def test_a_body_that_turns_out_never_to_run_stays(x: Parameter) -> None:
    """Its op does not fit what the rule makes; the other body is rewritten."""
    c = Parameter(tensor(DType.BOOL), "c")
    bodies = []
    for wrong in (False, True):
        inner = Parameter(TensorType(DType.F32), "inner")
        some = Parameter(tensor(DType.F32, None), "some")
        sized = Parameter(x.type, "sized")
        y = Add(Neg(some), sized if wrong else inner)
        bodies.append(Graph([inner, some, sized], [y]))
    op = If(c, x, x, x, bodies=bodies, captures=3)
    graph = Graph([x, c], [op]).replace(sources={op: ("which",)})
    log = Log()
    made = rewrite(graph, [longer], log=log)
    then, other = made.outputs[0].op.bodies
    assert any(isinstance(op, Concat) for op in then.ops)
    assert other.key == bodies[1].key
    assert log.fired == {"longer": 1}
    (why,) = log.never
    assert why.startswith("the else branch of the If node 'which': Add(")
    some = Parameter(tensor(DType.F32, None), "some")
    lone = Graph([x, some], [Add(Neg(some), x)])
    with pytest.raises(TypeMismatch):
        rewrite(lone, [longer])
