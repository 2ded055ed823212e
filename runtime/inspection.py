"""The verb `inspect`: what an artifact holds, as a table for people or as JSON.

neurotrails inspect models/fashion-mnist
neurotrails inspect models/fashion-mnist --json | jq .density
neurotrails inspect models/fashion-mnist --plan --heads 1
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from runtime.artifact import Artifact
from runtime.cores import core_budget
from runtime.errors import EngineError
from runtime.graph import load_graph, stored_weights
from runtime.manifest import Calibration, EarlyExit, Manifest, TextPreprocessing
from runtime.table import Cells, table


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

    @property
    def density(self) -> float:
        """Fraction of entries that the mask keeps."""
        return self.kept / self.weights


@dataclass(frozen=True)
class Inspection:
    """An artifact with what is counted from its files rather than stated in its manifest."""

    folder: str
    sha256: str
    bytes: int
    """Size of all files."""
    graph_bytes: int
    """Size of the graphs."""
    dense_weight_bytes: int
    """What all weights of the graphs, those outside the sparsity budget too, would take as dense fp32."""
    density: float
    layers: tuple[StoredLayer, ...]
    manifest: Manifest


def inspect(
    artifact: str, *, plan: bool = False, heads: int | None = None, cores: int | None = None, json: bool = False
) -> None:
    """Show what an artifact holds: labels, heads, layers, sizes, work, calibration, quality, origin.

    Args:
        artifact: Folder of the artifact.
        plan: Show instead how the native engine computes it, with predicted and measured time for each layer.
        heads: Plan the trunk and this many heads. Default: all.
        cores: Cores to plan for and to measure on. Default: all that this process may use.
        json: Print JSON, with the whole manifest or all layers of the plan in it.

    Raises:
        ArtifactError: The artifact is not what it says.
        EngineError: There is no plan with so many heads or cores, or the native engine cannot run here or run this.
    """
    if not plan and (heads is not None or cores is not None):
        raise EngineError("--heads and --cores choose what to plan; add --plan.")
    found = Artifact.open(artifact)
    if plan:
        from runtime import plan_report  # imports the native engine, which may not be installed

        report = plan_report.examine(found, heads=heads, cores=core_budget().cores if cores is None else cores)
        _show(report, plan_report.render(report), json=json)
    else:
        inspection = examine(found)
        _show(inspection, render(inspection), json=json)


def _show(found: Any, lines: list[str], *, json: bool) -> None:
    """Print a dataclass as JSON, or the lines that show it."""
    print(TypeAdapter(dict[str, Any]).dump_json(asdict(found), indent=2).decode() if json else "\n".join(lines))


def examine(artifact: Artifact) -> Inspection:
    """Read all graphs of an artifact. Raises ArtifactError."""
    manifest = artifact.manifest
    weights = {stage.file: stored_weights(load_graph(artifact.path(stage.file))) for stage in manifest.stages}
    layers = tuple(
        StoredLayer(
            layer.stage, layer.name, layer.shape, layer.weights, layer.kept, layer.nonzero,
            "sparse" if layer.name in weights[layer.stage] and weights[layer.stage][layer.name].sparse else "dense",
        )
        for layer in manifest.sparsity.layers
    )  # fmt: skip
    return Inspection(
        folder=str(artifact.folder),
        sha256=artifact.sha256,
        bytes=sum(entry.bytes for entry in manifest.files.values()),
        graph_bytes=sum(manifest.files[stage.file].bytes for stage in manifest.stages),
        dense_weight_bytes=sum(4 * math.prod(weight.shape) for stage in weights.values() for weight in stage.values()),
        density=manifest.sparsity.density,
        layers=layers,
        manifest=manifest,
    )


def render(inspection: Inspection) -> list[str]:
    """Lines of the table for people."""
    manifest = inspection.manifest
    return [
        f"{manifest.name} version {manifest.version} (schema {manifest.schema_version}), sha256 {inspection.sha256}",
        *([manifest.description] if manifest.description else []),
        f"modality  {manifest.modality}, {manifest.precision}, {len(manifest.heads)} heads, vote on {manifest.vote}",
        f"labels    {len(manifest.labels)}: {', '.join(manifest.labels)}",
        f"input     {_input(manifest)}",
        "",
        *_stages(manifest),
        "",
        *_layers(inspection),
        "",
        *_sizes(inspection),
        "",
        *_quality(manifest),
        "",
        *_provenance(manifest),
    ]


def _input(manifest: Manifest) -> str:
    preprocessing = manifest.preprocessing
    tensors = "; ".join(f"{spec.name} {spec.dtype} [{', '.join(map(str, spec.shape))}]" for spec in manifest.inputs)
    if isinstance(preprocessing, TextPreprocessing):
        return f"{tensors}; padded to {', '.join(map(str, preprocessing.lengths))} tokens"
    return tensors


def _stages(manifest: Manifest) -> list[str]:
    rows: list[Cells] = [("stage", "bytes", "dense MACs", "effective MACs", "activation MACs")]
    work = [
        (manifest.files[stage.file].bytes, stage.dense_macs, stage.effective_macs, stage.activation_macs)
        for stage in manifest.stages
    ]
    rows += [(stage.file, *_numbers(*numbers)) for stage, numbers in zip(manifest.stages, work, strict=True)]
    return table([*rows, ("total", *_numbers(*(sum(column) for column in zip(*work, strict=True))))])


def _layers(inspection: Inspection) -> list[str]:
    rows: list[Cells] = [("layer", "stage", "shape", "density", "kept", "not zero", "form")]
    for layer in inspection.layers:
        shape = "x".join(map(str, layer.shape))
        counts = _numbers(layer.kept, layer.nonzero)
        rows.append((layer.name, layer.stage, shape, f"{layer.density:.4f}", *counts, layer.form))
    sparsity = inspection.manifest.sparsity
    counts = _numbers(sparsity.kept, sparsity.nonzero)
    rows.append(("total", "", f"{sparsity.weights:,}", f"{sparsity.density:.4f}", *counts, ""))
    return table(rows)


def _sizes(inspection: Inspection) -> list[str]:
    share = inspection.graph_bytes / inspection.dense_weight_bytes if inspection.dense_weight_bytes else 1.0
    return [
        f"size      {inspection.bytes:,} bytes in all; graphs {inspection.graph_bytes:,}, "
        f"{share:.0%} of their weights as dense fp32 ({inspection.dense_weight_bytes:,})"
    ]


def _quality(manifest: Manifest) -> list[str]:
    calibration, early_exit = manifest.calibration, manifest.early_exit
    temperatures = ", ".join(f"{value:.4f}" for value in calibration.temperatures)
    lines = [f"temperatures for 1 to {len(manifest.heads)} heads: {temperatures} ({_split(calibration)})"]
    if calibration.order:
        order = ", ".join(map(str, calibration.order))
        lines.append(f"the checkpoint's heads in voting order, chosen on that split: {order}")
    rows: list[Cells] = [("split", "rows", "accuracy", "NLL", "Brier", "ECE", "accuracy of the heads", "disagreement")]
    for metrics in manifest.evaluation:
        heads = " ".join(f"{accuracy:.4f}" for accuracy in metrics.head_accuracy)
        differ = "-" if metrics.disagreement is None else f"{metrics.disagreement:.4f}"
        values = (metrics.accuracy, metrics.nll, metrics.brier, metrics.ece)
        rows.append((metrics.split, f"{metrics.rows:,}", *(f"{value:.4f}" for value in values), heads, differ))
    lines += table(rows) if manifest.evaluation else ["no evaluation"]
    exits: list[Cells] = [("stop at confidence", "accuracy", "mean heads")]
    exits += [(f"{p.min_confidence:.2f}", f"{p.accuracy:.4f}", f"{p.mean_heads:.2f}") for p in early_exit.points]
    return [*lines, f"early exit ({_split(early_exit)})", *table(exits)]


def _split(measured: Calibration | EarlyExit) -> str:
    return f"{measured.rows:,} rows of split {measured.split}"


def _provenance(manifest: Manifest) -> list[str]:
    origin = manifest.provenance
    packages = ", ".join(f"{name} {version}" for name, version in sorted(origin.packages.items()))
    return [
        f"made by   {origin.command}",
        f"with      neurotrails {origin.code_version}, seed {origin.seed}, {origin.steps:,} steps; {packages}",
        f"from      {origin.data_source}",
        f"config    sha256 {origin.config_sha256}",
    ]


def _numbers(*values: int) -> tuple[str, ...]:
    return tuple(f"{value:,}" for value in values)
