"""Linear attention by chunks, found by what it computes.

Sequences are split into chunks; within one there are products as in attention, and a
state passes from chunk to chunk. There are many spellings, and a triangle that is
inverted row by row takes a thousand ops. All of them are sums, products and moves of
the sources and of exponentials of gates: analytic functions. Two of these that agree at
a random point agree everywhere, but for points of measure zero. So both are computed
there in float64, and must agree to nine digits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from graphopt import dims
from graphopt.dims import equal
from graphopt.errors import GraphoptError
from graphopt.ir import Op, Value
from graphopt.ops import LinearAttention, Mul, Reshape, Transpose
from graphopt.ops.bodies import vector
from graphopt.reference import Evaluator
from graphopt.rewrite import Outcome, Rule, Scene, miss, rule

from .chunks import ANALYTIC, MOST, Chunks, Region, Source
from .match import same_shape
from .raise_recurrences import Kind, count_between

BYTES: Final = 1 << 29
"""What a trial may hold at a time."""

DIGITS: Final = 1e-9
"""Up to which share of the largest number two results are the same."""

Roles: TypeAlias = dict[str, Source]


def _times(value: Value, beta: Value | None = None) -> Iterator[tuple[Value, Value]]:
    """The factors of a product, in both orders."""
    if isinstance(value, Mul):
        a, b = value.operands
        for x, other in ((a, b), (b, a)):
            if x is not None and other is not None and beta in (None, other):
                yield x, other


def roles_of(region: Region) -> Iterator[Roles]:
    """What each source may be: q, k, v, decay and beta."""
    exponents = region.exponents()
    if exponents is None or len(exponents) > 1:
        return
    if not exponents <= region.sources.keys():
        return
    gate: Roles = {}
    for exponent in exponents:
        gate["decay"] = region.sources[exponent]
    others = [s for x, s in region.sources.items() if x not in exponents]
    narrow = [s for s in others if s.size == 1]
    wide = [s for s in others if s.size > 1]
    if len(wide) == 3 and len(narrow) <= 1:
        beta = {"beta": narrow[0]} if narrow else {}
        for q, k, v in itertools.permutations(wide):
            yield {"q": q, "k": k, "v": v} | gate | beta
    if len(wide) == 4 and not narrow:
        for k, written in itertools.permutations(wide, 2):
            for x, beta_ in _times(written.value):
                rest = [s for s in wide if s not in (k, written)]
                found = region.chunks.read(beta_)
                if x is k.value and found is not None:
                    yield from _with_beta(k, found, rest, gate)


def _with_beta(
    k: Source, beta: Source, rest: Sequence[Source], gate: Roles
) -> Iterator[Roles]:
    """Which of two sources is q, and which beta times v."""
    for q, written in itertools.permutations(rest):
        for x, _ in _times(written.value, beta.value):
            if same_shape(x, written.value):
                v = Source(x, written.steps, written.heads, written.size)
                yield {"q": q, "k": k, "v": v, "beta": beta} | gate


@dataclass(frozen=True)
class Trial:
    """One way to read a region, as an op, with its results in the region's dims."""

    region: Region
    roles: Roles
    turned: bool
    """True where the state is ``[batch, head, value, key]``."""

    def made(self, kind: Kind, scale: float = 1.0) -> Op:
        given = {name: source.packed() for name, source in self.roles.items()}
        past = self.region.past
        if past is not None and self.turned:
            past = Transpose(past, perm=(0, 1, 3, 2))
        update = "gated" if "decay" in given else "linear"
        if "beta" in given:
            update = "gated_delta" if "decay" in given else "delta"
        heads = self.region.chunks.heads
        return kind(
            *(given["q"], given["k"], given["v"], past),
            *(given.get("decay"), given.get("beta")),
            q_num_heads=heads,
            kv_num_heads=heads,
            update_rule=update,
            scale=scale,
            outs=2,
        )

    def result(self, made: Op) -> Value:
        c, y = self.region.chunks, made.results[0]
        if not c.heads_first:
            return Reshape(y, vector(0, c.count, c.length, c.heads, c.size))
        rows = Transpose(
            Reshape(y, vector(0, c.steps, c.heads, c.size)), perm=(0, 2, 1, 3)
        )
        return Reshape(rows, vector(0, c.heads, c.count, c.length, c.size))

    def known(self) -> list[Value]:
        past = self.region.past
        return [
            *(s.value for s in self.roles.values()),
            *([] if past is None else [past]),
        ]


@dataclass
class Found:
    """A trial that gives what the region does, but for a factor."""

    trial: Trial
    scale: float
    arrays: dict[Value, Any]
    state: Any
    """The op's second result in the trial."""


