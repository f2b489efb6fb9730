"""What kernels take beside what XLA counts: by shapes, and as a process shows it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt import ops
from graphopt.exporter import to_proto
from graphopt.ir import Graph, Parameter, Value
from graphopt.lowering.xla.kernels import SPREAD, Kept, taken
from graphopt.types import DType, tensor

KIB = 1024
LIBRARY = '{"fusion_config":{"kind":"__ynn_fusion"}}'
DOT = "lhs_contracting_dims={1}, rhs_contracting_dims={0}"
BATCHED = (
    "lhs_batch_dims={0}, lhs_contracting_dims={2},"
    " rhs_batch_dims={0}, rhs_contracting_dims={1}"
)
SAME = "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f"
VALID = "window={size=3x3}, dim_labels=b01f_01io->b01f"
TRANSPOSED = "lhs_contracting_dims={1}, rhs_contracting_dims={1}"


def program(
    kind: str, left: str, right: str, made: str, how: str, *, library: bool = True
) -> str:
    """The text of a program of one op, in the form of XLA's."""
    inner = f"{{\n  %p = {left} parameter(0)\n  %q = {right} parameter(1)\n"
    op = f"  ROOT %r = {made} {kind}(%p, %q), {how}\n}}\n"
    if not library:
        return f"HloModule m\n\nENTRY %main (p: x, q: x) -> x {inner}{op}"
    call = f"  ROOT %f = {made} fusion(%p, %q), kind=kCustom, calls=%c, metadata={{}}"
    return (
        f"HloModule m\n\n%c (p: x, q: x) -> x {inner}{op}\n"
        f"ENTRY %main (p: x, q: x) -> x {inner}{call}, backend_config={LIBRARY}\n}}\n"
    )


def product(m: int, k: int, n: int, threads: int = 2, how: str = DOT) -> int:
    right = f"f32[{k},{n}]{{1,0}}" if how == DOT else f"f32[{n},{k}]{{1,0}}"
    text = program("dot", f"f32[{m},{k}]{{1,0}}", right, f"f32[{m},{n}]{{1,0}}", how)
    return taken(text, 0, 0, threads)[0]


def convolution(
    side: int, channels: int, features: int, size: int, *, stride: int = 1, pad: int = 0
) -> int:
    out = (side + 2 * pad - size) // stride + 1
    how = (
        f"window={{size={size}x{size} stride={stride}x{stride} pad={pad}_{pad}x{pad}"
        f"_{pad}}}, dim_labels=b01f_01io->b01f"
    )
    made = f"f32[1,{out},{out},{features}]{{3,2,1,0}}"
    left = f"f32[1,{side},{side},{channels}]{{3,2,1,0}}"
    right = f"f32[{size},{size},{channels},{features}]{{3,2,1,0}}"
    return taken(program("convolution", left, right, made, how), 0, 0, 2)[0]


@pytest.mark.parametrize(
    ("shape", "size"),
    [  # as the requests of kernels were seen, two threads of them
        ((128, 512, 2048), 2 * 128 * KIB),
        ((128, 2048, 512), 2 * 512 * KIB),
        ((128, 128, 128), 64 * KIB),
        ((3136, 96, 384), 2 * 120 * KIB),
        ((4096, 64, 64), 16 * KIB),
        ((49, 768, 3072), 0),
        ((16, 512, 2048), 0),
    ],
)
def test_columns_of_a_product_are_packed(
    shape: tuple[int, int, int], size: int
) -> None:
    assert product(*shape) == size


def test_threads_have_pieces_of_their_own_and_a_transposed_operand_is_packed() -> None:
    assert product(128, 2048, 512, threads=1) == 512 * KIB
    assert product(128, 2048, 512, threads=64) == 8 * 512 * KIB
    assert product(16, 512, 2048, how=TRANSPOSED) == 2 * 128 * KIB


def test_a_batch_is_packed_at_once() -> None:
    text = program(
        *("dot", "f32[8,1024,64]{2,1,0}", "f32[8,64,1024]{2,1,0}"),
        *("f32[8,1024,1024]{2,1,0}", BATCHED),
    )
    assert taken(text, 0, 0, 2)[0] == 2 * 1024 * KIB


@pytest.mark.parametrize(
    ("shape", "how", "size"),
    [
        ((7, 512, 512, 3), {"pad": 1}, 9437184 + 2 * 165888),
        ((56, 64, 64, 3), {"pad": 1}, 147456 + 861184),
        ((56, 64, 64, 3), {}, 147456 + 6718464),
        ((56, 128, 128, 3), {"pad": 1, "stride": 2}, 589824 + 2 * 1663488),
        ((224, 3, 64, 7), {"pad": 3, "stride": 2}, 37632 + 629292),
    ],
)
def test_convolutions_pack_filters_and_read_a_copy(
    shape: tuple[int, int, int, int], how: dict[str, int], size: int
) -> None:
    assert convolution(*shape, **how) == size


