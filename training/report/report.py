"""The verb `report`.

neurotrails report runs/fashion-mnist
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import yaml
from pydantic import ValidationError
from torch import Tensor

from runtime.files import atomic_write
from training.checkpoint import Checkpoint, all_checkpoints
from training.data import DataError
from training.errors import CheckpointError, ConfigError
from training.evaluate import logits_of
from training.evaluation.cost import newest_progress
from training.evaluation.document import Evaluation
from training.methods import member_configs, topology
from training.models.multihead import MultiHeadNetwork
from training.models.registry import load_networks
from training.preparation import held_out_parts
from training.report.curves import Layers, curves, final_map, layer_maps
from training.report.log import RunLog, read_log, read_members
from training.report.page import Page, Predictions, render
from training.report.predictions import predictions
from training.sparsity.masks import maskable_weights

Part = Literal["select", "calibrate", "report", "test"]


def report(run: str, *, output: str | None = None, part: Part = "report", networks: tuple[str, ...] = ()) -> None:
    """Write one self-contained HTML page about a run, finished or not.

    Args:
        run: A run folder (its best checkpoint is taken) or one checkpoint folder in it.
        output: File to write; RUN/report.html if not given.
        part: Held-out part that the predictions are measured on.
        networks: Python files that register networks of your own, for `network: {kind: custom, name: ...}`.
    """
    load_networks(networks)
    path = Path(run)
    folder = path.parent.parent if path.parent.name == "checkpoints" else path
    file = folder / "report.html" if output is None else Path(output)
    content = render(describe(path, folder, part)).encode()
    try:
        atomic_write(file, content)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error}. Name another file with --output.") from error
    print(f"{file}: {len(content):,} bytes")


def describe(path: Path, folder: Path, part: Part) -> Page:
    """Gather everything about the run in `folder`, of which `path` is the folder itself or a checkpoint.

    Raises CheckpointError when there is neither a log nor a checkpoint.
    """
    log, members = read_log(folder), read_members(folder)
    logs = {f"member {name}": member for name, member in members.items()} or {folder.name: log}
    notes = _log_notes(logs)
    labels: tuple[str, ...] = ()
    configuration, layers, predicted = "", layer_maps(logs), None
    if path != folder or all_checkpoints(folder):
        checkpoint = Checkpoint.open(path)
        network, masks = checkpoint.network()
        covered = covered_layers(checkpoint, network, masks)
        notes += _progress_notes(checkpoint)
        try:
            predicted = _predict(checkpoint, network, part)
        except (DataError, CheckpointError) as error:
            notes.append(f"Everything that needs the data is left out. {error}")
        facts = _facts(checkpoint, covered, predicted)
        labels = checkpoint.description.labels
        configuration = yaml.safe_dump(checkpoint.description.config.model_dump(mode="json"), sort_keys=False)
        layers = layers or final_map(covered)
    elif any(logs.values()):
        facts = [("run", folder.name)]
        notes.append(
            "There is no checkpoint yet: what the run is, and everything that needs its weights, is left out."
            if not members
            else "The members have not been put together into one checkpoint yet, so only their curves are shown."
        )
    else:
        raise CheckpointError(f"{folder} holds no run: neither checkpoints nor metrics.jsonl.")
    return Page(
        title=facts[0][1],
        facts=facts,
        labels=labels,
        configuration=configuration,
        notes=notes,
        curves=curves(logs),
        layers=layers,
        predictions=predicted,
    )


def covered_layers(checkpoint: Checkpoint, network: MultiHeadNetwork, masks: Mapping[str, Tensor]) -> Layers:
    """Weights kept, ever active (as far as a model file tells: kept), and all, by name in network order."""
    weights = maskable_weights(network, embeddings=checkpoint.description.config.sparsity.embeddings)
    kept = {name: int(masks[name].sum()) if name in masks else weight.numel() for name, weight in weights.items()}
    return {name: (kept[name], kept[name], weight.numel()) for name, weight in weights.items()}


def _predict(checkpoint: Checkpoint, network: MultiHeadNetwork, part: Part) -> Predictions:
    parts, preprocessor = held_out_parts(checkpoint)
    if part not in parts:
        raise ConfigError(f"There is no part {part!r} of this data; choose one of {', '.join(parts)}.")
    logits = {name: logits_of(network, parts[name], preprocessor) for name in sorted({"calibrate", part})}
    return predictions(
        logits[part],
        parts[part],
        checkpoint.description.labels,
        part=part,
        calibrate_logits=logits["calibrate"],
        calibrate_targets=parts["calibrate"].targets,
    )


def _facts(checkpoint: Checkpoint, layers: Layers, predicted: Predictions | None) -> list[tuple[str, str]]:
    run = checkpoint.description
    kept, total = sum(layer[0] for layer in layers.values()), sum(layer[2] for layer in layers.values())
    split = topology(run.config)
    heads = f"{split.heads} head{'s' if split.heads > 1 else ''}, blocks in each: {split.blocks_in_head}"
    facts = [
        ("run", run.config.name),
        ("method", run.config.method),
        ("network", f"{run.config.network.kind}, {heads}"),
        ("data", run.data_source),
        ("weights kept", f"{kept:,} of {total:,}"),
        ("density", f"{kept / total:.4f}"),
        ("checkpoint", f"{checkpoint.folder.name}{_epoch(checkpoint)}"),
        ("classes", f"{len(run.labels):,}"),
        ("code version", run.code_version),
        ("command", run.command),
    ]
    if predicted is not None:
        facts.insert(1, (f"accuracy on the {predicted.part} part", predicted.scores.rows[0][0]))
    facts[2:2] = _tested(checkpoint) if predicted is None or predicted.part != "test" else []
    return facts


def _tested(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """What the verb `evaluate` has measured on the test part, if it has."""
    path = checkpoint.folder / "evaluation-test.json"
    if not path.exists():
        return []
    try:
        evaluation = Evaluation.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise CheckpointError(f"{path} is damaged or of another version; evaluate again.") from error
    accuracy = next(vote.after.accuracy for vote in evaluation.votes if vote.vote == evaluation.vote)
    return [("accuracy on the test part, by evaluate", f"{accuracy:.2%}")]


def _epoch(checkpoint: Checkpoint) -> str:
    config = checkpoint.description.config
    if member_configs(config):
        return ", put together from the members"
    epoch = checkpoint.metrics.get("epoch")
    return "" if epoch is None else f", epoch {epoch} of {config.epochs}"


def _progress_notes(checkpoint: Checkpoint) -> list[str]:
    progress = newest_progress(checkpoint)
    if progress is None or progress.finished:
        return []
    epochs = checkpoint.description.config.epochs
    return [f"The run is not finished: {progress.epoch} of {epochs} epochs are done. Its best checkpoint is shown."]


def _log_notes(logs: Mapping[str, RunLog]) -> list[str]:
    notes = []
    for label, log in logs.items():
        if log.unreadable:
            lines = "1 line" if log.unreadable == 1 else f"{log.unreadable:,} lines"
            notes.append(f"{lines} of metrics.jsonl ({label}) cannot be read, and nothing of it is shown.")
        if log and not log.steps:
            notes.append(f"{label}: too few steps were made for one to be logged, so loss and rates have no curves.")
        if log and not log.evaluations:
            notes.append(f"{label}: no epoch is complete, so nothing has been measured on held-out data.")
    return notes