class Sample:
    """Random numbers for what a region is computed from, and what it then gives."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.rng = np.random.default_rng(0)
        self.evaluator = Evaluator(precision="float64", limit_bytes=BYTES)
        self.arrays: dict[Value, Any] = {}
        self.wanted: dict[frozenset[Value], Any] = {}

    def array(self, value: Value, largest: float) -> Any:
        """Of about this size, and the same ones for all trials."""
        if value not in self.arrays:
            names = frozenset[str]().union(*map(dims.symbols, value.shape or ()))
            two = dict.fromkeys(names, 2)
            shape = [dims.evaluate(dim, two) for dim in value.shape or ()]
            self.arrays[value] = self.rng.normal(size=shape) * largest
        return self.arrays[value]

    def tried(self, trial: Trial) -> Found | None:
        """None where the results differ, or cannot be computed."""
        arrays: dict[Value, Any] = {}
        for name, source in trial.roles.items():
            far = trial.region.chunks.steps  # so that what is far back still counts
            largest = 1 / far if name == "decay" else 1 / math.sqrt(source.size)
            arrays[source.value] = self.array(source.value, largest)
        if self.region.past is not None:
            arrays[self.region.past] = self.array(self.region.past, 1)
        made, key = trial.made(LinearAttention), frozenset(arrays)
        try:
            if key not in self.wanted:
                (self.wanted[key],) = self.evaluator.run([self.region.y], arrays)
            wanted = [trial.result(made), made.results[1]]
            found, state = self.evaluator.run(wanted, arrays)
        except GraphoptError:
            return None
        y = self.wanted[key]
        scale = float(np.float32(np.vdot(found, y) / np.vdot(found, found)))
        if not alike(y, found * scale):
            return None
        return Found(trial, scale, arrays, state)


def alike(a: Any, b: Any) -> bool:
    """Whether two arrays are the same but for rounding, and not all zeros."""
    if a.shape != b.shape or not np.all(np.isfinite(a)):
        return False
    largest = float(np.max(np.abs(a), initial=0))
    return largest > 0 and float(np.max(np.abs(a - b))) <= DIGITS * largest


def trials(region: Region) -> Iterator[Trial]:
    """All ways to read a region."""
    past = region.past
    for roles in roles_of(region):
        chunks, key = region.chunks, roles["k"].size
        if roles["q"].size != key or roles["v"].size != chunks.size:
            continue
        if past is None:
            yield Trial(region, roles, turned=False)
            continue
        state = (chunks.batch, chunks.heads, key, chunks.size)
        for turned, axes in ((False, (0, 1, 2, 3)), (True, (0, 1, 3, 2))):
            if past.shape is not None and all(
                equal(dim, state[i]) for dim, i in zip(past.shape, axes, strict=True)
            ):
                yield Trial(region, roles, turned=turned)


def read_elsewhere(found: Found, scene: Scene) -> dict[Value, bool] | None:
    """The states that others read, and whether value comes before key in each.

    None where others read something else of the region.
    """
    region = found.trial.region
    inside = set(region.ops())
    given = {region.y, *region.given}
    pending = [v for v in region.followed() or () if v not in given]
    pending = [v for v in pending if _leaves(v, inside, scene)]
    seen = set(pending)
    states: dict[Value, bool] = {}
    evaluator = Evaluator(precision="float64", limit_bytes=BYTES)
    while pending:
        value = pending.pop()
        turned = _as_state(value, found, evaluator)
        if turned is not None:
            states[value] = turned
            continue
        users = [op for op, _ in scene.graph.users.get(value, ()) if op not in inside]
        outside = value in scene.graph.outputs or len(seen) > MOST
        if outside or not all(isinstance(op, ANALYTIC) for op in users):
            return None
        fresh = {v for op in users for v in op.results if v not in seen}
        seen |= fresh
        pending += fresh
    return states


def _leaves(value: Value, inside: set[Op], scene: Scene) -> bool:
    users = scene.graph.users.get(value, ())
    return value in scene.graph.outputs or any(op not in inside for op, _ in users)


def _as_state(value: Value, found: Found, evaluator: Evaluator) -> bool | None:
    """Whether a value is the last state: False as the op gives it, True transposed."""
    state = found.state
    if value.shape is None or value.rank is None or value.rank < 4:
        return None
    if math.prod([d for d in value.shape[1:] if isinstance(d, int)]) != math.prod(
        state.shape[1:]
    ):
        return None
    try:
        (array,) = evaluator.run([value], found.arrays)
    except GraphoptError:
        return None
    if array.size != state.size:
        return None
    for turned, other in ((False, state), (True, np.swapaxes(state, 2, 3))):
        if alike(array, other.reshape(array.shape)):
            return turned
    return None


def chunked(kind: Kind) -> Rule:
    """A rule that makes linear attention of this kind of attention by chunks."""

    @rule(exact=False)
    def chunked_attention(op: Reshape, scene: Scene) -> Outcome:
        """attention in each chunk, and a state between them = linearattention(q, k, v)

        What is reshaped has the chunks of all results.
        """
        y = op.operands[0]
        if y is None or y.dtype is None or not y.dtype.is_float:
            return None
        for chunks in Chunks.of(y):
            region = Region.behind(y, chunks)
            if region is None or len(region.sources) < 3:
                continue
            found = next(filter(None, map(Sample(region).tried, trials(region))), None)
            if found is not None:
                return _replaced(op, found, kind, scene)
        return None

    return chunked_attention


def _replaced(op: Reshape, found: Found, kind: Kind, scene: Scene) -> Outcome:
    trial, region = found.trial, found.trial.region
    made = trial.made(kind, found.scale)
    if not scene.says(made):
        return miss("this opset has no linear attention", region.y)
    states = read_elsewhere(found, scene)
    if states is None:
        return miss("others read what is within the chunks", region.y)
    y = trial.result(made)
    news: dict[Value, Value] = {
        op: op.with_operands((y, *op.operands[1:])),
        region.y: y,
    }
    for value, turned in states.items():
        state = made.results[1]
        state = Transpose(state, perm=(0, 1, 3, 2)) if turned else state
        assert value.shape is not None
        news[value] = Reshape(state, vector(0, *value.shape[1:]))
    known = trial.known()
    if count_between([*news.values()], known) >= count_between([*news], known):
        return miss("it would not be fewer ops", region.y)
    return news
