"""Random numbers, the same on every target.

ONNX leaves the generator open. Here it is Threefry-2x32 of 20 rounds (Salmon, Moraes,
Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011), keyed by the
seed and the op's token: NumPy and JAX draw the same numbers, and so does every run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..dims import Dim, Shape
from ..index import Maps
from ..ir import Value
from ..types import DType, Type
from .constant import Constant
from .generation import Shape as ShapeOf, chosen_dtype
from .movement import Expand
from .registry import op
from .steering import axis_names, joined, shape_of
from .structured import Array, Composite, Computed, Elementwise, Structured

if TYPE_CHECKING:
    from ..xp import Namespace

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA
"""Constants of Threefry-2x32."""


def random_bits(
    xp: Namespace, key: tuple[int, int], shape: Sequence[int]
) -> tuple[Array, Array]:
    """Two independent uint32 numbers for each element of ``shape``."""
    low, high = (k & 0xFFFFFFFF for k in key)
    keys = [np.uint32(k) for k in (low, high, low ^ high ^ PARITY)]
    count = math.prod(shape)
    x = xp.add(xp.asarray(np.arange(count, dtype=np.uint32)), keys[0])
    y = xp.add(xp.zeros((count,), np.uint32), keys[1])
    for i in range(5):
        for turn in ROTATIONS[i % 2]:
            x = xp.add(x, y)
            turned = xp.bitwise_or(xp.shift_left(y, turn), xp.shift_right(y, 32 - turn))
            y = xp.bitwise_xor(turned, x)
        x = xp.add(x, keys[(i + 1) % 3])
        y = xp.add(y, np.uint32((int(keys[(i + 2) % 3]) + i + 1) & 0xFFFFFFFF))
    return xp.reshape(x, shape), xp.reshape(y, shape)


def unit(xp: Namespace, bits: Array) -> Array:
    """Bits as float32 numbers, even over [0, 1)."""
    return xp.multiply(xp.cast(xp.shift_right(bits, 8), DType.F32), 2.0**-24)


class Random(Computed):
    """An op that draws numbers: two of them are one op only if their tokens agree."""

    deterministic = False

    def key(self) -> tuple[int, int]:
        """What the numbers depend on: the seed's bits, and the token."""
        seed: float | None = self.seed
        bits = 0 if seed is None else int(np.float32(seed).view(np.uint32))
        return bits, self.token

    def uniform(self, xp: Namespace, shape: Sequence[int]) -> Array:
        """float32 numbers, even over [0, 1)."""
        return unit(xp, random_bits(xp, self.key(), shape)[0])

    def normal(self, xp: Namespace, shape: Sequence[int]) -> Array:
        """float32 numbers of mean 0 and variance 1 (Box and Muller, 1958)."""
        radius, angle = (unit(xp, b) for b in random_bits(xp, self.key(), shape))
        # 1 - radius is in (0, 1]: its logarithm is finite.
        length = xp.sqrt(xp.multiply(-2, xp.log(xp.subtract(1, radius))))
        return xp.multiply(length, xp.cos(xp.multiply(angle, 2 * math.pi)))


class RandomTensor(Random, Structured):
    """Numbers in the dims that an attribute or the operand's own dims give."""

    def result_dtypes(self) -> Sequence[DType | None]:
        return [chosen_dtype(self)]

    def stated(self) -> tuple[int, ...]:
        """The dims that the attribute gives."""
        return tuple(self.attrs["shape"])  # type: ignore[arg-type]

    def wanted(self) -> Shape | None:
        """The dims of the result; None where they are not known."""
        return shape_of(self) if self.operands else self.stated()

    def index_maps(self) -> Maps | None:
        wanted = self.wanted()
        if wanted is None:
            return None
        names = axis_names(len(wanted))
        steering = ["-"] * len(self.operands)
        return self.parse_maps(joined(steering, [names]), positional=names)

    def extents(self) -> Mapping[str, Dim]:
        wanted = self.wanted() or ()
        return dict(zip(axis_names(len(wanted)), wanted, strict=True))

    def draw(self, xp: Namespace, shape: Sequence[int]) -> Array:
        """The numbers, in float32."""
        raise NotImplementedError

    def compute(self, xp: Namespace, *like: Array) -> Array:
        chosen = self.attrs.get("dtype")
        dtype = DType.of(like[0].dtype) if chosen is None else DType(chosen)
        shape = like[0].shape if like else self.stated()
        return xp.cast(self.draw(xp, shape), dtype)


class RandomNormalTensor(RandomTensor):
    """Of a normal distribution with the given ``mean`` and standard deviation."""

    def draw(self, xp: Namespace, shape: Sequence[int]) -> Array:
        return xp.add(xp.multiply(self.normal(xp, shape), self.scale), self.mean)


class RandomUniformTensor(RandomTensor):
    """Even over [low, high)."""

    def draw(self, xp: Namespace, shape: Sequence[int]) -> Array:
        width = self.high - self.low
        return xp.add(xp.multiply(self.uniform(xp, shape), width), self.low)


