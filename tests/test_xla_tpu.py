"""Programs for TPUs that are not here: compiled by their compiler, never run."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import BackendMissing, Graph, UnsupportedModel, UsageError
from graphopt.cli import progress
from graphopt.dims import symbol
from graphopt.inputs import random_inputs
from graphopt.ir import Parameter
from graphopt.lowering import Compiler, find
from graphopt.lowering.xla import environment
from graphopt.ops import Constant, MatMul
from graphopt.types import DType, tensor
from graphopt.weights import Tensor

jax = pytest.importorskip("jax")
pytestmark = pytest.mark.xla

from graphopt.lowering.xla import ahead, topology  # noqa: E402
from graphopt.lowering.xla.function import Function  # noqa: E402
from graphopt.lowering.xla.report import collectives  # noqa: E402
from graphopt.lowering.xla.shortage import DoesNotFit, amount, refused  # noqa: E402
from graphopt.lowering.xla.topology import Topology, parse  # noqa: E402

ROOT = Path(__file__).parents[1]
GIB = 1 << 30


def on_tpu(test: Any) -> Any:
    """A test that compiles for TPUs."""
    missing = find_spec("libtpu") is None
    return pytest.mark.tpu(pytest.mark.skipif(missing, reason="no libtpu")(test))


def compiler(name: str, precision: str | None = None) -> Compiler:
    found = find(name, precision)
    assert isinstance(found, Compiler)
    return found


def linear(rows: int = 256) -> Graph:
    """x w with the batch symbolic, and so many rows of w."""
    x = Parameter(tensor(DType.F32, symbol("n"), rows), "x")
    w = Constant(np.ones((rows, 128), np.float32))
    return Graph([x], [MatMul(x, w)], output_names=["y"])


def model(text: str) -> Graph:
    head = '<ir_version: 10, opset_import: ["": 21]>\n'
    return graphopt.load(onnx.parser.parse_model(head + text))


# --- names ----------------------------------------------------------------------------


def test_topologies_by_name() -> None:
    assert parse("v5e:2x4") == Topology("v5e", (2, 4))
    assert parse("v5e:2x4").chips == 8
    assert str(parse("v5e")) == "v5e:1x1"
    assert str(parse("tpu7x")) == "tpu7x:1x1x1"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v6", "did you mean 'v6e'"),
        ("ironwood", "known: tpu7x, v4, v5e, v5p, v6e"),
        ("v5e:4", "v5e has no topology 4; near it are v5e:2x2"),
        ("v5e:", "write v5e:2x2"),
        ("v5e:0x2", "write v5e:2x2"),
        ("v4:2x2", "v4:2x2x1"),
        ("v6e:32x32", "v6e:16x16"),
    ],
)
def test_unknown_topologies_name_what_is_near(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse(name)
    with pytest.raises(UsageError, match=said):
        find(f"xla-tpu:{name}")


@on_tpu
def test_grids_that_libtpu_does_not_know_name_what_is_near() -> None:
    with pytest.raises(
        UsageError, match="v5e has no topology 3x3; near it are v5e:2x4"
    ):
        find("xla-tpu:v5e:3x3")


def test_only_tpus_have_topologies() -> None:
    with pytest.raises(UsageError, match="no devices to choose from"):
        find("xla-cpu:v5e")


# --- what is missing, and what is set before JAX is loaded ----------------------------


def test_libtpu_is_asked_for(monkeypatch: pytest.MonkeyPatch, command: Any) -> None:
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(topology, "find_spec", lambda name: None)
    topology.devices.cache_clear()
    model = ROOT / "examples" / "models" / "digits.onnx"
    code, _, said = command("inspect", model, "--target", "xla-tpu:v5e")
    assert code == 5
    assert "pip install 'graphopt[tpu]'" in said


def test_a_target_without_a_topology_needs_a_tpu() -> None:
    if any(device.platform == "tpu" for device in jax.devices()):
        pytest.skip("there is one")
    with pytest.raises(BackendMissing, match="name a topology to compile for"):
        compiler("xla-tpu").examine(linear())


def fresh(code: str, **variables: str) -> str:
    """What a process prints that has nothing set; it must say nothing else."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX", "TPU"))}
    made = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not made.stderr
    return made.stdout


