"""Gradual pruning by a SparseML recipe. What needs SparseML runs in its own environment: `make sparseml`."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.test_parallel import train as train_in_processes
from tests.training.test_resume import files
from training.checkpoint import Checkpoint, all_checkpoints, pack, unpack
from training.config import load_config
from training.errors import CheckpointError, ConfigError
from training.sparsity.gradual_pruning import GradualPruning

INSTALLED = find_spec("sparseml") is not None
needs_sparseml = pytest.mark.skipif(
    not INSTALLED and "NEUROTRAILS_SPARSEML" not in os.environ, reason="needs SparseML: make sparseml"
)
RECIPE = Path(__file__).parents[2] / "recipes" / "sparseml" / "gradual-pruning.yaml"
RUN_RECIPE = RECIPE.parents[1] / "gradual-pruning.yaml"
STEPS_PER_EPOCH = 8
EPOCHS = """modifiers:
  - !EpochRangeModifier
    start_epoch: 0.0
    end_epoch: 4.0
"""
PRUNE = """  - !MagnitudePruningModifier
    init_sparsity: 0.1
    final_sparsity: 0.85
    start_epoch: 0.5
    end_epoch: 3.0
    update_frequency: 0.25
    params: __ALL_PRUNABLE__
"""
GRADUAL = EPOCHS + PRUNE


def recipe(folder: Path, text: str) -> Path:
    path = folder / "pruning.yaml"
    path.write_text(text)
    return path


class Run:
    """A tiny network in training."""

    def __init__(self, pruning_recipe: Path, kind: str = "sgd", epochs: int = 10) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)
        )
        self.optimizer: torch.optim.Optimizer
        if kind == "sgd":
            self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        else:
            self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.01)
        self.pruning = GradualPruning(self.network, self.optimizer, pruning_recipe, STEPS_PER_EPOCH, epochs)

    def step(self, step: int) -> None:
        generator = torch.Generator().manual_seed(step)
        loss = self.network(torch.randn(4, 4, 6, 6, generator=generator)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.pruning.after_backward(step)
        for name, mask in self.pruning.masks.items():
            gradient = self.pruning.weights[name].grad
            assert gradient is not None
            assert not gradient[~mask].any()
        self.optimizer.step()
        before = self.pruning.density
        update = self.pruning.after_step(step)
        assert update or self.pruning.density == before
        for name, mask in self.pruning.masks.items():
            weight = self.pruning.weights[name]
            assert not weight[~mask].any()
            assert all(not value[~mask].any() for value in self.optimizer.state[weight].values() if value.ndim)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training changes."""
        moments = {
            f"{key}.{name}": value
            for name, weight in self.network.named_parameters()
            for key, value in self.optimizer.state[weight].items()
        }
        return {**self.network.state_dict(), **moments, **{f"mask.{k}": v for k, v in self.pruning.masks.items()}}


def as_bytes(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    """Bytes tell a negative zero from a positive one."""
    return {name: tensor.detach().numpy().tobytes() for name, tensor in tensors.items()}


@pytest.mark.skipif(INSTALLED, reason="SparseML is installed")
def test_without_sparseml_the_error_says_how_to_get_it() -> None:
    with pytest.raises(ConfigError, match="method gradual_pruning needs SparseML: make sparseml"):
        Run(RECIPE)


@pytest.mark.parametrize(
    ("modifier", "reason"),
    [
        ("QuantizationModifier", "`neurotrails export` quantizes"),
        ("SetLearningRateModifier", "the section `optimizer`"),
        ("LearningRateFunctionModifier", "the section `optimizer`"),
        ("RigLPruningModifier", "prunes in another way"),
    ],
)
def test_a_modifier_that_does_not_work_here_is_refused_by_name(tmp_path: Path, modifier: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"holds a {modifier}, which is not supported: .*{reason}"):
        Run(recipe(tmp_path, f"{GRADUAL}  - !{modifier}\n    start_epoch: 0.0\n"))


def test_a_modifier_in_braces_is_refused_because_sparseml_does_not_read_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="EpochRangeModifier in braces"):
        Run(recipe(tmp_path, "modifiers:\n  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 4.0}\n"))


