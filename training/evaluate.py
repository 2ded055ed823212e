"""The verb `evaluate`, and the logits that everything is measured from.

neurotrails evaluate runs/first
neurotrails evaluate runs/first --against image-folder=pictures --corruptions
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from runtime.files import atomic_write
from runtime.preprocess import Preprocessor
from runtime.vote import Vote, pool, temper
from training.batches import Batches
from training.calibration import calibrate, calibrated_votes, early_exit_curve, fit_temperature
from training.checkpoint import Checkpoint
from training.data import Examples
from training.errors import ConfigError
from training.evaluation.agreement import agreement
from training.evaluation.confidence import detection_scores, risk_coverage
from training.evaluation.corruptions import measure_robustness, require_corruptible
from training.evaluation.cost import measure_cost
from training.evaluation.document import Calibrated, Detection, Evaluation, HeadQuality, VoteQuality
from training.evaluation.foreign import foreign_data
from training.evaluation.rendering import render
from training.metrics import quality
from training.models.registry import load_networks
from training.preparation import EVALUATION_BATCH, held_out, open_preprocessor, split_of

VOTES: tuple[Vote, ...] = ("probabilities", "logits")


def evaluate(
    checkpoint: str,
    *,
    part: str = "test",
    against: str | None = None,
    corruptions: bool = False,
    corruption_rows: int = 1000,
    vote: Literal["probabilities", "logits"] = "probabilities",
    device: str = "cpu",
    networks: tuple[str, ...] = (),
    json: bool = False,
) -> None:
    """Measure a checkpoint: votes and heads before and after calibration, how heads differ, early exits, and cost.

    Prints tables, and writes all of it to evaluation-PART.json beside the checkpoint.

    Args:
        checkpoint: A run folder (its best checkpoint is taken) or a checkpoint folder.
        part: test, report, calibrate or select.
        against: Data that the network should notice it does not know: a recipe (recipes/newsgroups.yaml), a source
            (fashion-mnist), or a source and its path (image-folder=pictures, text-table=texts.csv).
        corruptions: Measure the 15 common corruptions of images too; needs the extra `robustness`.
        corruption_rows: Most examples to corrupt, 75 times each.
        vote: What is averaged over the heads, in everything that follows the comparison of both.
        device: cpu, cuda or cuda:N.
        networks: Python files that register networks of your own, for `network: {kind: custom, name: ...}`.
        json: Print the document that is written, not the tables.
    """
    load_networks(networks)
    opened = Checkpoint.open(checkpoint)
    evaluation = evaluate_checkpoint(
        opened,
        part,
        against=against,
        corruption_rows=corruption_rows if corruptions else None,
        vote=vote,
        device=device,
    )
    document = evaluation.model_dump_json(indent=1)
    atomic_write(opened.folder / f"evaluation-{part}.json", f"{document}\n".encode())
    print(document if json else "\n".join(render(evaluation)))


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    part: str,
    *,
    against: str | None = None,
    corruption_rows: int | None = None,
    vote: Vote = "probabilities",
    device: str = "cpu",
) -> Evaluation:
    """Measure a checkpoint on one part, with everything calibrated on the calibrate part.

    `against` names a second data set, `corruption_rows` asks for the common corruptions on so many rows.
    """
    description, place = checkpoint.description, _device(device)
    split = split_of(checkpoint)
    parts, preprocessor = held_out(split), open_preprocessor(description, checkpoint.tokenizer)
    if part not in parts:
        raise ConfigError(f"There is no part {part!r} of this data; choose one of {', '.join(parts)}.")
    network, masks = checkpoint.network()
    cost = measure_cost(checkpoint, network, masks, fit_rows=len(split.fit))
    network.to(place)
    # What cannot be measured fails before the long part.
    foreign = foreign_data(against, description) if against is not None else None
    if corruption_rows is not None:
        require_corruptible(parts[part], rows=corruption_rows)

    logits = {name: logits_of(network, parts[name], preprocessor) for name in dict.fromkeys(("calibrate", part))}
    fit, fit_targets = logits["calibrate"], parts["calibrate"].targets
    own, targets = logits[part], parts[part].targets
    calibration = calibrate(fit, fit_targets, split="calibrate", vote=vote)

    def predict(examples: Examples) -> NDArray[np.float64]:
        """Calibrated vote of all heads."""
        pooled = pool(logits_of(network, examples, preprocessor), vote)
        return temper(pooled, calibration.temperatures[-1])

    def calibrated(chosen: list[int], how: Vote) -> Calibrated:
        temperature = fit_temperature(pool(fit[chosen], how), fit_targets)
        pooled = pool(own[chosen], how)
        return Calibrated(
            temperature=temperature,
            before=quality(pooled, targets),
            after=quality(temper(pooled, temperature), targets),
        )

    everyone = list(range(len(own)))
    voted = calibrated_votes(own, calibration, vote)  # [H, N, K]
    detection = None
    if foreign is not None and against is not None:
        dataset, examples = foreign
        auroc, fpr95 = detection_scores(voted[-1].max(axis=-1), predict(examples).max(axis=-1))
        detection = Detection(
            against=against, source=dataset.source, sha256=dataset.sha256, rows=len(examples), auroc=auroc, fpr95=fpr95
        )
    return Evaluation(
        name=description.config.name,
        method=description.config.method,
        step=checkpoint.metrics["step"],
        part=part,
        rows=len(targets),
        vote=vote,
        votes=tuple(VoteQuality(vote=how, **dict(calibrated(everyone, how))) for how in VOTES),
        heads=tuple(HeadQuality(head=head, **dict(calibrated([head], vote))) for head in everyone),
        agreement=agreement(own),
        calibration=calibration,
        first_heads=tuple(quality(probabilities, targets) for probabilities in voted),
        early_exit=early_exit_curve(own, targets, calibration, split=part, vote=vote),
        risk=risk_coverage(voted[-1], targets),
        detection=detection,
        robustness=None if corruption_rows is None else measure_robustness(parts[part], predict, rows=corruption_rows),
        cost=cost,
        code_version=description.code_version,
    )


def logits_of(network: nn.Module, examples: Examples, preprocessor: Preprocessor) -> NDArray[np.float32]:
    """Logits of all heads on examples, float32 [H, N, K], computed where the network is."""
    return collect_logits(network, Batches(examples, preprocessor, EVALUATION_BATCH))


@torch.inference_mode()
def collect_logits(network: nn.Module, batches: Batches) -> NDArray[np.float32]:
    """Logits of all heads on all examples in stored order, float32 [H, N, K]; the network's mode is restored.

    The network may be on any device and of any precision; its logits are rounded to float32.
    """
    was_training = network.training
    network.eval()
    weight = next(network.parameters())
    logits = []
    for batch in batches.in_order(weight.device):
        inputs = (tensor.to(weight.dtype) if tensor.is_floating_point() else tensor for tensor in batch.inputs)
        logits.append(network(*inputs).float().cpu().numpy())
    network.train(was_training)
    return np.concatenate(logits, axis=1)


def _device(name: str) -> torch.device:
    """Device by name. Raises ConfigError when this machine lacks it."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # PyTorch without CUDA asserts
        raise ConfigError(f"The device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device