@on_tpu
def test_libtpu_says_nothing_about_the_tpu_that_is_not_there() -> None:
    fresh("from graphopt.lowering import find; find('xla-cpu').device")
    fresh("import jax; from graphopt.lowering import find; find('xla-tpu:v5e').device")


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def after(target: str, alone: bool, tpu: bool) -> dict[str, str]:
        monkeypatch.setattr(os, "environ", {"TPU_WORKER_ID": "3"})
        monkeypatch.setattr(environment, "_has_tpu", lambda: tpu)
        environment.prepare(target, alone=alone)
        return dict(os.environ)

    for target in ("xla-cpu", "xla-tpu:v5e"):
        assert after(target, alone=True, tpu=False)["JAX_PLATFORMS"] == "cpu"
        assert "JAX_PLATFORMS" not in after(target, alone=False, tpu=False)
        assert after(target, alone=False, tpu=False)["TPU_WORKER_ID"] == "3"
        assert "TPU_SKIP_MDS_QUERY" in after(target, alone=False, tpu=False)
    assert after("xla-tpu", alone=True, tpu=True) == {"TPU_WORKER_ID": "3"}
    assert "TPU_SKIP_MDS_QUERY" not in after("xla-tpu:v5e", alone=False, tpu=True)


# --- what the compiler says -----------------------------------------------------------


@on_tpu
@pytest.mark.parametrize(
    ("name", "devices", "least", "most"),
    [
        ("v4:2x2x1", 4, 30, 32),
        ("v5e", 1, 15, 16),
        ("v5p", 1, 94, 96),
        ("v6e:2x2", 4, 30, 32),
        ("tpu7x:2x2x1", 8, 94, 96),
    ],
)
def test_every_generation_compiles(
    name: str, devices: int, least: int, most: int
) -> None:
    found = compiler(f"xla-tpu:{name}").examine(linear(), sizes={"n": 64}).to_json()
    memory = found["memory"]
    assert found["devices"] == {"program": 1, "topology": devices}
    assert found["chips"]["topology"] == parse(name).chips
    assert least * GIB <= memory["hbm_limit_bytes"] <= most * GIB
    assert memory["argument_bytes"] == 4 * (64 * 256 + 256 * 128)
    assert memory["output_bytes"] == 4 * 64 * 128
    parts = ("argument", "output", "temp", "code")
    total = sum(memory[f"{part}_bytes"] for part in parts) - memory["alias_bytes"]
    assert memory["hbm_bytes"] == total
    assert found["flops"] >= 2 * 64 * 256 * 128
    assert found["executed"] is False


@on_tpu
def test_inspect_says_that_nothing_was_run(digits: Path, command: Any) -> None:
    target = ("--target", "xla-tpu:v5e:2x2")
    code, said, _ = command("inspect", digits, *target)
    assert code == 0
    assert "compiled, not executed" in said
    assert "takes 1 chip of 4" in said
    assert "round operands to bfloat16" in said
    code, said, _ = command("inspect", digits, *target, "--json", "--dim", "batch=8")
    found = json.loads(said)
    assert found["status"] == "compiled, not executed"
    assert found["fits"] is True
    assert found["inputs"] == {"images": "f32[8, 8, 8]"}
    assert found["memory"]["vmem_bytes"] > 0
    assert found["collectives"] == {}
    assert found["libtpu"]
    weights = sum(t.nbytes for t in graphopt.load(digits).tensors() if t.rank > 1)
    assert found["memory"]["argument_bytes"] > weights


@on_tpu
def test_no_weight_is_read_and_no_array_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Tensor) -> Any:
        raise AssertionError("a weight was read")

    graph, target = linear(), compiler("xla-tpu:v5e")
    before = len(jax.live_arrays())
    monkeypatch.setattr(Tensor, "array", fail)
    target.examine(graph, sizes={"n": 64})
    assert len(jax.live_arrays()) == before


@on_tpu
def test_large_inputs_are_not_drawn() -> None:
    """Two GiB of them are described in no time."""
    found = compiler("xla-tpu:v5e").examine(linear(), sizes={"n": 1 << 21})
    assert found.memory.argument > 2 * GIB


