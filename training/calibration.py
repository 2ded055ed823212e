"""Calibration from the calibrate part: the order in which heads vote, and a temperature for each number of them.

The early-exit curve that follows is measured on another part. Temperature scaling (Guo et al., arXiv 1706.04599) of the
pooled vote: p is proportional to pooled^(1/T). All logits here are [H, N, K] in the order of the network's heads.
"""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.manifest import Calibration, EarlyExit, ExitPoint
from runtime.vote import TINY, Vote, pool, temper
from training.metrics import negative_log_likelihood

EXIT_CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)
EXHAUSTIVE_UP_TO = 6
"""Heads for which the best of all orders is found; with more, heads are added greedily."""

Loss = Callable[[frozenset[int]], float]


def calibrate(
    logits: NDArray[np.float32], targets: NDArray[np.int64], *, split: str, vote: Vote = "probabilities"
) -> Calibration:
    """Choose the order of heads and fit one temperature for each number of voting heads; targets [N].

    The order is the one with the lowest mean over k = 1..H of the NLL of the calibrated vote of its first k heads, so
    that a vote is good wherever it stops. Up to six heads it is the best of all orders; beyond, each next head is the
    one with which the NLL is lowest. Among equals the earlier head of the network goes first.
    """
    fitted: dict[frozenset[int], tuple[float, float]] = {}

    def fit(heads: frozenset[int]) -> float:
        """NLL of the calibrated vote of these heads."""
        if heads not in fitted:
            pooled = pool(logits[sorted(heads)], vote)
            temperature = fit_temperature(pooled, targets)
            fitted[heads] = temperature, negative_log_likelihood(temper(pooled, temperature), targets)
        return fitted[heads][1]

    order = (best_order if len(logits) <= EXHAUSTIVE_UP_TO else greedy_order)(len(logits), fit)
    firsts = [frozenset(order[: k + 1]) for k in range(len(order))]
    for first in firsts:
        fit(first)
    return Calibration(
        temperatures=tuple(fitted[first][0] for first in firsts), order=order, split=split, rows=len(targets)
    )


def best_order(heads: int, loss: Loss) -> tuple[int, ...]:
    """Order of heads with the lowest sum of losses over its beginnings; among equals the first in the dictionary.

    `loss` maps a set of heads to a number. A beginning's loss depends on its set alone, so the best order of a set
    follows from those of its subsets (Held and Karp, 1962): 2^H losses instead of H! orders.
    """
    best: dict[frozenset[int], tuple[float, tuple[int, ...]]] = {frozenset(): (0.0, ())}
    for size in range(1, heads + 1):
        for members in combinations(range(heads), size):
            own = frozenset(members)
            total, order = min((best[own - {last}][0], (*best[own - {last}][1], last)) for last in members)
            best[own] = total + loss(own), order
    return best[frozenset(range(heads))][1]


def greedy_order(heads: int, loss: Loss) -> tuple[int, ...]:
    """Order of heads in which each next one gives the lowest loss with those before it; ties to the lower index."""
    order: tuple[int, ...] = ()
    while len(order) < heads:
        rest = [head for head in range(heads) if head not in order]
        order = (*order, min(rest, key=lambda head: loss(frozenset((*order, head)))))
    return order


def fit_temperature(pooled: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Temperature that minimizes the NLL of pooled^(1/T), pooled [N, K]; between 0.05 and 20.

    The NLL is convex in 1/T, so L-BFGS from 1 finds the only minimum.
    """
    log_pooled = torch.from_numpy(np.log(np.maximum(pooled, TINY)))
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


def calibrated_votes(
    logits: NDArray[np.float32], calibration: Calibration, vote: Vote = "probabilities"
) -> NDArray[np.float64]:
    """Calibrated votes of the first 1..H heads in voting order, float64 [H, N, K]."""
    ordered = logits[list(calibration.voting_order)]
    return np.stack([temper(pool(ordered[: k + 1], vote), t) for k, t in enumerate(calibration.temperatures)])


def early_exit_curve(
    logits: NDArray[np.float32],
    targets: NDArray[np.int64],
    calibration: Calibration,
    *,
    split: str,
    vote: Vote = "probabilities",
) -> EarlyExit:
    """Accuracy and mean heads used when each row stops as soon as its calibrated vote passes a confidence."""
    votes = calibrated_votes(logits, calibration, vote)  # [H, N, K]
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
