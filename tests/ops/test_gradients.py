"""Gradients of traced ops against finite differences of the float64 reference.

Truth shares no code with automatic differentiation: the NumPy reference in float64 is
run at a few points on a random line through the operands, and the slope there of its
results, weighed at random, is compared with what `jax.vjp` of the traced op says of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from peers import QUICK, lowered
from single import Array, Case
from slopes import (
    NO_FLOATS,
    TOLERANCE,
    TRIES,
    around,
    difference,
    facts_of,
    fault,
    is_float,
    random_weights,
    telling,
    typed,
    weighed,
)
from test_single_ops import CASES, KINDS

from graphopt import xp
from graphopt.reference import Evaluator

jax = pytest.importorskip("jax")
pytestmark = pytest.mark.xla

CONSTANT = "piecewise constant: the slope is zero or nowhere defined"
WHOLE = "its results, or all operands that it looks into, are not floats"
MADE = "makes numbers from shapes and sizes"
NOT_DIFFERENTIABLE = {
    **dict.fromkeys(("ArgMax", "ArgMin", "NonMaxSuppression", "NonZero"), WHOLE),
    **dict.fromkeys(("And", "Or", "Xor", "Not", "Equal", "Less", "Greater"), WHOLE),
    **dict.fromkeys(("LessOrEqual", "GreaterOrEqual", "IsInf", "IsNaN"), WHOLE),
    **dict.fromkeys(("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot"), WHOLE),
    **dict.fromkeys(("BitShift", "BitCast", "Shape", "Size"), WHOLE),
    **dict.fromkeys(("ConvInteger", "MatMulInteger", "TfIdfVectorizer"), WHOLE),
    **dict.fromkeys(("StringConcat", "StringNormalizer", "StringSplit"), WHOLE),
    "RegexFullMatch": WHOLE,
    **dict.fromkeys(("Ceil", "Floor", "Round", "Sign", "Hardmax"), CONSTANT),
    **dict.fromkeys(("QuantizeLinear", "DynamicQuantizeLinear"), CONSTANT),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul"), CONSTANT),
    **dict.fromkeys(("BlackmanWindow", "HammingWindow", "HannWindow"), MADE),
    **dict.fromkeys(("ConstantOfShape", "EyeLike", "MelWeightMatrix", "Range"), MADE),
    "Unique": "how many results there are depends on data: XLA cannot trace it",
}
"""Kinds that have no gradient to check, each with the reason."""

FIXED = {
    "OneHot": (0, "which place is hot is a whole number"),
    "MaxRoiPool": (1, "the corners of regions are rounded"),
}
"""Float operands that have no gradient, each with the reason."""

TIED = ("TopK",)
"""Kinds whose cases hold equal numbers: they are moved apart."""

SINGLE = ("DequantizeLinear", "LinearAttention")
"""Kinds that compute in float32, whatever their operands are."""


@dataclasses.dataclass
class Line:
    """A line through a case's operands, and weights that make one number of results."""

    case: Case
    moved: list[int]
    point: list[Array]
    direction: list[Array]
    weights: list[Array | None]
    slope: float


def doubled(case: Case) -> Case | None:
    """The case in float64; None where it is none of smooth functions of such."""
    arrays = [a for a in case.operands if a is not None]
    known_size = case.traced or case.kind == "Compress"  # its condition is known
    if not known_size or any(a.dtype.kind not in "fiub" for a in arrays):
        return None
    if any(is_float(a) and a.dtype.itemsize < 4 for a in arrays):
        return None
    if not all(np.isfinite(a).all() for a in arrays if is_float(a)):
        return None
    return dataclasses.replace(case, operands=typed(case.operands, np.float64))


def moved_operands(case: Case) -> list[int]:
    """The operands that a line goes through: floats that steer no shape."""
    fixed = {*case.constants, *case.op.static, FIXED.get(case.kind, (-1,))[0]}
    floats = [i for i, a in enumerate(case.operands) if is_float(a) and a.size]
    rounding = case.kind in ("Cast", "CastLike")
    if rounding and case.op.types[0].dtype.bits < 64:  # type: ignore[union-attr]
        return []
    return [i for i in floats if i not in fixed]


