"""What goes wrong in training is named with its step, and the last checkpoint stays what it was."""

import resource
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training.checkpoint import Checkpoint, all_checkpoints, read_progress
from training.config import load_config
from training.data import DataError
from training.errors import ConfigError, TrainingError
from training.loop import Trainer
from training.train import train


def newest(run: Path) -> dict[str, bytes]:
    """Name and content of the newest checkpoint, which must be whole."""
    folder = all_checkpoints(run)[-1]
    Checkpoint.open(folder).network()
    return {f"{folder.name}/{path.name}": path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_loss_that_is_no_number_stops_the_run(
    image_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = Trainer.loss

    def explode_at_step_5(self: Trainer, logits: Tensor, targets: Tensor) -> Tensor:
        return genuine(self, logits * (torch.nan if self.progress.step == 5 else 1), targets)

    monkeypatch.setattr(Trainer, "loss", explode_at_step_5)
    with pytest.raises(TrainingError, match=r"loss became nan at step 5\. Lower optimizer\.lr or set clip_norm"):
        train(str(image_recipe), run=str(tmp_path / "run"))
    newest(tmp_path / "run")
    assert read_progress(all_checkpoints(tmp_path / "run")[-1]).step == 4


def test_a_learning_rate_that_is_too_high_never_reaches_a_checkpoint(image_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"became .* at step \d+\. Lower optimizer.lr"):
        train(str(image_recipe), "optimizer.lr=1e38", "optimizer.warmup=0", run=str(tmp_path / "run"))
    for folder in all_checkpoints(tmp_path / "run"):
        network, _ = Checkpoint.open(folder).network()
        assert all(bool(parameter.isfinite().all()) for parameter in network.parameters())


def test_out_of_memory_names_the_step_and_the_remedy(
    image_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = Trainer.loss

    def hungry(self: Trainer, logits: Tensor, targets: Tensor) -> Tensor:
        if self.progress.step == 3:
            torch.empty(1 << 50)  # the allocator refuses, as it does when memory is short
        return genuine(self, logits, targets)

    monkeypatch.setattr(Trainer, "loss", hungry)
    with pytest.raises(TrainingError, match=r"Out of memory at step 3: .*Raise accumulate \(1\) or lower batch_size"):
        train(str(image_recipe), run=str(tmp_path / "run"))
    before = newest(tmp_path / "run")
    monkeypatch.undo()
    train(str(image_recipe), run=str(tmp_path / "run"), resume=True)
    assert newest(tmp_path / "run") != before


def test_other_errors_of_a_step_are_not_disguised(
    image_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Trainer, logits: Tensor, targets: Tensor) -> Tensor:
        del self
        return logits.reshape(7, 7, 7, 7).sum() + targets.sum()

    monkeypatch.setattr(Trainer, "loss", broken)
    with pytest.raises(RuntimeError, match="shape"):
        train(str(image_recipe), run=str(tmp_path / "run"))


def test_a_full_disk_leaves_the_last_checkpoint(
    image_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    genuine = Trainer.save

    def fill_the_disk_after_step_2(self: Trainer) -> None:
        if self.progress.step > 2:  # no file may grow beyond this, which is less than the weights need
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        genuine(self)

    monkeypatch.setattr(Trainer, "save", fill_the_disk_after_step_2)
    try:
        with pytest.raises(TrainingError, match=r"cannot be written at step \d: .*The last checkpoint is intact"):
            train(str(image_recipe), run=str(run))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    newest(run)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000002"]


def test_what_cannot_be_computed_here_is_refused(image_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size 16 cannot be divided among 1 processes with accumulate 20"):
        train(str(image_recipe), "accumulate=20", run=str(tmp_path / "run"))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="accelerator is cuda, but PyTorch finds no GPU"):
            train(str(image_recipe), "accelerator=cuda", run=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="no layer is called 'stem'"):
        train(str(image_recipe), "sparsity.layers={stem: 1}", run=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="leaves -"):
        train(str(image_recipe), "sparsity.layers={'*conv*': 0.9}", run=str(tmp_path / "run"))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_image_that_becomes_unreadable_is_named(
    image_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(load_config(image_recipe).data.path or "", folder)
    monkeypatch.setenv("NEUROTRAILS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("training.data.image_sets.IN_MEMORY_BYTES", 0)  # images are decoded when a batch asks for them
    genuine = Trainer.loss

    def damage_at_step_4(self: Trainer, logits: Tensor, targets: Tensor) -> Tensor:
        if self.progress.step == 4:
            for path in folder.rglob("*.png"):
                path.write_bytes(path.read_bytes()[:90])
        return genuine(self, logits, targets)

    monkeypatch.setattr(Trainer, "loss", damage_at_step_4)
    with pytest.raises(DataError, match=rf"{folder}/\w+/\d+\.png cannot be used: "):
        train(str(image_recipe), f"data.path={folder}", run=str(tmp_path / "run"))
    newest(tmp_path / "run")
    assert read_progress(all_checkpoints(tmp_path / "run")[-1]).step >= 4
