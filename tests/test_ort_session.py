"""Session recipes: chosen from graphs, written, read, and obeyed by ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Command

import graphopt
from graphopt import ops
from graphopt.dims import symbol
from graphopt.errors import BackendMissing, UsageError
from graphopt.exporter import save
from graphopt.ir import Graph, Parameter, Value
from graphopt.lowering import find
from graphopt.lowering.ort import session as module, target as target_module
from graphopt.lowering.ort.advice import recipe
from graphopt.lowering.ort.binding import Binding
from graphopt.lowering.ort.placement import Node, Placement, said_of
from graphopt.lowering.ort.recipe import Recipe, recipe_path
from graphopt.lowering.ort.session import CpuFallback
from graphopt.ops import contrib
from graphopt.types import DType, TensorType


def value(*dims: Any, dtype: DType = DType.F32, name: str = "x") -> Parameter:
    return Parameter(TensorType(dtype, dims), name)


def graph(*inputs: Parameter, make: Any = ops.Relu, **attrs: Any) -> Graph:
    made = make(*inputs, **attrs)
    outputs = [made] if isinstance(made, Value) else list(made)
    return Graph(inputs, outputs, output_names=[f"y{i}" for i in range(len(outputs))])


def conv(dtype: DType, *size: Any, work: int = 64) -> Graph:
    image = value(1, work, *size, dtype=dtype)
    filters = np.ones((work, work, *[3] * len(size)), dtype.numpy)
    return graph(image, make=lambda x: ops.Relu(ops.Conv(x, ops.Constant(filters))))


# --- what is chosen -----------------------------------------------------------------


def test_the_cpu_needs_nothing() -> None:
    found = recipe(graph(value(2)), "cpu")
    assert found.providers == [("CPUExecutionProvider", {})]
    assert not found.bound
    assert not found.fallbacks


def test_the_cpu_says_what_it_has_no_kernel_for() -> None:
    half = value(2, 3, dtype=DType.F16)
    found = recipe(graph(half, make=contrib.QuickGelu), "ort-cpu")
    ((op, said),) = found.fallbacks.items()
    assert op == "com.microsoft.QuickGelu"
    assert "takes float16 as X" in said


def test_a_planned_order_is_kept() -> None:
    found = recipe(graph(value(2)), "cpu", ordered=True)
    assert found.session == {
        "execution_order": "PRIORITY_BASED",
        "graph_optimization_level": "ORT_DISABLE_ALL",
        "enable_mem_pattern": False,
        "enable_mem_reuse": False,
    }
    blocked = recipe(conv(DType.F32, 8, 8), "cpu", ordered=True)
    assert blocked.session["execution_order"] == "DEFAULT"
    assert "graph_optimization_level" not in blocked.session
    ((why,),) = blocked.declined.values()
    assert "`ordered.honoured` keeps it" in why


def test_the_rounding_of_products_is_stated() -> None:
    assert recipe(graph(value(2)), "cuda").options["use_tf32"] == "1"
    asked = recipe(graph(value(2)), "cuda", precision="fp32")
    assert asked.options["use_tf32"] == "0"
    half = recipe(graph(value(2, dtype=DType.F16)), "cuda")
    assert "use_tf32" not in half.options


def test_fixed_shapes_need_no_doubling_arena() -> None:
    fixed = recipe(conv(DType.F32, 8, 8), "cuda")
    assert fixed.options["arena_extend_strategy"] == "kSameAsRequested"
    assert fixed.options["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    varying = recipe(conv(DType.F32, symbol("h"), 8), "cuda")
    assert varying.options["arena_extend_strategy"] == "kNextPowerOfTwo"
    assert varying.options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert "gpu_mem_limit" not in varying.options


def test_a_plan_limits_memory() -> None:
    graph = conv(DType.F32, symbol("h"), 8)
    found = recipe(graph, "cuda", memory=1 << 30)
    assert found.options["gpu_mem_limit"] == str(1 << 30)
    assert found.options["arena_extend_strategy"] == "kSameAsRequested"


def test_channels_last_for_convolutions_in_half_precision() -> None:
    found = recipe(conv(DType.F16, 8, 8), "cuda")
    assert found.options["prefer_nhwc"] == "1"
    assert "measure it" in found.reasons["prefer_nhwc"]


def test_no_channels_last_in_single_precision() -> None:
    found = recipe(conv(DType.F32, 8, 8), "cuda")
    assert "prefer_nhwc" not in found.options
    assert found.declined["prefer_nhwc"] == ("not all convolutions are in float16",)


def test_no_channels_last_where_convolutions_are_little() -> None:
    image = value(1, 4, 8, 8, dtype=DType.F16)
    filters = ops.Constant(np.ones((4, 4, 1, 1), np.float16))
    dense = ops.Constant(np.ones((256, 4096), np.float16))

    def make(x: Value) -> Value:
        return ops.MatMul(ops.Flatten(ops.Conv(x, filters), axis=1), dense)

    (why,) = recipe(graph(image, make=make), "cuda").declined["prefer_nhwc"]
    assert "of the work, less than half" in why


def test_convolutions_over_one_axis_are_padded() -> None:
    assert recipe(conv(DType.F32, 8), "cuda").options["cudnn_conv1d_pad_to_nc1d"] == "1"
    assert (
        "cudnn_conv1d_pad_to_nc1d" not in recipe(conv(DType.F32, 8, 8), "cuda").options
    )


def test_options_of_convolutions_need_convolutions() -> None:
    found = recipe(graph(value(2)), "cuda")
    assert not any(name.startswith("cudnn") for name in found.options)
    assert "prefer_nhwc" not in found.declined


def test_a_cuda_graph_where_nothing_is_against_it() -> None:
    found = recipe(graph(value(2, 3)), "cuda")
    assert found.options["enable_cuda_graph"] == "1"
    assert found.bound


def against() -> Iterator[tuple[str, Graph, str]]:
    yield "shape", graph(value(symbol("n"))), "the shape of input 'x' is not fixed"
    nonzero = graph(value(3), make=ops.NonZero)
    yield "data", nonzero, "the shape of what NonZero"
    strings = graph(value(3, dtype=DType.STRING), make=ops.StringSplit, outs=2)
    yield "kernel", strings, "has no kernel of CUDA"
    random = Graph([], [ops.RandomNormal(shape=(2,), dtype=1)])
    yield "random", random, "draws anew in each run"
    narrow = graph(value(2, dtype=DType.BF16))
    yield "narrow", narrow, "inputs or outputs of bf16 are not bound"
    branch = Graph([], [ops.Constant(np.ones(2, np.float32))])
    condition = value(dtype=DType.BOOL)
    flow = graph(condition, make=ops.If, bodies=(branch, branch))
    yield "flow", flow, "is control flow"


@pytest.mark.parametrize(
    ("made", "said"), [pytest.param(g, said, id=name) for name, g, said in against()]
)
def test_what_forbids_a_cuda_graph_is_named(made: Graph, said: str) -> None:
    found = recipe(made, "cuda")
    assert "enable_cuda_graph" not in found.options
    assert any(said in why for why in found.declined["enable_cuda_graph"])


def test_many_reasons_are_counted() -> None:
    inputs = [value(symbol("n"), name=f"x{i}") for i in range(9)]
    *some, last = recipe(graph(*inputs, make=ops.Max), "cuda").declined[
        "enable_cuda_graph"
    ]
    assert (len(some), last) == (5, "and 4 more like the last")


def test_each_choice_has_a_reason() -> None:
    for made in (conv(DType.F16, 8), conv(DType.F32, symbol("h"), 8)):
        found = recipe(made, "cuda", memory=1)
        assert found.options.keys() <= found.reasons.keys()
        text = "\n".join(found.lines())
        for name in (*found.options, *found.declined):
            assert name in text


# --- in a file ----------------------------------------------------------------------


def test_a_recipe_comes_back_from_its_file(tmp_path: Path) -> None:
    made = recipe(conv(DType.F32, symbol("h"), 8), "cuda", memory=5)
    path = made.save(tmp_path / "a.opt.onnx")
    assert path == tmp_path / "a.opt.session.json"
    assert Recipe.beside(tmp_path / "a.opt.onnx") == made
    assert json.loads(path.read_text())["schema"] == 1


def test_a_recipe_in_another_encoding(tmp_path: Path) -> None:
    recipe_path(tmp_path / "a.onnx").write_bytes(b'{"schema": "\xff"}')
    with pytest.raises(UsageError, match="no session recipe"):
        Recipe.beside(tmp_path / "a.onnx")


def test_no_recipe_beside(tmp_path: Path) -> None:
    assert Recipe.beside(tmp_path / "a.onnx") is None


GOOD = Recipe(session={"intra_op_num_threads": 1}).to_json()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no session recipe"),
        ("[]", "no session recipe"),
        ("[" * 100_000, "no session recipe"),
        ("{}", "no session recipe"),
        (json.dumps(GOOD | {"schema": 2}), "schema 2; this graphopt reads 1"),
        (json.dumps(GOOD | {"providers": []}), "no session recipe"),
        (
            json.dumps(GOOD | {"providers": [{"name": "CUDA"}]}),
            "unknown provider 'CUDA'; known: CPU",
        ),
        (
            json.dumps(GOOD | {"session": {"optimized_model_filepath": "/etc/x"}}),
            "a recipe cannot set 'optimized_model_filepath'",
        ),
        (
            json.dumps(GOOD | {"config": {"session.load_model_format": "ORT"}}),
            "a recipe cannot set",
        ),
    ],
)
def test_files_that_are_no_recipe(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        Recipe.from_json(text, "a.session.json")
    assert caught.value.where == "a.session.json"


# --- opened -------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "relu.onnx"
    save(graph(value(2)), path)
    return path


X = np.array([-1, 2], np.float32)


@pytest.mark.runtime
def test_a_model_without_a_recipe_is_opened_on_the_cpu(model: Path) -> None:
    pytest.importorskip("onnxruntime")
    opened = graphopt.session(model)
    assert opened(x=X)["y0"].tolist() == [0, 2]
    assert opened.used()["target"] == "ort-cpu"


@pytest.mark.runtime
def test_the_recipe_beside_a_model_is_obeyed(model: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    wanted = {
        "intra_op_num_threads": 1,
        "execution_mode": "ORT_PARALLEL",
        "graph_optimization_level": "ORT_DISABLE_ALL",
        "enable_mem_pattern": False,
    }
    config = {"session.set_denormal_as_zero": "1"}
    Recipe(session=wanted, config=config).save(model)
    opened = graphopt.session(model)
    assert opened(x=X)["y0"].tolist() == [0, 2]
    options = opened.session.get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.execution_mode == runtime.ExecutionMode.ORT_PARALLEL
    level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert options.graph_optimization_level == level
    assert options.enable_mem_pattern is False
    assert options.get_session_config_entry("session.set_denormal_as_zero") == "1"
    again = graphopt.session(model, threads=2)
    assert again.session.get_session_options().intra_op_num_threads == 2


@pytest.mark.runtime
def test_another_recipe_than_the_one_beside(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    recipe_path(model).write_text("broken")
    with pytest.raises(UsageError, match="no session recipe"):
        graphopt.session(model)
    other = Recipe(session={"intra_op_num_threads": 1}).save(tmp_path / "other")
    for given in (Recipe(), other):
        assert graphopt.session(model, recipe=given)(x=X)["y0"].tolist() == [0, 2]


@pytest.mark.runtime
@pytest.mark.parametrize(
    "wrong", [{"execution_mode": "FAST"}, {"intra_op_num_threads": "many"}]
)
def test_values_that_the_runtime_lacks(model: Path, wrong: dict[str, Any]) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(UsageError, match=f"is no {next(iter(wrong))}"):
        graphopt.session(model, recipe=Recipe(session=wrong))


@pytest.fixture
def no_cuda() -> None:
    runtime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in runtime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")


@pytest.mark.runtime
@pytest.mark.usefixtures("no_cuda")
def test_a_model_for_cuda_on_the_cpu_is_shouted(model: Path) -> None:
    recipe(graph(value(2)), "cuda").save(model)
    with pytest.warns(CpuFallback, match=r"all of the model .*no CUDA"):
        opened = graphopt.session(model)
    assert opened(x=X)["y0"].tolist() == [0, 2]
    used = opened.used()
    assert used["providers"] == ["CPUExecutionProvider"]
    assert used["placement"] == {"CPUExecutionProvider": 1}


@pytest.mark.runtime
@pytest.mark.usefixtures("no_cuda")
def test_a_model_for_cuda_on_the_cpu_is_an_error_under_strict(model: Path) -> None:
    recipe(graph(value(2)), "cuda").save(model)
    with pytest.raises(BackendMissing, match="graphopt doctor") as caught:
        graphopt.session(model, strict=True)
    assert caught.value.exit_code == 5


@pytest.mark.runtime
@pytest.mark.usefixtures("no_cuda")
def test_the_target_needs_cuda(model: Path) -> None:
    with pytest.raises(BackendMissing, match=r"has no CUDA; .*graphopt doctor"):
        find("ort-cuda").open(model)


def test_targets_of_onnx_runtime() -> None:
    assert find("ort-cuda").name == "ort-cuda"
    assert find("ort-cuda:1", "fp32").device == 1  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="takes the number of a GPU, not 'h200'"):
        find("ort-cuda:h200")
    with pytest.raises(UsageError, match="ort-cpu has no devices"):
        find("ort-cpu:1")


# --- who runs what ------------------------------------------------------------------


def parts(**nodes: list[tuple[str, str]]) -> SimpleNamespace:
    """A session that says which provider has which nodes, (name, kind)."""
    made = [
        SimpleNamespace(
            ep_name=f"{provider}ExecutionProvider",
            get_nodes=lambda found=found: [
                SimpleNamespace(name=name, op_type=kind, domain="")
                for name, kind in found
            ],
        )
        for provider, found in nodes.items()
    ]
    return SimpleNamespace(get_provider_graph_assignment_info=lambda: made)


def test_nodes_without_a_kernel_are_strays() -> None:
    session = parts(
        CUDA=[("a", "MatMul"), ("b", "Relu")],
        CPU=[("s", "Gather"), ("t", "StringNormalizer"), ("u", "StringNormalizer")],
    )
    placement = Placement.of(session)
    assert placement is not None
    assert placement.counts() == {"CUDAExecutionProvider": 2, "CPUExecutionProvider": 3}
    strays = placement.strays("cuda")
    assert [node.name for node in strays] == ["t", "u"]
    assert list(said_of(strays)) == ["2 StringNormalizer ('t', 'u')"]


@pytest.mark.runtime
@pytest.mark.filterwarnings("ignore:Duplicate provider")
def test_strays_are_shouted_and_refused_under_strict(
    model: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    pytest.importorskip("onnxruntime")
    nodes = (Node("t", "StringNormalizer", "", "CPUExecutionProvider"),)
    monkeypatch.setattr(module.Session, "placement", Placement(nodes))
    monkeypatch.setitem(module.PROVIDERS, "cuda", "CPUExecutionProvider")
    on_cuda = Recipe("cuda")
    said = "1 nodes run on the CPU, for CUDA has no kernel for them: 1 StringNormalizer"
    with pytest.warns(CpuFallback, match=said):
        graphopt.session(model, recipe=on_cuda)
    with pytest.raises(BackendMissing, match=said):
        graphopt.session(model, recipe=on_cuda, strict=True)
    on_cuda.save(model)
    monkeypatch.setattr(target_module, "why_no_cuda", lambda: None)
    words = ("run", model, "--target", "ort-cuda")
    code, _, err = command(*words, "--strict")
    assert (code, said in err) == (5, True)
    for target in ((), ("--target", "xla-cpu")):
        code, _, err = command("run", model, *target, "--strict")
        assert (code, "--strict is for" in err) == (2, True)


def test_kinds_that_are_expected_on_the_cpu_are_strays() -> None:
    """They have kernels, but not for these types."""
    placement = Placement.of(parts(CPU=[("a", "OneHot"), ("b", "Gather")]))
    assert placement is not None
    expected = Recipe("cuda", fallbacks={"OneHot node 'a'": "types"}).fallback_kinds
    assert [node.kind for node in placement.strays("cuda", expected)] == ["OneHot"]


@pytest.mark.runtime
def test_what_the_runtime_says_against_a_recipe_is_passed_on(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime would print it, and go on with the CPU."""
    pytest.importorskip("onnxruntime")
    opened, tried = module._opened, []

    def refuse(model: bytes | str, options: Any, providers: Any) -> Any:
        tried.append(providers)
        if len(tried) % 2:
            raise module.Refused('Unknown provider option: "use_tf33"')
        return opened(model, options, providers)

    monkeypatch.setattr(module, "_opened", refuse)
    monkeypatch.setattr(module, "why_no_cuda", lambda: None)
    wrong = Recipe("cuda", options={"use_tf33": "1"})
    with pytest.warns(CpuFallback, match='Unknown provider option: "use_tf33"'):
        assert graphopt.session(model, recipe=wrong)(x=X)["y0"].tolist() == [0, 2]
    with pytest.raises(BackendMissing, match="use_tf33"):
        graphopt.session(model, recipe=wrong, strict=True)


def test_older_runtimes_cannot_say() -> None:
    assert Placement.of(object()) is None


# --- bound buffers ------------------------------------------------------------------


@pytest.mark.runtime
def test_bound_buffers_are_filled_anew(model: Path) -> None:
    pytest.importorskip("onnxruntime")
    run = Binding(graphopt.session(model).session, "cpu")
    (first,) = run({"x": X})
    (second,) = run({"x": -X})
    assert (first.tolist(), second.tolist()) == ([0, 2], [1, 0])
    with pytest.raises(UsageError, match=r"'x' is bound as \(2,\)"):
        run({"x": X[:1]})


@pytest.mark.runtime
def test_what_cannot_be_bound(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    save(graph(value(symbol("n"))), tmp_path / "open.onnx")
    with pytest.raises(UsageError, match="'y0' has no fixed shape"):
        Binding(graphopt.session(tmp_path / "open.onnx").session, "cpu")
    text = value(2, dtype=DType.STRING)
    save(graph(text, make=ops.Identity), tmp_path / "text.onnx")
    with pytest.raises(UsageError, match=r"'y0' cannot be bound: tensor\(string\)"):
        Binding(graphopt.session(tmp_path / "text.onnx").session, "cpu")
