"""Branchy networks: U-Nets, DenseNet, Inception, cells, random wirings, pyramids.

Norms of inference are in the weights of the convolutions before them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from networks import Net, Tensor


def u_net(depth: int = 4, channels: int = 32, size: int = 256) -> Net:
    """Ronneberger et al., MICCAI 2015: two convolutions a level, skips by Concat."""
    net = Net(3, size, size)
    x, skips = net.input, []
    for level in range(depth):
        x = net.conv_act(net.conv_act(x, channels << level), channels << level)
        skips.append(x)
        x = net.pool(x, 2)
    x = net.conv_act(net.conv_act(x, channels << depth), channels << depth)
    for level in reversed(range(depth)):
        x = net.concat(skips[level], net.up(x, channels << level))
        x = net.conv_act(net.conv_act(x, channels << level), channels << level)
    return net.ending(net.conv(x, 2))


def attention_u_net(depth: int = 3, channels: int = 32, size: int = 256) -> Net:
    """Oktay et al., 2018: a gate on each skip, of what comes from below."""
    net = Net(3, size, size)
    x, skips = net.input, []
    for level in range(depth):
        x = net.conv_act(net.conv_act(x, channels << level), channels << level)
        skips.append(x)
        x = net.pool(x, 2)
    x = net.conv_act(net.conv_act(x, channels << depth), channels << depth)
    for level in reversed(range(depth)):
        width, skip = channels << level, skips[level]
        x = net.conv_act(net.up(x, x.shape[0]), width)
        gate = net.add(net.conv(x, width // 2), net.conv(skip, width // 2))
        gate = net.act(net.conv(net.act(gate), 1))
        x = net.concat(x, net.gated(skip, gate))
        x = net.conv_act(net.conv_act(x, width), width)
    return net.ending(net.conv(x, 1))


def nested_u_net(depth: int = 3, channels: int = 32, size: int = 256) -> Net:
    """Zhou et al., U-Net++, 2018: columns of nodes, each of its row before it."""
    net = Net(3, size, size)
    rows: list[list[Tensor]] = [[] for _ in range(depth + 1)]
    for column in range(depth + 1):
        for level in range(depth + 1 - column):
            if column:
                below = net.up(rows[level + 1][column - 1], channels << level)
                x = net.concat(*rows[level], below)
            else:
                x = net.pool(rows[level - 1][0], 2) if level else net.input
            x = net.conv_act(net.conv_act(x, channels << level), channels << level)
            rows[level].append(x)
    return net.ending(net.conv(rows[0][-1], 1))


def dense_block(layers: int = 8, growth: int = 32, size: int = 56) -> Net:
    """A block of DenseNet (Huang et al., CVPR 2017), each layer by its own Concat."""
    net = Net(64, size, size)
    features = [net.conv(net.input, 64)]
    for _ in range(layers):
        x = net.concat(*features) if len(features) > 1 else features[0]
        x = net.conv_act(net.act(net.act(x)), 4 * growth, kernel=1)
        features.append(net.conv(x, growth))
    return net.ending(net.concat(*features))


def inception(modules: int = 1, size: int = 35) -> Net:
    """Modules of InceptionV3's three kinds (Szegedy et al., CVPR 2016)."""
    net = Net(192, size, size)
    x = net.conv_act(net.input, 192)
    for _ in range(modules):
        one = net.conv_act(x, 64, kernel=1)
        five = net.conv_act(net.conv_act(x, 48, kernel=1), 64, kernel=5)
        three = net.conv_act(net.conv_act(net.conv_act(x, 64), 96), 96)
        x = net.concat(one, five, three, net.conv_act(net.pool(x), 32))
    down = net.conv_act(x, 384, 2)
    three = net.conv_act(net.conv_act(net.conv_act(x, 64), 96), 96, 2)
    x = net.concat(down, three, net.pool(x, 2))
    for _ in range(modules):
        one = net.conv_act(x, 192)
        seven = net.conv_act(net.conv_act(net.conv_act(x, 128), 128), 192)
        double = net.conv_act(x, 128)
        for channels in (128, 128, 128, 192):
            double = net.conv_act(double, channels)
        x = net.concat(one, seven, double, net.conv_act(net.pool(x), 192))
    for _ in range(modules):
        one = net.conv_act(x, 320)
        three = net.conv_act(x, 384)
        wide = [net.conv_act(three, 384), net.conv_act(three, 384)]
        double = net.conv_act(net.conv_act(x, 448), 384)
        wider = [net.conv_act(double, 384), net.conv_act(double, 384)]
        pooled = net.conv_act(net.pool(x), 192)
        x = net.concat(one, net.concat(*wide), net.concat(*wider), pooled)
    return net.ending(x)


