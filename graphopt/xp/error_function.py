"""The error function on the host, without SciPy's half second of import.

For ``x >= 0``, ``erf(x) = -expm1(-x r(x))`` with ``r(x) = -log(erfc(x)) / x``, which is
smooth. An error in ``r`` is damped by ``erfc(x)``, so one short fit serves the whole
range at full relative accuracy. Its coefficients are minimax, by Lawson's method in 40
digits; one form with an exponential is the idea of Abramowitz and Stegun 7.1.26.
Largest errors, against mpmath: 0.51 ulp in float32, 6e-16 in float64.
"""

from __future__ import annotations

import numpy as np

from .foundation import Array

_SINGLE = (
    1.1283791666221428,
    0.6366198346786157,
    0.10277127600435475,
    -0.019117687714988715,
    -0.00025308234253619164,
    0.0017993877417509744,
    -0.0007407163641388747,
    0.000167496319296053,
    -2.135861602558629e-05,
    1.1937214823149505e-06,
)
"""``r`` on [0, 4] to 4e-10, lowest power first."""

_DOUBLE = (
    (
        1.1283791670955126,
        2.5210365767807192,
        2.6660178884051335,
        1.7109129933417369,
        0.7186029202133788,
        0.19930271056363177,
        0.03485960829535771,
        0.0033571570516034628,
        0.00011802132322853702,
    ),
    (
        1.0,
        1.6700209108465658,
        1.3294085859917482,
        0.6310655789656475,
        0.18821812834768872,
        0.03430207891871593,
        0.0033547174355538136,
        0.00011804239274204911,
    ),
)
"""Numerator and denominator of ``r`` on [0, 6] to 2e-18."""

_CHUNK = 1 << 14
"""Elements at a time, so that intermediates stay in cache."""


def erf(x: Array) -> Array:
    """The error function of a float32 or float64 array."""
    flat = x.reshape(-1)
    result = np.empty_like(flat)
    for first in range(0, flat.size, _CHUNK):
        part = flat[first : first + _CHUNK]
        if x.dtype == np.float32:
            y = np.minimum(np.abs(part), np.float32(4)).astype(np.float64)
            value = _polynomial(_SINGLE, y)
        else:
            y = np.minimum(np.abs(part), 6.0)
            value = _polynomial(_DOUBLE[0], y)
            value /= _polynomial(_DOUBLE[1], y)
        value *= y
        np.negative(value, out=value)
        np.negative(np.expm1(value, out=value), out=value)
        np.copysign(
            value, part, out=result[first : first + _CHUNK], casting="same_kind"
        )
    return result.reshape(x.shape)


def _polynomial(coefficients: tuple[float, ...], y: Array) -> Array:
    """Horner's rule."""
    value = np.full_like(y, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value *= y
        value += coefficient
    return value
