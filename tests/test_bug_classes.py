"""Bug classes that other optimizers had: wrong numbers. One test for each.

SIM, SLIM, OPT and SCR are onnxsim, onnxslim, onnxoptimizer and onnxscript's optimizer,
ORT is ONNX Runtime; a number is that of an issue in their tracker. "Seen" is what a
small model showed when all of them were tried on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper, parser

from graphopt import optimize_model, run_model

Feeds = Mapping[str, Any]

everywhere = pytest.mark.parametrize(
    "target", ["reference", pytest.param("ort-cpu", marks=pytest.mark.runtime)]
)
"""The test runs its models in the reference, and again in ONNX Runtime."""


def model(
    text: str,
    weights: Mapping[str, Any] | None = None,
    *,
    opset: int = 18,
    ir_version: int = 8,
) -> ModelProto:
    """A model from ``(inputs) => (outputs) {nodes}`` and functions after it."""
    imports = f'"" : {opset}, "me" : 1, "com.microsoft" : 1'
    header = f"<ir_version: {ir_version}, opset_import: [{imports}]>"
    proto = parser.parse_model(f"{header} main {text}")
    for name, array in (weights or {}).items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


def numbers(*shape: int, seed: int = 0) -> Any:
    """Normal float32 numbers, one array for each shape and seed."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def f32(*values: float) -> Any:
    return np.array(values, np.float32)


def graphs(proto: ModelProto) -> list[GraphProto]:
    """The graph, and all bodies in it."""
    found = [proto.graph]
    for graph in found:
        for node in graph.node:
            found += [a.g for a in node.attribute if a.HasField("g")]
    return found


def kinds(proto: ModelProto) -> list[str]:
    """The nodes that do work, sorted, those of bodies among them."""
    nodes = [node for graph in graphs(proto) for node in graph.node]
    return sorted(n.op_type for n in nodes if n.op_type != "Constant")


def interface(proto: ModelProto) -> list[tuple[str, bytes]]:
    """Names, order and types of what callers feed and get."""
    sides = [*proto.graph.input, *proto.graph.output]
    return [(side.name, side.type.SerializeToString()) for side in sides]


def run(target: str, proto: ModelProto, feeds: Feeds) -> list[Any]:
    """The outputs; ONNX Runtime adds no optimization of its own."""
    if target == "reference":
        return run_model(proto, feeds)
    pytest.importorskip("onnxruntime")
    from graphopt.lowering.ort.session import Session

    session = Session(proto.SerializeToString(), optimized=False, threads=1)
    return list(session(feeds).values())


def assert_same(after: Any, before: Any, *, exact: bool) -> None:
    """Equal types, shapes and bits (of NaN only that it is one); or nearly."""
    if isinstance(before, list):
        assert len(after) == len(before)
        for a, b in zip(after, before, strict=True):
            assert_same(a, b, exact=exact)
        return
    assert (after is None) == (before is None)
    if before is None:
        return
    assert (after.dtype, after.shape) == (before.dtype, before.shape)
    if before.dtype.kind in "OUSbiu":
        assert after.tolist() == before.tolist()
        return
    after, before = after.astype(np.float64), before.astype(np.float64)
    if exact:
        np.testing.assert_array_equal(after, before)
        known = ~np.isnan(before)
        signs = np.signbit(after[known]) == np.signbit(before[known])
        assert np.all(signs), "a zero changed its sign"
    else:
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def improve(
    target: str,
    proto: ModelProto,
    feeds: Feeds | None = None,
    *,
    exact: bool = True,
    **options: Any,
) -> ModelProto:
    """The optimized model, after all that holds for each: checked by graphopt and by
    ONNX, of the same interface, settled, and of the same results here.
    """
    made = optimize_model(proto, **options)
    onnx.checker.check_model(made, full_check=True)
    assert interface(made) == interface(proto)
    assert kinds(optimize_model(made, check="off", **options)) == kinds(made)
    if feeds is not None:
        after, before = run(target, made, feeds), run(target, proto, feeds)
        assert_same(after, before, exact=exact)
    return made


# --- random numbers, training --------------------------------------------------------

X2 = {"x": f32(1, -2)}
DRAWS = {
    "normal like": "RandomNormalLike (x)",
    "uniform like": "RandomUniformLike (x)",
    "normal": "RandomNormal <shape = [2]> ()",
    "uniform": "RandomUniform <shape = [2]> ()",
    "bernoulli": "Bernoulli <dtype = 1> (half)",
    "dropout": "Dropout (x, half1, yes)",
}
TWO_DRAWS = """(float[2] x) => (float[2] y)
    <float[2] half = {0.5, 0.5}, float half1 = {0.5}, bool yes = {1}>
    { a = DRAW  b = DRAW  n = Neg (x)  m = Neg (x)  d = Sub (a, b)  s = Sub (n, m)
      y = Add (d, s) }"""


