"""The service takes what was tuned for a model, and says in what it computes."""

from pathlib import Path

import pytest

from runtime.artifact import Artifact
from runtime.engines import engine_class
from runtime.tuning.records import Setup, Trial
from runtime.tuning.store import tuning_path, write_tuning
from tests.artifacts import write_tiny_image_artifact
from tests.engines import ENGINE_NAMES
from tests.runtime.tuning.conftest import setup, speed, tuning_of
from tests.server.inputs import image_file
from tests.server.service import CORES, Service

BF16 = "openvino" in ENGINE_NAMES and "bf16" in engine_class("openvino").precisions["fp32"]


@pytest.mark.parametrize(
    "chosen",
    [
        setup("onnxruntime", cores=CORES, streams=2),
        pytest.param(
            setup("openvino", cores=CORES, precision="bf16"),
            marks=pytest.mark.skipif(not BF16, reason="no engine computes in bf16 here"),
        ),
    ],
    ids=str,
)
def test_auto_is_what_was_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: Setup) -> None:
    monkeypatch.setenv("NEUROTRAILS_CACHE", str(tmp_path / "cache"))
    models = tmp_path / "models"
    write_tiny_image_artifact(models / "tiny-image")
    artifact = Artifact.open(models / "tiny-image")
    tuning = tuning_of(artifact, Trial(setup=chosen, version="1.0", speeds=(speed(),)), cores=CORES)
    write_tuning(tuning_path(artifact, CORES), tuning, "")
    with Service(models, engine="auto") as service:
        client = service.wait().client
        reply = client.post("/predict", content=image_file(1), headers={"content-type": "image/png"}).json()
        [model] = client.get("/models").json()["models"]
        metrics = client.get("/metrics").text
    for described in (reply, model):
        assert (described["engine"], described["precision"]) == (chosen.engine, chosen.precision)
    assert f'engine="{chosen.engine}",model="tiny-image",precision="{chosen.precision}"' in metrics
    assert f"chosen for tiny-image by tune: {chosen}" in str(model)


@pytest.mark.parametrize("version", ["the same", "another"])
def test_what_tune_measured_prices_the_batches_of_that_very_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv("NEUROTRAILS_CACHE", str(tmp_path / "cache"))
    models = tmp_path / "models"
    write_tiny_image_artifact(models / "tiny-image")
    artifact = Artifact.open(models / "tiny-image")
    trial = Trial(
        setup=setup("onnxruntime", cores=CORES),
        version=engine_class("onnxruntime").version if version == "the same" else "0.1",
        speeds=(speed(),),
    )
    tuning = tuning_of(artifact, trial, cores=CORES)
    target = tuning.costs[0].seconds(1, 2)  # far above what the tiny model really takes
    write_tuning(tuning_path(artifact, CORES), tuning, "")
    with Service(
        models, engine="auto", batch_sizes=(1, 4), min_heads=1, latency_target_seconds=1.05 * target
    ) as service:
        reply = service.wait().client.post("/predict", content=image_file(1)).json()
    [prediction] = reply["predictions"]
    assert prediction["heads_used"] == (2 if version == "the same" else 3)
