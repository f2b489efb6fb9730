"""Linear attention by chunks, in several spellings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from equations import (
    N,
    const,
    graph_of,
    ints,
    kinds,
    misses,
    param,
    rewritten,
    typed,
)
from hypothesis import given, settings, strategies as st

from graphopt.ir import Value
from graphopt.lowering.ort.recurrences import FuseRecurrences
from graphopt.ops import (
    Add,
    Concat,
    CumSum,
    Div,
    Exp,
    Expand,
    Gather,
    LinearAttention,
    MatMul,
    Mul,
    Neg,
    Relu,
    Reshape,
    Slice,
    Sub,
    Tanh,
    Transpose,
    Trilu,
    Unsqueeze,
    Where,
)
from graphopt.passes.chunked_attention import chunked
from graphopt.reference import evaluate
from graphopt.rewrite import rewrite
from graphopt.types import DType, TensorType

OPSET = 27
RULE = chunked(LinearAttention)
C, L, H, K, V = 3, 4, 2, 5, 6
T = C * L
WAYS: dict[str, Any] = {"opset": OPSET, "sizes": ({"n": 2}, {"n": 1})}
LAST, END = ints(-1), ints(1 << 62)
LOWER = const(np.tril(np.ones((L, L))), DType.BOOL)
HIDDEN = const(-np.inf)


def at(x: Value, *axes: int) -> Value:
    return Unsqueeze(x, ints(*axes))


def swapped(x: Value) -> Value:
    return Transpose(x, perm=(0, 1, 2, 4, 3))


def chunk(x: Value, i: int) -> Value:
    """Of ``[batch, head, chunk, ...]``."""
    return Gather(x, const(i, DType.I64), axis=2)


@dataclass
class Spelling:
    """Attention by chunks: which of its parts there are, and how they are spelled."""

    gated: bool = True
    delta: bool = False
    heads_first: bool = True
    past: Value | None = None
    scale: float = 1.0
    apart: bool = False
    """Whether sequences are split into chunks before beta is taken times them."""

    values_first: bool = False
    """Whether the state is ``[batch, head, value, key]``."""

    def source(self, name: str, size: int = 0) -> Value:
        """A sequence by heads, ``[batch, head, step, size]`` or steps first."""
        first = (H, T) if self.heads_first else (T, H)
        return param(name, N, *first, *([size] if size else []))

    def split(self, x: Value) -> Value:
        """``[batch, head, chunk, step, ...]`` of a source."""
        shape = x.shape or ()
        size = shape[3:]
        if self.heads_first:
            return Reshape(x, ints(0, H, C, L, *size))
        y = Reshape(x, ints(0, C, L, H, *size))
        return Transpose(y, perm=(0, 3, 1, 2, *([4] if size else [])))

    def merged(self, y: Value) -> Value:
        if self.heads_first:
            return Reshape(y, ints(0, H, T, V))
        return Reshape(Transpose(y, perm=(0, 2, 3, 1, 4)), ints(0, T, H, V))

    def results(self) -> tuple[Value, Value]:
        """The output, and the last state."""
        q, k, v = (self.source(n, s) for n, s in (("q", K), ("k", K), ("v", V)))
        b = self.source("b")
        g = self.split(self.source("g")) if self.gated else None
        beta = self.split(b)
        q, plain = self.split(q), self.split(k)
        if not self.delta:
            written, values = plain, self.split(v)
        elif self.apart:
            written = Mul(plain, at(beta, -1))
            values = Mul(self.split(v), at(beta, -1))
        else:
            written = self.split(Mul(k, at(b, -1)))
            values = self.split(Mul(at(b, -1), v))
        return self.summed(q, plain, written, values, g)

    def summed(
        self, q: Value, k: Value, written: Value, values: Value, g: Value | None
    ) -> tuple[Value, Value]:
        if self.scale != 1:
            q = Mul(q, const(self.scale))
        total = None if g is None else CumSum(g, const(-1, DType.I64))
        scores, known = MatMul(q, swapped(k)), MatMul(written, swapped(k))
        if total is None:
            scores, known = Trilu(scores, upper=0), Trilu(known, upper=0)
            fade, gate, tail, whole = q, written, k, None
        else:
            apart = Sub(at(total, 4), at(total, 3))
            decays = Exp(Where(LOWER, apart, HIDDEN))
            scores, known = Mul(scores, decays), Mul(known, decays)
            fade = Mul(q, at(Exp(total), 4))
            gate = Mul(written, at(Exp(total), 4))
            last = Slice(total, LAST, END, ints(3))
            tail = Mul(k, at(Exp(Sub(last, total)), 4))
            whole = at(Exp(last), 4)
        if self.delta:
            inverse = self.inverse(known)
            values, gate = MatMul(inverse, values), MatMul(inverse, gate)

        def turned(x: Value) -> Value:
            return Transpose(x, perm=(0, 1, 3, 2)) if self.values_first else x

        sizes = (V, K) if self.values_first else (K, V)
        state: Value = self.past or Expand(const(0.0), ints(1, H, *sizes))
        rows = []
        for i in range(C):
            new = chunk(values, i)
            if self.delta:
                new = Sub(new, MatMul(chunk(gate, i), turned(state)))
            read = MatMul(chunk(fade, i), turned(state))
            rows.append(at(Add(MatMul(chunk(scores, i), new), read), 2))
            made: tuple[Value, Value] = (chunk(tail, i), new)
            kept, beside = made[::-1] if self.values_first else made
            if whole is not None:
                state = Mul(state, chunk(whole, i))
            outer = MatMul(Transpose(kept, perm=(0, 1, 3, 2)), beside)
            state = Add(state, outer)
        return self.merged(Concat(*rows, axis=2)), state

    def inverse(self, known: Value) -> Value:
        """Of 1 + what a chunk's steps know of each other."""
        lower = Neg(Trilu(known, const(-1, DType.I64), upper=0))
        one = const(np.eye(L))
        return MatMul(Add(lower, one), Add(MatMul(lower, lower), one))