def test_the_pair_of_recipes_that_is_shipped_belongs_together() -> None:
    config = load_config(RUN_RECIPE)
    assert config.method == "gradual_pruning"
    assert config.pruning_recipe is not None
    assert config.pruning_recipe.resolve() == RECIPE.resolve()


@pytest.mark.parametrize("text", [EPOCHS, "modifiers: [", "modifiers: []", ""])
def test_a_recipe_that_prunes_nothing_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"prunes nothing|is not YAML"):
        Run(recipe(tmp_path, text))


def test_a_missing_recipe_is_named_and_nothing_is_downloaded() -> None:
    with pytest.raises(ConfigError, match=r"no such file zoo:cv/classification\.yaml"):
        Run(Path("zoo:cv/classification.yaml"))


@needs_sparseml
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_sparsity_follows_the_cubic_schedule(tmp_path: Path, kind: str) -> None:
    run = Run(recipe(tmp_path, GRADUAL), kind)
    expected = 0.0
    for step in range(4 * STEPS_PER_EPOCH):
        run.step(step)
        epoch = (step + 1) / STEPS_PER_EPOCH
        if 0.5 <= epoch <= 3.0 and (epoch - 0.5) % 0.25 == 0:  # Zhu & Gupta, section 3
            expected = 0.85 + (0.1 - 0.85) * (1 - (epoch - 0.5) / 2.5) ** 3
        for name, kept in run.pruning.kept().items():
            total = run.pruning.weights[name].numel()
            assert kept == total - round(total * expected)
        assert run.pruning.settled == (epoch >= 3.0)
    assert run.pruning.masks["0.weight"].float().mean().item() == pytest.approx(0.15, abs=1 / 288)
    assert run.pruning.density == pytest.approx(0.15, abs=1 / 288)
    assert run.pruning.explored == 1


@needs_sparseml
def test_the_smallest_weights_go_and_never_come_back(tmp_path: Path) -> None:
    run = Run(recipe(tmp_path, GRADUAL))
    for step in range(3 * STEPS_PER_EPOCH):
        before = {name: mask.clone() for name, mask in run.pruning.masks.items()}
        run.step(step)
        for name, mask in run.pruning.masks.items():
            assert not (mask & ~before.get(name, torch.ones_like(mask))).any()


@needs_sparseml
def test_a_recipe_that_starts_at_once_prunes_before_the_first_step(tmp_path: Path) -> None:
    at_once = GRADUAL.replace("start_epoch: 0.5", "start_epoch: 0.0").replace(
        "init_sparsity: 0.1", "init_sparsity: 0.3"
    )
    run = Run(recipe(tmp_path, at_once))
    weight = Run(RECIPE).pruning.weights["4.weight"]  # the same seed: the weights before pruning
    magnitude = np.sort(weight.detach().abs().numpy().ravel())
    threshold = magnitude[round(0.3 * weight.numel())]
    np.testing.assert_array_equal(run.pruning.masks["4.weight"].numpy(), weight.detach().abs().numpy() >= threshold)
    assert run.pruning.explored == run.pruning.density  # pruned before the first step: never part of the network


@needs_sparseml
def test_sparsities_by_layer_and_a_linear_schedule(tmp_path: Path) -> None:
    by_layer = "\n      0.5: ['0.weight']\n      0.9: ['re:4.*weight']\n    inter_func: linear"
    text = GRADUAL.replace("final_sparsity: 0.85", f"final_sparsity:{by_layer}").replace("__ALL_PRUNABLE__", "[]")
    run = Run(recipe(tmp_path, text))
    for step in range(14):
        run.step(step)
    assert run.pruning.kept() == {  # after 1.25 of 2.5 epochs of pruning
        "0.weight": 288 - round(288 * (0.1 + 0.5) / 2),
        "4.weight": 640 - round(640 * (0.1 + 0.9) / 2),
    }


