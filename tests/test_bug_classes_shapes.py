"""Bug classes that other optimizers had: broadcasting, reshapes, slices, moves.

Names and marks are those of `test_bug_classes`.
"""

from __future__ import annotations

import numpy as np
import pytest
from test_bug_classes import everywhere, f32, improve, kinds, model, numbers

# --- broadcasting and shapes ---------------------------------------------------------


@everywhere
@pytest.mark.parametrize(
    ("kind", "unit"), [("Mul", 1), ("Add", 0), ("Div", 1), ("Sub", 0)]
)
def test_a_unit_that_broadcasts_is_no_unit(target: str, kind: str, unit: int) -> None:
    """`x[N, 4] * ones[3, 4]` has 3 rows (SLIM: seen to narrow the input instead)."""
    text = f"(float[N, 4] x) => (float[M, 4] y) {{ y = {kind} (x, u) }}"
    wide = model(text, {"u": np.full((3, 4), unit, np.float32)})
    for rows in (1, 3):
        made = improve(target, wide, {"x": numbers(rows, 4)})
        assert kinds(made) == [kind]
    plain = model(text.replace("M, 4", "N, 4"), {"u": np.full(4, unit, np.float32)})
    assert nothing_left(kinds(improve(target, plain, {"x": numbers(2, 4)})))


@everywhere
def test_a_unit_of_unknown_shape_is_no_unit(target: str) -> None:
    """Zeros as large as another input may broadcast (SLIM #192: dynamic shapes)."""
    text = """(float[N, 4] x, float[M, 4] z) => (float[K, 4] y) {
        s = Shape (z)  o = ConstantOfShape (s)  y = Add (x, o)
    }"""
    for n, m in ((1, 3), (3, 3), (3, 1)):
        feeds = {"x": numbers(n, 4), "z": numbers(m, 4, seed=1)}
        made = improve(target, model(text), feeds)
        assert kinds(made) != []


@everywhere
def test_an_expand_of_unknown_shape_is_kept(target: str) -> None:
    """Only an Expand to the very same symbols is nothing (OPT #278: nop_expand)."""
    text = """(float[N, 4] x, float[M, 4] z) => (float[K, 4] y) {
        r = Relu (x)  s = Shape (z)  y = Expand (r, s) }"""
    for n, m in ((1, 3), (3, 1)):
        feeds = {"x": numbers(n, 4), "z": numbers(m, 4, seed=1)}
        made = improve(target, model(text), feeds)
        assert "Expand" in kinds(made)
    same = model(text.replace("M, 4", "N, 4"))
    feeds = {"x": numbers(3, 4), "z": numbers(3, 4, seed=1)}
    assert kinds(improve(target, same, feeds)) == ["Relu"]


def nothing_left(found: list[str]) -> bool:
    """Nothing is left but the copy that an output which is an input needs."""
    return found in ([], ["Identity"])


@everywhere
@pytest.mark.parametrize(
    ("target_shape", "allowzero", "fed", "made_shape"),
    [
        ([0, -1], 0, (2, 3, 4), "2, 12"),
        ([0, 4, -1], 0, (2, 3, 4), "2, 4, 3"),
        ([0, 5], 1, (0, 3, 4), "0, 5"),
        ([3, 0, 7], 1, (0, 3, 4), "3, 0, 7"),
        ([0, 0, -1], 0, (2, 3, 4), "2, 3, 4"),
        ([-1], 0, (2, 3, 4), "24"),
    ],
)
def test_reshapes_with_0_and_minus_1(
    target: str,
    target_shape: list[int],
    allowzero: int,
    fed: tuple[int, ...],
    made_shape: str,
) -> None:
    """0 copies or is 0, -1 is the rest (OPT #276: nop_reshape)."""
    text = f"""(float[N, 3, 4] x) => (float[{made_shape}] y) {{
        r = Neg (x)  y = Reshape <allowzero = {allowzero}> (r, s) }}"""
    proto = model(text, {"s": np.array(target_shape)})
    improve(target, proto, {"x": numbers(*fed)})


@everywhere
def test_reshapes_through_empty_tensors(target: str) -> None:
    """Reshapes of nothing have the last one's shape (OPT #276: nop_reshape)."""
    text = """(float[N, 4] x) => (float[A, 2, 2] y, float z) <int64[3] s = {-1, 2, 2}> {
        t = Transpose <perm = [1, 0]> (x)  u = Transpose <perm = [1, 0]> (t)
        y = Reshape (u, s)  z = ReduceSum <keepdims = 0> (y) }"""
    for rows in (0, 3):
        made = improve(target, model(text), {"x": numbers(rows, 4)})
    assert kinds(made) == ["ReduceSum", "Reshape"]


@everywhere
def test_rank_0_and_rank_1_are_told_apart(target: str) -> None:
    """A scalar index removes its axis, `[1]` keeps it (SIM #79: another shape)."""
    text = """(float[4, 3] x) => (float[3] a, float[1, 3] b, int64 c, int64[1] d)
    <int64 i = {-1}, int64[1] j = {-1}> {
        a = Gather (x, i)  b = Gather (x, j)
        s = Shape (x)  c = Gather (s, i)  d = Gather (s, j) }"""
    made = improve(target, model(text), {"x": numbers(4, 3)})
    assert kinds(made) == ["Gather", "Gather"]


SLICES = {
    "from the end": ("[2, 3]", "[-2], [100], [0], [1]"),
    "backwards": ("[4, 3]", "[-1], [-100], [0], [-1]"),
    "every second, backwards": ("[2, 3]", "[3], [-100], [-2], [-2]"),
    "nothing": ("[0, 3]", "[3], [2], [0], [1]"),
    "two axes": ("[2, 2]", "[1, 0], [3, -1], [0, 1], [1, 1]"),
    "all": ("[4, 3]", "[0], [9223372036854775807], [0], [1]"),
}


