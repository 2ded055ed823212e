"""The networks that benchmarks measure, as artifacts: shipped ones, and architectures with live random weights.

Every network comes with its dense counterpart: the full ensemble of as many separate dense networks of the same
architecture, which are heads without a common trunk; one of them alone is the single dense network.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from environment import REPOSITORY
from export.artifact import ArtifactDescription, write_artifact
from live_weights import live_network, random_images, random_tokens
from rounds import Kind
from runtime.artifact import MANIFEST, Artifact
from runtime.errors import NeurotrailsError
from runtime.manifest import (
    Calibration,
    EarlyExit,
    ExitPoint,
    ImagePreprocessing,
    Manifest,
    Provenance,
    TextPreprocessing,
)
from training.config import (
    EnsembleConfig,
    NetworkConfig,
    ResNet50Config,
    TextEncoderConfig,
    TrainConfig,
    WideResNetConfig,
    load_config,
)
from training.models.build import build_network
from training.models.multihead import Head, MultiHeadNetwork
from training.sparsity.masks import maskable_weights

SEED = 0
SETTLE_ROWS = 8
"""Rows that settle the norms of live random weights."""
TYPICAL_TOKENS = 128

Weights = Literal["trained", "live random"]


@dataclass(frozen=True)
class LiveRecipe:
    """An architecture to measure with live random weights, for square RGB images."""

    network: NetworkConfig
    ensemble: EnsembleConfig
    density: float
    classes: int
    side: int


LIVE = {
    "resnet50": LiveRecipe(
        ResNet50Config(kind="resnet50"), EnsembleConfig(heads=3, blocks_in_head=10), density=0.1, classes=1000, side=224
    ),
    "wrn-28-10": LiveRecipe(
        WideResNetConfig(kind="wide_resnet"), EnsembleConfig(heads=3, blocks_in_head=8), density=0.1, classes=100,
        side=32,
    ),
    "tiny": LiveRecipe(
        WideResNetConfig(kind="wide_resnet", depth=10, width=1), EnsembleConfig(heads=3, blocks_in_head=2),
        density=0.3, classes=10, side=8,
    ),
}  # fmt: skip
"""Name -> architecture. `tiny` only shows that the benchmark works."""


class BenchmarkError(NeurotrailsError):
    """A benchmark cannot be run as asked."""


@dataclass(frozen=True)
class Contender:
    """A sparse network and its dense counterpart, each an artifact."""

    name: str
    heads: int
    tokens: int | None
    """Length of the texts that it is given; None for images."""
    folders: dict[Kind, Path]
    manifests: dict[Kind, Manifest]
    weights: dict[Kind, Weights]


def network_names(models: Path, wanted: tuple[str, ...]) -> list[str]:
    """Resolve names, `shipped` being all artifacts in `models`. Raises BenchmarkError for an unknown one."""
    shipped = sorted(path.parent.name for path in models.glob(f"*/{MANIFEST}"))
    names: list[str] = []
    for name in wanted:
        if name == "shipped" and not shipped:
            raise BenchmarkError(f"{models} holds no artifact. Export some, or choose --networks {' '.join(LIVE)}.")
        if name not in ("shipped", *shipped, *LIVE):
            raise BenchmarkError(
                f"There is no network {name!r}. Choose from: {', '.join(['shipped', *shipped, *LIVE])}."
            )
        names += shipped if name == "shipped" else [name]
    return list(dict.fromkeys(names))


def prepare(name: str, models: Path, workspace: Path, *, threads: int) -> Contender:
    """Open or write the artifacts of one network; what is written goes to `workspace`."""
    torch.set_num_threads(threads)
    if (models / name / MANIFEST).is_file():
        return _shipped(models / name, workspace)
    return _live(name, LIVE[name], workspace)


def _live(name: str, recipe: LiveRecipe, workspace: Path) -> Contender:
    preprocessing = ImagePreprocessing(
        mode="RGB", height=recipe.side, width=recipe.side, resize_shorter=recipe.side, mean=(0.5,) * 3, std=(0.25,) * 3
    )
    inputs = random_images(SETTLE_ROWS, (3, recipe.side, recipe.side), seed=SEED + 1)
    labels = tuple(str(index) for index in range(recipe.classes))
    network, masks = live_network(
        recipe.network, recipe.ensemble, density=recipe.density, classes=recipe.classes, inputs=inputs, seed=SEED
    )
    folder = workspace / f"{name}-sparse"
    sparse = write_artifact(folder, network, masks, _describe(f"{name}-sparse", labels, preprocessing, recipe.ensemble))
    dense_folder, dense = _dense(
        name, recipe.network, _full_ensemble(network), labels, preprocessing, None, inputs, workspace
    )
    return Contender(
        name, recipe.ensemble.heads, None, {"sparse": folder, "dense": dense_folder},
        {"sparse": sparse, "dense": dense}, {"sparse": "live random", "dense": "live random"},
    )  # fmt: skip


def _shipped(folder: Path, workspace: Path) -> Contender:
    artifact = Artifact.open(folder)
    manifest = artifact.manifest
    config = recipe_of(manifest)
    preprocessing = manifest.preprocessing
    tokens, tokenizer = None, None
    if isinstance(preprocessing, TextPreprocessing):
        assert isinstance(config.network, TextEncoderConfig)
        lengths = preprocessing.lengths
        tokens = next((length for length in lengths if length >= TYPICAL_TOKENS), lengths[-1])
        tokenizer = artifact.path(preprocessing.tokenizer).read_text(encoding="utf-8")
        inputs: tuple[torch.Tensor, ...] = random_tokens(SETTLE_ROWS, tokens, config.network.vocabulary, seed=SEED + 1)
    elif isinstance(preprocessing, ImagePreprocessing):
        shape = (len(preprocessing.mean), preprocessing.height, preprocessing.width)
        inputs = random_images(SETTLE_ROWS, shape, seed=SEED + 1)
    else:
        raise BenchmarkError(f"{folder} takes tensors, which this benchmark does not make. Choose other --networks.")
    channels = inputs[0].shape[1]
    twin = build_network(config.network, config.ensemble, classes=len(manifest.labels), channels=channels, seed=SEED)
    covered = maskable_weights(twin, embeddings=config.sparsity.embeddings)
    if sorted(weight.numel() for weight in covered.values()) != sorted(
        layer.weights for layer in manifest.sparsity.layers
    ):
        raise BenchmarkError(
            f"{folder} was not made from the recipe that its manifest names ({manifest.provenance.command}): the "
            "layers differ, so its dense counterpart is unknown. Bring back the recipe, or choose other --networks."
        )
    dense_folder, dense = _dense(
        manifest.name,
        config.network,
        _full_ensemble(twin),
        manifest.labels,
        preprocessing,
        tokenizer,
        inputs,
        workspace,
    )
    return Contender(
        manifest.name, len(manifest.heads), tokens, {"sparse": folder, "dense": dense_folder},
        {"sparse": manifest, "dense": dense}, {"sparse": "trained", "dense": "live random"},
    )  # fmt: skip


def recipe_of(manifest: Manifest) -> TrainConfig:
    """Read the recipe, with its overrides, that the manifest's command names. Raises BenchmarkError, ConfigError."""
    words = shlex.split(manifest.provenance.command)
    if words[:2] != ["neurotrails", "train"] or len(words) < 3:
        raise BenchmarkError(
            f"{manifest.name} names no recipe: its manifest says it was made by {manifest.provenance.command!r}, so "
            "its dense counterpart is unknown. Choose other --networks."
        )
    overrides = [word for word in words[3:] if "=" in word and not word.startswith("--")]
    return load_config(REPOSITORY / words[2], overrides)


