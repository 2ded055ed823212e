"""How crossover.json is shown: text, Markdown and a plot, all made from its records alone."""

from collections.abc import Sequence
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from crossover_results import (
    PRECISIONS,
    Crossing,
    CrossoverPanel,
    CrossoverResults,
    Execution,
    Latency,
)
from latency_report import aligned, bounds, colour, digits, marker, png

HEADER = ("execution", "density", "median ms [95 %]", "min", "x best dense fp32", "to bf16", "to int8", "rounds")
LINES: dict[str, Literal["-", "--", ":"]] = {"fp32": "-", "bf16": "--", "int8": ":"}


def table(results: CrossoverResults) -> str:
    """All results as plain text, one block for each network and batch size."""
    environment = results.environment
    lines = [f"{environment.cpu}, {environment.cores} cores; load before the run {environment.load_average}"]
    if results.smoke:
        lines.insert(0, "SMOKE RUN: shows that the benchmark works; the numbers mean nothing.")
    for panel in results.panels:
        lines += ["", _title(panel), *aligned([HEADER, *map(_cells, _ordered(panel))], left=1)]
        lines += [f"  {_sentence(crossing)}" for crossing in panel.crossings]
    lines.append("")
    lines += _failures(results)
    lines += [f"Not installed: {name}: {message}" for name, message in results.engines_missing.items()]
    return "\n".join([*lines, *results.notes])


def markdown(results: CrossoverResults) -> str:
    """Milliseconds and crossings as tables for the documentation, with what a reader needs to judge them."""
    environment = results.environment
    rounds = [each.rounds for panel in results.panels for each in panel.latencies]
    load = "unknown" if environment.load_average is None else f"{environment.load_average:.1f}"
    lines = [
        f"Milliseconds for the whole batch with all heads, medians of at least {min(rounds, default=0)} interleaved "
        f"rounds, on {environment.cores} cores of an {environment.cpu}. Load of "
        f"the machine before the run: {load}. Command: `{environment.command}`.",
    ]
    for panel in results.panels:
        sparse = _executions(panel, "sparse")
        densities = sorted({each.density for each in panel.latencies if each.form == "sparse"})
        lines += ["", f"**{_title(panel)}**", ""]
        lines.append(f"| density | {' | '.join(execution.label for execution in sparse)} |")
        lines.append("|" + "---|" * (1 + len(sparse)))
        for density in densities:
            found = [next((e for e in panel.of(execution) if e.density == density), None) for execution in sparse]
            lines.append(f"| {density:g} | {' | '.join(map(_milliseconds, found))} |")
        dense = [panel.of(execution)[0] for execution in _executions(panel, "dense")]
        shown = ", ".join(f"{each.execution.label} {_milliseconds(each)}" for each in dense)
        lines += ["", f"Dense, whatever the density: {shown or 'nothing measured'}."]
    lines += ["", "Density below which sparse execution is the faster one:", ""]
    lines += [
        "| network | batch | sparse execution | against dense fp32 | also bf16 | also int8 |",
        "|---|---|---|---|---|---|",
    ]
    for panel in results.panels:
        for execution in _executions(panel, "sparse"):
            by_precision = {
                crossing.against: crossing
                for crossing in panel.crossings
                if (crossing.engine, crossing.precision) == (execution.engine, execution.precision)
            }
            cells = [_density(by_precision.get(precision)) for precision in PRECISIONS]
            lines.append(f"| {panel.network} | {panel.batch} | {execution.label} | {' | '.join(cells)} |")
    if results.failures:
        lines += ["", *(f"- {failure}" for failure in _failures(results))]
    return "\n".join(lines)


