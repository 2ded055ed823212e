"""Schedules: prune rate, density decay, cycles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.config import TrainConfig, load_config
from training.plan import build_plan, cycles_of
from training.sparsity.schedule import Cycles, DensityDecay, PruneRate


def test_prune_rates() -> None:
    cosine = PruneRate(0.5, 0.005, 100)
    assert [cosine(0), cosine(50), cosine(100), cosine(200)] == pytest.approx([0.5, 0.2525, 0.005, 0.005])
    linear = PruneRate(0.5, 0.1, 4, "linear")
    assert [linear(step) for step in range(6)] == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1, 0.1])
    assert {PruneRate(0.3, 0.1, 4, "constant")(step) for step in range(9)} == {0.3}


def test_density_decays_by_the_cubic_and_stays() -> None:
    decay = DensityDecay(1.0, 0.2, 10)
    assert [decay(step) for step in (0, 5, 10, 99)] == pytest.approx([1.0, 0.2 + 0.8 * 0.125, 0.2, 0.2])


@given(st.integers(1, 5), st.integers(1, 30), st.integers(1, 7))
def test_every_step_lies_in_one_cycle(count: int, epochs: int, per_epoch: int) -> None:
    if count > epochs:
        return
    cycles = Cycles(count, epochs, per_epoch)
    places = [cycles.place(step) for step in range(epochs * per_epoch)]
    starts = [step for step, (behind, _) in enumerate(places) if behind == 0]
    ends = [end * per_epoch for end in cycles.ends()]
    assert starts == [0, *ends[:-1]]
    assert len(ends) == count
    assert max(ends) == epochs * per_epoch
    assert all(places[end - 1][0] == places[end - 1][1] - 1 for end in ends)
    assert max(length for _, length in places) - min(length for _, length in places) <= per_epoch


def config(*overrides: str) -> TrainConfig:
    return load_config("recipes/fashion-mnist.yaml", ["epochs=4", "sparsity.update_every=10", *overrides])


def due(chosen: TrainConfig, per_epoch: int) -> list[int]:
    plan = build_plan(chosen, cycles_of(chosen, per_epoch))
    return [done for done in range(1, chosen.epochs * per_epoch + 1) if plan.due(done)]


def test_updates_stop_where_they_should() -> None:
    assert due(config("sparsity.stop_at=0.5"), 25) == [10, 20, 30, 40, 50]
    assert due(config("sparsity.stop_at=1"), 25) == [10, 20, 30, 40, 50, 60, 70, 80, 90]  # none after the last step
    assert due(config("sparsity.stop_at=0.5", "cycles=2"), 25) == [10, 20, 60, 70]
    for still in ("method=static_sparse", "method=dense", "method=treenet", "sparsity.density=1"):
        assert due(config(still), 25) == []


def test_rates_start_again_with_each_cycle() -> None:
    chosen = config("cycles=2")
    plan = build_plan(chosen, cycles_of(chosen, 25))
    assert plan.prune_rate(0) == 0.5
    assert plan.prune_rate(50) == pytest.approx(0.005)
    assert plan.prune_rate(51) == pytest.approx(0.5, abs=0.001)
    assert plan.prune_rate(60) == plan.prune_rate(10)


def test_a_density_that_is_never_reached_is_refused() -> None:
    chosen = config("sparsity.initial_density=0.9", "sparsity.decay_until=0.75", "sparsity.update_every=80")
    with pytest.raises(ValueError, match="no mask update falls"):
        build_plan(chosen, cycles_of(chosen, 25))
    falling = config("sparsity.initial_density=0.9", "sparsity.decay_until=0.5")
    plan = build_plan(falling, cycles_of(falling, 25))
    assert [plan.density(0), plan.density(50), plan.final_density] == pytest.approx([0.9, 0.2, 0.2])


def test_masks_that_never_move_average_no_gradients() -> None:
    for method, regrow in (("static_sparse", "gradient"), ("treenet", "gradient"), ("neurotrails", "momentum")):
        chosen = config(f"method={method}", "sparsity.regrow=momentum")
        assert build_plan(chosen, cycles_of(chosen, 25)).rule.regrow == regrow
