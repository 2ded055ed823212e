"""Checkpoints: a folder that holds a run completely. No pickle; masked weights are stored packed.

    config.json         the run description: validated config, labels, preprocessing, data source
    model.safetensors   weights and buffers; a masked weight `w` as w.values (kept, row-major), w.bitmask, w.shape
    metrics.json        what was last measured on the select part
    tokenizer.json      (text)
    state.safetensors, state.json   optimizer, generators, sampler position, masks' history, step, threads

Kept means kept by the mask: an active weight may be exactly zero.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from runtime.files import atomic_folder
from runtime.manifest import ImagePreprocessing, TextPreprocessing
from training.config import TrainConfig
from training.errors import CheckpointError
from training.methods import topology
from training.models.build import build_network
from training.models.multihead import MultiHeadNetwork

Arrays = dict[str, NDArray[np.generic]]


class RunDescription(BaseModel):
    """Everything about a run that does not change while it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: TrainConfig
    labels: tuple[str, ...]
    preprocessing: ImagePreprocessing | TextPreprocessing = Field(discriminator="kind")
    data_source: str
    data_sha256: str
    code_version: str
    command: str = ""
    """What started the run."""

    def network(self) -> MultiHeadNetwork:
        """Build the network of the run with fresh weights."""
        channels = len(self.preprocessing.mean) if isinstance(self.preprocessing, ImagePreprocessing) else 0
        config = self.config
        return build_network(
            config.network, topology(config), classes=len(self.labels), channels=channels, seed=config.seed
        )


class Progress(BaseModel):
    """Where a run stands."""

    model_config = ConfigDict(extra="forbid")

    step: int = 0
    epoch: int = 0
    batch: int = 0
    """Batches of the current epoch that are done."""
    threads: int
    processes: int = 1
    device: str = "cpu"
    """Kind of device: results are the same, byte for byte, for one number of threads and processes and one kind."""
    training_macs: int = 0
    """Multiply-adds that training has needed, with a runtime that skips zeros."""
    best_step: int | None = None
    best_accuracy: float = -1.0
    finished: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder, opened."""

    folder: Path
    description: RunDescription
    metrics: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> "Checkpoint":
        """Open a checkpoint, or the best one of a run folder. Raises CheckpointError."""
        folder = Path(path)
        if (folder / "checkpoints").is_dir():
            folder = best_of_run(folder)
        elif (folder / "members").is_dir():
            raise CheckpointError(
                f"{folder} is an ensemble whose members are not all trained. Go on with it: --resume."
            )
        try:
            description = RunDescription.model_validate_json((folder / "config.json").read_bytes())
            metrics = json.loads((folder / "metrics.json").read_bytes())
        except (OSError, ValueError, ValidationError) as error:
            raise CheckpointError(f"{folder} is not a complete checkpoint or run folder: {error}") from error
        return cls(folder, description, metrics)

    @property
    def tokenizer(self) -> Path:
        """Path of the tokenizer (text only)."""
        return self.folder / "tokenizer.json"

    def network(self) -> tuple[MultiHeadNetwork, dict[str, Tensor]]:
        """Return the network in evaluation mode, with its masks by weight name (layers without mask left out)."""
        network = self.description.network()
        tensors, masks = unpack(read_tensors(self.folder / "model.safetensors"))
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise CheckpointError(f"{self.folder}: the weights do not fit the configuration: {error}") from error
        return network.eval(), masks


def pack(tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Arrays:
    """Tensors to arrays for model.safetensors, masked ones packed."""
    arrays: Arrays = {}
    for name, tensor in tensors.items():
        array = tensor.detach().cpu().contiguous().numpy()
        if name in masks:
            mask = masks[name].cpu().numpy()
            arrays[f"{name}.values"] = array[mask]
            arrays[f"{name}.bitmask"] = np.packbits(mask)
            arrays[f"{name}.shape"] = np.asarray(mask.shape, dtype=np.int64)
        else:
            arrays[name] = array
    return arrays


def unpack(arrays: Mapping[str, NDArray[np.generic]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the inverse of `pack`: all tensors dense, and the masks."""
    tensors: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    packed = {name.removesuffix(".bitmask") for name in arrays if name.endswith(".bitmask")}
    for name in packed:
        shape = tuple(int(size) for size in arrays[f"{name}.shape"])
        mask = np.unpackbits(arrays[f"{name}.bitmask"].view(np.uint8), count=int(np.prod(shape))).astype(bool)
        mask = mask.reshape(shape)
        values = arrays[f"{name}.values"]
        if int(mask.sum()) != len(values):
            raise CheckpointError(f"{name}: {len(values)} values for {int(mask.sum())} kept weights")
        dense = np.zeros(shape, dtype=values.dtype)
        dense[mask] = values
        tensors[name], masks[name] = torch.from_numpy(dense), torch.from_numpy(mask)
    parts = {f"{name}.{part}" for name in packed for part in ("values", "bitmask", "shape")}
    tensors |= {name: torch.from_numpy(np.array(array)) for name, array in arrays.items() if name not in parts}
    return tensors, masks


def read_tensors(path: Path) -> Arrays:
    """Read a safetensors file. Raises CheckpointError."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def write_checkpoint(
    run: Path,
    description: RunDescription,
    progress: Progress,
    *,
    model: Arrays,
    state: Arrays,
    metrics: Mapping[str, Any],
    tokenizer: str | None,
) -> Path:
    """Write the checkpoint of `progress.step` atomically, then remove all older ones but the best."""
    folder = checkpoint_folder(run, progress.step)
    for left_over in (run / "checkpoints").glob(".step-*"):  # of a run that was killed while it wrote
        shutil.rmtree(left_over)
    with atomic_folder(folder) as partial:
        (partial / "config.json").write_text(description.model_dump_json(indent=1))
        (partial / "metrics.json").write_text(json.dumps(metrics, indent=1))
        (partial / "state.json").write_text(progress.model_dump_json(indent=1))
        save_file(model, partial / "model.safetensors")
        save_file(state, partial / "state.safetensors")
        if tokenizer is not None:
            (partial / "tokenizer.json").write_text(tokenizer)
    for old in all_checkpoints(run):
        if old.name not in (folder.name, checkpoint_folder(run, progress.best_step or 0).name):
            shutil.rmtree(old)
    return folder


def checkpoint_folder(run: Path, step: int) -> Path:
    """Folder of the checkpoint of a step."""
    return run / "checkpoints" / f"step-{step:08d}"


def snapshot_folder(run: Path, index: int) -> Path:
    """Folder of the snapshot of a cycle, from 0."""
    return run / "snapshots" / f"cycle-{index:02d}"


def all_checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def read_progress(folder: Path) -> Progress:
    """Read state.json of a checkpoint. Raises CheckpointError."""
    try:
        return Progress.model_validate_json((folder / "state.json").read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{folder} holds no state to resume from: {error}") from error


def best_of_run(run: Path) -> Path:
    """Best checkpoint of a run by accuracy on the select part. Raises CheckpointError when there is none."""
    folders = all_checkpoints(run)
    if not folders:
        raise CheckpointError(f"{run} holds no checkpoint yet.")
    best = read_progress(folders[-1]).best_step
    return folders[-1] if best is None else checkpoint_folder(run, best)