def test_what_runs_before_temporaries_are_written_lies_beside_nothing() -> None:
    text = program(
        *("dot", "f32[128,2048]{1,0}", "f32[2048,512]{1,0}"),
        *("f32[128,512]{1,0}", DOT),
    )
    result, packed = 4 * 128 * 512, 2 * 512 * KIB
    assert taken(text, 0, result, 2)[0] == packed
    assert taken(text, packed - 8, result, 2)[0] == 8  # the result is an output
    assert taken(text, packed, result, 2)[0] == 0


def test_an_output_is_not_there_before_it_is_written() -> None:
    """A product that is an output, after one that is not."""
    text = """HloModule m

ENTRY %main (p: x, q: x) -> x {
  %p = f32[64,512]{1,0} parameter(0)
  %q = f32[512,512]{1,0} parameter(1)
  %r = f32[64,512]{1,0} dot(%p, %q), DOT
  %s = f32[64,512]{1,0} dot(%r, %q), DOT
  %b = f32[32768]{0} bitcast(%s)
  ROOT %t = (f32[32768]{0}) tuple(%b), metadata={}
}
""".replace("DOT", DOT)
    own, size = 2 * 4 * 512 * 512, 4 * 64 * 512  # Eigen's
    assert taken(text, size, size, 2)[0] == own
    assert taken(text, size, 4 * size, 2)[0] == own - 3 * size


def test_in_a_loop_all_temporaries_are_there() -> None:
    text = program(
        *("dot", "f32[128,2048]{1,0}", "f32[2048,512]{1,0}"),
        *("f32[128,512]{1,0}", DOT),
    ).replace("ENTRY %main", "%body")
    text += "\nENTRY %main (p: x) -> x {\n  ROOT %p = f32[1]{0} parameter(0)\n}\n"
    assert taken(text, 1 << 30, 1 << 30, 2)[0] == 2 * 512 * KIB


def test_between_joined_products_lies_what_others_read() -> None:
    """Scores, which the second product reads through a sum; a sum alone."""
    text = f"""HloModule m

%c (p: x, q: x) -> x {{
  %p = f32[8,1024,64]{{2,1,0}} parameter(0)
  %q = f32[8,64,1024]{{2,1,0}} parameter(1)
  %s = f32[8,1024,1024]{{2,1,0}} dot(%p, %q), {BATCHED}
  %e = f32[8,1024,1024]{{2,1,0}} exponential(%s)
  ROOT %r = f32[8,1024,64]{{2,1,0}} dot(%e, %p), {BATCHED}
}}

%d (p: x) -> x {{
  %p = f32[8,1024,64]{{2,1,0}} parameter(0)
  ROOT %r = f32[8,1024]{{1,0}} reduce(%p, %p), dimensions={{2}}
}}

ENTRY %main (p: x, q: x) -> x {{
  %p = f32[8,1024,64]{{2,1,0}} parameter(0)
  %q = f32[8,64,1024]{{2,1,0}} parameter(1)
  %f = f32[8,1024,64]{{2,1,0}} fusion(%p, %q), calls=%c, backend_config={LIBRARY}
  ROOT %g = f32[8,1024]{{1,0}} fusion(%f), calls=%d, backend_config={LIBRARY}
}}
"""
    scores, packed = 4 * 8 * 1024 * 1024, 8 * 64 * 4 * KIB
    assert taken(text, 0, 0, 2)[0] == scores + packed
    products = 2 * (Kept.PRODUCT + Kept.BATCH_AXIS + Kept.PACKED) + Kept.PIECES
    alone = Kept.ALONE + Kept.OTHER  # a sum
    assert asked(text) == pytest.approx(products + Kept.OTHER + alone, abs=1)


def test_vectors_and_loops_take_nothing() -> None:
    vector = program(
        *("dot", "f32[1,512]{1,0}", "f32[512,64]{1,0}", "f32[1,64]{1,0}", DOT),
        library=False,
    )
    assert taken(vector, 0, 0, 2)[0] == 0
    assert asked(vector) == pytest.approx(0, abs=1)
    assert taken("", 0, 0, 2) == (0, 0)