Edge = tuple[str, int]
DARTS_NORMAL: Final[Sequence[Edge]] = (
    *(("separable", 0), ("separable", 1), ("separable", 0), ("separable", 1)),
    *(("separable", 1), ("skip", 0), ("skip", 0), ("dilated", 2)),
)
"""The normal cell DARTS_V2 of Liu et al., ICLR 2019: (op, input) by twos for a node."""

DARTS_REDUCE: Final[Sequence[Edge]] = (
    *(("pool", 0), ("pool", 1), ("skip", 2), ("pool", 1)),
    *(("pool", 0), ("skip", 2), ("skip", 2), ("pool", 1)),
)


def cells(
    genotypes: Sequence[tuple[Sequence[Edge], int]], channels: int = 36, size: int = 32
) -> Net:
    """Cells (edges, stride) of two inputs each, as DARTS stacks them."""
    net = Net(3, size, size)
    older = newer = net.conv(net.input, 3 * channels)
    for edges, stride in genotypes:
        channels *= stride
        states = [
            _fitted(net, older, channels, newer.shape[1]),
            net.conv(net.act(newer), channels, kernel=1),
        ]
        for left, right in zip(edges[::2], edges[1::2], strict=True):
            ends = [
                _edge(net, op, states[i], channels, stride if i < 2 else 1)
                for op, i in (left, right)
            ]
            states.append(net.add(*ends))
        older, newer = newer, net.concat(*states[2:])
    return net.ending(newer)


