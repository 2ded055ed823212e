"""What a vote's confidence, the probability of its top class, is worth: to refuse, and to notice foreign inputs."""

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import binary_auroc, binary_specificity_at_sensitivity

from training.evaluation.document import RiskCoverage, RiskPoint
from training.metrics import by_confidence

COVERAGES = tuple(step / 20 for step in range(1, 21))
"""Points of the risk-coverage curve that are written down."""
PASSING = 0.95
"""Fraction of known inputs that must pass as known where FPR95 is read."""


def risk_coverage(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> RiskCoverage:
    """Risk-coverage curve and the area under it; probabilities [N, K], targets [N] (arXiv 1705.08500, 1805.08206).

    The risk at coverage n / N is the error rate of the n most confident rows; the area is its mean over n = 1..N. Rows
    of equal confidence are wrong equally often, as in the mean over all their orders. A written point has the coverage
    of the smallest number of rows that reaches it.
    """
    risks = selective_risks(probabilities, targets)
    counts = [int(np.ceil(coverage * len(risks))) for coverage in COVERAGES]
    points = [RiskPoint(coverage=count / len(risks), risk=float(risks[count - 1])) for count in dict.fromkeys(counts)]
    return RiskCoverage(aurc=float(risks.mean()), points=tuple(points))


def selective_risks(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Error rate of the n most confident rows for n = 1..N, float64 [N]."""
    _, correct = by_confidence(probabilities, targets)
    risks: NDArray[np.float64] = np.cumsum(1 - correct) / np.arange(1, len(correct) + 1)
    return risks.clip(0, 1)  # sums of means may leave the range in their last bit


def detection_scores(known: NDArray[np.float64], foreign: NDArray[np.float64]) -> tuple[float, float]:
    """AUROC and FPR95 of telling known from foreign inputs by confidence [N], [F] (arXiv 1610.02136; torchmetrics).

    Known inputs are the positive class. FPR95 is the lowest fraction of foreign inputs that passes a threshold which at
    least 95 % of known inputs pass.
    """
    scores = torch.from_numpy(np.concatenate([known, foreign]))
    positive = torch.cat([torch.ones(len(known), dtype=torch.int64), torch.zeros(len(foreign), dtype=torch.int64)])
    specificity, _ = binary_specificity_at_sensitivity(scores, positive, min_sensitivity=PASSING)
    return float(binary_auroc(scores, positive)), 1 - float(specificity)
