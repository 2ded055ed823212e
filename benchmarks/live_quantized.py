"""int8 forms of networks with live random weights: their speed can be measured, their accuracy means nothing."""

from pathlib import Path

import numpy as np

from export.quantize.artifact import Evidence, write_int8_artifact
from export.quantize.execution import GraphRunner, Graphs
from live_networks import SEED, LiveRecipe
from runtime.artifact import Artifact
from runtime.manifest import ImagePreprocessing, Manifest
from training.batches import Batches
from training.data import Examples

ROWS = 16
"""Rows that the ranges of activations are taken from."""


def write_quantized(source: Path, folder: Path, recipe: LiveRecipe, *, cores: int) -> Manifest:
    """Quantize the live artifact `source` of a recipe as the artifact `folder`, which must not exist."""
    artifact = Artifact.open(source)
    examples = _examples(recipe, ROWS, seed=SEED + 2)
    names = [spec.name for spec in artifact.manifest.inputs]
    batches = Batches(examples, artifact.preprocessor, ROWS).in_order()
    feeds = [dict(zip(names, (tensor.numpy() for tensor in batch.inputs), strict=True)) for batch in batches]
    logits = GraphRunner(Graphs.of(artifact), cores=cores).collect(feeds)
    parts = ("calibrate", "report")
    evidence = Evidence(dict.fromkeys(parts, examples), artifact.preprocessor, dict.fromkeys(parts, logits))
    return write_int8_artifact(artifact, folder, evidence, version="1", method="minmax", accept_loss=True, cores=cores)


def _examples(recipe: LiveRecipe, rows: int, *, seed: int) -> Examples:
    """Inputs as users send them, with random labels: random weights get few of them right in any precision."""
    targets = np.random.default_rng(seed).integers(recipe.classes, size=rows)
    preprocessing = recipe.preprocessing
    if isinstance(preprocessing, ImagePreprocessing):
        (images,) = recipe.inputs(rows, seed=seed)
        pixels = images.numpy().transpose(0, 2, 3, 1) * preprocessing.std + np.array(preprocessing.mean)
        return Examples((255 * pixels).round().clip(0, 255).astype(np.uint8), targets)
    ids, _ = recipe.inputs(rows, seed=seed)
    return Examples(tuple(" ".join(f"w{token}" for token in text) for text in ids.tolist()), targets)