@pytest.mark.parametrize(
    ("kind", "left", "right", "made", "how", "bytes_"),
    [  # as they were counted of single kernels, with headers
        ("dot", "16,64", "64,64", "16,64", DOT, 12600),
        ("dot", "49,512", "512,512", "49,512", DOT, 14200),
        ("dot", "128,64", "64,64", "128,64", DOT, 16900),
        ("dot", "128,512", "512,512", "128,512", DOT, 18800),
        ("dot", "128,64", "64,64", "128,64", TRANSPOSED, 20800),
        ("dot", "8,128,64", "8,64,128", "8,128,128", BATCHED, 19400),
        ("dot", "16,49,32", "16,32,49", "16,49,49", BATCHED, 15200),
        ("convolution", "1,56,56,64", "3,3,64,64", "1,56,56,64", SAME, 33200),
        ("convolution", "1,56,56,64", "3,3,64,64", "1,54,54,64", VALID, 27800),
    ],
)
def test_kernels_keep_what_their_expressions_take(
    kind: str, left: str, right: str, made: str, how: str, bytes_: int
) -> None:
    """Whatever their sizes."""
    tensors = (f"f32[{shape}]{{0}}" for shape in (left, right, made))
    text = program(kind, *tensors, how)
    assert asked(text) == pytest.approx(bytes_, rel=0.1)


def asked(text: str) -> float:
    """The bytes that kernels of a program keep, as they ask for them."""
    return taken(text, 0, 0, 2)[1] / SPREAD - Kept.PROGRAM


# --- XLA ----------------------------------------------------------------------------


def chain() -> Graph:
    """A product, for which half a megabyte is packed, of what was written before."""
    x = Parameter(tensor(DType.F32, 128, 2048), "x")
    rng = np.random.default_rng(0)
    w = ops.Constant(rng.standard_normal((2048, 512), np.float32))
    return Graph([x], [ops.MatMul(ops.Tanh(x), w)])


def filters(channels: int = 512, side: int = 7) -> Graph:
    """Two convolutions, whose filters are most of what they take."""
    x = Parameter(tensor(DType.F32, 1, channels, side, side), "x")
    rng = np.random.default_rng(0)

    def weight() -> Value:
        shape = (channels, channels, 3, 3)
        return ops.Constant(rng.standard_normal(shape, np.float32))

    h = ops.Relu(ops.Conv(x, weight(), pads=(1, 1, 1, 1)))
    return Graph([x], [ops.Conv(h, weight(), pads=(1, 1, 1, 1))])


def test_the_texts_of_this_xla_are_read() -> None:
    pytest.importorskip("jax")
    from graphopt.lowering import find
    from graphopt.lowering.xla.report import Examined

    examined = find("xla-cpu").examine(  # type: ignore[attr-defined]
        chain(), planned="single"
    )
    assert isinstance(examined, Examined)
    memory = examined.memory
    one = Kept.PRODUCT + Kept.PACKED + Kept.PIECES
    assert memory.kept == int(SPREAD * (Kept.PROGRAM + one))
    assert memory.scratch >= 512 * KIB
    assert memory.foreseen >= memory.temp + memory.output + memory.scratch
    assert examined.to_json()["memory"]["scratch_bytes"] == memory.scratch


def test_a_limit_counts_what_kernels_take() -> None:
    pytest.importorskip("jax")
    from graphopt.lowering import find, temporaries

    graph = chain()
    memory = find("xla-cpu").examine(graph, planned="single").memory  # type: ignore[attr-defined]
    assert temporaries(graph, "xla-cpu", {}) == memory.temp + memory.scratch


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="nobody says what a process holds")
@pytest.mark.parametrize("planned", ["", "single"])
def test_a_process_grows_by_what_is_foreseen(planned: str) -> None:
    pytest.importorskip("jax")
    from graphopt.lowering.xla.meter import realised_peak

    model = to_proto(filters()).SerializeToString()
    fed = {"x": np.ones((1, 512, 7, 7), np.float32)}
    found = realised_peak(model, fed, planned=planned)
    assert found.growth is not None
    assert found.foreseen is not None
    assert found.foreseen > found.counted + 9_000_000  # all filters of a convolution
    assert found.growth == pytest.approx(found.foreseen, rel=0.1)


@pytest.mark.slow
def test_a_program_is_measured_as_its_file_says(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    from graphopt.lowering import find
    from graphopt.lowering.xla.meter import realised_peak

    result = graphopt.optimize(
        chain(), target="xla-cpu", max_activations="64MiB", check="off"
    )
    path = tmp_path / "m.stablehlo"
    result.save(path)
    fed = {"x": np.ones((128, 2048), np.float32)}
    program = find("xla-cpu").open(path)
    memory = program.memory(fed)  # type: ignore[attr-defined]
    found = realised_peak(path, fed)
    assert found.counted == memory.temp + memory.output - memory.alias
    assert found.foreseen == memory.foreseen
