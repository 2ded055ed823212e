"""From measured panels to records, table and plot."""

import io

import pytest
from PIL import Image
from pydantic import ValidationError

from environment import Environment, describe_environment, measure_peak
from latency_report import plot, table
from latency_results import Failure, LatencyResults, NetworkResult, SubjectResult, subject_results
from rounds import Panel, Subject, subjects_of

PEAK = 1e9


def measured_panel(*, with_ensemble: bool = True) -> Panel[Subject]:
    """One engine, two rounds: k sparse heads take k and 2k seconds, the single dense network 4 and 8, the ensemble 12
    and 24.
    """
    subjects = [each for each in subjects_of("net", "onnxruntime", 2, 3) if with_ensemble or not each.is_baseline]
    panel = Panel("net, batch 2", tuple(subjects), rounds=2)
    for subject in subjects:
        unit = float(subject.heads if subject.kind == "sparse" else 4 * subject.heads)
        panel.calls[subject] = [[unit, unit, 3 * unit], [2 * unit]]
    return panel


def macs(subject: Subject) -> tuple[int, int]:
    """Dense and effective MACs of one row."""
    return 10**9 * subject.heads, 10**8 * subject.heads


def results_of(panel: Panel[Subject], *, smoke: bool = False) -> LatencyResults:
    """A run that measured `panel`."""
    return LatencyResults(
        smoke=smoke,
        environment=describe_environment(2),
        peak_macs_per_second=PEAK,
        budget_seconds=1,
        preparation_seconds=1,
        measuring_seconds=1,
        networks=(
            NetworkResult(
                name="net", heads=3, density=0.1, weights={"sparse": "trained", "dense": "live random"}, tokens=None,
                artifact_sha256="0" * 64,
            ),
        ),
        engines_missing={"other": "pip install other"},
        loads=(),
        failures=(Failure(network="net", kind="dense", engine="third", message="cannot run it"),),
        subjects=subject_results([panel], macs, PEAK),
    )  # fmt: skip


def find(results: tuple[SubjectResult, ...], kind: str, heads: int) -> SubjectResult:
    """The only result of that kind with so many heads."""
    [found] = [each for each in results if (each.kind, each.heads) == (kind, heads)]
    return found


def test_numbers_of_a_subject() -> None:
    found = find(subject_results([measured_panel()], macs, PEAK), "sparse", 2)
    assert found.round_seconds == (2.0, 4.0)
    assert found.latency.median == 3.0
    assert (found.latency.low, found.latency.high) == (2.0, 4.0)
    assert (found.rounds, found.calls, found.minimum) == (2, 4, 2.0)
    assert found.quantiles["q00"] == 2.0
    assert found.quantiles["q50"] == 3.0
    assert found.quantiles["q100"] == 6.0
    assert found.p95 == pytest.approx(5.7)
    assert found.dense_macs == 2 * 2 * 10**9
    assert found.effective_macs == 2 * 2 * 10**8
    assert found.macs_per_second == 4e8 / 3
    assert found.peak_share == 4e8 / 3 / PEAK
    assert found.speedup is not None
    assert (found.speedup.median, found.speedup.low, found.speedup.high) == (6.0, 6.0, 6.0)


def test_speedups_are_over_the_full_ensemble() -> None:
    found = subject_results([measured_panel()], macs, PEAK)
    speedups = {(each.kind, each.heads): each.speedup.median for each in found if each.speedup is not None}
    assert speedups == {
        ("sparse", 1): 12.0,
        ("sparse", 2): 6.0,
        ("sparse", 3): 4.0,
        ("dense", 1): 3.0,
        ("dense", 3): 1.0,
    }


def test_without_the_ensemble_there_is_no_speedup() -> None:
    panel = measured_panel(with_ensemble=False)
    found = subject_results([panel], macs, PEAK)
    assert [each.speedup for each in found] == [None] * 4
    assert "sparse, 3 of 3 heads" in table(results_of(panel))


def test_json_is_read_back_as_it_was_and_unknown_fields_are_refused() -> None:
    results = results_of(measured_panel())
    text = results.model_dump_json()
    assert LatencyResults.model_validate_json(text) == results
    with pytest.raises(ValidationError, match="surprise"):
        LatencyResults.model_validate_json(text[:-1] + ',"surprise":1}')


def test_table_tells_everything_that_a_reader_needs() -> None:
    text = table(results_of(measured_panel()))
    assert "SMOKE" not in text
    assert "net, batch 2 (trained weights, density 0.1)" in text
    [row] = [line.split() for line in text.splitlines() if "sparse, 3 of 3 heads" in line]
    assert row[6:] == ["4500", "[3000,", "6000]", "8550", "3000", "4.00", "[4.00,", "4.00]", "0.1", "13%", "2"]
    assert "Not measured: net (dense) on third: cannot run it" in text
    assert "Not installed: other: pip install other" in text
    assert "live random weights" in text


def test_smoke_says_so_in_table_and_record() -> None:
    results = results_of(measured_panel(), smoke=True)
    assert results.smoke
    assert table(results).startswith("SMOKE RUN")


def test_plot_is_a_picture() -> None:
    with Image.open(io.BytesIO(plot(results_of(measured_panel())))) as image:
        image.load()
        assert image.format == "PNG"
        assert image.width > 600
        assert len(image.convert("RGB").getcolors(maxcolors=1 << 20) or []) > 20


def test_environment_names_machine_and_software() -> None:
    found = describe_environment(None)
    assert isinstance(found, Environment)
    assert found.cores >= 1
    assert found.cores_source in ("affinity", "cgroup v1 quota", "cgroup v2 quota")
    assert found.packages["onnxruntime"]
    assert found.cpu
    assert describe_environment(1).cores_source == "--cores"


def test_peak_is_a_rate() -> None:
    assert measure_peak(1) > 1e8  # a tenth of what one multiply-add per cycle gives on any machine
