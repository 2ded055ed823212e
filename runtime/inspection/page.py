"""The page of an artifact: one HTML file that needs nothing else, made by `inspect --html`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from runtime.errors import AlreadyExists, InspectionError
from runtime.files import atomic_write
from runtime.inspection.contents import Inspection, StoredLayer
from runtime.inspection.drawing import draw, size_of
from runtime.inspection.listing import input_tensors, measured_on, quantization, share, total
from runtime.manifest import Manifest
from runtime.pages.exits import exit_figure
from runtime.pages.rendering import Figure, Table, render_page

MARK = b'<meta name="generator" content="neurotrails inspect">'
"""Every page has it near its beginning, and only a file that has it is replaced by one."""
MARK_WITHIN = 1024
LAYER_COLUMNS = (
    "layer", "shape", "density", "kept", "not zero", "form", "bytes", "as dense fp32", "dense MACs", "effective MACs",
)  # fmt: skip


@dataclass(frozen=True)
class Page:
    """What the page shows."""

    title: str
    description: str
    facts: Sequence[tuple[str, str]]
    labels: Sequence[str]
    drawing: Markup
    sizes: Table
    stages: Table
    layers: Sequence[tuple[str, Table]]
    """Caption and layers of each stage."""
    unknown_work: bool
    """Whether some layers have no MACs, because the shapes in the graph do not tell."""
    exits: Figure
    exit_points: Table
    metrics: Table
    """Of the vote, one row for each split; without rows if nothing was measured."""
    head_accuracy: Table
    temperatures: Table
    calibrated_on: str
    quantization: Sequence[str]
    """Sentences; none for an artifact that is not quantized."""
    provenance: Sequence[tuple[str, str]]
    files: Table


def render(inspection: Inspection) -> bytes:
    """The page as HTML: the same bytes for the same artifact."""
    return render_page(Path(__file__).with_name("page.html.j2"), page=describe(inspection)).encode()


def write(content: bytes, file: Path, artifact: Path) -> int:
    """Write the page of the artifact in the folder `artifact`; returns its size in bytes.

    Raises AlreadyExists where another file than such a page would be replaced, InspectionError where the file would lie
    in the artifact, which is immutable, or cannot be written.
    """
    try:
        if file.resolve().parent == artifact.resolve():
            raise InspectionError(f"{file} would lie in the artifact, which is immutable. Choose another folder.")
        if file.exists() and not _is_page(file):
            raise AlreadyExists(f"{file} exists and is not a page of this command. Remove it or choose another name.")
        atomic_write(file, content)
    except AlreadyExists:
        raise
    except OSError as error:
        raise InspectionError(f"{file} cannot be written: {error}. Name another file with --html.") from error
    return len(content)


def describe(inspection: Inspection) -> Page:
    """Gather what the page shows."""
    manifest = inspection.manifest
    metrics = manifest.evaluation
    exits = exit_figure(manifest.early_exit, f"Measured on {measured_on(manifest.early_exit)}.")
    return Page(
        title=f"{manifest.name} {manifest.version}",
        description=manifest.description,
        facts=_facts(inspection),
        labels=manifest.labels,
        drawing=draw(inspection),
        sizes=_sizes(inspection),
        stages=_stages(inspection),
        layers=_layers(inspection),
        unknown_work=any(layer.dense_macs is None for layer in inspection.layers),
        exits=replace(exits, table=None),  # it stands beside the figure, where print shows it too
        exit_points=exits.table or Table((), ()),
        metrics=Table(
            ("split", "rows", "accuracy", "NLL", "Brier score", "ECE", "NLL before", "ECE before", "disagreement"),
            [
                (
                    one.split,
                    f"{one.rows:,}",
                    f"{one.accuracy:.2%}",
                    *(f"{v:.4f}" for v in (one.nll, one.brier, one.ece, one.uncalibrated_nll, one.uncalibrated_ece)),
                    "one head" if one.disagreement is None else f"{one.disagreement:.2%}",
                )
                for one in metrics
            ],
        ),
        head_accuracy=Table(
            ("head", *(one.split for one in metrics)),
            [
                (f"head {head}", *(f"{one.head_accuracy[head]:.2%}" for one in metrics))
                for head in range(min((len(one.head_accuracy) for one in metrics), default=0))
            ],
        ),
        temperatures=Table(
            ("heads that vote", "temperature"),
            [(str(count), f"{value:.4f}") for count, value in enumerate(manifest.calibration.temperatures, 1)],
        ),
        calibrated_on=_calibrated_on(manifest),
        quantization=quantization(manifest.quantization) if manifest.quantization else (),
        provenance=_provenance(manifest),
        files=Table(
            ("file", "bytes", "sha256"),
            [(name, f"{entry.bytes:,}", entry.sha256) for name, entry in sorted(manifest.files.items())],
        ),
    )


def _facts(inspection: Inspection) -> list[tuple[str, str]]:
    manifest, sparsity = inspection.manifest, inspection.manifest.sparsity
    heads = "1 head" if len(manifest.heads) == 1 else f"{len(manifest.heads)} heads"
    return [
        ("network", f"{'trunk and ' if manifest.trunk else 'no trunk, '}{heads}"),
        ("precision", manifest.precision),
        ("vote", f"on {manifest.vote}"),
        ("density", f"{sparsity.density:.4f}: {sparsity.kept:,} of {sparsity.weights:,} weights kept"),
        ("size", f"{size_of(inspection.bytes)}; graphs {share(inspection):.0%} of their weights as dense fp32"),
        ("input", input_tensors(manifest)),
        ("preprocessing", ", ".join(f"{name} {_text(value)}" for name, value in manifest.preprocessing)),
        ("schema version", str(manifest.schema_version)),
        ("sha256 of the manifest", inspection.sha256),
    ]


def _sizes(inspection: Inspection) -> Table:
    own = inspection.sizes[0]
    rows = [
        (
            size.name,
            f"{size.weight_bytes:,}",
            _ratio(size.weight_bytes, own.weight_bytes),
            f"{size.macs:,}",
            _ratio(size.macs, own.macs),
        )
        for size in inspection.sizes
    ]
    return Table(("network", "weight bytes", "of this artifact's", "MACs of one example", "of this artifact's"), rows)


def _stages(inspection: Inspection) -> Table:
    rows = [
        tuple(f"{v:,}" for v in (s.bytes, s.dense_macs, s.effective_macs, s.activation_macs)) for s in inspection.stages
    ]
    sums = [sum(column) for column in zip(
        *((s.bytes, s.dense_macs, s.effective_macs, s.activation_macs) for s in inspection.stages), strict=True
    )]  # fmt: skip
    names = [stage.file for stage in inspection.stages]
    return Table(
        ("stage", "bytes", "dense MACs", "effective MACs", "activation MACs"),
        [*((name, *row) for name, row in zip(names, rows, strict=True)), ("total", *(f"{value:,}" for value in sums))],
    )


def _layers(inspection: Inspection) -> list[tuple[str, Table]]:
    tables = []
    for stage in inspection.stages:
        layers = [layer for layer in inspection.layers if layer.stage == stage.file]
        if layers:
            rows = [_layer(layer) for layer in layers]
            tables.append((stage.file, Table(LAYER_COLUMNS, [*rows, _sum(layers)])))
    return tables


def _layer(layer: StoredLayer) -> tuple[str, ...]:
    return (
        layer.name,
        " x ".join(map(str, layer.shape)),
        f"{layer.density:.4f}",
        f"{layer.kept:,}",
        f"{layer.nonzero:,}",
        layer.form,
        f"{layer.bytes:,}",
        f"{layer.dense_bytes:,}",
        _count(layer.dense_macs),
        _count(layer.effective_macs),
    )


def _sum(layers: Sequence[StoredLayer]) -> tuple[str, ...]:
    weights, kept = sum(layer.weights for layer in layers), sum(layer.kept for layer in layers)
    return (
        "total",
        f"{weights:,}",
        f"{kept / weights:.4f}",
        f"{kept:,}",
        f"{sum(layer.nonzero for layer in layers):,}",
        "",
        f"{sum(layer.bytes for layer in layers):,}",
        f"{sum(layer.dense_bytes for layer in layers):,}",
        _count(total([layer.dense_macs for layer in layers])),
        _count(total([layer.effective_macs for layer in layers])),
    )


def _calibrated_on(manifest: Manifest) -> str:
    calibration = manifest.calibration
    order = ", ".join(map(str, calibration.voting_order))
    chosen = f" The heads of the checkpoint in voting order, chosen there: {order}." if calibration.order else ""
    return f"Fitted on {measured_on(calibration)}.{chosen}"


def _provenance(manifest: Manifest) -> list[tuple[str, str]]:
    origin = manifest.provenance
    return [
        ("made by", origin.command),
        ("data", origin.data_source),
        ("training", f"{origin.steps:,} steps, seed {origin.seed}"),
        ("code", f"neurotrails {origin.code_version}"),
        ("packages", ", ".join(f"{name} {version}" for name, version in sorted(origin.packages.items()))),
        ("sha256 of the configuration", origin.config_sha256),
    ]


def _is_page(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as content:
        return MARK in content.read(MARK_WITHIN)


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _count(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _ratio(value: int, of: int) -> str:
    return f"{value / of:.2f}x" if of else "-"
