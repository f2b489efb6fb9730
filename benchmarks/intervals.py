"""Medians of noisy samples, with bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 5000


@dataclass(frozen=True)
class Median:
    """A median with the bootstrap interval that covers it with 95 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def median(samples: Sequence[float], seed: int = 0) -> Median:
    """The median of `samples`, its interval from resampling them."""
    values = np.asarray(samples, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(
        0, len(values), (RESAMPLES, len(values))
    )
    low, high = np.quantile(np.median(values[picks], axis=1), (0.025, 0.975))
    return Median(float(np.median(values)), float(low), float(high))


def median_of_ratios(above: Sequence[float], below: Sequence[float]) -> Median:
    """The median of `above[i] / below[i]`, samples of one round being paired."""
    return median([a / b for a, b in zip(above, below, strict=True)])
