"""The listing of an artifact, for people."""

from collections.abc import Sequence

from runtime.inspection.contents import Inspection
from runtime.manifest import Calibration, EarlyExit, Manifest, Quantization, TextPreprocessing
from runtime.table import Cells, table


def render(inspection: Inspection) -> list[str]:
    """Lines of the table for people."""
    manifest = inspection.manifest
    return [
        f"{manifest.name} version {manifest.version} (schema {manifest.schema_version}), sha256 {inspection.sha256}",
        *([manifest.description] if manifest.description else []),
        f"modality  {manifest.modality}, {manifest.precision}, {len(manifest.heads)} heads, vote on {manifest.vote}",
        f"labels    {len(manifest.labels)}: {', '.join(manifest.labels)}",
        f"input     {input_tensors(manifest)}",
        "",
        *_stages(inspection),
        "",
        *_layers(inspection),
        "",
        *_sizes(inspection),
        "",
        *_quality(manifest),
        "",
        *_provenance(manifest),
    ]


def input_tensors(manifest: Manifest) -> str:
    """Names, types and shapes of the model inputs."""
    preprocessing = manifest.preprocessing
    tensors = "; ".join(f"{spec.name} {spec.dtype} [{', '.join(map(str, spec.shape))}]" for spec in manifest.inputs)
    if isinstance(preprocessing, TextPreprocessing):
        return f"{tensors}; padded to {', '.join(map(str, preprocessing.lengths))} tokens"
    return tensors


def _stages(inspection: Inspection) -> list[str]:
    rows: list[Cells] = [("stage", "bytes", "dense MACs", "effective MACs", "activation MACs")]
    work = [(stage.bytes, stage.dense_macs, stage.effective_macs, stage.activation_macs) for stage in inspection.stages]
    rows += [(stage.file, *_numbers(*numbers)) for stage, numbers in zip(inspection.stages, work, strict=True)]
    return table([*rows, ("total", *_numbers(*(sum(column) for column in zip(*work, strict=True))))])


def _layers(inspection: Inspection) -> list[str]:
    rows: list[Cells] = [
        (
            "layer",
            "stage",
            "shape",
            "density",
            "kept",
            "not zero",
            "form",
            "bytes",
            "as dense",
            "dense MACs",
            "effective",
        )
    ]
    for layer in inspection.layers:
        shape = "x".join(map(str, layer.shape))
        counts = _numbers(layer.kept, layer.nonzero)
        costs = _numbers(layer.bytes, layer.dense_bytes, layer.dense_macs, layer.effective_macs)
        rows.append((layer.name, layer.stage, shape, f"{layer.density:.4f}", *counts, layer.form, *costs))
    sparsity, layers = inspection.manifest.sparsity, inspection.layers
    counts = _numbers(sparsity.kept, sparsity.nonzero)
    costs = _numbers(
        sum(layer.bytes for layer in layers),
        sum(layer.dense_bytes for layer in layers),
        total([layer.dense_macs for layer in layers]),
        total([layer.effective_macs for layer in layers]),
    )
    return table([*rows, ("total", "", f"{sparsity.weights:,}", f"{sparsity.density:.4f}", *counts, "", *costs)])


def _sizes(inspection: Inspection) -> list[str]:
    rows: list[Cells] = [("network", "weight bytes", "MACs")]
    rows += [(size.name, *_numbers(size.weight_bytes, size.macs)) for size in inspection.sizes]
    return [
        f"size      {inspection.bytes:,} bytes in all; graphs {inspection.graph_bytes:,}, "
        f"{share(inspection):.0%} of their weights as dense fp32 ({inspection.dense_weight_bytes:,})",
        *table(rows),
    ]


def share(inspection: Inspection) -> float:
    """Bytes of the graphs, as a fraction of those of their weights as dense fp32."""
    return inspection.graph_bytes / inspection.dense_weight_bytes if inspection.dense_weight_bytes else 1.0


def total(counts: Sequence[int | None]) -> int | None:
    """Sum, or None where one is not known."""
    return None if any(count is None for count in counts) else sum(count for count in counts if count is not None)


def measured_on(measured: Calibration | EarlyExit) -> str:
    """Rows and split that something was measured on."""
    return f"{measured.rows:,} rows of split {measured.split}"


def quantization(found: Quantization) -> list[str]:
    """What int8 changed, and which layers compute in fp32: one sentence each."""
    change, low, high = (
        f"{100 * value:+.2f}"
        for value in (found.accuracy_change, found.accuracy_change_low, found.accuracy_change_high)
    )
    flips = (found.vote_flips, *found.head_flips)
    vote, *heads = (f"{one.share:.2%} ({one.low:.2%} to {one.high:.2%})" for one in flips)
    accepted = ", a loss that was accepted" if found.loss_accepted else ""
    return [
        f"int8 against fp32 ({found.measured_rows:,} rows of split {found.measured_split}): accuracy {change} points "
        f"({low} to {high}){accepted}",
        f"labels that int8 changed: vote {vote}; heads {', '.join(heads)}",
        f"{found.layers:,} layers in int8, {len(found.kept):,} in fp32; ranges ({found.method}) from {found.rows:,} "
        f"rows of split {found.split}",
        *(f"in fp32: {layer.stage} {layer.name}: {layer.reason}" for layer in found.kept),
    ]


def _quality(manifest: Manifest) -> list[str]:
    calibration, early_exit = manifest.calibration, manifest.early_exit
    temperatures = ", ".join(f"{value:.4f}" for value in calibration.temperatures)
    lines = [f"temperatures for 1 to {len(manifest.heads)} heads: {temperatures} ({measured_on(calibration)})"]
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
    lines += quantization(manifest.quantization) if manifest.quantization else []
    exits: list[Cells] = [("stop at confidence", "accuracy", "mean heads")]
    exits += [(f"{p.min_confidence:.2f}", f"{p.accuracy:.4f}", f"{p.mean_heads:.2f}") for p in early_exit.points]
    return [*lines, f"early exit ({measured_on(early_exit)})", *table(exits)]


def _provenance(manifest: Manifest) -> list[str]:
    origin = manifest.provenance
    packages = ", ".join(f"{name} {version}" for name, version in sorted(origin.packages.items()))
    return [
        f"made by   {origin.command}",
        f"with      neurotrails {origin.code_version}, seed {origin.seed}, {origin.steps:,} steps; {packages}",
        f"from      {origin.data_source}",
        f"config    sha256 {origin.config_sha256}",
    ]


def _numbers(*values: int | None) -> tuple[str, ...]:
    return tuple("-" if value is None else f"{value:,}" for value in values)
