"""Which kernels ONNX Runtime has: the tables, asked and against the runtime itself."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt import ops
from graphopt.cli import main
from graphopt.errors import UsageError
from graphopt.exporter import to_proto
from graphopt.ir import Graph, Op, Parameter
from graphopt.lowering.ort import kernels as module, refresh, registry
from graphopt.lowering.ort.kernels import (
    Kernels,
    from_data,
    max_opset,
    recorded,
    why_not,
)
from graphopt.lowering.ort.refresh import as_text
from graphopt.lowering.ort.session import Refused, RunFailed, Session
from graphopt.ops import contrib
from graphopt.types import DType, SequenceType, TensorType

CPU, CUDA = (from_data(provider, recorded(provider)) for provider in ("cpu", "cuda"))
F16, F32, I64 = (TensorType(d, (2, 3)) for d in (DType.F16, DType.F32, DType.I64))


def x(*dims: Any, dtype: DType | None = DType.F32) -> Parameter:
    return Parameter(TensorType(dtype, dims), f"x{next(_numbers)}")


_numbers = itertools.count()


# --- asking ------------------------------------------------------------------------


def test_a_kernel_that_is_there() -> None:
    assert CPU.takes("", "Add", 14, [F32, F32], [F32]) is None
    assert CUDA.takes("com.microsoft", "BiasGelu", 1, [F16, F16], [F16]) is None


def test_a_kernel_that_is_not() -> None:
    said = CPU.takes("com.microsoft", "GemmFastGelu", 1, [F32, F32])
    assert said is not None
    assert "has no kernel for com.microsoft.GemmFastGelu on the CPU" in said


def test_a_type_that_a_kernel_does_not_take() -> None:
    """ORT #32386: a fused Gelu in float16 that no CPU kernel ran."""
    said = CPU.takes("com.microsoft", "Gelu", 1, [F16], [F16])
    assert said is not None
    assert "takes float16 as X, only float" in said
    assert CUDA.takes("com.microsoft", "Gelu", 1, [F16], [F16]) is None


def test_a_fused_convolution_in_half_precision() -> None:
    """ORT #12045: FusedConv in float16 failed on CUDA."""
    said = CUDA.takes("com.microsoft", "FusedConv", 1, [F16, F16], [F16])
    assert said is not None
    assert "on CUDA that takes float16 as X, only float" in said


def test_the_operand_that_is_wrong_is_named() -> None:
    said = CPU.takes("", "Gather", 13, [F32, F32], [F32])
    assert said is not None
    assert "takes float as indices, only int32, int64" in said


def test_types_that_go_together() -> None:
    """The mask of Attention in float32 needs queries in float32."""
    whole = [F32, F32, F32, F32]
    assert CPU.takes("", "Attention", 23, whole, [F32]) is None
    assert CPU.takes("", "Attention", 23, [*whole[:3], F16], [F32]) is not None


def test_a_constraint_may_be_that_of_one_operand() -> None:
    """The kernel of Reshape says what ``shape`` may be, not its type variable."""
    assert CPU.takes("", "Reshape", 14, [F32, I64], [F32]) is None
    assert CPU.takes("", "Reshape", 14, [F32, F32], [F32]) is not None


def test_sequences_and_absent_operands() -> None:
    some = SequenceType(F32)
    assert CPU.takes("", "SequenceAt", 11, [some, I64], [F32]) is None
    assert CPU.takes("", "Clip", 13, [F32, None, F32], [F32]) is None


def test_a_type_that_is_not_known_is_no_yes() -> None:
    said = CPU.takes("", "Add", 14, [F32, TensorType(None, None)], [F32])
    assert said == "the element type of B is not known"


def test_an_open_kernel_is_for_its_own_opset() -> None:
    """What ONNX changed later is another op: KernelRegistry::VerifyVersion."""
    kernel = module.Kernel(7, None, {})
    assert kernel.is_for(7)
    assert not kernel.is_for(9)
    closed = module.Kernel(7, 12, {})
    assert [closed.is_for(v) for v in (6, 7, 12, 13)] == [False, True, True, False]