def line(case: Case) -> Line | str | None:
    """Where to compare slopes; why there is none, as text; None for no floats."""
    moved = moved_operands(case)
    if not moved:
        return None
    rng = np.random.default_rng(crc32(str(case).encode()))
    given = [case.operands[i] for i in moved]
    why = ""
    for attempt in range(TRIES):
        far = 0.05 * (attempt + (case.kind in TIED))
        point = [a + far * rng.uniform(size=a.shape) for a in given]
        direction = [rng.normal(size=a.shape) for a in point]
        made = slope(case, moved, point, direction, rng)
        if not isinstance(made, str):
            return made
        why = made
    return None if why == NO_FLOATS else why


def slope(
    case: Case,
    moved: list[int],
    point: list[Array],
    direction: list[Array],
    rng: np.random.Generator,
) -> Line | str:
    """The slope at a point, by differences of fourth order; or why there is none."""
    evaluator = Evaluator(precision="float64")

    def results(step: float) -> list[Array]:
        operands = list(case.operands)
        for i, a, d in zip(moved, point, direction, strict=True):
            operands[i] = a + step * d
        with evaluator.xp.scope():
            return list(evaluator.apply(case.op, operands))

    weights = random_weights(results(0), rng)
    if isinstance(weights, str):
        return weights
    agree = 1e-6 if case.kind in SINGLE else 1e-8
    found = difference(lambda step: weighed(weights, results(step)), agree)
    if isinstance(found, str):
        return found
    return Line(case, moved, point, direction, weights, found)


def gradients(lines: Sequence[Line], dtype: Any) -> list[list[Array]]:
    """What `jax.vjp` gives for the operands that were moved, all as one program."""

    def run(points: list[list[Any]], weights: list[list[Any]]) -> list[Any]:
        found = []
        for at, point, weight in zip(lines, points, weights, strict=True):

            def op(*arrays: Any, at: Line = at) -> list[Any]:
                operands = list(typed(at.case.operands, dtype))
                for i, array in zip(at.moved, arrays, strict=True):
                    operands[i] = array
                case = dataclasses.replace(
                    at.case, operands=typed(at.case.operands, dtype)
                )
                with xp.traced().scope():
                    made = lowered(case.op, operands)
                    kept = zip(made, at.weights, strict=True)
                    return [
                        jax.numpy.asarray(a).astype(dtype)
                        for a, w in kept
                        if w is not None
                    ]

            _, back = jax.vjp(op, *point)
            found.append(list(back(weight)))
        return found

    with around(dtype):
        points = [[a.astype(dtype) for a in at.point] for at in lines]
        weights = [
            [w.astype(dtype) for w in at.weights if w is not None] for at in lines
        ]
        made = jax.jit(run, compiler_options=QUICK)(points, weights)
        return [[np.asarray(a, np.float64) for a in arrays] for arrays in made]


def faults(lines: Sequence[Line], dtype: Any) -> list[str]:
    found = []
    for at, made in zip(lines, gradients(lines, dtype), strict=True):
        name = np.dtype(dtype).name
        if name == "float64" and at.case.kind in SINGLE:
            name = "single"
        text = fault(made, at.direction, at.slope, TOLERANCE[name])
        if text is not None:
            found.append(f"{at.case} in {np.dtype(dtype)}: {text}")
    return found


def lines_of(kind: str) -> tuple[list[Line], list[str]]:
    """Lines through the cases of a kind, and why others have none."""
    found, missed = [], []
    for case in map(doubled, CASES[kind]):
        made = None if case is None else line(case)
        if isinstance(made, Line):
            found.append(made)
        elif made is not None:
            missed.append(f"{case}: {made}")
    return found, missed


def facts(at: Line) -> set[tuple[str, str]]:
    return facts_of(at.case) | {("moved", str(at.moved))}


DIFFERENTIABLE = sorted(set(KINDS) - set(NOT_DIFFERENTIABLE))
QUICKLY = ("Attention", "Conv", "Gemm", "LayerNormalization", "MaxPool", "Softmax")
"""A sample: what most networks are made of."""

WITHOUT = {
    "Attention": "a result holds -inf by definition: the scores after the mask",
    "Log": "numbers below zero have no logarithm",
}
"""Kinds of which one case has no point to compare at, with the reason."""


def checked(kind: str, count: int | None = None) -> None:
    """Compare what tells of a kind, or the first few lines."""
    lines, missed = lines_of(kind)
    assert lines, missed
    assert len(missed) == (kind in WITHOUT), missed
    lines = telling(lines, facts) if count is None else lines[:count]
    assert faults(lines, np.float64) + faults(lines, np.float32) == []


