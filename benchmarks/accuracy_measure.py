"""Measures one run of the study on one part of its data, in a process of its own; `accuracy.py` calls it.

    python benchmarks/accuracy_measure.py runs/accuracy/newsgroups/dense-seed1 --part report --out report.json

Everything is measured as `neurotrails evaluate` does, by the same functions; which rows are right is kept as well, so
that methods can be compared row by row.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from accuracy_processes import read_times
from accuracy_results import Cost, Measured, Quality, Training, pack_rows
from command_line import run_command
from runtime.files import atomic_write
from runtime.vote import pool, temper
from training.calibration import fit_temperature
from training.checkpoint import Checkpoint, all_checkpoints, read_progress
from training.errors import CheckpointError, ConfigError
from training.evaluate import logits_of
from training.evaluation.agreement import agreement
from training.evaluation.confidence import risk_coverage
from training.evaluation.cost import measure_cost
from training.metrics import quality
from training.models.multihead import MultiHeadNetwork
from training.preparation import held_out, open_preprocessor, split_of


def measure_run(run: Path, *, part: str, out: Path, threads: int = 1) -> None:
    """Measure a finished run: what its vote is worth on one part, and what the network costs.

    Args:
        run: Run folder; its best checkpoint is measured.
        part: report or test.
        out: File for the result.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    checkpoint = Checkpoint.open(run)
    network, masks = checkpoint.network()
    split = split_of(checkpoint)
    parts, preprocessor = held_out(split), open_preprocessor(checkpoint.description, checkpoint.tokenizer)
    if part not in parts:
        raise ConfigError(f"There is no part {part!r} of this data; choose one of {', '.join(parts)}.")
    cost = cost_of(checkpoint, network, masks, fit_rows=len(split.fit))
    fitted, asked = parts["calibrate"], parts[part]
    temperature = fit_temperature(pool(logits_of(network, fitted, preprocessor), "probabilities"), fitted.targets)
    logits = logits_of(network, asked, preprocessor)
    measured = Measured(
        cost=cost,
        training=_training(run, checkpoint),
        quality=quality_of_logits(logits, asked.targets, part=part, temperature=temperature),
    )
    atomic_write(out, (measured.model_dump_json(indent=1) + "\n").encode())


def quality_of_logits(
    logits: NDArray[np.float32], targets: NDArray[np.int64], *, part: str, temperature: float
) -> Quality:
    """What the vote of logits [H, N, K] is worth against targets [N]."""
    pooled = pool(logits, "probabilities")
    voted = temper(pooled, temperature)
    before, after, heads = quality(pooled, targets), quality(voted, targets), agreement(logits)
    return Quality(
        part=part,
        rows=len(targets),
        accuracy=after.accuracy,
        nll=after.nll,
        brier=after.brier,
        ece=after.ece,
        adaptive_ece=after.adaptive_ece,
        aurc=risk_coverage(voted, targets).aurc,
        uncalibrated_nll=before.nll,
        uncalibrated_ece=before.ece,
        temperature=temperature,
        head_accuracy=tuple(float((head.argmax(axis=-1) == targets).mean()) for head in logits),
        disagreement=heads.mean_disagreement,
        kl=heads.mean_kl,
        right=pack_rows(voted.argmax(axis=-1) == targets),
    )


def cost_of(
    checkpoint: Checkpoint, network: MultiHeadNetwork, masks: dict[str, torch.Tensor], *, fit_rows: int
) -> Cost:
    """What a finished run's network costs. Raises CheckpointError for a run that is not finished."""
    cost = measure_cost(checkpoint, network, masks, fit_rows=fit_rows)
    if cost.training_macs is None or cost.relative_training_macs is None:
        raise CheckpointError(f"{checkpoint.folder} belongs to a run that is not finished. Go on with it: --resume.")
    return Cost(
        weights=cost.parameters,
        non_zeros=cost.parameters - cost.weights + cost.kept,
        covered_weights=cost.weights,
        covered_non_zeros=cost.kept,
        inference_macs=cost.effective_macs,
        training_macs=cost.training_macs,
        inference_macs_to_dense=cost.relative_macs,
        training_macs_to_dense=cost.relative_training_macs,
    )


def _training(run: Path, checkpoint: Checkpoint) -> Training:
    description = checkpoint.description
    progress = read_progress(all_checkpoints(run)[-1])
    return Training(
        times=read_times(run),
        steps=progress.step,
        best_step=progress.best_step,
        epochs=description.config.epochs,
        threads=description.config.threads,
        data_sha256=description.data_sha256,
        code_version=description.code_version,
        config_sha256=description.config.sha256,
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_command(measure_run, arguments)


if __name__ == "__main__":
    sys.exit(main())
