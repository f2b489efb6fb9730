"""Levels, choices of passes, targets, opsets, plugins; never worse; results."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from broken import Bloat, Damp

import graphopt
from graphopt import (
    CheckFailed,
    Graph,
    Outcome,
    Pass,
    UsageError,
    driver,
    plugins,
    rule,
)
from graphopt.ir import Parameter
from graphopt.lowering.ort.upsampling import GrowByConvolving
from graphopt.ops import Add, Constant, Exp, Log as Logarithm, Mul, Neg, Relu
from graphopt.passes import ALL
from graphopt.rewrite import Log
from graphopt.types import DType, tensor

F = tensor(DType.F32, 4)


@pytest.fixture
def graph() -> Graph:
    x = Parameter(F, "x")
    one = Constant(np.float32(1))
    return Graph([x], [Relu(Mul(Add(x, x), one))], output_names=["y"])


def names(pipeline: graphopt.Pipeline) -> list[str]:
    return [pass_.name for pass_ in pipeline.passes]


def test_levels() -> None:
    assert driver.choose(level=0).passes == ()
    exact = driver.choose(level=1).passes
    assert exact
    assert all(p.limited_to_exact() == p for p in exact)
    assert names(driver.choose()) == [cls.name for cls in ALL]
    with pytest.raises(UsageError, match="level 3"):
        driver.choose(level=3)


def test_level_0_changes_nothing(graph: Graph) -> None:
    assert graphopt.optimize(graph, level=0).graph is graph


def test_only_these_passes() -> None:
    chosen = driver.choose(passes=["fold(limit=10)", "casts"])
    assert names(chosen) == ["fold", "casts"]
    assert str(chosen.passes[0]) == "fold(limit=10)"


def test_add_replaces_or_appends_and_skip_removes() -> None:
    chosen = driver.choose(add=["fold(limit=7)", Damp()], skip=["casts"])
    usual = [cls.name for cls in ALL]
    assert names(chosen) == [n for n in usual if n != "casts"] + ["damp"]
    assert "fold(limit=7)" in map(str, chosen.passes)


@pytest.mark.parametrize("option", ["passes", "add", "skip"])
def test_unknown_passes_are_named(option: str) -> None:
    with pytest.raises(UsageError, match=r"'flod'.*did you mean 'fold'"):
        driver.choose(**{option: ["flod"]})  # type: ignore[arg-type]


def test_unknown_target(graph: Graph) -> None:
    with pytest.raises(UsageError, match=r"'onxx'.*did you mean 'onnx'"):
        graphopt.optimize(graph, "onxx")


def test_optimize_a_graph(graph: Graph) -> None:
    result = graphopt.optimize(graph)
    assert [op.kind for op in result.graph.ops] == ["Add", "Relu"]
    assert (result.report.ops.before, result.report.ops.after) == (3, 2)
    assert result.report.check is not None
    assert result.report.check.passed
    assert result.original is graph


def test_never_worse(graph: Graph) -> None:
    result = graphopt.optimize(graph, passes=[Bloat()])
    assert result.graph is graph
    assert any("kept the original" in note for note in result.report.notes)
    assert any("2 --> 4" in n or "3 --> 5" in n for n in result.report.notes)


class Parts(Pass):
    """f(x)   -->   -(-f(x)), which is said to be work that is written out in parts"""

    unrolls = True

    def run(self, graph: Graph, log: Log) -> Graph:
        if any(isinstance(op, Neg) for op in graph.ops):
            return graph
        return graph.replace(outputs=[Neg(Neg(v)) for v in graph.outputs])


def test_what_was_written_out_in_parts_may_be_more_ops_but_no_other_work(
    graph: Graph,
) -> None:
    assert graphopt.optimize(graph, passes=[Parts()], check="off").graph is not graph
    for others in ([Bloat(), Parts()], [Parts(), Bloat()]):
        assert graphopt.optimize(graph, passes=others, check="off").graph is graph


def test_more_weights_are_worse() -> None:
    x = Parameter(tensor(DType.F32, 1), "x")
    small = Graph([x], [Add(Relu(x), Constant(np.ones(1, np.float32)))])
    big = Graph([x], [Add(x, Constant(np.ones(1 << 20, np.float32)))])
    assert "bytes" in driver.reason_to_keep(small, big)
    assert "ops" in driver.reason_to_keep(big, small)
    assert not driver.reason_to_keep(big, big)


def test_weights_grow_by_what_a_pass_of_the_target_may_add() -> None:
    """By 1 % for all others."""
    x = Parameter(tensor(DType.F32, 1), "x")
    sizes = [1000, 1009, 1040, 1060, 1070]
    old, *grown = [
        Graph([x], [Add(x, Constant(np.ones(n << 10, np.float32)))]) for n in sizes
    ]
    share = driver.choose(target="ort-cpu").growth
    assert share == GrowByConvolving.share
    fits = [not driver.reason_to_keep(old, each, share) for each in grown]
    assert fits == [True, True, True, False]
    for target in sorted(set(driver.TARGETS) - {"ort-cpu"}):
        share = driver.choose(target=target).growth
        fits = [not driver.reason_to_keep(old, each, share) for each in grown]
        assert fits == [True, False, False, False]


def test_nothing_to_do() -> None:
    x = Parameter(F, "x")
    result = graphopt.optimize(Graph([x], [Relu(x)]))
    assert "nothing to do" in result.report.notes


def test_a_failed_check_names_pass_rule_and_op(digits: Path) -> None:
    with pytest.raises(CheckFailed) as caught:
        graphopt.optimize(digits, add=[Damp()])
    assert "pass damp, rule damped_sigmoid, on Sigmoid node" in str(caught.value)
    assert not caught.value.check.passed  # type: ignore[attr-defined]


def test_check_off_runs_nothing(
    digits: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def forbidden(*args: object, **options: object) -> None:
        raise AssertionError("something ran")

    monkeypatch.setattr("graphopt.reference.Evaluator.run", forbidden)
    monkeypatch.setattr("graphopt.lowering.isolated.run", forbidden)
    result = graphopt.optimize(digits, add=[Damp()], check="off")
    done = result.save(tmp_path / "out.onnx")
    assert done.report.check is None
    assert done.report.trial is None


def test_the_users_inputs_are_checked_against(
    digits: Path, digits_inputs: Path
) -> None:
    with np.load(digits_inputs) as arrays:
        result = graphopt.optimize(digits, inputs=dict(arrays))
    assert result.report.check is not None
    assert result.report.check.outputs[0].size == 64 * 10
    with pytest.raises(UsageError, match="image"):
        graphopt.optimize(digits, inputs={"image": np.zeros((1, 8, 8), np.float32)})


def test_opsets(digits: Path, tmp_path: Path) -> None:
    def written(opset: int | str | None) -> tuple[int, set[str]]:
        result = graphopt.optimize(
            digits,
            opset=opset,  # type: ignore[arg-type]
            passes=["raise-gelu"],
        )
        path = tmp_path / f"{opset}.onnx"
        result.save(path)
        model = onnx.load(path)
        assert result.report.opset.after == model.opset_import[0].version
        return model.opset_import[0].version, {n.op_type for n in model.graph.node}

    for kept in (None, "keep"):
        version, kinds = written(kept)
        assert version == 17
        assert "Gelu" not in kinds
    version, kinds = written(20)
    assert version == 20
    assert "Gelu" in kinds  # which opset 17 lacks
    for bad in (16, 99, "newest"):
        with pytest.raises(UsageError, match=r"opset|go back"):
            graphopt.optimize(digits, opset=bad)  # type: ignore[arg-type]


def test_compile(digits: Path, digits_inputs: Path) -> None:
    run = graphopt.optimize(digits).compile("reference")
    with np.load(digits_inputs) as arrays:
        logits = run(images=arrays["images"])["logits"]
    labels = np.loadtxt(digits_inputs.with_name("digits.labels.txt"), dtype=int)
    assert (logits.argmax(1) == labels).all()
    assert run.used()["runtime"] == "numpy"


def test_save_refuses_the_original(digits: Path) -> None:
    before = digits.read_bytes()
    with pytest.raises(UsageError, match="is the input"):
        graphopt.optimize(digits).save(digits)
    assert digits.read_bytes() == before


def test_what_was_missed_is_told(digits: Path) -> None:
    result = graphopt.optimize(digits)
    missed = driver.missed(result)
    assert all(m.reason and m.ops for m in missed)
    assert any("Mul node" in op for m in missed for op in m.ops)


# --- plugins ------------------------------------------------------------------------


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package that offers three passes, two of them broken."""
    (tmp_path / "plugged_passes.py").write_text(
        '''
from dataclasses import dataclass
from graphopt import RulePass, rule
from graphopt.ops import Exp, Log

@rule(exact=False)
def exp_of_log(op: Exp):
    """exp(log(x)) = x"""
    inner = op.operands[0]
    return inner.operands[0] if isinstance(inner, Log) else None

@dataclass(frozen=True)
class CancelExp(RulePass):
    """exp(log(x))   -->   x"""
    def rules(self):
        return (exp_of_log,)

Other = int
'''
    )
    info = tmp_path / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[graphopt.passes]\n"
        "cancel-exp = plugged_passes:CancelExp\n"
        "not-a-pass = plugged_passes:Other\n"
        "not-there = plugged_nowhere:Nothing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plugins.plugins.cache_clear()
    yield
    plugins.plugins.cache_clear()
    sys.modules.pop("plugged_passes", None)


def test_a_rule_is_no_pass() -> None:
    @rule
    def mine(op: Exp) -> Outcome:
        """exp(x) = ?"""
        return None

    for add in (mine, [mine]):
        with pytest.raises(UsageError, match=r"mine is a rule, no pass.*RulePass"):
            driver.choose(add=add)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no pass: 3"):
        driver.choose(passes=[3])  # type: ignore[list-item]


@pytest.mark.usefixtures("plugged")
def test_a_plugin_pass_runs() -> None:
    x = Parameter(F, "x")
    graph = Graph([x], [Exp(Logarithm(x))])
    result = graphopt.optimize(graph, add=["cancel-exp"])
    assert result.graph.outputs == (x,)
    assert "cancel-exp" in plugins.KNOWN


@pytest.mark.usefixtures("plugged")
@pytest.mark.parametrize(
    ("name", "reason"),
    [("not-a-pass", "no subclass of graphopt.Pass"), ("not-there", "plugged_nowhere")],
)
def test_a_broken_plugin_says_so(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        driver.choose(add=[name])
    assert name in str(caught.value)
    assert "plugged" in str(caught.value)
    driver.choose(add=["fold"])  # and harms nobody else
