"""The benchmark of ONNX Runtime's threads, from end to end on a tiny artifact."""

from pathlib import Path

import pytest

from engine_threads import BASELINE, SITUATIONS, WAYS, ThreadsResults, main
from environment import REPOSITORY
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from tests.artifacts import write_tiny_image_artifact


@pytest.mark.large
def test_every_way_is_measured_in_every_situation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_image_artifact(tmp_path / "models" / "tiny-image")
    options = ["--rounds", "2", "--cores", "2", "--models", str(tmp_path / "models"), "--output", str(tmp_path)]
    assert main(options) == 0
    results = ThreadsResults.model_validate_json((tmp_path / "engine_threads_smoke.json").read_bytes())
    assert results.smoke
    assert {(row.situation, row.way) for row in results.rows} == {(s, w) for s in SITUATIONS for w in WAYS}
    assert all(row.seconds.low > 0 for row in results.rows)
    assert [row.ratio.median for row in results.rows if row.way == BASELINE] == [1.0, 1.0]
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(results.rows)
    assert WAYS[results.default] == OnnxRuntimeEngine.threads


def test_the_engine_runs_in_the_way_that_loses_least_where_it_loses_most() -> None:
    worst = dict.fromkeys(WAYS, 1.0)
    for name in ("engine_threads.json", "engine_threads_busy.json"):
        results = ThreadsResults.model_validate_json((REPOSITORY / "benchmarks" / "results" / name).read_bytes())
        assert not results.smoke
        for place in {(row.network, row.situation) for row in results.rows}:
            ratios = {row.way: row.ratio.median for row in results.rows if (row.network, row.situation) == place}
            worst = {way: min(worst[way], ratio / max(ratios.values())) for way, ratio in ratios.items()}
    assert WAYS[max(worst, key=lambda way: worst[way])] == OnnxRuntimeEngine.threads


def test_a_network_that_does_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--networks", "abacus", "--output", str(tmp_path)]) == 1
    assert "there is no 'abacus'" in capsys.readouterr().err
