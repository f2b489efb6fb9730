"""Limits of memory for XLA: its compiler has the last word."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt import ops
from graphopt.errors import BackendMissing, InvalidModel
from graphopt.fitted import DoesNotFit, Limits
from graphopt.interface import Interface, read_interface
from graphopt.ir import Graph, Parameter, Value
from graphopt.limits import fitted_to, with_tiles
from graphopt.passes.memory import SPACES, plan_memory
from graphopt.passes.memory.sizes import Sizes
from graphopt.passes.memory.workspace import workspace
from graphopt.passes.tiling import Tile
from graphopt.pipeline import Pipeline
from graphopt.plan import Plan
from graphopt.types import DType, tensor

LENGTH, WIDTH = 512, 32
SCORES = 4 * LENGTH * LENGTH


def attention(length: int = LENGTH, width: int = WIDTH) -> Graph:
    """Spelled out: scores of length * length floats."""
    q, k, v = (Parameter(tensor(DType.F32, 1, length, width), name) for name in "qkv")
    scores = ops.MatMul(q, ops.Transpose(k, perm=(0, 2, 1)))
    return Graph([q, k, v], [ops.MatMul(ops.Softmax(scores), v)])


def depthwise(side: int = 64, channels: int = 32, stride: int = 1) -> Graph:
    """As in MobileNet: a product, a convolution of single channels, a product."""
    x = Parameter(tensor(DType.F32, 1, 8, side, side), "x")
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> Value:
        return ops.Constant(rng.standard_normal(shape, np.float32))

    h = ops.Relu(ops.Conv(x, weight(channels, 8, 1, 1)))
    h = ops.Conv(
        *(h, weight(channels, 1, 3, 3)),
        group=channels,
        pads=(1, 1, 1, 1),
        strides=(stride, stride),
    )
    return Graph([x], [ops.Conv(ops.Relu(h), weight(4, channels, 1, 1))])


# --- a compiler that is none --------------------------------------------------------


def fitted(graph: Graph, limit: int, counter: Any) -> Any:
    def remade(tile: Tile) -> Graph:
        return with_tiles(Pipeline((), rounds=1), tile, "xla-cpu").run(graph)[0]

    return fitted_to(
        Limits(activations=limit), graph, graph, "xla-cpu", remade, counter
    )


def test_tiles_become_finer_until_the_compiler_agrees() -> None:
    asked: list[int] = []

    def twice(graph: Graph, sizes: Mapping[str, int], plan: Plan) -> int:
        plan = plan_memory(graph, sizes, space=SPACES["xla-cpu"], reorder=True)
        asked.append(2 * plan.peak)
        return asked[-1]

    limit = SCORES // 2
    made = fitted(attention(), limit, twice)
    assert made.counted in asked
    assert made.activations == made.counted <= limit
    assert made.to_json()["compiled_bytes"] == made.counted
    assert made.to_json()["activation_bytes"] == made.counted
    assert any("the compiler counts" in line for line in made.lines())
    assert len(set(asked)) <= 4  # that of the whole, twice the limit, was not
    assert made.activations > limit // 2  # no finer than that
    assert [saving.what for saving in made.savings] == ["tiles"]


def test_what_the_compiler_takes_too_much_for_is_refused() -> None:
    def never(graph: Graph, sizes: Mapping[str, int], plan: Plan) -> int:
        return 7 * SCORES

    with pytest.raises(DoesNotFit, match=f"--max-activations {7 * SCORES} would do"):
        fitted(attention(), SCORES, never)


def test_a_plan_that_is_too_large_is_no_reason_for_tiles() -> None:
    made = fitted(attention(), SCORES * 3 // 2, lambda *_: 1000)
    assert made.tile is None
    assert made.savings == ()


def test_without_a_compiler_the_plan_holds_and_it_is_said() -> None:
    def missing(graph: Graph, sizes: Mapping[str, int], plan: Plan) -> int:
        raise BackendMissing("jax is not installed")

    made = fitted(attention(), SCORES // 2, missing)
    assert made.counted is None
    assert made.plan.peak <= SCORES // 2
    assert any("not asked: jax is not installed" in line for line in made.lines())


@pytest.mark.parametrize(
    ("joined", "library"), [(0.7, "joined"), (1, "joined"), (1.2, "single")]
)
def test_the_library_joins_ops_where_the_limit_is_kept_so(
    joined: float, library: str
) -> None:
    """What is said is of the program that runs."""
    parts = {"joined": joined, None: 0.8, "single": 0.8}

    def counter(graph: Graph, sizes: Mapping[str, int], plan: Plan) -> int:
        return int(SCORES * parts[plan.whole.get("library")])

    made = fitted(attention(), SCORES, counter)
    assert made.counted == int(SCORES * parts[library])
    assert made.library == library
    assert made.decided.whole == {"library": library}
    assert made.decided.order == made.plan.order


# --- what is planned ----------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
def test_a_padded_operand_lies_beside_operand_or_result(stride: int) -> None:
    graph = depthwise(stride=stride)
    conv = next(op for op in graph.ops if getattr(op, "group", 1) > 1)
    padded = 4 * 32 * 66 * 66
    least = min(4 * 32 * 64 * 64, 4 * 32 * (64 // stride) ** 2)
    found = workspace(conv, Sizes({}, SPACES["xla-cpu"]), ())
    assert found == padded - least
    assert workspace(conv, Sizes({}, SPACES["ort-cpu"]), ()) == 0


def test_convolutions_without_pads_or_of_many_channels_have_no_copy() -> None:
    x = Parameter(tensor(DType.F32, 1, 4, 8, 8), "x")
    single, dense = (
        ops.Constant(np.ones(shape, np.float32))
        for shape in ((4, 1, 3, 3), (4, 4, 3, 3))
    )
    sizes = Sizes({}, SPACES["xla-cpu"])
    bare, mixed = (
        ops.Conv(x, single, group=4),
        ops.Conv(x, dense, pads=(1, 1, 1, 1)),
    )
    assert [workspace(v.op, sizes, ()) for v in (bare, mixed) if v.op] == [0, 0]


# --- XLA ----------------------------------------------------------------------------


def counted(graph: Graph) -> int:
    pytest.importorskip("jax")
    from graphopt.lowering import temporaries

    return temporaries(graph, "xla-cpu", {})


def test_the_compiler_counts_scores_that_its_library_would_hide() -> None:
    graph = attention()
    plan = plan_memory(graph, space=SPACES["xla-cpu"])
    assert plan.peak >= 2 * SCORES  # what Softmax reads, and what it gives
    assert counted(graph) == pytest.approx(plan.peak, rel=0.1)


@pytest.mark.parametrize("stride", [1, 2])
def test_what_is_planned_for_convolutions_is_what_the_compiler_takes(
    stride: int,
) -> None:
    graph = depthwise(stride=stride)
    plan = plan_memory(graph, space=SPACES["xla-cpu"])
    assert counted(graph) == pytest.approx(plan.peak, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("graph", [attention(), depthwise()], ids=["scores", "padded"])
def test_a_limit_is_kept_by_the_program_that_is_written(
    graph: Graph, tmp_path: Path
) -> None:
    jax = pytest.importorskip("jax")
    from graphopt.lowering import find
    from graphopt.lowering.xla.exported import ExportedProgram

    limit = plan_memory(graph, space=SPACES["xla-cpu"], reorder=True).peak // 2
    result = graphopt.optimize(graph, target="xla-cpu", max_activations=limit)
    fitted = result.report.memory
    assert fitted is not None
    assert fitted.counted is not None
    assert fitted.counted <= limit
    written = result.save(tmp_path / "m.stablehlo")
    assert written.report.program is not None
    assert written.report.program["planned"] == fitted.library
    program = find("xla-cpu").open(tmp_path / "m.stablehlo")
    assert isinstance(program, ExportedProgram)
    specs = {
        p.name: jax.ShapeDtypeStruct(p.shape, np.float32) for p in result.graph.inputs
    }
    with jax.enable_x64(True):
        compiled = program._call.lower(program._weights, specs).compile()
    took = compiled.memory_analysis().temp_size_in_bytes
    assert took <= fitted.counted  # what lies within one op of the library is in both


@pytest.mark.slow
def test_what_would_do_does() -> None:
    pytest.importorskip("jax")
    with pytest.raises(DoesNotFit, match="the smallest program found") as caught:
        graphopt.optimize(attention(), target="xla-cpu", max_activations="2KiB")
    assert caught.value.exit_code == 6
    least = int(caught.value.message.split("--max-activations ")[1].split()[0])
    result = graphopt.optimize(attention(), target="xla-cpu", max_activations=least)
    assert result.report.memory is not None
    assert result.report.memory.activations <= least


def test_programs_say_that_their_memory_was_planned(tmp_path: Path) -> None:
    made = Interface("0", "0", ("cpu",), (), (), planned="joined")
    made.append_to(tmp_path / "m.stablehlo")
    assert read_interface(tmp_path / "m.stablehlo").planned == "joined"
    for before, now in ((True, "single"), (False, "")):  # as it was written once
        old = Interface("0", "0", ("cpu",), (), (), planned=before)  # type: ignore[arg-type]
        old.append_to(tmp_path / f"{before}.stablehlo")
        assert read_interface(tmp_path / f"{before}.stablehlo").planned == now
    wrong = Interface("0", "0", ("cpu",), (), (), planned="yes")
    wrong.append_to(tmp_path / "n.stablehlo")
    with pytest.raises(InvalidModel, match="planned 'yes'"):
        read_interface(tmp_path / "n.stablehlo")


def test_options_that_xla_does_not_have_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jax = pytest.importorskip("jax")
    from graphopt.lowering.xla import compiling

    device = jax.devices("cpu")[0]
    joined, single = (
        compiling.compiling(device, planned) for planned in ("joined", "single")
    )
    assert joined.items() <= single.items()
    assert compiling.compiling(device, "") == {}
    wrong = {"xla_cpu_of_another_time": "true", **compiling.SINGLE}
    monkeypatch.setattr(compiling, "SINGLE", wrong)
    assert compiling.compiling(device, "single") == single