def plot(results: CrossoverResults) -> bytes:
    """Latency against density: a panel for each network and batch size; dense executions are level lines."""
    networks = list(dict.fromkeys(panel.network for panel in results.panels))
    batches = sorted({panel.batch for panel in results.panels})
    rows, columns = max(1, len(batches)), max(1, len(networks))
    with mpl.rc_context({"font.size": 10, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(max(8.6, 1.2 + 4.4 * columns), 1.8 + 3.4 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for panel in results.panels:
            _draw(grid[batches.index(panel.batch)][networks.index(panel.network)], panel)
        executions = dict.fromkeys(each.execution for panel in results.panels for each in panel.latencies)
        figure.legend(
            handles=[_handle(each) for each in executions],
            loc="outside lower center",
            ncols=3 if columns == 1 else 4,
            frameon=False,
        )
        smoke = "SMOKE RUN, numbers mean nothing\n" if results.smoke else ""
        figure.suptitle(
            f"{smoke}Sparse (curves) against dense execution (level lines) on {results.environment.cores} cores",
            x=0.01, ha="left", fontsize=12, fontweight="bold",
        )  # fmt: skip
        return png(figure)


def _failures(results: CrossoverResults) -> list[str]:
    return [
        f"Not measured: {each.network}, batch {each.batch}, density {each.density:g} on {each.engine} "
        f"{each.precision}: {each.message}"
        for each in results.failures
    ]


def _draw(axes: Axes, panel: CrossoverPanel) -> None:
    for execution in _executions(panel, "sparse"):
        found = panel.of(execution)
        axes.plot(
            [each.density for each in found], [1e3 * each.latency.median for each in found],
            color=colour(execution.engine), marker=marker(execution.engine), markersize=5, linewidth=1.6,
            linestyle=LINES[execution.precision],
        )  # fmt: skip
    for execution in _executions(panel, "dense"):
        level = 1e3 * panel.of(execution)[0].latency.median
        axes.axhline(
            level, color=colour(execution.engine), linewidth=1.1, linestyle=LINES[execution.precision], alpha=0.8
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    densities = sorted({each.density for each in panel.latencies if each.form == "sparse"})
    axes.set_xticks(densities, [f"{density:g}" for density in densities])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(_title(panel), loc="left", fontsize=10)
    axes.set_xlabel("density", fontsize=8)
    axes.set_ylabel("ms per batch (less is better)", fontsize=8)


def _handle(execution: Execution) -> Line2D:
    sparse = execution.form == "sparse"
    return Line2D(
        [], [], color=colour(execution.engine), linestyle=LINES[execution.precision],
        marker=marker(execution.engine) if sparse else "", label=f"{execution.label} ({execution.form})",
    )  # fmt: skip


def _executions(panel: CrossoverPanel, form: str) -> list[Execution]:
    return list(dict.fromkeys(each.execution for each in panel.latencies if each.form == form))


def _ordered(panel: CrossoverPanel) -> Sequence[Latency]:
    return sorted(panel.latencies, key=lambda each: (each.form, each.engine, each.precision, each.density))


def _title(panel: CrossoverPanel) -> str:
    tokens = "" if panel.tokens is None else f", {panel.tokens} tokens"
    return f"{panel.network}, {panel.heads} heads, batch {panel.batch}{tokens}"


def _cells(each: Latency) -> tuple[str, ...]:
    median, low, high = (digits(1e3 * value) for value in bounds(each.latency))
    speedups = [each.speedup.get(precision) for precision in PRECISIONS]
    return (
        f"{each.execution.label} ({each.form})",
        f"{each.density:g}",
        f"{median} [{low}, {high}]",
        digits(1e3 * each.minimum),
        *("-" if speedup is None else "{:.2f} [{:.2f}, {:.2f}]".format(*bounds(speedup)) for speedup in speedups),
        str(each.rounds),
    )


def _sentence(crossing: Crossing) -> str:
    name = f"{crossing.engine} {crossing.precision}"
    rival = f"the fastest dense execution up to {crossing.against} ({crossing.rival})"
    if crossing.density is None:
        return f"{name} is slower than {rival} at every density that was measured"
    if crossing.open_end:
        return f"{name} is faster than {rival} at every density that was measured, up to {crossing.density:g}"
    return f"{name} is faster than {rival} below density {crossing.density:.2f}"


def _density(crossing: Crossing | None) -> str:
    if crossing is None:
        return "-"
    if crossing.density is None:
        return f"never ({crossing.rival})"
    return f"{'over ' if crossing.open_end else ''}{crossing.density:.2f} ({crossing.rival})"


def _milliseconds(each: Latency | None) -> str:
    return "-" if each is None else digits(1e3 * each.latency.median)
