"""What tiles cost: lanes, starts, and what stays near."""

from __future__ import annotations

from dataclasses import replace

import pytest
from equations import graph_of, param, random

from graphopt.hardware import device
from graphopt.ops import Add, Attention, Constant, Exp, MatMul, Neg, Relu
from graphopt.passes.memory import SPACES
from graphopt.passes.tiling.choice import sizes
from graphopt.passes.tiling.needs import Meter
from graphopt.passes.tiling.price import Prices
from graphopt.passes.tiling.splice import Spliced
from graphopt.passes.tiling.tiles import in_tiles
from graphopt.rewrite import Miss


def priced(target: str) -> Prices:
    return Prices(device(target), Meter({}, SPACES[target]))


def test_tiles_fill_the_lanes_of_a_tpu() -> None:
    x = param("x", 4, 512, 1024)
    v5e, v6e, cpu = priced("xla-tpu"), priced("xla-tpu"), priced("xla-cpu")
    v6e = replace(v6e, device=device("v6e"))
    assert [v5e.aligned(x, dim) for dim in range(3)] == [1, 8, 128]
    assert v6e.aligned(x, 2) == 256
    assert {cpu.aligned(x, dim) for dim in range(3)} == {8}
    assert all(size % 128 == 0 for size in sizes(1000, 128) if size > 128)
    assert sizes(1000, 128)[:2] == [512, 256]


def test_products_pay_for_what_they_do_not_fill() -> None:
    tpu, cpu = priced("xla-tpu"), priced("xla-cpu")
    w = random(1024, 1024)
    few, many = (MatMul(param("x", rows, 1024), w, instance=rows) for rows in (1, 8))
    assert tpu._work(few) == tpu._work(many)
    assert 8 * cpu._work(few) == cpu._work(many)


def test_what_stays_near_moves_once() -> None:
    """A chain that fits is paid by its ends, another by all that it makes."""
    cpu = priced("ort-cpu")

    def chain(rows: int) -> int:
        x = param("x", rows, 1024)
        y = Exp(Neg(Exp(Neg(x))))
        return cpu.of(graph_of(y).ops) - 4 * cpu.start

    assert chain(128) * 2 < chain(512)  # 512 KiB and 2 MiB; L2 has 1
    assert chain(512) > 1.9 * 4 * chain(128)


def test_what_a_cache_holds_moves_as_fast_as_it_is_read() -> None:
    """16 MiB lie in a cache of 32, and 64 MiB do not: they take ten times the time."""
    cpu = priced("ort-cpu")

    def traffic(rows: int) -> float:
        ops = graph_of(Exp(Neg(Exp(Neg(param("x", rows, 1024)))))).ops
        work = sum(map(cpu.meter.work, ops))
        return (cpu.of(ops) - work - 4 * cpu.start) / rows

    assert cpu.device.cache == 32 << 20
    assert traffic(16384) == pytest.approx(10 * traffic(4096))


def test_tiles_pay_for_what_looks_their_parts_up() -> None:
    """Four tiles of two ops that read two parts: eight ops, eight slices, and one."""
    x, y = param("x", 64, 32), param("y", 64, 32)
    z = Relu(Add(x, y))
    region = [op for op in graph_of(z).ops if not isinstance(op, Constant)]
    new = in_tiles(graph_of(z), region, z, 0, 16)
    assert not isinstance(new, Miss)
    cpu = priced("ort-cpu")
    made = Spliced(cpu.meter.needs(graph_of(z)), new)
    assert cpu.starts(region) == 2
    assert cpu.starts(made.fresh) == 1 + 4 * (2 + 2)


def test_coarser_tiles_start_less_and_finer_ones_stay_near() -> None:
    x = param("x", 65536, 16)
    up = Relu(MatMul(x, random(16, 512)))
    graph = graph_of(MatMul(up, random(512, 16)))
    cpu = priced("ort-cpu")
    region = [op for op in graph.ops if not isinstance(op, Constant)]
    price = {}
    for size in (16, 256, 32768):
        new = in_tiles(graph, region, up, 0, size)
        assert not isinstance(new, Miss)
        made = Spliced(cpu.meter.needs(graph), new)
        price[size] = cpu.of(made.fresh) - cpu.of(region)
    assert price[256] < price[32768]
    assert price[256] < price[16]


def test_attention_of_onnxruntime_has_one_head_near_at_a_time() -> None:
    """64 queries of 2,048 keys: 512 KiB of scores of a head, 4 MiB of all eight."""

    def ops(queries: int) -> list[Attention]:
        q, *kv = (
            param(n, 1, s, 64)
            for n, s in zip("qkv", (queries, 2048, 2048), strict=True)
        )
        return [Attention(q, *kv, q_num_heads=8, kv_num_heads=8)]

    assert priced("ort-cpu")._near(ops(64))
    assert not priced("ort-cpu")._near(ops(512))
    assert not priced("xla-cpu")._near(ops(64))


@pytest.mark.parametrize("target", ["ort-cpu", "ort-cuda", "xla-cuda", "xla-tpu"])
def test_what_is_empty_or_of_no_known_size_moves_for_nothing(target: str) -> None:
    """Also where a device has no cache."""
    prices = priced(target)
    for x in (param("x", 0, 4), param("x", None, 4)):
        assert prices.of(graph_of(Neg(x)).ops) == prices.start
