"""Medians of noisy samples, with bootstrap intervals, and how they are printed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

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


def shown(
    name: str,
    samples: Mapping[str, Sequence[float]],
    base: Mapping[str, Sequence[float]] | None,
    more: str = "",
) -> dict[str, Any]:
    """Medians of the seconds by clock, and of ratios to `base`: printed, and for JSON.

    `more` ends the line.
    """
    result: dict[str, Any] = {}
    line = f"  {name:30}"
    for clock, values in samples.items():
        seconds = median(values)
        result[clock] = {"seconds": asdict(seconds)}
        line += f"  {clock} {1000 * seconds.value:10.3f} ms"
        if base is not None:
            ratio = median_of_ratios(values, base[clock])
            result[clock]["ratio"] = asdict(ratio)
            line += f" x {ratio}"
    print(line + more, flush=True)
    return result
