"""Temperatures, the order of heads and the early-exit curve against brute force."""

from collections.abc import Sequence
from itertools import combinations, permutations
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.manifest import Calibration
from runtime.vote import pool, temper
from training.calibration import best_order, calibrate, early_exit_curve, fit_temperature, greedy_order
from training.metrics import (
    negative_log_likelihood,
)


@pytest.mark.parametrize("vote", ["probabilities", "logits"])
def test_temperatures_are_the_best_on_a_grid(vote: str, case: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    logits, targets = case
    calibration = calibrate(logits, targets, split="calibrate", vote=vote)  # type: ignore[arg-type]
    assert len(calibration.temperatures) == 3
    for heads, temperature in enumerate(calibration.temperatures, start=1):
        pooled = pool(logits[list(calibration.order[:heads])], vote)  # type: ignore[arg-type]
        grid = np.geomspace(0.1, 10, 400)
        losses = [negative_log_likelihood(temper(pooled, t), targets) for t in grid]
        best = negative_log_likelihood(temper(pooled, temperature), targets)
        assert best <= min(losses) + 1e-9
        assert temperature == pytest.approx(grid[int(np.argmin(losses))], rel=0.02)


def test_a_perfect_classifier_gets_a_small_finite_temperature() -> None:
    pooled = np.full((6, 3), 0.2) + 0.4 * np.eye(3)[[0, 1, 2, 0, 1, 2]]
    assert 0.05 <= fit_temperature(pooled, np.array([0, 1, 2, 0, 1, 2])) < 0.1


def test_early_exit_curve_equals_brute_force(case: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    logits, targets = case
    calibration = calibrate(logits, targets, split="calibrate")
    ordered = logits[list(calibration.order)]
    curve = early_exit_curve(logits, targets, calibration, split="report")
    for point in curve.points:
        used, hits = [], []
        for row, target in enumerate(targets):
            for heads in (1, 2, 3):
                vote = temper(
                    pool(ordered[:heads, row : row + 1], "probabilities"), calibration.temperatures[heads - 1]
                )
                if vote.max() >= point.min_confidence or heads == 3:
                    used.append(heads)
                    hits.append(vote[0].argmax() == target)
                    break
        assert point.mean_heads == pytest.approx(np.mean(used))
        assert point.accuracy == pytest.approx(np.mean(hits))


def average_loss(logits: NDArray[np.float32], targets: NDArray[np.int64], order: Sequence[int]) -> float:
    """The criterion, from its definition: mean over k of the NLL of the calibrated vote of the first k heads."""
    losses = []
    for heads in range(1, len(order) + 1):
        pooled = pool(logits[list(order[:heads])], "probabilities")
        losses.append(negative_log_likelihood(temper(pooled, fit_temperature(pooled, targets)), targets))
    return float(np.mean(losses))


def unequal_heads(heads: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits of heads that are right unequally often, and share some of their errors."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, 4, 120)
    shared = generator.normal(size=(120, 4))
    logits = [
        generator.uniform(0.2, 2.5) * np.eye(4)[targets] + generator.normal(size=(120, 4)) + generator.random() * shared
        for _ in range(heads)
    ]
    return np.asarray(logits, dtype=np.float32), targets


@pytest.mark.parametrize("heads", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_order_of_heads_is_the_best_of_all(heads: int, seed: int) -> None:
    logits, targets = unequal_heads(heads, seed)
    calibration = calibrate(logits, targets, split="calibrate")
    brute = {order: average_loss(logits, targets, order) for order in permutations(range(heads))}
    assert calibration.order == min(brute, key=lambda order: brute[order])


@given(st.integers(1, 6), st.randoms())
def test_the_best_order_equals_brute_force_for_any_loss(heads: int, random: Random) -> None:
    subsets = [frozenset(own) for size in range(1, heads + 1) for own in combinations(range(heads), size)]
    loss = {own: float(random.randint(0, 50)) for own in subsets}

    def total(order: tuple[int, ...]) -> float:
        return sum(loss[frozenset(order[: k + 1])] for k in range(heads))

    assert best_order(heads, loss.__getitem__) == min(
        permutations(range(heads)), key=lambda order: (total(order), order)
    )
    greedy = greedy_order(heads, loss.__getitem__)
    for k in range(heads):
        rivals = [loss[frozenset((*greedy[:k], head))] for head in range(heads) if head not in greedy[:k]]
        assert loss[frozenset(greedy[: k + 1])] == min(rivals)


def test_many_heads_are_ordered_greedily_and_one_head_trivially() -> None:
    logits, targets = unequal_heads(8, 0)
    calibration = calibrate(logits, targets, split="calibrate")
    alone = [average_loss(logits, targets, (head,)) for head in range(8)]
    assert calibration.order[0] == int(np.argmin(alone))
    assert sorted(calibration.order) == list(range(8))
    single = calibrate(logits[:1], targets, split="calibrate")
    assert (single.order, len(single.temperatures)) == ((0,), 1)


def test_an_order_that_is_not_one_is_refused() -> None:
    assert Calibration(temperatures=(1.0, 1.0), split="none", rows=0).voting_order == (0, 1)
    with pytest.raises(ValueError, match=r"order \(0, 0\)"):
        Calibration(temperatures=(1.0, 1.0), split="none", rows=0, order=(0, 0))