PAST = param("s", N, H, K, V)
SPELLINGS = [
    (Spelling(), "gated"),
    (Spelling(heads_first=False), "gated"),
    (Spelling(gated=False), "linear"),
    (Spelling(gated=False, delta=True), "delta"),
    (Spelling(delta=True), "gated_delta"),
    (Spelling(delta=True, heads_first=False), "gated_delta"),
    (Spelling(delta=True, apart=True), "gated_delta"),
    (Spelling(delta=True, past=PAST), "gated_delta"),
    (Spelling(past=PAST, heads_first=False, scale=0.25), "gated"),
]


@pytest.mark.parametrize(("spelled", "update"), SPELLINGS)
def test_chunks_are_found(spelled: Spelling, update: str) -> None:
    y, state = spelled.results()
    for outputs in ((y,), (y, state), (y, Reshape(state, ints(0, H * K * V)))):
        done = rewritten(RULE, outputs, **WAYS)
        (made,) = [op for op in done.ops if isinstance(op, LinearAttention)]
        assert made.update_rule == update
        assert made.scale == spelled.scale
        assert not {"MatMul", "CumSum", "Exp"} & {*kinds(done)}
        assert (made.operand(3) is not None) == (spelled.past is not None)


@pytest.mark.parametrize("past", [None, param("s", N, H, V, K)])
def test_a_state_of_values_by_keys(past: Value | None) -> None:
    """It is transposed where it comes in, and where it goes out."""
    spelled = Spelling(past=past, values_first=True, delta=past is not None)
    done = rewritten(RULE, spelled.results(), **WAYS)
    assert kinds(done).count("LinearAttention") == 1
    assert "MatMul" not in kinds(done)


def test_a_triangle_that_is_inverted_row_by_row() -> None:
    class ByRows(Spelling):
        def inverse(self, known: Value) -> Value:
            lower = Neg(Trilu(known, const(-1, DType.I64), upper=0))
            rows = [Gather(lower, const(i, DType.I64), axis=3) for i in range(L)]
            done: list[Value] = [at(rows[0], 3)]
            for i in range(1, L):
                before = Concat(*done, axis=3)
                known_row = Slice(at(rows[i], 3), ints(0), ints(i), ints(4))
                done.append(Add(at(rows[i], 3), MatMul(known_row, before)))
            return Add(Concat(*done, axis=3), const(np.eye(L)))

    done = rewritten(RULE, ByRows(delta=True).results(), **WAYS)
    assert "MatMul" not in kinds(done)


def test_sources_with_dims_of_one() -> None:
    """Queries that all heads share, and a scale that is divided by."""

    class Wide(Spelling):
        def source(self, name: str, size: int = 0) -> Value:
            if name == "q":
                shared = param("q", N, T, 1, 1, size)
                return Expand(shared, ints(1, 1, 1, H, 1))
            return super().source(name, size)

        def split(self, x: Value) -> Value:
            if x.rank != 5:
                return super().split(x)
            y = Reshape(x, ints(0, C, L, H, K))
            return Div(Transpose(y, perm=(0, 3, 1, 2, 4)), const(4.0))

    done = rewritten(RULE, Wide(heads_first=False).results(), **WAYS)
    (made,) = [op for op in done.ops if isinstance(op, LinearAttention)]
    assert made.scale == 0.25
    assert "MatMul" not in kinds(done)


def test_sources_of_unknown_dims() -> None:
    class Unknown(Spelling):
        def split(self, x: Value) -> Value:
            if x.shape and x.shape[-1] == K:
                x = typed("u", TensorType(DType.F32))
                return Reshape(x, ints(2, H, C, L, K))
            return super().split(x)

    misses(RULE, Unknown().results()[0], opset=OPSET)


def test_nothing_is_not_the_same_either() -> None:
    """A scale of zero would be the default one."""
    misses(RULE, Spelling(scale=0.0).results()[0], opset=OPSET)