def test_opsets_that_a_provider_lacks() -> None:
    rows = {("", "Add"): (module.Kernel(7, 12, {}),)}
    few = Kernels("cpu", "9.9", "here", 20, rows, {})
    said = few.takes("", "Add", 14, [F32, F32])
    assert said is not None
    assert "for opsets 7-12, not as opset 14 defines it" in said
    said = few.takes("", "Add", 21, [F32, F32])
    assert said == "ONNX Runtime 9.9 takes opsets up to 20, not 21"


@pytest.mark.parametrize(
    "name", ["cpu", "ort-cpu", "cuda", "ort-cuda", "ort-cuda:h200"]
)
def test_providers_by_name(name: str) -> None:
    assert Kernels.of(name).provider in name


def test_an_unknown_provider() -> None:
    with pytest.raises(UsageError, match=r"'tpu'.*did you mean 'cpu'"):
        Kernels.of("tpu")


# --- of an op ----------------------------------------------------------------------


def test_a_standard_op_is_asked_for_as_it_is_written() -> None:
    assert CPU.why_not(ops.Relu(x(2)), opset=13) is None
    assert CPU.why_not(ops.Relu(x(2, dtype=DType.BF16)), opset=13) is not None


def test_the_lowest_opset_that_says_an_op_counts() -> None:
    """Gelu is in ONNX from opset 20 on."""
    assert CPU.why_not(ops.Gelu(x(2)), opset=13) is None
    old = Kernels("cpu", "9.9", "here", 19, CPU.rows, CPU.forms)
    said = old.why_not(ops.Gelu(x(2)), opset=13)
    assert said == "ONNX Runtime 9.9 takes opsets up to 19, not 20"


def test_results_that_nobody_reads_do_not_count() -> None:
    op = ops.MaxPool(x(1, 2, 4), kernel_shape=(2,), outs=2)
    assert CPU.why_not(op, used=(True, False)) is None


def test_the_op_of_the_runtimes_own_dialect() -> None:
    op = contrib.SimplifiedLayerNormalization(x(2, 3), x(3), axis=-1)
    assert CPU.why_not(op) is None
    assert CPU.why_not(op.with_operands((x(2, 3, dtype=DType.F16), x(3)))) is not None


def limited() -> Iterator[tuple[Op, str]]:
    def skip(*dims: Any, gamma: Any = (4,), other: Any = None) -> Op:
        return contrib.SkipLayerNormalization(x(*dims), x(*(other or dims)), x(*gamma))

    def attend(q: Any, k: Any, mask: Any) -> Op:
        return ops.Attention(x(*q), x(*k), x(*k), x(*mask))

    def activated(name: str, rank: int) -> Op:
        image = x(1, 2, *[5] * (rank - 2)), x(3, 2, *[3] * (rank - 2))
        return contrib.FusedConv(*image, activation=name)

    four, cache = (1, 2, 3, 4), (1, 2, 5, 4)
    yield skip(2, 3, 4), ""
    yield skip(3, 4), ""
    yield skip(2, 3, 4, other=(3, 4)), ""
    yield skip(2, 2, 3, 4), "rank 4, not 2 or 3"
    yield skip(2, 3, 4, gamma=(1, 4)), "rank 2, not 1"
    yield skip(3, 4, other=(1, 4)), "not known to be equal"
    yield contrib.BiasGelu(x(2, 3, 4), x(4)), ""
    yield contrib.BiasGelu(x(2, 3, 4), x(3, 4)), "rank 2, not 1"
    yield contrib.BiasGelu(x(2, 3, 4), x(1)), "as long as its rows"
    yield attend(four, cache, (3, 5)), ""
    yield attend(four, cache, (1, 1, 3, 5)), ""
    yield attend(four, cache, (1, 5)), "a row for each query"
    yield attend(four, cache, (3, 1)), "a column for each key"
    yield attend(four, cache, (5,)), "rank 1, not 2 or 3 or 4"
    yield activated("Relu", 4), ""
    yield activated("HardSwish", 3), ""
    yield activated("Elu", 4), "has no activation 'Elu'"
    gemm = x(2, 3), x(3, 4)
    yield contrib.FusedGemm(*gemm, activation="Softplus"), ""
    yield contrib.FusedGemm(*gemm, activation="Clip"), "no activation 'Clip'"
    product = x(2, 3, 4), x(2, 4, 5)
    yield contrib.FusedMatMul(*product, transBatchA=0), ""
    one, two = x(3, 2, 4), x(4, 5)
    yield contrib.FusedMatMul(one, two, transBatchA=1), "operands of one rank"
    query = x(1, 3, 8)
    yield contrib.MultiHeadAttention(query, query, query, num_heads=2), ""
    biased = contrib.MultiHeadAttention(query, query, query, x(1, 24), num_heads=2)
    yield biased, "rank 2, not 1"
    packed = contrib.MultiHeadAttention(x(1, 3, 2, 3, 4), num_heads=2)
    yield packed, "no packed keys"


