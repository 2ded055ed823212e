"""The networks that benchmarks measure, as artifacts: shipped ones, and architectures with live random weights.

Every network comes with its dense counterpart: the full ensemble of as many separate dense networks of the same
architecture, which are heads without a common trunk; one of them alone is the single dense network.
"""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from environment import REPOSITORY
from live_networks import LIVE, SEED, SETTLE_ROWS, LiveRecipe, model_inputs, write_live
from rounds import KINDS, Kind
from runtime.artifact import MANIFEST, Artifact
from runtime.errors import NeurotrailsError
from runtime.manifest import ImagePreprocessing, Manifest, TextPreprocessing
from training.config import EnsembleConfig, TrainConfig, load_config
from training.models.build import build_network
from training.models.multihead import Head, MultiHeadNetwork
from training.sparsity.masks import maskable_weights

TYPICAL_TOKENS = 128

Weights = Literal["trained", "live random"]


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


def shipped_tokens(manifest: Manifest) -> int | None:
    """Token length at which a shipped artifact is measured: its first that holds a typical text; None for images."""
    if not isinstance(manifest.preprocessing, TextPreprocessing):
        return None
    lengths = manifest.preprocessing.lengths
    return next((length for length in lengths if length >= TYPICAL_TOKENS), lengths[-1])


def _live(name: str, recipe: LiveRecipe, workspace: Path) -> Contender:
    twin = build_network(recipe.network, recipe.ensemble, classes=recipe.classes, channels=3, seed=SEED)
    dense = replace(recipe, ensemble=_full_ensemble(twin), density=1.0)
    folders: dict[Kind, Path] = {kind: workspace / f"{name}-{kind}" for kind in KINDS}
    manifests: dict[Kind, Manifest] = {
        "sparse": recipe.write(folders["sparse"]),
        "dense": dense.write(folders["dense"]),
    }
    return Contender(
        name, recipe.ensemble.heads, recipe.tokens, folders, manifests,
        {"sparse": "live random", "dense": "live random"},
    )  # fmt: skip


def _shipped(folder: Path, workspace: Path) -> Contender:
    artifact = Artifact.open(folder)
    manifest = artifact.manifest
    config = recipe_of(manifest)
    preprocessing = manifest.preprocessing
    if not isinstance(preprocessing, TextPreprocessing | ImagePreprocessing):
        raise BenchmarkError(f"{folder} takes tensors, which this benchmark does not make. Choose other --networks.")
    tokens, tokenizer = shipped_tokens(manifest), None
    if isinstance(preprocessing, TextPreprocessing):
        tokenizer = artifact.path(preprocessing.tokenizer).read_text(encoding="utf-8")
    inputs = model_inputs(config.network, preprocessing, SETTLE_ROWS, tokens=tokens, seed=SEED + 1)
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
    dense_folder = workspace / f"{manifest.name}-dense"
    dense = write_live(
        dense_folder, config.network, _full_ensemble(twin), density=1.0, inputs=inputs, labels=manifest.labels,
        preprocessing=preprocessing, tokenizer=tokenizer,
    )  # fmt: skip
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
