"""Medians with bootstrap intervals, and paired ratios. Pure functions; randomness comes in through a seed.

A round's value is the median of its calls: calls of one visit share caches and clock, so rounds are what is resampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A median with its percentile bootstrap interval (Efron and Tibshirani 1993, section 13.3)."""

    median: float
    low: float
    high: float


def estimate(values: Sequence[float] | NDArray[np.float64], *, seed: int = 0) -> Estimate:
    """Median of `values` with its interval at CONFIDENCE. Raises ValueError without values."""
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        raise ValueError("a median needs at least one value")
    draws = np.random.default_rng(seed).integers(0, array.size, size=(RESAMPLES, array.size))
    tail = (1 - CONFIDENCE) / 2
    # `higher` and `lower`: bounds are medians that occurred, and the interval never shrinks by interpolation
    medians = np.median(array[draws], axis=1)
    low = np.quantile(medians, tail, method="lower")
    high = np.quantile(medians, 1 - tail, method="higher")
    return Estimate(float(np.median(array)), float(low), float(high))


def round_values(rounds: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Median of the calls of each round."""
    return np.array([np.median(calls) for calls in rounds], dtype=np.float64)


def paired_ratio(rounds: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]], *, seed: int = 0) -> Estimate:
    """Median over rounds of baseline / subject: how many times faster the subject is than the baseline.

    Both were measured in the same rounds, so what slows a whole round down cancels. Raises ValueError otherwise.
    """
    if len(rounds) != len(baseline):
        raise ValueError(f"{len(rounds)} rounds cannot be paired with {len(baseline)}")
    return estimate(round_values(baseline) / round_values(rounds), seed=seed)
