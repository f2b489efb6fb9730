"""The index maps of every op by brute force: what they claim holds of parts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import numpy as np
import parts
import pytest
from index_samples import samples
from single import Case

from graphopt import dims, index, ops
from graphopt.cost import op_cost
from graphopt.dims import Dim
from graphopt.index import Combiner, Domain, Kind, TileSlice, tiling
from graphopt.index.check import (
    Array,
    Operands,
    Verdict,
    validate_strategies,
    validate_tiling,
)
from graphopt.ops.registry import RUNTIME, kinds
from graphopt.ops.structured import Composite, Structured
from graphopt.reference import schedule

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
        "LinearAttention f32 [1x3x12,1x3x6,1x3x10,1x2x3x5,1x3x2,1x3x1] "
        "update_rule=gated_delta q_num_heads=4 kv_num_heads=2": [
            "P(sum), R, R, R, R, R -> P(sum), R"
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

RANDOM = "what it draws is its own"
SEQUENCE = "its operands or results are no tensors"
DATA = "how large the result is depends on data"
DEVICES = "what a device gets depends on the others"
BODIES = "what its bodies do is said of their ops"
DICTIONARY = "a dictionary has no axes"
MEANT = "it has no maps of its own, but a body: see test_cost"
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
    **dict.fromkeys(("NonMaxSuppression", "StringNormalizer", "StringSplit"), DATA),
    **dict.fromkeys(("CastMap", "DictVectorizer", "ZipMap"), DICTIONARY),
    **dict.fromkeys(("If", "Loop", "Scan", "SequenceMap", "FlexAttention"), BODIES),
    **dict.fromkeys(("Strips", "Tiled"), BODIES),
    **dict.fromkeys(
        ("AllGather", "AllReduce", "AllToAll", "Permute", "ReduceScatter"), DEVICES
    ),
    **dict.fromkeys(("Addend", "Position", "Shard", "Shift"), DEVICES),
    **dict.fromkeys(("Adagrad", "Adam", "Momentum"), MEANT),
    **dict.fromkeys(("CausalConvWithState", "RotaryEmbedding"), MEANT),
    **dict.fromkeys(("FlatHardmax", "FlatLogSoftmax", "FlatSoftmax"), MEANT),
    **dict.fromkeys(("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"), MEANT),
    "ImageDecoder": "no element of the image has a place among the bytes",
    "TfIdfVectorizer": "it counts wherever in a row something is",
    "Constant": "it has no operands",
    "Opaque": "nothing is known of it",
}
"""Ops that no sample is of, and why."""

UNTOLD = {
    "AffineGrid": "its size says how far apart points are, not where they begin",
    "DeformConv": "its pads say where windows begin, but also how many there are",
    "MaxRoiPool": "cells are parts of a region: fewer would be larger",
    "Resize": "its scale relates it to the operand as a whole",
    "RoiAlign": "cells are parts of a region: fewer would be larger",
}
"""Ops that cannot be told where a tile is: such axes are not tried."""


@cache
def mapped(case: Case) -> Structured:
    """The op of a case."""
    op = case.op
    assert isinstance(op, Structured)
    return op


@cache
def domain_of(case: Case) -> Domain:
    op = mapped(case)
    maps = op.index_maps()
    assert maps is not None
    shapes = [None if x is None else x.shape for x in case.operands]
    return index.domain(maps, shapes, op.extents())


# --- placements and tiles -----------------------------------------------------------


def judged(case: Case, count: int) -> Verdict:
    """What brute force finds with so many devices, and so many tiles."""
    op, whole = mapped(case), domain_of(case)
    maps, run = op.index_maps(), parts.run_tile(op)
    assert maps is not None

    def device(operands: Operands) -> list[Array]:
        return parts.computed(op, operands, parts.extents_of(whole, operands))

    def tile(operands: Operands, part: TileSlice) -> list[Array]:
        extents = {**whole.extents, part.axis: dims.sub(part.hi, part.lo)}
        return run(op, operands, extents, part)

    narrow = any(x is not None and x.dtype == np.float32 for x in case.operands)
    facts: dict[str, Any] = {
        "declared": op.extents(),
        "tolerance": 1e-5 if narrow else 1e-9,
    }
    placed = validate_strategies(device, maps, case.operands, count, **facts)
    tiled = validate_tiling(
        device,
        maps,
        case.operands,
        count,
        **facts,
        compute_tile=tile,
        axes=[axis for axis in maps.axes if is_tried(case.kind, whole, axis)],
    )
    return Verdict(placed.unsound + tiled.unsound, placed.missed + tiled.missed)


def is_tried(kind: str, whole: Domain, axis: str) -> bool:
    """False where no operand could be cut, and where the op cannot be told."""
    if tiling(whole, axis).kind is not Kind.POSITIONAL:
        return True
    return kind not in UNTOLD and any(whole.maps.operands)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_maps_claim_what_holds_and_miss_what_is_listed(case: Case) -> None:
    verdict = judged(case, 2)
    assert verdict.unsound == []
    assert verdict.missed == [
        miss for listed in MISSED.values() for miss in listed.get(str(case), [])
    ]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_maps_claim_what_holds_of_three_parts(case: Case) -> None:
    assert judged(case, 3).unsound == []


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("GlobalAveragePool", {"combiner": Combiner.SUM}),
        ("MatMul", {"linear": ((0, 1),)}),
        ("ArgMax", {"combiner": Combiner.MAX}),
        ("Relu", {"linear": ((0,),)}),
        ("LayerNormalization", {"whole_axes": lambda op, rank: ()}),
    ],
)
def test_a_wrong_claim_is_found(
    kind: str, facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, fact in facts.items():
        monkeypatch.setattr(getattr(ops, kind), name, fact)
    case = next(case for case in samples() if case.kind == kind)
    assert judged(case, 2).unsound


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("MatMul", {"linear": ((0,),)}),
        ("ReduceMax", {"combiner": None}),
        ("Softmax", {"whole_axes": lambda op, rank: range(rank)}),
    ],
)
def test_a_claim_that_says_too_little_is_found(
    kind: str, facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, fact in facts.items():
        monkeypatch.setattr(getattr(ops, kind), name, fact)
    case = next(case for case in samples() if case.kind == kind)
    assert judged(case, 2).missed


def test_what_is_listed_is_there() -> None:
    names = [str(case) for case in CASES]
    assert len(set(names)) == len(names)
    assert {name for listed in MISSED.values() for name in listed} <= set(names)
    assert set(UNTOLD) <= {case.kind for case in CASES}


def test_every_op_has_a_sample_or_a_reason() -> None:
    for module in iter_modules(ops.__path__):
        import_module(f"graphopt.ops.{module.name}")
    sampled = {case.kind for case in CASES}
    own = (ops.contrib.DOMAIN, RUNTIME)
    missing = {
        kind: cls
        for (domain, kind), cls in kinds.items()
        if kind not in sampled and domain not in own
    }
    assert not any(issubclass(kinds[k], Structured) for k in kinds if k[0] in own)
    assert set(missing) == set(WITHOUT_SAMPLE)
    assert {
        kind: reason
        for kind, reason in WITHOUT_SAMPLE.items()
        if issubclass(missing[kind], Structured) and reason != RANDOM
    } == {}


# --- shapes and costs ---------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_shapes_derived_are_those_inferred_and_computed(case: Case) -> None:
    op, whole = mapped(case), domain_of(case)
    computed = [array.shape for array in parts.results(op, case.operands)]
    assert list(op.result_shapes()) == computed
    assert list(index.result_shapes(whole.maps, whole.extents)) == computed


@pytest.mark.parametrize("case", CASES, ids=str)
def test_shapes_of_symbols_are_those_of_numbers(case: Case) -> None:
    """Each extent is a symbol of its own; a dim may be unknown, but not wrong."""
    sizes = {f"n{d}": d for x in case.operands if x is not None for d in x.shape}
    op = case.build(lambda array: tuple(dims.symbol(f"n{d}") for d in array.shape))
    assert isinstance(op, Structured)
    truth = list(mapped(case).result_shapes())
    derived = op.iteration_domain()
    found = [list(op.result_shapes())]
    if derived is not None:
        found.append(list(index.result_shapes(*derived)))
    for shapes in found:
        pairs = zip(shapes, truth, strict=True)
        assert [shape and at(shape, sizes, known) for shape, known in pairs] == [
            None if shape is None else known
            for shape, known in zip(shapes, truth, strict=True)
        ]


def at(shape: Any, sizes: Mapping[str, int], known: Any) -> tuple[Dim, ...]:
    """The dims for these sizes of symbols, and known ones where there is none."""
    pairs = zip(shape, known, strict=True)
    return tuple(k if dim is None else dims.substitute(dim, sizes) for dim, k in pairs)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_cost_is_known_and_like_that_of_the_body(case: Case) -> None:
    op = mapped(case)
    cost = op_cost(op)
    assert isinstance(cost.flops, int)
    assert isinstance(cost.bytes, int)
    if isinstance(op, Composite) and op.expansion is not None:
        given = [value for value in op.operands if value is not None]
        inner = schedule(op.expansion[: op.outs], given)
        body = sum(op_cost(part).flops or 0 for part in inner)
        assert cost.flops <= 2.5 * body
        assert body <= 2.5 * cost.flops
