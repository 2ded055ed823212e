"""The plots of the study, made from result files alone: mean over seeds as a large marker, each seed as a small one."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

from accuracy_grid import DATA, Data
from accuracy_results import RunResult
from accuracy_summary import Group, Part, Spread, blocks_sweep, density_sweep, groups_of, part_of
from latency_report import png
from runtime.files import atomic_write

STYLES = {
    "dense": ("#444444", "s", "one dense network"),
    "full_ensemble": ("#D55E00", "^", "full ensemble"),
    "treenet": ("#009E73", "v", "TreeNet"),
    "neurotrails": ("#0072B2", "o", "NeuroTrails"),
    "dense_to_sparse": ("#000000", "*", "NeuroTrails, dense to sparse"),
    "neurotrails_full_rate": ("#0072B2", "p", "NeuroTrails, full rate"),
    "dense_to_sparse_full_rate": ("#000000", "h", "NeuroTrails, dense to sparse, full rate"),
    "treenet_full_rate": ("#009E73", "<", "TreeNet, full rate"),
    "static_sparse": ("#E69F00", "P", "static masks"),
    "dst_ensemble": ("#CC79A7", "D", "DST ensemble"),
    "edst_ensemble": ("#56B4E9", "X", "EDST ensemble"),
}
"""Colour (Okabe and Ito's palette), marker and name of each method."""
SMOKE = "SMOKE RUN: the numbers mean nothing"

Figures = Callable[[Group], Spread | None]


def write_plots(folder: Path, results: Sequence[RunResult]) -> tuple[Path, ...]:
    """Write the plots of all results into a folder; returns their paths, none without results."""
    if not results:
        return ()
    pictures = {
        "accuracy-nonzeros.png": accuracy_over_non_zeros(results),
        "accuracy-disagreement.png": accuracy_over_disagreement(results),
        "nll-training-macs.png": nll_over_training_macs(results),
    }
    for name, picture in pictures.items():
        atomic_write(folder / name, picture)
    return tuple(folder / name for name in pictures)


def accuracy_over_non_zeros(results: Sequence[RunResult]) -> bytes:
    """Accuracy of the vote against kept weights; NeuroTrails' densities are joined by a line."""

    def draw(axes: Axes, groups: dict[str, Group], part: Part) -> None:
        sizes: Figures = lambda group: group.over_seeds(lambda result: result.cost.non_zeros)  # noqa: E731
        quality: Figures = lambda group: _percent(group.quality(part, lambda q: q.accuracy))  # noqa: E731
        sweep = density_sweep(groups)
        others = [group for group in groups.values() if group.results[0].entry.variant.kind != "neurotrails"]
        _line(axes, sweep, sizes, quality, lambda group: f"{group.results[0].entry.variant.density:g}")
        _points(axes, [*others, *sweep], sizes, quality)
        _log_x(axes, EngFormatter(sep=""))
        axes.set_xlabel("weights kept (with norms, biases and embeddings); labels: density")
        axes.set_ylabel(f"accuracy on the {part} part, %")

    return _figure(results, "Accuracy against non-zeros", draw)


def accuracy_over_disagreement(results: Sequence[RunResult]) -> bytes:
    """Accuracy of the vote against disagreement of the heads; numbers of blocks in a head are joined by a line."""

    def draw(axes: Axes, groups: dict[str, Group], part: Part) -> None:
        spread: Figures = lambda group: _percent(group.quality(part, lambda q: q.disagreement))  # noqa: E731
        quality: Figures = lambda group: _percent(group.quality(part, lambda q: q.accuracy))  # noqa: E731
        sweep = blocks_sweep(groups)
        others = [group for group in groups.values() if group.results[0].entry.variant.kind != "neurotrails"]
        _line(axes, sweep, spread, quality, lambda group: f"{group.blocks_in_head} blocks")
        _points(axes, [*others, *sweep], spread, quality)
        if "dense" in groups and (alone := quality(groups["dense"])) is not None:
            colour, _, name = STYLES["dense"]
            axes.axhline(alone.mean, color=colour, linestyle="--", linewidth=1)
            axes.annotate(
                name, (1, alone.mean), xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points",
                ha="right", fontsize=8, color=colour,
            )  # fmt: skip
        axes.set_xlabel("disagreement of the heads, % (density 0.2; labels: blocks in a head)")
        axes.set_ylabel(f"accuracy on the {part} part, %")

    return _figure(results, "Accuracy against disagreement", draw, alone=False)


def nll_over_training_macs(results: Sequence[RunResult]) -> bytes:
    """Calibrated NLL against the multiply-adds of training."""

    def draw(axes: Axes, groups: dict[str, Group], part: Part) -> None:
        macs: Figures = lambda group: group.over_seeds(lambda r: r.cost.training_macs_to_dense)  # noqa: E731
        quality: Figures = lambda group: group.quality(part, lambda q: q.nll)  # noqa: E731
        sweep = density_sweep(groups)
        others = [group for group in groups.values() if group.results[0].entry.variant.kind != "neurotrails"]
        _line(axes, sweep, macs, quality, lambda group: f"{group.results[0].entry.variant.density:g}")
        _points(axes, [*others, *sweep], macs, quality)
        _log_x(axes, FuncFormatter(lambda value, _: f"{value:g}x"))
        axes.set_xlabel("training MACs, times those of one dense network; labels: density")
        axes.set_ylabel(f"NLL on the {part} part, nats (calibrated)")

    return _figure(results, "NLL against the work of training", draw)


def _figure(
    results: Sequence[RunResult],
    title: str,
    draw: Callable[[Axes, dict[str, Group], Part], None],
    *,
    alone: bool = True,
) -> bytes:
    """Draw one panel for each data set; `alone` tells whether a single network has a place in it."""
    measured: list[Data] = [name for name in DATA if any(result.entry.data == name for result in results)]
    smoke = any(result.smoke for result in results)
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 10}):
        figure = Figure(figsize=(5.2 * len(measured), 4.4), layout="constrained")
        for index, data in enumerate(measured, 1):
            axes = figure.add_subplot(1, len(measured), index)
            groups = groups_of(results, data)
            part = part_of([result for group in groups.values() for result in group.results])
            axes.margins(0.12)
            draw(axes, groups, part)
            axes.set_title(data, loc="left")
            axes.grid(color="#e2e2e2", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            if smoke:
                axes.text(0.5, 0.5, "SMOKE", transform=axes.transAxes, ha="center", va="center", fontsize=48,
                          color="#cc0000", alpha=0.15, rotation=25)  # fmt: skip
        methods = dict.fromkeys(result.entry.variant.kind for result in results)
        handles = [
            Line2D([], [], color=STYLES[method][0], marker=STYLES[method][1], linestyle="", markersize=7,
                   label=STYLES[method][2])
            for method in STYLES if method in methods and (alone or method != "dense")
        ]  # fmt: skip
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4), frameon=False)
        heading, colour = (f"{title}\n{SMOKE}", "#cc0000") if smoke else (title, "black")
        figure.suptitle(heading, x=0.01, ha="left", fontsize=11, color=colour)
        return png(figure)


