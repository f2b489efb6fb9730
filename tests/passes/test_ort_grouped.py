"""Attention of decoders as one op: what it computes, what it needs, and what stays."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from equations import N, const, graph_of, ints, kinds, misses, param, random, rewritten

from graphopt.dims import symbol
from graphopt.exporter import to_proto
from graphopt.ir import Graph, Value
from graphopt.lowering.ort.gate import gated
from graphopt.lowering.ort.grouped import FuseGrouped, grouped, packed_heads
from graphopt.lowering.ort.kernels import Kernels
from graphopt.lowering.ort.limits import out_of_limits
from graphopt.ops import (
    Add,
    Attention,
    Expand,
    Gather,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    MatMul,
    Not,
    Range,
    Relu,
    RotaryEmbedding,
    Shape,
    Slice,
    Split,
    Sub,
    Unsqueeze,
)
from graphopt.ops.contrib import DOMAIN, GroupQueryAttention
from graphopt.reference import evaluate
from graphopt.rewrite import rewrite
from graphopt.types import DType

OPSET = 24
HEADS, GROUPS, SIZE = 4, 2, 16
S, P = symbol("s"), symbol("p")
ROWS = 32
ANGLES = np.outer(np.arange(ROWS), 0.5 ** np.arange(SIZE // 2))
COS, SIN = const(np.cos(ANGLES)), const(np.sin(ANGLES))


def raw(batch: Any = 1, steps: Any = 5) -> tuple[Value, Value, Value]:
    widths = (HEADS * SIZE, GROUPS * SIZE, GROUPS * SIZE)
    q, k, v = (
        param(name, batch, steps, width)
        for name, width in zip("qkv", widths, strict=True)
    )
    return q, k, v


def tables(steps: int = 5, begin: int = 0, *, batch: int = 1) -> tuple[Value, ...]:
    """Angles as models compute them, one row for each position of a step."""
    rows = slice(begin, begin + steps)
    made = [np.cos(ANGLES[rows]), np.sin(ANGLES[rows])]
    return tuple([const(np.repeat(x[None], batch, 0)) for x in made])


def turned(x: Value, heads: int, *angles: Value, **ways: Any) -> Value:
    return RotaryEmbedding(x, *angles, num_heads=heads, **ways)


def attention(
    parts: tuple[Value, Value, Value],
    angles: tuple[Value, ...],
    *more: Any,
    **ways: Any,
) -> Attention:
    q, k, v = parts
    turn = ways.pop("turn", {})
    return Attention(
        *(turned(q, HEADS, *angles, **turn), turned(k, GROUPS, *angles, **turn), v),
        *more,
        q_num_heads=HEADS,
        kv_num_heads=GROUPS,
        **ways,
    )


def cache(batch: Any = 1, held: Any = 3) -> tuple[Value, Value]:
    return (
        param("keys", batch, GROUPS, held, SIZE),
        param("values", batch, GROUPS, held, SIZE),
    )


def looked_up(past: Value | None = None, x: Value | None = None) -> tuple[Value, ...]:
    """Rows of stored tables, for the positions behind the past."""
    steps: Value = ints(5) if x is None else Shape(x, start=1, end=2)
    zero, one = const(0, DType.I64), const(1, DType.I64)
    places: Value = Range(zero, Gather(steps, zero), one)
    if past is not None:
        places = Add(places, Shape(past, start=2, end=3))
    places = Unsqueeze(places, ints(0))
    return Gather(COS, places), Gather(SIN, places)


MASK = const(np.where(np.tri(5) > 0, 0.0, -1e4).reshape(1, 1, 5, 5))


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("ways", [{}, {"scale": 0.5, "softcap": 3.0}])
def test_one_op_for_all(causal: int, mask: Value | None, ways: Any) -> None:
    before = attention(raw(), tables(), mask, is_causal=causal, **ways)
    done = rewritten(grouped, before, opset=OPSET)
    made = done.ops[-1]
    assert isinstance(made, GroupQueryAttention)
    assert made.causal == causal
    assert made.operands[7].shape == (5, SIZE // 2)
    assert [v.constant.array().tolist() for v in made.operands[5:7]] == [[4], 5]


def test_pairs_and_parts_of_heads() -> None:
    before = attention(raw(), tables(), is_causal=1, turn={"interleaved": 1})
    made = rewritten(grouped, before, opset=OPSET).ops[-1]
    assert made.rotary_interleaved == 1
    some = tuple([Slice(x, ints(0), ints(4), ints(2)) for x in tables()])
    before = attention(raw(), some, is_causal=1, turn={"rotary_embedding_dim": 8})
    assert "GroupQueryAttention" in kinds(rewritten(grouped, before, opset=OPSET))


@pytest.mark.parametrize(("batch", "steps"), [(1, 5), (3, 1)])
def test_with_a_past(batch: int, steps: int) -> None:
    """Stored tables have rows for it; those of the step alone have none."""
    parts, (keys, values) = raw(batch, steps), cache(batch)
    more = (None, keys, values)
    angles = looked_up(keys, parts[0])
    before = attention(parts, angles, *more, is_causal=1, outs=3)
    done = rewritten(grouped, before.results, opset=OPSET)
    (made,) = [op for op in done.ops if isinstance(op, GroupQueryAttention)]
    assert made.operands[7] is COS
    assert made.operands[5].constant.array().tolist() == [steps + 2] * batch
    short = attention(parts, tables(steps, 3, batch=batch), *more, is_causal=1, outs=3)
    misses(grouped, short.results, "not rows of a table", opset=OPSET)


def test_dims_may_be_symbols() -> None:
    sizes = ({"n": 2, "s": 3, "p": 2}, {"n": 1, "s": 1, "p": 4})
    parts = raw(N, S)
    before = attention(parts, looked_up(x=parts[0]), is_causal=1)
    done = rewritten(grouped, before, opset=OPSET, sizes=sizes)
    assert "GroupQueryAttention" in kinds(done)
    q, k, v = raw(N, 1)
    keys, values = cache(N, P)
    angles = looked_up(keys, q)
    before = attention((q, k, v), angles, None, keys, values, is_causal=1, outs=3)
    done = rewritten(grouped, before.results, opset=OPSET, sizes=sizes)
    assert "GroupQueryAttention" in kinds(done)
    wide = tuple([Expand(x, ints(3, 1, 1)) for x in tables()])
    done = rewritten(grouped, attention(raw(3), wide, is_causal=1), opset=OPSET)
    assert kinds(done)[-1] == "GroupQueryAttention"


def test_what_stays() -> None:
    def stays(reason: str, before: Any) -> None:
        misses(grouped, before, reason, opset=OPSET)

    q, k, v = raw()
    c, s = tables()
    heads = {"q_num_heads": HEADS, "kv_num_heads": GROUPS}
    stays("nothing to gain", Attention(q, k, v, **heads))
    stays("nothing to gain", Attention(turned(q, HEADS, c, s), k, v, **heads))
    stays("nothing to gain", Attention(q, turned(k, GROUPS, c, s), v, **heads))
    x = param("x", 1, HEADS, 5, SIZE)
    stays("last dim", Attention(RotaryEmbedding(x, c, s), RotaryEmbedding(x, c, s), x))
    other = turned(k, GROUPS, s, c)
    mixed = Attention(turned(q, HEADS, c, s), other, v, **heads)
    stays("not rows of a table", mixed)
    pairs = turned(k, GROUPS, c, s, interleaved=1)
    stays("not rows", Attention(turned(q, HEADS, c, s), pairs, v, **heads))
    hidden = param("hidden", 1, 1, 5, 5, dtype=DType.BOOL)
    stays("hide all keys", attention((q, k, v), (c, s), hidden))
    whole = attention((q, k, v), (c, s))
    stays("read elsewhere", (whole, Relu(whole.operands[0])))
    stays("read elsewhere", (whole, Relu(whole.operands[1])))
    stays(
        "other results",
        attention((q, k, v), (c, s), qk_matmul_output_mode=0, outs=4).results,
    )
    several = attention(raw(2), tables(batch=2), is_causal=1)
    stays("not rows", several)  # which may differ between instances
    long = param("long", 1, 7, GROUPS * SIZE)
    cross = Attention(
        *(
            turned(q, HEADS, c, s),
            turned(long, GROUPS, *tables(7)),
            param("w", 1, 7, 32),
        ),
        **heads,
    )
    stays("as many keys", cross)
    held = attention(raw(2, 3), looked_up(cache(2)[0], q), None, *cache(2), outs=3)
    stays("in one instance only", held.results)
    stays(
        "not rows",
        attention((q, k, v), (COS, SIN, const([[0, 1, 2, 4, 3]], DType.I64))),
    )
    late = const([[1, 2, 3, 4, 5]], DType.I64)
    rows = (Gather(COS, late), Gather(SIN, late))
    made = rewrite(graph_of(attention((q, k, v), rows), opset=OPSET), [grouped])
    assert kinds(made).count("Squeeze") == 2  # not the table's own rows


def test_a_runtime_that_knows_causal_attention_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    older = dataclasses.replace(Kernels.of("cpu"), version="1.31.1")
    monkeypatch.setattr(Kernels, "of", lambda _: older)
    before = attention(raw(), tables(), MASK)
    misses(grouped, before, "causal attention alone", opset=OPSET)
    before = attention(raw(), tables(), MASK, is_causal=1)
    rewritten(grouped, before, opset=OPSET)


def joined(outs: int = 1) -> GroupQueryAttention:
    x, size = param("x", 1, 5, 8), (HEADS + 2 * GROUPS) * SIZE
    whole = MatMul(x, random(8, size))
    parts = Split(
        whole, ints(HEADS * SIZE, GROUPS * SIZE, GROUPS * SIZE), axis=-1, outs=3
    )
    q, k, v = parts.results
    return GroupQueryAttention(
        *(q, k, v, None, None, const([4], DType.I32), const(5, DType.I32), COS, SIN),
        num_heads=HEADS,
        kv_num_heads=GROUPS,
        do_rotary=1,
        outs=outs,
    )


def test_parts_of_one_projection_stay_together() -> None:
    done = rewritten(packed_heads, joined(3).results)
    assert kinds(done) == ["MatMul", "GroupQueryAttention"]
    op = joined()
    misses(packed_heads, (op, Relu(op.operands[2])), "read elsewhere")
    q, k, v, *others = op.operands
    misses(packed_heads, op.with_operands([q, v, k, *others]))
    misses(packed_heads, op.with_operands([param("q", 1, 5, 64), k, v, *others]))
    assert done.outputs[0].op.operand(1) is None
    assert rewrite(done, [packed_heads]) is done


def run(graph: Graph, feeds: list[Any]) -> list[Any]:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(
        to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_inputs()]
    found: list[Any] = session.run(None, dict(zip(names, feeds, strict=True)))
    return found


@pytest.mark.parametrize(("batch", "steps", "held"), [(1, 5, 0), (1, 5, 3), (3, 1, 4)])
def test_the_runtime_computes_the_same(batch: int, steps: int, held: int) -> None:
    parts, past = raw(batch, steps), cache(batch, held) if held else ()
    angles = looked_up(past[0] if past else None, parts[0])
    before = attention(parts, angles, None, *past, is_causal=1, outs=3)
    graph = graph_of(*before.results, opset=OPSET, inputs=[*parts, *past])
    done = FuseGrouped()(graph)
    assert "GroupQueryAttention" in kinds(done)
    rng = np.random.default_rng(0)
    feeds = [rng.normal(size=p.shape).astype(np.float32) for p in graph.inputs]
    wanted = evaluate(graph, feeds, precision="float64")
    for old, new in zip(wanted, run(done, feeds), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-5)


@pytest.mark.parametrize("dims", [(1, SIZE // 2), (5, 1), (1, 1)])
def test_angles_that_are_widened_by_more_than_instances(dims: tuple[int, int]) -> None:
    """What widens them along positions or in a head stays."""
    few = param("cos", 1, *dims), param("sin", 1, *dims)
    once = tuple([Expand(x, ints(1, 5, SIZE // 2)) for x in few])
    done = rewritten(grouped, attention(raw(), once, is_causal=1), opset=OPSET)
    made = done.outputs[0].op
    assert isinstance(made, GroupQueryAttention)
    assert made.operands[7].shape == (5, SIZE // 2)
    assert kinds(done).count("Expand") == 2
    wide = tuple([Expand(x, ints(3, 5, SIZE // 2)) for x in few])
    misses(grouped, attention(raw(3), wide, is_causal=1), "not rows", opset=OPSET)


@pytest.mark.parametrize(
    ("dims", "steps", "held", "fits"),
    [
        ((1, 1, 5, 5), 5, 0, True),
        ((1, HEADS, 5, 5), 5, 0, True),
        ((1, 1, 1, 4), 1, 3, True),
        ((1, 1, 1, 5), 5, 0, False),
        ((1, 5), 5, 0, False),
        ((1, 1, 5, 1), 5, 0, False),
        ((1, 1, 1, 1), 1, 3, False),
    ],
)
def test_masks_that_the_kernel_takes(
    dims: tuple[int, ...], steps: int, held: int, fits: bool
) -> None:
    """A row for each query and a column for each key: none is used for several."""
    parts, past = raw(1, steps), cache(1, held) if held else ()
    mask = const(-np.arange(np.prod(dims)).reshape(dims) / 7)
    angles = looked_up(past[0] if past else None, parts[0])
    before = attention(parts, angles, mask, *past, is_causal=1, outs=3)
    graph = graph_of(*before.results, opset=OPSET, inputs=[*parts, *past])
    done = FuseGrouped()(graph)
    assert ("GroupQueryAttention" in kinds(done)) == fits
    if not fits:
        misses(gated(grouped, "cpu"), before.results, "no row for each", opset=OPSET)
        return
    rng = np.random.default_rng(0)
    feeds = [rng.normal(size=p.shape).astype(np.float32) for p in graph.inputs]
    wanted = evaluate(graph, feeds, precision="float64")
    for old, new in zip(wanted, run(done, feeds), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-5)


def test_heads_that_the_kernel_refuses() -> None:
    small = GroupQueryAttention(
        *(param("q", 1, 5, 24), param("k", 1, 5, 24), param("v", 1, 5, 24)),
        *(None, None, const([4], DType.I32), const(5, DType.I32)),
        num_heads=1,
        kv_num_heads=1,
    )
    refused = out_of_limits("cpu", DOMAIN, "GroupQueryAttention", small)
    assert refused is not None
    assert "multiple of 16" in refused
    assert out_of_limits("cpu", DOMAIN, "GroupQueryAttention", joined()) is None
    packed = rewritten(packed_heads, joined()).ops[-1]
    assert out_of_limits("cpu", DOMAIN, "GroupQueryAttention", packed) is None
    few = list(joined().operands)
    few[7:9] = param("cosine", 8, 4), param("sine", 8, 4)
    refused = out_of_limits(
        "cpu", DOMAIN, "GroupQueryAttention", joined().copy(operands=few)
    )
    assert "turns a multiple of 16" in str(refused)
    open_ = joined().copy(causal=0)
    assert out_of_limits("cpu", DOMAIN, "GroupQueryAttention", open_) is None
    assert "causal" in str(out_of_limits("cuda", DOMAIN, "GroupQueryAttention", open_))
    misses(
        gated(grouped, "cuda"),
        attention(raw(), tables(), MASK),
        "no kernel",
        opset=OPSET,
    )


# --- windows ------------------------------------------------------------------------


def band(width: int, steps: int = 5) -> Any:
    apart = np.subtract.outer(np.arange(steps), np.arange(steps))
    return const(((apart >= 0) & (apart < width)).reshape(1, 1, steps, steps), BOOL)


BOOL = DType.BOOL


def counted(x: Value, axis: int, begin: Value | None = None) -> Value:
    """Positions along the last axis but one, or the last, of four."""
    zero, one = const(0, DType.I64), const(1, DType.I64)
    many: Value = Gather(Shape(x, start=1, end=2), zero)
    if begin is not None:
        held = Gather(Shape(begin, start=2, end=3), zero)
        if axis == 3:
            return Unsqueeze(Range(zero, Add(many, held), one), ints(0, 1, 2))
        return Unsqueeze(Add(Range(zero, many, one), held), ints(0, 1, 3))
    places = Range(zero, many, one)
    return Unsqueeze(places, ints(*(a for a in range(4) if a != axis)))


SPELLED: list[Any] = [
    lambda row, column, n: Less(Sub(row, column), n),
    lambda row, column, n: Greater(column, Sub(row, n)),
    lambda row, column, n: Not(GreaterOrEqual(Sub(row, column), n)),
    lambda row, column, n: Not(LessOrEqual(n, Sub(row, column))),
    lambda row, column, n: LessOrEqual(Add(Sub(row, n), const(1, DType.I64)), column),
]


@pytest.mark.parametrize("width", [1, 3, 5])
def test_a_band_is_a_window(width: int) -> None:
    before = attention(raw(), tables(), band(width))
    done = rewritten(grouped, before, opset=OPSET)
    (made,) = [op for op in done.ops if isinstance(op, GroupQueryAttention)]
    assert (made.local_window_size, made.causal) == (width, 1)
    assert made.operand(10) is None


@pytest.mark.parametrize("spell", SPELLED)
def test_windows_by_position(spell: Any) -> None:
    sizes = ({"n": 2, "s": 5, "p": 2}, {"n": 1, "s": 2, "p": 4})
    parts = raw(N, S)
    row, column = counted(parts[0], 2), counted(parts[0], 3)
    seen = spell(row, column, const(2, DType.I64))
    before = attention(parts, looked_up(x=parts[0]), seen, is_causal=1)
    done = rewritten(grouped, before, opset=OPSET, sizes=sizes)
    (made,) = [op for op in done.ops if isinstance(op, GroupQueryAttention)]
    assert (made.local_window_size, made.operand(10)) == (2, None)
    misses(
        grouped,
        attention(parts, looked_up(x=parts[0]), seen),
        "hide all keys",
        opset=OPSET,
    )


def test_a_window_behind_a_past() -> None:
    sizes = ({"n": 2, "s": 1, "p": 5}, {"n": 1, "s": 1, "p": 1})
    parts, (keys, values) = raw(N, 1), cache(N, P)
    row, column = (counted(parts[0], axis, keys) for axis in (2, 3))
    seen = Less(Sub(row, column), const(3, DType.I64))
    angles = looked_up(keys, parts[0])
    more = (seen, keys, values)
    before = attention(parts, angles, *more, is_causal=1, outs=3)
    done = rewritten(grouped, before.results, opset=OPSET, sizes=sizes)
    (made,) = [op for op in done.ops if isinstance(op, GroupQueryAttention)]
    assert made.local_window_size == 3


def test_what_is_no_window() -> None:
    q = raw()[0]
    row, column = counted(q, 2), counted(q, 3)
    two = const(2, DType.I64)
    holed = np.tri(5, dtype=bool)
    holed[3, 1] = False
    for mask in (
        Less(Sub(column, row), two),
        Less(Add(row, column), two),
        Greater(Sub(row, column), two),
        Less(Sub(row, column), const(0, DType.I64)),
        Less(row, two),
        Less(column, two),
        Less(Sub(row, Add(column, column)), two),
        Less(Sub(row, column), param("w", dtype=DType.I64)),
    ):
        before = attention(raw(), tables(), mask, is_causal=1)
        misses(grouped, before, "hide all keys", opset=OPSET)
    for seen in (holed, ~np.tri(5, k=-2, dtype=bool), np.tri(5, k=1, dtype=bool)):
        mask = const(seen.reshape(1, 1, 5, 5), BOOL)
        made = rewritten(grouped, attention(raw(), tables(), mask), opset=OPSET)
        (op,) = [op for op in made.ops if isinstance(op, GroupQueryAttention)]
        assert (op.local_window_size, op.causal) == (-1, 0)


@pytest.mark.parametrize("held", [0, 4])
def test_the_runtime_sees_the_same_window(held: int) -> None:
    steps = 1 if held else 6
    parts, past = raw(1, steps), cache(1, held) if held else ()
    seen: Value = band(3, steps)
    if past:
        row, column = (counted(parts[0], axis, past[0]) for axis in (2, 3))
        seen = Less(Sub(row, column), const(3, DType.I64))
    angles = looked_up(past[0] if past else None, parts[0])
    causal = 1 if past else 0
    before = attention(parts, angles, seen, *past, is_causal=causal, outs=3)
    graph = graph_of(*before.results, opset=OPSET, inputs=[*parts, *past])
    done = FuseGrouped()(graph)
    (made,) = [op for op in done.ops if isinstance(op, GroupQueryAttention)]
    assert made.local_window_size == 3
    rng = np.random.default_rng(0)
    feeds = [rng.normal(size=p.shape).astype(np.float32) for p in graph.inputs]
    wanted = evaluate(graph, feeds, precision="float64")
    for old, new in zip(wanted, run(done, feeds), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-5)