@on_tpu
def test_inputs_that_steer_shapes_have_values() -> None:
    graph = model(
        "graph (float[6] x, int64[k] shape) => (float y) { y = Reshape(x, shape) }"
    )
    inputs = {"x": np.ones(6, np.float32), "shape": np.array([2, 3])}
    found = compiler("xla-tpu:v5e").examine(graph, inputs)
    assert list(found.inputs.values()) == ["f32[6]", "i64[2]"]
    with pytest.raises(UsageError, match="'x' has the shape"):
        compiler("xla-tpu:v5e").examine(graph, {**inputs, "x": np.ones(5, np.float32)})


def test_ops_keep_the_names_of_their_nodes(digits: Path) -> None:
    """In profiles, and in what a compiler says of them."""
    fn, params = graphopt.to_jax(digits)
    lowered = jax.jit(fn).lower(params, random_inputs(fn.graph))
    assert "/convolutions/convolutions.0/Conv" in lowered.as_text(debug_info=True)


@on_tpu
def test_integers_of_64_bits_compile() -> None:
    graph = model("graph (int64[1024] x) => (int64[1024] y) { y = Mul(x, x) }")
    found = compiler("xla-tpu:v5e").examine(graph)
    assert found.memory.argument == found.memory.output == 8 * 1024


def test_what_xla_lacks_is_said() -> None:
    graph = model("graph (string[2] x) => (string[2] y) { y = Identity(x) }")
    with pytest.raises(UnsupportedModel, match="no strings"):
        compiler("xla-cpu").examine(graph)


def test_precision_follows_the_chip() -> None:
    assert compiler("xla-cpu").examine(linear()).used["precision"] == "highest"
    with pytest.raises(UsageError, match="ort-cpu has one precision"):
        find("ort-cpu", "fp32")
    with pytest.raises(UsageError, match="no precision 'fp23'; did you mean 'fp32'"):
        find("xla-cpu", "fp23")


@on_tpu
def test_products_on_a_tpu_round_unless_asked(command: Any, digits: Path) -> None:
    device = topology.devices(parse("v5e"))[0]
    for precision, word in ((None, "DEFAULT"), ("fp32", "HIGHEST")):
        target: Any = compiler("xla-tpu:v5e", precision)
        function = Function(linear(), precision=target.precision)
        params = {n: ahead.spec((256, 128), DType.F32, n) for n in function.weights}
        x = ahead.spec((64, 256), DType.F32, "x")
        text = ahead.lower(function, params, {}, {"x": x}, device).as_text()
        assert f"precision = [{word}, {word}]" in text
    argv = ("inspect", digits, "--target", "xla-tpu:v5e", "--precision", "fp32")
    code, said, _ = command(*argv, "--json")
    assert code == 0
    assert json.loads(said)["precision"] == "highest"


# --- what does not fit ----------------------------------------------------------------


@on_tpu
def test_what_does_not_fit_is_named(digits: Path, command: Any) -> None:
    argv = ("inspect", digits, "--target", "xla-tpu:v5e", "--dim", "batch=1000000")
    code, _, said = command(*argv)
    assert code == 6
    assert "/attention/attention.1/MatMul_output_0 3.81 GiB" in said
    code, said, _ = command(*argv, "--json")
    found = json.loads(said)["error"]
    assert (code, found["code"], found["fits"]) == (6, 6, False)
    assert found["memory"]["hbm_bytes"] > found["memory"]["hbm_limit_bytes"] > 15 * GIB
    assert found["largest"][0]["bytes"] == 4096 * 1000000


@on_tpu
def test_an_op_that_takes_too_much_vmem_is_named(digits: Path) -> None:
    target: Any = compiler("xla-tpu:v5e")
    tight = dataclasses.replace(target, options={"xla_tpu_scoped_vmem_limit_kib": "64"})
    graph = graphopt.load(digits)
    with pytest.raises(DoesNotFit, match="bytes of VMEM") as raised:
        tight.examine(graph)
    assert raised.value.exit_code == 6
    assert raised.value.details["memory"]["vmem_limit_bytes"] == 64 << 10
    nodes = {name for names in graph.sources.values() for name in names}
    assert any(node in (raised.value.where or "") for node in nodes)


def test_amounts_of_memory() -> None:
    assert amount("512") == 512
    assert amount("64.0K") == 1 << 16
    assert amount("15.75G") == 63 << 28


