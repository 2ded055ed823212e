"""The verb `evaluate`, and the logits that everything is measured from.

neurotrails evaluate runs/first
"""

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.files import atomic_write
from runtime.manifest import Metrics
from training.batches import Batches
from training.calibration import calibrate
from training.checkpoint import Checkpoint
from training.errors import ConfigError
from training.metrics import measure
from training.models.multihead import MultiHeadNetwork
from training.models.registry import load_networks
from training.preparation import EVALUATION_BATCH, held_out_parts


def evaluate(checkpoint: str, *, part: str = "test", networks: tuple[str, ...] = ()) -> None:
    """Measure a checkpoint: each head, the vote, calibration before and after temperature scaling.

    Args:
        checkpoint: A run folder (its best checkpoint is taken) or a checkpoint folder.
        part: test, report, calibrate or select.
        networks: Python files that register networks of your own, for `network: {kind: custom, name: ...}`.
    """
    load_networks(networks)
    opened = Checkpoint.open(checkpoint)
    metrics = measure_part(opened, part)
    print(metrics.model_dump_json(indent=2))
    atomic_write(opened.folder / f"evaluation-{part}.json", metrics.model_dump_json(indent=1).encode())


def measure_part(checkpoint: Checkpoint, part: str) -> Metrics:
    """Metrics on one part, with the temperature fitted on the calibrate part."""
    parts, preprocessor = held_out_parts(checkpoint)
    if part not in parts:
        raise ConfigError(f"There is no part {part!r} of this data; choose one of {', '.join(parts)}.")
    network, _ = checkpoint.network()
    logits = {
        name: collect_logits(network, Batches(parts[name], preprocessor, EVALUATION_BATCH))
        for name in {"calibrate", part}
    }
    calibration = calibrate(logits["calibrate"], parts["calibrate"].targets, split="calibrate")
    return measure(logits[part], parts[part].targets, split=part, temperature=calibration.temperatures[-1])


@torch.inference_mode()
def collect_logits(network: MultiHeadNetwork, batches: Batches) -> NDArray[np.float32]:
    """Logits of all heads on all examples in stored order, float32 [H, N, K]; the network's mode is restored."""
    was_training = network.training
    network.eval()
    weight = next(network.parameters())
    logits = []
    for batch in batches.in_order(weight.device):
        inputs = (tensor.to(weight.dtype) if tensor.is_floating_point() else tensor for tensor in batch.inputs)
        logits.append(network(*inputs).float().cpu().numpy())
    network.train(was_training)
    return np.concatenate(logits, axis=1)
