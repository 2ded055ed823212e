"""A cache folder of its own for each test, and a tuning that was made up."""

from pathlib import Path

import pytest

from runtime.artifact import Artifact
from runtime.costs import CostSurface
from runtime.cpu import cpu
from runtime.tuning.records import Choice, Setup, Speed, Trial, Tuning


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing that another test has tuned is in it; returns the folder of tunings."""
    monkeypatch.setenv("NEUROTRAILS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tuning"


def setup(engine: str = "onnxruntime", **options: object) -> Setup:
    return Setup.model_validate({"engine": engine, "precision": "fp32", "cores": 1, "streams": 1} | options)


def speed(rows: int = 1, p50: float = 0.01, p99: float = 0.02, rate: float = 100.0, *, finished: bool = True) -> Speed:
    return Speed(
        rows=rows, p50_seconds=p50, p99_seconds=p99, rows_per_second=rate, rounds=3, calls=9, finished=finished
    )


def tuning_of(artifact: Artifact, *trials: Trial, cores: int = 1, best: Choice | None = None) -> Tuning:
    """A tuning whose fastest setup is the first trial's."""
    costs = CostSurface(batch_sizes=(1, 4), trunk=(0.1, 0.2), heads=((0.1, 0.2),) * len(artifact.manifest.heads))
    first, *others = trials or (Trial(setup=setup(), version="1.0", speeds=(speed(),)),)
    return Tuning(
        artifact=artifact.manifest.name,
        artifact_version=artifact.manifest.version,
        artifact_sha256=artifact.sha256,
        artifact_precision=artifact.manifest.precision,
        cpu=cpu()[0],
        cores=cores,
        busy_cores=0.1,
        tokens=0,
        batch_sizes=(1, 4),
        target_p99_seconds=0.02,
        budget_seconds=1.0,
        trials=(first.model_copy(update={"costs": (costs,)}), *others),
        fastest=Choice(setup=first.setup, rows=1),
        best=best,
    )
