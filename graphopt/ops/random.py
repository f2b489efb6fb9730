"""Random numbers: from a seed the same in every run and on every target.

ONNX leaves the generator open. Here it is NumPy's Mersenne Twister, started from the
seed, or where an op has none from its token. XLA draws the latter from a key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..dims import Dim, Shape
from ..index import Maps
from ..ir import Op, Value
from ..types import DType, Type
from .constant import Constant
from .generation import Shape as ShapeOf, chosen_dtype
from .movement import Expand
from .registry import op
from .steering import axis_names, joined, shape_of
from .structured import Array, Composite, Computed, Elementwise, Structured

if TYPE_CHECKING:
    from ..xp import Namespace
    from ..xp.drawing import Generator


class Random(Computed):
    """An op that draws numbers: two of them are one op only if their tokens agree."""

    deterministic = False

    @property
    def stated(self) -> bool:
        """True where the model says a seed."""
        return self.seed is not None

    def generator(self, xp: Namespace) -> Generator:
        """A generator at its start."""
        number = int(self.seed) % 2**32 if self.stated else self.token
        return xp.generator(number, stated=self.stated)


def is_random(op: Op) -> bool:
    """True for an op that draws numbers; not for one of which nothing is known."""
    return isinstance(op, Random) and not op.deterministic


def draws(op: Op) -> bool:
    """True for an op that draws numbers and does not say from which seed."""
    return isinstance(op, Random) and is_random(op) and not op.stated


class RandomTensor(Random, Structured):
    """Numbers in the dims that an attribute or the operand's own dims give."""

    def result_dtypes(self) -> Sequence[DType | None]:
        return [chosen_dtype(self)]

    def dims(self) -> tuple[int, ...]:
        """The dims that the attribute gives."""
        return tuple(self.attrs["shape"])  # type: ignore[arg-type]

    def wanted(self) -> Shape | None:
        """The dims of the result; None where they are not known."""
        return shape_of(self) if self.operands else self.dims()

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

    def draw(self, generator: Generator, shape: Sequence[int]) -> Array:
        """The numbers."""
        raise NotImplementedError

    def compute(self, xp: Namespace, *like: Array) -> Array:
        chosen = self.attrs.get("dtype")
        dtype = DType.of(like[0].dtype) if chosen is None else DType(chosen)
        shape = like[0].shape if like else self.dims()
        return xp.cast(xp.asarray(self.draw(self.generator(xp), shape)), dtype)


class RandomNormalTensor(RandomTensor):
    """Of a normal distribution with the given ``mean`` and standard deviation."""

    def draw(self, generator: Generator, shape: Sequence[int]) -> Array:
        return generator.normal(self.mean, self.scale, shape)


class RandomUniformTensor(RandomTensor):
    """Even over [low, high)."""

    def draw(self, generator: Generator, shape: Sequence[int]) -> Array:
        return generator.uniform(self.low, self.high, shape)


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
        even = xp.asarray(self.generator(xp).uniform(size=p.shape))
        return xp.cast(xp.less(even, xp.cast(p, DType.F64)), dtype)


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
        noise = self.generator(xp).gumbel(size=(batch, self.sample_size, classes))
        wide = xp.unsqueeze(xp.cast(logits, DType.F64), (1,))
        scores = xp.add(xp.asarray(noise), wide)
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
    static = (1, 2)
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
        kept = xp.asarray(self.generator(xp).uniform(size=x.shape) >= share)

        def scaled(x: Array) -> Array:
            return xp.multiply(xp.where(kept, x, 0), 1 / (1 - share))

        result = xp.each(scaled, x)
        return result if self.outs == 1 else (result, kept)


def _is_zero(value: Value) -> bool:
    """Whether a value is known to hold 0 or False alone."""
    tensor = value.constant
    return tensor is not None and not tensor.array().any()
