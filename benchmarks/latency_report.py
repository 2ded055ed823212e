"""How latency results are shown: a table as text, a plot as PNG. Both are made from the JSON's records alone."""

import io
import itertools
import math
from collections.abc import Iterable, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from environment import Environment
from latency_results import Interval, LatencyResults, NetworkResult, SubjectResult

COLOURS = {"deepsparse": "#0072B2", "onnxruntime": "#D55E00", "openvino": "#009E73", "native": "#CC79A7"}
"""Okabe and Ito's palette, which colour-blind readers can tell apart; shapes differ too."""
MARKERS = {"deepsparse": "o", "onnxruntime": "s", "openvino": "^", "native": "D"}
OTHER_COLOUR, OTHER_MARKER = "#444444", "v"

HEADER = ("engine", "subject", "median ms [95 %]", "p95", "min", "speedup [95 %]", "GMAC/s", "peak", "rounds")


def headline(environment: Environment, peak_macs_per_second: float, *, smoke: bool) -> list[str]:
    """Where a run was made and what the machine can do at most; first of all, whether the run means anything."""
    machine = (
        f"{environment.cpu}, {environment.cores} cores ({environment.cores_source}); measured fp32 peak "
        f"{peak_macs_per_second / 1e9:.0f} GMAC/s"
    )
    warning = "SMOKE RUN: shows that the benchmark works; the numbers mean nothing."
    return [warning, machine] if smoke else [machine]


def table(results: LatencyResults) -> str:
    """All results as plain text, one block for each network and batch size."""
    lines = headline(results.environment, results.peak_macs_per_second, smoke=results.smoke)
    for network, batch in _blocks(results):
        rows = [HEADER, *(_row(subject) for subject in _subjects(results, network.name, batch))]
        lines += ["", _title(network, batch), *aligned(rows, left=2)]
    lines.append("")
    lines += [
        f"Not measured: {fail.network} ({fail.kind}) on {fail.engine}: {fail.message}" for fail in results.failures
    ]
    lines += [f"Not installed: {name}: {message}" for name, message in results.engines_missing.items()]
    return "\n".join([*lines, *results.notes])


