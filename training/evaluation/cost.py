"""What a network holds and takes, beside one dense network of the same kind."""

from collections.abc import Mapping

import torch
from torch import Tensor

from training.checkpoint import Checkpoint, Progress, all_checkpoints, read_progress
from training.evaluation.document import Cost, StageCost
from training.macs import Macs, one_example, stage_macs
from training.models.multihead import MultiHeadNetwork
from training.sparsity.masks import maskable_weights


def measure_cost(
    checkpoint: Checkpoint, network: MultiHeadNetwork, masks: Mapping[str, Tensor], *, fit_rows: int
) -> Cost:
    """Count weights and multiply-adds of a checkpoint's network, as `Checkpoint.network` returns it.

    `fit_rows` are the rows that an epoch trains on.
    """
    config, preprocessing = checkpoint.description.config, checkpoint.description.preprocessing
    covered = maskable_weights(network, embeddings=config.sparsity.embeddings)
    kept = {name: int(masks[name].sum()) if name in masks else weight.numel() for name, weight in covered.items()}
    weights = sum(weight.numel() for weight in covered.values())
    stages = stage_macs(network, one_example(preprocessing), kept)
    total = sum(stages.values(), start=Macs(0, 0, 0))
    dense = checkpoint.description.model_copy(update={"config": config.model_copy(update={"method": "dense"})})
    with torch.device("meta"):  # no memory for weights that are only counted
        single = dense.network()
        single_macs = sum(stage_macs(single, one_example(preprocessing), {}).values(), start=Macs(0, 0, 0)).total
    single_weights = sum(
        weight.numel() for weight in maskable_weights(single, embeddings=config.sparsity.embeddings).values()
    )
    progress = newest_progress(checkpoint)
    training = progress.training_macs if progress is not None and progress.training_macs else None
    finished = progress is not None and progress.finished
    return Cost(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        weights=weights,
        kept=sum(kept.values()),
        nonzero=sum(int(weight.count_nonzero()) for weight in covered.values()),
        stages=tuple(
            StageCost(stage=name, dense_macs=macs.dense, effective_macs=macs.effective, activation_macs=macs.activation)
            for name, macs in stages.items()
        ),
        single_parameters=sum(parameter.numel() for parameter in single.parameters()),
        single_weights=single_weights,
        single_macs=single_macs,
        relative_weights=sum(kept.values()) / single_weights,
        relative_macs=total.total / single_macs,
        training_macs=training,
        relative_training_macs=training / (3 * single_macs * fit_rows * config.epochs)
        if training and finished
        else None,
    )


def newest_progress(checkpoint: Checkpoint) -> Progress | None:
    """Where the checkpoint's run stands: of its newest checkpoint, since the best one is had only by training on.

    None for a checkpoint without a state to resume from.
    """
    folders = all_checkpoints(checkpoint.folder.parent.parent) if checkpoint.folder.parent.name == "checkpoints" else []
    folder = folders[-1] if folders else checkpoint.folder
    return read_progress(folder) if (folder / "state.json").exists() else None