def test_what_is_not_the_same() -> None:
    """A slip anywhere shows in the numbers."""

    class Other(Spelling):
        slip = ""

        def inverse(self, known: Value) -> Value:
            if self.slip == "triangle":
                return super().inverse(Add(known, known))
            if self.slip == "short":
                one = const(np.eye(L))
                return Sub(one, Trilu(known, const(-1, DType.I64), upper=0))
            return super().inverse(known)

        def summed(self, q: Value, k: Value, *rest: Any) -> tuple[Value, Value]:
            if self.slip == "key":
                k = Mul(k, const(np.linspace(1, 1.001, K)))
            if self.slip == "tiny":
                return super().summed(Add(q, const(1e-6)), k, *rest)
            if self.slip == "bent":
                return super().summed(Tanh(q), k, *rest)
            if self.slip == "quotient":
                return super().summed(Div(const(1.0), q), k, *rest)
            return super().summed(q, k, *rest)

    for slip in ("triangle", "short", "key", "tiny", "bent", "quotient"):
        spelled = Other(delta=True)
        spelled.slip = slip
        misses(RULE, spelled.results()[0], opset=OPSET)


SLIPS: list[Callable[[Value, float], Value]] = [
    lambda x, small: Add(x, const(small)),
    lambda x, small: Mul(x, const(1 + small)),
    lambda x, small: Add(x, Mul(const(small), Mul(x, x))),
    lambda x, small: Mul(x, const(1 + small * np.eye(1, (x.shape or ())[-1])[0])),
    lambda x, small: Tanh(x),
    lambda x, small: Neg(x),
]


@dataclass
class Slipped(Spelling):
    """Attention by chunks, but for a slip in one place."""

    slip: Callable[[Value, float], Value] = SLIPS[0]
    place: int = 0
    small: float = 0.0

    def bent(self, place: int, x: Value) -> Value:
        return self.slip(x, self.small) if place == self.place else x

    def summed(
        self, q: Value, k: Value, written: Value, values: Value, g: Value | None
    ) -> tuple[Value, Value]:
        q, k = self.bent(0, q), self.bent(1, k)
        written, values = self.bent(2, written), self.bent(3, values)
        g = None if g is None else self.bent(4, g)
        return super().summed(q, k, written, values, g)

    def inverse(self, known: Value) -> Value:
        return self.bent(5, super().inverse(self.bent(6, known)))


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_what_is_found_is_the_same_everywhere(data: st.DataObject) -> None:
    """With a slip anywhere it is not found, or the slip makes no difference."""
    draw = data.draw
    spelled = Slipped(
        gated=draw(st.booleans()),
        delta=draw(st.booleans()),
        heads_first=draw(st.booleans()),
        past=draw(st.sampled_from([None, PAST])),
        slip=draw(st.sampled_from(SLIPS)),
        place=draw(st.integers(0, 6)),
        small=10.0 ** -draw(st.integers(0, 7)),
    )
    graph = graph_of(spelled.results()[0], opset=OPSET)
    done = rewrite(graph, [RULE])
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    for size in (0.1, 1.0):
        feeds = [(rng.normal(size=sized(p)) * size).astype("f") for p in graph.inputs]
        (wanted,) = evaluate(graph, feeds, precision="float64")
        (found,) = evaluate(done, feeds, precision="float64")
        assert np.max(np.abs(wanted - found)) <= 1e-8 * np.max(np.abs(wanted))


def sized(parameter: Value) -> list[Any]:
    return [2 if dim is N else dim for dim in parameter.shape or ()]


def test_what_others_read() -> None:
    y, state = Spelling().results()
    reason = "within the chunks"
    misses(RULE, (y, Relu(state)), opset=26, reason="no linear attention")
    op = y.op
    assert op is not None
    rows = op.operands[0]
    assert rows is not None
    inner = rows.op
    assert inner is not None
    misses(RULE, (y, Relu(inner.operands[0])), reason, opset=OPSET)  # type: ignore[arg-type]
    misses(RULE, (y, inner.operands[0]), reason, opset=OPSET)  # type: ignore[arg-type]
    done = rewritten(RULE, (y, Relu(state)), **WAYS)
    assert "MatMul" not in kinds(done)


def test_other_pasts() -> None:
    other = Spelling(past=Relu(param("r", N, H, K, V)))
    assert "MatMul" not in kinds(rewritten(RULE, other.results(), **WAYS))
    two = Spelling(past=Add(param("r", N, H, K, V), PAST))
    misses(RULE, two.results()[0], opset=OPSET)
    wrong = Spelling(past=param("r", 1, H, K, V))
    misses(RULE, wrong.results()[0], opset=OPSET)


def test_the_runtime_computes_the_same() -> None:
    runtime = pytest.importorskip("onnxruntime")
    from graphopt.exporter import to_proto

    graph = graph_of(*Spelling(delta=True, past=PAST).results(), opset=21)
    done = FuseRecurrences()(graph)
    assert "LinearAttention" in kinds(done)
    rng = np.random.default_rng(0)
    feeds = [(rng.normal(size=sized(p)) / 3).astype("f") for p in graph.inputs]
    wanted = evaluate(graph, feeds, precision="float64")
    session = runtime.InferenceSession(
        to_proto(done).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_inputs()]
    found = session.run(None, dict(zip(names, feeds, strict=True)))
    for old, new in zip(wanted, found, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)
