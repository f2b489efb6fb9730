"""Programs for a mesh of devices, run by JAX on CPU devices of other processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sharded_programs import CASES, Case, R, S, normal, on
from xp_sides import PLAIN

from graphopt import Graph, UnsupportedModel, UsageError
from graphopt.index import Partial
from graphopt.ir import Parameter
from graphopt.ops import Add, Constant, MatMul, RandomNormalLike, Relu, Reshape
from graphopt.ops.mesh import AllReduce, Shard
from graphopt.passes.sharding import Mesh, Program
from graphopt.reference import run as reference
from graphopt.types import DType, tensor
from graphopt.weights import Tensor

jax = pytest.importorskip("jax")
pytestmark = pytest.mark.xla

from graphopt.lowering import find  # noqa: E402
from graphopt.lowering.xla.mesh_report import examine_on_mesh  # noqa: E402
from graphopt.lowering.xla.sharded import ShardedProgram  # noqa: E402
from graphopt.lowering.xla.shards import device_mesh, part_of, weights_of  # noqa: E402
from graphopt.lowering.xla.topology import devices, parse  # noqa: E402
from graphopt.lowering.xla.wire import predicted  # noqa: E402

TESTS = Path(__file__).parent
SCRIPT = TESTS / "sharded_programs.py"

ERROR = 1e-5
"""Of float32, relative to the largest element."""

LEAST_SENT = {"prod": 0.7}
"""Of what is foreseen: products are exchanged once for two results."""


def environment() -> dict[str, str]:
    """Of a process that shows as many devices as it needs."""
    flags = " ".join(f"--{name}={str(value).lower()}" for name, value in PLAIN.items())
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(TESTS.parent),
        "XLA_FLAGS": flags,
    }


def error(made: Any, truth: Any) -> float:
    """The largest, relative to the largest element."""
    assert made.dtype == truth.dtype
    assert made.shape == truth.shape
    wide = truth.astype(np.float64)
    largest = np.max(np.abs(wide), initial=0) or 1.0
    return float(np.max(np.abs(made - wide), initial=0) / largest)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """Outputs of all cases as ``case/output``, and what their programs say."""
    out = tmp_path_factory.mktemp("sharded") / "made"
    script = [sys.executable, str(SCRIPT), str(out), *CASES]
    subprocess.run(script, env=environment(), check=True, timeout=600)
    said = json.loads(Path(f"{out}.json").read_text())
    return np.load(f"{out}.npz"), said


@pytest.mark.parametrize("name", CASES)
def test_devices_compute_what_one_does(name: str, ran: Any) -> None:
    case: Case = CASES[name]()
    arrays, said = ran
    truth = reference(case.graph, case.inputs)
    assert said[name]["devices"] == case.program.mesh.devices == 8
    for output, array in truth.items():
        assert error(arrays[f"{name}/{output}"], array) <= ERROR


@pytest.mark.parametrize("name", CASES)
def test_xla_sends_what_the_program_says(name: str, ran: Any) -> None:
    said = ran[1][name]
    foreseen = predicted(CASES[name]().program)
    assert said["complete"]
    assert foreseen.complete
    assert foreseen.total > 0
    assert LEAST_SENT.get(name, 0.95) <= said["sent"] / foreseen.total <= 1


@pytest.mark.parametrize("name", ["fsdp", "grid", "megatron", "scanned"])
def test_a_device_is_given_its_parts_alone(name: str, ran: Any) -> None:
    said, case = ran[1][name], CASES[name]()
    whole = sum(t.nbytes for t in case.graph.tensors() if t.rank)
    inputs = sum(
        4 * int(np.prod(p.shape)) for p in case.program.graph.inputs if p.shape
    )
    assert said["argument"] == said["weights"] + inputs
    assert said["weights"] < whole
    assert said["copies"] == 1


@pytest.mark.slow
def test_many_processes_compute_what_one_does(ran: Any, tmp_path: Path) -> None:
    """By the launcher, over loopback: gloo adds in another order, always the same."""
    found: list[Any] = []
    for processes in (2, 4):
        out = tmp_path / f"made{processes}"
        code = (
            "import sys; from graphopt.cli.launch import launch;"
            f"sys.exit(launch([sys.executable, *sys.argv[1:]], {processes}))"
        )
        words = [sys.executable, "-c", code, str(SCRIPT), str(out), *CASES]
        subprocess.run(words, env=environment(), check=True, timeout=600)
        said = json.loads(Path(f"{out}.json").read_text())
        made = np.load(f"{out}.npz")
        found.append(made)
        for name in CASES:
            assert said[name]["processes"] == processes
            assert said[name]["sent"] == ran[1][name]["sent"]
        for key, array in ran[0].items():
            assert error(made[key], array) <= 1e-6, key
    two, four = found
    assert all(np.array_equal(two[key], four[key]) for key in two)


@pytest.mark.slow
def test_processes_that_do_not_agree(tmp_path: Path) -> None:
    """Each has another program: they would wait for each other."""
    code = """