@everywhere
@pytest.mark.parametrize("draw", DRAWS)
def test_random_draws_stay_two(target: str, draw: str) -> None:
    """Equal random ops are two draws (SLIM, SIM, OPT: seen merged, or frozen)."""
    proto = model(TWO_DRAWS.replace("DRAW", DRAWS[draw]))
    made = improve(target, proto)
    kind = DRAWS[draw].split()[0]
    assert kinds(made).count(kind) == 2
    assert kinds(made).count("Neg") <= 1  # and equal sure ops are one
    run(target, made, X2)


@everywhere
def test_two_draws_differ(target: str) -> None:
    """What comes of two draws is not always 0 (SLIM, SIM, OPT: seen to be)."""
    text = "(float[64] x) => (float[64] y)"
    text += "{ a = RandomNormalLike (x) b = RandomNormalLike (x) y = Sub (a, b) }"
    (y,) = run(target, improve(target, model(text)), {"x": numbers(64)})
    assert np.all(y != 0)


def test_dropout_in_training_stays() -> None:
    """Training dropout is no identity (OPT #252: nop_dropout); at inference it is."""
    text = "(float[2] x) => (float[2] y) <float r = {0.5}, bool t = {FLAG}>"
    text += "{ n = Neg (x)  y = Dropout (n, r, t) }"
    busy = improve("reference", model(text.replace("FLAG", "1")))
    assert kinds(busy) == ["Dropout", "Neg"]
    idle = improve("reference", model(text.replace("FLAG", "0")), X2)
    assert kinds(idle) == ["Neg"]


@everywhere
def test_a_dropout_with_an_unread_mask_goes(target: str) -> None:
    """Results that nobody reads change nothing, in the first run too (OPT #252)."""
    text = "(float[2] x) => (float[2] y) { n = Neg (x)  y, mask = Dropout (n) }"
    assert kinds(improve(target, model(text), X2)) == ["Neg"]


NORMED = """(float[N, 3, 5, 5] x) => (float[N, 4, 3, 3] y) {
    c = Conv (x, w)
    y = BatchNormalization ATTRS (c, s, b, m, v)
}"""
NORM_WEIGHTS = {
    "w": numbers(4, 3, 3, 3),
    "s": numbers(4, seed=1),
    "b": numbers(4, seed=2),
    "m": numbers(4, seed=3),
    "v": np.abs(numbers(4, seed=4)) + f32(0.1),
}
IMAGE = {"x": numbers(2, 3, 5, 5, seed=5)}


TRAINING = NORMED.replace("y =", "y, rm, rv =").replace("ATTRS", "<training_mode = 1>")


@everywhere
def test_batch_norm_in_training_is_not_folded(target: str) -> None:
    """Batch statistics are no weights (SCR: seen to fold them, off by 6.6)."""
    text = TRAINING.replace("y) {", "y, float[4] rm, float[4] rv) {")
    made = improve(target, model(text, NORM_WEIGHTS), IMAGE)
    assert kinds(made) == ["BatchNormalization", "Conv"]
    plain = model(NORMED.replace("ATTRS", ""), NORM_WEIGHTS)
    assert kinds(improve(target, plain, IMAGE, exact=False)) == ["Conv"]


@everywhere
def test_batch_norm_in_training_keeps_its_results(target: str) -> None:
    """The result runs where the source did (SLIM #118, #30, #29: it did not)."""
    improve(target, model(TRAINING, NORM_WEIGHTS), IMAGE)


# --- constants -----------------------------------------------------------------------

SPECIAL = f32(np.nan, np.inf, -np.inf, 0, -0.0, 1e-40, 3e38, -2.5)
NOT_NOTHING = {
    "plus zero": "Add (x, zero)",
    "times zero": "Mul (x, zero)",
    "minus itself": "Sub (x, x)",
    "over itself": "Div (x, x)",
    "zero minus": "Sub (zero, x)",
    "to the power of 0": "Pow (x, zero)",
    "largest of it and -inf": "Max (x, least)",
}


@everywhere
@pytest.mark.parametrize("case", NOT_NOTHING)
def test_special_numbers_survive(target: str, case: str) -> None:
    """NaN, infinities and -0.0 follow IEEE (OPT #254: nop_with_unit)."""
    text = "(float[8] x) => (float[8] y) <float zero = {0}, float least = {-inf}>"
    proto = model(f"{text} {{ y = {NOT_NOTHING[case]} }}")
    improve(target, proto, {"x": SPECIAL}, level=1)
    if case != "plus zero":  # which may lose the sign of a zero, and says so
        improve(target, proto, {"x": SPECIAL})


FOLDED = {
    "nan and minus zero": ("float[4]", "Mul", f32(np.nan, -0.0, np.inf, 1), f32(0, 1)),
    "by minus zero": ("float[4]", "Div", f32(1, -1, 0, np.nan), f32(-0.0, 0)),
    "int32 wraps": ("int32[2]", "Add", np.array([2**31 - 1, -1]), np.array([1, 1])),
    "int8 wraps": ("int8[2]", "Mul", np.array([100, -128]), np.array([3, -1])),
    "int64 wraps": ("int64[2]", "Mul", np.array([2**62, 3]), np.array([4, -3])),
    "truncated": ("int64[4]", "Div", np.array([-7, 7, -7, 7]), np.array([2, -2])),
    "uint8 below 0": ("uint8[2]", "Sub", np.array([3, 0]), np.array([5, 1])),
}


