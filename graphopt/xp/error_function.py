"""The error function on the host, without SciPy's half second of import.

For ``x >= 0``, ``erf(x) = -expm1(-x r(x))`` with ``r(x) = -log(erfc(x)) / x``, which is
smooth. An error in ``r`` is damped by ``erfc(x)``, so one short fit serves the whole
range at full relative accuracy. Its coefficients are minimax, by Lawson's method; one
form with an exponential is the idea of Abramowitz and Stegun 7.1.26.
Largest errors, against math.erf on two million points: 0.51 ulp in float32, 5e-16 in
float64.
"""

from __future__ import annotations

import numpy as np

from .foundation import Array

_SINGLE = (
    (
        -1.1283791665920955,
        -1.5140491115138206,
        -0.9102054364123652,
        -0.2786278417416393,
        -0.03684736689866845,
    ),
    (
        1.0,
        0.7776015048650647,
        0.2768538034399163,
        0.036860328919297,
    ),
)
"""Numerator and denominator of ``-r`` on [0, 4] to 5e-10, lowest power first."""

_DOUBLE = (
    (
        -1.1283791670955126,
        -2.5210365767807192,
        -2.6660178884051335,
        -1.7109129933417369,
        -0.7186029202133788,
        -0.19930271056363177,
        -0.03485960829535771,
        -0.0033571570516034628,
        -0.00011802132322853702,
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
"""The same on [0, 6] to 2e-18."""

_CHUNK = 1 << 15
"""Elements at a time, so that intermediates stay in cache."""

_ALL_BUT_SIGN = np.uint32((1 << 31) - 1)


def erf(x: Array) -> Array:
    """The error function of a float32 or float64 array."""
    flat = x.reshape(-1)
    result = np.empty_like(flat)
    single = x.dtype == np.float32
    (above, below), last = (_SINGLE, 4.0) if single else (_DOUBLE, 6.0)
    size = min(_CHUNK, flat.size)
    scratch = np.empty((3, size))
    for first in range(0, flat.size, _CHUNK):
        part, out = flat[first : first + _CHUNK], result[first : first + _CHUNK]
        y, value, divisor = scratch[:, : part.size]
        y[...] = np.minimum(np.abs(part, out=out), x.dtype.type(last), out=out)
        _polynomial(above, y, value)
        value *= y
        value /= _polynomial(below, y, divisor)
        np.expm1(value, out=value)
        if single:
            # All are negative: clears the sign where x has none. Bits, as copysign is
            # several times slower, and slower still between two types.
            out[...] = value
            bits = out.view(np.uint32)
            np.bitwise_and(bits, part.view(np.uint32) | _ALL_BUT_SIGN, out=bits)
        else:
            np.copysign(value, part, out=out)
    return result.reshape(x.shape)


def _polynomial(coefficients: tuple[float, ...], y: Array, out: Array) -> Array:
    """Horner's rule, into ``out``."""
    np.multiply(y, coefficients[-1], out=out)
    for coefficient in coefficients[-2:0:-1]:
        out += coefficient
        out *= y
    out += coefficients[0]
    return out
