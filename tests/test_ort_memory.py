"""What ONNX Runtime takes for a model: as foreseen, as counted, and as it is found."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser
from ordered_graphs import branchy, some_order
from real_models import every_model

import graphopt
from graphopt import Graph, load, ops
from graphopt.errors import UsageError
from graphopt.exporter import save, to_proto
from graphopt.inputs import bindings, random_inputs
from graphopt.ir import Parameter
from graphopt.lowering.meters import MeterFailed
from graphopt.lowering.ort.advice import bounded
from graphopt.lowering.ort.allocation import ALIASES, IN_PLACE, predicted
from graphopt.lowering.ort.arena import (
    UNLIMITED,
    Event,
    Free,
    Take,
    fits,
    grown,
    most_in_use,
    one_block,
    smallest_block,
)
from graphopt.lowering.ort.books import books
from graphopt.lowering.ort.measured import measured, numbered
from graphopt.lowering.ort.meter import realised_peak
from graphopt.lowering.ort.ordered import KEPT, honoured
from graphopt.lowering.ort.recipe import Recipe
from graphopt.lowering.ort.session import RunFailed, Session
from graphopt.ops import contrib
from graphopt.passes.memory import SPACES, plan_memory
from graphopt.types import DType, tensor

pytest.importorskip("onnxruntime")

MiB = 1 << 20
PLAIN = Recipe(session={**KEPT, "enable_mem_pattern": False})
"""Nodes as they are, in the order of the file, each buffer asked for by itself."""

INPUT = {"x": np.linspace(-1, 1, 64, dtype=np.float32).reshape(4, 16)}


# --- blocks -------------------------------------------------------------------------

TWO: list[Event] = [
    Take("a", 1000),
    Take("b", 256),
    Free("a"),
    Take("c", 300),
    Take("d", 500),
]


def test_requests_are_rounded_up() -> None:
    assert most_in_use([Take("a", 1), Take("b", 257)]) == 768
    assert most_in_use(TWO) == 256 + 512 + 512


def test_what_is_between_two_pieces_may_be_lost() -> None:
    apart: list[Event] = [Take("a", 512), Take("b", 256), Free("a"), Take("c", 768)]
    assert most_in_use(apart) == 1024
    assert smallest_block(apart) == 1536
    assert not fits(apart, 1280)


def test_neighbours_that_are_free_become_one() -> None:
    events: list[Event] = [
        Take("a", 256),
        Take("b", 256),
        Take("c", 256),
        Free("a"),
        Free("c"),
    ]
    assert fits([*events, Free("b"), Take("d", 768)], 768)
    assert not fits([*events, Take("d", 512)], 768)


def test_the_smallest_piece_that_is_large_enough_is_taken() -> None:
    events: list[Event] = [
        *(Take("a", 512), Take("b", 256), Take("c", 256), Take("d", 256)),
        *(Free("a"), Free("c"), Take("e", 256), Take("f", 512)),
    ]
    assert fits(events, 1280)


def test_blocks_share_nothing() -> None:
    one_by_one: list[Event] = [Take("a", 512), Free("a"), Take("b", 768), Free("b")]
    assert grown(one_by_one, runs=1) == grown(one_by_one) == 1280
    half: list[Event] = [Take("a", 768), Free("a"), Take("b", 512), Take("c", 256)]
    assert grown(half, runs=1) == 768 + 256  # b has all of a
    assert smallest_block(half) == 768


# --- an arena of a session's own ----------------------------------------------------


def chain() -> Graph:
    """Three buffers of one MiB are alive at once, in whatever order."""
    x = Parameter(tensor(DType.F32, 256, 1024), "x")
    a = ops.Exp(x)
    return Graph([x], [ops.Add(ops.Neg(ops.Sin(a)), a)])


WIDE = {"x": np.ones((256, 1024), np.float32)}


def test_an_arena_is_a_limit(tmp_path: Path) -> None:
    model = to_proto(chain()).SerializeToString()
    for size, runs in ((3 * MiB, True), (3 * MiB - 256, False), (3 * MiB, True)):
        recipe = Recipe(session=PLAIN.session, arena=one_block(size))
        session = Session(model, recipe=recipe, threads=1)
        if runs:
            session(WIDE)
            session(WIDE)
        else:
            with pytest.raises(RunFailed):
                session(WIDE)


def test_what_is_no_arena_is_refused() -> None:
    model = to_proto(chain()).SerializeToString()
    for wrong, said in (
        ({"max_men": 1}, "did you mean 'max_mem'"),
        ({"max_mem": "1"}, "max_mem of an arena is a number of bytes, not '1'"),
        ({"arena_extend_strategy": "kTwo"}, "no arena grows by 'kTwo'"),
        ({"arena_extend_strategy": []}, "no arena grows by"),
        ({"max_mem": -5}, "max_mem of an arena cannot be -5"),
        ({"max_mem": 1 << 80}, "max_mem of an arena cannot be"),
    ):
        with pytest.raises(UsageError, match=said):
            Session(model, recipe=Recipe(arena=wrong))


def test_a_recipe_keeps_its_arena(tmp_path: Path) -> None:
    shrink = {"memory.enable_memory_arena_shrinkage": "cpu:0"}
    recipe = Recipe(arena=one_block(1000, 7), run=shrink)
    assert recipe.arena["max_mem"] == 1024 + 7
    path = tmp_path / "model.onnx"
    save(chain(), path)
    recipe.save(path)
    assert Recipe.beside(path) == recipe
    text = "\n".join(recipe.lines())
    assert "arena max_mem = 1031" in text
    with pytest.raises(RunFailed):
        Session(path, recipe=recipe)(WIDE)


# --- what is foreseen ---------------------------------------------------------------

ALL_KINDS = [
    *("Abs", "Add", "Cast", "Ceil", "Celu", "Clip", "Cos", "Div", "Elu", "Erf", "Exp"),
    *("Flatten", "Floor", "Gelu", "HardSigmoid", "Hardmax", "Identity", "LeakyRelu"),
    *("Log", "LogSoftmax", "Max", "Mean", "Min", "Mul", "Neg", "Pow", "PRelu"),
    *("Reciprocal", "Relu", "Reshape", "Round", "ScatterElements", "Selu", "Shrink"),
    *("Sigmoid", "Sign", "Slice", "Softmax", "Softplus", "Softsign", "Sqrt", "Squeeze"),
    *("Sub", "Sum", "Tanh", "ThresholdedRelu", "Transpose", "Trilu", "Unsqueeze"),
]
SPELLED = {
    "Cast": "Cast <to=6> (a)",
    "Reshape": "Reshape (a, shape)",
    "ScatterElements": "ScatterElements (a, at, one)",
    "Slice": "Slice (a, at0, at1)",
    "Unsqueeze": "Unsqueeze (a, axis)",
    **{kind: f"{kind} (a, x)" for kind in ("Add", "Sub", "Mul", "Div", "Pow", "PRelu")},
    **{kind: f"{kind} (a, x)" for kind in ("Max", "Min", "Mean", "Sum")},
}


def taken_by(kind: str, *, kept: bool) -> int:
    """What the runtime takes for a result whose operand is, or is not, read later."""
    later = "Log (a)" if kept else "Log (x)"
    text = f"""<ir_version: 10, opset_import: ["" : 22]>
        g (float[64, 64] x) => (float[64, 64] z, int64 n)
        <int64[2] shape = {{32, 128}}, int64[1, 1] at = {{0}}, float[1, 1] one = {{1}},
         int64[2] at0 = {{0, 0}}, int64[2] at1 = {{64, 64}}, int64[1] axis = {{0}}>
        {{ a = Sin (x)  b = {SPELLED.get(kind, f"{kind} (a)")}
           c = Shape (b)  n = ReduceSum <keepdims=0> (c)  z = {later} }}"""
    model = numbered(parser.parse_model(text))
    fed = {"x": np.ones((64, 64), np.float32)}
    recipe = Recipe(session=PLAIN.session, arena=UNLIMITED)
    (entries,) = books(model.SerializeToString(), fed, recipe=recipe, threads=1)
    (entry,) = (e for e in entries if e.name == "1")
    return entry.after - entry.before


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_which_kernels_work_in_place(kind: str) -> None:
    size = 4 * 64 * 64
    free, kept = taken_by(kind, kept=False), taken_by(kind, kept=True)
    if kind in ALIASES:
        assert (free, kept) == (0, 0)
    elif kind in IN_PLACE:
        assert (free, kept) == (0, size)
    else:
        assert (free, kept) == (size, size)


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_what_is_in_use_is_foreseen_to_the_byte(seed: int, reuse: bool) -> None:
    graph = branchy(seed)
    order = some_order(graph, seed + 100 * reuse)
    model = numbered(to_proto(graph, order=order)).SerializeToString()
    session = {**PLAIN.session, "enable_mem_reuse": reuse}
    recipe = Recipe(session=session, arena=UNLIMITED)
    (entries,) = books(model, INPUT, recipe=recipe, threads=1)
    found = predicted(graph, order, reuse=reuse)
    assert found is not None
    assert entries[-1].peak - entries[0].before == found.in_use


@pytest.mark.parametrize("seed", range(10))
def test_an_arena_that_grows_takes_what_is_foreseen(seed: int) -> None:
    graph = branchy(seed)
    order = some_order(graph, seed)
    model = to_proto(graph, order=order).SerializeToString()
    found = predicted(graph, order)
    assert found is not None
    weights = sum(tensor.nbytes for tensor in graph.tensors())

    def runs(size: int) -> bool:
        limit = size + weights
        arena = {"arena_extend_strategy": "kSameAsRequested", "max_mem": limit}
        recipe = Recipe(session=PLAIN.session, arena=arena)
        session = Session(model, recipe=recipe, threads=1)
        try:
            session(INPUT)
            session(INPUT)
        except RunFailed:
            return False
        return True

    assert runs(found.grown)
    assert not runs(found.grown - 256)


def test_orders_differ_in_what_they_take() -> None:
    """If this fails, the test above shows little."""
    graph = branchy(3)
    found = {predicted(graph, some_order(graph, seed)) for seed in range(10)}
    assert len(found) > 3


def test_what_is_not_known_is_not_foreseen() -> None:
    x = Parameter(tensor(DType.F32, None), "x")
    assert predicted(Graph([x], [ops.Exp(x)])) is None


QUICK = ("RFB-320/", "cifar_base_kw", "tinybert")
SLOW = (
    *("RFB-320_simplified", "residual_block/", "loop/", "unbounded_dds"),
    *("GridSample_11", "SqueezeNet_fp16", "dummy_transformer_mlm", "lgbm", "magika"),
    *("image_classifier32", "models_mnist", "random_encoder", "residual_block_clean"),
    *("self-attention-mnist",),
)


@every_model(lambda path: any(name in str(path) for name in QUICK))
def test_real_models_are_foreseen_after_one_run(path: Path, tmp_path: Path) -> None:
    """As ONNX Runtime has optimized them, its blocked layouts and fusions included."""
    check_foreseen(path, tmp_path)


@pytest.mark.slow
@every_model(lambda path: any(name in str(path) for name in SLOW))
def test_more_models_are_foreseen_after_one_run(path: Path, tmp_path: Path) -> None:
    check_foreseen(path, tmp_path)


def check_foreseen(path: Path, tmp_path: Path) -> None:
    graph = load(path)
    sizes = next(iter(bindings(graph)))
    fed = random_inputs(graph, 0, sizes)
    executed = tmp_path / "model.onnx"
    Session(path, executed=executed, threads=1)
    found = measured(
        onnx.load(executed, load_external_data=False),
        fed,
        folder=tmp_path,
        recipe=PLAIN,
    )
    foreseen = found.foreseen()
    assert foreseen is not None
    real = realised_peak(executed, fed, recipe=PLAIN, growing=False)
    assert real.counted == foreseen.in_use
    assert real.peak == pytest.approx(foreseen.block, rel=0.02)


# --- what is found ------------------------------------------------------------------


def test_the_meter_finds_the_smallest_arena() -> None:
    model = to_proto(chain()).SerializeToString()
    found = realised_peak(model, WIDE, recipe=PLAIN)
    assert (found.peak, found.counted, found.resident) == (3 * MiB, 3 * MiB, 0)
    if sys.platform == "linux":
        assert found.growth is not None
        assert 0.9 * found.peak < found.growth < 2 * found.peak


def test_a_model_without_nodes_takes_nothing() -> None:
    graph = Graph([], [ops.Constant(np.ones(4096, np.float32))])
    model = to_proto(graph).SerializeToString()
    found = realised_peak(model, {}, recipe=PLAIN)
    assert (found.peak, found.counted, found.resident) == (0, 0, 0)


def test_the_meter_says_what_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(MeterFailed, match="not an ONNX model"):
        realised_peak(b"no model", WIDE)
    model = to_proto(chain()).SerializeToString()
    with pytest.raises(MeterFailed, match=r"'x'.* is missing"):
        realised_peak(model, {})
    with pytest.raises(MeterFailed, match=r"not measured after 0.01 s"):
        realised_peak(model, WIDE, limit_s=0.01)


def test_a_recipe_holds_a_session_to_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save(chain(), path)
    found = realised_peak(path, WIDE, recipe=PLAIN, threads=0, growing=False)
    bounded(PLAIN, found.peak, found.resident).save(path)
    session = graphopt.session(path)
    for _ in range(3):
        session(WIDE)
    bounded(PLAIN, found.peak - 256, found.resident).save(path)
    with pytest.raises(RunFailed):
        graphopt.session(path)(WIDE)
    with pytest.raises(UsageError, match="only sessions on the CPU"):
        bounded(Recipe("cuda"), found.peak, 0)


@pytest.mark.slow
def test_memory_is_never_more_than_in_the_order_of_the_runtime(tmp_path: Path) -> None:
    source, path = tmp_path / "model.onnx", tmp_path / "ordered.onnx"
    peaks = []
    for seed in range(2):
        save(branchy(seed), source)
        Session(source, executed=tmp_path / f"{seed}.onnx", threads=1)
        own = realised_peak(
            tmp_path / f"{seed}.onnx", INPUT, recipe=PLAIN, growing=False
        ).peak
        recipe = honoured(
            source,
            path,
            lambda graph, seed=seed: some_order(graph, seed),  # type: ignore[misc]
            recipe=Recipe(session={"enable_mem_pattern": False}),
            inputs=INPUT,
        )
        peaks.append(
            (own, realised_peak(path, INPUT, recipe=recipe, growing=False).peak)
        )
    assert all(mine <= own for own, mine in peaks)
    assert any(mine < own for own, mine in peaks)


def test_what_opening_takes_is_not_what_nodes_take(tmp_path: Path) -> None:
    """A weight is packed beside itself before any node runs."""
    weight = ops.Constant(np.eye(512, dtype=np.float32))
    x = Parameter(tensor(DType.F32, 2, 512), "x")
    y = ops.MatMul(ops.Tanh(ops.MatMul(x, weight)), weight)
    path = tmp_path / "m.onnx"
    save(Graph([x], [y]), path)
    inputs = {"x": np.ones((2, 512), np.float32)}
    (entries,) = books(str(path), inputs, recipe=Recipe(arena=UNLIMITED))
    assert entries[0].peak - entries[0].before >= MiB  # the books have it
    found = realised_peak(path, inputs, growing=False)
    assert found.peak == found.counted == 2 * 4 * 2 * 512


@pytest.mark.parametrize("causal", [0, 1])
def test_scores_of_a_composite_attention_are_planned(causal: int) -> None:
    """Else a plan says a fraction of what the kernel takes."""
    rng = np.random.default_rng(0)
    x = Parameter(tensor(DType.F32, 1, 256, 32), "x")
    weight = ops.Constant(rng.normal(size=(32, 96)).astype(np.float32))
    bias = ops.Constant(np.zeros(96, np.float32))
    attended = contrib.Attention(x, weight, bias, num_heads=4, unidirectional=causal)
    graph = Graph([x], [attended])
    plan = plan_memory(graph, space=SPACES["ort-cpu"])
    model = to_proto(graph).SerializeToString()
    real = realised_peak(model, random_inputs(graph, 0), recipe=PLAIN, growing=False)
    assert plan.peak + plan.beside == pytest.approx(real.peak, rel=0.1)
