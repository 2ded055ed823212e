"""Ensembles of separate networks: the members of a finished run become the heads of one network without trunk."""

from pathlib import Path

from torch import Tensor

from training.batches import Batches
from training.checkpoint import (
    Progress,
    RunDescription,
    all_checkpoints,
    best_of_run,
    pack,
    read_progress,
    read_tensors,
    snapshot_folder,
    unpack,
    write_checkpoint,
)
from training.config import TrainConfig
from training.errors import CheckpointError
from training.evaluate import collect_logits
from training.methods import member_configs
from training.metrics import measure


def member_folder(run: Path, index: int) -> Path:
    """Run folder of one member."""
    return run / "members" / str(index)


def member_checkpoints(run: Path, config: TrainConfig) -> list[Path]:
    """Checkpoints that become heads: the best one of each member, or the snapshots of the only one.

    Raises CheckpointError when a member is not finished.
    """
    folders: list[Path] = []
    for index, member in enumerate(member_configs(config)):
        own = member_folder(run, index)
        checkpoints = all_checkpoints(own)
        if not checkpoints or not read_progress(checkpoints[-1]).finished:
            raise CheckpointError(f"{own} is not trained to its end. Go on with it: --resume.")
        if member.cycles > 1:
            folders += [snapshot_folder(own, cycle) for cycle in range(member.cycles)]
        else:
            folders.append(best_of_run(own))
    return folders


def assemble(run: Path, description: RunDescription, select: Batches, tokenizer: str | None) -> Path:
    """Write the checkpoint of a finished ensemble; returns its folder. Raises CheckpointError."""
    config = description.config
    tensors: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for head, folder in enumerate(member_checkpoints(run, config)):
        own, own_masks = unpack(read_tensors(folder / "model.safetensors"))
        tensors |= {_as_head(name, head): tensor for name, tensor in own.items()}
        masks |= {_as_head(name, head): mask for name, mask in own_masks.items()}
    network = description.network()
    network.load_state_dict(tensors)
    runs = [all_checkpoints(member_folder(run, index))[-1] for index in range(len(member_configs(config)))]
    ends = [read_progress(folder) for folder in runs]
    metrics = measure(collect_logits(network.eval(), select), select.examples.targets, split="select")
    progress = Progress(
        step=sum(end.step for end in ends),
        epoch=sum(end.epoch for end in ends),
        threads=config.threads,
        processes=ends[0].processes,
        device=ends[0].device,
        training_macs=sum(end.training_macs for end in ends),
        best_accuracy=metrics.accuracy,
        finished=True,
    )
    progress.best_step = progress.step
    return write_checkpoint(
        run,
        description,
        progress,
        model=pack(network.state_dict(), masks),
        state={},
        metrics={"step": progress.step, "epoch": progress.epoch, **metrics.model_dump()},
        tokenizer=tokenizer,
    )


def _as_head(name: str, head: int) -> str:
    """Name of a member's tensor in the network whose head it becomes."""
    return f"heads.{head}.{name.removeprefix('heads.0.')}"
