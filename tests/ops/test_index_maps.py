"""Index maps by brute force: what they claim holds on split operands."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from single import Case, constant, positive, sweep

from graphopt import ops, xp
from graphopt.index.check import Verdict, validate_strategies, validate_tiling
from graphopt.ir import Parameter, Value
from graphopt.ops.registry import kinds
from graphopt.ops.structured import Structured
from graphopt.types import DType, TensorType

Array = np.ndarray[Any, Any]

EXPONENTIAL = "A power of a sum is a product of powers: sums alone are looked for."
BLIND = "No number here is special, and so no part is."
OTHERS = "One result is partial, another replicated: no rule mixes the two."
MISSED: dict[str, str] = {
    "Exp *: P(sum) -> P(prod)": EXPONENTIAL,
    "Pow *: R, P(sum) -> P(prod)": EXPONENTIAL,
    "IsNaN *: P(sum) -> R": BLIND,
    "IsInf *: P(sum) -> R": BLIND,
    "M?? f64 [[]4x6,4x6]: P(sum), P(sum) -> P(sum)": "Both have the same addend.",
    "BatchNormalization * training_mode=1: *": OTHERS,
    "LayerNormalization * axis=1: *": OTHERS,
    "Attention *,-,*: *": OTHERS,
}
"""Placements that work and that no rule gives, each with its reason."""


def cases() -> list[Case]:
    """One or more cases of each op with index maps, of even and distinct extents."""
    made: list[Case] = []

    def add(kind: str, *shapes: Any, dtype: DType = DType.F64, **options: Any) -> None:
        attrs = [options.pop("attrs", {})]
        made.extend(
            case
            for shape in shapes
            for case in sweep(kind, [shape], attrs, dtypes=[dtype], **options)
        )

    one = ((4, 6),)
    two = [((4, 6), (4, 6)), ((4, 6), (6,)), ((4, 1), (2, 1, 6)), ((4, 6), ())]
    unary = (
        "Neg Abs Sign Reciprocal Sqrt Floor Ceil Round Exp Log Erf Sin Cos Tan Asin "
    )
    unary += "Acos Atan Sinh Cosh Tanh Asinh Acosh Atanh Relu LeakyRelu Elu Celu Selu "
    unary += "ThresholdedRelu Shrink Sigmoid HardSigmoid HardSwish Swish Mish Softplus "
    unary += "Softsign Gelu IsNaN IsInf Identity"
    for kind in unary.split():
        add(kind, one)
    for kind in (
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Mod",
        "Sum",
        "Mean",
        "Max",
        "Min",
        "PRelu",
    ):
        attrs = {"fmod": 1} if kind == "Mod" else {}
        add(kind, *(two[:2] if kind == "PRelu" else two), attrs=attrs)
    add("Pow", *two, values=positive)
    add("SwiGLU", two[0])
    add("Sum", ((4, 6), (6,), (4, 1)))
    add("Clip", ((4, 6), constant(-1.0, float), constant(1.0, float)))
    for kind in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
        add(kind, two[0], two[2], values=_few)
    for kind in ("And", "Or", "Xor"):
        add(kind, two[0], two[2], dtype=DType.BOOL)
    add("Not", one, dtype=DType.BOOL)
    for kind in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        add(kind, two[0], two[2], dtype=DType.I64)
    add("BitwiseNot", one, dtype=DType.I64)
    add("BitShift", two[0], attrs={"direction": "LEFT"}, dtype=DType.U32)
    for kind in ("Add", "Sub", "Mul", "Div"):
        add(kind, two[0], dtype=DType.I64)
    condition = np.array([[True], [False], [False], [True]])
    add("Where", (condition, (4, 6), (6,)), constants=())
    for source, target in (
        (DType.F64, DType.I32),
        (DType.F32, DType.F64),
        (DType.I64, DType.I32),
    ):
        add("Cast", one, dtype=source, attrs={"to": target})
    add("CastLike", ((4, 6), constant(0, np.int32)), dtype=DType.I64)
    add("BitCast", one, attrs={"to": DType.I64})

    for kind in (*REDUCTIONS, "LogSum"):
        values = positive if kind == "LogSum" else _plain
        for attrs in ({}, {"keepdims": 0}):
            add(f"Reduce{kind}", ((4, 6, 2), constant([1])), attrs=attrs, values=values)
            add(f"Reduce{kind}", ((4, 6),), attrs=attrs, values=values)
    add("ReduceMean", ((4, 6), constant([1])), dtype=DType.I64)
    for kind in ("ArgMax", "ArgMin"):
        add(kind, ((4, 6, 2),), attrs={"axis": 1, "keepdims": 0})
    for kind in ("CumSum", "CumProd"):
        add(kind, ((4, 6), constant(1)))
    for kind in ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization"):
        add(kind, ((4, 6, 2),), attrs={"axis": 1})

    add(
        "MatMul",
        ((2, 4, 6), (2, 6, 8)),
        ((4, 6), (6, 8)),
        ((4,), (4, 6)),
        ((4, 6), (6,)),
    )
    add("Gemm", ((4, 6), (6, 8)), ((4, 6), (6, 8), (8,)), ((4, 6), (6, 8), (4, 1)))
    add("Gemm", ((6, 4), (8, 6), ()), attrs={"transA": 1, "transB": 1, "alpha": 0.5})
    for equation, *shapes in (
        ("ij,jk->ik", (4, 6), (6, 8)),
        ("bij,bkj->bik", (2, 4, 6), (2, 8, 6)),
        ("ij->", (4, 6)),
        ("ii->i", (4, 4)),
        ("i,j->ij", (4,), (6,)),
        ("ij,jk,kl->il", (2, 4), (4, 6), (6, 8)),
        ("i,jk->i", (4,), (6, 2)),
    ):
        add("Einsum", shapes, attrs={"equation": equation})
    add("Det", ((2, 4, 4),))

    vectors = ((4,), (4,), (4,), _variance)
    add("BatchNormalization", ((2, 4, 6), *vectors))
    add("BatchNormalization", ((2, 4, 6), *vectors), attrs={"training_mode": 1}, outs=3)
    add("InstanceNormalization", ((2, 4, 6), (4,), (4,)))
    add("GroupNormalization", ((2, 4, 6), (4,), (4,)), attrs={"num_groups": 2})
    add("LayerNormalization", ((2, 4, 6), (6,), (6,)), ((2, 4, 6), (6,)))
    add("LayerNormalization", ((2, 4, 6), (4, 6), (4, 6)), attrs={"axis": 1}, outs=3)
    add("RMSNormalization", ((2, 4, 6), (6,)))
    add("MeanVarianceNormalization", ((2, 4, 6),), attrs={"axes": (0, 2)})
    add("LRN", ((2, 4, 6),), attrs={"size": 3})

    q, k, v = (2, 4, 6, 8), (2, 4, 2, 8), (2, 4, 2, 10)
    few, fewer = (2, 2, 6, 8), (2, 2, 6, 10)
    add("Attention", (q, k, v), (q, few, fewer), (q, k, v, (6, 2)))
    add("Attention", (q, k, v), attrs={"is_causal": 1})
    add("Attention", (q, few, fewer, None, (2, 2, 4, 8), (2, 2, 4, 10)), outs=3)
    heads = {"q_num_heads": 4, "kv_num_heads": 2}
    add("Attention", ((2, 6, 16), (2, 8, 8), (2, 8, 12)), attrs=heads)

    add("Trilu", ((2, 4, 6),))
    add("Shape", one)
    add("Size", one)
    add("EyeLike", one)
    add("DFT", ((2, 4, 1),), ((2, 4, 2),))
    add("DFT", ((2, 4, 1),), attrs={"onesided": 1})
    add("STFT", ((2, 16, 1), constant(4), (8,)))
    add("Dropout", one)
    return made


REDUCTIONS = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp")


def _plain(rng: np.random.Generator, shape: tuple[int, ...], _: DType) -> Array:
    return rng.normal(size=shape)


def _variance(rng: np.random.Generator, dtype: DType) -> Array:
    return positive(rng, (4,), dtype)


def _few(rng: np.random.Generator, shape: tuple[int, ...], _: DType) -> Array:
    return rng.integers(0, 2, shape).astype(float)


CASES = cases()


def op_on(case: Case, operands: Iterable[Array | None]) -> Structured:
    """The op of a case on operands of other shapes."""
    values: list[Value | None] = []
    for i, array in enumerate(operands):
        if array is None:
            values.append(None)
        elif i in case.constants:
            values.append(ops.Constant(array))
        else:
            values.append(Parameter(TensorType(DType.of(array.dtype), array.shape)))
    op = getattr(ops, case.kind)(*values, **case.attrs, outs=case.outs)
    assert isinstance(op, Structured)
    return op


def compute(case: Case, operands: Iterable[Array | None]) -> list[Array]:
    operands = list(operands)
    op = op_on(case, operands)
    with xp.host().scope():
        results = op.compute(xp.host(), *operands)
    return list(results) if isinstance(results, tuple) else [results]


def judged(case: Case) -> list[Verdict]:
    """What brute force finds, absent operands left out."""
    op = op_on(case, case.operands)
    maps = op.index_maps()
    assert maps is not None
    present = [i for i, a in enumerate(case.operands) if a is not None]

    def run(arrays: list[Array]) -> list[Array]:
        operands: list[Array | None] = [None] * len(case.operands)
        for i, array in zip(present, arrays, strict=True):
            operands[i] = array
        return compute(case, operands)

    operands = [case.operands[i] for i in present]
    numbers = {old: new for new, old in enumerate(present)}
    maps = _renumbered(maps, numbers)
    arguments = (run, maps, operands)
    exact = all(a.dtype != np.float32 for a in operands if a is not None)
    options = {"declared": op.extents(), "tolerance": 1e-9 if exact else 1e-6}
    return [
        validate_strategies(*arguments, **options),
        validate_tiling(*arguments, **options),
    ]


def _renumbered(maps: Any, numbers: dict[int, int]) -> Any:
    from dataclasses import replace

    return replace(
        maps,
        operands=tuple(maps.operands[i] for i in numbers),
        linear=tuple(
            frozenset(numbers[i] for i in group if i in numbers)
            for group in maps.linear
        ),
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_maps_are_sound(case: Case) -> None:
    verdicts = judged(case)
    assert [fault for v in verdicts for fault in v.unsound] == []
    missed = [f"{case}: {miss}" for v in verdicts for miss in v.missed]
    unexplained = [
        miss
        for miss in missed
        if not any(fnmatch.fnmatchcase(miss, pattern) for pattern in MISSED)
    ]
    assert unexplained == []


def test_every_op_with_maps_is_judged() -> None:
    here = {case.kind for case in CASES}
    modules = {getattr(ops, kind).__module__ for kind in here}
    wanted = {
        kind
        for (domain, kind), cls in kinds.items()
        if issubclass(cls, Structured) and cls.__module__ in modules and not domain
    }
    assert wanted - here == OPERANDS_ARE_KNOWN


OPERANDS_ARE_KNOWN = {
    "Bernoulli",
    "BlackmanWindow",
    "ConstantOfShape",
    "HammingWindow",
    "HannWindow",
    "MelWeightMatrix",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Range",
}
"""Ops whose operands only steer, or that are random: nothing can be split."""
