"""Regions: branches that are known, captures that a body does not need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir import Graph, Op, Parameter, Value, rebuild
from graphopt.ops import Constant, If, Loop, Scan
from graphopt.pipeline import RulePass
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule

from .match import uniform


@rule
def known_branch(op: If, scene: Scene) -> Outcome:
    """if(true, f, g) = f"""
    known = uniform(op.operands[0])
    if known is None:
        return None
    return inline(op.bodies[0 if bool(known) else 1], op.operands[1:], scene)


def inline(
    body: Graph, arguments: Sequence[Value | None], scene: Scene
) -> tuple[Value, ...]:
    """The body's results on ``arguments``.

    Random and opaque ops get new tokens, so that two inlined copies never merge.
    """
    base = scene.new_tokens()
    mapping: dict[Value, Value] = {
        p: v for p, v in zip(body.inputs, arguments, strict=True) if v is not None
    }
    return _renewed(body, base, mapping).outputs


def _renewed(body: Graph, base: int, mapping: Mapping[Value, Value]) -> Graph:
    def build(op: Op, operands: tuple[Value | None, ...]) -> Op:
        return op.copy(
            operands=operands,
            bodies=[_renewed(inner, base, {}) for inner in op.bodies],
            token=op.token and base + op.token,
        )

    return rebuild(body, build, mapping)


@rule
def constant_capture(op: If | Loop | Scan) -> Outcome:
    """A body holds the constants it reads, and captures only what it reads"""
    first = len(op.operands) - len(op.captured)
    dropped: dict[int, Value | None] = {}
    for i in range(first, len(op.operands)):
        value = op.operands[i]
        if isinstance(value, Constant):
            dropped[i] = value
        elif not any(
            _reads(body, body.inputs[i - len(op.operands)]) for body in op.bodies
        ):
            dropped[i] = None
        elif _twin(op, first, i, dropped) is not None:
            dropped[i] = value
    if not dropped:
        return None
    operands = [v for i, v in enumerate(op.operands) if i not in dropped]
    bodies = [_without(body, op, first, dropped) for body in op.bodies]
    left = len(op.captured) - len(dropped)
    return op.copy(operands=operands, bodies=bodies, captures=left).results


def _twin(
    op: Op, first: int, at: int, dropped: Mapping[int, Value | None]
) -> int | None:
    """An earlier capture of the same value that stays."""
    before = range(first, at)
    same = (i for i in before if op.operands[i] is op.operands[at] and i not in dropped)
    return next(same, None)


def _reads(body: Graph, parameter: Parameter) -> bool:
    return body.uses.get(parameter, 0) > 0


def _without(
    body: Graph, op: Op, first: int, dropped: dict[int, Value | None]
) -> Graph:
    """The body with some captured parameters replaced by what they stand for."""
    offset = len(body.inputs) - len(op.operands)
    mapping: dict[Value, Value] = {}
    for i, value in dropped.items():
        parameter = body.inputs[i + offset]
        if isinstance(value, Constant):
            mapping[parameter] = value
        elif value is not None:
            twin = _twin(op, first, i, dropped)
            assert twin is not None
            mapping[parameter] = body.inputs[twin + offset]
    gone = {i + offset for i in dropped}
    kept = [p for i, p in enumerate(body.inputs) if i not in gone]
    return body.substitute(mapping).replace(inputs=kept)


@rule
def same_branches(op: If, scene: Scene) -> Outcome:
    """if(c, f, f) = f"""
    then, other = op.bodies
    if then.key != other.key:
        return miss("the branches differ")
    return inline(then, op.operands[1:], scene)


RULES: tuple[Rule, ...] = (known_branch, same_branches, constant_capture)


@dataclass(frozen=True)
class Regions(RulePass):
    """Take known branches; let bodies hold their constants.

    if(true, {x + 1}, {x - 1})   -->   x + 1
    """

    def rules(self) -> Sequence[Rule]:
        return RULES
