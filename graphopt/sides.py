"""Two graphs that are fed the same: inputs, and what ops without a reference give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from .errors import UsageError
from .feeds import bind
from .inputs import random_inputs, random_value
from .ir import Graph, Op, Value
from .pairs import Barrier, barriers
from .reference import has_reference
from .roles import Role, roles
from .types import TensorType
from .verify import clash

Array = Any


@dataclass(frozen=True)
class Setting:
    """How inputs are made: sizes of symbolic dims, seed and style of random numbers."""

    sizes: Mapping[str, int]
    seed: int = 0
    style: str = "normal"


@dataclass(frozen=True)
class Target:
    """One value that both sides compute; ``is_output`` unless it is an inner one."""

    name: str
    before: Value
    after: Value
    is_output: bool = True


@dataclass(frozen=True)
class Fed:
    """The values that both sides know before they run.

    ``same`` says which value of the graph before each known one of the other is.
    """

    before: dict[Value, Array]
    after: dict[Value, Array]
    same: dict[Value, Value]
    symbols: dict[str, int]


@dataclass(frozen=True)
class Sides:
    """The graph before and the graph after; ``free`` feeds the results of barriers."""

    before: Graph
    after: Graph
    inputs: Mapping[str, Array] | None = None
    free: bool = True

    @cached_property
    def barriers(self) -> list[Barrier]:
        return barriers(self.before, self.after)

    @cached_property
    def freed(self) -> dict[Value, Value | None]:
        """Results of ops without a reference that are fed, with their partners.

        Where the graph after needs such an op no more, any value must do for it.
        """
        if not self.free:
            return {}
        return {
            ours: theirs
            for barrier in self.barriers
            for ours, theirs in zip(
                barrier.before.results,
                [None] * barrier.before.outs
                if barrier.after is None
                else barrier.after.results,
                strict=True,
            )
            if isinstance(ours.type, TensorType)
            and ours.type.dtype is not None
            and ours.type.shape is not None
        }

    @cached_property
    def targets(self) -> list[Target]:
        """What can be compared: outputs, and operands of ops without a reference."""
        found = [
            Target(name, ours, theirs)
            for name, ours, theirs in zip(
                self.before.output_names,
                self.before.outputs,
                self.after.outputs,
                strict=True,
            )
        ]
        for barrier in self.barriers:
            if barrier.after is None:
                continue
            for i, ours in enumerate(barrier.before.operands):
                theirs = barrier.after.operand(i)
                if ours is not None and theirs is not None and ours.constant is None:
                    name = f"operand {i} of {barrier.name}"
                    found.append(Target(name, ours, theirs, is_output=False))
        ours_blocked = _blocked(self.before, self.freed.keys())
        theirs_blocked = _blocked(self.after, set(self.freed.values()))
        return [
            target
            for target in found
            if target.before not in ours_blocked and target.after not in theirs_blocked
        ]

    @cached_property
    def unchecked(self) -> tuple[str, ...]:
        """The ops without a reference, and the outputs that hang on them."""
        compared = {target.name for target in self.targets}
        lost = [name for name in self.before.output_names if name not in compared]
        known = {barrier.after for barrier in self.barriers}
        new = [op for op in self.after.ops if op not in known and not has_reference(op)]
        return (
            *(f"op {barrier.name}" for barrier in self.barriers),
            *(f"op {self.after.names.get(op.results[0], op.kind)}" for op in new),
            *(f"output {name}" for name in lost),
        )

    def feed(self, setting: Setting) -> Fed:
        """Values for both sides. Raises UsageError where the inputs do not fit."""
        given = self.inputs
        if given is None:
            given = random_inputs(
                self.before, setting.seed, setting.sizes, style=setting.style
            )
        ours, symbols = bind(self.before, given)
        theirs, _ = bind(self.after, given)
        same = zip(self.after.inputs, self.before.inputs, strict=True)
        fed = Fed(
            dict(ours.items()),
            dict(theirs.items()),
            dict(same),
            {**setting.sizes, **symbols},
        )
        uses = roles(self.before, self.freed, fed.symbols)
        for number, (mine, other) in enumerate(self.freed.items()):
            role, style = _drawn(mine.op, uses[mine], setting.style)
            array = random_value(
                mine.type, role, f"free {number}", setting.seed, fed.symbols, style
            )
            fed.before[mine] = array
            if other is not None:
                fed.after[other] = array
                fed.same[other] = mine
        return fed

    def without_free(self) -> Sides:
        """The same, where nothing behind an op without a reference is compared."""
        return replace(self, free=False)


def _drawn(op: Op | None, role: Role, style: str) -> tuple[Role, str]:
    kind = "" if op is None else op.kind
    if kind.startswith("RandomUniform"):
        return role, "unit"
    return (Role(mask=True), style) if kind == "Bernoulli" else (role, style)


def _blocked(graph: Graph, fed: Any) -> set[Value]:
    """Results that cannot be had: of ops without a reference, and what reads those."""
    blocked: set[Value] = set()
    for op in graph.ops:
        lost = any(v in blocked for v in op.operands)
        if lost or not has_reference(op):
            blocked.update(v for v in op.results if lost or v not in fed)
    return blocked


def interface_faults(before: Graph, after: Graph) -> Sequence[str]:
    """How the interface of the one graph differs from that of the other."""
    faults = []
    if after.input_names != before.input_names:
        faults.append(f"the inputs are {after.input_names}, not {before.input_names}")
    if after.output_names != before.output_names:
        faults.append(
            f"the outputs are {after.output_names}, not {before.output_names}"
        )
    if faults:
        return faults
    for ours, theirs in zip(before.inputs, after.inputs, strict=True):
        if clash(ours.type, theirs.type):
            faults.append(f"input {ours.name!r} is {theirs.type}, not {ours.type}")
        left, right = ours.default, theirs.default
        if (left is None) != (right is None) or (
            left is not None and right is not None and left.digest() != right.digest()
        ):
            faults.append(f"the default of input {ours.name!r} changed")
    return faults


def inputs_of(graph: Graph, inputs: Any) -> dict[str, Array]:
    """Inputs by name, from a mapping or a sequence. Raises UsageError."""
    if isinstance(inputs, Mapping):
        return dict(inputs)
    if len(inputs) > len(graph.inputs):
        raise UsageError(f"{len(inputs)} values for {len(graph.inputs)} inputs")
    return dict(zip(graph.input_names, inputs, strict=False))
