"""The chart of reliability: accuracy against confidence."""

import numpy as np
from markupsafe import Markup

from runtime.pages.charts import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Axis, Scale, axes
from runtime.pages.svg import drawing, rectangle, segment, text
from training.report.findings import Bins


def reliability_chart(name: str, bins: Bins) -> Markup:
    """Draw accuracy against confidence as bars with the diagonal, and below them how many rows each bin holds."""
    height, floor = 330, 330 - BOTTOM
    across, up = Scale(0, 1, LEFT, WIDTH - RIGHT), Scale(0, 1, 210, TOP)
    most = max(int(bins.rows.max()), 1)
    count = Scale(0, most, floor, 235)
    x, y = Axis("confidence of the vote", percent=True), Axis("accuracy", percent=True)
    parts = [axes(x, y, [0, 0.2, 0.4, 0.6, 0.8, 1], [0, 0.25, 0.5, 0.75, 1], across, up, floor)]
    for index in np.flatnonzero(bins.rows):
        rows, low, high = bins.rows[index], bins.edges[index], bins.edges[index + 1]
        confidence, accuracy = bins.confidence[index], bins.accuracy[index]
        hint = f"Confidence {low:.1%} to {high:.1%}: {rows:,} rows, mean {confidence:.1%}, accuracy {accuracy:.1%}"
        left, right = float(across(low)) + 1, float(across(high)) - 1
        parts.append(rectangle("bar", left, float(up(accuracy)), right, float(up(0)), hint))
        parts.append(rectangle("rows", left, float(count(rows)), right, float(count(0)), hint))
        parts.append(segment("gap", across(low), across(high), up(confidence), up(confidence)))
    parts.append(segment("diagonal", across(0), across(1), up(0), up(1)))
    parts += [text("tick", LEFT - 6, count(value), f"{value:,}", "end") for value in (0, most)]
    parts.append(text("label", LEFT + 4, 240, "rows"))
    return drawing(name, WIDTH, height, parts)