@everywhere
@pytest.mark.parametrize("case", SLICES)
def test_slices(target: str, case: str) -> None:
    """Negative, reverse, clamped and empty slices (SLIM #277, OPT #275: nop_slice)."""
    shape, parts = SLICES[case]
    lists = [eval_ints(part) for part in parts.split("], ")]
    weights = dict(zip("bean", map(np.array, lists), strict=True))
    text = f"(float[4, 3] x) => (float{shape} y) {{ y = Slice (x, b, e, a, n) }}"
    made = improve(target, model(text, weights), {"x": numbers(4, 3)})
    assert (kinds(made) != ["Slice"]) == (case == "all")


def eval_ints(text: str) -> list[int]:
    return [int(part) for part in text.strip(" []").split(",")]


@everywhere
def test_slices_of_slices(target: str) -> None:
    """Two slices are composed only where that is right (SLIM #277, tsingmicro #13)."""
    text = """(float[N, 8] x) => (float[N, 2] y, float[K, 8] z)
    <int64[1] one = {1}, int64[1] six = {6}, int64[1] m1 = {-1}, int64[1] m3 = {-3},
     int64[1] two = {2}> {
        a = Slice (x, one, six, one)   b = Slice (a, m3, m1, one)   y = Identity (b)
        c = Slice (x, one, six, zero)  z = Slice (c, zero, two, zero) }"""
    proto = model(text, {"zero": np.array([0])})
    for rows in (2, 7):
        improve(target, proto, {"x": numbers(rows, 8)})


NOTHING = {
    "concat": "Concat <axis = 1> (r)",
    "expand": "Expand (r, same)",
    "pad": "Pad (r, zeros)",
    "slice": "Slice (r, zeros1, ends)",
    "flatten": "Flatten (r)",
    "reshape": "Reshape (r, same)",
    "transpose": "Transpose <perm = [0, 1]> (r)",
    "tile": "Tile (r, ones)",
    "cast": "Cast <to = 1> (r)",
    "identity": "Identity (r)",
}
SOMETHING = {
    "concat": ("4, 3", "Concat <axis = 0> (r, r)"),
    "expand": ("2, 2, 3", "Expand (r, larger)"),
    "pad": ("2, 3", "Pad (r, shifted)"),
    "slice": ("1, 3", "Slice (r, zeros1, one)"),
    "flatten": ("1, 6", "Flatten <axis = 0> (r)"),
    "reshape": ("3, 2", "Reshape (r, turned)"),
    "transpose": ("3, 2", "Transpose (r)"),
    "tile": ("2, 6", "Tile (r, twos)"),
    "cast": ("2, 3", "Cast <to = 10> (r)"),
    "identity": ("2, 3", "Neg (r)"),
}
LISTS = {
    "same": [2, 3],
    "larger": [2, 1, 3],
    "zeros": [0, 0, 0, 0],
    "shifted": [1, 0, -1, 0],
    "zeros1": [0],
    "ends": [2],
    "one": [1],
    "turned": [3, 2],
    "ones": [1, 1],
    "twos": [1, 2],
}


@everywhere
@pytest.mark.parametrize("case", NOTHING)
def test_ops_that_do_nothing(target: str, case: str) -> None:
    """An op goes only if it does nothing (OPT #252-#285: twelve `nop` passes)."""
    weights = {name: np.array(values) for name, values in LISTS.items()}
    text = "(float[2, 3] x) => ({}[{}] y) {{ r = Relu (x)  y = {} }}"
    feeds = {"x": numbers(2, 3)}
    plain = model(text.format("float", "2, 3", NOTHING[case]), weights)
    assert kinds(improve(target, plain, feeds)) == ["Relu"]
    shape, op = SOMETHING[case]
    dtype = "float16" if case == "cast" else "float"
    busy = model(text.format(dtype, shape, op), weights)
    assert len(kinds(improve(target, busy, feeds))) == 2


@everywhere
@pytest.mark.parametrize("kind", ["Log", "Sqrt", "Relu", "Exp", "Neg"])
def test_arg_max_keeps_its_operand(target: str, kind: str) -> None:
    """ArgMax sees NaN, ties and -inf of a monotone op (OPT #281: monotone_argmax)."""
    text = f"(float[5] x) => (int64[1] y) {{ r = {kind} (x)  y = ArgMax (r) }}"
    improve(target, model(text), {"x": f32(-3, -1, -2, -5, -4)})
    improve(target, model(text), {"x": f32(0, 2, 2, 1e30, 1e30)})


@everywhere
def test_dims_come_from_where_they_are_read(target: str) -> None:
    """Shape with start > end is empty (OPT: SIGSEGV in the backend suite)."""
    text = """(float[N, 3, M] x) => (int64[0] a, int64[2] b, int64[1] c, int64 d) {
        a = Shape <start = 2, end = 1> (x)
        b = Shape <start = -2> (x)
        c = Shape <start = -100, end = -2> (x)
        s = Shape (x)  d = Gather (s, i) }"""
    proto = model(text, {"i": np.array(-1)})
    improve(target, proto, {"x": numbers(2, 3, 5)})


@everywhere
def test_splits_of_one_part_and_of_uneven_parts(target: str) -> None:
    """A Split into one part is nothing, into uneven ones not (OPT #274: nop_split)."""
    text = "(float[7] x) => (float[7] y, float[3] a, float[3] b, float[1] c) {"
    text += "y = Split <num_outputs = 1> (x)  a, b, c = Split <num_outputs = 3> (x) }"
    made = improve(target, model(text), {"x": numbers(7)})
    assert kinds(made).count("Split") == 1
