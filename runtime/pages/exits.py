"""The early-exit curve as a figure."""

from collections.abc import Sequence

from runtime.manifest import EarlyExit
from runtime.pages.charts import Axis, Line, line_chart
from runtime.pages.rendering import Figure, Table


def exit_figure(exits: EarlyExit, note: str, *, prefix: Sequence[float] = ()) -> Figure:
    """Accuracy against the mean number of heads used; `prefix` is the accuracy of the first k heads, for k from 1 on.

    `note` ends the caption.
    """
    names = [f"stop at {p.min_confidence:g}: {p.mean_heads:.2f} heads, {p.accuracy:.2%}" for p in exits.points]
    lines = [Line("stop when confident", [(p.mean_heads, p.accuracy) for p in exits.points], 0, True, names=names)]
    if prefix:
        points = [(k + 1, accuracy) for k, accuracy in enumerate(prefix)]
        lines.append(Line("always the first k heads", points, 3, marked=True, joined=False))
    accuracy = Axis("", percent=True)
    chart = line_chart("Accuracy against mean heads used", lines, Axis("mean heads used"), accuracy)
    table = Table(
        ("stop at confidence", "mean heads used", "accuracy"),
        [(f"{p.min_confidence:g}", f"{p.mean_heads:.3f}", f"{p.accuracy:.2%}") for p in exits.points],
    )
    caption = (
        "Accuracy when each row stops as soon as its calibrated vote passes a confidence, against the heads that it "
        f"then needs on average. {note}"
    )
    legend = [(line.label, line.look, line.joined) for line in lines] if prefix else []
    return Figure("Early exit", chart, caption.strip(), legend, table)
