"""Masks stay exact through every update and resume; prune and regrow agree with a few obvious lines."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from training.sparsity.distribution import Distribution
from training.sparsity.dynamic import DynamicSparsity, Plan
from training.sparsity.granularity import Granularity, from_units, to_units, unit_of
from training.sparsity.masks import Masks, gradient_of
from training.sparsity.update import PruneRule, RegrowRule, UpdateRule, highest


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5), nn.Linear(5, 3))


def optimizer_of(kind: str, model: nn.Module) -> torch.optim.Optimizer:
    if kind == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def backward(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model.zero_grad()
    model(torch.randn(4, 4, 6, 6, generator=generator)).square().mean().backward()


def plan_of(densities: list[float], rates: list[float], **more: object) -> Plan:
    """Updates after every step, with given densities and prune rates."""
    return Plan(
        density=lambda done: densities[min(done, len(densities) - 1)],
        prune_rate=lambda done: rates[min(done, len(rates)) - 1],
        due=lambda done: True,  # noqa: ARG005
        final_density=densities[-1],
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize(
    ("prune", "regrow", "granularity"),
    [
        ("magnitude", "gradient", "weight"),
        ("magnitude", "random", "1x4"),
        ("soft_magnitude", "momentum", "weight"),
        ("soft_magnitude", "gradient", "1x4"),
    ],
)
@settings(max_examples=15)
@given(
    densities=st.lists(st.floats(0.05, 1), min_size=2, max_size=6),
    rates=st.lists(st.floats(0, 1), min_size=6, max_size=6),
    uniform=st.booleans(),
    resume_at=st.integers(0, 5),
)
def test_invariants_hold_through_any_sequence_of_updates_densities_and_resumes(
    kind: str,
    prune: PruneRule,
    regrow: RegrowRule,
    granularity: Granularity,
    densities: list[float],
    rates: list[float],
    uniform: bool,
    resume_at: int,
) -> None:
    model = network()
    optimizer = optimizer_of(kind, model)
    plan = plan_of(
        densities,
        rates,
        rule=UpdateRule(prune, regrow),
        granularity=granularity,
        distribution=Distribution("uniform" if uniform else "erk"),
    )
    sparsity = DynamicSparsity(model, optimizer, plan, seed=1)
    shapes = {name: tuple(weight.shape) for name, weight in sparsity.state.weights.items()}
    units = {name: unit_of(weight, granularity) for name, weight in sparsity.state.weights.items()}
    for step in range(len(densities) - 1):
        if step == resume_at:
            saved, masks = sparsity.capture(), {name: mask.clone() for name, mask in sparsity.masks.items()}
            sparsity = DynamicSparsity(model, optimizer, plan, seed=99)
            weights = {name: weight.detach().clone() for name, weight in sparsity.state.weights.items()}
            sparsity.restore(step, masks, saved)
            assert all(torch.equal(weights[name], w) for name, w in sparsity.state.weights.items() if name not in masks)
            with torch.no_grad():  # as a resumed run loads its weights
                for name, mask in masks.items():
                    sparsity.state.weights[name].mul_(mask)
        backward(model, step)
        before = {name: active(sparsity, name).clone() for name in shapes}
        sparsity.after_backward(step)
        optimizer.step()
        values = {name: weight.detach().clone() for name, weight in sparsity.state.weights.items()}
        assert all(not values[name][~before[name]].any() for name in shapes)  # no step moves an inactive weight
        sparsity.after_step(step)
        expected = plan.distribution.counts(shapes, densities[step + 1], units)
        assert sparsity.kept() == expected
        assert set(sparsity.masks) == {name for name, weight in values.items() if expected[name] < weight.numel()}
        for name, weight in sparsity.state.weights.items():
            mask = active(sparsity, name)
            assert not weight.detach()[~mask].any()
            grown = mask & ~before[name]
            assert not weight.detach()[grown].any()
            survivors = mask & before[name] & (weight.detach() != 0)
            assert torch.equal(weight.detach()[survivors], values[name][survivors])
            moments = [m for m in optimizer.state[weight].values() if m.shape == weight.shape]
            assert moments
            for moment in moments:
                assert not moment[~mask].any()
                assert not moment[grown].any()
            blocks = to_units(mask, units[name])
            assert torch.equal(blocks.any(dim=1), blocks.all(dim=1))


def active(sparsity: DynamicSparsity, name: str) -> Tensor:
    return sparsity.masks.get(name, torch.ones_like(sparsity.state.weights[name], dtype=torch.bool))


@pytest.mark.parametrize("regrow", ["gradient", "momentum"])
def test_updates_agree_with_a_few_lines_of_numpy(regrow: RegrowRule) -> None:
    model = network()
    optimizer = optimizer_of("sgd", model)
    plan = plan_of([0.3], [0.4], rule=UpdateRule(regrow=regrow))
    sparsity = DynamicSparsity(model, optimizer, plan, seed=2)
    average = {name: np.zeros(weight.numel()) for name, weight in sparsity.state.weights.items()}
    for step in range(3):
        backward(model, step)
        dense = {name: gradient_of(w).numpy().ravel().copy() for name, w in sparsity.state.weights.items()}
        for name, gradient in dense.items():
            average[name] = 0.9 * average[name] + 0.1 * gradient
        masks = {name: mask.clone() for name, mask in sparsity.masks.items()}
        sparsity.after_backward(step)
        optimizer.step()
        expected = {}
        for name, mask in masks.items():
            weight, on = sparsity.state.weights[name].detach().numpy().ravel(), mask.numpy().ravel()
            count = round(0.4 * on.sum())
            kept = set(np.flatnonzero(on))
            kept -= set(sorted(kept, key=lambda index: (abs(weight[index]), -index))[:count])
            free = [index for index in range(len(weight)) if index not in kept]
            score = np.abs((dense if regrow == "gradient" else average)[name].astype(np.float32))
            kept |= set(sorted(free, key=lambda index: -score[index])[:count])
            expected[name] = kept
        sparsity.after_step(step)
        assert {name: set(np.flatnonzero(mask.numpy())) for name, mask in sparsity.masks.items()} == expected


def test_blocks_are_ranked_by_their_sums() -> None:
    layer = nn.Conv2d(8, 2, 1, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0, momentum=0.9)
    sparsity = DynamicSparsity(nn.Sequential(layer), optimizer, plan_of([0.5], [0.5], granularity="1x4"), seed=0)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1]], dtype=torch.bool)[:, :, None, None]
    sparsity.state.masks["0.weight"] = mask
    with torch.no_grad():
        layer.weight.copy_((torch.arange(16.0).reshape(2, 8, 1, 1) + 1) * mask)
    layer.weight.grad = torch.tensor([[0.0] * 4 + [1.0] * 4, [0.9] * 3 + [9.0] + [0.0] * 4])[:, :, None, None]
    sparsity.after_backward(0)
    sparsity.after_step(0)
    kept = sparsity.masks["0.weight"][:, :, 0, 0].tolist()
    assert kept == [[False] * 8, [True] * 8]  # the smaller block went; the block of the largest gradient sum came


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.sampled_from([1, 4]))
def test_units_are_rearranged_and_back(outputs: int, blocks: int, size: int, unit: int) -> None:
    weight = torch.randn(outputs, blocks * unit, size, size)
    units = to_units(weight, unit)
    assert units.shape == (weight.numel() // unit, unit)
    assert torch.equal(from_units(units, weight.shape), weight)
    if unit == 4:
        assert torch.equal(units[0], weight[0, :4, 0, 0])


def test_soft_magnitude_keeps_a_sample_with_probabilities_by_power() -> None:
    """Without replacement, one survivor: exactly the probabilities |w|^T / sum |w|^T."""
    magnitude = torch.tensor([1.0, 2.0, 0.5, 0.0])
    rule = UpdateRule(prune="soft_magnitude", temperature=3.0)
    generator = torch.Generator().manual_seed(0)
    everywhere = torch.ones(4, dtype=torch.bool)
    draws = [int(highest(rule.survival(magnitude, generator), everywhere, 1).nonzero()) for _ in range(4000)]
    observed = np.bincount(draws, minlength=4) / len(draws)
    expected = magnitude.numpy() ** 3 / (magnitude.numpy() ** 3).sum()
    np.testing.assert_allclose(observed, expected, atol=4 * np.sqrt(0.25 / len(draws)))


def test_a_weight_that_is_pruned_and_regrown_at_once_restarts_at_zero() -> None:
    layer = nn.Linear(4, 1, bias=False)
    layer.weight = weight = nn.Parameter(torch.tensor([[0.1, 2.0, 0.0, 0.0]]))
    masks = Masks({"w": weight}, {"w": 2}, torch.Generator().manual_seed(0))
    masks.masks["w"] = torch.tensor([[True, True, False, False]])
    layer.weight.data = torch.tensor([[0.1, 2.0, 0.0, 0.0]])
    optimizer = torch.optim.SGD([layer.weight], lr=0.0, momentum=0.9)
    layer(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    masks.update(UpdateRule(), 0.5, {"w": 2}, {"w": torch.tensor([[9.0, 9.0, 1.0, 1.0]])}, optimizer)
    assert layer.weight.tolist() == [[0.0, 2.0, 0.0, 0.0]]
    assert optimizer.state[layer.weight]["momentum_buffer"].tolist() == [[0.0, 1.0, 0.0, 0.0]]
    assert masks.masks["w"].tolist() == [[True, True, False, False]]


def test_ties_go_to_the_earlier_and_too_many_are_refused() -> None:
    among = torch.tensor([True, False, True, True])
    assert highest(torch.ones(4), among, 2).tolist() == [True, False, True, False]
    with pytest.raises(ValueError, match="4 units cannot be chosen among 3"):
        highest(torch.ones(4), among, 4)


def test_full_layers_carry_no_mask_and_exploration_is_counted() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(64, 64))
    masks = Masks.erk(model, 0.3, embeddings=False, generator=torch.Generator().manual_seed(0))
    assert set(masks.masks) == {"1.weight"}
    assert masks.explored == pytest.approx(sum(masks.kept().values()) / (4 + 4096))
    before = masks.masks["1.weight"].clone()
    gradient = torch.where(before, 0.0, 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    masks.update(UpdateRule(), 0.5, masks.kept(), {"1.weight": gradient}, optimizer)
    ever = int((before | masks.masks["1.weight"]).sum())
    assert masks.ever_kept() == {"0.weight": 4, "1.weight": ever}
    assert masks.explored == pytest.approx((4 + ever) / (4 + 4096))
