"""Measures one run of the study on one part of its data, in a process of its own; `accuracy.py` calls it.

python benchmarks/accuracy_measure.py runs/accuracy/newsgroups/dense-seed1 --part report --out report.json
"""

import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from accuracy_processes import read_times
from accuracy_results import Cost, Measured, Quality, Training, pack_rows
from command_line import run_command
from runtime.files import atomic_write
from runtime.vote import pool, softmax, temper
from training.batches import Batches
from training.calibration import fit_temperature
from training.checkpoint import Checkpoint, Progress, all_checkpoints, read_progress
from training.data import Examples, load_dataset
from training.errors import ConfigError
from training.evaluate import collect_logits
from training.macs import module_macs, one_example
from training.metrics import measure
from training.models.multihead import MultiHeadNetwork
from training.preparation import EVALUATION_BATCH, divide, held_out_parts
from training.sparsity.masks import maskable_weights

TINY = np.finfo(np.float64).tiny


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
    progress = read_progress(all_checkpoints(run)[-1])
    network, masks = checkpoint.network()
    parts, preprocessor = held_out_parts(checkpoint)
    if part not in parts:
        raise ConfigError(f"There is no part {part!r} of this data; choose one of {', '.join(parts)}.")

    def logits(examples: Examples) -> NDArray[np.float32]:
        return collect_logits(network, Batches(examples, preprocessor, EVALUATION_BATCH))

    fitted = parts["calibrate"]
    temperature = fit_temperature(pool(logits(fitted), "probabilities"), fitted.targets)
    kept = {name: int(mask.sum()) for name, mask in masks.items()}
    measured = Measured(
        cost=cost_of(checkpoint, network, kept, progress),
        training=_training(run, checkpoint, progress),
        quality=quality_of_logits(logits(parts[part]), parts[part].targets, part=part, temperature=temperature),
    )
    atomic_write(out, (measured.model_dump_json(indent=1) + "\n").encode())


def quality_of_logits(
    logits: NDArray[np.float32], targets: NDArray[np.int64], *, part: str, temperature: float
) -> Quality:
    """What the vote of logits [H, N, K] is worth against targets [N]."""
    metrics = measure(logits, targets, split=part, temperature=temperature)
    voted = temper(pool(logits, "probabilities"), temperature)
    right = voted.argmax(axis=-1) == targets
    return Quality(
        part=part,
        rows=len(targets),
        accuracy=metrics.accuracy,
        nll=metrics.nll,
        brier=metrics.brier,
        ece=metrics.ece,
        aurc=risk_over_coverage(voted.max(axis=-1), right),
        uncalibrated_nll=metrics.uncalibrated_nll,
        uncalibrated_ece=metrics.uncalibrated_ece,
        temperature=temperature,
        head_accuracy=metrics.head_accuracy,
        disagreement=metrics.disagreement,
        kl=pairwise_kl(softmax(logits)) if len(logits) > 1 else None,
        right=pack_rows(right),
    )


def risk_over_coverage(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """AURC: the error among the k most confident rows, mean over k from 1 to N (Geifman et al., arXiv 1805.08206)."""
    wrong = ~right[np.argsort(-confidence, kind="stable")]
    return float((wrong.cumsum() / np.arange(1, len(wrong) + 1)).mean())


def pairwise_kl(probabilities: NDArray[np.float64]) -> float:
    """Mean over ordered pairs of heads and over rows of KL(p || q) in nats, probabilities [H, N, K]."""
    logs = np.log(np.maximum(probabilities, TINY))
    pairs = permutations(range(len(probabilities)), 2)
    return float(np.mean([(probabilities[p] * (logs[p] - logs[q])).sum(axis=-1).mean() for p, q in pairs]))


def cost_of(checkpoint: Checkpoint, network: MultiHeadNetwork, kept: dict[str, int], progress: Progress) -> Cost:
    """What a network costs, `kept` being the weights that masks leave, by name."""
    description = checkpoint.description
    config = description.config
    sizes = {name: weight.numel() for name, weight in network.named_parameters()}
    covered = maskable_weights(network, embeddings=config.sparsity.embeddings)
    dense = description.model_copy(update={"config": config.model_copy(update={"method": "dense"})}).network()
    row = one_example(description.preprocessing)
    macs = module_macs(network, row, kept).total
    dense_macs = module_macs(dense, row, {}).total
    examples = config.epochs * fitted_rows(checkpoint)
    return Cost(
        weights=sum(sizes.values()),
        non_zeros=sum((sizes | kept).values()),
        covered_weights=sum(sizes[name] for name in covered),
        covered_non_zeros=sum(kept.get(name, sizes[name]) for name in covered),
        inference_macs=macs,
        training_macs=progress.training_macs,
        inference_macs_to_dense=macs / dense_macs,
        # A training step costs three forward passes: forward, gradients of activations, gradients of weights.
        training_macs_to_dense=progress.training_macs / (3 * dense_macs * examples),
    )


def fitted_rows(checkpoint: Checkpoint) -> int:
    """Examples that the run's weights are fitted on."""
    config = checkpoint.description.config
    return len(divide(load_dataset(config.data), config).fit)


def _training(run: Path, checkpoint: Checkpoint, progress: Progress) -> Training:
    description = checkpoint.description
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
