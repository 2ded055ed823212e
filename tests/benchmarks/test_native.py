"""Native against other engines: what is measured, how aims are judged, what is written and shown."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from documents import MarkerMissing
from environment import REPOSITORY, describe_environment
from native_report import markdown, plot, table
from native_results import (
    EngineLatency,
    LoadFailure,
    NativeResults,
    NativeRow,
    engine_latencies,
    judge,
    judge_load,
)
from native_tables import BEGIN, END, LOG_BEGIN, LOG_END
from native_tables import main as write_tables
from native_works import WORKS, choose_works
from networks import BenchmarkError
from rounds import Panel, Subject
from runtime.engines import installed_engines
from runtime.errors import EngineNotInstalled

SCRIPT = REPOSITORY / "benchmarks" / "native.py"
SECONDS = {"native": [1.0, 2.0, 4.0], "deepsparse": [2.0, 4.0, 6.0], "onnxruntime": [1.4, 3.0, 4.0]}


def latencies(*engines: str) -> tuple[EngineLatency, ...]:
    """Three rounds of one call each, at 6 MACs."""
    subjects = {engine: Subject("net", engine, 2, "sparse", 3, 3) for engine in engines}
    panel = Panel("net, batch 2", tuple(subjects.values()), rounds=3)
    for engine, subject in subjects.items():
        panel.calls[subject] = [[seconds] for seconds in SECONDS[engine]]
    return engine_latencies(panel, 6, peak=12.0)


def results_of(*engines: str) -> NativeResults:
    """A run that measured one network on these engines."""
    measured = latencies(*engines)
    row = NativeRow(
        work="net-0.1", network="net", density=0.1, weights="live random", heads=3, tokens=None, batch=2, dense_macs=60,
        effective_macs=6, artifact_sha256="0" * 64, engines=measured,
        aim=judge(1.3, ("deepsparse", "onnxruntime"), measured),
    )  # fmt: skip
    return NativeResults(
        smoke=False,
        environment=describe_environment(2),
        peak_macs_per_second=12.0,
        seconds=1,
        engines_missing={},
        rows=(row,),
        loads=(),
        load_aims=(judge_load("net-0.1", "cold", [7.0, 4.0, 5.5], 5.0),),
        failures=(LoadFailure(work="net-0.1", batch=2, engine="fourth", message="cannot run it"),),
    )


def test_ratios_are_paired_by_round() -> None:
    native, deepsparse, onnxruntime = latencies("native", "deepsparse", "onnxruntime")
    assert native.ratio is None
    assert native.latency.median == 2.0
    assert (native.minimum, native.rounds, native.calls) == (1.0, 3, 3)
    assert native.macs_per_second == 3.0
    assert native.peak_share == 0.25
    assert deepsparse.ratio is not None
    assert deepsparse.ratio.median == 2.0  # of 2, 2 and 1.5
    assert deepsparse.ratio_of_minima == 2.0
    assert onnxruntime.ratio is not None
    assert onnxruntime.ratio.median == pytest.approx(1.4)


@pytest.mark.parametrize(
    ("ratio", "against", "rival", "met"),
    [
        (2.0, ("deepsparse",), "deepsparse", True),
        (2.01, ("deepsparse",), "deepsparse", False),
        (1.5, ("deepsparse", "onnxruntime"), "onnxruntime", False),
        (1.3, ("deepsparse", "onnxruntime"), "onnxruntime", True),
    ],
)
def test_an_aim_is_met_against_the_fastest_engine_that_it_names(
    ratio: float, against: tuple[str, ...], rival: str, met: bool
) -> None:
    found = judge(ratio, against, latencies("native", "deepsparse", "onnxruntime"))
    assert (found.rival, found.met) == (rival, met)


@pytest.mark.parametrize("engines", [("native", "deepsparse"), ("deepsparse", "onnxruntime"), ("native",)])
def test_an_aim_is_undecided_unless_everyone_was_measured(engines: tuple[str, ...]) -> None:
    found = judge(1.1, ("deepsparse", "onnxruntime"), latencies(*engines))
    assert (found.rival, found.reached, found.met) == (None, None, None)


def test_a_load_is_judged_by_its_median() -> None:
    assert judge_load("net", "warm", [0.5, 3.0, 0.9], 1.0).met
    assert not judge_load("net", "warm", [0.5, 1.0, 1.1], 1.0).met


def test_works_are_chosen_by_name_or_network() -> None:
    assert [work.name for work in choose_works(["wrn-28-10", "resnet50-0.05"])] == [
        "resnet50-0.05", "wrn-28-10-0.2", "wrn-28-10-0.05",
    ]  # fmt: skip
    default = choose_works([])
    assert default == tuple(work for work in WORKS if not work.is_smoke)
    assert all(work.aims.keys() == {1, 16} for work in default)
    assert len({work.name for work in WORKS}) == len(WORKS)
    with pytest.raises(BenchmarkError, match=r"no work 'resnet51'. Choose from: resnet50, resnet50-0.1,"):
        choose_works(["resnet51"])


def test_text_and_plot_tell_everything_that_a_reader_needs() -> None:
    results = results_of("native", "deepsparse", "onnxruntime")
    text = table(results)
    assert "net-0.1, batch 2 (live random weights, density 0.1, 3 heads" in text
    assert "aim: 1.3x the faster of deepsparse and onnxruntime; " in text
    assert "reached: 1.40 [1.00, 1.50], by minima 1.40 (onnxruntime); met" in text
    assert "Cold load of net-0.1 for batch 1: 5.50 s, median of 3; aim: below 5 s; missed" in text
    assert "Not measured: net-0.1, batch 2 on fourth: cannot run it" in text
    with Image.open(io.BytesIO(plot(results))) as image:
        image.load()
        assert len(image.convert("RGB").getcolors(maxcolors=1 << 20) or []) > 20
    assert NativeResults.model_validate_json(results.model_dump_json()) == results


def test_table_of_the_document_follows_the_results(tmp_path: Path) -> None:
    results, document = tmp_path / "native.json", tmp_path / "native-engine.md"
    results.write_text(results_of("native", "deepsparse").model_dump_json())
    document.write_text("# Title\n")
    with pytest.raises(MarkerMissing, match=r"native-engine\.md lacks the lines"):
        write_tables([], results=results, document=document)
    document.write_text(f"# Title\n{BEGIN}\nold\n{END}\n{LOG_BEGIN}\nold\n{LOG_END}\nrest\n")
    assert write_tables(["--check"], results=results, document=document) == 1
    assert write_tables([], results=results, document=document) == 0
    assert write_tables(["--check"], results=results, document=document) == 0
    text = document.read_text()
    assert text.startswith("# Title\n")
    assert text.endswith(f"{LOG_END}\nrest\n")
    assert "| dense kernel | " in text
    assert "| net | 0.1 | 2 | 2000 (1000) | 4000 (2000) |" in text
    assert "| undecided |" in text
    lines = markdown(results_of("native", "deepsparse", "onnxruntime")).splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


@pytest.mark.large  # test_cpu_latency.py runs the same processes and rounds
def test_a_run_measures_every_engine_end_to_end(tmp_path: Path) -> None:
    options = ["--works", "tiny", "--batch", "1", "2", "--rounds", "2", "--seconds", "0", "--cores", "1"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *options, "--output", tmp_path], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"native_smoke.json", "native_smoke.png"}
    results = NativeResults.model_validate_json((tmp_path / "native_smoke.json").read_bytes())
    assert results.smoke
    assert results.failures == ()
    engines = {name for name, found in installed_engines().items() if not isinstance(found, EngineNotInstalled)}
    compared = engines & {"native", "deepsparse", "onnxruntime"}
    assert [row.batch for row in results.rows] == [1, 2]
    for row in results.rows:
        assert {each.engine for each in row.engines} == compared
        for each in row.engines:
            assert each.rounds == len(each.round_seconds) == 2
            assert (each.ratio is None) == (each.engine == "native")
    assert {(load.work, load.batch, load.engine) for load in results.loads} == {
        ("tiny", batch, engine) for batch in (1, 2) for engine in compared
    }
    assert [load.kind for load in results.load_aims] == ["cold", "warm"]
    assert results.rows[0].aim is not None
    assert results.rows[1].aim is None
    assert "SMOKE RUN" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--works", "nonsense"], "no work 'nonsense'"),
        (["--engines", "nonsense"], "no engine 'nonsense'"),
        (["--batch", "0"], "must be at least 1"),
        (["--works", "newsgroups", "--models", "/nonexistent"], "holds no artifact 'newsgroups'"),
    ],
)
def test_wrong_options_are_told_in_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments, "--output", tmp_path], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