LIMITED = pytest.mark.parametrize(
    ("op", "said"), [pytest.param(op, s, id=op.kind) for op, s in limited()]
)


@LIMITED
def test_limits(op: Op, said: str) -> None:
    found = CPU.why_not(op)
    assert found is None if not said else found is not None and said in found


@pytest.mark.runtime
@LIMITED
def test_limits_are_those_of_the_runtime(op: Op, said: str) -> None:
    pytest.importorskip("onnxruntime")
    assert runs(op) == (not said)


def test_other_activations_on_cuda() -> None:
    op = contrib.FusedConv(x(1, 2, 5, 5), x(3, 2, 3, 3), activation="Tanh")
    said = CUDA.why_not(op)
    assert said is not None
    assert "only Relu" in said


# --- against the runtime -----------------------------------------------------------


def runs(op: Op) -> bool:
    """Whether ONNX Runtime runs an op as it is, on ones."""
    operands = dict.fromkeys(v for v in op.operands if isinstance(v, Parameter))
    model = to_proto(Graph(operands, op.results), opset=23)
    ones = {}
    for each in operands:
        assert isinstance(each.type, TensorType)
        assert each.type.dtype is not None
        assert each.type.shape is not None
        ones[each.name] = np.ones(each.type.shape, each.type.dtype.numpy)
    try:
        Session(model.SerializeToString(), optimized=False)(ones)
    except (Refused, RunFailed):
        return False
    return True


@pytest.mark.runtime
def test_the_recorded_table_is_what_the_runtime_says() -> None:
    runtime = pytest.importorskip("onnxruntime")
    data = recorded("cpu")
    if registry.installed() != ("onnxruntime", data["version"]):
        pytest.skip(f"the table is of {data['version']}, here is {runtime.__version__}")
    del data["read"]
    assert json.loads(as_text(registry.read("CPUExecutionProvider"))) == data


@pytest.mark.runtime
def test_tables_are_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")

    def read(provider: str) -> dict[str, Any]:
        if provider.startswith("CUDA"):
            raise LookupError("no CUDA here")
        return recorded("cpu") | {"version": "9.9"}

    monkeypatch.setattr(refresh, "DATA", tmp_path)
    monkeypatch.setattr(registry, "read", read)
    refresh.main([])
    assert "no CUDA here" in capsys.readouterr().out
    (written,) = tmp_path.iterdir()
    assert written.name == "cpu.json"
    made = from_data("cpu", json.loads(written.read_text()))
    assert (made.version, made.opset) == ("9.9", CPU.opset)
    with pytest.raises(LookupError):
        refresh.main(["cuda"])


@pytest.mark.runtime
def test_a_runtime_without_a_provider() -> None:
    runtime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in runtime.get_available_providers():
        pytest.skip("this one has CUDA")
    with pytest.raises(LookupError, match="no kernels for CUDAExecutionProvider"):
        registry.read("CUDAExecutionProvider")


