"""Checkpoints: packed, complete, atomic."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from runtime.errors import AlreadyExists
from runtime.files import atomic_folder, atomic_write
from training.checkpoint import Checkpoint, all_checkpoints, best_of_run, pack, read_progress, unpack
from training.errors import CheckpointError


@given(st.integers(1, 7), st.integers(1, 9), st.floats(0, 1), st.integers(0, 100))
def test_packing_keeps_every_bit(rows: int, columns: int, density: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, columns, generator=generator) < density
    weight = torch.randn(rows, columns, generator=generator) * mask
    if mask.any():
        weight[tuple(mask.nonzero()[0])] = 0.0  # active, and exactly zero
    arrays = pack({"w": weight, "b": weight[0]}, {"w": mask})
    assert len(arrays["w.values"]) == int(mask.sum())
    tensors, masks = unpack(arrays)
    assert torch.equal(tensors["w"], weight)
    assert torch.equal(tensors["b"], weight[0])
    assert torch.equal(masks["w"], mask)


def test_a_checkpoint_holds_the_network_that_was_trained(image_run: Path) -> None:
    checkpoint = Checkpoint.open(image_run)
    network, masks = checkpoint.network()
    assert not network.training
    for name, mask in masks.items():
        weight = network.get_parameter(name)
        assert not weight[~mask].any()
    stored = load_file(checkpoint.folder / "model.safetensors")
    kept = sum(len(values) for name, values in stored.items() if name.endswith(".values"))
    assert kept == sum(int(mask.sum()) for mask in masks.values())
    assert not list(image_run.rglob("*.pkl")) + list(image_run.rglob("*.pt"))


def test_only_the_newest_and_the_best_checkpoint_stay(image_run: Path) -> None:
    folders = all_checkpoints(image_run)
    progress = read_progress(folders[-1])
    assert progress.finished
    assert {folder.name for folder in folders} == {f"step-{s:08d}" for s in (progress.step, progress.best_step)}
    assert best_of_run(image_run).name == f"step-{progress.best_step:08d}"


def test_metrics_are_json_lines(image_run: Path) -> None:
    lines = [json.loads(line) for line in (image_run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "accuracy" in line] == [1, 2, 3]


@pytest.mark.parametrize("damage", ["config.json", "metrics.json", "model.safetensors"])
def test_a_damaged_checkpoint_is_named(image_run: Path, tmp_path: Path, damage: str) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(best_of_run(image_run), copy)
    (copy / damage).write_bytes((copy / damage).read_bytes()[:40])
    with pytest.raises(CheckpointError, match="copy"):
        Checkpoint.open(copy).network()


def test_values_that_do_not_fit_their_mask_are_refused(tmp_path: Path) -> None:
    save_file({"w.values": np.ones(3, np.float32), "w.bitmask": np.array([255], np.uint8),
               "w.shape": np.array([2, 4])}, tmp_path / "m.safetensors")  # fmt: skip
    with pytest.raises(CheckpointError, match="3 values for 8 kept weights"):
        unpack(load_file(tmp_path / "m.safetensors"))


def test_no_run_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        Checkpoint.open(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint yet"):
        Checkpoint.open(tmp_path)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "artifact"

    def fail_half_way() -> None:
        with atomic_folder(target) as partial:
            (partial / "half").write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail_half_way()
    assert not list((tmp_path / "deep").iterdir())
    with atomic_folder(target) as partial:
        (partial / "whole").write_text("whole")
    assert [path.name for path in target.iterdir()] == ["whole"]
    with pytest.raises(AlreadyExists, match="never overwritten"), atomic_folder(target):
        pass


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    atomic_write(tmp_path / "f", b"one")
    atomic_write(tmp_path / "f", b"two")
    assert (tmp_path / "f").read_bytes() == b"two"
    assert len(list(tmp_path.iterdir())) == 1
