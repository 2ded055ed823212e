"""What is written and shown of a run, and that the document shows what was measured."""

import io
from pathlib import Path

import pytest
from PIL import Image

from environment import describe_environment
from latency_results import Interval
from serving_machine import Cores
from serving_report import markdown, plot, table
from serving_results import (
    Aim,
    IntegrityScenario,
    Latencies,
    LatencyScenario,
    LoadPoint,
    Memory,
    OverloadScenario,
    ServingResults,
    Subject,
)
from serving_tables import BEGIN, DOCUMENT, END, RESULTS
from serving_tables import main as write_tables

ENVIRONMENT = describe_environment(1)
SUBJECT = Subject(
    environment=ENVIRONMENT, cores=Cores(server=2, load=5, siblings=True), network="resnet50", engine="native",
    engine_version="9", precision="fp32",
)  # fmt: skip
SOME = Latencies(count=3, p50=0.0021, p95=0.5, p99=0.6)


def point(shedding: bool, factor: float, goodput: float) -> LoadPoint:
    return LoadPoint(
        shedding=shedding, factor=factor, offered=20 * factor, goodput=goodput, statuses={200: 41, 429: 7, 500: 1},
        answered=SOME, refused=None if factor < 1 else SOME, mean_heads=1.25,
    )  # fmt: skip


@pytest.fixture
def results() -> ServingResults:
    return ServingResults(
        smoke=False,
        latency=LatencyScenario(
            subject=SUBJECT, rounds=4, bare=SOME, http=SOME, added=Interval(median=0.00123, low=0.001, high=0.002),
            aims=(Aim.no_more_than(0.0015, "added", 0.00123, unit="s"),),
        ),
        overload=OverloadScenario(
            subject=SUBJECT, deadline_seconds=3.6, capacity=18, cost_ratio=2.1,
            points=(point(False, 0.4, 8), point(False, 3, 17), point(True, 3, 35)),
            memory=Memory(seconds=40, start_bytes=2**30, end_bytes=2**30, slope_bytes_per_second=-1024, growth=-4e-5),
            normal_p50=0.1, recovery_seconds=None,
            aims=(Aim.no_more_than(5, "recovery", None, unit="s"), Aim.at_least(0.9, "goodput", 0.97)),
        ),
        integrity=IntegrityScenario(
            environment=ENVIRONMENT, engines={"m": "native"}, engine_workers=2, requests=1234, seconds=9, inputs=10,
            kinds={"raw": 1234}, statuses={"200": 1233, "no reply": 1}, rows_checked=2000, faults={"killed": 2}, lost=1,
            doubled=0, wrong=0, unexplained=0, problems=("r-7 (raw): no reply",), largest_difference=3e-7,
            aims=(Aim.no_more_than(0, "lost", 1),),
        ),
    )  # fmt: skip


def test_results_are_read_as_they_were_written(results: ServingResults) -> None:
    assert ServingResults.model_validate_json(results.model_dump_json()) == results
    assert [aim.met for aim in results.aims] == [True, False, True, False]


@pytest.mark.parametrize("show", [table, markdown])
def test_text_tells_everything_that_a_reader_needs(results: ServingResults, show: object) -> None:
    assert callable(show)
    text = show(results)
    for part in (
        "1.23 [1, 2] ms", "CPU 2, load generator on CPU 5, two threads of one physical core", "deadline 3.6 s",
        "not within the run", "-1.0 KiB/s", "r-7 (raw): no reply", "1,234 requests", "1.23 ms", "at most 1.5 ms",
        "none", "missed", ENVIRONMENT.command,
    ):  # fmt: skip
        assert part in text, part
    assert "SMOKE" not in text
    assert "SMOKE" in show(results.model_copy(update={"smoke": True}))
    [line] = [line for line in text.splitlines() if "0.4x" in line]
    assert [cell for cell in line.replace("|", " ").split() if cell != "no"] == [
        "0.4x", "8.0", "8.0", "41", "7", "0", "1", "2.10", "500", "-", "1.25",
    ]  # fmt: skip


def test_plot_is_a_picture(results: ServingResults) -> None:
    assert results.overload is not None
    with Image.open(io.BytesIO(plot(results.overload, smoke=True))) as image:
        assert image.format == "PNG"
        assert min(image.size) > 500


def test_tables_are_written_into_the_document_and_checked(results: ServingResults, tmp_path: Path) -> None:
    file, document = tmp_path / "serving.json", tmp_path / "document.md"
    file.write_text(results.model_dump_json())
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert write_tables(["--check"], results=file, document=document) == 1
    assert write_tables([], results=file, document=document) == 0
    assert write_tables(["--check"], results=file, document=document) == 0
    assert document.read_text() == f"before\n{BEGIN}\n{markdown(results)}\n{END}\nafter\n"


def test_the_document_shows_what_was_measured() -> None:
    if RESULTS.exists():
        assert write_tables(["--check"]) == 0
    else:
        assert f"{BEGIN}\nNot measured yet.\n{END}" in DOCUMENT.read_text()
