"""What probabilities are worth, and the lean summary of a vote that training logs and artifacts carry.

All probabilities are float64 [N, K], all targets int64 [N]. torchmetrics is used where it has the metric.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import multiclass_calibration_error

from runtime.manifest import Fraction, Metrics, Record
from runtime.vote import TINY, Vote, disagreement, pool, temper

ECE_BINS = 15
"""Bins of both calibration errors (Guo et al., arXiv 1706.04599)."""
BELOW_ONE = 1 - 2**-24
"""The largest float32 below 1. torchmetrics would give a confidence of exactly 1 a sixteenth bin."""


class Quality(Record):
    """How good probabilities are: accuracy of the top class and the scores of this module."""

    accuracy: Fraction
    nll: float
    brier: float
    ece: float
    adaptive_ece: float


def quality(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> Quality:
    """Measure probabilities [N, K] against targets [N]."""
    return Quality(
        accuracy=float((probabilities.argmax(axis=-1) == targets).mean()),
        nll=negative_log_likelihood(probabilities, targets),
        brier=brier(probabilities, targets),
        ece=calibration_error(probabilities, targets),
        adaptive_ece=adaptive_calibration_error(probabilities, targets),
    )


def measure(
    logits: NDArray[np.float32],
    targets: NDArray[np.int64],
    *,
    split: str,
    temperature: float = 1.0,
    vote: Vote = "probabilities",
) -> Metrics:
    """Metrics of the soft vote of all heads, logits [H, N, K] against targets [N], at `temperature`."""
    raw = pool(logits, vote)
    voted = temper(raw, temperature)
    heads = logits.argmax(axis=-1)  # [H, N]
    spread = disagreement(heads)
    return Metrics(
        split=split,
        rows=len(targets),
        accuracy=float((voted.argmax(axis=-1) == targets).mean()),
        nll=negative_log_likelihood(voted, targets),
        brier=brier(voted, targets),
        ece=calibration_error(voted, targets),
        uncalibrated_nll=negative_log_likelihood(raw, targets),
        uncalibrated_ece=calibration_error(raw, targets),
        head_accuracy=tuple(float((head == targets).mean()) for head in heads),
        disagreement=None if spread is None else float(spread.mean()),
    )


def negative_log_likelihood(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Mean negative log likelihood in nats."""
    chosen = probabilities[np.arange(len(targets)), targets]
    return float(-np.log(np.maximum(chosen, TINY)).mean())


def brier(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Brier score: squared error against the one-hot target, summed over classes, mean over rows (0 to 2)."""
    one_hot = np.eye(probabilities.shape[1])[targets]
    return float(((probabilities - one_hot) ** 2).sum(axis=1).mean())


def calibration_error(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Expected calibration error of the top class: 15 bins of equal width over its confidence (torchmetrics)."""
    below_one = np.minimum(probabilities, BELOW_ONE)
    value = multiclass_calibration_error(
        torch.from_numpy(below_one), torch.from_numpy(targets), probabilities.shape[1], n_bins=ECE_BINS
    )
    return float(value)


def adaptive_calibration_error(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Calibration error of the top class with 15 bins of equal mass: each holds as many rows (Nguyen and O'Connor,
    arXiv 1508.05154).

    Rows are sorted by confidence; bins differ by at most one row. Rows of equal confidence count as equally often
    right, so their order does not matter.
    """
    confidence, correct = by_confidence(probabilities, targets)
    bins = zip(np.array_split(confidence, ECE_BINS), np.array_split(correct, ECE_BINS), strict=True)
    return float(sum(abs(own.sum() - right.sum()) for own, right in bins) / len(targets))


def by_confidence(
    probabilities: NDArray[np.float64], targets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sort rows by the probability of their top class, most confident first: confidence [N], how often right [N].

    Rows of equal confidence share their mean, which is what a random order among them would give on average.
    """
    correct = (probabilities.argmax(axis=-1) == targets).astype(np.float64)
    distinct, group, sizes = np.unique(probabilities.max(axis=-1), return_inverse=True, return_counts=True)
    means = np.bincount(group.ravel(), weights=correct, minlength=len(distinct)) / sizes
    return np.repeat(distinct[::-1], sizes[::-1]), np.repeat(means[::-1], sizes[::-1])
