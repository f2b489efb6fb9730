"""Depthwise convolutions of sequences that look back only, as one op with its state.

``conv([past x], w)``, or with zeros before x; the state is what the next step has for
its past. SiLU behind it is taken in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from graphopt.dims import equal, sub
from graphopt.ir import Op, Value
from graphopt.ops import (
    CausalConvWithState,
    Concat,
    Conv,
    Mul,
    Pad,
    Sigmoid,
    Slice,
    Split,
    Swish,
    Transpose,
)
from graphopt.ops.contrib import CausalConvWithState as Contrib
from graphopt.rewrite import Miss, Outcome, Rule, Scene, miss, rule

from .match import axis_of, uniform
from .padding import padded_by

Kind: TypeAlias = type[CausalConvWithState] | type[Contrib]

STEPS = 2
"""The axis of steps, of ``[batch, channel, step]``."""


@dataclass(frozen=True)
class Causal:
    """A convolution that sees ``back`` steps before each of ``x``: a past, or zeros."""

    op: Conv
    x: Value
    back: int
    past: Value | None = None

    @property
    def dilation(self) -> int:
        return int((self.op.dilations or (1,))[0])

    def made(self, kind: Kind, activation: str = "none") -> Op | Miss:
        more: dict[str, Any] = {"activation": activation}
        if self.dilation != 1:
            if not issubclass(kind, Contrib):
                return miss("it leaves out steps", self.op)
            more["dilation"] = self.dilation
        weights = (self.op.operands[1], self.op.operand(2))
        return kind(self.x, *weights, self.past, outs=2, **more)

    def states(self, scene: Scene) -> Iterator[Value]:
        """What holds the last ``back`` steps, of the past and x together."""
        steps = self.op.operands[0]
        assert steps is not None
        assert self.x.shape is not None
        length = self.x.shape[STEPS]
        if isinstance(length, int) and length >= self.back:
            yield from _ends(self.x, self.back, scene)
        if self.past is not None:
            yield from _ends(steps, self.back, scene)
            return
        for user, _ in scene.graph.users.get(self.x, ()):
            if isinstance(user, Pad) and _pads_before(user) == self.back:
                yield from _ends(user, self.back, scene)


def _pads_before(op: Pad) -> int | None:
    """How many steps of zeros an op puts before others, if it does nothing else."""
    found, border = padded_by(op), op.operand(2)
    if op.mode != "constant" or found is None:
        return None
    if border is not None and uniform(border) != 0:
        return None
    (*others, steps), after = found
    return None if any(others) or any(after) else steps


def _ends(value: Value, count: int, scene: Scene) -> Iterator[Value]:
    """What holds the last ``count`` steps of a value, and nothing else."""
    if value.shape is None:
        return
    first = sub(value.shape[STEPS], count)
    for user, _ in scene.graph.users.get(value, ()):
        if isinstance(user, Slice):
            cuts = user.cuts() or {}
            start, step, taken = cuts.get(STEPS, (None, None, None))
            whole = len(cuts) == 1 and step == 1 and equal(taken, count)
            if whole and equal(start, first):
                yield user
        elif isinstance(user, Split) and axis_of(user.axis, 3) == STEPS:
            *_, last = user.pieces()
            if equal(last, count):
                yield user.results[-1]


def causal(op: Conv) -> Causal | Miss | None:
    """What a convolution of a sequence sees, where each channel has its own window."""
    x, w = op.operands[:2]
    if x is None or w is None or op.rank != 3 or w.shape is None or x.shape is None:
        return None
    channels, one, kernel = w.shape
    if channels != op.group or one != 1 or not isinstance(kernel, int):
        return None
    if any(s != 1 for s in op.strides or ()) or op.auto_pad not in ("NOTSET", "VALID"):
        return miss("it leaves out steps, or pads by its own rule", op)
    back = (op.dilations or (1,))[0] * (kernel - 1)
    pads = tuple(op.pads or (0, 0)) if op.auto_pad == "NOTSET" else (0, 0)
    if not back:
        return None
    if pads == (back, 0):
        return Causal(op, x, back)
    if any(pads) or not isinstance(x, Concat) or axis_of(x.axis, 3) != STEPS:
        return miss("it sees steps to come, or too few before", op)
    past, *rest = x.operands
    if len(rest) != 1 or past is None or past.shape is None:
        return miss("what it sees is not a past and new steps", x)
    if rest[0] is None or rest[0].shape is None:
        return None
    if not equal(past.shape[STEPS], back):
        return miss("the past is not as long as the window looks back", past)
    return Causal(op, rest[0], back, past)


def silu_of(op: Op, scene: Scene) -> Value | None:
    """x, where an op is ``x * sigmoid(x)`` and nothing else reads x."""
    if isinstance(op, Swish):
        x = op.operands[0]
        return x if op.alpha == 1 and x is not None and scene.uses(x) == 1 else None
    if isinstance(op, Mul):
        for x, gate in (op.operands, op.operands[::-1]):
            if isinstance(gate, Sigmoid) and gate.operands[0] is x and x is not None:
                return x if scene.uses(x) == 2 and scene.single(gate) else None
    return None


def causal_convolution(kind: Kind) -> Rule:
    """A rule that makes ops of this kind of convolutions behind a past."""

    @rule(exact=False)
    def convolved_past(op: Conv, scene: Scene) -> Outcome:
        """conv([p x], w), [p x][-k:] = causalconv(x, w, p)"""
        found = causal(op)
        if not isinstance(found, Causal):
            return found
        return _replaced(op, found, kind, "none", scene)

    return convolved_past


def activated_convolution(kind: Kind) -> Rule:
    """A rule that makes ops of this kind of convolutions before SiLU."""

    @rule(exact=False)
    def activated_causal(op: Swish | Mul, scene: Scene) -> Outcome:
        """silu(conv(x, w)) = causalconv(x, w, activation="silu")"""
        y = silu_of(op, scene)
        if isinstance(y, Conv):
            found = causal(y)
            if not isinstance(found, Causal):
                return found
            return _replaced(op, found, kind, "silu", scene)
        before = None if y is None else y.op
        if not isinstance(before, kind) or before.activation != "none":
            return None
        if y is not before.results[0]:
            return None
        made = before.copy(activation="silu")
        return {op: made.results[0], before.results[1]: made.results[1]}

    return activated_causal


def _replaced(
    op: Op, found: Causal, kind: Kind, activation: str, scene: Scene
) -> Outcome:
    """An op, and the states, by one op; a miss where that would not be fewer ops."""
    made = found.made(kind, activation)
    if isinstance(made, Miss):
        return made
    states = list(dict.fromkeys(found.states(scene)))
    steps = found.op.operands[0]
    joined = found.past is not None and steps is not None
    alone = joined and scene.single(steps)  # type: ignore[arg-type]
    if not states and activation == "none" and not alone:
        return miss("it would be as many ops", op)
    if not scene.says(made):
        return miss("this opset has no causal convolution", op)
    y, state = made.results
    return {op: y, **dict.fromkeys(states, state)}


@rule
def steps_first(op: Transpose, scene: Scene) -> Outcome:
    """causalconv(x^T, w)^T = causalconv(x, w), channels last"""
    y = op.operands[0]
    made = None if y is None else y.op
    if not isinstance(made, Contrib) or made.results[0] is not y or made.channels_last:
        return None
    x, past = made.operands[0], made.operand(3)
    if tuple(op.perm or ()) != (0, 2, 1) or not isinstance(x, Transpose):
        return None
    if tuple(x.perm or ()) != (0, 2, 1):
        return None
    if past is not None or scene.uses(made.results[1]) or not scene.single(y):
        return miss("its state would have to be transposed", made)
    operands = (x.operands[0], *made.operands[1:])
    return made.copy(operands=operands, channels_last=1).results[0]


def rules(kind: Kind) -> Sequence[Rule]:
    """All rules that make ops of a kind."""
    found = (causal_convolution(kind), activated_convolution(kind))
    return (*found, steps_first) if issubclass(kind, Contrib) else found
