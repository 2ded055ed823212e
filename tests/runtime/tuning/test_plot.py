from xml.etree import ElementTree

import pytest

from runtime.artifact import Artifact
from runtime.tuning.plot import _step, _step_below, plot
from runtime.tuning.records import Trial, Tuning
from tests.runtime.tuning.conftest import setup, speed, tuning_of

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def tuning(image_artifact: Artifact) -> Tuning:
    return tuning_of(
        image_artifact,
        Trial(setup=setup("native"), speeds=(speed(1, 0.001, 0.002), speed(4, 0.004, 0.2))),
        Trial(setup=setup("<b>&"), speeds=(speed(1, 0.002, 0.003, finished=False),)),
        Trial(setup=setup("broken"), failure="it crashed"),
    )


def test_it_shows_what_was_measured(tuning: Tuning) -> None:
    root = ElementTree.fromstring(plot(tuning))
    said = [element.text for element in root.iter(f"{SVG}text")]
    assert {"native fp32, 1 core", "<b>& fp32, 1 core", "target for the 99th percentile, 20 ms", "1", "4"} <= set(said)
    assert not any("broken" in (text or "") for text in said)
    hints = [title.text or "" for title in root.iter(f"{SVG}title")]
    assert hints[1] == "native fp32, 1 core, 4 rows: median 4 ms, p99 200 ms, 100 rows/s"
    lines = [element.attrib["points"].split() for element in root.iter(f"{SVG}polyline")]
    assert [len(points) for points in lines] == [2, 1]
    (left, upper), (right, lower) = (map(float, point.split(",")) for point in lines[0])
    assert left < right
    assert upper > lower, "the longer call must lie higher"


def test_the_target_lies_among_the_ticks(tuning: Tuning) -> None:
    root = ElementTree.fromstring(plot(tuning))
    ticks = {e.text: float(e.attrib["y"]) for e in root.iter(f"{SVG}text") if (e.text or "").endswith("0 ms")}
    target = next(e for e in root.iter(f"{SVG}line") if e.attrib.get("class") == "target")
    assert float(target.attrib["y1"]) == pytest.approx(ticks["20 ms"])


def test_without_a_target_and_with_one_size(tuning: Tuning) -> None:
    lone = tuning.model_copy(update={"target_p99_seconds": None, "batch_sizes": (1,)})
    assert "target" not in plot(lone).split("</style>")[1]


def test_the_same_tuning_gives_the_same_bytes(tuning: Tuning) -> None:
    assert plot(tuning) == plot(Tuning.model_validate_json(tuning.model_dump_json()))


@pytest.mark.parametrize("value", [1e-5, 0.0019, 0.002, 0.0049, 0.005, 0.9, 1.0, 1.9, 700.0])
def test_steps(value: float) -> None:
    index = _step_below(value)
    assert _step(index) <= value * (1 + 1e-9) < _step(index + 1) * (1 + 1e-9)
