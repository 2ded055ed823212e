"""Masks stay exact through every update; prune and regrow agree with a few obvious lines."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from training.sparsity.masks import Masks
from training.sparsity.schedule import CosineSchedule
from training.sparsity.update import grow, prune_smallest


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))


def optimizer_of(kind: str, model: nn.Module) -> torch.optim.Optimizer:
    if kind == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def backward(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model.zero_grad()
    model(torch.randn(4, 3, 6, 6, generator=generator)).square().mean().backward()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("regrow", ["gradient", "random"])
@settings(max_examples=25)
@given(density=st.floats(0.05, 0.9), rates=st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_invariants_hold_through_any_sequence_of_updates(
    kind: str, regrow: str, density: float, rates: list[float]
) -> None:
    model = network()
    masks = Masks.erk(model, density, embeddings=False, generator=torch.Generator().manual_seed(1))
    counts = masks.kept()
    optimizer = optimizer_of(kind, model)
    for step, rate in enumerate(rates):
        backward(model, step)
        dense = masks.dense_gradients()
        masks.mask_gradients()
        optimizer.step()
        masks.apply()
        before = {name: mask.clone() for name, mask in masks.masks.items()}
        values = {name: masks.weights[name].detach().clone() for name in masks.masks}
        masks.update(rate, regrow, dense, optimizer)
        assert masks.kept() == counts
        for name, mask in masks.masks.items():
            weight = masks.weights[name].detach()
            assert not weight[~mask].any()
            grown = mask & ~before[name]
            assert not weight[grown].any()
            survivors = mask & before[name] & (weight != 0)
            assert torch.equal(weight[survivors], values[name][survivors])
            moments = [m for m in optimizer.state[masks.weights[name]].values() if m.shape == weight.shape]
            assert moments
            for moment in moments:
                assert not moment[~mask].any()
                assert not moment[grown].any()


def test_update_agrees_with_a_few_lines_of_numpy() -> None:
    model = network()
    masks = Masks.erk(model, 0.3, embeddings=False, generator=torch.Generator().manual_seed(2))
    optimizer = optimizer_of("sgd", model)
    backward(model, 0)
    dense = masks.dense_gradients()
    expected = {}
    for name, mask in masks.masks.items():
        weight, active = masks.weights[name].detach().numpy().ravel(), mask.numpy().ravel()
        count = round(0.4 * active.sum())
        kept = set(np.flatnonzero(active))
        kept -= set(sorted(kept, key=lambda index: abs(weight[index]))[:count])
        free = [index for index in range(len(weight)) if index not in kept]
        gradient = dense[name].numpy().ravel()
        kept |= set(sorted(free, key=lambda index: -abs(gradient[index]))[:count])
        expected[name] = kept
    masks.update(0.4, "gradient", dense, optimizer)
    assert {name: set(np.flatnonzero(mask.numpy())) for name, mask in masks.masks.items()} == expected


def test_a_weight_that_is_pruned_and_regrown_at_once_restarts_at_zero() -> None:
    mask = torch.tensor([True, True, False, False])
    survivors = prune_smallest(torch.tensor([0.1, 2.0, 0.0, 0.0]), mask, 1)
    assert survivors.tolist() == [False, True, False, False]
    assert grow(survivors, 1, torch.tensor([9.0, 9.0, 1.0, 1.0])).tolist() == mask.tolist()
    layer = nn.Linear(4, 1, bias=False)
    layer.weight = weight = nn.Parameter(torch.tensor([[0.1, 2.0, 0.0, 0.0]]))
    masks = Masks({"w": weight}, {"w": 2}, torch.Generator().manual_seed(0))
    masks.masks["w"], layer.weight.data = mask[None], torch.tensor([[0.1, 2.0, 0.0, 0.0]])
    optimizer = torch.optim.SGD([layer.weight], lr=0.0, momentum=0.9)
    layer(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    masks.update(0.5, "gradient", {"w": torch.tensor([[9.0, 9.0, 1.0, 1.0]])}, optimizer)
    assert layer.weight.tolist() == [[0.0, 2.0, 0.0, 0.0]]
    assert optimizer.state[layer.weight]["momentum_buffer"].tolist() == [[0.0, 1.0, 0.0, 0.0]]
    assert masks.masks["w"].tolist() == [[True, True, False, False]]


def test_full_layers_carry_no_mask_and_exploration_is_counted() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(64, 64))
    masks = Masks.erk(model, 0.3, embeddings=False, generator=torch.Generator().manual_seed(0))
    assert set(masks.masks) == {"1.weight"}
    assert masks.explored == pytest.approx(sum(masks.kept().values()) / (4 + 4096))


def test_cosine_schedule() -> None:
    schedule = CosineSchedule(0.5, 0.005, 100)
    assert schedule(0) == 0.5
    assert schedule(50) == pytest.approx(0.2525)
    assert schedule(100) == pytest.approx(0.005)
    assert schedule(200) == pytest.approx(0.005)
