"""How serving.json is shown: text, Markdown and a plot, all made from its records alone."""

from collections.abc import Iterable, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from environment import Environment
from latency_report import aligned, digits, png
from latency_results import Interval
from serving_results import (
    Aim,
    IntegrityScenario,
    Latencies,
    LatencyScenario,
    LoadPoint,
    OverloadScenario,
    SaturationScenario,
    ServingResults,
    Subject,
)

SMOKE = "SMOKE RUN: shows that the benchmark works; the numbers mean nothing."
KINDS = {False: ("all heads", "#0072B2", "o"), True: ("shedding down to 1 head", "#D55E00", "s")}
"""Name, colour (Okabe and Ito) and marker of the points without and with shedding."""
POINTS = (
    "shedding",
    "load",
    "offered /s",
    "goodput /s",
    "200",
    "429",
    "504",
    "other",
    "p50 ms",
    "p95",
    "429 p50",
    "heads",
)


def table(results: ServingResults) -> str:
    """All results as plain text."""
    lines = [SMOKE] if results.smoke else []
    for title, body in _scenarios(results):
        lines += ["", title, *(f"  {line}" for line in body)]
    if results.overload is not None:
        lines += ["", *aligned([POINTS, *map(_cells, results.overload.points)], left=1)]
    lines += ["", *(f"{_verdict(aim):7} {aim.what}: {_reached(aim)} (aim: {_limit(aim)})" for aim in results.aims)]
    return "\n".join([*lines, "", *results.notes])


def markdown(results: ServingResults) -> str:
    """The figures for the documentation, with what a reader needs to judge them."""
    lines = [f"**{SMOKE}**", ""] if results.smoke else []
    lines += ["| aim | limit | reached | |", "|---|---|---|---|"]
    lines += [f"| {aim.what} | {_limit(aim)} | {_reached(aim)} | {_verdict(aim)} |" for aim in results.aims]
    for title, body in _scenarios(results):
        lines += ["", f"**{title}**", "", *(f"- {line}" for line in body)]
    if results.overload is not None:
        lines += ["", f"| {' | '.join(POINTS)} |", "|" + "---|" * len(POINTS)]
        lines += [f"| {' | '.join(_cells(point))} |" for point in results.overload.points]
    return "\n".join(lines)


def _scenarios(results: ServingResults) -> Iterable[tuple[str, list[str]]]:
    """Title and lines of each scenario that was measured."""
    if results.latency is not None:
        yield "One request at a time", _latency(results.latency)
    if results.saturation is not None:
        yield "Saturation", _saturation(results.saturation)
    if results.overload is not None:
        yield "Overload", _overload(results.overload)
    if results.integrity is not None:
        yield "Integrity", _integrity(results.integrity)


def _latency(found: LatencyScenario) -> list[str]:
    return [
        *_subject(found.subject),
        f"over HTTP {_quantiles(found.http)}; bare predictor {_quantiles(found.bare)}; {found.rounds} rounds",
        f"added by HTTP and the server: {_interval(found.added, 1e3)} ms, median of paired rounds with 95 % interval",
    ]


def _saturation(found: SaturationScenario) -> list[str]:
    rates = ", ".join(f"{rate.per_second:.2f}/s at batch {rate.batch}" for rate in found.bare_rates)
    return [
        *_subject(found.subject),
        f"bare predictor: {rates}; in the rounds {_interval(found.bare)}/s at batch {found.best_batch}",
        f"server with {found.connections} connections: {_interval(found.server)}/s; share {_interval(found.share)}",
    ]


def _overload(found: OverloadScenario) -> list[str]:
    memory = found.memory
    recovery = "not within the run" if found.recovery_seconds is None else f"{found.recovery_seconds:g} s"
    return [
        *_subject(found.subject),
        f"deadline {found.deadline_seconds:g} s; capacity {found.capacity:.2f}/s with all heads, cost of all heads by "
        f"that of one {found.cost_ratio:.2f}, both of the bare predictor",
        f"resident memory during the overload: {memory.start_bytes / 2**20:.0f} to {memory.end_bytes / 2**20:.0f} MiB, "
        f"slope {memory.slope_bytes_per_second / 1024:+.1f} KiB/s over {memory.seconds:.0f} s ({memory.growth:+.2%})",
        f"median latency normal again after the drop: {recovery} (normal: {1e3 * found.normal_p50:.0f} ms)",
    ]


def _integrity(found: IntegrityScenario) -> list[str]:
    engines = ", ".join(f"{name} on {engine}" for name, engine in found.engines.items())
    lines = [
        _where(found.environment),
        f"{engines}, each in {found.engine_workers} worker processes; {found.requests:,} requests in "
        f"{found.seconds:.0f} s; {found.inputs} inputs, every two with different answers",
        f"sent: {_counts(found.kinds)}",
        f"replies: {_counts(found.statuses)}",
        f"faults: {_counts(found.faults)}",
        f"{found.rows_checked:,} rows compared with their precomputed answers, largest difference of a probability "
        f"{found.largest_difference:.1e}",
    ]
    return lines + [f"problem: {problem}" for problem in found.problems]


