"""How the native engine computes an artifact: its plan, wave by wave, with predicted and measured time.

report = examine(Artifact.open("models/fashion-mnist"), heads=3, cores=2)
print("\\n".join(render(report)))
"""

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.artifact import Artifact
from runtime.engines.base import EngineOptions
from runtime.engines.native.engine import NativeEngine
from runtime.engines.native.plan import Step
from runtime.errors import EngineError
from runtime.manifest import TextPreprocessing
from runtime.table import Cells, table

ROUNDS = 30
"""Times that each wave is measured; the least counts."""
LAYER_WIDTH = 92
"""Characters at most of what is said of a layer in the table for people."""
COLUMNS = ("MMACs", "KiB", "predicted", "measured", "GMAC/s")


@dataclass(frozen=True)
class Wave:
    """A wave of a plan: a layer of the trunk, or the same layer of several heads side by side."""

    kernel: str
    """Name of the kernel, behind that of its gather if it has one; of several kernels, where heads differ."""
    labels: tuple[str, ...]
    """What each step computes."""
    gathers: tuple[str, ...]
    """What each step gathers right before, chunk by chunk; empty where nothing is."""
    macs: int
    """Multiply-adds with kept weights."""
    weight_bytes: int
    """Packed weights, offsets and biases of convolutions and linear layers, each counted once."""
    predicted_seconds: float | None
    """By the cost model, on all cores, without gathers; None where it has no estimate."""
    measured_seconds: float


@dataclass(frozen=True)
class Total:
    """Sums over the waves of one kernel, or over all."""

    kernel: str
    """Kernel, or `total`."""
    waves: int
    macs: int
    weight_bytes: int
    predicted_seconds: float | None
    """Of the waves that have an estimate; None where none has."""
    measured_seconds: float
    predicted_share: float | None
    """Predicted time as a share of the measured time of the same waves."""


@dataclass(frozen=True)
class PlanReport:
    """The plan of one row of an artifact with some heads."""

    name: str
    version: str
    sha256: str
    precision: str
    instruction_set: str
    cores: int
    heads: int
    tokens: int | None
    """Length of the text, the greatest of the artifact; None for images."""
    rounds: int
    arena_bytes: int
    """Memory for all tensors, which share it."""
    scratch_bytes: int
    """Private memory of each core."""
    weight_bytes: int
    """Packed weights of convolutions and linear layers."""
    waves: tuple[Wave, ...]
    kernels: tuple[Total, ...]
    """By kernel, the longest time first."""
    total: Total


def examine(artifact: Artifact, *, heads: int | None = None, cores: int = 1, rounds: int = ROUNDS) -> PlanReport:
    """Plan one row of an artifact with the native engine and measure each wave, the least of so many rounds.

    A measured time is that of a program of one wave, called from Python. So it includes the call, handing the wave to
    the threads and waiting until all items are done: some microseconds, of which a whole prediction spends less for
    each wave, because its threads go from wave to wave by themselves. Nothing is subtracted. A round runs all waves in
    order, so weights and tensors are in the caches as in a prediction that follows another.

    `heads` None means all; texts have the greatest length of the artifact. Raises EngineError where there are not so
    many heads or the engine cannot run the artifact.
    """
    manifest = artifact.manifest
    heads = len(manifest.heads) if heads is None else heads
    if not 1 <= heads <= len(manifest.heads):
        raise EngineError(f"{manifest.name} has 1 to {len(manifest.heads)} heads to plan, not {heads}.")
    if rounds < 1:
        raise EngineError(f"rounds must be at least 1, not {rounds}.")
    preprocessing = manifest.preprocessing
    tokens = max(preprocessing.lengths) if isinstance(preprocessing, TextPreprocessing) else None
    lengths = None if tokens is None else (tokens,)
    engine = NativeEngine(artifact, EngineOptions(cores=cores, lengths=lengths))
    try:
        plan, seconds = engine.plan(heads), engine.measure(heads, rounds)
    finally:
        engine.close()
    waves = tuple(_wave(steps, measured) for steps, measured in zip(plan.waves, seconds, strict=True))
    kernels = [
        _total(kernel, [wave for wave in waves if wave.kernel == kernel]) for kernel in {w.kernel for w in waves}
    ]
    total = _total("total", waves)
    return PlanReport(
        name=manifest.name,
        version=manifest.version,
        sha256=artifact.sha256,
        precision=manifest.precision,
        instruction_set=engine.machine.name,
        cores=cores,
        heads=heads,
        tokens=tokens,
        rounds=rounds,
        arena_bytes=plan.arena_bytes,
        scratch_bytes=plan.scratch_bytes,
        weight_bytes=total.weight_bytes,
        waves=waves,
        kernels=tuple(sorted(kernels, key=lambda one: -one.measured_seconds)),
        total=total,
    )


