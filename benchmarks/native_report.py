"""How native.json is shown: text, Markdown and a plot, all made from its records alone."""

import itertools
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latency_report import aligned, bounds, digits, draw_latency, draw_legend, finish_axes, headline, png
from latency_results import Interval
from native_results import NATIVE, AimResult, EngineLatency, LoadAimResult, NativeResults, NativeRow

HEADER = ("engine", "median ms [95 %]", "min", "x native [95 %]", "by min", "GMAC/s", "peak", "rounds")
VERDICTS = {True: "met", False: "missed", None: "undecided"}


def table(results: NativeResults) -> str:
    """All results as plain text, one block for each work and batch size."""
    lines = headline(results.environment, results.peak_macs_per_second, smoke=results.smoke)
    lines[-1] += f"; load before the run {_load_average(results)}"
    for row in results.rows:
        lines += ["", _title(row), *aligned([HEADER, *map(_cells, row.engines)], left=1)]
        if row.aim is not None:
            lines.append(f"  aim: {_asked(row.aim)}; reached: {_reached(row.aim)}; {VERDICTS[row.aim.met]}")
    lines.append("")
    lines += [_load_line(load) for load in results.load_aims]
    lines += [f"Not measured: {f.work}, batch {f.batch} on {f.engine}: {f.message}" for f in results.failures]
    lines += [f"Not installed: {name}: {message}" for name, message in results.engines_missing.items()]
    return "\n".join([*lines, *results.notes])


def markdown(results: NativeResults) -> str:
    """The figures as a table for the documentation, with what a reader needs to judge them."""
    environment, engines = results.environment, _engines(results)
    rounds = [each.rounds for row in results.rows for each in row.engines]
    lines = [
        f"Milliseconds for the whole batch with all heads, median (minimum), on {environment.cores} cores of an "
        f"{environment.cpu}; {min(rounds, default=0)} to {max(rounds, default=0)} interleaved rounds; the ratio is the "
        f"median of paired rounds with its {results.confidence:.0%} interval, beside it "
        f"the ratio of the minima. Load of the machine before the run: {_load_average(results)}. Command: "
        f"`{environment.command}`.",
        "",
        f"| work | density | batch | {' | '.join(engines)} | native GMAC/s (peak) | aim | reached | |",
        "|" + "---|" * (len(engines) + 7),
    ]
    for row in results.rows:
        cells = [_milliseconds(row.engine(engine)) for engine in engines]
        aim = ["-", "-", ""] if row.aim is None else [_asked(row.aim), _reached(row.aim), VERDICTS[row.aim.met]]
        fields = [row.network, f"{row.density:.2g}", str(row.batch), *cells, _rate(row.engine(NATIVE)), *aim]
        lines.append(f"| {' | '.join(fields)} |")
    if results.load_aims:
        lines += ["", *(f"- {_load_line(load)}" for load in results.load_aims)]
    return "\n".join(lines)


def plot(results: NativeResults) -> bytes:
    """Latencies as a PNG: a panel for each batch size, a row for each work, a dot for each engine, log scale."""
    works = list(dict.fromkeys(row.work for row in results.rows))
    batches = sorted({row.batch for row in results.rows})
    engines = _engines(results)
    with mpl.rc_context({"font.size": 10, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(2.4 + 4.6 * max(1, len(batches)), 1.9 + 0.62 * len(works)), layout="constrained")
        grid = figure.subplots(1, max(1, len(batches)), squeeze=False)
        for column, batch in enumerate(batches):
            rows = [row for row in results.rows if row.batch == batch]
            _draw(grid[0][column], rows, works, engines, with_labels=column == 0)
            grid[0][column].set_title(f"batch {batch}", loc="left", fontsize=10)
        draw_legend(figure, engines)
        smoke = "SMOKE RUN, numbers mean nothing\n" if results.smoke else ""
        figure.suptitle(
            f"{smoke}All heads on {results.environment.cores} cores, median with 95 % interval (less is better)",
            x=0.01, ha="left", fontsize=12, fontweight="bold",
        )  # fmt: skip
        figure.supxlabel(f"{results.environment.cpu}; {results.environment.date[:10]}", fontsize=8, color="#555555")
        return png(figure)


def _draw(
    axes: Axes, rows: Sequence[NativeRow], works: Sequence[str], engines: Sequence[str], *, with_labels: bool
) -> None:
    step = 0.8 / len(engines)
    for row, each in itertools.chain.from_iterable(((row, each) for each in row.engines) for row in rows):
        y = works.index(row.work) + step * (engines.index(each.engine) - (len(engines) - 1) / 2)
        draw_latency(axes, each.engine, each.latency, y, f"  {digits(each.ratio.median)}x" if each.ratio else "")
    for stripe in range(0, len(works), 2):
        axes.axhspan(stripe - 0.5, stripe + 0.5, color="#f6f6f6", zorder=0)
    finish_axes(axes, works if with_labels else [""] * len(works))
    axes.set_xlabel("ms per batch; x = times the latency of native", fontsize=8)


def _load_average(results: NativeResults) -> str:
    load = results.environment.load_average
    return "unknown" if load is None else f"{load:.1f}"


def _title(row: NativeRow) -> str:
    tokens = "" if row.tokens is None else f", {row.tokens} tokens"
    return (
        f"{row.work}, batch {row.batch}{tokens} ({row.weights} weights, density {row.density:.2g}, {row.heads} heads, "
        f"{row.effective_macs / 1e9:.3g} GMAC)"
    )


def _cells(each: EngineLatency) -> tuple[str, ...]:
    median, low, high = (digits(1e3 * value) for value in bounds(each.latency))
    return (
        each.engine,
        f"{median} [{low}, {high}]",
        digits(1e3 * each.minimum),
        "-" if each.ratio is None else _interval(each.ratio),
        "-" if each.ratio_of_minima is None else f"{each.ratio_of_minima:.2f}",
        f"{each.macs_per_second / 1e9:.1f}",
        f"{each.peak_share:.0%}",
        str(each.rounds),
    )


def _engines(results: NativeResults) -> list[str]:
    return list(dict.fromkeys(each.engine for row in results.rows for each in row.engines))


def _asked(aim: AimResult) -> str:
    faster = " and ".join(aim.against)
    return f"{aim.ratio:.2g}x {faster}" if len(aim.against) == 1 else f"{aim.ratio:.2g}x the faster of {faster}"


def _reached(aim: AimResult) -> str:
    if aim.reached is None or aim.reached_by_minima is None:
        return "-"
    return f"{_interval(aim.reached)}, by minima {aim.reached_by_minima:.2f} ({aim.rival})"


def _interval(interval: Interval) -> str:
    return "{:.2f} [{:.2f}, {:.2f}]".format(*bounds(interval))


def _milliseconds(each: EngineLatency | None) -> str:
    return "-" if each is None else f"{digits(1e3 * each.latency.median)} ({digits(1e3 * each.minimum)})"


def _rate(each: EngineLatency | None) -> str:
    return "-" if each is None else f"{each.macs_per_second / 1e9:.0f} ({each.peak_share:.0%})"


def _load_line(load: LoadAimResult) -> str:
    return (
        f"{load.kind.capitalize()} load of {load.work} for batch 1: {load.median:.2f} s, median of "
        f"{len(load.seconds)}; aim: below {load.aim:.2g} s; {VERDICTS[load.met]}"
    )