@everywhere
@pytest.mark.parametrize("case", FOLDED)
def test_folding_is_what_the_op_computes(target: str, case: str) -> None:
    """Folded arithmetic wraps, truncates and keeps NaN and -0.0 (SLIM #15)."""
    type_, kind, a, b = FOLDED[case]
    dtype = np.dtype(type_.partition("[")[0].replace("float", "float32"))
    text = f"() => ({type_} y) {{ y = {kind} (a, b) }}"
    with np.errstate(all="ignore"):
        weights = {"a": a.astype(dtype), "b": np.resize(b, a.shape).astype(dtype)}
    if target == "ort-cpu" and dtype.itemsize == 1:
        target = "reference"  # ONNX Runtime has no such kernels
    made = improve(target, model(text, weights), {})
    assert kinds(made) == []


@everywhere
@pytest.mark.parametrize(("fmod", "expected"), [(0, [1, -1]), (1, [-1, 1])])
def test_the_sign_of_a_remainder(target: str, fmod: int, expected: list[int]) -> None:
    """Mod has two conventions, and folding knows both (SIM #1284: numbers differ)."""
    text = "() => (int64[2] y) <int64[2] a = {-7, 7}, int64[2] b = {2, -2}>"
    made = improve(target, model(f"{text} {{ y = Mod <fmod = {fmod}> (a, b) }}"), {})
    assert kinds(made) == []
    assert run(target, made, {})[0].tolist() == expected


def test_integer_division_by_zero_is_not_folded() -> None:
    """What has no result is neither folded nor a crash (SIM #1275: fuzzed crashes)."""
    text = (
        "(int64[2] x) => (int64[2] y, int64[2] z) <int64[2] a = {1, 2}, int64 o = {0}>"
    )
    made = optimize_model(model(f"{text} {{ y = Div (a, o) z = Add (x, a) }}"))
    assert "Add" in kinds(made)


@everywhere
def test_a_float_attribute_is_float32(target: str) -> None:
    """`value_float` makes float32 (onnx-graphsurgeon PR #4834: folded to float64)."""
    text = """(float[2] x) => (float[2] y) {
        a = Constant <value_float = 0.1> ()
        b = Constant <value_floats = [0.2, 0.3]> ()
        c = Mul (a, b)
        y = Add (x, c)
    }"""
    made = improve(target, model(text), X2)
    assert kinds(made) == ["Add"]
    assert [t.data_type for t in made.graph.initializer] == [TensorProto.FLOAT]


@everywhere
def test_constants_that_only_look_equal_stay_apart(target: str) -> None:
    """Bits, type and shape must agree to merge (SIM #265: 4 and 2 were swapped)."""
    weights = {
        "a": f32(4, 2),
        "b": f32(2, 4),
        "c": f32(4, 2),  # the only one that has a twin
        "d": np.array([4, 2], np.int32),
        "e": f32(4, 2).reshape(1, 2),
        "f": f32(0, -0.0),
        "g": f32(-0.0, 0),
        "h": f32(4, 2).view(np.int32),
    }
    outputs = ", ".join(
        f"{'int32' if k in 'dh' else 'float'}[A{k}, B{k}] y{k}" for k in weights
    )
    nodes = " ".join(
        f"y{k} = {'Mul' if k in 'dh' else 'Div'} ({'i' if k in 'dh' else 'x'}, {k})"
        for k in weights
    )
    proto = model(
        f"(float[N, 2] x, int32[N, 2] i) => ({outputs}) {{ {nodes} }}", weights
    )
    feeds = {"x": numbers(3, 2), "i": np.array([[1, 2]] * 3, np.int32)}
    made = improve(target, proto, feeds)
    assert kinds(made).count("Div") == 5
    assert kinds(made).count("Mul") == 2
    assert len(made.graph.initializer) == 7


@everywhere
def test_equal_ops_with_other_attributes_stay_apart(target: str) -> None:
    """Ops merge only if all attributes agree (OPT #285: CSE)."""
    text = """(float[2, 3] x) => (float[2, 3] a, float[2, 3] b, float[2, 3] c) {
        a = Softmax <axis = 0> (x)
        b = Softmax <axis = 1> (x)
        c = Softmax <axis = 1> (x)
    }"""
    made = improve(target, model(text), {"x": numbers(2, 3)})
    assert kinds(made).count("Softmax") == 2


@everywhere
def test_folded_values_own_their_memory(target: str) -> None:
    """Views of a constant outlive it (ORT #29788: a dangling buffer turned to NaN)."""
    text = """(float[2, 3] x) => (float[3, 2] a, float[6] b, float[2, 3] c)
    <int64[2] s = {3, 2}, int64[1] t = {-1}> {
        a = Reshape (w, s)  f = Flatten (a)  b = Reshape (f, t)
        i = Identity (w)  u = Unsqueeze (i, o)  q = Squeeze (u, o)  c = Add (x, q)
    }"""
    weights = {"w": numbers(2, 3), "o": np.array([0])}
    made = improve(target, model(text, weights), {"x": numbers(2, 3, seed=1)})
    assert kinds(made) == ["Add"]