def aligned(rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Lines of a table in which the first `left` columns are aligned to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def plot(results: LatencyResults) -> bytes:
    """Latencies as a PNG: a panel for each network and batch size, a dot for each subject and engine, log scale."""
    networks = results.networks
    batches = sorted({subject.batch for subject in results.subjects})
    engines = list(dict.fromkeys(subject.engine for subject in results.subjects))
    most_rows = max(len(_labels(results, network.name)) for network in networks)
    height = 1.3 + len(networks) * (0.9 + 0.5 * most_rows)
    with mpl.rc_context({"font.size": 10, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(2.2 + 4.6 * len(batches), height), layout="constrained")
        grid = figure.subplots(len(networks), len(batches), squeeze=False)
        for (row, network), (column, batch) in itertools.product(enumerate(networks), enumerate(batches)):
            _draw(grid[row][column], results, network, batch, engines, with_labels=column == 0)
        draw_legend(figure, engines)
        smoke = "SMOKE RUN, numbers mean nothing\n" if results.smoke else ""
        figure.suptitle(
            f"{smoke}Latency on {results.environment.cores} cores, median with 95 % interval (less is better)",
            x=0.01, ha="left", fontsize=12, fontweight="bold",
        )  # fmt: skip
        figure.supxlabel(
            f"{results.environment.cpu}; {results.environment.date[:10]}; "
            f"dense networks{_live(networks)} have live random weights",
            fontsize=8, color="#555555",
        )  # fmt: skip
        return png(figure)


def _draw(
    axes: Axes, results: LatencyResults, network: NetworkResult, batch: int, engines: list[str], *, with_labels: bool
) -> None:
    labels = _labels(results, network.name)
    for subject in _subjects(results, network.name, batch):
        step = 0.8 / len(engines)
        offset = step * (engines.index(subject.engine) - (len(engines) - 1) / 2)
        y = labels.index(subject.label) + offset
        speedup = ""
        if subject.speedup is not None and not _is_baseline(subject, network):
            speedup = f"  {digits(subject.speedup.median)}x"
        draw_latency(axes, subject.engine, subject.latency, y, speedup)
    first_dense = next((index for index, label in enumerate(labels) if label.startswith("dense")), len(labels))
    axes.axhspan(first_dense - 0.5, len(labels) - 0.5, color="#f1f1f1", zorder=0)
    finish_axes(axes, labels if with_labels else [""] * len(labels))
    axes.set_title(_title(network, batch), loc="left", fontsize=10)
    axes.set_xlabel("ms per batch; x = speedup over the dense ensemble", fontsize=8)


def draw_latency(axes: Axes, engine: str, latency: Interval, y: float, note: str = "") -> None:
    """Draw one engine's latency as a dot with its interval, its milliseconds and a note beside it."""
    median, low, high = (1e3 * value for value in bounds(latency))
    axes.errorbar(
        median, y, xerr=[[max(0.0, median - low)], [max(0.0, high - median)]], color=colour(engine),
        marker=marker(engine), markersize=6, capsize=3, linewidth=1.4,
    )  # fmt: skip
    axes.annotate(
        f"{digits(median)}{note}", (high, y), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8,
        color=colour(engine),
    )  # fmt: skip


def finish_axes(axes: Axes, labels: Sequence[str]) -> None:
    """Scale axes on which latencies were drawn, label their rows from the top, and clear away what is not needed."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * (high / low) ** 0.35)  # room for the numbers
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), labels)
    decades = math.log10(high / low)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def draw_legend(figure: Figure, engines: Sequence[str]) -> None:
    """Say which marker is which engine."""
    handles = [
        Line2D([], [], color=colour(engine), marker=marker(engine), linestyle="", markersize=7, label=engine)
        for engine in engines
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False)


def png(figure: Figure) -> bytes:
    """Render a figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def _row(subject: SubjectResult) -> tuple[str, ...]:
    median, low, high = (digits(1e3 * value) for value in bounds(subject.latency))
    speedup = "-"
    if subject.speedup is not None:
        speedup = "{:.2f} [{:.2f}, {:.2f}]".format(*bounds(subject.speedup))
    return (
        subject.engine,
        subject.label,
        f"{median} [{low}, {high}]",
        digits(1e3 * subject.p95),
        digits(1e3 * subject.minimum),
        speedup,
        f"{subject.macs_per_second / 1e9:.1f}",
        f"{subject.peak_share:.0%}",
        str(subject.rounds),
    )


def _blocks(results: LatencyResults) -> Iterable[tuple[NetworkResult, int]]:
    batches = sorted({subject.batch for subject in results.subjects})
    return itertools.product(results.networks, batches)


def _subjects(results: LatencyResults, network: str, batch: int) -> list[SubjectResult]:
    return [subject for subject in results.subjects if subject.network == network and subject.batch == batch]


def _labels(results: LatencyResults, network: str) -> list[str]:
    """Labels of a network's subjects, sparse ones first."""
    found = [subject for subject in results.subjects if subject.network == network]
    found.sort(key=lambda subject: (subject.kind != "sparse", subject.heads))
    return list(dict.fromkeys(subject.label for subject in found))


def _title(network: NetworkResult, batch: int) -> str:
    tokens = "" if network.tokens is None else f", {network.tokens} tokens"
    weights = network.weights["sparse"]
    return f"{network.name}, batch {batch}{tokens} ({weights} weights, density {network.density:.2g})"


def _is_baseline(subject: SubjectResult, network: NetworkResult) -> bool:
    return subject.kind == "dense" and subject.heads == network.heads


def _live(networks: tuple[NetworkResult, ...]) -> str:
    live = [network.name for network in networks if network.weights["sparse"] == "live random"]
    return f" and {', '.join(live)}" if live else ""


def bounds(interval: Interval) -> tuple[float, float, float]:
    """Median, low and high."""
    return interval.median, interval.low, interval.high


def digits(value: float) -> str:
    """Write a number with about three significant digits, without an exponent."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def colour(engine: str) -> str:
    """Return the colour of an engine in all plots."""
    return COLOURS.get(engine, OTHER_COLOUR)


def marker(engine: str) -> str:
    """Return the marker of an engine in all plots."""
    return MARKERS.get(engine, OTHER_MARKER)
