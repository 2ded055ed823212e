"""Sparse against dense execution: where one overtakes the other, and how that is shown."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from PIL import Image

from crossover_report import markdown, plot, table
from crossover_results import CrossoverPanel, CrossoverResults, Execution, Point, allowed, crossing, judge
from crossover_run import CrossoverRun, choose_networks
from crossover_tables import BEGIN, END
from crossover_tables import main as write_tables
from engine_process import EngineProcess
from environment import REPOSITORY, describe_environment
from networks import BenchmarkError
from rounds import Panel
from runtime.errors import EngineError

NATIVE = Execution("native", "fp32", "sparse")
FP32 = Execution("onnxruntime", "fp32", "dense")
BF16 = Execution("openvino", "bf16", "dense")
INT8 = Execution("onnxruntime", "int8", "dense")
SCRIPT = REPOSITORY / "benchmarks" / "crossover.py"


def measured() -> CrossoverPanel:
    """Native takes 10 seconds for each unit of density; dense executions 4, 2 and 0.5 seconds."""
    seconds = {Point(NATIVE, density): 10 * density for density in (0.1, 0.2, 0.4)}
    seconds |= {Point(FP32, 1.0): 4.0, Point(BF16, 1.0): 2.0, Point(INT8, 1.0): 0.5}
    panel = Panel("net, batch 1", tuple(seconds), rounds=2)
    for point, value in seconds.items():
        panel.calls[point] = [[value], [value]]
    return judge("net", 3, None, 1, panel)


def results() -> CrossoverResults:
    return CrossoverResults(
        smoke=False, environment=describe_environment(2), seconds=1, engines_missing={}, panels=(measured(),),
        failures=(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([(0.1, 2.0), (0.4, 0.5)], (0.2, False)),  # the middle of both on logarithmic scales
        ([(0.4, 0.5), (0.1, 2.0)], (0.2, False)),
        ([(0.1, 0.9), (0.4, 0.5)], (None, False)),
        ([(0.1, 3.0), (0.4, 1.5)], (0.4, True)),
        ([(0.1, 3.0), (0.2, 1.0), (0.4, 0.5)], (0.2, False)),
        ([(0.1, 3.0), (0.2, 0.8), (0.4, 1.2)], None),  # the first crossing counts, whatever comes later
        ([], (None, False)),
    ],
)
def test_a_crossing_is_where_the_ratio_first_falls_to_one(
    ratios: list[tuple[float, float]], expected: tuple[float | None, bool] | None
) -> None:
    density, open_end = crossing(ratios)
    if expected is None:
        assert density is not None
        assert 0.1 < density < 0.2
    else:
        assert (density, open_end) == (pytest.approx(expected[0]) if expected[0] else None, expected[1])


def test_who_accepts_a_precision_accepts_those_with_more_bits() -> None:
    assert allowed("fp32") == ("fp32",)
    assert allowed("int8") == ("fp32", "bf16", "int8")


def test_sparse_is_compared_with_the_fastest_dense_execution_that_is_allowed() -> None:
    found = {each.against: (each.rival, each.density, each.open_end) for each in measured().crossings}
    assert found == {
        "fp32": ("onnxruntime fp32", pytest.approx(0.4), True),
        "bf16": ("openvino bf16", pytest.approx(0.2), False),
        "int8": ("onnxruntime int8", None, False),
    }


def test_a_dense_execution_with_fewer_bits_is_no_rival_of_one_with_more() -> None:
    speedups = {each.density: each.speedup for each in measured().of(NATIVE)}
    assert speedups[0.1]["fp32"].median == pytest.approx(4.0)
    assert speedups[0.1]["bf16"].median == pytest.approx(2.0)
    assert speedups[0.4]["int8"].median == pytest.approx(0.125)
    assert not measured().of(FP32)[0].speedup


def test_tables_and_plot_show_every_execution_and_crossing() -> None:
    text, document = table(results()), markdown(results())
    for label in ("native fp32", "onnxruntime fp32", "openvino bf16", "onnxruntime int8"):
        assert label in text
        assert label in document
    assert (
        "| net | 1 | native fp32 | over 0.40 (onnxruntime fp32) | 0.20 (openvino bf16) | never (onnxruntime int8) |"
        in document
    )
    with Image.open(io.BytesIO(plot(results()))) as picture:
        assert min(picture.size) > 300


def test_the_document_is_made_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "crossover.json").write_text(results().model_dump_json())
    document = tmp_path / "crossover.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    arguments = {"results": tmp_path / "crossover.json", "document": document}
    assert write_tables(["--check"], **arguments) == 1
    assert write_tables([], **arguments) == 0
    assert write_tables(["--check"], **arguments) == 0
    assert "never (onnxruntime int8)" in document.read_text()


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(BenchmarkError, match="resnet51"):
        choose_networks(("resnet51",))


class Calls:
    """Stands in for the process of an engine: answers a number of visits, then its process is gone."""

    def __init__(self, visits: int) -> None:
        self.visits = visits

    def measure(self, key: str, *, batch: int, heads: int) -> list[float]:
        self.visits -= 1
        if self.visits < 0:
            raise EngineError(f"the process ended during {key}, {batch}, {heads}")
        return [1.0]


def test_an_engine_that_dies_while_it_is_measured_costs_its_own_figures_alone() -> None:
    run = CrossoverRun(describe_environment(1), ("native",), {}, (0.1,), (1,), rounds=3, seconds=0, show=lambda _: None)
    points = [Point(NATIVE, 0.1), Point(NATIVE, 0.2), Point(FP32, 1.0)]
    processes = cast("dict[Execution, EngineProcess]", {NATIVE: Calls(3), FP32: Calls(100)})
    panel = run._rounds("net, batch 1", points, processes, heads=3, batch=1)
    assert panel.subjects == (Point(FP32, 1.0),)
    assert panel.calls[Point(FP32, 1.0)] == [[1.0]] * 3
    (failure,) = run.failures
    assert (failure.network, failure.engine, failure.precision) == ("net", "native", "fp32")
    assert "the process ended" in failure.message


@pytest.mark.large
def test_a_whole_run_measures_every_execution_of_its_engines_and_says_that_it_means_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--networks", "tiny", "--density", "0.1", "0.3", "--batch", "2"]
    command += ["--engines", "native", "onnxruntime"]
    options = ["--rounds", "2", "--seconds", "0", "--cores", "1", "--output", str(tmp_path)]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("SMOKE RUN")
    found = CrossoverResults.model_validate(json.loads((tmp_path / "crossover_smoke.json").read_bytes()))
    (panel,) = found.panels
    labels = {each.execution.label for each in panel.latencies}
    assert labels == {"native fp32", "onnxruntime fp32", "onnxruntime int8"}
    assert {each.density for each in panel.latencies if each.form == "sparse"} == {0.1, 0.3}
    assert {each.density for each in panel.latencies if each.form == "dense"} == {1.0}
    assert not found.failures
