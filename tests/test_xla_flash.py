"""Attention as one kernel of a TPU: what it computes, and that compilers take it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies
from xp_sides import PLAIN

from graphopt.dims import symbol
from graphopt.inputs import random_inputs
from graphopt.ir import Graph, Parameter
from graphopt.lowering import Compiler, find
from graphopt.ops import Attention, Constant
from graphopt.passes import Flash
from graphopt.passes.memory import SPACES, plan_memory
from graphopt.passes.memory.attended import Sizes, sizes_of
from graphopt.passes.memory.kernel import Blocks, blocks, least
from graphopt.passes.tiling.needs import Meter
from graphopt.plan import Plan
from graphopt.reference import evaluate
from graphopt.rewrite import Log, Miss
from graphopt.types import DType, tensor
from graphopt.xp import traced

jax = pytest.importorskip("jax")
pytestmark = pytest.mark.xla

from jax.experimental.pallas import tpu as pltpu  # noqa: E402

from graphopt.lowering.xla.flash import Kernel, forms  # noqa: E402
from graphopt.lowering.xla.function import Function  # noqa: E402

LONG = 2048
SCORES = 4 * LONG * LONG
"""Bytes of the scores of one head."""


def attention(
    queries: int = LONG,
    keys: int = LONG,
    *,
    heads: tuple[int, int] = (2, 2),
    width: int = 16,
    depth: int = 16,
    flat: bool = False,
    dtype: DType = DType.F32,
    mask: tuple[int, ...] | None = None,
    of: DType = DType.BOOL,
    **attrs: Any,
) -> Graph:
    """An attention of parameters q, k, v, and perhaps a mask."""
    many, shared = heads
    if flat:
        attrs |= {"q_num_heads": many, "kv_num_heads": shared}
        shapes = [
            (2, queries, many * width),
            (2, keys, shared * width),
            (2, keys, shared * depth),
        ]
    else:
        shapes = [
            (2, many, queries, width),
            (2, shared, keys, width),
            (2, shared, keys, depth),
        ]
    given = [
        Parameter(tensor(dtype, *shape), name)
        for name, shape in zip("qkv", shapes, strict=True)
    ]
    if mask is not None:
        given.append(Parameter(tensor(of, *mask), "mask"))
    return Graph(given, [Attention(*given, **attrs)])


def op_of(graph: Graph) -> Attention:
    (op,) = (op for op in graph.ops if isinstance(op, Attention))
    return op


def by_kernel(
    graph: Graph, fed: dict[str, Any], cut: tuple[int, int], how: Any = True
) -> Any:
    """The result of the kernel in blocks of this size, as JAX's ops."""
    op = op_of(graph)
    sizes = sizes_of(op)
    assert isinstance(sizes, Sizes)
    with traced().scope():
        kernel = Kernel.of(op, sizes, Blocks(*cut, 0), traced())
        program = jax.jit(replace(kernel, interpret=how), compiler_options=PLAIN)
        return np.asarray(program(*fed.values()))


CASES: dict[str, dict[str, Any]] = {
    "a condition for all queries": {"mask": (2, 1, 1, 53), "is_causal": 1},
    "a bias and windows": {
        "mask": (2, 4, 37, 53),
        "of": DType.F32,
        "left_window_size": 9,
        "right_window_size": 3,
        "scale": 0.4,
        "softcap": 2.0,
        "flat": True,
    },
}


