"""Networks as tasks with the bytes of their activations, and as graphs that run.

Sizes are those of float32 at batch 1, in the order in which a program writes the ops.
The network's input is the caller's and no buffer; outputs are kept, weights are not
counted. Activations and sums may compute in place. Convolutions hold no workspace.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from graphopt import Graph, ops
from graphopt.ir import Op as Node, Parameter, Value
from graphopt.passes.memory import Task, Tasks
from graphopt.types import DType, tensor

Shape = tuple[int, int, int]
"""Channels, height, width."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a network: its buffer, None for the network's input; its value."""

    buffer: int | None
    value: Value

    @property
    def shape(self) -> Shape:
        channels, height, width = (self.value.shape or ())[1:]
        return channels, height, width  # type: ignore[return-value]


@dataclass(frozen=True)
class Op:
    """What an op makes of what, the bytes of its weights, and what its gradient reads.

    The gradient of a product reads operands, that of an activation its result, that of
    the others neither; that of a sum is what it is given.
    """

    made: int
    reads: tuple[int, ...]
    kind: str = "moves"
    weights: int = 0


class Net:
    """A network under construction; each method is an op that adds one task."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        x = Parameter(tensor(DType.F32, 1, channels, height, width), "x")
        self.input = Tensor(None, x)
        self.ops: list[Op] = []
        self.sizes: list[int] = []
        self.outputs: list[Tensor] = []
        self.sources: dict[Node, tuple[str, ...]] = {}
        self._rng = np.random.default_rng(0)

    def op(
        self, value: Value, *reads: Tensor, kind: str = "moves", weights: int = 0
    ) -> Tensor:
        """What an op makes of what it reads. Equal ops stay apart, as in a file."""
        number = len(self.ops)
        assert value.op is not None
        value = value.op.copy(instance=number)
        self.sources[value] = (f"n{number}",)
        result = Tensor(self.buffer(0), value)
        self.sizes[-1] = 4 * math.prod(result.shape)
        read = tuple(r.buffer for r in reads if r.buffer is not None)
        self.ops.append(Op(len(self.sizes) - 1, read, kind, weights))
        return result

    def buffer(self, size: int) -> int:
        self.sizes.append(size)
        return len(self.sizes) - 1

    def conv(
        self, x: Tensor, channels: int, stride: int = 1, kernel: int = 3
    ) -> Tensor:
        """A convolution, padded so that only strides matter."""
        return self._conv(x, channels, stride, kernel)

    def depthwise(self, x: Tensor, stride: int = 1) -> Tensor:
        return self._conv(x, x.shape[0], stride, 3, x.shape[0])

    def _conv(
        self, x: Tensor, channels: int, stride: int, kernel: int, group: int = 1
    ) -> Tensor:
        w = self._weight(channels, x.shape[0] // group, kernel, kernel)
        pads, strides = (kernel // 2,) * 4, (stride,) * 2
        made = ops.Conv(x.value, w, pads=pads, strides=strides, group=group)
        return self._product(made, w, x)

    def _weight(self, outer: int, inner: int, *window: int) -> ops.Constant:
        """Numbers that keep the scale of what they are multiplied with."""
        drawn = self._rng.standard_normal((outer, inner, *window), np.float32)
        return ops.Constant(drawn * (inner * math.prod(window)) ** -0.5)

    def _product(self, made: Value, weight: ops.Constant, x: Tensor) -> Tensor:
        return self.op(made, x, kind="product", weights=weight.tensor.nbytes)

    def pool(self, x: Tensor, stride: int = 1) -> Tensor:
        made = ops.MaxPool(
            x.value, kernel_shape=(3, 3), pads=(1,) * 4, strides=(stride,) * 2
        )
        return self.op(made, x)

    def up(self, x: Tensor, channels: int, factor: int = 2) -> Tensor:
        """A transposed convolution whose windows do not overlap."""
        w = self._weight(x.shape[0], channels, factor, factor)
        made = ops.ConvTranspose(x.value, w, strides=(factor,) * 2)
        return self._product(made, w, x)

    def act(self, x: Tensor) -> Tensor:
        """An activation, or a norm with fixed statistics."""
        return self.op(ops.Relu(x.value), x, kind="activation")

    def gated(self, x: Tensor, gate: Tensor) -> Tensor:
        """Each channel times one of a gate."""
        made = ops.Mul(x.value, gate.value)
        return self.op(made, x, gate, kind="activation")

    def add(self, *xs: Tensor) -> Tensor:
        """The sum of tensors of one shape, by one op for two of them."""
        total = xs[0]
        for x in xs[1:]:
            total = self.op(ops.Add(total.value, x.value), total, x, kind="sum")
        return total

    def concat(self, *xs: Tensor) -> Tensor:
        return self.op(ops.Concat(*[x.value for x in xs], axis=1), *xs)

    def conv_act(
        self, x: Tensor, channels: int, stride: int = 1, kernel: int = 3
    ) -> Tensor:
        return self.act(self.conv(x, channels, stride, kernel))

    def separable(self, x: Tensor, channels: int, stride: int = 1) -> Tensor:
        """Relu, depthwise and pointwise convolution; its norm is in the weights."""
        return self.conv(self.depthwise(self.act(x), stride), channels, kernel=1)

    def ending(self, *outputs: Tensor) -> Net:
        """The network, with its outputs."""
        self.outputs = list(outputs)
        return self

    def graph(self) -> Graph:
        """The network as a graph that runs, with seeded random weights."""
        outputs = [t.value for t in self.outputs]
        return Graph([self.input.value], outputs, sources=self.sources)  # type: ignore[list-item]

    @property
    def kept(self) -> frozenset[int]:
        """The buffers of the outputs."""
        return frozenset(t.buffer for t in self.outputs if t.buffer is not None)

    def inference(self) -> Tasks:
        tasks = [self._forward(op) for op in self.ops]
        return Tasks(tuple(tasks), tuple(self.sizes), self.kept)

    def training(self) -> Tasks:
        """A step: forward, loss, backward, then all updates, as programs write it.

        A gradient that comes in several parts is summed as they come. Updates are made
        to the weights where they are.
        """
        sizes = [*self.sizes]
        tasks = [self._forward(op) for op in self.ops]
        updates = []

        def made(reads: Iterable[int], size: int, over: int | None = None) -> int:
            buffer = len(sizes)
            sizes.append(size)
            pairs = () if over is None else ((buffer, over),)
            tasks.append(
                Task(frozenset(reads), frozenset({buffer}), frozenset(), 0, pairs)
            )
            return buffer

        ends = [t.buffer for t in self.outputs if t.buffer is not None]
        gradients = {out: made((out,), sizes[out]) for out in ends}
        for op in reversed(self.ops):
            gradient = gradients.pop(op.made)
            if op.weights:
                update = made((*op.reads, gradient), op.weights)
                updates.append(Task(frozenset({update}), frozenset(), frozenset()))
            for read in dict.fromkeys(op.reads):
                mine = gradient
                if op.kind == "activation":
                    mine = made((gradient, op.made), sizes[read], gradient)
                elif op.kind != "sum":
                    mine = made((gradient,), sizes[read])
                if read in gradients:
                    both = gradients[read], mine
                    mine = made(both, sizes[read], gradients[read])
                gradients[read] = mine
        return Tasks((*tasks, *updates), tuple(sizes), frozenset())

    def _forward(self, op: Op) -> Task:
        size = self.sizes[op.made]
        fits = op.kind in ("activation", "sum")
        over = [(op.made, r) for r in op.reads if fits and self.sizes[r] == size]
        return Task(
            frozenset(op.reads), frozenset({op.made}), frozenset(), 0, tuple(over)
        )