def render(report: PlanReport) -> list[str]:
    """Lines of the table for people."""
    text = "" if report.tokens is None else f" of {report.tokens} tokens"
    heads = "1 head" if report.heads == 1 else f"{report.heads} heads"
    cores = "1 core" if report.cores == 1 else f"{report.cores} cores"
    return [
        f"{report.name} version {report.version}, sha256 {report.sha256}",
        f"engine    native, {report.precision}, generated for {report.instruction_set}, {cores}",
        f"plan      one row{text}, {heads}: {len(report.waves)} waves",
        f"memory    tensors {_kib(report.arena_bytes)} KiB, scratch {report.cores} x {_kib(report.scratch_bytes)} KiB, "
        f"packed weights {_kib(report.weight_bytes)} KiB",
        "columns   MMACs: millions of multiply-adds with kept weights; KiB: packed weights; predicted, measured: "
        f"microseconds, the least of {report.rounds} rounds",
        "",
        *_waves(report.waves),
        "",
        *_totals((*report.kernels, report.total), report.total.measured_seconds),
    ]


def _wave(steps: Sequence[Step], measured: float) -> Wave:
    gathers = [step.gather for step in steps if step.gather is not None]
    names = [step.kernel if step.gather is None else f"{step.gather.kernel}+{step.kernel}" for step in steps]
    return Wave(
        kernel=" | ".join(dict.fromkeys(names)),
        labels=tuple(step.label for step in steps),
        gathers=tuple(gather.label for gather in gathers),
        macs=sum(step.macs for step in steps),
        weight_bytes=sum(step.weight_bytes for step in steps),
        predicted_seconds=sum(step.seconds for step in steps) or None,
        measured_seconds=measured,
    )


def _total(kernel: str, waves: Sequence[Wave]) -> Total:
    estimated = [(wave.predicted_seconds, wave.measured_seconds) for wave in waves if wave.predicted_seconds]
    predicted, measured = (sum(times) for times in zip(*estimated, strict=True)) if estimated else (None, None)
    return Total(
        kernel=kernel,
        waves=len(waves),
        macs=sum(wave.macs for wave in waves),
        weight_bytes=sum(wave.weight_bytes for wave in waves),
        predicted_seconds=predicted,
        measured_seconds=sum(wave.measured_seconds for wave in waves),
        predicted_share=predicted / measured if predicted and measured else None,
    )


def _waves(waves: Sequence[Wave]) -> list[str]:
    rows: list[Cells] = [("kernel", "layer", *COLUMNS)]
    rows += [(wave.kernel, _layer(wave), *_figures(wave)) for wave in waves]
    return table(rows)


def _totals(totals: Sequence[Total], seconds: float) -> list[str]:
    rows: list[Cells] = [("kernel", "waves", *COLUMNS, "of all time", "predicted / measured")]
    for total in totals:
        share = "-" if total.predicted_share is None else f"{total.predicted_share:.0%}"
        of_all = f"{total.measured_seconds / seconds:.1%}"
        rows.append((total.kernel, str(total.waves), *_figures(total), of_all, share))
    return table(rows)


def _figures(row: Wave | Total) -> Cells:
    """Cells of COLUMNS."""
    return (
        f"{row.macs / 1e6:,.3f}" if row.macs else "-",
        _kib(row.weight_bytes) if row.weight_bytes else "-",
        "-" if row.predicted_seconds is None else f"{row.predicted_seconds * 1e6:,.1f}",
        f"{row.measured_seconds * 1e6:,.1f}",
        f"{row.macs / row.measured_seconds / 1e9:,.1f}" if row.macs else "-",
    )


def _layer(wave: Wave) -> str:
    """Label of the first head, with a shorter name of the layer: its end says more than its beginning."""
    name, colon, details = wave.labels[0].partition(": ")
    name = name.removeprefix("/").removesuffix("_output_0").replace("_output_0 ", " ")
    details = colon + details + (f" x {len(wave.labels)} heads" if len(wave.labels) > 1 else "")
    room = max(8, LAYER_WIDTH - len(details))
    return (name if len(name) <= room else f"...{name[3 - room :]}") + details


def _kib(nbytes: int) -> str:
    return f"{nbytes / 1024:,.1f}"
