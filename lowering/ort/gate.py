"""Nothing is made that ONNX Runtime has no kernel for: rules, each behind the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir import Op, Value, postorder
from graphopt.pipeline import RulePass
from graphopt.rewrite import Miss, Outcome, Rule, Scene, miss

from .costs import pays
from .kernels import Kernels


def gated(rule: Rule, provider: str) -> Rule:
    """The rule, which misses where what it would make has no kernel."""
    kernels = Kernels.of(provider)

    def apply(op: Op, scene: Scene) -> Outcome:
        outcome = rule.apply(op, scene)
        if outcome is None or isinstance(outcome, Miss):
            return outcome
        for made in _made(outcome, op, scene):
            reason = kernels.why_not(made)
            if reason is not None:
                return miss(reason, op)
        return outcome

    return dataclasses.replace(rule, apply=apply)


def _made(
    outcome: Value | Sequence[Value] | Mapping[Value, Value], op: Op, scene: Scene
) -> Iterator[Op]:
    """All ops that the new values need, but for those that were there before."""
    olds: list[Value] = [op, *scene.graph.outputs]
    if isinstance(outcome, Value):
        values: Sequence[Value] = (outcome,)
    elif isinstance(outcome, Mapping):
        values = tuple(outcome.values())
        olds += outcome
    else:
        values = tuple(outcome)
    known = set(postorder(olds))
    pending = list(values)
    while pending:
        made = pending.pop().op
        if made is not None and made not in known:
            known.add(made)
            yield made
            pending.extend([v for v in made.operands if v is not None])


@dataclass(frozen=True)
class GatedPass(RulePass):
    """A pass of rules for ONNX Runtime: ``provider`` is the one that must run it."""

    provider: str = "cpu"

    def equations(self) -> Sequence[Rule]:
        """The rules, as if every op had a kernel."""
        raise NotImplementedError

    def rules(self) -> Sequence[Rule]:
        return [gated(rule, self.provider) for rule in self.equations()]


@dataclass(frozen=True)
class Fusion(GatedPass):
    """A pass that makes ONNX Runtime's own ops: all, or those that are not slower.

    A twin is an op of the runtime's that means just the same as one of ONNX; it is made
    where that one has no kernel.
    """

    most: bool = False

    def fusions(self) -> Sequence[Rule]:
        """The rules that leave fewer ops."""
        raise NotImplementedError

    def twins(self) -> Sequence[Rule]:
        """The rules that leave as many ops."""
        return ()

    def equations(self) -> Sequence[Rule]:
        fusions = list(self.fusions())
        if not self.most:
            fusions = [paying(rule, self.provider) for rule in fusions]
        return [*fusions, *(lacking(rule, self.provider) for rule in self.twins())]


def paying(rule: Rule, provider: str) -> Rule:
    """The rule, for ops only whose fused kernel is not slower."""

    def apply(op: Op, scene: Scene) -> Outcome:
        outcome = rule.apply(op, scene)
        if outcome is None or isinstance(outcome, Miss):
            return outcome
        if not pays(rule.name, provider, op.results[0]):
            return miss("the fused kernel is slower", op)
        return outcome

    return dataclasses.replace(rule, apply=apply)


def lacking(rule: Rule, provider: str) -> Rule:
    """The rule, for ops only that have no kernel themselves."""
    kernels = Kernels.of(provider)

    def apply(op: Op, scene: Scene) -> Outcome:
        if kernels.why_not(op, opset=kernels.opset) is None:
            return None
        return rule.apply(op, scene)

    return dataclasses.replace(rule, apply=apply)
