"""The activations that the gates of recurrent ops may have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ..errors import TypeMismatch
from .structured import Array

if TYPE_CHECKING:
    from ..xp import Namespace

Function: TypeAlias = Callable[[Array], Array]


class Activation(NamedTuple):
    """A function of an array and two numbers, which have defaults where it uses them.

    The defaults are those of the ops of the same name.
    """

    formula: Callable[[Namespace, Array, float, float], Array]
    alpha: float | None = None
    beta: float | None = None


ACTIVATIONS = {
    "affine": Activation(lambda xp, x, a, b: a * x + b, 1.0, 0.0),
    "elu": Activation(
        lambda xp, x, a, b: xp.where(x < 0, a * xp.expm1(xp.minimum(x, 0)), x), 1.0
    ),
    "hardsigmoid": Activation(lambda xp, x, a, b: xp.clip(a * x + b, 0, 1), 0.2, 0.5),
    "leakyrelu": Activation(lambda xp, x, a, b: xp.where(x < 0, a * x, x), 0.01),
    "relu": Activation(lambda xp, x, a, b: xp.maximum(x, 0)),
    "scaledtanh": Activation(lambda xp, x, a, b: a * xp.tanh(b * x), 1.0, 1.0),
    "sigmoid": Activation(lambda xp, x, a, b: xp.sigmoid(x)),
    "softplus": Activation(lambda xp, x, a, b: xp.softplus(x)),
    "softsign": Activation(lambda xp, x, a, b: x / (1 + xp.abs(x))),
    "tanh": Activation(lambda xp, x, a, b: xp.tanh(x)),
    "thresholdedrelu": Activation(lambda xp, x, a, b: xp.where(x >= a, x, 0), 1.0),
}


def gate_functions(
    xp: Namespace,
    names: Iterable[str],
    alphas: Iterable[float],
    betas: Iterable[float],
) -> list[Function]:
    """The activations called ``names``.

    Those that use numbers take them one by one from ``alphas`` and ``betas``. Raises
    TypeMismatch for an unknown name.
    """
    alphas, betas = iter(alphas), iter(betas)
    functions: list[Function] = []
    for name in names:
        found = ACTIVATIONS.get(name.lower())
        if found is None:
            raise TypeMismatch(f"no activation is called {name!r}")
        alpha = 0.0 if found.alpha is None else next(alphas, found.alpha)
        beta = 0.0 if found.beta is None else next(betas, found.beta)
        functions.append(partial(_apply, xp, found, alpha, beta))
    return functions


def _apply(
    xp: Namespace, chosen: Activation, alpha: float, beta: float, x: Array
) -> Array:
    return chosen.formula(xp, x, alpha, beta)
