"""Two graphs that are fed the same: inputs, and what ops without a reference give."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from ..errors import GraphoptError, UsageError
from ..feeds import bind
from ..inputs import overridden, random_inputs, random_value
from ..ir import Graph, Op, Value
from ..ops.control import Control
from ..proto import write_type
from ..reference import has_reference
from ..roles import Role, roles
from ..types import DType, TensorType, Type, UnknownType, clash
from .pairs import Barrier, barriers, difference
from .tolerance import OutputCheck

Array = Any


@dataclass(frozen=True)
class Setting:
    """How inputs are made: sizes of symbolic dims, seed and style of random numbers.

    ``overrides`` gives floats that have a default other numbers, as a caller may.
    """

    sizes: Mapping[str, int]
    seed: int = 0
    style: str = "normal"
    overrides: bool = False


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


Freedom = Literal["guessed", "stated", "none"]
"""Which results of ops without a reference are fed: all tensors, those of which the
model states what they are, or none."""


@dataclass(frozen=True)
class Sides:
    """The graph before and the graph after; ``free`` results of barriers are fed."""

    before: Graph
    after: Graph
    inputs: Mapping[str, Array] | None = None
    free: Freedom = "stated"

    @cached_property
    def barriers(self) -> list[Barrier]:
        return barriers(self.before, self.after)

    @cached_property
    def types(self) -> dict[Value, TensorType]:
        """What is fed for the results of barriers.

        Whatever such an op gives, what follows must do the same with it on both sides:
        where nothing is stated, floats of the shape of its first operand are as good as
        others, if only the original can go on with them.
        """
        if self.free == "none":
            return {}
        found: dict[Value, TensorType] = {}
        for barrier in self.barriers:
            for value in barrier.before.results:
                type_ = value.type
                if isinstance(type_, TensorType) and None not in (
                    type_.dtype,
                    type_.shape,
                ):
                    found[value] = type_
                elif self.free == "guessed":
                    guess = _guess(barrier.before, type_, found)
                    if guess is not None:
                        found[value] = guess
        return found

    @cached_property
    def freed(self) -> dict[Value, Value | None]:
        """Results of ops without a reference that are fed, with their partners.

        Where the graph after needs such an op no more, any value must do for it.
        """
        return {
            ours: None if barrier.after is None else barrier.after.results[i]
            for barrier in self.barriers
            for i, ours in enumerate(barrier.before.results)
            if ours in self.types and barrier.alike
        }

    @cached_property
    def wanted(self) -> list[Target]:
        """What should be compared: outputs, and operands of ops without a reference."""
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
            for i in range(_comparable(barrier)):
                ours, theirs = barrier.before.operand(i), barrier.after.operand(i)
                if ours is not None and theirs is not None and ours is not theirs:
                    name = _operand_name(barrier, i)
                    found.append(Target(name, ours, theirs, is_output=False))
        return found

    @cached_property
    def targets(self) -> list[Target]:
        """What can be compared by running."""
        ours_blocked = _blocked(self.before, self.freed.keys())
        theirs_blocked = _blocked(self.after, set(self.freed.values()))
        return [
            target
            for target in self.wanted
            if target.before not in ours_blocked and target.after not in theirs_blocked
        ]

    @cached_property
    def proven(self) -> tuple[OutputCheck, ...]:
        """What cannot be run, but is made by the same ops of what is the same."""
        able = {target.name for target in self.targets}
        unable = [target for target in self.wanted if target.name not in able]
        if not unable:
            return ()
        return tuple(
            OutputCheck(target.name, True, note="the same ops")
            for target in unable
            if self.same.get(target.after) is target.before
        )

    @cached_property
    def same(self) -> dict[Value, Value]:
        """For values of the graph after, those of the other that they must equal.

        By construction: the same ops on the same operands. What a barrier gives counts
        only where each of its operands is the same, or is compared by running.
        """
        found: dict[Value, Value] = dict(
            zip(self.after.inputs, self.before.inputs, strict=True)
        )
        able = {target.name for target in self.targets}
        partners = {b.after: b for b in self.barriers if b.after is not None}
        for op in self.after.ops:
            barrier = partners.get(op)
            if barrier is not None:
                if barrier.alike and all(
                    _operand_name(barrier, i) in able
                    or (None if theirs is None else found.get(theirs)) is ours
                    for i, (ours, theirs) in enumerate(
                        zip(barrier.before.operands, op.operands, strict=True)
                    )
                ):
                    found |= zip(op.results, barrier.before.results, strict=True)
                continue
            if any(v is not None and v not in found for v in op.operands):
                continue
            try:
                made = op.with_operands(
                    [None if v is None else found[v] for v in op.operands]
                )
            except GraphoptError:
                continue
            found |= zip(op.results, made.results, strict=True)
        return found

    @cached_property
    def faults(self) -> tuple[OutputCheck, ...]:
        """Ops without a reference that have become others, or that lack operands."""
        return tuple(
            OutputCheck(f"op {barrier.name}", False, math.inf, note=note)
            for barrier in self.barriers
            if barrier.after is not None
            and (note := difference(barrier.before, barrier.after))
        )

    @cached_property
    def unchecked(self) -> tuple[str, ...]:
        """The ops without a reference, and the outputs that hang on them."""
        compared = {t.name for t in self.targets} | {c.name for c in self.proven}
        lost = [
            f"output {t.name}" if t.is_output else t.name
            for t in self.wanted
            if t.name not in compared
        ]
        known = {barrier.after for barrier in self.barriers}
        new = [op for op in self.after.ops if op not in known and not has_reference(op)]
        return (
            *(_op(b.before, b.name) for b in self.barriers),
            *(_op(op, self.after.names.get(op.results[0], "")) for op in new),
            *lost,
        )

    def feed(self, setting: Setting) -> Fed:
        """Values for both sides. Raises UsageError where the inputs do not fit."""
        given = self.inputs
        if given is None:
            given = random_inputs(
                self.before, setting.seed, setting.sizes, style=setting.style
            )
        if setting.overrides:
            given = {**overridden(self.before, setting.seed), **given}
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
                self.types[mine],
                role,
                f"free {number}",
                setting.seed,
                fed.symbols,
                style,
            )
            fed.before[mine] = array
            if other is not None:
                fed.after[other] = array
                fed.same[other] = mine
        return fed

    def ways(self) -> Iterator[Sides]:
        """Sides to try, one after the other until the original runs.

        Guesses come first, but only if something is known in no other way.
        """
        if len(self.targets) + len(self.proven) < len(self.wanted):
            guessed = replace(self, free="guessed")
            if len(guessed.targets) > len(self.targets):
                yield guessed
        yield self
        if self.freed:
            yield replace(self, free="none")


def _operand_name(barrier: Barrier, index: int) -> str:
    return f"operand {index} of {barrier.name}"


def _comparable(barrier: Barrier) -> int:
    """How many operands of both ops stand for each other.

    What other bodies capture may stand in another order.
    """
    op = barrier.before
    if isinstance(op, Control) and not barrier.alike:
        return len(op.operands) - len(op.captured)
    return len(op.operands)


def _op(op: Op, name: str) -> str:
    """An op by its type and name, which may hold the type already, or be none."""
    if name.startswith(f"{op.label} "):
        return f"op {name}"
    return f"op {op.label} {name!r}" if name else f"op {op.label}"


def _guess(op: Op, type_: Type, found: Mapping[Value, TensorType]) -> TensorType | None:
    """A type that the result of an op might have; None for what is no tensor."""
    if not isinstance(type_, TensorType | UnknownType):
        return None
    stated = type_ if isinstance(type_, TensorType) else TensorType(None, None)
    operands = [found.get(v, v.type) for v in op.operands if v is not None]
    shaped = [t for t in operands if isinstance(t, TensorType) and t.shape is not None]
    first = next(iter(shaped), TensorType(None, (2, 2)))
    dtype = first.dtype if first.dtype and first.dtype.is_float else DType.F32
    return TensorType(
        stated.dtype or dtype,
        first.shape if stated.shape is None else stated.shape,
    )


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


def interface_faults(
    before: Graph, after: Graph, *, declared: bool = False
) -> Sequence[str]:
    """How the interface of the one graph differs from that of the other.

    Where only values are to be the same, types may know more or less of the dims;
    ``declared`` wants them as files state them, symbols and all.
    """
    faults = [
        *_other_names("inputs", before.input_names, after.input_names),
        *_other_names("outputs", before.output_names, after.output_names),
    ]
    if faults:
        return faults
    for ours, theirs in zip(before.inputs, after.inputs, strict=True):
        if clash(ours.type, theirs.type) or (
            declared and write_type(ours.type) != write_type(theirs.type)
        ):
            faults.append(f"input {ours.name!r} is {theirs.type}, not {ours.type}")
        left, right = ours.default, theirs.default
        if (left is None) != (right is None) or (
            left is not None and right is not None and left.digest() != right.digest()
        ):
            faults.append(f"the default of input {ours.name!r} changed")
    stated = zip(
        before.output_names, before.output_types, after.output_types, strict=True
    )
    for name, mine, other in stated:
        if declared and mine is not None and mine != other:
            faults.append(f"output {name!r} is declared {other}, not {mine}")
    return faults


def fixed_dims(before: Graph, after: Graph) -> dict[str, int]:
    """The symbols of inputs that are numbers in the other graph."""
    return {
        str(dim): size
        for ours, theirs in zip(before.inputs, after.inputs, strict=True)
        for dim, size in zip(ours.shape or (), theirs.shape or (), strict=False)
        if dim is not None and not isinstance(dim, int) and isinstance(size, int)
    }


def _other_names(
    what: str, before: Sequence[str], after: Sequence[str]
) -> Iterator[str]:
    """How names differ; of many, the first few."""
    lost = [name for name in before if name not in after]
    new = [name for name in after if name not in before]
    for said, names in (("lacks", lost), ("has new", new)):
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            yield f"the other {said} {what} {', '.join(map(repr, names[:4]))}{more}"
    if not (lost or new) and before != after:
        yield f"the {what} are in another order"


def inputs_of(graph: Graph, inputs: Any) -> dict[str, Array]:
    """Inputs by name, from a mapping or a sequence. Raises UsageError."""
    if isinstance(inputs, Mapping):
        return dict(inputs)
    if len(inputs) > len(graph.inputs):
        raise UsageError(f"{len(inputs)} values for {len(graph.inputs)} inputs")
    return dict(zip(graph.input_names, inputs, strict=False))
