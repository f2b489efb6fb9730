"""Raise: linear attention from the loops and the unrolled steps that spell it.

``S = exp(g) * S + k (x) v`` and ``y = q S`` for each step, as a Scan or a Loop; also
with a delta rule, where beta times what S does not know of v is written. Or written out
step by step, a state of ``[batch, channel, size]`` being one head for each channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np

from graphopt.dims import equal
from graphopt.ir import Graph, Op, Value
from graphopt.ops import (
    Add,
    CausalConvWithState,
    Concat,
    Constant,
    Exp,
    Expand,
    Flatten,
    Gather,
    LinearAttention,
    Loop,
    MatMul,
    Mul,
    ReduceSum,
    Reshape,
    Scan,
    Shape,
    Squeeze,
    Sub,
    Transpose,
    Unsqueeze,
)
from graphopt.ops.bodies import vector
from graphopt.ops.contrib import LinearAttention as Contrib
from graphopt.pipeline import RulePass, count_ops
from graphopt.rewrite import Miss, Outcome, Rule, Scene, miss, rule

from .causal_convolutions import rules
from .loops import as_scan
from .match import perm_of

Kind: TypeAlias = type[LinearAttention] | type[Contrib]

FEWEST: Final = 4
"""Fewer steps that are written out are no recurrence to speak of."""


def _bare(value: Value | None) -> Value | None:
    """A value without dims of 1 that were put in or taken out."""
    while isinstance(value, Unsqueeze | Squeeze | Reshape | Flatten):
        inner = value.operands[0]
        if inner is None or inner.shape is None or value.shape is None:
            return value
        if not _same(inner.shape, value.shape):
            return value
        value = inner
    return value


def _same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """The same dims in order, but for those of 1."""
    left, right = ([d for d in shape if d != 1] for shape in (a, b))
    return len(left) == len(right) and all(map(equal, left, right))


def _sides(value: Value | None, kind: type[Add] | type[Mul]) -> list[tuple[Any, Any]]:
    """The operands of a sum or a product in both orders."""
    if not isinstance(value, kind):
        return []
    a, b = value.operands
    return [(a, b), (b, a)]


# --- a step in the body of a Scan ---------------------------------------------------


@dataclass
class Step:
    """Which parameters of a body are q, k, v, decay and beta."""

    body: Graph
    sizes: tuple[Any, ...]
    """The dims of the state: batch, head, key, value."""

    parts: dict[str, Value] = field(default_factory=dict)

    def takes(self, name: str, value: Value | None, *dims: int) -> bool:
        """Whether a value is a parameter with the dims of the state that are named."""
        found, scanned = _bare(value), self.body.inputs[1:]
        if found not in scanned or found is None or found.shape is None:
            return False
        wanted = [self.sizes[i] for i in dims]
        if not _same(found.shape, wanted) or len(found.shape) != len(dims):
            return False
        self.parts[name] = found
        return True

    def lies(self, value: Value | None, *dims: int) -> bool:
        """Whether a value has the dims of the state that are named, and 1 elsewhere."""
        shape = None if value is None else value.shape
        if shape is None or len(shape) != 4:
            return False
        return all(
            equal(dim, self.sizes[i] if i in dims else 1) for i, dim in enumerate(shape)
        )

    def read(self, name: str, value: Value | None, state: Value) -> bool:
        """Whether a value is ``q S``, q by that name."""
        found = _bare(value)
        if isinstance(found, MatMul) and found.operands[1] is state:
            row = found.operands[0]
            return self._row(name, row)
        if isinstance(found, ReduceSum) and found.reduced_axes() == (2,):
            for x, other in _sides(found.operands[0], Mul):
                if other is state and self.lies(x, 0, 1, 2):
                    return self.takes(name, x, 0, 1, 2)
        return False

    def _row(self, name: str, row: Value | None) -> bool:
        """Whether ``[batch, head, 1, key]`` is a parameter."""
        shape = None if row is None else row.shape
        if shape is None or len(shape) != 4 or not equal(shape[2], 1):
            return False
        return equal(shape[3], self.sizes[2]) and self.takes(name, row, 0, 1, 2)

    def decayed(self, value: Value | None, state: Value) -> bool:
        """Whether a value is the state, or a gate times it."""
        if value is state:
            return True
        for gate, other in _sides(value, Mul):
            if other is not state:
                continue
            found = _bare(gate)
            source = found.operands[0] if isinstance(found, Exp) else found
            name = "decay" if isinstance(found, Exp) else "gate"
            if self.lies(gate, 0, 1, 2) and self.takes(name, source, 0, 1, 2):
                return True
            if self.lies(gate, 0, 1) and self.takes(name, source, 0, 1):
                return True
        return False

    def written(self, value: Value | None, kept: Value) -> bool:
        """Whether a value is ``k (x) v``, or ``k (x) beta * (v - S k)``."""
        if not isinstance(value, MatMul | Mul):
            return False
        for key, other in (value.operands[:2], value.operands[1::-1]):
            if self.lies(key, 0, 1, 2) and self.lies(other, 0, 1, 3):
                return self.takes("k", key, 0, 1, 2) and self._value(other, kept)
            if isinstance(value, MatMul):
                break  # whose operands have an order
        return False

    def _value(self, value: Value | None, kept: Value) -> bool:
        if self.takes("v", value, 0, 1, 3):
            return True
        for beta, new in _sides(_bare(value), Mul):
            rest = _bare(new)
            if not isinstance(rest, Sub) or not self.takes("beta", beta, 0, 1):
                continue
            if not equal(beta.shape[-1], 1):  # else it may be one for each value
                continue
            own, known = rest.operands
            if self.takes("v", own, 0, 1, 3) and self.read("known", known, kept):
                return self.parts.pop("known") is self.parts["k"]
        return False


def step_of(body: Graph) -> dict[str, Value] | None:
    """The parameters of a body, by what they are to linear attention; None if not."""
    state, outputs = body.inputs[0], body.outputs
    if len(outputs) != 2 or state.shape is None or len(state.shape) != 4:
        return None
    if state.dtype is None or not state.dtype.is_float:
        return None
    step = Step(body, state.shape)
    new = outputs[0]
    for kept, written in _sides(new, Add):
        step.parts.clear()
        if step.decayed(kept, state) and step.written(written, kept):
            return step.parts if step.read("q", outputs[1], new) else None
    return None


def _by_step(x: Value, axis: int, sizes: Sequence[int]) -> Value | None:
    """What is scanned along an axis, as ``[batch, step, head * size]``.

    ``sizes`` are those behind the batch: with -1 there would have to be a step.
    """
    if x.rank is None:
        return None
    others = [i for i in range(x.rank) if i != axis % x.rank]
    perm = (others[0], axis % x.rank, *others[1:])
    if isinstance(x, Transpose):
        inner = perm_of(x.rank, x.perm)
        source, perm = x.operands[0], tuple([inner[i] for i in perm])
        assert source is not None
        x = source
    turned = x if perm == tuple(range(len(perm))) else Transpose(x, perm=perm)
    return turned if x.rank == 3 else Reshape(turned, vector(0, 0, math.prod(sizes)))


def _sizes(value: Value) -> tuple[int, ...] | None:
    """The dims behind the first one, None where they are not all numbers."""
    sizes = tuple([d for d in (value.shape or ())[1:] if isinstance(d, int)])
    return sizes if len(sizes) + 1 == value.rank else None


def count_between(results: Sequence[Value], given: Sequence[Value | None]) -> int:
    """How many ops that do work there are between what is given and results."""
    found: set[Op] = set()
    pending = [v for v in results if v not in given]
    while pending:
        op = pending.pop().op
        if op is not None and op not in found and not isinstance(op, Constant):
            found.add(op)
            pending += [v for v in op.operands if v is not None and v not in given]
    return len(found)


def scanned(kind: Kind) -> Rule:
    """A rule that makes linear attention of this kind of a Scan."""

    @rule(exact=False)
    def scanned_attention(op: Scan, scene: Scene) -> Outcome:
        """scan(S = exp(g) * S + k (x) v; y = q S) = linearattention(q, k, v, S, g)"""
        (body,), count = op.bodies, int(op.num_scan_inputs)
        if op.states != 1 or len(op.results) != 2 or len(op.operands) != 1 + count:
            return None
        ways = (op.scan_input_directions, op.scan_output_directions)
        if any(any(way) for way in ways if way):
            return miss("it goes backwards", op)
        found = step_of(body)
        if found is None:
            return miss("its body is no step of linear attention", op)
        axes = op.scan_input_axes or (0,) * count
        places: dict[Value, int] = {v: i for i, v in enumerate(body.inputs[1:])}
        given: dict[str, Value | None] = {}
        sources, saved = [op.operands[0]], 1 + count_ops(body)
        for name, value in found.items():
            i = places[value]
            x = op.operands[1 + i]
            if name == "gate":
                if not isinstance(x, Exp):
                    return miss("the gate is no exponential", x)
                saved += scene.single(x)
                name, x = "decay", x.operands[0]
            sizes = _sizes(value)
            if x is None or sizes is None:
                return miss("how many heads there are, and how large, is unknown", op)
            if isinstance(x, Transpose):
                saved += scene.single(x)
                sources.append(x.operands[0])
            sources.append(x)
            given[name] = _by_step(x, axes[i], sizes)
        row, of_state = body.outputs[1], _sizes(body.inputs[0])
        if not equal((row.shape or (None,))[0], (body.inputs[0].shape or (None,))[0]):
            return miss("the first dim of its results is not that of instances", op)
        by_head = _sizes(row)
        if by_head is None or of_state is None:
            return miss("how many heads there are, and how large, is unknown", op)
        heads = of_state[0]
        gated = "decay" in given
        update = "gated" if gated else "linear"
        if "beta" in given:
            update = "gated_delta" if gated else "delta"
        made = kind(
            *(given["q"], given["k"], given["v"], op.operands[0]),
            *(given.get("decay"), given.get("beta")),
            q_num_heads=heads,
            kv_num_heads=heads,
            update_rule=update,
            scale=1.0,
            outs=2,
        )
        if not scene.says(made):
            return miss("this opset has no linear attention", op)
        y, state = made.results
        rows: Value = Reshape(y, vector(0, 0, *by_head))
        (out,) = op.scan_output_axes or (0,)
        rank = 2 + len(by_head)
        perm = [0, *range(2, rank)]
        perm.insert(out % rank, 1)
        if perm != sorted(perm):
            rows = Transpose(rows, perm=tuple(perm))
            saved += _turned_back(op.results[1], perm, scene)
        if count_between((state, rows), sources) > saved:
            return miss("it would take more ops", op)
        return state, rows

    return scanned_attention


def _turned_back(rows: Value, perm: Sequence[int], scene: Scene) -> bool:
    """Whether all that reads rows turns them to where they came from."""
    users = [user for user, _ in scene.graph.users.get(rows, ())]
    return bool(users) and all(
        isinstance(user, Transpose)
        and [perm[i] for i in perm_of(len(perm), user.perm)] == sorted(perm)
        for user in users
    )


def looped(kind: Kind) -> Rule:
    """A rule that makes linear attention of this kind of a Loop over its steps."""
    of_scan = scanned(kind)

    @rule(exact=False)
    def looped_attention(op: Loop, scene: Scene) -> Outcome:
        """loop(S = exp(g[t]) * S + k[t] (x) v[t]) = linearattention(q, k, v, S, g)"""
        if op.carried != 1 or len(op.results) != 2:
            return None
        scan = as_scan(op)
        return scan if isinstance(scan, Miss) else of_scan.apply(scan, scene)

    return looped_attention


# --- steps that are written out -----------------------------------------------------


@dataclass(frozen=True)
class Picked:
    """One slice of a tensor."""

    x: Value
    axis: int
    at: int


def _picked(value: Value | None) -> Picked | None:
    if not isinstance(value, Gather):
        return None
    x, index = value.operands
    if x is None or index is None or x.rank is None:
        return None
    if index.rank != 0 or index.ints is None:
        return None
    return Picked(x, value.axis % x.rank, index.ints[0])


def _before(state: Value, at: int) -> tuple[Value, Value, Value] | None:
    """The state that a step began with, and the gates and writes of all steps."""
    for kept, write in _sides(state, Add):
        wrote = _picked(write)
        for gate, before in _sides(kept, Mul):
            found = _picked(gate)
            if found is None or wrote is None or before is None:
                continue
            if (found.axis, wrote.axis, found.at, wrote.at) == (2, 2, at, at):
                return before, found.x, wrote.x
    return None


def unrolled(kind: Kind) -> Rule:
    """A rule that makes linear attention of this kind of steps that are written out."""

    @rule(exact=False)
    def unrolled_recurrence(op: Concat, scene: Scene) -> Outcome:
        """[s_t @ c[t]], s_t = exp(a[t]) * s_(t-1) + w[t] = linearattention(c, w, 1)"""
        steps = len(op.operands)
        last = op.operands[-1]
        if steps < FEWEST or op.rank != 3 or op.axis % 3 != 2:
            return None
        if not isinstance(last, MatMul):
            return None
        state = last.operands[0]
        end, sources = state, None
        for at in range(steps - 1, -1, -1):
            read = op.operands[at]
            if not isinstance(read, MatMul) or state is None:
                return None
            column = read.operands[1]
            row = column.operands[0] if isinstance(column, Unsqueeze) else None
            picked = _picked(row)
            link = _before(state, at)
            if read.operands[0] is not state or picked is None or link is None:
                return None
            if (picked.axis, picked.at) != (1, at):
                return None
            if state is not end and scene.uses(state) > 2:
                return miss("a state is read elsewhere too", state)
            state, *found = link
            if sources not in (None, [*found, picked.x]):
                return None
            sources = [*found, picked.x]
        assert sources is not None
        assert state is not None
        assert end is not None
        gates, writes, reads = sources
        return _unrolled(kind, op, (state, end), gates, writes, reads)

    return unrolled_recurrence


def _unrolled(
    kind: Kind,
    op: Concat,
    states: tuple[Value, Value],
    gates: Value,
    writes: Value,
    reads: Value,
) -> Outcome:
    if not isinstance(gates, Exp) or op.dtype is None or not op.dtype.is_float:
        return miss("the gates are no exponentials", gates)
    shape, steps = writes.shape, len(op.operands)
    if shape is None or gates.shape is None or len(shape) != 4:
        return None
    if not all(map(equal, shape, gates.shape)) or shape[2] != steps:
        return miss("not all steps are taken", op)
    channels, size = shape[1], shape[3]
    if not isinstance(channels, int) or not isinstance(size, int):
        return miss("how many channels there are is not known", writes)
    if reads.shape is None or not all(map(equal, reads.shape, (shape[0], steps, size))):
        return miss("what is read is not one vector for each step", reads)
    start = Unsqueeze(states[0], vector(3))
    if start.shape is None or not all(
        map(equal, start.shape, (shape[0], channels, size, 1))
    ):
        return miss("the first state has other dims", states[0])
    flat = vector(0, 0, channels * size)  # also where there are no instances
    heads = [
        Reshape(Transpose(x, perm=(0, 2, 1, 3)), flat)
        for x in (writes, gates.operands[0])
        if x is not None
    ]
    wide = Expand(Unsqueeze(reads, vector(2)), vector(1, 1, channels, 1))
    ones = Constant(np.ones((1, steps, channels), op.dtype.numpy))
    batch = Concat(Shape(writes, start=0, end=1), vector(1, 1), axis=0)
    y, end = kind(
        *(Reshape(wide, flat), heads[0], Expand(ones, batch), start),
        heads[1],
        q_num_heads=channels,
        kv_num_heads=channels,
        update_rule="gated",
        scale=1.0,
        outs=2,
    ).results
    return {op: Transpose(y, perm=(0, 2, 1)), states[1]: Squeeze(end, vector(3))}


@dataclass(frozen=True)
class RaiseRecurrences(RulePass):
    """Recognise linear attention in a Scan or Loop; if asked for, causal convolutions.

    No runtime has a kernel for ``convolutions`` as ONNX's op, and it is no faster.

    scan(S = S + k (x) v; y = q S)   -->   linearattention(q, k, v, S)
    silu(conv([p x], w))             -->   causalconv(x, w, p)
    """

    convolutions: bool = False

    def rules(self) -> Sequence[Rule]:
        more = rules(CausalConvWithState) if self.convolutions else ()
        return (scanned(LinearAttention), looped(LinearAttention), *more)
