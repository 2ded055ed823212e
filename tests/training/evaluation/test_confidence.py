"""Risk-coverage curves and the detection of foreign inputs against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.evaluation.confidence import detection_scores, risk_coverage, selective_risks

SCORES = st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.62, 0.9, 1.0]), min_size=1, max_size=30)


def binary(tops: list[float], right: list[bool]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities of two classes whose first is on top, and targets that make rows right or wrong."""
    return np.array([[top, 1 - top] for top in tops]), np.array([0 if own else 1 for own in right])


@given(st.lists(st.tuples(st.floats(0.5, 1, exclude_min=True), st.booleans()), min_size=1, max_size=40, unique=True))
def test_risks_are_the_errors_of_the_most_confident_rows(rows: list[tuple[float, bool]]) -> None:
    rows = list(dict(rows).items())  # confidences that all differ: there is one order
    probabilities, targets = binary([top for top, _ in rows], [right for _, right in rows])
    ranked = [right for _, right in sorted(rows, key=lambda row: -row[0])]
    expected = [1 - sum(ranked[:count]) / count for count in range(1, len(ranked) + 1)]
    np.testing.assert_allclose(selective_risks(probabilities, targets), expected, atol=1e-12)
    curve = risk_coverage(probabilities, targets)
    assert curve.aurc == pytest.approx(np.mean(expected))
    assert curve.points[-1].coverage == 1
    assert curve.points[-1].risk == pytest.approx(expected[-1])
    for point in curve.points:
        assert point.risk == pytest.approx(expected[round(point.coverage * len(rows)) - 1])


def test_equally_confident_rows_have_the_mean_risk_of_all_their_orders() -> None:
    tops, right = [0.9, 0.7, 0.7, 0.7, 0.6], [True, False, True, True, False]
    generator = np.random.default_rng(0)
    orders = []
    for _ in range(4000):
        tie = generator.permutation([1, 2, 3])
        ranked = [right[row] for row in (0, *tie, 4)]
        orders.append([1 - sum(ranked[:count]) / count for count in range(1, 6)])
    np.testing.assert_allclose(selective_risks(*binary(tops, right)), np.mean(orders, axis=0), atol=0.02)


def test_a_curve_has_twenty_points_and_ends_with_the_error_rate() -> None:
    generator = np.random.default_rng(0)
    probabilities, targets = generator.dirichlet(np.ones(4), 1003), generator.integers(0, 4, 1003)
    curve = risk_coverage(probabilities, targets)
    assert len(curve.points) == 20
    assert curve.points[0].coverage == pytest.approx(51 / 1003)
    assert curve.points[-1].risk == pytest.approx((probabilities.argmax(axis=1) != targets).mean())


@given(SCORES, SCORES)
def test_auroc_and_fpr95_equal_brute_force(known: list[float], foreign: list[float]) -> None:
    auroc, fpr95 = detection_scores(np.array(known), np.array(foreign))
    wins = [(one > other) + 0.5 * (one == other) for one in known for other in foreign]
    assert auroc == pytest.approx(np.mean(wins), abs=1e-6)
    passing = [t for t in known + foreign if np.mean([score >= t for score in known]) >= 0.95 - 1e-9]
    assert fpr95 == pytest.approx(min(np.mean([score >= t for score in foreign]) for t in passing), abs=1e-6)


def test_confidence_that_tells_everything_and_nothing() -> None:
    assert detection_scores(np.full(50, 0.9), np.full(20, 0.4)) == (1.0, 0.0)
    assert detection_scores(np.full(50, 0.9), np.full(20, 0.9)) == (0.5, 1.0)
