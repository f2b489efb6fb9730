"""Where programs write, sums that they keep whole, and pages as they are counted."""

from __future__ import annotations

import mmap
import sys
import threading

import numpy as np
import pytest

import graphopt
from graphopt import ops
from graphopt.exporter import to_proto
from graphopt.ir import Graph, Parameter
from graphopt.lowering.resident import growth_of, settled_growth_of
from graphopt.plan import LIBRARY, Plan
from graphopt.types import DType, tensor

PAGE = mmap.PAGESIZE


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says what is resident")
@pytest.mark.parametrize("pages", [300, 600])
def test_pages_of_threads_are_seen(pages: int) -> None:
    """But for what else the process frees meanwhile, and a batch of each CPU."""

    def write(count: int, done: threading.Barrier) -> None:
        room = mmap.mmap(-1, 1 << 21)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            room.madvise(mmap.MADV_NOHUGEPAGE)
        for i in range(count):
            room[i * PAGE] = 1
        done.wait()
        room.close()

    def run() -> None:
        done = threading.Barrier(2)
        counts = (pages // 3, pages - pages // 3)
        threads = [threading.Thread(target=write, args=(n, done)) for n in counts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    settled, grown = settled_growth_of(run), growth_of(run)
    if settled is None or grown is None:
        pytest.skip("the system does not say")
    assert abs(settled / PAGE - pages) <= 64
    assert abs(grown / PAGE - pages) <= 96


def test_an_output_is_there_when_something_lies_where_it_will() -> None:
    jax = pytest.importorskip("jax")
    from graphopt.lowering.xla.buffers import Written, places

    def chain(x: object, w: object) -> object:
        for _ in range(4):
            x = jax.numpy.tanh(x @ w)  # type: ignore[operator]
        return x

    given = np.ones((128, 128), np.float32)
    compiled = jax.jit(chain).lower(given, given).compile()
    found = places(compiled)
    if not found:
        pytest.skip("this JAX does not say where instructions write")
    stats, written = compiled.memory_analysis(), Written()
    outputs = [name for name, at in found.items() if any(p.output for p in at)]
    for at in found.values():
        written.add(at)
        written.add(at)  # counts once
    assert len(outputs) > 1
    assert written.bytes[1] == stats.output_size_in_bytes
    assert written.bytes[0] <= stats.temp_size_in_bytes


def residual(blocks: int) -> Graph:
    """Blocks of ``relu(conv(x) + x)``."""
    rng = np.random.default_rng(0)
    x = Parameter(tensor(DType.F32, 1, 8, 16, 16), "x")
    value = ops.Relu(ops.Conv(x, _weight(rng)))
    for _ in range(blocks):
        value = ops.Relu(ops.Add(ops.Conv(value, _weight(rng)), value))
    made = Graph([x], [ops.Conv(value, _weight(rng))])
    return graphopt.load(to_proto(made).SerializeToString())


def _weight(rng: np.random.Generator) -> ops.Constant:
    return ops.Constant(rng.standard_normal((8, 8, 1, 1), np.float32) / 4)


def test_residual_sums_are_kept_where_memory_is_planned() -> None:
    pytest.importorskip("jax")
    from graphopt.lowering import find
    from graphopt.lowering.xla.kept import kept

    graph = residual(6)
    values = kept(graph)
    assert all(values.values())
    assert len(values) == 5  # the last one is read once
    x = np.random.default_rng(1).standard_normal((1, 8, 16, 16), np.float32)
    target = find("xla-cpu")
    plain, whole = (
        target.compile(graph, Plan(whole={LIBRARY: planned}))
        for planned in ("", "single")
    )
    temps = [each.memory({"x": x}).temp for each in (plain, whole)]  # type: ignore[attr-defined]
    assert temps[1] <= temps[0] - x.nbytes
    expected = find("reference").compile(graph, Plan())({"x": x})
    for name, array in whole({"x": x}).items():
        np.testing.assert_allclose(array, expected[name], 1e-4, 1e-4)


@pytest.mark.xla
def test_a_computed_bias_of_convolutions_is_kept_as_it_is() -> None:
    """It has no channels that could be last."""
    pytest.importorskip("jax")
    x = Parameter(tensor(DType.F32, 1, 4, 8, 8), "x")
    axes = ops.Constant(np.array([0, 2, 3], np.int64))
    sums = [kind(x, axes, keepdims=0) for kind in (ops.ReduceSum, ops.ReduceMax)]
    bias = ops.Add(*sums)
    rng = np.random.default_rng(0)
    made = [
        ops.Conv(x, ops.Constant(rng.normal(size=(4, 4, 1, 1)).astype("f4")), bias)
        for _ in range(2)
    ]
    graph = Graph([x], [ops.Mul(*made)])
    result = graphopt.optimize(graph, "xla-cpu", max_activations="100KiB")
    assert result.report.check is not None
    assert result.report.check.passed