@needs_sparseml
def test_global_pruning_shares_one_budget(tmp_path: Path) -> None:
    run = Run(recipe(tmp_path, GRADUAL.replace("!Magnitude", "!GlobalMagnitude")))
    for step in range(3 * STEPS_PER_EPOCH):
        run.step(step)
    kept, total = run.pruning.kept(), 288 + 640
    assert sum(kept.values()) == total - round(total * 0.85)
    assert kept["0.weight"] / 288 != pytest.approx(kept["4.weight"] / 640, abs=0.02)


@needs_sparseml
def test_blocks_of_four_input_channels(tmp_path: Path) -> None:
    run = Run(recipe(tmp_path, GRADUAL + "    mask_type: block4\n"))
    for step in range(3 * STEPS_PER_EPOCH):
        run.step(step)
    blocks = run.pruning.masks["0.weight"].permute(0, 2, 3, 1).reshape(-1, 4)
    assert (blocks.all(dim=1) == blocks.any(dim=1)).all()
    assert blocks.all(dim=1).sum() == 72 - round(72 * 0.85)


@needs_sparseml
def test_masks_end_with_a_modifier_that_says_so(tmp_path: Path) -> None:
    run = Run(recipe(tmp_path, GRADUAL + "    leave_enabled: False\n"))
    for step in range(3 * STEPS_PER_EPOCH):
        run.step(step)
    assert run.pruning.masks == {}
    assert run.pruning.density == 1
    weight = run.pruning.weights["0.weight"]
    assert weight.count_nonzero() == 288 - round(288 * 0.85)
    run.step(3 * STEPS_PER_EPOCH)
    assert weight.count_nonzero() > 200  # they learn again


@needs_sparseml
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", [2, 4, 11, 24, 30])
def test_a_resumed_run_gives_the_same_bytes(tmp_path: Path, stop: int, kind: str) -> None:
    second = PRUNE.replace("0.85", "0.95").replace("frequency: 0.25", "frequency: -1.0")
    path = recipe(tmp_path, GRADUAL + second.replace("__ALL_PRUNABLE__", "['4.weight']"))
    whole = Run(path, kind)
    for step in range(stop):
        whole.step(step)
    resumed = Run(path, kind)
    saved, masks = unpack(pack(whole.network.state_dict(), whole.pruning.masks))  # holds kept weights only
    resumed.network.load_state_dict(saved)
    resumed.optimizer.load_state_dict(copy.deepcopy(whole.optimizer.state_dict()))
    resumed.pruning.restore(stop, masks, whole.pruning.capture())
    for step in range(stop, 4 * STEPS_PER_EPOCH):
        assert as_bytes(resumed.tensors()) == as_bytes(whole.tensors())
        whole.step(step)
        resumed.step(step)
    assert as_bytes(resumed.tensors()) == as_bytes(whole.tensors())
    after, wanted = resumed.pruning.capture(), whole.pruning.capture()
    assert after.keys() == wanted.keys()
    assert all(array.tobytes() == wanted[name].tobytes() for name, array in after.items())
    assert resumed.pruning.kept()["4.weight"] == 640 - round(640 * 0.95)


@needs_sparseml
def test_resuming_with_another_recipe_is_refused(tmp_path: Path) -> None:
    captured = Run(recipe(tmp_path, GRADUAL)).pruning.capture()
    with pytest.raises(CheckpointError, match="recipe has changed"):
        Run(recipe(tmp_path, GRADUAL.replace("0.85", "0.8"))).pruning.restore(0, {}, captured)
    del captured["ever_active.4.weight"]
    with pytest.raises(KeyError, match=r"ever_active\.4\.weight"):
        Run(recipe(tmp_path, GRADUAL)).pruning.restore(0, {}, captured)


