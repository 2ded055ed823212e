"""Every method goes through one loop, and ends as a checkpoint that is read like any other."""

import shutil
from pathlib import Path

import pytest
import torch

from export.export import export
from runtime.artifact import Artifact
from tests.conftest import train_in_a_process
from tests.training.test_resume import files, kill_after_first_checkpoint
from training.checkpoint import Checkpoint, all_checkpoints, read_progress, snapshot_folder
from training.config import TrainConfig, load_config
from training.ensemble import member_folder
from training.errors import CheckpointError
from training.macs import one_example, weight_uses
from training.methods import member_configs, topology
from training.train import train

QUICK = ("epochs=3", "sparsity.update_every=2", "checkpoint_every=100")


def config(method: str) -> TrainConfig:
    return load_config("recipes/fashion-mnist.yaml", [f"method={method}", "epochs=3"])


@pytest.mark.parametrize(
    ("method", "heads", "trunk", "density", "moves"),
    [
        ("dense", 1, False, 1.0, False),
        ("treenet", 3, True, 1.0, False),
        ("neurotrails", 3, True, 0.25, True),
        ("static_sparse", 3, True, 0.25, False),
        ("full_ensemble", 3, False, 1.0, False),
        ("dst_ensemble", 3, False, 0.25, True),
        ("edst_ensemble", 3, False, 0.25, True),
    ],
)
def test_each_method_trains_what_it_says(
    method: str, heads: int, trunk: bool, density: float, moves: bool, image_recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(str(image_recipe), *QUICK, f"method={method}", run=str(run))
    network, masks = Checkpoint.open(run).network()
    assert len(network.heads) == heads
    assert (network.trunk is not None) == trunk
    covered = {name: p for name, p in network.named_parameters() if name.endswith("weight") and p.ndim > 1}
    kept = sum(int(masks[name].sum()) if name in masks else weight.numel() for name, weight in covered.items())
    total = sum(weight.numel() for weight in covered.values())
    # Each member of an ensemble of separate networks has its own, exactly rounded, budget.
    assert abs(kept - density * total) <= 0.5 * (1 if trunk else heads)
    assert all(not covered[name].detach()[~mask].any() for name, mask in masks.items())
    logits = network(torch.randn(2, 3, 12, 12))
    assert not torch.equal(logits[0], logits[-1]) or heads == 1
    explored = [line for line in (run if not (run / "members").exists() else member_folder(run, 0))
                .joinpath("metrics.jsonl").read_text().splitlines() if '"update"' in line]  # fmt: skip
    assert bool(explored) == moves


def test_members_differ_in_seed_but_share_what_is_held_out() -> None:
    members = member_configs(config("full_ensemble"))
    assert len({member.seed for member in members}) == 3
    assert {member.split_seed for member in members} == {1}
    assert {member.method for member in members} == {"dense"}
    assert {member.method for member in member_configs(config("dst_ensemble"))} == {"neurotrails"}
    [only] = member_configs(config("edst_ensemble"))
    assert only.cycles == 3
    assert topology(only).heads == 1
    assert member_configs(config("neurotrails")) == ()


def test_a_member_is_the_dense_run_of_its_seed(image_recipe: Path, tmp_path: Path) -> None:
    ensemble, alone = tmp_path / "ensemble", tmp_path / "alone"
    train(str(image_recipe), *QUICK, "method=full_ensemble", "ensemble.heads=2", run=str(ensemble))
    seed = member_configs(load_config(image_recipe, ["method=full_ensemble"]))[1].seed
    train(str(image_recipe), *QUICK, "method=dense", f"seed={seed}", "split_seed=3", run=str(alone))
    weights = [Checkpoint.open(path).folder / "model.safetensors" for path in (member_folder(ensemble, 1), alone)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    whole, single = Checkpoint.open(ensemble).network()[0], Checkpoint.open(alone).network()[0]
    image = torch.randn(2, 3, 12, 12)
    assert torch.equal(whole(image)[1], single(image)[0])


def test_snapshots_are_the_ends_of_the_cycles(image_recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(str(image_recipe), *QUICK, "method=edst_ensemble", "epochs=4", "ensemble.heads=2", run=str(run))
    own = member_folder(run, 0)
    steps = [read_progress(snapshot_folder(own, index)).epoch for index in range(2)]
    assert steps == [2, 4]
    assert read_progress(all_checkpoints(run)[-1]).finished
    masks = [Checkpoint.open(snapshot_folder(own, index)).network()[1] for index in range(2)]
    assert any(not torch.equal(masks[0][name], masks[1][name]) for name in masks[0])


def test_a_run_that_was_killed_before_its_last_snapshot_makes_it_up(image_recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = [*QUICK, "method=edst_ensemble", "epochs=2", "ensemble.heads=2"]
    train(str(image_recipe), *options, run=str(run))
    whole = files(run)
    shutil.rmtree(run / "checkpoints")  # of the ensemble, which comes last of all
    shutil.rmtree(snapshot_folder(member_folder(run, 0), 1))
    train(str(image_recipe), *options, run=str(run), resume=True)
    assert files(run) == whole


@pytest.mark.parametrize("method", ["full_ensemble", "edst_ensemble"])
def test_an_ensemble_that_was_killed_goes_on_to_the_same_bytes(method: str, image_recipe: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(image_recipe.read_text() + f"method: {method}\n")
    whole = train_in_a_process(recipe, tmp_path / "whole" / "run")
    killed = tmp_path / "killed" / "run"
    kill_after_first_checkpoint(recipe, killed, watch=member_folder(killed, 0))
    with pytest.raises(CheckpointError, match="Pass --resume"):
        train(str(recipe), run=str(killed))
    train_in_a_process(recipe, killed, "--resume")
    assert files(killed) == files(whole)


def test_any_method_can_be_exported(image_recipe: Path, tmp_path: Path) -> None:
    train(str(image_recipe), *QUICK, "method=dst_ensemble", "ensemble.heads=2", run=str(tmp_path / "run"))
    export(str(tmp_path / "run"), str(tmp_path / "artifact"))
    manifest = Artifact.open(tmp_path / "artifact").manifest
    assert manifest.trunk is None
    assert len(manifest.heads) == 2
    assert manifest.sparsity.density == pytest.approx(0.25, abs=1e-3)
    train(str(image_recipe), *QUICK, "method=dense", run=str(tmp_path / "dense"))
    export(str(tmp_path / "dense"), str(tmp_path / "single"))
    assert len(Artifact.open(tmp_path / "single").manifest.heads) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method=bagging", "method: .*neurotrails"),
        ("method=gradual_pruning", "needs pruning_recipe"),
        ("pruning_recipe=some.yaml", "others have none"),
        ("method=edst_ensemble", "3 snapshots need as many epochs, not 2"),
        ("cycles=5", "5 cycles need as many epochs, not 2"),
        ("sparsity.initial_density=0.1", "initial_density 0.1 is below density 0.2"),
    ],
)
def test_a_method_that_cannot_be_is_named(override: str, message: str) -> None:
    from training.errors import ConfigError

    with pytest.raises(ConfigError, match=message):
        load_config("recipes/fashion-mnist.yaml", ["epochs=2", override])


def test_training_macs_are_those_of_a_few_lines(image_recipe: Path, tmp_path: Path) -> None:
    train(str(image_recipe), *QUICK, run=str(tmp_path / "sparse"))
    train(str(image_recipe), *QUICK, "method=treenet", run=str(tmp_path / "dense"))
    description = Checkpoint.open(tmp_path / "sparse").description
    uses = weight_uses(description.network(), one_example(description.preprocessing))
    network, masks = Checkpoint.open(tmp_path / "sparse").network()
    dense = sum(count * network.get_parameter(name).numel() for name, count in uses.items())
    sparse = sum(
        count * int(masks[name].sum() if name in masks else network.get_parameter(name).numel())
        for name, count in uses.items()
    )
    rows, steps = [16, 16, 16], [read_progress(all_checkpoints(tmp_path / run)[-1]) for run in ("sparse", "dense")]
    fit = 120 - 3 * 24
    assert steps[1].training_macs == 3 * fit * 3 * dense
    assert sum(rows) == fit  # three full batches an epoch, and a mask update after steps 2, 4, 6, 8
    assert steps[0].training_macs == 16 * (9 * 2 * sparse + 5 * sparse + 4 * dense)
