"""Results of native_costs.py: measured layers, constants, and what choices by them lose; as records and as text."""

from typing import Literal

from environment import Environment
from latency_report import aligned
from latency_results import Record, Seconds


class MeasuredWay(Record):
    """One way of computing a layer."""

    kernel: str
    tile: int
    """Vectors of a tile."""
    blocks: int
    """Blocks of input channels, as the planner asks for them."""
    blocks_made: int
    """More where offsets do not reach over a block; such ways are not part of the fit."""
    considered: bool
    """Whether the planner considers it: some ways would take too much memory, and are measured for the fit only."""
    seconds: Seconds
    """The least of all runs, gathering included."""
    predicted_seconds: float
    """By the constants in costs.py."""
    fitted_seconds: float
    """By the fitted constants."""


class MeasuredLayer(Record):
    """One layer in all ways."""

    layer: str
    inputs: int
    outputs: int
    window: int
    stride: int
    height: int
    """Lines of the output, in `width` pixels or tokens."""
    width: int
    density: float
    kept: int
    """Weights that are not 0."""
    gather: str | None
    """Kernel that gathers the pixels of the window, if any."""
    gathered_vectors: int
    best: MeasuredWay
    """The fastest that the planner considers, as measured."""
    present: MeasuredWay
    """Chosen by the constants in costs.py."""
    fitted: MeasuredWay
    """Chosen by the fitted constants."""
    ways: tuple[MeasuredWay, ...]


class Constant(Record):
    """A constant of the cost model."""

    present: float
    """In costs.py."""
    fitted: float


class Judgement(Record):
    """How good constants are."""

    rms_error: float
    """Root mean square of the relative errors of all estimates."""
    seconds: Seconds
    """Of all layers in the ways chosen by them."""
    best_seconds: Seconds
    """Of all layers in the ways that were measured to be the best."""
    ratio: float
    """Chosen over best."""
    worst_ratio: float
    """Of one layer."""


class CostResults(Record):
    """One run of native_costs.py."""

    benchmark: Literal["native_costs"] = "native_costs"
    smoke: bool
    """True: a run that only shows that the benchmark works; its numbers mean nothing."""
    environment: Environment
    instruction_set: str
    turns: int
    constants: dict[str, Constant]
    """Of the cost model, by name; seconds but for `far_bytes` and `lanes`, see costs.py."""
    gather_seconds: dict[str, Constant]
    """What gathering a vector costs, by kernel, fitted beside either constants: the cost model does not count it, as it
    is the same in all ways."""
    present: Judgement
    fitted: Judgement
    layers: tuple[MeasuredLayer, ...]


def table(results: CostResults) -> str:
    """Layers, constants and judgements as plain text."""
    rows = [
        ("layer", "density", "ways", "best", "us", "chosen", "us", "ratio", "predicted", "by the fit", "us", "ratio")
    ]
    for layer in results.layers:
        best, present, fitted = layer.best, layer.present, layer.fitted
        rows.append((
            layer.layer, f"{layer.density:g}", str(sum(way.considered for way in layer.ways)),
            _way(best), _us(best.seconds),
            _way(present), _us(present.seconds), f"{present.seconds / best.seconds:.2f}",
            _us(present.predicted_seconds), _way(fitted), _us(fitted.seconds), f"{fitted.seconds / best.seconds:.2f}",
        ))  # fmt: skip
    constants = [("constant", "in costs.py", "fitted")]
    constants += [(name, _constant(name, each.present), _constant(name, each.fitted)) for name, each in _all(results)]
    judged = [("constants", "rms error", "chosen us", "best us", "ratio", "worst")]
    judged += [
        (
            name, f"{each.rms_error:.1%}", _us(each.seconds), _us(each.best_seconds), f"{each.ratio:.3f}",
            f"{each.worst_ratio:.2f}",
        )
        for name, each in (("in costs.py", results.present), ("fitted", results.fitted))
    ]  # fmt: skip
    smoke = ["SMOKE RUN: shows that the benchmark works; the numbers mean nothing."] if results.smoke else []
    title = f"{results.environment.cpu}, {results.instruction_set}, one thread; a way is kernel/tile/blocks"
    parts = (aligned(rows, left=1), aligned(constants, left=1), aligned(judged, left=1))
    return "\n".join([*smoke, title, *(line for part in parts for line in ("", *part))])


def _all(results: CostResults) -> list[tuple[str, Constant]]:
    gathering = [(f"gather by {kernel}", each) for kernel, each in results.gather_seconds.items()]
    return [*results.constants.items(), *gathering]


def _constant(name: str, value: float) -> str:
    if name == "far_bytes":
        return f"{value / 1024:.0f} KiB"
    return f"{value:.3f}" if name == "lanes" else f"{value * 1e9:.3f} ns"


def _way(way: MeasuredWay) -> str:
    return f"{way.kernel}/{way.tile}/{way.blocks}"


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:.1f}"