@needs_sparseml
@pytest.mark.parametrize(
    ("params", "message"),
    [("['re:.*bias']", r"prunes 1\.bias, 4\.bias; only weights"), ("[nowhere.weight]", "SparseML cannot use")],
)
def test_what_cannot_be_pruned_is_refused(tmp_path: Path, params: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Run(recipe(tmp_path, GRADUAL.replace("__ALL_PRUNABLE__", params)))


@needs_sparseml
@pytest.mark.parametrize("ends", ["5.0", "0.5", "-1.0"])
def test_a_recipe_that_does_not_end_within_the_run_is_refused(tmp_path: Path, ends: str) -> None:
    with pytest.raises(ConfigError, match=rf"from epoch 0\.5 to {float(ends):g}, but the run has 4 epochs"):
        Run(recipe(tmp_path, GRADUAL.replace("end_epoch: 3.0", f"end_epoch: {ends}")), epochs=4)


@needs_sparseml
def test_sparseml_neither_phones_home_nor_writes_logs(tmp_path: Path) -> None:
    code = (
        "import socket, sys; from pathlib import Path; from torch import nn, optim\n"
        "def refuse(*a, **k): print('network'); raise OSError\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from training.sparsity.gradual_pruning import GradualPruning\n"
        "net = nn.Sequential(nn.Linear(8, 8)); sgd = optim.SGD(net.parameters())\n"
        "GradualPruning(net, sgd, Path(sys.argv[1]), 8, 4).after_step(9)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NM_DISABLE_ANALYTICS"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    script = [sys.executable, "-c", code, str(recipe(tmp_path, GRADUAL))]
    run = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pruning.yaml"]


def command(verb: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "neurotrails", verb, *map(str, arguments)]


def every_step(folder: Path) -> Path:
    """A recipe that prunes after each step of the first two epochs, and before the first one."""
    text = GRADUAL.replace("frequency: 0.25", "frequency: -1.0").replace("3.0", "2.0")
    return recipe(folder, text.replace("start_epoch: 0.5", "start_epoch: 0.0"))


@needs_sparseml
def test_two_processes_end_with_the_same_bytes(tmp_path: Path, image_recipe: Path) -> None:
    overrides = ("method=gradual_pruning", f"pruning_recipe={every_step(tmp_path)}", "batch_size=15", "accumulate=2")
    first, second = train_in_processes(image_recipe, tmp_path, *overrides, processes=2)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    masks = {name: mask for name, mask in first.items() if name.startswith("mask.")}
    assert masks
    assert all(mask.sum() == mask.numel() - round(0.85 * mask.numel()) for mask in masks.values())


@needs_sparseml
def test_a_run_from_recipe_to_artifact(tmp_path: Path, image_recipe: Path) -> None:
    whole, killed, artifact = tmp_path / "whole", tmp_path / "killed", tmp_path / "artifact"
    overrides = ("epochs=4", "method=gradual_pruning", f"pruning_recipe={every_step(tmp_path)}")
    subprocess.run(command("train", image_recipe, *overrides, "--run", whole), check=True)

    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    updates = [line for line in lines if line["kind"] == "update"]
    steps = [line for line in lines if line["kind"] == "evaluation"][-1]["step"]
    assert [line["step"] for line in updates] == list(range(1, steps // 2 + 1))
    network, masks = Checkpoint.open(whole).network()
    sizes = {name: network.get_parameter(name).numel() for name in masks}
    for line in updates:  # Zhu & Gupta, section 3
        sparsity = 0.85 + (0.1 - 0.85) * (1 - line["step"] / (steps / 2)) ** 3
        kept = sum(size - round(size * sparsity) for size in sizes.values())
        assert line["density"] == kept / sum(sizes.values())
    for name, mask in masks.items():
        assert mask.sum() == sizes[name] - round(0.85 * sizes[name])
        assert not network.get_parameter(name)[~mask].any()

    process = subprocess.Popen(command("train", image_recipe, *overrides, "--run", killed), stderr=subprocess.PIPE)
    while not all_checkpoints(killed) and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    subprocess.run(command("train", image_recipe, *overrides, "--run", killed, "--resume"), check=True)
    assert files(killed) == files(whole)

    subprocess.run(command("evaluate", whole, "--part", "report"), check=True)
    subprocess.run(command("export", whole, artifact), check=True)
    sparsity_section = json.loads((artifact / "manifest.json").read_text())["sparsity"]
    assert sparsity_section["kept"] == sum(int(mask.sum()) for mask in masks.values())
    assert sparsity_section["weights"] == sum(sizes.values())
