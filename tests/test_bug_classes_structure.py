"""Bug classes that other optimizers had: interfaces, bodies, functions.

Names and marks are those of `test_bug_classes`.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from test_bug_classes import (
    NORM_WEIGHTS,
    NORMED,
    X2,
    everywhere,
    f32,
    graphs,
    improve,
    interface,
    kinds,
    model,
    numbers,
    run,
)

from graphopt import optimize_model

CONDITIONS = [np.array(True), np.array(False)]

# --- the interface -------------------------------------------------------------------


@everywhere
def test_unused_inputs_stay(target: str) -> None:
    """Callers feed what they always fed (SLIM: 61 backend cases, 5 language models)."""
    text = """(float[2] u, float[2] x, int64[N] v) => (float[2] y) {
        i = Identity (x)  y = Neg (i) }"""
    feeds = {"u": f32(0, 0), "x": f32(1, 2), "v": np.array([1])}
    assert kinds(improve(target, model(text), feeds)) == ["Neg"]


@everywhere
def test_initializers_that_are_inputs_can_be_overridden(target: str) -> None:
    """From IR 4 an initializer with an input is a default (SLIM, SIM: seen removed)."""
    text = """(float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 1},
    float[2] c = {1, 1}>
        { a = Mul (x, w)  y = Mul (a, c) }"""
    made = improve(target, model(text), X2)
    improve(target, model(text), {**X2, "w": f32(3, 4)})
    assert kinds(made) == ["Mul"]
    assert [t.name for t in made.graph.initializer] == ["w"]


@everywhere
def test_initializers_of_ir_3_are_constants(target: str) -> None:
    """Before IR 4 each initializer is also an input (SIM: its own check refused 3)."""
    text = """(float[2] x, float[2] w, float[2] c) => (float[2] y)
        <float[2] w = {3, 4}, float[2] c = {1, 1}> { a = Mul (x, w)  y = Mul (a, c) }"""
    made = optimize_model(model(text, opset=7, ir_version=3))
    onnx.checker.check_model(made, full_check=True)
    assert kinds(made) == ["Mul"]
    assert made.ir_version == 3
    assert [i.name for i in made.graph.input] == ["x", "w"]
    (y,) = run(target, made, X2)
    assert y.tolist() == [3, -8]


@everywhere
@pytest.mark.parametrize("shape", ["", "N, 2", "?, 2"])
def test_outputs_without_a_shape(target: str, shape: str) -> None:
    """An output need not state its shape (SIM refuses; SLIM #192: no type at all)."""
    proto = model(
        f"(float[N, 2] x) => (float[{shape}] y) {{ i = Neg (x) y = Neg (i) }}"
    )
    if not shape:
        proto.graph.output[0].type.tensor_type.ClearField("shape")
        made = optimize_model(proto)
        (y,) = run(target, made, {"x": numbers(3, 2)})
        np.testing.assert_array_equal(y, numbers(3, 2))
    else:
        made = improve(target, proto, {"x": numbers(3, 2)})
    assert kinds(made) == ["Identity"]
    assert made.graph.output[0].name == "y"


@everywhere
def test_symbolic_dims_stay(target: str) -> None:
    """No size is baked in (SIM #21, #101, #117, #169, #247, #342: only 512 runs)."""
    text = """(float[batch, seq, 8] x) => (float[batch, 2, seq, 4] y) {
        s = Shape (x)  b = Gather (s, i0)  n = Gather (s, i1)
        b1 = Unsqueeze (b, a0)  n1 = Unsqueeze (n, a0)
        t = Concat <axis = 0> (b1, n1, rest)
        r = Reshape (x, t)  y = Transpose <perm = [0, 2, 1, 3]> (r) }"""
    values = {"i0": 0, "i1": 1, "a0": [0], "rest": [2, 4]}
    weights = {name: np.array(value) for name, value in values.items()}
    for shape in ((1, 512, 8), (3, 7, 8), (2, 0, 8)):
        made = improve(target, model(text, weights), {"x": numbers(*shape)})
    assert kinds(made) == ["Reshape", "Transpose"]


@everywhere
@pytest.mark.parametrize("text", [
    "(float[2] x) => (float[2] y, float[2] z) { y = Neg (x)  z = Neg (x) }",
    "(float[2] x) => (float[2] y, float[2] z) { y = Identity (x)  z = Identity (y) }",
    "(float[2] x) => (float[2] y, float[2] z) { a = Neg (x) y = Neg (a) z = Neg (y) }",
    "(float[2] x) => (float[2] x, float[2] y) { y = Neg (x) }",
    "(float[2] x) => (float[2] c, float[2] y) <float[2] c = {1, 2}> { y = Add (x, c) }",
    """(float[2] x) => (float[2] s, int64[1] y)
        <float[2] c = {1, 2}> { s = Add (c, c) y = Shape (x) }""",
], ids=["twins", "copies", "undone", "input", "initializer", "folded"])  # fmt: skip
def test_no_output_is_lost(target: str, text: str) -> None:
    """Outputs that fold, merge or cancel stay outputs (SCR #2728, SIM #227)."""
    improve(target, model(text), X2)


@everywhere
def test_names_texts_and_metadata_stay(target: str) -> None:
    """(SCR #2637: lost in rewrites; SLIM drops doc_string, OPT clears node names.)"""
    proto = model("(float[2] x) => (float[2] y) { i = Identity (x)  y = Neg (i) }")
    proto.doc_string = "about"
    proto.graph.doc_string = "the graph"
    proto.metadata_props.add(key="license", value="free")
    proto.graph.node[1].name = "layer/neg"
    proto.graph.node[1].doc_string = "minus"
    proto.graph.node[1].metadata_props.add(key="from", value="layer")
    proto.ir_version = 10
    made = improve(target, proto, X2)
    (node,) = made.graph.node
    assert (made.doc_string, made.graph.doc_string) == ("about", "the graph")
    assert [(p.key, p.value) for p in made.metadata_props] == [("license", "free")]
    assert node.name == "layer/neg"
    assert node.doc_string == "minus"
    assert [(p.key, p.value) for p in node.metadata_props] == [("from", "layer")]


def test_options_have_an_effect() -> None:
    """(SIM #223: a flag did nothing; #272: `--no-large-tensor` was ignored.)"""
    proto = model(NORMED.replace("ATTRS", ""), NORM_WEIGHTS)
    assert kinds(optimize_model(proto, level=0)) == ["BatchNormalization", "Conv"]
    assert kinds(optimize_model(proto, skip=["fold-affine"])) == kinds(proto)
    assert kinds(optimize_model(proto, passes=["fold-affine"])) == ["Conv"]
    fixed = optimize_model(proto, dims={"N": 2})
    assert fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2


@everywhere
def test_an_input_is_an_output_after_its_copy(target: str) -> None:
    """An input under its own name, after an output that equals it (SIM #227)."""
    text = "(float[2] x) => (float[2] y, float[2] x) { y = Identity (x) }"
    improve(target, model(text), X2)


# --- old, unsorted and odd models ----------------------------------------------------


@everywhere
def test_nodes_in_any_order(target: str) -> None:
    """Unsorted graphs are read, sorted ones written (SIM: unsorted, or refused)."""
    text = """(float[2] x, bool c) => (float[2] y) {
        y = If (c) < then_branch = t () => (float[2] p) { p = Neg (a) },
                     else_branch = e () => (float[2] q) { q = Abs (a) } >
        a = Exp (b)  b = Relu (x) }"""
    made = optimize_model(model(text))
    onnx.checker.check_model(made, full_check=True)
    assert [n.op_type for n in made.graph.node] == ["Relu", "Exp", "If"]
    for condition in CONDITIONS:
        (y,) = run(target, made, {**X2, "c": condition})
        a = np.exp(np.maximum(X2["x"], 0))
        np.testing.assert_allclose(y, -a if condition else a, rtol=1e-6)


@pytest.mark.parametrize(
    ("opset", "legacy"),
    [
        (1, ""),
        (5, ""),
        (6, ""),
        (5, "<consumed_inputs = [0]>"),
    ],
)
def test_the_oldest_opsets(opset: int, legacy: str) -> None:
    """(SLIM: `NoneType has no attribute opset_import` on opset <= 6, 89 cases.)"""
    text = f"""(float[2] x) => (float[2] y) {{
        a = Relu {legacy} (x)  b = Relu {legacy} (a)  y = Neg {legacy} (b) }}"""
    made = improve("reference", model(text, opset=opset, ir_version=3), X2)
    assert kinds(made) == ["Neg", "Relu"]


def test_a_model_without_the_default_domain() -> None:
    """Only foreign ops, no opset for others (SLIM raises)."""
    proto = model("(float[2] x) => (float[2] y) { a = me.F (x)  y = me.F (a) }")
    del proto.opset_import[:]
    proto.opset_import.append(helper.make_opsetid("me", 1))
    made = optimize_model(proto)
    assert [o.domain for o in made.opset_import] == ["me"]
    assert [n.op_type for n in made.graph.node] == ["F", "F"]
    assert interface(made) == interface(proto)


def test_no_attribute_of_ours_leaks() -> None:
    """(SIM: `onnxsim_transient_constant` on Constant, 33 cases at opset 27 and 28.)"""
    text = """(float[2] x) => (float[2] y) {
        c = Constant <value_floats = [1.0, 2.0]> ()  d = Neg (c)  y = Add (x, d) }"""
    made = improve("reference", model(text, opset=28, ir_version=10), X2)
    schema = {n.op_type: onnx.defs.get_schema(n.op_type, 28) for n in made.graph.node}
    for node in made.graph.node:
        assert {a.name for a in node.attribute} <= set(schema[node.op_type].attributes)


# --- bodies --------------------------------------------------------------------------


@everywhere
def test_an_initializer_of_a_branch_stays(target: str) -> None:
    """(SCR #2810: folding dropped the `axes` of a Squeeze from an If branch.)"""
    text = """(float[1, 2] x, bool c) => (float[2] y) {
        y = If (c) <
            then_branch = t () => (float[2] p)
            <int64[1] axes = {0}> { p = Squeeze (x, axes) },
            else_branch = e () => (float[2] q) <int64[1] axes = {0},
            float[2] k = {1, 1}> {
                s = Squeeze (x, axes)  h = Add (k, k)  q = Add (s, h) } > }"""
    for condition in CONDITIONS:
        made = improve(target, model(text), {"x": numbers(1, 2), "c": condition})
    assert "Squeeze" in kinds(made)
    assert kinds(made).count("Add") == 1


@everywhere
@pytest.mark.parametrize("known", [False, True])
def test_a_branch_may_shadow_a_name(target: str, known: bool) -> None:
    """A branch's own `w` is not the graph's (SLIM, OPT: seen off by 93)."""
    text = """(float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> {
        a = Mul (x, w)
        y = If (COND) <
            then_branch = t () => (float[2] p)
            <float[2] w = {10, 20}> { p = Mul (a, w) },
            else_branch = e () => (float[2] q) { q = Neg (a) } > }"""
    text = text.replace("COND", "yes" if known else "c")
    weights = {"yes": np.array(True)} if known else {}
    for condition in CONDITIONS:
        feeds = {**X2, "c": condition}
        made = improve(target, model(text, weights), feeds)
    assert ("If" in kinds(made)) != known
    (y,) = run(target, made, {**X2, "c": CONDITIONS[0]})
    assert y.tolist() == [10, -80]


@everywhere
@pytest.mark.parametrize("known", [False, True])
def test_outputs_of_bodies_straight_from_outside(target: str, known: bool) -> None:
    """A branch may give what it did not make (ORT PR #11638)."""
    text = """(float[2] x, bool c) => (float[2] y, float[2] z) <float[2] w = {1, 2}> {
        a = Neg (x)
        y, z = If (COND) <
            then_branch = t () => (float[2] a, float[2] w) { },
            else_branch = e () => (float[2] q,
            float[2] r) { q = Identity (w) r = Identity (a) } > }"""
    weights = {"yes": np.array(True)} if known else {}
    proto = model(text.replace("COND", "yes" if known else "c"), weights)
    for node in proto.graph.node:
        for attribute in node.attribute:
            for output in attribute.g.output:
                assert output.type.tensor_type.elem_type == TensorProto.FLOAT
    made = optimize_model(proto)
    onnx.checker.check_model(made, full_check=True)
    assert ("If" in kinds(made)) != known
    for condition in CONDITIONS:
        y, z = run(target, made, {**X2, "c": condition})
        takes_then = known or condition
        assert y.tolist() == ([-1, 2] if takes_then else [1, 2])
        assert z.tolist() == ([1, 2] if takes_then else [-1, 2])


@everywhere
def test_bodies_read_what_is_around_them(target: str) -> None:
    """Captures of captures survive rewrites (sophgo #270; SCR: FlexAttention)."""
    text = """(float[2] x, bool c) => (float[2] y, float[2, 2] ys, float[2, 2] zs)
    <int64 two = {2}, bool on = {1}> {
        i = Identity (x)  k = Neg (i)  j = Neg (k)  s = Transpose (j)
        y, ys = Loop (two, on, x) <
            body = b (int64 n, bool g, float[2] v) => (bool h, float[2] w, float[2] o) {
            h = Identity (g)  w = Add (v, s)
            o = If (c) < then_branch = t () => (float[2] p) { p = Add (w, k) },
                         else_branch = e () => (float[2] q) { q = Sub (w, j) } > } >
        zs = Scan (ys) < num_scan_inputs = 1,
            body = d (float[2] r) => (float[2] u) { u = Mul (r, j) } > }"""
    for condition in CONDITIONS:
        made = improve(target, model(text), {**X2, "c": condition})
    assert {"Loop", "If", "Scan"} <= set(kinds(made))
    assert "Transpose" not in kinds(made)


@everywhere
@pytest.mark.parametrize("trips", [0, 1, 3])
def test_loops_run_as_often_as_before(target: str, trips: int) -> None:
    """No loop is dead because it looks so (SIM #146; ORT #24495: KeyError)."""
    text = f"""(float[2] x, int64 most) => (float[2] y, float[N, 2] ys)
    <int64 t = {{{trips}}}, bool on = {{1}}> {{
        a, as = Loop (t, on, x) <
            body = b (int64 n, bool g, float[2] v)
            => (bool h, float[2] w, float[2] o) {{
            h = Identity (g)  w = Add (v, v)  o = Identity (w) }} >
        y, ys = Loop (most, on, a) <
            body = b2 (int64 n2, bool g2, float[2] v2)
            => (bool h2, float[2] w2, float[2] o2) {{
            h2 = Less (n2, t)  w2 = Neg (v2)  o2 = Identity (v2) }} > }}"""
    for most in (0, 2, 9):
        improve(target, model(text), {**X2, "most": np.array(most)})


@everywhere
def test_a_loop_that_never_ends_is_not_run(target: str) -> None:
    """A loop nobody reads is gone, not folded (SIM #146: the optimizer hung)."""
    text = """(float[2] x) => (float[2] y) <float[2] z = {0, 0}, bool on = {1}> {
        w = Loop (, on, z) <
            body = b (int64 n, bool g, float[2] v) => (bool h, float[2] u) {
            h = Identity (g)  u = Add (v, v) } >
        y = Neg (x) }"""
    made = optimize_model(model(text))
    assert kinds(made) == ["Neg"]
    assert run(target, made, X2)[0].tolist() == [-1, 2]


@everywhere
def test_half_floats_in_branches(target: str) -> None:
    """Types of branches stay (NVIDIA Model-Optimizer PR #1628, converter #272)."""
    text = """(float16[2] x, bool c) => (float16[2] y) {
        y = If (c) <
            then_branch = t () => (float16[2] p) { a = Cast <to = 1> (x)  b = Sqrt (a)
            p = Cast <to = 10> (b) },
            else_branch = e () => (float16[2] q) { f = Cast <to = 1> (x)
            q = Cast <to = 10> (f) } > }"""
    x = np.array([2, 3], np.float16)
    for condition in CONDITIONS:
        made = improve(target, model(text), {"x": x, "c": condition})
    assert kinds(made).count("Cast") == 2


# --- functions and names -------------------------------------------------------------

CALLED = """(float[2] x, bool c) => (float[2] y) {
    a = me.f (x)  b = me.f (a)  t = Neg (b)  y = me.g (t, c) }
<domain: "me", opset_import: ["" : 18]> f (v) => (t) {
    k = Constant <value = float[2] {2, 3}> ()  j = Add (k, k)  t = Mul (v, j) }
<domain: "me", opset_import: ["" : 18, "me" : 1]> g (t, c) => (y) {
    y = If (c) < then_branch = th () => (float[2] a) { a = me.f (t) },
                 else_branch = el () => (float[2] a) { a = Abs (t) } > }"""


@everywhere
def test_functions_keep_their_constants(target: str) -> None:
    """(SCR #2673: folding inside a function lost an initializer.)"""
    for condition in CONDITIONS:
        made = improve(target, model(CALLED), {**X2, "c": condition})
    assert kinds(made).count("Mul") == 2  # of two calls that follow each other
    assert "Add" not in kinds(made)


@everywhere
def test_names_of_bodies_and_functions_never_collide(target: str) -> None:
    """Inlined names meet others (SLIM: collisions of If and function bodies)."""
    made = optimize_model(model(CALLED))
    onnx.checker.check_model(made, full_check=True)
    outer, *bodies = [[o for n in g.node for o in n.output] for g in graphs(made)]
    assert len(bodies) == 2
    for inner in bodies:
        assert len({*outer, *inner}) == len([*outer, *inner])
    run(target, made, {**X2, "c": CONDITIONS[0]})


@everywhere
def test_taken_branches_bring_no_second_name(target: str) -> None:
    """Branches with equal names, both taken, stay apart (SLIM: name collisions)."""
    branch = "then_branch = t () => (float[2] r) { k = Neg (x)  r = Exp (k) }"
    other = "else_branch = e () => (float[2] r) { k = Abs (x)  r = Exp (k) }"
    text = f"""(float[2] x) => (float[2] y) <bool yes = {{1}}, bool no = {{0}}> {{
        s = Sin (x)  a = If (yes) <{branch}, {other}>  b = If (no) <{branch}, {other}>
        c = Add (a, b)  y = Add (c, s) }}"""
    made = improve(target, model(text), X2, exact=False)
    assert kinds(made) == ["Abs", "Add", "Add", "Exp", "Exp", "Neg", "Sin"]
