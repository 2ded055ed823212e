"""The script itself, run as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from environment import REPOSITORY
from latency_results import LatencyResults
from latency_run import choose_engines
from runtime.engines import ENGINES, installed_engines
from runtime.errors import EngineError, EngineNotInstalled

SCRIPT = REPOSITORY / "benchmarks" / "cpu_latency.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the script to its end."""
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


def test_smoke_run_measures_every_engine_end_to_end(tmp_path: Path) -> None:
    genuine = tmp_path / "cpu_latency.json"
    genuine.write_text("a genuine result")
    done = run("--smoke", "--out", tmp_path, "--batches", "1", "2", "--cores", "1")
    assert done.returncode == 0, done.stderr
    assert genuine.read_text() == "a genuine result"
    results = LatencyResults.model_validate_json((tmp_path / "cpu_latency_smoke.json").read_bytes())
    assert results.smoke
    assert results.failures == ()
    assert results.environment.cores == 1
    assert "--smoke" in results.environment.command
    engines = [name for name, found in installed_engines().items() if not isinstance(found, EngineNotInstalled)]
    assert {subject.engine for subject in results.subjects} == set(engines)
    assert set(engines) | set(results.engines_missing) == set(ENGINES)
    measured = [(each.engine, each.batch, each.kind, each.heads) for each in results.subjects]
    assert len(measured) == len(set(measured)) == len(engines) * 2 * 5
    for each in results.subjects:
        assert each.rounds == len(each.round_seconds) == 2
        assert 0 < each.minimum <= each.latency.median <= each.quantiles["q100"]
        assert each.speedup is not None
        assert (each.effective_macs < each.dense_macs) == (each.kind == "sparse")
    assert len(results.loads) == 2 * len(engines)
    assert "SMOKE RUN" in done.stdout
    with Image.open(tmp_path / "cpu_latency_smoke.png") as image:
        image.verify()
    assert {path.name for path in tmp_path.iterdir()} == {
        "cpu_latency.json", "cpu_latency_smoke.json", "cpu_latency_smoke.png",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--networks", "nonsense"], "no network 'nonsense'"),
        (["--engines", "nonsense"], "no engine 'nonsense'"),
        (["--batches", "0"], "must be at least 1"),
        (["--networks", "shipped", "--models", "/nonexistent"], "holds no artifact"),
    ],
)
def test_wrong_options_are_told_in_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = run(*arguments, "--out", tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_engines_are_all_that_are_installed_or_exactly_those_asked_for() -> None:
    chosen, missing = choose_engines(())
    assert set(chosen) | set(missing) == set(ENGINES)
    assert "onnxruntime" in chosen
    assert choose_engines(("onnxruntime",))[0] == ("onnxruntime",)
    with pytest.raises(EngineError, match="no engine 'nonsense'"):
        choose_engines(("nonsense",))
