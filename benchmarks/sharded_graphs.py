"""Networks as graphs to be planned, not run: their large weights take no memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from graphopt import Graph, ops
from graphopt.ir import Op, Parameter, Value
from graphopt.types import DType, tensor
from graphopt.weights import Tensor


@dataclass
class Network:
    """Makes layers in one element type."""

    dtype: DType = DType.BF16
    inputs: list[Parameter] = field(default_factory=list)
    outputs: dict[str, Value] = field(default_factory=dict)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    buffered: bool = False
    """Keys and values are written into buffers, which a step fills up."""

    def graph(self, **outputs: Value) -> Graph:
        named = {**outputs, **self.outputs}
        return Graph(self.inputs, named.values(), output_names=named)

    def input(self, name: str, *shape: int, dtype: DType | None = None) -> Parameter:
        made = Parameter(tensor(dtype or self.dtype, *shape), name)
        self.inputs.append(made)
        return made

    def weight(self, *shape: int) -> Value:
        if np.prod(shape) <= 1 << 14:  # equal small ones would be one
            drawn = self.rng.standard_normal(shape)
            return ops.Constant(drawn.astype(self.dtype.numpy))
        one = np.zeros((), self.dtype.numpy)
        return ops.Constant(Tensor(self.dtype, shape, np.broadcast_to(one, shape)))

    def scalar(self, value: float) -> Value:
        return ops.Constant(np.asarray(value, self.dtype.numpy))

    def linear(self, x: Value, columns: int, bias: bool = True) -> Value:
        made = ops.MatMul(x, self.weight(_last(x), columns))
        return ops.Add(made, self.weight(columns)) if bias else made

    def norm(self, x: Value) -> Value:
        size = _last(x)
        return ops.LayerNormalization(x, self.weight(size), self.weight(size), axis=-1)

    def rms_norm(self, x: Value) -> Value:
        return ops.RMSNormalization(x, self.weight(_last(x)), axis=-1)

    def heads(self, x: Value, count: int) -> Value:
        batch, seq, width = x.shape  # type: ignore[misc]
        shaped = ops.Reshape(x, _ints(batch, seq, count, width // count))
        return ops.Transpose(shaped, perm=(0, 2, 1, 3))

    def merged(self, x: Value) -> Value:
        batch, heads, seq, each = x.shape  # type: ignore[misc]
        turned = ops.Transpose(x, perm=(0, 2, 1, 3))
        return ops.Reshape(turned, _ints(batch, seq, heads * each))

    def cached(self, x: Value, past: int, name: str) -> Value:
        """With what was there before, which is an input, and the whole an output."""
        if not past:
            return x
        batch, heads, _, each = x.shape  # type: ignore[misc]
        before = self.input(name, batch, heads, past, each)
        if self.buffered:
            whole: Op = ops.TensorScatter(before, x, self.place(x), axis=2)
        else:
            whole = ops.Concat(before, x, axis=2)
        self.outputs[f"new_{name}"] = whole
        return whole

    def place(self, x: Value) -> Value:
        """Where the next token of each sample goes."""
        (at,) = [p for p in self.inputs if p.name == "at"] or [
            self.input("at", x.shape[0], dtype=DType.I64)  # type: ignore[index, arg-type]
        ]
        return at

    def attention(self, x: Value, heads: int, past: int = 0, name: str = "") -> Value:
        """As exporters write it: two products with a softmax between them."""
        width = _last(x)
        q, k, v = (self.heads(self.linear(x, width), heads) for _ in range(3))
        k, v = self.cached(k, past, f"k{name}"), self.cached(v, past, f"v{name}")
        scores = ops.MatMul(q, ops.Transpose(k, perm=(0, 1, 3, 2)))
        scores = ops.Mul(scores, self.scalar(0.125))
        if self.buffered:
            count = ops.Reshape(self.place(x), _ints(-1, 1, 1, 1))
            there = ops.LessOrEqual(_ints(*range(past)), count)
            scores = ops.Where(there, scores, self.scalar(-np.inf))
        seen = ops.Softmax(scores, axis=-1)
        return self.linear(self.merged(ops.MatMul(seen, v)), width)

    def grouped(
        self, x: Value, heads: int, shared: int, past: int = 0, name: str = ""
    ) -> Value:
        """Raised, with fewer heads of keys and values."""
        width = _last(x)
        small = width // heads * shared
        q = self.heads(self.linear(x, width, False), heads)
        k, v = (self.heads(self.linear(x, small, False), shared) for _ in range(2))
        k, v = self.cached(k, past, f"k{name}"), self.cached(v, past, f"v{name}")
        if self.buffered:
            count = ops.Add(self.place(x), _ints(1))
            made = ops.Attention(q, k, v, None, None, None, count)
        else:
            made = ops.Attention(q, k, v, is_causal=int(not past))
        return self.linear(self.merged(made), width, False)

    def layer(self, x: Value, heads: int, past: int = 0, name: str = "") -> Value:
        x = ops.Add(x, self.attention(self.norm(x), heads, past, name))
        up = ops.Gelu(self.linear(self.norm(x), 4 * _last(x)))
        return ops.Add(x, self.linear(up, _last(x)))

    def gated_layer(
        self, x: Value, heads: int, hidden: int, past: int = 0, name: str = ""
    ) -> Value:
        mixed = self.grouped(self.rms_norm(x), heads, heads // 4, past, name)
        x = ops.Add(x, mixed)
        inside = self.rms_norm(x)
        gate = ops.Swish(self.linear(inside, hidden, False))
        up = ops.Mul(gate, self.linear(inside, hidden, False))
        return ops.Add(x, self.linear(up, _last(x), False))

    def mixture(self, x: Value, hidden: int, count: int, chosen: int) -> Value:
        """Each token by a few of the experts, of each group as many as there is room.

        Lepikhin and others, "GShard", arXiv 2006.16668, with its equations.
        """
        groups, seq, width = x.shape  # type: ignore[misc]
        room = 2 * chosen * seq // count  # type: ignore[operator]
        gates = ops.Softmax(self.linear(x, count, bias=False), axis=-1)
        best, which = ops.TopK(gates, _ints(chosen), axis=-1, outs=2).results
        zero_one = ops.Constant(np.array([0, 1], self.dtype.numpy))
        spread = ops.OneHot(which, _ints(count), zero_one)  # by token, choice, expert
        first = ops.Transpose(spread, perm=(0, 2, 1, 3))
        flat = ops.Reshape(first, _ints(groups, chosen * seq, count))
        whole = ops.Cast(flat, to=DType.F32)  # counts beyond 256
        place = ops.CumSum(whole, ops.Constant(np.array(1)), exclusive=1)
        place = ops.Reshape(place, _ints(groups, chosen, seq, count))
        place = ops.Transpose(place, perm=(0, 2, 1, 3))
        at = ops.ReduceSum(
            ops.Mul(place, ops.Cast(spread, to=DType.F32)), _ints(-1), keepdims=0
        )
        seat = ops.OneHot(ops.Cast(at, to=DType.I64), _ints(room), zero_one)
        fits = ops.Less(at, ops.Constant(np.float32(room)))
        weight = ops.Mul(best, ops.Cast(fits, to=self.dtype))
        combine = ops.Einsum(weight, spread, seat, equation="gsk,gske,gskc->gsec")
        sent = ops.Cast(ops.Cast(combine, to=DType.BOOL), to=self.dtype)
        given = ops.Einsum(sent, x, equation="gsec,gsm->egcm")
        up = self.weight(count, width, hidden)
        down = self.weight(count, hidden, width)
        inner = ops.Relu(ops.Einsum(given, up, equation="egcm,emh->egch"))
        made = ops.Einsum(inner, down, equation="egch,ehm->egcm")
        return ops.Einsum(combine, made, equation="gsec,egcm->gsm")

    def conv(self, x: Value, channels: int, kernel: int, stride: int = 1) -> Value:
        weight = self.weight(channels, x.shape[1], kernel, kernel)  # type: ignore[index]
        pads = (kernel // 2,) * 4
        return ops.Conv(
            x, weight, self.weight(channels), pads=pads, strides=(stride, stride)
        )


def _last(x: Value) -> int:
    size = (x.shape or (0,))[-1]
    assert isinstance(size, int)
    return size


def _ints(*values: int) -> Op:
    return ops.Constant(np.asarray(values, np.int64))


def decoder(
    layers: int = 8,
    batch: int = 1,
    seq: int = 2048,
    past: int = 0,
    width: int = 4096,
    *,
    buffered: bool = False,
) -> Graph:
    """A decoder as GPT is one, behind its embedding."""
    net = Network(buffered=buffered)
    x: Value = net.input("x", batch, seq, width)
    for i in range(layers):
        x = net.layer(x, width // 128, past, str(i))
    return net.graph(y=net.norm(x))


def gated(
    layers: int = 8,
    batch: int = 1,
    seq: int = 2048,
    past: int = 0,
    width: int = 4096,
    *,
    buffered: bool = False,
) -> Graph:
    """As Llama is one: a quarter of the heads for keys and values, a gate."""
    net = Network(buffered=buffered)
    x: Value = net.input("x", batch, seq, width)
    for i in range(layers):
        x = net.gated_layer(x, width // 128, 14336, past, str(i))
    return net.graph(y=net.rms_norm(x))


def experts(
    layers: int = 4,
    groups: int = 8,
    seq: int = 1024,
    width: int = 1024,
    hidden: int = 4096,
    count: int = 8,
    chosen: int = 2,
    dtype: DType = DType.BF16,
) -> Graph:
    """Mixtures of experts with a capacity, as GShard dispatches tokens to them."""
    net = Network(dtype)
    x: Value = net.input("x", groups, seq, width)
    for _ in range(layers):
        x = ops.Add(x, net.mixture(net.norm(x), hidden, count, chosen))
    return net.graph(y=net.norm(x))


def encoder(layers: int = 8, batch: int = 8, seq: int = 512) -> Graph:
    """As BERT is one, from words to words."""
    net = Network()
    words, width = 32768, 1024
    ids = net.input("ids", batch, seq, dtype=DType.I64)
    table = net.weight(words, width)
    x: Value = net.norm(ops.Gather(table, ids))
    for _ in range(layers):
        x = net.layer(x, 16)
    return net.graph(scores=ops.MatMul(x, ops.Transpose(table, perm=(1, 0))))


def vision(layers: int = 8, batch: int = 64) -> Graph:
    """A transformer over the patches of images."""
    net = Network()
    width = 1024
    x: Value = net.input("images", batch, 3, 256, 256)
    patches = ops.Conv(x, net.weight(width, 3, 16, 16), strides=(16, 16))
    flat = ops.Reshape(patches, _ints(batch, width, 256))
    x = ops.Add(ops.Transpose(flat, perm=(0, 2, 1)), net.weight(1, 256, width))
    for _ in range(layers):
        x = net.layer(x, 16)
    pooled = ops.ReduceMean(net.norm(x), _ints(1), keepdims=0)
    return net.graph(scores=net.linear(pooled, 1000))


def convolutions(batch: int = 64, side: int = 224) -> Graph:
    """A residual network of bottlenecks, as ResNet-50."""
    net = Network()
    x: Value = net.input("images", batch, 3, side, side)
    x = ops.Relu(net.conv(x, 64, 7, 2))
    x = ops.MaxPool(x, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    for stage, count in enumerate((3, 4, 6, 3)):
        for block in range(count):
            inner, stride = 64 * 2**stage, 2 if stage and not block else 1
            inside = ops.Relu(net.conv(x, inner, 1))
            inside = ops.Relu(net.conv(inside, inner, 3, stride))
            inside = net.conv(inside, 4 * inner, 1)
            beside = x if block else net.conv(x, 4 * inner, 1, stride)
            x = ops.Relu(ops.Add(inside, beside))
    pooled = ops.ReduceMean(x, _ints(2, 3), keepdims=0)
    return net.graph(scores=net.linear(pooled, 1000))


def recommender(batch: int = 4096, tables: int = 8) -> Graph:
    """As DLRM is one: large tables, small products."""
    net = Network(DType.F32)
    dense: Value = net.input("dense", batch, 16)
    for columns in (512, 256, 128):
        dense = ops.Relu(net.linear(dense, columns))
    found = [
        ops.Gather(net.weight(2**22, 128), net.input(f"ids{i}", batch, dtype=DType.I64))
        for i in range(tables)
    ]
    rows = [ops.Reshape(v, _ints(batch, 1, 128)) for v in (dense, *found)]
    together = ops.Concat(*rows, axis=1)
    pairs = ops.MatMul(together, ops.Transpose(together, perm=(0, 2, 1)))
    flat = ops.Reshape(pairs, _ints(batch, (tables + 1) ** 2))
    x: Value = ops.Concat(dense, flat, axis=1)
    for columns in (1024, 1024, 512, 256):
        x = ops.Relu(net.linear(x, columns))
    return net.graph(score=net.linear(x, 1))


def mixer(layers: int = 8, batch: int = 64) -> Graph:
    """Products along patches and along channels in turns."""
    net = Network()
    x: Value = net.input("patches", batch, 256, 1024)
    for _ in range(layers):
        turned = ops.Transpose(net.norm(x), perm=(0, 2, 1))
        turned = net.linear(ops.Gelu(net.linear(turned, 512)), 256)
        x = ops.Add(x, ops.Transpose(turned, perm=(0, 2, 1)))
        x = ops.Add(x, net.linear(ops.Gelu(net.linear(net.norm(x), 4096)), 1024))
    return net.graph(y=x)


NETWORKS: Mapping[str, Mapping[str, Callable[[], Graph]]] = {
    "decoder": {
        "prefill": lambda: decoder(batch=1),
        "batch": lambda: decoder(batch=16),
        "decode": lambda: decoder(batch=16, seq=1, past=4096),
    },
    "gated decoder": {
        "prefill": lambda: gated(batch=1),
        "batch": lambda: gated(batch=16),
        "decode": lambda: gated(batch=16, seq=1, past=4096),
    },
    "experts": {"batch": lambda: experts(groups=16), "prefill": experts},
    "encoder": {"batch": lambda: encoder(batch=64), "few": lambda: encoder(batch=4)},
    "vision transformer": {"batch": vision, "few": lambda: vision(batch=4)},
    "convolutions": {
        "batch": convolutions,
        "one large image": lambda: convolutions(1, 1024),
    },
    "recommender": {"batch": recommender},
    "mixer": {"batch": mixer, "few": lambda: mixer(batch=2)},
}
"""By network and regime."""