@pytest.mark.runtime
@pytest.mark.parametrize("kind", ["Add", "Erf", "Gather", "Gelu", "TopK", "Trilu"])
@pytest.mark.parametrize("name", ["F32", "F64", "I8", "I64", "BOOL"])
def test_element_types_against_the_runtime(kind: str, name: str) -> None:
    """float16 is left out: the runtime widens it where it has no kernel."""
    pytest.importorskip("onnxruntime")
    dtype = DType[name]
    value, where = x(3, dtype=dtype), x(3, dtype=DType.I64)
    operands: Mapping[str, Any] = {
        "Add": (value, value),
        "Gather": (value, where),
        "TopK": (value, x(1, dtype=DType.I64)),
        "Trilu": (x(3, 3, dtype=dtype),),
    }
    cls = getattr(ops, kind)
    taken = operands.get(kind, (value,))
    op = cls(*taken, outs=2) if kind == "TopK" else cls(*taken)
    assert (CPU.why_not(op, opset=23) is None) == runs(op)


# --- which table -------------------------------------------------------------------


@pytest.mark.parametrize(
    "wheel",
    [None, ("onnxruntime", recorded("cpu")["version"]), ("onnxruntime-gpu", "1.0")],
)
def test_the_runtime_is_not_asked_in_vain(
    wheel: tuple[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "installed", lambda: wheel)
    monkeypatch.setattr(registry, "read", lambda provider: pytest.fail("asked"))
    assert module._here.__wrapped__("cpu").version == recorded("cpu")["version"]


def test_another_version_speaks_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    data = recorded("cpu") | {"version": "1.0", "opset": 9}
    monkeypatch.setattr(registry, "installed", lambda: ("onnxruntime", "1.0"))
    monkeypatch.setattr(registry, "read", lambda provider: data)
    found = module._here.__wrapped__("cpu")
    assert (found.version, found.opset) == ("1.0", 9)


def test_tables_say_where_they_are_from() -> None:
    for kernels in (CPU, CUDA):
        assert kernels.version in kernels.source
        assert kernels.opset >= 26


def test_shortcuts() -> None:
    assert why_not(ops.Relu(x(2)), "cuda") is None
    assert max_opset("cuda") == Kernels.of("cuda").opset


def test_rows_that_differ_in_one_variable_are_one() -> None:
    def row(t: str, u: str) -> registry.Row:
        return (1, 5), {"T": frozenset(t.split()), "U": frozenset(u.split())}

    rows = [row("a", "x"), row("b", "x"), row("a", "y"), row("b", "y"), row("c", "z")]
    assert registry.merged(rows) == [row("a b", "x y"), row("c", "z")]
    assert registry.merged([row("a", "x"), row("b", "y")]) == [
        row("a", "x"),
        row("b", "y"),
    ]


@pytest.mark.parametrize(
    ("long", "short"),
    [
        ("tensor(float)", "float"),
        ("seq(tensor(int64))", "seq(int64)"),
        ("sparse_tensor(float)", "sparse_tensor(float)"),
        ("optional(seq(tensor(bool)))", "optional(seq(bool))"),
    ],
)
def test_short_names_of_types(long: str, short: str) -> None:
    assert registry.shortened(long) == short


# --- the command -------------------------------------------------------------------


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "--provider", "cuda", "FusedConv"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head == f"{CUDA.source}: opsets up to {CUDA.opset}"
    assert row.split() == ["com.microsoft.FusedConv", "1+", "T:", "float"]


def test_the_command_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "--json", "com.microsoft.Gelu", "Add"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {(r["domain"], r["kind"]) for r in said["kernels"]} == {
        ("", "Add"),
        ("com.microsoft", "Gelu"),
    }
    assert said["provider"] == "cpu"


def test_a_kind_without_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "FusedConf"]) == 2
    assert "did you mean 'FusedConv'" in capsys.readouterr().err
