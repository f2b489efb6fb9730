"""Special functions and Fourier transforms."""

from __future__ import annotations

from abc import abstractmethod

from .foundation import Array, Foundation


class Special(Foundation):
    """`erf`, `sigmoid`, `softplus`; Fourier transforms of complex and real arrays."""

    @abstractmethod
    def erf(self, x: Array) -> Array:
        """The error function."""

    def sigmoid(self, x: Array) -> Array:
        """``1 / (1 + exp(-x))``, without overflow."""

        def logistic(x: Array) -> Array:
            # By symmetry only exp of what is at most zero is needed.
            small = self.lib.exp(-self.lib.abs(x))
            one = self.asarray(1, x.dtype)
            return self.lib.where(x >= 0, one, small) / (one + small)

        return self.each(logistic, x)

    def softplus(self, x: Array) -> Array:
        """``log(1 + exp(x))``, without overflow."""
        return self.each(lambda v: self.lib.logaddexp(v, self.asarray(0, v.dtype)), x)

    def fft(self, x: Array, n: int | None = None, axis: int = -1) -> Array:
        """The discrete Fourier transform; ``n`` crops or pads with zeros first."""
        return self.asarray(self.lib.fft.fft(x, n, axis))

    def ifft(self, x: Array, n: int | None = None, axis: int = -1) -> Array:
        """The inverse of `fft`, divided by ``n``."""
        return self.asarray(self.lib.fft.ifft(x, n, axis))

    def rfft(self, x: Array, n: int | None = None, axis: int = -1) -> Array:
        """`fft` of a real array: only the ``n // 2 + 1`` frequencies that matter."""
        return self.asarray(self.lib.fft.rfft(x, n, axis))

    def irfft(self, x: Array, n: int | None = None, axis: int = -1) -> Array:
        """The inverse of `rfft`: a real array of ``n`` elements along ``axis``."""
        return self.asarray(self.lib.fft.irfft(x, n, axis))
