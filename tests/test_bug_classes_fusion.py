"""Bug classes that other optimizers had: fusions that must not be, or must be right.

Names and marks are those of `test_bug_classes`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto
from test_bug_classes import (
    IMAGE,
    NORM_WEIGHTS,
    NORMED,
    everywhere,
    f32,
    improve,
    kinds,
    model,
    numbers,
    run,
)

from graphopt import optimize, optimize_model, run_model
from graphopt.driver import missed
from graphopt.importer import load

NORM = "BatchNormalization"
PLAIN_NORM = NORMED.replace("ATTRS", "")

# --- convolution and batch normalization ---------------------------------------------


@everywhere
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("epsilon", [1e-5, 0.1])
def test_batch_norm_goes_into_the_convolution(
    target: str, bias: bool, epsilon: float
) -> None:
    """It differs by rounding only (SIM #50, #178, onnx #2677, OPT #255)."""
    text = NORMED.replace("ATTRS", f"<epsilon = {epsilon}>")
    weights = dict(NORM_WEIGHTS)
    if bias:
        text = text.replace("Conv (x, w)", "Conv (x, w, cb)")
        weights["cb"] = numbers(4, seed=9)
    proto = model(text, weights)
    made = improve(target, proto, IMAGE, exact=False)
    assert kinds(made) == ["Conv"]
    after, before = run(target, made, IMAGE)[0], run(target, proto, IMAGE)[0]
    assert np.abs(after - before).max() < 1e-6 * np.abs(before).max()


@everywhere
@pytest.mark.parametrize("fed", ["initializers", "constants", "inputs"])
def test_batch_norm_of_weights_from_anywhere(target: str, fed: str) -> None:
    """Initializers and Constant nodes alike, inputs never (OPT #133: only some)."""
    weights = {} if fed != "initializers" else NORM_WEIGHTS
    text, feeds = PLAIN_NORM, dict(IMAGE)
    if fed == "inputs":
        side = ", ".join(f"float[4] {name}" for name in "sbmv")
        text = text.replace("x) =>", f"x, float[4, 3, 3, 3] w, {side}) =>")
        feeds |= NORM_WEIGHTS
    proto = model(text, weights)
    if fed == "constants":
        for name, array in NORM_WEIGHTS.items():
            holder = model("() => (float y) { }", {name: array})
            node = proto.graph.node.add(op_type="Constant", output=[name])
            node.attribute.add(name="value", type="TENSOR").t.CopyFrom(
                holder.graph.initializer[0]
            )
        nodes = list(proto.graph.node)
        del proto.graph.node[:]
        proto.graph.node.extend(nodes[2:] + nodes[:2])
    made = improve(target, proto, feeds, exact=False)
    assert (NORM in kinds(made)) == (fed == "inputs")


@everywhere
def test_a_weight_of_two_norms_is_scaled_twice(target: str) -> None:
    """One weight, two BatchNormalizations: two weights (seen: all are right)."""
    text = """(float[N, 3, 5, 5] x) => (float[N, 4, 3, 3] y, float[N, 4, 3, 3] z) {
        r = Relu (x)  a = Conv (x, w)  c = Conv (r, w)
        y = BatchNormalization (a, s, b, m, v)
        z = BatchNormalization (c, b, s, m, v) }"""
    made = improve(target, model(text, NORM_WEIGHTS), IMAGE, exact=False)
    assert kinds(made) == ["Conv", "Conv", "Relu"]


@everywhere
@pytest.mark.parametrize("reader", ["an output", "another op", "a body"])
def test_nothing_is_fused_through_what_others_read(target: str, reader: str) -> None:
    """A value with a second reader stays as it is (ORT #4110: an output was lost)."""
    more, last = {
        "an output": (", float[N, 4, 3, 3] c", ""),
        "another op": (", float[N, 4, 3, 3] z", "z = Neg (c)"),
        "a body": (
            ", float[N, 4, 3, 3] z",
            """z = If (k) <
            then_branch = t () => (float[N, 4, 3, 3] p) { p = Neg (c) },
            else_branch = e () => (float[N, 4, 3, 3] q) { q = Abs (c) }>""",
        ),
    }[reader]
    text = PLAIN_NORM.replace("3, 3] y)", f"3, 3] y{more})").replace("\n}", f"{last}}}")
    text = text.replace("5] x)", "5] x, bool k)") if reader == "a body" else text
    feeds = {**IMAGE, "k": np.array(True)} if reader == "a body" else IMAGE
    proto = model(text, NORM_WEIGHTS)
    made = improve(target, proto, feeds, exact=False)
    assert {"Conv", NORM} <= set(kinds(made))
    alone = model(PLAIN_NORM, NORM_WEIGHTS)
    assert kinds(improve(target, alone, IMAGE, exact=False)) == ["Conv"]


@everywhere
@pytest.mark.parametrize("outputs", ["p", "q", "p, q"])
def test_a_transpose_that_others_read_stays(target: str, outputs: str) -> None:
    """An output between two ops that cancel is still computed (SIM #227, ORT #4110)."""
    sides = ", ".join(f"float[3, 2] {name}" for name in outputs.split(", "))
    text = f"""(float[2, 3] x) => (float[2, 3] y, {sides}) {{
        p = Transpose (x)  q = Neg (p)  y = Transpose (q) }}"""
    made = improve(target, model(text), {"x": numbers(2, 3)})
    assert "Transpose" in kinds(made)
    alone = model(text.replace(f", {sides}", ""))
    assert kinds(improve(target, alone, {"x": numbers(2, 3)})) == ["Neg"]


# --- borders -------------------------------------------------------------------------

PADS = {
    "uneven": ([0, 0, 1, 2, 0, 0, 3, 0], 0, True),
    "negative": ([0, 0, -1, 0, 0, 0, 0, -1], 0, False),
    "mixed signs": ([0, 0, 2, 0, 0, 0, -1, 1], 0, False),
    "channels": ([0, 1, 0, 0, 0, 0, 0, 0], 0, False),
    "of ones": ([0, 0, 1, 1, 0, 0, 1, 1], 1, False),
}


@everywhere
@pytest.mark.parametrize("case", PADS)
def test_pads_before_convolutions(target: str, case: str) -> None:
    """Only zeros beside the image become the op's border (seen: all are right)."""
    pads, value, fuses = PADS[case]
    channels = 4 if case == "channels" else 3
    text = """(float[2, 3, 5, 5] x) => (float[2, 4, H, W] y) {
        p = Pad (x, pads, value)  y = Conv <strides = [1, 2]> (p, w, b) }"""
    weights = {
        "w": numbers(4, channels, 2, 2),
        "b": numbers(4),
        "pads": np.array(pads),
        "value": np.array(value, np.float32),
    }
    made = improve(target, model(text, weights), IMAGE, exact=False)
    assert ("Pad" in kinds(made)) != fuses


@everywhere
@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_pads_that_copy_stay(target: str, mode: str) -> None:
    """A border of copies is no border of zeros (OPT #282: pads)."""
    text = f"""(float[2, 3, 5, 5] x) => (float[2, 4, 5, 5] y) {{
        p = Pad <mode = "{mode}"> (x, pads)  y = Conv (p, w) }}"""
    weights = {"w": numbers(4, 3, 3, 3), "pads": np.array([0, 0, 1, 1] * 2)}
    made = improve(target, model(text, weights, opset=19), IMAGE)
    assert kinds(made) == ["Conv", "Pad"]


@everywhere
@pytest.mark.parametrize(
    ("pool", "value", "fuses"),
    [
        ("AveragePool <kernel_shape = [2, 2], count_include_pad = 1>", 0, True),
        ("AveragePool <kernel_shape = [2, 2], count_include_pad = 0>", 0, True),
        (
            "AveragePool <kernel_shape = [2, 2], pads = [1, 1, 1, 1]>",
            0,
            False,
        ),
        ("AveragePool <kernel_shape = [2, 2], count_include_pad = 1>", 1, False),
        ("MaxPool <kernel_shape = [2, 2]>", 0, False),
        ("MaxPool <kernel_shape = [2, 2]>", -np.inf, True),
        ("MaxPool <kernel_shape = [2, 2], ceil_mode = 1, strides = [2, 2]>", 0, False),
        ("LpPool <kernel_shape = [2, 2]>", 1, False),
    ],
)
def test_pads_before_pools(target: str, pool: str, value: float, fuses: bool) -> None:
    """Zeros count in means, and may be the maximum (OPT #283: Pad + AveragePool)."""
    text = f"""(float[2, 3, 5, 5] x) => (float[2, 3, H, W] y) {{
        p = Pad (x, pads, value)  y = {pool} (p) }}"""
    weights = {
        "pads": np.array([0, 0, 1, 0, 0, 0, 0, 1]),
        "value": np.array(value, np.float32),
    }
    feeds = {"x": -np.abs(IMAGE["x"]) - f32(1)}
    made = improve(target, model(text, weights), feeds, exact=False)
    assert ("Pad" in kinds(made)) != fuses


# --- norms ---------------------------------------------------------------------------

LAYER = """(float[N, 3, 8] x) => (float[SHAPE] y) <int64[1] last = {-1}> {
    m = ReduceMean (x, last)  d = Sub (x, m)  q = Mul (d, d)
    v = ReduceMean (q, last)  e = Add (v, eps)  r = Sqrt (e)  n = Div (d, r)
    y = Mul (n, gain) }"""
RMS = """(float[N, 3, 8] x) => (float[SHAPE] y) <int64[1] last = {-1}> {
    q = Mul (x, x)  v = ReduceMean (q, last)  e = Add (v, eps)  r = Sqrt (e)
    n = Div (x, r)  y = Mul (n, gain) }"""
TOKENS = {"x": numbers(2, 3, 8)}


@everywhere
@pytest.mark.parametrize(
    ("shape", "fuses"),
    [((8,), True), ((1,), None), ((3, 8), False), ((2, 1, 3, 8), False)],
)
@pytest.mark.parametrize("text", [LAYER, RMS], ids=["layer", "rms"])
def test_gains_that_broadcast(
    target: str, text: str, shape: tuple[int, ...], fuses: bool | None
) -> None:
    """A gain is along the normalized axes (ORT #25855, onnx #8203: it broadcast)."""
    made_shape = "2, N, 3, 8" if len(shape) == 4 else "N, 3, 8"
    opset = 18 if text is LAYER else 23
    weights = {"eps": f32(1e-5), "gain": numbers(*shape, seed=3)}
    proto = model(
        text.replace("SHAPE", made_shape), weights, opset=opset, ir_version=10
    )
    made = improve(target, proto, TOKENS, exact=False)
    if fuses:
        assert len(kinds(made)) == 1
    elif fuses is False:
        assert "Mul" in kinds(made)


@everywhere
def test_why_no_norm_was_found_is_told(target: str) -> None:
    """What does not fire says why (ORT #10359, #10339, #20552: nobody knew)."""
    weights = {"eps": f32(1e-5), "gain": numbers(3, 8)}
    proto = model(LAYER.replace("SHAPE", "N, 3, 8"), weights)
    made = improve(target, proto, TOKENS, exact=False)
    assert kinds(made) == ["LayerNormalization", "Mul"]
    reasons = {m.rule: m.reason for m in missed(optimize(load(proto), check="off"))}
    assert "does not fit" in reasons["layer_norm_gain"]


@everywhere
def test_attention_keeps_its_heads(target: str) -> None:
    """Head counts come from the reshape, not from a guess (ORT #4565: gpt2-medium)."""
    text = """(float[N, S, 12] x) => (float[N, S, 12] y)
    <int64[4] heads = {0, -1, 3, 4}, int64[3] flat = {0, -1, 12}, float scale = {0.5}> {
        xq = MatMul (x, wq)  xk = MatMul (x, wk)  xv = MatMul (x, wv)
        rq = Reshape (xq, heads)  rk = Reshape (xk, heads)  rv = Reshape (xv, heads)
        q = Transpose <perm = [0, 2, 1, 3]> (rq)
        k = Transpose <perm = [0, 2, 3, 1]> (rk)
        v = Transpose <perm = [0, 2, 1, 3]> (rv)
        s = MatMul (q, k)  t = Mul (s, scale)  p = Softmax <axis = -1> (t)
        o = MatMul (p, v)  m = Transpose <perm = [0, 2, 1, 3]> (o)
        y = Reshape (m, flat) }"""
    weights = {f"w{c}": numbers(12, 12, seed=i) / f32(4) for i, c in enumerate("qkv")}
    proto = model(text, weights)
    for shape in ((1, 5, 12), (2, 3, 12)):
        improve(target, proto, {"x": numbers(*shape)}, exact=False)


# --- the same patterns at every opset ------------------------------------------------

OPSETS = [7, 9, 11, 13, 17, 18, 20, 21, 23, 26, 28]
NEWEST_RUN = 26
"""ONNX Runtime has no kernels for what is newer."""


def at(opset: int, text: str, weights: dict[str, Any] | None = None) -> ModelProto:
    """The model at an opset."""
    ir_version = 10 if opset > 20 else 8
    return model(text, weights, opset=opset, ir_version=ir_version)


def improve_at(
    target: str, opset: int, proto: ModelProto, feeds: dict[str, Any]
) -> ModelProto:
    if opset > NEWEST_RUN:
        target = "reference"
    made = improve(target, proto, feeds, exact=False)
    assert made.opset_import[0].version == opset
    return made


@everywhere
@pytest.mark.parametrize("opset", OPSETS)
def test_batch_norm_at_every_opset(target: str, opset: int) -> None:
    """The pattern fires at each opset (SCR's and ORT's fusions name versions)."""
    made = improve_at(target, opset, at(opset, PLAIN_NORM, NORM_WEIGHTS), IMAGE)
    assert kinds(made) == ["Conv"]
    assert len(made.graph.initializer) == 2


@everywhere
@pytest.mark.parametrize("opset", OPSETS)
def test_transposes_at_every_opset(target: str, opset: int) -> None:
    """Transposes around elementwise ops cancel at each opset."""
    text = """(float[N, 3, 5, 5] x) => (float[N, 3, 5, 5] y) {
        a = Transpose <perm = [0, 2, 3, 1]> (x)  b = Relu (a)  c = Neg (b)
        y = Transpose <perm = [0, 3, 1, 2]> (c) }"""
    made = improve_at(target, opset, at(opset, text), IMAGE)
    assert kinds(made) == ["Neg", "Relu"]


@everywhere
@pytest.mark.parametrize("opset", OPSETS)
def test_reshapes_at_every_opset(target: str, opset: int) -> None:
    """Chains of Reshape, Flatten, Squeeze and shape arithmetic at each opset."""
    axes = "<axes = [0]> (i)" if opset < 13 else "(i, first)"
    text = f"""(float[N, 3, 5, 5] x) => (float[N, 75] y) <int64[1] first = {{0}}> {{
        s = Shape (x)  i = Gather <axis = 0> (s, zero)
        n = Unsqueeze {axes}  t = Concat <axis = 0> (n, rest)
        a = Flatten <axis = 2> (x)  b = Reshape (a, t)  y = Flatten (b) }}"""
    weights = {"zero": np.array(0), "rest": np.array([-1])}
    made = improve_at(target, opset, at(opset, text, weights), IMAGE)
    assert kinds(made) in (["Reshape"], ["Flatten"])


@everywhere
@pytest.mark.parametrize("opset", OPSETS)
def test_layer_norm_at_every_opset(target: str, opset: int) -> None:
    """The arithmetic stays below opset 17 and is one op from there."""
    text = LAYER.replace("SHAPE", "N, 3, 8")
    if opset < 18:
        text = text.replace("ReduceMean (x, last)", "ReduceMean <axes = [-1]> (x)")
        text = text.replace("ReduceMean (q, last)", "ReduceMean <axes = [-1]> (q)")
        text = text.replace("<int64[1] last = {-1}>", "")
    if opset < 11:
        text = text.replace("[-1]", "[2]")
    weights = {"eps": f32(1e-5), "gain": numbers(8)}
    made = improve_at(target, opset, at(opset, text, weights), TOKENS)
    assert (kinds(made) == ["LayerNormalization"]) == (opset >= 17)
    assert ("Div" in kinds(made)) == (opset < 17)


@everywhere
@pytest.mark.parametrize("opset", OPSETS)
def test_pads_at_every_opset(target: str, opset: int) -> None:
    """Pad says its amounts in attributes, then in operands; it fuses either way."""
    old = "<pads = [0, 0, 1, 0, 0, 0, 0, 2]> (x)"
    text = f"""(float[2, 3, 5, 5] x) => (float[2, 4, 4, 5] y) {{
        p = Pad {old if opset < 11 else "(x, pads)"}  y = Conv (p, w) }}"""
    weights = {"w": numbers(4, 3, 3, 3)}
    if opset >= 11:
        weights["pads"] = np.array([0, 0, 1, 0, 0, 0, 0, 2])
    made = improve_at(target, opset, at(opset, text, weights), IMAGE)
    assert kinds(made) == ["Conv"]
    assert len(made.graph.initializer) == 1


@everywhere
@pytest.mark.parametrize("opset", OPSETS)
def test_shape_arithmetic_at_every_opset(target: str, opset: int) -> None:
    """Slices of dims, and an identity Clip or Dropout, at each opset."""
    clip = "Identity (d)" if opset < 11 else "Clip (d)"  # which had bounds of 3.4e38
    cut = "<starts = [1], ends = [3]> (s)" if opset < 10 else "(s, one, three)"
    text = f"""(float[N, 3, 5, 5] x) => (float[N, 3, 5, 5] y, int64[2] z) {{
        d = Dropout (x)  c = {clip}  y = Neg (c)
        s = Shape (x)  z = Slice {cut} }}"""
    weights = {} if opset < 10 else {"one": np.array([1]), "three": np.array([3])}
    made = improve_at(target, opset, at(opset, text, weights), IMAGE)
    assert kinds(made)[-1] == "Neg"
    assert set(kinds(made)) <= {"Neg", "Identity"}


# --- what fused ops need -------------------------------------------------------------


def test_no_op_of_a_vendor_is_made() -> None:
    """Results are standard ONNX at the source's opset (ORT #32386; Olive #1692)."""
    made = improve(
        "reference",
        at(
            17,
            LAYER.replace("SHAPE", "N, 3, 8")
            .replace("ReduceMean (x, last)", "ReduceMean <axes = [-1]> (x)")
            .replace("ReduceMean (q, last)", "ReduceMean <axes = [-1]> (q)"),
            {"eps": f32(1e-5), "gain": numbers(8)},
        ),
        TOKENS,
        exact=False,
    )
    assert {node.domain for node in made.graph.node} == {""}


@pytest.mark.runtime
def test_a_vendors_op_keeps_all_its_inputs() -> None:
    """Foreign ops are kept as they are, holes too (ORT #29524: over 9 inputs)."""
    pytest.importorskip("onnxruntime")
    text = """(float[1, 1, 32] q, float[1, 1, 16] k, float[1, 2, 4, 8] past,
        float[1, 2, 4, 8] past_v) => (float[1, 1, 32] y, float[A, B, C, D] pk)
    <int32[1] last = {4}, int32 total = {5}> {
        i = Identity (k)  j = Identity (last)
        y, pk, pv = com.microsoft.GroupQueryAttention
            <num_heads = 4, kv_num_heads = 2> (q, i, k, past, past_v, j, total, , ) }"""
    proto = model(text)
    feeds = {
        "q": numbers(1, 1, 32),
        "k": numbers(1, 1, 16),
        "past": numbers(1, 2, 4, 8),
        "past_v": numbers(1, 2, 4, 8, seed=1),
    }
    made = improve("ort-cpu", proto, feeds)
    (node,) = made.graph.node
    (source,) = (n for n in proto.graph.node if n.domain)
    assert list(node.input[:5]) == ["q", "k", "k", "past", "past_v"]
    assert len(node.input) == len(source.input) - 1  # nothing hangs on the last hole
    assert list(node.output) == list(source.output)


def test_level_1_keeps_every_bit() -> None:
    """Exact means exact, and asks for no tolerance (SIM #50: "only" 4e-6)."""
    proto = model(PLAIN_NORM, NORM_WEIGHTS)
    made = improve("reference", proto, IMAGE, level=1)
    assert kinds(made) == [NORM, "Conv"]
    assert kinds(optimize_model(proto)) == ["Conv"]
    assert run_model(made, IMAGE)[0].tobytes() == run_model(proto, IMAGE)[0].tobytes()
