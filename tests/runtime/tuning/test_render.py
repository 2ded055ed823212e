import pytest

from runtime.artifact import Artifact
from runtime.tuning.records import Choice, Trial, Tuning
from runtime.tuning.render import render
from tests.runtime.tuning.conftest import setup, speed, tuning_of


@pytest.fixture
def tuning(image_artifact: Artifact) -> Tuning:
    wide = setup("openvino", precision="bf16")
    return tuning_of(
        image_artifact,
        Trial(setup=setup("native"), agreement=1.0, speeds=(speed(1), speed(4, 0.04, 0.05, finished=False))),
        Trial(setup=wide, agreement=0.96875, speeds=(speed(1, 0.0125, 0.0185), speed(4, 0.016, 0.0195, 250.0))),
        Trial(setup=setup("abacus"), failure="its beads are stuck"),
        best=Choice(setup=wide, rows=4),
    )


def test_all_that_was_measured_and_chosen(tuning: Tuning) -> None:
    lines = render(tuning, ["deepsparse: its licence"])
    assert lines[0].startswith("tiny-image 1 on ")
    body = "\n".join(" ".join(line.split()) for line in lines)
    for expected in (
        "native fp32 1 1 1 10 20 100 9 fastest",
        "native fp32 1 1 4 40 50 100 9 lost early",
        "openvino bf16 1 1 1 12.5 18.5 100 9\n",
        "openvino bf16 1 1 4 16 19.5 250 9 best",
        "abacus fp32 1 1 - - - - - failed",
        "failed abacus fp32, 1 core: its beads are stuck",
        "left out deepsparse: its licence",
        "agrees openvino bf16, 1 core: 96.9% of the reference inputs get the label of the original network",
        "fastest native fp32, 1 core: 1 row in 10 ms",
        "chosen openvino bf16, 1 core: 250 rows/s in batches of 4, p99 19.5 ms <= 20 ms",
        "but that p99 is the slowest of 9 calls: a longer --budget tells more",
    ):
        assert expected in body
    assert "agrees native" not in body, "nothing else was to be expected"
    assert "busy" not in body


def test_labels_that_stay_in_another_precision_are_told_too(tuning: Tuning) -> None:
    same = tuning.model_copy(update={"artifact_precision": "int8"})
    [line] = [line for line in render(same, []) if line.startswith("agrees    native")]
    assert "100.0% of the reference inputs" in line


def test_a_busy_machine_is_said(tuning: Tuning) -> None:
    assert not any("busy" in line for line in render(tuning.model_copy(update={"busy_cores": None}), []))
    [line] = [line for line in render(tuning.model_copy(update={"busy_cores": 3.25}), []) if "busy" in line]
    assert line.startswith("busy      others kept 3.2 cores busy before")


def test_without_a_target_or_within_none(tuning: Tuning) -> None:
    missed = render(tuning.model_copy(update={"best": None}), [])
    assert missed[-1].startswith("chosen    the fastest: NOTHING meets p99 <= 20 ms")
    untold = render(tuning.model_copy(update={"best": None, "target_p99_seconds": None}), [])
    assert untold[-1] == "chosen    the fastest, as no target was given"
