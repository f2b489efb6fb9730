"""Cases of `fused_kernels.py`: linear attention and causal convolutions."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from fused_cases import CHAIN, Case, Model, gate
from onnx import TensorProto, helper

CONVOLVED = ((768, 1), (768, 4), (768, 8), (2048, 8), (768, 32), (1024, 128))
"""Channels and steps."""
KERNEL = 4


def recurrences() -> Iterator[Case]:
    """Linear attention and causal convolutions of several sizes."""
    for channels, steps in CONVOLVED:
        size = f"{channels} x {steps}"
        yield convolution("CausalConvWithState", size, channels, steps, activated)
        yield convolution("CausalConvWithState, past", size, channels, steps, behind)
        yield convolution(
            "CausalConvWithState, steps first", size, channels, steps, turned
        )
    for rule in ("linear", "gated", "delta"):
        for heads, width, steps in ((4, 16, 16), (8, 64, 1), (8, 64, 64), (8, 64, 256)):
            yield attention(rule, heads, width, steps)
    for heads, width, steps in ((4, 16, 16), (8, 64, 64), (8, 64, 256)):
        yield attention("gated", heads, width, steps, loop=True)
    for heads, width, count, length in ((4, 16, 2, 16), (8, 64, 2, 64), (8, 64, 4, 64)):
        yield by_chunks(heads, width, count, length)
    for channels, steps in ((64, 8), (768, 32)):
        yield written_out(channels, 16, steps)


# --- convolutions -------------------------------------------------------------------

Convolve = Callable[[Model, str, int, bool], str]
"""A convolution of ``x`` with so many channels, fused or not."""


def convolution(
    name: str, size: str, channels: int, steps: int, convolve: Convolve
) -> Case:
    def build(m: Model, fused: bool) -> str:
        last = convolve is turned
        x = m.input(1, *((steps, channels) if last else (channels, steps)))
        for _ in range(CHAIN):
            x = convolve(m, x, channels, fused)
        return x

    return Case(name, size, lambda m: build(m, True), lambda m: build(m, False))


def weights(m: Model, channels: int) -> tuple[str, str]:
    return m.weight(channels, 1, KERNEL), m.weight(channels)


def activated(m: Model, x: str, channels: int, fused: bool) -> str:
    w, b = weights(m, channels)
    if fused:
        return m.fuse("CausalConvWithState", x, w, b, activation="silu", outs=2)
    return gate(m, m.add("Conv", x, w, b, group=channels, pads=[KERNEL - 1, 0]), 1)


def behind(m: Model, x: str, channels: int, fused: bool) -> str:
    """What has a past leaves a state, which is the past of the next one."""
    w, b = weights(m, channels)
    past = m.states[-1] if m.states else m.input(1, channels, KERNEL - 1)
    if fused:
        attrs = {"activation": "silu", "outs": 2}
        y = m.fuse("CausalConvWithState", x, w, b, past, **attrs)
        m.states.append(f"{y}_1")
        return y
    joined = m.add("Concat", past, x, axis=2)
    ends = [m.whole(1 - KERNEL), m.whole(1 << 62), m.whole(2)]
    m.states.append(m.add("Slice", joined, *ends))
    return gate(m, m.add("Conv", joined, w, b, group=channels), 1)


def turned(m: Model, x: str, channels: int, fused: bool) -> str:
    if fused:
        w, b = weights(m, channels)
        attrs = {"activation": "silu", "outs": 2, "channels_last": 1}
        return m.fuse("CausalConvWithState", x, w, b, **attrs)
    x = m.add("Transpose", x, perm=[0, 2, 1])
    return m.add("Transpose", activated(m, x, channels, False), perm=[0, 2, 1])


# --- linear attention ---------------------------------------------------------------


def attention(
    rule: str, heads: int, width: int, steps: int, loop: bool = False
) -> Case:
    """Operands are ``[1, step, head, size]``; beside them the steps of a loop."""
    names = {"linear": "qkv", "gated": "qkvg", "delta": "qkvb"}[rule]

    def operands(m: Model) -> list[str]:
        found = [m.input(1, heads, width, width)]
        for name in names:
            x = m.input(1, steps, heads, *([width] if name != "b" else []))
            m.inputs[x] *= np.float32(0.1)
            found.append(x)
        return found

    def fused(m: Model) -> str:
        state, *others = operands(m)
        flat = m.whole(0, 0, heads * width)
        packed = [
            x if name == "b" else m.add("Reshape", x, flat)
            for name, x in zip(names, others, strict=True)
        ]
        packed.insert(3, state)
        if rule == "delta":
            packed.insert(4, "")
        attrs = {"q_num_heads": heads, "kv_num_heads": heads, "scale": 1.0}
        y = m.fuse("LinearAttention", *packed, outs=2, update_rule=rule, **attrs)
        return m.add("Reshape", y, m.whole(0, 0, heads, width))

    def parts(m: Model) -> str:
        found = operands(m)
        body = step_of(rule, names, heads, width, found[1:] if loop else ())
        count = len(names)
        if loop:
            turns = m.whole(steps, scalar=True)
            y = m.add("Loop", turns, "", found[0], outs=2, body=body)
            return m.add("Transpose", f"{y}_1", perm=[1, 0, 2, 3])
        y = m.add(
            *("Scan", *found),
            outs=2,
            body=body,
            num_scan_inputs=count,
            scan_input_axes=[1] * count,
            scan_output_axes=[1],
        )
        return f"{y}_1"

    size = f"{steps} x {heads} x {width} x {width}"
    kind = "of a Loop" if loop else rule
    return Case(f"LinearAttention, {kind}", size, fused, parts)


def step_of(
    rule: str, names: str, heads: int, width: int, sources: Sequence[str]
) -> object:
    """One step as the body of a Scan; of a Loop, which takes slices of the sources."""
    m = Model("b")
    row, column = m.whole(2), m.whole(3)
    for name, source in zip(names, sources, strict=False):
        m.nodes.append(helper.make_node("Gather", [source, "i"], [name], axis=1))

    def known(x: str, state: str) -> str:
        product = m.add("MatMul", m.add("Unsqueeze", x, row), state)
        return m.add("Squeeze", product, row)

    state, value = "S", "v"
    if rule == "gated":
        state = m.add("Mul", "S", m.add("Unsqueeze", m.add("Exp", "g"), column))
    if rule == "delta":
        rest = m.add("Sub", "v", known("k", "S"))
        value = m.add("Mul", rest, m.add("Unsqueeze", "b", row))
    outer = [m.add("Unsqueeze", "k", column), m.add("Unsqueeze", value, row)]
    new = m.add("Add", state, m.add("Mul", *outer))
    y = known("q", new)
    dims = dict.fromkeys("qkvg", (1, heads, width)) | {"b": (1, heads)}
    dims["S"] = (1, heads, width, width)
    given = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, dims[n])
        for n in ("S", *names)
    ]
    results = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in (new, y)
    ]
    if sources:
        one, true = TensorProto.INT64, TensorProto.BOOL
        m.nodes.append(helper.make_node("Identity", ["on"], ["on_"]))
        given = [
            helper.make_tensor_value_info("i", one, ()),
            helper.make_tensor_value_info("on", true, ()),
            given[0],
        ]
        results.insert(0, helper.make_tensor_value_info("on_", true, ()))
    return helper.make_graph(m.nodes, "step", given, results, initializer=m.weights)


def by_chunks(heads: int, width: int, count: int, length: int) -> Case:
    """Gated attention within chunks, and a state from one to the next."""
    steps, each = count * length, (1, heads, count, length)

    def operands(m: Model) -> list[str]:
        found = [m.input(1, heads, steps, width) for _ in "qkv"]
        found.append(m.input(1, heads, steps))
        for x in found:
            m.inputs[x] *= np.float32(0.1)
        return found

    def fused(m: Model) -> str:
        *wide, gate = operands(m)
        flat = m.whole(0, 0, heads * width)
        q, k, v = (
            m.add("Reshape", m.add("Transpose", x, perm=[0, 2, 1, 3]), flat)
            for x in wide
        )
        g = m.add("Transpose", gate, perm=[0, 2, 1])
        attrs = {"q_num_heads": heads, "kv_num_heads": heads, "scale": 1.0}
        y = m.fuse(
            *("LinearAttention", q, k, v, "", g), outs=2, update_rule="gated", **attrs
        )
        rows = m.add("Reshape", y, m.whole(0, 0, heads, width))
        return m.add("Transpose", rows, perm=[0, 2, 1, 3])

    def parts(m: Model) -> str:
        *wide, gate = operands(m)
        q, k, v = (m.add("Reshape", x, m.whole(*each, width)) for x in wide)
        total = m.add(
            "CumSum", m.add("Reshape", gate, m.whole(*each)), m.whole(3, scalar=True)
        )
        row, column = (m.add("Unsqueeze", total, m.whole(i)) for i in (4, 3))
        apart = m.add("Sub", row, column)
        hidden = m.constant(np.triu(np.full((length, length), -np.inf), 1))
        decays = m.add("Exp", m.add("Add", apart, hidden))
        scores = m.add("MatMul", q, m.add("Transpose", k, perm=[0, 1, 2, 4, 3]))
        within = m.add("MatMul", m.add("Mul", scores, decays), v)
        last = m.add("Slice", row, m.whole(-1), m.whole(1 << 62), m.whole(3))
        kept = m.add("Mul", k, m.add("Exp", m.add("Sub", last, row)))
        made = m.add("MatMul", m.add("Transpose", kept, perm=[0, 1, 2, 4, 3]), v)
        asked, fade = m.add("Mul", q, m.add("Exp", row)), m.add("Exp", last)
        state, read = m.constant(np.zeros((1, heads, width, width))), []
        for i in range(count):
            at = m.whole(i, scalar=True)
            of = [m.add("Gather", x, at, axis=2) for x in (asked, fade, made)]
            row = m.add("MatMul", of[0], state)
            read.append(m.add("Unsqueeze", row, m.whole(2)))
            state = m.add("Add", m.add("Mul", of[1], state), of[2])
        y = m.add("Add", within, m.add("Concat", *read, axis=2))
        return m.add("Reshape", y, m.whole(1, heads, steps, width))

    size = f"{count} x {length} x {heads} x {width} x {width}"
    return Case("LinearAttention, by chunks", size, fused, parts)


def written_out(channels: int, size: int, steps: int) -> Case:
    """A selective state-space model, whose channels are heads of one value each."""

    def operands(m: Model) -> list[str]:
        wide = [m.input(1, channels, steps, size) for _ in range(2)]
        return [*wide, m.input(1, steps, size), m.input(1, channels, size)]

    def fused(m: Model) -> str:
        decay, write, read, state = operands(m)
        flat = m.whole(0, 0, channels * size)
        k, g = (
            m.add("Reshape", m.add("Transpose", x, perm=[0, 2, 1, 3]), flat)
            for x in (write, decay)
        )
        spread = m.add("Unsqueeze", read, m.whole(2))
        q = m.add("Reshape", m.add("Expand", spread, m.whole(1, 1, channels, 1)), flat)
        ones = m.constant(np.ones((1, steps, channels)))
        start = m.add("Unsqueeze", state, m.whole(3))
        attrs = {"q_num_heads": channels, "kv_num_heads": channels, "scale": 1.0}
        y = m.fuse(
            *("LinearAttention", q, k, ones, start, g),
            outs=2,
            update_rule="gated",
            **attrs,
        )
        return m.add("Transpose", y, perm=[0, 2, 1])

    def parts(m: Model) -> str:
        decay, write, read, state = operands(m)
        gates, results = m.add("Exp", decay), []
        for t in range(steps):
            at = m.whole(t, scalar=True)
            kept = m.add("Mul", m.add("Gather", gates, at, axis=2), state)
            state = m.add("Add", kept, m.add("Gather", write, at, axis=2))
            column = m.add("Unsqueeze", m.add("Gather", read, at, axis=1), m.whole(-1))
            results.append(m.add("MatMul", state, column))
        return m.add("Concat", *results, axis=-1)

    size_ = f"{steps} x {channels} x {size}"
    return Case("LinearAttention, steps written out", size_, fused, parts)
