"""Bodies of control flow: captures, shadowing, types."""

from __future__ import annotations

import numpy as np
from test_importer import kinds, model, only, run

from graphopt import reference
from graphopt.importer import load
from graphopt.ops import If, Loop, Scan
from graphopt.ops.constant import Constant
from graphopt.verify import verify

BRANCHES = """(bool c, float[2] x) => (float[2] y) {
    a = Abs (x)
    y = If (c) <
        then_branch = t () => (float[2] r) { r = Add (a, x) },
        else_branch = e () => (float[2] r) { k = Constant <value = float[1] {3}> ()
                                             r = Mul (a, k) }
    >
}"""


def test_what_bodies_read_around_them_becomes_operands() -> None:
    graph = load(model(BRANCHES))
    branch = only(graph, If)
    assert [str(v.type) for v in branch.operands] == ["bool[]", "f32[2]", "f32[2]"]
    for body in branch.bodies:
        assert [str(p.type) for p in body.inputs] == ["f32[2]", "f32[2]"]
    assert kinds(branch.bodies[1]) == ["Mul"]
    verify(graph)
    for cond, expected in ((True, [0, 4]), (False, [3, 6])):
        inputs = {"c": np.array(cond), "x": np.array([-1, 2], np.float32)}
        (y,) = reference.run(graph, inputs).values()
        assert y.tolist() == expected


def test_constants_are_used_in_bodies_not_captured() -> None:
    graph = load(
        model("""(bool c) => (float[1] y) <float[1] w = {7}> {
            y = If (c) <
                then_branch = t () => (float[1] r) { r = Neg (w) },
                else_branch = e () => (float[1] r) { r = Identity (w) }
            >
        }""")
    )
    branch = only(graph, If)
    assert len(branch.operands) == 1
    then, other = (body.outputs[0].op.operands[0] for body in branch.bodies)
    assert then is other
    assert isinstance(then, Constant)


def test_a_body_may_give_a_name_a_meaning_of_its_own() -> None:
    graph = load(
        model("""(bool c, float[1] a) => (float[1] y) {
            y = If (c) <
                then_branch = t () => (float[1] r) {
                    a = Constant <value_floats = [5.0]> ()
                    r = Identity (a)
                },
                else_branch = e () => (float[1] r) { r = Identity (a) }
            >
        }""")
    )
    inputs = {"a": np.array([1], np.float32)}
    assert [
        reference.run(graph, {**inputs, "c": np.array(c)})["y"].item()
        for c in (True, False)
    ] == [5, 1]


LOOP = """(int64 n, float[2] x) => (float[M] last, float[K, 2] rows) {
    k = Constant <value_float=2.0> ()
    t = Constant <value = bool {1}> ()
    last, rows = Loop (n, t, x) <
        body = b (int64 i, bool go, float[2] v)
               => (bool going, float[2] w, float[2] r) {
            going = Identity (go)
            w = Mul (v, k)
            f = Cast <to = 1> (i)
            r = Add (v, f)
        }
    >
}"""


def test_a_loop_carries_and_stacks() -> None:
    graph = load(model(LOOP))
    loop = only(graph, Loop)
    assert [str(t) for t in loop.types] == ["f32[2]", "f32[?, 2]"]
    inputs = {"n": np.array(3), "x": np.array([1, 2], np.float32)}
    last, rows = reference.run(graph, inputs).values()
    assert last.tolist() == [8, 16]
    assert rows.tolist() == [[1, 2], [3, 5], [6, 10]]


def test_a_loop_of_known_length_stacks_so_many_rows() -> None:
    text = LOOP.replace("(int64 n, float[2] x)", "(float[2] x)").replace(
        "{\n    k =", "{ n = Constant <value_int=3> ()\n k =", 1
    )
    assert str(only(load(model(text)), Loop).types[1]) == "f32[3, 2]"


def test_what_grows_in_a_loop_has_no_fixed_dim() -> None:
    graph = load(
        model("""(int64 n, float[1, 4] x) => (float[M, 4] y) {
            t = Constant <value = bool {1}> ()
            y = Loop (n, t, x) <
                body = b (int64 i, bool go, float[?, 4] v) => (bool g, float[?, 4] w) {
                    g = Identity (go)
                    w = Concat <axis = 0> (v, x)
                }
            >
        }""")
    )
    assert str(only(graph, Loop).type) == "f32[?, 4]"
    verify(graph)


def test_a_scan_sees_slices() -> None:
    graph = load(
        model("""(float[2] s, float[5, 2] xs) => (float[2] z, float[5, 2] ys) {
            z, ys = Scan (s, xs) <
                num_scan_inputs = 1,
                body = b (float[2] a, float[2] v) => (float[2] c, float[2] r) {
                    c = Add (a, v)
                    r = Identity (c)
                }
            >
        }""")
    )
    scan = only(graph, Scan)
    assert [str(p.type) for p in scan.bodies[0].inputs] == ["f32[2]", "f32[2]"]
    assert str(scan.types[1]) == "f32[5, 2]"
    xs = np.arange(10, dtype=np.float32).reshape(5, 2)
    _, ys = run(graph, s=np.zeros(2), xs=xs)
    np.testing.assert_array_equal(ys, np.cumsum(xs, 0))


def test_captures_pass_through_bodies_within_bodies() -> None:
    text = """(bool c, float[1] x) => (float[1] y) {
        y = If (c) <
            then_branch = t () => (float[1] r) {
                r = If (c) <
                    then_branch = t2 () => (float[1] q) { q = Neg (x) },
                    else_branch = e2 () => (float[1] q) { q = Abs (x) }
                >
            },
            else_branch = e () => (float[1] r) { r = Identity (x) }
        >
    }"""
    graph = load(model(text))
    verify(graph)
    inputs = {"c": np.array(True), "x": np.array([2], np.float32)}
    assert reference.run(graph, inputs)["y"].item() == -2


def test_loops_in_loops_are_read_in_bounded_time() -> None:
    def nest(depth: int) -> str:
        inner = (
            "w = Concat <axis = 0> (v, v)"
            if depth == 0
            else f"w = Loop (n, go, v) < body = {nest(depth - 1)} >"
        )
        v, w = f"v{depth}", f"w{depth}"
        body = inner.replace("v", v, 0)
        del v, w
        return (
            f"b{depth} (int64 i, bool go, float[?] v) => (bool g, float[?] w) "
            f"{{ g = Identity (go) {body} }}"
        )

    text = (
        "(int64 n, bool go, float[1] v) => (float[?] y) "
        f"{{ y = Loop (n, go, v) < body = {nest(16)} > }}"
    )
    graph = load(model(text))
    assert str(graph.outputs[0].type) == "f32[?]"