def _fitted(net: Net, x: Tensor, channels: int, size: int) -> Tensor:
    return net.conv(net.act(x), channels, x.shape[1] // size, 1)


def _edge(net: Net, op: str, x: Tensor, channels: int, stride: int) -> Tensor:
    if op == "separable":
        return net.separable(net.separable(x, channels, stride), channels)
    if op == "dilated":
        return net.separable(x, channels, stride)
    if op == "pool":
        return net.pool(x, stride)
    return x if stride == 1 else _fitted(net, x, channels, x.shape[1] // stride)


def random_cells(seed: int, count: int = 2, nodes: int = 5) -> Net:
    """Cells of the search space of DARTS, drawn from it."""
    rng = random.Random(seed)
    kinds = ("separable", "dilated", "pool", "skip")
    edges = [
        (rng.choice(kinds), i)
        for node in range(nodes)
        for i in rng.sample(range(node + 2), 2)
    ]
    return cells([(edges, 1)] * count)


Edges = Iterable[tuple[int, int]]


def rand_wire(edges: Edges, channels: int = 78, size: int = 28) -> Net:
    """A stage of RandWire (Xie et al., ICCV 2019) over undirected edges.

    Each goes from its lower to its higher node; a node adds what comes in, then relu,
    separable convolution of three ops, norm. Sources have stride 2.
    """
    ordered = sorted({(min(edge), max(edge)) for edge in edges})
    count = 1 + max(high for _, high in ordered)
    net = Net(channels // 2, 2 * size, 2 * size)
    x = net.conv(net.input, channels // 2)
    values: list[Tensor] = []
    for node in range(count):
        sources = [values[low] for low, high in ordered if high == node]
        inner = net.add(*sources) if sources else x
        values.append(net.separable(inner, channels, 1 if sources else 2))
    read = {low for low, _ in ordered}
    return net.ending(net.add(*(v for i, v in enumerate(values) if i not in read)))


def small_world(
    seed: int, nodes: int = 32, near: int = 4, rewired: float = 0.75
) -> Edges:
    """Watts and Strogatz: a ring, each edge to somewhere else with this probability."""
    rng = random.Random(seed)
    edges = {
        (i, (i + step) % nodes)
        for step in range(1, near // 2 + 1)
        for i in range(nodes)
    }
    for low, high in sorted(edges):
        if rng.random() < rewired:
            taken = {b if a == low else a for a, b in edges if low in (a, b)} | {low}
            free = [i for i in range(nodes) if i not in taken]
            if free:
                edges.remove((low, high))
                edges.add((low, rng.choice(free)))
    return edges


def erdos_renyi(seed: int, nodes: int = 32, probability: float = 0.2) -> Edges:
    """Erdős and Rényi: each pair with this probability, and the next node always."""
    rng = random.Random(seed)
    pairs = [(i, j) for i in range(nodes) for j in range(i + 1, nodes)]
    return {(i, j) for i, j in pairs if rng.random() < probability}


def preferential(seed: int, nodes: int = 32, links: int = 5) -> Edges:
    """Barabási and Albert: each new node to so many, the well-linked more likely."""
    rng = random.Random(seed)
    ends = list(range(links))
    edges = set()
    for node in range(links, nodes):
        chosen: set[int] = set()
        while len(chosen) < links:
            chosen.add(rng.choice(ends))
        edges |= {(other, node) for other in chosen}
        ends += [*sorted(chosen), *[node] * links]
    return edges


def pyramid(
    levels: int = 5, repeats: int = 3, channels: int = 64, size: int = 64
) -> Net:
    """A BiFPN (Tan et al., EfficientDet, CVPR 2020): up and down, each node a sum."""
    net = Net(channels, 2 * size, 2 * size)
    x, rows = net.input, []
    for _ in range(levels):
        x = net.conv_act(x, 2 * channels, 2)
        rows.append(x)
    rows = [net.act(net.conv(x, channels)) for x in rows]
    for _ in range(repeats):
        inner = [rows[-1]]
        for x in reversed(rows[:-1]):
            total = net.add(x, net.up(inner[0], channels))
            inner.insert(0, net.separable(total, channels))
        outer = [inner[0]]
        for old, x in zip(rows[1:], inner[1:], strict=True):
            ends = [old, x] if x is not old else [old]
            total = net.add(*ends, net.pool(outer[-1], 2))
            outer.append(net.separable(total, channels))
        rows = outer
    return net.ending(*rows)


def high_resolution(branches: int = 4, modules: int = 2, size: int = 64) -> Net:
    """A stage of HRNet (Wang et al., 2019): branches of residual blocks, all fused."""
    net = Net(32, size, size)
    rows = [net.conv_act(net.input, 32)]
    while len(rows) < branches:
        rows.append(net.conv_act(rows[-1], 2 * rows[-1].shape[0], 2))
    for _ in range(modules):
        for i, x in enumerate(rows):
            inner = net.conv(net.conv_act(x, x.shape[0]), x.shape[0])
            rows[i] = net.act(net.add(x, inner))
        fused = []
        for i, target in enumerate(rows):
            ends = []
            for j, x in enumerate(rows):
                if j > i:
                    x = net.up(
                        net.conv(x, target.shape[0]), target.shape[0], 2 ** (j - i)
                    )
                for step in range(j, i):
                    last = step == i - 1
                    x = net.conv(x, target.shape[0] if last else x.shape[0], 2)
                ends.append(x)
            fused.append(net.act(net.add(*ends)))
        rows = fused
    return net.ending(*rows)


NETWORKS: Final[dict[str, Callable[[], Net]]] = {
    "u-net": u_net,
    "attention u-net": attention_u_net,
    "u-net++ 3": nested_u_net,
    "u-net++ 4": lambda: nested_u_net(4),
    "densenet block": dense_block,
    "inception 3 modules": inception,
    "inception 12 modules": lambda: inception(4),
    "darts normal": lambda: cells([(DARTS_NORMAL, 1)]),
    "darts reduce": lambda: cells([(DARTS_REDUCE, 2)]),
    "darts 8 cells": lambda: cells(
        [(DARTS_REDUCE, 2) if i in (2, 5) else (DARTS_NORMAL, 1) for i in range(8)]
    ),
    **{f"random cell {seed}": partial(random_cells, seed, 1) for seed in range(3)},
    **{f"random cells {seed}": partial(random_cells, seed) for seed in range(3)},
    "randwire ws 9": lambda: rand_wire(small_world(0, nodes=9)),
    "randwire ws 0": lambda: rand_wire(small_world(0)),
    "randwire ws 1": lambda: rand_wire(small_world(1)),
    "randwire er": lambda: rand_wire(erdos_renyi(0)),
    "randwire ba": lambda: rand_wire(preferential(0)),
    "bifpn": pyramid,
    "hrnet": high_resolution,
}
"""All networks by name, small ones of about 60 ops and larger ones."""

TRAINED: Final = ("u-net", "densenet block", "inception 12 modules", "darts 8 cells")
"""Those that are also measured as training steps."""


def small(seed: int) -> dict[str, Net]:
    """Networks of up to about 60 ops, drawn with this seed."""
    return {
        f"cell {seed}": random_cells(seed, 1),
        f"large cell {seed}": random_cells(seed, 1, 7),
        f"ws {seed}": rand_wire(small_world(seed, 12)),
        f"er {seed}": rand_wire(erdos_renyi(seed, 13, 0.3)),
        f"ba {seed}": rand_wire(preferential(seed, 12, 3)),
    }
