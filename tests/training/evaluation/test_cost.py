"""Cost: counted from the masks, and relative to the dense single network that the recipe would train."""

import shutil
from pathlib import Path

import pytest

from training.checkpoint import Checkpoint, all_checkpoints, best_of_run, read_progress
from training.evaluation.cost import measure_cost
from training.evaluation.document import Cost
from training.preparation import split_of
from training.train import train


def cost_of(run: Path) -> Cost:
    checkpoint = Checkpoint.open(run)
    network, masks = checkpoint.network()
    return measure_cost(checkpoint, network, masks, fit_rows=len(split_of(checkpoint).fit))


@pytest.mark.parametrize(("method", "members"), [("dense", 1), ("full_ensemble", 2)])
def test_a_dense_network_costs_what_a_dense_network_costs(
    method: str, members: int, image_recipe: Path, tmp_path: Path
) -> None:
    """By definition: one dense network is the unit, and an ensemble of two costs two of it."""
    train(str(image_recipe), f"method={method}", "ensemble.heads=2", "epochs=1", run=str(tmp_path / "run"))
    cost = cost_of(tmp_path / "run")
    assert cost.relative_weights == members
    assert cost.relative_macs == members
    assert cost.relative_training_macs == members
    assert cost.parameters == members * cost.single_parameters
    assert cost.weights == cost.kept == members * cost.single_weights
    assert [stage.stage for stage in cost.stages] == [f"heads.{index}" for index in range(members)]
    assert cost.dense_macs == cost.effective_macs == members * cost.single_macs


def test_a_sparse_run_is_counted_from_its_masks(image_run: Path) -> None:
    checkpoint = Checkpoint.open(image_run)
    network, masks = checkpoint.network()
    cost = cost_of(image_run)
    assert cost.kept == round(0.25 * cost.weights)
    values = sum(int(network.get_parameter(name).count_nonzero()) for name in masks)
    unmasked = cost.weights - sum(mask.numel() for mask in masks.values())
    assert values <= cost.nonzero <= values + unmasked
    assert [stage.stage for stage in cost.stages] == ["trunk", "heads.0", "heads.1", "heads.2"]
    assert all(stage.effective_macs < stage.dense_macs for stage in cost.stages)
    assert cost.relative_weights == pytest.approx(cost.kept / cost.single_weights)
    assert cost.relative_macs == pytest.approx(cost.effective_macs / cost.single_macs)


def test_training_is_counted_to_the_end_of_the_run_whichever_checkpoint_is_best(image_run: Path) -> None:
    cost = cost_of(image_run)
    end = read_progress(all_checkpoints(image_run)[-1])
    rows = len(split_of(Checkpoint.open(image_run)).fit)
    assert cost.training_macs == end.training_macs
    # 3 epochs of 3 f_S for each row, and more for the dense gradients of updates
    assert end.training_macs > 3 * cost.effective_macs * rows * 3
    assert cost.relative_training_macs == pytest.approx(end.training_macs / (3 * cost.single_macs * rows * 3))


def test_a_checkpoint_without_a_state_has_no_training_to_count(image_run: Path, tmp_path: Path) -> None:
    shutil.copytree(best_of_run(image_run), tmp_path / "copy")
    for file in (tmp_path / "copy").glob("state.*"):
        file.unlink()
    cost = cost_of(tmp_path / "copy")
    assert (cost.training_macs, cost.relative_training_macs) == (None, None)
