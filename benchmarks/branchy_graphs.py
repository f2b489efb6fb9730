"""Networks with many branches as graphs that run, with seeded random weights.

In their files ops stand as a program writes them: level by level, branch beside branch.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count

import numpy as np

from graphopt import Graph, ops
from graphopt.ir import Op, Parameter, Value
from graphopt.types import DType, tensor


class Builder:
    """Makes layers, and remembers in which order."""

    def __init__(self, channels: int, side: int) -> None:
        self.x = Parameter(tensor(DType.F32, 1, channels, side, side), "x")
        self.rng = np.random.default_rng(0)
        self.sources: dict[Op, tuple[str, ...]] = {}
        self._numbers = count()

    def made(self, value: Value) -> Value:
        """A layer's result; the ops behind it stand in the file where they are made."""
        op = value.op
        assert op is not None
        self.sources[op] = (f"n{next(self._numbers)}",)
        return value

    def conv(self, x: Value, channels: int, kernel: int = 3, stride: int = 1) -> Value:
        """A convolution with Relu, padded so that only strides matter."""
        before, pad = x.shape[1], kernel // 2  # type: ignore[index]
        shape = (channels, before, kernel, kernel)
        scale = (before * kernel * kernel) ** -0.5
        weight = ops.Constant((self.rng.normal(size=shape) * scale).astype(np.float32))
        made = ops.Conv(x, weight, pads=(pad,) * 4, strides=(stride, stride))
        return self.made(ops.Relu(self.made(made)))

    def up(self, x: Value) -> Value:
        scales = ops.Constant(np.array([1, 1, 2, 2], np.float32))
        return self.made(ops.Resize(x, None, scales, mode="nearest"))

    def concat(self, *values: Value) -> Value:
        return self.made(ops.Concat(*values, axis=1))

    def add(self, a: Value, b: Value) -> Value:
        return self.made(ops.Add(a, b))

    def graph(self, result: Value) -> Graph:
        return Graph([self.x], [result], sources=self.sources)


def unet() -> Graph:
    """Four levels; what is kept for the way up is alive for long."""
    net = Builder(3, 128)
    kept, x, width = [], net.conv(net.x, 16), 16
    for _ in range(4):
        x = net.conv(x, width)
        kept.append(x)
        width *= 2
        x = net.conv(x, width, stride=2)
    for skip in reversed(kept):
        width //= 2
        x = net.conv(net.concat(net.conv(net.up(x), width), skip), width)
    return net.graph(net.conv(x, 1, 1))


def dense() -> Graph:
    """Each layer reads all before it, through a convolution that narrows them."""
    net = Builder(3, 64)
    layers = [net.conv(net.x, 32)]
    for _ in range(10):
        joined = net.concat(*layers) if len(layers) > 1 else layers[0]
        layers.append(net.conv(net.conv(joined, 64, 1), 16))
    return net.graph(net.conv(net.concat(*layers), 32, 1))


def inception() -> Graph:
    """Branches that widen before they narrow, each layer of all of them at a time."""
    net = Builder(3, 64)
    x = net.conv(net.x, 32)
    for _ in range(3):
        branches = [net.conv(x, width, 1) for width in (96, 96, 64, 64, 48, 48)]
        branches = [net.conv(branch, 16) for branch in branches]
        branches = [net.conv(branch, 8, 1) for branch in branches]
        x = net.conv(net.concat(*branches), 32, 1)
    return net.graph(x)


def wired(seed: int) -> Graph:
    """Nodes wired at random, in the manner of Xie et al., 2019 (no stages)."""
    net, rng = Builder(3, 64), random.Random(seed)
    nodes = [net.conv(net.x, 16)]
    read: set[int] = set()
    for i in range(1, 24):
        chosen = rng.sample(range(max(0, i - 10), i), min(i, rng.choice((1, 1, 2, 3))))
        read.update(chosen)
        total = nodes[chosen[0]]
        for j in chosen[1:]:
            total = net.add(total, nodes[j])
        nodes.append(net.conv(total, 16))
    loose = [node for i, node in enumerate(nodes) if i not in read]
    return net.graph(net.conv(net.concat(*loose) if loose[1:] else loose[0], 8, 1))


NETWORKS: dict[str, Callable[[], Graph]] = {
    "unet": unet,
    "dense": dense,
    "inception": inception,
    "wired 1": lambda: wired(1),
    "wired 2": lambda: wired(2),
    "wired 3": lambda: wired(3),
}
"""The networks by name."""