def plot(found: OverloadScenario, *, smoke: bool) -> bytes:
    """Goodput and latency against offered load, as a PNG."""
    with mpl.rc_context({"font.size": 10, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(10.5, 4.6), layout="constrained")
        goodput, latency = figure.subplots(1, 2)
        for shedding, (name, colour, marker) in KINDS.items():
            points = sorted((p for p in found.points if p.shedding == shedding), key=lambda point: point.offered)
            offered = [point.offered for point in points]
            goodput.plot(offered, [point.goodput for point in points], color=colour, marker=marker, label=name)
            _draw_latency(latency, points, colour, marker, name)
        for level, name in ((found.capacity, "bare, all heads"), (found.capacity * found.cost_ratio, "bare, 1 head")):
            goodput.axhline(level, color="#888888", linestyle=":", linewidth=1)
            goodput.annotate(name, (0, level), xytext=(2, 3), textcoords="offset points", fontsize=8, color="#555555")
        latency.axhline(found.deadline_seconds, color="#888888", linestyle=":", linewidth=1)
        latency.annotate(
            "deadline", (0, found.deadline_seconds), xytext=(2, -10), textcoords="offset points", fontsize=8,
            color="#555555",
        )  # fmt: skip
        for axes, title in ((goodput, "answered in time, per second"), (latency, "latency of answers, s: p50, p95")):
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_xlabel("offered requests per second")
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
            axes.grid(color="#dddddd", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        goodput.legend(frameon=False, fontsize=8, loc="lower right")
        warning = "SMOKE RUN, numbers mean nothing\n" if smoke else ""
        figure.suptitle(
            f"{warning}{found.subject.network} under load, one core, deadline {found.deadline_seconds:g} s",
            x=0.01, ha="left", fontsize=12, fontweight="bold",
        )  # fmt: skip
        environment = found.subject.environment
        figure.supxlabel(f"{environment.cpu}; {environment.date[:10]}", fontsize=8, color="#555555")
        return png(figure)


def _draw_latency(axes: Axes, points: Sequence[LoadPoint], colour: str, marker: str, name: str) -> None:
    answered = [(point.offered, point.answered) for point in points if point.answered is not None]
    offered = [load for load, _ in answered]
    axes.plot(offered, [seconds.p50 for _, seconds in answered], color=colour, marker=marker, label=name)
    axes.plot(
        offered, [seconds.p95 for _, seconds in answered], color=colour, marker=marker, linestyle="--", linewidth=1,
        markersize=4,
    )  # fmt: skip


def _subject(subject: Subject) -> list[str]:
    cores = subject.cores
    shared = ", two threads of one physical core" if cores.siblings else ""
    return [
        _where(subject.environment),
        f"{subject.network} on {subject.engine} {subject.engine_version} ({subject.precision}); server and bare "
        f"predictor on CPU {cores.server}, load generator on CPU {cores.load}{shared}",
    ]


def _where(environment: Environment) -> str:
    load = "unknown" if environment.load_average is None else f"{environment.load_average:.1f}"
    return f"{environment.cpu}, {environment.date}, load before the run {load}, `{environment.command}`"


def _cells(point: LoadPoint) -> tuple[str, ...]:
    statuses = point.statuses
    others = sum(count for status, count in statuses.items() if status not in (200, 429, 504))
    return (
        "yes" if point.shedding else "no",
        f"{point.factor:g}x",
        f"{point.offered:.1f}",
        f"{point.goodput:.1f}",
        *(str(statuses.get(status, 0)) for status in (200, 429, 504)),
        str(others),
        "-" if point.answered is None else digits(1e3 * point.answered.p50),
        "-" if point.answered is None else digits(1e3 * point.answered.p95),
        "-" if point.refused is None else digits(1e3 * point.refused.p50),
        "-" if point.mean_heads is None else f"{point.mean_heads:.2f}",
    )


def _quantiles(seconds: Latencies) -> str:
    return "p50 {} ms, p95 {}, p99 {}".format(
        *(digits(1e3 * value) for value in (seconds.p50, seconds.p95, seconds.p99))
    )


def _interval(interval: Interval, scale: float = 1.0) -> str:
    values = (interval.median, interval.low, interval.high)
    return "{:.3g} [{:.3g}, {:.3g}]".format(*(scale * value for value in values))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _verdict(aim: Aim) -> str:
    return "met" if aim.met else "missed"


def _reached(aim: Aim) -> str:
    return "none" if aim.reached is None else _value(aim.reached, aim.unit)


def _limit(aim: Aim) -> str:
    return f"{'at most' if aim.at_most else 'at least'} {_value(aim.limit, aim.unit)}"


def _value(value: float, unit: str) -> str:
    if unit == "s":
        return f"{1e3 * value:.3g} ms" if value < 1 else f"{value:.3g} s"
    return f"{value:.3g}"