def _points(axes: Axes, groups: Sequence[Group], x: Figures, y: Figures) -> None:
    """Draw the mean of each group with the standard deviation over seeds as error bars, and each seed."""
    for group in groups:
        across, up = x(group), y(group)
        if across is None or up is None:
            continue
        colour, marker, _ = STYLES[group.results[0].entry.variant.kind]
        axes.plot(across.values, up.values, marker, color=colour, markersize=3.5, alpha=0.5, linestyle="")
        axes.errorbar(
            across.mean, up.mean, yerr=up.deviation, xerr=across.deviation or None, color=colour, marker=marker,
            markersize=8, markeredgecolor="white", capsize=3, linewidth=1.2, zorder=3,
        )  # fmt: skip


def _line(axes: Axes, groups: Sequence[Group], x: Figures, y: Figures, label: Callable[[Group], str]) -> None:
    """Join the means of groups in their order, and label them."""
    points = [(group, across, up) for group in groups if (across := x(group)) and (up := y(group))]
    colour = STYLES["neurotrails"][0]
    axes.plot([a.mean for _, a, _ in points], [u.mean for _, _, u in points], color=colour, alpha=0.45, linewidth=1.2)
    for group, across, up in points:
        axes.annotate(
            label(group), (across.mean, up.mean), xytext=(7, -11), textcoords="offset points", fontsize=8, color=colour
        )


def _log_x(axes: Axes, formatter: FuncFormatter | EngFormatter) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(formatter)
    axes.xaxis.set_minor_formatter(NullFormatter())


def _percent(spread: Spread | None) -> Spread | None:
    return None if spread is None else Spread(tuple(100 * value for value in spread.values))
