"""The script itself, run as a user runs it: every scenario end to end, and mixed requests under faults."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from environment import REPOSITORY
from serving_machine import ServingBenchmarkError, choose_cores
from serving_results import IntegrityScenario, ServingResults

SCRIPT = REPOSITORY / "benchmarks" / "serving.py"
needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the benchmark refuses a single core")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the script to its end."""
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


def measured(folder: Path) -> ServingResults:
    """What a smoke run has written."""
    return ServingResults.model_validate_json((folder / "serving_smoke.json").read_bytes())


def mixed(folder: Path, requests: int) -> IntegrityScenario:
    """Send mixed requests with faults; every one must have got its own answer."""
    done = run("--smoke", "--scenarios", "integrity", "--requests", str(requests), "--output", folder)
    assert done.returncode == 0, done.stderr
    found = measured(folder).integrity
    assert found is not None
    assert (found.lost, found.wrong, found.unexplained, found.doubled) == (0, 0, 0, 0), found.problems
    assert all(aim.met for aim in found.aims)
    assert found.requests >= requests
    assert sum(found.kinds.values()) == sum(found.statuses.values()) == found.requests
    assert found.statuses["200"] > requests / 2
    assert found.rows_checked > found.statuses["200"]
    assert found.largest_difference < 1e-4
    assert {"/predict raw", "/predict JSON", "/predict multipart", "/v2 JSON", "/v2 binary"} < set(found.kinds)
    for fault in ("clients that left", "slow clients", "workers killed", "workers stopped", "version switches"):
        assert found.faults[fault] > 0, fault
    return found


@needs_two_cores
def test_mixed_requests_get_their_own_answers_under_faults(tmp_path: Path) -> None:
    mixed(tmp_path, 1500)


@needs_two_cores
@pytest.mark.large
def test_many_mixed_requests_get_their_own_answers_under_faults(tmp_path: Path) -> None:
    found = mixed(tmp_path, 20_000)
    assert found.faults["engine exceptions"] > 10
    assert any(status.startswith("429") for status in found.statuses)


@needs_two_cores
@pytest.mark.large
def test_smoke_run_measures_the_other_scenarios(tmp_path: Path) -> None:
    genuine = tmp_path / "serving.json"
    genuine.write_text("a genuine result")
    done = run("--smoke", "--scenarios", "latency", "saturation", "overload", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert genuine.read_text() == "a genuine result"
    results = measured(tmp_path)
    assert results.smoke
    assert "SMOKE RUN" in done.stdout
    assert results.integrity is None
    assert results.latency is not None
    assert results.latency.http.count == results.latency.bare.count == 10
    assert results.saturation is not None
    assert results.saturation.subject.network == "tiny"
    assert [rate.batch for rate in results.saturation.bare_rates] == [1, 4]
    assert 0 < results.saturation.share.low <= results.saturation.share.high
    assert results.overload is not None
    assert results.overload.cost_ratio > 0
    loads = [(point.shedding, point.factor) for point in results.overload.points]
    assert loads == [(False, factor) for factor in (0.4, 0.8, 1, 1.5, 3)] + [(True, f) for f in (0.8, 1.5, 2, 3)]
    assert sum(point.goodput for point in results.overload.points) > 0
    assert len(results.aims) == 7
    with Image.open(tmp_path / "serving_smoke.png") as image:
        image.verify()


def test_one_core_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    with pytest.raises(ServingBenchmarkError, match=r"may run on 1 \(CPU 3\)"):
        choose_cores()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scenarios", "latency", "speed"), "There is no scenario 'speed'. Choose from: latency, saturation,"),
        (("--requests", "0"), "--requests must be at least 1, not 0"),
    ],
)
def test_wrong_options_are_named(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = run(*arguments, "--output", tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
