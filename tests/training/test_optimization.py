"""Learning rates, and what weight decay spares."""

import pytest
import torch

from training.config import OptimizerConfig
from training.optimization import build_optimizer, learning_rate


def test_learning_rate_warms_up_and_falls() -> None:
    config = OptimizerConfig(kind="sgd", lr=1.0, warmup=0.1, final_lr=0.2)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.6)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    steps = OptimizerConfig(kind="sgd", lr=1.0, warmup=0.0, schedule="steps")
    assert [round(learning_rate(steps, step, 8), 6) for step in range(8)] == [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]


def test_weight_decay_spares_norms_and_biases() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    optimizer = build_optimizer(model, OptimizerConfig(kind="adamw", lr=0.1, weight_decay=0.5))
    decayed = [p.ndim for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]]
    assert decayed == [2]
