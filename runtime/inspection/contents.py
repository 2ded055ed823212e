"""What an artifact holds, counted from its files rather than taken from its manifest."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from runtime.artifact import Artifact
from runtime.errors import ArtifactError
from runtime.graph import StoredWeight, stored_weights
from runtime.graph_sizes import load_stages
from runtime.macs import origins, weight_uses
from runtime.manifest import LayerSparsity, Manifest, TextPreprocessing

DENSE_BYTES = 4
"""Bytes of a weight in fp32."""


@dataclass(frozen=True)
class StoredLayer:
    """One weight under the sparsity budget, as it lies in its file."""

    stage: str
    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int
    nonzero: int
    form: Literal["sparse", "dense"]
    bytes: int
    """What values and indices take as raw data."""
    dense_bytes: int
    """What it would take as dense fp32."""
    dense_macs: int | None
    """Multiply-adds for one example with all its weights; None where the shapes in the graph do not tell."""
    effective_macs: int | None
    """The same with kept weights only."""

    @property
    def density(self) -> float:
        """Fraction of entries that the mask keeps."""
        return self.kept / self.weights


@dataclass(frozen=True)
class StoredStage:
    """The trunk or a head. MACs are those of the manifest, for one example; texts have their greatest length."""

    file: str
    bytes: int
    """Size of the file."""
    weight_bytes: int
    """What its weights, those outside the sparsity budget too, take in the file."""
    dense_weight_bytes: int
    """What they would take as dense fp32."""
    dense_macs: int
    effective_macs: int
    activation_macs: int


@dataclass(frozen=True)
class Size:
    """Weights and work of this network, or of a dense one that could be used instead of it."""

    name: str
    weight_bytes: int
    macs: int
    """For one example, products of activations included."""


@dataclass(frozen=True)
class Inspection:
    """An artifact with what is counted from its files."""

    folder: str
    sha256: str
    bytes: int
    """Size of all files."""
    graph_bytes: int
    """Size of the graphs."""
    dense_weight_bytes: int
    """What all weights of the graphs, those outside the sparsity budget too, would take as dense fp32."""
    density: float
    stages: tuple[StoredStage, ...]
    """In order of execution."""
    sizes: tuple[Size, ...]
    """This network as it lies in its files, then what it may be compared with."""
    layers: tuple[StoredLayer, ...]
    manifest: Manifest


def examine(artifact: Artifact) -> Inspection:
    """Read all graphs of an artifact. Raises ArtifactError."""
    manifest = artifact.manifest
    preprocessing = manifest.preprocessing
    tokens = preprocessing.lengths[-1] if isinstance(preprocessing, TextPreprocessing) else 1
    stages, layers = [], []
    models = load_stages(artifact)
    for stage in manifest.stages:
        model = models[stage.file]
        weights = stored_weights(model)
        stages.append(
            StoredStage(
                stage.file,
                manifest.files[stage.file].bytes,
                sum(weight.bytes for weight in weights.values()),
                sum(DENSE_BYTES * math.prod(weight.shape) for weight in weights.values()),
                stage.dense_macs,
                stage.effective_macs,
                stage.activation_macs,
            )
        )
        uses, names = weight_uses(model, tokens=tokens), origins(model)
        layers += [
            _layer(layer, weights, uses, names) for layer in manifest.sparsity.layers if layer.stage == stage.file
        ]
    return Inspection(
        folder=str(artifact.folder),
        sha256=artifact.sha256,
        bytes=sum(entry.bytes for entry in manifest.files.values()),
        graph_bytes=sum(stage.bytes for stage in stages),
        dense_weight_bytes=sum(stage.dense_weight_bytes for stage in stages),
        density=manifest.sparsity.density,
        stages=tuple(stages),
        sizes=_sizes(manifest, stages),
        layers=tuple(layers),
        manifest=manifest,
    )


def _layer(
    layer: LayerSparsity, weights: Mapping[str, StoredWeight], uses: Mapping[str, int], names: Mapping[str, str]
) -> StoredLayer:
    weight = weights.get(names.get(layer.name, ""))
    if weight is None:
        raise ArtifactError(
            f"{layer.stage} has no weight {layer.name!r}, which the manifest counts. Export the artifact again."
        )
    used = uses.get(layer.name)
    return StoredLayer(
        stage=layer.stage,
        name=layer.name,
        shape=layer.shape,
        weights=layer.weights,
        kept=layer.kept,
        nonzero=layer.nonzero,
        form="sparse" if weight.sparse else "dense",
        bytes=weight.bytes,
        dense_bytes=DENSE_BYTES * layer.weights,
        dense_macs=None if used is None else used * layer.weights,
        effective_macs=None if used is None else used * layer.kept,
    )


def _sizes(manifest: Manifest, stages: list[StoredStage]) -> tuple[Size, ...]:
    """This network, its dense equivalent and, if it has several heads, as many separate networks and one of them."""
    heads = len(manifest.heads)
    trunk, members = stages[:-heads], stages[-heads:]
    stored = Size(
        "this artifact",
        sum(stage.weight_bytes for stage in stages),
        sum(stage.effective_macs + stage.activation_macs for stage in stages),
    )
    sizes = [stored, _dense("the same network, dense fp32", stages)]
    if heads > 1 and trunk:
        separate = [stage for member in members for stage in (*trunk, member)]
        sizes.append(_dense(f"{heads} separate dense networks, each trunk and one head, fp32", separate))
    if heads > 1:
        sizes.append(_dense(f"one dense network, {'trunk and ' if trunk else ''}head 0, fp32", [*trunk, members[0]]))
    return tuple(sizes)


def _dense(name: str, stages: list[StoredStage]) -> Size:
    return Size(
        name,
        sum(stage.dense_weight_bytes for stage in stages),
        sum(stage.dense_macs + stage.activation_macs for stage in stages),
    )