@pytest.mark.parametrize("kind", QUICKLY)
def test_a_sample_has_the_slopes_of_the_reference(kind: str) -> None:
    checked(kind, 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DIFFERENTIABLE)
def test_slopes_are_those_of_the_reference(kind: str) -> None:
    checked(kind)


def test_what_is_left_out_exists_and_has_a_reason() -> None:
    assert set(NOT_DIFFERENTIABLE) <= set(KINDS)
    assert {*FIXED, *TIED, *SINGLE, *WITHOUT} <= set(DIFFERENTIABLE)


# --- where a slope is not defined, or easily lost -------------------------------------


def gradient(kind: str, *operands: Any, **attrs: Any) -> list[Array]:
    """Of the sum of all results, for each float operand."""
    arrays = [
        np.asarray(a, np.float32 if isinstance(a, list) else None) for a in operands
    ]
    known = tuple(i for i, a in enumerate(arrays) if a.dtype.kind != "f")
    case = Case(kind, "point", tuple(arrays), attrs, constants=known)
    moved = [i for i in range(len(arrays)) if i not in known]

    def total(points: list[Any]) -> Any:
        given: list[Any] = list(arrays)
        for i, point in zip(moved, points, strict=True):
            given[i] = point
        return sum(a.sum() for a in lowered(case.op, given))

    with xp.traced().scope():
        made = jax.jit(jax.grad(total), compiler_options=QUICK)
        return [np.asarray(a) for a in made([arrays[i] for i in moved])]


ZEROS = [[[0.0, 0.0, 0.0, 0.0]]]


@pytest.mark.parametrize(
    ("kind", "attrs"),
    [
        ("ReduceL2", {}),
        ("LpNormalization", {}),
        ("LpNormalization", {"p": 1}),
        ("GlobalLpPool", {}),
        ("GlobalLpPool", {"p": 3}),
        ("LpPool", {"kernel_shape": (2,)}),
        ("MeanVarianceNormalization", {"axes": (0, 2)}),
    ],
)
def test_norms_have_a_gradient_at_zero(kind: str, attrs: dict[str, Any]) -> None:
    (found,) = gradient(kind, ZEROS, **attrs)
    assert np.isfinite(found).all()


def test_powers_at_zero() -> None:
    base, power = gradient("Pow", [0.0, 0.0, 2.0], [2.0, 3.0, 2.0])
    np.testing.assert_allclose(base, [0, 0, 4])
    np.testing.assert_allclose(power, [0, 0, 4 * np.log(2)], rtol=1e-6)


def test_far_from_zero_activations_are_flat_or_straight() -> None:
    far = [-1e4, 1e4]
    for kind, slopes in {
        "Sigmoid": [0, 0],
        "Softplus": [0, 1],
        "Tanh": [0, 0],
        "Gelu": [0, 1],
        "Elu": [0, 1],
        "Celu": [0, 1],
        "Softsign": [0, 0],
        "HardSwish": [0, 1],
        "Mish": [0, 1],
        "Swish": [0, 1],
    }.items():
        found = gradient(kind, far)[0]
        np.testing.assert_allclose(found, slopes, atol=1e-7, err_msg=kind)
    assert np.isfinite(gradient("Selu", far)[0]).all()


def test_a_tie_shares_or_chooses() -> None:
    """Whatever is chosen, the slopes of equals add up to one."""
    ties = [[[[1.0, 1.0], [1.0, 1.0]]]]
    for kind, attrs in (("MaxPool", {"kernel_shape": (2, 2)}), ("ReduceMax", {})):
        assert gradient(kind, ties, **attrs)[0].sum() == 1
    assert sum(g.item() for g in gradient("Max", [1.0], [1.0])) == 1
    assert 0 <= gradient("Clip", [0.0], [0.0], [1.0])[0].item() <= 1


def test_factors_that_repeat_or_are_zero() -> None:
    """x[0] * 3 * 0 and x[1] * 5: a zero leaves only its own slope."""
    x, factors = gradient(
        "ScatterElements",
        [2.0, 7.0],
        np.array([0, 0, 1]),
        [3.0, 0.0, 5.0],
        reduction="mul",
    )
    np.testing.assert_allclose(x, [0, 5])
    np.testing.assert_allclose(factors, [0, 6, 7])


def test_a_query_that_sees_nothing_has_no_slope() -> None:
    q = np.ones((1, 1, 2, 3), np.float32)
    mask = np.array([[False, False], [True, False]])
    for found in gradient("Attention", q, q, q, mask):
        assert np.isfinite(found).all()
