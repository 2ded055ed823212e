"""Calibration for each number of heads, from the calibrate part; the early-exit curve, from the report part.

Temperature scaling (Guo et al., arXiv 1706.04599) of the pooled vote: p is proportional to pooled^(1/T).
"""

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.manifest import Calibration, EarlyExit, ExitPoint
from runtime.vote import Vote, pool, temper

EXIT_CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)


def calibrate(
    logits: NDArray[np.float32], targets: NDArray[np.int64], *, split: str, vote: Vote = "probabilities"
) -> Calibration:
    """Fit one temperature for each number of voting heads; logits [H, N, K], targets [N]."""
    temperatures = [fit_temperature(pool(logits[: k + 1], vote), targets) for k in range(len(logits))]
    return Calibration(temperatures=tuple(temperatures), split=split, rows=len(targets))


def fit_temperature(pooled: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Temperature that minimizes the NLL of pooled^(1/T), pooled [N, K]; between 0.05 and 20.

    The NLL is convex in 1/T, so L-BFGS from 1 finds the only minimum.
    """
    log_pooled = torch.from_numpy(np.log(np.maximum(pooled, np.finfo(np.float64).tiny)))
    labels = torch.from_numpy(targets)
    inverse = torch.ones((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([inverse], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(log_pooled * inverse, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float(1 / inverse.detach().clamp(1 / 20, 20))


def early_exit_curve(
    logits: NDArray[np.float32],
    targets: NDArray[np.int64],
    calibration: Calibration,
    *,
    split: str,
    vote: Vote = "probabilities",
) -> EarlyExit:
    """Accuracy and mean heads used when each row stops as soon as its calibrated vote passes a confidence."""
    votes = np.stack(
        [temper(pool(logits[: k + 1], vote), t) for k, t in enumerate(calibration.temperatures)]
    )  # [H, N, K]
    confidence, correct = votes.max(axis=-1), votes.argmax(axis=-1) == targets  # [H, N]
    points = []
    for minimum in EXIT_CONFIDENCES:
        passed = confidence >= minimum
        passed[-1] = True
        used = passed.argmax(axis=0)  # index of the first head that suffices, [N]
        hits = np.take_along_axis(correct, used[None], axis=0)[0]
        points.append(
            ExitPoint(min_confidence=minimum, accuracy=float(hits.mean()), mean_heads=float((used + 1).mean()))
        )
    return EarlyExit(split=split, rows=len(targets), points=tuple(points))