def agrees(graph: Graph, cut: tuple[int, int], seed: int) -> None:
    fed = random_inputs(graph, seed=seed)
    (truth,) = evaluate(graph, fed, precision="float64")
    found = by_kernel(graph, fed, cut)
    np.testing.assert_allclose(found, truth, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_the_kernel_means_the_op(case: str) -> None:
    agrees(
        attention(37, 53, heads=(4, 2), width=8, depth=12, **CASES[case]), (16, 32), 7
    )


@pytest.mark.slow
@given(strategies.data())
@settings(max_examples=40, deadline=None)
def test_the_kernel_means_any_op(data: Any) -> None:
    """Of random dims, masks and windows, in blocks that need not divide them."""

    def draw(least: int, most: int) -> int:
        return int(data.draw(strategies.integers(least, most)))

    queries, keys, shared = draw(1, 70), draw(1, 70), draw(1, 3)
    heads = (shared * draw(1, 3), shared)
    attrs: dict[str, Any] = {"is_causal": draw(0, 1), "flat": bool(draw(0, 1))}
    if not attrs["is_causal"]:
        attrs |= {"left_window_size": draw(-1, 30), "right_window_size": draw(-1, 30)}
    whole = (2, heads[0], queries)
    if draw(0, 2):
        dims = [extent if draw(0, 1) else 1 for extent in whole]
        attrs["mask"] = (*dims[draw(0, 2) :], keys)
        attrs["of"] = data.draw(strategies.sampled_from([DType.BOOL, DType.F32]))
    graph = attention(
        queries, keys, heads=heads, width=draw(1, 20), depth=draw(1, 20), **attrs
    )
    cut = (min(queries, 8 * draw(1, 4)), min(keys, 8 * draw(1, 4)))
    agrees(graph, cut, draw(0, 99))


@pytest.mark.slow
def test_a_simulated_tpu_agrees() -> None:
    """With its memories, where what was not written is NaN."""
    graph = attention(20, 37, heads=(1, 1), width=8, depth=8, is_causal=1)
    fed = random_inputs(graph, seed=7)
    (truth,) = evaluate(graph, fed, precision="float64")
    how = pltpu.InterpretParams(uninitialized_memory="nan")
    found = by_kernel(graph, fed, (16, 32), how)
    np.testing.assert_allclose(found, truth, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    "of", [DType.BOOL, pytest.param(DType.F32, marks=pytest.mark.slow)]
)
def test_a_query_without_keys_gives_zeros(of: DType) -> None:
    graph = attention(24, 40, mask=(24, 40), of=of)
    fed = random_inputs(graph, seed=8)
    sees = np.ones((24, 40), bool)
    sees[3] = sees[20:] = False
    sees[5, :33] = False
    fed["mask"] = sees if of is DType.BOOL else np.where(sees, 0, -np.inf)
    fed["mask"] = fed["mask"].astype(of.numpy)
    found = by_kernel(graph, fed, (8, 16))
    (truth,) = evaluate(graph, fed)
    assert (found[:, :, 3] == 0).all()
    assert (found[:, :, 20:] == 0).all()
    np.testing.assert_allclose(found, truth, rtol=2e-5, atol=2e-6)


@pytest.mark.slow
def test_bfloat16_is_summed_in_float32() -> None:
    graph = attention(40, 300, dtype=DType.BF16)
    fed = random_inputs(graph, seed=9)
    (truth,) = evaluate(graph, fed, precision="float64")
    found = by_kernel(graph, fed, (16, 128)).astype(np.float64)
    np.testing.assert_allclose(found, truth.astype(np.float64), atol=2**-8, rtol=2**-7)


# --- which attentions it takes --------------------------------------------------------


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (attention(64, 64), "stay in VMEM"),
        (attention(dtype=DType.F16), "f32 or bf16, not of f16"),
        (attention(softmax_precision=11), "not of float32"),
        (attention(outs=3), "other results"),
        (attention(mask=(LONG, LONG), of=DType.F16), "no masks of f16"),
        (attention(width=1 << 16, depth=1 << 16), "do not fit VMEM"),
        (attention(mask=(LONG, 5)), "mask is of other keys"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_why_there_is_no_kernel(graph: Graph, reason: str) -> None:
    made = blocks(op_of(graph))
    assert isinstance(made, Miss)
    assert reason in made.reason


def test_dims_must_be_known() -> None:
    q = Parameter(tensor(DType.F32, symbol("n"), 2, LONG, 8), "q")
    op = Attention(q, q, q)
    assert isinstance(blocks(op), Miss)
    assert isinstance(blocks(op, [(3, 2, LONG, 8)] * 3), Blocks)
    text = next(iter(forms(Graph([q], [op]), {"n": 3})))
    assert text.startswith("kernel: ")


@pytest.mark.parametrize("width", [64, 80, 128, 256, 1024])
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_blocks_are_whole_tiles_and_fit(width: int, dtype: DType) -> None:
    op = op_of(attention(width=width, depth=width, dtype=dtype, mask=(LONG, LONG)))
    cut = blocks(op)
    assert isinstance(cut, Blocks)
    assert cut.queries % 128 == cut.keys % 128 == 0
    assert cut.vmem <= least().kernel


def test_plans_for_tpus_have_no_scores() -> None:
    graph = attention()
    whole = plan_memory(graph, space=SPACES["xla-cpu"])
    kept = plan_memory(graph, space=SPACES["xla-tpu"])
    assert whole.peak >= 4 * SCORES
    assert kept.peak < SCORES
    assert Meter({}).needs(graph).peak >= 4 * SCORES
    assert Meter({}, SPACES["xla-tpu"]).needs(graph).peak < SCORES


def test_what_a_tpu_has_a_kernel_for_is_not_written_as_a_loop() -> None:
    log = Log()
    graph = attention()
    assert Flash(target="xla-tpu").run(graph, log) is graph
    assert log.notes == [f"1 x attention by the kernel of TPUs, {blocks(op_of(graph))}"]
    made = Flash(target="xla-cpu").run(graph, log)
    assert not any(isinstance(op, Attention) for _, op in made.walk())
    narrow = attention(dtype=DType.F16)
    made = Flash(target="xla-tpu").run(narrow, log)
    assert not any(isinstance(op, Attention) for _, op in made.walk())
    assert log.notes[-1].endswith(
        "in a loop over blocks, 128 queries by 512 keys;"
        " no kernel: the kernel is of f32 or bf16, not of f16"
    )


# --- in programs ----------------------------------------------------------------------


@pytest.mark.slow
def test_other_devices_run_it_whole() -> None:
    graph = attention(mask=(2, 1, 1, LONG), heads=(1, 1), width=4, depth=4)
    assert isinstance(blocks(op_of(graph)), Blocks)
    fed = random_inputs(graph, seed=10)
    (truth,) = evaluate(graph, fed)
    (found,) = find("xla-cpu").compile(graph, Plan())(fed).values()
    np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_derivatives_are_those_of_the_whole() -> None:
    graph = attention(heads=(1, 1), width=4, depth=4)
    function = Function(graph)
    quickly = partial(jax.jit, compiler_options=PLAIN)
    fed = random_inputs(graph, seed=11)
    (name,) = graph.output_names

    def loss(q: Any) -> Any:
        return function({}, {**fed, "q": q})[name].sum()

    text = str(jax.make_jaxpr(loss)(fed["q"]))
    assert "pallas_call" in text
    plain = op_of(graph)

    def of_whole(q: Any) -> Any:
        return plain.compute(traced(), q, fed["k"], fed["v"]).sum()

    with traced().scope():
        ways = [quickly(jax.grad(f))(fed["q"]) for f in (loss, of_whole)]
        many = quickly(jax.vmap(loss))(fed["q"][None])
    np.testing.assert_allclose(*ways, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(many[0], quickly(loss)(fed["q"]), rtol=1e-5)


def test_one_program_for_all_platforms() -> None:
    pytest.importorskip("flatbuffers")
    from graphopt.lowering.xla.export import export

    graph = attention(heads=(1, 1), width=4, depth=4)
    made = export(graph, "tpu", precision="default")
    assert set(made.interface.platforms) == {"cpu", "cuda", "tpu"}
    assert made.interface.no_derivative is None
    assert b"tpu_custom_call" in made.blob


def on_tpu(test: Any) -> Any:
    """A test that compiles for TPUs."""
    missing = find_spec("libtpu") is None
    return pytest.mark.tpu(pytest.mark.skipif(missing, reason="no libtpu")(test))


@on_tpu
@pytest.mark.parametrize("chip", ["v5e", "v6e"])
@pytest.mark.parametrize(
    "graph",
    [
        attention(dtype=DType.BF16, width=64, depth=64, is_causal=1),
        attention(
            2047, 2500, heads=(4, 2), width=80, depth=96, mask=(2, 1, 2047, 2500)
        ),
        attention(
            heads=(1, 1),
            dtype=DType.BF16,
            width=128,
            depth=128,
            flat=True,
            mask=(1, 1, 1, LONG),
            of=DType.F32,
            right_window_size=100,
            left_window_size=300,
        ),
    ],
    ids=["causal", "uneven", "windows"],
)
def test_compilers_take_the_kernel(graph: Graph, chip: str) -> None:
    cut = blocks(op_of(graph))
    assert isinstance(cut, Blocks)
    target = find(f"xla-tpu:{chip}")
    assert isinstance(target, Compiler)
    found = target.examine(graph)
    assert found.attention == {f"kernel: {cut}": 1}
    assert found.memory.temp < SCORES
    assert found.memory.vmem is not None
    assert found.memory.vmem <= cut.vmem


@on_tpu
def test_memory_on_a_tpu_with_and_without_the_kernel() -> None:
    """Float16 has none: its scores are in HBM."""
    target = find("xla-tpu:v5e")
    assert isinstance(target, Compiler)
    before = target.examine(attention(heads=(8, 8), dtype=DType.F16)).memory.temp
    after = target.examine(attention(heads=(8, 8), dtype=DType.BF16)).memory.temp
    assert before > 4 * SCORES
    assert after < SCORES


def test_constants_are_no_arrays_of_a_trace() -> None:
    """Known operands come as NumPy arrays."""
    graph = attention(heads=(1, 1), width=4, depth=4)
    q, k, v = graph.inputs
    mask = Constant(np.tril(np.ones((LONG, LONG), bool)))
    made = Graph([q, k, v], [Attention(q, k, v, mask)])
    fed = random_inputs(made, seed=12)
    (found,) = find("xla-cpu").compile(made, Plan())(fed).values()
    (truth,) = evaluate(made, fed)
    np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-5)