@op("RandomNormal")
class RandomNormal(RandomNormalTensor):
    """Normal numbers in the dims that ``shape`` states."""


@op("RandomNormalLike")
class RandomNormalLike(RandomNormalTensor):
    """Normal numbers in the dims of the operand."""


@op("RandomUniform")
class RandomUniform(RandomUniformTensor):
    """Uniform numbers in the dims that ``shape`` states."""


@op("RandomUniformLike")
class RandomUniformLike(RandomUniformTensor):
    """Uniform numbers in the dims of the operand."""


@op("Bernoulli")
class Bernoulli(Random, Elementwise):
    """1 with the probability that the operand states, else 0."""

    def result_dtypes(self) -> Sequence[DType | None]:
        return [chosen_dtype(self)]

    def index_maps(self) -> Maps | None:
        shape = shape_of(self)
        if shape is None:
            return None
        names = axis_names(len(shape))
        return self.parse_maps(joined([names], [names]), positional=names)

    def compute(self, xp: Namespace, p: Array) -> Array:
        chosen = self.attrs.get("dtype")
        dtype = DType.of(p.dtype) if chosen is None else DType(chosen)
        hit = xp.less(self.uniform(xp, p.shape), xp.cast(p, DType.F32))
        return xp.cast(hit, dtype)


@op("Multinomial")
class Multinomial(Random, Structured):
    """``sample_size`` classes for each row of unnormalized log-probabilities.

    Drawn as the largest of log-probability plus Gumbel noise (Gumbel, 1954).
    """

    combiner = None

    def result_dtypes(self) -> Sequence[DType | None]:
        return [DType(self.attrs["dtype"])]

    def index_maps(self) -> Maps | None:
        return self.parse_maps("n c -> n s", positional=["n", "c", "s"])

    def extents(self) -> Mapping[str, Dim]:
        return {"s": self.sample_size}

    def compute(self, xp: Namespace, logits: Array) -> Array:
        batch, classes = logits.shape
        even = self.uniform(xp, (batch, self.sample_size, classes))
        # Half a step above the draw: neither logarithm meets 0 or 1.
        even = xp.add(even, 2.0**-25)
        noise = xp.negative(xp.log(xp.negative(xp.log(even))))
        scores = xp.add(noise, xp.unsqueeze(xp.cast(logits, DType.F32), (1,)))
        return xp.cast(xp.argmax(scores, 2), DType(self.attrs["dtype"]))


class _WhileTraining:
    """``deterministic`` of an op that draws numbers only where it may be training.

    The class itself is not deterministic: its ops need tokens.
    """

    def __get__(self, op: Dropout | None, kind: type[Dropout]) -> bool:
        return op is not None and not op.may_draw()


@op("Dropout")
class Dropout(Random, Structured, Composite):
    """x; in training, with a share ``ratio`` of it zero and the rest scaled up.

    Which elements were kept is an optional result. Srivastava et al., "Dropout", JMLR
    15 (2014).
    """

    deterministic = _WhileTraining()
    flops = 2.0

    def may_draw(self) -> bool:
        """False where it is known that nothing is dropped."""
        ratio, training = self.operand(1), self.operand(2)
        if training is None or _is_zero(training):
            return False
        return ratio is None or not _is_zero(ratio)

    def infer(self) -> Sequence[Type]:
        return Structured.infer(self)

    def result_shapes(self) -> Sequence[Shape | None]:
        return [shape_of(self)] * self.outs

    def index_maps(self) -> Maps | None:
        shape = shape_of(self)
        if shape is None:
            return None
        names = axis_names(len(shape))
        steering = ["-"] * (len(self.operands) - 1)
        drawing = self.may_draw()
        return self.parse_maps(
            joined([names, *steering], [names] * self.outs),
            positional=names if drawing else (),
            linear=() if drawing or self.outs > 1 else ((0,),),
            cost=self.flops * drawing,
        )

    def body(self) -> tuple[Value, ...] | None:
        x = self.operands[0]
        if x is None or self.may_draw():
            return None
        if self.outs == 1:
            return (x,)
        return x, Expand(Constant(np.array(True)), ShapeOf(x))

    def compute(
        self,
        xp: Namespace,
        x: Array,
        ratio: Array | None = None,
        training: Array | None = None,
    ) -> Array | tuple[Array, ...]:
        share = 0.5 if ratio is None else float(ratio.item())
        if training is None or not training.item() or not share:
            return x if self.outs == 1 else (x, xp.ones(x.shape, DType.BOOL))
        kept = xp.greater_equal(self.uniform(xp, x.shape), share)

        def scaled(x: Array) -> Array:
            return xp.multiply(xp.where(kept, x, 0), 1 / (1 - share))

        result = xp.each(scaled, x)
        return result if self.outs == 1 else (result, kept)


def _is_zero(value: Value) -> bool:
    """Whether a value is known to hold 0 or False alone."""
    tensor = value.constant
    return tensor is not None and not tensor.array().any()
