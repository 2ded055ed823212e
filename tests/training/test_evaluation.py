"""Metrics, calibration and the early-exit curve against a few obvious lines."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from runtime.vote import pool, temper
from training.calibration import calibrate, early_exit_curve, fit_temperature
from training.metrics import brier, calibration_error, measure, negative_log_likelihood
from training.optimization import build_optimizer, learning_rate


@pytest.fixture
def case() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Overconfident logits of three heads [3, 400, 5] for targets they are often right about."""
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 5, 400)
    logits = generator.normal(size=(3, 400, 5)) + 1.2 * np.eye(5)[targets]
    return (4 * logits).astype(np.float32), targets


def test_metrics_equal_their_definitions(case: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    logits, targets = case
    probabilities = pool(logits, "probabilities")
    nll = np.mean([-np.log(p[t]) for p, t in zip(probabilities, targets, strict=True)])
    assert negative_log_likelihood(probabilities, targets) == pytest.approx(nll)
    score = np.mean(
        [sum((p[k] - (k == t)) ** 2 for k in range(5)) for p, t in zip(probabilities, targets, strict=True)]
    )
    assert brier(probabilities, targets) == pytest.approx(score)
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    bins = np.minimum((confidence * 15).astype(int), 14)
    ece = sum(abs(confidence[bins == b].mean() - hit[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))
    assert calibration_error(probabilities, targets) == pytest.approx(ece, abs=1e-6)
    measured = measure(logits, targets, split="report")
    assert measured.accuracy == pytest.approx(hit.mean())
    heads = logits.argmax(axis=-1)
    pairs = [(heads[a] != heads[b]).mean() for a in range(3) for b in range(3) if a != b]
    assert measured.disagreement == pytest.approx(np.mean(pairs))
    assert measure(logits[:1], targets, split="report").disagreement is None


@pytest.mark.parametrize("vote", ["probabilities", "logits"])
def test_temperatures_are_the_best_on_a_grid(vote: str, case: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    logits, targets = case
    calibration = calibrate(logits, targets, split="calibrate", vote=vote)  # type: ignore[arg-type]
    assert len(calibration.temperatures) == 3
    for heads, temperature in enumerate(calibration.temperatures, start=1):
        pooled = pool(logits[:heads], vote)  # type: ignore[arg-type]
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
    curve = early_exit_curve(logits, targets, calibration, split="report")
    for point in curve.points:
        used, hits = [], []
        for row, target in enumerate(targets):
            for heads in (1, 2, 3):
                vote = temper(pool(logits[:heads, row : row + 1], "probabilities"), calibration.temperatures[heads - 1])
                if vote.max() >= point.min_confidence or heads == 3:
                    used.append(heads)
                    hits.append(vote[0].argmax() == target)
                    break
        assert point.mean_heads == pytest.approx(np.mean(used))
        assert point.accuracy == pytest.approx(np.mean(hits))


def test_learning_rate_warms_up_and_falls() -> None:
    from training.config import OptimizerConfig

    config = OptimizerConfig(kind="sgd", lr=1.0, warmup=0.1, final_lr=0.2)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.6)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    steps = OptimizerConfig(kind="sgd", lr=1.0, warmup=0.0, schedule="steps")
    assert [round(learning_rate(steps, step, 8), 6) for step in range(8)] == [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]


def test_weight_decay_spares_norms_and_biases() -> None:
    from training.config import OptimizerConfig

    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    optimizer = build_optimizer(model, OptimizerConfig(kind="adamw", lr=0.1, weight_decay=0.5))
    decayed = [p.ndim for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]]
    assert decayed == [2]
