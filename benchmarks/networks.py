"""Networks as tasks with the bytes of their activations: inference and training.

Sizes are those of float32 at batch 1, in the order in which a program writes the ops.
The network's input is the caller's and no buffer; outputs are kept, weights are not
counted. Activations and sums may compute in place. Convolutions hold no workspace.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphopt.passes.memory import Task, Tasks

Shape = tuple[int, int, int]
"""Channels, height, width."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a network: its buffer, None for the network's input."""

    buffer: int | None
    shape: Shape


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
        self.input = Tensor(None, (channels, height, width))
        self.ops: list[Op] = []
        self.sizes: list[int] = []
        self.outputs: list[int] = []

    def op(
        self, shape: Shape, *reads: Tensor, kind: str = "moves", weights: int = 0
    ) -> Tensor:
        """Any op: of what it reads comes a tensor of this shape."""
        made = self.buffer(4 * shape[0] * shape[1] * shape[2])
        read = tuple(r.buffer for r in reads if r.buffer is not None)
        self.ops.append(Op(made, read, kind, weights))
        return Tensor(made, shape)

    def buffer(self, size: int) -> int:
        self.sizes.append(size)
        return len(self.sizes) - 1

    def conv(
        self, x: Tensor, channels: int, stride: int = 1, kernel: int = 3
    ) -> Tensor:
        """A convolution, padded so that only strides matter."""
        weights = 4 * x.shape[0] * channels * kernel * kernel
        return self._strided(x, channels, stride, "product", weights)

    def depthwise(self, x: Tensor, stride: int = 1) -> Tensor:
        return self._strided(x, x.shape[0], stride, "product", 4 * x.shape[0] * 9)

    def pool(self, x: Tensor, stride: int = 1) -> Tensor:
        return self._strided(x, x.shape[0], stride, "moves", 0)

    def _strided(
        self, x: Tensor, channels: int, stride: int, kind: str, weights: int
    ) -> Tensor:
        shape = channels, -(-x.shape[1] // stride), -(-x.shape[2] // stride)
        return self.op(shape, x, kind=kind, weights=weights)

    def up(self, x: Tensor, channels: int, factor: int = 2) -> Tensor:
        """A transposed convolution whose windows do not overlap."""
        shape = channels, x.shape[1] * factor, x.shape[2] * factor
        weights = 4 * x.shape[0] * channels * factor * factor
        return self.op(shape, x, kind="product", weights=weights)

    def act(self, x: Tensor) -> Tensor:
        """An activation, or a norm with fixed statistics."""
        return self.op(x.shape, x, kind="activation")

    def add(self, *xs: Tensor) -> Tensor:
        """The sum of tensors of one shape, by one op for two of them."""
        total = xs[0]
        for x in xs[1:]:
            total = self.op(x.shape, total, x, kind="sum")
        return total

    def concat(self, *xs: Tensor) -> Tensor:
        return self.op((sum(x.shape[0] for x in xs), *xs[0].shape[1:]), *xs)

    def conv_act(
        self, x: Tensor, channels: int, stride: int = 1, kernel: int = 3
    ) -> Tensor:
        return self.act(self.conv(x, channels, stride, kernel))

    def separable(self, x: Tensor, channels: int, stride: int = 1) -> Tensor:
        """Relu, depthwise and pointwise convolution; its norm is in the weights."""
        return self.conv(self.depthwise(self.act(x), stride), channels, kernel=1)

    def ending(self, *outputs: Tensor) -> Net:
        """The network, with its outputs."""
        self.outputs = [t.buffer for t in outputs if t.buffer is not None]
        return self

    def inference(self) -> Tasks:
        tasks = [self._forward(op) for op in self.ops]
        return Tasks(tuple(tasks), tuple(self.sizes), frozenset(self.outputs))

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

        gradients = {out: made((out,), sizes[out]) for out in self.outputs}
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
