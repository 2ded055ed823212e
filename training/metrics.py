"""What logits are worth: quality of the vote and of each head (torchmetrics where it has the metric)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import multiclass_calibration_error

from runtime.manifest import Metrics
from runtime.vote import Vote, disagreement, pool, temper

ECE_BINS = 15


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
    return float(-np.log(np.maximum(chosen, np.finfo(np.float64).tiny)).mean())


def brier(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Brier score: squared error against the one-hot target, summed over classes, mean over rows (0 to 2)."""
    one_hot = np.eye(probabilities.shape[1])[targets]
    return float(((probabilities - one_hot) ** 2).sum(axis=1).mean())


def calibration_error(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Expected calibration error with 15 bins (torchmetrics)."""
    value = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(targets), probabilities.shape[1], n_bins=ECE_BINS
    )
    return float(value)