def _full_ensemble(network: MultiHeadNetwork) -> EnsembleConfig:
    """As many heads, each with all blocks and its own stem: no trunk."""
    head = network.heads[0]
    assert isinstance(head, Head)
    blocks = len(head.blocks) + (len(network.trunk.blocks) if network.trunk is not None else 0)
    return EnsembleConfig(heads=len(network.heads), blocks_in_head=blocks)


def _dense(
    name: str,
    config: NetworkConfig,
    ensemble: EnsembleConfig,
    labels: tuple[str, ...],
    preprocessing: ImagePreprocessing | TextPreprocessing,
    tokenizer: str | None,
    inputs: tuple[torch.Tensor, ...],
    workspace: Path,
) -> tuple[Path, Manifest]:
    """Write the dense full ensemble with live random weights."""
    network, masks = live_network(config, ensemble, density=1.0, classes=len(labels), inputs=inputs, seed=SEED)
    folder = workspace / f"{name}-dense"
    description = _describe(f"{name}-dense", labels, preprocessing, ensemble, tokenizer)
    return folder, write_artifact(folder, network, masks, description)


def _describe(
    name: str,
    labels: tuple[str, ...],
    preprocessing: ImagePreprocessing | TextPreprocessing,
    ensemble: EnsembleConfig,
    tokenizer: str | None = None,
) -> ArtifactDescription:
    """Describe a network that was never trained: no temperatures, no metrics, no exit table."""
    end = ExitPoint(min_confidence=1.0, accuracy=0.0, mean_heads=ensemble.heads)
    return ArtifactDescription(
        name=name,
        description="Live random weights: measures speed, predicts nothing.",
        labels=labels,
        preprocessing=preprocessing,
        tokenizer=tokenizer,
        calibration=Calibration(temperatures=(1.0,) * ensemble.heads, split="none", rows=0),
        early_exit=EarlyExit(split="none", rows=0, points=(end,)),
        provenance=Provenance(
            config_sha256="", code_version="", command="python benchmarks/cpu_latency.py", seed=SEED,
            data_source="none: live random weights", steps=0, packages={},
        ),
    )  # fmt: skip


def macs(manifest: Manifest, heads: int, tokens: int | None) -> tuple[int, int]:
    """MACs of one row through the first `heads` heads, as (dense, effective); products of activations are in both.

    The manifest states them for texts of its longest length. For fewer tokens, layers count in proportion and attention
    by the square; a classifier, which runs once per text, is then scaled too, an error below one in a thousand.
    """
    stages = (*([manifest.trunk] if manifest.trunk else []), *manifest.heads[:heads])
    share = 1.0
    if tokens is not None and isinstance(manifest.preprocessing, TextPreprocessing):
        share = tokens / manifest.preprocessing.lengths[-1]
    products = sum(stage.activation_macs for stage in stages) * share**2
    dense = sum(stage.dense_macs for stage in stages) * share
    effective = sum(stage.effective_macs for stage in stages) * share
    return round(dense + products), round(effective + products)
