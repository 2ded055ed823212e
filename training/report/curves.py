"""What a run logged, drawn: curves over steps, and density and exploration of each layer over time."""

import re
from collections.abc import Callable, Mapping, Sequence

from runtime.pages.charts import MOST_POINTS, Axis, Line, Points, Row, heat_map, line_chart
from runtime.pages.rendering import Figure, Table
from training.report.log import EvaluationLine, RunLog, StepLine

MOST_COLUMNS = 40
"""A heat map of more evaluations shows as many, evenly spread."""

STEP = Axis("step", low=0)
SHARE = Axis("", percent=True)

Layers = Mapping[str, tuple[int, int, int]]


def curves(logs: Mapping[str, RunLog]) -> list[Figure]:
    """Figures of all curves that the logs hold; `logs` is by line label, one label for a run without members."""
    lone = len(logs) == 1
    figures = [
        _figure(
            "Loss",
            _of_steps(logs, lambda line: line.loss),
            Axis("", low=0),
            "Training loss, the mean over the heads, on the batch of a step.",
        ),
        _figure(
            "Accuracy on the select part",
            _accuracies(next(iter(logs.values()))) if lone else _of_evaluations(logs, lambda line: line.accuracy),
            SHARE,
            "Measured after each epoch on held-out data that chooses the checkpoint.",
        ),
        _figure(
            "Disagreement on the select part",
            _of_evaluations(logs, lambda line: line.disagreement),
            SHARE,
            "Share of pairs of heads whose first choices differ: 0 would mean that one head could replace all.",
        ),
        _figure("Learning rate", _of_steps(logs, lambda line: line.lr), Axis("", low=0), "Of the optimizer."),
        _figure(
            "Prune rate",
            _of_steps(logs, lambda line: line.prune_rate),
            SHARE,
            "Share of each layer's kept weights that a mask update would drop and regrow.",
        ),
        _figure(
            "Weights moved",
            _lines(logs, lambda log: [(line.step, line.moved) for line in log.updates], marked=True),
            Axis("", low=0),
            "Weights that became active at each mask update.",
        ),
        _figure(
            "Explored weights",
            _of_steps(logs, lambda line: line.explored),
            SHARE,
            "Weights that were active at some time, of all that may be (the ITOP rate, arXiv 2102.02887).",
        ),
    ]
    density = _of_steps(logs, lambda line: line.density)
    if len({value for line in density for _, value in line.points}) > 1:
        caption = "Weights kept by the masks, of all that they cover."
        figures.append(_figure("Density", density, SHARE, caption))
    return [figure for figure in figures if figure is not None]


def layer_maps(logs: Mapping[str, RunLog]) -> list[Figure]:
    """Heat maps of density and exploration over time: trunk and each head, or each member, on their own."""
    figures = []
    for label, log in logs.items():
        lines = _spread([line for line in log.evaluations if line.layers])
        if not lines:
            continue
        stages = {label: list(lines[-1].layers)} if len(logs) > 1 else stages_of(lines[-1].layers)
        for stage, names in stages.items():
            figures += _stage_maps(stage, names, lines)
    return sorted(figures, key=lambda figure: figure.title.split(",")[0])  # stable: densities, then what was explored


def stages_of(layers: Layers) -> dict[str, list[str]]:
    """Layer names by stage, "trunk" or "head 0", in network order."""
    stages: dict[str, list[str]] = {}
    for name in layers:
        head = re.match(r"heads\.(\d+)\.", name)
        stages.setdefault(f"head {head[1]}" if head else "trunk", []).append(name)
    return stages


def final_map(layers: Layers) -> list[Figure]:
    """Heat maps of one moment, for a log that says nothing of layers."""
    figures = []
    for stage, names in stages_of(layers).items():
        rows = [
            Row(_short_name(name), [layers[name][0] / layers[name][2]], f"{layers[name][0] / layers[name][2]:.1%}")
            for name in names
        ]
        figures.append(_map(f"Density, {stage}", rows, ["this checkpoint"], names, [layers], "Only this checkpoint."))
    return figures


def _stage_maps(stage: str, names: Sequence[str], lines: Sequence[EvaluationLine]) -> list[Figure]:
    columns = [f"epoch {line.epoch}" for line in lines]
    when = f"From left to right: epochs {lines[0].epoch} to {lines[-1].epoch}." if len(lines) > 1 else ""
    maps = []
    for title, part, meaning in (
        ("Density", 0, "Weights kept of the layer's weights"),
        ("Explored", 1, "Weights ever active of the layer's weights"),
    ):
        values = {name: [line.layers[name][part] / line.layers[name][2] for line in lines] for name in names}
        rows = [Row(_short_name(name), values[name], f"{values[name][-1]:.1%}") for name in names]
        caption = f"{meaning}; at the right the last value. {when}"
        maps.append(_map(f"{title}, {stage}", rows, columns, names, [line.layers for line in lines], caption))
    return maps


def _map(
    title: str,
    rows: Sequence[Row],
    columns: Sequence[str],
    names: Sequence[str],
    layers: Sequence[Layers],
    caption: str,
) -> Figure:
    last = layers[-1]
    table = Table(
        ("layer", "weights", "kept", "ever active"),
        [(name, f"{last[name][2]:,}", f"{last[name][0]:,}", f"{last[name][1]:,}") for name in names],
    )
    return Figure(title, heat_map(f"{title} by layer", rows, columns), caption.strip(), table=table)


def _figure(title: str, lines: Sequence[Line], y: Axis, caption: str) -> Figure | None:
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    longest = max(len(line.points) for line in lines)
    if longest > MOST_POINTS:
        caption += f" Each point is the mean of about {round(longest / MOST_POINTS)} logged values."
    legend = [(line.label, line.look, True) for line in lines] if len(lines) > 1 else []
    return Figure(title, line_chart(f"{title} over steps", lines, STEP, y), caption, legend)


def _lines(logs: Mapping[str, RunLog], points: Callable[[RunLog], Points], *, marked: bool = False) -> list[Line]:
    return [Line(label, points(log), look, marked=marked) for look, (label, log) in enumerate(logs.items())]


def _of_steps(logs: Mapping[str, RunLog], value: Callable[[StepLine], float | None]) -> list[Line]:
    return _lines(logs, lambda log: [(line.step, v) for line in log.steps if (v := value(line)) is not None])


def _of_evaluations(logs: Mapping[str, RunLog], value: Callable[[EvaluationLine], float | None]) -> list[Line]:
    def points(log: RunLog) -> Points:
        return [(line.step, v) for line in log.evaluations if (v := value(line)) is not None]

    return _lines(logs, points, marked=True)


def _accuracies(log: RunLog) -> list[Line]:
    """The vote and, when there are several, each head."""
    lines = [Line("vote", [(line.step, line.accuracy) for line in log.evaluations], 0, marked=True)]
    heads = len(log.evaluations[-1].head_accuracy) if log.evaluations else 0
    if heads > 1:
        for head in range(heads):
            points = [(line.step, line.head_accuracy[head]) for line in log.evaluations]
            lines.append(Line(f"head {head}", points, head + 1))
    return lines


def _spread(lines: Sequence[EvaluationLine]) -> Sequence[EvaluationLine]:
    if len(lines) <= MOST_COLUMNS:
        return lines
    last = len(lines) - 1
    return [lines[round(index * last / (MOST_COLUMNS - 1))] for index in range(MOST_COLUMNS)]


def _short_name(name: str) -> str:
    return re.sub(r"^(trunk|heads\.\d+)\.", "", name).removesuffix(".weight")
