"""Charts: points land where the axes say."""

import re

import pytest

from runtime.pages.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Line, line_chart


def test_points_lie_between_the_axes_in_proportion() -> None:
    line = Line("a", [(0, 0), (1, 0.25), (4, 1)], 0, marked=True)
    chart = str(line_chart("a <chart>", [line], Axis("x"), Axis("y", 0, 1, percent=True)))
    points = [tuple(map(float, p)) for p in re.findall(r'<circle[^>]* cx="([\d.]+)" cy="([\d.]+)"', chart)]
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    expected = [(LEFT + x / 4 * width, HEIGHT - BOTTOM - y * height) for x, y in line.points]
    assert points == [pytest.approx(point, abs=0.06) for point in expected]
    assert 'aria-label="a &lt;chart&gt;"' in chart
    assert "25 %</text>" in chart


def test_without_points_there_are_only_axes() -> None:
    chart = str(line_chart("nothing", [Line("a", [], 0)], Axis("x"), Axis("y")))
    assert "polyline" not in chart
    assert 'class="axis"' in chart
