"""Attention as one kernel of a TPU, in Pallas: scores never leave VMEM.

Dao and others, "FlashAttention", arXiv 2205.14135; Milakov and Gimelshein, "Online
normalizer calculation for softmax", arXiv 1805.02867.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import batching, mlir

from graphopt import dims
from graphopt.ir import Graph
from graphopt.ops import Attention
from graphopt.passes.memory.attended import Sizes, sizes_of
from graphopt.passes.memory.kernel import Blocks, blocks
from graphopt.passes.memory.space import LANES
from graphopt.rewrite import Miss

if TYPE_CHECKING:
    from graphopt.xp import Namespace

Array = Any

NAME: Final = "attention"
LOWEST: Final = float(np.finfo(np.float32).min)
"""A score below all: minus infinity less itself would be NaN."""

_ZERO: Final = np.int32(0)
_Spec: Final[Any] = pl.BlockSpec  # which JAX has not typed, or too narrowly
_Struct: Final[Any] = jax.ShapeDtypeStruct
_Vmem: Final[Any] = pltpu.VMEM
_Params: Final[Any] = pltpu.CompilerParams


def attended(op: Attention, xp: Namespace, *operands: Array) -> Any:
    """The attention of a graph: by the kernel where a TPU runs it and there is one.

    `blocks` decides, from shapes and types alone. Derivatives are those of the whole.
    """
    whole = partial(op.compute, xp)
    shapes = [None if x is None else tuple(x.shape) for x in operands]
    cut = blocks(op, shapes)
    if isinstance(cut, Miss):
        return whole(*operands)
    sizes = sizes_of(op, shapes)
    assert isinstance(sizes, Sizes)
    kernel = Kernel.of(op, sizes, cut, xp)

    @jax.custom_jvp
    def run(*arrays: Array) -> Array:
        ways = [jax.make_jaxpr(way)(*arrays) for way in (kernel, whole)]
        (found,) = _either.bind(*arrays, kernel=ways[0], whole=ways[1])
        return found

    @run.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return jax.jvp(whole, primals, tangents)

    return run(*[jnp.asarray(x) for x in operands if x is not None])


_either: Final[Any] = Primitive("attention")
"""The kernel on TPUs, the whole elsewhere, and under `jax.vmap`. JAX's own choice by
platform lowers both for all of them, where a program is for several."""
_either.multiple_results = True


def _eager(*arrays: Array, **ways: Any) -> Any:
    return jax.jit(lambda *given: _either.bind(*given, **ways))(*arrays)


def _typed(*_: Any, kernel: Any, whole: Any) -> Any:
    return whole.out_avals


def _batched(arrays: Any, axes: Any, *, kernel: Any, whole: Any) -> Any:
    found = jax.vmap(jaxpr_as_fun(whole), in_axes=axes)(*arrays)
    return found, [0] * len(found)


def _lowering(way: str) -> Any:
    def run(*arrays: Array, **ways: Any) -> Any:
        return jaxpr_as_fun(ways[way])(*arrays)

    return mlir.lower_fun(run, multiple_results=True)


_either.def_impl(_eager)
_either.def_abstract_eval(_typed)
batching.primitive_batchers[_either] = _batched
mlir.register_lowering(_either, _lowering("whole"))
mlir.register_lowering(_either, _lowering("kernel"), platform="tpu")


def forms(graph: Graph, binding: Mapping[str, int]) -> dict[str, int]:
    """How many attentions of a graph a TPU runs in which form, and why so."""
    found: Counter[str] = Counter()
    for _, op in graph.walk():
        if not isinstance(op, Attention):
            continue
        shapes = [None if v is None else v.shape for v in op.operands]
        bound = [
            None if s is None else tuple([dims.substitute(d, binding) for d in s])
            for s in shapes
        ]
        cut = blocks(op, bound)
        text = f"whole: {cut.reason}" if isinstance(cut, Miss) else f"kernel: {cut}"
        found[text] += 1
    return dict(found)


@dataclass(frozen=True)
class Kernel:
    """The kernel of one attention, called with its q, k, v, and mask.

    The grid has a step for each instance, head, block of queries and block of keys. The
    largest score, the sum and the weighted sum of a block of queries stay in VMEM while
    it sees one block of keys after the other; those that positions hide are not
    fetched. ``interpret`` runs it as JAX's ops, on any device.
    """

    sizes: Sizes
    cut: Blocks
    scale: float
    cap: float
    left: int
    right: int
    """How many keys before and after a query it sees; -1 for all."""
    precision: Any
    interpret: Any = False

    @classmethod
    def of(cls, op: Attention, sizes: Sizes, cut: Blocks, xp: Namespace) -> Kernel:
        """That of an op whose products are as precise as those of a namespace."""
        scale = 1 / math.sqrt(sizes.width) if op.scale is None else op.scale
        right = 0 if op.is_causal else op.right_window_size
        precision = getattr(xp, "precision", None)
        return cls(sizes, cut, scale, op.softcap, op.left_window_size, right, precision)

    def __call__(
        self, q: Array, k: Array, v: Array, mask: Array | None = None
    ) -> Array:
        flat, dtype, sizes = q.ndim == 3, q.dtype, self.sizes
        if flat:
            q = _heads(q, sizes.heads)
            k, v = (_heads(x, sizes.shared) for x in (k, v))
        shape = (sizes.batch, sizes.heads, sizes.queries, sizes.depth)
        given, specs = [q, k, v], self._specs()
        if mask is not None:
            mask = jnp.reshape(mask, (1,) * (4 - mask.ndim) + mask.shape)
            specs.append(self._mask_spec(mask.shape))
            given.append(mask.astype(np.int8) if mask.dtype == np.bool_ else mask)
        rows, depth = self.cut.queries, sizes.depth
        y = pl.pallas_call(
            self._step,
            grid=(sizes.batch, sizes.heads, self._rows, self._columns),
            in_specs=specs,
            out_specs=_Spec((None, None, rows, depth), self._of_queries),
            out_shape=_Struct(shape, dtype),
            scratch_shapes=[
                _Vmem((rows, width), np.float32)
                for width in (LANES[1], LANES[1], depth)
            ],
            compiler_params=_Params(
                dimension_semantics=(*["parallel"] * 3, "arbitrary")
            ),
            cost_estimate=self._cost(given, dtype),
            interpret=self.interpret,
            name=NAME,
        )(*given)
        if flat:
            y = jnp.swapaxes(y, 1, 2).reshape(sizes.batch, sizes.queries, -1)
        return y

    @property
    def _rows(self) -> int:
        return -(-self.sizes.queries // self.cut.queries)

    @property
    def _columns(self) -> int:
        return -(-self.sizes.keys // self.cut.keys)

    # What a step of the grid has

    def _specs(self) -> list[Any]:
        sizes, cut = self.sizes, self.cut
        return [
            _Spec((None, None, cut.queries, sizes.width), self._of_queries),
            _Spec((None, None, cut.keys, sizes.width), self._of_keys),
            _Spec((None, None, cut.keys, sizes.depth), self._of_keys),
        ]

    def _of_queries(self, b: Any, h: Any, i: Any, j: Any) -> tuple[Any, ...]:
        return b, h, i, _ZERO

    def _of_keys(self, b: Any, h: Any, i: Any, j: Any) -> tuple[Any, ...]:
        each = self.sizes.heads // self.sizes.shared
        head = lax.div(h, np.int32(each)) if each > 1 else h
        return b, head, self._seen_of(i, j), _ZERO

    def _mask_spec(self, shape: tuple[int, ...]) -> Any:
        """A mask of one instance, head or query is that of all."""
        many = [extent > 1 for extent in shape[:3]]

        def place(b: Any, h: Any, i: Any, j: Any) -> tuple[Any, ...]:
            at = [x if more else _ZERO for x, more in zip((b, h, i), many, strict=True)]
            return (*at, self._seen_of(i, j))

        rows = self.cut.queries if many[2] else 1
        return _Spec((None, None, rows, self.cut.keys), place)

    def _span(self, i: Any) -> tuple[Any, Any]:
        """The first and the last block of keys that a block of queries sees."""
        rows, keys = np.int32(self.cut.queries), np.int32(self.cut.keys)
        first: Any = _ZERO
        last: Any = np.int32(self._columns - 1)
        if self.left >= 0:
            nearest = i * rows - np.int32(self.left)
            first = lax.div(lax.max(nearest, _ZERO), keys)
            first = lax.min(first, last)
        if self.right >= 0:
            furthest = i * rows + np.int32(self.cut.queries - 1 + self.right)
            last = lax.min(lax.div(furthest, keys), last)
        return first, last

    def _seen_of(self, i: Any, j: Any) -> Any:
        """The block that is there at a step: the nearest one that is seen."""
        if self.left < 0 and self.right < 0:
            return j
        first, last = self._span(i)
        return lax.min(lax.max(j, first), last)

    def _cost(self, given: list[Array], dtype: Any) -> Any:
        sizes = self.sizes
        moved = sum(x.size * x.dtype.itemsize for x in given)
        moved += (
            sizes.batch * sizes.heads * sizes.queries * sizes.depth * (dtype.itemsize)
        )
        return pl.CostEstimate(
            flops=2 * sizes.scores * (sizes.width + sizes.depth),
            bytes_accessed=moved,
            transcendentals=sizes.scores,
        )

    # What it does

    def _step(self, q: Any, k: Any, v: Any, *others: Any) -> None:
        """One block of queries sees one block of keys."""
        *masks, y, top, total, weighted = others
        i, j = pl.program_id(2), pl.program_id(3)

        @pl.when(j == 0)
        def _() -> None:
            top[...] = jnp.full(top.shape, LOWEST, np.float32)
            total[...] = jnp.zeros(total.shape, np.float32)
            weighted[...] = jnp.zeros(weighted.shape, np.float32)

        def see() -> None:
            values = v[...]
            if self.sizes.keys % self.cut.keys:  # what lies beyond may be NaN
                rows = self._places(i, j, values.shape, keys=0)
                values = jnp.where(rows < self.sizes.keys, values, 0)
            scores = self._scores(i, j, q[...], k[...], [m[...] for m in masks])
            higher = jnp.maximum(top[...], jnp.max(scores, 1, keepdims=True))
            powers = jnp.exp(scores - higher[:, :1])
            less = jnp.exp(top[...] - higher)
            top[...] = higher
            total[...] = total[...] * less + jnp.sum(powers, 1, keepdims=True)
            weighted[...] = weighted[...] * less[:, :1] + self._product(
                powers.astype(values.dtype), values, 0
            )

        if self.left < 0 and self.right < 0:
            see()
        else:
            first, last = self._span(i)
            pl.when((j >= first) & (j <= last))(see)

        @pl.when(j == self._columns - 1)
        def _() -> None:
            sums = total[:, :1]
            one = jnp.ones_like(sums)
            found = weighted[...] / jnp.where(sums == 0, one, sums)
            y[...] = found.astype(y.dtype)

    def _scores(self, i: Any, j: Any, q: Array, k: Array, masks: list[Array]) -> Array:
        scores = self._product(q, k, 1) * np.float32(self.scale)
        if self.cap > 0:
            cap = np.float32(self.cap)
            scores = jnp.tanh(scores / cap) * cap
        hidden = np.float32(-math.inf)
        for mask in masks:
            if mask.dtype == np.int8:
                scores = jnp.where(mask.astype(np.int32) != 0, scores, hidden)
            else:
                scores = scores + mask.astype(np.float32)
        column = self._places(i, j, scores.shape, keys=1)
        if self.sizes.keys % self.cut.keys:
            scores = jnp.where(column < self.sizes.keys, scores, hidden)
        if self.left < 0 and self.right < 0:
            return scores
        row = self._places(i, j, scores.shape, queries=0)
        if self.right >= 0:
            scores = jnp.where(column <= row + self.right, scores, hidden)
        if self.left >= 0:
            scores = jnp.where(column >= row - self.left, scores, hidden)
        return scores

    def _places(
        self,
        i: Any,
        j: Any,
        shape: tuple[int, ...],
        *,
        queries: int | None = None,
        keys: int | None = None,
    ) -> Array:
        """The positions of queries or keys, along a dim of a matrix."""
        if queries is not None:
            first, dim = i * np.int32(self.cut.queries), queries
        else:
            assert keys is not None
            first, dim = j * np.int32(self.cut.keys), keys
        return first + lax.broadcasted_iota(np.int32, shape, dim)

    def _product(self, a: Array, b: Array, dim: int) -> Array:
        """a b, or a b' for dim 1: summed in float32."""
        return lax.dot_general(
            a,
            b,
            (((1,), (dim,)), ((), ())),
            precision=self.precision if a.dtype == np.float32 else None,
            preferred_element_type=np.float32,
        )


def _heads(x: Array, count: int) -> Array:
    """[batch, position, head * size] as [batch, head, position, size]."""
    batch, length, _ = x.shape
    return jnp.swapaxes(x.reshape(batch, length, count, -1), 1, 2)