import os, sys
from graphopt.lowering.xla.environment import show_devices
show_devices(8)
import jax
from sharded_programs import CASES
from graphopt.lowering.xla.distributed import join
from graphopt.lowering.xla.sharded import ShardedProgram
join()
case = CASES[("megatron", "sequence")[jax.process_index()]]()
ShardedProgram(case.program, "xla-cpu", jax.devices())(case.inputs)
"""
    start = "import sys; from graphopt.cli.launch import launch;"
    start += "sys.exit(launch([sys.executable, *sys.argv[1:]], 2))"
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    done = subprocess.run(
        [sys.executable, "-c", start, "-c", code],
        env=environment() | {"PYTHONPATH": path},
        timeout=300,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 1
    for rank in (0, 1):
        said = f"[{rank}] graphopt.errors.UsageError: process 1 has another program"
        assert said in done.stderr


@pytest.mark.slow
def test_processes_meet_as_slurm_starts_them(ran: Any, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    slurm = {
        "GRAPHOPT_COORDINATOR": "auto",
        "GRAPHOPT_PROCESSES": "2",
        "JAX_COORDINATOR_PORT": str(port),
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": "2",
    }
    words = [sys.executable, str(SCRIPT), str(tmp_path / "made"), "grid"]
    started = []
    try:
        for rank in ("0", "1"):
            own = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}
            env = environment() | slurm | own
            started.append(subprocess.Popen(words, env=env))
        assert [process.wait(300) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
            process.wait()
    made = np.load(tmp_path / "made.npz")["grid/y"]
    assert error(made, ran[0]["grid/y"]) <= 1e-6
    said = json.loads((tmp_path / "made.json").read_text())
    assert said["grid"]["processes"] == 2


# --- one device, in this process ----------------------------------------------------

ALONE = Mesh.parse("x=1")
X1 = on(ALONE, "x")


def alone(graph: Graph) -> ShardedProgram:
    """A program whose inputs and outputs every device has."""
    given, left = (((R,),) * len(v) for v in (graph.inputs, graph.outputs))
    program = Program(ALONE, graph, given, left)
    return ShardedProgram(program, "xla-cpu", jax.devices()[:1])


def test_what_stays_on_the_mesh_is_an_input_again() -> None:
    state = Parameter(tensor(DType.F32, 4), "state")
    program = alone(Graph([state], [Add(state, state)], output_names=["next"]))
    array: Any = np.ones(4, np.float32)
    for _ in range(3):
        array = program.on_mesh({"state": array})["next"]
        assert isinstance(array, jax.Array)
    assert np.asarray(array).tolist() == [8.0] * 4
    assert program.used()["programs"] == 1


def test_inputs_that_decide_shapes_are_known() -> None:
    x = Parameter(tensor(DType.F32, 6), "x")
    shape = Parameter(tensor(DType.I64, 2), "shape")
    program = alone(Graph([x, shape], [Reshape(x, shape)], output_names=["y"]))
    array = normal(6)
    for dims in ((2, 3), (3, 2)):
        made = program(x=array, shape=np.array(dims, np.int64))["y"]
        assert made.tolist() == array.reshape(dims).tolist()
    assert program.used()["programs"] == 2


def test_numbers_are_drawn_anew_in_each_run() -> None:
    x = Parameter(tensor(DType.F32, 64), "x")
    program = alone(Graph([x], [RandomNormalLike(x)], output_names=["y"]))
    first, second = (program(x=normal(64))["y"] for _ in range(2))
    assert np.isfinite(first).all()
    assert not np.array_equal(first, second)


def test_defaults_of_inputs_are_given() -> None:
    x = Parameter(tensor(DType.F32, 2), "x")
    by = Parameter(
        tensor(DType.F32, 2), "by", default=Tensor.of(np.array([1, 2], np.float32))
    )
    program = alone(Graph([x, by], [Add(x, by)], output_names=["y"]))
    zeros = np.zeros(2, np.float32)
    assert program(x=zeros)["y"].tolist() == [1, 2]
    assert program(x=zeros, by=np.array([3, 4], np.float32))["y"].tolist() == [3, 4]


def test_what_is_known_is_not_computed_on_the_host() -> None:
    """Devices differ in their part of a small constant that no weight is."""
    x = Parameter(tensor(DType.I64, 2), "x")
    mine = Shard(Constant(np.array([5, 7], np.int64)), dim=0, **X1)
    program = alone(Graph([x], [Add(x, mine)], output_names=["y"]))
    assert program(x=np.array([1, 1], np.int64))["y"].tolist() == [6, 8]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "'x'"),
        ({"x": np.zeros((3, 32), np.float32)}, r"\[3, 32\]"),
        ({"x": np.zeros((4, 32), np.float64)}, "f64"),
    ],
)
def test_inputs_that_do_not_fit(given: dict[str, Any], said: str) -> None:
    x = Parameter(tensor(DType.F32, 4, 32), "x")
    with pytest.raises(UsageError, match=said):
        alone(Graph([x], [Relu(x)]))(given)


def test_too_few_devices() -> None:
    with pytest.raises(UsageError, match=r"model=8.*device_count=8"):
        device_mesh(Mesh.parse("model=8"), jax.devices("cpu")[:1])


def test_a_process_without_a_device() -> None:
    class Device:
        platform = "cpu"

        def __init__(self, process: int) -> None:
            self.process_index = process

    x = Parameter(tensor(DType.F32, 4), "x")
    program = Program(ALONE, Graph([x], [Relu(x)]), ((R,),), ((R,),))
    with pytest.raises(UsageError, match="process 1 without a device"):
        ShardedProgram(program, "xla-cpu", [Device(0), Device(1)])


def test_what_is_left_partial_is_no_output() -> None:
    x = Parameter(tensor(DType.F32, 4), "x")
    graph = Graph([x], [Relu(x)], output_names=["y"])
    program = Program(ALONE, graph, ((R,),), ((Partial(),),))
    with pytest.raises(UnsupportedModel, match=r"'y' is left partial, \[P\(sum\)\]"):
        ShardedProgram(program, "xla-cpu", jax.devices()[:1])


def test_what_decides_shapes_is_not_split() -> None:
    x = Parameter(tensor(DType.F32, 6), "x")
    shape = Parameter(tensor(DType.I64, 2), "shape")
    graph = Graph([x, shape], [Reshape(x, shape)], output_names=["y"])
    program = Program(ALONE, graph, ((R,), (S(0),)), ((R,),))
    with pytest.raises(UnsupportedModel, match="'shape' decides shapes"):
        ShardedProgram(program, "xla-cpu", jax.devices()[:1])


# --- weights ------------------------------------------------------------------------


def test_weights_are_named_and_split_once() -> None:
    mesh = Mesh.parse("data=2,model=4")
    data, model = on(mesh, "data"), on(mesh, "model")
    w = Constant(normal(8, 8))
    part = Shard(Shard(w, dim=0, **data), dim=0, **model)
    x = Parameter(tensor(DType.F32, 2, 1), "x")
    y = Parameter(tensor(DType.F32, 2, 8), "y")
    outputs = [MatMul(x, part), MatMul(x, Relu(part)), MatMul(y, w)]
    found = weights_of(Graph([x, y], outputs, names={w: "w"}))
    assert {n: str(weight.spec) for n, weight in found.items()} == {
        "w": str(jax.sharding.PartitionSpec(("data", "model"))),
        "w_1": str(jax.sharding.PartitionSpec()),
    }
    assert found["w"].value is part


@pytest.mark.parametrize(
    "dtype", [DType.F32, DType.BOOL, DType.I4, DType.U2, DType.F64]
)
@pytest.mark.parametrize("offset", [0, 3, 64])
@pytest.mark.parametrize("shape", [(64, 6), (50, 3, 5), (7,)])
def test_parts_of_weights_in_files(
    dtype: DType, offset: int, shape: tuple[int, ...], tmp_path: Path, monkeypatch: Any
) -> None:
    """Also where elements share bytes, or lie at odd places; a few rows at a time."""
    from onnx import TensorProto
    from onnx.external_data_helper import set_external_data

    monkeypatch.setattr("graphopt.lowering.xla.shards._ROWS_BYTES", 64)
    whole = np.random.default_rng(0).integers(0, 2, shape).astype(dtype.numpy)
    inline = Tensor.of(whole)
    (tmp_path / "data").write_bytes(b"\0" * offset + inline.packed_bytes())
    proto = TensorProto(data_type=dtype.value, dims=shape, raw_data=b"-", name="w")
    set_external_data(proto, "data", offset, inline.nbytes)
    proto.ClearField("raw_data")
    tensor_ = Tensor.from_proto(proto, folder=tmp_path)
    assert tensor_.location is not None
    half = shape[0] // 2
    for rows in (slice(None), slice(0, half), slice(half, None), slice(half - 1, half)):
        for last in (slice(None), slice(1, 3)):
            index = (rows, *[slice(None)] * (len(shape) - 2), last)[: len(shape)]
            made = part_of(tensor_, index)
            assert made.dtype == whole.dtype
            assert np.array_equal(made, whole[index])


# --- TPUs that are not here ---------------------------------------------------------


@pytest.mark.tpu
@pytest.mark.skipif(find_spec("libtpu") is None, reason="no libtpu")
@pytest.mark.parametrize(("topology", "ways"), [("v5e:4x4", 16), ("v6e:4x8", 32)])
def test_programs_for_meshes_of_tpus(topology: str, ways: int) -> None:
    target = find(f"xla-tpu:{topology}")
    program = tokens(ways)
    made = examine_on_mesh(program, devices(parse(topology)), target.used())  # type: ignore[attr-defined]
    said = made.to_json()
    assert said["status"] == "compiled, not executed"
    assert said["devices"] == {"program": ways, "topology": ways}
    assert said["mesh"] == {"model": ways}
    assert said["weight_bytes"] == 2 * 4 * 4096 * 4096 // ways
    assert said["memory"]["argument_bytes"] >= said["weight_bytes"]
    assert said["memory"]["hbm_bytes"] < said["memory"]["hbm_limit_bytes"]
    assert said["sent"]["complete"]
    assert set(said["sent"]["by_kind"]) <= {
        "all-reduce",
        "all-gather",
        "reduce-scatter",
    }
    assert 0.95 <= said["sent"]["ratio"] <= 1


def tokens(ways: int) -> Program:
    """Two wide layers, Megatron's way, without data."""
    mesh = Mesh.parse(f"model={ways}")
    model = on(mesh, "model")
    x = Parameter(tensor(DType.F32, 256, 4096), "x")
    up, down = (Constant(np.zeros((4096, 4096), np.float32) + i) for i in (1, 2))
    inner = Relu(MatMul(x, Shard(up, dim=1, **model)))
    part = MatMul(inner, Shard(down, dim=0, **model))
    total = AllReduce(part, combiner="sum", **model)
    return Program(mesh, Graph([x], [total]), ((R,),), ((R,),))
