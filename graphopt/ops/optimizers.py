"""Steps of gradient descent (domain ai.onnx.preview.training)."""

from __future__ import annotations

from typing import ClassVar

from ..ir import Value
from ..types import DType
from .bodies import cast, scalar, vector
from .comparison import Equal, Greater, Where
from .elementwise import Add, Div, Mul, Pow, Sqrt, Sub
from .registry import op
from .reshaping import Reshape
from .structured import Composite

DOMAIN = "ai.onnx.preview.training"


class Optimizer(Composite):
    """New values of several tensors: ``(rate, count, *x, *gradient, *states)``.

    It gives all new tensors, then all new values of each state. The number of steps
    that were made before is ``count``.
    """

    __slots__ = ()
    states: ClassVar[int]
    """Tensors that are kept from step to step, for each that is optimized."""

    @property
    def count(self) -> int:
        """How many tensors are optimized."""
        given, each = len(self.operands) - 2, 2 + self.states
        if given <= 0 or given % each:
            raise self.error(f"takes {each} tensors for each that it optimizes")
        return given // each

    def default_outs(self) -> int:
        return self.count * (1 + self.states)

    def body(self) -> tuple[Value, ...] | None:
        rate, steps, *tensors = self.operands
        n = self.count
        groups = [tensors[i::n] for i in range(n)]
        made = [self._one(rate, steps, group) for group in groups]
        if any(one is None for one in made):
            return None
        found = [one for one in made if one is not None]
        return tuple([value for column in zip(*found, strict=True) for value in column])

    def _one(
        self, rate: Value | None, steps: Value | None, tensors: list[Value | None]
    ) -> tuple[Value, ...] | None:
        given = [v for v in tensors if v is not None]
        if rate is None or steps is None or len(given) < len(tensors):
            return None
        dtype = given[0].dtype
        if dtype is None:
            return None
        rate = Reshape(cast(rate, dtype), vector())
        steps = Reshape(steps, vector())
        x, gradient, *states = given
        decay = scalar(self.norm_coefficient, dtype)
        return self.step(rate, steps, x, Add(Mul(decay, x), gradient), *states)

    def step(
        self, rate: Value, steps: Value, x: Value, gradient: Value, *states: Value
    ) -> tuple[Value, ...]:
        """The new x and its new states; the gradient has its regularization."""
        raise NotImplementedError


@op("Adagrad", domain=DOMAIN)
class Adagrad(Optimizer):
    """The state is the sum of squared gradients. Duchi et al., JMLR 12 (2011)."""

    __slots__ = ()
    states = 1

    def step(
        self, rate: Value, steps: Value, x: Value, gradient: Value, *states: Value
    ) -> tuple[Value, ...]:
        dtype, (squares,) = _dtype(x), states
        slowed = Mul(cast(steps, dtype), scalar(self.decay_factor, dtype))
        rate = Div(rate, Add(scalar(1, dtype), slowed))
        squares = Add(squares, Mul(gradient, gradient))
        size = Add(_flat_root(squares), scalar(self.epsilon, dtype))
        return Sub(x, Div(Mul(rate, gradient), size)), squares


@op("Adam", domain=DOMAIN)
class Adam(Optimizer):
    """States are running means of gradients and their squares. Kingma and Ba, 2015."""

    __slots__ = ()
    states = 2

    def step(
        self, rate: Value, steps: Value, x: Value, gradient: Value, *states: Value
    ) -> tuple[Value, ...]:
        dtype, (mean, squares) = _dtype(x), states
        alpha, beta, one = self.alpha, self.beta, scalar(1, dtype)

        def mixed(old: Value, new: Value, keep: float) -> Value:
            kept = Mul(scalar(keep, dtype), old)
            return Add(kept, Mul(scalar(1 - keep, dtype), new))

        def left(keep: float) -> Value:
            """What a mean that started at zero has of the whole by now."""
            return Sub(one, Pow(scalar(keep, dtype), cast(counted, dtype)))

        mean = mixed(mean, gradient, alpha)
        squares = mixed(squares, Mul(gradient, gradient), beta)
        later = Greater(steps, scalar(0, DType.I64))
        # The first step is not adjusted; by nothing divided by nothing it had no slope.
        counted = Where(later, steps, scalar(1, DType.I64))
        adjusted = Div(Mul(rate, Sqrt(left(beta))), left(alpha))
        rate = Where(later, adjusted, rate)
        size = Add(_flat_root(squares), scalar(self.epsilon, dtype))
        moved = Sub(x, Mul(rate, Div(mean, size)))
        kept = scalar(1 - self.norm_coefficient_post, dtype)
        return Mul(kept, moved), mean, squares


@op("Momentum", domain=DOMAIN)
class Momentum(Optimizer):
    """The state is what moves x; in ``mode`` nesterov x is moved one step ahead."""

    __slots__ = ()
    states = 1

    def step(
        self, rate: Value, steps: Value, x: Value, gradient: Value, *states: Value
    ) -> tuple[Value, ...]:
        dtype, (momentum,) = _dtype(x), states
        later = Greater(steps, scalar(0, DType.I64))
        share = Where(later, scalar(self.beta, dtype), scalar(1, dtype))
        alpha = scalar(self.alpha, dtype)
        momentum = Add(Mul(alpha, momentum), Mul(share, gradient))
        moved: Value = momentum
        if self.mode == "nesterov":
            moved = Add(gradient, Mul(alpha, momentum))
        elif self.mode != "standard":
            raise self.error(f"mode {self.mode!r} is neither standard nor nesterov")
        return Sub(x, Mul(rate, moved)), momentum


def _dtype(x: Value) -> DType:
    assert x.dtype is not None
    return x.dtype


def _flat_root(squares: Value) -> Value:
    """The square root, with slope zero at zero, where it is upright.

    Of ``g / (sqrt(s + g g) + epsilon)`` at zero this is the slope itself: 1 / epsilon
    by ``g``, none by ``s``.
    """
    dtype = _dtype(squares)
    none = Equal(squares, scalar(0, dtype))
    root = Sqrt(Where(none, scalar(1, dtype), squares))
    return Where(none, scalar(0, dtype), root)
