"""How far the heads of a network differ: by their top classes and by their probabilities."""

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.regression import kl_divergence

from training.evaluation.document import Agreement


def agreement(logits: NDArray[np.float32]) -> Agreement:
    """Compare every pair of heads; logits [H, N, K]."""
    different, divergence = disagreements(logits), divergences(logits)
    return Agreement(
        disagreement=_rows(different),
        mean_disagreement=mean_of_pairs(different),
        kl=_rows(divergence),
        mean_kl=mean_of_pairs(divergence),
    )


def disagreements(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Fraction of rows on which the top classes of two heads differ, float64 [H, H], symmetric (arXiv 1912.02757)."""
    votes = logits.argmax(axis=-1)  # [H, N]
    return np.array([[(one != other).mean() for other in votes] for one in votes])


def divergences(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL(row head || column head) of the heads' probabilities in nats, mean over rows, float64 [H, H] (torchmetrics).

    It is taken from log-probabilities, so a probability that is too small to be a number does no harm.
    """
    logs = torch.from_numpy(logits).double().log_softmax(dim=-1)  # [H, N, K]
    return np.array([[float(kl_divergence(one, other, log_prob=True)) for other in logs] for one in logs])


def mean_of_pairs(matrix: NDArray[np.float64]) -> float | None:
    """Mean over pairs of different heads, None for a single head."""
    heads = len(matrix)
    return float(matrix[~np.eye(heads, dtype=bool)].mean()) if heads > 1 else None


def _rows(matrix: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in matrix)
