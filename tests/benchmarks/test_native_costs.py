"""The cost model's constants: found again where they are known, and a run from end to end."""

import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cost_fit import Fit, Observation, fit_costs, fit_gather
from cost_results import CostResults
from environment import REPOSITORY
from runtime.engines.native.convolutions import Sizes, choices
from runtime.engines.native.costs import COSTS, Costs
from runtime.engines.native.machine import InstructionSet

SCRIPT = REPOSITORY / "benchmarks" / "native_costs.py"
MACHINE = InstructionSet("planned only", "", "", 32)
TRUTH = Fit(replace(COSTS, far_bytes=102.0 * 1024), {"pack_runs": 0.7e-9, "pack_gather": 2e-9})


def observations(truth: Fit) -> list[Observation]:
    """Layers that take exactly as long as `truth` says."""
    found = []
    for shape, kept, gather in (
        ((256, 64, 1, 1), 4000, None), ((64, 300, 3, 3), 20000, "pack_runs"), ((64, 640, 3, 3), 40000, "pack_gather"),
        ((512, 128, 1, 1), 512 * 128, None), ((96, 64, 3, 3), 96 * 64 * 9, "pack_runs"),
    ):  # fmt: skip
        sizes = Sizes(shape, kept, 7, 7 if gather is None else 30, MACHINE)
        for choice in choices(sizes, lean=False):
            gathered = 0 if gather is None else 30 * shape[1] * 4
            seen = Observation(sizes, 4.0, choice.kernel, choice.tile, choice.blocks, gather, gathered, 1.0)
            found.append(replace(seen, seconds=truth.estimate(seen)))
    return found


def test_constants_that_are_known_are_found_again() -> None:
    seen = observations(TRUTH)
    found = fit_costs(seen)
    assert asdict(found.costs) == pytest.approx(asdict(TRUTH.costs), rel=1e-6)
    assert found.gather_seconds == pytest.approx(TRUTH.gather_seconds, rel=1e-6)
    assert found.rms_error(seen) == pytest.approx(0, abs=1e-6)


def test_gathering_is_fitted_beside_constants_that_are_known() -> None:
    seen = observations(TRUTH)
    assert fit_gather(seen, TRUTH.costs).gather_seconds == pytest.approx(TRUTH.gather_seconds, rel=1e-6)
    assert fit_gather([one for one in seen if one.gather is None], TRUTH.costs) == Fit(TRUTH.costs, {})


def test_errors_are_relative_to_the_measured_time() -> None:
    sparse = [one for one in observations(replace(TRUTH, costs=COSTS)) if one.gather is None]
    slower = [replace(one, seconds=2 * one.seconds) for one in sparse]
    assert Fit(COSTS, {}).rms_error(slower) == pytest.approx(0.5)


@pytest.mark.parametrize("kernel", ["stream", "dense"])
def test_both_kernels_are_needed(kernel: str) -> None:
    with pytest.raises(ValueError, match="both kernels are needed"):
        fit_costs([one for one in observations(TRUTH) if one.kernel == kernel])


def test_every_way_is_considered_once() -> None:
    sizes = Sizes((64, 12, 1, 1), 64 * 12, 7, 7, MACHINE)
    found = choices(sizes, Costs())
    assert len({(one.kernel, one.tile, one.blocks) for one in found}) == len(found)
    assert {one.tile for one in found} == {7, 4, 3, 2, 1}
    assert max(one.blocks for one in found) == 12
    assert {one.kernel for one in choices(replace(sizes, kept=100))} == {"stream"}
    assert set(found) < set(choices(sizes, lean=False))


def test_a_smoke_run_measures_layers_and_judges_choices(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--smoke", "--turns", "1", "--output", tmp_path],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["native_costs_smoke.json"]
    results = CostResults.model_validate_json((tmp_path / "native_costs_smoke.json").read_bytes())
    assert results.smoke
    assert {name: each.present for name, each in results.constants.items()} == asdict(COSTS)
    assert len(results.layers) == 2
    assert {way.kernel for layer in results.layers for way in layer.ways} == {"stream", "dense"}
    for layer in results.layers:
        assert (layer.gather is not None) == (layer.gathered_vectors > 0) == (layer.window > 1)
        considered = [way for way in layer.ways if way.considered]
        assert 0 < len(considered) <= len(layer.ways)
        assert layer.best.seconds == min(way.seconds for way in considered) > 0
        assert layer.present.predicted_seconds == min(way.predicted_seconds for way in considered)
        assert layer.layer in done.stdout
    for judged in (results.present, results.fitted):
        assert judged.ratio >= 1
        assert judged.worst_ratio >= judged.ratio
    assert "SMOKE RUN" in done.stdout


def test_wrong_options_are_told_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--turns", "0", "--output", tmp_path], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "--turns must be at least 1" in done.stderr
    assert list(tmp_path.iterdir()) == []
