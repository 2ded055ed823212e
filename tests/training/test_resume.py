"""A run that was killed and resumed ends with the same bytes as one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import train_in_a_process
from training.checkpoint import all_checkpoints
from training.errors import CheckpointError
from training.loop import Trainer
from training.train import train


def files(run: Path) -> dict[str, bytes]:
    """Weights and state of the newest checkpoint."""
    folder = all_checkpoints(run)[-1]
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "config.json"}


def start(recipe: Path, run: Path, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "neurotrails", "train", str(recipe), "--run", str(run), *more],
        stderr=subprocess.PIPE,
    )


def kill_after_first_checkpoint(recipe: Path, run: Path, watch: Path) -> None:
    """Train and kill at a random moment after `watch`, a run folder, has got a checkpoint."""
    process = start(recipe, run)
    while not all_checkpoints(watch) and process.poll() is None:  # imports take most of the time
        time.sleep(0.01)
    time.sleep(random.random() * 0.5)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("kind", ["image", "text"])
def test_kill_at_a_random_moment_then_resume_gives_the_same_bytes(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    recipe, whole = request.getfixturevalue(f"{kind}_recipe"), request.getfixturevalue(f"{kind}_run")
    run = tmp_path / whole.name
    (run / "checkpoints" / ".step-00000001.partial-x").mkdir(parents=True)  # as a kill while writing leaves it
    kill_after_first_checkpoint(recipe, run, run)
    resumed = start(recipe, run, "--resume")
    _, said = resumed.communicate()
    assert resumed.returncode == 0, said.decode()
    assert files(run) == files(whole)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {path.name for path in all_checkpoints(whole)}


def test_a_second_run_gives_the_same_bytes(image_recipe: Path, image_run: Path, tmp_path: Path) -> None:
    again = train_in_a_process(image_recipe, tmp_path / "again")
    assert files(again) == files(image_run)


def test_a_finished_run_is_not_started_again_by_accident(image_recipe: Path, image_run: Path) -> None:
    with pytest.raises(CheckpointError, match="Pass --resume"):
        train(str(image_recipe), run=str(image_run))


def test_resuming_with_other_settings_names_them(image_recipe: Path, image_run: Path) -> None:
    with pytest.raises(CheckpointError, match=r"optimizer\.lr: 0\.05 there, 0\.2 here"):
        train(str(image_recipe), "optimizer.lr=0.2", run=str(image_run), resume=True)


def test_resuming_with_other_threads_is_refused_unless_asked_for(
    image_recipe: Path, image_run: Path, tmp_path: Path
) -> None:
    import shutil

    run = tmp_path / "copy"
    shutil.copytree(image_run, run)
    state = all_checkpoints(run)[-1] / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"threads": 7}))
    with pytest.raises(CheckpointError, match="trained with 7 threads, 1 process"):
        train(str(image_recipe), run=str(run), resume=True)
    train(str(image_recipe), run=str(run), resume=True, elsewhere=True)


@pytest.mark.parametrize(
    "overrides",
    [
        "sparsity.regrow=momentum sparsity.prune=soft_magnitude sparsity.initial_density=0.9 sparsity.decay_until=0.6",
        "sparsity.granularity=1x4 sparsity.distribution=uniform sparsity.scope=stage cycles=2 accumulate=2",
        "method=static_sparse precision=bf16-mixed",
        "method=treenet precision=fp64",
    ],
)
def test_every_option_resumes_from_the_middle_to_the_same_bytes(
    overrides: str, image_recipe: Path, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole" / "run", tmp_path / "cut" / "run"
    changes = overrides.split()
    train(str(image_recipe), *changes, run=str(whole))

    class Cut(Exception):  # noqa: N818 - not an error
        """The run stops here."""

    genuine = Trainer.save

    def stop_after(self: Trainer) -> None:
        genuine(self)
        if self.progress.step == 4:
            raise Cut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "save", stop_after)
        with pytest.raises(Cut):
            train(str(image_recipe), *changes, run=str(cut))
    torch.manual_seed(1234)
    train(str(image_recipe), *changes, run=str(cut), resume=True)
    assert files(cut) == files(whole)
    lines = [[json.loads(line) | {"time": 0} for line in (run / "metrics.jsonl").read_text().splitlines()]
             for run in (whole, cut)]  # fmt: skip
    assert lines[0] == lines[1]
