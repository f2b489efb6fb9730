"""The index maps of every op by brute force: what they claim holds on split operands."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import parts
import pytest
from index_samples import samples
from single import Case

from graphopt import dims, index
from graphopt.cost import op_cost
from graphopt.dims import Dim
from graphopt.index import Domain, Kind, TileSlice, tiling
from graphopt.index.check import (
    Array,
    Operands,
    Verdict,
    validate_strategies,
    validate_tiling,
)
from graphopt.ir import Op
from graphopt.ops.registry import kinds
from graphopt.ops.structured import Composite, Structured
from graphopt.reference import Evaluator

CASES = samples()

EXPONENTIAL = "A power of a sum is a product of powers: operands are sums alone."
MIXED = "One result is partial, others are replicated: linear sets say it of all."
GAPS = "Zeros between the positions belong to a tile by chance: of this stride and pad."
BLOCKS = "Scaled down by a whole factor, each element is read from a block of its own."

MISSED: dict[str, dict[str, list[str]]] = {
    EXPONENTIAL: {
        "Exp f64 [4x6]": ["P(sum) -> P(prod)"],
        "Pow f64 [4x6,4x6]": ["R, P(sum) -> P(prod)"],
        "Pow f64 [4x6,6]": ["R, P(sum) -> P(prod)"],
        "Pow f64 [4x1,2x1x6]": ["R, P(sum) -> P(prod)"],
        "Pow f64 [4x6,0d]": ["R, P(sum) -> P(prod)"],
    },
    MIXED: {
        "BatchNormalization f64 [2x4x3,4,4,4,variance] training_mode=1": [
            "R, P(sum), P(sum), R, R -> P(sum), R, R"
        ],
        "LayerNormalization f64 [2x4x6,4x6,4x6] axis=1": [
            "R, P(sum), P(sum) -> P(sum), R, R"
        ],
        "Attention f64 [1x4x3x3,1x2x3x3,1x2x3x5,-,1x2x4x3,1x2x4x5]": [
            "R, R, P(sum), R, R, P(sum) -> P(sum), R, P(sum)"
        ],
    },
    GAPS: {
        "ConvTranspose f64 [2x4x6,4x6x1] strides=(2,) output_padding=(1,)": [
            "S(2), R -> S(2)",
            "y0: no tile writes what lies between the positions 2*y0:12",
        ],
    },
    BLOCKS: {
        "Resize f64 [2x4x6x4,-,[1.0,1.0,2.0,0.5]": [
            "S(3), R, R -> S(3)",
            "s3: any position of it may be read",
        ],
    },
}
"""What holds and no rule gives: by reason, the samples and what is missed on each."""

RANDOM = "random"
SEQUENCE = "its operands or results are no tensors"
DATA = "how large the result is depends on data"
BODIES = "it runs bodies: what they do is said of their ops"
STEPS = "it goes from step to step, each from the state that the one before leaves"
OF_A_BODY = "it is what its body is: see test_cost"

WITHOUT_SAMPLE: dict[str, str] = {
    **dict.fromkeys(("Bernoulli", "Multinomial"), RANDOM),
    **dict.fromkeys(("RandomNormal", "RandomNormalLike"), RANDOM),
    **dict.fromkeys(("RandomUniform", "RandomUniformLike"), RANDOM),
    **dict.fromkeys(("SequenceAt", "SequenceConstruct", "SequenceEmpty"), SEQUENCE),
    **dict.fromkeys(("SequenceErase", "SequenceInsert", "SequenceLength"), SEQUENCE),
    **dict.fromkeys(("ConcatFromSequence", "SplitToSequence"), SEQUENCE),
    **dict.fromkeys(("Optional", "OptionalGetElement"), SEQUENCE),
    "OptionalHasElement": SEQUENCE,
    **dict.fromkeys(("Compress", "NonZero", "Unique"), DATA),
    **dict.fromkeys(("If", "Loop", "Scan", "SequenceMap"), BODIES),
    "LinearAttention": STEPS,
    "Constant": "it has no operands",
    "Opaque": "nothing is known of it",
    **dict.fromkeys(("CausalConvWithState", "RotaryEmbedding"), OF_A_BODY),
    **dict.fromkeys(("FlatHardmax", "FlatLogSoftmax", "FlatSoftmax"), OF_A_BODY),
    "NegativeLogLikelihoodLoss": OF_A_BODY,
    "SoftmaxCrossEntropyLoss": OF_A_BODY,
}
"""Ops that no sample is of, and why."""

UNTOLD = {
    "AffineGrid": "its size says how far apart points are, not where they begin",
    "DeformConv": "its pads say where windows begin, but also how many there are",
    "MaxRoiPool": "cells are parts of a region: fewer would be larger",
    "Resize": "its scale relates it to the operand as a whole",
    "RoiAlign": "cells are parts of a region: fewer would be larger",
}
"""Ops that cannot be told the position of a tile: such axes are not tried."""


@cache
def domain_of(case: Case) -> Domain:
    op = case.op
    assert isinstance(op, Structured)
    maps = op.index_maps()
    assert maps is not None
    return index.domain(maps, [shape_of(x) for x in case.operands], op.extents())


def shape_of(array: Array | None) -> tuple[int, ...] | None:
    return None if array is None else array.shape


def judged(case: Case, parts_: int) -> Verdict:
    """What brute force finds, with so many devices and tiles."""
    op, whole = case.op, domain_of(case)
    assert isinstance(op, Structured)
    run = parts.run_tile(op)

    def device(operands: Operands) -> list[Array]:
        return parts.computed(op, operands, parts.extents_of(whole, operands))

    def tile(operands: Operands, part: TileSlice) -> list[Array]:
        extents = {**whole.extents, part.axis: dims.sub(part.hi, part.lo)}
        return run(op, operands, extents, part)

    maps = op.index_maps()
    assert maps is not None
    facts: dict[str, Any] = {"declared": op.extents(), "tolerance": tolerance(case)}
    split = validate_strategies(device, maps, case.operands, parts_, **facts)
    tiled = validate_tiling(
        device,
        maps,
        case.operands,
        parts_,
        **facts,
        compute_tile=tile,
        axes=[axis for axis in maps.axes if is_tried(case.kind, whole, axis)],
    )
    return Verdict(split.unsound + tiled.unsound, split.missed + tiled.missed)


def is_tried(kind: str, whole: Domain, axis: str) -> bool:
    """False where nothing is read that could be cut, and where it cannot be told."""
    if tiling(whole, axis).kind is not Kind.POSITIONAL:
        return True
    return kind not in UNTOLD and any(whole.maps.operands)


def tolerance(case: Case) -> float:
    """Relative to the largest element; of float32, what it can tell."""
    narrow = any(x is not None and x.dtype == np.float32 for x in case.operands)
    return 1e-5 if narrow else 1e-9


@pytest.mark.parametrize("case", CASES, ids=str)
def test_maps_claim_what_holds_and_miss_what_is_listed(case: Case) -> None:
    verdict = judged(case, 2)
    listed = [m for found in MISSED.values() for m in found.get(str(case), [])]
    assert verdict.unsound == []
    assert verdict.missed == listed


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_maps_claim_what_holds_of_three_parts(case: Case) -> None:
    assert judged(case, 3).unsound == []


def test_what_is_listed_is_there() -> None:
    names = [str(case) for case in CASES]
    assert len(set(names)) == len(names)
    assert {name for found in MISSED.values() for name in found} <= set(names)
    assert set(UNTOLD) <= {case.kind for case in CASES}


def test_every_op_has_a_sample_or_a_reason() -> None:
    here = {case.kind for case in CASES}
    every = {kind for _, kind in kinds}
    assert every - here == set(WITHOUT_SAMPLE)
    with_maps = {kind for (_, kind), cls in kinds.items() if issubclass(cls, Structured)}
    unmapped = {RANDOM: True}
    assert all(
        unmapped.get(WITHOUT_SAMPLE[kind], False) for kind in with_maps - here
    )


# --- shapes and costs ---------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_shapes_derived_are_those_inferred_and_computed(case: Case) -> None:
    op, whole = case.op, domain_of(case)
    derived = index.result_shapes(whole.maps, whole.extents)[: op.outs]
    computed = [array.shape for array in parts.results(op, case.operands)]
    assert list(op.result_shapes()) == computed
    assert list(derived) == computed


@pytest.mark.parametrize("case", CASES, ids=str)
def test_shapes_derived_of_symbols(case: Case) -> None:
    """Each extent under its own symbol: what is known is the same, and never wrong."""
    sizes = {f"n{d}": d for x in case.operands if x is not None for d in x.shape}
    op = case.build(lambda array: tuple(dims.symbol(f"n{d}") for d in array.shape))
    assert isinstance(op, Structured)
    truth = [array.shape for array in parts.results(case.op, case.operands)]
    found = op.iteration_domain()
    inferred = [shape or (None,) * len(t) for shape, t in zip(op.result_shapes(), truth)]
    assert [at(shape, sizes, t) for shape, t in zip(inferred, truth)] == truth
    if found is not None:
        derived = index.result_shapes(*found)[: op.outs]
        assert [at(shape, sizes, t) for shape, t in zip(derived, truth)] == truth


def at(
    shape: tuple[Dim, ...], sizes: dict[str, int], truth: tuple[int, ...]
) -> tuple[Dim, ...]:
    """The dims for these sizes of the symbols; those unknown are taken for true."""
    pairs = zip(shape, truth, strict=True)
    return tuple(t if dim is None else dims.substitute(dim, sizes) for dim, t in pairs)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_cost_is_known_and_like_that_of_the_body(case: Case) -> None:
    cost = op_cost(case.op)
    assert isinstance(cost.flops, int)
    assert isinstance(cost.bytes, int)
    if isinstance(case.op, Composite) and case.op.expansion is not None:
        body = sum(op_cost(op).flops for op in ops_between(case.op))
        assert cost.flops / 2.5 <= body <= cost.flops * 2.5


def ops_between(op: Composite) -> list[Op]:
    from graphopt.reference import schedule

    known = [value for value in op.operands if value is not None]
    return schedule(op.expansion[: op.outs], known)