def test_other_refusals_are_passed_on() -> None:
    error = refused("INVALID_ARGUMENT: no such\n thing", linear(), {})
    assert isinstance(error, UnsupportedModel)
    assert "no such thing" in error.message


# --- collectives ----------------------------------------------------------------------


@on_tpu
def test_collectives_are_counted() -> None:
    grid = np.array(topology.devices(parse("v5e:2x2")))
    mesh = jax.sharding.Mesh(grid, ("i",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("i"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    x = jax.ShapeDtypeStruct((64, 128), np.float32, sharding=spread)
    made = jax.jit(lambda x: x.sum(0), out_shardings=whole).lower(x).compile()
    assert collectives(made.as_text()) == {"all-reduce": 1}


def test_collectives_that_are_split_count_once() -> None:
    text = """
      %a = (f32[8]{0}, f32[32]{0}) all-gather-start(%x), dimensions={0}
      %b = f32[32]{0} all-gather-done(%a)
      %all-to-all.1 = f32[8]{0} all-to-all(%x), dimensions={0}
      ROOT %c = f32[8]{0} fusion(%all-to-all.1), calls=%all-reduce-scatter
    """
    assert collectives(text) == {"all-gather": 1, "all-to-all": 1}


# --- commands -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run", "bench", "check"])
def test_nothing_runs_on_a_topology(
    name: str, digits: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is said before anything is asked for that could not run it either."""
    monkeypatch.setattr(topology, "find_spec", lambda name: None)
    code, _, said = command(name, digits, "--target", "xla-tpu:v5e:2x2")
    assert code == 2
    assert "graphopt inspect MODEL --target xla-tpu:v5e:2x2" in said
    assert "graphopt optimize MODEL --target xla-tpu" in said


@on_tpu
def test_written_programs_do_not_run_on_a_topology_either() -> None:
    with pytest.raises(UsageError, match="compiled for it but not run"):
        find("xla-tpu:v5e").open("model.stablehlo")


def test_a_compilation_that_takes_long_says_so(
    digits: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ("inspect", digits, "--target", "xla-cpu")
    monkeypatch.setattr(progress, "PATIENCE", 600.0)
    assert "compiling" not in command(*argv)[2]
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    assert "compiling for xla-cpu" in command(*argv)[2]
    assert "compiling" not in command(*argv, "--quiet")[2]


def test_phases_are_timed_on_request(digits: Path, command: Any) -> None:
    argv = ("optimize", digits, "--target", "xla-cpu", "--dry-run")
    assert command(*argv)[2] == ""
    _, _, said = command(*argv, "-v")
    for phase in (
        "import",
        "passes",
        "tracing for cpu, cuda, tpu",
        "tracing the derivative",
        "comparing with the original",
        "compiling and running the program",
    ):
        assert re.search(rf"^{phase}: \d+\.\d+ s$", said, re.MULTILINE), phase
    assert "compiled by XLA" in said
    _, _, said = command("run", digits, "--target", "xla-cpu", "-v")
    assert "hoisting what follows from weights" in said


def test_inspect_reports_programs_of_the_cpu_too(digits: Path, command: Any) -> None:
    code, said, _ = command("inspect", digits, "--target", "xla-cpu", "--json")
    found = json.loads(said)
    assert code == 0
    assert found["executed"] is False
    assert found["memory"]["argument_bytes"] > 0
    assert "hbm_bytes" not in found["memory"]
    code, said, _ = command("inspect", digits, "--target", "xla-cpu")
    assert "bytes of temporaries" in said
    assert "HBM" not in said


def test_inspect_says_what_it_cannot(digits: Path, command: Any) -> None:
    code, _, said = command("inspect", digits, "--target", "reference")
    assert (code, "the targets of XLA do" in said) == (2, True)
    code, _, said = command("inspect", digits, "--precision", "fp32")
    assert (code, "name a --target" in said) == (2, True)


def test_some_random_inputs_are_those_of_all() -> None:
    graph = model("graph (float[2] x, int64[2] y) => (int64[2] z) { z = Add(y, y) }")
    every, some = random_inputs(graph), random_inputs(graph, only=["y"])
    assert list(some) == ["y"]
    np.testing.assert_array_equal(some["y"], every["y"])
